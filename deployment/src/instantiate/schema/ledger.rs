//! What a load has made of the structure, and what is left to be made, at the target.

use irongate_checkpoint::{CHECKPOINT_SCHEMA, LOAD_SCHEMA};
use irongate_postgres::sql::quote_identifier;
use tokio_postgres::{Client, Error};

use super::script::Entry;

/// One object in the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) entry: Entry,
    /// It stands before the rows.
    pub(super) before: bool,
    pub(super) done: bool,
}

impl Line {
    pub(super) fn before(entry: &Entry) -> Self {
        Self { entry: entry.clone(), before: true, done: true }
    }

    pub(super) fn behind(entry: &Entry) -> Self {
        Self { entry: entry.clone(), before: false, done: false }
    }
}

pub(super) struct SchemaLedger {
    flow: String,
}

impl SchemaLedger {
    pub(super) fn new(flow: &str) -> Self {
        Self { flow: flow.to_owned() }
    }

    /// Makes the table; to be run by the administrator. Whoever loads may read it.
    pub(super) async fn create(&self, client: &Client, role: &str) -> Result<(), Error> {
        let (table, role) = (format!("{CHECKPOINT_SCHEMA}.{LOAD_SCHEMA}"), quote_identifier(role));
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                 flow text, ordinal bigint GENERATED ALWAYS AS IDENTITY, before boolean NOT NULL, kind text, schema text,
                 name text, sql text NOT NULL, done_at timestamptz, PRIMARY KEY (flow, kind, schema, name));
             GRANT SELECT, DELETE ON {table} TO {role}"
        );
        client.batch_execute(&sql).await
    }

    /// In their order; none where there is no such table.
    pub(super) async fn lines(&self, client: &Client) -> Result<Vec<Line>, Error> {
        let table = format!("{CHECKPOINT_SCHEMA}.{LOAD_SCHEMA}");
        let there = "SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL";
        if !client.query_one(there, &[&table]).await?.try_get::<_, bool>(0)? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT kind, schema, name, sql, before, done_at IS NOT NULL FROM {table} WHERE flow = $1 ORDER BY ordinal"
        );
        let line = |row: &tokio_postgres::Row| {
            Ok(Line {
                entry: Entry {
                    kind: row.try_get(0)?,
                    schema: row.try_get(1)?,
                    name: row.try_get(2)?,
                    sql: row.try_get(3)?,
                },
                before: row.try_get(4)?,
                done: row.try_get(5)?,
            })
        };
        client.query(&sql, &[&self.flow]).await?.iter().map(line).collect()
    }

    pub(super) async fn forget(&self, client: &Client) -> Result<(), Error> {
        let sql = format!("DELETE FROM {CHECKPOINT_SCHEMA}.{LOAD_SCHEMA} WHERE flow = $1");
        client.execute(&sql, &[&self.flow]).await.map(drop)
    }

    pub(super) async fn add(&self, client: &Client, line: Line) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO {CHECKPOINT_SCHEMA}.{LOAD_SCHEMA} (flow, before, kind, schema, name, sql, done_at)
             VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN pg_catalog.clock_timestamp() END)
             ON CONFLICT (flow, kind, schema, name) DO UPDATE SET before = excluded.before, sql = excluded.sql,
                 done_at = excluded.done_at"
        );
        let Entry { kind, schema, name, sql: text } = &line.entry;
        client
            .execute(&sql, &[&self.flow, &line.before, kind, schema, name, text, &line.done])
            .await
            .map(drop)
    }

    /// Notes that an object is there; one that is not in the ledger is an error of the server's.
    pub(super) async fn made(&self, client: &Client, entry: &Entry) -> Result<(), Error> {
        let sql = format!(
            "WITH made AS (UPDATE {CHECKPOINT_SCHEMA}.{LOAD_SCHEMA} SET done_at = pg_catalog.clock_timestamp()
                 WHERE flow = $1 AND kind = $2 AND schema = $3 AND name = $4 AND done_at IS NULL RETURNING 1)
             SELECT 1 / pg_catalog.count(*) FROM made"
        );
        client.query_one(&sql, &[&self.flow, &entry.kind, &entry.schema, &entry.name]).await.map(drop)
    }
}
