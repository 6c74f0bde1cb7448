//! What can end an Extract, and what to do then.

use std::time::Duration;

use irongate_postgres::ServerError;
use irongate_trail::{Lsn, Malformed};

use crate::positions::Refusal;

/// What the server says when a publication is younger than the slot: it is looked up as of the slot's place in the log.
const UNDEFINED_OBJECT: &str = "42704";
const PUBLICATION_HINT: &str = "irongate setup creates the publication before the slot; one that was made, or dropped and made again, after the slot is not there for it, so instantiate the flow again";

/// Why capturing cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server sent bytes that are no message.
    #[error("malformed message from the server at {lsn}: {source}")]
    Malformed {
        /// The last position that the stream named.
        lsn: Lsn,
        /// What is wrong with the bytes.
        source: Malformed,
    },
    /// The server sent a message that cannot stand where it does.
    #[error("unexpected message from the server at {lsn}: {what}")]
    Protocol {
        /// The last position that the stream named.
        lsn: Lsn,
        /// What was unexpected.
        what: String,
    },
    /// The slot sends transactions at their PREPARE, out of commit order.
    #[error("the slot sends prepared transactions before their commit")]
    TwoPhase,
    /// Binary values were asked for, and a column has a type whose binary form means something else elsewhere.
    #[error(
        "column \"{column}\" of table \"{schema}\".\"{table}\" has a type (OID {type_oid}) that cannot travel in binary"
    )]
    NotBinary {
        /// The table's schema.
        schema: String,
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type at the source.
        type_oid: u32,
    },
    /// The stream may not begin.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// Another site writes the database.
    #[error("site \"{live}\" writes this database, in epoch {epoch}, and not \"{site}\"")]
    NotLive {
        /// The site of this Extract.
        site: String,
        /// The site that writes.
        live: String,
        /// Its epoch.
        epoch: u64,
    },
    /// A publication of the flow does not exist.
    #[error("publication \"{name}\" does not exist")]
    NoPublication {
        /// The publication.
        name: String,
    },
    /// The server leaves out what a publication of the flow publishes, because the publication is not there at this place
    /// of the log.
    #[error("the server leaves changes out: {0}")]
    PublicationLeftOut(Box<ServerError>),
    /// The server is too old for what is asked of it.
    #[error("Extract needs PostgreSQL {needed} for this, the server is version {found}")]
    Version {
        /// The first major version that can.
        needed: u32,
        /// The server's `server_version_num`.
        found: u32,
    },
    /// The server does not answer any more.
    #[error("the server has been silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection, or a question to the server.
    #[error(transparent)]
    Postgres(#[from] irongate_postgres::Error),
    /// The trail.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// The lock or the status of the process.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// Positions stand in an order that would lose or repeat something: a defect of the program.
    #[error("positions are out of order: {0}")]
    Positions(String),
    /// A part of the program ended that should not have.
    #[error("a task of Extract ended: {0}")]
    Task(#[source] tokio::task::JoinError),
    /// A streamed transaction came to a sink that cannot hold one.
    #[error("the sink has no side storage for streamed transactions")]
    NoSideStorage,
    /// The embedder's sink failed.
    #[error("the sink failed: {0}")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Postgres(error) => error.is_transient() || is_slot_in_use(error),
            Self::Trail(error) => error.is_transient(),
            Self::Checkpoint(error) => error.is_transient(),
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TwoPhase => {
                "drop the slot (irongate teardown), set up the flow again (irongate setup), and instantiate it".to_owned()
            }
            Self::NotBinary { .. } => "let values travel as text".to_owned(),
            Self::NoPublication { .. } | Self::PublicationLeftOut(_) => PUBLICATION_HINT.to_owned(),
            Self::Postgres(error) if error.code() == Some(UNDEFINED_OBJECT) => PUBLICATION_HINT.to_owned(),
            Self::NotLive { site, .. } => format!(
                "\"{site}\" must not be written: irongate reinstate {site}, then irongate switchback, if it is to be live again"
            ),
            Self::Version { needed, .. } => format!("upgrade the server to version {needed} or later"),
            Self::NoSideStorage => "ask for a stream without streamed transactions".to_owned(),
            Self::Refused(refusal) => return refusal.hint(),
            Self::Postgres(error) => return error.hint(),
            Self::Trail(error) => return error.hint(),
            Self::Checkpoint(error) => return error.hint(),
            _ => return None,
        })
    }
}

/// The slot was free when it was looked at, and somebody took it since: most likely our own cut connection.
fn is_slot_in_use(error: &irongate_postgres::Error) -> bool {
    const OBJECT_IN_USE: &str = "55006";
    error.code() == Some(OBJECT_IN_USE)
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Sink(error)
    }
}
