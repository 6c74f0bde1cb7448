//! Where Replicat's changes go: a database, or whatever an embedder puts in its place.

mod ahead;
mod alone;
mod beside;
mod early;
mod exact;
mod flight;
mod held;
mod postgres;
mod ready;
mod rehearsal;
mod resolve;
mod sequences;
mod structure;

use std::future::Future;

use irongate_checkpoint::{Applied, Mark, TableStarts};

use crate::batch::Batch;
use crate::error::Error;

pub(crate) use ahead::Session as SessionAhead;
pub use beside::{Group, Groups};
pub use postgres::PostgresTarget;
pub(crate) use postgres::{Connection, connection_for_replay};
pub use rehearsal::{Rehearsal, rehearse};

/// How carefully a batch is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In as few statements as keep its meaning. Any refusal refuses the whole batch.
    Grouped,
    /// Change by change in the source's order, so that a refusal is known to the row and its policy can be followed.
    /// The batch holds changes of one source transaction.
    Exact,
    /// Into the error queue instead of the tables. The batch holds changes of one source transaction.
    Queue,
}

/// Why a batch was not applied. Nothing of it, and of earlier batches of the same target transaction, is there.
#[derive(Debug)]
pub enum Failure {
    /// The connection or the moment is to blame: the same may succeed later.
    Lost(Error),
    /// The batch is to blame. In [`Mode::Grouped`] the exact mode finds out more; in any other this is the end.
    Refused(Error),
    /// A policy wants the whole source transaction in the error queue.
    Queue,
}

/// What came of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// Changes put into the error queue.
    pub queued: u64,
    /// Changes left out by a policy.
    pub ignored: u64,
    /// Conflicts with what was at the target, however they were resolved.
    pub conflicts: u64,
    /// Sequences of the source that could not be followed at the target.
    pub sequences_left: u64,
}

/// Takes batches and applies them exactly once.
///
/// The promise of an implementation: [`Target::load`] returns what was given with the last batch that was applied, and a
/// batch and its `end` become visible together or not at all.
pub trait Target: Send {
    /// Where to begin: what was last applied. Called before the first batch and after each failure.
    ///
    /// # Errors
    /// [`Error`]; transient ones are tried again.
    fn load(&mut self) -> impl Future<Output = Result<Applied, Error>> + Send;

    /// The tables whose copies have what is still to come of the stream, up to a place of each table's own, as
    /// [`Target::load`] has found it. Asked once behind that.
    fn starts(&mut self) -> TableStarts {
        TableStarts::default()
    }

    /// Applies a batch. If `end` is given, it ends with a source transaction and is committed, with `end` as the place
    /// to begin after it; otherwise it is a piece, and the next batch belongs to the same target transaction.
    ///
    /// # Errors
    /// [`Failure`], after which [`Target::load`] is called before anything else. Not cancel-safe.
    fn apply(
        &mut self,
        batch: &Batch,
        mode: Mode,
        end: Option<&Applied>,
    ) -> impl Future<Output = Result<Outcome, Failure>> + Send;

    /// Whether [`Target::apply_when`] can be called with a batch. The default takes whole transactions of rows.
    fn can_apply_when(&self, batch: &Batch) -> bool {
        batch.is_plain()
    }

    /// Applies a batch as [`Target::apply`] does in [`Mode::Grouped`], and has it committed when `durable` says that it may
    /// be; `None` if it may not, which counts as a failure: [`Target::load`] is called next. The default does so in two pieces,
    /// of which the second is empty.
    ///
    /// # Errors
    /// As for [`Target::apply`].
    fn apply_when(
        &mut self,
        batch: &Batch,
        end: &Applied,
        durable: impl Future<Output = bool> + Send,
    ) -> impl Future<Output = Result<Option<Outcome>, Failure>> + Send {
        async {
            let work = self.apply(batch, Mode::Grouped, None);
            let (_, is_durable) = tokio::try_join!(work, async { Ok(durable.await) })?;
            if !is_durable {
                return Ok(None);
            }
            self.apply(&Batch::default(), Mode::Grouped, Some(end)).await.map(Some)
        }
    }

    /// How many groups of transactions [`Target::apply_groups`] can be given now.
    fn most_groups(&self) -> usize {
        1
    }

    /// Applies groups, each of which is committed by itself, in their order: as [`Target::apply`] in [`Mode::Grouped`] one
    /// after the other, until one fails. Called with more than one only where [`Target::most_groups`] says so.
    fn apply_groups(&mut self, groups: &[Group<'_>]) -> impl Future<Output = Groups> + Send {
        async {
            let first = match groups {
                [first, ..] => self.apply(first.batch, Mode::Grouped, Some(first.end)).await,
                [] => Ok(Outcome::default()),
            };
            Groups { first, others: 0, rest_is_left: true }
        }
    }

    /// The server's process that applies, where somebody may commit in its name meanwhile: see
    /// [`Applier::working_ahead`](crate::Applier::working_ahead).
    fn process(&self) -> Option<i32> {
        None
    }

    /// Told, when there is time, that everything up to `applied` is committed; answers up to where that is known to be
    /// durable, which is what the trail may be purged to.
    ///
    /// # Errors
    /// [`Error`]; transient ones are tried again. [`Error::Loading`] where a load wants the flow to itself for a moment: it
    /// has it then.
    fn settle(&mut self, applied: Mark) -> impl Future<Output = Result<Mark, Error>> + Send;
}
