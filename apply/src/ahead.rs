//! Working ahead: a large transaction that the source streams before its commit is applied as it comes, in an open
//! transaction of the target, so that only the COMMIT is left when the source's has come.
//!
//! It is an optimisation and nothing else. Replicat's own session, *the main one*, goes on as if nothing were. When it
//! comes to the transaction in the trail it does one thing instead of another: it has the session ahead commit where it
//! would have applied. Whatever is not as it should be, the work ahead is rolled back and the transaction applied plainly
//! at its commit. So all that must be shown is that the commit, where it happens, leaves the target as plain applying would
//! have, exactly once.
//!
//! *The same rows.* They were read from the side file by records that are each sound, and before COMMIT is sent, length,
//! number and digest of what was read are those of the adoption, which the main session has read in the trail, durable;
//! none was left out, since no sub-transaction was aborted; each statement changed as many rows as it should; and their
//! number is that of the source's commit (`irongate_trail::SideReader`).
//!
//! *In the right order.* Let *r* be a row of the transaction T, and V another transaction before T in the trail. If V was
//! committed at the source before *r* was made, the side file notes V's commit, or a later one, before *r*, and *r* is not
//! applied before the main session has V. If V was committed afterwards, T had *r*'s key locked from before V's end to its
//! own, so V did not change it, and in which order the two are applied makes no difference: to the keys; what else could
//! tell is excluded. *Triggers, rules, policies* of the target's tables: not applied ahead. *Constraints that only the
//! target has*, tables of the source that are one at the target, sub-transactions of T that were rolled back so that V could
//! have their rows: then the two sessions meet at a lock. If V waits for T, T is given up; if T meets V, it waits for it and
//! is refused or goes on behind it, as plainly. *Foreign keys* are not checked by either session. Transactions behind T
//! come after its COMMIT, as ever.
//!
//! *Nobody waits for long.* The session ahead asks twice a second whether anybody waits for it, and gives up; it never
//! waits itself for longer than the server's detection of deadlocks takes to begin (`crate::target`).
//!
//! *Exactly once.* The rows, the checkpoint and the origin's position are committed by one target transaction, which the
//! server refuses unless the checkpoint stands at the transaction before T, where the main session has left it. If the
//! answer to COMMIT is lost, the main session begins again with what the target remembers, and so does a new process; both
//! first wait for the end of the session ahead (the claims of `irongate_checkpoint::CheckpointTable`), so that what they
//! read cannot be overtaken. A process or server that dies takes the open transaction with it.
//!
//! *Bounded.* Two pieces of a transaction are in memory, as for the main session. One transaction at a time is applied
//! ahead, the largest there is. At the target it holds back vacuum as it does at the source; when nothing has moved for a
//! while it is given up.

mod choice;
mod work;

use std::collections::BTreeMap;

use irongate_checkpoint::{Applied, TableCounters};
use irongate_trail::format::Adopt;
use irongate_trail::{Commit, CommitLsn, Lineage};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::settings::ReplicatSettings;

/// Where the main session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The lineage of the trail.
    pub(crate) lineage: Lineage,
    /// Everything up to here is committed at the target.
    pub(crate) applied: CommitLsn,
    /// The main session's process at the server.
    pub(crate) holder: i32,
}

/// What the main session tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// Nothing is to be done ahead, and why.
    Rest(&'static str),
    Work(Place),
}

/// What is being done ahead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct State {
    /// The transaction.
    pub(crate) xid: Option<u32>,
    /// Changes of it that are applied.
    pub(crate) rows: u64,
    /// How often it was given up.
    pub(crate) given_up: u64,
}

/// A commit that the main session has come to.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) adopt: Adopt,
    pub(crate) commit: Commit,
    /// The one before it.
    pub(crate) previous: CommitLsn,
    /// What the checkpoint will say.
    pub(crate) end: Applied,
}

/// What was committed.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) tables: BTreeMap<String, TableCounters>,
    pub(crate) bytes: u64,
}

type Finish = (Due, oneshot::Sender<Done>);

/// The main session's hold on the work ahead, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    told: watch::Sender<Told>,
    state: watch::Receiver<State>,
    finish: mpsc::Sender<Finish>,
    task: JoinHandle<()>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    /// Begins to look for transactions; `None` where the settings want none applied ahead. Must be called within a tokio
    /// runtime.
    pub(crate) fn start(settings: &ReplicatSettings) -> Option<Self> {
        let from = settings.ahead.from.filter(|_| settings.conflicts.is_none())?;
        let (told, hears) = watch::channel(Told::Rest("nothing is known of the target yet"));
        let (tells, state) = watch::channel(State::default());
        // One commit is due at a time.
        let (finish, due) = mpsc::channel(1);
        let task = tokio::spawn(work::run(settings.clone(), from, hears, tells, due));
        Some(Self { told, state, finish, task })
    }

    /// Says how far the main session is.
    pub(crate) fn tell(&self, place: Place) {
        let _ = self
            .told
            .send_if_modified(|told| std::mem::replace(told, Told::Work(place)) != Told::Work(place));
    }

    /// Has everything taken back. It is not yet when this returns: see [`Ahead::settle`].
    pub(crate) fn rest(&self, why: &'static str) {
        let _ = self.told.send_replace(Told::Rest(why));
    }

    /// Waits until everything is taken back that [`Ahead::rest`] was about. Cancel-safe.
    pub(crate) async fn settle(&mut self) {
        // If the task is gone, so is its session.
        let _ = self.state.wait_for(|state| state.xid.is_none()).await;
    }

    /// What is being done.
    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Commits what the main session has come to. `None` if it is not committed, or nobody knows; the main session must
    /// then begin again with the target's memory.
    pub(crate) async fn finish(&mut self, due: Due) -> Option<Done> {
        let (answer, answered) = oneshot::channel();
        self.finish.send((due, answer)).await.ok()?;
        answered.await.ok()
    }
}
