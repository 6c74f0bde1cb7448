//! Applying a batch before it is durable in the trail: everything but COMMIT is sent at once.

use std::future::Future;

use irongate_checkpoint::Applied;

use super::flight::{launch, sort, sort_checkpoint};
use super::postgres::not_loaded;
use super::{Connection, Failure, Outcome, PostgresTarget};
use crate::batch::Batch;
use crate::settings::ReplicatSettings;

impl PostgresTarget {
    /// Conflicts are looked for, and held rows treated, where a group is applied as a whole.
    pub(super) fn can_apply_early(&self, batch: &Batch) -> bool {
        batch.is_plain()
            && self.settings.conflicts.is_none()
            && self.connection.as_ref().is_some_and(|connection| !connection.held.concerns(batch))
    }

    pub(super) async fn apply_early(
        &mut self,
        batch: &Batch,
        end: &Applied,
        durable: impl Future<Output = bool> + Send,
    ) -> Result<Option<Outcome>, Failure> {
        let Some(connection) = &mut self.connection else { return Err(Failure::Lost(not_loaded())) };
        match connection.apply_early(batch, &self.settings, end, durable).await {
            Err(Failure::Lost(error)) => Err(self.lost(error)),
            other => other,
        }
    }
}

impl Connection {
    /// Leaves the transaction open if the batch does not become durable, and the origin where it is: its position is given
    /// when nothing can fail any more.
    async fn apply_early(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: &Applied,
        durable: impl Future<Output = bool> + Send,
    ) -> Result<Option<Outcome>, Failure> {
        let work = async {
            let plans = self.plans(batch, settings).await?;
            self.send_some(batch, &plans, |_| true, Some(end), false).await
        };
        // After a refusal nobody waits for the disk.
        let (_, is_durable) = tokio::try_join!(work, async { Ok(durable.await) })?;
        if !is_durable {
            return Ok(None);
        }
        if let Some(open) = &self.open {
            let client = self.session.client();
            // One behind the other in one flight: what was sent before has been answered, so that neither can fail but by
            // the loss of the line.
            let position = open.xact_setup(client, end.end_lsn, end.commit_time);
            let position = launch(async { position.await.map_err(sort_checkpoint) }).await?;
            let commit = launch(async { client.batch_execute("COMMIT").await.map_err(sort) }).await?;
            position.await?;
            commit.await?;
        }
        self.committed();
        Ok(Some(Outcome::default()))
    }
}
