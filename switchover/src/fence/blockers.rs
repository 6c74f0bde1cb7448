//! Who holds a lock that a fence has waited for in vain.

use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::place::Place;

/// What came of something, with the sessions named that are in the way, where it is an error about a lock.
pub(super) async fn named<T>(place: &Place, result: Result<T, Error>) -> Result<T, Error> {
    let Err(Error::Database { end, doing, source }) = result else { return result };
    if source.code() != Some(SqlState::LOCK_NOT_AVAILABLE.code()) {
        return Err(Error::Database { end, doing, source });
    }
    Err(match holders(place).await {
        Ok(holders) if !holders.is_empty() => Error::Blocked { end, doing, holders },
        _ => Error::Database { end, doing, source },
    })
}

/// Sessions that hold a lock which keeps others from changing what a fence changes: its own table, the roles, and tables
/// with triggers. The oldest first.
async fn holders(place: &Place) -> Result<Vec<String>, tokio_postgres::Error> {
    const SQL: &str = "SELECT pg_catalog.format('server process %s (role \"%s\", application \"%s\", %s) since %s s', a.pid,
                a.usename, a.application_name, coalesce(a.state, 'state not known'),
                coalesce(round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)), 0))
           FROM pg_catalog.pg_stat_activity a
          WHERE a.pid <> pg_catalog.pg_backend_pid() AND EXISTS (
                SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
                 WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted
                   AND d.datname = pg_catalog.current_database()
                   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
                   AND (l.relation IN (pg_catalog.to_regclass('irongate.fence'), pg_catalog.to_regclass('irongate.role'))
                        OR EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                    WHERE t.tgrelid = l.relation AND NOT t.tgisinternal)))
          ORDER BY a.xact_start LIMIT 5";
    place.session.query(SQL, &[]).await?.iter().map(|row| row.try_get(0)).collect()
}
