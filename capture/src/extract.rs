//! Extract: follows one slot into one trail, for as long as it is let.
//!
//! Its place is the trail's and nothing else: each connection starts where the trail is durable, with a machine made
//! for it. What can pass by itself is tried again, longer apart each time; anything else ends the process with a
//! remedy, because a stream that goes on over a doubt loses changes in silence.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{
    BackOff, FIRST_EPOCH, Failure, GroupLock, Program, Publisher, State, Status, Stop, TableCounters,
};
use irongate_trail::{Directory, Lineage, Mark, Storage, Timestamp, Writer, WriterOptions};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::machine::{Counts, Machine};
use crate::pgoutput::Streaming;
use crate::positions::Own;
use crate::run::{self, Ended, View, known};
use crate::source::Source;
use crate::target::Target as _;

/// How long a server that has shut down is left alone.
const SHUT_DOWN_PAUSE: Duration = Duration::from_secs(5);

/// One Extract.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group's name: of its lock and of its status.
    pub group: String,
    /// The flow that the trail belongs to.
    pub flow: String,
    /// The stream to read.
    pub source: Source,
    /// The trail's directory.
    pub trail: PathBuf,
    /// Directory of the lock and the status.
    pub state_dir: PathBuf,
    /// Whose LSNs the trail must hold. `None` takes the trail's word.
    pub lineage: Option<Lineage>,
    /// Size of a trail file in bytes.
    pub file_size: u64,
    /// How often in a row an error that may pass is tried again, without anything captured in between, before it ends the
    /// process; `None` is without end.
    pub retry_attempts: Option<u32>,
    /// First pause before another attempt.
    pub retry_first: Duration,
    /// Longest pause before another attempt.
    pub retry_longest: Duration,
}

impl Settings {
    /// Usual settings: 64 MiB files, pauses of 1 to 30 s.
    pub fn new(
        group: impl Into<String>,
        flow: impl Into<String>,
        source: Source,
        trail: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            group: group.into(),
            flow: flow.into(),
            source,
            trail: trail.into(),
            state_dir: state_dir.into(),
            lineage: None,
            file_size: 64 << 20,
            retry_attempts: None,
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(30),
        }
    }
}

/// How an Extract ended that was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Where the trail ends, durable.
    pub mark: Mark,
    /// What was done since the start.
    pub counts: Counts,
}

/// Follows one slot into one trail. Needs a multi-threaded tokio runtime: the feedback to the slot must go on while a
/// write to the trail blocks.
#[derive(Debug)]
pub struct Extract {
    settings: Settings,
    storage: Arc<dyn Storage>,
}

impl Extract {
    /// An Extract that is not running yet.
    pub fn new(settings: Settings) -> Self {
        let storage = Arc::new(Directory::new(&settings.trail));
        Self { settings, storage }
    }

    /// The same, with its trail in a storage of the caller's: a test's that fails at will, or one that encrypts.
    #[must_use]
    pub fn with_storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = storage;
        self
    }

    /// Runs until `shutdown` is ready or something fails that cannot pass by itself. Stops at the end of a transaction,
    /// with everything appended durable and confirmed.
    ///
    /// Not cancel-safe in comfort, but in substance: when the call is dropped the trail is as after a kill, and the next
    /// start goes on from what was durable.
    ///
    /// # Errors
    /// Any [`Error`] that is not transient; it stands in the group's status as well. [`Error::Checkpoint`] when the
    /// group runs already.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<Stopped, Error> {
        let Settings { group, flow, state_dir, .. } = &self.settings;
        let lock = GroupLock::acquire(state_dir, group)?;
        let publisher = Publisher::start(state_dir, Status::starting(group, flow, Program::Extract))?;
        let mut shown = Shown {
            publisher,
            tables: BTreeMap::new(),
            before: Counts::default(),
            counts: Counts::default(),
            mark: Mark::default(),
        };
        let outcome = self.run_locked(&mut shown, Stop::new(shutdown)).await;
        match &outcome {
            Ok(_) => shown.publisher.state(State::Stopped, "stopped as asked"),
            Err(error) => shown.publisher.abended(failure(error)),
        }
        // The last status is written before the lock goes, so that a reader can tell an end from a kill.
        drop(shown);
        drop(lock);
        outcome
    }

    async fn run_locked(&self, shown: &mut Shown, mut stop: Stop) -> Result<Stopped, Error> {
        let settings = &self.settings;
        let mut trail = None;
        let mut back_off = BackOff::new(settings.retry_first, settings.retry_longest);
        let mut source = settings.source.clone();
        let mut attempts = 0;
        loop {
            let before = shown.mark;
            let outcome = self.attempt(&mut trail, &source, attempts == 0, shown, &mut stop).await;
            shown.next_connection();
            if shown.mark != before {
                back_off.reset();
                attempts = 0;
            }
            let pause = match outcome {
                Ok(Ended::Stopped) => return Ok(shown.stopped()),
                Ok(Ended::ByServer) => {
                    source.streaming = settings.source.streaming;
                    shown.publisher.doing("the server has shut down; waiting before another attempt");
                    SHUT_DOWN_PAUSE
                }
                Err(error @ Error::NotBinary { .. }) => {
                    tracing::warn!(%error, "going on with values as text");
                    source.binary = false;
                    Duration::ZERO
                }
                Err(error) if source.streaming != Streaming::Off && is_internal(&error) => {
                    tracing::warn!(%error, "going on with whole transactions, until the next connection");
                    source.streaming = Streaming::Off;
                    Duration::ZERO
                }
                Err(error)
                    if error.is_transient() && settings.retry_attempts.is_none_or(|most| attempts < most) =>
                {
                    attempts += 1;
                    source.streaming = settings.source.streaming;
                    // A server that is only slow must not be asked to begin again for ever.
                    if matches!(error, Error::Silent(_)) && shown.mark == before {
                        source.silence *= 2;
                    }
                    let pause = back_off.next();
                    tracing::warn!(%error, hint = error.hint(), pause_seconds = pause.as_secs_f32(), "trying again");
                    shown.trouble(&error, pause);
                    if matches!(error, Error::Trail(_)) {
                        // Opening it anew takes the disk's word for what is there, and not memory's.
                        trail = None;
                    }
                    pause
                }
                Err(error) => return Err(error),
            };
            if stop.or(tokio::time::sleep(pause)).await.is_none() {
                return Ok(shown.stopped());
            }
        }
    }

    fn open_trail(&self) -> Result<Writer, Error> {
        let Settings { flow, lineage, file_size, .. } = &self.settings;
        // Flow, lineage and epoch are the trail's own; a trail is made together with its slot, never here.
        let options = WriterOptions {
            epoch: irongate_trail::list(&*self.storage)?.epoch().unwrap_or(FIRST_EPOCH),
            file_size: *file_size,
            ..WriterOptions::new(flow, lineage.unwrap_or_default())
        };
        let (writer, recovered) = Writer::open(Arc::clone(&self.storage), options, *lineage)?;
        if recovered.torn > 0 {
            tracing::info!(bytes = recovered.torn, "an unfinished end of the trail was cut off");
        }
        if let Some(promised) = recovered.missing_before {
            tracing::warn!(
                promised = %promised.resume_lsn, found = %recovered.mark.resume_lsn,
                "the disk lost the end of the trail although it had been synced"
            );
        }
        tracing::info!(resume = %recovered.mark.resume_lsn, position = %recovered.mark.position, "trail opened");
        Ok(writer)
    }

    /// One connection, from its start to its end. The first is begun while the trail is opened; a trail that cannot be opened
    /// again and again does not bother the server.
    async fn attempt(
        &self,
        trail: &mut Option<Writer>,
        source: &Source,
        is_first: bool,
        shown: &mut Shown,
        stop: &mut Stop,
    ) -> Result<Ended, Error> {
        let mut connecting = JoinSet::new();
        let writer = match trail {
            Some(writer) => writer,
            None => {
                // To look through the trail takes about as long as the server takes to let us in.
                if is_first {
                    let source = source.clone();
                    connecting.spawn(async move { source.reach().await });
                    // It begins before this thread is busy.
                    tokio::task::yield_now().await;
                }
                trail.insert(self.open_trail()?)
            }
        };
        // After a failure something may still be in hand, or not yet on the disk.
        writer.rollback()?;
        writer.sync_now()?;
        shown.mark = writer.durable();
        let opening = async {
            let mut connected = match connecting.join_next().await {
                Some(reached) => source.ask(reached.map_err(Error::Task)??).await?,
                None => source.connect().await?,
            };
            writer.set_server_version(connected.version());
            let own = Own { lineage: writer.lineage(), durable: writer.durable().resume_lsn };
            let start = connected.check(source, &own).await?;
            match connected.epoch(source)? {
                Some(epoch) if epoch < writer.epoch() => {
                    let (directory, found) = (self.settings.trail.clone(), writer.epoch());
                    return Err(irongate_trail::Error::Epoch { directory, found, own: epoch }.into());
                }
                Some(epoch) if epoch > writer.epoch() => writer.begin_epoch(epoch)?,
                _ => {}
            }
            if start.unreserved {
                tracing::warn!(slot = source.slot, "the server may remove log that the slot needs");
            }
            if start.lineage != own.lineage {
                tracing::warn!(from = %own.lineage, to = %start.lineage, "the server was promoted; going on");
                writer.begin_lineage(start.lineage, start.at)?;
                writer.sync_now()?;
            }
            connected.start(source, start.at, writer.durable().commit_lsn).await
        };
        let Some(stream) = stop.or(opening).await.transpose()? else { return Ok(Ended::Stopped) };
        shown.publisher.state(State::Running, "following the database");
        run::run(stream, writer, stop, &mut |view, machine| shown.show(view, machine)).await
    }
}

/// The server's decoding has failed in itself. While transactions in progress are streamed, PostgreSQL (15 to 18) cannot
/// find a table that a rolled-back sub-transaction altered and a later one alters again ("could not map filenode to
/// relation OID"); the same transaction, sent whole, is no trouble to it.
fn is_internal(error: &Error) -> bool {
    const INTERNAL_ERROR: &str = "XX000";
    matches!(error, Error::Postgres(error) if error.code() == Some(INTERNAL_ERROR))
}

/// What `info` and `stats` see.
#[derive(Debug)]
struct Shown {
    publisher: Publisher,
    tables: BTreeMap<String, TableCounters>,
    /// Of the connections before this one.
    before: Counts,
    counts: Counts,
    /// Where the trail is durable.
    mark: Mark,
}

impl Shown {
    fn total(&self) -> Counts {
        self.before.plus(self.counts)
    }

    fn stopped(&self) -> Stopped {
        Stopped { mark: self.mark, counts: self.total() }
    }

    fn next_connection(&mut self) {
        self.before = self.total();
        self.counts = Counts::default();
    }

    fn trouble(&self, error: &Error, pause: Duration) {
        let failure = failure(error);
        self.publisher.update(|status| {
            status.doing = format!("trying again in {} s", pause.as_secs_f32().ceil());
            status.error = Some(failure);
        });
    }

    fn show(&mut self, view: &View, machine: &mut Machine) {
        self.counts = view.counts;
        self.mark = view.durable;
        let mut moved = false;
        machine.drain_table_counts(|relation, counts| {
            moved = true;
            let table = self.tables.entry(format!("{}.{}", relation.schema, relation.name)).or_default();
            table.inserts += counts.inserts;
            table.updates += counts.updates;
            table.deletes += counts.deletes;
            table.truncates += counts.truncates;
        });
        let total = self.total();
        let sum = |of: fn(&TableCounters) -> u64| self.tables.values().map(of).sum();
        let (inserts, updates, deletes, truncates) =
            (sum(|t| t.inserts), sum(|t| t.updates), sum(|t| t.deletes), sum(|t| t.truncates));
        let durable = view.positions.durable;
        let lag_bytes = view.positions.received.bytes_since(durable.0);
        self.publisher.update(|status| {
            status.error = None;
            status.doing.clear();
            status.doing.push_str(if view.streamed > 0 {
                "following the database; transactions in progress are kept aside"
            } else {
                "following the database"
            });
            status.position = Some(view.durable.position);
            status.resume_lsn = known(durable);
            status.decoded_lsn = Some(view.positions.received).filter(|lsn| lsn.0 != 0);
            status.commit_lsn = Some(view.durable.commit_lsn.0).filter(|lsn| lsn.0 != 0);
            status.lag_bytes = Some(lag_bytes);
            status.lag_seconds = Some(lag_seconds(view));
            status.last_commit_time = Some(view.durable.commit_time).filter(|time| time.0 != 0);
            status.counters.transactions = total.transactions;
            status.counters.rows_inserted = inserts;
            status.counters.rows_updated = updates;
            status.counters.rows_deleted = deletes;
            status.counters.truncates = truncates;
            status.counters.messages = total.messages;
            if moved {
                status.tables.clone_from(&self.tables);
            }
        });
    }
}

/// How old the last durable commit was, by the server's own clock, while there is something behind; zero when there is
/// not.
fn lag_seconds(view: &View) -> f64 {
    let commit = view.durable.commit_time;
    if view.positions.received <= view.positions.durable.0 || commit == Timestamp::default() {
        return 0.0;
    }
    (view.server_time.0.saturating_sub(commit.0)).max(0) as f64 / 1e6
}

fn failure(error: &Error) -> Failure {
    Failure { message: error.to_string(), hint: error.hint(), transient: error.is_transient() }
}
