//! The collector: one a site. Receives the flows that come to this site and appends each to a trail of its own.
//!
//! It believes a pump nothing that it can check: who it is (certificate), that the flow is meant for this site, and that
//! what it sends goes on where the trail here ends. What it acknowledges is durable here.

pub(crate) mod admission;
pub(crate) mod lane;
pub(crate) mod room;
mod serve;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use irongate_checkpoint::{BackOff, Failure, GroupLock, Program, Publisher, State, Status, Stop};
use irongate_trail::{Directory, Mark, Storage, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::error::Error;
use crate::link;
use crate::pump::failure;
use crate::settings::{AcceptedFlow, CollectorSettings};
use lane::{Counts, Lane};
use room::FreeBytes;
use serve::{Left, serve};

/// How often the state is shown.
const TICK: Duration = Duration::from_millis(500);
/// How long connections may take to put away what they have once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Connections at once: more are turned away.
const MOST_CONNECTIONS: usize = 256;

/// How a collector ended that was asked to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Collected {
    /// Where each flow's trail is durable, of those that were opened.
    pub flows: BTreeMap<String, Mark>,
}

/// What opens the storage of a flow's trail.
type OpenStorage = Arc<dyn Fn(&str) -> io::Result<Arc<dyn Storage>> + Send + Sync>;

/// One collector. Needs a multi-threaded tokio runtime: a write to one trail may block while others go on.
pub struct Collector {
    settings: CollectorSettings,
    listener: Option<TcpListener>,
    storage: OpenStorage,
    free: FreeBytes,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector that is not running yet.
    pub fn new(settings: CollectorSettings) -> Self {
        let base = settings.trail_directory.clone();
        let storage: OpenStorage =
            Arc::new(move |flow| Ok(Arc::new(Directory::create(base.join(flow))?) as Arc<dyn Storage>));
        Self { settings, listener: None, storage, free: Arc::new(room::of_disk) }
    }

    /// The same, listening on a socket that is open already, whatever the settings say.
    #[must_use]
    pub fn with_listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// The same, with each flow's trail in a storage of the caller's: a test's that fails at will, or one that encrypts.
    #[must_use]
    pub fn with_storage(
        mut self,
        storage: impl Fn(&str) -> io::Result<Arc<dyn Storage>> + Send + Sync + 'static,
    ) -> Self {
        self.storage = Arc::new(storage);
        self
    }

    /// The same, with another way to ask how many bytes the disk of a directory has free: a test's, or of a quota.
    #[must_use]
    pub fn with_free_bytes(
        mut self,
        free: impl Fn(&std::path::Path) -> io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        self.free = Arc::new(free);
        self
    }

    /// Runs until `shutdown` is ready. What goes wrong with one connection or one flow is told to its pump, stands in the
    /// flow's status and ends nothing else. On return everything whole that arrived is durable and acknowledged.
    ///
    /// When the call is dropped, the trails are as after a kill, and the next start goes on from what was durable.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::File`], [`Error::Listen`]; [`Error::Checkpoint`] when the group runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Collected, Error> {
        let settings = &self.settings;
        settings.check()?;
        let lock = GroupLock::acquire(&settings.state_directory, &settings.group)?;
        let status = Status::starting(&settings.group, "", Program::Collector);
        let publisher = Publisher::start(&settings.state_directory, status)?;
        let outcome = self.run_locked(&publisher, Stop::new(shutdown)).await;
        match &outcome {
            Ok(_) => publisher.state(State::Stopped, "stopped as asked"),
            Err(error) => publisher.abended(failure(error)),
        }
        // The last status is written before the lock goes, so that a reader can tell an end from a kill.
        drop(publisher);
        drop(lock);
        outcome
    }

    async fn run_locked(self, publisher: &Publisher, mut stop: Stop) -> Result<Collected, Error> {
        let Self { settings, listener, storage, free } = self;
        let listener = match (listener, &settings.listen) {
            (Some(listener), _) => Some(listener),
            (None, Some(address)) => Some(link::listen(address).await?),
            (None, None) => None,
        };
        // What cannot be read is said at once, and not to the first pump.
        link::check(&settings.link)?;
        let mut flows = Vec::new();
        for flow in &settings.flows {
            flows.push(Flow::new(&settings, flow, &storage)?);
        }
        let connect = settings.connect.clone();
        let site = Arc::new(Site { settings, flows, free });
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (peer, address) in connect {
            tasks.spawn(keep_connected(Arc::clone(&site), peer, address, stopped.clone()));
        }
        publisher.state(State::Running, "waiting for pumps");
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.asked() => break,
                accepted = accept(listener.as_ref()) => match accepted {
                    Ok((socket, address)) if tasks.len() < MOST_CONNECTIONS => {
                        tasks.spawn(receive(Arc::clone(&site), socket, address, stopped.clone()));
                    }
                    Ok((_, address)) => tracing::warn!(%address, "turned away: too many connections"),
                    Err(error) => {
                        // Such as too many open files: of this moment, and not of the listener.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "the task of a connection has ended");
                    }
                }
                _ = tick.tick() => site.show(publisher),
            }
        }
        publisher.doing("stopping");
        let _ = stopping.send(true);
        let ending = async { while tasks.join_next().await.is_some() {} };
        if timeout(GRACE, ending).await.is_err() {
            tracing::warn!("a connection did not end in time; what it had in hand is sent again");
        }
        tasks.shutdown().await;
        site.show(publisher);
        Ok(Collected { flows: site.flows.iter().filter_map(Flow::durable).collect() })
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Serves one connection that was accepted.
async fn receive(site: Arc<Site>, socket: TcpStream, address: SocketAddr, stopping: watch::Receiver<bool>) {
    let mut stop = stopping.clone();
    let accepting = link::accept(socket, address, &site.settings.link);
    let link = tokio::select! {
        link = accepting => link,
        _ = stop.wait_for(|stopping| *stopping) => return,
    };
    let outcome = match link {
        Ok(link) => serve(link, &site, stopping).await,
        Err(error) => Err(error),
    };
    site.ended(&outcome);
}

/// Connects to a pump that listens, again and again.
async fn keep_connected(site: Arc<Site>, peer: String, address: String, mut stopping: watch::Receiver<bool>) {
    let settings = &site.settings.link;
    let mut back_off = BackOff::new(settings.retry_first, settings.retry_longest);
    while !*stopping.borrow() {
        let attempt = async {
            let link = link::connect(&address, &peer, settings).await?;
            serve(link, &site, stopping.clone()).await
        };
        let begun = tokio::time::Instant::now();
        let outcome = attempt.await;
        site.ended(&outcome);
        if outcome.is_ok() || begun.elapsed() > settings.retry_longest {
            back_off.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(back_off.next()) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }
}

/// What all connections of a collector share.
pub(crate) struct Site {
    settings: CollectorSettings,
    flows: Vec<Flow>,
    free: FreeBytes,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("flows", &self.flows).finish_non_exhaustive()
    }
}

impl Site {
    fn flow(&self, name: &str) -> Option<&Flow> {
        self.flows.iter().find(|flow| flow.settings.flow == name)
    }

    fn ended(&self, outcome: &Result<Left, Error>) {
        match outcome {
            Ok(left) => tracing::info!(?left, "a link has ended"),
            Err(error) => tracing::warn!(%error, hint = error.hint(), "a link has ended"),
        }
    }

    fn show(&self, publisher: &Publisher) {
        let (connected, missing): (Vec<_>, Vec<_>) = self.flows.iter().partition(|flow| flow.is_held());
        let held_back = self.flows.iter().find_map(|flow| locked(&flow.held_back).clone());
        let (mut counts, mut bytes) = (Counts::default(), 0);
        for flow in &self.flows {
            let facts = flow.facts();
            let before = facts.counts;
            counts.transactions += before.transactions;
            counts.inserts += before.inserts;
            counts.updates += before.updates;
            counts.deletes += before.deletes;
            counts.truncates += before.truncates;
            counts.messages += before.messages;
            bytes += facts.bytes;
        }
        publisher.update(|status| {
            status.doing = connection(connected.len(), &missing);
            status.error.clone_from(&held_back);
            fill(status, &counts, bytes);
        });
    }
}

/// How many flows are connected, and which are not: such as one that only a switchover starts.
fn connection(connected: usize, missing: &[&Flow]) -> String {
    let all = connected + missing.len();
    let names: Vec<_> = missing.iter().map(|flow| flow.settings.flow.as_str()).collect();
    match names.as_slice() {
        [] => format!("{connected} of {all} flows connected"),
        names => {
            format!("{connected} of {all} flows connected; whose pump does not run: {}", names.join(", "))
        }
    }
}

pub(crate) fn fill(status: &mut Status, counts: &Counts, bytes: u64) {
    status.counters.transactions = counts.transactions;
    status.counters.rows_inserted = counts.inserts;
    status.counters.rows_updated = counts.updates;
    status.counters.rows_deleted = counts.deletes;
    status.counters.truncates = counts.truncates;
    status.counters.messages = counts.messages;
    status.counters.bytes = bytes;
}

/// Who has a flow.
#[derive(Debug)]
struct Holder {
    instance: u64,
    peer: String,
    superseded: Arc<Notify>,
}

/// What is known of a flow beside its trail.
#[derive(Clone, Copy, Default, Debug)]
struct Facts {
    durable: Option<Mark>,
    counts: Counts,
    /// Received, on this connection and on those before.
    bytes: u64,
    before: u64,
}

/// One flow that comes to this site.
struct Flow {
    settings: AcceptedFlow,
    lane: Arc<tokio::sync::Mutex<Lane>>,
    holder: Mutex<Option<Holder>>,
    facts: Mutex<Facts>,
    /// Why nothing is taken at present.
    held_back: Mutex<Option<Failure>>,
    publisher: Publisher,
    /// Dropped after the publisher.
    _lock: GroupLock,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.publisher.state(State::Stopped, "stopped with the collector");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flow {
    fn new(settings: &CollectorSettings, flow: &AcceptedFlow, storage: &OpenStorage) -> Result<Self, Error> {
        let group = format!("{}-{}", settings.group, flow.flow);
        let lock = GroupLock::acquire(&settings.state_directory, &group)?;
        let status = Status::starting(&group, &flow.flow, Program::Collector);
        let publisher = Publisher::start(&settings.state_directory, status)?;
        publisher.state(State::Running, &format!("waiting for the pump of site \"{}\"", flow.from));
        let storage = storage(&flow.flow).map_err(|error| Error::File {
            path: settings.trail_directory.join(&flow.flow),
            reason: error.to_string(),
        })?;
        Ok(Self {
            settings: flow.clone(),
            lane: Arc::new(tokio::sync::Mutex::new(Lane { storage, trail: None })),
            holder: Mutex::default(),
            facts: Mutex::default(),
            held_back: Mutex::default(),
            publisher,
            _lock: lock,
        })
    }

    fn facts(&self) -> Facts {
        *locked(&self.facts)
    }

    fn durable(&self) -> Option<(String, Mark)> {
        Some((self.settings.flow.clone(), self.facts().durable?))
    }

    fn is_held(&self) -> bool {
        locked(&self.holder).is_some()
    }

    fn holder(&self) -> String {
        locked(&self.holder).as_ref().map_or_else(|| "one that is connecting".to_owned(), |h| h.peer.clone())
    }

    /// Asks the connection of the same pump to let go; false if it is another's.
    fn supersede(&self, instance: u64) -> bool {
        let holder = locked(&self.holder);
        let own = holder.as_ref().filter(|holder| holder.instance == instance);
        own.inspect(|holder| holder.superseded.notify_one()).is_some()
    }

    fn take(&self, instance: u64, peer: &str) -> Arc<Notify> {
        let superseded = Arc::new(Notify::new());
        let holder = Holder { instance, peer: peer.to_owned(), superseded: Arc::clone(&superseded) };
        *locked(&self.holder) = Some(holder);
        let mut facts = locked(&self.facts);
        facts.before = facts.bytes;
        self.publisher.update(|status| {
            status.doing = format!("receiving from {peer}");
            status.error = None;
        });
        superseded
    }

    fn release(&self, superseded: &Arc<Notify>) {
        let mut holder = locked(&self.holder);
        if holder.as_ref().is_some_and(|holder| Arc::ptr_eq(&holder.superseded, superseded)) {
            *holder = None;
        }
    }

    fn received(&self, bytes: u64) {
        let mut facts = locked(&self.facts);
        facts.bytes = facts.before + bytes;
    }

    fn show(&self, durable: &Mark, counts: &Counts) {
        let bytes = {
            let mut facts = locked(&self.facts);
            (facts.durable, facts.counts) = (Some(*durable), *counts);
            facts.bytes
        };
        self.publisher.update(|status| {
            status.position = Some(durable.position);
            status.resume_lsn = Some(durable.resume_lsn.0);
            status.commit_lsn = Some(durable.commit_lsn.0).filter(|lsn| lsn.0 != 0);
            status.last_commit_time = Some(durable.commit_time).filter(|time| time.0 != 0);
            // How old the newest transaction is that arrived; what has not arrived is the pump's lag.
            let age = Timestamp::now().0.saturating_sub(durable.commit_time.0).max(0) as f64 / 1e6;
            status.lag_seconds = (durable.commit_time.0 != 0).then_some(age);
            fill(status, counts, bytes);
        });
    }

    /// Says that nothing is taken, and why; or that it goes on.
    fn hold_back(&self, why: Option<Failure>, peer: &str) {
        locked(&self.held_back).clone_from(&why);
        self.publisher.update(|status| {
            status.doing = match &why {
                Some(why) => format!("holding {peer}: {}", why.message),
                None => format!("receiving from {peer}"),
            };
            status.error = why;
        });
    }

    fn ended(&self, outcome: &Result<Left, Error>) {
        locked(&self.held_back).take();
        let from = &self.settings.from;
        self.publisher.update(|status| {
            status.doing = format!("waiting for the pump of site \"{from}\"");
            status.error = outcome.as_ref().err().map(failure);
        });
    }
}
