//! What can go wrong between a configuration and the servers that it describes.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::blocker::Blocker;
use crate::configuration::Problem;

/// Everything that this crate's functions can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read configuration \"{}\": {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The configuration says what cannot be.
    #[error("{}", joined(.0))]
    Configuration(Vec<Problem>),
    /// There is no flow or group of this name.
    #[error("there is no {what} \"{name}\"")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// An operation that changes which site writes, of a database that both write.
    #[error(
        "database \"{database}\" is written at both sites, so that no site can be closed or opened for it"
    )]
    TwoWay {
        /// The database.
        database: String,
    },
    /// A flow begins only where its database is written.
    #[error("\"{end}\" is not written: site \"{live}\" writes it")]
    NotLive {
        /// The database and its site.
        end: String,
        /// The site that writes it.
        live: String,
    },
    /// Rows would be put over those of the site that writes.
    #[error("flow \"{flow}\" is not loaded: \"{end}\" is the site that writes this database")]
    TargetWrites {
        /// The flow.
        flow: String,
        /// The database and its site.
        end: String,
    },
    /// The file has a directory for each site, and nobody says which this is.
    #[error("\"{}\" has a directory for each site, and it is not said which site this is", file.display())]
    NoSite {
        /// The configuration file.
        file: PathBuf,
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
    /// The flow's trail lies on the machine of another site.
    #[error("flow \"{flow}\" runs at site \"{at}\", and this is site \"{site}\"")]
    Elsewhere {
        /// The flow.
        flow: String,
        /// The site that runs it.
        at: String,
        /// The site of this process.
        site: String,
    },
    /// The two ends of a flow are one database, where each row would be written a second time.
    #[error(
        "\"{target}\" is the same database as \"{from}\": flow \"{flow}\" would lead into its own source"
    )]
    OwnSource {
        /// The flow.
        flow: String,
        /// The database and its site that rows come from.
        from: String,
        /// The database and its site that they go to.
        target: String,
    },
    /// Something is lacking that only an administrator can give.
    #[error("database \"{end}\" has no address for its administrator")]
    NoAdmin {
        /// The database and its site.
        end: String,
        /// The database's name in the configuration.
        database: String,
    },
    /// A password that is to be set cannot be read.
    #[error("cannot read the password in {place}: {reason}")]
    Password {
        /// The file or variable.
        place: String,
        /// Why.
        reason: String,
    },
    /// No table of the source fits the flow's patterns.
    #[error("no table of \"{end}\" belongs to flow \"{flow}\"")]
    NothingSelected {
        /// The flow.
        flow: String,
        /// The database and its site.
        end: String,
    },
    /// The publication does not exist or has no tables.
    #[error("publication \"{publication}\" at \"{end}\" does not exist or publishes nothing")]
    NothingPublished {
        /// The publication.
        publication: String,
        /// The database and its site.
        end: String,
    },
    /// There is a slot of the name, which must not be dropped.
    #[error("slot \"{slot}\" at \"{end}\" cannot be dropped: {reason}")]
    Slot {
        /// The slot.
        slot: String,
        /// The database and its site.
        end: String,
        /// Why.
        reason: String,
    },
    /// The creation of a slot waited too long for transactions to end.
    #[error(
        "slot \"{slot}\" at \"{end}\" could not be created within {} s: it waits for {}",
        limit.as_secs(), waited_for(blockers)
    )]
    Blocked {
        /// The slot.
        slot: String,
        /// The database and its site.
        end: String,
        /// The limit that passed.
        limit: Duration,
        /// Who holds it up.
        blockers: Vec<Blocker>,
    },
    /// Tables at the target have rows, which an initial load would double.
    #[error("tables at \"{end}\" have rows already: {}", tables.join(", "))]
    NotEmpty {
        /// The database and its site.
        end: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// The target lacks tables or columns.
    #[error("\"{end}\" cannot take the flow's tables: {}", lacking.join("; "))]
    TargetTables {
        /// The database and its site.
        end: String,
        /// What is lacking.
        lacking: Vec<String>,
    },
    /// Slot and trail of a flow would be made anew that works.
    #[error("flow \"{flow}\" works already: {reason}")]
    Works {
        /// The flow.
        flow: String,
        /// What tells so.
        reason: String,
    },
    /// Single tables of a flow cannot be copied anew.
    #[error("tables of flow \"{flow}\" cannot be copied anew: {reason}")]
    Tables {
        /// The flow.
        flow: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The structure of the source cannot be copied.
    #[error("the structure cannot be copied, because of \"{end}\": {}", reasons.join("; "))]
    Schema {
        /// The database that is to blame, and its site.
        end: String,
        /// Why, each naming an object where one is to blame.
        reasons: Vec<String>,
        /// What to do.
        remedy: String,
    },
    /// The copy of a table failed.
    #[error("copying table {table} failed at \"{end}\": {source}")]
    Copy {
        /// The table at the source.
        table: String,
        /// The database that failed, and its site.
        end: String,
        /// What went wrong.
        source: Box<irongate_postgres::Error>,
    },
    /// A large object could not be brought over.
    #[error("copying large object {oid} failed at \"{end}\": {source}")]
    LargeObject {
        /// Its OID; the first of those that came with one statement.
        oid: u32,
        /// The database that failed, and its site.
        end: String,
        /// What went wrong.
        source: Box<irongate_postgres::Error>,
    },
    /// What only one of two sites has would be lost, and both of them write.
    #[error(
        "large objects that only the target has are not removed: both sites write database \"{database}\""
    )]
    LargeObjectsOfBoth {
        /// The database.
        database: String,
    },
    /// The process that keeps a load's snapshot could not be started.
    #[error("the snapshot of the load of flow \"{flow}\" cannot be kept: {reason}")]
    Keeper {
        /// The flow.
        flow: String,
        /// Why.
        reason: String,
    },
    /// Somebody waits for a table behind one session of a load, and another one behind him.
    #[error("at \"{end}\" somebody waits to lock a table for himself while a load begins")]
    Overtaken {
        /// The database and its site.
        end: String,
    },
    /// The keeper of a load's snapshot has ended while it was needed.
    #[error("the snapshot of the load at \"{end}\" is lost")]
    SnapshotLost {
        /// The database and its site.
        end: String,
    },
    /// A file of an export, or the export, is not what it must be.
    #[error("\"{}\": {reason}", path.display())]
    Transfer {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A directory or file of ours cannot be made or removed.
    #[error("cannot use \"{}\": {source}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The checkpoint table, an origin, or the lock of a group.
    #[error(transparent)]
    Checkpoint(#[from] irongate_checkpoint::Error),
    /// The trail.
    #[error(transparent)]
    Trail(#[from] irongate_trail::Error),
    /// Kafka, asked for a topic.
    #[error(transparent)]
    Pump(#[from] irongate_pump::Error),
    /// A checkpoint cannot be moved there.
    #[error("the checkpoint of group \"{group}\" cannot be moved: {reason}")]
    Position {
        /// The group.
        group: String,
        /// Why.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
    /// A thread of our own ended without an answer.
    #[error("a task of this program failed: {0}")]
    Internal(String),
}

impl Error {
    /// Whether trying again later, with nothing else changed, can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database { source, .. } | Self::Copy { source, .. } | Self::LargeObject { source, .. } => {
                source.is_transient()
            }
            Self::Checkpoint(error) => error.is_transient(),
            Self::Trail(error) => error.is_transient(),
            Self::Pump(error) => error.is_transient(),
            Self::Blocked { .. } | Self::SnapshotLost { .. } | Self::Overtaken { .. } => true,
            Self::Unreadable { .. }
            | Self::Configuration(_)
            | Self::Unknown { .. }
            | Self::NoSite { .. }
            | Self::TwoWay { .. }
            | Self::LargeObjectsOfBoth { .. }
            | Self::NotLive { .. }
            | Self::TargetWrites { .. }
            | Self::Elsewhere { .. }
            | Self::OwnSource { .. }
            | Self::NoAdmin { .. }
            | Self::Password { .. }
            | Self::NothingSelected { .. }
            | Self::NothingPublished { .. }
            | Self::Slot { .. }
            | Self::NotEmpty { .. }
            | Self::TargetTables { .. }
            | Self::Schema { .. }
            | Self::Works { .. }
            | Self::Tables { .. }
            | Self::Keeper { .. }
            | Self::Directory { .. }
            | Self::Transfer { .. }
            | Self::Position { .. }
            | Self::Internal(_) => false,
        }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("irongate init writes an example; --config names another file".into())
            }
            Self::Unreadable { .. } => None,
            Self::Configuration(problems) => {
                let remedies: Vec<_> =
                    problems.iter().filter_map(|problem| problem.remedy.as_deref()).collect();
                (!remedies.is_empty()).then(|| remedies.join("\n"))
            }
            Self::Unknown { known, .. } => {
                (!known.is_empty()).then(|| format!("there are: {}", known.join(", ")))
            }
            Self::TwoWay { .. } => {
                Some("name a database that one site writes at a time, or none for all of them".into())
            }
            Self::TargetWrites { .. } => Some(
                "load the flow of the other direction; a site that was lost is made a copy by irongate reinstate SITE, at \
                 the site that writes"
                    .into(),
            ),
            Self::NotLive { live, .. } => Some(format!("take the flow that comes from \"{live}\"")),
            Self::NoSite { .. } => {
                Some("say it with --site, or as site = \"...\" at the top of the file".into())
            }
            Self::Database { source, .. } => source.hint(),
            Self::Copy { source, .. } => {
                source.hint().or_else(|| {
                    Some("mend the table at the target, then instantiate again: it goes on where it was".into())
                })
            }
            Self::LargeObject { source, .. } => source.hint().or_else(|| {
                Some("mend it, then copy again: what is the same by then is left alone".into())
            }),
            Self::LargeObjectsOfBoth { .. } => {
                Some("leave --delete away; SELECT lo_unlink(OID) removes what nobody needs".into())
            }
            Self::Elsewhere { at, .. } => Some(format!(
                "run the command on the machine of site \"{at}\", or correct \"at\" of the flow or \"site\""
            )),
            Self::OwnSource { from, target, .. } => {
                Some(format!("correct uri of [databases.{from}] or of [databases.{target}]"))
            }
            Self::NoAdmin { end, .. } => Some(format!(
                "add admin_uri to [databases.{end}], or have the statements of irongate setup --print-sql run"
            )),
            Self::Password { .. } => None,
            Self::NothingSelected { flow, .. } => Some(format!("correct \"tables\" of [flows.{flow}]")),
            Self::NothingPublished { .. } => Some("irongate setup makes the publication".into()),
            Self::Slot { .. } => Some("stop who uses it, or give the flow another slot".into()),
            Self::Blocked { blockers, .. } => {
                let remedies: Vec<_> = blockers.iter().filter_map(Blocker::remedy).collect();
                let wait = "wait for the transactions to end and try again".to_owned();
                Some(if remedies.is_empty() {
                    wait
                } else {
                    format!("{wait}, or end them: {}", remedies.join("; "))
                })
            }
            Self::NotEmpty { .. } => {
                Some("--truncate empties them before the load; or empty them yourself, with TRUNCATE ONLY where others inherit from them".into())
            }
            Self::SnapshotLost { .. } => {
                Some("instantiate again: what is finished stays, the rest begins under another one".into())
            }
            Self::Keeper { .. } => Some("its log stands in the state directory, FLOW-keeper.log".into()),
            Self::Overtaken { .. } => {
                Some("let applications truncate and alter tables of the flow when the load is over, and run it again".into())
            }
            Self::TargetTables { .. } => Some(
                "bring the target's schema to the source's (irongate instantiate --with-schema makes what is not there), or leave the \
                 tables out"
                    .into(),
            ),
            Self::Works { .. } => Some(
                "an export makes its slot and its trail anew, and its target has to be loaded with it: --restart says that this is \
                 meant"
                    .into(),
            ),
            Self::Transfer { reason, .. } if reason == NOT_EMPTY => {
                Some("name a directory that is not there yet, or empty this one".into())
            }
            Self::Transfer { .. } => Some(
                "carry it again, all of it, or export again into a new directory".into(),
            ),
            Self::Directory { .. } => {
                Some("the directory must be writable by the user of this process".into())
            }
            Self::Checkpoint(error) => error.hint(),
            Self::Trail(error) => error.hint(),
            Self::Pump(error) => error.hint(),
            Self::Position { remedy, .. } | Self::Schema { remedy, .. } | Self::Tables { remedy, .. } => Some(remedy.clone()),
            Self::Internal(_) => None,
        }
    }
}

/// What is wrong with a directory that an export is to be written into.
pub(crate) const NOT_EMPTY: &str = "it is not empty";

fn waited_for(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "transactions that cannot be seen from here".to_owned();
    }
    blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn joined<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
