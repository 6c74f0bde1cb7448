//! Sessions of applications, and transactions from before the fence.
//!
//! A right that is taken away is looked for when a statement begins. A transaction that has written already only has to
//! commit, and does; so whoever has written is waited for, in whatever session, and a prepared transaction too. So is a
//! statement that has passed the look at its rights and has not written yet: it has its table's lock since before that look.

use std::time::{Duration, Instant};

use super::saved::NOT_THEIRS;
use crate::error::Error;
use crate::place::Place;

/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the sessions of the applications' roles, and of all who could give themselves a right again or have kept one:
/// members of those who own something, and of the role that may write everything. Waits until they have ended; how many
/// there were.
pub(super) async fn end(place: &Place, limit: Duration) -> Result<u64, Error> {
    let end = format!(
        "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid))
           FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
          WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            AND (r.rolname = ANY ($1::text[]::name[])
                 OR NOT r.rolsuper AND NOT r.rolname = ANY ($2::text[]::name[]) AND a.backend_type <> 'walsender'
                    AND (pg_catalog.pg_has_role(r.oid, 'pg_write_all_data', 'MEMBER')
                         OR EXISTS (SELECT FROM (SELECT c.relowner FROM pg_catalog.pg_class c
                                                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                                                  WHERE c.relkind IN ('r', 'p', 'v', 'f', 'S') AND {NOT_THEIRS}
                                                 UNION SELECT d.datdba FROM pg_catalog.pg_database d
                                                  WHERE d.datname = pg_catalog.current_database()) o(owner)
                                     WHERE pg_catalog.pg_has_role(r.oid, o.owner, 'MEMBER'))))"
    );
    let failed = || place.failed("end the applications' sessions");
    let begun = Instant::now();
    let mut most = 0;
    loop {
        let row = place.session.query_one(&end, &[&place.applications, &place.own]).await.map_err(failed())?;
        let left = row.try_get::<_, i64>(0).map_err(failed())?.max(0).unsigned_abs();
        most = most.max(left);
        if left == 0 {
            return Ok(most);
        }
        if begun.elapsed() > limit {
            let writers = vec![format!("{left} sessions of the applications do not end")];
            return Err(Error::Writers { end: place.to_string(), waited: limit, writers });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until every transaction that writes at this moment has ended.
pub(super) async fn wait(place: &Place, limit: Duration) -> Result<(), Error> {
    // A transaction is known by its process and its id: the process may begin another, which writes nothing any more.
    const WRITERS: &str = "SELECT pg_catalog.format('process %s, transaction %s', a.pid, a.backend_xid),
                pg_catalog.format('server process %s (role \"%s\", application \"%s\", %s, transaction open for %s s)',
                    a.pid, a.usename, a.application_name, a.state,
                    extract(epoch FROM clock_timestamp() - a.xact_start)::int)
           FROM pg_catalog.pg_stat_activity a
          WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NOT NULL
            AND a.pid <> pg_catalog.pg_backend_pid() AND NOT a.usename::text = ANY ($1)
         UNION ALL
         SELECT pg_catalog.format('process %s, statement of %s', a.pid, a.query_start),
                pg_catalog.format('server process %s (role \"%s\", application \"%s\", %s, a statement that may still write)',
                    a.pid, a.usename, a.application_name, a.state)
           FROM pg_catalog.pg_stat_activity a
          WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NULL
            AND a.pid <> pg_catalog.pg_backend_pid() AND NOT a.usename::text = ANY ($1)
            AND EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
                         WHERE l.pid = a.pid AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'f')
                           AND l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
         UNION ALL
         SELECT pg_catalog.format('prepared %s', p.transaction),
                pg_catalog.format('prepared transaction \"%s\" (role \"%s\", since %s)', p.gid, p.owner, p.prepared)
           FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()";
    let failed = || place.failed("look for transactions from before the fence");
    // The administrator may be anybody, such as a superuser who is at work: his transactions count.
    let own: Vec<&String> = place.own.iter().skip(1).collect();
    let begun = Instant::now();
    let mut first: Option<Vec<String>> = None;
    loop {
        let rows = place.session.query(WRITERS, &[&own]).await.map_err(failed())?;
        let found: Vec<(String, String)> = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(failed())?;
        let first = first.get_or_insert_with(|| found.iter().map(|(key, _)| key.clone()).collect());
        let left: Vec<String> =
            found.into_iter().filter(|(key, _)| first.contains(key)).map(|(_, text)| text).collect();
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            return Err(Error::Writers { end: place.to_string(), waited: limit, writers: left });
        }
        tokio::time::sleep(LOOK).await;
    }
}
