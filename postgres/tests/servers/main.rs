//! Tests against real servers: every major version that is installed (`IRONGATE_TEST_MAJORS` names fewer).

#![expect(clippy::unwrap_used, reason = "a test's helpers panic as the test does")]

mod authentication;
mod catalog;
mod hosts;
mod replication;
mod session;
mod support;
mod tls;
