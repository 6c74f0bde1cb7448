//! Fences: the standby's stands, the live site's will hold, and behind the opening the applications come in and find their
//! rights.

use std::collections::{BTreeMap, BTreeSet};

use irongate_deployment::configuration::{Flow, TableName};

use super::findings::{Findings, listed};
use super::{Run, Unit};
use crate::error::Error;
use crate::fence::{self, Object, Right, Saved};
use crate::place::Place;

impl Run<'_> {
    pub(super) async fn check_access(&self, unit: &Unit<'_>, findings: &mut Findings) -> Result<(), Error> {
        let from = unit.from()?;
        for place in [from, &unit.to] {
            match fence::roles_exist(place).await {
                Ok(()) => {}
                Err(error @ Error::NoRole { .. }) => {
                    findings.complain(place, &error, error.hint().unwrap_or_default());
                }
                Err(error) => return Err(error),
            }
        }
        closable(from, &self.heading.run, findings).await?;
        closed(&unit.to, findings).await?;
        if let Some(kept) = fence::kept(&unit.to).await? {
            openable(&unit.to, &kept, findings).await?;
            same_rights(unit.pair.into, from, &unit.to, &kept, findings).await?;
        }
        Ok(())
    }
}

/// The site that writes is open, and what shows beforehand says that its fence will hold.
async fn closable(place: &Place, run: &str, findings: &mut Findings) -> Result<(), Error> {
    if let Some(fence) = fence::standing(place).await?.filter(|fence| fence.run.as_deref() != Some(run)) {
        findings.complain(
            place,
            format!("it is closed since {}: nobody writes there", fence.since),
            format!("irongate open {}", place.site),
        );
    }
    for leak in fence::foreseen(place).await? {
        let (leak, remedy) = leak.split_once(": ").unwrap_or((&leak, "see to it"));
        findings.complain(place, format!("its fence would not hold: {leak}"), remedy);
    }
    Ok(())
}

/// The standby refuses applications.
async fn closed(place: &Place, findings: &mut Findings) -> Result<(), Error> {
    let fence = format!("irongate fence {}", place.site);
    if fence::standing(place).await?.is_none() {
        findings.complain(place, "it is open, and a standby must not be", fence);
        return Ok(());
    }
    let rest = fence::rest(place).await?;
    if !rest.is_empty() {
        let count = rest.rights.len() + rest.logins.len();
        findings.complain(
            place,
            format!("{count} rights came behind its fence"),
            format!("{fence} takes them too"),
        );
        return Ok(());
    }
    match fence::still_closed(place).await {
        Ok(()) => {}
        Err(Error::Leaks { leaks, .. }) => {
            for leak in leaks {
                let (leak, remedy) = leak.split_once(": ").unwrap_or((&leak, &fence));
                findings.complain(place, format!("its fence does not hold: {leak}"), remedy);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether the applications could log in once the fence is opened, by what it has saved.
pub(super) async fn openable(place: &Place, kept: &Saved, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "SELECT rolname::text, pg_catalog.quote_ident(rolname), rolcanlogin OR rolname = ANY ($2::text[]::name[]),
                coalesce(rolvaliduntil < pg_catalog.now(), false),
                coalesce(rolvaliduntil < pg_catalog.now() + interval '7 days', false), rolvaliduntil::text,
                rolconnlimit = 0,
                $4 OR rolsuper
                   OR pg_catalog.has_database_privilege(oid, pg_catalog.current_database(), 'CONNECT')
                   OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = ANY ($3::text[]::name[])
                                 AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')),
                (SELECT pg_catalog.quote_ident(pg_catalog.current_database()))
           FROM pg_catalog.pg_roles r WHERE rolname = ANY ($1::text[]::name[]) ORDER BY 1";
    let failed = || place.failed("look whether the applications could log in");
    let connect = || kept.rights.iter().filter(|right| right.object == Object::Database);
    let to: Vec<&String> = connect().filter_map(|right| right.grantee.as_ref()).collect();
    let to_all = connect().any(|right| right.grantee.is_none());
    let logins: Vec<&String> = kept.logins.iter().collect();
    let rows =
        place.session.query(SQL, &[&place.applications, &logins, &to, &to_all]).await.map_err(failed())?;
    for row in rows {
        let mut say = || -> Result<(), tokio_postgres::Error> {
            let (role, quoted): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let object = format!("role \"{role}\" at {place}");
            let again = format!("and irongate fence {} saves it", place.site);
            if !row.try_get::<_, bool>(2)? {
                let remedy = format!("ALTER ROLE {quoted} LOGIN, {again}");
                findings.complain(&object, "it would have no LOGIN when the site is opened", remedy);
            }
            if row.try_get(3)? {
                findings.complain(
                    &object,
                    "its password has expired",
                    format!("ALTER ROLE {quoted} VALID UNTIL …"),
                );
            } else if row.try_get(4)? {
                let until: Option<String> = row.try_get(5)?;
                findings.note(&object, format!("its password expires at {}", until.unwrap_or_default()));
            }
            if row.try_get(6)? {
                findings.complain(
                    &object,
                    "its connection limit is 0",
                    format!("ALTER ROLE {quoted} CONNECTION LIMIT -1"),
                );
            }
            if !row.try_get::<_, bool>(7)? {
                let database: String = row.try_get(8)?;
                let remedy = format!("GRANT CONNECT ON DATABASE {database} TO {quoted}, {again}");
                findings.complain(
                    &object,
                    "it would have no right to connect when the site is opened",
                    remedy,
                );
            }
            Ok(())
        };
        say().map_err(failed())?;
    }
    Ok(())
}

/// A right of an application: its role, the relation, and the kind.
type Use = (String, TableName, String);

/// Whether the applications will have at the new site what they have at the old one.
async fn same_rights(
    flow: &Flow,
    from: &Place,
    to: &Place,
    kept: &Saved,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut lacking: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (have, there) = will_have(to, kept).await?;
    for (role, relation, privilege) in uses(from).await? {
        if !flow.includes(&relation.schema, &relation.name) {
            continue;
        }
        let relation = flow.target_of(&relation);
        // Of a role that is not there, that is said.
        if there.contains(&role) && !have.contains(&(role.clone(), relation.clone(), privilege.clone())) {
            lacking.entry(role).or_default().push(format!("{privilege} on {relation}"));
        }
    }
    for (role, rights) in lacking {
        findings.complain(
            format!("role \"{role}\" at {to}"),
            format!("behind the opening it would lack what it has at {from}: {}", listed(&rights)),
            format!("GRANT it, and irongate fence {} saves it", to.site),
        );
    }
    Ok(())
}

/// What the applications may do now with tables and sequences, leaving out what is not there at the other site anyway.
async fn uses(place: &Place) -> Result<BTreeSet<Use>, Error> {
    const SQL: &str = "
        SELECT r.rolname::text, n.nspname::text, c.relname::text, p
          FROM pg_catalog.pg_roles r, pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
               pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'USAGE']) p
         WHERE r.rolname = ANY ($1::text[]::name[]) AND NOT r.rolsuper AND c.relkind IN ('r', 'p', 'S')
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'irongate') AND n.nspname !~ '^pg_(toast|temp)'
           AND CASE WHEN c.relkind = 'S' THEN p IN ('SELECT', 'UPDATE', 'USAGE')
                         AND pg_catalog.has_sequence_privilege(r.oid, c.oid, CASE WHEN p IN ('SELECT', 'UPDATE', 'USAGE') THEN p ELSE 'USAGE' END)
                    ELSE p <> 'USAGE'
                         AND pg_catalog.has_table_privilege(r.oid, c.oid, CASE WHEN p = 'USAGE' THEN 'SELECT' ELSE p END) END";
    let failed = || place.failed("read what the applications may do");
    let rows = place.session.query(SQL, &[&place.applications]).await.map_err(failed())?;
    let read = |row: &tokio_postgres::Row| -> Result<Use, tokio_postgres::Error> {
        let relation = TableName { schema: row.try_get(1)?, name: row.try_get(2)? };
        Ok((row.try_get(0)?, relation, row.try_get(3)?))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(failed())
}

/// What they may do, and what the fence will give back to them, to their groups or to everybody; and which of them there
/// are.
async fn will_have(place: &Place, kept: &Saved) -> Result<(BTreeSet<Use>, BTreeSet<String>), Error> {
    let mut have = uses(place).await?;
    const GROUPS: &str =
        "SELECT r.rolname::text, g.rolname::text FROM pg_catalog.pg_roles r, pg_catalog.pg_roles g
         WHERE r.rolname = ANY ($1::text[]::name[]) AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')";
    let failed = || place.failed("read the applications' groups");
    let mut groups: BTreeSet<(String, String)> = BTreeSet::new();
    for row in place.session.query(GROUPS, &[&place.applications]).await.map_err(failed())? {
        groups.insert((row.try_get(0).map_err(failed())?, row.try_get(1).map_err(failed())?));
    }
    for Right { object, grantee, privilege, .. } in &kept.rights {
        let (Object::Table { schema, name, .. } | Object::Sequence { schema, name, .. }) = object else {
            continue;
        };
        for role in &place.applications {
            let is_theirs = grantee.as_ref().is_none_or(|to| groups.contains(&(role.clone(), to.clone())));
            if is_theirs {
                have.insert((role.clone(), TableName::new(schema, name), privilege.clone()));
            }
        }
    }
    // Each role is a member of itself.
    Ok((have, groups.into_iter().map(|(role, _)| role).collect()))
}
