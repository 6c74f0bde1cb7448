//! Whether the administrator can do all that a fence takes, asked before anything is taken.
//!
//! A superuser can. Anybody else must be a member of whoever owns what is to be closed, be allowed to change the
//! applications' roles and to speak for them, to end sessions, and to see which ones write.

use std::collections::BTreeSet;

use super::saved::Saved;
use crate::error::Error;
use crate::place::Place;

/// The first server where a membership may be without the right to take the role, and where to change a role takes the
/// right to administer it.
const MEMBERSHIPS: u32 = 160_000;

/// What the administrator lacks to close and open a place where `found` is to be taken, LOGIN of `logins` too, and rights
/// that `givers` have passed on; each with the statement that gives it.
///
/// # Errors
/// [`Error::Database`].
pub(super) async fn lacks(
    place: &Place,
    found: &Saved,
    logins: &[String],
    givers: BTreeSet<&str>,
) -> Result<Vec<String>, Error> {
    let newer = place.session.server_version_num() >= MEMBERSHIPS;
    let take = if newer { "SET" } else { "MEMBER" };
    let sql = format!(
        "
        WITH me AS (SELECT oid, rolname, rolcreaterole FROM pg_catalog.pg_roles
                     WHERE rolname = current_user AND NOT rolsuper)
        SELECT pg_catalog.format('role %I does not own what role %I owns (%s of %s tables and sequences): %s',
                   me.rolname, owner.rolname, pg_catalog.min(c.oid::regclass::text), pg_catalog.count(*),
                   CASE WHEN owner.rolsuper THEN 'give them an owner that is no superuser'
                        ELSE pg_catalog.format('GRANT %I TO %I', owner.rolname, me.rolname) END)
          FROM me, pg_catalog.pg_class c JOIN pg_catalog.pg_roles owner ON owner.oid = c.relowner
         WHERE c.oid = ANY ($1) AND NOT pg_catalog.pg_has_role(me.oid, owner.oid, 'USAGE')
         GROUP BY me.rolname, owner.rolname, owner.rolsuper
        UNION ALL
        SELECT pg_catalog.format('role %I does not own what role %I owns in schema irongate: %s', me.rolname, owner.rolname,
                   CASE WHEN owner.rolsuper
                        THEN pg_catalog.format('ALTER SCHEMA irongate OWNER TO %I, and its tables', me.rolname)
                        ELSE pg_catalog.format('GRANT %I TO %I', owner.rolname, me.rolname) END)
          FROM me, pg_catalog.pg_roles owner
         WHERE owner.oid IN (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'irongate'
                             UNION SELECT c.relowner FROM pg_catalog.pg_class c
                                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                                    WHERE n.nspname = 'irongate' AND c.relkind = 'r')
           AND NOT pg_catalog.pg_has_role(me.oid, owner.oid, 'USAGE')
        UNION ALL
        SELECT pg_catalog.format('role %I does not own database %I: ALTER DATABASE %I OWNER TO %I', me.rolname, d.datname,
                   d.datname, me.rolname)
          FROM me, pg_catalog.pg_database d
         WHERE d.datname = pg_catalog.current_database() AND NOT pg_catalog.pg_has_role(me.oid, d.datdba, 'USAGE')
        UNION ALL
        SELECT pg_catalog.format('role %I may not change roles: ALTER ROLE %I CREATEROLE', me.rolname, me.rolname)
          FROM me WHERE NOT me.rolcreaterole AND pg_catalog.cardinality($2::text[]) > 0
        UNION ALL
        SELECT pg_catalog.format('role %I may not change role %I: GRANT %I TO %I WITH ADMIN OPTION', me.rolname, app.rolname,
                   app.rolname, me.rolname)
          FROM me, pg_catalog.pg_roles app
         WHERE $4 AND app.rolname = ANY ($2::text[]::name[])
           AND NOT pg_catalog.pg_has_role(me.oid, app.oid, 'MEMBER WITH ADMIN OPTION')
        UNION ALL
        SELECT pg_catalog.format('role %I may not take role %I, which the fence is tried as: GRANT %I TO %I', me.rolname,
                   app.rolname, app.rolname, me.rolname)
          FROM me, pg_catalog.pg_roles app
         WHERE app.rolname = ANY ($3::text[]::name[]) AND NOT pg_catalog.pg_has_role(me.oid, app.oid, '{take}')
        UNION ALL
        SELECT pg_catalog.format('role %I may not end sessions: GRANT pg_signal_backend TO %I', me.rolname, me.rolname)
          FROM me WHERE NOT pg_catalog.pg_has_role(me.oid, 'pg_signal_backend', 'USAGE')
        UNION ALL
        SELECT pg_catalog.format('role %I may not see who writes: GRANT pg_read_all_stats TO %I', me.rolname, me.rolname)
          FROM me WHERE NOT pg_catalog.pg_has_role(me.oid, 'pg_read_all_stats', 'USAGE')"
    );
    let relations: Vec<u32> = found
        .rights
        .iter()
        .filter_map(|right| right.object.oid())
        .chain(found.triggers.iter().map(|trigger| trigger.table_oid))
        .collect();
    let mut taken = place.applications.clone();
    taken.extend(givers.into_iter().map(str::to_owned));
    let failed = || place.failed("ask what the administrator may do");
    let rows = place.session.query(&sql, &[&relations, &logins, &taken, &newer]).await.map_err(failed())?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed())
}
