//! Names in the DNS, tried on BIND: a primary and a secondary name server on this machine, with signed updates.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

#[path = "names/bind.rs"]
mod bind;
#[path = "names/examples.rs"]
mod examples;
#[path = "names/point.rs"]
mod point;
#[path = "names/relay.rs"]
mod relay;
#[path = "names/switchover.rs"]
mod switchover;
#[path = "names/trust.rs"]
mod trust;
