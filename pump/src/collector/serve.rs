//! One connection of a collector, acted out.
//!
//! Records are appended as they arrive. When a sync has ended, the next begins if something was appended meanwhile: so one
//! sync carries what came in during the one before it, off this thread. What is acknowledged is what a sync has covered. The
//! link is not read while the disk cannot take more, so the pump is held back by its own socket.

use std::sync::Arc;
use std::time::Duration;

use irongate_trail::{Malformed, Mark, SyncJob, Timestamp};
use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::lane::{self, Applied, Lane, Tables, Trail, Trouble};
use super::room::{self, Room, Verdict};
use super::{Flow, Site, admission};
use crate::error::Error;
use crate::link::{self, Link, Outbox, Receiving, Sending, peer_name};
use crate::wire::{Ack, Code, Frame, Greeting, Hello, Place, Records, Refused, Role};

/// How long the last words may take to be sent.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often it is looked whether there is room again.
const HOLDING: Duration = Duration::from_millis(200);
/// How long a connection of the same pump may take to let go.
const HANDOVER: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    /// The pump has taken its leave.
    Parted,
    /// The collector stops.
    Stopping,
    /// The same pump has connected again.
    Superseded,
}

/// Serves a pump until it goes, the collector stops or something fails.
pub(super) async fn serve(
    link: Link,
    site: &Arc<Site>,
    mut stopping: watch::Receiver<bool>,
) -> Result<Left, Error> {
    let settings = &site.settings;
    let address = link.address();
    let known: Vec<String> =
        settings.flows.iter().map(|flow| flow.from.clone()).filter(|from| link.is_of(from)).collect();
    let (mut receiving, mut sending) = link.split(&peer_name(None, address), &settings.link);
    let greeting = Greeting {
        deployment: settings.deployment.clone(),
        site: settings.site.clone(),
        group: settings.group.clone(),
    };
    let outcome = async {
        sending.introduce(Role::Collector, &Frame::Greeting(greeting)).await?;
        let hello = hello(&mut receiving, settings.link.connect_limit).await?;
        let certified = |site: &str| known.iter().any(|known| known == site);
        let flow = admission::who(&hello, &settings.deployment, &settings.flows, certified)
            .map_err(Error::refusing)?;
        receiving.peer = format!("pump \"{}\" of {}", hello.group, peer_name(Some(&hello.site), address));
        let Some(flow) = site.flow(&flow.flow) else {
            return Err(Error::Setting { setting: "flows", reason: "a flow is not there".to_owned() });
        };
        let mut held = hold(flow, &hello, &receiving.peer).await?;
        let outcome = held.talk(site, &hello, &mut receiving, &mut sending, &mut stopping).await;
        flow.ended(&outcome);
        outcome
    }
    .await;
    if let Err(Error::Refusing { refused }) = &outcome {
        link::refuse(&mut sending, &mut receiving, refused).await;
    } else {
        sending.close().await;
    }
    outcome
}

async fn hello(receiving: &mut Receiving, limit: Duration) -> Result<Hello, Error> {
    let peer = receiving.peer.clone();
    let until = Instant::now() + limit;
    receiving.preface(Role::Pump, until).await?;
    let reading = async {
        loop {
            match receiving.decoder.next().map_err(Error::malformed(&peer))? {
                Some(Frame::Hello(hello)) => return Ok(hello),
                Some(Frame::Refused(refused)) => {
                    return Err(Error::Refused { peer: peer.clone(), refused: Box::new(refused) });
                }
                Some(_) => {
                    let source = Malformed("a frame that does not belong into a greeting");
                    return Err(Error::Malformed { peer: peer.clone(), source });
                }
                None => receiving.fill().await?,
            }
        }
    };
    tokio::time::timeout_at(until, reading)
        .await
        .unwrap_or_else(|_| Err(Error::ConnectTimeout { peer: peer.clone(), limit }))
}

/// A flow in the hands of one connection.
struct Holding<'a> {
    flow: &'a Flow,
    lane: OwnedMutexGuard<Lane>,
    superseded: Arc<Notify>,
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.flow.release(&self.superseded);
    }
}

async fn hold<'a>(flow: &'a Flow, hello: &Hello, peer: &str) -> Result<Holding<'a>, Error> {
    let busy = || Error::refusing(admission::busy(&hello.flow, &flow.holder()));
    let lane = match Arc::clone(&flow.lane).try_lock_owned() {
        Ok(lane) => lane,
        // Its own earlier connection, cut without our having noticed.
        Err(_) if flow.supersede(hello.instance) => {
            timeout(HANDOVER, Arc::clone(&flow.lane).lock_owned()).await.map_err(|_| busy())?
        }
        Err(_) => return Err(busy()),
    };
    let superseded = flow.take(hello.instance, peer);
    Ok(Holding { flow, lane, superseded })
}

/// A sync that runs beside, and the boundaries that it covers.
struct Syncing {
    job: Option<(JoinHandle<Result<Mark, irongate_trail::Error>>, u64)>,
    /// Boundaries that a job was made for.
    covered: Option<u64>,
}

impl Syncing {
    fn start(&mut self, job: SyncJob, boundaries: u64) {
        self.job = Some((tokio::task::spawn_blocking(move || job.run()), boundaries));
        self.covered = Some(boundaries);
    }

    /// Waits for the sync to end; for ever if there is none. Cancel-safe.
    async fn ended(&mut self) -> (Result<Mark, Trouble>, u64) {
        let Some((handle, boundaries)) = &mut self.job else { return std::future::pending().await };
        let (outcome, boundaries) = (handle.await, *boundaries);
        self.job = None;
        let outcome = match outcome {
            Ok(outcome) => outcome.map_err(Trouble::Trail),
            Err(_) => Err(Trouble::Misplaced(Malformed("the task of a sync has ended"))),
        };
        (outcome, boundaries)
    }
}

/// What an error of the trail means to the pump. `open` says whether it came up when the trail was opened: later, opening it
/// anew may help.
fn storage(error: &irongate_trail::Error, open: bool) -> Error {
    Error::refusing(Refused {
        code: Code::Storage,
        transient: !open || error.is_transient(),
        message: error.to_string(),
        remedy: error.hint().map_or_else(
            || "look at the collector's site".to_owned(),
            |hint| format!("at the collector's site: {hint}"),
        ),
    })
}

impl Holding<'_> {
    async fn talk(
        &mut self,
        site: &Site,
        hello: &Hello,
        receiving: &mut Receiving,
        sending: &mut Sending,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<Left, Error> {
        let (outbox, gone) = (Outbox::default(), Notify::new());
        let speaking = async {
            let spoken = speak(sending, &outbox, site.settings.link.ping_every).await;
            gone.notify_one();
            spoken
        };
        let mut speaking = std::pin::pin!(speaking);
        let peer = receiving.peer.clone();
        let (outcome, mut spoken) = {
            let listening = self.listen(site, hello, receiving, &outbox, stopping, &gone);
            let mut listening = std::pin::pin!(listening);
            let mut spoken = None;
            loop {
                tokio::select! {
                    outcome = &mut listening => break (outcome, spoken),
                    said = &mut speaking, if spoken.is_none() => spoken = Some(said),
                }
            }
        };
        outbox.close();
        if spoken.is_none() {
            spoken = timeout(FAREWELL, speaking).await.ok();
        }
        match outcome {
            // A frame that was sent in part must not be followed by another.
            Err(Error::Refusing { refused }) if !matches!(spoken, Some(Ok(()))) => {
                tracing::warn!(%peer, reason = %refused, "a refusal could not be told");
                Err(Error::Parted { peer, reason: refused.message })
            }
            outcome => outcome,
        }
    }

    async fn listen(
        &mut self,
        site: &Site,
        hello: &Hello,
        receiving: &mut Receiving,
        outbox: &Outbox,
        stopping: &mut watch::Receiver<bool>,
        gone: &Notify,
    ) -> Result<Left, Error> {
        self.open(site, hello).await?;
        let mut turn = Turn {
            tables: Tables::default(),
            records: Records::default(),
            boundaries: 0,
            syncing: Syncing { job: None, covered: None },
            room: Room::new(
                site.settings.trail_directory.join(&hello.flow),
                site.settings.keep_free,
                Arc::clone(&site.free),
            ),
        };
        if let Some(trail) = &self.lane.trail {
            outbox.accepted(trail.accepted());
        }
        tracing::info!(flow = %hello.flow, peer = %receiving.peer, "receiving");
        let outcome = self.receive(&mut turn, receiving, outbox, stopping, gone).await;
        let outcome = match outcome {
            Err(Leaving::Trouble(trouble)) => Err(self.troubled(trouble, &receiving.peer)),
            Err(Leaving::Error(error)) => Err(error),
            Ok(left) => Ok(left),
        };
        // What arrived whole is made durable in every case, and acknowledged if it can be.
        let put_away = self.put_away(&mut turn, outbox).await;
        if let Ok(left) = &outcome {
            if let Some(error) = put_away {
                return Err(error);
            }
            outbox.goodbye(match left {
                Left::Parted => "everything is durable",
                Left::Stopping => "the collector stops",
                Left::Superseded => "the pump has connected again",
            });
        }
        outcome
    }

    /// Opens the flow's trail, or makes it, if the pump may go on with it.
    async fn open(&mut self, site: &Site, hello: &Hello) -> Result<(), Error> {
        let file_size = site.settings.file_size;
        if self.lane.trail.is_none() {
            let (storage_of, flow) = (Arc::clone(&self.lane.storage), hello.flow.clone());
            let opened =
                tokio::task::spawn_blocking(move || lane::open(&storage_of, &flow, file_size)).await?;
            self.lane.trail = opened.map_err(|error| storage(&error, true))?;
        }
        let own = self.lane.trail.as_ref().map(Trail::own);
        let from = admission::place(hello, own.as_ref()).map_err(Error::refusing)?;
        if self.lane.trail.is_none() {
            let (storage_of, hello) = (Arc::clone(&self.lane.storage), hello.clone());
            let made =
                tokio::task::spawn_blocking(move || lane::create(&storage_of, &hello, &from, file_size))
                    .await?;
            self.lane.trail = Some(made.map_err(|error| storage(&error, true))?);
            tracing::info!(flow = %self.flow.settings.flow, start = %from.start, "trail created");
        }
        if let Some(mut trail) = self.lane.trail.take_if(|trail| trail.own().lineage != from.lineage) {
            let version = hello.server_version;
            let begun =
                tokio::task::spawn_blocking(move || trail.begin_anew(&from, version).map(|()| trail)).await?;
            self.lane.trail = Some(begun.map_err(|error| storage(&error, false))?);
            tracing::info!(flow = %self.flow.settings.flow, lineage = %from.lineage, "instantiated again");
        }
        Ok(())
    }

    /// An error that the pump is told. Afterwards the lane holds nothing that the disk does not.
    fn troubled(&mut self, trouble: Trouble, peer: &str) -> Error {
        let refused = match trouble {
            Trouble::Trail(error) => {
                self.lane.trail = None;
                return storage(&error, false);
            }
            Trouble::Misplaced(source) => Refused {
                code: Code::Malformed,
                transient: true,
                message: format!("malformed data from {peer}: {source}"),
                remedy: String::new(),
            },
            Trouble::Digest(commit) => Refused {
                code: Code::Digest,
                transient: true,
                message: format!("the transaction of commit {commit} did not arrive as it was sent"),
                remedy: "it is sent again; if that does not help, look at the memory of both machines"
                    .to_owned(),
            },
        };
        if self.lane.trail.as_mut().is_some_and(|trail| trail.rollback().is_err()) {
            self.lane.trail = None;
        }
        Error::refusing(refused)
    }

    /// Waits for the sync under way and makes durable what it does not cover.
    async fn put_away(&mut self, turn: &mut Turn, outbox: &Outbox) -> Option<Error> {
        loop {
            if turn.syncing.job.is_some() {
                let (outcome, boundaries) = turn.syncing.ended().await;
                if let Err(trouble) = self.synced(outcome, boundaries, outbox) {
                    return Some(self.troubled(trouble, "the pump"));
                }
            }
            let boundaries = turn.boundaries;
            let trail = self.lane.trail.as_mut()?;
            match trail.writer.sync_job() {
                Ok(Some(job)) => turn.syncing.start(job, boundaries),
                Ok(None) => return None,
                Err(error) => return Some(self.troubled(Trouble::Trail(error), "the pump")),
            }
        }
    }

    fn synced(
        &mut self,
        outcome: Result<Mark, Trouble>,
        boundaries: u64,
        outbox: &Outbox,
    ) -> Result<(), Trouble> {
        let Some(trail) = &mut self.lane.trail else { return Ok(()) };
        match outcome {
            Ok(mark) => trail.writer.synced(mark)?,
            Err(trouble) => {
                trail.writer.sync_failed();
                return Err(trouble);
            }
        }
        self.acknowledge(boundaries, outbox);
        Ok(())
    }

    fn acknowledge(&mut self, boundaries: u64, outbox: &Outbox) {
        let Some(trail) = &self.lane.trail else { return };
        let Mark { commit_lsn: commit, resume_lsn: resume, commit_time, .. } = trail.writer.durable();
        outbox.ack(Ack { boundaries, place: Place { commit, resume }, commit_time });
        self.flow.show(&trail.writer.durable(), &trail.counts);
    }

    /// Says that the disk has too little room, or enough again.
    fn hold_back(&self, verdict: Verdict, peer: &str) {
        let why = room::told(verdict, peer);
        self.flow.hold_back(why, peer);
    }

    async fn receive(
        &mut self,
        turn: &mut Turn,
        receiving: &mut Receiving,
        outbox: &Outbox,
        stopping: &mut watch::Receiver<bool>,
        gone: &Notify,
    ) -> Result<Left, Leaving> {
        loop {
            if let Some(verdict) = turn.room.look(receiving.bytes) {
                self.hold_back(verdict, &receiving.peer);
            }
            let is_holding = turn.room.is_holding();
            if !is_holding && turn.handle(&mut self.lane, receiving, outbox)? {
                return Ok(Left::Parted);
            }
            if turn.syncing.job.is_none() && turn.syncing.covered != Some(turn.boundaries) {
                let Some(trail) = &mut self.lane.trail else { return Ok(Left::Stopping) };
                match trail.writer.sync_job().map_err(Trouble::Trail)? {
                    Some(job) => {
                        trail.writer.tell_early();
                        turn.syncing.start(job, turn.boundaries);
                    }
                    None => {
                        turn.syncing.covered = Some(turn.boundaries);
                        self.acknowledge(turn.boundaries, outbox);
                    }
                }
            }
            tokio::select! {
                biased;
                (outcome, boundaries) = turn.syncing.ended() => self.synced(outcome, boundaries, outbox)?,
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(Left::Stopping),
                () = self.superseded.notified() => return Ok(Left::Superseded),
                () = gone.notified() => {
                    let source = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                    return Err(Error::Lost { peer: receiving.peer.clone(), source }.into());
                }
                // Nothing is read while nothing is taken: so the pump is held back by its own socket. It hears that this
                // side lives, and whether it lives itself shows when it is written to.
                () = sleep(HOLDING), if is_holding => {}
                more = receiving.fill(), if !is_holding => more?,
            }
            self.flow.received(receiving.bytes);
        }
    }
}

/// Why receiving has come to a halt.
enum Leaving {
    Trouble(Trouble),
    Error(Error),
}

impl From<Trouble> for Leaving {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Error> for Leaving {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What a connection knows that a lane does not.
struct Turn {
    tables: Tables,
    records: Records,
    /// Boundaries appended.
    boundaries: u64,
    syncing: Syncing,
    room: Room,
}

impl Turn {
    /// Takes everything that has arrived; true when the pump takes its leave.
    fn handle(
        &mut self,
        lane: &mut Lane,
        receiving: &mut Receiving,
        outbox: &Outbox,
    ) -> Result<bool, Leaving> {
        let peer = &receiving.peer;
        while let Some(frame) = receiving.decoder.next().map_err(Trouble::Misplaced)? {
            match frame {
                Frame::Batch(batch) => {
                    self.records.push(batch);
                    self.apply(lane)?;
                }
                Frame::Ping { time } => outbox.pong(time),
                Frame::Pong { .. } => {}
                Frame::Goodbye(_) => return Ok(true),
                Frame::Refused(refused) => {
                    return Err(Error::Refused { peer: peer.clone(), refused: Box::new(refused) }.into());
                }
                _ => {
                    let source = Malformed("a frame that a pump does not send here");
                    return Err(Trouble::Misplaced(source).into());
                }
            }
        }
        Ok(false)
    }

    fn apply(&mut self, lane: &mut Lane) -> Result<(), Trouble> {
        let Some(trail) = &mut lane.trail else { return Ok(()) };
        while let Some(found) = self.records.next().map_err(Trouble::Misplaced)? {
            if trail.apply(&mut self.tables, &found)? == Applied::Boundary {
                self.boundaries += 1;
            }
        }
        Ok(())
    }
}

/// Sends what waits in the outbox and signs of life, until it is closed.
async fn speak(sending: &mut Sending, outbox: &Outbox, ping_every: Duration) -> Result<(), Error> {
    let mut ping = Instant::now() + ping_every;
    let mut bytes = Vec::with_capacity(256);
    let mut encoder = crate::wire::Encoder::default();
    loop {
        let last = outbox.take(&mut bytes);
        if !last && Instant::now() >= ping {
            encoder.append(&Frame::Ping { time: Timestamp::now() }, &mut bytes);
            ping = Instant::now() + ping_every;
        }
        if !bytes.is_empty() {
            sending.send(&bytes).await?;
            bytes.clear();
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            () = outbox.filled() => {}
            () = sleep_until(ping) => {}
        }
    }
}
