//! Types of the application's own that the flow's columns are made of: enumerations, domains, composites and ranges.
//! They are compared by name; that a column has another type altogether is said of the column.

use std::collections::BTreeMap;

use irongate_postgres::Error;
use irongate_postgres::sql::{quote_identifier, quote_literal};
use tokio_postgres::Client;

use super::Both;
use super::column::plain;
use crate::check::{Findings, Severity, sql};

/// What a type is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Definition {
    /// Its labels in their order.
    Enum(Vec<String>),
    /// What it is made of, whether it refuses NULL, and its constraints by name.
    Domain(String, bool, BTreeMap<String, String>),
    /// Its attributes: names and types.
    Composite(Vec<(String, String)>),
    /// The type of its bounds.
    Range(String),
}

// What a type is made of is among the types that are used.
const USED: &str = "
    WITH RECURSIVE used(type) AS (
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT x.type
          FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type
         CROSS JOIN LATERAL (
               SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL
               SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
                UNION ALL
               SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                UNION ALL
               SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
         ) x(type)
    )";

const DEFINED: &str = "
    SELECT pg_catalog.format_type(t.oid, -1), t.typtype,
           CASE t.typtype WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod)
                WHEN 'r' THEN (SELECT pg_catalog.format_type(r.rngsubtype, -1)
                                 FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) END,
           t.typnotnull,
           CASE t.typtype
                WHEN 'e' THEN array(SELECT e.enumlabel::pg_catalog.text FROM pg_catalog.pg_enum e
                                     WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
                WHEN 'd' THEN array(SELECT o.conname::pg_catalog.text FROM pg_catalog.pg_constraint o
                                     WHERE o.contypid = t.oid AND o.contype = 'c' ORDER BY o.conname)
                ELSE array(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
           END,
           CASE t.typtype
                WHEN 'd' THEN array(SELECT pg_catalog.pg_get_constraintdef(o.oid) FROM pg_catalog.pg_constraint o
                                     WHERE o.contypid = t.oid AND o.contype = 'c' ORDER BY o.conname)
                ELSE array(SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
           END
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
     WHERE t.typtype IN ('c', 'd', 'e', 'r') AND (t.typtype <> 'c' OR c.relkind = 'c')
       AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";

type Types = BTreeMap<String, Definition>;

fn types(rows: &[tokio_postgres::Row]) -> Result<Types, Error> {
    let one = |row: &tokio_postgres::Row| {
        let (names, texts): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
        let of = || -> Result<String, Error> { Ok(row.try_get::<_, Option<String>>(2)?.unwrap_or_default()) };
        let definition = match row.try_get::<_, i8>(1)?.cast_unsigned() {
            b'e' => Definition::Enum(names),
            b'd' => Definition::Domain(of()?, row.try_get(3)?, names.into_iter().zip(texts).collect()),
            b'r' => Definition::Range(of()?),
            _ => Definition::Composite(names.into_iter().zip(texts).collect()),
        };
        Ok((row.try_get(0)?, definition))
    };
    rows.iter().map(one).collect()
}

async fn used(client: &Client, tables: &[u32]) -> Result<Types, Error> {
    let question = format!("{USED} {DEFINED} AND t.oid IN (SELECT type FROM used)");
    types(&client.query(&question, &[&tables]).await?)
}

pub(super) async fn compare(both: &Both<'_>, findings: &mut Findings) -> Result<(), Error> {
    let here = used(&both.source.session, &both.source_oids()).await?;
    if here.is_empty() {
        return Ok(());
    }
    let there = types(&both.target.session.query(DEFINED, &[]).await?)?;
    let last = |name: &str| name.rsplit_once('.').map_or(name.to_owned(), |(_, name)| name.to_owned());
    for (name, source) in &here {
        let found = there.get_key_value(name).or_else(|| {
            // A renamed schema renames its types too.
            let is_meant = |other: &&String| both.is_renamed() && last(other) == last(name);
            there.keys().find(is_meant).and_then(|name| there.get_key_value(name))
        });
        match found {
            // A column of a type that is not there cannot be of that type.
            None => {}
            Some((name, target)) => differ(both, name, source, target, findings),
        }
    }
    Ok(())
}

fn differ(both: &Both<'_>, name: &str, source: &Definition, target: &Definition, findings: &mut Findings) {
    let (end, object) = (&both.target.end, format!("type {name}"));
    match (source, target) {
        (Definition::Enum(source), Definition::Enum(target)) => labels(both, name, source, target, findings),
        (Definition::Domain(base, null, checks), Definition::Domain(other, other_null, other_checks)) => {
            if base != other {
                findings.warning(
                    end,
                    &object,
                    format!("it is a domain over {other} here and over {base} at the source: not every value need fit"),
                    "make it anew as it is at the source",
                );
            }
            let (null, other_null) = (*null, *other_null);
            domain(both, name, (null, checks), (other_null, other_checks), findings);
        }
        (Definition::Composite(source), Definition::Composite(target)) => {
            composite(both, name, source, target, findings);
        }
        (Definition::Range(source), Definition::Range(target)) => {
            if source != target && !both.is_renamed() {
                findings.error(
                    end,
                    object,
                    format!("it is a range of {target} here and of {source} at the source"),
                    "make it anew as it is at the source",
                );
            }
        }
        _ => findings.error(
            end,
            object,
            "it is another kind of type here than at the source",
            "make it anew as it is at the source",
        ),
    }
}

fn labels(both: &Both<'_>, name: &str, source: &[String], target: &[String], findings: &mut Findings) {
    let (end, object) = (&both.target.end, format!("type {name}"));
    let mut before: Option<&String> = None;
    for label in source {
        if !target.contains(label) {
            let place = match (before, target.first()) {
                (Some(before), _) => format!(" AFTER {}", quote_literal(before)),
                (None, Some(first)) => format!(" BEFORE {}", quote_literal(first)),
                (None, None) => String::new(),
            };
            findings.error(
                end,
                &object,
                format!("it lacks the value {}", quote_literal(label)),
                sql([format!("ALTER TYPE {name} ADD VALUE {}{place}", quote_literal(label))]),
            );
        }
        before = Some(label);
    }
    let common = |labels: &[String], others: &[String]| -> Vec<String> {
        labels.iter().filter(|label| others.contains(label)).cloned().collect()
    };
    if common(source, target) != common(target, source) {
        findings.warning(
            end,
            object,
            "its values stand in another order here than at the source: they sort and compare otherwise",
            "make it anew with the values in the source's order",
        );
    }
}

fn domain(
    both: &Both<'_>,
    name: &str,
    (null, checks): (bool, &BTreeMap<String, String>),
    (other_null, other_checks): (bool, &BTreeMap<String, String>),
    findings: &mut Findings,
) {
    let (end, object) = (&both.target.end, format!("type {name}"));
    if other_null && !null {
        findings.warning(
            end,
            &object,
            "it refuses NULL here and not at the source",
            sql([format!("ALTER DOMAIN {name} DROP NOT NULL")]),
        );
    }
    let is_in = |checks: &BTreeMap<String, String>, definition: &str| {
        checks.values().any(|other| plain(other) == plain(definition))
    };
    for constraint in
        other_checks.iter().filter(|(_, definition)| !is_in(checks, definition)).map(|(name, _)| name)
    {
        findings.warning(
            end,
            &object,
            format!("its constraint \"{constraint}\" is not at the source: values that are sound there can be refused here"),
            sql([format!("ALTER DOMAIN {name} DROP CONSTRAINT {}", quote_identifier(constraint))]),
        );
    }
    for (constraint, definition) in checks.iter().filter(|(_, definition)| !is_in(other_checks, definition)) {
        findings.add(
            Severity::Note,
            end,
            &object,
            format!("it lacks the constraint \"{constraint}\", which matters once the target is written to"),
            Some(sql([format!(
                "ALTER DOMAIN {name} ADD CONSTRAINT {} {definition}",
                quote_identifier(constraint)
            )])),
        );
    }
}

fn composite(
    both: &Both<'_>,
    name: &str,
    source: &[(String, String)],
    target: &[(String, String)],
    findings: &mut Findings,
) {
    let (end, object) = (&both.target.end, format!("type {name}"));
    // Values are written attribute by attribute, without names.
    let types = |attributes: &[(String, String)]| -> Vec<String> {
        attributes.iter().map(|(_, type_name)| type_name.clone()).collect()
    };
    let is_renamed = both.is_renamed();
    if types(source) == types(target) || (is_renamed && source.len() == target.len()) {
        return;
    }
    let add = |(attribute, type_name): &(String, String)| {
        format!("ALTER TYPE {name} ADD ATTRIBUTE {} {type_name}", quote_identifier(attribute))
    };
    let fix = if source.starts_with(target) && !is_renamed {
        sql(source[target.len()..].iter().map(add))
    } else {
        "give it the source's attributes, in their order".into()
    };
    findings.error(
        end,
        object,
        "its attributes are others here than at the source: its values cannot be read",
        fix,
    );
}
