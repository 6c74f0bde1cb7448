//! Bringing the rows of an export into the flow's target.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use irongate_checkpoint::{
    CheckpointTable, GroupLock, LoadJob, LoadLedger, LoadSnapshot, LoadTable, Origin, OriginSession,
};
use irongate_postgres::{Session, catalog};
use irongate_trail::{Lineage, Lsn, Position, ResumeLsn, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::export::checked;
use super::manifest::{self, MANIFEST, Manifest, ManifestFile};
use super::pack;
use super::{refused, unusable};
use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::instantiate::plan::{self, Extent};
use crate::instantiate::progress::Board;
use crate::instantiate::rate::Rate;
use crate::instantiate::tables::Copied;
use crate::instantiate::target::{self, Target, refuse_rows, refuse_writer};
use crate::instantiate::{APPLICATION, Instantiated, keeper, work};
use crate::sequence::{self, Sequence};
use crate::setup::{Event, Progress as Report};

/// How an import is made.
#[derive(Clone, Debug)]
pub struct Import {
    /// Empties the target's tables before; without, tables with rows are refused.
    pub truncate: bool,
    /// In how many sessions files are copied side by side.
    pub parallel: Option<usize>,
    /// Bytes a second of all sessions together.
    pub rate_limit: Option<u64>,
    /// How long anything may wait for a lock.
    pub lock_limit: Duration,
}

impl Default for Import {
    fn default() -> Self {
        Self { truncate: false, parallel: None, rate_limit: None, lock_limit: Duration::from_secs(60) }
    }
}

/// Brings an export into the flow's target and lets the stream go on where the export ends. One that was cut off is gone
/// on with. Nothing is written before every file was looked at.
///
/// # Errors
/// [`Error::Transfer`] naming the file that is missing, damaged or does not belong to the export, or saying that the export
/// is of another flow or system, or of a stream that is no more; [`Error::NotEmpty`], [`Error::TargetTables`],
/// [`Error::TargetWrites`], [`Error::Checkpoint`] when Replicat runs or somebody else loads the flow; [`Error::Database`],
/// [`Error::Copy`], [`Error::Directory`].
///
/// Can be dropped at any moment: the next call goes on.
pub async fn import(
    configuration: &Configuration,
    flow: &Flow,
    directory: &Path,
    options: &Import,
    progress: &mut Report<'_>,
) -> Result<Instantiated, Error> {
    let lock = format!("{}-instantiate", flow.name);
    let _lock = GroupLock::acquire(&configuration.state_directory, &lock)?;
    let manifest = checked(directory).await?;
    let end = End::target(configuration, flow)?;
    let job = job_of(directory, &manifest, flow)?;
    same_stream(configuration, flow, directory, &manifest, progress).await?;
    let ledger = LoadLedger::new(&flow.name);
    let claim = end.connect(As::Replicat, APPLICATION).await?;
    ledger.claim(&claim).await?;
    // Sessions of a command that was killed may still be about to commit what they were sent last.
    keeper::end_sessions(&claim, &work::application(flow))
        .await
        .map_err(|error| end.failed("end the sessions of an import that was cut off", error))?;
    refuse_writer(&end, &claim, configuration, flow).await?;
    let copied = copied(&claim, &end, flow, &manifest).await?;
    let tables = begin(&end, flow, (&ledger, &claim), (&manifest, &job), &copied, options, progress).await?;
    copy(
        configuration,
        flow,
        directory,
        (&ledger, &claim),
        (&manifest, &job),
        (tables, copied),
        options,
        progress,
    )
    .await?;
    finish(&end, flow, (&ledger, &claim), (&manifest, &job), options).await
}

/// The load that an export is.
fn job_of(directory: &Path, manifest: &Manifest, flow: &Flow) -> Result<LoadJob, Error> {
    let path = directory.join(MANIFEST);
    if manifest.flow != flow.name || manifest.database != flow.database {
        let reason = format!(
            "it is an export of flow \"{}\" of database \"{}\", and not of flow \"{}\" of database \"{}\"",
            manifest.flow, manifest.database, flow.name, flow.database
        );
        return Err(refused(&path, reason));
    }
    let lsn = |text: &str| -> Result<Lsn, Error> {
        text.parse().map_err(|_| refused(&path, format!("\"{text}\" is no LSN")))
    };
    let point = lsn(&manifest.consistent_point)?;
    Ok(LoadJob {
        job: manifest.job.clone(),
        lineage: Lineage {
            system_identifier: manifest.system_identifier,
            timeline: manifest.timeline,
            slot_incarnation: lsn(&manifest.slot_incarnation)?,
        },
        consistent_point: ResumeLsn(point),
        position: Position { seqno: manifest.trail_seqno, offset: manifest.trail_offset },
        epoch: manifest.epoch,
        snapshot: LoadSnapshot {
            name: String::new(),
            lsn: point,
            taken: Timestamp(manifest.taken),
            keeper_pid: 0,
            keeper_start: String::new(),
        },
        beside: false,
        others: None,
        done: false,
    })
}

/// Whether the stream is still there that goes on behind the export, as far as that can be seen from here. Replicat looks
/// again: a checkpoint that does not belong to its trail stops it.
async fn same_stream(
    configuration: &Configuration,
    flow: &Flow,
    directory: &Path,
    manifest: &Manifest,
    progress: &mut Report<'_>,
) -> Result<(), Error> {
    let path = directory.join(MANIFEST);
    let source = End::source(configuration, flow)?;
    let session = match source.connect(As::Extract, APPLICATION).await {
        Ok(session) => session,
        Err(error) => {
            progress(Event::Note(format!("{error}: whether the export is of this source cannot be seen")));
            return Ok(());
        }
    };
    let failed = |error| source.failed("look at the source", error);
    let facts = catalog::server_facts(&session).await.map_err(failed)?;
    if facts.system_identifier != manifest.system_identifier {
        let reason = format!(
            "it is an export of system {}, and {source} is system {}",
            manifest.system_identifier, facts.system_identifier
        );
        return Err(refused(&path, reason));
    }
    let gone = "the stream that goes on behind it is no more";
    let slot = catalog::slot(&session, &flow.slot).await.map_err(failed)?;
    let Some(slot) = slot.filter(|slot| slot.lost().is_none()) else {
        return Err(refused(&path, format!("{gone}: slot \"{}\" is not there any more", flow.slot)));
    };
    // A slot that was made later begins behind it, and one that is older cannot be the export's.
    let confirmed = slot.confirmed_flush_lsn.unwrap_or_default();
    let point: Lsn = manifest.consistent_point.parse().unwrap_or_default();
    if confirmed < point {
        return Err(refused(&path, format!("{gone}: slot \"{}\" is at {confirmed}, before it", flow.slot)));
    }
    // Only at the site of the trail can its beginning be seen.
    if configuration.site.as_ref().is_none_or(|site| *site == flow.at) {
        let trail = configuration.trail(flow);
        let lineage = crate::setup::blocking(move || {
            let listing = irongate_trail::list(&irongate_trail::Directory::new(trail)).ok()?;
            listing.files.into_iter().rev().find_map(|file| file.header).map(|header| header.lineage)
        })
        .await?;
        if lineage.is_none_or(|lineage| lineage.slot_incarnation.to_string() != manifest.slot_incarnation) {
            return Err(refused(&path, format!("{gone}: the flow has begun anew since")));
        }
    }
    Ok(())
}

/// How the tables of an export are copied; the target must have them, and their columns.
async fn copied(
    session: &Session,
    end: &End<'_>,
    flow: &Flow,
    manifest: &Manifest,
) -> Result<Vec<Copied>, Error> {
    let ask = |error| end.failed("read the catalog", error);
    let oids: Vec<u32> =
        catalog::tables(session).await.map_err(ask)?.into_iter().map(|table| table.oid).collect();
    let there: BTreeMap<TableName, catalog::Table> = catalog::described(session, &oids)
        .await
        .map_err(ask)?
        .into_iter()
        .map(|table| (TableName::new(&table.summary.schema, &table.summary.name), table))
        .collect();
    let (mut found, mut lacking) = (Vec::new(), Vec::new());
    for table in &manifest.tables {
        let source = TableName::new(&table.schema, &table.name);
        let target = flow.target_of(&source);
        match there.get(&target) {
            None => lacking.push(format!("table {target} does not exist")),
            Some(described) => {
                for column in &table.columns {
                    if !described.column(column).is_some_and(catalog::Column::is_writable) {
                        lacking
                            .push(format!("table {target} has no column \"{column}\" that can be written"));
                    }
                }
            }
        }
        found.push(Copied {
            into_partitions: there
                .get(&target)
                .is_some_and(|table| table.summary.kind == catalog::TableKind::Partitioned),
            source,
            target,
            columns: table.columns.clone(),
            row_filter: None,
            partitioned: false,
            estimated_rows: Some(table.files.iter().map(|file| file.rows).sum()),
            binary: false,
            freezable: false,
            extent: Extent { blocks: 0, bytes: 0, by_block: false },
        });
    }
    if lacking.is_empty() { Ok(found) } else { Err(Error::TargetTables { end: end.to_string(), lacking }) }
}

/// The ledger of this import: the one that is there, if it was cut off, else a new one.
async fn begin(
    end: &End<'_>,
    flow: &Flow,
    (ledger, claim): (&LoadLedger, &Session),
    (manifest, job): (&Manifest, &LoadJob),
    copied: &[Copied],
    options: &Import,
    progress: &mut Report<'_>,
) -> Result<Vec<LoadTable>, Error> {
    let earlier = ledger.job(claim).await?.filter(|earlier| !earlier.done && earlier.job == job.job);
    let has_begun = CheckpointTable::prepare(claim, &flow.name).await?.load(claim).await?.is_some();
    if earlier.is_some_and(|earlier| earlier.consistent_point == job.consistent_point) && !has_begun {
        let tables = ledger.tables(claim).await?;
        let is_ours = |table: &LoadTable| table.generation == 1 && table.start == job.consistent_point.0;
        if tables.len() == copied.len() && tables.iter().all(is_ours) {
            let finished = tables.iter().filter(|table| table.is_finished()).count();
            let note = format!("resuming import {}, {finished} of {} tables finished", job.job, tables.len());
            progress(Event::Note(note));
            return Ok(tables);
        }
    }
    let planned = manifest.tables.iter().zip(copied).map(|(table, copied)| LoadTable {
        source: copied.source_name(),
        target: copied.target_name(),
        generation: 1,
        start: job.consistent_point.0,
        chunks: u32::try_from(table.files.len()).unwrap_or(u32::MAX),
        chunk_blocks: 0,
        chunks_done: 0,
        rows: 0,
        bytes: 0,
        size: table.files.iter().map(|file| file.raw_bytes).sum(),
        again: false,
    });
    let tables: Vec<LoadTable> = planned.collect();
    let all: Vec<&Copied> = copied.iter().collect();
    let at_target = Target::open(end, flow, options.lock_limit, false).await?;
    let begun = async {
        if options.truncate {
            at_target.begin(ledger, job, &tables, &all, &[]).await
        } else {
            refuse_rows(end, &at_target.session, &all).await?;
            at_target.begin(ledger, job, &tables, &[], &all).await
        }
    };
    let begun = begun.await;
    at_target.close().await;
    begun.map(|()| tables)
}

/// What all sessions work at.
struct Work {
    configuration: Configuration,
    flow: Flow,
    job: LoadJob,
    directory: PathBuf,
    tables: Vec<(LoadTable, Copied, Vec<ManifestFile>)>,
    queue: Mutex<VecDeque<(usize, u32)>>,
    board: Mutex<Board>,
    rate: Rate,
    limit: Duration,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::too_many_arguments, reason = "an import is about these things together, and only here")]
async fn copy(
    configuration: &Configuration,
    flow: &Flow,
    directory: &Path,
    (ledger, claim): (&LoadLedger, &Session),
    (manifest, job): (&Manifest, &LoadJob),
    (tables, copied): (Vec<LoadTable>, Vec<Copied>),
    options: &Import,
    progress: &mut Report<'_>,
) -> Result<(), Error> {
    let mut by_source: BTreeMap<_, LoadTable> =
        tables.into_iter().map(|table| (table.source.clone(), table)).collect();
    let joined: Vec<(LoadTable, Copied, Vec<ManifestFile>)> = copied
        .into_iter()
        .zip(&manifest.tables)
        .filter_map(|(copied, table)| {
            Some((by_source.remove(&copied.source_name())?, copied, table.files.clone()))
        })
        .collect();
    let done = ledger.chunks(claim).await?;
    let plans: Vec<LoadTable> = joined.iter().map(|(table, ..)| table.clone()).collect();
    let queue: VecDeque<(usize, u32)> = plan::to_copy(&plans, &done).into();
    let parallel = options.parallel.unwrap_or(2).clamp(1, queue.len().max(1));
    let board = Board::new(&job.job, joined.iter().map(|(table, copied, _)| (table, copied)));
    let work = Arc::new(Work {
        configuration: configuration.clone(),
        flow: flow.clone(),
        job: job.clone(),
        directory: directory.to_owned(),
        tables: joined,
        queue: Mutex::new(queue),
        board: Mutex::new(board),
        rate: Rate::new(options.rate_limit.or(flow.load.rate_limit)),
        limit: options.lock_limit,
    });
    let mut sessions = JoinSet::new();
    for number in 1..=parallel {
        let work = Arc::clone(&work);
        sessions.spawn(async move { session_of(&work, number).await });
    }
    loop {
        let now = held(&work.board).progress();
        progress(Event::Copy(now));
        tokio::select! {
            ended = sessions.join_next() => match ended {
                None => return Ok(()),
                Some(ended) => ended.map_err(|error| Error::Internal(error.to_string()))??,
            },
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn session_of(work: &Work, number: usize) -> Result<(), Error> {
    let end = End::target(&work.configuration, &work.flow)?;
    let session = end.connect(As::Replicat, &work::application(&work.flow)).await?;
    let origin = Origin::of_worker(&work.flow.name, u32::try_from(number).unwrap_or(u32::MAX))?;
    let origin = match target::marked(&end, &session, origin, work.limit, false).await {
        Ok(origin) => origin,
        // The server has room for so many origins only. One session is enough, if a slow one.
        Err(Error::Checkpoint(irongate_checkpoint::Error::OriginLimit { .. })) if number > 1 => return Ok(()),
        Err(error) => return Err(error),
    };
    loop {
        let Some((place, chunk)) = held(&work.queue).pop_front() else { break };
        one(work, (place, chunk), (&session, &origin), &end).await?;
    }
    origin.session_reset(&session).await?;
    Ok(())
}

/// Copies one file, in a transaction with its line in the ledger, and only if it is what the manifest says.
async fn one(
    work: &Work,
    (place, chunk): (usize, u32),
    (session, origin): (&Session, &OriginSession),
    end: &End<'_>,
) -> Result<(), Error> {
    let (table, copied, files) = &work.tables[place];
    let Some(file) = files.get(chunk as usize) else {
        return Err(refused(&work.directory.join(MANIFEST), "it has fewer files than the import began with"));
    };
    held(&work.board).begin(place);
    let path = work.directory.join(&file.name);
    let failed = |error: irongate_postgres::Error| Error::Copy {
        table: copied.target.to_string(),
        end: end.to_string(),
        source: Box::new(error),
    };
    let transaction = origin.begin()?;
    session.batch_execute("BEGIN").await.map_err(|error| end.failed("begin", error))?;
    let sink = match session.copy_in::<_, Bytes>(&copied.copy_in(false)).await {
        Ok(sink) => sink,
        Err(error) => return Err(failed(session.explain(error).await)),
    };
    let mut sink = std::pin::pin!(sink);
    let (send, mut receive) = mpsc::channel::<Bytes>(16);
    let reader = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || pack::read(&path, &send))
    };
    while let Some(piece) = receive.recv().await {
        work.rate.take(piece.len()).await;
        let length = piece.len() as u64;
        if let Err(error) = sink.send(piece).await {
            // The sink only knows that nobody takes more; the end of the statement says why.
            let error = sink.finish().await.err().unwrap_or(error);
            return Err(failed(session.explain(error).await));
        }
        held(&work.board).moved(place, 0, length);
    }
    drop(receive);
    let sum = reader.await.map_err(|error| Error::Internal(error.to_string()))?.map_err(unusable(&path))?;
    // It may have changed since it was looked at. The session ends with the error, and what it was sent goes.
    manifest::agree(&path, file, &sum)?;
    let rows = match sink.finish().await {
        Ok(rows) => rows,
        Err(error) => return Err(failed(session.explain(error).await)),
    };
    if rows != file.rows {
        return Err(refused(&path, format!("it has {rows} rows instead of {}", file.rows)));
    }
    LoadLedger::new(&work.flow.name).copied(session, table, chunk, rows, file.raw_bytes).await?;
    transaction.xact_setup(session, work.job.consistent_point, work.job.snapshot.taken).await?;
    if let Err(error) = session.batch_execute("COMMIT").await {
        return Err(failed(session.explain(error).await));
    }
    transaction.committed();
    held(&work.board).copied(place, rows, file.raw_bytes);
    Ok(())
}

/// Sets the sequences and lets the stream go on.
async fn finish(
    end: &End<'_>,
    flow: &Flow,
    (ledger, claim): (&LoadLedger, &Session),
    (manifest, job): (&Manifest, &LoadJob),
    options: &Import,
) -> Result<Instantiated, Error> {
    let at_target = Target::open(end, flow, options.lock_limit, true).await?;
    let done = async {
        let sequences = sequences(end, &at_target.session, flow, manifest).await?;
        at_target.finish(ledger, job).await?;
        Ok::<_, Error>(sequences)
    };
    let done = done.await;
    at_target.close().await;
    let sequences = done?;
    let tables = ledger.tables(claim).await?;
    Ok(Instantiated {
        job: job.job.clone(),
        lineage: job.lineage,
        consistent_point: job.consistent_point,
        tables: tables.len(),
        rows: tables.iter().map(|table| table.rows).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        sequences,
        later_tables: 0,
        // The source may be out of reach; its export has told of them.
        large_objects: None,
        large_objects_left: 0,
    })
}

async fn sequences(
    end: &End<'_>,
    session: &Session,
    flow: &Flow,
    manifest: &Manifest,
) -> Result<usize, Error> {
    let failed = |error| end.failed("set the sequences", error);
    let there = sequence::sequences(session).await.map_err(failed)?;
    let mut stands = Vec::new();
    for one in &manifest.sequences {
        let owner = one.owner.as_ref();
        let from = Sequence {
            oid: 0,
            name: TableName::new(&one.schema, &one.name),
            owner: owner.map(|(schema, table, column)| (TableName::new(schema, table), column.clone())),
        };
        if let Some(to) = sequence::counterpart(&there, flow, &from) {
            stands.push((to.oid, catalog::Stand { last: one.last, called: one.called }));
        }
    }
    catalog::set_sequences(session, &stands).await.map_err(failed)?;
    Ok(stands.len())
}
