//! The manager of a site: one process that supervises the site's groups, watches what they do, and tells people.
//!
//! * [`Manager`]: the process; [`ManagerSettings`] say what it is told.
//! * [`supervisor`]: which group should run and what is done about it, as a state machine.
//! * [`Control`]: how a program talks to a manager, over a unix socket in its directory or from another site.
//! * [`compare`]: what the last compare of a flow found, and the next one in the background.
//! * [`Sites`]: all sites of a deployment, asked from one.
//! * [`event`]: what people are told; a log on disk, a hook, and whoever follows.
//! * [`watch`]: lag, slots, disks; alarms, purge and heartbeats.
//! * [`metrics`]: the same for machines, served by HTTP with `/health` and `/status`.
//!
//! # Files
//!
//! In the state directory, where the groups keep their locks and status files:
//!
//! | file | what it is |
//! |---|---|
//! | `manager/<site>/manager.lock` | held by the manager of the site |
//! | `manager/<site>/control.sock` | its control socket; directory and socket are for the owner only |
//! | `manager/<site>/desired.json` | what people wish of the groups, and which have abended |
//! | `manager/<site>/events.jsonl` | events, one JSON object a line; `.1`, `.2`, ... are older |
//! | `report/<group>.log` | what the processes of a group print; `.1`, `.2`, ... are older |
//!
//! # What survives what
//!
//! A manager that is asked to end stops its groups in order; the next one starts them again. A manager that is killed
//! leaves its groups at work; the next one recognises them by lock and status file, and takes them over or ends those
//! that should not run. What a person has stopped stays stopped through all of it.
#![deny(unsafe_code)]

pub mod compare;
mod connections;
pub mod control;
mod error;
pub mod event;
pub mod hook;
mod http;
pub mod info;
mod manager;
pub mod metrics;
mod process;
mod report;
pub mod settings;
pub mod sites;
pub mod supervisor;
mod systemd;
pub mod watch;

pub use control::Control;
pub use error::Error;
pub use info::{GroupInfo, Info};
pub use manager::{Concerns, Manager, Reloader};
pub use process::current_executable;
pub use settings::{GroupSpec, ManagerSettings};
pub use sites::Sites;
