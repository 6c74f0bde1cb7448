//! One end of a compare: a session that reads and disturbs as little as it can.
//!
//! Questions go by the simple protocol: every value comes as the text that the type's output function prints, which is what
//! is compared. A connection that is cut, a server that restarts, a statement that takes too long: the question is asked
//! again over a new session, for as long as [`PATIENCE`] lasts. A question that is asked again has changed nothing before,
//! and its answer is taken only when it is whole.
//!
//! A side can be read as of a snapshot that somebody else has exported and keeps: then every question, over whichever
//! session, is asked of that one state.
//!
//! **A table that is emptied or rewritten** (TRUNCATE, an ALTER TABLE that writes all rows anew) has no rows for a snapshot
//! that is older: the server keeps the old ones for nobody. So a table is locked (ACCESS SHARE) before the first row of it is
//! read ([`Side::hold`]). A snapshot of our own is taken behind the lock (LOCK TABLE takes none), and is younger than whatever
//! was done before. One that somebody keeps is older than the lock; so each session that reads under it looks, behind its
//! lock, whether the table still has the files that the snapshot's catalog names. It keeps them then for as long as the
//! session has its lock, and a session has one state. The lock is let go with the table: whoever wants it for himself waits
//! as long as this one table is read, and no longer.

use std::time::{Duration, Instant};

use irongate_postgres::Session;
use irongate_postgres::sql::quote_literal;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::error::Error;
use crate::flow::{End, Name};
use crate::table::Shape;

/// For how long a question is asked again and again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The first and the longest pause between two attempts.
pub(crate) const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// A snapshot is kept no longer than this: it keeps the server from clearing away dead rows.
const SNAPSHOT: Duration = Duration::from_secs(300);
/// How a snapshot begins.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// How much longer than the server's own limit an answer may take.
const LINE: Duration = Duration::from_secs(15);

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    Source = 0,
    Target = 1,
}

/// What a question is asked in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// By itself: it sees what is committed when it begins.
    Now,
    /// Together with those before it: all see one state, if no connection is lost and no more than some minutes pass.
    Snapshot,
}

/// The table that is being read.
#[derive(PartialEq, Eq, Debug)]
struct Held {
    name: Name,
    /// What locks it; nothing for what cannot be locked.
    lock: String,
}

/// Why a session under a kept snapshot is of no use, and no other one would be.
#[derive(Debug)]
enum Trouble {
    SnapshotGone,
    Rewritten(Name),
}

/// One end of a flow, and the session there.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) end: End,
    session: Option<Session>,
    /// When the open snapshot was taken.
    snapshot: Option<Instant>,
    /// The snapshot of somebody else that everything is read under.
    kept: Option<String>,
    held: Option<Held>,
    trouble: Option<Trouble>,
    /// The longest that the server may take over one statement.
    limit: Duration,
}

impl Side {
    pub(crate) fn new(end: &End, limit: Duration) -> Self {
        let end = end.clone();
        Self { end, session: None, snapshot: None, kept: None, held: None, trouble: None, limit }
    }

    /// The same, read under a snapshot that somebody keeps.
    pub(crate) fn under(mut self, snapshot: Option<&str>) -> Self {
        self.kept = snapshot.map(str::to_owned);
        self
    }

    /// Reads this table from now on: whatever is read of it is read behind a lock on it.
    pub(crate) fn hold(&mut self, name: &Name, shape: &Shape) {
        // What is foreign has no lock, and lies in no file of this server.
        let parts = shape.parts.iter().filter(|part| part.blocks.is_some() || part.from == shape.from);
        let parts: Vec<&str> = parts.map(|part| part.from.as_str()).collect();
        let lock = match parts.is_empty() {
            true => String::new(),
            false => format!("LOCK TABLE {} IN ACCESS SHARE MODE", parts.join(", ")),
        };
        let held = Some(Held { name: name.clone(), lock });
        if self.kept.is_some() && self.held != held {
            self.forget();
        }
        self.held = held;
    }

    pub(crate) fn failed(&self, doing: &str, source: irongate_postgres::Error) -> Error {
        let end = || self.end.label.clone();
        match &self.trouble {
            Some(Trouble::SnapshotGone) => return Error::SnapshotGone { end: end() },
            Some(Trouble::Rewritten(table)) => {
                return Error::Rewritten { end: end(), table: table.to_string() };
            }
            None => {}
        }
        Error::Database { end: self.end.label.clone(), doing: doing.to_owned(), source: Box::new(source) }
    }

    /// The session, opened if it is not.
    pub(crate) async fn session(&mut self) -> Result<&Session, irongate_postgres::Error> {
        if self.session.as_ref().is_none_or(|session| session.is_closed()) {
            self.snapshot = None;
            self.session = None;
            self.trouble = None;
            let session = Session::connect(&self.end.endpoint, "irongate compare").await?;
            session.batch_execute(&settings(self.limit)).await?;
            if let Some(snapshot) = &self.kept {
                let name = quote_literal(snapshot);
                let import = format!("{BEGIN}; SET TRANSACTION SNAPSHOT {name}");
                if let Err(error) = session.batch_execute(&import).await {
                    let error = irongate_postgres::Error::from(error);
                    // No such snapshot (by the version), or nobody has it any more.
                    if matches!(error.code(), Some("22023" | "42704" | "55000")) {
                        self.trouble = Some(Trouble::SnapshotGone);
                    }
                    return Err(error);
                }
                if let Some(held) = &self.held {
                    session.batch_execute(&held.lock).await?;
                    if is_rewritten(&session, &held.name).await? {
                        self.trouble = Some(Trouble::Rewritten(held.name.clone()));
                        let reason = "the table is not the one of the snapshot any more";
                        return Err(irongate_postgres::Error::Protocol(reason.into()));
                    }
                }
            }
            self.session = Some(session);
        }
        // It was just made, if it was not there.
        self.session.as_ref().ok_or(irongate_postgres::Error::Closed(None))
    }

    /// Opens the session if it is not.
    pub(crate) async fn open(&mut self) -> Result<(), Error> {
        let opened = self.session().await.map(|_| ());
        opened.map_err(|error| self.failed("connect", error))
    }

    /// Has the next question asked over a new session.
    pub(crate) fn forget(&mut self) {
        self.snapshot = None;
        self.session = None;
    }

    /// Asks, as often as it takes.
    ///
    /// # Errors
    /// [`Error::Database`] for what trying again cannot help, or has not helped for a minute.
    pub(crate) async fn ask(
        &mut self,
        scope: Scope,
        doing: &str,
        sql: &str,
    ) -> Result<Vec<SimpleQueryRow>, Error> {
        let (begun, mut pause) = (Instant::now(), PAUSES[0]);
        loop {
            let error = match self.ask_once(scope, sql).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            // Whatever state it is in, a new one is in none.
            self.forget();
            if self.trouble.is_some() || !error.is_transient() || begun.elapsed() >= PATIENCE {
                return Err(self.failed(doing, error));
            }
            tracing::warn!(end = self.end.label, %error, "a question of the compare is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    async fn ask_once(
        &mut self,
        scope: Scope,
        sql: &str,
    ) -> Result<Vec<SimpleQueryRow>, irongate_postgres::Error> {
        let limit = self.limit + LINE;
        let expired = self.snapshot.is_some_and(|taken| taken.elapsed() > SNAPSHOT);
        if self.snapshot.is_some() && (scope == Scope::Now || expired) {
            self.release().await?;
        }
        let (mut taken, is_kept) = (self.snapshot, self.kept.is_some());
        let lock = self.held.as_ref().map(|held| held.lock.as_str()).unwrap_or_default();
        let begin = format!("{BEGIN}; {lock}");
        let session = self.session().await?;
        if scope == Scope::Snapshot && taken.is_none() && !is_kept {
            session.batch_execute(&begin).await?;
            taken = Some(Instant::now());
        }
        let asked = async {
            match session.simple_query(sql).await {
                Ok(answer) => Ok(answer),
                Err(error) => Err(session.explain(error).await),
            }
        };
        let answer = session.within(limit, "an answer of the compare", asked).await?;
        self.snapshot = taken;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(row).collect())
    }

    /// Lets go of the snapshot.
    pub(crate) async fn release(&mut self) -> Result<(), irongate_postgres::Error> {
        if self.snapshot.take().is_some()
            && let Some(session) = &self.session
            && let Err(error) = session.batch_execute("COMMIT").await
        {
            self.session = None;
            return Err(error.into());
        }
        Ok(())
    }
}

/// Whether a table, or a partition of it, is not in the files any more that the session's snapshot knows it in: what the
/// catalog says is as old as the snapshot, and what the functions say is so now.
async fn is_rewritten(session: &Session, table: &Name) -> Result<bool, irongate_postgres::Error> {
    const SQL: &str = "
        WITH RECURSIVE root AS (
               SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1::text AND c.relname = $2::text),
             tree AS (
               SELECT oid FROM root
               UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
                       JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p'),
             was AS (SELECT c.oid, c.relfilenode FROM tree JOIN pg_class c USING (oid) WHERE c.relkind = 'r'),
             now AS (
               SELECT p.oid, pg_relation_filenode(p.oid)
                 FROM root, LATERAL (SELECT root.oid UNION SELECT relid FROM pg_partition_tree(root.oid)) p (oid)
                WHERE pg_relation_filenode(p.oid) IS NOT NULL)
        SELECT EXISTS ((TABLE was EXCEPT TABLE now) UNION ALL (TABLE now EXCEPT TABLE was))";
    Ok(session.query_one(SQL, &[&table.schema, &table.name]).await?.try_get(0)?)
}

/// What every session of a compare is set to: values print alike, whatever a database, a role or an address sets; nothing is
/// written; a policy that would hide rows is an error; one statement takes one processor and not too long; the server
/// notices when nobody waits any more.
fn settings(limit: Duration) -> String {
    format!(
        "SET search_path = pg_catalog; {PRINTING}; SET row_security = off; \
         SET default_transaction_read_only = on; SET default_transaction_isolation = 'read committed'; \
         SET max_parallel_workers_per_gather = 0; SET jit = off; SET work_mem = '32MB'; SET lock_timeout = '30s'; \
         SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; SET statement_timeout = {}; \
         SET client_connection_check_interval = '2s'; \
         SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'",
        limit.as_millis(),
    )
}

/// Settings on which the text of values depends, and what such text means.
pub(crate) const PRINTING: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
    SET extra_float_digits = 3; SET bytea_output = 'hex'; SET xmlbinary = 'base64'; SET lc_monetary = 'C'; \
    SET lc_numeric = 'C'; SET lc_time = 'C'; \
    SET xmloption = 'content'; SET array_nulls = on; SET client_encoding = 'UTF8'";

/// A field that is never NULL.
pub(crate) fn field(row: &SimpleQueryRow, place: usize) -> &str {
    row.try_get(place).ok().flatten().unwrap_or_default()
}

/// A number that is never NULL.
pub(crate) fn number<T: std::str::FromStr>(
    row: &SimpleQueryRow,
    place: usize,
) -> Result<T, irongate_postgres::Error> {
    field(row, place)
        .parse()
        .map_err(|_| irongate_postgres::Error::Protocol("an answer of the compare is no number".into()))
}
