//! The manager's side: one conversation, and the unix socket that leads to it.
//!
//! Connections have a task each, at most [`CONNECTIONS`] of them; a client that says nothing, says too much or reads
//! nothing is left after [`PATIENCE`]. Whoever comes through the unix socket may do everything; whoever comes from another
//! site what the [`Doorkeeper`] of its connection lets through.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::task::Context;
use std::time::Duration;

use irongate_deployment::configuration::HookName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::remote::Certified;
use super::{Command, MAX_REQUEST, Order, Outcome, Reply, Request, Response, VERSION};
use crate::connections::serve_all;
use crate::error::Error;
use crate::event::{Kind, Notice, Severity};
use crate::hook::{Context as HookContext, HookResult, NotRun};
use crate::info::{Info, info};
use crate::manager::{Message, Said, Shared};
use crate::supervisor::{Answer, Refusal, Word};

/// Connections at one time.
const CONNECTIONS: usize = 64;
/// How long a client may take to ask, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that an order is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How often an order that is waited for is looked at, at the least.
const LOOK: Duration = Duration::from_millis(200);
/// Most events and lines that are given at once.
const MOST: usize = 10_000;

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    shared: Shared,
    path: PathBuf,
}

/// The socket goes with its server, unless the manager is killed; the next one removes it then.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Server {
    /// Binds. The manager's lock must be held: a socket that is there is then a dead one's.
    pub(crate) fn bind(path: &Path, shared: Shared) -> Result<Self, Error> {
        let listen = |source| Error::Listen { address: path.display().to_string(), source };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(listen)?;
        let server = Self { listener, shared, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(listen)?;
        Ok(server)
    }

    /// Serves until cancelled.
    pub(crate) async fn run(self) {
        let accept =
            |context: &mut Context<'_>| self.listener.poll_accept(context).map_ok(|(stream, _)| stream);
        serve_all("a control connection", CONNECTIONS, accept, |stream| {
            let shared = self.shared.clone();
            async move {
                if let Err(error) = serve(stream, &shared, &Doorkeeper::Owner).await {
                    tracing::debug!(%error, "a control connection ended");
                }
            }
        })
        .await;
    }
}

/// Who may do what on a connection.
#[derive(Debug)]
pub(super) enum Doorkeeper {
    /// Whoever can open the socket.
    Owner,
    /// Another site, once its certificate has been looked at.
    Site(Certified),
}

fn refuse(message: impl Into<String>, hint: Option<String>) -> Reply {
    Reply::Error { message: message.into(), hint, transient: false }
}

fn broken() -> Reply {
    Reply::Error { message: "the manager is ending".to_owned(), hint: None, transient: true }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Response { version: VERSION, reply })?;
    line.push(b'\n');
    let sending = async {
        to.write_all(&line).await?;
        to.flush().await
    };
    timeout(PATIENCE, sending).await?
}

/// Hears one request and answers it.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite,
    shared: &Shared,
    doorkeeper: &Doorkeeper,
) -> io::Result<()> {
    let (from, to) = tokio::io::split(stream);
    let (mut from, mut to) = (BufReader::new(from), to);
    let answered = answer(&mut from, &mut to, shared, doorkeeper).await;
    // What was said goes out before the end does.
    let _ = timeout(PATIENCE, to.shutdown()).await;
    answered
}

async fn answer(
    mut from: &mut (impl AsyncBufReadExt + Unpin),
    mut to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    doorkeeper: &Doorkeeper,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut limited = (&mut from).take(MAX_REQUEST as u64 + 1);
    match timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await {
        Err(_) => return send(&mut to, refuse("no request came in time", None)).await,
        Ok(read) => read?,
    };
    if line.is_empty() {
        return Ok(());
    }
    if line.len() > MAX_REQUEST {
        let message = format!("the request is longer than {MAX_REQUEST} bytes");
        return send(&mut to, refuse(message, None)).await;
    }
    let request = match parse(&line) {
        Ok(request) => request,
        Err(reply) => return send(&mut to, reply).await,
    };
    let by = match doorkeeper {
        Doorkeeper::Owner => None,
        Doorkeeper::Site(certified) => match certified.admit(&request) {
            Ok(site) => Some(site),
            Err(refused) => {
                let _ = shared.messages.send(Message::TurnedAway { reason: refused.message.clone() }).await;
                return send(&mut to, refuse(refused.message, Some(refused.hint))).await;
            }
        },
    };
    let by = by.as_deref();
    let reply = match request.command {
        Command::Events { count, follow } => return events(shared, count, follow, &mut from, &mut to).await,
        Command::Ping => {
            let site = shared.overview.borrow().site.clone();
            Reply::Pong { site, pid: std::process::id(), release: env!("CARGO_PKG_VERSION").to_owned() }
        }
        Command::Info => match look(shared).await {
            Some(info) => Reply::Info(Box::new(info)),
            None => broken(),
        },
        Command::Start(order) => obey(shared, Word::Start, &order, by).await,
        Command::Stop(order) => obey(shared, Word::Stop, &order, by).await,
        Command::Restart(order) => obey(shared, Word::Restart, &order, by).await,
        Command::Kill(order) => obey(shared, Word::Kill, &order, by).await,
        Command::Report { group, lines } => report(shared, group, lines).await,
        Command::Stats { names } => stats(shared, &names).await,
        Command::Hooks => Reply::Hooks { hooks: shared.hooks.states() },
        Command::Hook { hook, context } => run_hook(shared, hook, &context, by).await,
        Command::Reload => {
            let (reply, answer) = oneshot::channel();
            match ask(shared, Message::Reload { reply }, answer).await {
                Some(Ok(difference)) => Reply::Reloaded(difference),
                Some(Err(error)) => Reply::Error {
                    message: error.to_string(),
                    hint: error.hint(),
                    transient: error.is_transient(),
                },
                None => broken(),
            }
        }
    };
    send(&mut to, reply).await
}

fn parse(line: &[u8]) -> Result<Request, Reply> {
    #[derive(serde::Deserialize)]
    struct Header {
        version: u32,
    }
    let malformed =
        |error: serde_json::Error| refuse(format!("the request cannot be understood: {error}"), None);
    let header: Header = serde_json::from_slice(line).map_err(malformed)?;
    if header.version != VERSION {
        return Err(refuse(
            format!("the request has version {}, and this manager speaks version {VERSION}", header.version),
            Some("use the release that the manager runs, or restart the manager with this one".to_owned()),
        ));
    }
    serde_json::from_slice(line).map_err(malformed)
}

/// Asks the manager's loop; `None` when it is gone.
async fn ask<T>(shared: &Shared, message: Message, answer: oneshot::Receiver<T>) -> Option<T> {
    shared.messages.send(message).await.ok()?;
    answer.await.ok()
}

async fn look(shared: &Shared) -> Option<Info> {
    let (overview, seen) = (shared.overview.borrow().clone(), shared.seen.borrow().clone());
    let directory = shared.state_directory.clone();
    tokio::task::spawn_blocking(move || info(&directory, &overview, &seen)).await.ok()
}

/// The groups that are meant by names of groups and flows.
fn select(shared: &Shared, names: &[String]) -> Result<Vec<String>, Reply> {
    let overview = shared.overview.borrow();
    for name in names {
        if !overview.groups.iter().any(|group| group.name == *name || group.flow == *name) {
            let known: Vec<_> = overview.groups.iter().map(|group| group.name.as_str()).collect();
            let message = format!("there is no group or flow \"{name}\" at site \"{}\"", overview.site);
            return Err(refuse(message, Some(format!("there are: {}", known.join(", ")))));
        }
    }
    let is_meant = |group: &&crate::info::GroupOverview| {
        names.is_empty() || names.iter().any(|name| group.name == *name || group.flow == *name)
    };
    Ok(overview.groups.iter().filter(is_meant).map(|group| group.name.clone()).collect())
}

/// Gives an order to all that are meant, then waits for all of them.
async fn obey(shared: &Shared, word: Word, order: &Order, by: Option<&str>) -> Reply {
    let groups = match select(shared, &order.names) {
        Ok(groups) => groups,
        Err(reply) => return reply,
    };
    let mut said = Vec::new();
    for group in groups {
        let (reply, answer) = oneshot::channel();
        let by = by.map(str::to_owned);
        match ask(shared, Message::Say { group: group.clone(), word, by, reply }, answer).await {
            Some(Ok(answer)) => said.push((group, answer)),
            Some(Err(Refusal::Unknown)) => {
                return refuse(format!("group \"{group}\" is no longer there"), None);
            }
            Some(Err(Refusal::ShuttingDown)) | None => return broken(),
        }
    }
    let wait = Duration::try_from_secs_f64(order.wait_seconds).unwrap_or_default().min(LONGEST_WAIT);
    let deadline = Instant::now() + wait;
    let mut overview = shared.overview.clone();
    loop {
        let Some(info) = look(shared).await else { return broken() };
        let outcomes: Vec<_> = said.iter().map(|(group, said)| outcome(&info, group, said)).collect();
        let is_settled = outcomes.iter().all(|outcome| outcome.done || outcome.severity == Severity::Error);
        if is_settled || Instant::now() >= deadline {
            return Reply::Done { outcomes };
        }
        // Status files change without a word to the manager.
        let _ = timeout(LOOK, overview.changed()).await;
    }
}

fn outcome(info: &Info, group: &str, said: &Said) -> Outcome {
    use irongate_checkpoint::State;
    let shown = info.groups.iter().find(|shown| shown.name == group);
    let wants_end =
        matches!(said.answer, Answer::Stopping | Answer::AlreadyStopped | Answer::Stopped | Answer::Killing);
    let done = match (shown, wants_end) {
        (None, wants_end) => wants_end,
        (Some(shown), true) => shown.pid.is_none(),
        (Some(shown), false) => shown.state == State::Running && !shown.doing.starts_with("stopping"),
    };
    let has_failed = shown.is_some_and(|shown| shown.state == State::Abended || shown.held.is_some());
    let severity = match (done, has_failed && !wants_end) {
        (true, _) => Severity::Info,
        (false, true) => Severity::Error,
        (false, false) => Severity::Warning,
    };
    let doing = shown.map_or("no longer configured".to_owned(), |shown| match &shown.error {
        Some(error) if !done => format!("{}: {error}", shown.doing),
        _ => shown.doing.clone(),
    });
    Outcome {
        group: group.to_owned(),
        answer: said.answer,
        done,
        doing,
        severity,
        unsaved: said.unsaved.clone(),
    }
}

/// Runs a hook of this site's own configuration to its end, whether or not the one who asks is still there then.
async fn run_hook(shared: &Shared, hook: HookName, context: &HookContext, by: Option<&str>) -> Reply {
    let by = by.map_or_else(String::new, |site| format!(" from site \"{site}\""));
    match shared.hooks.run(hook, context).await {
        Ok(report) => {
            let (severity, how) = match &report.result {
                HookResult::Done => (Severity::Info, "done".to_owned()),
                HookResult::Failed(how) => (Severity::Warning, format!("failed: {how}")),
                HookResult::Killed => (Severity::Warning, "killed: its time was over".to_owned()),
            };
            let HookContext { run, step, .. } = context;
            let seconds = report.seconds;
            let text = format!(
                "hook \"{hook}\" for step \"{step}\" of run \"{run}\"{by}: {how} after {seconds:.1} s"
            );
            let _ = shared.messages.send(Message::Tell(Notice::new(severity, Kind::HookRan, text))).await;
            Reply::Hooked(report)
        }
        Err(NotRun::Unknown) => {
            let site = &shared.hooks.site;
            let hint =
                format!("configure it with [hooks.{site}.{hook}] at that site, and have its manager reload");
            refuse(format!("site \"{site}\" has no hook \"{hook}\""), Some(hint))
        }
        Err(NotRun::Busy) => Reply::Error {
            message: format!("hook \"{hook}\" of site \"{}\" is running already", shared.hooks.site),
            hint: Some("wait until it has ended, or its time is over".to_owned()),
            transient: true,
        },
        Err(NotRun::Unsayable) => refuse("what the hook is to be told holds a control character", None),
    }
}

async fn report(shared: &Shared, group: String, lines: usize) -> Reply {
    if let Err(reply) = select(shared, std::slice::from_ref(&group)) {
        return reply;
    }
    let is_group = shared.overview.borrow().groups.iter().any(|known| known.name == group);
    if !is_group {
        return refuse(format!("\"{group}\" is a flow; a report is of one group"), None);
    }
    let reports = shared.reports.clone();
    match tokio::task::spawn_blocking(move || reports.tail(&group, lines.min(MOST))).await {
        Ok(Ok(text)) => Reply::Report { text },
        Ok(Err(error)) => refuse(error.to_string(), error.hint()),
        Err(_) => broken(),
    }
}

/// What groups have done, as their status files say it; a group that was never started has none.
async fn stats(shared: &Shared, names: &[String]) -> Reply {
    let groups = match select(shared, names) {
        Ok(groups) => groups,
        Err(reply) => return reply,
    };
    let directory = shared.state_directory.clone();
    let read = move || {
        let statuses = groups.iter().map(|group| irongate_checkpoint::read_status(&directory, group));
        statuses.collect::<Result<Vec<_>, _>>()
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(statuses)) => Reply::Stats { statuses: statuses.into_iter().flatten().collect() },
        Ok(Err(error)) => refuse(error.to_string(), error.hint()),
        Err(_) => broken(),
    }
}

async fn events(
    shared: &Shared,
    count: usize,
    follow: bool,
    from: &mut (impl AsyncRead + Unpin),
    mut to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    // Subscribed first, so that none is lost in between; one that is in both is told once.
    let mut coming = shared.events.subscribe();
    let (reply, answer) = oneshot::channel();
    let Some((recent, last)) = ask(shared, Message::Recent { count: count.min(MOST), reply }, answer).await
    else {
        return send(&mut to, broken()).await;
    };
    for entry in recent {
        send(&mut to, Reply::Event(entry)).await?;
    }
    send(&mut to, Reply::Caught { missed: 0 }).await?;
    if !follow {
        return Ok(());
    }
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            entry = coming.recv() => match entry {
                Ok((number, _)) if number <= last => {}
                Ok((_, entry)) => send(&mut to, Reply::Event(entry)).await?,
                Err(RecvError::Lagged(missed)) => send(&mut to, Reply::Caught { missed }).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
            // A client that has gone is noticed although nothing happens.
            read = from.read(&mut rest) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}
