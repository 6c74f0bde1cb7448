//! The snapshots of a load: the one that comes with the flow's slot, and later ones, whose place in the source's log a
//! temporary slot tells.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use irongate_checkpoint::{LoadJob, LoadSnapshot, LoadTable, QualifiedName};
use irongate_postgres::{ReplicationConnection, Session, SlotOptions, SnapshotOption};
use irongate_trail::Lsn;

use super::hold::Readers;
use super::keeper::Candidate;
use super::schema::Schema;
use super::tables::{Copied, copied};
use super::target::{Target, refuse_rows, refuse_writer};
use super::{APPLICATION, Claims, Load, Ready, keeper, plan, source_time};
use crate::end::As;
use crate::error::Error;
use crate::setup::{Progress as Report, Started, create_slot, lock_groups, start};

/// A table as the ledger begins with it.
pub(super) fn plan_of(table: &Copied, start: Lsn, generation: i32, chunk_bytes: u64) -> LoadTable {
    let (chunks, chunk_blocks) = plan::cut(table.extent, chunk_bytes);
    LoadTable {
        source: table.source_name(),
        target: table.target_name(),
        generation,
        start,
        chunks,
        chunk_blocks,
        chunks_done: 0,
        rows: 0,
        bytes: 0,
        size: table.extent.bytes,
        again: false,
    }
}

/// A load's name: when it began, in seconds since 1970, and the process that began it.
pub(super) fn job_name() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{seconds}-{}", std::process::id())
}

impl Load<'_> {
    /// Begins a load: slot, trail, keeper, ledger. In tables that `ours` names are rows of a load that was given up.
    pub(super) async fn begin(
        &mut self,
        claims: &Claims,
        ours: &BTreeSet<QualifiedName>,
        progress: &mut Report<'_>,
    ) -> Result<Ready, Error> {
        let ends = [&self.source, &self.target];
        if let Some(drain) = self.drain.take() {
            drain.stop().await;
        }
        // None of the flow's groups may run while slot, trail and checkpoint are replaced.
        let locks = lock_groups(self.configuration, self.flow)?;
        let end = self.target;
        let at_target = Target::open(&end, self.flow, self.limit(), false).await?;
        refuse_writer(&self.target, &at_target.session, self.configuration, self.flow).await?;
        let is_emptied = |table: &&Copied| self.options.truncate || ours.contains(&table.source_name());
        let schema = self.make_schema(progress).await?;
        // Everything that can be refused is refused before the old slot is given up.
        let before = copied(&claims.source, &at_target.session, self.flow, ends).await?;
        let left: Vec<&Copied> = before.iter().filter(|table| !is_emptied(table)).collect();
        refuse_rows(&self.target, &at_target.session, &left).await?;
        let failed = |error| self.source.failed("end an earlier keeper", error);
        keeper::end_all(&claims.source, self.flow).await.map_err(failed)?;
        self.keeper = None;
        // Whoever needs the snapshot is there before it is.
        let candidate = Candidate::connect(&self.options.keeper, self.configuration, self.flow).await?;
        let readers = self.connect_readers().await?;
        let started = start(self.configuration, self.flow, self.limit(), progress).await?;
        let begun = {
            let kept = self.keep((candidate, readers), &started.snapshot, started.consistent_point.0).await;
            match kept {
                Ok(snapshot) => {
                    self.begun(claims, (&started, snapshot), &at_target, schema.as_ref(), is_emptied).await
                }
                Err(error) => Err(error),
            }
        };
        if begun.is_err() {
            self.give_up_slot(started).await;
            self.keeper = None;
            self.readers.clear();
            let _ = keeper::end_all(&claims.source, self.flow).await;
        }
        at_target.close().await;
        drop(locks);
        begun
    }

    async fn begun(
        &mut self,
        claims: &Claims,
        (started, snapshot): (&Started, LoadSnapshot),
        at_target: &Target<'_>,
        schema: Option<&Schema>,
        is_emptied: impl Fn(&&Copied) -> bool,
    ) -> Result<Ready, Error> {
        let ends = [&self.source, &self.target];
        if let Some(schema) = schema {
            self.same_schema(schema, &snapshot.name).await?;
        }
        let copied = copied(self.reader()?, &claims.target, self.flow, ends).await?;
        let chunk = self.flow.load.chunk_size;
        let tables: Vec<LoadTable> =
            copied.iter().map(|table| plan_of(table, snapshot.lsn, 1, chunk)).collect();
        let job = LoadJob {
            job: job_name(),
            lineage: started.lineage,
            consistent_point: started.consistent_point,
            position: started.position,
            epoch: started.epoch,
            snapshot,
            beside: false,
            others: None,
            done: false,
        };
        let (emptied, left): (Vec<&Copied>, Vec<&Copied>) =
            copied.iter().partition(|table| is_emptied(table));
        at_target.begin(&self.ledger, &job, &tables, &emptied, &left).await?;
        Ok(Ready { job, tables: tables.into_iter().zip(copied).collect() })
    }

    /// Has a snapshot kept, and taken over by the sessions that read.
    async fn keep(
        &mut self,
        (candidate, readers): (Candidate, Readers),
        exported: &str,
        lsn: Lsn,
    ) -> Result<LoadSnapshot, Error> {
        let (keeper, held) = tokio::join!(candidate.keep(exported), readers.hold(self.flow, exported));
        let keeper = keeper?;
        let kept = keeper.kept.clone();
        self.keeper = Some(keeper);
        self.take_readers(held.map_err(|error| self.source.failed("import the slot's snapshot", error))?)?;
        let taken = source_time(self.reader()?)
            .await
            .map_err(|error| self.source.failed("ask for the time", error))?;
        Ok(LoadSnapshot { name: kept.snapshot, lsn, taken, keeper_pid: kept.pid, keeper_start: kept.start })
    }

    /// A session that sees the snapshot.
    pub(super) fn reader(&self) -> Result<&Session, Error> {
        self.readers.first().ok_or_else(|| Error::Internal("no session reads".to_owned()))
    }

    /// Takes a new snapshot and has it kept. A temporary slot is created for it, whose consistent point says exactly
    /// which transactions are in it; it goes with its connection.
    pub(super) async fn new_snapshot(
        &mut self,
        claims: &Claims,
        progress: &mut Report<'_>,
    ) -> Result<LoadSnapshot, Error> {
        let source = self.source;
        let failed = |doing: &str, error| source.failed(doing, error);
        keeper::end_all(&claims.source, self.flow)
            .await
            .map_err(|error| failed("end an earlier keeper", error))?;
        self.keeper = None;
        let candidate = Candidate::connect(&self.options.keeper, self.configuration, self.flow).await?;
        let readers = self.connect_readers().await?;
        let mut connection = ReplicationConnection::connect(&self.source.own_login().endpoint, APPLICATION)
            .await
            .map_err(|error| failed("connect for replication", error))?;
        let options =
            SlotOptions { temporary: true, snapshot: SnapshotOption::Export, ..SlotOptions::default() };
        let name = format!("irongate_load_{}", std::process::id());
        let admin = match self.source.address.admin {
            Some(_) => self.source.connect(As::Admin, APPLICATION).await.ok(),
            None => None,
        };
        let watch = admin.as_ref().unwrap_or(&claims.source);
        let created =
            create_slot(&self.source, (&name, options), &mut connection, watch, self.limit(), progress)
                .await?;
        let exported = created.snapshot_name.as_deref().unwrap_or_default();
        let kept = self.keep((candidate, readers), exported, created.consistent_point).await;
        drop(connection);
        kept
    }

    /// Drops the slot of a load that could not begin: nobody would read it.
    async fn give_up_slot(&self, started: Started) {
        drop(started);
        let dropped = async {
            ReplicationConnection::connect(&self.source.own_login().endpoint, APPLICATION)
                .await?
                .drop_slot(&self.flow.slot, false)
                .await
        };
        if let Err(error) = dropped.await {
            tracing::warn!(%error, slot = self.flow.slot, "cannot drop the slot of the load that could not begin");
        }
    }
}
