//! Checkpoints of stopped groups: where each begins again, and how an operator moves one.
//!
//! A moved checkpoint gives exactly-once away: what is passed over is missing at the target, what is passed again is
//! applied again. So it is never a side effect of anything else, it happens only while nobody runs the group, and it goes
//! only to places where a transaction has ended.
//!
//! Replicat's place is its row in the target, and may be any end of a transaction in the trail. Extract's place is the end
//! of its trail, which cannot be taken back; it moves on by a progress record that claims what it has not read.

use std::sync::Arc;

use irongate_checkpoint::{Applied, CheckpointTable, GroupLock, LoadLedger, Program, TableStarts};
use irongate_postgres::{Session, catalog};
use irongate_trail::{
    Begins, CommitLsn, Directory, Error as TrailError, Item, Lineage, Lsn, Mark, Position, Progress, Reader,
    ResumeLsn, Storage, Timestamp, Writer, WriterOptions,
};

use crate::configuration::Configuration;
use crate::end::{As, End};
use crate::error::Error;
use crate::groups::Group;
use crate::setup::blocking;

/// Where a group begins again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Whose LSNs these are.
    pub lineage: Lineage,
    /// Its place in the trail.
    pub position: Position,
    /// Its place in the source's log.
    pub resume_lsn: ResumeLsn,
    /// The last transaction that it is done with; zero if there is none.
    pub commit_lsn: CommitLsn,
    /// When that was committed at the source.
    pub commit_time: Timestamp,
    /// The epoch of the writing site.
    pub epoch: u64,
    /// Transactions applied since the flow was instantiated; Extract does not count.
    pub transactions: Option<u64>,
}

/// A place to move a checkpoint to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveTo {
    /// The last end of a transaction that does not lie behind this place of the source's log; for Extract, just here.
    Lsn(Lsn),
    /// As far as possible: the end of the trail, or for Extract the end of the source's log.
    End,
}

/// Where a group begins again; `None` if its flow was never set up or instantiated.
///
/// # Errors
/// [`Error::Trail`], [`Error::Database`], [`Error::Checkpoint`].
///
/// Cancel-safe.
pub async fn checkpoint(
    configuration: &Configuration,
    group: &Group<'_>,
) -> Result<Option<Checkpoint>, Error> {
    match group.program {
        Program::Replicat => {
            let session =
                End::target(configuration, group.only_flow()?)?.connect(As::Replicat, APPLICATION).await?;
            let table = CheckpointTable::prepare(&session, group.flow_name()).await?;
            Ok(table.load(&session).await?.as_ref().map(of_applied))
        }
        _ => {
            let directory = configuration.trail(group.only_flow()?);
            blocking(move || of_trail(&directory)).await?
        }
    }
}

const APPLICATION: &str = "irongate position";

fn of_applied(applied: &Applied) -> Checkpoint {
    Checkpoint {
        lineage: applied.lineage,
        position: applied.position,
        resume_lsn: applied.end_lsn,
        commit_lsn: applied.commit_lsn,
        commit_time: applied.commit_time,
        epoch: applied.epoch,
        transactions: Some(applied.transactions),
    }
}

fn of_mark(mark: &Mark, lineage: Lineage, epoch: u64) -> Checkpoint {
    Checkpoint {
        lineage,
        position: mark.position,
        resume_lsn: mark.resume_lsn,
        commit_lsn: mark.commit_lsn,
        commit_time: mark.commit_time,
        epoch,
        transactions: None,
    }
}

fn of_trail(directory: &std::path::Path) -> Result<Option<Checkpoint>, Error> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let listing = irongate_trail::list(&Directory::new(directory))?;
    let (Some(mark), Some(last)) = (listing.durable, listing.files.last()) else { return Ok(None) };
    let file = listing.files.iter().find(|file| file.seqno == mark.position.seqno).unwrap_or(last);
    let Some(header) = &file.header else { return Ok(None) };
    Ok(Some(of_mark(&mark, header.lineage, header.epoch)))
}

/// Moves the checkpoint of a stopped group; returns where it stood and where it stands.
///
/// # Errors
/// [`Error::Position`] for a place that it cannot be moved to; [`Error::Checkpoint`] while the group runs, here or
/// elsewhere; [`Error::Trail`], [`Error::Database`].
///
/// Not cancel-safe, but a call that is dropped has moved the checkpoint wholly or not at all.
pub async fn reposition(
    configuration: &Configuration,
    group: &Group<'_>,
    to: MoveTo,
) -> Result<(Checkpoint, Checkpoint), Error> {
    let _lock = GroupLock::acquire(&configuration.state_directory, &group.name)?;
    match group.program {
        Program::Replicat => replicat(configuration, group, to).await,
        _ => extract(configuration, group, to).await,
    }
}

fn refused(group: &Group<'_>, reason: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Position { group: group.name.clone(), reason: reason.into(), remedy: remedy.into() }
}

async fn replicat(
    configuration: &Configuration,
    group: &Group<'_>,
    to: MoveTo,
) -> Result<(Checkpoint, Checkpoint), Error> {
    let target = End::target(configuration, group.only_flow()?)?;
    let session = target.connect(As::Replicat, APPLICATION).await?;
    let table = CheckpointTable::prepare(&session, group.flow_name()).await?;
    table.claim(&session).await?;
    let Some(before) = table.load(&session).await? else {
        let remedy = format!("run \"irongate instantiate {}\"", group.flow_name());
        return Err(refused(group, "it has no checkpoint yet", remedy));
    };
    let ledger = LoadLedger::new(group.flow_name());
    let starts = TableStarts::load(&session, group.flow_name(), before.end_lsn).await?;
    if !starts.away().is_empty() || starts.go_back_from(before.end_lsn) {
        let mut tables = starts.away().to_vec();
        tables.extend(starts.late(before.end_lsn));
        return Err(refused(
            group,
            format!(
                "tables are being copied anew, or brought to where the others are: {}",
                tables.join(", ")
            ),
            format!(
                "irongate instantiate {} ends the copy, irongate info {} shows when they are",
                group.flow_name(),
                group.name
            ),
        ));
    }
    let directory = configuration.trail(group.only_flow()?);
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let reading = Arc::clone(&storage);
    let found = blocking(move || find(reading, to)).await??;
    let Some(found) = found else {
        return Err(refused(
            group,
            "the trail begins later than that",
            "a checkpoint can only be moved to where the trail still is: irongate trail ls shows it",
        ));
    };
    if found.lineage.system_identifier != before.lineage.system_identifier {
        let remedy = "instantiate the flow again";
        return Err(refused(group, "the trail there is of another source than the checkpoint", remedy));
    }
    let after = Applied { transactions: before.transactions, ..found };
    let has_ledger = ledger.job_if_kept(&session).await?.is_some();
    let save = async {
        session.batch_execute("BEGIN").await.map_err(|error| target.failed("begin", error))?;
        table.remove(&session).await?;
        table.initialise(&session, &after).await?;
        // What lies behind it is to be applied once more, whatever a load has said of it.
        if after.end_lsn < before.end_lsn && has_ledger {
            ledger.rewind(&session, after.end_lsn).await?;
        }
        session.batch_execute("COMMIT").await.map_err(|error| target.failed("commit", error))
    };
    save.await?;
    // Purge must spare what is wanted again, and need not spare what is not.
    let mark = Mark {
        position: after.position,
        resume_lsn: after.end_lsn,
        commit_lsn: after.commit_lsn,
        commit_time: after.commit_time,
        set: Timestamp::now(),
    };
    let name = group.name.clone();
    blocking(move || irongate_trail::register_reader(&*storage, &name, &mark)).await??;
    Ok((of_applied(&before), of_applied(&after)))
}

/// The last place in the trail that does not lie behind `to`; `None` if the trail begins behind it.
fn find(storage: Arc<dyn Storage>, to: MoveTo) -> Result<Option<Applied>, TrailError> {
    let mut reader = Reader::open(storage, Begins::First)?;
    let limit = match to {
        MoveTo::Lsn(lsn) => lsn,
        MoveTo::End => Lsn(u64::MAX),
    };
    let header = reader.header();
    if header.resume_lsn.0 > limit {
        return Ok(None);
    }
    let mut found = Applied {
        lineage: header.lineage,
        commit_lsn: header.previous,
        end_lsn: header.resume_lsn,
        commit_time: header.created,
        position: reader.position(),
        epoch: header.epoch,
        transactions: 0,
    };
    loop {
        let commit = match reader.next()? {
            Some(Item::Commit(commit)) => commit,
            Some(_) => continue,
            None => return Ok(Some(found)),
        };
        if commit.end_lsn.0 > limit {
            return Ok(Some(found));
        }
        found = Applied {
            lineage: reader.lineage(),
            commit_lsn: commit.commit_lsn,
            end_lsn: commit.end_lsn,
            commit_time: commit.commit_time,
            position: reader.position(),
            epoch: reader.epoch(),
            transactions: 0,
        };
    }
}

async fn extract(
    configuration: &Configuration,
    group: &Group<'_>,
    to: MoveTo,
) -> Result<(Checkpoint, Checkpoint), Error> {
    let source = End::source(configuration, group.only_flow()?)?;
    let session: Session = source.connect(As::Extract, APPLICATION).await?;
    let end = catalog::current_wal_lsn(&session)
        .await
        .map_err(|error| source.failed("ask for the end of the log", error))?;
    let to = match to {
        MoveTo::Lsn(lsn) => lsn,
        MoveTo::End => end,
    };
    if to > end {
        return Err(refused(
            group,
            format!("the source's log ends at {end}, before {to}"),
            "give a place that the source has reached, or \"end\"",
        ));
    }
    let directory = configuration.trail(group.only_flow()?);
    let flow = group.flow_name().to_owned();
    let moved = blocking(move || advance(&directory, &flow, to)).await??;
    moved.map_err(|at| {
        refused(
            group,
            format!("the trail goes up to {at} already, and {to} lies before that"),
            "what is captured cannot be taken back; to apply it again, move the Replicat",
        )
    })
}

/// Lets the trail claim everything before `to`; its end as an error if that lies behind.
fn advance(
    directory: &std::path::Path,
    flow: &str,
    to: Lsn,
) -> Result<Result<(Checkpoint, Checkpoint), ResumeLsn>, TrailError> {
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    // Its flow, lineage and epoch are the trail's own.
    let known = irongate_trail::list(&*storage)?.files.pop().and_then(|file| file.header);
    let options = WriterOptions {
        epoch: known.map_or(1, |header| header.epoch),
        ..WriterOptions::new(flow, Lineage::default())
    };
    let (mut writer, recovered) = Writer::open(storage, options, None)?;
    let state = |writer: &Writer| of_mark(&writer.durable(), writer.lineage(), writer.epoch());
    if recovered.mark.resume_lsn.0 > to {
        return Ok(Err(recovered.mark.resume_lsn));
    }
    let before = state(&writer);
    writer.progress(&Progress { resume_lsn: ResumeLsn(to), time: Timestamp::now() })?;
    writer.sync()?;
    Ok(Ok((before, state(&writer))))
}
