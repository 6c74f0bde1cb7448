//! The reader of a topic: makes a trail of it at another site, with the same writer as everywhere.
//!
//! Where it is, its own trail says. A note of the offset of the last claim lies beside, so that a start need not read the topic
//! from its beginning; a note that is wrong, old or lost costs time and nothing else, because what is read is judged by its
//! place: what the trail has is passed over, what follows is appended, and anything between is a gap, where it stops.

mod lane;
mod note;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{GroupLock, Program, Publisher, State, Status, Stop};
use irongate_trail::{Directory, Mark, Storage, Timestamp};
use tokio::time::{Instant, sleep};

use super::ledger::{Ledger, Verdict, Why};
use super::log::{Log, Owner, Read};
use super::settings::KafkaReaderSettings;
use super::unit::{Header, Kind};
use crate::attempts::Attempts;
use crate::collector::lane::Counts;
use crate::collector::room::{self, Room, Verdict as RoomVerdict};
use crate::error::Error;
use crate::pump::tell_end;
use lane::Lane;
use note::Note;

/// So many bytes are appended at most before they are made durable.
const SYNC_BYTES: usize = 4 << 20;
/// What has come is made durable when nothing more does for so long.
const GATHER: Duration = Duration::from_millis(1);
/// How often the state is shown.
const TICK: Duration = Duration::from_millis(250);
/// Pause between two looks at a disk that has too little room.
const HOLDING: Duration = Duration::from_millis(500);

/// One reader of a topic. Needs a multi-threaded tokio runtime: writing the trail may block.
#[derive(Debug)]
pub struct KafkaReader {
    settings: KafkaReaderSettings,
    /// It ends where the topic ends at present, or with the first error.
    once: bool,
}

impl KafkaReader {
    /// A reader that is not running yet.
    pub fn new(settings: KafkaReaderSettings) -> Self {
        Self { settings, once: false }
    }

    /// Makes a trail of what the topic holds at present, and ends; returns where the trail is durable. In a directory of its
    /// own this is a copy to look at.
    ///
    /// # Errors
    /// Any [`Error`], also one that could pass.
    pub async fn copy(mut self) -> Result<Mark, Error> {
        self.once = true;
        self.run(std::future::pending()).await
    }

    /// Runs until `shutdown` is ready or something fails that cannot pass by itself; returns where the trail is durable.
    ///
    /// When the call is dropped, the trail is as after a kill, and the next start goes on from what was durable.
    ///
    /// # Errors
    /// Any [`Error`] that is not transient; it stands in the group's status as well. [`Error::Checkpoint`] when the group
    /// runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Mark, Error> {
        let settings = &self.settings;
        let lock = GroupLock::acquire(&settings.state_directory, &settings.group)?;
        let status = Status::starting(&settings.group, &settings.flow, Program::Collector);
        let mut shown = Shown {
            publisher: Publisher::start(&settings.state_directory, status)?,
            topic: settings.topic.clone(),
            durable: Mark::default(),
            before: Counts::default(),
            counts: Counts::default(),
            bytes: 0,
            passed: [0; 4],
            fenced: 0,
            connected: None,
        };
        let outcome = self.run_locked(&mut shown, Stop::new(shutdown)).await;
        tell_end(&shown.publisher, &self.settings.group, &outcome);
        drop(shown);
        drop(lock);
        outcome
    }

    async fn run_locked(&self, shown: &mut Shown, mut stop: Stop) -> Result<Mark, Error> {
        let settings = &self.settings;
        let directory = Directory::create(&settings.trail)
            .map_err(|error| Error::File { path: settings.trail.clone(), reason: error.to_string() })?;
        let storage: Arc<dyn Storage> = Arc::new(directory);
        let mut attempts =
            Attempts::new(&settings.group, settings.kafka.retry_first, settings.kafka.retry_longest);
        loop {
            let before = shown.durable;
            let attempt = self.attempt(&storage, shown, &mut stop).await;
            shown.next_session();
            let error = match attempt {
                Ok(()) => return Ok(shown.durable),
                Err(error) if self.once => return Err(error),
                Err(error) => error,
            };
            let has_moved = shown.durable.position != before.position;
            let connected = shown.connected.take();
            if !attempts.failed(error, has_moved, connected, &shown.publisher, &mut stop).await? {
                return Ok(shown.durable);
            }
        }
    }

    /// Opens trail and topic, and reads until `stop` or an error. What has arrived whole is durable in every case.
    async fn attempt(
        &self,
        storage: &Arc<dyn Storage>,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<(), Error> {
        let settings = &self.settings;
        shown.publisher.doing(&format!("connecting to Kafka at {}", settings.kafka.place()));
        let opened = tokio::task::block_in_place(|| Lane::open(settings, storage));
        let mut lane = opened?;
        shown.durable = lane.durable().unwrap_or(shown.durable);
        let owner = Owner::new(&settings.topic, &settings.deployment, &settings.flow);
        let opening = async {
            let mut log = Log::open(&settings.kafka, &settings.topic, &settings.group)?;
            let place = place(&mut log, &owner, &settings.state_directory, &settings.group).await?;
            Ok::<_, Error>((log, place))
        };
        let Some((mut log, (ledger, claim))) = stop.or(opening).await.transpose()? else { return Ok(()) };
        shown.connected = Some(Instant::now());
        shown.publisher.state(State::Running, &format!("reading topic \"{}\"", settings.topic));
        let mut session =
            Session { settings, owner, ledger, claim, noted: claim, unsynced: 0, once: self.once };
        let read = session.read(&mut log, &mut lane, shown, stop).await;
        let synced = session.sync(&mut lane, shown);
        shown.show();
        read.and(synced)
    }
}

/// Where to begin: at the claim that was noted, if it is there, else at the beginning.
async fn place(
    log: &mut Log,
    owner: &Owner,
    directory: &Path,
    group: &str,
) -> Result<(Ledger, Option<Note>), Error> {
    let (low, high) = log.ends()?;
    if let Some(note) = note::read(directory, group).filter(|note| (low..high).contains(&note.offset)) {
        log.seek(note.offset)?;
        if let Some((offset, bytes)) = log.next_before(note.offset + 1).await? {
            let mut ledger = Ledger::from_middle();
            if let Some((header, ..)) = owner.judge(&mut ledger, offset, &bytes)?
                && header.kind == Kind::Claim
                && header.author == note.author()
            {
                return Ok((Ledger::from_claim(&header), Some(note)));
            }
        }
        tracing::info!(
            topic = owner.topic,
            "what was noted of the topic is not there; it is read from its beginning"
        );
    }
    log.seek(low)?;
    Ok((if low == 0 { Ledger::from_beginning() } else { Ledger::from_middle() }, None))
}

/// One reading of a topic.
struct Session<'a> {
    settings: &'a KafkaReaderSettings,
    owner: Owner,
    ledger: Ledger,
    /// The last claim that counted.
    claim: Option<Note>,
    noted: Option<Note>,
    /// Bytes appended since the last sync.
    unsynced: usize,
    /// It ends where the topic ends at present.
    once: bool,
}

impl Session<'_> {
    async fn read(
        &mut self,
        log: &mut Log,
        lane: &mut Lane,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<(), Error> {
        let settings = self.settings;
        let mut room = Room::new(settings.trail.clone(), settings.keep_free, Arc::new(room::of_disk));
        let mut tick = Instant::now();
        loop {
            if let Some(verdict) = room.look(shown.bytes) {
                shown.hold_back(verdict);
            }
            if room.is_holding() {
                self.sync(lane, shown)?;
                if stop.or(sleep(HOLDING)).await.is_none() {
                    return Ok(());
                }
                continue;
            }
            let next = stop.or(log.next());
            let read = if self.unsynced == 0 {
                next.await
            } else {
                // The topic's end is told only where nothing has come for a while.
                match tokio::time::timeout(GATHER, next).await {
                    Ok(read) => read,
                    Err(_) => {
                        self.sync(lane, shown)?;
                        continue;
                    }
                }
            };
            let Some(read) = read.transpose()? else { return Ok(()) };
            match read {
                Read::Record(offset, bytes) => {
                    tokio::task::block_in_place(|| self.take(lane, shown, offset, &bytes))?;
                    if self.unsynced >= SYNC_BYTES {
                        self.sync(lane, shown)?;
                    }
                }
                Read::End => {
                    lane.ended(&self.owner.topic)?;
                    self.sync(lane, shown)?;
                    shown.show();
                    if self.once {
                        return Ok(());
                    }
                }
            }
            if Instant::now() >= tick {
                self.sync(lane, shown)?;
                shown.show();
                tick = Instant::now() + TICK;
            }
        }
    }

    fn take(&mut self, lane: &mut Lane, shown: &mut Shown, offset: i64, bytes: &[u8]) -> Result<(), Error> {
        let Some((header, packed, verdict)) = self.owner.judge(&mut self.ledger, offset, bytes)? else {
            return Ok(());
        };
        shown.bytes += bytes.len() as u64;
        match verdict {
            Verdict::Counts => {
                if header.kind == Kind::Claim {
                    self.claimed(offset, &header);
                }
                self.unsynced += bytes.len();
                lane.take(&header, &packed)
            }
            Verdict::Passed(why) => {
                shown.passed[why as usize] += 1;
                tracing::debug!(topic = self.owner.topic, offset, ?why, "passed over");
                if why == Why::Epoch && header.kind == Kind::Claim {
                    tracing::warn!(
                        topic = self.owner.topic,
                        offset,
                        epoch = header.epoch,
                        present = self.ledger.epoch(),
                        "a pump of an epoch that is over tries to write; what it writes is passed over"
                    );
                }
                Ok(())
            }
        }
    }

    fn claimed(&mut self, offset: i64, header: &Header) {
        self.claim = Some(Note::new(offset, header.author));
    }

    /// Makes durable what was appended, and notes the claim that it lies behind.
    fn sync(&mut self, lane: &mut Lane, shown: &mut Shown) -> Result<(), Error> {
        tokio::task::block_in_place(|| lane.sync())?;
        self.unsynced = 0;
        shown.durable = lane.durable().unwrap_or(shown.durable);
        (shown.counts, shown.fenced) = (lane.counts(), lane.fenced());
        if let Some(claim) = self.claim.filter(|claim| self.noted != Some(*claim) && !lane.is_seeking()) {
            note::write(&self.settings.state_directory, &self.settings.group, &claim);
            self.noted = Some(claim);
        }
        Ok(())
    }
}

/// What `info` and `stats` see.
struct Shown {
    publisher: Publisher,
    topic: String,
    durable: Mark,
    /// Of the sessions before this one.
    before: Counts,
    counts: Counts,
    bytes: u64,
    /// Records that do not count, by why.
    passed: [u64; 4],
    /// Steps of an epoch that is over for this site.
    fenced: u64,
    connected: Option<Instant>,
}

fn plus(one: &Counts, other: &Counts) -> Counts {
    Counts {
        transactions: one.transactions + other.transactions,
        inserts: one.inserts + other.inserts,
        updates: one.updates + other.updates,
        deletes: one.deletes + other.deletes,
        truncates: one.truncates + other.truncates,
        messages: one.messages + other.messages,
    }
}

impl Shown {
    fn next_session(&mut self) {
        self.before = plus(&self.before, &self.counts);
        self.counts = Counts::default();
    }

    fn show(&self) {
        let (durable, counts) = (self.durable, plus(&self.before, &self.counts));
        let mut doing = format!("reading topic \"{}\"", self.topic);
        let [epoch, superseded, unchained, _] = self.passed;
        if epoch + self.fenced > 0 {
            doing += &format!("; passed over {} records of an epoch that is over", epoch + self.fenced);
        }
        if superseded + unchained > 0 {
            doing +=
                &format!("; passed over {} records of pumps that were superseded", superseded + unchained);
        }
        self.publisher.update(|status| {
            status.doing = doing;
            status.error = None;
            status.position = Some(durable.position).filter(|position| position.seqno != 0);
            status.resume_lsn = Some(durable.resume_lsn.0).filter(|lsn| lsn.0 != 0);
            status.commit_lsn = Some(durable.commit_lsn.0).filter(|lsn| lsn.0 != 0);
            status.last_commit_time = Some(durable.commit_time).filter(|time| time.0 != 0);
            // How old the newest transaction is that arrived; what has not arrived is the pump's lag.
            let age = Timestamp::now().0.saturating_sub(durable.commit_time.0).max(0) as f64 / 1e6;
            status.lag_seconds = (durable.commit_time.0 != 0).then_some(age);
            crate::collector::fill(status, &counts, self.bytes);
        });
    }

    fn hold_back(&self, verdict: RoomVerdict) {
        let held = room::told(verdict, &format!("topic \"{}\"", self.topic));
        self.publisher.update(|status| {
            if let Some(held) = &held {
                status.doing = format!("holding: {}", held.message);
            }
            status.error = held;
        });
    }
}
