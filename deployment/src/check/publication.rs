//! The publication: that it names the flow's tables, publishes every kind of change, and was there before the slot.

use irongate_postgres::catalog::TableKind;
use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Error, catalog};

use super::tables::name;
use super::{Findings, Severity, Side, listed, sql};
use crate::configuration::{Flow, Partitions, TableName};
use crate::setup::Survey;
use crate::setup::publication::{Difference, differences};

pub(super) async fn source(side: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    let object = format!("publication \"{}\"", flow.publication);
    match differences(&side.session, flow, &survey.selection).await {
        Ok(found) => {
            for difference in found {
                let severity = match difference {
                    Difference::Extra(_) | Difference::Wide(_) => Severity::Warning,
                    Difference::Absent { .. }
                    | Difference::Generated
                    | Difference::Options(_)
                    | Difference::Missing(_) => Severity::Error,
                };
                let fix = difference.sql(flow, &survey.selection).map(|statement| sql([statement]));
                findings.add(severity, &side.end, &object, difference.reason(), fix);
            }
        }
        Err(error) => findings.unanswered(&side.end, &object, &error),
    }
    if let Err(error) = narrowed(side, flow, survey, findings).await {
        findings.unanswered(&side.end, &object, &error);
    }
    match is_younger_than_slot(side, flow).await {
        Ok(true) => findings.warning(
            &side.end,
            &object,
            "it was made or changed after the slot's place: what was written in between cannot be decoded, or is left out",
            format!("irongate instantiate {}", flow.name),
        ),
        Ok(false) => {}
        Err(error) => findings.unanswered(&side.end, &object, &error),
    }
    let roots = survey.selection.streamed.iter().filter(|table| table.summary.kind == TableKind::Partitioned);
    let roots: Vec<TableName> = roots.map(name).collect();
    if flow.partitions == Partitions::Root && !roots.is_empty() {
        findings.note(
            &side.end,
            format!("partitioned tables {}", listed(&roots)),
            "they are published as wholes: a TRUNCATE of one partition is not sent (DELETE is), nor is what attaching or \
             detaching one brings or takes",
        );
    }
    if survey.selection.published.is_empty() {
        findings.error(
            &side.end,
            format!("flow \"{}\"", flow.name),
            "no table fits its patterns",
            format!("correct \"tables\" in [flows.{}]", flow.name),
        );
    }
    let left_out = &survey.selection.not_excludable;
    if !left_out.is_empty() {
        findings.warning(
            &side.end,
            format!("partitions {}", listed(left_out)),
            "they are excluded and sent all the same: the whole table is published as one",
            "set partitions = \"leaf\", or exclude the partitioned table",
        );
    }
}

/// Columns and rows that somebody has taken out of the publication.
async fn narrowed(
    side: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) -> Result<(), Error> {
    for published in catalog::publication_tables(&side.session, &[flow.publication.as_str()]).await? {
        let Some(table) = survey.selection.streamed.iter().find(|table| table.summary.oid == published.oid)
        else {
            continue;
        };
        let name = TableName::new(&published.schema, &published.name);
        let object = format!("publication \"{}\": table {name}", flow.publication);
        let publication = quote_identifier(&flow.publication);
        let fix = || {
            sql([
                format!("ALTER PUBLICATION {publication} DROP TABLE {}", name.quoted()),
                format!("ALTER PUBLICATION {publication} ADD TABLE {}", name.quoted()),
            ])
        };
        let left_out: Vec<&str> = table
            .columns
            .iter()
            .filter(|column| column.is_writable() && !published.columns.contains(&column.name))
            .map(|column| column.name.as_str())
            .collect();
        let identity = table.identity_columns();
        if left_out.iter().any(|column| identity.contains(column)) {
            findings.error(
                &side.end,
                &object,
                format!(
                    "columns of the replica identity are left out ({}): the application's own UPDATE and DELETE fail",
                    listed(&left_out)
                ),
                fix(),
            );
        } else if !left_out.is_empty() {
            findings.warning(
                &side.end,
                &object,
                format!("columns are left out, and come to the target empty: {}", listed(&left_out)),
                fix(),
            );
        }
        if published.row_filter.is_some() {
            findings.warning(
                &side.end,
                &object,
                "it has a condition: rows that do not meet it are not sent",
                fix(),
            );
        }
    }
    Ok(())
}

/// Compares the transaction that last wrote the publication with the oldest one that the slot still needs to know.
/// A slot moves on from there, so a younger publication is noticed as long as the slot has not passed it.
async fn is_younger_than_slot(side: &Side<'_>, flow: &Flow) -> Result<bool, Error> {
    const SQL: &str = "
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_publication p, pg_catalog.pg_replication_slots s
             WHERE p.pubname = $1::pg_catalog.text AND s.slot_name = $2::pg_catalog.text AND s.catalog_xmin IS NOT NULL
               AND pg_catalog.age(p.xmin) < pg_catalog.age(s.catalog_xmin))";
    Ok(side.session.query_one(SQL, &[&flow.publication, &flow.slot]).await?.try_get(0)?)
}
