//! A site that comes back is made a copy by carrying over only what differs.
//!
//! When the sites parted at *D*, both had the same rows, as far as nothing had gone wrong. Since then the lost site has
//! what it had committed behind *D* and never sent, and lacks what the site that writes has committed. Both are
//! differences of rows, and it does not matter whence: the lost site has to become what the other one is at some place
//! *P* of its log, and to follow from *P* on. As a fresh copy does, this begins at the slot's own snapshot:
//!
//! 1. The lost site is closed, salvaged, and no group of either flow runs: nobody writes its tables.
//! 2. The slot of the flow that leads back is made anew with its snapshot exported, and its trail begins there. What was
//!    committed before the slot's consistent point *P* is in the snapshot; what is committed later is in the slot and will
//!    be in the trail; nothing is in both. The site that writes goes on all the time.
//! 3. The rows of the lost site are compared with those of the snapshot (`irongate_verify::compare_at_rest`). One side is one
//!    state and the other stands still, so that a row that is not the same is a difference at once: nothing is on its
//!    way, and nothing has to settle. The differences are kept in a file, with the values it takes; and *P* beside it, last and durable.
//! 4. The differences are put right (`irongate_verify::Repair::apply_at_rest`), each row from what was seen to what the
//!    snapshot has, and read back. Then the lost site is the snapshot: what did not differ was the same, what differed is now.
//! 5. In one transaction the flow's checkpoint is made at *P*. Replicat applies from there on: nothing is lost and nothing
//!    comes twice.
//!
//! **In flight.** A transaction that is open at *P* commits behind it, is not in the snapshot, and is whole in the stream.
//!
//! **Cut off anywhere.** Before the file of 3 has its *P* there is nothing: the step is done again, with another slot. Behind it
//! the file is the truth: rows that were put right are met as such, and the rest is done. The flow has no checkpoint
//! from the first write on until 5, so that no Replicat runs on half a repair. A file that is lost, or does not fit any
//! more because the slot is gone or somebody has written, is made again from 2 on. Between the steps Extract may run or not:
//! what it takes from the slot is in the trail.
//!
//! **Salvage.** What is thrown away in 4 was read in 3. Behind 3 it is looked once more whether anything was committed there
//! that no salvage has seen, and then nothing is thrown away. What is committed later is not in the file: it stops 4 if it
//! is in its way, and else is found behind 4, in the log of the lost site ([`super::since`]); then 2 to 4 are done again.
//!
//! **Emptied or rewritten.** A table that the live site empties or rewrites behind *P* has no rows under the snapshot. The compare
//! meets that for each table before its first row is read, and ends; then it is made again under another snapshot, and reads
//! that table first. No row is taken for missing because of it, and nobody at the live site waits but for a table that is
//! being read.
//!
//! **What passes.** A snapshot, a connection or a lock that is lost, and a time limit that is over, say nothing about the rows: it is
//! compared again some times, and then the run ends so that it can be gone on with. Only how the databases are made, and what
//! the roles may do there, makes a repair impossible.
//!
//! **Origins.** The repair writes under an origin of its own, `irongate_FLOW/0`: it is not captured, and does not show as a new
//! transaction of the lost site.
//!
//! **Sequences** are set to what the live site's are, after the rows. **Tables without a key** are compared by all they hold
//! and by number. **Structure** is not repaired: a table that cannot be compared (a column or a table is lacking) makes a
//! repair impossible, and says so before anything is written. **The old epoch**: the trail and the slot of the flow that led
//! from the lost site are left alone until the site is a copy; then its slot is dropped, as behind a fresh copy.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use irongate_checkpoint::Program;
use irongate_deployment::groups::group_name;
use irongate_deployment::{Event, FlowStart, Rejoining, begin_at_snapshot};
use irongate_manager::compare::{flow as compared, writer};
use irongate_manager::supervisor::Word;
use irongate_verify::{Comparing, Comparison, Difference, Direction, Observer, Reader, Repair, Repairing};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::by::{By, COMPARE, MOST, REPAIR, recommended};
use super::{Progress, Run, Unit};
use crate::error::Error;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);
/// How often a compare whose findings do not fit any more is made again.
const ATTEMPTS: u32 = 3;
/// The pause before a compare is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a compare has found, beside the file of the differences themselves.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    start: FlowStart,
    rows: u64,
    differences: u64,
}

/// Keeps what is found, and tells how far it is.
struct Keep<'a, 'p> {
    writer: Mutex<irongate_verify::Writer>,
    progress: Mutex<(Instant, &'a mut Progress<'p>)>,
}

impl Observer for Keep<'_, '_> {
    fn progress(&self, now: &irongate_verify::Progress) {
        let mut told = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.elapsed() > TELL {
            told.0 = Instant::now();
            let text = format!(
                "{} of {} tables, {} of about {} rows, {} differences",
                now.tables_done, now.tables_total, now.rows, now.estimated_rows, now.differences
            );
            (told.1)(COMPARE, &text);
        }
    }

    fn difference(&self, difference: Difference) -> std::io::Result<()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(&difference)
    }
}

impl Run<'_> {
    /// Finds out what differs, and what is to be done about it.
    pub(super) async fn compare_lost(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let (mut all, mut rows, mut differences, mut reasons) = (Vec::new(), 0, 0, Vec::new());
        for unit in &self.units {
            self.begin_reading(unit, By::Repair).await?;
            let found = self.compare_unit(unit, progress).await?;
            rows += found.rows();
            differences += found.differences;
            for table in found.failed() {
                let problem = table.problem.clone().unwrap_or_default();
                reasons.push(format!("table {}: {problem}", table.name));
            }
            all.push(told(&found));
        }
        let (by, mut because) = recommended(differences, rows);
        let by = match (reasons.first(), self.heading.by) {
            (Some(reason), By::Either) => {
                because = format!("not everything can be compared: {reason}");
                By::Copy
            }
            (Some(_), _) => return Err(Error::NotRepairable { end: self.heading.from.clone(), reasons }),
            (None, By::Either) => by,
            (None, _) if by == By::Copy => {
                because = format!("as was asked for, although {because} (--resume --by copy)");
                By::Repair
            }
            (None, _) => By::Repair,
        };
        progress(COMPARE, &format!("by {by}: {because}"));
        Ok(json!({ "by": by, "because": because, "compared": all }))
    }

    /// Compares one database, and keeps what differs. What passes is waited out, some times.
    async fn compare_unit(&self, unit: &Unit<'_>, progress: &mut Progress<'_>) -> Result<Comparison, Error> {
        let (mut attempts, mut first) = (1, Vec::new());
        loop {
            let error = match self.compare_once(unit, &first, progress).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            match &error {
                // Each table may be met so once more: it is read first then.
                Error::Verify(irongate_verify::Error::Rewritten { table, .. }) if !first.contains(table) => {
                    first.push(table.clone());
                }
                error if passes(error) && attempts < ATTEMPTS => attempts += 1,
                Error::Verify(verify @ irongate_verify::Error::Database { .. }) if !verify.is_transient() => {
                    let reasons = vec![verify.to_string()];
                    return Err(Error::NotRepairable { end: unit.from()?.to_string(), reasons });
                }
                _ => return Err(error),
            }
            progress(COMPARE, &format!("{error}: comparing again"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn compare_once(
        &self,
        unit: &Unit<'_>,
        first: &[String],
        progress: &mut Progress<'_>,
    ) -> Result<Comparison, Error> {
        let flow = unit.pair.out_of;
        let [rows, found_file] = self.files(unit);
        // Without it the other one says nothing.
        remove(&found_file)?;
        // One that was cut off may have been started by somebody since.
        self.order(Word::Stop, &self.heading.to, &[group_name(&flow.name, Program::Extract)]).await?;
        let snapshot = {
            let mut tell = |event: Event<'_>| match event {
                Event::Waiting(blockers) => {
                    for blocker in blockers {
                        progress(COMPARE, &format!("the slot waits for {blocker}"));
                    }
                }
                Event::Note(note) => progress(COMPARE, &note),
                _ => {}
            };
            begin_at_snapshot(self.configuration, flow, self.limits.slot, &mut tell).await?
        };
        let ends = compared(self.configuration, flow).map_err(|error| self.unmanaged(error))?;
        let options = Comparing {
            bytes_a_second: flow.load.rate_limit,
            most: if self.heading.by == By::Repair { u64::MAX } else { MOST + 1 },
            first: first.to_vec(),
            ..Comparing::default()
        };
        let writer =
            irongate_verify::Writer::create(&rows, &flow.name, &snapshot.start.consistent_point.to_string())?;
        let keep =
            Keep { writer: Mutex::new(writer), progress: Mutex::new((Instant::now(), &mut *progress)) };
        let found = irongate_verify::compare_at_rest(&ends, &snapshot.name, &options, &keep).await?;
        keep.writer.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
        let start = snapshot.start;
        drop(snapshot);
        if found.unsettled > 0 {
            let changed = found.tables.iter().find(|table| table.unsettled > 0);
            let table = changed.map(|table| table.target.clone()).unwrap_or_default();
            return Err(irongate_verify::Error::Moved { end: unit.from()?.to_string(), table }.into());
        }
        // What is to be thrown away has been read by now: nothing of it is younger than what was salvaged.
        self.nothing_new().await?;
        if found.failed().next().is_none() && !found.tables.iter().any(|table| table.truncated) {
            let note = Found { start, rows: found.rows(), differences: found.differences };
            write(&found_file, &serde_json::to_vec(&note).unwrap_or_default())?;
        }
        Ok(found)
    }

    /// Makes every database of the site that comes back what the compare's snapshot was, and begins its flow there.
    pub(super) async fn repair_lost(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        // A run that was cut off may have been so for long.
        self.close().await?;
        self.nothing_new().await?;
        let mut repaired = Vec::new();
        for unit in &self.units {
            let mut attempts = 1;
            repaired.push(loop {
                match self.repair_unit(unit, progress).await {
                    Ok(evidence) => break evidence,
                    Err(error) if is_stale(&error) && attempts < ATTEMPTS => {
                        attempts += 1;
                        progress(REPAIR, &format!("{error}: comparing again"));
                        self.begin_reading(unit, By::Repair).await?;
                        let found = self.compare_unit(unit, progress).await?;
                        if let Some(table) = found.failed().next() {
                            let problem = table.problem.clone().unwrap_or_default();
                            return Err(Error::NotRepairable {
                                end: unit.from()?.to_string(),
                                reasons: vec![format!("table {}: {problem}", table.name)],
                            });
                        }
                    }
                    Err(error) => return Err(error),
                }
            });
        }
        Ok(json!({ "righted": repaired }))
    }

    async fn repair_unit(&self, unit: &Unit<'_>, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let flow = unit.pair.out_of;
        let [rows, found_file] = self.files(unit);
        let read =
            std::fs::read(&found_file).map_err(|source| Error::Found { path: found_file.clone(), source })?;
        let found: Found = serde_json::from_slice(&read)
            .map_err(|error| Error::Found { path: found_file.clone(), source: error.into() })?;
        let rejoining = Rejoining::begin(self.configuration, flow, &found.start).await?;
        let ends = compared(self.configuration, flow).map_err(|error| self.unmanaged(error))?;
        let repairing = Repairing {
            direction: Direction::SourceToTarget,
            only: None,
            settle: Duration::ZERO,
            writer: writer(self.configuration, flow, Direction::SourceToTarget)
                .map_err(|error| self.unmanaged(error))?,
        };
        let name = flow.name.clone();
        let differences = move || -> Result<Box<dyn Iterator<Item = _> + Send>, irongate_verify::Error> {
            Ok(Box::new(Reader::open(&rows, &name)?))
        };
        let repair = Repair::of(&ends, &repairing, &differences).await?;
        let tell = Mutex::new((Instant::now(), &mut *progress));
        let righted = repair
            .apply_at_rest(&|count| {
                let mut told = tell.lock().unwrap_or_else(PoisonError::into_inner);
                if told.0.elapsed() > TELL {
                    told.0 = Instant::now();
                    (told.1)(REPAIR, &format!("{count} of {} rows", found.differences));
                }
            })
            .await?;
        // Also what is not in the way of any difference.
        self.unwritten(unit).await?;
        let sequences = rejoining.finish(&found.start).await?;
        let count: u64 = righted.iter().map(irongate_verify::Righted::rows).sum();
        Ok(json!({
            "flow": flow.name,
            "from": found.start.consistent_point.to_string(),
            "compared_rows": found.rows,
            "rows": count,
            "tables": righted,
            "sequences": sequences,
        }))
    }

    /// Removes what a compare has kept: there are rows in it.
    pub(super) fn forget_found(&self) -> Result<(), Error> {
        self.units.iter().flat_map(|unit| self.files(unit)).try_for_each(|file| remove(&file))?;
        self.units.iter().try_for_each(|unit| remove(&self.since_file(unit)))
    }

    /// The differences of a database, and what is known of them.
    fn files(&self, unit: &Unit<'_>) -> [PathBuf; 2] {
        let name = |what| format!("{}-{}.{what}", self.heading.run, unit.pair.out_of.name);
        let directory = self.configuration.state_directory.join(crate::journal::DIRECTORY);
        [directory.join(name("rows")), directory.join(name("found"))]
    }

    pub(super) fn unmanaged(&self, source: irongate_manager::Error) -> Error {
        Error::Manager { site: self.heading.to.clone(), source: Box::new(source) }
    }
}

/// Whether a compare that has failed may succeed when it is made again soon. Somebody who writes where nobody should does not
/// pass.
fn passes(error: &Error) -> bool {
    use irongate_deployment::Error as Deployment;
    match error {
        Error::Verify(irongate_verify::Error::Moved { .. }) => false,
        Error::Verify(error) => error.is_transient(),
        Error::Deployment(error @ (Deployment::Database { .. } | Deployment::SnapshotLost { .. })) => {
            error.is_transient()
        }
        _ => false,
    }
}

/// Whether what a compare has found is gone, or does not fit any more.
fn is_stale(error: &Error) -> bool {
    use irongate_verify::Error as Verify;
    match error {
        Error::Found { .. }
        | Error::Written { .. }
        | Error::Deployment(irongate_deployment::Error::Slot { .. }) => true,
        Error::Verify(error) => matches!(
            error,
            Verify::Altered { .. }
                | Verify::Moved { .. }
                | Verify::File { .. }
                | Verify::Line { .. }
                | Verify::OtherFlow { .. }
        ),
        _ => false,
    }
}

/// What a compare has found, by table, as the site that comes back sees it.
fn told(found: &Comparison) -> Value {
    let differing = found.tables.iter().filter(|table| table.differences > 0 || table.problem.is_some());
    let tables: Vec<Value> = differing
        .map(|table| {
            let mut told = json!({
                "table": table.name,
                "to_remove": table.missing_at_source,
                "to_change": table.different,
                "to_add": table.missing_at_target,
            });
            if table.truncated {
                told["and_more"] = true.into();
            }
            if let Some(problem) = &table.problem {
                told["problem"] = problem.clone().into();
            }
            told
        })
        .collect();
    json!({
        "flow": found.flow,
        "from": found.started,
        "rows": found.rows(),
        "differences": found.differences,
        "seconds": found.seconds,
        "tables": tables,
    })
}

fn remove(path: &PathBuf) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Found { path: path.clone(), source })
        }
        _ => Ok(()),
    }
}

/// Under its name the file is there whole or not at all.
pub(super) fn write(path: &PathBuf, content: &[u8]) -> Result<(), Error> {
    use std::io::Write;

    let new = path.with_extension("new");
    let written = (|| {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
    })();
    written.map_err(|source| Error::Found { path: path.clone(), source })
}
