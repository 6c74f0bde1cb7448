//! What a machine is asked to do, and what it did.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_checkpoint::Origin;
use irongate_trail::Timestamp;

/// The schema of Irongate's own tables.
pub const OWN_SCHEMA: &str = "irongate";

/// Which transactions are not captured because somebody else's replication wrote them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SkipOrigins {
    /// All that have an origin.
    Any,
    /// Those under one of these origins; with a flow's, also those of its parallel sessions.
    Named(BTreeSet<String>),
}

impl SkipOrigins {
    /// Whether all that is left out is written by Irongate, where the source has `foreign` origins or has none.
    pub(crate) fn are_irongates(&self, foreign: bool) -> bool {
        match self {
            Self::Any => !foreign,
            Self::Named(names) => names.iter().all(|name| Origin::flow_of(name).is_some()),
        }
    }

    pub(super) fn contains(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => {
                let of_flow = || Origin::name_for(Origin::flow_of(origin)?).ok();
                names.contains(origin) || of_flow().is_some_and(|flows| names.contains(&flows))
            }
        }
    }
}

/// What is captured, and how often an idle place is noted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Transactions that are left out by their origin.
    pub skip_origins: SkipOrigins,
    /// Capture the rows of [`OWN_SCHEMA`] as well.
    pub own_schema: bool,
    /// Shortest time between two progress records that nobody waits for.
    pub progress_interval: Duration,
    /// The server was asked for binary values: every column must be of a type of [`crate::binary::is_safe`].
    pub binary: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            skip_origins: SkipOrigins::Any,
            own_schema: false,
            progress_interval: Duration::from_secs(10),
            binary: false,
        }
    }
}

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Transactions given to the sink.
    pub transactions: u64,
    /// Their changes.
    pub changes: u64,
    /// Transactions left out: by origin, or without a change left.
    pub skipped: u64,
    /// Transactions that had been given to the sink before.
    pub duplicates: u64,
    /// Logical messages given to the sink, in transactions and between them.
    pub messages: u64,
    /// Streamed transactions that were aborted.
    pub aborted: u64,
    /// The source's time of the last commit given to the sink.
    pub commit_time: Timestamp,
}

impl Counts {
    /// These and the `later` ones, of another connection.
    #[must_use]
    pub fn plus(self, later: Self) -> Self {
        Self {
            transactions: self.transactions + later.transactions,
            changes: self.changes + later.changes,
            skipped: self.skipped + later.skipped,
            duplicates: self.duplicates + later.duplicates,
            messages: self.messages + later.messages,
            aborted: self.aborted + later.aborted,
            commit_time: self.commit_time.max(later.commit_time),
        }
    }
}

/// Changes of one table. Those of a sub-transaction that was aborted after it was streamed are counted with the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableCounts {
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Truncates.
    pub truncates: u64,
}

impl TableCounts {
    #[inline]
    pub(super) fn add(&mut self, operation: u8) {
        match operation {
            b'I' => self.inserts += 1,
            b'U' => self.updates += 1,
            b'D' => self.deletes += 1,
            _ => self.truncates += 1,
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origins_of_a_flows_sessions_are_the_flows() {
        let named = SkipOrigins::Named(BTreeSet::from(["irongate_csp".to_owned(), "pg_1".to_owned()]));
        for (origin, skipped) in [
            ("irongate_csp", true),
            ("irongate_csp/3", true),
            ("pg_1", true),
            ("irongate_css/3", false),
            ("irongate_csp/x", false),
            ("pg_1/2", false),
        ] {
            assert_eq!(named.contains(origin), skipped, "{origin}");
        }
    }
}
