//! Replicat: a trail into a target database, exactly once.
//!
//! [`Replicat`] is the whole; [`Applier`] is its loop over any [`irongate_trail::Source`] and any [`Target`].

mod batch;
mod compile;
mod error;
mod error_queue;
mod parameters;
mod policy;
mod replicat;
mod settings;
mod statement;
mod table;
mod target;

pub use batch::{Batch, Change};
pub use error::{Error, RowError};
pub use error_queue::{Queued, error_queue_setup, error_queue_teardown, list, replay, show, skip};
pub use policy::{Action, MISSING, Policies, Policy};
pub use replicat::{Applier, Open, Replicat, Step, Stopped, Totals, TrailDirectory};
pub use settings::{Grouping, Names, ReplicatSettings, Retry};
pub use target::{Failure, Mode, Outcome, PostgresTarget, Target};
