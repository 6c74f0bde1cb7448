//! Questions to a server's catalogs, with typed answers.
//!
//! Every name in the questions is qualified with `pg_catalog`, so that they mean the same in any session. Type names
//! in the answers are qualified where the session's `search_path` does not reach them; a
//! [`Session`](crate::Session)'s reaches nothing but `pg_catalog`, which makes them unambiguous.

mod activity;
mod index;
mod publication;
mod sequence;
mod server;
mod slot;
mod structure;
mod table;

use std::collections::BTreeMap;

use tokio_postgres::Client;

pub use activity::{PreparedTransaction, Writer, prepared_transactions, writers};
pub use index::{ForeignKey, Index, IndexKind};
pub use publication::{Publication, PublishedTable, publication, publication_tables};
pub use sequence::{Counting, Sequence, Stand, sequences, set as set_sequences, stands};
pub use server::{
    DatabaseIdentity, RoleFacts, ServerFacts, current_wal_flush_lsn, current_wal_lsn, database_identity,
    role_facts, server_facts, setting,
};
pub use slot::{SlotFacts, slot, slots};
pub use structure::{
    DDL_PREFIX, EXTENSION_STRUCTURE, FUNCTION_STRUCTURE, SCHEMA_STRUCTURE, SEQUENCE_STRUCTURE,
    STRUCTURE_SETTINGS, TABLE_STRUCTURE, TYPE_STRUCTURE, VIEW_STRUCTURE,
};
pub use table::{
    Column, Generated, Identity, Table, TableKind, TableSummary, Trigger, TriggerFires, described, table,
    tables, tables_matching,
};

use crate::error::Error;

/// A value that a catalog should not have.
fn unexpected(what: &str) -> Error {
    Error::protocol(format!("the catalog's {what} has a value that is not known"))
}

/// Rows by the table they belong to.
fn by_table<T>(
    rows: impl IntoIterator<Item = Result<(u32, T), Error>>,
) -> Result<BTreeMap<u32, Vec<T>>, Error> {
    let mut tables: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for row in rows {
        let (table, row) = row?;
        tables.entry(table).or_default().push(row);
    }
    Ok(tables)
}

/// The rows of a question that is asked about tables by their OIDs.
async fn ask_about(
    client: &Client,
    question: &str,
    tables: &[u32],
) -> Result<Vec<tokio_postgres::Row>, Error> {
    Ok(client.query(question, &[&tables]).await?)
}
