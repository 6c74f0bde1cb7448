//! The distributed trail: a flow's trail in a topic of Apache Kafka. This page is the specification of its records.
//!
//! [`KafkaPump`] writes a trail into a topic, [`KafkaReader`] makes a trail of it again, with the same writer as everywhere:
//! whoever reads that trail cannot tell the difference. Any number of readers read one topic, each for itself.
//!
//! A flow has a topic of its own, with one partition: that is one order for all. Kafka's offsets are addresses there and
//! nothing more; a place is a commit LSN (with the lineage that it belongs to), and every record says which place it goes on
//! from and which one it leads to. So neither Kafka's transactions nor consumer groups are needed, and what was read is
//! known from the trail that was made of it.
//!
//! # Records
//!
//! Key: none. Headers: none. Value, all integers big-endian:
//!
//! ```text
//!   0   8  magic "IGKAFKA\n"
//!   8   2  version, 1
//!  10   1  kind
//!  11   1  flags: 1 = the body is one zstd frame, 2 = the last fragment
//!  12   8  epoch of the author's database: what fences
//!  20   8  epoch of the trail's files behind the record
//!  28   8  generation of the author
//!  36   8  instance of the author
//!  44   4  CRC32C of the deployment's name, a zero byte, and the flow's name
//!  48   4  server_version_num of the source
//!  52   4  number of the fragment, from 0 on; the last one's tells how many there are
//!  56  44  the place before: lineage (u64 system identifier, u32 timeline, u64 slot incarnation), u64 commit LSN, u64
//!          resume LSN, u64 LSN of the last message outside a transaction behind these
//! 100  44  the place behind; in a fragment that is not the last, the commit LSN only
//! 144   4  length of the body, uncompressed
//! 148   4  CRC32C of the 148 bytes above and of the body as it is sent
//! 152   …  body
//! ```
//!
//! | kind | what | body |
//! |---|---|---|
//! | `T` | a claim: from here on the author writes, and nobody before it | none |
//! | `A` | the author begins, and says where; a new topic or a new history begins at the place behind | hello, as in [`crate::wire`] |
//! | `W` | whole steps of the trail: transactions and what stands between them | records, as in [`crate::wire`] |
//! | `F` | a piece of a step that is too long for one record of Kafka; cut anywhere, put together by their numbers | a piece of records |
//!
//! A `W`, and the fragments of a step together, describe every table that they use: one can be read without those before.
//!
//! Which records count, and why that is exactly once and in order whatever is killed, argues `ledger.rs`: a claim ends the
//! writing of whoever wrote before, and the records that count form one chain of places. What does not count is passed over
//! by everybody alike. A writer makes its claim anew now and then, so that the end of a long topic can be understood without
//! its beginning. The digest of each transaction goes from end to end, as over the link.

mod settings;

#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
pub(crate) mod client;
#[cfg(feature = "kafka")]
mod ledger;
#[cfg(feature = "kafka")]
mod log;
#[cfg(feature = "kafka")]
mod packer;
#[cfg(feature = "kafka")]
mod reader;
#[cfg(feature = "kafka")]
pub(crate) mod topic;
#[cfg(feature = "kafka")]
mod unit;
#[cfg(feature = "kafka")]
mod writer;

#[cfg(not(feature = "kafka"))]
pub use absent::{KafkaPump, KafkaReader, create_topic, inspect_topic};
#[cfg(feature = "kafka")]
pub use reader::KafkaReader;
pub use settings::{
    Fault, KafkaPumpSettings, KafkaReaderSettings, KafkaSettings, Sasl, SaslMechanism, TopicSettings,
};
#[cfg(feature = "kafka")]
pub use topic::{create_topic, inspect_topic};
#[cfg(feature = "kafka")]
pub use writer::KafkaPump;
