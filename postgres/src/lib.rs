//! Sessions, the replication connection and catalog questions.
//!
//! * [`Endpoint`] – where a server is and how to get in, parsed from a connection URI; it never holds a secret.
//! * [`Session`] – an SQL session, a `tokio_postgres::Client` with fixed settings and a known end.
//! * [`ReplicationConnection`] – a walsender session of our own on `postgres-protocol`, because `tokio-postgres` has
//!   no copy-both; it makes and drops slots and becomes a [`CopyBoth`] stream of [`Frame`]s.
//! * [`catalog`] – typed answers to the questions that capture, apply and set-up ask of a server.
//! * [`sql`] – quoting.
//!
//! Both kinds of session are opened by the same code ([`Endpoint`] → socket → TLS → start-up → authentication), so
//! that hosts, certificates, passwords and error messages behave alike.

pub mod catalog;
mod connect;
mod endpoint;
mod error;
pub mod replication;
mod session;
pub mod sql;

pub use endpoint::{ChannelBinding, Endpoint, Host, SslMode, TargetSessionAttrs};
pub use error::{ClientError, Error, ServerError};
pub use replication::{
    CopyBoth, CreatedSlot, Frame, FrameReader, ReplicationConnection, SlotOptions, SnapshotOption,
    StatusWriter, SystemIdentity,
};
pub use session::{Canceller, Session};
