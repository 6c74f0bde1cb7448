//! What else is at work at a database: its administrator, other writers, open transactions, slots of other programs, and
//! what Irongate has left from flows that are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_checkpoint::Role as SiteRole;
use irongate_postgres::catalog::{self, PreparedTransaction, Writer};
use irongate_postgres::sql::{quote_identifier, quote_literal};
use irongate_postgres::{Error, Session};

use super::{APPLICATION, Findings, Fix, Severity, Side, choice, listed, sql};
use crate::configuration::{Configuration, Flow, TableName};
use crate::end::As;
use crate::setup::Survey;
use crate::setup::rights::MADE_BY_SETUP;

/// A transaction that is open for so long keeps log and old rows, and a fence or a new slot would wait for it.
const LONG: Duration = Duration::from_secs(3600);
/// A transaction that is prepared for so long has been forgotten.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// Log that a stranger's slot keeps, from where it is reported.
const MUCH_LOG: u64 = 1 << 30;

/// The administrator's way in, where there is one.
pub(super) async fn administrator(
    side: &Side<'_>,
    survey: Option<&Survey>,
    findings: &mut Findings,
) -> Option<Session> {
    let admin = side.end.address.admin.as_ref()?;
    let object = format!("administrator \"{}\"", admin.role());
    match side.end.connect(As::Admin, APPLICATION).await {
        Ok(session) => {
            match lacking(&session, survey).await {
                Ok(lacks) => {
                    for (reason, fix) in lacks {
                        findings.warning(&side.end, &object, reason, fix);
                    }
                }
                Err(error) => findings.unanswered(&side.end, &object, &error),
            }
            Some(session)
        }
        Err(error) => {
            let fix = error.hint().map(Fix::Words);
            let reason =
                format!("set-up, fences and changes of sites need it, and it does not get in: {error}");
            findings.add(Severity::Warning, &side.end, &object, reason, fix);
            None
        }
    }
}

/// What set-up needs of an administrator that is no superuser.
async fn lacking(admin: &Session, survey: Option<&Survey>) -> Result<Vec<(String, Fix)>, Error> {
    let Some(role) = catalog::role_facts(admin, None).await? else { return Ok(Vec::new()) };
    if role.superuser {
        return Ok(Vec::new());
    }
    let quoted = quote_identifier(&role.name);
    let mut lacks = Vec::new();
    if !role.create_role {
        let reason = "it is no superuser and may not create roles: set-up cannot make Irongate's";
        lacks.push((reason.to_owned(), sql([format!("ALTER ROLE {quoted} CREATEROLE")])));
    }
    const MAY: &str = "SELECT current_database()::pg_catalog.text,
         pg_catalog.has_database_privilege(current_database(), 'CREATE')";
    let row = admin.query_one(MAY, &[]).await?;
    let (database, may): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
    if !may {
        let reason = "it may not create schemas and publications in the database";
        let fix = sql([format!("GRANT CREATE ON DATABASE {} TO {quoted}", quote_identifier(&database))]);
        lacks.push((reason.to_owned(), fix));
    }
    let owners: BTreeSet<&str> =
        survey.iter().flat_map(|survey| &survey.selection.leaves).map(|table| table.owner.as_str()).collect();
    const OWNS: &str = "SELECT r.rolname::pg_catalog.text, r.rolsuper FROM pg_catalog.pg_roles r
         WHERE r.rolname = ANY ($1::pg_catalog.text[]) AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE') ORDER BY 1";
    let owners: Vec<&str> = owners.into_iter().collect();
    for row in admin.query(OWNS, &[&owners]).await? {
        let (owner, is_superuser): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        let reason =
            format!("tables of the flow belong to role \"{owner}\": it can neither publish nor fence them");
        // Nobody should become a superuser for that.
        let fix = if is_superuser {
            "give the tables to a role that is no superuser, and that role to the administrator".into()
        } else {
            sql([format!("GRANT {} TO {quoted}", quote_identifier(&owner))])
        };
        lacks.push((reason, fix));
    }
    Ok(lacks)
}

/// Transactions that stay open. The server shows those of others to a role that may see statistics.
pub(super) async fn transactions(side: &Side<'_>, admin: Option<&Session>, findings: &mut Findings) {
    let session = admin.unwrap_or(&side.session);
    let asked = async {
        let own = side.end.address.database();
        let mut writers = catalog::writers(session).await?;
        let mut prepared = catalog::prepared_transactions(session).await?;
        // What creates a slot waits for all of the cluster; here it is about this database.
        writers.retain(|writer| writer.database.as_deref() == Some(own));
        prepared.retain(|one| one.database == own);
        Ok::<_, Error>((writers, prepared))
    };
    match asked.await {
        Ok((writers, prepared)) => {
            for (object, reason, fix) in open(&writers, &prepared) {
                findings.warning(&side.end, object, reason, choice([fix]));
            }
            let young: Vec<_> = prepared.iter().filter(|one| one.age < FORGOTTEN).collect();
            if !young.is_empty() {
                findings.note(
                    &side.end,
                    format!(
                        "prepared transactions {}",
                        listed(young.iter().map(|one| format!("\"{}\"", one.gid)))
                    ),
                    "a new slot and a fence would wait for them",
                );
            }
        }
        Err(error) => findings.unanswered(&side.end, "open transactions", &error),
    }
}

fn open(writers: &[Writer], prepared: &[PreparedTransaction]) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for writer in writers {
        let Some(open_for) = writer.open_for.filter(|open_for| *open_for >= LONG) else { continue };
        let role = writer.role.as_deref().unwrap_or("nobody");
        found.push((
            format!("transaction of process {}", writer.pid),
            format!(
                "role \"{role}\" has it open for {} minutes: a new slot and a fence would wait for it, and log is kept",
                open_for.as_secs() / 60
            ),
            format!("SELECT pg_catalog.pg_terminate_backend({})", writer.pid),
        ));
    }
    for one in prepared.iter().filter(|one| one.age >= FORGOTTEN) {
        found.push((
            format!("prepared transaction \"{}\"", one.gid),
            format!(
                "role \"{}\" has prepared it {} minutes ago: a new slot and a fence would wait for it, and log is kept",
                one.owner,
                one.age.as_secs() / 60
            ),
            format!("ROLLBACK PREPARED {}", quote_literal(&one.gid)),
        ));
    }
    found
}

/// Slots that keep the source's log for programs that do not read it.
pub(super) async fn slots(side: &Side<'_>, configuration: &Configuration, findings: &mut Findings) {
    let asked = async {
        let now = catalog::current_wal_lsn(&side.session).await?;
        Ok::<_, Error>((now, catalog::slots(&side.session).await?))
    };
    let (now, slots) = match asked.await {
        Ok(answers) => answers,
        Err(error) => return findings.unanswered(&side.end, "slots", &error),
    };
    let ours: BTreeSet<&str> = configuration.flows.values().map(|flow| flow.slot.as_str()).collect();
    let limit = u64::try_from(side.facts.max_slot_wal_keep_size_mb).ok().map(|mb| (mb << 20) / 4 * 3);
    let much = limit.map_or(MUCH_LOG, |limit| limit.min(MUCH_LOG));
    for slot in
        slots.iter().filter(|slot| !ours.contains(slot.name.as_str()) && !slot.active && !slot.temporary)
    {
        let kept = slot.restart_lsn.map_or(0, |restart| now.bytes_since(restart));
        let reason = match slot.lost() {
            Some(why) => format!("it is of another program, and lost ({why})"),
            None if kept >= much => {
                format!("it is of another program, nobody reads it, and it keeps {} MiB of log", kept >> 20)
            }
            None => continue,
        };
        findings.warning(
            &side.end,
            format!("slot \"{}\"", slot.name),
            reason,
            choice([format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&slot.name))]),
        );
    }
}

/// Native subscriptions that write the flow's tables at its target.
pub(super) async fn subscriptions(target: &Side<'_>, flow: &Flow, survey: &Survey, findings: &mut Findings) {
    const SQL: &str = "SELECT s.subname::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
          FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
          JOIN pg_catalog.pg_class c ON c.oid = r.srrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE s.subenabled ORDER BY 1, 2, 3";
    let wanted: BTreeSet<TableName> =
        survey.source_tables().into_iter().map(|(_, name)| flow.target_of(&name)).collect();
    let asked = async {
        let mut found: Vec<(String, TableName)> = Vec::new();
        for row in target.session.query(SQL, &[]).await? {
            found.push((row.try_get(0)?, TableName { schema: row.try_get(1)?, name: row.try_get(2)? }));
        }
        Ok::<_, Error>(found)
    };
    match asked.await {
        Ok(found) => {
            let names: BTreeSet<&String> =
                found.iter().filter(|(_, table)| wanted.contains(table)).map(|(name, _)| name).collect();
            for name in names {
                let tables = found
                    .iter()
                    .filter(|(other, table)| other == name && wanted.contains(table))
                    .map(|(_, table)| table);
                findings.warning(
                    &target.end,
                    format!("subscription \"{name}\""),
                    format!("it writes tables that the flow writes too: {}", listed(tables)),
                    choice([format!("ALTER SUBSCRIPTION {} DISABLE", quote_identifier(name))]),
                );
            }
        }
        Err(error) => findings.unanswered(&target.end, "subscriptions", &error),
    }
}

/// Publications and origins that set-up has made for flows that are in the configuration no more.
pub(super) async fn leftovers(
    side: &Side<'_>,
    configuration: &Configuration,
    flow: &Flow,
    findings: &mut Findings,
) {
    const PUBLICATIONS: &str = "SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p
         WHERE pg_catalog.obj_description(p.oid, 'pg_publication') = $1 ORDER BY 1";
    let asked = async {
        let rows = side.session.query(PUBLICATIONS, &[&MADE_BY_SETUP]).await?;
        rows.iter().map(|row| Ok::<_, Error>(row.try_get(0)?)).collect::<Result<Vec<String>, _>>()
    };
    let known = |name: &String| {
        configuration
            .flows
            .values()
            .any(|other| other.database == flow.database && other.publication == *name)
    };
    match asked.await {
        Ok(names) => {
            for name in names.iter().filter(|name| !known(name)) {
                findings.add(
                    Severity::Note,
                    &side.end,
                    format!("publication \"{name}\""),
                    "set-up has made it, and no flow of the configuration uses it",
                    Some(choice([format!("DROP PUBLICATION {}", quote_identifier(name))])),
                );
            }
        }
        Err(error) => findings.unanswered(&side.end, "publications", &error),
    }
}

/// Both ends must be two databases, and say the same of whose turn it is.
pub(super) async fn pair(source: &Side<'_>, target: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    const WHERE: &str =
        "SELECT current_database()::pg_catalog.text, pg_catalog.pg_postmaster_start_time()::pg_catalog.text";
    let place = async |side: &Side<'_>| -> Result<(String, String), Error> {
        let row = side.session.query_one(WHERE, &[]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let asked = async { Ok::<_, Error>((place(source).await?, place(target).await?)) };
    match asked.await {
        Ok((one, other))
            if one == other && source.facts.system_identifier == target.facts.system_identifier =>
        {
            findings.error(
                &target.end,
                format!("database \"{}\"", target.end.address.database()),
                format!("it is that of {}: a flow cannot lead into its own source", source.end),
                format!("correct uri in [databases.{}.{}]", target.end.database, target.end.site),
            );
        }
        Ok(_) => {}
        Err(error) => findings.unanswered(&target.end, "database", &error),
    }
    if let (Ok(Some(one)), Ok(Some(other))) =
        (SiteRole::load(&source.session).await, SiteRole::load(&target.session).await)
        && (&one.live, one.epoch) != (&other.live, other.epoch)
        && one.run.is_none()
        && other.run.is_none()
    {
        findings.error(
            &target.end,
            "table irongate.role",
            format!(
                "site \"{}\" writes in epoch {} by its word, and site \"{}\" in epoch {} by that of {}",
                other.live, other.epoch, one.live, one.epoch, source.end
            ),
            format!("irongate reinstate {}", if one.epoch > other.epoch { &flow.to } else { &flow.from }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_that_stay_open_are_told_and_short_ones_are_not() {
        let writer = |minutes: Option<u64>| Writer {
            pid: 7,
            role: Some("app".into()),
            database: Some("d".into()),
            application_name: String::new(),
            state: None,
            xid: 9,
            open_for: minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        };
        let prepared = |minutes: u64| PreparedTransaction {
            gid: "it's".into(),
            xid: 8,
            owner: "app".into(),
            database: "d".into(),
            age: Duration::from_secs(minutes * 60),
        };
        assert_eq!(open(&[writer(Some(59)), writer(None)], &[prepared(4)]), []);
        let found = open(&[writer(Some(61))], &[prepared(6)]);
        assert!(found[0].1.contains("61 minutes") && found[0].2.ends_with("pg_terminate_backend(7)"));
        assert_eq!(found[1].2, "ROLLBACK PREPARED 'it''s'");
    }
}
