//! The program as an operator uses it: every command against real servers, as roles that are no superuser.

#[path = "commands/deployment.rs"]
mod deployment;

#[path = "commands/boundaries.rs"]
mod boundaries;
#[path = "commands/check.rs"]
mod check;
#[path = "commands/compare.rs"]
mod compare;
#[path = "commands/compare_rows.rs"]
mod compare_rows;
#[path = "commands/conflicts.rs"]
mod conflicts;
#[path = "commands/ddl.rs"]
mod ddl;
#[path = "commands/demo.rs"]
mod demo;
#[path = "commands/drill.rs"]
mod drill;
#[path = "commands/failover.rs"]
mod failover;
#[path = "commands/flow.rs"]
mod flow;
#[path = "commands/instantiate.rs"]
mod instantiate;
#[path = "commands/large_objects.rs"]
mod large_objects;
#[path = "commands/link.rs"]
mod link;
#[path = "commands/operators.rs"]
mod operators;
#[path = "commands/overtaken.rs"]
mod overtaken;
#[path = "commands/position.rs"]
mod position;
#[path = "commands/readme.rs"]
mod readme;
#[path = "commands/refused.rs"]
mod refused;
#[path = "commands/reinstate.rs"]
mod reinstate;
#[path = "commands/reinstate_compare.rs"]
mod reinstate_compare;
#[path = "commands/reinstate_written.rs"]
mod reinstate_written;
#[path = "commands/reload.rs"]
mod reload;
#[path = "commands/returned.rs"]
mod returned;
#[path = "commands/runbooks.rs"]
mod runbooks;
#[path = "commands/schema.rs"]
mod schema;
#[path = "commands/sequences.rs"]
mod sequences;
#[path = "commands/structure.rs"]
mod structure;
#[path = "commands/superseded.rs"]
mod superseded;
#[path = "commands/switchover.rs"]
mod switchover;
#[path = "commands/transfer.rs"]
mod transfer;
#[path = "commands/two_sites.rs"]
mod two_sites;
