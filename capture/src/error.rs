//! What can end an Extract, and what to do then.

use irongate_trail::{Lsn, Malformed};

use crate::positions::Refusal;

/// Why capturing cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server sent bytes that are no message.
    #[error("malformed message from the server at {lsn}")]
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
    Refused(#[from] Refusal),
    /// Positions stand in an order that would lose or repeat something: a defect of the program.
    #[error("positions are out of order: {0}")]
    Positions(String),
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
            Self::Refused(refusal) => refusal.is_transient(),
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TwoPhase => {
                "create the slot without two_phase (irongate teardown, then irongate setup and instantiate)"
                    .to_owned()
            }
            Self::NotBinary { .. } => "let values travel as text".to_owned(),
            Self::NoSideStorage => "ask for a stream without streamed transactions".to_owned(),
            Self::Refused(refusal) => return refusal.hint(),
            _ => return None,
        })
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Sink(error)
    }
}
