//! Publications.

use tokio_postgres::Client;

use crate::error::Error;

/// A publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// It publishes every table there is and will be.
    pub all_tables: bool,
    /// It publishes every table of some schemas.
    pub schemas: Vec<String>,
    /// It publishes inserted rows.
    pub publishes_insert: bool,
    /// It publishes updated rows.
    pub publishes_update: bool,
    /// It publishes deleted rows.
    pub publishes_delete: bool,
    /// It publishes TRUNCATE.
    pub publishes_truncate: bool,
    /// It publishes stored generated columns; `None` before PostgreSQL 18, which cannot.
    pub publishes_generated: Option<bool>,
    /// Rows of partitions are published as rows of the root.
    pub via_root: bool,
    /// Schema and name of what is published, as the stream will name it: partitions, or with `via_root` their roots.
    pub tables: Vec<(String, String)>,
}

/// A table in a publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedTable {
    /// The publication.
    pub publication: String,
    /// The table's OID.
    pub oid: u32,
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// The published columns, in the table's order.
    pub columns: Vec<String>,
    /// The condition that rows must meet, as SQL.
    pub row_filter: Option<String>,
}

/// The publication `name`, if there is one.
pub async fn publication(client: &Client, name: &str) -> Result<Option<Publication>, Error> {
    let row = client
        .query_opt(
            "SELECT p.pubname, pg_catalog.pg_get_userbyid(p.pubowner), p.puballtables, p.pubinsert, p.pubupdate,
                    p.pubdelete, p.pubtruncate, p.pubviaroot,
                    array(SELECT s.nspname::pg_catalog.text
                            FROM pg_catalog.pg_publication_namespace n
                            JOIN pg_catalog.pg_namespace s ON s.oid = n.pnnspid
                           WHERE n.pnpubid = p.oid ORDER BY 1),
                    pg_catalog.to_jsonb(p) OPERATOR(pg_catalog.->>) 'pubgencols' OPERATOR(pg_catalog.=) 's'
               FROM pg_catalog.pg_publication p WHERE p.pubname = $1::pg_catalog.text",
            &[&name],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let tables = publication_tables(client, &[name]).await?;
    Ok(Some(Publication {
        name: row.try_get(0)?,
        owner: row.try_get(1)?,
        all_tables: row.try_get(2)?,
        publishes_insert: row.try_get(3)?,
        publishes_update: row.try_get(4)?,
        publishes_delete: row.try_get(5)?,
        publishes_truncate: row.try_get(6)?,
        via_root: row.try_get(7)?,
        schemas: row.try_get(8)?,
        publishes_generated: row.try_get(9)?,
        tables: tables.into_iter().map(|table| (table.schema, table.name)).collect(),
    }))
}

/// The tables in some publications, ordered by schema, name and publication. A publication that does not exist has
/// none.
pub async fn publication_tables(
    client: &Client,
    publications: &[&str],
) -> Result<Vec<PublishedTable>, Error> {
    let rows = client
        .query(
            "SELECT t.pubname, c.oid, t.schemaname, t.tablename, t.attnames::pg_catalog.text[], t.rowfilter
               FROM pg_catalog.pg_publication_tables t
               JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
              WHERE t.pubname = ANY ($1::pg_catalog.text[])
              ORDER BY t.schemaname, t.tablename, t.pubname",
            &[&publications],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(PublishedTable {
                publication: row.try_get(0)?,
                oid: row.try_get(1)?,
                schema: row.try_get(2)?,
                name: row.try_get(3)?,
                columns: row.try_get::<_, Option<_>>(4)?.unwrap_or_default(),
                row_filter: row.try_get(5)?,
            })
        })
        .collect()
}
