//! The trail: a durable, checksummed history of transactions in files, and the nouns that every other crate speaks in.
//!
//! [`Writer`] appends, [`Reader`] follows, [`format`](mod@format) specifies the bytes.

mod appended;
mod change;
mod check;
mod dump;
mod error;
mod floor;
pub mod format;
mod list;
mod lsn;
mod mark;
mod purge;
mod reader;
mod records;
mod relation;
mod source;
mod storage;
mod survey;
mod transaction;
mod tuple;
mod writer;

pub use change::{Message, Old, Row, Truncate};
pub use check::{CheckedFile, Finding, MAX_FINDINGS, Report, Severity, check};
pub use dump::{Dump, DumpFilter, DumpFormat, DumpOptions, KeyValue, Operation};
pub use error::{Error, Malformed};
pub use floor::{epoch_floor, set_epoch_floor};
pub use format::Mark;
pub use list::{ListedFile, Listing, list};
pub use lsn::{CommitLsn, Lineage, Lsn, ParseLsnError, Position, ResumeLsn, Timestamp};
pub use mark::{durable, readers, register_reader, remove_reader};
pub use purge::{PurgePolicy, Purged, purge};
pub use reader::{Begins, Bookmark, Early, OpenSide, Presence, Reader, SideReader, open_sides};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use source::{Follower, Item, Source};
pub use storage::{Directory, File, Storage};
pub use transaction::{Begin, Commit, Progress};
pub use tuple::{Tuple, TupleBuilder, Value, Values};
pub use writer::{FLUSH_AT, Recovered, SyncJob, Writer, WriterOptions};
