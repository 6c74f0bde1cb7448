//! The distributed trail, through a real broker of Apache Kafka.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it did and by its panic what is wrong"
)]

#[path = "kafka/brokers.rs"]
mod brokers;
#[path = "kafka/carried.rs"]
mod carried;
#[path = "kafka/cluster.rs"]
mod cluster;
#[path = "kafka/feed.rs"]
mod feed;
#[path = "kafka/fenced.rs"]
mod fenced;
#[path = "kafka/flow.rs"]
mod flow;
#[path = "kafka/killed.rs"]
mod killed;
#[path = "kafka/large.rs"]
mod large;
#[path = "kafka/sites.rs"]
mod sites;
#[path = "kafka/standbys.rs"]
mod standbys;
#[path = "kafka/support.rs"]
mod support;
#[path = "../pump/tests/suite/trail.rs"]
#[allow(dead_code, reason = "the pump's own tests use all of it")]
mod trail;
