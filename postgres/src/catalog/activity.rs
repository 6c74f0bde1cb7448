//! Who is writing: what a new slot and a fence wait for.

use std::time::Duration;

use tokio_postgres::Client;

use crate::error::Error;

/// A session with a transaction that has written, in any database of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writer {
    /// Its backend's process id.
    pub pid: i32,
    /// Its role; none for some background processes.
    pub role: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its application name; empty where the asking role may not see it.
    pub application_name: String,
    /// `active`, `idle in transaction` and the like; none where the asking role may not see it.
    pub state: Option<String>,
    /// The transaction's id.
    pub xid: u32,
    /// How long the transaction has been open, if the asking role may see it.
    pub open_for: Option<Duration>,
}

/// A transaction that is prepared and neither committed nor rolled back, in any database of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreparedTransaction {
    /// Its global identifier.
    pub gid: String,
    /// Its transaction id.
    pub xid: u32,
    /// Who prepared it.
    pub owner: String,
    /// The database it belongs to.
    pub database: String,
    /// How long ago that was.
    pub age: Duration,
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default()
}

fn xid(text: &str) -> Result<u32, Error> {
    text.parse().map_err(|_| super::unexpected("transaction id"))
}

/// Sessions whose transaction has written, but this one; oldest first.
///
/// The server hides the transactions of other roles from a role that is no member of `pg_read_all_stats`: an empty
/// answer to such a role proves nothing.
pub async fn writers(client: &Client) -> Result<Vec<Writer>, Error> {
    let rows = client
        .query(
            "SELECT pid, usename::pg_catalog.text, datname::pg_catalog.text, coalesce(application_name, ''), state,
                    backend_xid::pg_catalog.text,
                    extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::pg_catalog.float8
               FROM pg_catalog.pg_stat_activity
              WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
              ORDER BY xact_start NULLS LAST, pid",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Writer {
                pid: row.try_get(0)?,
                role: row.try_get(1)?,
                database: row.try_get(2)?,
                application_name: row.try_get(3)?,
                state: row.try_get(4)?,
                xid: xid(row.try_get(5)?)?,
                open_for: row.try_get::<_, Option<f64>>(6)?.map(seconds),
            })
        })
        .collect()
}

/// Prepared transactions, oldest first.
pub async fn prepared_transactions(client: &Client) -> Result<Vec<PreparedTransaction>, Error> {
    let rows = client
        .query(
            "SELECT gid, transaction::pg_catalog.text, owner::pg_catalog.text, database::pg_catalog.text,
                    extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::pg_catalog.float8
               FROM pg_catalog.pg_prepared_xacts ORDER BY prepared, gid",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(PreparedTransaction {
                gid: row.try_get(0)?,
                xid: xid(row.try_get(1)?)?,
                owner: row.try_get(2)?,
                database: row.try_get(3)?,
                age: seconds(row.try_get(4)?),
            })
        })
        .collect()
}
