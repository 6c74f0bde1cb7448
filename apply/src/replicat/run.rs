//! Replicat as a process, or as a part of one: its lock, its status, its patience.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::{Applied, Failure, GroupLock, Program, Publisher, State, Status};
use irongate_trail::{Bookmark, Directory, Mark, Position, Source, Storage, Timestamp};

use super::{Applier, Step, TrailDirectory};
use crate::error::Error;
use crate::settings::ReplicatSettings;
use crate::target::PostgresTarget;

/// How often the trail is told how far it may be purged, and an idle target how far it is durable.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// How often a trail is looked for that is not there yet.
const TRAIL_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked whether an initial load is done.
const LOADED_EVERY: Duration = Duration::from_secs(2);

/// How a Replicat ended that was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// What is applied.
    pub applied: Applied,
}

/// One Replicat: the trail in a directory, applied to a PostgreSQL database.
#[derive(Debug)]
pub struct Replicat {
    settings: ReplicatSettings,
}

impl Replicat {
    /// A Replicat that has not begun.
    pub fn new(settings: ReplicatSettings) -> Self {
        Self { settings }
    }

    /// Runs until `shutdown` is done, then stops at the end of the target transaction in hand. Errors that trying again
    /// can help are waited out, as often as the settings say. Not cancel-safe: dropped, it stops as a killed process
    /// does, and nothing is lost or applied twice by the next.
    ///
    /// # Errors
    /// [`Error`], after which starting again without a change does not help.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<Stopped, Error> {
        let settings = &self.settings;
        let _lock = GroupLock::acquire(&settings.state_directory, &settings.group)?;
        // What cannot be read any more is only not shown.
        let last =
            irongate_checkpoint::read_status(&settings.state_directory, &settings.group).ok().flatten();
        let status = Status::starting(&settings.group, &settings.flow, Program::Replicat);
        let publisher = Publisher::start(&settings.state_directory, status)?;
        let result = self.attempts(&publisher, last, shutdown).await;
        match &result {
            Ok(_) => publisher.state(State::Stopped, "stopped as asked"),
            Err(error) => {
                tracing::error!(group = %settings.group, %error, hint = error.hint(), "abended");
                publisher.abended(failure_of(error));
            }
        }
        result
    }

    async fn attempts(
        &self,
        publisher: &Publisher,
        last: Option<Status>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Stopped, Error> {
        let settings = &self.settings;
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(&settings.trail));
        let mut run = Run {
            applier: Applier::new(
                TrailDirectory(settings.trail.clone()),
                PostgresTarget::new(settings.clone()),
                settings.grouping_in_force(),
            )
            .working_ahead(settings),
            storage,
            settings,
            publisher,
            registered: None,
            settled: None,
            kept: None,
            last,
            before: Position::default(),
        };
        if let Some(place) = Bookmark::kept(&*run.storage, &settings.group) {
            run.applier.begin_near(place);
        }
        let mut shutdown = std::pin::pin!(shutdown);
        let mut attempt = 0;
        loop {
            let error = match run.until_stopped(shutdown.as_mut(), &mut attempt).await {
                Ok(()) => {
                    run.applier.end_ahead("Replicat was asked to stop").await;
                    return Ok(Stopped { applied: *run.applier.applied() });
                }
                Err(error) => error,
            };
            let awaited = match &error {
                Error::Loading { .. } => Some(("waiting for the initial load to be done", LOADED_EVERY)),
                error if settings.trail_may_come => still_to_come(error).map(|what| (what, TRAIL_EVERY)),
                _ => None,
            };
            if let Some((what, pause)) = awaited {
                publisher.state(State::Starting, what);
                run.applier.begin_again();
                tokio::select! {
                    () = tokio::time::sleep(pause) => continue,
                    () = shutdown.as_mut() => return Ok(Stopped { applied: *run.applier.applied() }),
                }
            }
            let out_of_patience = settings.retry.attempts.is_some_and(|attempts| attempt >= attempts);
            if !error.is_transient() || out_of_patience {
                return Err(error);
            }
            let pause = settings.retry.pause(attempt);
            attempt = attempt.saturating_add(1);
            tracing::warn!(group = %settings.group, %error, attempt, ?pause, "trying again");
            publisher.update(|status| {
                status.doing = format!("waiting to try again: {error}");
                status.error = Some(failure_of(&error));
            });
            run.applier.begin_again();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.as_mut() => return Ok(Stopped { applied: *run.applier.applied() }),
            }
        }
    }
}

/// What is waited for where a pump carries the trail, if that can be all that is wrong.
fn still_to_come(error: &Error) -> Option<&'static str> {
    let Error::Trail(error) = error else { return None };
    match error {
        irongate_trail::Error::Missing(_) => Some("waiting for the collector to make the trail"),
        // The flow was instantiated again, from a new slot of the same server; the trail here still ends with an older one.
        irongate_trail::Error::Lineage { found, expected, .. } if expected.is_anew_after(found) => {
            Some("waiting for the pump to bring what follows the last initial load")
        }
        // Or from a server that was made anew. That the pump is refused is for the pump to say.
        irongate_trail::Error::Lineage { found, expected, .. }
            if expected.system_identifier != found.system_identifier =>
        {
            Some("waiting for the pump to bring what the server sends that the checkpoint is of")
        }
        _ => None,
    }
}

fn failure_of(error: &Error) -> Failure {
    Failure { message: error.to_string(), hint: error.hint(), transient: error.is_transient() }
}

struct Run<'a> {
    applier: Applier<TrailDirectory, PostgresTarget>,
    storage: Arc<dyn Storage>,
    settings: &'a ReplicatSettings,
    publisher: &'a Publisher,
    registered: Option<irongate_checkpoint::Mark>,
    settled: Option<Instant>,
    /// What was kept last of where the applier is.
    kept: Option<Bookmark>,
    /// What the Replicat before this one said last.
    last: Option<Status>,
    /// Where that one was, if it was behind the same transaction.
    before: Position,
}

impl Run<'_> {
    async fn until_stopped<F: Future<Output = ()>>(
        &mut self,
        mut shutdown: std::pin::Pin<&mut F>,
        attempt: &mut u32,
    ) -> Result<(), Error> {
        self.applier.begin().await?;
        super::apart::refuse_own_source(self.settings, self.applier.applied().lineage).await?;
        *attempt = 0;
        self.before = self.place_before();
        self.publish("applying");
        self.publisher.state(State::Running, "applying");
        tracing::info!(group = %self.settings.group, from = %self.applier.applied().end_lsn, "replicat started");
        loop {
            // A transaction that has been sent in part is finished first.
            if !self.applier.is_within_transaction() && is_done(shutdown.as_mut()).await {
                return self.settle_last().await;
            }
            match self.applier.step().await? {
                Step::Applied => self.publish("applying"),
                Step::Idle => {
                    self.publish("waiting for the trail");
                    tokio::select! {
                        biased;
                        () = shutdown.as_mut() => {
                            return self.settle_last().await;
                        }
                        result = self.applier.wait() => result?,
                    }
                }
            }
            if self.settled.is_none_or(|at| at.elapsed() >= SETTLE_EVERY)
                && !self.applier.is_within_transaction()
            {
                self.settle().await?;
            }
        }
    }

    /// The same when it is to stop: whoever stops need not wait for a target that has gone just then.
    async fn settle_last(&mut self) -> Result<(), Error> {
        match self.settle().await {
            Err(error) if error.is_transient() => {
                tracing::warn!(group = %self.settings.group, %error, "stopped without the trail's being told how far");
                Ok(())
            }
            other => other,
        }
    }

    /// Tells the trail how far this reader's veto against purge goes.
    async fn settle(&mut self) -> Result<(), Error> {
        let mut low = self.applier.settle().await?;
        self.settled = Some(Instant::now());
        self.keep_place();
        // What is not applied to the tables that are being copied is read once more when they are there.
        if !self.applier.tables_away().is_empty() {
            if self.is_registered()? {
                return Ok(());
            }
            low.position = Position::default();
        }
        if self.registered != Some(low) && (low.position.seqno > 0 || !self.is_registered()?) {
            let applied = self.applier.applied();
            let mark = Mark {
                position: low.position,
                resume_lsn: low.resume_lsn,
                commit_lsn: applied.commit_lsn,
                commit_time: applied.commit_time,
                set: Timestamp::now(),
            };
            irongate_trail::register_reader(&*self.storage, &self.settings.group, &mark)?;
            self.registered = Some(low);
        }
        Ok(())
    }

    /// So that the next Replicat finds sooner to where this one is.
    fn keep_place(&mut self) {
        let place = self.applier.bookmark();
        if let Some(place) = place.filter(|place| self.kept.as_ref() != Some(place)) {
            place.keep(&*self.storage, &self.settings.group);
            self.kept = Some(place.clone());
        }
    }

    /// Whether an earlier Replicat of this group has said how far it is. Until more is known, that holds.
    fn is_registered(&self) -> Result<bool, Error> {
        let readers = irongate_trail::readers(&*self.storage)?;
        Ok(readers.iter().any(|(name, _)| *name == self.settings.group))
    }

    /// Where the Replicat before this one was: true for as long as the target is behind the same transaction. A trail that
    /// was begun anew has another.
    fn place_before(&self) -> Position {
        let resume = self.applier.applied().end_lsn.0;
        let last = self.last.as_ref().filter(|last| last.resume_lsn == Some(resume));
        last.and_then(|last| last.position).unwrap_or_default()
    }

    fn publish(&self, doing: &str) {
        let mut doing = match self.applier.ahead() {
            Some((xid, rows)) => format!("{doing}, {rows} changes ahead in transaction {xid}"),
            None => doing.to_owned(),
        };
        let (away, late) = (self.applier.tables_away(), self.applier.tables_late());
        if !away.is_empty() {
            doing.push_str(&format!(", but not to {}, being copied anew", shown(away)));
        } else if !late.is_empty() {
            doing.push_str(&format!(", once more, what was left out of {} meanwhile", shown(&late)));
        }
        let (applied, totals) = (self.applier.applied(), self.applier.totals());
        let durable = self.applier.source().map(Source::durable).unwrap_or_default();
        let behind = durable.commit_lsn > applied.commit_lsn;
        let micros = Timestamp::now().0.saturating_sub(applied.commit_time.0);
        self.publisher.update(|status| {
            if status.doing != doing {
                status.doing = doing;
            }
            status.error = None;
            // A reader that has just begun stands at the head of a file, however far the Replicat before it was.
            status.position = Some(self.applier.high().position.max(self.before));
            status.resume_lsn = Some(applied.end_lsn.0);
            status.commit_lsn = Some(applied.commit_lsn.0);
            status.last_commit_time = Some(applied.commit_time);
            status.lag_bytes =
                Some(if behind { durable.resume_lsn.0.bytes_since(applied.end_lsn.0) } else { 0 });
            status.lag_seconds = Some(if behind { micros as f64 / 1e6 } else { 0.0 });
            status.counters.transactions = totals.transactions;
            status.counters.messages = totals.messages;
            status.counters.errors = totals.errors;
            status.counters.conflicts = totals.conflicts;
            status.counters.bytes = totals.bytes;
            status.counters.skipped = totals.skipped;
            status.counters.ahead = totals.ahead;
            status.counters.given_up = totals.given_up;
            status.counters.beside = totals.beside;
            status.counters.early = totals.early;
            let sum =
                |of: fn(&irongate_checkpoint::TableCounters) -> u64| totals.tables.values().map(of).sum();
            status.counters.rows_inserted = sum(|table| table.inserts);
            status.counters.rows_updated = sum(|table| table.updates);
            status.counters.rows_deleted = sum(|table| table.deletes);
            status.counters.truncates = sum(|table| table.truncates);
            if status.tables != totals.tables {
                status.tables.clone_from(&totals.tables);
            }
        });
    }
}

/// A few of the names.
fn shown(names: &[String]) -> String {
    match names {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    }
}

/// Whether the future is done, without waiting for it.
async fn is_done<F: Future<Output = ()>>(future: std::pin::Pin<&mut F>) -> bool {
    matches!(futures_util::poll!(future), std::task::Poll::Ready(()))
}
