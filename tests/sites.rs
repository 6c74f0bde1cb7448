//! Two sites as they are in the field: each with a network, addresses and disks of its own, and a long line between them.
//!
//! Where a user may not make such sites, each test says so in the summary of `scripts/test`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells where it is"
)]

#[path = "sites/full.rs"]
mod full;
#[path = "sites/network.rs"]
mod network;
#[path = "sites/outages.rs"]
mod outages;
#[path = "sites/roles.rs"]
mod roles;
#[path = "sites/soak.rs"]
mod soak;

use std::time::Duration;

use irongate_tests::Process;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks a process to end, and expects that it does in good order.
async fn stop(mut process: Process) {
    process.terminate();
    let status = process.wait(PATIENCE).await;
    assert!(status.success(), "{status}\n{}", process.stderr());
}
