//! Who holds up the creation of a slot: it waits until every transaction that is writing at that moment has ended, in
//! the whole cluster, prepared ones too.

use std::fmt;
use std::time::Duration;

use irongate_postgres::Error;
use tokio_postgres::Client;

/// The longest part of a query that is shown, in characters.
const LONGEST_QUERY: usize = 160;

/// A transaction that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blocker {
    /// Its server process; none for a prepared transaction.
    pub pid: Option<i32>,
    /// Its global identifier, if it is prepared.
    pub gid: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its application name.
    pub application: Option<String>,
    /// What its session does, such as `idle in transaction`; none where the asking role may not see it.
    pub state: Option<String>,
    /// How long it has been open.
    pub age: Option<Duration>,
    /// Its last statement, with values left out; none where the asking role may not see it.
    pub query: Option<String>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pid, &self.gid) {
            (Some(pid), _) => write!(f, "server process {pid}")?,
            (None, Some(gid)) => write!(f, "prepared transaction \"{gid}\"")?,
            (None, None) => f.write_str("a transaction")?,
        }
        let mut facts = Vec::new();
        let named = [("role", &self.role), ("database", &self.database), ("application", &self.application)];
        for (label, value) in named {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                facts.push(format!("{label} \"{value}\""));
            }
        }
        facts.extend(self.state.clone());
        facts.extend(self.age.map(|age| format!("open for {} s", age.as_secs())));
        if !facts.is_empty() {
            write!(f, " ({})", facts.join(", "))?;
        }
        match &self.query {
            Some(query) => write!(f, ": {query}"),
            None => Ok(()),
        }
    }
}

impl Blocker {
    /// What ends it.
    pub fn remedy(&self) -> Option<String> {
        match (&self.pid, &self.gid) {
            (Some(pid), _) => Some(format!("SELECT pg_terminate_backend({pid})")),
            (None, Some(gid)) => {
                Some(format!("ROLLBACK PREPARED {}", irongate_postgres::sql::quote_literal(gid)))
            }
            (None, None) => None,
        }
    }
}

/// Whom the server process `pid` waits for.
pub(crate) async fn of(client: &Client, pid: i32) -> Result<Vec<Blocker>, Error> {
    // Zero stands for a prepared transaction.
    const BLOCKING: &str =
        "SELECT DISTINCT b.pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) b(pid)";
    const SESSIONS: &str = "SELECT pid, usename::pg_catalog.text, datname::pg_catalog.text, application_name, state, \
         extract(epoch FROM clock_timestamp() - xact_start)::pg_catalog.float8, query \
         FROM pg_catalog.pg_stat_activity WHERE pid = ANY ($1::pg_catalog.int4[]) ORDER BY xact_start";
    const PREPARED: &str = "SELECT gid, owner::pg_catalog.text, database::pg_catalog.text, \
         extract(epoch FROM clock_timestamp() - prepared)::pg_catalog.float8 \
         FROM pg_catalog.pg_prepared_xacts ORDER BY prepared";
    let age = |seconds: Option<f64>| seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let pids: Vec<i32> =
        client.query(BLOCKING, &[&pid]).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let mut blockers = Vec::new();
    for row in client.query(SESSIONS, &[&pids]).await? {
        let query: Option<String> = row.try_get(6)?;
        // What a role may not see is shown in angle brackets.
        let visible = query.filter(|query| !query.is_empty() && !query.starts_with("<insufficient"));
        blockers.push(Blocker {
            pid: row.try_get(0)?,
            role: row.try_get(1)?,
            database: row.try_get(2)?,
            application: row.try_get(3)?,
            state: row.try_get(4)?,
            age: age(row.try_get(5)?),
            query: visible.map(|query| without_values(&query)),
            ..Blocker::default()
        });
    }
    if pids.contains(&0) {
        for row in client.query(PREPARED, &[]).await? {
            blockers.push(Blocker {
                gid: row.try_get(0)?,
                role: row.try_get(1)?,
                database: row.try_get(2)?,
                age: age(row.try_get(3)?),
                ..Blocker::default()
            });
        }
    }
    Ok(blockers)
}

/// A statement on one line, shortened, with each literal replaced by `?`: it is to be recognised, not read out.
fn without_values(query: &str) -> String {
    let mut text = String::new();
    let mut chars = query.chars().peekable();
    let mut last = ' ';
    while let Some(c) = chars.next() {
        let shown = match c {
            '\'' => {
                // A doubled quote continues the literal; so does, here, a backslash with whatever follows.
                while let Some(c) = chars.next() {
                    match c {
                        '\'' if chars.next_if_eq(&'\'').is_none() => break,
                        '\\' => drop(chars.next()),
                        _ => {}
                    }
                }
                '?'
            }
            '$' if chars.peek().is_some_and(|c| !c.is_ascii_digit()) && !last.is_alphanumeric() => {
                // A dollar-quoted text may hold anything, and so may what follows it.
                text.push('?');
                break;
            }
            c if c.is_ascii_digit() && !(last.is_alphanumeric() || last == '_' || last == '$') => {
                while chars.next_if(|c| c.is_alphanumeric() || *c == '.').is_some() {}
                '?'
            }
            c if c.is_whitespace() && last == ' ' => continue,
            c if c.is_whitespace() => ' ',
            c => c,
        };
        text.push(shown);
        last = shown;
        if text.chars().count() >= LONGEST_QUERY {
            text.push_str("...");
            break;
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_recognised_without_its_values() {
        for (query, shown) in [
            (
                "UPDATE t1 SET a = 'it''s secret',\n  b = 12.5 WHERE c2 = $1",
                "UPDATE t1 SET a = ?, b = ? WHERE c2 = $1",
            ),
            ("SELECT E'a\\'b', 0x1F", "SELECT E?, ?"),
            ("DO $$ BEGIN PERFORM 'x'; END $$", "DO ?"),
            ("SELECT $tag$ a $tag$", "SELECT ?"),
            ("SELECT 'open", "SELECT ?"),
            ("", ""),
        ] {
            assert_eq!(without_values(query), shown);
        }
        assert!(without_values(&"x ".repeat(500)).ends_with("..."));
    }

    #[test]
    fn a_blocker_is_named_with_what_ends_it() {
        let session = Blocker {
            pid: Some(42),
            role: Some("app".into()),
            state: Some("idle in transaction".into()),
            age: Some(Duration::from_secs(61)),
            query: Some("UPDATE t SET a = ?".into()),
            ..Blocker::default()
        };
        assert_eq!(
            session.to_string(),
            "server process 42 (role \"app\", idle in transaction, open for 61 s): UPDATE t SET a = ?"
        );
        assert_eq!(session.remedy().unwrap(), "SELECT pg_terminate_backend(42)");
        let prepared = Blocker { gid: Some("it's".into()), ..Blocker::default() };
        assert_eq!(prepared.to_string(), "prepared transaction \"it's\"");
        assert_eq!(prepared.remedy().unwrap(), "ROLLBACK PREPARED 'it''s'");
    }
}
