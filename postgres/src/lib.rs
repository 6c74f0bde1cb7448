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
//!
//! ```no_run
//! use irongate_postgres::{Endpoint, Error, Frame, ReplicationConnection, Session, SlotOptions, catalog};
//! use irongate_trail::Timestamp;
//!
//! # async fn example() -> Result<(), Error> {
//! let endpoint = Endpoint::parse("postgresql://extract@db1,db2/conf?target_session_attrs=read-write")?
//!     .with_password_file("/etc/irongate/extract.password");
//! let session = Session::connect(&endpoint, "example").await?;
//! let facts = catalog::server_facts(&session).await?;
//! println!("PostgreSQL {} with wal_level {}", facts.version, facts.wal_level);
//!
//! let mut connection = ReplicationConnection::connect(&endpoint, "example").await?;
//! let slot = connection.create_logical_slot("example", SlotOptions::default()).await?;
//! let options = [("proto_version", "3"), ("publication_names", "\"example\"")];
//! let (mut reader, mut writer) =
//!     connection.start_logical("example", slot.consistent_point, &options).await?.split();
//! while reader.fill().await? {
//!     while let Some(frame) = reader.next_frame()? {
//!         match frame {
//!             Frame::XLogData { data, .. } => println!("{} bytes", data.len()),
//!             Frame::Keepalive { wal_end, .. } => {
//!                 writer.send(wal_end, wal_end, wal_end, Timestamp::now(), false).await?;
//!             }
//!             Frame::Notice(_) => {}
//!             Frame::Done => return Ok(()),
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod catalog;
mod connect;
mod endpoint;
mod error;
pub mod replication;
mod session;
pub mod sql;

pub use endpoint::{ChannelBinding, Endpoint, Host, LIBPQ_VARIABLES, SslMode, TargetSessionAttrs};
pub use error::{ClientError, Error, ServerError};
pub use replication::{
    CopyBoth, CreatedSlot, Frame, FrameReader, Notice, ReplicationConnection, SlotOptions, SnapshotOption,
    StatusWriter, SystemIdentity,
};
pub use session::{Canceller, Session};
