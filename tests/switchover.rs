//! Changes of roles on real servers: fences first.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics")]

#[path = "switchover/access.rs"]
mod access;
#[path = "switchover/dry_run.rs"]
mod dry_run;
#[path = "switchover/fence.rs"]
mod fence;
#[path = "switchover/names.rs"]
mod names;
#[path = "switchover/report.rs"]
mod report;
