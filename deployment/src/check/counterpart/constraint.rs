//! Checks and foreign keys: a check that only the target has refuses rows to Replicat; what only the source has is missed
//! once the target is written to by applications. Foreign keys are never looked at for Replicat's rows.

use std::collections::BTreeMap;

use irongate_postgres::Error;
use irongate_postgres::sql::quote_identifier;
use tokio_postgres::Client;

use super::column::plain;
use super::{Both, Pair};
use crate::check::{Findings, LACKING, Severity, sql};

/// A constraint of a table.
struct Constraint {
    name: String,
    is_check: bool,
    definition: String,
    /// Rows are looked at. Not so for one that is NOT ENFORCED, from version 18.
    enforced: bool,
    validated: bool,
}

async fn constraints(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, Vec<Constraint>>, Error> {
    // What a foreign key to a partitioned table says once more for each partition is left out.
    const SQL: &str = "
        SELECT o.conrelid, o.conname, o.contype = 'c', pg_catalog.pg_get_constraintdef(o.oid), o.convalidated,
               coalesce((pg_catalog.to_jsonb(o) ->> 'conenforced')::pg_catalog.bool, true)
          FROM pg_catalog.pg_constraint o
         WHERE o.conrelid = ANY ($1::pg_catalog.oid[]) AND o.contype IN ('c', 'f')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint p WHERE p.oid = o.conparentid AND p.conrelid = o.conrelid)
         ORDER BY o.conrelid, o.conname";
    let mut found: BTreeMap<u32, Vec<Constraint>> = BTreeMap::new();
    for row in client.query(SQL, &[&tables]).await? {
        let definition: String = row.try_get(3)?;
        found.entry(row.try_get(0)?).or_default().push(Constraint {
            name: row.try_get(1)?,
            is_check: row.try_get(2)?,
            definition: definition.trim_end_matches(" NOT VALID").to_owned(),
            validated: row.try_get(4)?,
            enforced: row.try_get(5)?,
        });
    }
    Ok(found)
}

pub(super) async fn compare(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    internal_triggers(both, findings).await?;
    if both.is_renamed() {
        return foreign_keys_by_columns(both, findings);
    }
    let here = constraints(&both.source.session, &both.source_oids()).await?;
    let there = constraints(&both.target.session, &both.target_oids()).await?;
    let none = Vec::new();
    for pair in &both.pairs {
        let source = here.get(&pair.from.summary.oid).unwrap_or(&none);
        let target = there.get(&pair.to.summary.oid).unwrap_or(&none);
        lacking(both, pair, source, target, findings);
        let is_there = |constraint: &Constraint| {
            source
                .iter()
                .any(|other| other.enforced && plain(&other.definition) == plain(&constraint.definition))
        };
        for extra in target.iter().filter(|one| one.is_check && one.enforced && !is_there(one)) {
            findings.warning(
                &both.target.end,
                format!("check constraint \"{}\" of table {}", extra.name, pair.name),
                "the source has none like it: rows that are sound there can be refused here",
                sql([format!(
                    "ALTER TABLE {} DROP CONSTRAINT {}",
                    pair.name.quoted(),
                    quote_identifier(&extra.name)
                )]),
            );
        }
    }
    Ok(())
}

fn broken() -> String {
    format!("{LACKING}: nothing keeps applications from breaking it once they write here")
}

fn lacking(
    both: &Both<'_>,
    pair: &Pair<'_>,
    source: &[Constraint],
    target: &[Constraint],
    findings: &mut Findings,
) {
    let end = &both.target.end;
    for one in source.iter().filter(|one| one.enforced) {
        let like = target.iter().find(|other| plain(&other.definition) == plain(&one.definition));
        let (kind, severity) = if one.is_check {
            ("check constraint", Severity::Note)
        } else {
            ("foreign key", Severity::Warning)
        };
        let object = format!("{kind} \"{}\" of table {}", one.name, pair.name);
        match like {
            None => {
                // A name that is taken would be refused.
                let name = match target.iter().any(|other| other.name == one.name) {
                    true => String::new(),
                    false => format!("CONSTRAINT {} ", quote_identifier(&one.name)),
                };
                let what = if one.is_check {
                    format!("{LACKING}, which matters once the target is written to")
                } else {
                    broken()
                };
                let fix = sql([format!("ALTER TABLE {} ADD {name}{}", pair.name.quoted(), one.definition)]);
                findings.add(severity, end, object, what, Some(fix));
            }
            Some(other) if one.validated && !other.validated && other.enforced => findings.add(
                Severity::Note,
                end,
                object,
                "it is NOT VALID here: rows that were there before it need not obey it",
                Some(sql([format!(
                    "ALTER TABLE {} VALIDATE CONSTRAINT {}",
                    pair.name.quoted(),
                    quote_identifier(&other.name)
                )])),
            ),
            Some(_) => {}
        }
    }
}

/// Where names differ, definitions read otherwise: what points from the same columns to the counterpart is the same.
fn foreign_keys_by_columns(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    for pair in &both.pairs {
        for key in &pair.from.foreign_keys {
            let referred = crate::configuration::TableName::new(&key.references.0, &key.references.1);
            let referred = both.flow.target_of(&referred);
            let is_there = pair.to.foreign_keys.iter().any(|other| {
                other.columns == key.columns
                    && (&other.references.0, &other.references.1) == (&referred.schema, &referred.name)
            });
            if !is_there {
                findings.warning(
                    &both.target.end,
                    format!("foreign key \"{}\" of table {}", key.name, pair.name),
                    broken(),
                    format!("add it: from the same columns to {referred}"),
                );
            }
        }
    }
    Ok(())
}

/// Foreign keys are kept by triggers that the server makes. Switched off, they keep nothing; always on, they look at
/// Replicat's rows before those that they refer to are there.
async fn internal_triggers(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "
        SELECT t.tgrelid, bool_or(t.tgenabled = 'D'), bool_or(t.tgenabled IN ('A', 'R'))
          FROM pg_catalog.pg_trigger t
         WHERE t.tgrelid = ANY ($1::pg_catalog.oid[]) AND t.tgisinternal AND t.tgenabled <> 'O'
         GROUP BY t.tgrelid";
    for row in both.target.session.query(SQL, &[&both.target_oids()]).await? {
        let (oid, disabled, firing): (u32, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let Some(pair) = both.pairs.iter().find(|pair| pair.to.summary.oid == oid) else { continue };
        let object = format!("foreign keys of table {}", pair.name);
        let fix = || sql([format!("ALTER TABLE {} ENABLE TRIGGER ALL", pair.name.quoted())]);
        if firing {
            findings.error(
                &both.target.end,
                object,
                "their triggers fire for Replicat's changes too, which need not come in an order that obeys them",
                fix(),
            );
        } else if disabled {
            findings.warning(
                &both.target.end,
                object,
                "their triggers are disabled: nothing keeps applications from breaking them once they write here",
                fix(),
            );
        }
    }
    Ok(())
}
