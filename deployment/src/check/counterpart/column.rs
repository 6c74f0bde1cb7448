//! Columns of the tables and of their counterparts.

use std::collections::BTreeMap;

use irongate_postgres::Error;
use irongate_postgres::catalog::{Column, Generated, Identity};
use irongate_postgres::sql::quote_identifier;
use tokio_postgres::Client;

use super::sequence::Columns;
use super::{Both, Pair};
use crate::check::{Findings, Severity, sql};
use crate::configuration::TableName;

/// What a column's description does not say: its collation if it is not the type's, and the expression of its default or
/// of its generation.
#[derive(Clone, Default)]
struct More {
    collation: Option<String>,
    expression: Option<String>,
}

type All = BTreeMap<(u32, String), More>;

async fn more(client: &Client, tables: &[u32]) -> Result<All, Error> {
    const SQL: &str = "
        SELECT a.attrelid, a.attname,
               CASE WHEN a.attcollation <> t.typcollation
                    THEN pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname) END,
               pg_catalog.pg_get_expr(d.adbin, d.adrelid)
          FROM pg_catalog.pg_attribute a
          JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
          LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
          LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
           AND (a.attcollation <> t.typcollation OR d.oid IS NOT NULL)";
    let rows = client.query(SQL, &[&tables]).await?;
    let one = |row: &tokio_postgres::Row| {
        let key = (row.try_get(0)?, row.try_get(1)?);
        Ok((key, More { collation: row.try_get(2)?, expression: row.try_get(3)? }))
    };
    rows.iter().map(one).collect()
}

/// The first version whose columns can be generated as they are read.
const VIRTUAL: u32 = 180_000;

/// A definition without what versions print differently.
pub(super) fn plain(definition: &str) -> String {
    definition.chars().filter(|c| !c.is_whitespace() && *c != '(' && *c != ')').collect()
}

/// One column at both sides.
struct One<'a> {
    both: &'a Both<'a>,
    pair: &'a Pair<'a>,
    source: &'a Column,
    target: &'a Column,
    /// What has no description of its own.
    more: [More; 2],
}

impl One<'_> {
    fn object(&self) -> String {
        object(&self.source.name, &self.pair.name)
    }

    fn alter(&self, what: &str) -> String {
        format!(
            "ALTER TABLE {} ALTER COLUMN {} {what}",
            self.pair.name.quoted(),
            quote_identifier(&self.target.name)
        )
    }
}

fn object(column: &str, table: &TableName) -> String {
    format!("column \"{column}\" of table {table}")
}

/// Compares all columns; those in `without_sequence` have no default because of that.
pub(super) async fn compare(
    both: &Both<'_>,
    without_sequence: &Columns,
    findings: &mut Findings,
) -> Result<(), Error> {
    let more = [
        more(&both.source.session, &both.source_oids()).await?,
        more(&both.target.session, &both.target_oids()).await?,
    ];
    let of = |all: &All, oid: u32, name: &str| all.get(&(oid, name.to_owned())).cloned().unwrap_or_default();
    for pair in &both.pairs {
        for source in &pair.from.columns {
            let from = of(&more[0], pair.from.summary.oid, &source.name);
            match pair.to.column(&source.name) {
                None if !source.is_writable() => absent_generated(both, pair, source, &from, findings),
                None => {
                    let key = (pair.name.clone(), source.name.clone());
                    let default = from.expression.clone().filter(|_| !without_sequence.contains(&key));
                    absent(both, pair, source, &More { expression: default, ..from }, findings);
                }
                Some(target) => {
                    let more = [from, of(&more[1], pair.to.summary.oid, &source.name)];
                    let one = One { both, pair, source, target, more };
                    how_it_comes_about(&one, findings);
                    type_of(&one, findings);
                    let key = (pair.name.clone(), source.name.clone());
                    if !without_sequence.contains(&key) {
                        default_of(&one, findings);
                    }
                }
            }
        }
        extra(both, pair, findings);
    }
    Ok(())
}

fn absent(both: &Both<'_>, pair: &Pair<'_>, source: &Column, more: &More, findings: &mut Findings) {
    let collation = more.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    let expression = more.expression.as_ref().filter(|_| !both.is_renamed());
    let default = expression.map(|expression| format!(" DEFAULT {expression}")).unwrap_or_default();
    findings.error(
        &both.target.end,
        object(&source.name, &pair.name),
        "it does not exist",
        sql([format!(
            "ALTER TABLE {} ADD COLUMN {} {}{collation}{default}",
            pair.name.quoted(),
            quote_identifier(&source.name),
            source.type_name
        )]),
    );
}

/// The stream has no values of it; it is the applications that look for it.
fn absent_generated(both: &Both<'_>, pair: &Pair<'_>, source: &Column, more: &More, findings: &mut Findings) {
    let kind = match source.generated {
        Generated::Virtual if both.target.facts.version_num >= VIRTUAL => "VIRTUAL",
        _ => "STORED",
    };
    let reason = "it does not exist, and is generated at the source: applications would miss it here";
    let fix = match more.expression.as_ref().filter(|_| !both.is_renamed()) {
        Some(expression) => sql([format!(
            "ALTER TABLE {} ADD COLUMN {} {} GENERATED ALWAYS AS ({expression}) {kind}",
            pair.name.quoted(),
            quote_identifier(&source.name),
            source.type_name
        )]),
        None => "add it as at the source".into(),
    };
    findings.warning(&both.target.end, object(&source.name, &pair.name), reason, fix);
}

fn extra(both: &Both<'_>, pair: &Pair<'_>, findings: &mut Findings) {
    for column in &pair.to.columns {
        if pair.from.column(&column.name).is_none()
            && column.not_null
            && !column.has_default
            && column.is_writable()
        {
            findings.error(
                &both.target.end,
                object(&column.name, &pair.name),
                "the source has no such column, and here it refuses NULL and has no default: no row can be inserted",
                sql([format!(
                    "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
                    pair.name.quoted(),
                    quote_identifier(&column.name)
                )]),
            );
        }
    }
}

fn how_it_comes_about(one: &One<'_>, findings: &mut Findings) {
    let (source, target, end) = (one.source, one.target, &one.both.target.end);
    match (source.generated, target.generated) {
        (Generated::No, Generated::Stored) => findings.error(
            end,
            one.object(),
            "it is generated here and not at the source: the source's values cannot be stored",
            sql([one.alter("DROP EXPRESSION")]),
        ),
        (Generated::No, Generated::Virtual) => {
            let (table, column) = (one.pair.name.quoted(), quote_identifier(&target.name));
            findings.error(
                end,
                one.object(),
                "it is generated here and not at the source: the source's values cannot be stored",
                // What is generated as it is read cannot be kept.
                sql([format!(
                    "ALTER TABLE {table} DROP COLUMN {column}, ADD COLUMN {column} {}",
                    source.type_name
                )]),
            );
        }
        (Generated::Stored | Generated::Virtual, Generated::No) => {
            let (table, column) = (one.pair.name.quoted(), quote_identifier(&target.name));
            let expression = one.more[0].expression.as_deref().unwrap_or("NULL");
            findings.error(
                end,
                one.object(),
                "it is generated at the source, which does not send it, and not here: its values would be missing",
                sql([format!(
                    "ALTER TABLE {table} DROP COLUMN {column}, ADD COLUMN {column} {} GENERATED ALWAYS AS ({expression}) STORED",
                    source.type_name
                )]),
            );
        }
        (Generated::Stored | Generated::Virtual, _) => {
            let [from, to] = one.more.each_ref().map(|more| more.expression.as_deref().map(plain));
            if from != to && !one.both.is_renamed() {
                findings.warning(
                    end,
                    one.object(),
                    "it is generated by another expression here than at the source: its values differ",
                    format!(
                        "drop it and add it again as GENERATED ALWAYS AS ({}) STORED",
                        one.more[0].expression.as_deref().unwrap_or_default()
                    ),
                );
            }
        }
        (Generated::No, Generated::No) => {}
    }
    if source.identity != target.identity && target.is_writable() {
        let spelt = |identity| match identity {
            Identity::No => "no identity column",
            Identity::Always => "GENERATED ALWAYS AS IDENTITY",
            Identity::ByDefault => "GENERATED BY DEFAULT AS IDENTITY",
        };
        findings.note(
            end,
            one.object(),
            format!(
                "it is {} here and {} at the source, which matters once the target is written to",
                spelt(target.identity),
                spelt(source.identity)
            ),
        );
    }
    if target.is_writable() && source.is_writable() && target.not_null != source.not_null {
        if target.not_null {
            findings.warning(
                end,
                one.object(),
                "it refuses NULL here and not at the source",
                sql([one.alter("DROP NOT NULL")]),
            );
        } else {
            findings.add(
                Severity::Note,
                end,
                one.object(),
                "it refuses NULL at the source and not here, which matters once the target is written to",
                Some(sql([one.alter("SET NOT NULL")])),
            );
        }
    }
}

fn unqualified(type_name: &str) -> &str {
    type_name.rsplit_once('.').map_or(type_name, |(_, name)| name)
}

fn type_of(one: &One<'_>, findings: &mut Findings) {
    let (source, target, end) = (one.source, one.target, &one.both.target.end);
    // A renamed schema renames its types too.
    let is_renamed = one.pair.source_name.schema != one.pair.name.schema;
    let same = if is_renamed {
        unqualified(&source.type_name) == unqualified(&target.type_name)
    } else {
        source.type_name == target.type_name
    };
    let collation = one.more[0].collation.as_ref().map(|name| format!(" COLLATE {name}"));
    if !same {
        findings.warning(
            end,
            one.object(),
            format!(
                "its type is {} here and {} at the source: not every value need fit",
                target.type_name, source.type_name
            ),
            sql([one.alter(&format!(
                "TYPE {0}{1} USING {2}::{0}",
                source.type_name,
                collation.as_deref().unwrap_or_default(),
                quote_identifier(&target.name)
            ))]),
        );
    } else if one.more[0].collation != one.more[1].collation && !is_renamed {
        let named = |more: &More| more.collation.clone().unwrap_or_else(|| "that of its type".to_owned());
        findings.warning(
            end,
            one.object(),
            format!(
                "its collation is {} here and {} at the source: text sorts and compares otherwise",
                named(&one.more[1]),
                named(&one.more[0])
            ),
            sql([one.alter(&format!(
                "TYPE {}{}",
                target.type_name,
                collation.as_deref().unwrap_or(" COLLATE pg_catalog.\"default\"")
            ))]),
        );
    }
}

/// Replicat names every column; it is the applications that miss a default, once they write here.
fn default_of(one: &One<'_>, findings: &mut Findings) {
    let (source, target) = (one.source, one.target);
    if !source.is_writable() || !target.is_writable() || one.both.is_renamed() {
        return;
    }
    match one.more.each_ref().map(|more| more.expression.as_deref()) {
        [Some(expression), None] if target.identity == Identity::No => findings.warning(
            &one.both.target.end,
            one.object(),
            "it has a default at the source and none here: applications would miss it once they write here",
            sql([one.alter(&format!("SET DEFAULT {expression}"))]),
        ),
        [None, Some(_)] if source.identity == Identity::No => findings.add(
            Severity::Note,
            &one.both.target.end,
            one.object(),
            "it has a default here and none at the source, which matters once the target is written to",
            Some(sql([one.alter("DROP DEFAULT")])),
        ),
        [Some(from), Some(to)] if plain(from) != plain(to) => findings.add(
            Severity::Note,
            &one.both.target.end,
            one.object(),
            "its default is another one here than at the source",
            Some(sql([one.alter(&format!("SET DEFAULT {from}"))])),
        ),
        _ => {}
    }
}
