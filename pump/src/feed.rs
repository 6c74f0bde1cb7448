//! Changes for others: a flow's trail as change events in Kafka, in the envelope of Debezium's PostgreSQL connector (JSON), so
//! that sinks and stream processors that know that one work unchanged.
//!
//! A [`Feed`] reads a trail as far as it is durable, beside whoever else reads it, and is in nobody's way: what it has not
//! published is not purged. It writes with Kafka's idempotent producer and waits for all in-sync copies. Its mark in the trail,
//! which is all that it keeps, moves to the end of a transaction when every event up to there is acknowledged.
//!
//! Why nothing is lost, and what may come twice: a start goes on behind the mark, so everything that was not acknowledged is told
//! again, from the beginning of its transaction on, in the same order and with the same `source.sequence`. Events of one key
//! go to one partition, in order: the producer neither gives up an event (it has no time limit of its own) nor sends one before
//! an earlier one of its partition is there. So each partition holds what it should, and behind a kill a piece of its end once
//! more. Kafka's transactions are not used.
//!
//! Memory does not grow with a transaction: events on their way are limited in number and bytes, and behind the limit nothing is
//! read.

mod settings;

#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
mod array;
#[cfg(feature = "kafka")]
mod calendar;
#[cfg(feature = "kafka")]
mod carrier;
#[cfg(feature = "kafka")]
mod event;
#[cfg(feature = "kafka")]
mod json;
#[cfg(feature = "kafka")]
mod kind;
#[cfg(feature = "kafka")]
mod producer;
#[cfg(feature = "kafka")]
mod run;
#[cfg(feature = "kafka")]
mod table;
#[cfg(feature = "kafka")]
mod topics;
#[cfg(feature = "kafka")]
mod value;

#[cfg(not(feature = "kafka"))]
pub use absent::{Feed, inspect_topics};
#[cfg(feature = "kafka")]
pub use run::Feed;
pub use settings::{FeedSettings, FeedTopics, Numerics, Shape};
#[cfg(feature = "kafka")]
pub use topics::inspect_topics;
