//! Keys: one to find rows by, none that the source does not have, none that is lacking, and none that is not enforced.

use std::collections::BTreeSet;

use irongate_postgres::catalog::{Index, IndexKind};
use irongate_postgres::sql::quote_identifier;

use super::{Both, Pair};
use crate::check::identity::{comes_along, identity_index};
use crate::check::{Findings, Side, sql};
use crate::configuration::Flow;

pub(super) fn compare(both: &Both<'_>, findings: &mut Findings) {
    for pair in &both.pairs {
        examine(both.target, both.flow, pair, findings);
    }
}

fn columns(index: &Index) -> Option<BTreeSet<&str>> {
    Some(index.column_names()?.into_iter().collect())
}

fn list(columns: &[&str]) -> String {
    columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
}

fn examine(target: &Side<'_>, flow: &Flow, pair: &Pair<'_>, findings: &mut Findings) {
    let Pair { source_name, name, from, to } = pair;
    let object = format!("table {name}");
    for index in to.indexes.iter().filter(|index| index.deferrable) {
        let quoted = quote_identifier(&index.name);
        let what = match (index.kind, index.column_names()) {
            (IndexKind::PrimaryKey, Some(columns)) => Some(format!("PRIMARY KEY ({})", list(&columns))),
            (IndexKind::Unique, Some(columns)) => Some(format!("UNIQUE ({})", list(&columns))),
            _ => None,
        };
        let fix = match what {
            Some(what) => sql([format!(
                "ALTER TABLE {0} DROP CONSTRAINT {quoted}, ADD CONSTRAINT {quoted} {what} NOT DEFERRABLE",
                name.quoted()
            )]),
            None => format!(
                "ALTER TABLE {} DROP CONSTRAINT {quoted}, and add it again as NOT DEFERRABLE",
                name.quoted()
            )
            .into(),
        };
        findings.warning(
            &target.end,
            format!("constraint \"{}\" of {object}", index.name),
            "it is deferrable, and so is not enforced for Replicat: a duplicate would be stored",
            fix,
        );
    }
    for index in to.indexes.iter().filter(|index| !index.valid) {
        findings.warning(
            &target.end,
            format!("index \"{}\" of {object}", index.name),
            "it is invalid, as one that was made concurrently and failed: it cannot be relied on",
            sql([format!(
                "REINDEX INDEX {}.{}",
                quote_identifier(&name.schema),
                quote_identifier(&index.name)
            )]),
        );
    }
    let unique_at_source: Vec<_> =
        from.indexes.iter().filter(|index| !index.partial).filter_map(columns).collect();
    for index in &to.indexes {
        let narrower = columns(index)
            .is_none_or(|columns| !unique_at_source.iter().any(|known| known.is_subset(&columns)));
        let same = from.indexes.iter().any(|other| is_alike(index, other));
        if narrower && !same && !index.deferrable {
            let what =
                if index.kind == IndexKind::Exclusion { "exclusion constraint" } else { "unique index" };
            findings.warning(
                &target.end,
                format!("{what} \"{}\" of {object}", index.name),
                "the source has none like it: rows that are sound there can be refused here",
                format!("drop it here, or create it at the source too: {}", source_name.quoted()),
            );
        }
    }
    let without_a_way = to_find_rows_by(target, flow, pair, findings);
    for index in from.indexes.iter().filter(|index| !index.deferrable && index.valid && !index.partial) {
        let Some(key) = columns(index) else { continue };
        let is_enforced = to.indexes.iter().any(|other| {
            !other.partial && columns(other).is_some_and(|columns| columns.is_subset(&key))
                || is_alike(index, other)
        });
        if is_enforced || without_a_way.as_ref() == Some(&key) || index.kind == IndexKind::Exclusion {
            continue;
        }
        findings.warning(
            &target.end,
            format!("key \"{}\" of {object}", index.name),
            "the source has it, and nothing keeps duplicates out here: not from applications once they write here",
            sql([lacking(pair, &index.column_names().unwrap_or_default())]),
        );
    }
}

/// What makes a key that the source has: as its primary key, if it is.
fn lacking(pair: &Pair<'_>, key: &[&str]) -> String {
    let (table, columns) = (pair.name.quoted(), list(key));
    let is_primary = pair.from.primary_key().and_then(Index::column_names).is_some_and(|names| names == key);
    if is_primary && pair.to.primary_key().is_none() {
        format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns})")
    } else {
        format!("CREATE UNIQUE INDEX ON {table} ({columns})")
    }
}

fn is_alike(one: &Index, other: &Index) -> bool {
    (one.kind == IndexKind::Exclusion) == (other.kind == IndexKind::Exclusion)
        && one.columns == other.columns
        && one.partial == other.partial
}

/// Without an index that begins with a column of the key, each change is a scan. The key, if that is so.
fn to_find_rows_by<'a>(
    target: &Side<'_>,
    flow: &'a Flow,
    pair: &'a Pair<'_>,
    findings: &mut Findings,
) -> Option<BTreeSet<&'a str>> {
    let key: Vec<&str> = match flow.key_columns.get(&pair.source_name) {
        Some(columns) => columns.iter().map(String::as_str).collect(),
        None => identity_index(pair.from).and_then(Index::column_names)?,
    };
    let leads = |index: &Index| {
        let first = index.column_names().and_then(|columns| columns.first().copied());
        index.valid && !index.partial && first.is_some_and(|first| key.contains(&first))
    };
    if !key.iter().all(|column| comes_along(pair.from, column)) || pair.to.indexes.iter().any(leads) {
        return None;
    }
    // One that is invalid, or whose columns are lacking, is said as such.
    let is_there = key.iter().all(|column| pair.to.column(column).is_some());
    if is_there && pair.to.indexes.iter().all(|index| index.valid) {
        findings.warning(
            &target.end,
            format!("table {}", pair.name),
            format!(
                "no unique index begins with a column of the key ({}): each change takes a scan",
                key.join(", ")
            ),
            sql([lacking(pair, &key)]),
        );
    }
    Some(key.into_iter().collect())
}
