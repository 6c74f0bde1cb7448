//! What can be wrong with a trail, and what to do then.

use std::io;
use std::path::PathBuf;

use crate::lsn::{CommitLsn, Lineage, Position};

/// Bytes that do not have the layout they should have. The place is added by whoever knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// An operation on a trail that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("could not {operation} \"{}\": {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Bytes that were durable are not what was written.
    #[error("trail file \"{}\" is damaged at offset {offset}: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file was written by a release that this one cannot read.
    #[error("trail file \"{}\" has {what}, which this release cannot read", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// The version, or the header token, that is not known.
        what: String,
    },
    /// A file or transaction between two others is missing.
    #[error("the trail in \"{}\" has a gap: {reason}", directory.display())]
    Gap {
        /// The trail.
        directory: PathBuf,
        /// What is missing between what.
        reason: String,
    },
    /// The reader's last transaction is not in the trail.
    #[error(
        "commit {commit} is not in the trail in \"{}\", which begins after it or was written anew",
        directory.display()
    )]
    NotInTrail {
        /// The trail.
        directory: PathBuf,
        /// The transaction to go on after.
        commit: CommitLsn,
    },
    /// The trail belongs to another source.
    #[error("the trail in \"{}\" was written from {found}, not from {expected}", directory.display())]
    Lineage {
        /// The trail.
        directory: PathBuf,
        /// Whose it is.
        found: Box<Lineage>,
        /// Whose it should be.
        expected: Box<Lineage>,
    },
    /// There is a trail, but nobody vouches for anything in it.
    #[error("the trail in \"{}\" has no durable mark: its writer has vouched for nothing yet", .0.display())]
    NotDurable(PathBuf),
    /// The trail does not come up to the transaction to begin after: its mark is older than the reader's, as a power cut may
    /// leave it, or it was cut back.
    #[error(
        "the trail in \"{}\" is durable up to commit {durable} only, before commit {commit}",
        directory.display()
    )]
    Behind {
        /// The trail.
        directory: PathBuf,
        /// The transaction to go on after.
        commit: CommitLsn,
        /// The last one that is durable.
        durable: CommitLsn,
    },
    /// The trail is shorter than what was read of it: a disk lost what it had promised, and the writer began again before.
    #[error(
        "the trail in \"{}\" was cut back to {now} when it had been read to {read}",
        directory.display()
    )]
    CutBack {
        /// The trail.
        directory: PathBuf,
        /// How far it had been read.
        read: Position,
        /// How far it is durable now.
        now: Position,
    },
    /// The writer is of an earlier epoch than the trail: another one has taken over since.
    #[error(
        "the trail in \"{}\" was written in epoch {found}, later than the writer's own epoch {own}",
        directory.display()
    )]
    Epoch {
        /// The trail.
        directory: PathBuf,
        /// Its epoch.
        found: u64,
        /// The writer's.
        own: u64,
    },
    /// There is no trail in the directory.
    #[error("there is no trail in \"{}\"", .0.display())]
    Missing(PathBuf),
    /// There is a trail where a new one should begin.
    #[error("there is a trail in \"{}\" already", .0.display())]
    Exists(PathBuf),
    /// Another process writes the trail.
    #[error("the trail in \"{}\" is being written by another process", .0.display())]
    InUse(PathBuf),
    /// A sync failed before: what the system holds in its cache may not be on the disk.
    #[error("the trail in \"{}\" is closed for writing since a sync failed", .0.display())]
    Poisoned(PathBuf),
    /// The caller broke the order of calls: a defect of the program, not of the files.
    #[error("misuse of a trail: {0}")]
    Misuse(&'static str),
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::ResourceBusy
            ),
            Self::InUse(_) | Self::NotDurable(_) | Self::Behind { .. } | Self::CutBack { .. } => true,
            _ => false,
        }
    }

    /// Whether the disk, or the share of it that is allowed, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
                    "free space on the disk of \"{}\" (irongate trail purge removes what every reader has passed), then start again: nothing is lost",
                    path.display()
                ),
                io::ErrorKind::ReadOnlyFilesystem => {
                    "mount the file system writable, then start again: nothing is lost".to_owned()
                }
                io::ErrorKind::PermissionDenied => {
                    format!("give the user that runs irongate access to \"{}\"", path.display())
                }
                _ => return None,
            },
            Self::Damaged { .. } => "irongate trail check shows how far the trail is sound; restore the file from a copy, or instantiate the flow again".to_owned(),
            Self::Version { .. } => "run the release that wrote the file, or a newer one".to_owned(),
            Self::Gap { .. } | Self::NotInTrail { .. } => {
                "restore the missing files from a copy, or instantiate the flow again".to_owned()
            }
            Self::Lineage { .. } => {
                "point the flow at the trail's own source, or instantiate the flow again".to_owned()
            }
            Self::NotDurable(_) => {
                "start its writer: that examines the files and vouches for what is sound".to_owned()
            }
            Self::Behind { .. } => {
                "start its writer: that examines the files and captures what is missing; if it has done so, the trail was written anew: instantiate the flow again".to_owned()
            }
            Self::CutBack { .. } => {
                "start again: what was cut off is captured anew, and what was read is passed over".to_owned()
            }
            Self::Epoch { .. } => {
                "another site has taken over since: this one must not write; instantiate it anew".to_owned()
            }
            Self::Missing(_) => "irongate setup creates the slot and the trail together".to_owned(),
            Self::Exists(_) => "irongate teardown removes it".to_owned(),
            Self::InUse(_) => "stop the other process first (irongate info)".to_owned(),
            Self::Poisoned(_) => "look after the disk, then start again: nothing was acknowledged".to_owned(),
            Self::Misuse(_) => return None,
        })
    }
}
