//! The servers and the disk: what the steps of a run will need of them.

use std::path::Path;

use irongate_deployment::configuration::AlarmOptions;
use irongate_postgres::catalog::{self, SlotFacts};

use super::findings::{Findings, listed};
use crate::error::Error;
use crate::place::Place;

/// Whether the administrator may look into Irongate's own tables: else nothing can be checked.
pub(super) async fn can_be_asked(place: &Place, findings: &mut Findings) -> Result<bool, Error> {
    const SQL: &str = "SELECT NOT EXISTS (
            SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'irongate'
               AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE'))
          AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'irongate' AND c.relkind = 'r' AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')),
          pg_catalog.quote_ident(current_user)";
    let failed = || place.failed("ask for the administrator's rights");
    let row = place.session.query_one(SQL, &[]).await.map_err(failed())?;
    let said: Result<(bool, String), tokio_postgres::Error> = (|| Ok((row.try_get(0)?, row.try_get(1)?)))();
    let (may, role) = said.map_err(failed())?;
    if !may {
        findings.complain(
            place,
            format!(
                "its administrator {role} may not look into schema irongate, so that nothing can be checked"
            ),
            format!(
                "ALTER SCHEMA irongate OWNER TO {role}, and its tables; or name their owner in admin_uri"
            ),
        );
    }
    Ok(may)
}

/// The administrator may look into slots and drop them.
pub(super) async fn administrator(place: &Place, findings: &mut Findings) -> Result<(), Error> {
    let failed = |source| asked(place, "ask for the administrator's rights", source);
    let facts = catalog::role_facts(&place.session, None).await.map_err(failed)?;
    if let Some(facts) = facts.filter(|facts| !facts.superuser && !facts.replication) {
        findings.complain(
            format!("role \"{}\" at {place}", facts.name),
            "the administrator may not look into a slot, nor drop one",
            format!("ALTER ROLE {} REPLICATION", irongate_postgres::sql::quote_identifier(&facts.name)),
        );
    }
    Ok(())
}

fn asked(place: &Place, doing: &str, source: irongate_postgres::Error) -> Error {
    Error::Database { end: place.to_string(), doing: doing.to_owned(), source: Box::new(source) }
}

/// The database's collation is that of the operating system's library still: else its text indexes may be out of order.
pub(super) async fn collation(place: &Place, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "SELECT datcollversion, pg_catalog.pg_database_collation_actual_version(oid), datconnlimit, datname::text
           FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let failed = || place.failed("ask for the database's collation");
    let row = place.session.query_one(SQL, &[]).await.map_err(failed())?;
    let versions: Result<(Option<String>, Option<String>, i32, String), tokio_postgres::Error> =
        (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))();
    let (made, now, connections, database) = versions.map_err(failed())?;
    if let (Some(made), Some(now)) = (&made, &now)
        && made != now
    {
        findings.note(
            place,
            format!("its collation was made with version {made}, and the operating system has {now}: REINDEX what sorts text"),
        );
    }
    if connections == 0 {
        let database = irongate_postgres::sql::quote_identifier(&database);
        findings.complain(
            place,
            "its connection limit is 0: applications would be refused",
            format!("ALTER DATABASE {database} CONNECTION LIMIT -1"),
        );
    }
    Ok(())
}

/// What differs between the two servers.
pub(super) async fn between(from: &Place, to: &Place, findings: &mut Findings) -> Result<(), Error> {
    let mut facts = Vec::new();
    for place in [from, to] {
        let failed = |source| asked(place, "ask for the server's settings", source);
        facts.push(catalog::server_facts(&place.session).await.map_err(failed)?);
    }
    let [old, new] = &facts[..] else { return Ok(()) };
    if old.version_num / 10_000 != new.version_num / 10_000 {
        findings.note(to, format!("it is PostgreSQL {}, and {from} is {}", new.version, old.version));
    }
    if old.max_prepared_transactions > new.max_prepared_transactions {
        findings.note(
            to,
            format!(
                "max_prepared_transactions is {}, and {} at {from}",
                new.max_prepared_transactions, old.max_prepared_transactions
            ),
        );
    }
    const EXTENSIONS: &str =
        "SELECT pg_catalog.format('%s %s', extname, extversion) FROM pg_catalog.pg_extension ORDER BY 1";
    let mut extensions = Vec::new();
    for place in [from, to] {
        let failed = || place.failed("ask for the extensions");
        let rows = place.session.query(EXTENSIONS, &[]).await.map_err(failed())?;
        let names: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        extensions.push(names.map_err(failed())?);
    }
    if let [old, new] = &extensions[..] {
        let lacking: Vec<String> = old.iter().filter(|extension| !new.contains(extension)).cloned().collect();
        if !lacking.is_empty() {
            findings.note(
                to,
                format!("extensions of {from} are not there, or in another version: {}", listed(&lacking)),
            );
        }
    }
    Ok(())
}

/// The slot that the drain needs: it is there, and is not about to be lost.
pub(super) async fn slot(
    place: &Place,
    name: &str,
    alarms: &AlarmOptions,
    findings: &mut Findings,
) -> Result<(), Error> {
    let failed = |source| asked(place, "look at the slots", source);
    // That there is none, or that it is lost, the flow's own check says.
    let Some(slot) = catalog::slot(&place.session, name).await.map_err(failed)? else { return Ok(()) };
    let limit = catalog::setting(&place.session, "max_slot_wal_keep_size").await.map_err(failed)?;
    let now = catalog::current_wal_lsn(&place.session).await.map_err(failed)?;
    let kept = slot.restart_lsn.map_or(0, |restart| now.bytes_since(restart));
    if let Some(reason) = danger(&slot, kept, alarms.slot_safe.critical.unwrap_or(0)) {
        findings.complain(
            format!("slot \"{name}\" at {place}"),
            format!("{reason} (max_slot_wal_keep_size: {})", limit.unwrap_or_default()),
            "raise max_slot_wal_keep_size, or see to what holds Extract up",
        );
    }
    Ok(())
}

/// What threatens a slot that keeps so many bytes of log, where `least` more must be allowed.
fn danger(slot: &SlotFacts, kept: u64, least: u64) -> Option<String> {
    if slot.lost().is_some() {
        return None;
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Some("its log goes at the next server checkpoint".to_owned());
    }
    let safe = u64::try_from(slot.safe_wal_size?.max(0)).ok()?;
    // A limit that is small altogether is somebody's will: what counts is that more of it is used than is left.
    (safe < least && safe < kept).then(|| format!("it is lost after {} MiB more of log", safe >> 20))
}

/// What is known of the log at the new site, which the reverse slot will keep.
pub(super) async fn log(place: &Place, findings: &mut Findings) -> Result<(), Error> {
    let failed = || place.failed("ask for the size of the log");
    const MAY: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')";
    let row = place.session.query_one(MAY, &[]).await.map_err(failed())?;
    if row.try_get(0).map_err(failed())? {
        const SIZE: &str =
            "SELECT pg_catalog.sum(size)::int8 >> 20, pg_catalog.current_setting('max_slot_wal_keep_size'),
                pg_catalog.current_setting('max_wal_size') FROM pg_catalog.pg_ls_waldir()";
        let row = place.session.query_one(SIZE, &[]).await.map_err(failed())?;
        let said: Result<(Option<i64>, String, String), tokio_postgres::Error> =
            (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))();
        let (size, limit, usual) = said.map_err(failed())?;
        let limit = if limit == "-1" { "as much as there is disk".to_owned() } else { limit };
        findings.note(
            place,
            format!(
                "its log takes {} MiB (max_wal_size {usual}); the reverse slot may keep {limit}",
                size.unwrap_or(0)
            ),
        );
    }
    let slots =
        catalog::slots(&place.session).await.map_err(|source| asked(place, "look at the slots", source))?;
    for slot in slots.iter().filter(|slot| !slot.active && !slot.temporary && slot.lost().is_none()) {
        findings.note(format!("slot \"{}\" at {place}", slot.name), "nobody reads it, and it keeps log");
    }
    Ok(())
}

/// Room for the trail of what the new site will write.
pub(super) fn disk(trail: &Path, alarms: &AlarmOptions, findings: &mut Findings) {
    let object = format!("disk of trail \"{}\"", trail.display());
    let mut place = trail.to_owned();
    // Before the first trail there is a disk, and no directory yet.
    while !place.exists() && place.pop() {}
    let free = match rustix::fs::statvfs(&place) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => {
            findings.complain(
                object,
                format!("it cannot be asked for its room: {error}"),
                "see to the directory and its rights",
            );
            return;
        }
    };
    room(object, free, alarms, findings);
}

fn room(object: String, free: u64, alarms: &AlarmOptions, findings: &mut Findings) {
    let is_less = |limit: Option<u64>| limit.is_some_and(|limit| free < limit);
    let said = format!("{} MiB are free", free >> 20);
    if is_less(alarms.trail_free.critical) {
        findings.complain(
            object,
            format!("{said}, and Extract would stop for that"),
            "make room, or irongate trail purge",
        );
    } else if is_less(alarms.trail_free.warning) {
        findings.note(object, said);
    }
}

#[cfg(test)]
mod tests {
    use irongate_deployment::Configuration;

    use super::*;

    #[test]
    fn a_slot_that_is_about_to_be_lost_is_complained_of() {
        let slot = |wal_status: &str, safe_wal_size| SlotFacts {
            name: "s".into(),
            plugin: None,
            database: None,
            temporary: false,
            active: true,
            active_pid: None,
            confirmed_flush_lsn: None,
            restart_lsn: None,
            catalog_xmin: None,
            wal_status: Some(wal_status.into()),
            safe_wal_size,
            invalidation_reason: None,
            two_phase: false,
            conflicting: false,
            failover: false,
            synced: false,
        };
        const MIB: u64 = 1 << 20;
        let least = 512 * MIB;
        assert_eq!(danger(&slot("reserved", None), 1 << 40, least), None, "there is no limit");
        assert_eq!(danger(&slot("reserved", Some(1 << 30)), 1 << 40, least), None);
        assert_eq!(
            danger(&slot("reserved", Some(1 << 27)), MIB, least),
            None,
            "a small limit, and little of it used"
        );
        assert!(danger(&slot("extended", Some(1 << 27)), 300 * MIB, least).unwrap().contains("128 MiB"));
        assert!(danger(&slot("unreserved", Some(0)), 0, least).unwrap().contains("checkpoint"));
        assert_eq!(danger(&slot("lost", Some(0)), 0, least), None, "the flow's own check says that");
    }

    #[test]
    fn a_disk_on_which_extract_would_stop_is_complained_of() {
        let file = Path::new("/irongate.toml");
        let alarms = Configuration::parse(Configuration::reference(), file).unwrap().manager.alarms;
        let found = |free| {
            let mut findings = Findings::default();
            room("disk".to_owned(), free, &alarms, &mut findings);
            (findings.complaints.len(), findings.notes.len())
        };
        assert_eq!((found(1 << 20), found(1 << 30), found(1 << 40)), ((1, 0), (0, 1), (0, 0)));
        let mut findings = Findings::default();
        disk(Path::new("/there/is/no/such/directory"), &alarms, &mut findings);
        assert!(findings.complaints.iter().all(|complaint| complaint.contains("MiB")), "{findings:?}");
    }
}
