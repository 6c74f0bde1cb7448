//! The trail: a durable, checksummed history of transactions in files, and the nouns that every other crate speaks in.

mod change;
mod error;
mod lsn;
mod relation;
mod transaction;
mod tuple;

pub use change::{Message, Old, Row, Truncate};
pub use error::Malformed;
pub use lsn::{CommitLsn, Lineage, Lsn, ParseLsnError, Position, ResumeLsn, Timestamp};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use transaction::{Begin, Commit, Progress};
pub use tuple::{Tuple, TupleBuilder, Value, Values};
