//! What can go wrong when sites change their roles.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration does not have it.
    #[error(transparent)]
    Deployment(#[from] irongate_deployment::Error),
    /// A fence is an administrator's work.
    #[error("database \"{end}\" has no address for its administrator")]
    NoAdmin {
        /// The database and its site.
        end: String,
        /// The database.
        database: String,
    },
    /// It is not known whom to keep out.
    #[error("the roles of database \"{database}\"'s applications are not configured")]
    NoAccess {
        /// The database.
        database: String,
    },
    /// A fence would keep Irongate out.
    #[error("role \"{role}\" of database \"{database}\" is one of Irongate's own or the administrator's")]
    OwnRole {
        /// The role.
        role: String,
        /// The database.
        database: String,
    },
    /// A database cannot be reached, or does not do what it is asked.
    #[error("cannot {doing} at \"{end}\": {source}")]
    Database {
        /// The database and its site.
        end: String,
        /// What was tried, as a verb.
        doing: String,
        /// What went wrong.
        source: Box<irongate_postgres::Error>,
    },
    /// The schema of Irongate's own tables is not there.
    #[error("database \"{end}\" is not set up")]
    NotSetUp {
        /// The database and its site.
        end: String,
    },
    /// What was saved cannot be read.
    #[error("what the fence of \"{end}\" has saved cannot be read: {reason}")]
    Saved {
        /// The database and its site.
        end: String,
        /// Why.
        reason: String,
    },
    /// A journal cannot be written or read.
    #[error("cannot use journal \"{}\": {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A journal says what no run writes.
    #[error("line {line} of journal \"{}\" cannot be read: {reason}", path.display())]
    BadJournal {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// Why.
        reason: String,
    },
    /// There is no such run.
    #[error("there is no run \"{run}\" at this site")]
    NoRun {
        /// The run.
        run: String,
    },
    /// Roles that the configuration names and the server does not have.
    #[error("database \"{end}\" has no role \"{role}\"")]
    NoRole {
        /// The database and its site.
        end: String,
        /// The role.
        role: String,
    },
    /// Somebody can still write.
    #[error("the fence of \"{end}\" does not hold: {}", leaks.join("; "))]
    Leaks {
        /// The database and its site.
        end: String,
        /// Who can write what, and why.
        leaks: Vec<String>,
    },
    /// Two sites would write one database.
    #[error("database \"{end}\" cannot be opened while \"{other}\" {reason}")]
    OtherIsOpen {
        /// The database and the site that is to be opened.
        end: String,
        /// The database at the other site.
        other: String,
        /// What is known of that.
        reason: String,
    },
    /// Writers from before the fence have not ended.
    #[error("transactions from before the fence of \"{end}\" are open after {} s: {}", waited.as_secs(), writers.join("; "))]
    Writers {
        /// The database and its site.
        end: String,
        /// How long they were waited for.
        waited: Duration,
        /// Who they are.
        writers: Vec<String>,
    },
    /// What was given back is not what there was.
    #[error("not everything could be given back at \"{end}\": {}", lacking.join("; "))]
    NotRestored {
        /// The database and its site.
        end: String,
        /// What is lacking or too much.
        lacking: Vec<String>,
    },
    /// An application that was let in cannot write.
    #[error("role \"{role}\" cannot write table {table} of \"{end}\": {reason}")]
    StillClosed {
        /// The database and its site.
        end: String,
        /// The application's role.
        role: String,
        /// The table.
        table: String,
        /// What the server said.
        reason: String,
    },
}

impl Error {
    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deployment(error) => error.is_transient(),
            Self::Database { source, .. } => source.is_transient(),
            Self::Writers { .. } => true,
            _ => false,
        }
    }

    /// What to type or do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Deployment(error) => return error.hint(),
            Self::Database { source, .. } => return source.hint(),
            Self::NoAdmin { database, .. } => format!("give [databases.{database}.SITE] an admin_uri"),
            Self::NoAccess { database } => {
                format!("write [access.{database}] with roles = [\"…\"], the roles that the applications log in as")
            }
            Self::OwnRole { database, .. } => {
                format!("name only the applications' roles in [access.{database}]; give Irongate roles of its own")
            }
            Self::NotSetUp { .. } => "irongate setup".to_owned(),
            Self::Saved { .. } => {
                "do not open the site by force: restore table irongate.fence from a backup, or grant by hand what the \
                 applications need and delete its row"
                    .to_owned()
            }
            Self::Journal { .. } => "see to the disk and its rights; nothing was done that the journal does not say".to_owned(),
            Self::BadJournal { .. } => "restore the file; a run is never gone on with by guessing".to_owned(),
            Self::NoRun { .. } => "irongate runs lists those of this site; a run is gone on with where it began".to_owned(),
            Self::NoRole { .. } => "create the role, or take it out of [access]".to_owned(),
            Self::Leaks { .. } => {
                "take the attribute or right away and fence again; a superuser, and a function that runs as one, cannot \
                 be fenced"
                    .to_owned()
            }
            Self::OtherIsOpen { .. } => {
                "fence the other site first; with --force this one is opened nevertheless, and if both are written their \
                 rows part ways"
                    .to_owned()
            }
            Self::Writers { .. } => "end them, or wait, and fence again".to_owned(),
            Self::NotRestored { .. } => {
                "the saved rights are still in table irongate.fence; mend what is said and open again".to_owned()
            }
            Self::StillClosed { .. } => {
                "the role could not write before the fence either, or lost a right meanwhile; grant it and open again".to_owned()
            }
        })
    }
}
