//! From two descriptions of an object, the source's and the target's, to the statements that make the second like the first.
//!
//! Steps with a look at the target before each: what is called otherwise is renamed ([`names`], [`parts`]), so that
//! definitions can be compared; what is not there is made ([`create`]); a column in the place of one that was dropped is another
//! one, though it is called the same ([`replaced`]); what differs is altered ([`alter`]). Each is pure.

use std::collections::BTreeMap;

use irongate_postgres::sql::{quote_identifier, quote_literal};

use super::structure::{Before, Grant, Object};
use super::{other, table};

/// One statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    /// What is run instead where it is refused, one after the other.
    pub(crate) otherwise: Vec<String>,
    /// It is run as this role.
    pub(crate) role: Option<String>,
}

impl Statement {
    pub(crate) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), otherwise: Vec::new(), role: None }
    }

    pub(crate) fn or(mut self, sql: impl Into<String>) -> Self {
        self.otherwise.push(sql.into());
        self
    }

    pub(crate) fn by(self, role: &str) -> Self {
        Self { role: Some(role.to_owned()), ..self }
    }
}

/// What is to be run.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Work {
    pub(crate) now: Vec<Statement>,
    /// When all objects of the message are there.
    pub(crate) then: Vec<Statement>,
}

impl Work {
    pub(crate) fn add(&mut self, sql: impl Into<String>) {
        self.now.push(Statement::new(sql));
    }

    pub(crate) fn later(&mut self, sql: impl Into<String>) {
        self.then.push(Statement::new(sql));
    }
}

/// Which facets of an object go with the flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facets {
    pub(crate) indexes: bool,
    pub(crate) triggers: bool,
    pub(crate) comments: bool,
    pub(crate) grants: bool,
    pub(crate) owners: bool,
}

/// What gives an object that stands under its old name here its new one.
pub(crate) fn names(wanted: &Object, before: &Before) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut schema = before.schema.as_deref();
    if wanted.schema() != schema {
        let words = wanted.words(schema, &before.name);
        if let Some(to) = wanted.schema() {
            statements.push(Statement::new(format!("ALTER {words} SET SCHEMA {}", quote_identifier(to))));
        }
        schema = wanted.schema();
    }
    if wanted.name() != before.name {
        let words = wanted.words(schema, &before.name);
        statements
            .push(Statement::new(format!("ALTER {words} RENAME TO {}", quote_identifier(wanted.name()))));
    }
    statements
}

/// Parts that have another name at the source than before, and are here under the old one.
pub(crate) fn renamed<'a>(
    before: Option<&'a BTreeMap<String, String>>,
    now: impl Iterator<Item = (i64, &'a str)>,
    here: impl Fn(&str) -> bool,
) -> Vec<(&'a str, &'a str)> {
    let Some(before) = before else { return Vec::new() };
    now.filter_map(|(id, name)| Some((before.get(&id.to_string())?.as_str(), name)))
        .filter(|(old, new)| old != new && here(old) && !here(new))
        .collect()
}

/// Parts that the source had before and has no more, as far as they are here.
pub(crate) fn gone<'a>(
    before: Option<&'a BTreeMap<String, String>>,
    now: &[(i64, &str)],
    here: impl Fn(&str) -> bool,
) -> Vec<&'a str> {
    let Some(before) = before else { return Vec::new() };
    before
        .iter()
        .filter(|(id, name)| {
            !now.iter().any(|(known, _)| known.to_string() == **id)
                && !now.iter().any(|(_, known)| known == name)
                && here(name)
        })
        .map(|(_, name)| name.as_str())
        .collect()
}

/// What renames the parts of an object.
pub(crate) fn parts(wanted: &Object, found: &Object) -> Vec<Statement> {
    match (wanted, found) {
        (Object::Table(wanted), Object::Table(found)) => table::parts(wanted, found),
        (Object::View(wanted), Object::View(found)) => other::view_parts(wanted, found),
        (Object::Type(wanted), Object::Type(found)) => other::type_parts(wanted, found),
        _ => Vec::new(),
    }
}

/// What takes away the parts that the source dropped and made again under the same name.
pub(crate) fn replaced(wanted: &Object, found: &Object, facets: Facets) -> Vec<Statement> {
    match (wanted, found) {
        (Object::Table(wanted), Object::Table(found)) => table::replaced(wanted, found, facets),
        _ => Vec::new(),
    }
}

/// What makes an object that is not here. Its parts follow by [`alter`].
pub(crate) fn create(wanted: &Object) -> Work {
    let sql = match wanted {
        Object::Table(wanted) => table::create(wanted),
        Object::View(wanted) => other::create_view(wanted),
        Object::Sequence(wanted) => other::create_sequence(wanted),
        Object::Type(wanted) => other::create_type(wanted),
        Object::Function(wanted) => wanted.definition.clone(),
        Object::Schema(wanted) => format!("CREATE SCHEMA {}", quote_identifier(&wanted.name)),
        Object::Extension(wanted) => format!(
            "CREATE EXTENSION {} SCHEMA {}",
            quote_identifier(&wanted.name),
            quote_identifier(&wanted.schema)
        ),
    };
    let statement = Statement::new(sql);
    let statement = match wanted.owner() {
        Some(owner) => statement.by(owner),
        None => statement,
    };
    Work { now: vec![statement], then: Vec::new() }
}

/// What makes an object that is here like the source's.
pub(crate) fn alter(wanted: &Object, found: &Object, facets: Facets) -> Work {
    let mut work = Work::default();
    match (wanted, found) {
        (Object::Table(wanted), Object::Table(found)) => table::alter(wanted, found, facets, &mut work),
        (Object::View(wanted), Object::View(found)) => other::alter_view(wanted, found, facets, &mut work),
        (Object::Sequence(wanted), Object::Sequence(found)) => {
            other::alter_sequence(wanted, found, &mut work);
        }
        (Object::Type(wanted), Object::Type(found)) => other::alter_type(wanted, found, &mut work),
        (Object::Function(wanted), Object::Function(found)) => {
            other::alter_function(wanted, found, &mut work);
        }
        (Object::Extension(wanted), Object::Extension(found)) if wanted.schema != found.schema => {
            let (name, schema) = (quote_identifier(&wanted.name), quote_identifier(&wanted.schema));
            work.add(format!("ALTER EXTENSION {name} SET SCHEMA {schema}"));
        }
        _ => {}
    }
    let words = wanted.words(wanted.schema(), wanted.name());
    if facets.comments && wanted.comment() != found.comment() {
        work.add(format!("COMMENT ON {words} IS {}", text(wanted.comment())));
    }
    if facets.grants {
        let owner = found.owner();
        work.now.extend(grants(wanted.grants(), found.grants(), &words).into_iter().map(|statement| {
            match owner {
                Some(owner) => statement.by(owner),
                None => statement,
            }
        }));
    }
    if facets.owners
        && let (Some(wanted), Some(found)) = (wanted.owner(), found.owner())
        && wanted != found
    {
        work.later(format!("ALTER {words} OWNER TO {}", quote_identifier(wanted)));
    }
    work
}

/// A comment as SQL.
pub(crate) fn text(comment: Option<&str>) -> String {
    comment.map_or_else(|| "NULL".to_owned(), quote_literal)
}

/// What gives and takes rights. Our own roles' stay.
fn grants(wanted: &[Grant], found: &[Grant], words: &str) -> Vec<Statement> {
    let on = words.strip_prefix("MATERIALIZED VIEW ").or_else(|| words.strip_prefix("VIEW "));
    let on = on.map_or_else(|| words.to_owned(), |name| format!("TABLE {name}"));
    let role = |grant: &Grant| grant.role.as_deref().map_or_else(|| "PUBLIC".to_owned(), quote_identifier);
    let is_ours = |grant: &&Grant| !grant.role.as_deref().is_some_and(|role| role.starts_with("irongate"));
    let lost = found.iter().filter(is_ours).filter(|grant| !wanted.contains(grant));
    let revoke = lost.map(|grant| format!("REVOKE {} ON {on} FROM {}", grant.privilege, role(grant)));
    let new = wanted.iter().filter(is_ours).filter(|grant| !found.contains(grant));
    let give = new.map(|grant| {
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        format!("GRANT {} ON {on} TO {}{option}", grant.privilege, role(grant))
    });
    revoke.chain(give).map(Statement::new).collect()
}

/// What makes the options of a relation (`pg_class.reloptions`) those of the source.
pub(crate) fn options(wanted: Option<&[String]>, found: Option<&[String]>, words: &str, work: &mut Work) {
    let (wanted, found) = (wanted.unwrap_or_default(), found.unwrap_or_default());
    let key = |option: &str| option.split_once('=').map_or(option, |(key, _)| key).to_owned();
    let set: Vec<String> = wanted
        .iter()
        .filter(|option| !found.contains(option))
        .map(|option| {
            option
                .split_once('=')
                .map_or_else(|| option.clone(), |(key, value)| format!("{key} = {}", quote_literal(value)))
        })
        .collect();
    let reset: Vec<String> = found
        .iter()
        .map(|option| key(option))
        .filter(|name| !wanted.iter().any(|option| key(option) == *name))
        .collect();
    if !set.is_empty() {
        work.add(format!("ALTER {words} SET ({})", set.join(", ")));
    }
    if !reset.is_empty() {
        work.add(format!("ALTER {words} RESET ({})", reset.join(", ")));
    }
}

#[cfg(test)]
mod tests;
