//! Who keeps the snapshot of a load while the command that copies under it may be killed and started again.
//!
//! The keeper is a session at the source in a transaction that has the snapshot, has exported it again, and has locked the
//! tables against what would change or move them. It is a process of its own, or for an embedder a task of the
//! caller's. While a command has claimed the load at the source, somebody is at work; when nobody has for the time
//! limit, it ends: a snapshot that is kept holds back vacuum in the whole database.
//!
//! It is found again by what the ledger says of it: its server process *and when that began*, because numbers of processes
//! are used again, above all behind a restart of the server. And what it has exported must let itself be imported.

use std::ffi::OsString;
use std::future::Future;
use std::process::Stdio;
use std::time::Duration;

use irongate_checkpoint::LoadLedger;
use irongate_postgres::{Session, catalog};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::copy;
use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::import_snapshot;

/// How often the keeper looks whether somebody is at work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How much longer than for its locks a keeper's word is waited for.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a keeper says that has come too late: a later snapshot is as good.
pub(super) const REWRITTEN: &str = "was rewritten or emptied just when the snapshot was taken";

/// Where the keeper of a load's snapshot lives.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum KeeperPlace {
    /// In the caller's process: a load that is cut off begins the tables anew that it has not finished.
    #[default]
    Here,
    /// In a process of its own: this program with these arguments, to which the flow's name and the rest are added. It
    /// calls [`keep_snapshot`].
    Process(Vec<OsString>),
}

/// What a keeper is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeepOrder {
    /// The exported snapshot that it takes over.
    pub snapshot: String,
    /// How long it stays when nobody is at work.
    pub limit: Duration,
    /// How long it waits for the locks on the tables.
    pub lock_limit: Duration,
}

/// A snapshot that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The server process of the keeper's session.
    pub pid: i32,
    /// When it began, as the server prints it.
    pub start: String,
    /// The name under which the snapshot is exported.
    pub snapshot: String,
}

impl Kept {
    /// As one line.
    pub fn to_line(&self) -> String {
        format!("{}\t{}\t{}", self.pid, self.start, self.snapshot)
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut parts = line.trim_end_matches('\n').split('\t');
        let (pid, start, snapshot) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { pid: pid.parse().ok()?, start: start.to_owned(), snapshot: snapshot.to_owned() })
    }
}

/// Why a keeper has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeeperEnd {
    /// It was told to, by a signal or through the server, because the load is done or has begun anew.
    Told,
    /// Nobody has been at work for the time limit.
    Alone,
}

/// The name by which a flow's keeper is shown; the server cuts it to 63 bytes.
pub(crate) fn application(flow: &Flow) -> String {
    let name = format!("irongate keeper {}", flow.name);
    let end = (0..=name.len().min(63)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].to_owned()
}

/// Keeps a snapshot until `stop` is done, the session is ended at the server, or nobody has been at work for the limit.
/// `ready` is told once the snapshot is kept.
///
/// # Errors
/// [`Error::Database`] where the snapshot cannot be taken over or the connection is lost; [`Error::Keeper`] where a table
/// was rewritten just then. Cancel-safe: the snapshot goes.
pub async fn keep_snapshot(
    configuration: &Configuration,
    flow: &Flow,
    order: &KeepOrder,
    ready: impl FnOnce(&Kept),
    stop: impl Future<Output = ()>,
) -> Result<KeeperEnd, Error> {
    let source = End::source(configuration, flow)?;
    let session = source.connect(As::Extract, &application(flow)).await?;
    let failed = |error| source.failed("take the snapshot over", error);
    let tables = guarded(&session, flow, order).await.map_err(failed)?;
    if let Some(table) = rewritten(&session, &tables).await.map_err(failed)? {
        let reason = format!("table {table} {REWRITTEN}");
        return Err(Error::Keeper { flow: flow.name.clone(), reason });
    }
    let kept = export(&session).await.map_err(failed)?;
    ready(&kept);
    let ledger = LoadLedger::new(&flow.name);
    let mut stop = std::pin::pin!(stop);
    let mut alone_since: Option<Instant> = None;
    loop {
        match ledger.is_claimed(&session).await {
            Ok(true) => alone_since = None,
            Ok(false) => {
                let since = *alone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= order.limit {
                    return Ok(KeeperEnd::Alone);
                }
            }
            Err(error) => {
                // The server's own word for "an administrator or the load's command has ended the session".
                let told = session.closed().await.is_some_and(|reason| reason.code() == Some("57P01"));
                return if told { Ok(KeeperEnd::Told) } else { Err(error.into()) };
            }
        }
        tokio::select! {
            () = stop.as_mut() => return Ok(KeeperEnd::Told),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Begins the transaction that has the snapshot, and locks the flow's tables in it; their OIDs.
async fn guarded(
    session: &Session,
    flow: &Flow,
    order: &KeepOrder,
) -> Result<Vec<u32>, irongate_postgres::Error> {
    session
        .batch_execute(
            "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
             WHERE name IN ('transaction_timeout', 'idle_session_timeout')",
        )
        .await?;
    import_snapshot(session, &order.snapshot, order.lock_limit).await?;
    let (oids, tables) = tables(session, flow).await?;
    copy::lock(session, &tables).await?;
    Ok(oids)
}

/// The flow's published tables: their OIDs, and their quoted names with whether they are partitioned.
async fn tables(
    session: &Session,
    flow: &Flow,
) -> Result<(Vec<u32>, Vec<(String, bool)>), irongate_postgres::Error> {
    let published = catalog::publication_tables(session, &[flow.publication.as_str()]).await?;
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let described = catalog::described(session, &oids).await?;
    let tables: Vec<(String, bool)> = described
        .iter()
        .map(|table| {
            let name = TableName::new(&table.summary.schema, &table.summary.name).quoted();
            (name, table.summary.kind == catalog::TableKind::Partitioned)
        })
        .collect();
    Ok((oids, tables))
}

/// Locks the flow's tables for a session that works beside the keeper.
pub(super) async fn join(session: &Session, flow: &Flow) -> Result<(), irongate_postgres::Error> {
    let (_, tables) = tables(session, flow).await?;
    copy::lock_at_once(session, &tables).await
}

async fn export(session: &Session) -> Result<Kept, irongate_postgres::Error> {
    const SQL: &str = "SELECT pg_catalog.pg_export_snapshot(), pid, backend_start::pg_catalog.text
        FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";
    let row = session.query_one(SQL, &[]).await?;
    Ok(Kept { snapshot: row.try_get(0)?, pid: row.try_get(1)?, start: row.try_get(2)? })
}

/// A table that was rewritten between the snapshot and the lock: the snapshot would see it without rows, and the stream
/// does not speak of them. What the snapshot sees in the catalog is compared with what is so now.
pub(super) async fn rewritten(
    session: &Session,
    oids: &[u32],
) -> Result<Option<String>, irongate_postgres::Error> {
    const SQL: &str = "SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c
         WHERE c.relkind = 'r'
           AND c.oid IN (SELECT coalesce(t.relid, o.oid) FROM pg_catalog.unnest($1::pg_catalog.oid[]) o(oid)
                         LEFT JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) t ON true)
           AND pg_catalog.pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode LIMIT 1";
    let found = session.query_opt(SQL, &[&oids]).await?;
    Ok(found.map(|row| row.try_get(0)).transpose()?)
}

/// A keeper that was started here. One in this process ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) kept: Kept,
    _here: Option<Here>,
}

#[derive(Debug)]
struct Here {
    task: JoinHandle<()>,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Has a snapshot taken over.
    pub(super) async fn start(
        place: &KeeperPlace,
        configuration: &Configuration,
        flow: &Flow,
        order: KeepOrder,
    ) -> Result<Self, Error> {
        match place {
            KeeperPlace::Here => Self::here(configuration, flow, order).await,
            KeeperPlace::Process(words) => Self::process(words, configuration, flow, &order).await,
        }
    }

    async fn here(configuration: &Configuration, flow: &Flow, order: KeepOrder) -> Result<Self, Error> {
        let (tell, told) = oneshot::channel();
        let (configuration, flow) = (configuration.clone(), flow.clone());
        let (fail, failed) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = move |kept: &Kept| drop(tell.send(kept.clone()));
            let ended = keep_snapshot(&configuration, &flow, &order, ready, std::future::pending()).await;
            if let Err(error) = ended
                && let Err(error) = fail.send(error)
            {
                tracing::warn!(%error, "the snapshot of the load is lost");
            }
        });
        let here = Here { task };
        match told.await {
            Ok(kept) => Ok(Self { kept, _here: Some(here) }),
            Err(_) => Err(match failed.await {
                Ok(error) => error,
                Err(_) => Error::Internal("the keeper of the snapshot".to_owned()),
            }),
        }
    }

    async fn process(
        words: &[OsString],
        configuration: &Configuration,
        flow: &Flow,
        order: &KeepOrder,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Keeper { flow: flow.name.clone(), reason };
        let (program, arguments) =
            words.split_first().ok_or_else(|| failed("no program is named for it".to_owned()))?;
        let path = log(configuration, flow);
        let log = std::fs::create_dir_all(&configuration.state_directory)
            .and_then(|()| std::fs::File::create(&path))
            .map_err(|source| Error::Directory { path: path.clone(), source })?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .arg(&flow.name)
            .args(["--snapshot", &order.snapshot])
            .args(["--limit", &order.limit.as_secs().max(1).to_string()])
            .args(["--lock-limit", &order.lock_limit.as_secs().max(1).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A signal from the terminal is for the command, and not for its keeper.
            .process_group(0)
            .spawn()
            .map_err(|error| failed(format!("\"{}\" cannot be run: {error}", program.display())))?;
        let mut line = String::new();
        let answer = async {
            match child.stdout.take() {
                Some(stdout) => BufReader::new(stdout).read_line(&mut line).await,
                None => Ok(0),
            }
        };
        let read = tokio::time::timeout(order.lock_limit + START_LIMIT, answer).await;
        let is_late = read.is_err();
        match Kept::from_line(&line) {
            Some(kept) => Ok(Self { kept, _here: None }),
            None => {
                let _ = child.start_kill();
                let said = std::fs::read_to_string(&path).unwrap_or_default();
                let error = said.lines().rev().find_map(|line| line.strip_prefix("error: "));
                let reason = match (is_late, error) {
                    (true, _) => "it did not answer in time",
                    (false, Some(error)) => error,
                    (false, None) => "it ended without a word",
                }
                .to_owned();
                Err(failed(reason))
            }
        }
    }
}

/// Where the keeper's process writes its log.
fn log(configuration: &Configuration, flow: &Flow) -> std::path::PathBuf {
    configuration.state_directory.join(format!("{}-keeper.log", flow.name))
}

/// Whether the keeper of the ledger's word still has its snapshot.
pub(super) async fn is_alive(
    session: &Session,
    pid: i32,
    start: &str,
) -> Result<bool, irongate_postgres::Error> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
         WHERE pid = $1 AND backend_start::pg_catalog.text = $2 AND application_name LIKE 'irongate keeper %'
           AND datname = current_database())";
    Ok(session.query_one(SQL, &[&pid, &start]).await?.try_get(0)?)
}

/// Ends every keeper of the flow that the role may end: none is needed any more.
pub(super) async fn end_all(session: &Session, flow: &Flow) -> Result<(), irongate_postgres::Error> {
    end_sessions(session, &application(flow)).await
}

/// Ends the role's sessions of a name, and waits until they are gone.
pub(super) async fn end_sessions(
    session: &Session,
    application: &str,
) -> Result<(), irongate_postgres::Error> {
    const END: &str = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
         WHERE application_name = $1 AND datname = current_database() AND usename = current_user
           AND pid <> pg_catalog.pg_backend_pid()";
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let left: i64 = session.query_one(END, &[&application]).await?.try_get(0)?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(irongate_postgres::Error::Timeout {
                what: format!("the end of sessions \"{application}\""),
                limit: START_LIMIT,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
