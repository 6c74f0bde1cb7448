//! The target's tables: whether each row of the source finds its place there, unchanged and undisturbed.

mod column;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::Error;
use irongate_postgres::catalog::{self, Index, IndexKind, Table};
use irongate_postgres::sql::quote_identifier;

use super::tables::{comes_along, identity_index};
use super::{Findings, Side, roles};
use crate::configuration::{Flow, TableName};
use crate::sequence;
use crate::setup::Survey;

pub(super) async fn target(
    source: &Side<'_>,
    target: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) {
    if let Err(error) = examine(source, target, flow, survey, findings).await {
        findings.unanswered(&target.end, "tables", &error);
    }
}

async fn examine(
    source: &Side<'_>,
    target: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) -> Result<(), Error> {
    let all = catalog::tables(&target.session).await?;
    let oids: Vec<u32> = all.iter().map(|table| table.oid).collect();
    let tables: BTreeMap<TableName, Table> = catalog::described(&target.session, &oids)
        .await?
        .into_iter()
        .map(|table| (TableName::new(&table.summary.schema, &table.summary.name), table))
        .collect();
    let enums = column::Enums::of(&source.session, &target.session).await?;
    let mut meant = BTreeMap::new();
    for from in &survey.selection.streamed {
        let name = TableName::new(&from.summary.schema, &from.summary.name);
        let counterpart = flow.target_of(&name);
        match tables.get(&counterpart) {
            None => findings.error(
                &target.end,
                format!("table {counterpart}"),
                "it does not exist",
                format!(
                    "create it as at the source: pg_dump --schema-only --table='{}' \"{}\"",
                    name.quoted(),
                    source.end.address.extract.endpoint
                ),
            ),
            Some(to) => {
                column::compare(target, from, to, &counterpart, &enums, findings);
                keys(target, flow, &name, from, to, &counterpart, findings);
                if !to.summary.logged {
                    findings.warning(
                        &target.end,
                        format!("table {counterpart}"),
                        "it is unlogged: a crash of the server empties it",
                        format!("ALTER TABLE {} SET LOGGED", counterpart.quoted()),
                    );
                }
                meant.insert(counterpart, to);
            }
        }
    }
    let found: Vec<Table> = meant.values().map(|table| (*table).clone()).collect();
    trigger::disturbing(target, &found, findings).await?;
    roles::row_security(target, &found, "Replicat's changes could be refused or find no row", findings).await;
    truncate(target, &tables, &meant, findings);
    sequences(target, flow, survey, findings).await
}

/// Keys: one to find rows by, none that the source does not have, and none that is not enforced.
fn keys(
    target: &Side<'_>,
    flow: &Flow,
    source_name: &TableName,
    from: &Table,
    to: &Table,
    name: &TableName,
    findings: &mut Findings,
) {
    let object = format!("table {name}");
    for index in to.indexes.iter().filter(|index| index.deferrable) {
        findings.warning(
            &target.end,
            format!("constraint \"{}\" of {object}", index.name),
            "it is deferrable, and so is not enforced for Replicat: a duplicate would be stored",
            format!(
                "ALTER TABLE {} DROP CONSTRAINT {}, and add it again as NOT DEFERRABLE",
                name.quoted(),
                quote_identifier(&index.name)
            ),
        );
    }
    let columns = |index: &Index| -> Option<BTreeSet<String>> {
        Some(index.column_names()?.into_iter().map(str::to_owned).collect())
    };
    let unique_at_source: Vec<_> = from.indexes.iter().filter_map(columns).collect();
    for index in &to.indexes {
        let narrower = columns(index)
            .is_none_or(|columns| !unique_at_source.iter().any(|known| known.is_subset(&columns)));
        let same =
            from.indexes.iter().any(|other| other.kind == index.kind && other.columns == index.columns);
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
    let key: Option<Vec<&str>> = match flow.key_columns.get(source_name) {
        Some(columns) => Some(columns.iter().map(String::as_str).collect()),
        None => identity_index(from).and_then(Index::column_names),
    };
    if let Some(key) = key
        && key.iter().all(|column| comes_along(from, column))
        && !to.indexes.iter().any(|index| {
            index.valid
                && !index.partial
                && index
                    .column_names()
                    .and_then(|columns| columns.first().copied())
                    .is_some_and(|first| key.contains(&first))
        })
    {
        let list: Vec<_> = key.iter().map(|column| quote_identifier(column)).collect();
        findings.warning(
            &target.end,
            &object,
            format!(
                "no unique index begins with a column of the key ({}): each change takes a scan",
                key.join(", ")
            ),
            format!("CREATE UNIQUE INDEX ON {} ({})", name.quoted(), list.join(", ")),
        );
    }
}

/// A TRUNCATE at the target names the flow's tables only, and fails where others refer to them.
fn truncate(
    target: &Side<'_>,
    all: &BTreeMap<TableName, Table>,
    meant: &BTreeMap<TableName, &Table>,
    findings: &mut Findings,
) {
    for (name, table) in
        all.iter().filter(|(name, table)| !meant.contains_key(*name) && table.partition_of.is_none())
    {
        for key in &table.foreign_keys {
            let referred = TableName::new(&key.references.0, &key.references.1);
            if meant.contains_key(&referred) {
                findings.note(
                    &target.end,
                    format!("foreign key \"{}\" of table {name}", key.name),
                    format!(
                        "the table is not in the flow and refers to {referred}: a TRUNCATE of that fails here"
                    ),
                );
            }
        }
    }
}

async fn sequences(
    target: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) -> Result<(), Error> {
    let there = sequence::sequences(&target.session).await?;
    for from in &survey.sequences {
        if sequence::counterpart(&there, flow, from).is_none() {
            let name = flow.target_of(&from.name);
            findings.warning(
                &target.end,
                format!("sequence {name}"),
                "it does not exist: after a switchover its next values are not known",
                format!("CREATE SEQUENCE {}", name.quoted()),
            );
        }
    }
    Ok(())
}
