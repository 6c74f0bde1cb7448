//! The manager over real processes: children that work, die, hang and abend; managers that are killed and replaced.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

#[path = "processes/adoption.rs"]
mod adoption;
#[path = "processes/control.rs"]
mod control;
#[path = "processes/disk.rs"]
mod disk;
#[path = "processes/http.rs"]
mod http;
#[path = "processes/life.rs"]
mod life;
#[path = "processes/site.rs"]
mod site;
#[path = "processes/systemd.rs"]
mod systemd;
