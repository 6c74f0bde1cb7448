//! The source's tables: whether their changes are in the log, and what belongs to them.

use std::collections::BTreeSet;

use irongate_postgres::Error;
use irongate_postgres::catalog::{self, Table, TableKind};
use irongate_postgres::sql::quote_literal;

use super::{Findings, Severity, Side, choice, identity, listed};
use crate::configuration::{Flow, Rename, TableName};
use crate::setup::Survey;

pub(super) async fn source(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    for table in &survey.selection.leaves {
        identity::source(side, flow, table, findings);
    }
    for table in &survey.selection.unlogged {
        findings.warning(
            &side.end,
            format!("table {table}"),
            "it is unlogged: its changes are nowhere but in the table",
            choice([format!("ALTER TABLE {} SET LOGGED", table.quoted())]),
        );
    }
    configured(side, flow, survey, findings);
    if !survey.sequences.is_empty() {
        findings.note(
            &side.end,
            format!("sequences {}", listed(survey.sequences.iter().map(|sequence| &sequence.name))),
            "their values are not in the stream: they are copied by the initial load and at a switchover, and followed \
             with a margin in between",
        );
    }
    if let Err(error) = left_out(side, flow, survey, findings).await {
        findings.unanswered(&side.end, "tables", &error);
    }
    elsewhere(side, flow, findings).await;
    outside(side, flow, survey, findings);
    for table in &survey.selection.leaves {
        names_of_objects(side, table, findings);
    }
    if let Err(error) = large_objects(side, flow, findings).await {
        findings.unanswered(&side.end, "large objects", &error);
    }
}

pub(super) fn name(table: &Table) -> TableName {
    TableName::new(&table.summary.schema, &table.summary.name)
}

/// Foreign keys that lead out of the flow: nobody looks at them for Replicat's rows, and what they point to does not come.
fn outside(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    let known: BTreeSet<TableName> = survey.selection.leaves.iter().map(name).collect();
    let is_sent = |table: &TableName| known.contains(table) || flow.includes(&table.schema, &table.name);
    for table in &survey.selection.leaves {
        for key in &table.foreign_keys {
            let referred = TableName::new(&key.references.0, &key.references.1);
            if !is_sent(&referred) {
                findings.warning(
                    &side.end,
                    format!("foreign key \"{}\" of table {}", key.name, name(table)),
                    format!("it points to {referred}, which is not in the flow: at the target it can point to nothing"),
                    format!("add {} to \"tables\" in [flows.{}]", quote_literal(&referred.to_string()), flow.name),
                );
            }
        }
    }
}

/// Values that name objects of a database are read at the target only if there is one of that name.
fn names_of_objects(side: &Side<'_>, table: &Table, findings: &mut Findings) {
    const TYPES: [&str; 11] = [
        "regclass",
        "regproc",
        "regprocedure",
        "regoper",
        "regoperator",
        "regtype",
        "regrole",
        "regnamespace",
        "regconfig",
        "regdictionary",
        "regcollation",
    ];
    for column in table.columns.iter().filter(|column| column.is_writable()) {
        let type_name = column.base_type_name.trim_end_matches("[]");
        if TYPES.contains(&type_name) {
            findings.warning(
                &side.end,
                format!("column \"{}\" of table {}", column.name, name(table)),
                format!("its type is {type_name}: a value that names what the target does not have is refused there"),
                "keep names in columns of type text",
            );
        }
    }
}

/// Keys and renames of the configuration that speak of what is not there, or of columns that do not come along.
fn configured(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    let section = format!("[flows.{}]", flow.name);
    let streamed = &survey.selection.streamed;
    for (table, columns) in &flow.key_columns {
        let object = format!("table {table}");
        let Some(found) = streamed.iter().find(|streamed| name(streamed) == *table) else {
            let reason = "key_columns names it, and it does not belong to the flow";
            findings.warning(
                &side.end,
                object,
                reason,
                format!("correct its name in key_columns of {section}"),
            );
            continue;
        };
        for column in columns {
            if found.column(column).is_none() {
                let reason = format!("key_columns names column \"{column}\", which it does not have");
                findings.error(&side.end, &object, reason, format!("correct key_columns of {section}"));
            } else if !identity::comes_along(found, column) {
                findings.error(
                    &side.end,
                    &object,
                    format!("key column \"{column}\" does not come with updates and deletes"),
                    identity::full(side, flow, found),
                );
            }
        }
    }
    for rename in &flow.renames {
        let (source, is_there) = match rename {
            Rename::Table { source, .. } => {
                (format!("table {source}"), streamed.iter().any(|table| name(table) == *source))
            }
            Rename::Schema { source, .. } => {
                (format!("schema \"{source}\""), streamed.iter().any(|table| table.summary.schema == *source))
            }
        };
        if !is_there {
            let reason = "it is mapped, and no table of the flow is meant by that";
            findings.warning(&side.end, source, reason, format!("correct the source in {section}'s map"));
        }
    }
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
            Some(format!("add them to \"tables\" or \"exclude\" in [flows.{}]", flow.name).into()),
        );
    }
    Ok(())
}

async fn large_objects(side: &Side<'_>, flow: &Flow, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";
    if side.session.query_one(SQL, &[]).await?.try_get(0)? {
        findings.warning(
            &side.end,
            "large objects",
            "there are some; they are never in the stream",
            format!(
                "irongate large-objects copy {} copies them as they are then, and compare tells what is different since; or \
                 keep such content in bytea columns",
                flow.name
            ),
        );
    }
    Ok(())
}

/// Tables of the source whose rows are elsewhere, or are not sent although a pattern names them.
async fn elsewhere(side: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    const SQL: &str = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind = 'f'
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('f', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1, 2";
    let asked = async {
        let (mut foreign, mut views) = (Vec::new(), Vec::new());
        for row in side.session.query(SQL, &[]).await? {
            let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
            if flow.includes(&name.schema, &name.name) {
                if row.try_get(2)? { foreign.push(name) } else { views.push(name) }
            }
        }
        Ok::<_, Error>((foreign, views))
    };
    match asked.await {
        Ok((foreign, views)) => {
            for name in foreign {
                findings.warning(
                    &side.end,
                    format!("foreign table {name}"),
                    "its rows are elsewhere, and do not come through the flow",
                    format!(
                        "add {} to \"exclude\" in [flows.{}]",
                        quote_literal(&name.to_string()),
                        flow.name
                    ),
                );
            }
            if !views.is_empty() {
                findings.add(
                    Severity::Note,
                    &side.end,
                    format!("materialized views {}", listed(views)),
                    "what they hold is never sent: refresh them at the target",
                    None,
                );
            }
        }
        Err(error) => findings.unanswered(&side.end, "foreign tables", &error),
    }
}
