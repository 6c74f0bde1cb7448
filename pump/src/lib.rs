//! Data pump and collector: the trail of one site, carried to another.
//!
//! [`Pump`] reads a trail and sends whole transactions; [`Collector`] appends them with the same writer and acknowledges
//! what is durable there. [`wire`] specifies the bytes between them, [`certs`] makes the certificates by which they know
//! each other. [`kafka`] carries the same trail through a topic of Apache Kafka instead;
//! [`feed`] tells it to others, as change events.

mod attempts;
mod bandwidth;
mod boundaries;
pub mod certs;
mod collector;
mod error;
pub mod feed;
pub mod kafka;
mod link;
mod pump;
mod secure;
mod sender;
mod settings;
pub mod wire;

pub use collector::{Collected, Collector};
pub use error::{Error, TlsReason};
pub use pump::{Pump, Stopped};
pub use secure::Secure;
pub use sender::Sent;
pub use settings::{AcceptedFlow, CollectorSettings, Credentials, LinkSettings, Meeting, PumpSettings};
