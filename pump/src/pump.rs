//! The data pump: reads the trail of this site as far as it is durable and carries it to the collector of another.
//!
//! It keeps no place of its own. Where to go on is what the collector's trail says, asked anew with each connection; and
//! the mark that holds back purge here moves by what the collector has acknowledged as durable, and by nothing else. So a
//! pump can be killed, moved or forgotten at any time.

pub(crate) mod own;
pub(crate) mod session;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{Failure, GroupLock, Program, Publisher, State, Status, Stop};
use irongate_trail::{Directory, Mark, Storage, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::error::Error;
use crate::link::{self, Link};
use crate::sender::Sent;
use crate::settings::{Meeting, PumpSettings};
use session::Session;

/// How a pump ended that was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// What is durable at the other site, with its place in the trail here.
    pub acknowledged: Mark,
    /// What was sent since the start.
    pub sent: Sent,
}

/// One data pump. Needs a multi-threaded tokio runtime: reading the trail may block.
#[derive(Debug)]
pub struct Pump {
    settings: PumpSettings,
    listener: Option<TcpListener>,
}

impl Pump {
    /// A pump that is not running yet.
    pub fn new(settings: PumpSettings) -> Self {
        Self { settings, listener: None }
    }

    /// The same, listening on a socket that is open already, whatever the settings say: one of port 0, or one that a
    /// supervisor has opened.
    #[must_use]
    pub fn with_listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Runs until `shutdown` is ready or something fails that cannot pass by itself. Stops at the end of a transaction,
    /// if that comes soon, with everything sent acknowledged, if that comes soon.
    ///
    /// When the call is dropped, the other site has what it has, and the next start goes on from there.
    ///
    /// # Errors
    /// Any [`Error`] that is not transient; it stands in the group's status as well. [`Error::Checkpoint`] when the group
    /// runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        let settings = &self.settings;
        settings.check()?;
        let (lock, mut shown) =
            Shown::begin(&settings.state_directory, &settings.group, &settings.flow, Program::Pump)?;
        let outcome = self.run_locked(&mut shown, Stop::new(shutdown)).await;
        shown.end(lock, &settings.group, outcome)
    }

    async fn run_locked(&self, shown: &mut Shown, mut stop: Stop) -> Result<Stopped, Error> {
        let settings = &self.settings;
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(&settings.trail));
        let bound;
        let listener = match (&self.listener, &settings.meeting) {
            (Some(listener), _) => Some(listener),
            (None, Meeting::Listen(address)) => {
                bound = link::listen(address).await?;
                Some(&bound)
            }
            (None, Meeting::Connect(_)) => None,
        };
        let instance = rand::random();
        let mut attempts =
            Attempts::new(&settings.group, settings.link.retry_first, settings.link.retry_longest);
        loop {
            let before = shown.acknowledged;
            let attempt = self.attempt(&storage, listener, instance, shown, &mut stop).await;
            if let Some(stopped) = shown.after(attempt, before, &mut attempts, &mut stop).await? {
                return Ok(stopped);
            }
        }
    }

    /// One connection, from its start to its end.
    async fn attempt(
        &self,
        storage: &Arc<dyn Storage>,
        listener: Option<&TcpListener>,
        instance: u64,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<(), Error> {
        let settings = &self.settings;
        // What the other site has not acknowledged yet must not be purged, from the first moment on.
        shown.acknowledged = own::hold_back(storage, &settings.group, settings.epoch, shown.acknowledged)?;
        let meeting = async {
            let link = match (listener, &settings.meeting) {
                (Some(listener), _) => wait_for_collector(listener, settings, &shown.publisher).await?,
                (None, Meeting::Connect(address) | Meeting::Listen(address)) => {
                    shown.publisher.doing(&format!("connecting to {address}"));
                    link::connect(address, &settings.peer, &settings.link).await?
                }
            };
            Session::open(link, settings, storage, instance).await
        };
        let Some(session) = stop.or(meeting).await.transpose()? else { return Ok(()) };
        shown.connected = Some(Instant::now());
        shown.publisher.state(State::Running, "carrying the trail");
        session.run(shown, stop).await
    }
}

/// Handshakes at one time: more wait in the listener's queue.
const MOST_HANDSHAKES: usize = 16;

/// Waits for a collector of the right site. Whoever else comes is turned away: nobody without a certificate ends a pump.
/// Handshakes run beside each other, so that whoever connects and says nothing does not keep the collector waiting.
async fn wait_for_collector(
    listener: &TcpListener,
    settings: &PumpSettings,
    publisher: &Publisher,
) -> Result<Link, Error> {
    publisher.doing("waiting for the collector to connect");
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if handshakes.len() < MOST_HANDSHAKES => match accepted {
                Ok((socket, address)) => {
                    let (link, peer) = (settings.link.clone(), settings.peer.clone());
                    handshakes.spawn(async move {
                        let link = link::accept(socket, address, &link).await?;
                        link.must_be_of(&peer).map(|()| link)
                    });
                }
                Err(error) => {
                    // Such as too many open files: of this moment, and not of the listener.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(shaken) = handshakes.join_next() => match shaken? {
                // The others end with the set: a collector that is among them comes again.
                Ok(link) => return Ok(link),
                Err(error @ (Error::File { .. } | Error::Setting { .. })) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, hint = error.hint(), "turned away");
                    publisher.doing(&format!("waiting for the collector to connect; turned away: {error}"));
                }
            },
        }
    }
}

/// What `info` and `stats` see.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) publisher: Publisher,
    /// Of the connections before this one.
    before: Sent,
    pub(crate) sent: Sent,
    /// What is durable at the other site.
    pub(crate) acknowledged: Mark,
    /// Where the trail here is durable.
    pub(crate) durable: Mark,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) connected: Option<Instant>,
}

impl Shown {
    /// Takes a group, and says that it starts.
    pub(crate) fn begin(
        directory: &Path,
        group: &str,
        flow: &str,
        program: Program,
    ) -> Result<(GroupLock, Self), Error> {
        let lock = GroupLock::acquire(directory, group)?;
        let publisher = Publisher::start(directory, Status::starting(group, flow, program))?;
        let shown = Self {
            publisher,
            before: Sent::default(),
            sent: Sent::default(),
            acknowledged: Mark::default(),
            durable: Mark::default(),
            round_trip: None,
            connected: None,
        };
        Ok((lock, shown))
    }

    /// Says how the group has ended, and lets it go.
    pub(crate) fn end(
        self,
        lock: GroupLock,
        group: &str,
        outcome: Result<Stopped, Error>,
    ) -> Result<Stopped, Error> {
        tell_end(&self.publisher, group, &outcome);
        // The last status is written before the lock goes, so that a reader can tell an end from a kill.
        drop(self);
        drop(lock);
        outcome
    }

    /// Behind an attempt: with what the group ends, or nothing if there is to be another one. `before` is what was
    /// acknowledged when it began.
    pub(crate) async fn after(
        &mut self,
        attempt: Result<(), Error>,
        before: Mark,
        attempts: &mut Attempts<'_>,
        stop: &mut Stop,
    ) -> Result<Option<Stopped>, Error> {
        self.before = self.before.plus(self.sent);
        self.sent = Sent::default();
        let Err(error) = attempt else { return Ok(Some(self.stopped())) };
        let has_moved = self.acknowledged.position != before.position;
        let connected = self.connected.take();
        let again = attempts.failed(error, has_moved, connected, &self.publisher, stop).await?;
        Ok(if again { None } else { Some(self.stopped()) })
    }

    fn stopped(&self) -> Stopped {
        Stopped { acknowledged: self.acknowledged, sent: self.before.plus(self.sent) }
    }

    pub(crate) fn show(&self) {
        let (acknowledged, durable) = (self.acknowledged, self.durable);
        let sent = self.before.plus(self.sent);
        let behind = durable.commit_lsn > acknowledged.commit_lsn;
        let age = Timestamp::now().0.saturating_sub(acknowledged.commit_time.0).max(0) as f64 / 1e6;
        self.publisher.update(|status| {
            status.error = None;
            status.doing.clear();
            status.doing.push_str(if behind { "carrying the trail" } else { "waiting for the trail" });
            if let Some(round_trip) = self.round_trip {
                status.doing += &format!("; round trip {:.1} ms", round_trip.as_secs_f64() * 1e3);
            }
            status.position = Some(acknowledged.position).filter(|position| position.seqno != 0);
            status.resume_lsn = Some(acknowledged.resume_lsn.0).filter(|lsn| lsn.0 != 0);
            status.commit_lsn = Some(acknowledged.commit_lsn.0).filter(|lsn| lsn.0 != 0);
            status.last_commit_time = Some(acknowledged.commit_time).filter(|time| time.0 != 0);
            status.lag_bytes = Some(durable.resume_lsn.0.bytes_since(acknowledged.resume_lsn.0));
            let known = acknowledged.commit_time.0 != 0;
            status.lag_seconds = (known || !behind).then_some(if behind { age } else { 0.0 });
            status.counters.transactions = sent.transactions;
            status.counters.rows_inserted = sent.inserts;
            status.counters.rows_updated = sent.updates;
            status.counters.rows_deleted = sent.deletes;
            status.counters.truncates = sent.truncates;
            status.counters.messages = sent.messages;
            status.counters.bytes = sent.bytes;
        });
    }
}

/// Has the status say how a group has ended.
pub(crate) fn tell_end<T>(publisher: &Publisher, group: &str, outcome: &Result<T, Error>) {
    match outcome {
        Ok(_) => publisher.state(State::Stopped, "stopped as asked"),
        Err(error) => {
            tracing::error!(group = %group, %error, hint = error.hint(), "abended");
            publisher.abended(failure(error));
        }
    }
}

pub(crate) fn failure(error: &Error) -> Failure {
    Failure { message: error.to_string(), hint: error.hint(), transient: error.is_transient() }
}
