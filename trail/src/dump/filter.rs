//! What a dump shows.

use std::ops::RangeInclusive;

use crate::change::Row;
use crate::lsn::{CommitLsn, Timestamp};
use crate::relation::Relation;
use crate::source::Item;
use crate::transaction::Begin;
use crate::tuple::{Tuple, Value};

/// What happened to a row or a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row that is gone.
    Delete,
    /// An emptied table.
    Truncate,
    /// A logical message.
    Message,
}

/// A value that a row must have, before or after the change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// In the column of this name; without one, in any column of the replica identity.
    pub column: Option<String>,
    /// As text.
    pub value: String,
}

/// What is shown. An empty filter shows everything, with file headers, relations and progress records; any condition
/// leaves of these nothing, and of transactions those in which something fulfils all of them.
#[derive(Clone, Default, Debug)]
pub struct DumpFilter {
    /// The first main file.
    pub first_file: Option<u64>,
    /// The last main file.
    pub last_file: Option<u64>,
    /// Tables as `schema.name`, where `*` stands for any characters; a row of any of them.
    pub tables: Vec<String>,
    /// Kinds of change; any of them.
    pub operations: Vec<Operation>,
    /// Values that a row must have; all of them.
    pub keys: Vec<KeyValue>,
    /// The transaction id at the source.
    pub xid: Option<u32>,
    /// Transactions with such commit LSNs.
    pub commits: Option<RangeInclusive<CommitLsn>>,
    /// Transactions committed at such times, by the source's clock.
    pub times: Option<RangeInclusive<Timestamp>>,
}

impl DumpFilter {
    pub(super) fn takes_file(&self, seqno: u64) -> bool {
        self.last_file.is_none_or(|last| seqno <= last)
    }

    /// Whether there is a condition on single changes.
    pub(super) fn is_by_change(&self) -> bool {
        !(self.tables.is_empty() && self.operations.is_empty() && self.keys.is_empty())
    }

    /// Whether there is a condition on transactions.
    pub(super) fn is_by_transaction(&self) -> bool {
        self.xid.is_some() || self.commits.is_some() || self.times.is_some()
    }

    pub(super) fn takes_everything(&self) -> bool {
        !self.is_by_change() && !self.is_by_transaction()
    }

    pub(super) fn takes_transaction(&self, begin: &Begin) -> bool {
        self.xid.is_none_or(|xid| begin.xid == xid)
            && self.commits.as_ref().is_none_or(|range| range.contains(&begin.commit_lsn))
            && self.times.as_ref().is_none_or(|range| range.contains(&begin.commit_time))
    }

    pub(super) fn takes_change(&self, item: &Item<'_>) -> bool {
        let (operation, takes_table, takes_keys) = match item {
            Item::Row { relation, row } => {
                let operation = match row {
                    Row::Insert { .. } => Operation::Insert,
                    Row::Update { .. } => Operation::Update,
                    Row::Delete { .. } => Operation::Delete,
                };
                (operation, self.takes_table(relation), self.takes_keys(relation, row))
            }
            Item::Truncate { relations, .. } => {
                let takes = relations.iter().any(|relation| self.takes_table(relation));
                (Operation::Truncate, takes, self.keys.is_empty())
            }
            _ => (Operation::Message, self.tables.is_empty(), self.keys.is_empty()),
        };
        takes_table && takes_keys && (self.operations.is_empty() || self.operations.contains(&operation))
    }

    fn takes_table(&self, relation: &Relation) -> bool {
        let matches = |pattern: &String| {
            let (schema, name) = pattern.split_once('.').unwrap_or(("*", pattern));
            matches_pattern(schema, &relation.schema) && matches_pattern(name, &relation.name)
        };
        self.tables.is_empty() || self.tables.iter().any(matches)
    }

    fn takes_keys(&self, relation: &Relation, row: &Row<'_>) -> bool {
        let has = |key: &KeyValue| {
            let old = row.old().map(crate::Old::tuple);
            [old, row.new()].into_iter().flatten().any(|tuple| has_value(relation, tuple, key))
        };
        self.keys.iter().all(has)
    }
}

fn has_value(relation: &Relation, tuple: Tuple<'_>, key: &KeyValue) -> bool {
    relation.columns.iter().zip(tuple.values()).any(|(column, value)| {
        key.column.as_ref().map_or(column.key, |name| *name == column.name)
            && matches!(value, Value::Text(text) if text == key.value.as_bytes())
    })
}

/// Whether `text` is `pattern`, in which `*` stands for any characters.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let Some((middle, end)) = rest.rsplit_once('*') else { return text.ends_with(rest) };
    for part in middle.split('*') {
        let Some(found) = text.find(part) else { return false };
        text = &text[found + part.len()..];
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::matches_pattern;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in
            [("*", ""), ("*", "x"), ("a*", "abc"), ("*c", "abc"), ("a*c", "abc"), ("a*c", "ac")]
        {
            assert!(matches_pattern(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*b*c", "axbxc"), ("*b*", "abc"), ("**", "abc"), ("a**c", "abc")] {
            assert!(matches_pattern(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "x"), ("a", "ab"), ("a*", "ba"), ("*a", "ab"), ("aa*aa", "aaa"), ("*b*b", "ab")]
        {
            assert!(!matches_pattern(pattern, text), "{pattern} {text}");
        }
    }
}
