//! Conflicts: both sites have changed the same key, neither knowing of the other's change.
//!
//! `docs/conflicts.md` tells the rules and argues for each policy why both sites end the same. In short: every key is
//! decided by itself, a change of the key counting as a delete and an insert. Each row has a *version*, which is the
//! commit time and the origin of the transaction that wrote it (`track_commit_timestamp`); Replicat gives what it writes
//! the source's commit time, so that a version is the same at both sites. A key that is gone has its version in a
//! *tombstone*. Under [`Rule::Latest`] the later version wins, whoever looks. Under the others it matters whether a
//! change was made in knowledge of what is here, and for that the change says which version it replaces ([`Base`]).
//!
//! * [`decide`] is the decision, without any I/O;
//! * [`canary`] tells whether the versions that matter are still known;
//! * [`record`] keeps what was decided, [`schema`] has what a database needs for all this.

pub(crate) mod canary;
pub(crate) mod decide;
pub(crate) mod record;
pub(crate) mod schema;

use std::collections::BTreeMap;
use std::time::Duration;

use irongate_trail::Timestamp;

use crate::policy::matches;

pub use canary::accept_conflicts;
pub use record::{Conflict, conflict, conflicts, purge_conflicts};
pub use schema::{conflict_objects, conflict_setup, conflict_teardown, tombstone_triggers, version_triggers};

/// What to do about the conflicts of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflicts {
    /// The site that the flow is applied at.
    pub here: String,
    /// The site that it comes from.
    pub there: String,
    /// For tables that no entry of `tables` fits.
    pub default: TableRule,
    /// By source table as `schema.table`, where `*` stands for any run of characters; the first that fits decides.
    pub tables: Vec<(String, TableRule)>,
    /// How long a deleted key is remembered. Longer than a flow may ever be behind.
    pub tombstone_age: Duration,
}

/// What to do about conflicts in a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRule {
    /// For the row.
    pub rule: Rule,
    /// For columns where both sites have the row.
    pub columns: BTreeMap<String, ColumnRule>,
}

/// Which side wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// None: conflicts are not looked for, and a change that meets other rows than it should stops Replicat, or meets the
    /// policies of [`crate::Policies`].
    Abend,
    /// The later commit; of two at the same time the one of the site whose name sorts first.
    Latest,
    /// The named site.
    Site(String),
    /// What is here.
    Keep,
    /// What comes.
    Overwrite,
    /// What is here, and what comes goes into the error queue.
    Queue,
}

/// What becomes of one column where both sites have changed a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnRule {
    /// The difference that the change makes is added, whoever wins the row. For numeric columns.
    Difference,
    /// What is here stays, whoever wins the row.
    Keep,
    /// What comes is taken, whoever wins the row.
    Overwrite,
}

impl Rule {
    /// The rule as the configuration writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Abend => "abend",
            Self::Latest => "latest",
            Self::Site(_) => "site",
            Self::Keep => "keep",
            Self::Overwrite => "overwrite",
            Self::Queue => "queue",
        }
    }

    /// The rule as it works at a site: the priority of a site is to keep there and to overwrite elsewhere.
    pub fn at(&self, site: &str) -> Self {
        match self {
            Self::Site(first) if first == site => Self::Keep,
            Self::Site(_) => Self::Overwrite,
            other => other.clone(),
        }
    }

    /// Whether what the site deletes itself must be remembered there.
    pub fn needs_tombstones(&self, site: &str) -> bool {
        matches!(self.at(site), Self::Latest | Self::Keep | Self::Queue)
    }

    /// Whether what comes to the site must say which version it replaces.
    pub fn needs_versions(&self, site: &str) -> bool {
        matches!(self.at(site), Self::Keep | Self::Queue)
    }

    /// Whether what is deleted here by Replicat must be remembered, for changes that go back to say that they know it.
    pub(crate) fn buries(&self) -> bool {
        matches!(self, Self::Overwrite | Self::Queue)
    }
}

impl TableRule {
    /// A rule for whole rows.
    pub fn of(rule: Rule) -> Self {
        Self { rule, columns: BTreeMap::new() }
    }
}

impl Conflicts {
    /// The rule of a source table; `None` where conflicts are not looked for.
    pub fn rule_of(&self, schema: &str, table: &str) -> Option<&TableRule> {
        let name = format!("{schema}.{table}");
        let own = self.tables.iter().find(|(pattern, _)| matches(pattern, &name)).map(|(_, rule)| rule);
        Some(own.unwrap_or(&self.default)).filter(|rule| rule.rule != Rule::Abend)
    }

    /// Whether what comes must say of some table which version it replaces.
    pub fn need_versions(&self) -> bool {
        let rules = self.tables.iter().map(|(_, rule)| rule).chain([&self.default]);
        rules.into_iter().any(|rule| rule.rule.needs_versions(&self.here))
    }

    /// Whether no table has a rule.
    pub fn is_idle(&self) -> bool {
        self.default.rule == Rule::Abend && self.tables.iter().all(|(_, rule)| rule.rule == Rule::Abend)
    }
}

/// What kind of conflict it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// An insert, and the key is there.
    InsertExists,
    /// An insert, and the key was deleted here by somebody who did not know of it.
    InsertDeleted,
    /// An update, and the key is not there.
    UpdateMissing,
    /// An update of a row whose values are others than those that it replaces.
    UpdateDiffers,
    /// An update of a row that was last written here, in ignorance of that.
    UpdateOrigin,
    /// A delete, and the key is not there.
    DeleteMissing,
    /// A delete of a row whose values are others than those that it deletes.
    DeleteDiffers,
    /// A delete of a row that was last written here, in ignorance of that.
    DeleteOrigin,
}

impl Kind {
    /// The kind as the table of conflicts has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsertExists => "insert exists",
            Self::InsertDeleted => "insert deleted",
            Self::UpdateMissing => "update missing",
            Self::UpdateDiffers => "update differs",
            Self::UpdateOrigin => "update of another origin",
            Self::DeleteMissing => "delete missing",
            Self::DeleteDiffers => "delete differs",
            Self::DeleteOrigin => "delete of another origin",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which version a change replaces at its source, as a trigger there says right before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// One of the source's own.
    Own,
    /// One that came from here, with its commit time.
    Seen(Timestamp),
}

/// The same of a change: of its row, and of the key that the row moves to, which is a key of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bases {
    /// The version of the row.
    pub row: Option<Base>,
    /// The version of what was deleted under the new key.
    pub new_key: Option<Base>,
}

/// Prefix of the logical messages in which a [`Base`] travels.
pub(crate) const VERSION_PREFIX: &str = "irongate.version";

impl Base {
    /// Reads a message: `own`, or the commit time in microseconds since 2000-01-01; then a blank and the table's name.
    /// What is about the new key of a change comes before that and begins with `new `. `None` for what is neither: the
    /// change then counts as one that says nothing.
    pub(crate) fn parse(content: &[u8]) -> Option<(Self, bool, &str)> {
        let text = std::str::from_utf8(content).ok()?;
        let (of_new_key, text) = text.strip_prefix("new ").map_or((false, text), |text| (true, text));
        let (what, table) = text.split_once(' ')?;
        let base = match what {
            "own" => Self::Own,
            micros => Self::Seen(Timestamp(micros.parse().ok()?)),
        };
        Some((base, of_new_key, table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_that_fits_decides_and_abend_is_no_rule() {
        let conflicts = Conflicts {
            here: "b".into(),
            there: "a".into(),
            default: TableRule::of(Rule::Latest),
            tables: vec![
                ("public.log_*".into(), TableRule::of(Rule::Abend)),
                ("public.log_x".into(), TableRule::of(Rule::Keep)),
            ],
            tombstone_age: Duration::from_secs(1),
        };
        assert_eq!(conflicts.rule_of("public", "log_x"), None);
        assert_eq!(conflicts.rule_of("public", "t").map(|rule| &rule.rule), Some(&Rule::Latest));
        assert!(!conflicts.is_idle());
    }

    #[test]
    fn the_priority_of_a_site_is_to_keep_there_and_to_overwrite_elsewhere() {
        let rule = Rule::Site("a".into());
        assert_eq!((rule.at("a"), rule.at("b")), (Rule::Keep, Rule::Overwrite));
        assert!(rule.needs_versions("a") && !rule.needs_versions("b"));
    }

    #[test]
    fn a_version_is_read_and_nonsense_says_nothing() {
        assert_eq!(Base::parse(b"own public.t"), Some((Base::Own, false, "public.t")));
        assert_eq!(Base::parse(b"-7 a b.t"), Some((Base::Seen(Timestamp(-7)), false, "a b.t")));
        assert_eq!(Base::parse(b"new own new x.t"), Some((Base::Own, true, "new x.t")));
        for nonsense in [&b""[..], b"own", b"new own", b"x public.t", b"\xff y"] {
            assert_eq!(Base::parse(nonsense), None);
        }
    }
}
