//! The sequences that belong to a flow. What they give is never in the stream: where they stand is looked at again and
//! again, copied at an initial load and at a switchover, and put beyond the rows at a failover.

mod ahead_of_rows;
mod poll;

use irongate_postgres::catalog;
use tokio_postgres::Client;

use crate::configuration::{Flow, TableName};

pub(crate) use ahead_of_rows::behind;
pub use ahead_of_rows::{Raised, Secured, secure_sequences};
pub use poll::SequencePoll;

/// A sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sequence {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    /// The table and column that it belongs to, as serial and identity columns have one.
    pub(crate) owner: Option<(TableName, String)>,
}

impl Sequence {
    pub(crate) fn of(sequence: &catalog::Sequence) -> Self {
        let owner = sequence.owner.as_ref();
        Self {
            oid: sequence.oid,
            name: TableName::new(&sequence.schema, &sequence.name),
            owner: owner.map(|(schema, table, column)| (TableName::new(schema, table), column.clone())),
        }
    }
}

/// All sequences of the database, by name.
pub(crate) async fn sequences(client: &Client) -> Result<Vec<Sequence>, irongate_postgres::Error> {
    Ok(catalog::sequences(client).await?.iter().map(Sequence::of).collect())
}

/// Those of a source's sequences that belong to the flow: by their table, or by the patterns if they have none.
pub(crate) fn of_flow(all: Vec<Sequence>, flow: &Flow) -> Vec<Sequence> {
    all.into_iter().filter(|sequence| belongs(sequence, flow)).collect()
}

pub(crate) fn belongs(sequence: &Sequence, flow: &Flow) -> bool {
    let name = sequence.owner.as_ref().map_or(&sequence.name, |(table, _)| table);
    flow.includes(&name.schema, &name.name)
}

/// The target's sequence for one of the source's: the one of the same column of the table's counterpart, else the one
/// of the same name.
pub(crate) fn counterpart<'a>(
    targets: &'a [Sequence],
    flow: &Flow,
    source: &Sequence,
) -> Option<&'a Sequence> {
    let by_column = source.owner.as_ref().and_then(|(table, column)| {
        let owner = Some((flow.target_of(table), column.clone()));
        targets.iter().find(|target| target.owner == owner)
    });
    by_column.or_else(|| {
        let name = flow.target_of(&source.name);
        targets.iter().find(|target| target.name == name)
    })
}
