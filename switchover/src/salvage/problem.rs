//! What can keep lost transactions from being found, or decisions about them from being carried out.

use std::io;
use std::path::PathBuf;

use irongate_trail::{Lineage, Lsn};

use super::directory::Conflict;

/// Why a salvage, or the carrying out of its decisions, has not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The trail of the lost site is at another one.
    #[error("the trail of flow \"{flow}\" lies at site \"{at}\"{}", site.as_ref().map(|site| format!(", and this is site \"{site}\"")).unwrap_or_default())]
    Elsewhere {
        /// The flow.
        flow: String,
        /// Where its trail is.
        at: String,
        /// This site, if it is said.
        site: Option<String>,
    },
    /// The site was not lost.
    #[error("{end} says that site \"{site}\" writes in epoch {epoch}: it has not been failed over")]
    NotLost {
        /// The database and the site that was asked.
        end: String,
        /// The site that writes.
        site: String,
        /// In which epoch.
        epoch: u64,
    },
    /// A process that would change what is looked at.
    #[error("group \"{group}\" runs: {source}")]
    Running {
        /// The group.
        group: String,
        /// Who holds it.
        source: irongate_checkpoint::Error,
    },
    /// Something has the slot.
    #[error("slot \"{slot}\" of {end} is in use by process {pid}")]
    SlotInUse {
        /// The slot.
        slot: String,
        /// The database and its site.
        end: String,
        /// The server's process.
        pid: i32,
    },
    /// The other site has no place of the flow.
    #[error("{end} has no checkpoint of flow \"{flow}\"")]
    NoCheckpoint {
        /// The database and its site.
        end: String,
        /// The flow.
        flow: String,
    },
    /// The other site cannot be asked how far it is.
    #[error("{end} cannot be asked how far it has applied flow \"{flow}\": {source}")]
    Unasked {
        /// The database and its site.
        end: String,
        /// The flow.
        flow: String,
        /// Why.
        source: Box<irongate_postgres::Error>,
    },
    /// The histories are not the same.
    #[error("{what} is of {found}, and what was applied at the live site of {expected}")]
    OtherHistory {
        /// Whose history it is.
        what: String,
        /// That history.
        found: Box<Lineage>,
        /// What the live site's checkpoint says.
        expected: Box<Lineage>,
    },
    /// A place was given that is not what the other site says.
    #[error("the divergence point is {known} by the word of {end}, and not {given}")]
    OtherPlace {
        /// The database and its site.
        end: String,
        /// What it says.
        known: Lsn,
        /// What was given.
        given: Lsn,
    },
    /// There is something where the report is to be.
    #[error("there is something in \"{}\" already", .0.display())]
    Exists(PathBuf),
    /// A file cannot be used.
    #[error("could not {doing} \"{}\": {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of a salvage is not what a salvage writes.
    #[error("\"{}\" cannot be used: {reason}", path.display())]
    Spoilt {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not decided what is to become of the lost changes.
    #[error("\"{}\" does not decide everything: {}", path.display(), complaints.join("; "))]
    Undecided {
        /// The file.
        path: PathBuf,
        /// What is lacking.
        complaints: Vec<String>,
    },
    /// A lost change does not find what it expects.
    #[error(
        "change {} of transaction {} ({}), {} of {}, cannot be repeated at {end}: {}",
        found.number, found.xid, found.commit_lsn, found.operation, found.table, found.reason
    )]
    Conflict {
        /// The database and its site.
        end: String,
        /// The change, and what is in its way.
        found: Box<Conflict>,
        /// How many transactions were repeated before it, or recorded as left or not wanted.
        before: u64,
    },
    /// Somebody else carries decisions out.
    #[error("decisions about flow \"{flow}\" are being carried out at {end} by somebody else")]
    Busy {
        /// The flow.
        flow: String,
        /// The database and its site.
        end: String,
    },
    /// The trail.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// What the slot says.
    #[error(transparent)]
    Capture(#[from] irongate_capture::Error),
    /// A table at the live site.
    #[error(transparent)]
    Table(#[from] irongate_apply::Error),
}

impl Problem {
    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unasked { source, .. } => source.is_transient(),
            Self::SlotInUse { .. } | Self::Busy { .. } => true,
            Self::Trail(error) => error.is_transient(),
            Self::Capture(error) => error.is_transient(),
            Self::Table(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether nothing was changed because a check said no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Conflict { before, .. } => *before == 0,
            Self::NotLost { .. }
            | Self::Running { .. }
            | Self::SlotInUse { .. }
            | Self::NoCheckpoint { .. }
            | Self::OtherHistory { .. }
            | Self::OtherPlace { .. }
            | Self::Exists(_)
            | Self::Undecided { .. }
            | Self::Busy { .. } => true,
            _ => false,
        }
    }

    /// What to type or do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Elsewhere { at, .. } => format!("run it at site \"{at}\""),
            Self::NotLost { .. } => {
                "fail over first; what is still on its way will be applied when the groups of the flow run".to_owned()
            }
            Self::Running { group, .. } => format!("irongate stop {group}"),
            Self::SlotInUse { .. } => "end whoever reads the slot; its process stands in pg_stat_replication".to_owned(),
            Self::NoCheckpoint { .. } => {
                "the flow was never instantiated there, or its checkpoint was taken away: compare the two sites instead"
                    .to_owned()
            }
            Self::Unasked { .. } => {
                "try again when that site answers, or give the point by hand: --divergence LSN, from the failover's report; \
                 what is at that site now will not be looked at"
                    .to_owned()
            }
            Self::OtherHistory { .. } => {
                "bring back the server and the trail that were lost; of others, compare the two sites (irongate compare) and \
                 make the site anew from the live one"
                    .to_owned()
            }
            Self::OtherPlace { .. } => "leave --divergence out: the live site answers".to_owned(),
            Self::Exists(_) => "name another directory with --out, or move it away".to_owned(),
            Self::File { .. } => "see to the disk and its rights, and try again".to_owned(),
            Self::Spoilt { .. } => "run the salvage again into another directory; it changes nothing at either site".to_owned(),
            Self::Undecided { path, .. } => format!("edit \"{}\", and try again", path.display()),
            Self::Conflict { .. } => {
                "look at the change in salvage.json and at the row; then set replay_over for the table, decide keep and see to it \
                 by hand, or discard; what was repeated before is not repeated again"
                    .to_owned()
            }
            Self::Busy { .. } => "wait until that has ended".to_owned(),
            Self::Trail(error) => return error.hint(),
            Self::Capture(error) => return error.hint(),
            Self::Table(error) => return error.hint(),
        })
    }

    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
