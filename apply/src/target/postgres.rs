//! A PostgreSQL database as target.
//!
//! A batch is one flight of statements: BEGIN, the sets, the origin's position and the checkpoint row are sent without
//! waiting for each other; when all have been answered, and each set has changed as many rows as it has, COMMIT is
//! sent. So a group costs two round trips, whatever its size, and nothing is committed that was not counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::{
    Applied, CheckpointTable, LoadLedger, Mark, Origin, OriginSession, OriginTransaction, TableStarts,
    Watermarks,
};
use irongate_postgres::Session;
use irongate_trail::{CommitLsn, Lsn, Position, Relation, Timestamp};
use tokio_postgres::types::{PgLsn, Type};

use super::beside::{Beside, Group, Groups};
use super::flight::{launch, sort, sort_checkpoint};
use super::held::Held;
use super::ready::Ready;
use super::resolve::prepared_for_conflicts;
use super::sequences::Sequences;
use super::{Failure, Mode, Outcome, Target};
use crate::batch::Batch;
use crate::compile::compile_some;
use crate::conflict::canary;
use crate::ddl::offer;
use crate::error::Error;
use crate::settings::ReplicatSettings;
use crate::table::{Plan, TargetTable};

/// Prepared statements that are kept. More are only made by rows without a key, each with nulls in other places.
const MOST_STATEMENTS: usize = 2000;

/// How often tombstones are looked for that are too old to matter.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// How often the canary is brought forward while the flow is in step.
const RENEW_EVERY: Duration = Duration::from_secs(60);

/// Settings of the session. The planner's are there because a set always finds its rows by an index: an estimate of the
/// set's size must not tempt it to read the table. The rows of a set, some MiB, stay in memory and need no temporary file. Time limits of the role or the database are not for Replicat, nor is
/// what keeps others from writing to a standby by default.
const SETTINGS: &str = "SET session_replication_role = replica; SET plan_cache_mode = force_generic_plan; \
     SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; SET work_mem = '32MB'; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET idle_session_timeout = 0; \
     SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'; \
     SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'; \
     SET row_security = off";

/// A target database and the session that applies to it.
#[derive(Debug)]
pub struct PostgresTarget {
    pub(super) settings: ReplicatSettings,
    pub(super) connection: Option<Connection>,
    watermarks: Option<Watermarks>,
    /// When old tombstones were last removed.
    purged: Option<Instant>,
    /// When the canary was last brought forward.
    renewed: Option<Instant>,
    /// The source's last commit that was applied.
    last_commit: Timestamp,
    sequences: Sequences,
    /// What was said of the tables when the target was last loaded.
    starts: TableStarts,
    pub(super) beside: Beside,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: Session,
    pub(super) checkpoint: CheckpointTable,
    pub(crate) origin: OriginSession,
    pub(super) open: Option<OriginTransaction>,
    /// By the address of the relation, which the plan keeps alive.
    plans: HashMap<usize, Arc<Plan>>,
    statements: HashMap<String, tokio_postgres::Statement>,
    /// The session works ahead of the one that has claimed the flow: what must have been applied last when it commits.
    pub(super) ahead: Option<CommitLsn>,
    /// Rows may be waiting to be sent back.
    pub(super) owes: bool,
    pub(super) held: Held,
}

impl PostgresTarget {
    /// A target that connects when it is first loaded.
    pub fn new(settings: ReplicatSettings) -> Self {
        Self {
            settings,
            connection: None,
            watermarks: None,
            purged: None,
            renewed: None,
            last_commit: Timestamp::default(),
            sequences: Sequences::default(),
            starts: TableStarts::default(),
            beside: Beside::default(),
        }
    }

    /// The connection is of no use any more. What the server said last tells more than that the line is dead.
    pub(super) fn lost(&mut self, error: Error) -> Failure {
        let reason = self.connection.take().and_then(|connection| connection.session.failure());
        Failure::Lost(
            reason.map_or(error, |reason| Error::Target(irongate_postgres::Error::Closed(Some(reason)))),
        )
    }
}

/// A session for changes out of the error queue, under an origin of its own: the flow's is Replicat's.
///
/// # Errors
/// [`Error::Target`], [`Error::Checkpoint`].
pub(crate) async fn connection_for_replay(
    settings: &ReplicatSettings,
    origin: Origin,
) -> Result<Connection, Error> {
    Connection::open(settings, origin, false).await
}

impl Target for PostgresTarget {
    async fn load(&mut self) -> Result<Applied, Error> {
        self.beside.close();
        if let Some(connection) = &mut self.connection
            && connection.rollback().await.is_err()
        {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let origin = Origin::of_flow(&self.settings.flow)?;
                none.insert(Connection::open(&self.settings, origin, true).await?)
            }
        };
        connection.send_back(&self.settings).await?;
        let client = connection.session.client();
        // What a session ahead may still be committing must be seen, or must not come any more.
        connection.checkpoint.nobody_else(client).await?;
        let applied = connection.checkpoint.load(client).await?;
        let is_loading = is_loading(client, &self.settings.flow, applied.as_ref()).await?;
        let Some(applied) = applied.filter(|_| !is_loading) else {
            let flow = self.settings.flow.clone();
            // Whoever loads the flow may want what this session has claimed.
            self.connection = None;
            return Err(if is_loading { Error::Loading { flow } } else { Error::NotInstantiated { flow } });
        };
        connection.held.load(client, &self.settings.flow).await?;
        if self.settings.conflicts.is_some() {
            canary::begin(connection.session.client(), &self.settings.flow, &applied.lineage).await?;
            self.last_commit = applied.commit_time;
        }
        let (insert, _) = connection.log_positions().await?;
        // The place in the trail is the reader's to say: the one in the table may be in another trail.
        let mark = Mark { position: Position::default(), resume_lsn: applied.end_lsn };
        // Where some tables are brought up to the others, the target has not lost what it says that it has not.
        self.starts =
            TableStarts::load(connection.session.client(), &self.settings.flow, applied.end_lsn).await?;
        let goes_back = self.starts.go_back_from(applied.end_lsn);
        match &mut self.watermarks {
            Some(watermarks) if !goes_back => watermarks.reconnected(mark, insert)?,
            other => *other = Some(Watermarks::new(mark, insert, Mark::default())),
        }
        Ok(applied)
    }

    fn starts(&mut self) -> TableStarts {
        std::mem::take(&mut self.starts)
    }

    async fn apply(&mut self, batch: &Batch, mode: Mode, end: Option<&Applied>) -> Result<Outcome, Failure> {
        let Some(connection) = &mut self.connection else { return Err(Failure::Lost(not_loaded())) };
        let sequences_left = if batch.sequences().is_empty() {
            0
        } else {
            match connection.follow_sequences(&mut self.sequences, batch, &self.settings).await {
                Ok(left) => left,
                Err(failure) => {
                    self.connection = None;
                    return Err(failure);
                }
            }
        };
        let result = match mode {
            Mode::Grouped if connection.held.concerns(batch) => {
                connection.apply_around_held(batch, &self.settings, end).await
            }
            Mode::Grouped if self.settings.conflicts.is_some() => {
                connection.apply_resolving(batch, &self.settings, end).await
            }
            Mode::Grouped => connection.apply_grouped(batch, &self.settings, end).await,
            Mode::Exact => connection.apply_exact(batch, &self.settings, end).await,
            Mode::Queue => connection.apply_queued(batch, &self.settings, end).await,
        };
        let result = match (result, batch.structure()) {
            (Ok(outcome), Some(message)) => {
                self.sequences.forget();
                self.beside.close();
                connection.restructure(batch, message, mode, &self.settings).await.map(|()| outcome)
            }
            (other, _) => other,
        };
        let result = match result {
            Ok(outcome) if end.is_some() => {
                connection.send_back(&self.settings).await.map(|()| outcome).map_err(Failure::Lost)
            }
            other => other,
        };
        let result = result.map(|outcome| Outcome { sequences_left, ..outcome });
        if let (Ok(_), Some(end)) = (&result, end) {
            self.last_commit = end.commit_time;
        }
        match result {
            Err(Failure::Lost(error)) => Err(self.lost(error)),
            other => other,
        }
    }

    fn can_apply_when(&self, batch: &Batch) -> bool {
        self.can_apply_early(batch)
    }

    async fn apply_when(
        &mut self,
        batch: &Batch,
        end: &Applied,
        durable: impl Future<Output = bool> + Send,
    ) -> Result<Option<Outcome>, Failure> {
        self.apply_early(batch, end, durable).await
    }

    fn most_groups(&self) -> usize {
        self.most_beside()
    }

    async fn apply_groups(&mut self, groups: &[Group<'_>]) -> Groups {
        self.apply_beside(groups).await
    }

    fn process(&self) -> Option<i32> {
        self.connection.as_ref().map(|connection| connection.session.process_id())
    }

    async fn settle(&mut self, applied: Mark) -> Result<Mark, Error> {
        self.beside.rest();
        let (Some(connection), Some(watermarks)) = (&mut self.connection, &mut self.watermarks) else {
            return Err(not_loaded());
        };
        let client = connection.session.client();
        if LoadLedger::new(&self.settings.flow).wants_way(client).await? {
            // Dropped, the session would give the flow back a moment later.
            connection.checkpoint.release(client).await?;
            self.beside.close();
            self.connection = None;
            return Err(Error::Loading { flow: self.settings.flow.clone() });
        }
        connection.held.look_again(client, &self.settings.flow).await?;
        if let Some(conflicts) = &self.settings.conflicts
            && self.purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY.min(conflicts.tombstone_age))
        {
            connection.purge_tombstones(conflicts.tombstone_age).await?;
            self.purged = Some(Instant::now());
        }
        if self.settings.conflicts.is_some() && self.renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            canary::renew(connection.session.client(), &self.settings.flow, self.last_commit).await?;
            self.renewed = Some(Instant::now());
        }
        if self.settings.synchronous_commit {
            watermarks.applied_durably(applied);
            return Ok(watermarks.low());
        }
        if watermarks.is_pending() || watermarks.high() != applied {
            let (insert, flush) = connection.log_positions().await?;
            watermarks.applied(applied, insert);
            watermarks.flushed(flush);
        }
        Ok(watermarks.low())
    }
}

/// Whether a load of the flow has been begun and is not done that Replicat has to wait for. A target without a ledger has
/// none.
async fn is_loading(
    client: &tokio_postgres::Client,
    flow: &str,
    applied: Option<&Applied>,
) -> Result<bool, Error> {
    let job = LoadLedger::new(flow).job_if_kept(client).await?;
    Ok(job.is_some_and(|job| job.keeps_waiting(applied.map(|applied| &applied.lineage))))
}

pub(super) fn not_loaded() -> Error {
    Error::Target(irongate_postgres::Error::Closed(None))
}

impl Connection {
    pub(super) async fn open(
        settings: &ReplicatSettings,
        origin: Origin,
        claim: bool,
    ) -> Result<Self, Error> {
        let application = format!("irongate {}", settings.group);
        let session = Session::connect(&settings.target, &application).await?;
        session.batch_execute(SETTINGS).await?;
        let commit = if settings.synchronous_commit { "on" } else { "off" };
        session.batch_execute(&format!("SET synchronous_commit = {commit}")).await?;
        let checkpoint = CheckpointTable::prepare(session.client(), &settings.flow).await?;
        if claim {
            if LoadLedger::new(&settings.flow).wants_way(session.client()).await? {
                return Err(Error::Loading { flow: settings.flow.clone() });
            }
            checkpoint.claim(session.client()).await?;
        }
        origin.create_if_missing(session.client()).await?;
        let origin = origin.session_setup(session.client()).await?;
        let (plans, statements) = (HashMap::new(), HashMap::new());
        let owes = settings.conflicts.is_some();
        if owes {
            prepared_for_conflicts(&session).await?;
        }
        let held = Held::default();
        Ok(Self { session, checkpoint, origin, open: None, plans, statements, ahead: None, owes, held })
    }

    /// The target's insert and flush LSN.
    async fn log_positions(&self) -> Result<(Lsn, Lsn), Error> {
        const SQL: &str =
            "SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn()";
        let row = self.session.query_one(SQL, &[]).await?;
        let lsn = |column| row.try_get::<_, PgLsn>(column).map(|lsn| Lsn(lsn.into()));
        Ok((lsn(0)?, lsn(1)?))
    }

    /// Ends a transaction that will not be committed, and clears what it leaves in the session.
    pub(super) async fn rollback(&mut self) -> Result<(), Error> {
        if let Some(open) = self.open.take() {
            self.session.batch_execute("ROLLBACK").await?;
            open.rolled_back();
        }
        self.origin.reset(self.session.client()).await?;
        // The target's tables may have been changed to mend the refusal.
        self.forget_tables();
        Ok(())
    }

    /// Forgets what is known of the target's tables.
    pub(super) fn forget_tables(&mut self) {
        self.plans.clear();
        self.statements.clear();
    }

    /// Brings the sequences forward that the batch speaks of; how many could not be.
    async fn follow_sequences(
        &self,
        sequences: &mut Sequences,
        batch: &Batch,
        settings: &ReplicatSettings,
    ) -> Result<u64, Failure> {
        if self.open.is_none() {
            return sequences.follow(&self.session, batch.sequences(), settings).await;
        }
        // Within a transaction that has begun, a refusal must not take the rows with it; what was set stays set.
        self.session.batch_execute("SAVEPOINT irongate_sequences").await.map_err(sort)?;
        let left = sequences.follow(&self.session, batch.sequences(), settings).await?;
        let end = "ROLLBACK TO irongate_sequences; RELEASE irongate_sequences";
        self.session.batch_execute(end).await.map_err(sort)?;
        Ok(left)
    }

    /// The plans of the batch's relations, in their order.
    pub(super) async fn plans(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
    ) -> Result<Vec<Arc<Plan>>, Failure> {
        let mut plans = Vec::with_capacity(batch.relations().len());
        for relation in batch.relations() {
            let address = Arc::as_ptr(relation).addr();
            if let Some(plan) = self.plans.get(&address) {
                plans.push(Arc::clone(plan));
                continue;
            }
            let (schema, name) = settings.names.target_of(&relation.schema, &relation.name);
            let source = format!("{}.{}", relation.schema, relation.name);
            let table = match TargetTable::load(&self.session, &schema, &name).await {
                Ok(Some(table)) => table,
                Ok(None) => {
                    return Err(self.missing_table(relation, &schema, &name).await);
                }
                Err(error) if error.is_transient() => return Err(Failure::Lost(error)),
                Err(error) => return Err(Failure::Refused(error)),
            };
            let plan =
                Plan::new(relation, table, settings.key_columns.get(&source), settings.conflicts.as_ref())
                    .map_err(Failure::Refused)?;
            self.has_tombstones(&plan).await?;
            let plan = Arc::new(plan);
            self.plans.insert(address, Arc::clone(&plan));
            plans.push(plan);
        }
        Ok(plans)
    }

    /// That there is no such table, with what makes it.
    async fn missing_table(&self, relation: &Relation, schema: &str, name: &str) -> Failure {
        const SQL: &str = "SELECT current_user::pg_catalog.text, EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
        let answer = async {
            let row = self.session.query_one(SQL, &[&schema]).await?;
            Ok::<(String, bool), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?))
        };
        match answer.await {
            Ok((role, has_schema)) => Failure::Refused(Error::MissingTable {
                table: format!("{}.{}", relation.schema, relation.name),
                target: format!("{schema}.{name}"),
                fix: offer::create_table(relation, schema, name, has_schema, &role),
            }),
            Err(error) => sort(error),
        }
    }

    /// Prepares a statement, once. Of a set's parameters the types are known; the server tells those of a row's.
    pub(super) async fn prepare(
        &mut self,
        sql: &str,
        set_parameters: Option<Vec<Type>>,
    ) -> Result<tokio_postgres::Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        let prepared = match set_parameters {
            Some(types) => self.session.prepare_typed(sql, &types).await?,
            None => self.session.prepare(sql).await?,
        };
        if self.statements.len() >= MOST_STATEMENTS {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    pub(super) async fn apply_grouped(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        let plans = self.plans(batch, settings).await?;
        self.apply_some(batch, &plans, |_| true, end).await
    }

    /// Applies those changes of a batch that are taken, by index, as if they were all.
    pub(super) async fn apply_some(
        &mut self,
        batch: &Batch,
        plans: &[Arc<Plan>],
        takes: impl Fn(usize) -> bool,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        if !self.send_some(batch, plans, takes, end, true).await? && end.is_some() {
            self.commit().await?;
        }
        Ok(Outcome::default())
    }

    /// Sends those changes and, behind the last of a group, the checkpoint; with `commit` also the origin's position and,
    /// where that need not wait for the answers, COMMIT. Says whether it sent that.
    pub(super) async fn send_some(
        &mut self,
        batch: &Batch,
        plans: &[Arc<Plan>],
        takes: impl Fn(usize) -> bool,
        end: Option<&Applied>,
        commit: bool,
    ) -> Result<bool, Failure> {
        let mut steps = Vec::new();
        for step in compile_some(batch, plans, takes) {
            let step = Ready::of(step, batch, plans);
            let prepared = self.prepare(&step.statement.sql, step.set_parameters()).await.map_err(sort)?;
            steps.push((step, prepared));
        }
        let begin = self.begin()?;
        let client = self.session.client();
        let mut flights = Vec::with_capacity(steps.len() + 4);
        // Where the server itself refuses what must not be, COMMIT need not wait for the answers: behind a refusal it is
        // a ROLLBACK. Behind a statement that was not even sent, nothing is sent.
        let ahead = commit && end.is_some() && steps.iter().all(|(step, _)| step.sure);
        let send = async {
            if begin {
                let begin = self.begin_sql(batch, end.is_none());
                flights.push(launch(async move { client.batch_execute(&begin).await.map_err(sort) }).await?);
            }
            for (step, prepared) in &steps {
                if step.by_copy {
                    step.copy(client, prepared, batch).await?;
                } else {
                    flights.push(launch(step.execute(client, prepared, batch)).await?);
                }
            }
            if let (Some(end), Some(open)) = (end, &self.open) {
                flights.push(launch(self.save(batch, end)).await?);
                if commit {
                    // Last, because from PostgreSQL 16 on even a ROLLBACK moves the origin to the position in force.
                    let position = open.xact_setup(client, end.end_lsn, end.commit_time);
                    flights.push(launch(async { position.await.map_err(sort_checkpoint) }).await?);
                }
            }
            if ahead {
                flights.push(launch(async { client.batch_execute("COMMIT").await.map_err(sort) }).await?);
            }
            Ok::<_, Failure>(())
        };
        let sent = send.await;
        // The first to fail is to blame; those behind it only say that the transaction is aborted.
        let mut result = Ok(());
        for flight in flights {
            let answer = flight.await;
            result = result.and(answer);
        }
        result.and(sent)?;
        if ahead {
            self.committed();
        }
        Ok(ahead)
    }

    /// Opens the account of a target transaction unless one is open. True if BEGIN is to be sent.
    pub(super) fn begin(&mut self) -> Result<bool, Failure> {
        if self.open.is_some() {
            return Ok(false);
        }
        self.open = Some(self.origin.begin().map_err(sort_checkpoint)?);
        Ok(true)
    }

    /// What begins a target transaction that begins with the batch. Where TRUNCATE or DDL may come first, a mark does; not
    /// in a session that works ahead, which has neither, and must not hold the row that the mark changes.
    pub(super) fn begin_sql(&self, batch: &Batch, goes_on: bool) -> Cow<'static, str> {
        if self.ahead.is_none() && (goes_on || batch.truncates()) {
            Cow::Owned(format!("BEGIN; {}", self.checkpoint.mark()))
        } else {
            Cow::Borrowed("BEGIN")
        }
    }

    async fn save(&self, batch: &Batch, end: &Applied) -> Result<(), Failure> {
        let (client, marker) = (self.session.client(), batch.marker());
        let saved = match self.ahead {
            Some(previous) => self.checkpoint.save_after(client, previous, end, marker).await,
            None => self.checkpoint.save_with_marker(client, end, marker).await,
        };
        saved.map_err(sort_checkpoint)
    }

    /// Writes position and checkpoint and commits.
    pub(super) async fn finish(&mut self, batch: &Batch, end: &Applied) -> Result<(), Failure> {
        if let Some(open) = &self.open {
            let client = self.session.client();
            self.save(batch, end).await?;
            open.xact_setup(client, end.end_lsn, end.commit_time).await.map_err(sort_checkpoint)?;
        }
        self.commit().await
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        // Every statement was answered with success, so this cannot turn into a silent ROLLBACK.
        self.session.batch_execute("COMMIT").await.map_err(sort)?;
        self.committed();
        Ok(())
    }

    pub(super) fn committed(&mut self) {
        if let Some(open) = self.open.take() {
            open.committed();
        }
    }
}
