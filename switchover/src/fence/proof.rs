//! Trying it: a write as the application's role, refused behind a fence and accepted in an open site.
//!
//! The write is a DELETE that meets no row. The server looks for the right before it looks for rows, and no trigger of a
//! row fires; so it shows what is to be shown and changes nothing, even if it should succeed.

use irongate_postgres::sql::qualified;
use irongate_postgres::sql::quote_identifier;
use tokio_postgres::error::SqlState;

use super::saved::{NOT_THEIRS, Object, Saved};
use crate::error::Error;
use crate::place::Place;

/// Tables that are tried by a real write, for each role. The others are asked for in the catalogs, all of them.
const TRIED: i64 = 10;

/// Refuses roles that the server does not have.
pub(super) async fn roles_exist(place: &Place) -> Result<(), Error> {
    const SQL: &str = "SELECT r FROM pg_catalog.unnest($1::text[]) r
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = r) LIMIT 1";
    let failed = || place.failed("look for the applications' roles");
    let missing = place.session.query_opt(SQL, &[&place.applications]).await.map_err(failed())?;
    match missing {
        Some(row) => Err(Error::NoRole { end: place.to_string(), role: row.try_get(0).map_err(failed())? }),
        None => Ok(()),
    }
}

/// Shows that no application can write; how many writes were refused.
pub(super) async fn closed(place: &Place) -> Result<usize, Error> {
    let failed = || place.failed("try the fence");
    // Superusers and members of roles with all rights stand outside of every list.
    let leaks = format!(
        "
        WITH app AS (SELECT oid, rolname, rolsuper, rolcanlogin FROM pg_catalog.pg_roles
                      WHERE rolname = ANY ($1::text[]::name[]))
        SELECT pg_catalog.format('role %I is a superuser', rolname) FROM app WHERE rolsuper
        UNION ALL
        SELECT pg_catalog.format('role %I may still log in', rolname) FROM app WHERE rolcanlogin AND NOT $2
        UNION ALL
        SELECT pg_catalog.format('role %I may still connect', rolname) FROM app
         WHERE NOT rolsuper
           AND pg_catalog.has_database_privilege(oid, pg_catalog.current_database(), 'CONNECT')
        UNION ALL
        (SELECT pg_catalog.format('role %I may still write %I.%I (%s)', app.rolname, n.nspname, c.relname, p)
          FROM app, pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
               pg_catalog.unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
         WHERE c.relkind IN ('r', 'p', 'v', 'f') AND NOT app.rolsuper
           AND {NOT_THEIRS}
           AND (pg_catalog.has_table_privilege(app.oid, c.oid, p)
                OR p IN ('INSERT', 'UPDATE') AND pg_catalog.has_any_column_privilege(app.oid, c.oid, p))
         ORDER BY 1 LIMIT 10)
        UNION ALL
        (SELECT pg_catalog.format('function %s runs as superuser %I and may be called by role %I', f.oid::regprocedure,
                owner.rolname, app.rolname)
          FROM app, pg_catalog.pg_proc f JOIN pg_catalog.pg_roles owner ON owner.oid = f.proowner
               JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
         WHERE f.prosecdef AND owner.rolsuper AND NOT app.rolsuper
           AND f.prorettype NOT IN ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
           AND {NOT_THEIRS}
           AND pg_catalog.has_function_privilege(app.oid, f.oid, 'EXECUTE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                              AND d.objid = f.oid AND d.deptype = 'e')
         ORDER BY 1 LIMIT 10)"
    );
    let rows =
        place.session.query(&leaks, &[&place.applications, &place.keep_login]).await.map_err(failed())?;
    let mut leaks: Vec<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed())?;
    let mut refused = 0;
    for role in &place.applications {
        for table in tables(place).await? {
            match write(place, role, &table).await? {
                Written::Refused => refused += 1,
                Written::Accepted => {
                    leaks.push(format!("a write of {table} as role \"{role}\" was accepted"))
                }
                // A view that cannot be written, or the like: it shows nothing.
                Written::Other(_) => {}
            }
        }
    }
    leaks.dedup();
    if leaks.is_empty() { Ok(refused) } else { Err(Error::Leaks { end: place.to_string(), leaks }) }
}

/// Shows that the applications can write again what they had the right to write; how many writes were accepted.
pub(super) async fn open(place: &Place, saved: &Saved) -> Result<usize, Error> {
    let (mut accepted, mut refused) = (0, None);
    for role in &place.applications {
        let theirs = saved.rights.iter().filter_map(|right| match &right.object {
            Object::Table { schema, name }
                if right.privilege == "DELETE" && right.grantee.as_ref() == Some(role) =>
            {
                Some(qualified(schema, name))
            }
            _ => None,
        });
        for table in theirs.take(usize::try_from(TRIED).unwrap_or(usize::MAX)) {
            match write(place, role, &table).await? {
                Written::Accepted => accepted += 1,
                // One alone says little: a view may need a right that its owner never had.
                Written::Refused => refused = Some((role.clone(), table)),
                Written::Other(reason) => {
                    tracing::debug!(table, reason, "a table could not be tried");
                }
            }
        }
    }
    match refused {
        Some((role, table)) if accepted == 0 => {
            let reason = "permission denied".to_owned();
            Err(Error::StillClosed { end: place.to_string(), role, table, reason })
        }
        _ => Ok(accepted),
    }
}

async fn tables(place: &Place) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND {NOT_THEIRS} ORDER BY c.oid LIMIT $1"
    );
    let failed = || place.failed("look for tables to try");
    let rows = place.session.query(&sql, &[&TRIED]).await.map_err(failed())?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed())
}

enum Written {
    Accepted,
    Refused,
    Other(String),
}

/// Tries a write as a role, and takes it back.
async fn write(place: &Place, role: &str, table: &str) -> Result<Written, Error> {
    let session = &place.session;
    // Apart, so that an administrator who may not take the role is not taken for a fence that holds.
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL ROLE {}", quote_identifier(role));
    if let Err(error) = session.batch_execute(&begin).await {
        let _ = session.batch_execute("ROLLBACK").await;
        return Err(place.failed(&format!("take role \"{role}\" to try a write"))(error));
    }
    let tried = session.batch_execute(&format!("DELETE FROM {table} WHERE false")).await;
    session.batch_execute("ROLLBACK").await.map_err(place.failed("take a write back"))?;
    let Err(error) = tried else { return Ok(Written::Accepted) };
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(Written::Refused),
        Some(code) => Ok(Written::Other(format!("SQLSTATE {}", code.code()))),
        None => Err(place.failed("try a write")(error)),
    }
}
