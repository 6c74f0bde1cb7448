//! Views, sequences, types and functions.

use irongate_postgres::sql::{qualified, quote_identifier, quote_literal};

use super::difference::{Facets, Statement, Work, gone, options, renamed, text};
use super::structure::{Before, Function, Sequence, Type, View};
use super::table;

pub(super) fn view_parts(wanted: &View, found: &View) -> Vec<Statement> {
    let Some(before) = &wanted.before else { return Vec::new() };
    let words = if wanted.materialized { "MATERIALIZED VIEW" } else { "VIEW" };
    let view = qualified(&wanted.schema, &wanted.name);
    let columns = before
        .columns
        .as_ref()
        .map(|columns| columns.iter().map(|(id, column)| (id.clone(), column.name.clone())).collect());
    let now = wanted.columns.iter().map(|it| (it.id, it.name.as_str()));
    let here = |name: &str| found.columns.iter().any(|it| it.name == name);
    let mut statements: Vec<Statement> = renamed(columns.as_ref(), now, here)
        .into_iter()
        .map(|(old, new)| {
            let (old, new) = (quote_identifier(old), quote_identifier(new));
            Statement::new(format!("ALTER {words} {view} RENAME COLUMN {old} TO {new}"))
        })
        .collect();
    let now = wanted.indexes.iter().map(|it| (it.id, it.name.as_str()));
    let here = |name: &str| found.indexes.iter().any(|it| it.name == name);
    statements.extend(renamed(before.indexes.as_ref(), now, here).into_iter().map(|(old, new)| {
        let old = qualified(&wanted.schema, old);
        Statement::new(format!("ALTER INDEX {old} RENAME TO {}", quote_identifier(new)))
    }));
    statements
}

pub(super) fn create_view(wanted: &View) -> String {
    let view = qualified(&wanted.schema, &wanted.name);
    let definition = wanted.definition.trim_end().trim_end_matches(';');
    if wanted.materialized {
        let with = if wanted.populated { "WITH DATA" } else { "WITH NO DATA" };
        return format!("CREATE MATERIALIZED VIEW {view} AS {definition} {with}");
    }
    format!("CREATE VIEW {view} AS {definition}")
}

pub(super) fn alter_view(wanted: &View, found: &View, facets: Facets, work: &mut Work) {
    let view = qualified(&wanted.schema, &wanted.name);
    let words = if wanted.materialized { "MATERIALIZED VIEW" } else { "VIEW" };
    let none = Before::default();
    let before = wanted.before.as_ref().unwrap_or(&none);
    let mut anew = false;
    // The text can differ between versions although nothing else does. A materialized view cannot be altered at the source
    // either, so one that was there before is the same.
    let differs = wanted.definition != found.definition && (!wanted.materialized || wanted.before.is_none());
    if differs {
        let again = format!("DROP {words} {view}; {}", create_view(wanted));
        let fits = found.columns.len() <= wanted.columns.len()
            && found
                .columns
                .iter()
                .zip(&wanted.columns)
                .all(|(a, b)| (&a.name, &a.type_name) == (&b.name, &b.type_name));
        if fits && !wanted.materialized {
            let definition = wanted.definition.trim_end().trim_end_matches(';');
            work.now.push(
                Statement::new(format!("CREATE OR REPLACE VIEW {view} AS {definition}"))
                    .or(again)
                    .by(&wanted.owner),
            );
        } else {
            anew = true;
            work.now.push(Statement::new(again).by(&wanted.owner));
        }
    }
    options(
        wanted.options.as_deref(),
        found.options.as_deref().filter(|_| !anew),
        &format!("{words} {view}"),
        work,
    );
    if facets.comments {
        for column in &wanted.columns {
            let here = found.columns.iter().find(|it| it.name == column.name).filter(|_| !anew);
            if here.and_then(|here| here.comment.as_ref()) != column.comment.as_ref() {
                let name = quote_identifier(&column.name);
                work.add(format!("COMMENT ON COLUMN {view}.{name} IS {}", text(column.comment.as_deref())));
            }
        }
    }
    if facets.indexes {
        let now: Vec<_> = wanted.indexes.iter().map(|it| (it.id, it.name.as_str())).collect();
        let here = |name: &str| !anew && found.indexes.iter().any(|it| it.name == name);
        for name in gone(before.indexes.as_ref(), &now, here) {
            work.add(format!("DROP INDEX {}", qualified(&wanted.schema, name)));
        }
        let here = if anew { &[][..] } else { &found.indexes[..] };
        table::indexes(&wanted.indexes, here, &wanted.schema, &view, facets, work);
    }
    if facets.triggers {
        let now: Vec<_> = wanted.triggers.iter().map(|it| (it.id, it.name.as_str())).collect();
        let here = |name: &str| !anew && found.triggers.iter().any(|it| it.name == name);
        for name in gone(before.triggers.as_ref(), &now, here) {
            work.add(format!("DROP TRIGGER {} ON {view}", quote_identifier(name)));
        }
        let here = if anew { &[][..] } else { &found.triggers[..] };
        table::triggers(&wanted.triggers, here, before, &view, facets, work);
    }
    if wanted.refresh {
        let with = if wanted.populated { "" } else { " WITH NO DATA" };
        work.later(format!("REFRESH MATERIALIZED VIEW {view}{with}"));
    }
}

pub(super) fn create_sequence(wanted: &Sequence) -> String {
    let Sequence { type_name, start, increment, min, max, cache, .. } = wanted;
    format!(
        "CREATE SEQUENCE {} AS {type_name} START {start} INCREMENT {increment} MINVALUE {min} MAXVALUE {max} CACHE {cache}{}",
        qualified(&wanted.schema, &wanted.name),
        if wanted.cycle { " CYCLE" } else { "" }
    )
}

/// A sequence may count otherwise at a site of two that both write, so only what the source has changed is changed.
pub(super) fn alter_sequence(wanted: &Sequence, found: &Sequence, work: &mut Work) {
    let name = qualified(&wanted.schema, &wanted.name);
    if let Some(was) = wanted.before.as_ref().and_then(|before| before.relation.as_ref()) {
        let mut options = Vec::new();
        let mut change = |was: i64, is: i64, word: &str| {
            if was != is {
                options.push(format!("{word} {is}"));
            }
        };
        change(was.seqincrement, wanted.increment, "INCREMENT");
        change(was.seqmin, wanted.min, "MINVALUE");
        change(was.seqmax, wanted.max, "MAXVALUE");
        change(was.seqstart, wanted.start, "START");
        change(was.seqcache, wanted.cache, "CACHE");
        if was.seqcycle != wanted.cycle {
            options.push(if wanted.cycle { "CYCLE" } else { "NO CYCLE" }.to_owned());
        }
        if wanted.type_name != found.type_name {
            options.insert(0, format!("AS {}", wanted.type_name));
        }
        if !options.is_empty() {
            work.add(format!("ALTER SEQUENCE {name} {}", options.join(" ")));
        }
    }
    if wanted.owned_by != found.owned_by {
        let owner = wanted.owned_by.as_ref().map_or_else(
            || "NONE".to_owned(),
            |by| format!("{}.{}", qualified(&by.schema, &by.name), quote_identifier(&by.column)),
        );
        work.later(format!("ALTER SEQUENCE {name} OWNED BY {owner}"));
    }
}

pub(super) fn type_parts(wanted: &Type, found: &Type) -> Vec<Statement> {
    let Some(before) = &wanted.before else { return Vec::new() };
    let name = qualified(&wanted.schema, &wanted.name);
    let mut statements = Vec::new();
    let labels = found.labels.as_deref().unwrap_or_default();
    let now = wanted.labels.iter().flatten().map(|it| (it.id, it.name.as_str()));
    let here = |name: &str| labels.iter().any(|it| it.name == name);
    for (old, new) in renamed(before.labels.as_ref(), now, here) {
        let (old, new) = (quote_literal(old), quote_literal(new));
        statements.push(Statement::new(format!("ALTER TYPE {name} RENAME VALUE {old} TO {new}")));
    }
    let columns = before
        .columns
        .as_ref()
        .map(|columns| columns.iter().map(|(id, column)| (id.clone(), column.name.clone())).collect());
    let attributes = found.attributes.as_deref().unwrap_or_default();
    let now = wanted.attributes.iter().flatten().map(|it| (it.id, it.name.as_str()));
    let here = |name: &str| attributes.iter().any(|it| it.name == name);
    for (old, new) in renamed(columns.as_ref(), now, here) {
        let (old, new) = (quote_identifier(old), quote_identifier(new));
        statements.push(Statement::new(format!("ALTER TYPE {name} RENAME ATTRIBUTE {old} TO {new}")));
    }
    let now = wanted.constraints.iter().map(|it| (it.id, it.name.as_str()));
    let here = |name: &str| found.constraints.iter().any(|it| it.name == name);
    for (old, new) in renamed(before.constraints.as_ref(), now, here) {
        let (old, new) = (quote_identifier(old), quote_identifier(new));
        statements.push(Statement::new(format!("ALTER DOMAIN {name} RENAME CONSTRAINT {old} TO {new}")));
    }
    statements
}

pub(super) fn create_type(wanted: &Type) -> String {
    let name = qualified(&wanted.schema, &wanted.name);
    match wanted.sort.as_str() {
        "e" => {
            let labels: Vec<String> =
                wanted.labels.iter().flatten().map(|label| quote_literal(&label.name)).collect();
            format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", "))
        }
        "d" => {
            let mut sql = format!("CREATE DOMAIN {name} AS {}", wanted.base.as_deref().unwrap_or_default());
            if let Some(collation) = &wanted.collation {
                sql.push_str(&format!(" COLLATE {collation}"));
            }
            if let Some(default) = &wanted.default {
                sql.push_str(&format!(" DEFAULT {default}"));
            }
            sql
        }
        "r" => {
            let Some(range) = &wanted.range else { return String::new() };
            let mut options = vec![format!("SUBTYPE = {}", range.subtype)];
            let mut option = |word: &str, value: &Option<String>| {
                options.extend(value.as_ref().map(|value| format!("{word} = {value}")));
            };
            option("SUBTYPE_OPCLASS", &range.opclass);
            option("COLLATION", &range.collation);
            option("SUBTYPE_DIFF", &range.difference);
            option("MULTIRANGE_TYPE_NAME", &range.multirange);
            format!("CREATE TYPE {name} AS RANGE ({})", options.join(", "))
        }
        _ => {
            let attributes: Vec<String> = wanted
                .attributes
                .iter()
                .flatten()
                .map(|it| format!("{} {}", quote_identifier(&it.name), it.type_name))
                .collect();
            format!("CREATE TYPE {name} AS ({})", attributes.join(", "))
        }
    }
}

pub(super) fn alter_type(wanted: &Type, found: &Type, work: &mut Work) {
    let name = qualified(&wanted.schema, &wanted.name);
    match wanted.sort.as_str() {
        "e" => labels(wanted, found, &name, work),
        "d" => domain(wanted, found, &name, work),
        "c" => attributes(wanted, found, &name, work),
        _ => {}
    }
}

/// New labels, each beside one that is there by then.
fn labels(wanted: &Type, found: &Type, name: &str, work: &mut Work) {
    let mut here: Vec<&str> = found.labels.iter().flatten().map(|label| label.name.as_str()).collect();
    let wanted: Vec<&str> = wanted.labels.iter().flatten().map(|label| label.name.as_str()).collect();
    for (place, label) in wanted.iter().enumerate() {
        if here.contains(label) {
            continue;
        }
        let before = wanted[..place].last();
        let after = wanted[place..].iter().find(|other| here.contains(other));
        let beside = match (before, after) {
            (Some(before), _) => format!(" AFTER {}", quote_literal(before)),
            (None, Some(after)) => format!(" BEFORE {}", quote_literal(after)),
            (None, None) => String::new(),
        };
        work.add(format!("ALTER TYPE {name} ADD VALUE {}{beside}", quote_literal(label)));
        here.push(label);
    }
}

fn domain(wanted: &Type, found: &Type, name: &str, work: &mut Work) {
    let before = wanted.before.as_ref().and_then(|before| before.constraints.as_ref());
    let now: Vec<_> = wanted.constraints.iter().map(|it| (it.id, it.name.as_str())).collect();
    let here = |name: &str| found.constraints.iter().any(|it| it.name == name);
    for constraint in gone(before, &now, here) {
        work.add(format!("ALTER DOMAIN {name} DROP CONSTRAINT {}", quote_identifier(constraint)));
    }
    if wanted.default != found.default {
        work.add(match &wanted.default {
            Some(default) => format!("ALTER DOMAIN {name} SET DEFAULT {default}"),
            None => format!("ALTER DOMAIN {name} DROP DEFAULT"),
        });
    }
    if wanted.not_null != found.not_null {
        work.add(format!("ALTER DOMAIN {name} {} NOT NULL", if wanted.not_null { "SET" } else { "DROP" }));
    }
    for constraint in &wanted.constraints {
        let quoted = quote_identifier(&constraint.name);
        match found.constraints.iter().find(|it| it.name == constraint.name) {
            Some(same) if same.definition == constraint.definition => continue,
            Some(other) if other.definition.strip_suffix(" NOT VALID") == Some(&constraint.definition) => {
                work.add(format!("ALTER DOMAIN {name} VALIDATE CONSTRAINT {quoted}"));
                continue;
            }
            Some(_) => work.add(format!("ALTER DOMAIN {name} DROP CONSTRAINT {quoted}")),
            None => {}
        }
        work.add(format!("ALTER DOMAIN {name} ADD CONSTRAINT {quoted} {}", constraint.definition));
    }
}

fn attributes(wanted: &Type, found: &Type, name: &str, work: &mut Work) {
    let (new, old) =
        (wanted.attributes.as_deref().unwrap_or_default(), found.attributes.as_deref().unwrap_or_default());
    let before = wanted.before.as_ref().and_then(|before| before.columns.as_ref());
    for column in before.into_iter().flatten() {
        let (id, column) = column;
        if !new.iter().any(|it| it.id.to_string() == *id || it.name == column.name)
            && old.iter().any(|it| it.name == column.name)
        {
            work.add(format!("ALTER TYPE {name} DROP ATTRIBUTE {}", quote_identifier(&column.name)));
        }
    }
    for attribute in new {
        let quoted = quote_identifier(&attribute.name);
        match old.iter().find(|it| it.name == attribute.name) {
            Some(same) if same.type_name == attribute.type_name => {}
            Some(_) => {
                work.add(format!("ALTER TYPE {name} ALTER ATTRIBUTE {quoted} TYPE {}", attribute.type_name))
            }
            None => work.add(format!("ALTER TYPE {name} ADD ATTRIBUTE {quoted} {}", attribute.type_name)),
        }
    }
}

pub(super) fn alter_function(wanted: &Function, found: &Function, work: &mut Work) {
    if wanted.definition != found.definition {
        let words = if wanted.procedure { "PROCEDURE" } else { "FUNCTION" };
        let name = format!("{}({})", qualified(&wanted.schema, &wanted.name), wanted.arguments);
        // Another result, or other names of its arguments, make it another function.
        let again = format!("DROP {words} {name}; {}", wanted.definition);
        work.now.push(Statement::new(wanted.definition.clone()).or(again).by(&wanted.owner));
    }
}
