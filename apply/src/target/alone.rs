//! One change by itself: its statement, and what must come of it.

use std::sync::Arc;

use super::flight::Answer;
use crate::batch::{Batch, Change};
use crate::parameters;
use crate::statement::{self, Statement};
use crate::table::Plan;

/// One change's statement.
pub(super) struct Alone {
    pub(super) statement: Statement,
    pub(super) expected: Option<u64>,
    pub(super) operation: &'static str,
    pub(super) table: String,
    pub(super) schema_and_name: (String, String),
}

impl Alone {
    pub(super) fn of(batch: &Batch, index: usize, plans: &[Arc<Plan>]) -> Self {
        let (plan, statement, operation) = match batch.change(index) {
            Change::Truncate { relations, restart_identity, partial, .. } => {
                let tables = relations.iter().map(|relation| &*plans[*relation as usize]);
                let sql = if partial {
                    statement::empty(tables)
                } else {
                    statement::truncate(tables, restart_identity)
                };
                let plan = relations.first().map(|relation| &plans[*relation as usize]);
                (plan, Statement { sql, parameters: Vec::new() }, "truncate")
            }
            Change::Row { relation, row } => {
                let plan = &plans[relation];
                let nothing = || Statement { sql: "SELECT 1 WHERE false".to_owned(), parameters: Vec::new() };
                let (statement, operation) = match row {
                    irongate_trail::Row::Insert { .. } => (Some(plan.insert_row(row)), "insert"),
                    irongate_trail::Row::Update { .. } if statement::needs_replace(plan, row) => {
                        (plan.replace_row(row), "update")
                    }
                    irongate_trail::Row::Update { new, .. } => {
                        let written = statement::written(plan, new, statement::changes_key(plan, row));
                        (plan.update_row(row, &written), "update")
                    }
                    irongate_trail::Row::Delete { .. } => (plan.delete_row(row), "delete"),
                };
                (Some(plan), statement.unwrap_or_else(nothing), operation)
            }
        };
        let counted = operation != "truncate" && plan.is_some_and(|plan| !plan.barrier);
        let names = plan.map(|plan| (plan.relation.schema.clone(), plan.relation.name.clone()));
        Self {
            statement,
            // A trigger or rule may make nothing or something else of the change.
            expected: counted.then_some(1),
            operation,
            table: plan.map(|plan| plan.source()).unwrap_or_default(),
            schema_and_name: names.unwrap_or_default(),
        }
    }
}

pub(super) async fn execute_alone(
    client: &tokio_postgres::Client,
    prepared: &tokio_postgres::Statement,
    statement: &Statement,
    batch: &Batch,
    index: usize,
) -> Answer {
    let values = match batch.change(index) {
        Change::Row { row, .. } => parameters::values(row, &statement.parameters),
        Change::Truncate { .. } => Vec::new(),
    };
    client.execute_raw(prepared, values).await
}
