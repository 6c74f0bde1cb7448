//! The target's tables: whether each row of the source finds its place there, unchanged and undisturbed, and whether
//! applications would find there what they are used to.

mod column;
mod constraint;
mod key;
mod partition;
mod policy;
mod sequence;
mod trigger;
mod types;

use std::collections::BTreeMap;

use irongate_postgres::Error;
use irongate_postgres::catalog::{self, Table};

use super::{Findings, Side, roles, sql};
use crate::configuration::{Flow, TableName};
use crate::setup::Survey;

/// A table of the source that has a counterpart at the target.
struct Pair<'a> {
    source_name: TableName,
    name: TableName,
    from: &'a Table,
    to: &'a Table,
}

/// Both databases, and the tables that are in both.
struct Both<'a> {
    source: &'a Side<'a>,
    target: &'a Side<'a>,
    flow: &'a Flow,
    pairs: Vec<Pair<'a>>,
}

impl Both<'_> {
    /// Names differ by configuration, and with them what definitions say.
    fn is_renamed(&self) -> bool {
        !self.flow.renames.is_empty()
    }

    fn source_oids(&self) -> Vec<u32> {
        self.pairs.iter().map(|pair| pair.from.summary.oid).collect()
    }

    fn target_oids(&self) -> Vec<u32> {
        self.pairs.iter().map(|pair| pair.to.summary.oid).collect()
    }
}

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
    let mut pairs = Vec::new();
    for from in &survey.selection.streamed {
        let source_name = TableName::new(&from.summary.schema, &from.summary.name);
        let name = flow.target_of(&source_name);
        match tables.get(&name) {
            None => findings.error(
                &target.end,
                format!("table {name}"),
                "it does not exist",
                format!(
                    "create it as at the source: pg_dump --schema-only --table='{}' \"{}\"",
                    source_name.quoted(),
                    source.end.address.extract.endpoint
                ),
            ),
            Some(to) => pairs.push(Pair { source_name, name, from, to }),
        }
    }
    let both = Both { source, target, flow, pairs };
    let lacking = sequence::compare(&both, survey, findings).await?;
    column::compare(&both, &lacking, findings).await?;
    types::compare(&both, findings).await?;
    key::compare(&both, findings);
    constraint::compare(&both, findings).await?;
    partition::compare(&both, &tables, findings).await?;
    policy::compare(&both, findings).await?;
    for pair in both.pairs.iter().filter(|pair| !pair.to.summary.logged) {
        findings.warning(
            &target.end,
            format!("table {}", pair.name),
            "it is unlogged: a crash of the server empties it",
            sql([format!("ALTER TABLE {} SET LOGGED", pair.name.quoted())]),
        );
    }
    trigger::compare(&both, findings).await?;
    let found: Vec<Table> = both.pairs.iter().map(|pair| pair.to.clone()).collect();
    roles::row_security(target, &found, "Replicat's changes could be refused or find no row", findings).await;
    roles::functions(target, &both.target_oids(), findings).await;
    truncate(&both, &tables, findings);
    Ok(())
}

/// A TRUNCATE at the target names the flow's tables only, and fails where others refer to them.
fn truncate(both: &Both<'_>, all: &BTreeMap<TableName, Table>, findings: &mut Findings) {
    let meant: std::collections::BTreeSet<&TableName> = both.pairs.iter().map(|pair| &pair.name).collect();
    for (name, table) in
        all.iter().filter(|(name, table)| !meant.contains(*name) && table.partition_of.is_none())
    {
        for key in &table.foreign_keys {
            let referred = TableName::new(&key.references.0, &key.references.1);
            if meant.contains(&referred) {
                findings.note(
                    &both.target.end,
                    format!("foreign key \"{}\" of table {name}", key.name),
                    format!(
                        "the table is not in the flow and refers to {referred}: a TRUNCATE of that fails here"
                    ),
                );
            }
        }
    }
}
