//! The configuration file and what it describes: preflight, set-up, instantiate.
//!
//! * [`Configuration`]: one TOML file for the whole deployment; what it describes as [groups] and the
//!   settings of each.
//! * [`check()`]: what would keep a flow from running, found before it does.
//! * [`setup()`] and [`teardown()`]: what the servers must hold, as [`Statement`]s that can be read before they are run.
//! * [`instantiate()`]: the initial load of a flow at a snapshot.
//! * [`copy_large_objects`]: what is in no stream.
#![deny(unsafe_code)]

mod blocker;
mod check;
pub mod configuration;
mod end;
mod error;
pub mod groups;
mod instantiate;
mod interleave;
mod lag;
mod large_objects;
mod position;
mod selection;
mod sequence;
mod setup;
mod statement;

pub use blocker::Blocker;
pub use check::{Finding, LACKING, Severity, check, mending, mending_script};
pub use configuration::Configuration;
pub use end::As;
pub use error::Error;
pub use groups::Group;
pub use instantiate::{
    Export, Exported, Import, Instantiate, Instantiated, KEEPER_CONNECTED, KeeperEnd, KeeperPlace, Kept,
    Manifest, ManifestFile, ManifestSequence, ManifestTable, Progress, SchemaCopy, TableProgress,
    TransferStatus, carry_sequences, export, export_status, import, instantiate, instantiate_until,
    keep_snapshot, schema_plan, sequences_without_counterpart,
};
pub use interleave::{interleave, run_statements};
pub use lag::{Lag, Stage, lag};
pub use large_objects::{
    Compared as ComparedObjects, Copied as CopiedObjects, DifferentObject, LargeObjects,
    Listener as LargeObjectsListener, Progress as LargeObjectsProgress, Trouble as LargeObjectTrouble,
    compare_large_objects, copy_large_objects,
};
pub use position::{Checkpoint, MoveTo, checkpoint, reposition};
pub use sequence::{Raised, Secured, SequencePoll, secure_sequences};
pub use setup::{
    Event, FlowSnapshot, FlowStart, Progress as Listener, Rejoining, Report, Setup, begin_anew,
    begin_at_snapshot, begin_capture, plan, setup, teardown, teardown_plan,
};
pub use statement::{Statement, script};
