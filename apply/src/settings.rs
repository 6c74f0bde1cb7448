//! What Replicat needs to know.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use irongate_postgres::Endpoint;

use crate::conflict::Conflicts;
use crate::ddl::DdlSettings;
use crate::policy::Policies;

/// Settings of one Replicat.
#[derive(Clone, Debug)]
pub struct ReplicatSettings {
    /// The flow. Names the checkpoint row and the origin.
    pub flow: String,
    /// The group, as `info` shows it.
    pub group: String,
    /// The target database.
    pub target: Endpoint,
    /// The source database, if it can be reached from here: asked only where the target may be the same one.
    pub source: Option<Endpoint>,
    /// The directory of the trail.
    pub trail: PathBuf,
    /// A collector writes the trail and makes it when the pump of the other site first comes: until then it is waited for.
    pub trail_may_come: bool,
    /// Where the status file and the lock lie.
    pub state_directory: PathBuf,
    /// What source tables are called at the target.
    pub names: Names,
    /// Columns that identify a row, by source table (`schema.table`), where they are not the replica identity's.
    pub key_columns: HashMap<String, Vec<String>>,
    /// How source transactions are grouped.
    pub grouping: Grouping,
    /// Whether a commit at the target waits for the target's disk. Off by default, as in native logical replication:
    /// data and checkpoint vanish together if the target crashes, and the trail is kept until they are safe.
    pub synchronous_commit: bool,
    /// What to do about errors that a retry cannot help.
    pub policies: Policies,
    /// What to do where both sites have changed the same key; `None` where only one site writes. With it a target
    /// transaction holds one source transaction, whose commit time it carries.
    pub conflicts: Option<Conflicts>,
    /// How changes of structure are applied that the source tells of; `None` passes over them.
    pub ddl: Option<DdlSettings>,
    /// How many steps a sequence is set ahead of where the source's was read.
    pub sequence_margin: u64,
    /// Which transactions are applied before their commit has come.
    pub ahead: AheadSettings,
    /// How many sessions apply groups of transactions side by side where more than one has come together: see
    /// `crate::beside`. 1 for none but Replicat's own.
    pub sessions: usize,
    /// How often and how long to try again after errors that a retry can help.
    pub retry: Retry,
}

/// Which transactions are applied ahead of their commit, as the source streams them: see `crate::ahead`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AheadSettings {
    /// Those of which so many bytes have come into the trail; `None` for none at all.
    pub from: Option<u64>,
    /// After so long without more of one it is given up, which ends the open transaction at the target.
    pub idle: Duration,
}

impl Default for AheadSettings {
    fn default() -> Self {
        Self { from: Some(8 << 20), idle: Duration::from_secs(60) }
    }
}

/// Sessions side by side unless it is said otherwise.
pub const SESSIONS: usize = 2;

/// How many steps a sequence is ahead unless it is said otherwise: more than a source gives between two looks.
pub const SEQUENCE_MARGIN: u64 = 1000;

impl ReplicatSettings {
    /// How source transactions are grouped: not at all where each row is to have its own commit's time.
    pub fn grouping_in_force(&self) -> Grouping {
        let transactions = if self.conflicts.is_some() { 1 } else { self.grouping.transactions };
        Grouping { transactions, ..self.grouping }
    }
}

/// How many changes go into one target transaction. Source transactions are never split: a larger one is applied in
/// pieces and committed whole.
///
/// These are limits and not aims: a group ends where nothing more is durable in the trail. So it holds one transaction
/// while Replicat keeps up, and grows with what has come together meanwhile where it does not. Large groups make large
/// sets, in which the server changes a row for half of what it costs in a small one.
#[derive(Clone, Copy, Debug)]
pub struct Grouping {
    /// A group is closed at the first transaction boundary behind so many changes.
    pub changes: usize,
    /// A group is closed at the first transaction boundary behind so many bytes; also the most that one piece of a large
    /// transaction takes in memory, but for its last row.
    pub bytes: usize,
    /// Source transactions in one group at the most.
    pub transactions: u64,
}

impl Default for Grouping {
    fn default() -> Self {
        Self { changes: 16_000, bytes: 4 << 20, transactions: 16_000 }
    }
}

/// Back-off.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in a row before Replicat gives up; `None` for no end.
    pub attempts: Option<u32>,
    /// Pause before the first; doubled each time.
    pub delay: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: None, delay: Duration::from_millis(200), longest: Duration::from_secs(30) }
    }
}

impl Retry {
    /// The pause before the given attempt, counted from 0.
    pub fn pause(&self, attempt: u32) -> Duration {
        self.delay.saturating_mul(1 << attempt.min(16)).min(self.longest)
    }
}

/// Renames of schemas and tables. A table's own entry goes before its schema's.
#[derive(Clone, Default, Debug)]
pub struct Names {
    /// Source schema to target schema.
    pub schemas: HashMap<String, String>,
    /// Source schema and table to target schema and table.
    pub tables: HashMap<(String, String), (String, String)>,
}

impl Names {
    /// Schema and name at the target of a source table.
    pub fn target_of(&self, schema: &str, table: &str) -> (String, String) {
        if !self.tables.is_empty()
            && let Some(target) = self.tables.get(&(schema.to_owned(), table.to_owned()))
        {
            return target.clone();
        }
        let schema = self.schemas.get(schema).map_or(schema, String::as_str);
        (schema.to_owned(), table.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_own_rename_goes_before_its_schemas() {
        let pair = |schema: &str, table: &str| (schema.to_owned(), table.to_owned());
        let names = Names {
            schemas: HashMap::from([("a".to_owned(), "b".to_owned())]),
            tables: HashMap::from([(pair("a", "t"), pair("c", "u"))]),
        };
        assert_eq!(names.target_of("a", "t"), pair("c", "u"));
        assert_eq!(names.target_of("a", "x"), pair("b", "x"));
        assert_eq!(names.target_of("z", "t"), pair("z", "t"));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry::default();
        assert_eq!(retry.pause(0), Duration::from_millis(200));
        assert_eq!(retry.pause(1), Duration::from_millis(400));
        assert_eq!(retry.pause(60), Duration::from_secs(30));
    }
}
