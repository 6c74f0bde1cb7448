//! Replicat: from a source of transactions to a target, exactly once.
//!
//! [`Applier`] is the loop; it knows neither PostgreSQL nor files. Its argument is short. The target remembers, together
//! with the rows, the last source transaction that was applied ([`Target::load`]). The source is opened *after* that
//! transaction. So every batch holds transactions that the target has not seen, in order and without a gap (the
//! source's promise), and each becomes visible together with the new memory (the target's promise). Whatever fails, the
//! loop drops what it holds and begins again with the target's memory; nothing that it keeps itself is trusted.
//!
//! ```text
//!            ┌────────── refused ─────────┐
//!            ▼                            │
//! load ─▶ open source ─▶ fill ─▶ apply grouped ─▶ fill …
//!            │             in small groups, if the refused one was large, up to its end;
//!            │             exact: one transaction at a time, up to the end of a small group that was refused;
//!            │             queue: that transaction into the error queue
//!            └── lost: the caller waits and calls again
//! ```
//!
//! While the target works on one batch the next is read. A large transaction may be applied meanwhile before its commit
//! has come: see `crate::ahead`. Then nothing is left to do here but to have it committed where it stands in the source's
//! order. Where there is little to do, what is not durable in the trail yet is applied, and committed when it is: see `early`.

mod ahead;
mod apart;
mod beside;
mod early;
mod patience;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use irongate_checkpoint::{Applied, Mark, TableCounters, TableStarts};
use irongate_trail::{Begins, Bookmark, Commit, CommitLsn, Position, Source};

use crate::ahead::Ahead;
use crate::batch::Batch;
use crate::error::Error;
use crate::settings::Grouping;
use crate::target::{Failure, Mode, Outcome, Target};

use patience::Patience;
pub use run::{Replicat, Stopped};

/// Changes in a group where a larger one was refused: what is applied change by change then is not much more than what is
/// to blame.
const SMALL: usize = 2000;

/// Opens a source of transactions anew.
pub trait Open: Send {
    /// What is opened.
    type Source: Source;

    /// Opens the source at a place.
    ///
    /// # Errors
    /// As the source gives them.
    fn open(&mut self, begins: Begins) -> Result<Self::Source, irongate_trail::Error>;

    /// The same, sooner: from a place that an earlier source has given.
    ///
    /// # Errors
    /// As the source gives them.
    fn open_near(&mut self, begins: Begins, _near: &Bookmark) -> Result<Self::Source, irongate_trail::Error> {
        self.open(begins)
    }
}

/// The trail in a directory.
#[derive(Clone, Debug)]
pub struct TrailDirectory(pub std::path::PathBuf);

impl Open for TrailDirectory {
    type Source = irongate_trail::Follower;

    fn open(&mut self, begins: Begins) -> Result<Self::Source, irongate_trail::Error> {
        irongate_trail::Follower::open(&self.0, begins)
    }

    fn open_near(&mut self, begins: Begins, near: &Bookmark) -> Result<Self::Source, irongate_trail::Error> {
        irongate_trail::Follower::open_near(&self.0, begins, Some(near))
    }
}

/// What has been applied since the applier was made.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Source transactions.
    pub transactions: u64,
    /// Logical messages passed over.
    pub messages: u64,
    /// Bytes of rows.
    pub bytes: u64,
    /// Changes put into the error queue or left out by a policy.
    pub errors: u64,
    /// Conflicts with what was at the target.
    pub conflicts: u64,
    /// How often a sequence of the source could not be followed at the target.
    pub sequences_left: u64,
    /// Groups that the target refused and that were applied change by change.
    pub refused: u64,
    /// Changes left out because the copies of their tables have them.
    pub skipped: u64,
    /// Source transactions that were applied before their commit had come.
    pub ahead: u64,
    /// How often that was begun and given up.
    pub given_up: u64,
    /// Source transactions that another session applied beside Replicat's own.
    pub beside: u64,
    /// Source transactions that were applied before they were durable in the trail, and committed when they were.
    pub early: u64,
    /// By source table.
    pub tables: BTreeMap<String, TableCounters>,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Changes were applied, or a piece of a large transaction was sent.
    Applied,
    /// Nothing more is durable: [`Applier::wait`].
    Idle,
}

/// The loop. Made for one source and one target; [`Applier::step`] is called again and again.
#[derive(Debug)]
pub struct Applier<O: Open, T> {
    opener: O,
    target: T,
    grouping: Grouping,
    source: Option<O::Source>,
    /// Where a source may be opened near.
    bookmark: Option<Bookmark>,
    batch: Batch,
    next: Batch,
    /// Batches of groups that were applied side by side.
    spares: Vec<Batch>,
    patience: Patience,
    patience_early: Patience,
    /// Up to here it has been tried to apply early, which is not tried again with the same.
    tried_early: Position,
    /// `next` has been filled along with the last batch.
    prefetched: bool,
    /// The source failed behind what is in the batch.
    broken: Option<irongate_trail::Error>,
    applied: Applied,
    /// Where the source stood behind `batch`.
    high: Mark,
    /// Up to this commit groups are small: a large one was refused, and most of it is sound.
    small_until: Option<CommitLsn>,
    /// Up to this commit each transaction is applied by itself, change by change.
    exact_until: Option<CommitLsn>,
    /// This transaction goes to the error queue.
    queue: Option<CommitLsn>,
    ahead: Option<Ahead>,
    /// Tables that begin later than the stream, as the target has last said.
    starts: Option<Arc<TableStarts>>,
    totals: Totals,
}

/// Fills a batch. An error of the source waits in `broken` while there are whole transactions from before it.
fn fill<S: Source>(
    batch: &mut Batch,
    source: &mut S,
    grouping: &Grouping,
    single: bool,
    broken: &mut Option<irongate_trail::Error>,
) -> Result<bool, Error> {
    match batch.fill(source, grouping, single) {
        Ok(read) => Ok(read),
        Err(error) if batch.keep_whole() => {
            *broken = Some(error);
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

fn mode(batch: &Batch, queue: Option<CommitLsn>, exact_until: Option<CommitLsn>) -> Mode {
    let first = batch.place(0).map(|(begin, _)| begin.commit_lsn);
    match (queue, exact_until) {
        (Some(queue), _) if first.is_none_or(|commit| commit == queue) => Mode::Queue,
        (None, None) => Mode::Grouped,
        _ => Mode::Exact,
    }
}

/// What is applied behind a commit that the source has just returned.
fn behind(source: &impl Source, commit: &Commit, transactions: u64) -> Applied {
    Applied {
        lineage: source.lineage(),
        commit_lsn: commit.commit_lsn,
        end_lsn: commit.end_lsn,
        commit_time: commit.commit_time,
        position: source.position(),
        epoch: source.epoch(),
        transactions,
    }
}

impl<O: Open, T: Target> Applier<O, T> {
    /// An applier that has not begun.
    pub fn new(opener: O, target: T, grouping: Grouping) -> Self {
        Self {
            opener,
            target,
            grouping,
            source: None,
            bookmark: None,
            batch: Batch::default(),
            next: Batch::default(),
            spares: Vec::new(),
            patience: Patience::default(),
            patience_early: Patience::default(),
            tried_early: Position::default(),
            prefetched: false,
            broken: None,
            applied: Applied::default(),
            high: Mark::default(),
            small_until: None,
            exact_until: None,
            queue: None,
            ahead: None,
            starts: None,
            totals: Totals::default(),
        }
    }

    /// What was last applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// What has been done so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Up to where everything in the source has been passed.
    pub fn high(&self) -> Mark {
        self.high
    }

    /// The source, while it is open.
    pub fn source(&self) -> Option<&O::Source> {
        self.source.as_ref()
    }

    /// The target.
    pub fn target_mut(&mut self) -> &mut T {
        &mut self.target
    }

    /// Tables that are being copied beside the stream, as `schema.table`: nothing is applied to them, and the trail must
    /// stay that was not applied to them.
    pub fn tables_away(&self) -> &[String] {
        self.starts.as_ref().map_or(&[], |starts| starts.away())
    }

    /// Tables that were, and are brought now to where the others are.
    pub fn tables_late(&self) -> Vec<String> {
        self.starts.as_ref().map(|starts| starts.late(self.applied.end_lsn)).unwrap_or_default()
    }

    /// Whether a transaction has been sent in part.
    pub fn is_within_transaction(&self) -> bool {
        self.batch.is_open()
    }

    /// Forgets everything but the counters: the next step begins with the target's memory.
    pub fn begin_again(&mut self) {
        self.note_place();
        self.source = None;
        self.batch.reset();
        self.next.reset();
        self.prefetched = false;
        self.broken = None;
        if let Some(ahead) = &self.ahead {
            ahead.rest("Replicat begins again with what the target remembers");
        }
    }

    /// Notes a place in the source that is not behind what was applied last.
    fn note_place(&mut self) {
        let noted = self.source.as_ref().and_then(|source| source.bookmark(self.applied.commit_lsn));
        if noted.is_some() {
            self.bookmark = noted;
        }
    }

    /// A place near where it is in its source, for the next one.
    pub fn bookmark(&mut self) -> Option<&Bookmark> {
        self.note_place();
        self.bookmark.as_ref()
    }

    /// Takes what an earlier one has said of its place. It need not be true.
    pub fn begin_near(&mut self, place: Bookmark) {
        self.bookmark = Some(place);
    }

    /// Asks the target what it has, and opens the source behind that.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn begin(&mut self) -> Result<(), Error> {
        self.begin_again();
        self.settle_ahead().await;
        self.applied = self.target.load().await?;
        let Applied { lineage, commit_lsn: commit, end_lsn: resume, .. } = self.applied;
        let begins = Begins::After { lineage, commit, resume };
        let source = match &self.bookmark {
            Some(near) => self.opener.open_near(begins, near)?,
            None => self.opener.open(begins)?,
        };
        // Of this trail, and not what the target remembers: that may be a place in the trail at the source's site, where the
        // initial load began.
        self.high = Mark { position: source.position(), resume_lsn: resume };
        self.source = Some(source);
        let starts = self.target.starts();
        self.starts = starts.are_ahead_of(resume).then(|| Arc::new(starts));
        self.batch.skip(self.starts.clone());
        self.tell_ahead();
        Ok(())
    }

    /// Reads and applies one batch.
    ///
    /// # Errors
    /// [`Error`], after which [`Applier::begin`] must be called before the next step. Not cancel-safe.
    pub async fn step(&mut self) -> Result<Step, Error> {
        if self.source.is_none() {
            self.begin().await?;
        }
        let grouping = self.grouping_in_force();
        let held = self.held_for();
        let Some(source) = &mut self.source else { return Ok(Step::Idle) };
        source.hold(held);
        if !std::mem::take(&mut self.prefetched)
            && let Some(error) = self.broken.take()
        {
            return Err(error.into());
        }
        if self.broken.is_none() {
            // What was read ahead is what was durable then; by now it may be more, and larger groups cost less.
            let single = self.exact_until.is_some() || self.queue.is_some();
            fill(&mut self.batch, source, &grouping, single, &mut self.broken)?;
        }
        let transactions = self.applied.transactions + self.batch.commits();
        let end = self.batch.end().map(|commit| behind(source, &commit, transactions));
        let position = source.position();
        if self.batch.is_empty() && end.is_none() && self.batch.structure().is_none() {
            self.pass(position);
            let has_skipped = self.batch.skipped().next().is_some();
            self.count_skipped();
            if self.source.as_ref().is_some_and(|source| source.held().is_some()) {
                return self.finish_ahead().await;
            }
            self.tell_ahead();
            // There is nothing to catch up with.
            self.spares.clear();
            if let (false, Some(step)) = (has_skipped, self.step_early(&grouping).await?) {
                return Ok(step);
            }
            return Ok(if has_skipped { Step::Applied } else { Step::Idle });
        }
        let mode = mode(&self.batch, self.queue, self.exact_until);
        if let (Mode::Grouped, Some(end)) = (mode, end)
            && self.goes_beside()
        {
            return self.step_beside(end, position, &grouping).await;
        }
        ahead::leave_to_main(self.ahead.as_mut(), &self.batch).await;
        self.next.follow(&self.batch);
        let Some(source) = &mut self.source else { return Ok(Step::Idle) };
        let (result, filled) = if mode == Mode::Grouped && self.broken.is_none() {
            let (next, broken) = (&mut self.next, &mut self.broken);
            let ahead = async { fill(next, source, &grouping, false, broken) };
            tokio::join!(self.target.apply(&self.batch, mode, end.as_ref()), ahead)
        } else {
            (self.target.apply(&self.batch, mode, end.as_ref()).await, Ok(false))
        };
        match result {
            Ok(outcome) => self.account(outcome, end, mode),
            Err(failure) => return self.fail(failure, mode).await,
        }
        self.pass(position);
        Ok(self.go_on(filled?))
    }

    /// Goes on with `next`, into which something may have been read already.
    fn go_on(&mut self, prefetched: bool) -> Step {
        std::mem::swap(&mut self.batch, &mut self.next);
        self.batch.stop_skipping_behind(self.applied.end_lsn);
        self.prefetched = prefetched;
        self.tell_ahead();
        Step::Applied
    }

    fn grouping_in_force(&self) -> Grouping {
        let most = if self.small_until.is_some() { SMALL } else { usize::MAX };
        let Grouping { changes, bytes, transactions } = self.grouping;
        Grouping { changes: changes.min(most), bytes, transactions: transactions.min(most as u64) }
    }

    /// Notes that the source has been passed up to `position`, if nothing is held back. The LSN stays the last
    /// transaction's, whatever progress was noted behind it: it is what the target remembers, and a target that
    /// remembers less than it has flushed is taken for one that has lost something.
    fn pass(&mut self, position: Position) {
        if self.batch.is_open() {
            return;
        }
        self.high.position = self.high.position.max(position);
        self.high.resume_lsn = self.high.resume_lsn.max(self.applied.end_lsn);
    }

    fn account(&mut self, outcome: Outcome, end: Option<Applied>, mode: Mode) {
        let errors = outcome.queued + outcome.ignored;
        self.totals.errors += errors;
        self.totals.conflicts += outcome.conflicts;
        self.totals.sequences_left += outcome.sequences_left;
        self.totals.messages += self.batch.messages();
        self.totals.bytes += self.batch.bytes() as u64;
        self.totals.transactions += self.batch.commits();
        self.count_skipped();
        if mode != Mode::Queue {
            self.batch.count(&mut self.totals.tables);
        }
        if let Some(end) = end {
            self.applied = end;
            if self.small_until.is_some_and(|until| end.commit_lsn >= until) {
                self.small_until = None;
            }
            if self.exact_until.is_some_and(|until| end.commit_lsn >= until) {
                self.exact_until = None;
            }
            if self.queue.is_some_and(|queue| end.commit_lsn >= queue) {
                self.queue = None;
            }
        }
    }

    fn count_skipped(&mut self) {
        for (schema, table, count) in self.batch.skipped() {
            self.totals.skipped += count;
            self.totals.tables.entry(format!("{schema}.{table}")).or_default().skipped += count;
        }
        self.batch.forget_skipped();
    }

    async fn fail(&mut self, failure: Failure, mode: Mode) -> Result<Step, Error> {
        // The last transaction that has a change here; a batch that ends open goes up to the one that is open.
        let last = self.batch.place(self.batch.len().saturating_sub(1)).map(|(begin, _)| begin.commit_lsn);
        let until = self.batch.end().map(|commit| commit.commit_lsn).max(last);
        let is_large = self.small_until.is_none() && self.batch.len() > SMALL;
        match (failure, mode) {
            (Failure::Refused(error), Mode::Grouped) if is_large && until.is_some() => {
                tracing::info!(%error, "large group refused, applying in small ones");
                self.small_until = until;
            }
            (Failure::Refused(error), Mode::Grouped) => {
                tracing::info!(%error, "group refused, applying change by change");
                self.totals.refused += 1;
                self.exact_until = self.exact_until.max(until);
            }
            (Failure::Queue, Mode::Exact) => {
                tracing::warn!(commit = ?last, "whole transaction put into the error queue");
                self.queue = last;
            }
            (Failure::Refused(error) | Failure::Lost(error), _) => return Err(error),
            (Failure::Queue, _) => {
                return Err(Error::Trail(irongate_trail::Error::Misuse("a queue asked for in the queue")));
            }
        }
        self.begin().await?;
        Ok(Step::Applied)
    }

    /// Tells the target what has been passed, and answers up to where it is durable there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn settle(&mut self) -> Result<Mark, Error> {
        self.target.settle(self.high).await
    }

    /// Waits until more may be durable, or a second has passed. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Trail`].
    pub async fn wait(&mut self) -> Result<(), Error> {
        match &mut self.source {
            Some(source) => Ok(source.wait().await?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
