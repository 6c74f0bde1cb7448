//! Trying it: a write as the application's role, refused behind a fence and accepted in an open site.
//!
//! The write is a DELETE that meets no row. The server looks for the right before it looks for rows, and no trigger of a
//! row fires; so it shows what is to be shown and changes nothing, even if it should succeed.

use std::collections::BTreeSet;

use irongate_postgres::sql::quote_identifier;
use tokio_postgres::error::SqlState;

use super::neighbours;
use super::saved::{NOT_THEIRS, Right, Saved};
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

/// Who will write behind any fence, as attributes and memberships tell before anything is taken.
///
/// Superusers, members of `pg_write_all_data` and Irongate's own roles keep their rights; so nobody of the applications may
/// be one of them, take the role of one, or call a function that runs as one.
pub(super) async fn leaks_by_nature(place: &Place) -> Result<Vec<String>, Error> {
    // From 16 on a membership may be without the right to take the role.
    let take = if place.session.server_version_num() >= 160_000 { "SET" } else { "MEMBER" };
    let sql = format!(
        "
        WITH app AS (SELECT oid, rolname, rolsuper FROM pg_catalog.pg_roles WHERE rolname = ANY ($1::text[]::name[])),
             keeper AS (SELECT k.oid, k.rolname,
                               CASE WHEN k.rolsuper THEN 'is a superuser'
                                    WHEN k.rolname = ANY ($2::text[]::name[]) THEN 'is one of Irongate''s own'
                                    WHEN k.rolname = 'pg_write_all_data' THEN 'may write everything' END AS why
                          FROM pg_catalog.pg_roles k
                         WHERE k.rolsuper OR k.rolname = ANY ($2::text[]::name[]) OR k.rolname = 'pg_write_all_data')
        SELECT pg_catalog.format('role %I is a superuser: ALTER ROLE %I NOSUPERUSER', rolname, rolname)
          FROM app WHERE rolsuper
        UNION ALL
        SELECT pg_catalog.format('role %I is a member of role %I, which %s: REVOKE %I FROM %I, or from the role by which it is one',
                   app.rolname, keeper.rolname, keeper.why, keeper.rolname, app.rolname)
          FROM app, keeper
         WHERE NOT app.rolsuper AND app.oid <> keeper.oid
           AND (pg_catalog.pg_has_role(app.oid, keeper.oid, '{take}')
                OR pg_catalog.pg_has_role(app.oid, keeper.oid, 'USAGE'))
        UNION ALL
        (SELECT pg_catalog.format('function %s runs as role %I, which %s, and may be called by role %I: '
                   'ALTER FUNCTION %s SECURITY INVOKER, or revoke EXECUTE on it', f.oid::regprocedure, owner.rolname, k.why,
                   app.rolname, f.oid::regprocedure)
          FROM app, pg_catalog.pg_proc f JOIN pg_catalog.pg_roles owner ON owner.oid = f.proowner
               JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace,
               LATERAL (SELECT CASE WHEN keeper.oid = owner.oid THEN keeper.why
                                    ELSE pg_catalog.format('is a member of %I', keeper.rolname) END
                          FROM keeper WHERE keeper.oid = owner.oid
                            OR NOT owner.rolsuper AND pg_catalog.pg_has_role(owner.oid, keeper.oid, 'USAGE')
                         ORDER BY keeper.oid = owner.oid DESC LIMIT 1) k(why)
         WHERE f.prosecdef AND NOT app.rolsuper
           AND f.prorettype NOT IN ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
           AND {NOT_THEIRS}
           AND pg_catalog.has_function_privilege(app.oid, f.oid, 'EXECUTE')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                              AND d.objid = f.oid AND d.deptype = 'e')
         ORDER BY 1 LIMIT 10)"
    );
    texts(place, &sql, &[&place.applications, &place.own]).await
}

/// Who may write or come in behind the fence, as the catalogs tell.
async fn leaks(place: &Place) -> Result<Vec<String>, Error> {
    let keeps: Vec<String> = if place.keep_login {
        place.applications.clone()
    } else {
        neighbours::look(place).await?.open.into_iter().collect()
    };
    let sql = format!(
        "
        WITH app AS (SELECT oid, rolname, rolsuper, rolcanlogin FROM pg_catalog.pg_roles
                      WHERE rolname = ANY ($1::text[]::name[]))
        SELECT pg_catalog.format('role %I may still log in', rolname) FROM app
         WHERE rolcanlogin AND NOT rolname = ANY ($2::text[]::name[])
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
         ORDER BY 1 LIMIT 10)"
    );
    texts(place, &sql, &[&place.applications, &keeps]).await
}

/// Shows that no application can write; how many writes were refused.
pub(super) async fn closed(place: &Place) -> Result<usize, Error> {
    let mut leaks = leaks(place).await?;
    leaks.extend(leaks_by_nature(place).await?);
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
    if leaks.is_empty() { Ok(refused) } else { Err(Error::Leaks { end: place.to_string(), leaks }) }
}

/// Shows that the applications can come in and write what they had the right to write; how many writes were accepted.
pub(super) async fn open(place: &Place, saved: &Saved) -> Result<usize, Error> {
    may_come_in(place, saved).await?;
    let mut accepted = 0;
    for role in &place.applications {
        let (mut tried, mut refused) = (0, None);
        for table in theirs(place, role, saved).await? {
            match write(place, role, &table).await? {
                Written::Accepted => tried += 1,
                Written::Refused => refused = Some(table),
                Written::Other(reason) => {
                    tracing::debug!(table, reason, "a table could not be tried");
                }
            }
        }
        match refused {
            // One alone says little beside others that were accepted.
            Some(table) if tried == 0 => {
                let (role, reason) = (role.clone(), "permission denied".to_owned());
                return Err(Error::StillClosed { end: place.to_string(), role, table, reason });
            }
            _ => accepted += tried,
        }
    }
    Ok(accepted)
}

/// Which of the roles that had LOGIN have it.
pub(super) async fn logins(place: &Place, saved: &Saved) -> Result<BTreeSet<String>, Error> {
    const SQL: &str = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolcanlogin AND rolname = ANY ($1::text[]::name[])";
    let had: Vec<&String> = saved.logins.iter().collect();
    Ok(texts(place, SQL, &[&had]).await?.into_iter().collect())
}

/// Roles that could log in before can do so here.
async fn may_come_in(place: &Place, saved: &Saved) -> Result<(), Error> {
    const SQL: &str = "SELECT rolname::text, CASE WHEN NOT rolcanlogin THEN 'it has no LOGIN'
                WHEN rolvaliduntil < pg_catalog.now() THEN 'its password has expired'
                ELSE 'it has no right to connect' END
           FROM pg_catalog.pg_roles
          WHERE rolname = ANY ($1::text[]::name[]) AND rolname = ANY ($2::text[]::name[])
            AND (NOT rolcanlogin OR rolvaliduntil < pg_catalog.now()
                 OR NOT pg_catalog.has_database_privilege(oid, pg_catalog.current_database(), 'CONNECT'))
          ORDER BY 1 LIMIT 1";
    let failed = || place.failed("look whether the applications may come in");
    let had: Vec<&String> = saved.logins.iter().collect();
    let row = place.session.query_opt(SQL, &[&place.applications, &had]).await.map_err(failed())?;
    let Some(row) = row else { return Ok(()) };
    let said: Result<_, tokio_postgres::Error> = (|| Ok((row.try_get(0)?, row.try_get(1)?)))();
    let (role, reason) = said.map_err(failed())?;
    Err(Error::NoEntry { end: place.to_string(), role, reason })
}

/// Tables of which a role, or one that it belongs to, has got back the right to delete.
async fn theirs(place: &Place, role: &str, saved: &Saved) -> Result<Vec<String>, Error> {
    const GROUPS: &str = "SELECT g.rolname::text FROM pg_catalog.pg_roles g, pg_catalog.pg_roles r
         WHERE r.rolname = $1::text AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')";
    // A view may need a right that its owner never had, and a schema may be closed to the role since ever.
    const TABLES: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = ANY ($1) AND c.relkind IN ('r', 'p')
           AND pg_catalog.has_schema_privilege($2::text, n.oid, 'USAGE') ORDER BY c.oid LIMIT $3";
    let groups = texts(place, GROUPS, &[&role]).await?;
    let given = |right: &&Right| {
        right.privilege == "DELETE" && right.grantee.as_ref().is_none_or(|to| groups.contains(to))
    };
    let oids: Vec<u32> = saved.rights.iter().filter(given).filter_map(|right| right.object.oid()).collect();
    texts(place, TABLES, &[&oids, &role, &TRIED]).await
}

async fn texts(
    place: &Place,
    sql: &str,
    values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<String>, Error> {
    let rows = place.session.query(sql, values).await.map_err(place.failed("try the fence"))?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(place.failed("try the fence"))
}

async fn tables(place: &Place) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND {NOT_THEIRS} ORDER BY c.oid LIMIT $1"
    );
    texts(place, &sql, &[&TRIED]).await
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
