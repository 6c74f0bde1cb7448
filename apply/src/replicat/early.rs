//! The loop's side of applying early: what is appended to the trail and not durable yet is applied, and committed when it
//! is. So the target works while the disk does.
//!
//! The target has nothing that the trail could lose, because nothing is committed before the source says that what was read
//! is durable *as it was read*. If that cannot be said, and after any failure, the target transaction is rolled back and the
//! loop begins again with what is durable: then this is only time that was lost.

use std::time::{Duration, Instant};

use irongate_trail::{Early, Source};

use super::{Applier, Open, Step, behind};
use crate::error::Error;
use crate::settings::Grouping;
use crate::target::{Failure, Mode, Target};

/// A disk that takes longer is not waited for with a transaction open at the target.
const LONGEST: Duration = Duration::from_secs(1);
/// So often it is looked at most, whatever happens in the trail meanwhile.
const WAITS: u32 = 8;

/// Waits until what was read early is durable; false if that cannot be said.
async fn durable(source: &mut impl Source) -> bool {
    // What is to be sent meanwhile goes first.
    tokio::task::yield_now().await;
    let begun = Instant::now();
    for _ in 0..WAITS {
        match source.early() {
            Ok(Early::Durable) => return true,
            Ok(Early::Pending) if begun.elapsed() < LONGEST => {}
            Ok(Early::Pending | Early::Lost) | Err(_) => return false,
        }
        if source.wait().await.is_err() {
            return false;
        }
    }
    matches!(source.early(), Ok(Early::Durable))
}

impl<O: Open, T: Target> Applier<O, T> {
    /// Goes on with what is not durable yet, if there is anything and nothing speaks against it.
    pub(super) async fn step_early(&mut self, grouping: &Grouping) -> Result<Option<Step>, Error> {
        let is_plain = self.broken.is_none()
            && (self.small_until, self.exact_until, self.queue) == (None, None, None)
            && self.ahead().is_none()
            && !self.batch.skips();
        if !is_plain || !self.patience_early.is_over() {
            return Ok(None);
        }
        let Some(source) = &mut self.source else { return Ok(None) };
        let Some(place) = source.go_early(self.tried_early) else { return Ok(None) };
        self.tried_early = place;
        if let Err(error) = self.batch.fill(source, grouping, false) {
            // What another writer is just making anew looks like damage. If it is some, it is found when it is durable.
            return self.give_up_early(&error).await;
        }
        let is_fit = !self.batch.is_empty() && self.target.can_apply_when(&self.batch);
        let Some(commit) = self.batch.end().filter(|_| is_fit) else { return self.leave_early().await };
        let end = behind(source, &commit, self.applied.transactions + self.batch.commits());
        let position = source.position();
        match self.target.apply_when(&self.batch, &end, durable(source)).await {
            Ok(Some(outcome)) => {
                self.patience_early.succeeded();
                self.totals.early += self.batch.commits();
                self.account(outcome, Some(end), Mode::Grouped);
                self.pass(position);
                self.next.follow(&self.batch);
                Ok(Some(self.go_on(false)))
            }
            Ok(None) => self.give_up_early(&"it did not become durable").await,
            // Whose fault that is, is found out when it is durable.
            Err(Failure::Refused(error)) => self.give_up_early(&error).await,
            Err(Failure::Queue) => self.give_up_early(&"a policy wants to be asked").await,
            Err(Failure::Lost(error)) => {
                self.patience_early.failed();
                Err(error)
            }
        }
    }

    /// What may be read early is applied as all else is, once it is durable.
    async fn leave_early(&mut self) -> Result<Option<Step>, Error> {
        let Some(source) = &mut self.source else { return Ok(None) };
        if durable(source).await {
            return Ok(Some(Step::Applied));
        }
        self.give_up_early(&"it did not become durable").await
    }

    async fn give_up_early(&mut self, why: &(dyn std::fmt::Display + Sync)) -> Result<Option<Step>, Error> {
        tracing::debug!(%why, "beginning again with what is durable in the trail");
        self.patience_early.failed();
        self.begin().await?;
        Ok(Some(Step::Applied))
    }
}
