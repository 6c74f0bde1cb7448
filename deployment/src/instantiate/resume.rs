//! Whether a load goes on where it was cut off, and how. What counts is what the databases and the trail say; nothing
//! local is trusted.

use std::collections::{BTreeMap, BTreeSet};

use irongate_checkpoint::{CheckpointTable, FIRST_EPOCH, LoadJob, LoadTable, QualifiedName, Role};
use irongate_postgres::{ReplicationConnection, catalog};
use irongate_trail::{Directory, Lineage, ResumeLsn};

use super::snapshot::plan_of;
use super::tables::{Copied, copied};
use super::target::{Layout, refuse_rows, refuse_writer};
use super::{APPLICATION, Claims, Load, Ready, keeper, plan};
use crate::configuration::TableName;
use crate::error::Error;
use crate::setup::{Event, Progress as Report, blocking};

/// How a call begins.
pub(super) enum Begin {
    /// With a new slot and a new ledger. The rows of some tables are those of a load that is given up.
    Anew {
        /// These, by source.
        ours: BTreeSet<QualifiedName>,
    },
    /// Where the last one was cut off.
    GoOn(Box<LoadJob>),
    /// With these tables alone.
    Tables(Vec<TableName>),
    /// Not at all: this very call has ended the load, without being told so.
    Done(Box<LoadJob>),
}

/// What is known of a load's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stream {
    /// Identifier and timeline of the source's system.
    system: (u64, u32),
    /// What the slot has confirmed; nothing where there is no slot that can be read.
    confirmed: Option<ResumeLsn>,
    /// Of the trail that is there.
    trail: Option<Lineage>,
    /// In which epoch the source writes, if it does.
    epoch: Option<u64>,
}

/// Why the stream of a load cannot be gone on with, if that is so.
pub(super) fn given_up(job: &LoadJob, stream: &Stream) -> Option<&'static str> {
    let lineage = &job.lineage;
    if stream.system != (lineage.system_identifier, lineage.timeline) {
        return Some("the source is another server than it was, or has been promoted since");
    }
    if stream.epoch != Some(job.epoch) {
        return Some("roles have changed since");
    }
    if stream.trail != Some(*lineage) {
        return Some("its trail is not there any more");
    }
    // Ahead of the place where the trail begins is where Extract has brought it; behind is another slot.
    if stream.confirmed.is_none_or(|confirmed| confirmed < job.consistent_point) {
        return Some("its slot is not there any more");
    }
    None
}

impl Load<'_> {
    pub(super) async fn decide(&self, claims: &Claims, progress: &mut Report<'_>) -> Result<Begin, Error> {
        let anew = || match self.options.tables.is_empty() {
            true => Begin::Anew { ours: BTreeSet::new() },
            false => Begin::Tables(self.options.tables.clone()),
        };
        let Some(job) = self.ledger.job(&claims.target).await? else { return Ok(anew()) };
        if job.done {
            let is_own = self.job.as_ref() == Some(&job.job);
            return Ok(if is_own { Begin::Done(Box::new(job)) } else { anew() });
        }
        let checkpoint = CheckpointTable::prepare(&claims.target, &self.flow.name).await?;
        if checkpoint.load(&claims.target).await?.is_some() != job.beside {
            // The flow was begun some other way since, or was ended; what the load was about is over.
            return Ok(anew());
        }
        let tables = self.ledger.tables(&claims.target).await?;
        self.refuse_other_load(&tables)?;
        let gone = given_up(&job, &self.stream(claims).await?);
        let is_whole = gone.is_none();
        let is_asked = self.restart || (job.beside && self.options.truncate);
        let reason = if is_asked { Some("as asked") } else { gone };
        let finished = tables.iter().filter(|table| table.is_finished()).count();
        if let Some(reason) = reason {
            progress(Event::Note(format!(
                "load {} is given up ({reason}), {finished} of {} tables finished: beginning anew",
                job.job,
                tables.len()
            )));
            if job.beside && self.restart && !self.options.truncate && is_whole {
                let again = tables.iter().filter(|table| table.again);
                let again = again.map(|table| TableName::new(&table.source.0, &table.source.1));
                return Ok(Begin::Tables(again.collect()));
            }
            // What was there before single tables were copied anew is not the load's.
            let is_ours = |table: &LoadTable| table.chunks_done > 0 && (table.again || !job.beside);
            let ours = tables.into_iter().filter(is_ours).map(|table| table.source);
            return Ok(Begin::Anew { ours: ours.collect() });
        }
        progress(Event::Note(format!(
            "resuming load {}, {finished} of {} tables finished",
            job.job,
            tables.len()
        )));
        Ok(Begin::GoOn(Box::new(job)))
    }

    pub(super) async fn stream(&self, claims: &Claims) -> Result<Stream, Error> {
        let failed = |error| self.source.failed("look at the slot", error);
        let mut connection = ReplicationConnection::connect(&self.source.own_login().endpoint, APPLICATION)
            .await
            .map_err(|error| self.source.failed("connect for replication", error))?;
        let identity =
            connection.identify_system().await.map_err(|error| self.source.failed("identify", error))?;
        let slot = catalog::slot(&claims.source, &self.flow.slot).await.map_err(failed)?;
        let is_ours = |slot: &catalog::SlotFacts| {
            slot.lost().is_none()
                && slot.plugin.as_deref() == Some(irongate_postgres::replication::OUTPUT_PLUGIN)
                && slot.database.as_deref() == Some(self.source.address.database())
        };
        let directory = self.configuration.trail(self.flow);
        let trail = blocking(move || {
            irongate_trail::list(&Directory::new(directory))
                .ok()
                .and_then(|listing| listing.files.into_iter().rev().find_map(|file| file.header))
                .map(|header| header.lineage)
        })
        .await?;
        let epoch = match Role::load(&claims.source).await? {
            None => Some(FIRST_EPOCH),
            Some(role) => role.admits(&self.flow.from),
        };
        Ok(Stream {
            system: (identity.system_identifier, identity.timeline),
            confirmed: slot.filter(is_ours).and_then(|slot| slot.confirmed_flush_lsn).map(ResumeLsn),
            trail,
            epoch,
        })
    }

    /// Goes on with a load: under its snapshot if that is still kept, else under a new one.
    pub(super) async fn go_on(
        &mut self,
        claims: &Claims,
        job: LoadJob,
        progress: &mut Report<'_>,
    ) -> Result<Ready, Error> {
        refuse_writer(&self.target, &claims.target, self.configuration, self.flow).await?;
        let ledger = self.ledger.tables(&claims.target).await?;
        if ledger.iter().all(LoadTable::is_finished) {
            // Nothing has to be copied, under whatever snapshot.
            return Ok(Ready { job, tables: Vec::new() });
        }
        if let Some(copied) = self.under_its_snapshot(claims, &job).await? {
            let untouched = untouched(&ledger, &copied);
            refuse_rows(&self.target, &claims.target, &untouched).await?;
            return Ok(Ready { tables: joined(ledger, copied), job });
        }
        progress(Event::Note(
            "the snapshot is lost: tables that are not finished begin anew under another one".to_owned(),
        ));
        self.under_another(claims, job, ledger, progress).await
    }

    /// How the tables are copied under the snapshot of the ledger, if that is still there.
    async fn under_its_snapshot(
        &mut self,
        claims: &Claims,
        job: &LoadJob,
    ) -> Result<Option<Vec<Copied>>, Error> {
        let snapshot = &job.snapshot;
        let failed = |error| self.source.failed("look for the keeper of the snapshot", error);
        if !keeper::is_alive(&claims.source, snapshot.keeper_pid, &snapshot.keeper_start)
            .await
            .map_err(failed)?
        {
            return Ok(None);
        }
        match self.connect_readers().await?.hold(self.flow, &snapshot.name).await {
            Ok(held) => self.take_readers(held)?,
            Err(error) => {
                tracing::warn!(%error, "the snapshot of the load cannot be imported");
                return Ok(None);
            }
        }
        let ends = [&self.source, &self.target];
        copied(self.reader()?, &claims.target, self.flow, ends).await.map(Some)
    }

    /// Begins the tables anew that are not finished, under a new snapshot.
    async fn under_another(
        &mut self,
        claims: &Claims,
        mut job: LoadJob,
        ledger: Vec<LoadTable>,
        progress: &mut Report<'_>,
    ) -> Result<Ready, Error> {
        let snapshot = self.new_snapshot(claims, progress).await?;
        let ends = [&self.source, &self.target];
        let copied = copied(self.reader()?, &claims.target, self.flow, ends).await?;
        let targets: Vec<QualifiedName> = ledger
            .iter()
            .map(|table| table.target.clone())
            .chain(copied.iter().map(Copied::target_name))
            .collect();
        let layout = Layout::of(&claims.target, &targets).await;
        let layout = layout.map_err(|error| self.target.failed("read the catalog", error))?;
        let again = plan::unfinished(&ledger, &layout.place_of);
        let by_source: BTreeMap<QualifiedName, &LoadTable> =
            ledger.iter().map(|table| (table.source.clone(), table)).collect();
        let mut planned = Vec::new();
        for table in &copied {
            let source = table.source_name();
            let earlier = by_source.get(&source);
            // What has come since is in the stream, where that goes on beside.
            let is_new = earlier.is_none() && !job.beside;
            if is_new || again.contains(&source) {
                let generation = earlier.map_or(1, |earlier| earlier.generation + 1);
                let plan = plan_of(table, snapshot.lsn, generation, self.flow.load.chunk_size);
                planned.push(LoadTable { again: job.beside, ..plan });
            }
        }
        // One that is published no more has nothing to come under this snapshot, and nothing to be applied before it.
        for table in &ledger {
            let is_there = copied.iter().any(|copied| copied.source_name() == table.source);
            if again.contains(&table.source) && !is_there {
                let generation = table.generation + 1;
                planned.push(LoadTable { chunks: 0, start: snapshot.lsn, generation, ..table.clone() });
            }
        }
        let emptied: BTreeSet<QualifiedName> = ledger
            .iter()
            .filter(|table| again.contains(&table.source) && layout.present.contains_key(&table.target))
            .filter(|table| has_rows_of_ours(table, &ledger, &layout))
            .map(|table| table.target.clone())
            .collect();
        let emptying = layout.emptying(&emptied);
        let untouched: Vec<&Copied> =
            copied.iter().filter(|table| !targets_of(&ledger).contains(&table.target_name())).collect();
        let end = self.target;
        let at_target = self.at_target(&job, &end).await?;
        let done = at_target.again(&self.ledger, (&job, &snapshot), &planned, &emptying, &untouched).await;
        at_target.close().await;
        done?;
        job.snapshot = snapshot;
        let ledger = self.ledger.tables(&claims.target).await?;
        Ok(Ready { tables: joined(ledger, copied), job })
    }
}

fn targets_of(ledger: &[LoadTable]) -> BTreeSet<QualifiedName> {
    ledger.iter().map(|table| table.target.clone()).collect()
}

/// Whether a load has copied rows into a table, or into one that lies in the same place.
fn has_rows_of_ours(table: &LoadTable, ledger: &[LoadTable], layout: &Layout) -> bool {
    let place = |table: &LoadTable| layout.place_of.get(&table.target).unwrap_or(&table.target).clone();
    ledger.iter().any(|other| other.chunks_done > 0 && place(other) == place(table))
}

/// The tables that no chunk was copied into, nor into any of the same target: what is in them is not ours.
fn untouched<'a>(ledger: &[LoadTable], copied: &'a [Copied]) -> Vec<&'a Copied> {
    let touched: BTreeSet<QualifiedName> =
        ledger.iter().filter(|table| table.chunks_done > 0).map(|table| table.target.clone()).collect();
    // Rows of a partitioned table may have come through a partition of it that is copied by itself.
    let has_partitions = copied.iter().any(|table| table.into_partitions);
    copied
        .iter()
        .filter(|table| !touched.contains(&table.target_name()))
        .filter(|_| !has_partitions || touched.is_empty())
        .collect()
}

/// The tables of the ledger with how they are copied. One that is finished may be there no more.
pub(super) fn joined(ledger: Vec<LoadTable>, copied: Vec<Copied>) -> Vec<(LoadTable, Copied)> {
    let mut by_source: BTreeMap<QualifiedName, Copied> =
        copied.into_iter().map(|table| (table.source_name(), table)).collect();
    ledger
        .into_iter()
        .filter_map(|table| Some((by_source.remove(&table.source)?, table)))
        .map(|(c, t)| (t, c))
        .collect()
}

#[cfg(test)]
mod tests {
    use irongate_checkpoint::LoadSnapshot;
    use irongate_trail::{Lsn, Position, Timestamp};

    use super::*;

    #[test]
    fn a_load_is_gone_on_with_only_where_its_stream_is_whole() {
        let lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(100) };
        let job = LoadJob {
            job: "j".to_owned(),
            lineage,
            consistent_point: ResumeLsn(Lsn(100)),
            position: Position::default(),
            epoch: 3,
            snapshot: LoadSnapshot {
                name: "s".to_owned(),
                lsn: Lsn(100),
                taken: Timestamp(0),
                keeper_pid: 1,
                keeper_start: String::new(),
            },
            beside: false,
            others: None,
            done: false,
        };
        let whole = Stream {
            system: (7, 1),
            confirmed: Some(ResumeLsn(Lsn(120))),
            trail: Some(lineage),
            epoch: Some(3),
        };
        assert_eq!(given_up(&job, &whole), None);
        let other = Lineage { slot_incarnation: Lsn(90), ..lineage };
        for broken in [
            Stream { system: (8, 1), ..whole.clone() },
            Stream { system: (7, 2), ..whole.clone() },
            Stream { confirmed: None, ..whole.clone() },
            Stream { confirmed: Some(ResumeLsn(Lsn(99))), ..whole.clone() },
            Stream { trail: None, ..whole.clone() },
            Stream { trail: Some(other), ..whole.clone() },
            Stream { epoch: None, ..whole.clone() },
            Stream { epoch: Some(4), ..whole.clone() },
        ] {
            assert!(given_up(&job, &broken).is_some(), "{broken:?}");
        }
    }
}
