//! What a manager is told: which groups there are and how they are started, what it watches, and its limits.

mod deployment;
mod difference;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{Failure, Program};
use irongate_deployment::configuration::{Concerns, HookName, HookOptions};
use irongate_postgres::Endpoint;
use irongate_pump::LinkSettings;

pub use difference::Difference;
pub(crate) use difference::{InForce, MANAGER};

use crate::error::Error;
use crate::event::Severity;
use crate::supervisor::GroupRule;

/// Everything that a manager is told.
#[derive(Clone, Debug)]
pub struct ManagerSettings {
    /// The site.
    pub site: String,
    /// Where the groups' locks and status files lie. The manager's own files lie in `manager/<site>/` below it, the
    /// groups' reports in `report/`.
    pub state_directory: PathBuf,
    /// The groups of this site.
    pub groups: Vec<GroupSpec>,
    /// The flows of which something runs here, to be watched.
    pub flows: Vec<FlowWatch>,
    /// How a group that died is started again.
    pub restart: RestartPolicy,
    /// How long a group may take to stop before people are told; at the manager's own end, before it is killed.
    pub stop_limit: Duration,
    /// How often flows and disks are looked at.
    pub watch_interval: Duration,
    /// What counts as too much.
    pub thresholds: Thresholds,
    /// Who is told of events.
    pub hook: Option<Hook>,
    /// What runs may have executed here.
    pub hooks: BTreeMap<HookName, HookOptions>,
    /// Where `/health`, `/status` and `/metrics` are served; nowhere if `None`.
    pub http: Option<SocketAddr>,
    /// The control socket; in the manager's directory if `None`.
    pub socket: Option<PathBuf>,
    /// Where other sites reach this manager; nowhere if `None`.
    pub remote: Option<Remote>,
    /// Certificates that this site needs, to be warned of before they end.
    pub certificates: Vec<PathBuf>,
    /// What the configuration says, key by key, and whom each key concerns here: so that a reload can tell. Empty for a
    /// manager that has no such file.
    pub keys: BTreeMap<String, Concerns>,
    /// Limits of the files that the manager writes.
    pub files: FileLimits,
    /// Makes the settings anew from where they came from; without it, a reload is refused.
    pub reload: Option<Reload>,
}

/// How a process of a group is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// The group's name, which its process uses for its lock and its status file.
    pub name: String,
    /// Its flow.
    pub flow: String,
    /// What it is.
    pub program: Program,
    /// Whether it runs where no person has said anything.
    pub autostart: bool,
    /// The program's file.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What people are told who start it when it is not its turn; of a flow that only a switchover starts.
    pub turn: Option<String>,
}

impl GroupSpec {
    /// The failure of its process with a hint that suits a flow whose turn it is not: set-up makes nothing for it, and
    /// it is not loaded either.
    pub(crate) fn in_turn(&self, failure: Failure) -> Failure {
        const OF_OTHERS: [&str; 3] = ["irongate setup", "irongate instantiate", "irongate reinstate"];
        match (&self.turn, &failure.hint) {
            (Some(turn), Some(hint)) if OF_OTHERS.iter().any(|words| hint.contains(words)) => {
                Failure { hint: Some(format!("{turn}: {hint}")), ..failure }
            }
            _ => failure,
        }
    }
}

/// What of a flow is watched here.
#[derive(Clone, PartialEq, Debug)]
pub struct FlowWatch {
    /// The flow.
    pub name: String,
    /// The directory of its trail at this site.
    pub trail: Option<PathBuf>,
    /// The group that writes the trail from a database, if it runs here. It is stopped before the trail's disk is full.
    pub extract: Option<String>,
    /// The group that carries the trail to another site, if it runs here.
    pub pump: Option<String>,
    /// The group that tells others of the trail's changes, if it runs here.
    pub feed: Option<String>,
    /// The group that reads the trail into a database, if it runs here.
    pub replicat: Option<String>,
    /// The database that is captured, with Extract's role; only where Extract runs here.
    pub source: Option<Endpoint>,
    /// The site, if one site writes the database at a time: where it is another's turn, no slot is missed.
    pub site: Option<String>,
    /// The replication slot at the source.
    pub slot: Option<String>,
    /// Which files of the trail go; none if `None`.
    pub purge: Option<Purge>,
    /// How often the source is made to write a heartbeat; never if `None`.
    pub heartbeat: Option<Duration>,
    /// The database that is written, with Replicat's role; only where Replicat runs here. Its error queue is counted.
    pub target: Option<Endpoint>,
    /// How often the other site's heartbeat comes, where the flow comes from one and ends here.
    pub expects: Option<Duration>,
    /// How the source's sequences are followed; not at all if `None`.
    pub sequences: Option<SequenceWatch>,
    /// How its ends are compared in the background while its Replicat runs here; not at all if `None`.
    pub compare: Option<crate::compare::CompareWatch>,
    /// The flow waits for its day: that it has no slot is then no alarm, and there is no heartbeat, until its Extract runs.
    pub waits: bool,
}

/// How a source's sequences are followed, while its Extract runs.
#[derive(Clone, PartialEq, Debug)]
pub struct SequenceWatch {
    /// How often they are looked at.
    pub every: Duration,
    /// The flow whose sequences they are.
    pub flow: irongate_deployment::configuration::Flow,
}

/// Which files of a trail go once every reader has passed them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Purge {
    /// How old a file is at least.
    pub keep: Duration,
    /// How many of the newest stay.
    pub keep_files: usize,
}

/// How a group that died is started again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartPolicy {
    /// Deaths in a row after which it is tried again; one more, and it is abended.
    pub attempts: u32,
    /// Pause before the first attempt; doubled each time.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// After so long without an end, earlier deaths do not count any more.
    pub reset: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            attempts: 20,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            reset: Duration::from_secs(600),
        }
    }
}

impl RestartPolicy {
    /// The pause after so many deaths in a row, counted from 1.
    pub fn pause(&self, deaths: u32) -> Duration {
        self.first.saturating_mul(1 << deaths.saturating_sub(1).min(20)).min(self.longest)
    }
}

/// A value that is too much.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Threshold {
    /// From here on a warning.
    pub warning: f64,
    /// From here on an error.
    pub critical: f64,
}

/// What counts as too much. `None` is never too much. An alarm that was raised is cleared when the value is a fifth
/// better than the threshold.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Thresholds {
    /// A stage's lag, in bytes of the source's log.
    pub lag_bytes: Option<Threshold>,
    /// A stage's lag, in seconds.
    pub lag_seconds: Option<Threshold>,
    /// Log that a slot keeps at the source, in bytes.
    pub slot_retained_bytes: Option<Threshold>,
    /// Log that may still be written before a slot is lost, in bytes: here less is worse. It counts once the slot keeps
    /// more than that, so that a server with a low limit is not alarmed about for ever.
    pub slot_safe_bytes: Option<Threshold>,
    /// Free bytes of a trail's disk: here less is worse. At `critical` Extract is stopped, and started again when there
    /// are a fifth more.
    pub trail_free_bytes: Option<Threshold>,
    /// Changes that wait in a flow's error queue.
    pub errors_pending: Option<Threshold>,
    /// What is left of a certificate's time in seconds: here less is worse.
    pub certificate_seconds: Option<Threshold>,
    /// How often in a row a value must be too much before an alarm is raised.
    pub patience: u32,
}

/// One change that waits is a difference between the sites; a hundred are a cause that somebody has to find.
pub(crate) const ERRORS_PENDING: Threshold = Threshold { warning: 1.0, critical: 100.0 };

impl Default for Thresholds {
    fn default() -> Self {
        const MIB: f64 = (1 << 20) as f64;
        const GIB: f64 = 1024.0 * MIB;
        const DAY: f64 = 86_400.0;
        Self {
            lag_bytes: Some(Threshold { warning: GIB, critical: 8.0 * GIB }),
            lag_seconds: Some(Threshold { warning: 60.0, critical: 600.0 }),
            slot_retained_bytes: Some(Threshold { warning: 8.0 * GIB, critical: 32.0 * GIB }),
            slot_safe_bytes: Some(Threshold { warning: 2.0 * GIB, critical: 512.0 * MIB }),
            trail_free_bytes: Some(Threshold { warning: 2.0 * GIB, critical: 512.0 * MIB }),
            errors_pending: Some(ERRORS_PENDING),
            certificate_seconds: Some(Threshold { warning: 30.0 * DAY, critical: 7.0 * DAY }),
            patience: 2,
        }
    }
}

/// A program that is run for each event. It gets the event as one JSON object on standard input, and in its environment
/// `IRONGATE_SITE`, `IRONGATE_EVENT_TIME`, `IRONGATE_EVENT_SEVERITY` (`info`, `warning`, `error`),
/// `IRONGATE_EVENT_KIND`, `IRONGATE_EVENT_TEXT` and, where the event is about one, `IRONGATE_GROUP`. Events come one
/// after the other; when it fails or takes too long, that is an event that is not told to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// The program.
    pub path: PathBuf,
    /// The least severity that it is told of.
    pub severity: Severity,
    /// After so long it is killed.
    pub limit: Duration,
}

impl Hook {
    /// A hook for warnings and errors, which may take ten seconds.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), severity: Severity::Warning, limit: Duration::from_secs(10) }
    }
}

/// Where other sites reach a manager, and what they may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The manager's site.
    pub site: String,
    /// The deployment that all belong to.
    pub deployment: String,
    /// `address:port` that it listens on.
    pub listen: String,
    /// Certificates and limits, as the pumps of this site have them.
    pub link: LinkSettings,
    /// The other sites of the deployment.
    pub peers: BTreeSet<String>,
    /// Whether they may give orders, or only look.
    pub orders: bool,
}

/// Limits of the files that the manager writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLimits {
    /// A file of events is full at so many bytes.
    pub event_bytes: u64,
    /// So many full ones are kept.
    pub event_files: u32,
    /// A group's report is full at so many bytes.
    pub report_bytes: u64,
    /// So many full ones are kept of each group.
    pub report_files: u32,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self { event_bytes: 4 << 20, event_files: 4, report_bytes: 8 << 20, report_files: 3 }
    }
}

/// What makes a manager's settings anew.
pub type Remake = dyn Fn() -> Result<ManagerSettings, Error> + Send + Sync;

/// A function that makes the settings anew, such as by reading the configuration file again.
#[derive(Clone)]
pub struct Reload(pub Arc<Remake>);

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload")
    }
}

impl ManagerSettings {
    /// Settings with defaults and nothing to do.
    pub fn new(site: impl Into<String>, state_directory: impl Into<PathBuf>) -> Self {
        Self {
            site: site.into(),
            state_directory: state_directory.into(),
            groups: Vec::new(),
            flows: Vec::new(),
            restart: RestartPolicy::default(),
            stop_limit: Duration::from_secs(60),
            watch_interval: Duration::from_secs(10),
            thresholds: Thresholds::default(),
            hook: None,
            hooks: BTreeMap::new(),
            http: None,
            socket: None,
            remote: None,
            certificates: Vec::new(),
            keys: BTreeMap::new(),
            files: FileLimits::default(),
            reload: None,
        }
    }

    /// The directory of the manager's own files.
    pub fn directory(&self) -> PathBuf {
        directory(&self.state_directory, &self.site)
    }

    /// Where the manager listens for people.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.directory().join(SOCKET))
    }

    /// Where the reports of groups lie.
    pub fn reports(&self) -> PathBuf {
        self.state_directory.join("report")
    }

    pub(crate) fn rules(&self) -> Vec<GroupRule> {
        let rule = |spec: &GroupSpec| GroupRule { name: spec.name.clone(), autostart: spec.autostart };
        self.groups.iter().map(rule).collect()
    }

    /// Finds what cannot be.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(crate) fn review(&self) -> Result<(), Error> {
        let bad = |what, value: String, reason| Err(Error::Setting { what, value, reason });
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !is_name(&self.site) {
            return bad("the site's name", format!("\"{}\"", self.site), "it is letters, digits, - and _");
        }
        let mut seen = BTreeMap::new();
        for group in &self.groups {
            let name = format!("\"{}\"", group.name);
            if !is_name(&group.name) {
                return bad("a group's name", name, "it is letters, digits, - and _");
            }
            if seen.insert(&group.name, ()).is_some() {
                return bad("a group's name", name, "there are two groups of this name");
            }
        }
        let lengths = [
            ("the watch interval", self.watch_interval),
            ("the first pause before a restart", self.restart.first),
            ("the limit of the hook", self.hook.as_ref().map_or(Duration::MAX, |hook| hook.limit)),
        ];
        for (what, length) in lengths {
            if length < Duration::from_millis(1) {
                return bad(what, format!("{} s", length.as_secs_f64()), "it must be a millisecond or more");
            }
        }
        let is_often = |every: Option<Duration>| every.is_some_and(|every| every < Duration::from_millis(10));
        let is_look = |flow: &&FlowWatch| is_often(flow.sequences.as_ref().map(|watch| watch.every));
        if let Some(flow) = self.flows.iter().find(is_look) {
            let value = format!("that of flow \"{}\"", flow.name);
            return bad("the interval of sequences", value, "it must be ten milliseconds or more");
        }
        let is_heart = |flow: &&FlowWatch| is_often(flow.heartbeat);
        if let Some(flow) = self.flows.iter().find(is_heart) {
            let value = format!("that of flow \"{}\"", flow.name);
            return bad("a heartbeat's interval", value, "it must be ten milliseconds or more");
        }
        Ok(())
    }
}

/// Name of the control socket in the manager's directory.
const SOCKET: &str = "control.sock";

fn directory(state_directory: &std::path::Path, site: &str) -> PathBuf {
    state_directory.join("manager").join(site)
}

/// Where the manager of a site listens unless it is told otherwise.
pub fn default_socket(state_directory: &std::path::Path, site: &str) -> PathBuf {
    directory(state_directory, site).join(SOCKET)
}
