//! What can go wrong with a manager, whether trying again can help, and what to do then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another manager has this site and state directory.
    #[error("a manager of site \"{site}\" is already running in \"{}\": {holder}", directory.display())]
    AlreadyRunning {
        /// The site.
        site: String,
        /// The state directory.
        directory: PathBuf,
        /// Who it is.
        holder: String,
    },
    /// There is no manager to talk to.
    #[error("no manager is running for site \"{site}\": nobody listens at \"{}\"", socket.display())]
    NotRunning {
        /// The site.
        site: String,
        /// Where one would listen.
        socket: PathBuf,
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
    /// A file of ours is not what this version writes.
    #[error("\"{}\" cannot be understood: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others than the owner may use the directory of the control socket.
    #[error("directory \"{}\" is open to others than its owner (mode {mode:o})", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A port cannot be listened on.
    #[error("could not listen on \"{address}\": {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The settings say what cannot be.
    #[error("{what} cannot be {value}: {reason}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The manager does not answer.
    #[error("the manager of site \"{site}\" did not {doing} within {:.1} s", limit.as_secs_f64())]
    Timeout {
        /// The site.
        site: String,
        /// What was waited for, as a verb.
        doing: &'static str,
        /// The limit that passed.
        limit: Duration,
    },
    /// The conversation with the manager broke.
    #[error("the manager of site \"{site}\" {reason}")]
    Conversation {
        /// The site.
        site: String,
        /// What happened.
        reason: String,
    },
    /// The manager says no.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whether trying again can help.
        transient: bool,
    },
    /// What the manager needs of a group or a lock.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// A trail.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// The link to another site, or what it needs.
    #[error(transparent)]
    Link(#[from] irongate_pump::Error),
    /// Another site's manager has no address.
    #[error("site \"{site}\" does not say where its manager can be reached")]
    NoAddress {
        /// The site.
        site: String,
    },
    /// The configuration.
    #[error(transparent)]
    Deployment(#[from] irongate_deployment::Error),
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { doing, path: path.to_owned(), source }
    }

    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
            }
            Self::Timeout { .. } | Self::Conversation { .. } => true,
            Self::Listen { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::Refused { transient, .. } => *transient,
            Self::Checkpoint(error) => error.is_transient(),
            Self::Trail(error) => error.is_transient(),
            Self::Deployment(error) => error.is_transient(),
            Self::Link(error) => error.is_transient(),
            Self::NoAddress { .. }
            | Self::AlreadyRunning { .. }
            | Self::NotRunning { .. }
            | Self::Unreadable { .. }
            | Self::OpenToOthers { .. }
            | Self::Setting { .. } => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRunning { site, .. } => {
                Some(format!("talk to it with \"irongate --site {site} info\", or stop it first"))
            }
            Self::NotRunning { site, .. } => {
                Some(format!("start it with \"irongate --site {site} manager\""))
            }
            Self::File { source, path, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some(format!("run as the owner of \"{}\"", path.parent().unwrap_or(path).display()))
                }
                io::ErrorKind::StorageFull => Some("make room on the disk".to_owned()),
                _ => None,
            },
            Self::Unreadable { path, .. } => {
                Some(format!("mend \"{0}\" by hand; without it, groups start as configured", path.display()))
            }
            Self::OpenToOthers { path, .. } => Some(format!("chmod 700 {}", path.display())),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("give the manager another port, or stop who has this one".to_owned())
            }
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::InvalidInput => Some(
                "the path of a socket has at most 107 bytes: choose a shorter one, or a shorter state directory"
                    .to_owned(),
            ),
            Self::Timeout { .. } => {
                Some("see its log; \"irongate info\" shows what the groups do".to_owned())
            }
            Self::Refused { hint, .. } => hint.clone(),
            Self::Checkpoint(error) => error.hint(),
            Self::Trail(error) => error.hint(),
            Self::Deployment(error) => error.hint(),
            Self::Link(error) => error.hint(),
            Self::NoAddress { site } => Some(format!(
                "give [sites.{site}] control_listen = \"0.0.0.0:7421\" and control_address = \"host:7421\", or give the order at that site"
            )),
            Self::Listen { .. } | Self::Setting { .. } | Self::Conversation { .. } => None,
        }
    }
}
