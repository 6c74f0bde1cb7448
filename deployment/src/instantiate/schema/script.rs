//! `pg_dump`'s output as the objects that it makes. Decisions only.
//!
//! Each object stands behind a heading of `pg_dump`'s (`-- Name: person; Type: TABLE; Schema: public; Owner: app`). A
//! heading counts only where a statement could begin: within a quoted text, such as the body of a function, it is the
//! application's.

use std::collections::BTreeSet;

/// One object of a dump, with the statements that make it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// `pg_dump`'s word for it: `TABLE`, `INDEX`, `FK CONSTRAINT`.
    pub(crate) kind: String,
    /// Its schema; empty where it has none.
    pub(crate) schema: String,
    /// Its name, with what tells it apart from others: the arguments of a function, the table of a constraint.
    pub(crate) name: String,
    /// The statements, without a semicolon behind the last one.
    pub(crate) sql: String,
}

impl Entry {
    /// What it is called in words.
    pub(crate) fn title(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.schema.is_empty() {
            format!("{kind} {}", self.name)
        } else {
            format!("{kind} {}.{}", self.schema, self.name)
        }
    }

    /// The same object, whatever it looks like.
    pub(crate) fn key(&self) -> (&str, &str, &str) {
        (&self.kind, &self.schema, &self.name)
    }

    /// What two databases must have in common for the object to be the same: not who owns it, and not how much of a row
    /// is logged, which set-up may have changed at either.
    pub(crate) fn substance(&self) -> String {
        let is_aside = |line: &&str| {
            line.starts_with("ALTER ") && (line.contains(" OWNER TO ") || line.contains(" REPLICA IDENTITY "))
        };
        self.sql.lines().filter(|line| !is_aside(line)).collect::<Vec<_>>().join("\n").trim().to_owned()
    }

    pub(crate) fn is_foreign_key(&self) -> bool {
        self.kind == "FK CONSTRAINT"
    }

    /// The foreign key, not checked for the rows that are there. One that is so already stays as it is.
    pub(crate) fn unchecked(&self) -> String {
        if self.sql.ends_with("NOT VALID") { self.sql.clone() } else { format!("{} NOT VALID", self.sql) }
    }
}

/// Why an object does not go along, if it does not.
pub(crate) fn left_out(entry: &Entry) -> Option<&'static str> {
    match entry.kind.as_str() {
        "EVENT TRIGGER" => Some("event triggers are a database's own"),
        "USER MAPPING" => Some("it may hold a password"),
        "PUBLICATION" | "PUBLICATION TABLE" | "PUBLICATION TABLES IN SCHEMA" | "SUBSCRIPTION" => {
            Some("replication is a database's own")
        }
        "TRIGGER" | "COMMENT" if entry.sql.contains("irongate.") => Some("set-up makes it"),
        _ => None,
    }
}

/// Where the text stands at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Within {
    Statement,
    /// In a quoted text; with backslashes that escape.
    Quoted {
        quote: char,
        escapes: bool,
    },
    /// In `$tag$`.
    Dollar(String),
    Comment,
}

/// Follows the text of one line; where it stands behind it.
fn behind(line: &str, mut within: Within, depth: &mut u32) -> Within {
    let mut rest = line;
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        match &within {
            Within::Statement => {
                if rest.starts_with("--") {
                    return within;
                } else if rest.starts_with("/*") {
                    (within, taken, *depth) = (Within::Comment, 2, 1);
                } else if next == '\'' || next == '"' {
                    let before = line[..line.len() - rest.len()].chars().next_back();
                    let escapes = next == '\'' && matches!(before, Some('E' | 'e'));
                    within = Within::Quoted { quote: next, escapes };
                } else if next == '$'
                    && let Some(tag) = tag(rest)
                {
                    taken = tag.len();
                    within = Within::Dollar(tag.to_owned());
                }
            }
            Within::Quoted { quote, escapes } => {
                if *escapes && next == '\\' {
                    taken += rest[1..].chars().next().map_or(0, char::len_utf8);
                } else if next == *quote {
                    within = Within::Statement;
                }
            }
            Within::Dollar(tag) => {
                if rest.starts_with(tag.as_str()) {
                    taken = tag.len();
                    within = Within::Statement;
                }
            }
            Within::Comment => {
                if rest.starts_with("/*") {
                    (*depth, taken) = (*depth + 1, 2);
                } else if rest.starts_with("*/") {
                    (*depth, taken) = (*depth - 1, 2);
                    if *depth == 0 {
                        within = Within::Statement;
                    }
                }
            }
        }
        rest = &rest[taken..];
    }
    within
}

/// The tag with which a text in dollars begins here.
fn tag(text: &str) -> Option<&str> {
    let name = text[1..].find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
    let is_tag =
        text[1 + name..].starts_with('$') && !text[1..].starts_with(|letter: char| letter.is_ascii_digit());
    is_tag.then(|| &text[..name + 2])
}

/// A heading's type, schema and name.
fn heading(line: &str) -> Option<(String, String, String)> {
    let rest = line.strip_prefix("-- Name: ")?;
    let rest = rest.rsplit_once("; Owner: ")?.0;
    let (rest, schema) = rest.rsplit_once("; Schema: ")?;
    let (name, kind) = rest.rsplit_once("; Type: ")?;
    let schema = if schema == "-" { "" } else { schema };
    Some((kind.to_owned(), schema.to_owned(), name.to_owned()))
}

/// The objects of a dump, in its order.
pub(crate) fn entries(dump: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let (mut within, mut depth) = (Within::Statement, 0);
    for line in dump.lines() {
        if within == Within::Statement {
            if let Some((kind, schema, name)) = heading(line) {
                entries.push(Entry { kind, schema, name, sql: String::new() });
                continue;
            }
            // Words for psql, and comments between the statements.
            if line.starts_with('\\') || line.starts_with("--") {
                continue;
            }
        }
        within = behind(line, within, &mut depth);
        // What comes before the first object are settings.
        if let Some(entry) = entries.last_mut() {
            entry.sql.push_str(line);
            entry.sql.push('\n');
        }
    }
    for entry in &mut entries {
        let sql = entry.sql.trim();
        entry.sql = sql.strip_suffix(';').unwrap_or(sql).to_owned();
    }
    entries.retain(|entry| !entry.sql.is_empty());
    entries
}

/// Takes out of grants what is for the roles of Irongate, which set-up deals with. Nothing is left where all was.
pub(crate) fn without_grants_to(entry: Entry, roles: &BTreeSet<String>) -> Option<Entry> {
    if !is_about_rights(&entry) {
        return Some(entry);
    }
    let is_ours = |line: &&str| role_of(line).is_some_and(|role| roles.contains(&role));
    let sql = entry.sql.lines().filter(|line| !is_ours(line)).collect::<Vec<_>>().join("\n");
    let sql = sql.trim().trim_end_matches(';').to_owned();
    (!sql.is_empty()).then_some(Entry { sql, ..entry })
}

pub(crate) fn is_about_rights(entry: &Entry) -> bool {
    matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL")
}

/// The role that a line of a dump gives something to or takes it from.
fn role_of(line: &str) -> Option<String> {
    let line = line.trim().trim_end_matches(';');
    let line = line.strip_suffix(" WITH GRANT OPTION").unwrap_or(line);
    let (at, length) = [" OWNER TO ", " TO ", " FROM "]
        .iter()
        .filter_map(|word| Some((line.rfind(word)?, word.len())))
        .max()?;
    let role = &line[at + length..];
    let role = match role.strip_prefix('"').and_then(|role| role.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None if role == "PUBLIC" => return None,
        None => role.to_owned(),
    };
    Some(role)
}

/// The roles that objects are given to, or may be used by.
pub(crate) fn roles<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    for entry in entries {
        let about_rights = is_about_rights(entry);
        let names_one = |line: &&str| {
            about_rights
                && (line.starts_with("GRANT ") || line.starts_with("REVOKE ") || line.starts_with("ALTER "))
                || line.starts_with("ALTER ") && line.contains(" OWNER TO ")
        };
        // An owner stands behind everything else.
        let lines = entry.sql.lines().rev().take(if about_rights { usize::MAX } else { 1 });
        roles.extend(lines.filter(names_one).filter_map(role_of));
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"--
-- PostgreSQL database dump
--

\restrict abc

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: say(text); Type: FUNCTION; Schema: public; Owner: App
--

CREATE FUNCTION public.say(text) RETURNS text
    LANGUAGE sql
    AS $_$
--
-- Name: no; Type: TABLE; Schema: public; Owner: nobody
--
SELECT 'it''s; \' || $1 $_$;


ALTER FUNCTION public.say(text) OWNER TO "App";

--
-- Name: a "b"; Type: TABLE; Schema: public; Owner: app
--

CREATE TABLE public."a ""b""" (
    id integer NOT NULL,
    t text DEFAULT E'x\'
-- Name: inner; Type: TABLE; Schema: public; Owner: nobody
'
);
ALTER TABLE ONLY public."a ""b""" REPLICA IDENTITY FULL;


ALTER TABLE public."a ""b""" OWNER TO app;

--
-- Name: TABLE "a ""b"""; Type: ACL; Schema: public; Owner: app
--

GRANT SELECT ON TABLE public."a ""b""" TO irongate_extract;
GRANT ALL ON TABLE public."a ""b""" TO PUBLIC;
GRANT ALL ON TABLE public."a ""b""" TO reader WITH GRANT OPTION;


--
-- Name: server; Type: USER MAPPING; Schema: -; Owner: app
--

CREATE USER MAPPING FOR app SERVER server OPTIONS (password 'x');


--
-- PostgreSQL database dump complete
--

\unrestrict abc
"#;

    #[test]
    fn a_dump_is_taken_apart_where_pg_dump_says_and_not_where_a_function_does() {
        let entries = entries(DUMP);
        let titles: Vec<String> = entries.iter().map(Entry::title).collect();
        assert_eq!(
            titles,
            [
                "function public.say(text)",
                "table public.a \"b\"",
                "acl public.TABLE \"a \"\"b\"\"\"",
                "user mapping server"
            ]
        );
        assert!(
            entries[0].sql.starts_with("CREATE FUNCTION") && entries[0].sql.ends_with("OWNER TO \"App\"")
        );
        assert!(entries[0].sql.contains("Owner: nobody") && entries[1].sql.contains("Name: inner"));
        assert!(!entries[3].sql.contains("dump complete") && !entries[3].sql.contains("restrict"));
        assert!(entries[1].substance().ends_with("'\n);") && entries[1].substance().contains("id integer"));
        let roles = roles(entries.iter());
        assert_eq!(
            roles.iter().map(String::as_str).collect::<Vec<_>>(),
            ["App", "app", "irongate_extract", "reader"]
        );
        let ours = BTreeSet::from(["irongate_extract".to_owned()]);
        let acl = without_grants_to(entries[2].clone(), &ours).unwrap();
        assert_eq!(acl.sql.lines().count(), 2);
        assert!(left_out(&entries[3]).is_some() && left_out(&entries[1]).is_none());
        let only = Entry { sql: "GRANT SELECT ON TABLE t TO irongate_extract".into(), ..entries[2].clone() };
        assert_eq!(without_grants_to(only, &ours), None);
    }

    #[test]
    fn a_foreign_key_is_made_without_a_look_at_the_rows_once() {
        let key = |sql: &str| Entry {
            kind: "FK CONSTRAINT".into(),
            schema: "s".into(),
            name: "t k".into(),
            sql: sql.into(),
        };
        let sql = "ALTER TABLE ONLY s.t ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES s.u(a)";
        assert_eq!(key(sql).unchecked(), format!("{sql} NOT VALID"));
        assert_eq!(key(&format!("{sql} NOT VALID")).unchecked(), format!("{sql} NOT VALID"));
    }
}
