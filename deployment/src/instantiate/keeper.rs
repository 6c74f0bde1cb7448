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
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use irongate_checkpoint::LoadLedger;
use irongate_postgres::Session;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::hold::Waiting;
use crate::configuration::{Configuration, Flow};
use crate::end::End;
use crate::error::Error;

/// How often the keeper looks whether somebody is at work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a keeper says when it has connected, and waits to be told a snapshot.
pub const CONNECTED: &str = "connected";

/// How long a keeper's word is waited for.
const START_LIMIT: Duration = Duration::from_secs(30);

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

/// Keeps a snapshot until `stop` is done, the session is ended at the server, or nobody has been at work for the time
/// limit. It connects first; then `snapshot` says what is to be taken over, or nothing if nobody wants it any more. `ready`
/// is told once the snapshot is kept.
///
/// # Errors
/// [`Error::Database`] where the snapshot cannot be taken over or the connection is lost; [`Error::Keeper`] where somebody
/// came in between who wanted a table for himself. Cancel-safe: the snapshot goes.
pub async fn keep_snapshot(
    configuration: &Configuration,
    flow: &Flow,
    limit: Duration,
    snapshot: impl Future<Output = Option<String>>,
    ready: impl FnOnce(&Kept),
    stop: impl Future<Output = ()>,
) -> Result<KeeperEnd, Error> {
    let source = End::source(configuration, flow)?;
    let waiting = Waiting::connect(&source, flow, &application(flow)).await?;
    let mut stop = std::pin::pin!(stop);
    let snapshot = tokio::select! {
        snapshot = snapshot => snapshot,
        () = stop.as_mut() => None,
    };
    let Some(snapshot) = snapshot else { return Ok(KeeperEnd::Told) };
    let failed = |error| source.failed("take the snapshot over", error);
    let session = match waiting.hold(flow, &snapshot).await.map_err(failed)? {
        Ok(session) => session,
        Err(reason) => return Err(Error::Keeper { flow: flow.name.clone(), reason }),
    };
    let kept = export(&session).await.map_err(failed)?;
    ready(&kept);
    let ledger = LoadLedger::new(&flow.name);
    let mut alone_since: Option<Instant> = None;
    loop {
        match ledger.is_claimed(&session).await {
            Ok(true) => alone_since = None,
            Ok(false) => {
                let since = *alone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= limit {
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

async fn export(session: &Session) -> Result<Kept, irongate_postgres::Error> {
    const SQL: &str = "SELECT pg_catalog.pg_export_snapshot(), pid, backend_start::pg_catalog.text
        FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";
    let row = session.query_one(SQL, &[]).await?;
    Ok(Kept { snapshot: row.try_get(0)?, pid: row.try_get(1)?, start: row.try_get(2)? })
}

/// A keeper that was started here. One in this process ends when this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) kept: Kept,
    _here: Option<Here>,
}

#[derive(Debug)]
pub(super) struct Here {
    task: JoinHandle<()>,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A keeper that has connected and waits for a snapshot.
#[derive(Debug)]
pub(super) enum Candidate {
    Here {
        here: Here,
        ask: oneshot::Sender<String>,
        told: oneshot::Receiver<Kept>,
        failed: oneshot::Receiver<Error>,
    },
    Process {
        flow: String,
        child: Box<Child>,
        stdout: Lines<BufReader<ChildStdout>>,
        log: PathBuf,
    },
}

impl Candidate {
    /// Starts a keeper, and has it connect.
    pub(super) async fn connect(
        place: &KeeperPlace,
        configuration: &Configuration,
        flow: &Flow,
    ) -> Result<Self, Error> {
        match place {
            KeeperPlace::Here => Self::here(configuration, flow).await,
            KeeperPlace::Process(words) => Self::process(words, configuration, flow).await,
        }
    }

    async fn here(configuration: &Configuration, flow: &Flow) -> Result<Self, Error> {
        let (ask, asked) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let (fail, failed) = oneshot::channel();
        let (connect, connected) = oneshot::channel();
        let (configuration, flow) = (configuration.clone(), flow.clone());
        let task = tokio::spawn(async move {
            let snapshot = async {
                let _ = connect.send(());
                asked.await.ok()
            };
            let ready = move |kept: &Kept| drop(tell.send(kept.clone()));
            let limit = flow.load.keeper_limit;
            let ended =
                keep_snapshot(&configuration, &flow, limit, snapshot, ready, std::future::pending()).await;
            if let Err(error) = ended
                && let Err(error) = fail.send(error)
            {
                tracing::warn!(%error, "the snapshot of the load is lost");
            }
        });
        let here = Here { task };
        match connected.await {
            Ok(()) => Ok(Self::Here { here, ask, told, failed }),
            Err(_) => Err(why(failed).await),
        }
    }

    async fn process(words: &[OsString], configuration: &Configuration, flow: &Flow) -> Result<Self, Error> {
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| refused(&flow.name, "no program is named for it".to_owned()))?;
        let log = log(configuration, flow);
        let to_log = std::fs::create_dir_all(&configuration.state_directory)
            .and_then(|()| std::fs::File::create(&log))
            .map_err(|source| Error::Directory { path: log.clone(), source })?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .arg(&flow.name)
            .args(["--limit", &flow.load.keeper_limit.as_secs().max(1).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(to_log)
            // A signal from the terminal is for the command, and not for its keeper.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                refused(&flow.name, format!("\"{}\" cannot be run: {error}", program.display()))
            })?;
        let stdout = child.stdout.take().ok_or_else(|| Error::Internal("a keeper's output".to_owned()))?;
        let mut stdout = BufReader::new(stdout).lines();
        match line(&mut stdout).await {
            Some(line) if line == CONNECTED => {
                Ok(Self::Process { flow: flow.name.clone(), child: Box::new(child), stdout, log })
            }
            said => Err(unable(&flow.name, &mut child, &log, said)),
        }
    }

    /// Has a snapshot taken over.
    pub(super) async fn keep(self, snapshot: &str) -> Result<Keeper, Error> {
        match self {
            Self::Here { here, ask, told, failed } => {
                let _ = ask.send(snapshot.to_owned());
                match told.await {
                    Ok(kept) => Ok(Keeper { kept, _here: Some(here) }),
                    Err(_) => Err(why(failed).await),
                }
            }
            Self::Process { flow, mut child, mut stdout, log } => {
                if let Some(mut stdin) = child.stdin.take() {
                    // One that has ended says so in its log.
                    let _ = stdin.write_all(format!("{snapshot}\n").as_bytes()).await;
                }
                let said = line(&mut stdout).await;
                match said.as_deref().and_then(Kept::from_line) {
                    Some(kept) => Ok(Keeper { kept, _here: None }),
                    None => Err(unable(&flow, &mut child, &log, said)),
                }
            }
        }
    }
}

fn refused(flow: &str, reason: String) -> Error {
    Error::Keeper { flow: flow.to_owned(), reason }
}

/// Why the task of a keeper has ended.
async fn why(failed: oneshot::Receiver<Error>) -> Error {
    failed.await.unwrap_or_else(|_| Error::Internal("the keeper of the snapshot".to_owned()))
}

/// The next line that a keeper says; an empty one stands for none in time.
async fn line(stdout: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    match tokio::time::timeout(START_LIMIT, stdout.next_line()).await {
        Ok(read) => read.ok().flatten(),
        Err(_) => Some(String::new()),
    }
}

/// Why a keeper's process has not said what was expected.
fn unable(flow: &str, child: &mut Child, log: &Path, said: Option<String>) -> Error {
    let _ = child.start_kill();
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let error = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let reason = match (said, error) {
        (Some(_), _) => "it did not answer in time",
        (None, Some(error)) => error,
        (None, None) => "it ended without a word",
    };
    refused(flow, reason.to_owned())
}

/// Where the keeper's process writes its log.
fn log(configuration: &Configuration, flow: &Flow) -> PathBuf {
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
