//! The status file: what `info` reads about a process without opening what the process has open.
//!
//! Each process publishes `<state>/<group>.status.json`, replaced as a whole (written beside and renamed), so a reader
//! sees one version or the next. A file cannot say that its writer was killed; the group's lock can: it is free exactly
//! when there is no process. [`read`] looks at both.

mod json;
mod publisher;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use irongate_trail::{Lsn, Position, Timestamp};
use serde::{Deserialize, Serialize};

pub use publisher::Publisher;

use crate::error::Error;
use crate::held_file::check_name;
use crate::lock::GroupLock;

/// The layout that this version writes and reads. Fields may be added without a new number; none changes its meaning.
const VERSION: u32 = 1;
/// What is reported of a process that was there and is not, without having said why.
const KILLED: &str = "ended without a word (killed?)";
/// Longest status file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What kind of process a group is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Program {
    /// Database to trail.
    Extract,
    /// Trail to another site or to Kafka.
    Pump,
    /// From the other site to a trail.
    Collector,
    /// Trail to database.
    Replicat,
    /// Trail to change events for others.
    Feed,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extract => "extract",
            Self::Pump => "pump",
            Self::Collector => "collector",
            Self::Replicat => "replicat",
            Self::Feed => "feed",
        })
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It runs and does not move data yet.
    Starting,
    /// It moves data, or waits for some.
    Running,
    /// It ended as asked.
    Stopped,
    /// It ended by an error, or was killed.
    Abended,
}

impl State {
    /// Whether a process should be there.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Abended => "ABENDED",
        })
    }
}

/// Changes of one table since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TableCounters {
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Truncates.
    pub truncates: u64,
    /// Changes left out because the table's copy has them already.
    pub skipped: u64,
}

impl TableCounters {
    /// All changes.
    pub fn total(&self) -> u64 {
        self.inserts.saturating_add(self.updates).saturating_add(self.deletes).saturating_add(self.truncates)
    }
}

/// What a process has done since it started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Source transactions.
    pub transactions: u64,
    /// Rows inserted.
    pub rows_inserted: u64,
    /// Rows updated.
    pub rows_updated: u64,
    /// Rows deleted.
    pub rows_deleted: u64,
    /// Truncates.
    pub truncates: u64,
    /// Logical messages.
    pub messages: u64,
    /// Changes that went to the error queue.
    pub errors: u64,
    /// Changes that were in conflict with what was at the target, however that was resolved.
    pub conflicts: u64,
    /// Changes left out because their table's copy has them already: it was loaded under a later snapshot than others.
    pub skipped: u64,
    /// Source transactions that were applied before their commit had come.
    pub ahead: u64,
    /// How often that was begun and given up.
    pub given_up: u64,
    /// Source transactions that another session applied beside Replicat's own.
    pub beside: u64,
    /// Source transactions that were applied before they were durable in the trail, and committed when they were.
    pub early: u64,
    /// Trail bytes written or read.
    pub bytes: u64,
}

/// Why a process ended, or what it is trying to get over. Holds no row value and no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What happened to what.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Whether trying again can help.
    pub transient: bool,
}

/// What a process tells of itself. Times are microseconds since 1970-01-01 UTC in the file, LSNs are texts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Layout of the file.
    pub version: u32,
    /// The group's name.
    pub group: String,
    /// The flow it belongs to.
    pub flow: String,
    /// What it is.
    pub program: Program,
    /// Its process id.
    pub pid: u32,
    /// Where it is in its life.
    pub state: State,
    /// Since when it is in this state.
    #[serde(with = "json::unix_micros")]
    pub since: Timestamp,
    /// When the file was written.
    #[serde(with = "json::unix_micros")]
    pub written: Timestamp,
    /// One sentence of what it is doing.
    #[serde(default)]
    pub doing: String,
    /// Its place in the trail.
    #[serde(default)]
    pub position: Option<Position>,
    /// Where it begins again at the source.
    #[serde(default, with = "json::lsn")]
    pub resume_lsn: Option<Lsn>,
    /// The commit LSN of its last transaction.
    #[serde(default, with = "json::lsn")]
    pub commit_lsn: Option<Lsn>,
    /// Of an Extract: up to where it has received and decoded the source's log, durable or not.
    #[serde(default, with = "json::lsn")]
    pub decoded_lsn: Option<Lsn>,
    /// Bytes it has still to go.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// Age of what it does now, in seconds.
    #[serde(default)]
    pub lag_seconds: Option<f64>,
    /// When its last transaction was committed at the source, by the source's clock.
    #[serde(default, with = "json::optional_unix_micros")]
    pub last_commit_time: Option<Timestamp>,
    /// What it has done since it started.
    #[serde(default)]
    pub counters: Counters,
    /// The same by table, for the tables with the most changes.
    #[serde(default)]
    pub tables: BTreeMap<String, TableCounters>,
    /// Why it ended, or what it is trying to get over.
    #[serde(default)]
    pub error: Option<Failure>,
}

impl Status {
    /// The status of this process at its start.
    pub fn starting(group: &str, flow: &str, program: Program) -> Self {
        Self {
            version: VERSION,
            group: group.to_owned(),
            flow: flow.to_owned(),
            program,
            pid: std::process::id(),
            state: State::Starting,
            since: Timestamp::now(),
            written: Timestamp::now(),
            doing: String::new(),
            position: None,
            resume_lsn: None,
            commit_lsn: None,
            decoded_lsn: None,
            lag_bytes: None,
            lag_seconds: None,
            last_commit_time: None,
            counters: Counters::default(),
            tables: BTreeMap::new(),
            error: None,
        }
    }
}

/// Reads the status of `group` and checks it against the group's lock: a process that says it lives and holds no lock
/// is reported as [`State::Abended`]. `None` if the group has never published one.
///
/// # Errors
/// [`Error::StatusUnreadable`] for a file that is damaged or of a newer version, [`Error::File`], [`Error::BadName`].
pub fn read(dir: &Path, group: &str) -> Result<Option<Status>, Error> {
    let path = path_of(dir, group)?;
    let mut before: Option<Status> = None;
    loop {
        let Some(mut status) = read_file(&path)? else { return Ok(None) };
        if !status.state.is_live() || GroupLock::is_held(dir, group)? {
            return Ok(Some(status));
        }
        // A process may have ended well, or begun, between the two looks. It writes its last status before it lets go
        // of the lock, so once the file stands still with the lock free, nobody is there.
        if before.as_ref() == Some(&status) {
            status.state = State::Abended;
            status.since = status.written;
            status.doing = KILLED.to_owned();
            let hint = format!(
                "see its log; the site's manager starts it again (\"irongate manager\"), or it is run alone with \
                 \"irongate run {group}\""
            );
            status.error = Some(Failure { message: KILLED.to_owned(), hint: Some(hint), transient: true });
            return Ok(Some(status));
        }
        before = Some(status);
    }
}

fn path_of(dir: &Path, group: &str) -> Result<PathBuf, Error> {
    check_name("group", group)?;
    Ok(dir.join(format!("{group}.status.json")))
}

fn read_file(path: &Path) -> Result<Option<Status>, Error> {
    let unreadable = |reason: String| Error::StatusUnreadable { path: path.to_owned(), reason };
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file("read status file", path, e)),
    };
    if length > MAX_FILE {
        return Err(unreadable("it is too long".to_owned()));
    }
    let bytes = fs::read(path).map_err(|e| Error::file("read status file", path, e))?;
    // What a power cut leaves of a file that was never synced.
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Header {
        version: u32,
    }
    let header: Header = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
    if header.version != VERSION {
        return Err(unreadable(format!("it has version {}, and this is version {VERSION}", header.version)));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| unreadable(e.to_string()))
}
