//! Pump and collector over real TLS on the loopback, with real trails.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it did and by its panic what is wrong"
)]

mod arrives;
mod cut;
mod flow_control;
mod full;
mod killed;
mod refused;
mod relay;
mod resumes;
mod support;
mod tls;
mod trail;
mod versions;
