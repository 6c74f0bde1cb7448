//! Tables that both sites write: whether their rules have what they need, and whether the two directions agree.

use irongate_apply::{ColumnRule, Conflicts, Rule, TableRule};
use irongate_postgres::Error;
use irongate_postgres::catalog::{self, Table};
use irongate_postgres::sql::{qualified, quote_identifier};
use irongate_trail::ReplicaIdentity;

use super::finding::restarted;
use super::{Findings, Side, identity, listed, settings, sql};
use crate::configuration::{Configuration, Flow, TableName};
use crate::interleave;
use crate::setup::Survey;
use crate::setup::conflicts::{self, Ruled};
use crate::setup::rights::Lack;

/// Clocks that differ by more than this, in seconds, are worth a word.
const APART: f64 = 1.0;
/// Storage of a type whose values never leave the row.
const PLAIN: i8 = b'p' as i8;

pub(super) async fn pair(
    source: &Side<'_>,
    target: &Side<'_>,
    configuration: &Configuration,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) {
    let Some(rules) = &flow.conflicts else { return };
    if let Err(error) = examine(source, target, flow, survey, findings).await {
        findings.unanswered(&target.end, "conflicts", &error);
    }
    let reverse = configuration
        .flows
        .values()
        .find(|other| other.database == flow.database && other.from == flow.to && other.to == flow.from);
    match reverse {
        None => findings.warning(
            &target.end,
            format!("conflicts of flow \"{}\"", flow.name),
            "no flow goes back, so that what wins here never reaches the other site",
            format!(
                "add a flow from \"{}\" to \"{}\", or leave out [flows.{}.conflicts]",
                flow.to, flow.from, flow.name
            ),
        ),
        Some(reverse) => agree(target, flow, reverse, rules, survey, findings),
    }
}

/// Whether the two directions resolve each table so that both sites end the same.
fn agree(
    target: &Side<'_>,
    flow: &Flow,
    reverse: &Flow,
    rules: &Conflicts,
    survey: &Survey,
    findings: &mut Findings,
) {
    let none = TableRule::of(Rule::Abend);
    for (_, name) in survey.source_tables() {
        let there = flow.target_of(&name);
        let here = rules.rule_of(&name.schema, &name.name).unwrap_or(&none);
        let back = reverse.conflicts.as_ref().and_then(|back| back.rule_of(&there.schema, &there.name));
        let back = back.unwrap_or(&none);
        if complement(here, back)
            || (here.rule == Rule::Abend && !reverse.includes(&there.schema, &there.name))
        {
            continue;
        }
        findings.error(
            &target.end,
            format!("table {name}"),
            format!(
                "flow \"{}\" resolves its conflicts by \"{}\" and flow \"{}\" by \"{}\": the sites would drift apart",
                flow.name,
                here.rule.name(),
                reverse.name,
                back.rule.name()
            ),
            "give both flows the same policy and the same site, or one \"keep\" and the other \"overwrite\"; columns alike",
        );
    }
}

fn complement(one: &TableRule, other: &TableRule) -> bool {
    let rules = match (&one.rule, &other.rule) {
        (Rule::Keep, Rule::Overwrite) | (Rule::Overwrite, Rule::Keep) => true,
        (Rule::Keep, _) | (Rule::Overwrite, _) => false,
        (one, other) => one == other,
    };
    let column = |(name, rule): (&String, &ColumnRule)| match (rule, other.columns.get(name)) {
        (ColumnRule::Keep, found) => found == Some(&ColumnRule::Overwrite),
        (ColumnRule::Overwrite, found) => found == Some(&ColumnRule::Keep),
        (ColumnRule::Difference, found) => found == Some(&ColumnRule::Difference),
    };
    rules && one.columns.len() == other.columns.len() && one.columns.iter().all(column)
}

async fn examine(
    source: &Side<'_>,
    target: &Side<'_>,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) -> Result<(), Error> {
    let targets = conflicts::targets(&target.session, flow, survey).await?;
    let ruled = conflicts::ruled(flow, survey, &targets);
    if ruled.is_empty() {
        return Ok(());
    }
    for side in [source, target] {
        if catalog::setting(&side.session, "track_commit_timestamp").await?.as_deref() != Some("on") {
            findings.error(
                &side.end,
                "setting \"track_commit_timestamp\"",
                "it is off: no row says when and by whom it was written, and conflicts cannot be told",
                restarted("track_commit_timestamp", "on"),
            );
        }
    }
    clocks(source, target, findings).await?;
    let role = target.end.own_login().role();
    report(target, conflicts::tables(&target.session, role).await?, findings);
    report(target, conflicts::lacking_at_target(&target.session, flow, &ruled).await?, findings);
    report(source, conflicts::lacking_at_source(&source.session, flow, &ruled).await?, findings);
    sequences(source, target, flow, findings).await?;
    for table in &ruled {
        let described = targets.iter().find(|described| {
            described.summary.schema == table.target.schema && described.summary.name == table.target.name
        });
        if let Some(described) = described {
            examine_table(source, target, flow, table, described, findings).await?;
        }
    }
    orphans(target, &ruled, &targets, findings).await
}

fn report(side: &Side<'_>, lacks: impl IntoIterator<Item = Lack>, findings: &mut Findings) {
    for lack in lacks {
        findings.error(&side.end, lack.object, lack.reason, sql(lack.sql));
    }
}

/// The later commit wins by the clocks of two machines.
async fn clocks(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    let apart = settings::apart(source, target).await?;
    if apart > APART {
        findings.warning(
            &target.end,
            "clock",
            format!(
                "it differs from that of {} by {apart:.1} s; Replicat waits for the later one",
                source.end
            ),
            "set the clocks of both sites by the same time servers",
        );
    }
    Ok(())
}

async fn examine_table(
    source: &Side<'_>,
    target: &Side<'_>,
    flow: &Flow,
    table: &Ruled<'_>,
    described: &Table,
    findings: &mut Findings,
) -> Result<(), Error> {
    let name = TableName::new(&table.source.summary.schema, &table.source.summary.name);
    let object = format!("table {name}");
    let Some(key) = &table.key else {
        findings.error(
            &target.end,
            format!("table {}", table.target),
            "it has no unique key without nulls, so that its conflicts cannot be told",
            format!("ALTER TABLE {} ADD PRIMARY KEY (...)", table.target.quoted()),
        );
        return Ok(());
    };
    let full = table.source.summary.replica_identity == ReplicaIdentity::Full;
    let columns = flow.conflicts.as_ref().and_then(|rules| rules.rule_of(&name.schema, &name.name));
    let columns = columns.map(|rule| &rule.columns).into_iter().flatten();
    if !full {
        const TOASTED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> $2)";
        let toasted: bool =
            source.session.query_one(TOASTED, &[&table.source.summary.oid, &PLAIN]).await?.try_get(0)?;
        let adds = columns.clone().any(|(_, rule)| *rule == ColumnRule::Difference);
        if toasted || adds {
            let reason = if adds {
                "differences need the old values, which come only with REPLICA IDENTITY FULL"
            } else {
                "large values do not come with every update, and a change that wins must bring the whole row"
            };
            findings.error(&source.end, &object, reason, identity::full(source, flow, table.source));
        }
    }
    for (column, rule) in columns {
        let target_object = format!("column \"{column}\" of table {}", table.target);
        if described.column(column).is_none() || key.contains(column) {
            let reason = "a policy names it, and it is not there or belongs to the key";
            let fix = format!("correct columns in [[flows.{}.conflicts.table]]", flow.name);
            findings.error(&target.end, target_object, reason, fix);
        } else if *rule == ColumnRule::Difference && !is_numeric(target, described, column).await? {
            let reason = "differences are to be added, and it is not a number that can be added exactly";
            let fix = "use smallint, integer, bigint or numeric, or another policy";
            findings.error(&target.end, target_object, reason, fix);
        } else if *rule == ColumnRule::Difference {
            let sides = [(source, &name, table.source), (target, &table.target, described)];
            for (side, name, described) in sides {
                if described.column(column).is_some_and(|column| !column.not_null) {
                    let reason =
                        "differences are to be added, and it takes NULL, to which nothing can be added";
                    let fix = format!(
                        "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL",
                        name.quoted(),
                        quote_identifier(column)
                    );
                    findings.error(
                        &side.end,
                        format!("column \"{column}\" of table {name}"),
                        reason,
                        sql([fix]),
                    );
                }
            }
        }
    }
    let others = described.indexes.iter().filter(|index| {
        index.column_names().is_none_or(|names| {
            names.len() != key.len() || names.iter().any(|name| !key.iter().any(|column| column == name))
        })
    });
    for index in others {
        findings.warning(
            &target.end,
            format!("index \"{}\" of table {}", index.name, table.target),
            "it forbids rows besides the key: two sites that write what it forbids stop the flow",
            "make its values the site's own, or drop the constraint where the sites may collide",
        );
    }
    Ok(())
}

/// Foreign keys between tables that both sites write: a parent deleted at one and a child made at the other pass each
/// other, and no key is checked for what Replicat writes.
async fn orphans(
    target: &Side<'_>,
    ruled: &[Ruled<'_>],
    targets: &[Table],
    findings: &mut Findings,
) -> Result<(), Error> {
    const SQL: &str = "SELECT k.conname, n.nspname, c.relname, pn.nspname, p.relname,
             (SELECT array_agg(a.attname::text ORDER BY x.n) FROM unnest(k.conkey) WITH ORDINALITY x(num, n)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num),
             (SELECT array_agg(a.attname::text ORDER BY x.n) FROM unnest(k.confkey) WITH ORDINALITY x(num, n)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num)
          FROM pg_catalog.pg_constraint k
          JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY ($1) AND k.confrelid = ANY ($1)
         ORDER BY n.nspname, c.relname, k.conname";
    let is_ruled = |table: &&Table| {
        let name = |ruled: &Ruled<'_>| {
            ruled.target.schema == table.summary.schema && ruled.target.name == table.summary.name
        };
        ruled.iter().any(name)
    };
    let oids: Vec<u32> = targets.iter().filter(is_ruled).map(|table| table.summary.oid).collect();
    for row in target.session.query(SQL, &[&oids]).await? {
        let text = |column| row.try_get::<_, String>(column);
        let (child, parent) = (qualified(&text(1)?, &text(2)?), qualified(&text(3)?, &text(4)?));
        let (refers, referred): (Vec<String>, Vec<String>) = (row.try_get(5)?, row.try_get(6)?);
        let pairs = refers.iter().zip(&referred);
        let same = pairs.map(|(c, p)| format!("p.{} = c.{}", quote_identifier(p), quote_identifier(c)));
        let there = refers.iter().map(|column| format!("c.{} IS NOT NULL", quote_identifier(column)));
        let find = format!(
            "SELECT c.* FROM {child} c WHERE {} AND NOT EXISTS (SELECT FROM {parent} p WHERE {})",
            there.collect::<Vec<_>>().join(" AND "),
            same.collect::<Vec<_>>().join(" AND ")
        );
        findings.warning(
            &target.end,
            format!("foreign key \"{}\" of table {}.{}", text(0)?, text(1)?, text(2)?),
            format!(
                "both sites write {parent} too: where one deletes a row there while the other makes one that refers to it, \
                 the second is left at both sites without the first"
            ),
            format!("let one site alone delete there, and look for such rows now and then: {find}"),
        );
    }
    Ok(())
}

/// Sequences that both sites count alike make the same keys.
async fn sequences(
    source: &Side<'_>,
    target: &Side<'_>,
    flow: &Flow,
    findings: &mut Findings,
) -> Result<(), Error> {
    let pairs = interleave::pairs(&source.session, &target.session, flow).await?;
    let collide: Vec<&TableName> =
        pairs.iter().filter(|pair| !interleave::is_interleaved(pair)).map(|pair| &pair.names[0]).collect();
    if !collide.is_empty() {
        findings.warning(
            &source.end,
            format!("sequences {}", listed(collide)),
            format!("both sites of flow \"{}\" may take the same values from them", flow.name),
            format!("run \"irongate sequences {} --apply\"", flow.name),
        );
    }
    Ok(())
}

async fn is_numeric(target: &Side<'_>, described: &Table, column: &str) -> Result<bool, Error> {
    const SQL: &str = "SELECT a.atttypid IN ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype,
             'int8'::pg_catalog.regtype, 'numeric'::pg_catalog.regtype)
          FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped";
    let row = target.session.query_opt(SQL, &[&described.summary.oid, &column]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
}
