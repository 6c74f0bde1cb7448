//! Watching: what the flows, their slots and their disks look like, looked at again and again.
//!
//! One part measures, one decides what is too much, and a task of the manager does both and tells it.
//! It owns one session to each source, made when needed; a source that does not answer costs one limit each turn and
//! delays nobody else.

mod alarm;
mod certificate;
mod heartbeat;
mod measure;
mod purge;
mod queue;
mod sequences;
mod slot;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use alarm::{Alarm, AlarmKind, Concern};
pub use queue::MOST_ERRORS;

use crate::event::Notice;
use crate::settings::{FlowWatch, Thresholds};
use alarm::{Alarms, Change};
use measure::Flow;

/// What a slot looks like.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlotView {
    /// Its name.
    pub name: String,
    /// Whether the server has it.
    #[serde(default = "there_is")]
    pub exists: bool,
    /// Whether somebody streams from it.
    pub active: bool,
    /// The server's word: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Log that it keeps, in bytes.
    pub retained_bytes: Option<u64>,
    /// Log that may still be written before it is lost, in bytes; `None` without a limit.
    pub safe_bytes: Option<i64>,
    /// Why nothing can be read from it any more.
    pub lost: Option<String>,
}

fn there_is() -> bool {
    true
}

/// How far a stage is behind the one before it.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct StageView {
    /// In bytes of the source's log.
    pub lag_bytes: Option<u64>,
    /// In seconds.
    pub lag_seconds: Option<f64>,
}

/// What a trail looks like.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct TrailView {
    /// Its directory.
    pub directory: PathBuf,
    /// Its main and side files.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Free bytes of its disk for this user.
    pub free_bytes: Option<u64>,
    /// How many bytes its disk has.
    pub disk_bytes: Option<u64>,
}

/// What a flow looks like from this site.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct FlowView {
    /// Its name.
    pub name: String,
    /// From the source's log to what Extract has decoded of it: a part of `extract`.
    #[serde(default)]
    pub decoded: StageView,
    /// From the source's log to the trail, durable.
    pub extract: StageView,
    /// From the trail here to that of the other site, durable there.
    #[serde(default)]
    pub pump: StageView,
    /// From the trail here to what its feed has told, acknowledged there.
    #[serde(default)]
    pub feed: StageView,
    /// From the trail to the target.
    pub replicat: StageView,
    /// The trail.
    pub trail: Option<TrailView>,
    /// The slot.
    pub slot: Option<SlotView>,
    /// Why the source could not be asked.
    pub source_silent: Option<String>,
    /// For how long it has been silent, in seconds.
    #[serde(default)]
    pub silent_seconds: Option<f64>,
    /// For how long nothing has come from the other site, in seconds; only where something should come all the time.
    #[serde(default)]
    pub quiet_seconds: Option<f64>,
    /// Changes that wait in the error queue at the target, counted up to [`MOST_ERRORS`]; only where Replicat runs here.
    #[serde(default)]
    pub errors_pending: Option<u64>,
    /// Why the files here could not be read.
    pub trouble: Option<String>,
    /// When the last heartbeat was written at the source, in RFC 3339 and UTC.
    pub heartbeat: Option<String>,
    /// What the last compare of the whole flow found that was made at this site.
    #[serde(default)]
    pub compare: Option<crate::compare::LastCompare>,
}

/// What was seen last.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// When, in RFC 3339 and UTC; `None` before the first look.
    pub time: Option<String>,
    /// The flows.
    pub flows: Vec<FlowView>,
    /// The certificates that this site needs.
    #[serde(default)]
    pub certificates: Vec<CertificateView>,
    /// What is too much at the moment.
    pub alarms: Vec<Alarm>,
}

/// What a certificate looks like.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CertificateView {
    /// Its file.
    pub file: PathBuf,
    /// When it ends, in RFC 3339 and UTC.
    pub until: Option<String>,
    /// What is left of its time, in seconds; less than nothing behind its end.
    pub seconds_left: Option<f64>,
    /// Why it cannot be read.
    pub trouble: Option<String>,
}

/// What the watch tells the manager.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    /// An event.
    Notice(Notice),
    /// A group must rest.
    Hold { group: String, reason: String },
    /// It need not any more.
    Release { group: String },
}

/// What the watch is told; a new version takes effect with the next look.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct WatchSettings {
    pub(crate) state_directory: PathBuf,
    pub(crate) flows: Vec<FlowWatch>,
    pub(crate) certificates: Vec<PathBuf>,
    pub(crate) thresholds: Thresholds,
    pub(crate) interval: Duration,
}

/// The task.
#[derive(Debug)]
pub(crate) struct Watch {
    settings: watch::Receiver<WatchSettings>,
    seen: watch::Sender<Seen>,
    tell: mpsc::UnboundedSender<Told>,
    /// What others have seen of this site.
    concerns: watch::Receiver<Vec<Concern>>,
    alarms: Alarms,
    flows: Vec<Flow>,
}

impl Watch {
    pub(crate) fn new(
        settings: watch::Receiver<WatchSettings>,
        seen: watch::Sender<Seen>,
        tell: mpsc::UnboundedSender<Told>,
        concerns: watch::Receiver<Vec<Concern>>,
    ) -> Self {
        Self { settings, seen, tell, concerns, alarms: Alarms::default(), flows: Vec::new() }
    }

    /// Looks until the manager is gone. Cancel-safe.
    pub(crate) async fn run(mut self) {
        loop {
            let settings = self.settings.borrow_and_update().clone();
            self.take(&settings);
            self.look(&settings).await;
            tokio::select! {
                () = tokio::time::sleep(settings.interval) => {}
                // Whoever tells of them is gone with the manager at the latest.
                Ok(()) = self.concerns.changed() => {}
                changed = self.settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Keeps the flows that are still to be watched, with their sessions and heartbeats.
    fn take(&mut self, settings: &WatchSettings) {
        let mut before = std::mem::take(&mut self.flows);
        for wanted in &settings.flows {
            let known = before.iter().position(|flow| flow.settings() == wanted);
            let flow = known.map_or_else(|| Flow::new(wanted.clone()), |at| before.swap_remove(at));
            self.flows.push(flow);
        }
        let names: Vec<_> = settings.flows.iter().map(|flow| flow.name.as_str()).collect();
        // What is about no flow is about the site, which stays.
        for change in self.alarms.forget(|flow| !flow.is_empty() && !names.contains(&flow)) {
            self.pass_on(change);
        }
    }

    async fn look(&mut self, settings: &WatchSettings) {
        let mut looks = JoinSet::new();
        for (place, mut flow) in std::mem::take(&mut self.flows).into_iter().enumerate() {
            let directory = settings.state_directory.clone();
            looks.spawn(async move {
                let view = flow.look(&directory).await;
                (place, flow, view)
            });
        }
        let mut looked: Vec<_> = looks.join_all().await;
        looked.sort_by_key(|(place, ..)| *place);
        let mut views = Vec::new();
        for (_, mut flow, view) in looked {
            let mut changes = self.alarms.observe(flow.settings(), &view, &settings.thresholds);
            for notice in flow.notices.drain(..) {
                changes.push(Change::Tell(notice));
            }
            changes.into_iter().for_each(|change| self.pass_on(change));
            views.push(view);
            self.flows.push(flow);
        }
        let files = settings.certificates.clone();
        let read = move || files.into_iter().map(certificate::look).collect::<Vec<_>>();
        let certificates = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        for change in self.alarms.observe_certificates(&certificates, &settings.thresholds) {
            self.pass_on(change);
        }
        let concerns = self.concerns.borrow().clone();
        for change in self.alarms.observe_roles(&concerns) {
            self.pass_on(change);
        }
        let time = Some(irongate_trail::Timestamp::now().to_string());
        let alarms = self.alarms.raised();
        self.seen.send_replace(Seen { time, flows: views, certificates, alarms });
    }

    fn pass_on(&self, change: Change) {
        let told = match change {
            Change::Tell(notice) => Told::Notice(notice),
            Change::Hold { group, reason } => Told::Hold { group, reason },
            Change::Release { group } => Told::Release { group },
        };
        let _ = self.tell.send(told);
    }
}
