//! The loop's side of working side by side: it reads groups behind the one in hand and has the target apply them together.

use irongate_checkpoint::Applied;
use irongate_trail::{Position, Source};

use super::{Applier, Open, Step, behind, fill};
use crate::batch::Batch;
use crate::error::Error;
use crate::settings::Grouping;
use crate::target::{Failure, Group, Mode, Outcome, Target};

/// A group of fewer changes, by those of a full one, is not worth a session of its own.
fn least(grouping: &Grouping) -> usize {
    (grouping.changes / 16).max(1)
}

/// A group behind the first.
struct Later {
    batch: Batch,
    end: Applied,
    position: Position,
}

impl<O: Open, T: Target> Applier<O, T> {
    /// Whether what comes behind the batch, which is to be applied as a group, is looked at for other sessions.
    pub(super) fn goes_beside(&mut self) -> bool {
        self.broken.is_none()
            && self.small_until.is_none()
            && self.ahead().is_none()
            && self.batch.len() >= least(&self.grouping)
            && self.batch.is_plain()
            && self.target.most_groups() > 1
            && self.patience.is_over()
    }

    /// Applies the batch, which ends at `end`, and the groups behind it.
    pub(super) async fn step_beside(
        &mut self,
        end: Applied,
        position: Position,
        grouping: &Grouping,
    ) -> Result<Step, Error> {
        let Some(source) = &mut self.source else { return Ok(Step::Idle) };
        let mut later: Vec<Later> = Vec::new();
        // What has been read of the batch that comes behind all of them.
        let mut read = None;
        for _ in 1..self.target.most_groups() {
            let (before, transactions) = later
                .last()
                .map_or((&self.batch, end.transactions), |last| (&last.batch, last.end.transactions));
            let mut batch = self.spares.pop().unwrap_or_default();
            batch.follow(before);
            let filled = fill(&mut batch, source, grouping, false, &mut self.broken);
            let transactions = transactions + batch.commits();
            match batch.end().filter(|_| filled.is_ok() && batch.len() >= least(grouping) && batch.is_plain())
            {
                Some(commit) => {
                    let end = behind(source, &commit, transactions);
                    later.push(Later { end, position: source.position(), batch });
                }
                None => {
                    self.spares.push(std::mem::replace(&mut self.next, batch));
                    read = Some(filled);
                    break;
                }
            }
            if self.broken.is_some() {
                break;
            }
        }
        if read.is_none() {
            self.next.follow(later.last().map_or(&self.batch, |last| &last.batch));
        }
        let reads_on = self.broken.is_none() && read.as_ref().is_none_or(Result::is_ok);
        let groups: Vec<Group<'_>> = std::iter::once(Group { batch: &self.batch, end: &end })
            .chain(later.iter().map(|later| Group { batch: &later.batch, end: &later.end }))
            .collect();
        let (next, broken) = (&mut self.next, &mut self.broken);
        let ahead = async { if reads_on { fill(next, source, grouping, false, broken) } else { Ok(false) } };
        let (done, filled) = tokio::join!(self.target.apply_groups(&groups), ahead);
        let is_whole = done.rest_is_left || done.others >= later.len();
        let is_to_wait = !later.is_empty() && !is_whole;
        if is_to_wait {
            self.patience.failed();
        } else if done.others > 0 {
            self.patience.succeeded();
        }
        match done.first {
            Ok(outcome) => self.account(outcome, Some(end), Mode::Grouped),
            Err(Failure::Lost(error)) if is_to_wait && error.is_transient() => {
                // Those beside may be what was in the way. If not, it is said the next time, when there are none.
                tracing::info!(%error, "beginning again without sessions beside");
                self.begin().await?;
                return Ok(Step::Applied);
            }
            Err(failure) => return self.fail(failure, Mode::Grouped).await,
        }
        self.pass(position);
        for (number, Later { batch, end, position }) in later.into_iter().enumerate() {
            if number >= done.others && !done.rest_is_left {
                self.begin().await?;
                return Ok(Step::Applied);
            }
            self.spares.push(std::mem::replace(&mut self.batch, batch));
            let outcome = if number < done.others {
                self.totals.beside += self.batch.commits();
                Outcome::default()
            } else {
                match self.target.apply(&self.batch, Mode::Grouped, Some(&end)).await {
                    Ok(outcome) => outcome,
                    Err(failure) => return self.fail(failure, Mode::Grouped).await,
                }
            };
            self.account(outcome, Some(end), Mode::Grouped);
            self.pass(position);
        }
        Ok(self.go_on(filled? | read.transpose()?.unwrap_or_default()))
    }
}
