//! Single tables copied anew: what [`Instantiate::tables`](super::Instantiate) asks for.
//!
//! It is a load of whose tables all but those that are asked for are there already. So everything else holds for it too:
//! chunks, the keeper of its snapshot, and that it goes on wherever it was cut off. The tables begin at the place of a later
//! snapshot, and what the stream says of them before that place Replicat leaves out, as for a load that has lost its snapshot.
//!
//! Extract and the pump run all the while, and so does Replicat: it leaves the tables out. Its checkpoint is kept by the
//! transaction that empties them and begins the ledger, and gone back to by the one that ends it, which notes how far
//! everything else is applied by then. So Replicat reads that part of the trail once more and takes from it what the tables
//! lack. No change finds a table half copied, however the command ends, and none is missed or made twice: each table has
//! one place behind which the stream is applied to it (`irongate_checkpoint::TableStarts`). That part of the trail is not
//! purged meanwhile.
//!
//! For the two transactions Replicat makes way: it gives the flow back between two of its own, and takes it again with
//! what the target says then.

use std::collections::{BTreeMap, BTreeSet};

use irongate_checkpoint::{Applied, LoadJob, LoadTable, QualifiedName, Role};
use irongate_trail::{Lsn, ResumeLsn};

use super::resume::{given_up, joined};
use super::snapshot::{job_name, plan_of};
use super::tables::{Copied, copied};
use super::target::{Layout, Target, refuse_writer};
use super::{Claims, Load, Ready, plan};
use crate::configuration::TableName;
use crate::end::End;
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
            .filter(|table| table.again || !table.is_finished())
            .map(|table| TableName::new(&table.source.0, &table.source.1))
            .collect();
        let asked: Vec<&TableName> = self.tables.iter().filter(|table| !open.contains(table)).collect();
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
        let at_target = self.beside(&end).await?;
        let begun = self.begun_tables(claims, &at_target, progress).await;
        at_target.close().await;
        begun
    }

    /// The target's session for a load, for which a Replicat that goes on beside it makes way.
    pub(super) async fn at_target<'e>(&self, job: &LoadJob, end: &'e End<'e>) -> Result<Target<'e>, Error> {
        match job.beside {
            true => self.beside(end).await,
            false => Target::open(end, self.flow, self.limit(), true).await,
        }
    }

    /// The same where Replicat has made way.
    async fn beside<'e>(&self, end: &'e End<'e>) -> Result<Target<'e>, Error> {
        match Target::open_beside(end, self.flow, self.limit()).await {
            Err(Error::Checkpoint(irongate_checkpoint::Error::FlowInUse { .. })) => {
                let replicat = group_name(&self.flow.name, irongate_checkpoint::Program::Replicat);
                Err(self.refused(
                    format!("\"{replicat}\" did not make way within {} s", self.limit().as_secs()),
                    format!(
                        "it may be within a large transaction: irongate info {replicat} shows it. Wait, or irongate stop \
                         {replicat}; this can be run then, and it be started again at once"
                    ),
                ))
            }
            other => other,
        }
    }

    /// A plan that is about to change the sites' roles counts on a whole copy.
    async fn refuse_run(&self, at_target: &Target<'_>) -> Result<(), Error> {
        match Role::load(&at_target.session).await?.and_then(|role| role.run) {
            None => Ok(()),
            Some(holder) => Err(self.refused(
                format!(
                    "run \"{}\" of {} has the database in hand since {}",
                    holder.run, holder.holder, holder.since
                ),
                "irongate runs shows it; when it is over, run this again",
            )),
        }
    }

    /// Lets Replicat bring the tables to where the others are, and ends the load.
    pub(super) async fn finish_tables(&self, at_target: &Target<'_>, job: &LoadJob) -> Result<(), Error> {
        self.refuse_run(at_target).await?;
        if at_target.finish_beside(&self.ledger, job).await? {
            return Ok(());
        }
        Err(self.refused(
            "the flow's stream is another one than when the copy began",
            format!("irongate instantiate {} --restart copies the tables once more", self.flow.name),
        ))
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
        self.refuse_run(at_target).await?;
        let Some(applied) = at_target.checkpoint.load(&at_target.session).await? else {
            return Err(self.refused("the flow has no checkpoint at its target", whole));
        };
        let (source, target) = (self.source, self.target);
        let ends = [&source, &target];
        let before = copied(&claims.source, &claims.target, flow, ends).await?;
        let known: BTreeSet<TableName> = before.iter().map(|table| table.source.clone()).collect();
        let strange: Vec<String> =
            self.tables.iter().filter(|table| !known.contains(table)).map(ToString::to_string).collect();
        if !strange.is_empty() {
            return Err(self.refused(
                format!("its publication has no table {}", strange.join(", ")),
                "name tables as the source has them, schema.table; partitions come with their table",
            ));
        }
        let (earlier, others) = self.earlier(claims, &applied).await?;
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
        let chosen = |table: &Copied| self.tables.contains(&table.source);
        let chunk = flow.load.chunk_size;
        let mut lines: Vec<LoadTable> = copied
            .iter()
            .map(|table| {
                let (start, generation) = earlier
                    .get(&table.source_name())
                    .map_or((others, 0), |earlier| (earlier.start, earlier.generation));
                if chosen(table) {
                    LoadTable { again: true, ..plan_of(table, snapshot.lsn, generation + 1, chunk) }
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
            line.again = true;
        }
        let emptied: BTreeSet<QualifiedName> = lines
            .iter()
            .filter(|line| again.contains(&line.source))
            .map(|line| line.target.clone())
            .collect();
        let emptying = layout.emptying(&emptied);
        let job = LoadJob { others: Some(others), ..job_of(&applied, Some(snapshot)) };
        at_target.reload(&self.ledger, (&job, applied.end_lsn), &lines, &emptying).await?;
        progress(Event::Note(format!(
            "{} of {} tables are copied anew, as of {}; Replicat goes on with the others",
            again.len(),
            lines.len(),
            job.snapshot.lsn
        )));
        let ledger = self.ledger.tables(&claims.target).await?;
        Ok(Ready { job, tables: joined(ledger, copied) })
    }

    /// What an earlier load of this very stream says of the tables: some may begin at places that Replicat has not reached;
    /// and up to where everything else is applied.
    async fn earlier(
        &self,
        claims: &Claims,
        applied: &Applied,
    ) -> Result<(BTreeMap<QualifiedName, LoadTable>, Lsn), Error> {
        let none = || (BTreeMap::new(), applied.end_lsn.0);
        let Some(job) = self.ledger.job(&claims.target).await? else { return Ok(none()) };
        if job.lineage.slot_incarnation != applied.lineage.slot_incarnation
            || job.lineage.system_identifier != applied.lineage.system_identifier
        {
            return Ok(none());
        }
        let tables = self.ledger.tables(&claims.target).await?;
        let tables = tables.into_iter().map(|table| (table.source.clone(), table)).collect();
        Ok((tables, job.others.unwrap_or_default().max(applied.end_lsn.0)))
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
        beside: true,
        others: None,
        done: false,
    }
}
