//! Triggers and rules at the target that act on Replicat's changes too, and so do at the target what has been done at
//! the source already.

use irongate_postgres::Error;
use irongate_postgres::catalog::{Table, TriggerFires};
use irongate_postgres::sql::quote_identifier;

use crate::check::{Findings, Side};
use crate::configuration::TableName;

pub(super) async fn disturbing(
    target: &Side<'_>,
    tables: &[Table],
    findings: &mut Findings,
) -> Result<(), Error> {
    for table in tables {
        let name = TableName::new(&table.summary.schema, &table.summary.name);
        for trigger in &table.triggers {
            let how = match trigger.fires {
                TriggerFires::Always => "ENABLE ALWAYS",
                TriggerFires::InReplica => "ENABLE REPLICA",
                TriggerFires::InOrigin | TriggerFires::Disabled => continue,
            };
            findings.warning(
                &target.end,
                format!("trigger \"{}\" of table {name}", trigger.name),
                format!("it is {how}, and so fires for Replicat's changes"),
                format!("ALTER TABLE {} ENABLE TRIGGER {}", name.quoted(), quote_identifier(&trigger.name)),
            );
        }
    }
    const RULES: &str = "SELECT n.nspname, c.relname, r.rulename
           FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE r.ev_class = ANY ($1::pg_catalog.oid[]) AND r.ev_enabled IN ('A', 'R') ORDER BY 1, 2, 3";
    let oids: Vec<u32> = tables.iter().map(|table| table.summary.oid).collect();
    for row in target.session.query(RULES, &[&oids]).await? {
        let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let rule: String = row.try_get(2)?;
        findings.warning(
            &target.end,
            format!("rule \"{rule}\" of table {name}"),
            "it acts on Replicat's changes",
            format!("ALTER TABLE {} ENABLE RULE {}", name.quoted(), quote_identifier(&rule)),
        );
    }
    Ok(())
}
