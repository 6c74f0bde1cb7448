//! The loop's side of working ahead: it says how far it is, stops before the transaction that is applied ahead, and has it
//! committed.

use irongate_trail::{CommitLsn, Lsn, Source};

use super::{Applier, Open, Step, behind};
use crate::ahead::{Ahead, Due, Place};
use crate::batch::Batch;
use crate::error::Error;
use crate::settings::ReplicatSettings;
use crate::target::Target;

impl<O: Open, T: Target> Applier<O, T> {
    /// Has large transactions applied before their commit has come, as far as the settings want it: through a second
    /// session with the same target, which must be the PostgreSQL database of `settings`, and out of the trail in the
    /// directory of `settings`, which must be that of the source. Must be called within a tokio runtime.
    #[must_use]
    pub fn working_ahead(mut self, settings: &ReplicatSettings) -> Self {
        self.ahead = Ahead::start(settings);
        self
    }

    /// The xid of the transaction that is being applied ahead, and how many changes of it are.
    pub fn ahead(&self) -> Option<(u32, u64)> {
        let state = self.ahead.as_ref()?.state();
        state.xid.map(|xid| (xid, state.rows))
    }

    /// Takes back what is being applied ahead, if anything is, and begins with no more.
    pub async fn end_ahead(&mut self, why: &'static str) {
        if let Some(ahead) = &mut self.ahead {
            ahead.rest(why);
            ahead.settle().await;
            self.totals.given_up = ahead.state().given_up;
        }
    }

    pub(super) async fn settle_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.settle().await;
        }
    }

    /// Says how far the target is. Every transaction that is committed before the place where the source goes on has been
    /// applied, whichever the last was.
    pub(super) fn tell_ahead(&mut self) {
        let (Some(ahead), Some(source)) = (&self.ahead, &self.source) else { return };
        self.totals.given_up = ahead.state().given_up;
        if self.batch.skips() {
            ahead.rest("the copies of some tables have changes that are still to come");
            return;
        }
        if let Some(holder) = self.target.process() {
            let applied = CommitLsn(Lsn(self.applied.end_lsn.0.0.saturating_sub(1)));
            ahead.tell(Place { lineage: source.lineage(), applied, holder });
        }
    }

    /// The transaction to stop before. None where something is being found out change by change.
    pub(super) fn held_for(&self) -> Option<u32> {
        let is_plain = self.exact_until.is_none() && self.queue.is_none();
        self.ahead.as_ref().filter(|_| is_plain)?.state().xid
    }

    /// Has the transaction committed that is held; or it is applied plainly, from the target's memory on.
    pub(super) async fn finish_ahead(&mut self) -> Result<Step, Error> {
        let (Some(ahead), Some(source)) = (&mut self.ahead, &mut self.source) else { return Ok(Step::Idle) };
        let Some(adopt) = source.held().cloned() else { return Ok(Step::Idle) };
        let Some(commit) = source.pass()? else {
            self.begin().await?;
            return Ok(Step::Applied);
        };
        let end = behind(source, &commit, self.applied.transactions + 1);
        let previous = self.applied.commit_lsn;
        let Some(done) = ahead.finish(Due { adopt, commit, previous, end }).await else {
            self.begin().await?;
            return Ok(Step::Applied);
        };
        self.applied = end;
        self.totals.transactions += 1;
        self.totals.ahead += 1;
        self.totals.bytes += done.bytes;
        for (table, count) in done.tables {
            let total = self.totals.tables.entry(table).or_default();
            total.inserts += count.inserts;
            total.updates += count.updates;
            total.deletes += count.deletes;
            total.truncates += count.truncates;
        }
        self.pass(end.position);
        self.batch.stop_skipping_behind(end.end_lsn);
        self.small_until = self.small_until.filter(|until| *until > end.commit_lsn);
        self.tell_ahead();
        Ok(Step::Applied)
    }
}

/// What was read here before it was known that it is applied ahead, and what may change the target's tables, is applied
/// with nothing beside it.
pub(super) async fn leave_to_main(ahead: Option<&mut Ahead>, batch: &Batch) {
    let Some(ahead) = ahead else { return };
    if batch.structure().is_some() {
        ahead.rest("the structure of a table changes");
        ahead.settle().await;
    } else if let Some(open) = batch.open_transaction()
        && ahead.state().xid == Some(open.xid)
    {
        ahead.rest("Replicat has begun to apply it plainly");
        ahead.settle().await;
    }
}
