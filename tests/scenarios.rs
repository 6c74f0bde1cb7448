//! End to end on real servers: source → Extract → trail → Replicat → target, and at the end every row is compared.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells where it is"
)]

#[path = "scenarios/support.rs"]
mod support;

#[path = "scenarios/ahead.rs"]
mod ahead;
#[path = "scenarios/beside.rs"]
mod beside;
#[path = "scenarios/conflicts.rs"]
mod conflicts;
#[path = "scenarios/constraints.rs"]
mod constraints;
#[path = "scenarios/crashes.rs"]
mod crashes;
#[path = "scenarios/ddl.rs"]
mod ddl;
#[path = "scenarios/encodings.rs"]
mod encodings;
#[path = "scenarios/large.rs"]
mod large;
#[path = "scenarios/names.rs"]
mod names;
#[path = "scenarios/origins.rs"]
mod origins;
#[path = "scenarios/partitions.rs"]
mod partitions;
#[path = "scenarios/processes.rs"]
mod processes;
#[path = "scenarios/purge.rs"]
mod purge;
#[path = "scenarios/regressions.rs"]
mod regressions;
#[path = "scenarios/rights.rs"]
mod rights;
#[path = "scenarios/rows.rs"]
mod rows;
#[path = "scenarios/transactions.rs"]
mod transactions;
#[path = "scenarios/triggers.rs"]
mod triggers;
#[path = "scenarios/truncate.rs"]
mod truncate;
#[path = "scenarios/types.rs"]
mod types;
#[path = "scenarios/values.rs"]
mod values;
#[path = "scenarios/writes.rs"]
mod writes;
