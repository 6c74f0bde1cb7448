//! What can go wrong with a checkpoint, whether trying again can help, and what to do then.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use irongate_trail::Lsn;

use crate::session::OtherSession;

/// Who holds a lock, as far as the lock's file tells. The file is written just after the lock is taken, so both parts
/// can be missing for an instant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// The holder's process id, in the holder's own pid namespace.
    pub pid: Option<u32>,
    /// The holder's group.
    pub name: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => write!(f, "group \"{name}\" (process {pid})"),
            (None, Some(pid)) => write!(f, "process {pid}"),
            (Some(name), None) => write!(f, "group \"{name}\""),
            (None, None) => f.write_str("another process"),
        }
    }
}

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The local store belongs to a living process.
    #[error("checkpoint store \"{}\" is in use by {holder}", directory.display())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
        /// Who has it open.
        holder: Holder,
    },
    /// The group runs already.
    #[error("group \"{group}\" is already running: its lock is held by {holder}")]
    Held {
        /// The group that was to be locked.
        group: String,
        /// Who has the lock.
        holder: Holder,
    },
    /// A name that cannot be part of a file's or an origin's name.
    #[error("\"{name}\" cannot be the name of a {what}: {reason}")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The refused name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file system refuses: permission, space, a read-only mount, a failing disk.
    #[error("could not {doing} \"{}\": {source}", path.display())]
    File {
        /// What was being done, as a verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The local store fails while it is open. Opening it again sets it aside if it is damaged.
    #[error("checkpoint store \"{}\" failed: {reason}", directory.display())]
    Store {
        /// The store's directory.
        directory: PathBuf,
        /// What the store's engine said.
        reason: String,
    },
    /// A stored value is not what its reader expects.
    #[error("value of \"{key}\" in the checkpoint store cannot be decoded: {reason}")]
    Undecodable {
        /// The value's key.
        key: String,
        /// What the decoder said.
        reason: String,
    },
    /// A status file is not one that this version understands.
    #[error("status file \"{}\" cannot be understood: {reason}", path.display())]
    StatusUnreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The target has no checkpoint table, or an older one.
    #[error("checkpoint table \"irongate.checkpoint\" is missing in the target or lacks a column")]
    TableMissing,
    /// A row of the checkpoint table holds a number that cannot be.
    #[error("column \"{column}\" of the checkpoint of flow \"{flow}\" holds an impossible value")]
    BadRow {
        /// The flow whose row it is.
        flow: String,
        /// The column.
        column: &'static str,
    },
    /// The row that says which site writes the database cannot be read.
    #[error("column \"{column}\" of table irongate.role has no value that could be meant")]
    BadRole {
        /// The column.
        column: &'static str,
    },
    /// The checkpoint in the target is not one that may be replaced by the new one: it has moved, it was removed, or it
    /// belongs to another lineage or a later epoch. The target transaction is aborted.
    #[error("checkpoint of flow \"{flow}\" in the target is not where this process left it")]
    Overtaken {
        /// The flow.
        flow: String,
    },
    /// A checkpoint for the flow exists already where there should be none.
    #[error("flow \"{flow}\" has a checkpoint in the target already")]
    AlreadyInitialised {
        /// The flow.
        flow: String,
    },
    /// Another session applies the flow.
    #[error("flow \"{flow}\" is being applied by {session}")]
    FlowInUse {
        /// The flow.
        flow: String,
        /// The session that has claimed it.
        session: Box<OtherSession>,
    },
    /// The target has no ledger of initial loads, or an older one.
    #[error(
        "the ledger of initial loads, table \"irongate.load\", is missing in the target or lacks a column"
    )]
    LedgerMissing,
    /// Another session loads the flow.
    #[error("flow \"{flow}\" is being loaded by {session}")]
    LoadInUse {
        /// The flow.
        flow: String,
        /// The session that has claimed its load.
        session: Box<OtherSession>,
    },
    /// Another session has the replication origin. PostgreSQL up to 18 lets one session at a time use an origin.
    #[error("replication origin \"{origin}\" is in use by {session}")]
    OriginInUse {
        /// The origin.
        origin: String,
        /// The session that has it.
        session: Box<OtherSession>,
    },
    /// The replication origin does not exist in the target's cluster.
    #[error("replication origin \"{origin}\" does not exist")]
    OriginMissing {
        /// The origin.
        origin: String,
    },
    /// The target has no free slot for another origin.
    #[error("the target has no room for replication origin \"{origin}\"")]
    OriginLimit {
        /// The origin.
        origin: String,
    },
    /// A call that does not fit the origin session's state, refused here before it does harm at the server.
    #[error("replication origin \"{origin}\": {problem}")]
    OriginState {
        /// The origin.
        origin: String,
        /// What does not fit.
        problem: &'static str,
    },
    /// The target has lost what it had confirmed as flushed.
    #[error("the target stands at {found}, before {known}, which it had flushed")]
    TargetWentBack {
        /// Source position the target shows now.
        found: Lsn,
        /// Source position that was known to be durable there.
        known: Lsn,
    },
    /// The target refuses a statement, or the connection to it is lost.
    #[error("could not {doing}: {source}")]
    Sql {
        /// What was being done, as a verb with its object.
        doing: &'static str,
        /// What the server or the connection said, without row values.
        source: Box<irongate_postgres::Error>,
    },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { doing, path: path.to_owned(), source }
    }

    pub(crate) fn sql(doing: &'static str, source: tokio_postgres::Error) -> Self {
        Self::Sql { doing, source: Box::new(source.into()) }
    }

    /// The SQLSTATE, where the server has given one. `25P02` says that an earlier statement of the same transaction has
    /// failed: that one's error tells why.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql { source, .. } => source.code(),
            _ => None,
        }
    }

    /// Whether the same call can succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::InUse { .. }
            | Self::Held { .. }
            | Self::FlowInUse { .. }
            | Self::LoadInUse { .. }
            | Self::OriginInUse { .. }
            | Self::Store { .. } => true,
            Self::File { source, .. } => file_is_transient(source),
            Self::Sql { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::InUse { holder, .. } | Self::Held { holder, .. } => {
                let stop = holder.name.as_deref().unwrap_or("GROUP");
                format!("wait for it, or stop \"{stop}\": SIGTERM ends it in order")
            }
            Self::BadName { .. } => "use letters, digits, \"_\" and \"-\"".to_owned(),
            Self::File { path, source, .. } => file_hint(path, source),
            Self::Store { .. } => "restart the group: a damaged store is set aside and made anew".to_owned(),
            Self::Undecodable { .. } => {
                "it is of another version: the value is rebuilt when the group starts".to_owned()
            }
            Self::StatusUnreadable { .. } => {
                "it is written anew when the group starts; a newer irongate may have written it".to_owned()
            }
            Self::LoadInUse { session, .. } => match session.pid {
                Some(pid) => format!(
                    "wait for it, or, if it is dead, end its session with \"SELECT pg_terminate_backend({pid})\""
                ),
                None => "wait for it".to_owned(),
            },
            Self::TableMissing | Self::LedgerMissing => "run \"irongate setup\"".to_owned(),
            Self::BadRole { .. } => {
                "somebody has edited the row: compare it with the same table at the other site".to_owned()
            }
            Self::BadRow { flow, .. } => {
                format!("somebody has edited the row: set it with \"irongate position\" or run \"irongate instantiate {flow}\"")
            }
            Self::Overtaken { flow } => format!(
                "another process has applied to this target, or the flow was instantiated again: see \"irongate position\" and, if nobody instantiated it, run \"irongate instantiate {flow}\""
            ),
            Self::AlreadyInitialised { flow } => format!(
                "the target has been instantiated before: see \"irongate position {flow}\", or begin again with \"irongate instantiate {flow}\""
            ),
            Self::FlowInUse { session, .. } | Self::OriginInUse { session, .. } => match session.pid {
                Some(pid) => format!(
                    "stop the other Replicat, or, if it is dead, end its session with \"SELECT pg_terminate_backend({pid})\""
                ),
                None => "stop the other Replicat".to_owned(),
            },
            Self::OriginMissing { .. } => "run \"irongate setup\"".to_owned(),
            Self::OriginLimit { .. } => {
                "raise max_replication_slots at the target (from PostgreSQL 18: max_active_replication_origins) and restart it"
                    .to_owned()
            }
            Self::OriginState { .. } => return None,
            Self::TargetWentBack { .. } => {
                "the target was restored or runs with fsync off: compare it, or instantiate it again".to_owned()
            }
            Self::Sql { source, .. } => match source.code() {
                Some("42501") => "run \"irongate setup\", which grants what is needed".to_owned(),
                Some("25006") => {
                    "the target is a standby or set read-only: connect to its primary".to_owned()
                }
                _ => return source.hint(),
            },
        })
    }
}

fn file_is_transient(source: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        source.kind(),
        K::StorageFull | K::QuotaExceeded | K::Interrupted | K::WouldBlock | K::TimedOut | K::OutOfMemory
    )
}

fn file_hint(path: &Path, source: &io::Error) -> String {
    use io::ErrorKind as K;
    let path = path.display();
    match source.kind() {
        K::PermissionDenied => format!("let the user that runs irongate read and write \"{path}\""),
        K::ReadOnlyFilesystem => {
            format!("mount the file system of \"{path}\" writable, or choose another directory")
        }
        K::StorageFull => format!("free space on the file system of \"{path}\""),
        K::QuotaExceeded => format!("raise the quota for \"{path}\""),
        _ => format!("check \"{path}\" and the disk below it"),
    }
}
