//! What can end a pump, a collector or a link between them, and what to do then.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use irongate_trail::{CommitLsn, Malformed};

use crate::wire::{Code, Refused};

/// Why the other side's certificate, or the way that it speaks, is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsReason {
    /// Its time is over.
    #[error("certificate expired")]
    Expired,
    /// Its time has not come.
    #[error("certificate not valid yet")]
    NotYet,
    /// Our authority has not signed it.
    #[error("unknown CA: no authority that is trusted here has signed the certificate")]
    UnknownAuthority,
    /// It is for another site.
    #[error("wrong name: the certificate is not for site \"{0}\"")]
    WrongName(String),
    /// It has none, or one that cannot be used.
    #[error("bad certificate: {0}")]
    BadCertificate(String),
    /// The other side refuses ours.
    #[error("the other side refuses this site's certificate: {0}")]
    Alert(&'static str),
    /// It speaks an older version.
    #[error("the other side does not speak TLS 1.3")]
    Version,
    /// It is one of ours, and not the one that was looked for.
    #[error("the other side speaks another protocol of Irongate's")]
    OtherProtocol,
    /// It speaks something else, or the bytes were changed on the way.
    #[error("the other side does not speak TLS, or its bytes were changed on the way ({0})")]
    NotTls(String),
}

impl TlsReason {
    fn is_transient(&self) -> bool {
        matches!(self, Self::NotTls(_))
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Expired | Self::NotYet => {
                "are the clocks of both sites right? If so, make new certificates (irongate certs) and put them in place at both sites"
            }
            Self::UnknownAuthority | Self::Alert(_) => {
                "both sites need the same ca.crt, and certificates that it has signed and that are still valid (irongate certs makes all of them together)"
            }
            Self::WrongName(_) => {
                "give each site the certificate that bears its own name, and write the other site's name as it is in its certificate"
            }
            Self::BadCertificate(_) => "make the certificates again (irongate certs)",
            Self::Version => "run Irongate at the other end, or look at what stands between the sites",
            Self::OtherProtocol => {
                "pumps and collectors meet at \"listen\" and \"address\", terminals and managers at \"control_listen\" and \"control_address\": is this the right port?"
            }
            Self::NotTls(_) => "is the address a pump's or collector's of Irongate?",
        }
    }
}

/// Why carrying a trail cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be used.
    #[error("{setting} cannot be used: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of certificates or keys.
    #[error("\"{}\" cannot be used: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is there, and is not replaced.
    #[error("\"{}\" is there already", .0.display())]
    Exists(PathBuf),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("cannot connect to {address}: {source}")]
    Unreachable {
        /// The address.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Nobody answers in time.
    #[error("{peer} has not answered within {} s", limit.as_secs_f32())]
    ConnectTimeout {
        /// Who.
        peer: String,
        /// The limit.
        limit: Duration,
    },
    /// No trust in the other side.
    #[error("no secure link to {peer}: {reason}")]
    Tls {
        /// The other side.
        peer: String,
        /// Why.
        reason: TlsReason,
    },
    /// The link broke.
    #[error("the link to {peer} was lost: {source}")]
    Lost {
        /// The other side.
        peer: String,
        /// The system's words.
        source: io::Error,
    },
    /// The other side says nothing any more.
    #[error("{peer} has been silent for {} s", limit.as_secs_f32())]
    Silent {
        /// The other side.
        peer: String,
        /// How long.
        limit: Duration,
    },
    /// The other side takes its leave.
    #[error("{peer} ends the link: {reason}")]
    Parted {
        /// The other side.
        peer: String,
        /// Its reason.
        reason: String,
    },
    /// The other side sends what cannot be understood, or not there.
    #[error("malformed data from {peer}: {source}")]
    Malformed {
        /// The other side.
        peer: String,
        /// What is wrong.
        source: Malformed,
    },
    /// A row that cannot be told as an event.
    #[error("table \"{table}\" cannot be told: {reason}")]
    Event {
        /// The table, with its schema.
        table: String,
        /// Why; no value of a row.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// What a feed has told ends, and another history begins.
    #[error(
        "changes are missing behind {commit}: flow \"{flow}\" was instantiated again, and its trail goes on with another history"
    )]
    Anew {
        /// The flow.
        flow: String,
        /// The last commit that was told.
        commit: CommitLsn,
        /// The file that says so.
        mark: PathBuf,
    },
    /// The other side does not go on.
    #[error("{peer} refuses: {refused}")]
    Refused {
        /// The other side.
        peer: String,
        /// Its reason.
        refused: Box<Refused>,
    },
    /// This side does not go on.
    #[error("{}", refused.message)]
    Refusing {
        /// The reason, as the other side is told.
        refused: Box<Refused>,
    },
    /// The collector has a transaction that the trail here does not have.
    #[error("{peer} has commit {commit}, which is not in the trail in \"{}\"", trail.display())]
    Fork {
        /// The collector.
        peer: String,
        /// The transaction.
        commit: CommitLsn,
        /// The trail.
        trail: PathBuf,
    },
    /// Kafka refuses, or does not answer.
    #[error("{doing}: {reason}")]
    Kafka {
        /// What was tried, and with whom.
        doing: String,
        /// What it says.
        reason: String,
        /// Whether trying again can help.
        transient: bool,
        /// What to do.
        hint: String,
    },
    /// A topic that cannot hold a trail.
    #[error("topic \"{topic}\" {reason}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The trail.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// The lock or the status of the process.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// A part of the program ended that should not have.
    #[error("a task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::ConnectTimeout { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Parted { .. }
            | Self::Malformed { .. } => true,
            Self::Tls { reason, .. } => reason.is_transient(),
            Self::Kafka { transient, .. } => *transient,
            Self::Refused { refused, .. } | Self::Refusing { refused } => refused.transient,
            Self::Listen { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            // The next connection begins with the new history.
            Self::Trail(irongate_trail::Error::Lineage { found, expected, .. }) => {
                found.is_anew_after(expected)
            }
            Self::Trail(error) => error.is_transient(),
            Self::Checkpoint(error) => error.is_transient(),
            _ => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists(path) => format!(
                "give another directory; to replace certificates, make new ones beside \"{}\" and put them in place at both sites",
                path.display()
            ),
            Self::File { .. } => {
                "\"irongate certs\" makes an authority and a certificate and key for each site; [link] says where they are".to_owned()
            }
            Self::Listen { .. } => "name an address of this machine and a free port".to_owned(),
            Self::Unreachable { .. } | Self::ConnectTimeout { .. } => {
                "is the other side running, and does a firewall let this connection through?".to_owned()
            }
            Self::Tls { reason, .. } => reason.hint().to_owned(),
            Self::Kafka { hint, .. } => return Some(hint.clone()).filter(|hint| !hint.is_empty()),
            Self::Topic { remedy, .. } | Self::Event { remedy, .. } => remedy.clone(),
            Self::Refused { refused, .. } | Self::Refusing { refused } => {
                return Some(refused.remedy.clone()).filter(|remedy| !remedy.is_empty());
            }
            Self::Anew { mark, .. } => format!(
                "have the consumers load the tables anew; then remove \"{}\" and start the group again: it begins with the new history",
                mark.display()
            ),
            Self::Fork { .. } => {
                "the two sites do not have the same history: compare the databases, then instantiate the flow again".to_owned()
            }
            Self::Trail(error) => return error.hint(),
            Self::Checkpoint(error) => return error.hint(),
            _ => return None,
        })
    }

    /// The reason of a refusal, whichever side has given it.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { refused, .. } | Self::Refusing { refused } => Some(refused.code),
            Self::Fork { .. } => Some(Code::Fork),
            _ => None,
        }
    }

    pub(crate) fn refusing(refused: Refused) -> Self {
        Self::Refusing { refused: Box::new(refused) }
    }

    pub(crate) fn malformed(peer: &str) -> impl Fn(Malformed) -> Self + '_ {
        move |source| Self::Malformed { peer: peer.to_owned(), source }
    }

    pub(crate) fn lost(peer: &str) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Lost { peer: peer.to_owned(), source }
    }
}
