//! The target's session for what concerns the whole load: it holds the flow's claim, so that no Replicat applies
//! meanwhile, and its writes are marked with the flow's origin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use irongate_checkpoint::{
    Applied, CheckpointTable, LoadJob, LoadLedger, LoadSnapshot, LoadTable, Origin, OriginSession,
    OriginTransaction, QualifiedName, Role,
};
use irongate_postgres::Session;
use irongate_postgres::sql::qualified;
use irongate_trail::{CommitLsn, ResumeLsn, Timestamp};

use super::APPLICATION;
use super::plan;
use super::tables::Copied;
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::patience;

/// How long a claim is waited for that a Replicat may hold, which looks every other second whether the load is done.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);
const CLAIM_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Target<'a> {
    end: &'a End<'a>,
    pub(super) session: Session,
    pub(super) checkpoint: CheckpointTable,
    origin: OriginSession,
    /// Has Replicat make way.
    asking: Option<Session>,
}

impl<'a> Target<'a> {
    /// Opens the session, and has a Replicat that runs make way for it until it is closed.
    pub(super) async fn open_beside(end: &'a End<'a>, flow: &Flow, limit: Duration) -> Result<Self, Error> {
        let asking = end.connect(As::Replicat, APPLICATION).await?;
        // Nobody else does: the load is claimed.
        LoadLedger::new(&flow.name).ask_for_way(&asking).await?;
        let opened = Self::within_time(end, flow, limit, limit.max(CLAIM_LIMIT)).await?;
        Ok(Self { asking: Some(asking), ..opened })
    }

    /// Opens the session. With `patiently`, a Replicat that looks whether the load is done is waited for.
    pub(super) async fn open(
        end: &'a End<'a>,
        flow: &Flow,
        limit: Duration,
        patiently: bool,
    ) -> Result<Self, Error> {
        Self::within_time(end, flow, limit, if patiently { CLAIM_LIMIT } else { Duration::ZERO }).await
    }

    /// Opens the session, trying for so long.
    async fn within_time(
        end: &'a End<'a>,
        flow: &Flow,
        limit: Duration,
        patience: Duration,
    ) -> Result<Self, Error> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match Self::try_open(end, flow, limit).await {
                Err(Error::Checkpoint(
                    irongate_checkpoint::Error::FlowInUse { .. }
                    | irongate_checkpoint::Error::OriginInUse { .. },
                )) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(CLAIM_EVERY).await;
                }
                other => return other,
            }
        }
    }

    async fn try_open(end: &'a End<'a>, flow: &Flow, limit: Duration) -> Result<Self, Error> {
        let session = end.connect(As::Replicat, APPLICATION).await?;
        let checkpoint = CheckpointTable::prepare(&session, &flow.name).await?;
        checkpoint.claim(&session).await?;
        let origin = marked(end, &session, Origin::of_flow(&flow.name)?, limit, true).await?;
        Ok(Self { end, session, checkpoint, origin, asking: None })
    }

    /// Gives origin and flow back, so that a Replicat that starts at once is not refused: the server takes a moment to
    /// end a session.
    pub(super) async fn close(self) {
        let given_back = async {
            self.origin.session_reset(&self.session).await?;
            self.checkpoint.release(&self.session).await?;
            match &self.asking {
                Some(asking) => LoadLedger::new(self.checkpoint.flow()).need_no_way(asking).await,
                None => Ok(()),
            }
        };
        if let Err(error) = given_back.await {
            tracing::debug!(%error, "cannot give the origin back");
        }
    }

    /// Replaces the flow's checkpoint by the ledger of a load, and empties the tables that `truncated` names; in those of
    /// `must_be_empty` must be no rows.
    pub(super) async fn begin(
        &self,
        ledger: &LoadLedger,
        job: &LoadJob,
        tables: &[LoadTable],
        truncated: &[&Copied],
        must_be_empty: &[&Copied],
    ) -> Result<(), Error> {
        let work = async {
            // First, since TRUNCATE may not be: see `CheckpointTable::mark`.
            self.checkpoint.remove(&self.session).await?;
            ledger.begin(&self.session, job, tables).await?;
            if !truncated.is_empty() {
                self.truncate(truncated).await?;
            }
            // Rows may have come since the first look.
            refuse_rows(self.end, &self.session, must_be_empty).await
        };
        self.within(job.consistent_point, job.snapshot.taken, work).await
    }

    /// Has the ledger go on under a new snapshot, with the tables that are copied anew under it emptied.
    pub(super) async fn again(
        &self,
        ledger: &LoadLedger,
        (job, snapshot): (&LoadJob, &LoadSnapshot),
        tables: &[LoadTable],
        emptying: &[String],
        must_be_empty: &[&Copied],
    ) -> Result<(), Error> {
        let work = async {
            // First, since TRUNCATE may not be: see `CheckpointTable::mark`.
            ledger.again(&self.session, snapshot, tables).await?;
            refuse_rows(self.end, &self.session, must_be_empty).await?;
            self.empty(emptying).await
        };
        self.within(job.consistent_point, snapshot.taken, work).await
    }

    async fn empty(&self, emptying: &[String]) -> Result<(), Error> {
        for statement in emptying {
            let done = self.session.batch_execute(statement).await;
            done.map_err(|error| self.end.failed("empty the tables", error))?;
        }
        Ok(())
    }

    /// Keeps the flow's checkpoint, which says that it is applied up to `end`, and begins the ledger of a load of which all
    /// but the unfinished `tables` is there; those are emptied. What waits in the error queue for them is in their copies.
    pub(super) async fn reload(
        &self,
        ledger: &LoadLedger,
        (job, end): (&LoadJob, ResumeLsn),
        tables: &[LoadTable],
        emptying: &[String],
    ) -> Result<(), Error> {
        const SKIP: &str = "UPDATE irongate.error_queue q SET state = 'skipped', resolved_at = pg_catalog.clock_timestamp()
              FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[]) AS t (schema_name, name)
             WHERE q.flow = $1 AND q.state = 'queued' AND q.table_schema = t.schema_name AND q.table_name = t.name";
        let failed = |error: tokio_postgres::Error| self.end.failed("empty the tables", error);
        let present: Vec<_> =
            tables.iter().filter(|table| table.is_finished()).map(|table| &table.source).collect();
        let (schemas, names): (Vec<&str>, Vec<&str>) = tables
            .iter()
            .filter(|table| !table.is_finished())
            .map(|table| (table.source.0.as_str(), table.source.1.as_str()))
            .unzip();
        let work = async {
            // First, since TRUNCATE may not be: see `CheckpointTable::mark`.
            self.checkpoint.keep(&self.session).await?;
            ledger.begin(&self.session, job, tables).await?;
            ledger.present(&self.session, &present).await?;
            let flow = &self.checkpoint.flow();
            self.session.execute(SKIP, &[flow, &schemas, &names]).await.map_err(failed)?;
            self.empty(emptying).await
        };
        self.within(end, job.snapshot.taken, work).await
    }

    /// Makes the flow's checkpoint and ends the load. The server refuses it where a table is not finished.
    pub(super) async fn finish(&self, ledger: &LoadLedger, job: &LoadJob) -> Result<(), Error> {
        let applied = Applied {
            lineage: job.lineage,
            commit_lsn: CommitLsn::default(),
            end_lsn: job.consistent_point,
            commit_time: Timestamp::now(),
            position: job.position,
            epoch: job.epoch,
            transactions: 0,
        };
        let work = async {
            self.checkpoint.remove(&self.session).await?;
            self.checkpoint.initialise(&self.session, &applied).await?;
            Ok(ledger.finish(&self.session, None).await?)
        };
        self.within(job.consistent_point, job.snapshot.taken, work).await
    }

    /// Has the flow go on where its checkpoint was kept, for the tables that were copied since, and ends the load. False,
    /// and nothing is changed, if the flow is of another stream than it was then.
    pub(super) async fn finish_beside(&self, ledger: &LoadLedger, job: &LoadJob) -> Result<bool, Error> {
        let mut is_same = false;
        let work = async {
            let others = self.checkpoint.load(&self.session).await?.map(|applied| applied.end_lsn);
            is_same = self.checkpoint.go_back(&self.session).await?;
            if is_same { Ok(ledger.finish(&self.session, others).await?) } else { Ok(()) }
        };
        self.within(job.consistent_point, job.snapshot.taken, work).await?;
        Ok(is_same)
    }

    /// Does something in a transaction that has the origin's mark. The position is given last: a rollback would move it
    /// too. The rows get the time of the snapshot, by the source's clock: what is later at the source is not in them.
    async fn within(
        &self,
        point: ResumeLsn,
        taken: Timestamp,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let transaction = self.origin.begin()?;
        self.session.batch_execute("BEGIN").await.map_err(|error| self.end.failed("begin", error))?;
        let done = async {
            work.await?;
            transaction.xact_setup(&self.session, point, taken).await?;
            self.session.batch_execute("COMMIT").await.map_err(|error| self.end.failed("commit", error))
        };
        match done.await {
            Ok(()) => {
                OriginTransaction::committed(transaction);
                Ok(())
            }
            Err(error) => {
                transaction.rolled_back();
                let _ = self.session.batch_execute("ROLLBACK").await;
                let _ = self.origin.reset(&self.session).await;
                Err(error)
            }
        }
    }

    /// One statement for all tables, so that foreign keys among them do not stand in the way.
    async fn truncate(&self, tables: &[&Copied]) -> Result<(), Error> {
        let mut names: Vec<_> = tables.iter().map(|table| table.target_alone()).collect();
        names.sort();
        names.dedup();
        let sql = format!("TRUNCATE {}", names.join(", "));
        self.session.batch_execute(&sql).await.map_err(|error| self.end.failed("empty the tables", error))
    }
}

/// Prepares a session at the target whose writes carry an origin's mark.
pub(crate) async fn marked(
    end: &End<'_>,
    session: &Session,
    origin: Origin,
    limit: Duration,
    synchronous: bool,
) -> Result<OriginSession, Error> {
    origin.create_if_missing(session).await?;
    let origin = origin.session_setup(session).await?;
    let commit = if synchronous { "on" } else { "off" };
    session
        .batch_execute(&format!(
            "{}; SET session_replication_role = replica; SET synchronous_commit = {commit}; \
             SET default_transaction_read_only = off; SET row_security = off",
            patience(limit)
        ))
        .await
        .map_err(|error| end.failed("prepare the session", error))?;
    Ok(origin)
}

/// Refuses to load the site that writes, which would lose what only it has: by its own word, and before it has one by
/// the configuration's.
pub(crate) async fn refuse_writer(
    end: &End<'_>,
    session: &Session,
    configuration: &Configuration,
    flow: &Flow,
) -> Result<(), Error> {
    if !configuration.active_passive().contains(&flow.database.as_str()) {
        return Ok(());
    }
    let writes = match Role::load(session).await? {
        Some(role) => role.live == flow.to,
        None => configuration.is_reverse(flow),
    };
    if writes {
        return Err(Error::TargetWrites { flow: flow.name.clone(), end: end.to_string() });
    }
    Ok(())
}

/// Refuses tables that have rows of somebody else.
pub(super) async fn refuse_rows(end: &End<'_>, session: &Session, tables: &[&Copied]) -> Result<(), Error> {
    let mut with_rows = Vec::new();
    for table in tables {
        // Rows of tables that inherit from it are another table's.
        let sql = format!("SELECT EXISTS (SELECT FROM {})", table.target_alone());
        let found = session.query_one(&sql, &[]).await.and_then(|row| row.try_get(0));
        if found.map_err(|error| end.failed("look for rows", error))? {
            with_rows.push(table.target.to_string());
        }
    }
    with_rows.dedup();
    if with_rows.is_empty() {
        return Ok(());
    }
    Err(Error::NotEmpty { end: end.to_string(), tables: with_rows })
}

/// What refers to what by foreign keys at the target, and where rows lie together: each partition of a table that is
/// itself one of `targets` is said to lie in that table.
pub(super) struct Layout {
    pub(super) references: Vec<(QualifiedName, QualifiedName)>,
    pub(super) place_of: BTreeMap<QualifiedName, QualifiedName>,
    /// Those that are there.
    pub(super) present: BTreeMap<QualifiedName, bool>,
}

impl Layout {
    pub(super) async fn of(
        session: &Session,
        targets: &[QualifiedName],
    ) -> Result<Self, tokio_postgres::Error> {
        const REFERENCES: &str = "SELECT fn.nspname::pg_catalog.text, f.relname::pg_catalog.text,
                tn.nspname::pg_catalog.text, t.relname::pg_catalog.text
           FROM pg_catalog.pg_constraint c
           JOIN pg_catalog.pg_class f ON f.oid = c.conrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
           JOIN pg_catalog.pg_class t ON t.oid = c.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
          WHERE c.contype = 'f'";
        const PLACES: &str = "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind = 'p',
                rn.nspname::pg_catalog.text, r.relname::pg_catalog.text
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_class r ON r.oid = pg_catalog.pg_partition_root(c.oid) AND r.oid <> c.oid
           LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
          WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY ($1::pg_catalog.text[])";
        let mut references = Vec::new();
        for row in session.query(REFERENCES, &[]).await? {
            references.push(((row.try_get(0)?, row.try_get(1)?), (row.try_get(2)?, row.try_get(3)?)));
        }
        let mut schemas: Vec<&str> = targets.iter().map(|(schema, _)| schema.as_str()).collect();
        schemas.dedup();
        let (mut place_of, mut present) = (BTreeMap::new(), BTreeMap::new());
        for row in session.query(PLACES, &[&schemas]).await? {
            let name: QualifiedName = (row.try_get(0)?, row.try_get(1)?);
            if !targets.contains(&name) {
                continue;
            }
            present.insert(name.clone(), row.try_get(2)?);
            if let (Some(schema), Some(table)) = (row.try_get(3)?, row.try_get(4)?)
                && targets.contains(&(String::clone(&schema), String::clone(&table)))
            {
                place_of.insert(name, (schema, table));
            }
        }
        Ok(Self { references, place_of, present })
    }

    /// The statements that empty these tables and no others.
    pub(super) fn emptying(&self, tables: &BTreeSet<QualifiedName>) -> Vec<String> {
        let (truncated, deleted) = plan::emptied(tables, &self.references);
        let alone = |names: Vec<QualifiedName>| -> Vec<String> {
            names.iter().filter_map(|name| self.alone(name)).collect()
        };
        let (truncated, deleted) = (alone(truncated), alone(deleted));
        let truncate = (!truncated.is_empty()).then(|| format!("TRUNCATE {}", truncated.join(", ")));
        truncate.into_iter().chain(deleted.iter().map(|table| format!("DELETE FROM {table}"))).collect()
    }

    /// A table as a statement names it that empties it alone.
    fn alone(&self, table: &QualifiedName) -> Option<String> {
        let into_partitions = self.present.get(table)?;
        let only = if *into_partitions { "" } else { "ONLY " };
        Some(format!("{only}{}", qualified(&table.0, &table.1)))
    }
}
