//! Where a process begins again: the local store, the checkpoint table in the target, replication origins, watermarks,
//! the two small files by which a group of processes is known, its lock and its status, and what a process does between
//! two attempts.
//!
//! Authority over a position never lies in the local [`Store`]: Extract's place is in its trail, Replicat's in the
//! [`CheckpointTable`] of the target. The store makes a start quick and may vanish at any time.
#![deny(unsafe_code)]

mod attempt;
mod error;
mod held_file;
mod load;
mod lock;
mod origin;
mod role;
mod session;
mod sql;
mod status;
mod store;
mod table;
mod watermark;

pub use attempt::{BackOff, Stop};
pub use error::{Error, Holder};
pub use load::{
    LOAD_SCHEMA, LOAD_TABLES, LoadJob, LoadLedger, LoadSnapshot, LoadTable, LoadedChunk, QualifiedName,
    TableStarts, load_setup, load_teardown,
};
pub use lock::GroupLock;
pub use origin::{Origin, OriginSession, OriginTransaction, origin_grants};
pub use role::{FIRST_EPOCH, Holder as RunHolder, ROLE_EXISTS, ROLE_QUERY, Role, role_setup};
pub use session::OtherSession;
pub use status::{Counters, Failure, Program, Publisher, State, Status, TableCounters, read as read_status};
pub use store::{MemoryStore, Opened, SledStore, Store, TypedStore, codec};
pub use table::{
    Applied, CHECKPOINT_SCHEMA, CheckpointTable, MARKER_PREFIX, checkpoint_setup, checkpoint_teardown,
};
pub use watermark::{Mark, Watermarks};
