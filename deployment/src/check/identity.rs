//! What updates and deletes of the source's tables say of the row that they mean.
//!
//! Generated columns are sent from PostgreSQL 18 on and only if the publication says so, stored ones at that: before, they
//! are silently not there, and since, the server refuses the *application's* UPDATE and DELETE where the identity has one
//! that is not sent (`CheckCmdReplicaIdentity` in execReplication.c).

use irongate_postgres::catalog::{Generated, Index, Table};
use irongate_postgres::sql::quote_identifier;
use irongate_trail::ReplicaIdentity;

use super::finding::Fix;
use super::tables::name;
use super::{Findings, Side, listed, sql};
use crate::configuration::Flow;
use crate::setup::publication::{GENERATED_COLUMNS, publish_generated};

/// The index by which the table's updates and deletes name their row, if they do.
pub(crate) fn identity_index(table: &Table) -> Option<&Index> {
    match table.summary.replica_identity {
        ReplicaIdentity::Default => table.primary_key().filter(|index| index.identifies_rows()),
        ReplicaIdentity::Index => {
            table.indexes.iter().find(|index| index.replica_identity && index.identifies_rows())
        }
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => None,
    }
}

/// Whether the column comes with updates and deletes, to find the row by.
pub(super) fn comes_along(table: &Table, column: &str) -> bool {
    if table.summary.replica_identity == ReplicaIdentity::Full {
        return table.column(column).is_some();
    }
    identity_index(table).and_then(Index::column_names).is_some_and(|names| names.contains(&column))
}

/// The table's columns that are generated so.
fn generated(table: &Table, how: Generated) -> Vec<&str> {
    let columns = table.columns.iter().filter(|column| column.generated == how);
    columns.map(|column| column.name.as_str()).collect()
}

/// An index that can be the identity: unique, immediate, complete, without NULLs and without generated columns.
fn usable(table: &Table) -> Option<&Index> {
    table.indexes.iter().find(|index| {
        index.identifies_rows()
            && index.column_names().is_some_and(|columns| {
                let fits = |name: &&str| table.column(name).is_some_and(|c| c.not_null && c.is_writable());
                columns.iter().all(fits)
            })
    })
}

/// What makes all old values come, where that can be.
pub(super) fn full(side: &Side<'_>, flow: &Flow, table: &Table) -> Fix {
    let wanted = format!("ALTER TABLE {} REPLICA IDENTITY FULL", name(table).quoted());
    if !generated(table, Generated::Virtual).is_empty() {
        return "give the table a primary key of columns that are not generated: with REPLICA IDENTITY FULL the server \
                refuses UPDATE and DELETE of a table with virtual columns"
            .into();
    }
    let publish =
        side.facts.version_num >= GENERATED_COLUMNS && !generated(table, Generated::Stored).is_empty();
    sql(publish.then(|| publish_generated(flow)).into_iter().chain([wanted]))
}

/// Without an identity the *application's* updates fail as soon as the table is published.
pub(super) fn source(side: &Side<'_>, flow: &Flow, table: &Table, findings: &mut Findings) {
    let is_full = table.summary.replica_identity == ReplicaIdentity::Full;
    let object = format!("table {}", name(table));
    let alter =
        |identity: String| sql([format!("ALTER TABLE {} REPLICA IDENTITY {identity}", name(table).quoted())]);
    let by_index = || usable(table).map(|index| format!("USING INDEX {}", quote_identifier(&index.name)));
    let fix = || by_index().map_or_else(|| full(side, flow, table), alter);
    if is_full {
        let seen_only = generated(table, Generated::Virtual);
        if !seen_only.is_empty() {
            let fix = by_index().map_or_else(|| full(side, flow, table), alter);
            let reason = format!(
                "its replica identity is FULL and it has virtual columns ({}), which are never sent: once it is published, \
                 the application's own UPDATE and DELETE on it fail",
                listed(&seen_only)
            );
            findings.error(&side.end, object, reason, fix);
        } else if !table.indexes.iter().any(Index::identifies_rows) {
            findings.note(
                &side.end,
                object,
                "it has no key: each update and delete is found by all columns, which takes a scan at the target",
            );
        }
        return;
    }
    if let Some(index) = identity_index(table) {
        let names = index.column_names().unwrap_or_default();
        let is_generated = |name: &&str| table.column(name).is_some_and(|column| !column.is_writable());
        let computed: Vec<&str> = names.into_iter().filter(is_generated).collect();
        if !computed.is_empty() {
            let reason = format!(
                "its replica identity has generated columns ({}): no row is found by them at the target, and from \
                 PostgreSQL 18 on the application's own UPDATE and DELETE on it fail",
                listed(&computed)
            );
            findings.error(&side.end, object, reason, fix());
        }
        return;
    }
    let what = match table.summary.replica_identity {
        ReplicaIdentity::Nothing => "its replica identity is NOTHING",
        ReplicaIdentity::Index => "the index of its replica identity is gone or unusable",
        _ if table.primary_key().is_some() => "its primary key is deferrable, which is no replica identity",
        _ => "it has no primary key and no other replica identity",
    };
    findings.error(
        &side.end,
        object,
        format!("{what}: once it is published, the application's own UPDATE and DELETE on it fail"),
        fix(),
    );
}
