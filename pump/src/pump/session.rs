//! One connection of a pump, acted out.
//!
//! Three things happen at once, in one task, so that dropping it leaves nothing behind: the trail is read and sent, what
//! the collector says is heard, and now and then what was heard is put down. Nothing waits for an acknowledgement but the
//! end, so the distance costs no throughput: what is under way is in the socket, and when the collector does not read, the
//! socket is full and nothing more is read from the trail. Memory is one batch, or the longest row.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_trail::{
    Begin, Begins, CommitLsn, Follower, Item, Lsn, Mark, Message, Position, Progress, ResumeLsn, Source,
    Storage, Timestamp, register_reader,
};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::{Shown, own};
use crate::bandwidth::Bucket;
use crate::boundaries::Boundaries;
use crate::error::Error;
use crate::link::{self, Link, Outbox, Receiving, Sending, peer_name};
use crate::sender::{Fed, Sender, Sent};
use crate::settings::PumpSettings;
use crate::wire::{Accepted, Ack, BATCH, Code, Encoder, Frame, Hello, Place, Refused, Role};

/// How long the transaction in hand may take to end once we are asked to stop, and the collector to acknowledge it.
const GRACE: Duration = Duration::from_secs(10);
/// How often the state is shown.
const TICK: Duration = Duration::from_millis(250);
/// How often the trail is told how far it may be purged.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the other side's reason is waited for once nothing can be sent any more.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A buffer that has grown beyond is given back.
const KEEP: usize = 4 << 20;

/// A connection that the collector has accepted.
pub(super) struct Session<'a> {
    settings: &'a PumpSettings,
    storage: &'a Arc<dyn Storage>,
    receiving: Receiving,
    sending: Sending,
    accepted: Accepted,
    follower: Follower,
    outbox: Outbox,
    shared: Mutex<Shared>,
}

/// What the parts of a session tell each other.
#[derive(Default)]
struct Shared {
    boundaries: Boundaries,
    /// The place in the trail that the last acknowledgement leads to, until it has been put down.
    reached: Option<Position>,
    ack: Ack,
    sent: Sent,
    durable: Mark,
    round_trip: Option<Duration>,
    /// We have taken our leave.
    parting: bool,
}

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

impl<'a> Session<'a> {
    /// Introduces the pump and hears the collector's answer.
    pub(super) async fn open(
        link: Link,
        settings: &'a PumpSettings,
        storage: &'a Arc<dyn Storage>,
        instance: u64,
    ) -> Result<Self, Error> {
        let facts = own::facts(storage, settings.epoch)?;
        let peer = peer_name(Some(&settings.peer), link.address());
        let until = Instant::now() + settings.link.connect_limit;
        let (mut receiving, mut sending) = link.split(&peer, &settings.link);
        let hello = Hello {
            deployment: settings.deployment.clone(),
            flow: settings.flow.clone(),
            site: settings.site.clone(),
            group: settings.group.clone(),
            instance,
            epoch: settings.epoch,
            server_version: facts.server_version,
            end: facts.place(),
            histories: facts.histories,
        };
        let greeting = greet(&mut receiving, &mut sending, hello, settings, until).await;
        let accepted = match greeting {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Error::Refusing { refused } = &error {
                    link::refuse(&mut sending, &mut receiving, refused).await;
                }
                return Err(error);
            }
        };
        tracing::info!(
            %peer, commit = %accepted.place.commit, resume = %accepted.place.resume, held = ?accepted.held,
            "the collector goes on"
        );
        let follower = match open_trail(settings, &accepted, &peer) {
            Ok(follower) => follower,
            Err(error) => {
                part_with(&mut sending, &mut receiving, &error).await;
                return Err(error);
            }
        };
        let (outbox, shared) = (Outbox::default(), Mutex::new(Shared::default()));
        Ok(Self { settings, storage, receiving, sending, accepted, follower, outbox, shared })
    }

    /// Carries the trail until `stop` is uttered or something fails. What was acknowledged is put down in either case.
    pub(super) async fn run(self, shown: &mut Shown, stop: &mut Stop) -> Result<(), Error> {
        let Self { settings, storage, mut receiving, mut sending, accepted, follower, outbox, shared } = self;
        let talk = Talk { settings, storage, outbox: &outbox, shared: &shared };
        let mut carrier = Carrier::new(&talk, &accepted, follower, &receiving.peer)?;
        let outcome = tokio::select! {
            sent = carrier.carry(&mut sending, stop) => sent,
            heard = talk.hear(&mut receiving) => heard,
            settled = talk.keep_settling(shown) => settled,
        };
        let settled = talk.settle(shown).await;
        shown.show();
        if let Err(error) = &outcome {
            part_with(&mut sending, &mut receiving, error).await;
        } else {
            sending.close().await;
        }
        outcome.and(settled)
    }
}

/// Tells the collector why the pump does not go on, if that is the pump's own decision.
async fn part_with(sending: &mut Sending, receiving: &mut Receiving, error: &Error) {
    let refused = match error {
        Error::Refusing { refused } => (**refused).clone(),
        Error::Fork { .. } | Error::Trail(_) => Refused {
            code: if matches!(error, Error::Fork { .. }) { Code::Fork } else { Code::Storage },
            transient: error.is_transient(),
            message: error.to_string(),
            remedy: error.hint().unwrap_or_default(),
        },
        _ => return,
    };
    link::refuse(sending, receiving, &refused).await;
}

async fn greet(
    receiving: &mut Receiving,
    sending: &mut Sending,
    hello: Hello,
    settings: &PumpSettings,
    until: Instant,
) -> Result<Accepted, Error> {
    sending.introduce(Role::Pump, &Frame::Hello(hello)).await?;
    receiving.preface(Role::Collector, until).await?;
    let peer = receiving.peer.clone();
    let mut greeted = false;
    loop {
        let Some(frame) = receiving.decoder.next().map_err(Error::malformed(&peer))? else {
            if greeted {
                // It is opening its trail, which may take its time; it says that it is alive.
                receiving.fill().await?;
            } else {
                let limit = settings.link.connect_limit;
                let late = |_| Err(Error::ConnectTimeout { peer: peer.clone(), limit });
                timeout_at(until, receiving.fill()).await.unwrap_or_else(late)?;
            }
            continue;
        };
        match frame {
            Frame::Refused(refused) => return Err(Error::Refused { peer, refused: Box::new(refused) }),
            Frame::Greeting(greeting) if !greeted => {
                let differs = |code, what: &str, theirs: &str, ours: &str| {
                    Error::refusing(Refused {
                        code,
                        transient: false,
                        message: format!("{peer} is of {what} \"{theirs}\", not \"{ours}\""),
                        remedy: format!(
                            "look at the address of the collector, and at the {what} of both sites"
                        ),
                    })
                };
                if greeting.deployment != settings.deployment {
                    let (theirs, ours) = (&greeting.deployment, &settings.deployment);
                    return Err(differs(Code::Deployment, "deployment", theirs, ours));
                }
                if greeting.site != settings.peer {
                    return Err(differs(Code::Site, "site", &greeting.site, &settings.peer));
                }
                greeted = true;
            }
            Frame::Accepted(accepted) if greeted => return Ok(accepted),
            Frame::Ping { .. } | Frame::Pong { .. } if greeted => {}
            Frame::Goodbye(reason) => return Err(Error::Parted { reason: reason.to_owned(), peer }),
            _ => {
                let source = irongate_trail::Malformed("a frame that does not belong into a greeting");
                return Err(Error::Malformed { peer, source });
            }
        }
    }
}

fn open_trail(settings: &PumpSettings, accepted: &Accepted, peer: &str) -> Result<Follower, Error> {
    let (lineage, Place { commit, resume }) = (accepted.lineage, accepted.place);
    let open = |commit| Follower::open(&settings.trail, Begins::After { lineage, commit, resume });
    // Asked to begin after a commit, the reader begins with the last file that follows it, and messages may stand in files
    // between. One byte before, no commit ends: it begins with the file of the commit itself, and passes that over by its
    // LSN. Where purge has taken that file, messages in it were acknowledged.
    let opened = match commit.0.0.checked_sub(1) {
        None => open(commit),
        Some(before) => match open(CommitLsn(Lsn(before))) {
            Err(irongate_trail::Error::NotInTrail { .. }) => open(commit),
            other => other,
        },
    };
    opened.map_err(|error| of_trail(error, settings, accepted, peer))
}

/// The collector has been told where the trail here begins, and stands behind that: a commit that is not there is a fork.
fn of_trail(error: irongate_trail::Error, settings: &PumpSettings, accepted: &Accepted, peer: &str) -> Error {
    match error {
        irongate_trail::Error::NotInTrail { .. } => Error::Fork {
            peer: peer.to_owned(),
            commit: accepted.place.commit,
            trail: settings.trail.clone(),
        },
        error => Error::Trail(error),
    }
}

/// What all parts of a session use.
#[derive(Clone, Copy)]
struct Talk<'a> {
    settings: &'a PumpSettings,
    storage: &'a Arc<dyn Storage>,
    outbox: &'a Outbox,
    shared: &'a Mutex<Shared>,
}

impl Talk<'_> {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the collector says, until it ends the link.
    async fn hear(&self, receiving: &mut Receiving) -> Result<(), Error> {
        let peer = receiving.peer.clone();
        loop {
            let Some(frame) = receiving.decoder.next().map_err(Error::malformed(&peer))? else {
                receiving.fill().await?;
                continue;
            };
            match frame {
                Frame::Ack(ack) => {
                    let mut shared = self.shared();
                    if ack.boundaries > shared.boundaries.sent() {
                        let source = irongate_trail::Malformed("more is acknowledged than was sent");
                        return Err(Error::Malformed { peer, source });
                    }
                    shared.ack = ack;
                    if let Some(position) = shared.boundaries.acknowledged(ack.boundaries) {
                        shared.reached = Some(position);
                    }
                }
                Frame::Ping { time } => self.outbox.pong(time),
                Frame::Pong { asked, .. } => {
                    let micros = Timestamp::now().0.saturating_sub(asked.0);
                    self.shared().round_trip = u64::try_from(micros).ok().map(Duration::from_micros);
                }
                Frame::Refused(refused) => return Err(Error::Refused { peer, refused: Box::new(refused) }),
                Frame::Goodbye(_) if self.shared().parting => return Ok(()),
                Frame::Goodbye(reason) => return Err(Error::Parted { reason: reason.to_owned(), peer }),
                _ => {
                    let source = irongate_trail::Malformed("a frame that a collector does not send here");
                    return Err(Error::Malformed { peer, source });
                }
            }
        }
    }

    /// Shows the state and puts down what was acknowledged, for ever.
    async fn keep_settling(&self, shown: &mut Shown) -> Result<(), Error> {
        let mut settled = Instant::now();
        loop {
            if settled.elapsed() >= SETTLE || shown.acknowledged.position.seqno == 0 {
                self.settle(shown).await?;
                settled = Instant::now();
            }
            {
                let shared = self.shared();
                (shown.sent, shown.durable, shown.round_trip) =
                    (shared.sent, shared.durable, shared.round_trip);
            }
            shown.show();
            sleep(TICK).await;
        }
    }

    /// Tells the trail how far it is not needed any more.
    async fn settle(&self, shown: &mut Shown) -> Result<(), Error> {
        let (reached, ack) = {
            let mut shared = self.shared();
            (shown.sent, shown.durable) = (shared.sent, shared.durable);
            (shared.reached.take(), shared.ack)
        };
        let Some(position) = reached.filter(|position| *position >= shown.acknowledged.position) else {
            return Ok(());
        };
        let mark = Mark {
            position,
            resume_lsn: ack.place.resume,
            commit_lsn: ack.place.commit,
            commit_time: ack.commit_time,
            set: Timestamp::now(),
        };
        let (storage, name) = (Arc::clone(self.storage), self.settings.group.clone());
        tokio::task::spawn_blocking(move || register_reader(&*storage, &name, &mark)).await??;
        shown.acknowledged = mark;
        Ok(())
    }
}

/// Reads the trail and sends it.
struct Carrier<'a> {
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
    fn new(
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

    async fn carry(&mut self, sending: &mut Sending, stop: &mut Stop) -> Result<(), Error> {
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
                    self.follower = open_trail(self.talk.settings, self.accepted, &self.peer)?;
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
        let next = follower.next().map_err(|error| of_trail(error, talk.settings, accepted, peer))?;
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

/// An item that does not hold on to the trail.
enum Between {
    Begin(Begin),
    Progress(Progress),
    Message {
        message: (bool, Lsn),
        prefix: String,
        content: Vec<u8>,
    },
    /// Cannot stand between transactions: the reader sees to that.
    Other(CommitLsn),
}

impl From<Item<'_>> for Between {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Begin(begin) => Self::Begin(begin),
            Item::Progress(progress) => Self::Progress(progress),
            Item::Message(message) => Self::Message {
                message: (message.transactional, message.lsn),
                prefix: message.prefix.to_owned(),
                content: message.content.to_vec(),
            },
            Item::Commit(commit) => Self::Other(commit.commit_lsn),
            Item::Row { .. } | Item::Truncate { .. } => Self::Other(CommitLsn::default()),
        }
    }
}

impl Between {
    fn item(&self) -> Item<'_> {
        match self {
            Self::Begin(begin) => Item::Begin(begin.clone()),
            Self::Progress(progress) => Item::Progress(*progress),
            Self::Message { message: (transactional, lsn), prefix, content } => {
                Item::Message(Message { transactional: *transactional, lsn: *lsn, prefix, content })
            }
            Self::Other(commit_lsn) => Item::Commit(irongate_trail::Commit {
                commit_lsn: *commit_lsn,
                end_lsn: ResumeLsn::default(),
                commit_time: Timestamp::default(),
                changes: 0,
            }),
        }
    }

    /// Where the source goes on at the latest, if nothing better is known.
    fn place(&self) -> ResumeLsn {
        match self {
            Self::Begin(begin) => ResumeLsn(begin.commit_lsn.0),
            Self::Progress(progress) => progress.resume_lsn,
            Self::Message { message: (_, lsn), .. } => ResumeLsn(*lsn),
            Self::Other(commit) => ResumeLsn(commit.0),
        }
    }
}
