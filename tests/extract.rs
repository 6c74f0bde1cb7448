//! Extract on real servers.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

#[path = "extract/support.rs"]
mod support;

#[path = "extract/failover.rs"]
mod failover;
#[path = "extract/failures.rs"]
mod failures;
#[path = "extract/follow.rs"]
mod follow;
#[path = "extract/refusals.rs"]
mod refusals;
#[path = "extract/stream.rs"]
mod stream;
