//! What would be sent for a batch, made without a server: for measuring what making it costs.

use std::sync::Arc;

use super::ready::Ready;
use crate::batch::Batch;
use crate::compile::compile;
use crate::error::Error;
use crate::table::{Plan, TargetTable};

/// What would have been sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rehearsal {
    /// Statements, without those that begin and end the transaction.
    pub statements: usize,
    /// Bytes of their texts and of the values that fill them.
    pub bytes: usize,
}

/// Makes the statements of a batch and what fills them, as [`PostgresTarget`](crate::PostgresTarget) does, and sends
/// nothing. `tables` has one for each of the batch's relations.
///
/// # Errors
/// As for a table that does not take the source's columns; [`Error::Trail`] with fewer tables than relations.
pub fn rehearse(batch: &Batch, tables: &[TargetTable]) -> Result<Rehearsal, Error> {
    if tables.len() < batch.relations().len() {
        return Err(Error::Trail(irongate_trail::Error::Misuse(
            "a batch with a table that is not described",
        )));
    }
    let plan =
        |(relation, table): (_, &TargetTable)| Plan::new(relation, table.clone(), None, None).map(Arc::new);
    let plans: Vec<Arc<Plan>> = batch.relations().iter().zip(tables).map(plan).collect::<Result<_, _>>()?;
    let mut rehearsal = Rehearsal::default();
    for step in compile(batch, &plans) {
        let ready = Ready::of(step, batch, &plans);
        rehearsal.statements += 1;
        rehearsal.bytes += ready.statement.sql.len() + ready.fill(batch);
    }
    Ok(rehearsal)
}
