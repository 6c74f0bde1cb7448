//! The sessions that copy side by side. Each takes the next chunk, copies it and notes it in one transaction at the
//! target. Whatever is cut off, the chunk is there with its line in the ledger or not at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use irongate_checkpoint::{LoadJob, LoadLedger, LoadTable, Origin, OriginSession};
use irongate_postgres::Session;
use tokio::task::JoinSet;

use super::copy::{self, Done};
use super::progress::Board;
use super::rate::Rate;
use super::tables::Copied;
use super::{plan, target};
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::{Event, Progress as Report};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The name by which the sessions that copy are shown; the server cuts it to 63 bytes.
pub(super) fn application(flow: &Flow) -> String {
    let name = format!("irongate load {}", flow.name);
    let end = (0..=name.len().min(63)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].to_owned()
}

/// What is to be copied, for all sessions together.
pub(super) struct Work {
    pub(super) configuration: Configuration,
    pub(super) flow: Flow,
    pub(super) job: LoadJob,
    /// Of the ledger, and beside each how it is copied.
    pub(super) tables: Vec<(LoadTable, Copied)>,
    /// The tables that nothing refers to and whose place is no other's.
    pub(super) alone: Vec<bool>,
    pub(super) queue: Mutex<VecDeque<(usize, u32)>>,
    pub(super) board: Mutex<Board>,
    pub(super) rate: Rate,
    pub(super) limit: Duration,
}

impl Work {
    fn next(&self) -> Option<(usize, u32)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies what the queue holds, beside each session that reads in one that writes. Dropped, it ends them.
pub(super) async fn run(
    work: &Arc<Work>,
    readers: Vec<Session>,
    progress: &mut Report<'_>,
) -> Result<(), Error> {
    let mut sessions = JoinSet::new();
    for (number, reader) in (1..).zip(readers) {
        let work = Arc::clone(work);
        sessions.spawn(async move { session(&work, number, reader).await });
    }
    let mut told: Option<Instant> = None;
    loop {
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let now = work.board().progress();
            progress(Event::Copy(now));
        }
        let ended = tokio::select! {
            ended = sessions.join_next() => ended,
            () = tokio::time::sleep(TELL_EVERY) => continue,
        };
        match ended {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(error)) => return Err(Error::Internal(error.to_string())),
        }
    }
    let now = work.board().progress();
    progress(Event::Copy(now));
    Ok(())
}

async fn session(work: &Work, number: usize, at_source: Session) -> Result<(), Error> {
    let (source, target) =
        (End::source(&work.configuration, &work.flow)?, End::target(&work.configuration, &work.flow)?);
    let application = application(&work.flow);
    let at_target = target.connect(As::Replicat, &application).await?;
    let origin = Origin::of_worker(&work.flow.name, u32::try_from(number).unwrap_or(u32::MAX))?;
    let origin = match target::marked(&target, &at_target, origin, work.limit, false).await {
        Ok(origin) => origin,
        // The server has room for so many origins only. One session is enough, if a slow one.
        Err(Error::Checkpoint(error @ irongate_checkpoint::Error::OriginLimit { .. })) if number > 1 => {
            tracing::warn!(%error, "copying in fewer sessions");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    while let Some((place, chunk)) = work.next() {
        one(work, (place, chunk), &at_source, (&at_target, &origin), [&source, &target]).await?;
    }
    origin.session_reset(&at_target).await?;
    Ok(())
}

/// Copies one chunk.
async fn one(
    work: &Work,
    (place, chunk): (usize, u32),
    at_source: &Session,
    (at_target, origin): (&Session, &OriginSession),
    [source, target]: [&End<'_>; 2],
) -> Result<(), Error> {
    let (table, copied) = &work.tables[place];
    work.board().begin(place);
    let failed = |error: irongate_postgres::Error| Error::Copy {
        table: copied.source.to_string(),
        end: target.to_string(),
        source: Box::new(error),
    };
    let transaction = origin.begin()?;
    at_target.batch_execute("BEGIN").await.map_err(|error| target.failed("begin", error))?;
    let ledger = LoadLedger::new(&work.flow.name);
    let freeze = table.chunks == 1 && copied.freezable && work.alone[place];
    if freeze {
        ledger.mark(at_target, table).await?;
        make_empty(at_target, copied, target).await?;
    }
    let out = copied.copy_out(plan::range(chunk, table.chunks, table.chunk_blocks).as_deref());
    let moved = |rows, bytes| work.board().moved(place, rows, bytes);
    let into = copied.copy_in(freeze);
    let Done { rows, bytes } =
        copy::pipe((at_source, &out), (at_target, &into), copied, [source, target], &work.rate, &moved)
            .await?;
    ledger.copied(at_target, table, chunk, rows, bytes).await?;
    transaction.xact_setup(at_target, work.job.consistent_point, work.job.snapshot.taken).await?;
    if let Err(error) = at_target.batch_execute("COMMIT").await {
        return Err(failed(at_target.explain(error).await));
    }
    transaction.committed();
    work.board().copied(place, rows, bytes);
    Ok(())
}

/// Empties a table that is empty, in the transaction that fills it: so its rows can be frozen as they come, which spares
/// the target a later vacuum of all of them.
async fn make_empty(at_target: &Session, copied: &Copied, target: &End<'_>) -> Result<(), Error> {
    let failed = |error: tokio_postgres::Error| target.failed("empty the table", error);
    let alone = copied.target_alone();
    at_target.batch_execute(&format!("LOCK TABLE {alone} IN ACCESS EXCLUSIVE MODE")).await.map_err(failed)?;
    let found = at_target.simple_query(&format!("SELECT FROM {alone} LIMIT 1")).await.map_err(failed)?;
    if found.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))) {
        return Err(Error::NotEmpty { end: target.to_string(), tables: vec![copied.target.to_string()] });
    }
    at_target.batch_execute(&format!("TRUNCATE {alone}")).await.map_err(failed)
}
