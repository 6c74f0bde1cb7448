//! A flow whose target has most of its source's rows already: it begins at a snapshot of its source, and goes on from there
//! once somebody has made the target what that snapshot is.
//!
//! What was committed before the slot's consistent point is in the snapshot, what is committed later comes through the
//! slot. In between nobody applies: [`Rejoining`] has the flow's claim, and takes away the checkpoint that there may be
//! before it lets anybody write. Cut off, the flow has no checkpoint, and its Replicat refuses to run.

use std::path::Path;
use std::time::{Duration, Instant};

use irongate_checkpoint::{Applied, CheckpointTable, GroupLock, LoadLedger, Role};
use irongate_postgres::{Session, catalog};
use irongate_trail::{CommitLsn, Directory, Lineage, Position, ResumeLsn, Timestamp};
use serde::{Deserialize, Serialize};

use super::start::{Started, blocking, lock_groups_here, start};
use super::{Progress, import_snapshot, reading, refuse_elsewhere};
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::instantiate::carry_sequences;

/// How long a claim is waited for that a process may hold which was killed a moment ago.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);

/// Switches off what would end the session that keeps a snapshot; not every version knows both.
const UNLIMITED: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// Where a flow begins: the state of its source, and the place in its log and in its trail behind that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowStart {
    /// Whose LSNs these are.
    pub lineage: Lineage,
    /// What was committed before is in the state, what is committed later is in the stream.
    pub consistent_point: ResumeLsn,
    /// Where the trail goes on.
    pub position: Position,
    /// The epoch of the site that writes.
    pub epoch: u64,
}

/// A flow that has begun at a snapshot. None of its groups runs here as long as this is there.
///
/// A table that is emptied or rewritten after the slot was made has no rows under the snapshot. No lock is held against
/// that: an application that wants a table for itself would wait as long as all tables are read, and everybody else
/// behind it. So whoever reads has to lock the table that it reads and to see that its files are still those that the
/// snapshot's catalog names, as `irongate_verify::compare_at_rest` does.
#[derive(Debug)]
pub struct FlowSnapshot {
    /// The snapshot's name; it can be imported as long as this is there.
    pub name: String,
    /// Where the flow begins.
    pub start: FlowStart,
    _session: Session,
    _locks: [GroupLock; 2],
}

/// Makes the slot of a flow anew, begins its trail there, and keeps the snapshot that belongs to it. The target is not
/// touched.
///
/// # Errors
/// As [`begin_capture`](super::begin_capture); [`Error::SnapshotLost`] where the server has taken it away already.
///
/// Not cancel-safe, but safe to repeat.
pub async fn begin_at_snapshot(
    configuration: &Configuration,
    flow: &Flow,
    slot_limit: Duration,
    progress: &mut Progress<'_>,
) -> Result<FlowSnapshot, Error> {
    let locks = lock_groups_here(configuration, flow)?;
    let Started { lineage, consistent_point, position, epoch, snapshot, _connection } =
        start(configuration, flow, slot_limit, progress).await?;
    let start = FlowStart { lineage, consistent_point, position, epoch };
    let (session, name) = keep(configuration, flow, &snapshot, slot_limit).await?;
    Ok(FlowSnapshot { name, start, _session: session, _locks: locks })
}

/// Takes a snapshot over from the connection that has made the slot. That one is idle in a transaction, and no time limit
/// of its own can be set there without losing the snapshot; here all are switched off.
async fn keep(
    configuration: &Configuration,
    flow: &Flow,
    snapshot: &str,
    limit: Duration,
) -> Result<(Session, String), Error> {
    const EXPORT: &str = "SELECT pg_catalog.pg_export_snapshot()";
    let source = End::source(configuration, flow)?;
    let failed = |error: irongate_postgres::Error| match error.code() {
        // There is none of this name, or nobody has it any more.
        Some("22023" | "42704" | "55000") => Error::SnapshotLost { end: source.to_string() },
        _ => source.failed("take the snapshot over", error),
    };
    let session = source.connect(As::Extract, "irongate reinstate").await?;
    session.batch_execute(UNLIMITED).await.map_err(|error| failed(error.into()))?;
    import_snapshot(&session, snapshot, limit).await.map_err(failed)?;
    let row = session.query_one(EXPORT, &[]).await.map_err(|error| failed(error.into()))?;
    let name = row.try_get(0).map_err(|error| failed(error.into()))?;
    Ok((session, name))
}

/// A flow whose target is being made what its source was. Nobody applies as long as this is there.
#[derive(Debug)]
pub struct Rejoining<'a> {
    configuration: &'a Configuration,
    flow: &'a Flow,
    target: End<'a>,
    session: Session,
    table: CheckpointTable,
}

impl<'a> Rejoining<'a> {
    /// Claims the flow at its target and takes its checkpoint away, if its stream can still go on from `start`.
    ///
    /// # Errors
    /// [`Error::Slot`] where the slot is gone; [`Error::TargetWrites`] for the site that writes; [`Error::Elsewhere`];
    /// [`Error::Checkpoint`] where somebody applies; [`Error::Database`].
    ///
    /// Not cancel-safe, but safe to repeat.
    pub async fn begin(
        configuration: &'a Configuration,
        flow: &'a Flow,
        start: &FlowStart,
    ) -> Result<Self, Error> {
        refuse_elsewhere(configuration, flow)?;
        let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
        let at_source = reading(&source).await?;
        let slot = catalog::slot(&at_source, &flow.slot)
            .await
            .map_err(|error| source.failed("look at the slot", error))?;
        let refused = |reason: &str| Error::Slot {
            slot: flow.slot.clone(),
            end: source.to_string(),
            reason: reason.to_owned(),
        };
        match slot {
            None => return Err(refused("it is gone, and with it what was committed since the snapshot")),
            Some(slot) if slot.wal_status.as_deref() == Some("lost") => {
                return Err(refused("its log is gone, and with it what was committed since the snapshot"));
            }
            Some(_) => {}
        }
        let directory = configuration.trail(flow);
        if blocking(move || lineage(&directory)).await?? != Some(start.lineage) {
            return Err(refused("it was made anew since the snapshot"));
        }
        let session = target.connect(As::Replicat, "irongate reinstate").await?;
        if Role::load(&session).await?.is_some_and(|role| role.live == flow.to) {
            return Err(Error::TargetWrites { flow: flow.name.clone(), end: target.to_string() });
        }
        let table = CheckpointTable::prepare(&session, &flow.name).await?;
        let begun = Instant::now();
        loop {
            match table.claim(&session).await {
                Err(irongate_checkpoint::Error::FlowInUse { .. }) if begun.elapsed() < CLAIM_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                claimed => break claimed?,
            }
        }
        table.remove(&session).await?;
        // What an earlier load says of tables that begin later is over.
        let ledger = LoadLedger::new(&flow.name);
        if ledger.job_if_kept(&session).await?.is_some() {
            ledger.forget(&session).await?;
        }
        Ok(Self { configuration, flow, target, session, table })
    }

    /// The target is what the source was: the sequences follow, and the stream goes on from `start`. How many sequences
    /// there are.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Checkpoint`].
    ///
    /// Not cancel-safe, but safe to begin again.
    pub async fn finish(self, start: &FlowStart) -> Result<usize, Error> {
        let sequences = carry_sequences(self.configuration, self.flow).await?;
        let failed = |error| self.target.failed("begin the flow's checkpoint", error);
        let applied = Applied {
            lineage: start.lineage,
            commit_lsn: CommitLsn::default(),
            end_lsn: start.consistent_point,
            commit_time: Timestamp::now(),
            position: start.position,
            epoch: start.epoch,
            transactions: 0,
        };
        self.session.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await.map_err(failed)?;
        self.table.remove(&self.session).await?;
        self.table.initialise(&self.session, &applied).await?;
        self.session.batch_execute("COMMIT").await.map_err(failed)?;
        // A Replicat that starts at once is not to be refused: the server takes a moment to end a session.
        self.table.release(&self.session).await?;
        Ok(sequences)
    }
}

/// Whose LSNs the newest file of a trail holds.
fn lineage(directory: &Path) -> Result<Option<Lineage>, Error> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let listing = irongate_trail::list(&Directory::new(directory))?;
    Ok(listing.files.last().and_then(|file| file.header.as_ref()).map(|header| header.lineage))
}
