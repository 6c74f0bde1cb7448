//! Triggers and rules: at the target some act on Replicat's changes too, and so do there what has been done at the source
//! already; others are missed once applications write there.

use std::collections::BTreeSet;

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::Error;
use irongate_postgres::catalog::{Trigger, TriggerFires};
use irongate_postgres::sql::quote_identifier;

use super::Both;
use crate::check::{Findings, LACKING, Side, sql};
use crate::configuration::TableName;

/// Triggers that Irongate has made itself belong to the side where they are.
fn is_ours(trigger: &Trigger) -> bool {
    trigger.function.0 == CHECKPOINT_SCHEMA
}

pub(super) async fn compare(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    let end = &both.target.end;
    for pair in &both.pairs {
        for trigger in pair.to.triggers.iter().filter(|trigger| !is_ours(trigger)) {
            let how = match trigger.fires {
                TriggerFires::Always => "ENABLE ALWAYS",
                TriggerFires::InReplica => "ENABLE REPLICA",
                TriggerFires::InOrigin | TriggerFires::Disabled => continue,
            };
            findings.warning(
                end,
                format!("trigger \"{}\" of table {}", trigger.name, pair.name),
                format!("it is {how}, and so fires for Replicat's changes"),
                sql([format!(
                    "ALTER TABLE {} ENABLE TRIGGER {}",
                    pair.name.quoted(),
                    quote_identifier(&trigger.name)
                )]),
            );
        }
        let there: BTreeSet<&str> = pair.to.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
        let works = |trigger: &&Trigger| !is_ours(trigger) && trigger.fires != TriggerFires::Disabled;
        for trigger in pair.from.triggers.iter().filter(works) {
            if !there.contains(trigger.name.as_str()) {
                findings.warning(
                    end,
                    format!("trigger \"{}\" of table {}", trigger.name, pair.name),
                    format!("{LACKING}: applications would miss it once they write here"),
                    format!(
                        "create it as at the source, with function {}.{}",
                        trigger.function.0, trigger.function.1
                    ),
                );
            }
        }
    }
    rules(both, findings).await?;
    event_triggers(both.target, findings).await
}

async fn rules(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    const RULES: &str = "SELECT n.nspname, c.relname, r.rulename
           FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE r.ev_class = ANY ($1::pg_catalog.oid[]) AND r.ev_enabled IN ('A', 'R') ORDER BY 1, 2, 3";
    for row in both.target.session.query(RULES, &[&both.target_oids()]).await? {
        let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let rule: String = row.try_get(2)?;
        findings.warning(
            &both.target.end,
            format!("rule \"{rule}\" of table {name}"),
            "it acts on Replicat's changes",
            sql([format!("ALTER TABLE {} ENABLE RULE {}", name.quoted(), quote_identifier(&rule))]),
        );
    }
    Ok(())
}

/// Event triggers that fire in a session of Replicat's: for the DDL that it runs, and from 17 on at its login.
async fn event_triggers(target: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "SELECT e.evtname::pg_catalog.text, e.evtevent::pg_catalog.text FROM pg_catalog.pg_event_trigger e
          JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname <> $1 AND (e.evtenabled IN ('A', 'R') OR e.evtevent = 'login' AND e.evtenabled <> 'D') ORDER BY 1";
    for row in target.session.query(SQL, &[&CHECKPOINT_SCHEMA]).await? {
        let (name, event): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (reason, what) = if event == "login" {
            ("it runs whenever Irongate's roles log in; when it fails they are locked out", "DISABLE")
        } else {
            ("it fires also for what Replicat does", "ENABLE")
        };
        findings.warning(
            &target.end,
            format!("event trigger \"{name}\""),
            reason,
            sql([format!("ALTER EVENT TRIGGER {} {what}", quote_identifier(&name))]),
        );
    }
    Ok(())
}
