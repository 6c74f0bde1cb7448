//! What a pump sends: the trail, read as far as it is durable, batch by batch.
//!
//! Nothing is read while the last batch is on its way, so memory is one batch, or the longest row.

pub(crate) mod between;

use std::path::Path;
use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_trail::{Begins, CommitLsn, Follower, Lineage, Lsn, Position, ResumeLsn, Source, Timestamp};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Talk;
use crate::bandwidth::Bucket;
use crate::error::Error;
use crate::link::Sending;
use crate::pump::own;
use crate::sender::{Fed, Sender, Sent};
use crate::wire::{Accepted, BATCH, Code, Encoder, Frame, Place, Refused};
use between::Between;

/// How long the transaction in hand may take to end once we are asked to stop, and the collector to acknowledge it.
const GRACE: Duration = Duration::from_secs(10);
/// How long the other side's reason is waited for once nothing can be sent any more.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A buffer that has grown beyond is given back.
const KEEP: usize = 4 << 20;

/// Why reading has come to a halt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filled {
    /// There is enough to send.
    Full,
    /// Nothing more is durable.
    Drained,
    /// Asked to stop, and between transactions.
    Between,
    /// To be read from the beginning again.
    Again,
}

/// Opens the trail where the collector wants it to go on.
pub(crate) fn open_trail(trail: &Path, accepted: &Accepted, peer: &str) -> Result<Follower, Error> {
    let (lineage, Place { commit, resume }) = (accepted.lineage, accepted.place);
    open_behind(trail, lineage, commit, resume).map_err(|error| of_trail(error, trail, accepted, peer))
}

/// Opens a trail behind a place.
pub(crate) fn open_behind(
    trail: &Path,
    lineage: Lineage,
    commit: CommitLsn,
    resume: ResumeLsn,
) -> Result<Follower, irongate_trail::Error> {
    let open = |commit| Follower::open(trail, Begins::After { lineage, commit, resume });
    // Asked to begin after a commit, the reader begins with the last file that follows it, and messages may stand in files
    // between. One byte before, no commit ends: it begins with the file of the commit itself, and passes that over by its
    // LSN. Where purge has taken that file, messages in it were acknowledged.
    match commit.0.0.checked_sub(1) {
        None => open(commit),
        Some(before) => match open(CommitLsn(Lsn(before))) {
            Err(irongate_trail::Error::NotInTrail { .. }) => open(commit),
            other => other,
        },
    }
}

/// The collector has been told where the trail here begins, and stands behind that: a commit that is not there is a fork.
pub(crate) fn of_trail(error: irongate_trail::Error, trail: &Path, accepted: &Accepted, peer: &str) -> Error {
    match error {
        irongate_trail::Error::NotInTrail { .. } => {
            Error::Fork { peer: peer.to_owned(), commit: accepted.place.commit, trail: trail.to_owned() }
        }
        error => Error::Trail(error),
    }
}

/// Reads the trail and sends it.
pub(super) struct Carrier<'a> {
    talk: &'a Talk<'a>,
    peer: String,
    accepted: &'a Accepted,
    follower: Follower,
    sender: Sender,
    encoder: Encoder,
    bucket: Option<Bucket>,
    batch: Vec<u8>,
    wire: Vec<u8>,
    bytes: u64,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        talk: &'a Talk<'a>,
        accepted: &'a Accepted,
        follower: Follower,
        peer: &str,
    ) -> Result<Self, Error> {
        let settings = talk.settings;
        let encoder = Encoder::new(settings.compression)
            .map_err(|error| Error::Setting { setting: "compression", reason: error.to_string() })?;
        Ok(Self {
            talk,
            peer: peer.to_owned(),
            accepted,
            follower,
            sender: Sender::new(accepted),
            encoder,
            bucket: settings.bandwidth.map(|rate| Bucket::new(rate, std::time::Instant::now())),
            batch: Vec::with_capacity(2 * BATCH),
            wire: Vec::with_capacity(2 * BATCH),
            bytes: 0,
        })
    }

    pub(super) async fn carry(&mut self, sending: &mut Sending, stop: &mut Stop) -> Result<(), Error> {
        let carried = self.carry_on(sending, stop).await;
        if let Err(Error::Lost { .. }) = &carried {
            // The other side's reason may be on its way; whoever hears it ends the session with that.
            sleep(LAST_WORDS).await;
        }
        carried
    }

    async fn carry_on(&mut self, sending: &mut Sending, stop: &mut Stop) -> Result<(), Error> {
        let ping_every = self.talk.settings.link.ping_every;
        let mut ping = Instant::now();
        let mut stopping: Option<Instant> = None;
        loop {
            if stopping.is_none() && stop.or(std::future::ready(())).await.is_none() {
                stopping = Some(Instant::now() + GRACE);
            }
            let filled = self.fill(stopping.is_some())?;
            if Instant::now() >= ping {
                // The answer says how far away the collector is, and that it lives.
                self.encoder.append(&Frame::Ping { time: Timestamp::now() }, &mut self.wire);
                ping = Instant::now() + ping_every;
            }
            self.flush(sending).await?;
            match (filled, stopping) {
                (Filled::Again, _) => {
                    tracing::info!(peer = %self.peer, "the unfinished transaction is sent from its begin");
                    self.follower = open_trail(&self.talk.settings.trail, self.accepted, &self.peer)?;
                    self.sender.again();
                }
                (Filled::Between, _) => return self.part(sending).await,
                (_, Some(deadline)) if Instant::now() >= deadline => return self.part(sending).await,
                (Filled::Full, _) => tokio::task::yield_now().await,
                (Filled::Drained, _) => tokio::select! {
                    more = self.follower.wait() => more?,
                    () = self.talk.outbox.filled() => {}
                    () = stop.asked(), if stopping.is_none() => {}
                    () = sleep_until(ping) => {}
                },
            }
        }
    }

    /// Reads until there is enough for a batch or nothing more.
    fn fill(&mut self, stopping: bool) -> Result<Filled, Error> {
        let filled = loop {
            if stopping && !self.sender.is_within_transaction() {
                break Filled::Between;
            }
            if self.batch.len() >= BATCH {
                break Filled::Full;
            }
            match self.step()? {
                None => break Filled::Drained,
                Some(Fed::Again) => break Filled::Again,
                Some(_) => {}
            }
        };
        let mut shared = self.talk.shared();
        shared.sent = Sent { bytes: self.bytes, ..self.sender.sent };
        shared.durable = self.follower.durable();
        Ok(filled)
    }

    /// Reads one item.
    #[inline]
    fn step(&mut self) -> Result<Option<Fed>, Error> {
        let Self { follower, sender, batch, talk, accepted, peer, .. } = self;
        let next = follower.next().map_err(|error| of_trail(error, &talk.settings.trail, accepted, peer))?;
        if sender.is_within_transaction() {
            let Some(item) = next else { return Ok(None) };
            let fed = sender.feed(&item, batch);
            if fed == Fed::Boundary {
                talk.shared().boundaries.push(follower.position());
            }
            return Ok(Some(fed));
        }
        let next = next.map(Between::from);
        let Some(next) = next else {
            talk.shared().boundaries.origin(follower.position());
            return Ok(None);
        };
        self.between(&next).map(Some)
    }

    /// Takes what stands between transactions, or begins one: the only place where a file, and with it lineage and epoch,
    /// can have changed.
    fn between(&mut self, next: &Between) -> Result<Fed, Error> {
        let Self { follower, sender, batch, talk, .. } = self;
        let position = follower.position();
        let file = Position { offset: 0, ..position };
        let (lineage, epoch) = (follower.lineage(), follower.epoch());
        if lineage != sender.lineage() {
            let header = own::header(&**talk.storage, position.seqno)?;
            let (start, server_version) =
                header.map_or((next.place(), 0), |header| (header.resume_lsn, header.server_version));
            sender.begin_lineage(lineage, start, server_version, batch);
            talk.shared().boundaries.push(file);
        }
        if epoch > sender.epoch() {
            sender.begin_epoch(epoch, batch);
            talk.shared().boundaries.push(file);
        }
        let fed = sender.feed(&next.item(), batch);
        if epoch < sender.epoch() && fed != Fed::Passed {
            let known = sender.epoch();
            return Err(Error::refusing(Refused {
                code: Code::Epoch,
                transient: false,
                message: format!(
                    "the trail goes on in epoch {epoch}, and at the other site it is in epoch {known} already"
                ),
                remedy: "another site has taken over since: this one must not send; instantiate it anew"
                    .to_owned(),
            }));
        }
        let mut shared = talk.shared();
        match fed {
            Fed::Boundary => shared.boundaries.push(position),
            Fed::Passed | Fed::Inside => shared.boundaries.origin(position),
            Fed::Again => {}
        }
        Ok(fed)
    }

    /// Sends what was read.
    async fn flush(&mut self, sending: &mut Sending) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        for piece in batch.chunks(BATCH) {
            self.talk.outbox.take(&mut self.wire);
            self.encoder.append(&Frame::Batch(piece), &mut self.wire);
            self.send(sending).await?;
        }
        self.batch = batch;
        self.batch.clear();
        self.batch.shrink_to(KEEP);
        self.talk.outbox.take(&mut self.wire);
        self.send(sending).await
    }

    async fn send(&mut self, sending: &mut Sending) -> Result<(), Error> {
        if self.wire.is_empty() {
            return Ok(());
        }
        self.bytes += self.wire.len() as u64;
        match &mut self.bucket {
            None => sending.send(&self.wire).await?,
            Some(bucket) => {
                for piece in self.wire.chunks(bucket.depth().min(64 << 10)) {
                    sleep(bucket.take(piece.len(), std::time::Instant::now())).await;
                    sending.send(piece).await?;
                }
            }
        }
        self.wire.clear();
        Ok(())
    }

    /// Takes leave and waits for the collector's, which comes when everything is durable there. Whoever hears it ends the
    /// session.
    async fn part(&mut self, sending: &mut Sending) -> Result<(), Error> {
        self.talk.shared().parting = true;
        self.talk.outbox.goodbye("the pump stops");
        self.flush(sending).await?;
        let _ = timeout(GRACE, std::future::pending::<()>()).await;
        Ok(())
    }
}
