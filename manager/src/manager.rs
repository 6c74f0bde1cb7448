//! The manager as a process: the supervisor acted out.
//!
//! One task owns the supervisor, the processes and the files, and takes one message after the other; so nothing that is
//! decided is overtaken. Everything that may wait (processes that end, people, the watch, the hook) has a task of its
//! own and sends messages. What the loop itself does is short: small files, signals, starting a process.

mod acts;
mod reload;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use irongate_checkpoint::GroupLock;
use irongate_deployment::configuration::{HookName, HookOptions};
use irongate_trail::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control::{RemoteServer, Server};
use crate::error::Error;
use crate::event::{Entry, EventLog, Kind, Notice, RECENT, Runner, Severity};
use crate::hook::Hooks;
use crate::http::Http;
use crate::info::{GroupOverview, Overview};
use crate::process::Handle;
use crate::report::Reports;
use crate::settings::{Difference, InForce, MANAGER, ManagerSettings};
use crate::supervisor::{Answer, Desired, Event, Exit, Phase, Refusal, Supervisor, Word};
use crate::systemd::Systemd;
use crate::watch::{Concern, Seen, Watch, WatchSettings};

/// How often the loop turns when nothing happens.
const TURN: Duration = Duration::from_millis(500);
/// How often things are looked after: processes that nobody has told of, reports, wishes that could not be saved.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// How long the hook may take for what is left when the manager ends.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// Name of the lock in the manager's directory.
const LOCK: &str = "manager";

/// The manager of a site.
#[derive(Debug)]
pub struct Manager {
    settings: ManagerSettings,
    reload: (mpsc::Sender<()>, mpsc::Receiver<()>),
    concerns: watch::Sender<Vec<Concern>>,
}

/// Tells a running manager what somebody else has seen of its site: it becomes an alarm, and a complaint if it is grave.
#[derive(Clone, Debug)]
pub struct Concerns(watch::Sender<Vec<Concern>>);

impl Concerns {
    /// What is not as it should be now, all of it; what was told before and is not in it is over.
    pub fn tell(&self, concerns: Vec<Concern>) {
        self.0.send_if_modified(|known| {
            let is_other = *known != concerns;
            *known = concerns;
            is_other
        });
    }
}

/// Asks a running manager to read its settings again, such as for a SIGHUP.
#[derive(Clone, Debug)]
pub struct Reloader(mpsc::Sender<()>);

impl Reloader {
    /// Asks; what comes of it is an event. Several wishes at once are one.
    pub fn ask(&self) {
        let _ = self.0.try_send(());
    }
}

/// A person's wish, or the outcome of what was begun.
#[derive(Debug)]
pub(crate) enum Message {
    Say {
        group: String,
        word: Word,
        /// The site from which it was said, if not this one.
        by: Option<String>,
        reply: oneshot::Sender<Result<Said, Refusal>>,
    },
    /// The newest events, and the number of the last one.
    Recent {
        count: usize,
        reply: oneshot::Sender<(Vec<Entry>, u64)>,
    },
    Reload {
        reply: oneshot::Sender<Result<Difference, Error>>,
    },
    /// Somebody at the address for other sites was not let in.
    TurnedAway {
        reason: String,
    },
    /// Something to be told.
    Tell(Notice),
    Ended {
        group: String,
        pid: u32,
        exit: Exit,
    },
}

/// What came of a word.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Said {
    pub(crate) answer: Answer,
    /// Why it will not outlive the manager.
    pub(crate) unsaved: Option<String>,
}

/// What servers need.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) overview: watch::Receiver<Overview>,
    pub(crate) seen: watch::Receiver<Seen>,
    /// Events with their numbers.
    pub(crate) events: broadcast::Sender<(u64, Entry)>,
    pub(crate) state_directory: std::path::PathBuf,
    pub(crate) reports: Reports,
    pub(crate) hooks: Hooks,
}

/// The loop's own.
struct Running {
    settings: ManagerSettings,
    supervisor: Supervisor,
    begin: Instant,
    since: String,
    processes: BTreeMap<String, (u32, Handle)>,
    /// What the file said when each of them began, and the manager.
    in_force: InForce,
    starts: BTreeMap<String, u64>,
    reports: Reports,
    log: EventLog,
    log_is_failing: bool,
    hook: Runner,
    failed_hooks: u64,
    unsaved: Option<String>,
    /// When it was last told that somebody was turned away, and how many were since.
    turned_away: Option<(Instant, u64)>,
    messages: mpsc::Sender<Message>,
    overview: watch::Sender<Overview>,
    events: broadcast::Sender<(u64, Entry)>,
    watch: watch::Sender<WatchSettings>,
    hooks: watch::Sender<BTreeMap<HookName, HookOptions>>,
    systemd: Systemd,
    shutting_down: bool,
    _lock: GroupLock,
}

impl Manager {
    /// A manager that does nothing yet.
    pub fn new(settings: ManagerSettings) -> Self {
        Self { settings, reload: mpsc::channel(1), concerns: watch::Sender::default() }
    }

    /// What asks this manager to read its settings again.
    pub fn reloader(&self) -> Reloader {
        Reloader(self.reload.0.clone())
    }

    /// What tells this manager of things that it does not look at itself.
    pub fn concerns(&self) -> Concerns {
        Concerns(self.concerns.clone())
    }

    /// Runs until `shutdown` is ready, then stops the groups in order and returns when all have ended; one that takes
    /// longer than the limit is killed.
    ///
    /// # Errors
    /// [`Error::Setting`]; [`Error::AlreadyRunning`]; [`Error::Unreadable`] when it is not known what people wish;
    /// [`Error::OpenToOthers`], [`Error::Listen`], [`Error::File`] when it cannot have its files and sockets. Once it
    /// runs, it goes on whatever fails, and says so.
    ///
    /// Cancelling leaves the groups at work, as a kill does.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let Self { settings, reload: (_reload, mut reloads), concerns } = self;
        settings.review()?;
        let directory = settings.directory();
        make_private(&directory)?;
        let lock = take_lock(&settings, &directory)?;
        let desired = Desired::load(&directory.join("desired.json"))?;
        let files = settings.files;
        let reports = Reports {
            directory: settings.reports(),
            max_bytes: files.report_bytes,
            max_files: files.report_files,
        };
        let (log, opened) = EventLog::open(&directory, files.event_bytes, files.event_files);
        let (failed, mut failed_hooks) = mpsc::unbounded_channel();
        let (messages, mut inbox) = mpsc::channel(64);
        let (overview, overviews) = watch::channel(Overview::default());
        let (seen, seens) = watch::channel(Seen::default());
        let (events, _) = broadcast::channel(RECENT);
        let (watched, watches) = watch::channel(watch_settings(&settings));
        let (hooks, hooked) = watch::channel(settings.hooks.clone());
        let (tell, mut told) = mpsc::unbounded_channel();
        let shared = Shared {
            messages: messages.clone(),
            overview: overviews,
            seen: seens,
            events: events.clone(),
            state_directory: settings.state_directory.clone(),
            reports: reports.clone(),
            hooks: Hooks::new(&settings.site, hooked),
        };
        let control = Server::bind(&settings.socket(), shared.clone())?;
        let http = match settings.http {
            Some(address) => Some(Http::bind(address, shared.clone()).await?),
            None => None,
        };
        let remote = match settings.remote.clone() {
            Some(remote) => Some(RemoteServer::bind(remote, shared).await?),
            None => None,
        };
        let in_force = InForce::from([(MANAGER.to_owned(), settings.keys.clone())]);
        let mut running = Running {
            supervisor: Supervisor::new(settings.restart, settings.stop_limit, settings.rules(), desired),
            begin: Instant::now(),
            since: Timestamp::now().to_string(),
            processes: BTreeMap::new(),
            in_force,
            starts: BTreeMap::new(),
            reports,
            log,
            log_is_failing: false,
            hook: Runner::start(settings.site.clone(), failed),
            failed_hooks: 0,
            unsaved: None,
            turned_away: None,
            messages,
            overview,
            events,
            watch: watched,
            hooks,
            systemd: Systemd::new(),
            shutting_down: false,
            _lock: lock,
            settings,
        };
        if let Err(error) = opened {
            running.record(Notice::new(Severity::Error, Kind::Trouble, error.to_string()));
        }
        running.begin().await;
        // Whoever asks from now on sees the groups; who has asked already waits in the queues of the sockets.
        running.publish();
        // Their tasks end with this set, and their sockets with them.
        let mut servers = JoinSet::new();
        servers.spawn(control.run());
        if let Some(http) = http {
            servers.spawn(http.run());
        }
        if let Some(remote) = remote {
            servers.spawn(remote.run());
        }
        servers.spawn(Watch::new(watches, seen, tell, concerns.subscribe()).run());
        running.systemd.ready();

        let mut looked_after = Instant::now();
        let watchdog = Systemd::watchdog();
        let turn = watchdog.map_or(TURN, |every| every.min(TURN));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            running.publish();
            if running.supervisor.is_finished() {
                break;
            }
            running.systemd.alive();
            tokio::select! {
                biased;
                () = &mut shutdown, if !running.shutting_down => running.shut_down().await,
                Some(message) = inbox.recv() => running.take(message).await,
                Some(told) = told.recv() => running.hear(told).await,
                Some(reason) = failed_hooks.recv() => running.hook_failed(reason),
                Some(()) = reloads.recv() => {
                    // The outcome is an event.
                    let _ = running.reload().await;
                }
                () = tokio::time::sleep_until(running.next_turn(turn)) => running.tell(Event::Tick).await,
            }
            if looked_after.elapsed() >= LOOK_AFTER {
                running.look_after().await;
                looked_after = Instant::now();
            }
        }
        running.record(Notice::new(Severity::Info, Kind::ManagerStopped, "the manager has ended as asked"));
        servers.shutdown().await;
        running.hook.finish(LAST_WORDS).await;
        Ok(())
    }
}

/// Makes the manager's directory, or sees that it is for its owner only.
fn make_private(directory: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::file("create directory", directory, source))?;
    let metadata = fs::metadata(directory).map_err(|source| Error::file("read", directory, source))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(Error::OpenToOthers { path: directory.to_owned(), mode: metadata.mode() & 0o777 });
    }
    Ok(())
}

fn take_lock(settings: &ManagerSettings, directory: &Path) -> Result<GroupLock, Error> {
    GroupLock::acquire(directory, LOCK).map_err(|error| match error {
        irongate_checkpoint::Error::Held { holder, .. } => Error::AlreadyRunning {
            site: settings.site.clone(),
            directory: settings.state_directory.clone(),
            holder: holder.pid.map_or("another process".to_owned(), |pid| format!("process {pid}")),
        },
        other => other.into(),
    })
}

fn watch_settings(settings: &ManagerSettings) -> WatchSettings {
    WatchSettings {
        state_directory: settings.state_directory.clone(),
        flows: settings.flows.clone(),
        certificates: settings.certificates.clone(),
        thresholds: settings.thresholds,
        interval: settings.watch_interval,
    }
}

impl Running {
    /// Time on the supervisor's clock.
    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// When the loop turns at the latest.
    fn next_turn(&self, turn: Duration) -> Instant {
        let soon = Instant::now() + turn;
        self.supervisor.deadline().map_or(soon, |deadline| soon.min(self.begin + deadline))
    }

    /// Shows what is, to whoever asks.
    fn publish(&mut self) {
        let now = self.now();
        let group = |spec: &crate::settings::GroupSpec| {
            let it = self.supervisor.groups().get(&spec.name)?;
            let next_attempt = match it.phase {
                Phase::BackOff { until } => Some(until.saturating_sub(now).as_secs_f64()),
                _ => None,
            };
            Some(GroupOverview {
                name: spec.name.clone(),
                flow: spec.flow.clone(),
                program: spec.program,
                wish: self.supervisor.wish(&spec.name),
                phase: it.phase.clone(),
                deaths: it.deaths,
                starts: self.starts.get(&spec.name).copied().unwrap_or(0),
                hold: it.hold.clone(),
                busy: it.busy.clone(),
                abended: self.supervisor.abended(&spec.name).cloned(),
                next_attempt,
            })
        };
        let overview = Overview {
            site: self.settings.site.clone(),
            since: self.since.clone(),
            shutting_down: self.shutting_down,
            groups: self.settings.groups.iter().filter_map(group).collect(),
            unsaved: self.unsaved.clone(),
            unwritten_events: self.log.unwritten,
            failed_hooks: self.failed_hooks,
        };
        let is_running = |group: &&GroupOverview| matches!(group.phase, Phase::Running { .. });
        let running = overview.groups.iter().filter(is_running).count();
        self.systemd.status(format!("{running} of {} groups running", overview.groups.len()));
        self.overview.send_replace(overview);
    }
}
