//! Unique indexes, exclusion constraints and foreign keys.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::{ask_about, by_table, unexpected};
use crate::error::Error;

/// What an index enforces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexKind {
    /// The primary key.
    PrimaryKey,
    /// Uniqueness.
    Unique,
    /// An exclusion constraint.
    Exclusion,
}

/// An index that enforces something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// Its name, which is also the constraint's.
    pub name: String,
    /// What it enforces.
    pub kind: IndexKind,
    /// Its key columns in their order; an expression is `None`.
    pub columns: Vec<Option<String>>,
    /// The constraint behind it may be deferred: then it identifies no rows, and `session_replication_role =
    /// replica` does not enforce it.
    pub deferrable: bool,
    /// It is checked with each statement and not only later.
    pub immediate: bool,
    /// It can be relied on.
    pub valid: bool,
    /// It covers only some rows.
    pub partial: bool,
    /// Two NULLs are not distinct.
    pub nulls_not_distinct: bool,
    /// It is the one that REPLICA IDENTITY USING INDEX names.
    pub replica_identity: bool,
}

impl Index {
    /// The names of its columns, if it has no expressions.
    pub fn column_names(&self) -> Option<Vec<&str>> {
        self.columns.iter().map(Option::as_deref).collect()
    }

    /// Whether at most one row has a given key of values that are not NULL, at every moment.
    pub fn identifies_rows(&self) -> bool {
        matches!(self.kind, IndexKind::PrimaryKey | IndexKind::Unique)
            && self.valid
            && self.immediate
            && !self.deferrable
            && !self.partial
            && self.columns.iter().all(Option::is_some)
    }
}

/// A foreign key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Schema and name of the table it points to.
    pub references: (String, String),
    /// It may be checked as late as at commit.
    pub deferrable: bool,
    /// It is known to hold for every row.
    pub validated: bool,
}

/// Indexes of tables, primary key first, then by name.
pub(super) async fn indexes(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, Vec<Index>>, Error> {
    let rows = ask_about(
        client,
        "SELECT i.indrelid, c.relname, i.indisprimary, i.indisexclusion,
                array(SELECT a.attname::pg_catalog.text
                        FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k(n)
                        LEFT JOIN pg_catalog.pg_attribute a
                          ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n] AND a.attnum > 0
                       ORDER BY k.n),
                EXISTS (SELECT FROM pg_catalog.pg_constraint o
                         WHERE o.conindid = i.indexrelid AND o.contype IN ('p', 'u', 'x') AND o.condeferrable),
                i.indimmediate, i.indisvalid AND i.indisready AND i.indislive, i.indpred IS NOT NULL,
                i.indnullsnotdistinct, i.indisreplident
           FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = ANY ($1::pg_catalog.oid[]) AND (i.indisunique OR i.indisexclusion)
          ORDER BY i.indrelid, NOT i.indisprimary, c.relname",
        tables,
    )
    .await?;
    by_table(rows.iter().map(|row| {
        let kind = match (row.try_get(2)?, row.try_get(3)?) {
            (true, _) => IndexKind::PrimaryKey,
            (_, true) => IndexKind::Exclusion,
            _ => IndexKind::Unique,
        };
        let index = Index {
            name: row.try_get(1)?,
            kind,
            columns: row.try_get(4)?,
            deferrable: row.try_get(5)?,
            immediate: row.try_get(6)?,
            valid: row.try_get(7)?,
            partial: row.try_get(8)?,
            nulls_not_distinct: row.try_get(9)?,
            replica_identity: row.try_get(10)?,
        };
        if index.columns.is_empty() {
            return Err(unexpected("index without columns"));
        }
        Ok((row.try_get(0)?, index))
    }))
}

/// Foreign keys of tables, by name.
pub(super) async fn foreign_keys(
    client: &Client,
    tables: &[u32],
) -> Result<BTreeMap<u32, Vec<ForeignKey>>, Error> {
    let rows = ask_about(
        client,
        "SELECT o.conrelid, o.conname, n.nspname, c.relname, o.condeferrable, o.convalidated,
                array(SELECT a.attname::pg_catalog.text
                        FROM pg_catalog.unnest(o.conkey) WITH ORDINALITY k(attnum, n)
                        JOIN pg_catalog.pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.attnum
                       ORDER BY k.n)
           FROM pg_catalog.pg_constraint o
           JOIN pg_catalog.pg_class c ON c.oid = o.confrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE o.conrelid = ANY ($1::pg_catalog.oid[]) AND o.contype = 'f'
          ORDER BY o.conrelid, o.conname",
        tables,
    )
    .await?;
    by_table(rows.iter().map(|row| {
        let key = ForeignKey {
            name: row.try_get(1)?,
            references: (row.try_get(2)?, row.try_get(3)?),
            deferrable: row.try_get(4)?,
            validated: row.try_get(5)?,
            columns: row.try_get(6)?,
        };
        Ok((row.try_get(0)?, key))
    }))
}
