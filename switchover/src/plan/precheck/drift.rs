//! Whether both sites have the same: for the flows of both directions, and for what only an application meets.

use std::collections::BTreeMap;

use irongate_deployment::configuration::{Pair, TableName};
use irongate_deployment::{Configuration, LACKING, Severity};

use super::findings::Findings;
use crate::error::Error;
use crate::fence::{self, Saved};
use crate::place::Place;

/// A remedy that is longer is shown by the preflight itself.
const LONGEST_FIX: usize = 240;

/// The preflight of both directions: what would keep replication from working in the one that runs, and in the one that is
/// to begin.
pub(super) async fn flows(
    configuration: &Configuration,
    pair: &Pair<'_>,
    findings: &mut Findings,
) -> Result<(), Error> {
    for finding in irongate_deployment::check(configuration, &[pair.into, pair.out_of]).await? {
        let fix = match finding.fix.as_deref() {
            None => "see to it".to_owned(),
            Some(fix) if fix.len() > LONGEST_FIX => "irongate check shows the statements".to_owned(),
            Some(fix) => fix.replace('\n', " "),
        };
        match finding.severity {
            Severity::Error => findings.complain(finding.object, finding.reason, fix),
            // The comparison of definitions says it, and knows what a fence has disabled.
            Severity::Warning if finding.reason.starts_with(LACKING) && is_defined(&finding.object) => {}
            Severity::Warning => findings.note(finding.object, format!("{} ({fix})", finding.reason)),
            Severity::Note => {}
        }
    }
    // Not an error of replication; but what asks for its next value behind the opening fails.
    let lacking = irongate_deployment::sequences_without_counterpart(configuration, pair.into).await;
    match lacking {
        Ok(lacking) => {
            for name in lacking {
                findings.complain(
                    format!("{}.{}: sequence {name}", pair.database, pair.into.to),
                    "it does not exist, and applications would ask for its next value",
                    format!("CREATE SEQUENCE {}, as it is at site \"{}\"", name.quoted(), pair.into.from),
                );
            }
        }
        // Why one cannot get in stands among the findings.
        Err(error) => findings.complain(
            format!("sequences of flow \"{}\"", pair.into.name),
            format!("they cannot be compared: {error}"),
            error.hint().unwrap_or_else(|| "see to it".to_owned()),
        ),
    }
    Ok(())
}

/// Whether an object of the preflight is one that [`definitions`] compares.
fn is_defined(object: &str) -> bool {
    [": trigger ", ": foreign key "].iter().any(|kind| object.contains(kind))
}

/// What is defined on tables besides their columns and keys, by table, kind and name.
type Definitions = BTreeMap<(TableName, &'static str, String), String>;

/// Triggers, foreign keys and checks of the flow's tables: what one site has and the other has not, or has otherwise.
pub(super) async fn definitions(
    pair: &Pair<'_>,
    from: &Place,
    to: &Place,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut old = Definitions::new();
    for ((table, kind, name), definition) in read(from).await? {
        if pair.into.includes(&table.schema, &table.name) {
            old.insert((pair.into.target_of(&table), kind, name), definition);
        }
    }
    let mut new = read(to).await?;
    new.retain(|(table, ..), _| pair.out_of.includes(&table.schema, &table.name));
    let is_renamed = !pair.into.renames.is_empty();
    compare(&old, &new, is_renamed, from, to, findings);
    Ok(())
}

fn compare(
    old: &Definitions,
    new: &Definitions,
    is_renamed: bool,
    from: impl std::fmt::Display,
    to: impl std::fmt::Display,
    findings: &mut Findings,
) {
    for (key @ (table, kind, name), definition) in old {
        let object = format!("{kind} \"{name}\" of table {table}");
        match new.get(key) {
            None => findings.note(object, format!("{from} has it, and {to} has not")),
            // Of tables that are called otherwise a definition reads otherwise.
            Some(other) if other != definition && !is_renamed => {
                findings.note(object, format!("it is defined otherwise at {to} than at {from}"));
            }
            Some(_) => {}
        }
    }
    for (table, kind, name) in new.keys().filter(|key| !old.contains_key(*key)) {
        findings
            .note(format!("{kind} \"{name}\" of table {table}"), format!("{to} has it, and {from} has not"));
    }
}

async fn read(place: &Place) -> Result<Definitions, Error> {
    const TRIGGERS: &str =
        "SELECT n.nspname::text, c.relname::text, t.tgname::text, pg_catalog.pg_get_triggerdef(t.oid),
                t.tgenabled::text
           FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT t.tgisinternal";
    const CONSTRAINTS: &str =
        "SELECT n.nspname::text, c.relname::text, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid),
                k.contype = 'f'
           FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE k.contype IN ('f', 'c')";
    let kept = fence::kept(place).await?;
    let read = async {
        let mut all = Definitions::new();
        for row in place.session.query(TRIGGERS, &[]).await? {
            let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
            let name: String = row.try_get(2)?;
            let fires = fires(kept.as_ref(), &table, &name, row.try_get(4)?);
            let definition: String = row.try_get(3)?;
            all.insert((table, "trigger", name), format!("{definition} {fires}"));
        }
        for row in place.session.query(CONSTRAINTS, &[]).await? {
            let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
            let kind = if row.try_get(4)? { "foreign key" } else { "check constraint" };
            all.insert((table, kind, row.try_get(2)?), row.try_get(3)?);
        }
        Ok(all)
    };
    read.await.map_err(place.failed("read triggers and constraints"))
}

/// When a trigger fires, or will behind the opening of the fence that has disabled it.
fn fires(kept: Option<&Saved>, table: &TableName, name: &str, now: String) -> String {
    let saved = kept.into_iter().flat_map(|kept| &kept.triggers).find(|trigger| {
        (&trigger.schema, &trigger.table, trigger.name.as_str()) == (&table.schema, &table.name, name)
    });
    saved.map_or(now, |trigger| trigger.enabled.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_site_has_and_the_other_has_not_is_noted() {
        let of = |entries: &[(&'static str, &str, &str)]| -> Definitions {
            let key = |(kind, name, definition): &(&'static str, &str, &str)| {
                ((TableName::new("s", "t"), *kind, (*name).to_owned()), (*definition).to_owned())
            };
            entries.iter().map(key).collect()
        };
        let old =
            of(&[("trigger", "audit", "CREATE O"), ("foreign key", "to_u", "a"), ("trigger", "same", "x")]);
        let new = of(&[("trigger", "audit", "CREATE A"), ("trigger", "more", "x"), ("trigger", "same", "x")]);
        let notes = |is_renamed| {
            let mut findings = Findings::default();
            compare(&old, &new, is_renamed, "main", "secondary", &mut findings);
            assert!(findings.complaints.is_empty());
            findings.notes
        };
        assert_eq!(
            notes(false),
            [
                "foreign key \"to_u\" of table s.t: main has it, and secondary has not",
                "trigger \"audit\" of table s.t: it is defined otherwise at secondary than at main",
                "trigger \"more\" of table s.t: secondary has it, and main has not",
            ]
        );
        assert_eq!(notes(true).len(), 2);
    }
}
