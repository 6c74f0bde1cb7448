//! From the trail to the producer: what is durable is read, told, and sent as far as there is room.

use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::Stop;
use irongate_trail::{
    CommitLsn, Follower, Item, Lineage, Mark, ResumeLsn, Source, Storage, Timestamp, register_reader,
};
use tokio::time::{Instant, sleep_until};

use super::event::{Event, Teller};
use super::producer::Producer;
use super::settings::FeedSettings;
use super::topics::Topics;
use crate::error::Error;
use crate::pump::session::carrier::open_behind;
use crate::pump::{Shown, failure, own};
use crate::sender::Sent;

/// Items and bytes that are told in one go, so that what has landed is heard in time.
const AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 1 << 20;
/// How long what is in hand may take once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the state is shown.
const TICK: Duration = Duration::from_millis(250);
/// How often the trail is told how far it may be purged.
const SETTLE: Duration = Duration::from_secs(1);

/// One of what stands in a row to be sent.
enum Step {
    Event(Event),
    Boundary(Mark),
}

/// Reads the trail and publishes it.
pub(super) struct Carrier<'a> {
    settings: &'a FeedSettings,
    storage: &'a Arc<dyn Storage>,
    follower: Follower,
    teller: Teller,
    producer: Producer,
    topics: Topics,
    lineage: Lineage,
    commit: CommitLsn,
    resume: ResumeLsn,
    commit_time: Timestamp,
}

impl<'a> Carrier<'a> {
    /// Opens the trail behind a mark; behind none, at the beginning of its last unbroken history.
    pub(super) fn open(
        settings: &'a FeedSettings,
        storage: &'a Arc<dyn Storage>,
        mark: Mark,
    ) -> Result<Self, Error> {
        let (lineage, commit, resume) = if mark.position.seqno == 0 {
            let facts = own::facts(storage, u64::MAX)?;
            let Some(first) = facts.histories.first() else {
                return Err(irongate_trail::Error::NotDurable(storage.path("")).into());
            };
            (first.lineage, CommitLsn::default(), first.start)
        } else {
            let Some(header) = own::header(&**storage, mark.position.seqno)? else {
                let directory = storage.path("");
                return Err(irongate_trail::Error::NotInTrail { directory, commit: mark.commit_lsn }.into());
            };
            (header.lineage, mark.commit_lsn, mark.resume_lsn)
        };
        let follower = open_behind(&settings.trail, lineage, commit, resume)?;
        Ok(Self {
            settings,
            storage,
            follower,
            teller: Teller::new(&settings.shape),
            producer: Producer::open(settings)?,
            topics: Topics::default(),
            lineage,
            commit,
            resume,
            commit_time: mark.commit_time,
        })
    }

    pub(super) async fn carry(&mut self, shown: &mut Shown, stop: &mut Stop) -> Result<(), Error> {
        let (mut tick, mut settled, mut beat) = (Instant::now(), Instant::now(), Instant::now());
        let mut stopping: Option<Instant> = None;
        loop {
            if stopping.is_none() && stop.or(std::future::ready(())).await.is_none() {
                stopping = Some(Instant::now() + GRACE);
            }
            let wants_end = stopping.is_some() && !self.teller.is_within_transaction();
            let mut is_drained = false;
            if self.producer.has_room() && !wants_end {
                let (steps, drained) = self.read()?;
                is_drained = drained;
                let sending = self.send(steps);
                // Making topics may take as long as the brokers do.
                match stopping {
                    Some(deadline) => match tokio::time::timeout_at(deadline, sending).await {
                        Ok(sent) => sent?,
                        Err(_) => return Ok(()),
                    },
                    None => match stop.or(sending).await {
                        Some(sent) => sent?,
                        None => return Ok(()),
                    },
                }
            }
            let is_late = stopping.is_some_and(|deadline| Instant::now() >= deadline);
            if (wants_end && self.producer.is_idle()) || is_late {
                return Ok(());
            }
            if Instant::now() >= tick {
                if let Some(every) = self.settings.heartbeat.filter(|every| beat.elapsed() >= *every)
                    && self.producer.has_room()
                    && !every.is_zero()
                {
                    let heartbeat = self.teller.heartbeat(Timestamp::now());
                    self.send(vec![Step::Event(heartbeat)]).await?;
                    beat = Instant::now();
                }
                if settled.elapsed() >= SETTLE || shown.acknowledged.position.seqno == 0 {
                    self.settle(shown)?;
                    settled = Instant::now();
                }
                self.show(shown);
                tick = Instant::now() + TICK;
            }
            let reads_on = self.producer.has_room() && !is_drained && !wants_end;
            tokio::select! {
                biased;
                landed = self.producer.landed() => landed?,
                () = std::future::ready(()), if reads_on => {}
                more = self.follower.wait(), if is_drained => more?,
                () = stop.asked(), if stopping.is_none() => {}
                () = sleep_until(tick) => {}
            }
        }
    }

    /// Reads on until there is enough, or nothing more is durable.
    fn read(&mut self) -> Result<(Vec<Step>, bool), Error> {
        let now = Timestamp::now();
        let (mut steps, mut events, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..AT_ONCE {
            if bytes >= BYTES_AT_ONCE {
                break;
            }
            let Self { follower, teller, .. } = self;
            let next = match follower.next() {
                Err(irongate_trail::Error::Lineage { directory, .. }) => {
                    let mark = directory.join(format!("reader-{}", self.settings.group));
                    return Err(Error::Anew { flow: self.settings.flow.clone(), commit: self.commit, mark });
                }
                other => other?,
            };
            let Some(item) = next else { return Ok((steps, true)) };
            teller.tell(&item, now, &mut events)?;
            let is_boundary = match &item {
                Item::Commit(commit) => {
                    (self.commit, self.commit_time) = (commit.commit_lsn, commit.commit_time);
                    self.resume = self.resume.max(commit.end_lsn);
                    true
                }
                Item::Progress(progress) => {
                    self.resume = self.resume.max(progress.resume_lsn);
                    true
                }
                _ => false,
            };
            let is_progress = matches!(item, Item::Progress(_));
            for event in events.drain(..) {
                bytes += event.value.as_ref().map_or(0, Vec::len);
                steps.push(Step::Event(event));
            }
            if is_boundary {
                if self.lineage != self.follower.lineage() {
                    // The source's standby was promoted: of the commits before, none is of this history.
                    self.lineage = self.follower.lineage();
                    if is_progress {
                        self.commit = CommitLsn::default();
                    }
                }
                steps.push(Step::Boundary(Mark {
                    position: self.follower.position(),
                    resume_lsn: self.resume,
                    commit_lsn: self.commit,
                    commit_time: self.commit_time,
                    set: Timestamp::now(),
                }));
            }
        }
        Ok((steps, false))
    }

    async fn send(&mut self, steps: Vec<Step>) -> Result<(), Error> {
        for step in steps {
            match step {
                Step::Event(event) => {
                    if !self.topics.has(&event) {
                        self.topics.ensure(self.settings, &event).await?;
                    }
                    self.producer.send(&event)?;
                }
                Step::Boundary(mark) => self.producer.boundary(mark),
            }
        }
        Ok(())
    }

    /// Tells the trail how far it is not needed any more.
    pub(super) fn settle(&mut self, shown: &mut Shown) -> Result<(), Error> {
        let Some(mark) = self.producer.reached.take() else { return Ok(()) };
        tokio::task::block_in_place(|| register_reader(&**self.storage, &self.settings.group, &mark))?;
        shown.acknowledged = mark;
        Ok(())
    }

    fn show(&self, shown: &mut Shown) {
        shown.sent = Sent { bytes: self.producer.bytes, ..self.teller.sent };
        shown.durable = self.follower.durable();
        shown.show();
        match self.producer.trouble() {
            Some(error) => shown.publisher.update(|status| {
                status.doing = format!("waiting for Kafka: {error}");
                status.error = Some(failure(&error));
            }),
            None if self.producer.is_idle() => shown.publisher.doing("waiting for changes"),
            None => shown.publisher.doing("publishing changes"),
        }
    }
}
