//! Transactions that a run would wait for: the fence for those that have written in its database, the reverse slot for all
//! of its cluster.

use std::time::Duration;

use super::findings::Findings;
use crate::error::Error;
use crate::place::Place;

/// Younger ones will have ended by the time that they are waited for.
const YOUNG: Duration = Duration::from_secs(5);

/// Whose transactions are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Of {
    /// Those of the place's database.
    Database,
    /// Those of every database of its server.
    Cluster,
}

/// Looks for prepared transactions, and for open ones that have written. One that is open for longer than the run would
/// wait is complained of.
pub(super) async fn in_the_way(
    place: &Place,
    of: Of,
    limit: Duration,
    findings: &mut Findings,
) -> Result<(), Error> {
    const PREPARED: &str = "SELECT gid, owner::text, database::text, database = pg_catalog.current_database()
           FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 10";
    let failed = || place.failed("look for prepared transactions");
    let purpose = match of {
        Of::Database => "the fence",
        Of::Cluster => "the reverse slot",
    };
    for row in place.session.query(PREPARED, &[]).await.map_err(failed())? {
        let said: Result<(String, String, String, bool), tokio_postgres::Error> =
            (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))();
        let (gid, owner, database, is_here) = said.map_err(failed())?;
        let object = format!(
            "prepared transaction \"{gid}\" of role \"{owner}\" in database \"{database}\" at {place}"
        );
        if is_here || of == Of::Cluster {
            let gid = irongate_postgres::sql::quote_literal(&gid);
            let remedy = format!("COMMIT PREPARED {gid}, or ROLLBACK PREPARED {gid}");
            findings.complain(object, format!("it is open, and {purpose} waits for it"), remedy);
        } else {
            findings.note(object, "it is open, in another database");
        }
    }
    const OPEN: &str = "SELECT a.pid, pg_catalog.format('server process %s (role \"%s\", database \"%s\", application \"%s\", %s) at ',
                    a.pid, a.usename, a.datname, a.application_name, coalesce(a.state, 'state not known')),
                extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8,
                coalesce(a.usename::text = ANY ($2), false)
           FROM pg_catalog.pg_stat_activity a
          WHERE a.backend_xid IS NOT NULL AND a.xact_start IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
            AND ($1 OR a.datname = pg_catalog.current_database())
          ORDER BY a.xact_start LIMIT 10";
    let failed = || place.failed("look for long transactions");
    // Irongate's own end by themselves; the administrator may be anybody.
    let own: Vec<&String> = place.own.iter().skip(1).collect();
    for row in place.session.query(OPEN, &[&(of == Of::Cluster), &own]).await.map_err(failed())? {
        let said: Result<(i32, String, f64, bool), tokio_postgres::Error> =
            (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))();
        let (pid, object, age, is_own) = said.map_err(failed())?;
        let (object, open) =
            (format!("{object}{place}"), format!("its transaction has written and is open for {age:.0} s"));
        if age >= limit.as_secs_f64() {
            let waits = format!("{open}; {purpose} would wait {} s for it", limit.as_secs());
            let remedy = if is_own {
                "wait until it has been applied".to_owned()
            } else {
                format!("end it: SELECT pg_terminate_backend({pid})")
            };
            findings.complain(object, waits, remedy);
        } else if age >= YOUNG.as_secs_f64() {
            findings.note(object, open);
        }
    }
    Ok(())
}
