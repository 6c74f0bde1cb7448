//! How the sessions that read the source under a snapshot get hold of its tables.
//!
//! Each locks them in its own name, so that nothing empties, rewrites or drops them under it, whatever becomes of the
//! others. Whoever wants a table for himself (`TRUNCATE`, `ALTER TABLE`) and comes when one session has its locks waits for
//! that one, and the next session of ours waits behind him: for ever, were it not for a time limit. An application that
//! does this twice a second must not keep a load from ever beginning. So all sessions are connected before there is a
//! snapshot, and when there is one, all lock at the same moment, with one round trip.

use irongate_postgres::{Session, catalog};

use crate::configuration::{Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::import_sql;

/// Settings of a session that reads. Several read already; and a scan that joins another begins somewhere, which would only
/// shuffle the rows. It may wait for its turn for long.
const READING: &str = "SET jit = off; SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off; \
     SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// How long a session waits for its locks.
const AT_ONCE: std::time::Duration = std::time::Duration::from_millis(500);

/// What is said of a session that came too late: a later snapshot is as good.
const JUST_THEN: &str = "just when the snapshot was taken";

/// Whether a keeper or a session has come too late.
pub(super) fn is_late(reason: &str) -> bool {
    reason.contains(JUST_THEN)
}

/// The tables of a flow's publication.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    oids: Vec<u32>,
    /// Quoted, and whether it is partitioned.
    names: Vec<(String, bool)>,
}

impl Tables {
    async fn of(session: &Session, flow: &Flow) -> Result<Self, irongate_postgres::Error> {
        let published = catalog::publication_tables(session, &[flow.publication.as_str()]).await?;
        let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
        let described = catalog::described(session, &oids).await?;
        let name = |table: &catalog::Table| {
            let name = TableName::new(&table.summary.schema, &table.summary.name).quoted();
            (name, table.summary.kind == catalog::TableKind::Partitioned)
        };
        Ok(Self { oids, names: described.iter().map(name).collect() })
    }
}

/// A session that waits for a snapshot.
#[derive(Debug)]
pub(super) struct Waiting {
    session: Session,
    tables: Tables,
}

impl Waiting {
    /// Connects at the source.
    pub(super) async fn connect(source: &End<'_>, flow: &Flow, application: &str) -> Result<Self, Error> {
        let session = source.connect(As::Extract, application).await?;
        let prepared = async {
            session.batch_execute(READING).await?;
            Tables::of(&session, flow).await
        };
        let tables = prepared.await.map_err(|error| source.failed("prepare the session", error))?;
        Ok(Self { session, tables })
    }

    /// Takes a snapshot over and locks the tables. Otherwise why it came too late.
    pub(super) async fn hold(
        self,
        flow: &Flow,
        snapshot: &str,
    ) -> Result<Result<Session, String>, irongate_postgres::Error> {
        let Self { session, tables } = self;
        let import = format!("{}; ", import_sql(snapshot, AT_ONCE));
        let late = format!("somebody waited for a table {JUST_THEN}");
        if !lock(&session, &import, &tables.names).await? {
            return Ok(Err(late));
        }
        // What has come into the publication meanwhile is in the snapshot.
        let seen = Tables::of(&session, flow).await?;
        let new: Vec<_> = seen.names.into_iter().filter(|name| !tables.names.contains(name)).collect();
        if !lock(&session, "", &new).await? {
            return Ok(Err(late));
        }
        Ok(match rewritten(&session, &seen.oids).await? {
            Some(table) => Err(format!("table {table} was rewritten or emptied {JUST_THEN}")),
            None => Ok(session),
        })
    }
}

/// Several sessions that wait for a snapshot.
#[derive(Debug)]
pub(super) struct Readers(Vec<Waiting>);

/// Those that have taken it over.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sessions: Vec<Session>,
    /// Why another one has come too late.
    pub(super) late: Option<String>,
}

impl Readers {
    pub(super) async fn connect(
        source: &End<'_>,
        flow: &Flow,
        application: &str,
        number: usize,
    ) -> Result<Self, Error> {
        let one = || Waiting::connect(source, flow, application);
        let sessions = futures_util::future::try_join_all((0..number).map(|_| one())).await?;
        Ok(Self(sessions))
    }

    /// Takes a snapshot over in all of them at once.
    pub(super) async fn hold(self, flow: &Flow, snapshot: &str) -> Result<Held, irongate_postgres::Error> {
        let holds = self.0.into_iter().map(|waiting| waiting.hold(flow, snapshot));
        let mut held = Held { sessions: Vec::new(), late: None };
        for one in futures_util::future::try_join_all(holds).await? {
            match one {
                Ok(session) => held.sessions.push(session),
                Err(reason) => held.late = Some(reason),
            }
        }
        Ok(held)
    }
}

/// Keeps tables as they are until the end of the transaction, which `before` begins. False where somebody else was before
/// this session, or has dropped or renamed a table.
async fn lock(
    session: &Session,
    before: &str,
    tables: &[(String, bool)],
) -> Result<bool, irongate_postgres::Error> {
    let only = |partitioned: bool| if partitioned { "" } else { "ONLY " };
    let names: Vec<_> =
        tables.iter().map(|(name, partitioned)| format!("{}{name}", only(*partitioned))).collect();
    let lock = match names.is_empty() {
        true => String::new(),
        false => format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", ")),
    };
    match session.batch_execute(&format!("{before}{lock}")).await.map_err(irongate_postgres::Error::from) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.code(), Some("55P03" | "42P01")) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A table that was rewritten between the snapshot and the lock: the snapshot would see it without rows, and the stream
/// does not speak of them. What the snapshot sees in the catalog is compared with what is so now.
async fn rewritten(session: &Session, oids: &[u32]) -> Result<Option<String>, irongate_postgres::Error> {
    const SQL: &str = "SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c
         WHERE c.relkind = 'r'
           AND c.oid IN (SELECT coalesce(t.relid, o.oid) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o(oid)
                         LEFT JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) t ON true)
           AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode LIMIT 1";
    let found = session.query_opt(SQL, &[&oids]).await?;
    Ok(found.map(|row| row.try_get(0)).transpose()?)
}
