//! What a lost site had committed and never sent is found, exactly, and decisions about it are carried out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells where it is"
)]

#[path = "salvage/world.rs"]
mod world;

#[path = "salvage/damage.rs"]
mod damage;
#[path = "salvage/decided.rs"]
mod decided;
#[path = "salvage/exact.rs"]
mod exact;
#[path = "salvage/refused.rs"]
mod refused;
#[path = "salvage/sites.rs"]
mod sites;
