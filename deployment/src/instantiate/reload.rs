//! Single tables copied anew: what [`Instantiate::tables`](super::Instantiate) asks for.
//!
//! It is a load of whose tables all but those that are asked for are there already. So everything else holds for it too:
//! chunks, the keeper of its snapshot, and that it goes on wherever it was cut off. The tables begin at the place of a later
//! snapshot, and what the stream says of them before that place Replicat leaves out, as for a load that has lost its snapshot.
//!
//! Extract and the pump run all the while. Replicat waits: its checkpoint is set aside by the transaction that empties the
//! tables and begins the ledger, and comes back by the one that ends it. So no change finds a table half copied, however
//! the command ends; and Replicat goes on with exactly the transaction that it would have taken next.

use std::collections::{BTreeMap, BTreeSet};

use irongate_checkpoint::{Applied, LoadJob, LoadTable, QualifiedName};
use irongate_trail::ResumeLsn;

use super::resume::{given_up, joined};
use super::snapshot::{job_name, plan_of};
use super::tables::{Copied, copied};
use super::target::{Layout, Target, refuse_writer};
use super::{Claims, Load, Ready, plan};
use crate::configuration::TableName;
use crate::error::Error;
use crate::groups::group_name;
use crate::setup::{Event, Progress as Report};

impl Load<'_> {
    fn refused(&self, reason: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Tables { flow: self.flow.name.clone(), reason: reason.into(), remedy: remedy.into() }
    }

    /// Whether the load that is under way is the one of these tables.
    pub(super) fn refuse_other_load(&self, tables: &[LoadTable]) -> Result<(), Error> {
        let open: BTreeSet<TableName> = tables
            .iter()
            .filter(|table| !table.is_finished())
            .map(|table| TableName::new(&table.source.0, &table.source.1))
            .collect();
        let asked: Vec<&TableName> =
            self.options.tables.iter().filter(|table| !open.contains(table)).collect();
        // All that is asked for is under way, or nothing is any more but the end.
        if asked.is_empty() || open.is_empty() {
            return Ok(());
        }
        let names = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(self.refused(
            format!("a load is under way, of {names}"),
            format!("finish it first: irongate instantiate {}", self.flow.name),
        ))
    }

    /// Begins to copy the tables anew that are asked for.
    pub(super) async fn begin_tables(
        &mut self,
        claims: &Claims,
        progress: &mut Report<'_>,
    ) -> Result<Ready, Error> {
        let flow = self.flow;
        if !self.configuration.active_passive().contains(&flow.database.as_str()) {
            return Err(self.refused(
                format!(
                    "both sites write database \"{}\", and what only one of them has would be lost",
                    flow.database
                ),
                format!(
                    "irongate repair {} --table ... takes the rows of one side where they differ",
                    flow.name
                ),
            ));
        }
        let end = self.target;
        let at_target = match Target::open(&end, flow, self.limit(), true).await {
            Err(Error::Checkpoint(irongate_checkpoint::Error::FlowInUse { .. })) => {
                let replicat = group_name(&flow.name, irongate_checkpoint::Program::Replicat);
                return Err(self.refused(
                    format!("\"{replicat}\" runs, which would write the tables meanwhile"),
                    format!(
                        "irongate stop {replicat}; once this has begun it can be started again, and waits until it is done. \
                         Extract goes on"
                    ),
                ));
            }
            other => other?,
        };
        let begun = self.begun_tables(claims, &at_target, progress).await;
        at_target.close().await;
        begun
    }

    async fn begun_tables(
        &mut self,
        claims: &Claims,
        at_target: &Target<'_>,
        progress: &mut Report<'_>,
    ) -> Result<Ready, Error> {
        let flow = self.flow;
        let whole = format!("irongate instantiate {} --truncate brings all of it", flow.name);
        refuse_writer(&self.target, &at_target.session, self.configuration, flow).await?;
        let Some(applied) = at_target.checkpoint.load(&at_target.session).await? else {
            return Err(self.refused("the flow has no checkpoint at its target", whole));
        };
        let (source, target) = (self.source, self.target);
        let ends = [&source, &target];
        let before = copied(&claims.source, &claims.target, flow, ends).await?;
        let known: BTreeSet<TableName> = before.iter().map(|table| table.source.clone()).collect();
        let strange: Vec<String> = self
            .options
            .tables
            .iter()
            .filter(|table| !known.contains(table))
            .map(ToString::to_string)
            .collect();
        if !strange.is_empty() {
            return Err(self.refused(
                format!("its publication has no table {}", strange.join(", ")),
                "name tables as the source has them, schema.table; partitions come with their table",
            ));
        }
        let earlier = self.earlier(claims, &applied).await?;
        // What can be refused is refused before a snapshot is taken: the slot and the trail must go on where Replicat stands.
        let snapshot = {
            let stream = self.stream(claims).await?;
            let job = job_of(&applied, None);
            if let Some(reason) = given_up(&job, &stream) {
                return Err(self.refused(format!("its stream cannot be gone on with: {reason}"), whole));
            }
            self.new_snapshot(claims, progress).await?
        };
        let copied = copied(self.reader()?, &claims.target, flow, ends).await?;
        let targets: Vec<QualifiedName> = copied.iter().map(Copied::target_name).collect();
        let layout = Layout::of(&claims.target, &targets).await;
        let layout = layout.map_err(|error| self.target.failed("read the catalog", error))?;
        let chosen = |table: &Copied| self.options.tables.contains(&table.source);
        let chunk = flow.load.chunk_size;
        let mut lines: Vec<LoadTable> = copied
            .iter()
            .map(|table| {
                let (start, generation) = earlier
                    .get(&table.source_name())
                    .map_or((applied.end_lsn.0, 0), |earlier| (earlier.start, earlier.generation));
                if chosen(table) {
                    plan_of(table, snapshot.lsn, generation + 1, chunk)
                } else {
                    let plan = plan_of(table, start, generation.max(1), chunk);
                    LoadTable { chunks_done: plan.chunks, ..plan }
                }
            })
            .collect();
        // With a table go those that lie in the same place.
        let again = plan::unfinished(&lines, &layout.place_of);
        for line in lines.iter_mut().filter(|line| again.contains(&line.source) && line.is_finished()) {
            (line.chunks_done, line.start, line.generation) = (0, snapshot.lsn, line.generation + 1);
        }
        let emptied: BTreeSet<QualifiedName> = lines
            .iter()
            .filter(|line| again.contains(&line.source))
            .map(|line| line.target.clone())
            .collect();
        let emptying = layout.emptying(&emptied);
        let job = job_of(&applied, Some(snapshot));
        at_target.reload(&self.ledger, (&job, applied.end_lsn), &lines, &emptying).await?;
        progress(Event::Note(format!(
            "{} of {} tables are copied anew, as of {}",
            again.len(),
            lines.len(),
            job.snapshot.lsn
        )));
        let ledger = self.ledger.tables(&claims.target).await?;
        Ok(Ready { job, tables: joined(ledger, copied) })
    }

    /// What an earlier load of this very stream says of the tables: some may begin at places that Replicat has not reached.
    async fn earlier(
        &self,
        claims: &Claims,
        applied: &Applied,
    ) -> Result<BTreeMap<QualifiedName, LoadTable>, Error> {
        let Some(job) = self.ledger.job(&claims.target).await? else { return Ok(BTreeMap::new()) };
        if job.lineage.slot_incarnation != applied.lineage.slot_incarnation
            || job.lineage.system_identifier != applied.lineage.system_identifier
        {
            return Ok(BTreeMap::new());
        }
        let tables = self.ledger.tables(&claims.target).await?;
        Ok(tables.into_iter().map(|table| (table.source.clone(), table)).collect())
    }
}

/// The load of a stream that has been applied so far. Its slot may have confirmed a little less than what has come through
/// the trail already: what counts is that it is the same slot.
fn job_of(applied: &Applied, snapshot: Option<irongate_checkpoint::LoadSnapshot>) -> LoadJob {
    let none = || irongate_checkpoint::LoadSnapshot {
        name: String::new(),
        lsn: applied.end_lsn.0,
        taken: applied.commit_time,
        keeper_pid: 0,
        keeper_start: String::new(),
    };
    LoadJob {
        job: job_name(),
        lineage: applied.lineage,
        consistent_point: ResumeLsn(applied.lineage.slot_incarnation),
        position: applied.position,
        epoch: applied.epoch,
        snapshot: snapshot.unwrap_or_else(none),
        done: false,
    }
}
