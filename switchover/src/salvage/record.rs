//! What the live site remembers of a salvage: each decision about each lost transaction, and who has signed for all of
//! them. It is asked before anything at the lost site is written over.

use irongate_postgres::sql::quote_identifier;
use irongate_trail::Lsn;
use serde::Serialize;
use tokio_postgres::types::PgLsn;

use crate::error::Error;
use crate::place::Place;

/// The statements that make the tables and let `role`, which repeats changes, write them. They can be run again.
pub(super) fn setup(role: Option<&str>) -> Vec<String> {
    let mut statements = vec![
        "CREATE SCHEMA IF NOT EXISTS irongate".to_owned(),
        "CREATE TABLE IF NOT EXISTS irongate.salvage_run (\n\
         \x20   run text PRIMARY KEY,\n\
         \x20   flow text NOT NULL,\n\
         \x20   system_identifier text NOT NULL,\n\
         \x20   divergence pg_lsn NOT NULL,\n\
         \x20   digest text NOT NULL,\n\
         \x20   signed_off_by text NOT NULL,\n\
         \x20   transactions bigint NOT NULL,\n\
         \x20   incomplete boolean NOT NULL,\n\
         \x20   looked_up_to pg_lsn,\n\
         \x20   begun timestamptz NOT NULL DEFAULT clock_timestamp(),\n\
         \x20   finished timestamptz\n)"
            .to_owned(),
        "CREATE TABLE IF NOT EXISTS irongate.salvage (\n\
         \x20   run text NOT NULL,\n\
         \x20   flow text NOT NULL,\n\
         \x20   system_identifier text NOT NULL,\n\
         \x20   commit_lsn pg_lsn NOT NULL,\n\
         \x20   xid bigint NOT NULL,\n\
         \x20   commit_time timestamptz NOT NULL,\n\
         \x20   table_schema text NOT NULL,\n\
         \x20   table_name text NOT NULL,\n\
         \x20   changes bigint NOT NULL,\n\
         \x20   decision text NOT NULL CHECK (decision IN ('keep', 'discard', 'replay')),\n\
         \x20   by_xid xid NOT NULL DEFAULT pg_catalog.pg_current_xact_id()::pg_catalog.xid,\n\
         \x20   at timestamptz NOT NULL DEFAULT clock_timestamp(),\n\
         \x20   PRIMARY KEY (flow, system_identifier, commit_lsn, xid, table_schema, table_name)\n)"
            .to_owned(),
        "CREATE INDEX IF NOT EXISTS salvage_by_xid ON irongate.salvage USING hash (by_xid)".to_owned(),
    ];
    if let Some(role) = role.map(quote_identifier) {
        statements.push(format!("GRANT USAGE ON SCHEMA irongate TO {role}"));
        statements.push(format!(
            "GRANT SELECT, INSERT, UPDATE ON irongate.salvage, irongate.salvage_run TO {role}"
        ));
    }
    statements
}

/// Lost transactions whose fate was decided, signed for and carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SignedOff {
    /// The salvage.
    pub run: String,
    /// Who has signed.
    pub by: String,
    /// When the decisions had been carried out, by the live site's clock.
    pub at: String,
    /// Lost transactions that were found.
    pub transactions: u64,
    /// It was signed for that there may be more, which cannot be known.
    pub incomplete: bool,
    /// How far the lost site's log went when it was looked into: what was committed there later was not looked at. None if
    /// its server could not be asked.
    pub looked_up_to: Option<String>,
}

/// Whether what was lost of a flow beyond a divergence point was decided, signed for and carried out at the live site. The
/// newest, if it was done more than once.
///
/// # Errors
/// [`Error::Database`].
///
/// Cancel-safe.
pub async fn signed_off(place: &Place, flow: &str, divergence: Lsn) -> Result<Option<SignedOff>, Error> {
    const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
         ON n.oid = c.relnamespace WHERE n.nspname = 'irongate' AND c.relname = 'salvage_run')";
    const SIGNED: &str =
        "SELECT run, signed_off_by, finished::text, transactions, incomplete, looked_up_to::text FROM irongate.salvage_run
          WHERE flow = $1 AND divergence = $2 AND finished IS NOT NULL ORDER BY finished DESC LIMIT 1";
    let failed = || place.failed("ask for the salvage");
    let exists = place.session.query_one(EXISTS, &[]).await.and_then(|row| row.try_get(0));
    if !exists.map_err(failed())? {
        return Ok(None);
    }
    let divergence = PgLsn::from(divergence.0);
    let Some(row) = place.session.query_opt(SIGNED, &[&flow, &divergence]).await.map_err(failed())? else {
        return Ok(None);
    };
    let read = || {
        Ok::<_, tokio_postgres::Error>(SignedOff {
            run: row.try_get(0)?,
            by: row.try_get(1)?,
            at: row.try_get(2)?,
            transactions: row.try_get::<_, i64>(3)?.unsigned_abs(),
            incomplete: row.try_get(4)?,
            looked_up_to: row.try_get(5)?,
        })
    };
    read().map(Some).map_err(failed())
}
