//! What of a structure is to be made at a target that may have some of it. Decided apart from asking.

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::Session;

use super::dump::Dump;
use super::ledger::Line;
use super::script::{Entry, is_about_rights};

/// What the target has.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Found {
    /// Its tables, views and sequences, by schema and name.
    pub(super) relations: BTreeSet<(String, String)>,
    pub(super) schemas: BTreeSet<String>,
    /// What an earlier call for the flow has made or was to make.
    pub(super) lines: Vec<Line>,
    /// Its own structure, where there is a `pg_dump` that can read it.
    pub(super) dump: Option<Dump>,
}

/// What is to be made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Decided {
    pub(super) before: Vec<Entry>,
    pub(super) behind: Vec<Entry>,
    /// The lines speak of objects that are gone.
    pub(super) forget: bool,
}

impl Found {
    pub(super) async fn of(
        session: &Session,
        lines: Vec<Line>,
        dump: Option<Dump>,
    ) -> Result<Self, irongate_postgres::Error> {
        const RELATIONS: &str = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')";
        const SCHEMAS: &str = "SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace";
        let mut found = Self { lines, dump, ..Self::default() };
        for row in session.query(RELATIONS, &[]).await? {
            found.relations.insert((row.try_get(0)?, row.try_get(1)?));
        }
        for row in session.query(SCHEMAS, &[]).await? {
            found.schemas.insert(row.try_get(0)?);
        }
        Ok(found)
    }

    fn has(&self, entry: &Entry) -> bool {
        match entry.kind.as_str() {
            "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "SEQUENCE" | "FOREIGN TABLE" => {
                self.relations.contains(&(entry.schema.clone(), entry.name.clone()))
            }
            "SCHEMA" => self.schemas.contains(&entry.name),
            _ => false,
        }
    }
}

/// Whether an entry is about another object, such as its comment or who may use it.
fn is_about_another(entry: &Entry) -> bool {
    is_about_rights(entry) && entry.kind != "DEFAULT ACL" || entry.kind == "COMMENT"
}

/// Whether `entry` is about an object that is made. Its name is that object's, behind the kind: `TABLE person`.
fn is_of_made(entry: &Entry, made: &BTreeSet<(String, String)>) -> bool {
    // The name is quoted where it must be.
    let name = entry.name.replace('"', "");
    let Some((kind, name)) = name.split_once(' ') else { return false };
    let name = if kind == "COLUMN" { name.split_once('.').map_or(name, |(table, _)| table) } else { name };
    let schema = if kind == "SCHEMA" { "" } else { entry.schema.as_str() };
    // Of what has no schema of its own, and is never made anew, rights can be given any number of times.
    kind == "SCHEMA" && is_about_rights(entry)
        || made.contains(&(schema.to_owned(), name.to_owned()))
        || kind == "MATERIALIZED" && made.contains(&(schema.to_owned(), name.replacen("VIEW ", "", 1)))
}

/// What is to be made; otherwise what stands in the way, by name.
pub(super) fn decide(source: &Dump, found: &Found) -> Result<Decided, Vec<String>> {
    let is_gone =
        |line: &Line| line.before && line.done && line.entry.kind == "TABLE" && !found.has(&line.entry);
    let forget = found.lines.iter().any(is_gone);
    let lines: BTreeMap<_, _> =
        found.lines.iter().filter(|_| !forget).map(|line| (line.entry.key(), line)).collect();
    let empty = Dump::default();
    let there = found.dump.as_ref().unwrap_or(&empty);
    let there: BTreeMap<_, _> =
        there.before.iter().chain(&there.behind).map(|entry| (entry.key(), entry)).collect();
    let (mut in_the_way, mut made) = (Vec::new(), BTreeSet::new());
    let mut section = |entries: &[Entry]| -> Vec<Entry> {
        let mut wanted = Vec::new();
        for entry in entries {
            if is_about_another(entry) {
                if is_of_made(entry, &made) && !lines.contains_key(&entry.key()) {
                    wanted.push(entry.clone());
                }
                continue;
            }
            match (lines.get(&entry.key()), there.get(&entry.key())) {
                (Some(line), _) if line.entry.sql == entry.sql => continue,
                (_, Some(other)) if other.substance() == entry.substance() => continue,
                (_, Some(_)) => {
                    in_the_way.push(format!("{} is there, and is not the source's", entry.title()));
                    continue;
                }
                (Some(_), None) => {
                    in_the_way.push(format!("{} is there as the source had it earlier", entry.title()));
                    continue;
                }
                (None, None) => {}
            }
            if found.has(entry) {
                // What is in a schema counts.
                if entry.kind != "SCHEMA" {
                    in_the_way.push(format!(
                        "{} is there, and whether it is the source's only a pg_dump as new as the target could tell",
                        entry.title()
                    ));
                }
                continue;
            }
            made.insert((entry.schema.clone(), entry.name.replace('"', "")));
            wanted.push(entry.clone());
        }
        wanted
    };
    let (before, behind) = (section(&source.before), section(&source.behind));
    if in_the_way.is_empty() { Ok(Decided { before, behind, forget }) } else { Err(in_the_way) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, name: &str, sql: &str) -> Entry {
        let schema = if kind == "SCHEMA" { "" } else { "s" };
        Entry { kind: kind.into(), schema: schema.into(), name: name.into(), sql: sql.into() }
    }

    fn source() -> Dump {
        Dump {
            before: vec![
                entry("SCHEMA", "s", "CREATE SCHEMA s"),
                entry("TABLE", "t", "CREATE TABLE s.t (a int);\n\nALTER TABLE s.t OWNER TO app"),
                entry("ACL", "TABLE t", "GRANT SELECT ON TABLE s.t TO app"),
            ],
            behind: vec![entry("INDEX", "t_a", "CREATE INDEX t_a ON s.t (a)")],
        }
    }

    fn titles(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(Entry::title).collect()
    }

    fn has(found: &mut Found) {
        found.schemas.insert("s".into());
        found.relations.insert(("s".into(), "t".into()));
    }

    #[test]
    fn an_empty_target_gets_everything_and_an_equal_one_nothing() {
        let all = decide(&source(), &Found::default()).unwrap();
        assert_eq!(titles(&all.before), ["schema s", "table s.t", "acl s.TABLE t"]);
        assert_eq!(titles(&all.behind), ["index s.t_a"]);
        let mut found = Found { dump: Some(source()), ..Found::default() };
        has(&mut found);
        // Who owns it is not what it is.
        found.dump.as_mut().unwrap().before[1].sql =
            "CREATE TABLE s.t (a int);\n\nALTER TABLE s.t OWNER TO me".into();
        assert_eq!(decide(&source(), &found).unwrap(), Decided::default());
        // An index that only the source has is made behind the rows.
        found.dump.as_mut().unwrap().behind.clear();
        assert_eq!(titles(&decide(&source(), &found).unwrap().behind), ["index s.t_a"]);
    }

    #[test]
    fn what_is_there_and_is_other_or_unknown_is_refused_by_its_name() {
        let mut found = Found::default();
        has(&mut found);
        assert!(decide(&source(), &found).unwrap_err()[0].starts_with("table s.t is there, and whether"));
        found.dump = Some(source());
        found.dump.as_mut().unwrap().before[1].sql = "CREATE TABLE s.t (a text)".into();
        assert_eq!(decide(&source(), &found).unwrap_err(), ["table s.t is there, and is not the source's"]);
    }

    #[test]
    fn what_an_earlier_call_has_made_stays_unless_it_was_dropped_since() {
        let mut found = Found::default();
        has(&mut found);
        found.lines = source()
            .before
            .iter()
            .map(Line::before)
            .chain(source().behind.iter().map(Line::behind))
            .collect();
        assert_eq!(decide(&source(), &found).unwrap(), Decided::default());
        let mut changed = source();
        changed.before[1].sql = "CREATE TABLE s.t (a text)".into();
        assert!(decide(&changed, &found).unwrap_err()[0].contains("earlier"));
        found.relations.clear();
        let anew = decide(&source(), &found).unwrap();
        assert!(anew.forget);
        assert_eq!(
            (titles(&anew.before), anew.behind.len()),
            (vec!["table s.t".into(), "acl s.TABLE t".into()], 1)
        );
    }
}
