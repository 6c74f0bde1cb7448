//! What a pump writes: the trail, read as far as it is durable, record by record.
//!
//! Several records are on their way at once, and no more than a limit: behind that nothing is read from the trail. So memory
//! is that limit and one record, or the longest row.

use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_trail::{Follower, Item, Mark, Position, Source, Storage, Timestamp, register_reader};
use tokio::time::{Instant, sleep_until};

use super::super::packer::{Note, Packer};
use super::super::settings::KafkaPumpSettings;
use super::super::unit::{At, Reached};
use super::session::{Session, body_limit};
use crate::error::Error;
use crate::pump::session::carrier::between::Between;
use crate::pump::session::carrier::{of_trail, open_trail};
use crate::pump::{Shown, own};
use crate::sender::{Fed, Sender, Sent};
use crate::wire::{Accepted, Code, Refused};

/// Records on their way at most.
const MOST_RECORDS: usize = 256;
/// Bytes on their way at most.
const MOST_BYTES: usize = 16 << 20;
/// The claim is made anew behind so many records or bytes: what a start has to read of the topic's end.
const CLAIM_RECORDS: usize = 1000;
const CLAIM_BYTES: usize = 64 << 20;
/// Items that are read in one go, so that what has landed is heard in time.
const AT_ONCE: usize = 4096;
/// How long what is in hand may take once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the state is shown.
const TICK: Duration = Duration::from_millis(250);
/// How often the trail is told how far it may be purged.
const SETTLE: Duration = Duration::from_secs(1);

/// Why reading has come to a halt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filled {
    /// There is more.
    Full,
    /// Nothing more is durable.
    Drained,
}

/// Reads the trail and writes it.
pub(super) struct Carrier<'a> {
    settings: &'a KafkaPumpSettings,
    storage: &'a Arc<dyn Storage>,
    session: Session,
    accepted: Accepted,
    follower: Follower,
    sender: Sender,
    packer: Packer,
    peer: String,
    /// What has been acknowledged and not been put down.
    reached: Option<(At, Note)>,
    /// The commit that was read last, for its time.
    commit_time: Timestamp,
}

impl<'a> Carrier<'a> {
    pub(super) fn new(
        settings: &'a KafkaPumpSettings,
        storage: &'a Arc<dyn Storage>,
        session: Session,
    ) -> Result<Self, Error> {
        let (accepted, at) = session.accepted();
        let peer = format!("topic \"{}\"", settings.topic);
        let follower = open_trail(&settings.trail, &accepted, &peer)?;
        Ok(Self {
            settings,
            storage,
            session,
            follower,
            sender: Sender::new(&accepted),
            packer: Packer::new(at, accepted.epoch, body_limit(settings.record_size)),
            accepted,
            peer,
            reached: None,
            commit_time: Timestamp::default(),
        })
    }

    pub(super) async fn carry(&mut self, shown: &mut Shown, stop: &mut Stop) -> Result<(), Error> {
        let (mut tick, mut settled) = (Instant::now(), Instant::now());
        let mut stopping: Option<Instant> = None;
        loop {
            if stopping.is_none() && stop.or(std::future::ready(())).await.is_none() {
                stopping = Some(Instant::now() + GRACE);
            }
            let wants_end = stopping.is_some() && !self.sender.is_within_transaction();
            let reads = self.has_room() && !wants_end;
            let filled = if reads { Some(self.fill()?) } else { None };
            if filled == Some(Filled::Drained) || wants_end {
                self.packer.cut();
                self.describe_anew();
            }
            self.send()?;
            if self.is_claim_old() {
                self.land_all().await?;
                self.session.renew().await?;
            }
            let (count, _) = self.session.on_the_way();
            let is_late = stopping.is_some_and(|deadline| Instant::now() >= deadline);
            if (wants_end && count == 0) || is_late {
                return Ok(());
            }
            if Instant::now() >= tick {
                if settled.elapsed() >= SETTLE || shown.acknowledged.position.seqno == 0 {
                    self.settle(shown)?;
                    settled = Instant::now();
                }
                self.show(shown);
                tick = Instant::now() + TICK;
            }
            tokio::select! {
                landed = self.session.landed() => {
                    if let Some(whole) = self.session.confirm(landed?).await? {
                        self.reached = Some(whole);
                    }
                }
                more = self.follower.wait(), if filled == Some(Filled::Drained) => more?,
                () = stop.asked(), if stopping.is_none() => {}
                () = sleep_until(tick) => {}
                () = std::future::ready(()), if filled == Some(Filled::Full) => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        let (count, bytes) = self.session.on_the_way();
        count < MOST_RECORDS && bytes < MOST_BYTES
    }

    fn is_claim_old(&self) -> bool {
        let (records, bytes) = self.session.since_claim();
        (records >= CLAIM_RECORDS || bytes >= CLAIM_BYTES) && self.packer.is_between()
    }

    async fn land_all(&mut self) -> Result<(), Error> {
        while self.session.on_the_way().0 > 0 {
            let landed = self.session.landed().await?;
            if let Some(whole) = self.session.confirm(landed).await? {
                self.reached = Some(whole);
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Error> {
        while let Some(piece) = self.packer.pop() {
            self.session.send_piece(piece)?;
        }
        Ok(())
    }

    /// What comes next can be read without what has left.
    fn describe_anew(&mut self) {
        if self.packer.is_between() {
            self.sender.forget_tables();
        }
    }

    /// Reads until there is enough for a record, or nothing more.
    fn fill(&mut self) -> Result<Filled, Error> {
        for _ in 0..AT_ONCE {
            if self.packer.is_full() {
                self.packer.cut();
                self.describe_anew();
                return Ok(Filled::Full);
            }
            if !self.step()? {
                return Ok(Filled::Drained);
            }
        }
        Ok(Filled::Full)
    }

    /// Reads one item; false when nothing more is durable.
    #[inline]
    fn step(&mut self) -> Result<bool, Error> {
        let Self { follower, sender, packer, accepted, peer, settings, .. } = self;
        let next = follower.next().map_err(|error| of_trail(error, &settings.trail, accepted, peer))?;
        let Some(item) = next else { return Ok(false) };
        if sender.is_within_transaction() {
            let commit = if let Item::Commit(commit) = &item { Some(*commit) } else { None };
            match (sender.feed(&item, &mut packer.batch), commit) {
                (Fed::Inside, _) => {}
                (Fed::Boundary, Some(commit)) => {
                    let mut at = packer.at();
                    at.reached = Reached {
                        commit: commit.commit_lsn,
                        resume: commit.end_lsn.max(at.reached.resume),
                        message: irongate_trail::Lsn::ZERO,
                    };
                    self.commit_time = commit.commit_time;
                    self.boundary(at);
                }
                _ => return Err(misread()),
            }
            return Ok(true);
        }
        let next = Between::from(item);
        self.between(&next)?;
        Ok(true)
    }

    fn boundary(&mut self, at: At) {
        let note = Note { position: self.follower.position(), commit_time: self.commit_time };
        self.packer.boundary(at, self.sender.epoch(), note);
        self.describe_anew();
    }

    /// Takes what stands between transactions, or begins one: the only place where a file, and with it lineage and epoch,
    /// can have changed. A change of these is a record of its own.
    fn between(&mut self, next: &Between) -> Result<(), Error> {
        let position = self.follower.position();
        let file = Position { offset: 0, ..position };
        let (lineage, epoch) = (self.follower.lineage(), self.follower.epoch());
        if lineage != self.sender.lineage() || epoch > self.sender.epoch() {
            self.packer.cut();
            self.describe_anew();
        }
        if lineage != self.sender.lineage() {
            let header = own::header(&**self.storage, position.seqno)?;
            let (start, server_version) =
                header.map_or((next.place(), 0), |header| (header.resume_lsn, header.server_version));
            self.sender.begin_lineage(lineage, start, server_version, &mut self.packer.batch);
            let reached = Reached { resume: start, ..Reached::default() };
            self.alone(At { lineage, reached }, file);
        }
        if epoch > self.sender.epoch() {
            self.sender.begin_epoch(epoch, &mut self.packer.batch);
            self.alone(self.packer.at(), file);
        }
        if let Between::Begin(begin) = next {
            self.packer.begin(begin.commit_lsn);
        }
        let fed = self.sender.feed(&next.item(), &mut self.packer.batch);
        if epoch < self.sender.epoch() && fed != Fed::Passed {
            let known = self.sender.epoch();
            return Err(Error::refusing(Refused {
                code: Code::Epoch,
                transient: false,
                message: format!(
                    "the trail goes on in epoch {epoch}, and in topic \"{}\" it is in epoch {known} already",
                    self.settings.topic
                ),
                remedy: "another site has taken over since: this one must not write; instantiate it anew"
                    .to_owned(),
            }));
        }
        match (fed, next) {
            (Fed::Boundary, Between::Progress(progress)) => {
                let mut at = self.packer.at();
                if progress.resume_lsn > at.reached.resume {
                    at.reached = Reached {
                        resume: progress.resume_lsn,
                        message: irongate_trail::Lsn::ZERO,
                        ..at.reached
                    };
                }
                self.boundary(at);
            }
            (Fed::Boundary, Between::Message { message: (_, lsn), .. }) => {
                let mut at = self.packer.at();
                at.reached.message = *lsn;
                self.boundary(at);
            }
            (Fed::Inside | Fed::Passed, _) => {}
            _ => return Err(misread()),
        }
        Ok(())
    }

    fn alone(&mut self, at: At, position: Position) {
        let note = Note { position, commit_time: self.commit_time };
        self.packer.boundary(at, self.sender.epoch(), note);
        self.packer.cut();
        self.describe_anew();
    }

    /// Tells the trail how far it is not needed any more.
    pub(super) fn settle(&mut self, shown: &mut Shown) -> Result<(), Error> {
        let Some((at, note)) = self.reached.take() else { return Ok(()) };
        if note.position < shown.acknowledged.position {
            return Ok(());
        }
        let commit_time =
            if note.commit_time.0 == 0 { shown.acknowledged.commit_time } else { note.commit_time };
        let mark = Mark {
            position: note.position,
            resume_lsn: at.reached.resume,
            commit_lsn: at.reached.commit,
            commit_time,
            set: Timestamp::now(),
        };
        tokio::task::block_in_place(|| register_reader(&**self.storage, &self.settings.group, &mark))?;
        shown.acknowledged = mark;
        Ok(())
    }

    fn show(&self, shown: &mut Shown) {
        shown.sent = Sent { bytes: self.session.bytes, ..self.sender.sent };
        shown.durable = self.follower.durable();
        shown.show();
    }
}

fn misread() -> Error {
    Error::Trail(irongate_trail::Error::Misuse("a step that does not belong where it stands"))
}
