//! A step of a batch with its statement: a set, or one change by itself; how it is sent, and what must come of it.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::SinkExt;
use tokio_postgres::types::Type;

use super::Failure;
use super::alone::{Alone, execute_alone};
use super::flight::{Answer, sort};
use crate::batch::{Batch, Change};
use crate::compile::{SetKind, Step};
use crate::error::{Error, RowError};
use crate::parameters;
use crate::statement::{self, Statement};
use crate::table::Plan;

/// From so many rows on an insert goes by COPY. Below, the round trip that COPY needs costs more than it saves.
const COPY_FROM_ROWS: usize = 500;
/// Bytes of one piece of COPY data.
const COPY_PIECE: usize = 256 * 1024;
/// Updates and deletes of fewer rows are guarded, so that COMMIT need not wait for their counts. With more rows the guard
/// costs the server more than the wait costs us.
const GUARDED_ROWS: usize = 100;

/// A step with its statement.
pub(super) struct Ready {
    pub(super) statement: Statement,
    rows: Vec<u32>,
    is_set: bool,
    pub(super) by_copy: bool,
    /// The server refuses the statement if it does not change the rows that it should.
    pub(super) sure: bool,
    /// Rows that must be changed, and of which table, as the error says it.
    expected: Option<u64>,
    operation: &'static str,
    table: String,
}

impl Ready {
    pub(super) fn of(step: Step, batch: &Batch, plans: &[Arc<Plan>]) -> Self {
        match step {
            Step::Set { plan, kind, rows } => {
                let plan = &plans[plan];
                let by_copy =
                    kind == SetKind::Insert && rows.len() >= COPY_FROM_ROWS && !plan.table.row_security;
                let (statement, operation) = match &kind {
                    SetKind::Insert if by_copy => (plan.copy(), "insert"),
                    SetKind::Insert => (plan.insert_set(), "insert"),
                    SetKind::Update(written) => (plan.update_set(written), "update"),
                    SetKind::Delete => (plan.delete_set(), "delete"),
                };
                let expected = (!plan.table.has_rules).then_some(rows.len() as u64);
                let table = plan.source();
                let sure = !is_watched(plan) && (kind == SetKind::Insert || rows.len() < GUARDED_ROWS);
                if !sure || kind == SetKind::Insert {
                    Self { statement, rows, is_set: true, by_copy, sure, expected, operation, table }
                } else {
                    let statement = statement.guarded("pg_catalog.cardinality($1)");
                    Self { statement, rows, is_set: true, by_copy, sure, expected: Some(1), operation, table }
                }
            }
            Step::Alone(index) => {
                let mut alone = Alone::of(batch, index as usize, plans);
                let sure = match batch.change(index as usize) {
                    Change::Truncate { .. } => true,
                    Change::Row { relation, .. } if is_watched(&plans[relation]) => false,
                    Change::Row { row: irongate_trail::Row::Insert { .. }, .. } => true,
                    Change::Row { relation, row } if statement::needs_replace(&plans[relation], row) => false,
                    Change::Row { .. } => {
                        alone.statement = alone.statement.guarded("1");
                        true
                    }
                };
                Self {
                    statement: alone.statement,
                    rows: vec![index],
                    is_set: false,
                    by_copy: false,
                    sure,
                    expected: alone.expected,
                    operation: alone.operation,
                    table: alone.table,
                }
            }
        }
    }

    /// Types of a set's parameters.
    pub(super) fn set_parameters(&self) -> Option<Vec<Type>> {
        // COPY has columns, and no parameters.
        let parameters = if self.by_copy { &[][..] } else { &self.statement.parameters };
        self.is_set.then(|| parameters.iter().map(|parameter| parameter.element.array()).collect())
    }

    /// Sends the statement when first polled.
    pub(super) async fn execute(
        &self,
        client: &tokio_postgres::Client,
        prepared: &tokio_postgres::Statement,
        batch: &Batch,
    ) -> Result<(), Failure> {
        let answer = if self.is_set {
            let Some(columns) = parameters::columns(batch, &self.rows, &self.statement.parameters) else {
                return Err(self.refused(RowError::Missing));
            };
            client.execute_raw(prepared, columns).await
        } else {
            execute_alone(client, prepared, &self.statement, batch, self.rows[0] as usize).await
        };
        self.count(answer)
    }

    /// Sends the rows by COPY, whose data cannot be sent before the server asks for it.
    pub(super) async fn copy(
        &self,
        client: &tokio_postgres::Client,
        prepared: &tokio_postgres::Statement,
        batch: &Batch,
    ) -> Result<(), Failure> {
        let mut sink = Box::pin(client.copy_in::<_, bytes::Bytes>(prepared).await.map_err(sort)?);
        let mut data = BytesMut::with_capacity(2 * COPY_PIECE);
        // Rows are added in runs that surely stay near the size of a piece.
        for rows in self.rows.chunks(64) {
            parameters::copy_rows(batch, rows, &self.statement.parameters, &mut data);
            if data.len() >= COPY_PIECE {
                sink.feed(data.split().freeze()).await.map_err(sort)?;
            }
        }
        if !data.is_empty() {
            sink.feed(data.freeze()).await.map_err(sort)?;
        }
        self.count(sink.as_mut().finish().await)
    }

    /// Makes what fills the statement, and says how many bytes it is.
    pub(super) fn fill(&self, batch: &Batch) -> usize {
        let parameters = &self.statement.parameters;
        if self.by_copy {
            let mut data = BytesMut::with_capacity(2 * COPY_PIECE);
            parameters::copy_rows(batch, &self.rows, parameters, &mut data);
            return data.len();
        }
        if self.is_set {
            let columns = parameters::columns(batch, &self.rows, parameters);
            return columns.iter().flatten().map(parameters::Column::len).sum();
        }
        match batch.change(self.rows[0] as usize) {
            Change::Row { row, .. } => {
                parameters::values(row, parameters).iter().map(parameters::Single::len).sum()
            }
            Change::Truncate { .. } => 0,
        }
    }

    fn count(&self, answer: Answer) -> Result<(), Failure> {
        let rows = answer.map_err(sort)?;
        if self.expected.is_none_or(|expected| rows == expected) {
            return Ok(());
        }
        Err(self.refused(if rows == 0 { RowError::Missing } else { RowError::Ambiguous(rows) }))
    }

    /// Exact mode finds the place; this names the table if even that should fail.
    fn refused(&self, reason: RowError) -> Failure {
        Failure::Refused(Error::Row {
            operation: self.operation,
            table: self.table.clone(),
            reason,
            commit: irongate_trail::CommitLsn::default(),
            ordinal: 0,
            fix: None,
        })
    }
}

/// Whether something at the target may make nothing of a change, without a refusal: a trigger, a rule or a policy.
fn is_watched(plan: &Plan) -> bool {
    plan.barrier || plan.table.row_security
}
