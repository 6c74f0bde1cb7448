//! What can go wrong with a compare or a repair, whether trying again can help, and what to do then.

use std::path::PathBuf;

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A database refused, or could not be reached for longer than is waited.
    #[error("{end}: cannot {doing}: {source}")]
    Database {
        /// Which database.
        end: String,
        /// What was to be done.
        doing: String,
        /// What the server or the network said.
        source: Box<irongate_postgres::Error>,
    },
    /// The flow's publication names no table.
    #[error("{end}: publication \"{publication}\" names no table")]
    NothingPublished {
        /// Which database.
        end: String,
        /// The publication.
        publication: String,
    },
    /// A pattern that fits no table of the flow.
    #[error("flow \"{flow}\" has no table that fits \"{pattern}\"")]
    NoTable {
        /// The flow.
        flow: String,
        /// What was asked for.
        pattern: String,
    },
    /// A table is not there, or lacks what is compared.
    #[error("{end}: {what}")]
    Missing {
        /// Which database.
        end: String,
        /// What is missing, by name.
        what: String,
    },
    /// The role may not read or write a table.
    #[error("{end}: role \"{role}\" may not {doing} table {table}")]
    Rights {
        /// Which database.
        end: String,
        /// The role.
        role: String,
        /// What it may not.
        doing: &'static str,
        /// The table.
        table: String,
        /// What gives the right.
        grant: String,
    },
    /// A table has been altered under the eyes of a compare.
    #[error("table {table} was altered while it was compared")]
    Altered {
        /// The table.
        table: String,
    },
    /// A table is being copied anew.
    #[error("table {table} is being copied anew, and is not whole at the target")]
    Copied {
        /// The table.
        table: String,
        /// The flow.
        flow: String,
    },
    /// A table has been emptied or rewritten since the snapshot that it is read under: under that one it has no rows.
    #[error("{end}: table {table} was emptied or rewritten just when it was to be read")]
    Rewritten {
        /// Which database.
        end: String,
        /// The table.
        table: String,
    },
    /// The snapshot is gone that everything was read under.
    #[error("{end}: the snapshot that it was read under is lost: its session has ended")]
    SnapshotGone {
        /// Which database.
        end: String,
    },
    /// Rows that are counted can be shown to be the same only behind a message, and none has come through.
    #[error("rows of table {table} have no key, and cannot be shown to be the same: {because}")]
    Uncounted {
        /// The table.
        table: String,
        /// Why no message has come through.
        because: String,
    },
    /// A row that was to be at rest is not what the compare saw, nor what it is to be.
    #[error("{end}: a row of table {table} has changed since it was compared: somebody writes there")]
    Moved {
        /// Which database.
        end: String,
        /// The table.
        table: String,
    },
    /// A row could not be repaired.
    #[error("{end}: cannot repair the row ({key}) of table {table}: {source}")]
    Row {
        /// Which database.
        end: String,
        /// The table.
        table: String,
        /// The key of the row.
        key: String,
        /// What the server said.
        source: Box<irongate_postgres::Error>,
    },
    /// A repair stopped when some of it was done.
    #[error("{source}; {repaired} differences were repaired before, and stay so")]
    Stopped {
        /// How many were repaired.
        repaired: u64,
        /// What stopped it.
        source: Box<Error>,
    },
    /// What a repair has written is not there when it is read back.
    #[error(
        "{end}: rows of table {table} are not what was written when they are read back; nothing of these is kept"
    )]
    NotWritten {
        /// Which database.
        end: String,
        /// The table.
        table: String,
    },
    /// The file of differences cannot be read or written.
    #[error("file \"{}\": {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line of a file of differences is none.
    #[error("file \"{}\", line {line}: {reason}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file of differences that belongs to another flow.
    #[error("the differences are those of flow \"{found}\", and not of flow \"{flow}\"")]
    OtherFlow {
        /// The flow that is to be repaired.
        flow: String,
        /// The flow in the file.
        found: String,
    },
    /// A file of differences between other databases.
    #[error("file \"{}\" has differences between the databases {found}, and not between {ends}", file.display())]
    OtherEnds {
        /// The file.
        file: PathBuf,
        /// The databases in the file, by system identifier and name.
        found: String,
        /// Those that are to be repaired.
        ends: String,
    },
    /// The role that a repair writes as does not get in.
    #[error("{end}: cannot connect as role \"{role}\" for the repair: {source}")]
    NoWriter {
        /// Which database.
        end: String,
        /// The role.
        role: String,
        /// What the server said.
        source: Box<irongate_postgres::Error>,
    },
    /// Tables could not be locked for a repair, again and again.
    #[error("{end}: could not lock {tables} beside what writes there, {attempts} times in a row")]
    Busy {
        /// Which database.
        end: String,
        /// The tables.
        tables: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An origin could not be used.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// What takes the differences cannot take more.
    #[error("cannot write down a difference: {0}")]
    Write(#[from] std::io::Error),
}

impl Error {
    /// Whether the same call, made again later and unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } | Self::Row { source, .. } | Self::NoWriter { source, .. } => {
                source.is_transient()
            }
            Self::Stopped { source, .. } => source.is_transient(),
            Self::Checkpoint(source) => source.is_transient(),
            Self::Altered { .. } | Self::Uncounted { .. } | Self::Busy { .. } | Self::Moved { .. } => true,
            Self::Rewritten { .. } | Self::SnapshotGone { .. } => true,
            _ => false,
        }
    }

    /// Whether another snapshot is needed before trying again can help.
    pub(crate) fn needs_snapshot(&self) -> bool {
        matches!(self, Self::Rewritten { .. } | Self::SnapshotGone { .. })
    }

    /// Whether it lies in how the two databases are made, or in what a role may do there.
    pub(crate) fn is_structural(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Rights { .. } => true,
            Self::Database { source, .. } => source.code() == Some("42501"),
            _ => false,
        }
    }

    /// What to do about it, if that can be said.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Database { source, .. } => source.hint(),
            Self::Checkpoint(source) => source.hint(),
            Self::Stopped { source, .. } => source.hint(),
            Self::Row { source, .. } if matches!(source.code(), Some("23505" | "23P01")) => Some(
                "another row has this value: repair all kinds and all tables together, without --only and --table, or look at \
                 both rows and repair them by hand"
                    .into(),
            ),
            Self::Row { .. } => {
                Some("put away what refuses this row, or repair it by hand; then repair the rest".into())
            }
            Self::Rights { grant, .. } => Some(format!("{grant};")),
            Self::NothingPublished { .. } => Some("irongate setup makes the publication".into()),
            Self::NoTable { .. } => {
                Some("write schema.table as the source calls it; * stands for any run of characters".into())
            }
            Self::Missing { .. } => {
                Some("irongate check names everything in which the two databases are not alike".into())
            }
            Self::Copied { flow, .. } => {
                Some(format!("compare it when \"irongate instantiate {flow}\" is done, which goes on where it was cut off"))
            }
            Self::Altered { .. } => Some("compare it again when both sides have been altered".into()),
            Self::Rewritten { .. } | Self::SnapshotGone { .. } => {
                Some("compare it again, under another snapshot".into())
            }
            Self::Uncounted { .. } => Some("compare it again while the flow runs and keeps up".into()),
            Self::NotWritten { .. } => Some(
                "look for triggers that fire ALWAYS, and for rules, which change what is written there"
                    .into(),
            ),
            Self::Moved { .. } => {
                Some("find out who writes there and keep him out, then compare again".into())
            }
            Self::Busy { .. } => {
                Some("try again when less is written, or stop the flow's Replicat meanwhile".into())
            }
            Self::NoWriter { role, .. } => {
                let grants = irongate_checkpoint::origin_grants(role).join("; ").replace("\n", " ");
                let role = irongate_postgres::sql::quote_identifier(role);
                Some(format!(
                    "a repair writes as Replicat's role of that site, which need not exist where only Extract works: CREATE ROLE {role} \
                     LOGIN PASSWORD '...'; {grants}; and SELECT, INSERT, UPDATE, DELETE on the tables. If it is there, look at its \
                     password and at pg_hba.conf"
                ))
            }
            Self::Line { .. } | Self::OtherFlow { .. } | Self::OtherEnds { .. } => {
                Some("name a file that irongate compare --out has written for this flow".into())
            }
            _ => None,
        }
    }
}
