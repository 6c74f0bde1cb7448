//! What a slot that nobody reads would show: local transactions with changes, behind a place in the log.
//!
//! Looking moves nothing. What Replicat applied there from the other site says so (message `O`, for origin) and does not
//! count; inserts, updates, deletes and truncates do (`I`, `U`, `D`, `T`: PostgreSQL manual, "Logical Replication Message
//! Formats").

use std::time::{Duration, Instant};

use irongate_deployment::configuration::Flow;
use irongate_postgres::sql::quote_identifier;
use irongate_trail::Lsn;
use tokio_postgres::types::PgLsn;

use crate::error::Error;
use crate::place::Place;

/// How long a slot's process may be at work behind the end of its reader.
const AT_WORK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// What a slot shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// There is no such slot.
    NoSlot,
    /// Its log is gone.
    Lost,
    /// So many transactions, and whether somebody has confirmed more than the place.
    Transactions { count: u64, is_confirmed_further: bool },
}

/// Looks into the slot of a flow at its source.
pub(super) async fn behind(place: &Place, flow: &Flow, after: Lsn) -> Result<Shown, Error> {
    const PEEK: &str = "SELECT coalesce(s.confirmed_flush_lsn > $3, false),
            CASE WHEN s.wal_status <> 'lost' THEN (SELECT count(*) FROM (
                SELECT p.xid FROM pg_catalog.pg_logical_slot_peek_binary_changes(s.slot_name, NULL, NULL,
                       'proto_version', '1', 'publication_names', $2::text) p
                 GROUP BY p.xid
                HAVING max(p.lsn) > $3 AND bool_or(pg_catalog.get_byte(p.data, 0) IN (68, 73, 84, 85))
                   AND NOT bool_or(pg_catalog.get_byte(p.data, 0) = 79)) local) END
          FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
    let failed = || place.failed("look into the slot for what was written");
    let (publication, after) = (quote_identifier(&flow.publication), PgLsn::from(after.0));
    let row = place.session.query_opt(PEEK, &[&flow.slot, &publication, &after]).await.map_err(failed())?;
    let Some(row) = row else { return Ok(Shown::NoSlot) };
    let count: Option<i64> = row.try_get(1).map_err(failed())?;
    Ok(match count {
        None => Shown::Lost,
        Some(count) => Shown::Transactions {
            count: count.unsigned_abs(),
            is_confirmed_further: row.try_get(0).map_err(failed())?,
        },
    })
}

/// How far a slot that nobody reads any more has been read; nothing of one that is not there, or is still read after a while.
pub(super) async fn read_up_to(place: &Place, slot: &str) -> Result<Option<Lsn>, Error> {
    const SQL: &str =
        "SELECT active, confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let failed = || place.failed("ask how far the slot was read");
    let begun = Instant::now();
    while begun.elapsed() < AT_WORK {
        let Some(row) = place.session.query_opt(SQL, &[&slot]).await.map_err(failed())? else { break };
        // Its process at the server may have the reader's last word still to read.
        if !row.try_get::<_, bool>(0).map_err(failed())? {
            let lsn: Option<PgLsn> = row.try_get(1).map_err(failed())?;
            return Ok(lsn.map(|lsn| Lsn(lsn.into())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}
