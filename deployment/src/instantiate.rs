//! The initial load of a flow: the target gets the rows that the source had at the moment where the stream begins.
//!
//! The slot is created with its snapshot exported. What was committed before the slot's consistent point is in the
//! snapshot, what is committed later comes through the slot, and nothing is in both. The tables are copied in chunks, side
//! by side, all under that one snapshot, which a *keeper* holds; each chunk is one transaction at the target together with
//! its line in the *ledger* ([`irongate_checkpoint::LoadLedger`]). So whatever is killed, the load goes on where it was.
//!
//! Replicat may run only when all of it is there: the flow's checkpoint is removed by the transaction that begins the
//! ledger, and made anew by the one that ends it. Extract may run all the time, and does.
//!
//! When the snapshot is lost, the tables that are finished stay. The others begin anew under a later snapshot whose place
//! in the source's log is exactly known, since a temporary slot was created with it; and where the stream speaks of them
//! before that place, Replicat leaves it out ([`irongate_checkpoint::TableStarts`]).
//!
//! What can be gone on with is decided in [`resume`], into which chunks a table is cut in [`plan`].

mod copy;
mod drain;
mod files;
mod format;
mod hold;
pub(crate) mod keeper;
mod plan;
mod progress;
mod rate;
mod reload;
mod resume;
mod schema;
mod sequences;
mod snapshot;
mod tables;
mod target;
mod work;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use irongate_checkpoint::{GroupLock, LoadJob, LoadLedger, LoadTable};
use irongate_postgres::Session;
use irongate_trail::{Lineage, ResumeLsn, Timestamp};

pub use files::{
    Export, Exported, Import, Manifest, ManifestFile, ManifestSequence, ManifestTable, TransferStatus,
    export, export_status, import,
};
pub use keeper::{CONNECTED as KEEPER_CONNECTED, KeeperEnd, KeeperPlace, Kept, keep_snapshot};
pub use progress::{Progress, TableProgress};
pub use schema::{SchemaCopy, schema_plan};
pub use sequences::{carry_sequences, sequences_without_counterpart};

use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End, refuse_own_source};
use crate::error::Error;
use crate::large_objects::{self, Copied as CopiedObjects};
use crate::setup::{Event, Progress as Report, refuse_elsewhere};
use drain::Drain;
use hold::{Held, Readers};
use keeper::Keeper;
use progress::Board;
use rate::Rate;
use resume::Begin;
use tables::Copied;
use target::Layout;
pub(crate) use target::{marked, refuse_writer};
use work::Work;

/// The name under which the sessions that concern a whole load are shown.
const APPLICATION: &str = "irongate instantiate";

/// How long the claim of a command is waited for that may be gone already.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);

/// How often a load lets go for somebody who wants a table for himself.
const OVERTAKEN: u32 = 100;

/// After how many of these times it is content with fewer sessions than it would have.
const CONTENT: u32 = 3;

/// Attempts in a row after errors that may pass, without a chunk in between.
const ATTEMPTS: u32 = 6;

/// How an initial load is made.
#[derive(Clone, Debug)]
pub struct Instantiate {
    /// Empties the target's tables before; without, tables with rows of somebody else are refused.
    pub truncate: bool,
    /// Does not go on with a load that was cut off, but begins anew.
    pub restart: bool,
    /// How long the creation of a slot may wait for open transactions, and anything else for a lock.
    pub slot_limit: Duration,
    /// In how many sessions tables are copied side by side; otherwise as the flow's configuration says, or by the number
    /// of processors.
    pub parallel: Option<usize>,
    /// Bytes a second of all sessions together; otherwise as the flow's configuration says.
    pub rate_limit: Option<u64>,
    /// Where the keeper of the snapshot lives.
    pub keeper: KeeperPlace,
    /// Runs the flow's Extract beside the load, unless somebody else does.
    pub with_extract: bool,
    /// Copies these tables anew and no others, by their names at the source: what the target has of them is emptied first.
    /// Replicat goes on with the others.
    pub tables: Vec<TableName>,
    /// Copies the structure before the rows, where the load begins.
    pub with_schema: Option<SchemaCopy>,
    /// Copies the large objects behind the rows, as they are then.
    pub with_large_objects: bool,
}

impl Default for Instantiate {
    fn default() -> Self {
        Self {
            truncate: false,
            restart: false,
            slot_limit: Duration::from_secs(60),
            parallel: None,
            rate_limit: None,
            keeper: KeeperPlace::Here,
            with_extract: false,
            tables: Vec::new(),
            with_schema: None,
            with_large_objects: false,
        }
    }
}

/// A flow that was brought up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instantiated {
    /// The load's name.
    pub job: String,
    /// Whose LSNs its checkpoint holds.
    pub lineage: Lineage,
    /// Where the stream goes on.
    pub consistent_point: ResumeLsn,
    /// Tables copied.
    pub tables: usize,
    /// Rows copied.
    pub rows: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Sequences copied.
    pub sequences: usize,
    /// Tables that begin later than the stream, because the snapshot was lost on the way.
    pub later_tables: usize,
    /// What was done about large objects, if they were to be copied.
    pub large_objects: Option<CopiedObjects>,
    /// Large objects of the source that nobody has asked to be copied.
    pub large_objects_left: u64,
}

/// Brings the target of a flow to the state of its source and makes the stream begin there. A load of the flow that was
/// cut off is gone on with.
///
/// Needs what set-up makes (roles, rights, publication, checkpoint table, ledger) and no administrator.
///
/// # Errors
/// [`Error::Elsewhere`] where the configuration says that this process stands at another site than the flow's trail;
/// [`Error::NotEmpty`] for tables with rows of somebody else; [`Error::TargetTables`] for what the target lacks;
/// [`Error::Schema`] for a structure that cannot be copied; [`Error::Tables`] for tables that cannot be copied by themselves;
/// [`Error::Checkpoint`] when a group of the flow runs or somebody else loads it; [`Error::Blocked`], [`Error::Slot`],
/// [`Error::Database`], [`Error::Copy`], [`Error::Keeper`], [`Error::Trail`].
///
/// Can be dropped at any moment: the next call goes on.
pub async fn instantiate(
    configuration: &Configuration,
    flow: &Flow,
    options: &Instantiate,
    progress: &mut Report<'_>,
) -> Result<Instantiated, Error> {
    let done = instantiate_until(configuration, flow, options, std::future::pending(), progress).await?;
    // What never comes cannot have come.
    done.ok_or_else(|| Error::Internal("the end of a load".to_owned()))
}

/// As [`instantiate`], until `stop` is done: then what runs beside the load ends in order, Extract above all, and the answer
/// is nothing. The next call goes on.
///
/// # Errors
/// As [`instantiate`].
pub async fn instantiate_until(
    configuration: &Configuration,
    flow: &Flow,
    options: &Instantiate,
    stop: impl Future<Output = ()>,
    progress: &mut Report<'_>,
) -> Result<Option<Instantiated>, Error> {
    refuse_elsewhere(configuration, flow)?;
    let _lock = GroupLock::acquire(&configuration.state_directory, &format!("{}-instantiate", flow.name))?;
    let mut load = Load {
        configuration,
        flow,
        options,
        source: End::source(configuration, flow)?,
        target: End::target(configuration, flow)?,
        ledger: LoadLedger::new(&flow.name),
        keeper: None,
        readers: Vec::new(),
        overtaken: 0,
        drain: None,
        restart: options.restart,
        job: None,
        chunks: None,
        large_objects: None,
        tables: options.tables.clone(),
    };
    let done = tokio::select! {
        done = load.attempts(progress) => done.map(Some),
        () = stop => Ok(None),
    };
    load.end(progress).await;
    done
}

/// Whether somebody came in between who wanted a table for himself.
fn is_overtaken(error: &Error) -> bool {
    match error {
        Error::Overtaken { .. } => true,
        Error::Keeper { reason, .. } => hold::is_late(reason),
        _ => false,
    }
}

/// One call of [`instantiate`].
pub(super) struct Load<'a> {
    configuration: &'a Configuration,
    flow: &'a Flow,
    options: &'a Instantiate,
    source: End<'a>,
    target: End<'a>,
    ledger: LoadLedger,
    keeper: Option<Keeper>,
    /// The sessions that read, each with the snapshot and its own locks.
    readers: Vec<Session>,
    /// How often this call has let go.
    overtaken: u32,
    drain: Option<Drain>,
    restart: bool,
    /// The load that this call has begun or gone on with.
    job: Option<String>,
    /// Chunks that were there when it was last looked; nothing before there is a ledger.
    chunks: Option<usize>,
    /// What this call has done about large objects.
    large_objects: Option<CopiedObjects>,
    /// The tables that are copied anew, if not all are.
    tables: Vec<TableName>,
}

/// The sessions that claim the load at both ends, which tells the keeper that somebody is at work.
struct Claims {
    source: Session,
    target: Session,
}

/// A load that can go on: its ledger and how its tables are copied, under a snapshot that is kept.
struct Ready {
    job: LoadJob,
    tables: Vec<(LoadTable, Copied)>,
}

impl Load<'_> {
    fn limit(&self) -> Duration {
        self.options.slot_limit
    }

    /// Ends the keeper and the sessions that read, and with them what they have locked.
    async fn let_go(&mut self) -> Result<(), Error> {
        self.keeper = None;
        self.readers.clear();
        let session = self.source.connect(As::Extract, APPLICATION).await?;
        let failed = |error| self.source.failed("end the keeper of the snapshot", error);
        keeper::end_all(&session, self.flow).await.map_err(failed)?;
        let failed = |error| self.source.failed("end the sessions that read", error);
        keeper::end_sessions(&session, &work::application(self.flow)).await.map_err(failed)
    }

    /// Connects the sessions that will read.
    async fn connect_readers(&self) -> Result<Readers, Error> {
        Readers::connect(&self.source, self.flow, &work::application(self.flow), self.parallel()).await
    }

    /// Takes those that have the snapshot and the locks; not where too few came in time, but for a load that has waited for
    /// them often enough.
    fn take_readers(&mut self, held: Held) -> Result<(), Error> {
        let is_enough = !held.sessions.is_empty() && self.overtaken >= CONTENT;
        if let Some(reason) = held.late
            && !is_enough
        {
            tracing::debug!(reason, "the sessions that read let go");
            return Err(Error::Overtaken { end: self.source.to_string() });
        }
        self.readers = held.sessions;
        Ok(())
    }

    /// Tries again what may go better.
    async fn attempts(&mut self, progress: &mut Report<'_>) -> Result<Instantiated, Error> {
        let (mut attempt, mut chunks) = (0, None);
        loop {
            let error = match self.attempt(progress).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // Whoever came in between must have his turn, or both would wait for ever: everything is let go.
            if is_overtaken(&error) && self.overtaken < OVERTAKEN {
                self.overtaken += 1;
                progress(Event::Note(format!("{error}: letting go, and trying again")));
                self.let_go().await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            // Until there is a ledger there is nothing to be gone on with.
            if self.chunks.is_none() || !error.is_transient() {
                return Err(error);
            }
            attempt = if self.chunks > chunks { 0 } else { attempt + 1 };
            chunks = self.chunks;
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            progress(Event::Note(format!("{error}: trying again")));
            tokio::time::sleep(Duration::from_secs(1 << attempt.min(4))).await;
        }
    }

    async fn attempt(&mut self, progress: &mut Report<'_>) -> Result<Instantiated, Error> {
        self.readers.clear();
        let claims = self.claim().await?;
        let ready = match self.decide(&claims, progress).await? {
            // Whether its last commit came through could not be told at first.
            Begin::Done(job) => return self.done(&claims, &job, 0).await,
            Begin::Anew { ours } => self.begin(&claims, &ours, progress).await?,
            Begin::Tables(tables) => {
                self.tables = tables;
                self.begin_tables(&claims, progress).await?
            }
            Begin::GoOn(job) => self.go_on(&claims, *job, progress).await?,
        };
        // A second attempt goes on with what this one has begun.
        self.restart = false;
        self.job = Some(ready.job.job.clone());
        self.chunks = Some(self.ledger.chunks(&claims.target).await?.len());
        if self.options.with_extract && self.drain.is_none() {
            self.drain = Some(Drain::start(self.configuration, self.flow)?);
        }
        let job = ready.job.clone();
        let copied = self.copy(&claims, ready, progress).await;
        self.chunks = match self.ledger.chunks(&claims.target).await {
            Ok(chunks) => Some(chunks.len()),
            // Whatever was lost, there is a ledger.
            Err(_) => self.chunks,
        };
        copied?;
        let tables = self.ledger.tables(&claims.target).await?;
        let is_later = tables.iter().any(|table| table.start > job.consistent_point.0);
        self.behind_the_rows(&claims, is_later, progress).await?;
        if self.options.with_large_objects {
            let mut note = |text| progress(Event::Note(text));
            let copied = large_objects::copy_with_notes(self.configuration, self.flow, &mut note).await?;
            self.large_objects = Some(copied);
        }
        let done = self.finish(&claims, &job).await?;
        // Nobody needs the snapshot any more.
        if let Err(error) = keeper::end_all(&claims.source, self.flow).await {
            tracing::warn!(%error, "the keeper of the snapshot ends by itself, later");
        }
        Ok(done)
    }

    async fn claim(&self) -> Result<Claims, Error> {
        let target = self.target.connect(As::Replicat, APPLICATION).await?;
        let source = self.source.connect(As::Extract, APPLICATION).await?;
        refuse_own_source(self.flow, (&self.source, &source), (&self.target, &target)).await?;
        self.claim_at(&target).await?;
        // Sessions of a command that was killed may still be about to commit what they were sent last.
        keeper::end_sessions(&target, &work::application(self.flow))
            .await
            .map_err(|error| self.target.failed("end the sessions of a load that was cut off", error))?;
        self.claim_at(&source).await?;
        Ok(Claims { source, target })
    }

    /// Claims the load. The server may not have noticed yet that a command that was killed is gone.
    async fn claim_at(&self, session: &Session) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + CLAIM_LIMIT;
        loop {
            match self.ledger.claim(session).await {
                Err(irongate_checkpoint::Error::LoadInUse { .. })
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Copies what is lacking.
    async fn copy(&mut self, claims: &Claims, ready: Ready, progress: &mut Report<'_>) -> Result<(), Error> {
        let Ready { job, tables } = ready;
        let done = self.ledger.chunks(&claims.target).await?;
        let of_ledger: Vec<LoadTable> = tables.iter().map(|(table, _)| table.clone()).collect();
        let queue = plan::to_copy(&of_ledger, &done);
        if queue.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = of_ledger.iter().map(|table| table.target.clone()).collect();
        let layout = Layout::of(&claims.target, &names).await;
        let layout = layout.map_err(|error| self.target.failed("read the catalog", error))?;
        let is_alone = |name: &irongate_checkpoint::QualifiedName| {
            names.iter().filter(|other| *other == name).count() == 1
                && !layout.place_of.contains_key(name)
                && !layout.references.iter().any(|(from, to)| to == name && from != name)
        };
        let alone = names.iter().map(is_alone).collect();
        let mut readers = std::mem::take(&mut self.readers);
        if readers.len() < self.parallel() {
            progress(Event::Note(format!(
                "copying in {} of {} sessions: somebody waits to lock a table for himself",
                readers.len(),
                self.parallel()
            )));
        }
        readers.truncate(queue.len());
        let rate = self.options.rate_limit.or(self.flow.load.rate_limit);
        let board = Board::new(&job.job, tables.iter().map(|(table, copied)| (table, copied)));
        let work = Arc::new(Work {
            configuration: self.configuration.clone(),
            flow: self.flow.clone(),
            job,
            tables,
            alone,
            queue: Mutex::new(queue.into()),
            board: Mutex::new(board),
            rate: Rate::new(rate),
            limit: self.limit(),
        });
        work::run(&work, readers, progress).await
    }

    fn parallel(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let configured = self.flow.load.parallel.and_then(|number| usize::try_from(number).ok());
        self.options.parallel.or(configured).unwrap_or_else(|| processors.clamp(2, 8)).max(1)
    }

    /// Sets the sequences and lets the stream go on.
    async fn finish(&self, claims: &Claims, job: &LoadJob) -> Result<Instantiated, Error> {
        let at_target = self.at_target(job, &self.target).await?;
        let work = async {
            // Once more where it counts.
            refuse_writer(&self.target, &at_target.session, self.configuration, self.flow).await?;
            let ends = [&self.source, &self.target];
            let sequences =
                sequences::copy_sequences(&claims.source, &at_target.session, self.flow, ends).await?;
            match job.beside {
                true => self.finish_tables(&at_target, job).await?,
                false => at_target.finish(&self.ledger, job).await?,
            }
            Ok::<_, Error>(sequences)
        };
        let sequences = work.await;
        at_target.close().await;
        self.done(claims, job, sequences?).await
    }

    /// What has come of a load that is done.
    async fn done(&self, claims: &Claims, job: &LoadJob, sequences: usize) -> Result<Instantiated, Error> {
        let mut tables = self.ledger.tables(&claims.target).await?;
        tables.retain(|table| table.again || !job.beside);
        self.drop_origins(&claims.target).await;
        // A load of single tables is not about them.
        let is_asked = self.options.with_large_objects || job.beside;
        let failed = |error| self.source.failed("count the large objects", error);
        let left = if is_asked { 0 } else { large_objects::count(&claims.source).await.map_err(failed)? };
        Ok(Instantiated {
            job: job.job.clone(),
            lineage: job.lineage,
            consistent_point: if job.beside { ResumeLsn(job.snapshot.lsn) } else { job.consistent_point },
            tables: tables.len(),
            rows: tables.iter().map(|table| table.rows).sum(),
            bytes: tables.iter().map(|table| table.bytes).sum(),
            sequences,
            later_tables: tables
                .iter()
                .filter(|table| !job.beside && table.start > job.consistent_point.0)
                .count(),
            large_objects: self.large_objects.clone(),
            large_objects_left: left,
        })
    }

    /// Drops the origins of the sessions that copied, since a server has room for few. Only where no slot can still have
    /// to decode what they marked: an Extract of PostgreSQL 15 knows an origin by its name.
    async fn drop_origins(&self, at_target: &Session) {
        const SLOTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots
             WHERE slot_type = 'logical' AND database = current_database())";
        let dropped = async {
            let is_decoded: bool = at_target.query_one(SLOTS, &[]).await?.try_get(0)?;
            if !is_decoded {
                for origin in origins(at_target, self.flow).await? {
                    at_target.execute("SELECT pg_catalog.pg_replication_origin_drop($1)", &[&origin]).await?;
                }
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        if let Err(error) = dropped.await {
            tracing::debug!(%error, "origins of the load stay");
        }
    }

    /// Ends what runs beside the load.
    async fn end(&mut self, progress: &mut Report<'_>) {
        if let Some(drain) = self.drain.take()
            && let Some(reason) = drain.stop().await
        {
            progress(Event::Note(format!("extract had ended beside the load: {reason}")));
        }
        self.keeper = None;
        self.readers.clear();
    }
}

/// The names of the origins of a flow's parallel sessions.
pub(crate) async fn origins(session: &Session, flow: &Flow) -> Result<Vec<String>, tokio_postgres::Error> {
    let own = irongate_checkpoint::Origin::name_for(&flow.name).unwrap_or_default();
    let rows = session.query("SELECT roname FROM pg_catalog.pg_replication_origin", &[]).await?;
    let names = rows.iter().map(|row| row.try_get::<_, String>(0)).collect::<Result<Vec<_>, _>>()?;
    let is_workers = |name: &String| {
        *name != own && irongate_checkpoint::Origin::flow_of(name) == Some(flow.name.as_str())
    };
    Ok(names.into_iter().filter(is_workers).collect())
}

/// The present time of the source's clock.
async fn source_time(session: &Session) -> Result<Timestamp, irongate_postgres::Error> {
    const SQL: &str =
        "SELECT (EXTRACT(epoch FROM clock_timestamp()) * 1000000)::pg_catalog.int8 - 946684800000000";
    Ok(Timestamp(session.query_one(SQL, &[]).await?.try_get(0)?))
}
