//! Writing the rows of a flow's source into files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use irongate_checkpoint::{CheckpointTable, GroupLock, LoadTable};
use irongate_postgres::{ReplicationConnection, Session, catalog};
use irongate_trail::ResumeLsn;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::manifest::{
    self, FORMAT, Manifest, ManifestFile, ManifestSequence, ManifestTable, TransferStatus,
};
use super::pack::{self, PIECE};
use super::{refused, unusable};
use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::instantiate::hold::{Held, Readers};
use crate::instantiate::progress::Board;
use crate::instantiate::rate::Rate;
use crate::instantiate::snapshot::{job_name, plan_of};
use crate::instantiate::tables::{Copied, extents};
use crate::instantiate::{plan, source_time};
use crate::large_objects;
use crate::sequence;
use crate::setup::{Event, Progress as Report, Started, blocking, lock_groups, refuse_elsewhere, start};

const APPLICATION: &str = "irongate export";

/// How an export is made.
#[derive(Clone, Debug)]
pub struct Export {
    /// In how many sessions tables are read side by side.
    pub parallel: Option<usize>,
    /// Bytes a second of all sessions together.
    pub rate_limit: Option<u64>,
    /// Makes slot and trail anew although the flow works: its target must be loaded with this export then.
    pub restart: bool,
    /// How long the creation of the slot may wait for open transactions, and anything else for a lock.
    pub slot_limit: Duration,
}

impl Default for Export {
    fn default() -> Self {
        Self { parallel: None, rate_limit: None, restart: false, slot_limit: Duration::from_secs(60) }
    }
}

/// An export that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Its name.
    pub job: String,
    /// Where the stream goes on.
    pub consistent_point: ResumeLsn,
    /// Tables in it.
    pub tables: usize,
    /// Files in it.
    pub files: usize,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Sequences in it.
    pub sequences: usize,
}

/// Writes the rows of a flow's source into a directory, as of the moment where its stream begins, with a new slot and a
/// new beginning of its trail. From then on the flow's Extract may run, and should, so that the slot keeps little.
///
/// # Errors
/// [`Error::Works`] for a flow that works, unless it is to be begun anew; [`Error::Transfer`] for a directory that is not empty; [`Error::Directory`] when it cannot be written, a full disk
/// included: nothing of the export is left then, nor its slot. [`Error::Elsewhere`], [`Error::Checkpoint`] when a group of
/// the flow runs, [`Error::NothingPublished`], [`Error::Blocked`], [`Error::Slot`], [`Error::Database`], [`Error::Copy`].
///
/// A call that is dropped leaves files without a manifest, and a slot that the next one replaces.
pub async fn export(
    configuration: &Configuration,
    flow: &Flow,
    directory: &Path,
    options: &Export,
    progress: &mut Report<'_>,
) -> Result<Exported, Error> {
    refuse_elsewhere(configuration, flow)?;
    let lock = format!("{}-instantiate", flow.name);
    let _lock = GroupLock::acquire(&configuration.state_directory, &lock)?;
    let locks = lock_groups(configuration, flow)?;
    let source = End::source(configuration, flow)?;
    let session = source.connect(As::Extract, APPLICATION).await?;
    if !options.restart {
        refuse_working(configuration, flow, (&source, &session)).await?;
    }
    prepare(directory)?;
    // What can be refused is refused before the old slot is given up.
    published(&session, &source, flow).await?;
    let objects = large_objects::count(&session).await;
    let objects = objects.map_err(|error| source.failed("count the large objects", error))?;
    if objects > 0 {
        progress(Event::Note(format!(
            "large objects are not in the export ({objects} there): irongate large-objects copy {} brings them where both \
             databases can be reached",
            flow.name
        )));
    }
    let parallel = options.parallel.unwrap_or(2).max(1);
    // One more reads what is no table.
    let readers = Readers::connect(&source, flow, APPLICATION, parallel + 1).await?;
    let started = start(configuration, flow, options.slot_limit, progress).await?;
    drop(locks);
    let done = write(configuration, flow, directory, options, (&started, readers), progress).await;
    if done.is_err() {
        clear(directory);
        give_up_slot(&source, flow, started).await;
    }
    done
}

/// Refuses a flow that works: what its slot keeps would be lost, and its target would have to be loaded again.
async fn refuse_working(
    configuration: &Configuration,
    flow: &Flow,
    (source, session): (&End<'_>, &Session),
) -> Result<(), Error> {
    let slot = catalog::slot(session, &flow.slot).await;
    if slot.map_err(|error| source.failed("look at the slot", error))?.is_none() {
        return Ok(());
    }
    let target = End::target(configuration, flow)?;
    let checkpoint = async {
        let session = target.connect(As::Replicat, APPLICATION).await?;
        let table = CheckpointTable::prepare(&session, &flow.name).await?;
        Ok::<_, Error>(table.load(&session).await?.is_some())
    };
    let reason = match checkpoint.await {
        Ok(false) | Err(Error::Checkpoint(irongate_checkpoint::Error::TableMissing)) => return Ok(()),
        Ok(true) => format!("\"{target}\" has its checkpoint"),
        Err(error) => format!("it has a slot, and \"{target}\" cannot be asked: {error}"),
    };
    Err(Error::Works { flow: flow.name.clone(), reason })
}

/// Makes the directory, or takes one that is empty.
fn prepare(directory: &Path) -> Result<(), Error> {
    let failed = unusable(directory);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(&failed)?;
    if fs::read_dir(directory).map_err(&failed)?.next().is_some() {
        return Err(refused(directory, crate::error::NOT_EMPTY));
    }
    Ok(())
}

/// Removes what an export has written that failed: it would never be whole.
fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "a file of the export that failed stays");
        }
    }
}

async fn give_up_slot(source: &End<'_>, flow: &Flow, started: Started) {
    drop(started);
    let dropped = async {
        ReplicationConnection::connect(&source.own_login().endpoint, APPLICATION)
            .await?
            .drop_slot(&flow.slot, false)
            .await
    };
    if let Err(error) = dropped.await {
        tracing::warn!(%error, slot = flow.slot, "cannot drop the slot of the export that has failed");
    }
}

/// The tables of the flow's publication, to be read as text, which every version understands.
async fn published(session: &Session, source: &End<'_>, flow: &Flow) -> Result<Vec<Copied>, Error> {
    let ask = |error| source.failed("read the publication", error);
    let published = catalog::publication_tables(session, &[flow.publication.as_str()]).await.map_err(ask)?;
    if published.is_empty() {
        let publication = flow.publication.clone();
        return Err(Error::NothingPublished { publication, end: source.to_string() });
    }
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let described = catalog::described(session, &oids).await.map_err(ask)?;
    let described: BTreeMap<u32, catalog::Table> =
        described.into_iter().map(|table| (table.summary.oid, table)).collect();
    let extents = extents(session, &oids).await.map_err(ask)?;
    let of_table = |published: catalog::PublishedTable| {
        let table = described.get(&published.oid)?;
        let name = TableName::new(&published.schema, &published.name);
        let is_written = |name: &String| table.column(name).is_some_and(catalog::Column::is_writable);
        let nothing = plan::Extent { blocks: 0, bytes: 0, by_block: false };
        Some(Copied {
            target: flow.target_of(&name),
            source: name,
            columns: published.columns.into_iter().filter(is_written).collect(),
            row_filter: published.row_filter,
            partitioned: table.summary.kind == catalog::TableKind::Partitioned,
            estimated_rows: table.summary.estimated_rows,
            binary: false,
            into_partitions: false,
            freezable: false,
            extent: extents.get(&published.oid).copied().unwrap_or(nothing),
        })
    };
    Ok(published.into_iter().filter_map(of_table).collect())
}

/// What all sessions work at.
struct Work {
    configuration: Configuration,
    flow: Flow,
    directory: PathBuf,
    tables: Vec<(LoadTable, Copied)>,
    queue: Mutex<VecDeque<(usize, u32)>>,
    board: Mutex<Board>,
    rate: Rate,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is there, and of which table and chunk.
type Written = (usize, u32, ManifestFile);

async fn write(
    configuration: &Configuration,
    flow: &Flow,
    directory: &Path,
    options: &Export,
    (started, readers): (&Started, Readers),
    progress: &mut Report<'_>,
) -> Result<Exported, Error> {
    let source = End::source(configuration, flow)?;
    let failed = |doing: &str, error| source.failed(doing, error);
    let taken_over = readers.hold(flow, &started.snapshot).await;
    let Held { sessions: mut readers, late } =
        taken_over.map_err(|error| failed("import the slot's snapshot", error))?;
    // One of them reads what is no table.
    let (Some(session), false) = (readers.pop(), readers.is_empty()) else {
        return Err(Error::Overtaken { end: source.to_string() });
    };
    if let Some(reason) = late {
        progress(Event::Note(format!("copying in {} sessions: {reason}", readers.len())));
    }
    let taken = source_time(&session).await.map_err(|error| failed("ask for the time", error))?;
    let copied = published(&session, &source, flow).await?;
    let point = started.consistent_point;
    let plans: Vec<LoadTable> =
        copied.iter().map(|table| plan_of(table, point.0, 1, flow.load.chunk_size)).collect();
    let queue: VecDeque<(usize, u32)> = plan::to_copy(&plans, &BTreeSet::new()).into();
    let mut status = TransferStatus {
        job: job_name(),
        flow: flow.name.clone(),
        state: "running".to_owned(),
        pid: std::process::id(),
        files: 0,
        files_total: queue.len(),
        rows: 0,
        bytes: 0,
    };
    manifest::tell(directory, &status)?;
    let tables: Vec<(LoadTable, Copied)> = plans.into_iter().zip(copied).collect();
    readers.truncate(queue.len().max(1));
    let work = Arc::new(Work {
        configuration: configuration.clone(),
        flow: flow.clone(),
        directory: directory.to_owned(),
        board: Mutex::new(Board::new(&status.job, tables.iter().map(|(table, copied)| (table, copied)))),
        tables,
        queue: Mutex::new(queue),
        rate: Rate::new(options.rate_limit.or(flow.load.rate_limit)),
    });
    let (send, mut receive) = mpsc::unbounded_channel();
    let mut sessions = JoinSet::new();
    for reader in readers {
        let (work, send) = (Arc::clone(&work), send.clone());
        sessions.spawn(async move { session_of(&work, &reader, &send).await });
    }
    drop(send);
    let mut files: BTreeMap<(usize, u32), ManifestFile> = BTreeMap::new();
    loop {
        tokio::select! {
            written = receive.recv() => match written {
                Some((place, chunk, file)) => {
                    status.files += 1;
                    status.rows += file.rows;
                    status.bytes += file.bytes;
                    manifest::tell(directory, &status)?;
                    files.insert((place, chunk), file);
                }
                None => break,
            },
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        let now = held(&work.board).progress();
        progress(Event::Copy(now));
    }
    while let Some(ended) = sessions.join_next().await {
        ended.map_err(|error| Error::Internal(error.to_string()))??;
    }
    let sequences = sequences(&session, &source, flow).await?;
    let mut tables: Vec<ManifestTable> = Vec::new();
    for (place, (_, copied)) in work.tables.iter().enumerate() {
        let own = files.range((place, 0)..=(place, u32::MAX)).map(|(_, file)| file.clone());
        tables.push(ManifestTable {
            schema: copied.source.schema.clone(),
            name: copied.source.name.clone(),
            columns: copied.columns.clone(),
            files: own.collect(),
        });
    }
    let lineage = started.lineage;
    let manifest = Manifest {
        format: FORMAT,
        job: status.job.clone(),
        flow: flow.name.clone(),
        database: flow.database.clone(),
        system_identifier: lineage.system_identifier,
        timeline: lineage.timeline,
        slot_incarnation: lineage.slot_incarnation.to_string(),
        consistent_point: point.0.to_string(),
        epoch: started.epoch,
        trail_seqno: started.position.seqno,
        trail_offset: started.position.offset,
        taken: taken.0,
        server_version: session.server_version().to_owned(),
        tables,
        sequences,
    };
    manifest::save(directory, &manifest)?;
    Ok(Exported {
        job: status.job,
        consistent_point: point,
        tables: manifest.tables.len(),
        files: status.files,
        rows: status.rows,
        bytes: status.bytes,
        sequences: manifest.sequences.len(),
    })
}

async fn session_of(
    work: &Work,
    session: &Session,
    written: &mpsc::UnboundedSender<Written>,
) -> Result<(), Error> {
    let source = End::source(&work.configuration, &work.flow)?;
    loop {
        let Some((place, chunk)) = held(&work.queue).pop_front() else { return Ok(()) };
        let file = one(work, (place, chunk), session, &source).await?;
        // Whoever has given up has an error of its own.
        let _ = written.send((place, chunk, file));
    }
}

/// Writes one file.
async fn one(
    work: &Work,
    (place, chunk): (usize, u32),
    session: &Session,
    source: &End<'_>,
) -> Result<ManifestFile, Error> {
    let (table, copied) = &work.tables[place];
    held(&work.board).begin(place);
    let name = format!("{:05}-{chunk:05}.copy.zst", place + 1);
    let path = work.directory.join(&name);
    let failed = |error: irongate_postgres::Error| Error::Copy {
        table: copied.source.to_string(),
        end: source.to_string(),
        source: Box::new(error),
    };
    let statement = copied.copy_out(plan::range(chunk, table.chunks, table.chunk_blocks).as_deref());
    let stream = match session.copy_out(&statement).await {
        Ok(stream) => stream,
        Err(error) => return Err(failed(session.explain(error).await)),
    };
    let mut stream = std::pin::pin!(stream);
    let (send, receive) = mpsc::channel::<Bytes>(16);
    let writer = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || pack::write(&path, receive))
    };
    let (mut rows, mut raw_bytes, mut piece) = (0, 0, BytesMut::with_capacity(PIECE));
    let mut told = (0, 0);
    while let Some(row) = stream.next().await {
        let row = match row {
            Ok(row) => row,
            Err(error) => return Err(failed(session.explain(error).await)),
        };
        // The server sends each row as a message of its own.
        rows += 1;
        raw_bytes += row.len() as u64;
        piece.extend_from_slice(&row);
        if piece.len() >= PIECE {
            work.rate.take(piece.len()).await;
            if send.send(piece.split().freeze()).await.is_err() {
                break;
            }
            piece.reserve(PIECE);
            held(&work.board).moved(place, rows - told.0, raw_bytes - told.1);
            told = (rows, raw_bytes);
        }
    }
    if !piece.is_empty() {
        work.rate.take(piece.len()).await;
        // That nobody takes it is said by the writer.
        let _ = send.send(piece.freeze()).await;
    }
    drop(send);
    let sum = writer.await.map_err(|error| Error::Internal(error.to_string()))?.map_err(unusable(&path))?;
    held(&work.board).copied(place, rows, raw_bytes);
    Ok(ManifestFile { name, bytes: sum.bytes, sha256: sum.sha256, rows, raw_bytes })
}

async fn sequences(session: &Session, source: &End<'_>, flow: &Flow) -> Result<Vec<ManifestSequence>, Error> {
    let ask = |error| source.failed("read the sequences", error);
    let all = catalog::sequences(session).await.map_err(ask)?;
    let own: Vec<catalog::Sequence> =
        all.into_iter().filter(|one| sequence::belongs(&sequence::Sequence::of(one), flow)).collect();
    let stands = catalog::stands(session, &own).await.map_err(ask)?;
    let of_one = |one: catalog::Sequence| {
        let stand = stands.get(&one.oid)?;
        Some(ManifestSequence {
            schema: one.schema,
            name: one.name,
            owner: one.owner,
            last: stand.last,
            called: stand.called,
        })
    };
    Ok(own.into_iter().filter_map(of_one).collect())
}

/// Reads and checks a directory, apart from a thread that may block.
pub(super) async fn checked(directory: &Path) -> Result<Manifest, Error> {
    let directory = directory.to_owned();
    blocking(move || {
        let manifest = manifest::load(&directory)?;
        manifest::verify(&directory, &manifest)?;
        Ok(manifest)
    })
    .await?
}
