//! Tests against real servers: every major version that is installed (`IRONGATE_TEST_MAJORS` names fewer).

mod authentication;
mod catalog;
mod hosts;
mod replication;
mod session;
mod support;
mod tls;
