//! A slot and its trail are made together: the trail's header names the LSN at which the slot was created, and by that
//! a slot that somebody drops and creates again is told from ours.

use std::sync::Arc;

use irongate_postgres::{ReplicationConnection, SlotOptions};
use irongate_trail::{Lineage, ResumeLsn, Storage, Writer, WriterOptions};

use crate::error::Error;

/// A slot and the trail that begins where it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Created {
    /// Whose LSNs the trail holds.
    pub lineage: Lineage,
    /// Transactions that commit before it are in the snapshot, those after it in the stream.
    pub start: ResumeLsn,
    /// The exported snapshot, if one was asked for. It lives until the next command on the connection, or its end.
    pub snapshot_name: Option<String>,
}

/// Creates a slot and an empty trail for it. The publications must exist before: a slot does not see those made later.
/// Waits until every transaction that is writing at this moment has ended.
///
/// Not cancel-safe: a call that was dropped may leave the slot behind.
///
/// # Errors
/// [`Error::Postgres`], also when there is a slot of the name already. [`Error::Trail`] when the trail cannot be made or
/// there is one: the slot is then dropped again.
pub async fn create(
    connection: &mut ReplicationConnection,
    slot: &str,
    options: SlotOptions,
    storage: Arc<dyn Storage>,
    flow: &str,
) -> Result<Created, Error> {
    let identity = connection.identify_system().await?;
    let server_version = connection.server_version_num();
    let created = connection.create_logical_slot(slot, options).await?;
    let lineage = Lineage {
        system_identifier: identity.system_identifier,
        timeline: identity.timeline,
        slot_incarnation: created.consistent_point,
    };
    let start = ResumeLsn(created.consistent_point);
    let options = WriterOptions { server_version, ..WriterOptions::new(flow, lineage) };
    if let Err(error) = Writer::create(storage, options, start) {
        if let Err(second) = connection.drop_slot(slot, false).await {
            tracing::warn!(slot, error = %second, "a slot without a trail could not be dropped");
        }
        return Err(error.into());
    }
    Ok(Created { lineage, start, snapshot_name: created.snapshot_name })
}
