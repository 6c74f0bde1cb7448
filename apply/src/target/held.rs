//! What waits in the error queue holds up what follows it: a later change of the same row queues behind it.
//!
//! Otherwise a replay would put an old version over a newer one, or bring back a row that was deleted since. So the changes
//! of a row are in the queue in the source's order from the first that is there, and a replay takes none before those in
//! front of it.
//!
//! *No cost where nothing waits.* Only Replicat puts changes into the queue, and there is one Replicat of a flow. So the
//! tables of which something waits are known here: they are read when the target is loaded, which also follows every
//! rollback, and added to as something is queued. Others only take changes out, so that what is known here is never too
//! little; it is read again now and then until it is empty.
//!
//! *Which rows wait* is asked of the queue itself for each change of such a table, and so is right however the queue is
//! dealt with meanwhile. A replay that is not committed yet still holds what it replays: then the later change is queued,
//! which is late but in order. Where it is committed, the later change finds the row as the replay left it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_checkpoint::Applied;
use irongate_trail::{CommitLsn, Old, Row, Tuple, TupleBuilder};
use tokio_postgres::Client;

use super::flight::sort;
use super::postgres::Connection;
use super::resolve::{complete, of_tuple, query};
use super::{Failure, Outcome};
use crate::batch::{Batch, Change};
use crate::error::{Error, RowError};
use crate::settings::ReplicatSettings;
use crate::statement::{Statement, changes_key, key_tuple};
use crate::table::{Key, Plan};

/// How often it is looked whether the queue has been dealt with.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Source tables of which changes wait in the queue, or have until lately.
#[derive(Default, Debug)]
pub(crate) struct Held {
    tables: HashSet<(String, String)>,
    read: Option<Instant>,
}

impl Held {
    pub(super) async fn load(&mut self, client: &Client, flow: &str) -> Result<(), Error> {
        const THERE: &str = "SELECT pg_catalog.to_regclass('irongate.error_queue') IS NOT NULL";
        const SQL: &str = "SELECT DISTINCT table_schema, table_name FROM irongate.error_queue \
             WHERE flow = $1 AND state = 'queued' AND class <> 'conflict'";
        self.tables.clear();
        if client.query_one(THERE, &[]).await?.try_get(0)? {
            for row in client.query(SQL, &[&flow]).await? {
                self.tables.insert((row.try_get(0)?, row.try_get(1)?));
            }
        }
        self.read = Some(Instant::now());
        Ok(())
    }

    /// Reads again what others may have dealt with. Only between target transactions.
    pub(super) async fn look_again(&mut self, client: &Client, flow: &str) -> Result<(), Error> {
        if self.tables.is_empty() || self.read.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.load(client, flow).await
    }

    /// Whether anything waits at all.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether anything waits of a table that the batch speaks of.
    pub(super) fn concerns(&self, batch: &Batch) -> bool {
        !self.tables.is_empty() && batch.relations().iter().any(|table| self.has(&table.schema, &table.name))
    }

    fn has(&self, schema: &str, name: &str) -> bool {
        self.tables.iter().any(|(held_schema, held)| held_schema == schema && held == name)
    }

    /// Notes that a change of the batch goes into the queue.
    pub(super) fn add(&mut self, batch: &Batch, index: usize) {
        let mut add = |relation: usize| {
            let table = &batch.relations()[relation];
            if !self.has(&table.schema, &table.name) {
                self.tables.insert((table.schema.clone(), table.name.clone()));
            }
        };
        match batch.change(index) {
            Change::Row { relation, .. } => add(relation),
            Change::Truncate { relations, .. } => {
                relations.iter().for_each(|relation| add(*relation as usize));
            }
        }
    }
}

/// The rows that a change is about: as it was and as it becomes, where that is not one and the same.
fn touched<'a>(plan: &Plan, row: Row<'a>, image: Option<Tuple<'a>>) -> Vec<Tuple<'a>> {
    match row {
        Row::Insert { .. } => image.into_iter().collect(),
        Row::Delete { old } => vec![old.tuple()],
        Row::Update { .. } if plan.key == Key::WholeRow || changes_key(plan, row) => {
            row.old().map(Old::tuple).into_iter().chain(image).collect()
        }
        Row::Update { .. } => key_tuple(row).into_iter().collect(),
    }
}

/// The questions about one change, each with the row that fills it, or none.
fn questions(
    batch: &Batch,
    index: usize,
    plans: &[Arc<Plan>],
    flow: &str,
    before: Option<i64>,
    ask: impl Fn(&Plan) -> bool,
) -> Vec<(Statement, TupleBuilder)> {
    let copied = |tuple: Tuple<'_>| tuple.values().fold(TupleBuilder::new(), TupleBuilder::value);
    match batch.change(index) {
        Change::Truncate { relations, .. } => {
            let plans = relations.iter().map(|relation| &plans[*relation as usize]).filter(|plan| ask(plan));
            plans.map(|plan| (plan.held_at_all(flow, before), TupleBuilder::new())).collect()
        }
        Change::Row { relation, row } => {
            let plan = &plans[relation];
            if !ask(plan) {
                return Vec::new();
            }
            let image = complete(plan, row);
            let rows = touched(plan, row, image.as_ref().map(TupleBuilder::as_tuple));
            rows.into_iter().map(|row| (plan.held(flow, row, before), copied(row))).collect()
        }
    }
}

impl Connection {
    /// Applies a batch of tables of which something waits as any other, unless a change of it must wait too: then its
    /// refusal has it applied change by change.
    pub(super) async fn apply_around_held(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        let plans = self.plans(batch, settings).await?;
        if self.any_behind(batch, 0..batch.len(), &plans, settings).await? {
            let place = batch.place(0);
            return Err(Failure::Refused(Error::Row {
                operation: "transaction",
                table: plans.first().map(|plan| plan.source()).unwrap_or_default(),
                reason: RowError::Behind,
                commit: place.map_or(CommitLsn::default(), |(begin, _)| begin.commit_lsn),
                ordinal: 0,
                fix: None,
            }));
        }
        if settings.conflicts.is_some() {
            self.apply_resolving(batch, settings, end).await
        } else {
            self.apply_grouped(batch, settings, end).await
        }
    }

    /// Whether a change of the range has to wait behind another, or nobody can tell. Sent in one flight.
    pub(super) async fn any_behind(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        plans: &[Arc<Plan>],
        settings: &ReplicatSettings,
    ) -> Result<bool, Failure> {
        if !self.held.concerns(batch) {
            return Ok(false);
        }
        let mut asked = Vec::new();
        for index in range {
            let held = |plan: &Plan| self.held.has(&plan.relation.schema, &plan.relation.name);
            for (statement, row) in questions(batch, index, plans, &settings.flow, None, held) {
                match self.prepare(&statement.sql, None).await.map_err(sort) {
                    Ok(prepared) => asked.push((statement, row, prepared)),
                    Err(Failure::Refused(_)) => return Ok(true),
                    Err(failure) => return Err(failure),
                }
            }
        }
        let client = self.session.client();
        let answers = asked
            .iter()
            .map(|(statement, row, prepared)| query(client, prepared, statement, of_tuple(row.as_tuple())));
        let mut found = false;
        for answer in futures_util::future::join_all(answers).await {
            match answer.map_err(sort) {
                Ok(rows) => found |= !rows.is_empty(),
                Err(Failure::Refused(_)) => found = true,
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    /// Whether a change has to wait behind another, and if so whether with its whole transaction; the reason where the
    /// server cannot compare its key with those that wait.
    pub(super) async fn behind(
        &mut self,
        batch: &Batch,
        index: usize,
        plans: &[Arc<Plan>],
        settings: &ReplicatSettings,
    ) -> Result<Result<Option<bool>, RowError>, Failure> {
        if !self.held.concerns(batch) {
            return Ok(Ok(None));
        }
        let held = |plan: &Plan| self.held.has(&plan.relation.schema, &plan.relation.name);
        let asked = questions(batch, index, plans, &settings.flow, None, held);
        self.ask_queue(asked).await
    }

    /// The same of a change that is itself in the queue, with the number `id`: whether another is in front of it.
    pub(crate) async fn is_behind(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        id: i64,
    ) -> Result<bool, Error> {
        let unsorted = |failure: Failure| match failure {
            Failure::Lost(error) | Failure::Refused(error) => error,
            Failure::Queue => {
                Error::Trail(irongate_trail::Error::Misuse("a policy asked of a single change"))
            }
        };
        let plans = self.plans(batch, settings).await.map_err(unsorted)?;
        let asked = questions(batch, 0, &plans, &settings.flow, Some(id), |_| true);
        let answer = self.ask_queue(asked).await.map_err(unsorted)?;
        // What cannot be compared is for the operator to tell apart.
        Ok(!matches!(answer, Ok(None)))
    }

    async fn ask_queue(
        &mut self,
        asked: Vec<(Statement, TupleBuilder)>,
    ) -> Result<Result<Option<bool>, RowError>, Failure> {
        let mut behind = None;
        for (statement, row) in asked {
            let answer = match self.prepare(&statement.sql, None).await {
                Ok(prepared) => {
                    query(self.session.client(), &prepared, &statement, of_tuple(row.as_tuple())).await
                }
                Err(error) => Err(error),
            };
            let rows = match answer {
                Ok(rows) => rows,
                Err(error) => {
                    let reason = error.as_db_error().map(RowError::server);
                    return match (sort(error), reason) {
                        (Failure::Refused(_), Some(reason)) => Ok(Err(reason)),
                        (failure, _) => Err(failure),
                    };
                }
            };
            for row in rows {
                let whole: bool = row.try_get("whole_transaction").map_err(sort)?;
                behind = Some(whole || behind.unwrap_or_default());
            }
        }
        Ok(Ok(behind))
    }
}
