//! Replicat: a trail into a target database, exactly once.
//!
//! [`Replicat`] is the whole; [`Applier`] is its loop over any [`irongate_trail::Source`] and any [`Target`].

mod ahead;
mod batch;
mod beside;
mod compile;
mod conflict;
mod ddl;
mod error;
mod error_queue;
mod parameters;
mod policy;
mod replicat;
mod sequence;
mod settings;
mod statement;
mod table;
mod target;

pub use batch::{Batch, Change};
pub use conflict::{
    Base, Bases, ColumnRule, Conflict, Conflicts, Kind as ConflictKind, Rule, TableRule, accept_conflicts,
    conflict, conflict_objects, conflict_setup, conflict_teardown, conflicts, purge_conflicts,
    tombstone_triggers, version_triggers,
};
pub use ddl::DdlSettings;
pub use error::{Error, Remedy, RowError};
pub use error_queue::{Queued, error_queue_setup, error_queue_teardown, list, replay, show, skip};
pub use policy::{Action, BEHIND, CONFLICT, INCOMPLETE, MISSING, Policies, Policy};
pub use replicat::{Applier, Open, Replicat, Step, Stopped, Totals, TrailDirectory};
pub use sequence::{Reading, SEQUENCE_PREFIX, ahead as sequence_ahead, encode as encode_sequences};
pub use settings::{AheadSettings, Grouping, Names, ReplicatSettings, Retry, SEQUENCE_MARGIN, SESSIONS};
pub use table::{TargetColumn, TargetTable};
pub use target::{Failure, Group, Groups, Mode, Outcome, PostgresTarget, Rehearsal, Target, rehearse};
