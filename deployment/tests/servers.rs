//! Set-up, preflight and initial load against real servers: the administrator sets up, everything else is done by roles
//! that are no superusers. Versions: `IRONGATE_TEST_MAJORS`, else the oldest and the newest that are installed.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

#[path = "servers/check.rs"]
mod check;
#[path = "servers/conflicts.rs"]
mod conflicts;
#[path = "servers/faults.rs"]
mod faults;
#[path = "servers/instantiate.rs"]
mod instantiate;
#[path = "servers/instantiate_again.rs"]
mod instantiate_again;
#[path = "servers/operation.rs"]
mod operation;
#[path = "servers/server.rs"]
mod server;
#[path = "servers/setup.rs"]
mod setup;
#[path = "servers/world.rs"]
mod world;
