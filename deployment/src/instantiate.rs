//! The initial load of a flow: the target gets the rows that the source had at the moment where the stream begins.
//!
//! The slot is created with its snapshot exported. What was committed before the slot's consistent point is in the
//! snapshot, what is committed later comes through the slot, and nothing is in both. All rows, the sequences and the
//! first checkpoint (which says where the stream goes on) are *one* transaction at the target: whatever is killed, the
//! target has everything or nothing. Until that transaction commits there is no checkpoint that fits the slot, so Replicat
//! refuses to run, and the next attempt makes slot and trail anew.

mod copy;
mod tables;

use std::time::Duration;

use irongate_checkpoint::{CheckpointTable, Origin, OriginSession, OriginTransaction, Role};
use irongate_postgres::{ReplicationConnection, Session};
use irongate_trail::{Lineage, ResumeLsn, Timestamp};

use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::sequence::{self, Sequence};
use crate::setup::{
    Event, Progress as Report, Started, first_checkpoint, has_rows, import_snapshot, lock_groups_here,
    patience, start,
};
use tables::{Copied, copied};

/// The name under which the initial load's sessions are shown.
const APPLICATION: &str = "irongate instantiate";

/// How an initial load is made.
#[derive(Clone, Debug)]
pub struct Instantiate {
    /// Empties the target's tables before; without, tables with rows are refused.
    pub truncate: bool,
    /// How long the creation of the slot may wait for open transactions, and anything else for a lock.
    pub slot_limit: Duration,
}

impl Default for Instantiate {
    fn default() -> Self {
        Self { truncate: false, slot_limit: Duration::from_secs(60) }
    }
}

/// How far an initial load is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// The table that is being copied, as the source has it.
    pub table: String,
    /// Its rows by the source's estimate, if there is one.
    pub estimated_rows: Option<u64>,
    /// Its rows copied so far.
    pub rows: u64,
    /// Its bytes copied so far.
    pub bytes: u64,
    /// Tables that are done.
    pub tables_done: usize,
    /// All tables.
    pub tables_total: usize,
}

/// A flow that was brought up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instantiated {
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
}

/// Brings the target of a flow to the state of its source and makes the stream begin there.
///
/// Needs what set-up makes (roles, rights, publication, checkpoint table) and no administrator.
///
/// # Errors
/// [`Error::Elsewhere`] where the configuration says that this process stands at another site than the flow's trail;
/// [`Error::NotEmpty`] for tables with rows; [`Error::TargetTables`] for what the target lacks;
/// [`Error::Checkpoint`] when a group of the flow runs, here or elsewhere; [`Error::Blocked`], [`Error::Slot`],
/// [`Error::Database`], [`Error::Copy`], [`Error::Trail`].
///
/// Not cancel-safe in comfort: a call that is dropped leaves a slot that the next one replaces.
pub async fn instantiate(
    configuration: &Configuration,
    flow: &Flow,
    options: &Instantiate,
    progress: &mut Report<'_>,
) -> Result<Instantiated, Error> {
    let _locks = lock_groups_here(configuration, flow)?;
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let at_target = Target::open(&target, flow, options.slot_limit).await?;
    at_target.refuse_writer(configuration, flow).await?;
    // Everything that can be refused is refused before the old slot is given up.
    let before = {
        let at_source = source.connect(As::Extract, APPLICATION).await?;
        copied(&at_source, &at_target.session, flow, [&source, &target]).await?
    };
    if !options.truncate {
        at_target.refuse_rows(&before).await?;
    }
    let started = start(configuration, flow, options.slot_limit, progress).await?;
    let loaded = load(configuration, flow, &started, [&source, &target], &at_target, options, progress).await;
    if loaded.is_err() {
        give_up_slot(&source, flow, started).await;
    }
    at_target.close().await;
    loaded
}

/// Drops the slot of a load that has failed: nobody would read it.
async fn give_up_slot(source: &End<'_>, flow: &Flow, started: Started) {
    drop(started);
    let dropped = async {
        ReplicationConnection::connect(&source.own_login().endpoint, APPLICATION)
            .await?
            .drop_slot(&flow.slot, false)
            .await
    };
    if let Err(error) = dropped.await {
        tracing::warn!(%error, slot = flow.slot, "cannot drop the slot of the initial load that has failed");
    }
}

async fn load(
    configuration: &Configuration,
    flow: &Flow,
    started: &Started,
    [source, target]: [&End<'_>; 2],
    at_target: &Target<'_>,
    options: &Instantiate,
    progress: &mut Report<'_>,
) -> Result<Instantiated, Error> {
    let at_source = source.connect(As::Extract, APPLICATION).await?;
    import_snapshot(&at_source, &started.snapshot, options.slot_limit)
        .await
        .map_err(|error| source.failed("import the slot's snapshot", error))?;
    let taken = source_time(&at_source).await.map_err(|error| source.failed("ask for the time", error))?;
    let tables = copied(&at_source, &at_target.session, flow, [source, target]).await?;
    copy::lock(&at_source, &tables).await.map_err(|error| source.failed("lock the tables", error))?;
    let transaction = at_target.begin().await?;
    let work = async {
        // Once more where it counts.
        at_target.refuse_writer(configuration, flow).await?;
        if options.truncate {
            at_target.truncate(&tables).await?;
        } else {
            // Rows may have come since the first look.
            at_target.refuse_rows(&tables).await?;
        }
        let (mut rows, mut bytes) = (0, 0);
        for (index, table) in tables.iter().enumerate() {
            let done =
                copy::copy(&at_source, &at_target.session, table, [source, target], &mut |rows, bytes| {
                    progress(Event::Copy(Progress {
                        table: table.source.to_string(),
                        estimated_rows: table.estimated_rows,
                        rows,
                        bytes,
                        tables_done: index,
                        tables_total: tables.len(),
                    }));
                })
                .await?;
            rows += done.rows;
            bytes += done.bytes;
        }
        let sequences = copy_sequences(&at_source, &at_target.session, flow, [source, target]).await?;
        at_target.finish(started, taken, &transaction).await?;
        Ok(Instantiated {
            lineage: started.lineage,
            consistent_point: started.consistent_point,
            tables: tables.len(),
            rows,
            bytes,
            sequences,
        })
    };
    match work.await {
        Ok(done) => {
            transaction.committed();
            Ok(done)
        }
        Err(error) => {
            transaction.rolled_back();
            // The session ends with this call; until then the transaction would hold its locks.
            let _ = at_target.session.batch_execute("ROLLBACK").await;
            Err(error)
        }
    }
}

/// The target's session: its writes are marked with the flow's origin, and the flow is claimed for it.
struct Target<'a> {
    end: &'a End<'a>,
    session: Session,
    checkpoint: CheckpointTable,
    origin: OriginSession,
}

impl<'a> Target<'a> {
    async fn open(end: &'a End<'a>, flow: &Flow, limit: Duration) -> Result<Self, Error> {
        let session = end.connect(As::Replicat, APPLICATION).await?;
        let checkpoint = CheckpointTable::prepare(&session, &flow.name).await?;
        checkpoint.claim(&session).await?;
        let origin = Origin::of_flow(&flow.name)?;
        origin.create_if_missing(&session).await?;
        let origin = origin.session_setup(&session).await?;
        session
            .batch_execute(&format!(
                "{}; SET session_replication_role = replica; SET synchronous_commit = on",
                patience(limit)
            ))
            .await
            .map_err(|error| end.failed("prepare the session", error))?;
        Ok(Self { end, session, checkpoint, origin })
    }

    /// Gives origin and flow back, so that a Replicat that starts at once is not refused: the server takes a moment to
    /// end a session.
    async fn close(self) {
        let given_back = async {
            self.origin.session_reset(&self.session).await?;
            self.checkpoint.release(&self.session).await
        };
        if let Err(error) = given_back.await {
            tracing::debug!(%error, "cannot give the origin back");
        }
    }

    /// Refuses to load the site that writes, which would lose what only it has: by its own word, and before it has one by
    /// the configuration's.
    async fn refuse_writer(&self, configuration: &Configuration, flow: &Flow) -> Result<(), Error> {
        if !configuration.active_passive().contains(&flow.database.as_str()) {
            return Ok(());
        }
        let writes = match Role::load(&self.session).await? {
            Some(role) => role.live == flow.to,
            None => configuration.is_reverse(flow),
        };
        if writes {
            return Err(Error::TargetWrites { flow: flow.name.clone(), end: self.end.to_string() });
        }
        Ok(())
    }

    async fn refuse_rows(&self, tables: &[Copied]) -> Result<(), Error> {
        let mut with_rows = Vec::new();
        for table in tables {
            let rows = has_rows(&self.session, &table.target).await;
            if rows.map_err(|error| self.end.failed("look for rows", error))? {
                with_rows.push(table.target.to_string());
            }
        }
        with_rows.dedup();
        if with_rows.is_empty() {
            return Ok(());
        }
        Err(Error::NotEmpty { end: self.end.to_string(), tables: with_rows })
    }

    async fn begin(&self) -> Result<OriginTransaction, Error> {
        let transaction = self.origin.begin()?;
        self.session.batch_execute("BEGIN").await.map_err(|error| self.end.failed("begin", error))?;
        Ok(transaction)
    }

    /// One statement for all tables, so that foreign keys among them do not stand in the way.
    async fn truncate(&self, tables: &[Copied]) -> Result<(), Error> {
        let mut names: Vec<_> = tables.iter().map(|table| table.target.quoted()).collect();
        names.sort();
        names.dedup();
        let sql = format!("TRUNCATE {}", names.join(", "));
        self.session.batch_execute(&sql).await.map_err(|error| self.end.failed("empty the tables", error))
    }

    /// Replaces the checkpoint and commits. The origin's position is given last: a rollback would move it too. The rows
    /// get the time of the snapshot, by the source's clock: what is later at the source is not in them.
    async fn finish(
        &self,
        started: &Started,
        taken: Timestamp,
        transaction: &OriginTransaction,
    ) -> Result<(), Error> {
        self.checkpoint.remove(&self.session).await?;
        self.checkpoint.initialise(&self.session, &first_checkpoint(started)).await?;
        transaction.xact_setup(&self.session, started.consistent_point, taken).await?;
        self.session.batch_execute("COMMIT").await.map_err(|error| self.end.failed("commit", error))
    }
}

/// Sets the sequences of a flow's target to the values that they have at its source. How many there are.
///
/// # Errors
/// [`Error::Database`].
pub async fn carry_sequences(configuration: &Configuration, flow: &Flow) -> Result<usize, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let at_source = source.connect(As::Extract, "irongate sequences").await?;
    let at_target = target.connect(As::Replicat, "irongate sequences").await?;
    copy_sequences(&at_source, &at_target, flow, [&source, &target]).await
}

/// The sequences of a flow's source that have no counterpart at its target, by the names that they would have there:
/// [`carry_sequences`] leaves them out.
///
/// # Errors
/// [`Error::Database`].
pub async fn sequences_without_counterpart(
    configuration: &Configuration,
    flow: &Flow,
) -> Result<Vec<TableName>, Error> {
    let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
    let mut all = Vec::new();
    for (end, who) in [(&source, As::Extract), (&target, As::Replicat)] {
        let session = end.connect(who, "irongate sequences").await?;
        let failed = |error| end.failed("read the sequences", error);
        all.push(sequence::sequences(&session).await.map_err(failed)?);
    }
    let targets = all.pop().unwrap_or_default();
    let sources = sequence::of_flow(all.pop().unwrap_or_default(), flow);
    let lacking = sources.iter().filter(|from| sequence::counterpart(&targets, flow, from).is_none());
    Ok(lacking.map(|from| flow.target_of(&from.name)).collect())
}

/// The present time of the source's clock.
async fn source_time(session: &Session) -> Result<Timestamp, irongate_postgres::Error> {
    const SQL: &str =
        "SELECT (EXTRACT(epoch FROM clock_timestamp()) * 1000000)::pg_catalog.int8 - 946684800000000";
    Ok(Timestamp(session.query_one(SQL, &[]).await?.try_get(0)?))
}

/// Sets the target's sequences to the source's values, those at the moment of the question: later ones do no harm.
async fn copy_sequences(
    at_source: &Session,
    at_target: &Session,
    flow: &Flow,
    [source, target]: [&End<'_>; 2],
) -> Result<usize, Error> {
    let ask = |error| source.failed("read the sequences", error);
    let sources = sequence::sequences(at_source).await.map_err(ask)?;
    let targets =
        sequence::sequences(at_target).await.map_err(|error| target.failed("read the sequences", error))?;
    let mut count = 0;
    for from in sequence::of_flow(sources, flow) {
        let Some(to) = sequence::counterpart(&targets, flow, &from) else { continue };
        copy_sequence(at_source, at_target, &from, to)
            .await
            .map_err(|error| target.failed(&format!("set sequence \"{}\"", to.name), error))?;
        count += 1;
    }
    Ok(count)
}

async fn copy_sequence(
    at_source: &Session,
    at_target: &Session,
    from: &Sequence,
    to: &Sequence,
) -> Result<(), irongate_postgres::Error> {
    let sql = format!("SELECT last_value, is_called FROM {}", from.name.quoted());
    let row = at_source.query_one(&sql, &[]).await?;
    let (last, called): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let name = to.name.quoted();
    at_target
        .execute(
            "SELECT pg_catalog.setval($1::pg_catalog.text::pg_catalog.regclass, $2, $3)",
            &[&name, &last, &called],
        )
        .await?;
    Ok(())
}
