//! The source's tables: whether their changes are in the log, and whether updates and deletes say which row they mean.

use irongate_postgres::Error;
use irongate_postgres::catalog::{self, Index, Table, TableKind};
use irongate_postgres::sql::quote_identifier;
use irongate_trail::ReplicaIdentity;

use super::{Findings, Severity, Side, listed};
use crate::configuration::{Flow, TableName};
use crate::setup::Survey;

pub(super) async fn source(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    for table in &survey.selection.leaves {
        identity(side, table, findings);
    }
    for table in &survey.selection.unlogged {
        findings.warning(
            &side.end,
            format!("table {table}"),
            "it is unlogged: its changes are nowhere but in the table",
            format!("ALTER TABLE {} SET LOGGED, or leave it out of the flow", table.quoted()),
        );
    }
    if !survey.sequences.is_empty() {
        findings.note(
            &side.end,
            format!("sequences {}", listed(survey.sequences.iter().map(|sequence| &sequence.name))),
            "their values are not in the stream; they are copied by the initial load and at a switchover",
        );
    }
    if let Err(error) = left_out(side, flow, survey, findings).await {
        findings.unanswered(&side.end, "tables", &error);
    }
    if let Err(error) = large_objects(side, findings).await {
        findings.unanswered(&side.end, "large objects", &error);
    }
}

fn name(table: &Table) -> TableName {
    TableName::new(&table.summary.schema, &table.summary.name)
}

/// The index by which the table's updates and deletes name their row, if they do.
pub(super) fn identity_index(table: &Table) -> Option<&Index> {
    match table.summary.replica_identity {
        ReplicaIdentity::Default => table.primary_key().filter(|index| index.identifies_rows()),
        ReplicaIdentity::Index => {
            table.indexes.iter().find(|index| index.replica_identity && index.identifies_rows())
        }
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => None,
    }
}

/// Without an identity the *application's* updates fail as soon as the table is published.
fn identity(side: &Side<'_>, table: &Table, findings: &mut Findings) {
    let (name, full) = (name(table), table.summary.replica_identity == ReplicaIdentity::Full);
    let object = format!("table {name}");
    if full {
        if !table.indexes.iter().any(Index::identifies_rows) {
            findings.note(
                &side.end,
                object,
                "it has no key: each update and delete is found by all columns, which takes a scan at the target",
            );
        }
        return;
    }
    if identity_index(table).is_some() {
        return;
    }
    let what = match table.summary.replica_identity {
        ReplicaIdentity::Nothing => "its replica identity is NOTHING",
        ReplicaIdentity::Index => "the index of its replica identity is gone or unusable",
        _ if table.primary_key().is_some() => "its primary key is deferrable, which is no replica identity",
        _ => "it has no primary key and no other replica identity",
    };
    // What an index needs to be an identity: unique, immediate, complete, and no NULLs.
    let usable = table.indexes.iter().find(|index| {
        index.identifies_rows()
            && index.column_names().is_some_and(|columns| {
                columns.iter().all(|name| table.column(name).is_some_and(|column| column.not_null))
            })
    });
    let identity = match usable {
        Some(index) => format!("USING INDEX {}", quote_identifier(&index.name)),
        None => "FULL".to_owned(),
    };
    findings.error(
        &side.end,
        object,
        format!("{what}: once it is published, the application's own UPDATE and DELETE on it fail"),
        format!("ALTER TABLE {} REPLICA IDENTITY {identity}", name.quoted()),
    );
}

/// Tables that no flow names and no pattern excludes: perhaps forgotten.
async fn left_out(
    side: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) -> Result<(), Error> {
    let selection = &survey.selection;
    let known = |table: &TableName| {
        selection.published.contains(table)
            || selection.unlogged.contains(table)
            || selection.leaves.iter().any(|leaf| name(leaf) == *table)
            || flow.exclude.iter().any(|pattern| pattern.matches(&table.schema, &table.name))
            || flow.includes(&table.schema, &table.name)
            || table.schema == irongate_checkpoint::CHECKPOINT_SCHEMA
    };
    let forgotten: Vec<TableName> = catalog::tables(&side.session)
        .await?
        .into_iter()
        .filter(|table| table.kind != TableKind::Partitioned)
        .map(|table| TableName::new(table.schema, table.name))
        .filter(|table| !known(table))
        .collect();
    if !forgotten.is_empty() {
        findings.add(
            Severity::Note,
            &side.end,
            format!("tables {}", listed(&forgotten)),
            format!("flow \"{}\" neither names nor excludes them", flow.name),
            Some(format!("add them to \"tables\" or \"exclude\" in [flows.{}]", flow.name)),
        );
    }
    Ok(())
}

async fn large_objects(side: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";
    if side.session.query_one(SQL, &[]).await?.try_get(0)? {
        findings.warning(
            &side.end,
            "large objects",
            "there are some; they are never in the stream",
            "keep such content in bytea columns, or copy them by other means",
        );
    }
    Ok(())
}
