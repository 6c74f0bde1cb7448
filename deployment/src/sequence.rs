//! The sequences that belong to a flow. They are never in the stream; their values are copied.

use tokio_postgres::Client;

use crate::configuration::{Flow, TableName};

/// A sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sequence {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    /// The table and column that it belongs to, as serial and identity columns have one.
    pub(crate) owner: Option<(TableName, String)>,
}

/// All sequences of the database, by name.
pub(crate) async fn sequences(client: &Client) -> Result<Vec<Sequence>, irongate_postgres::Error> {
    let rows = client
        .query(
            "SELECT c.oid, n.nspname, c.relname, tn.nspname, t.relname, a.attname
               FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_catalog.pg_depend d
                 ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0
                AND d.deptype IN ('a', 'i')
               LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
               LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE c.relkind = 'S' AND c.relpersistence <> 't'
              ORDER BY n.nspname, c.relname",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let table: (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
            let table = table.0.zip(table.1).map(|(schema, name)| TableName { schema, name });
            Ok(Sequence {
                oid: row.try_get(0)?,
                name: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
                owner: table.zip(row.try_get(5)?),
            })
        })
        .collect()
}

/// Those of a source's sequences that belong to the flow: by their table, or by the patterns if they have none.
pub(crate) fn of_flow(all: Vec<Sequence>, flow: &Flow) -> Vec<Sequence> {
    let belongs = |sequence: &Sequence| {
        let name = sequence.owner.as_ref().map_or(&sequence.name, |(table, _)| table);
        flow.includes(&name.schema, &name.name)
    };
    all.into_iter().filter(belongs).collect()
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
