//! Replicat against a real target, with trails written by hand: what no source would send on demand.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

#[path = "replicat/support.rs"]
mod support;

#[path = "replicat/beside.rs"]
mod beside;
#[path = "replicat/early.rs"]
mod early;
#[path = "replicat/fast_and_exact.rs"]
mod fast_and_exact;
#[path = "replicat/later_tables.rs"]
mod later_tables;
#[path = "replicat/refusals.rs"]
mod refusals;
#[path = "replicat/sequences.rs"]
mod sequences;
