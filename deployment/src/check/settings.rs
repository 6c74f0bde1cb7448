//! Settings that a server, a database or a role has: those under which a process of Irongate's would be ended, wait for
//! ever or keep nothing, and those under which applications work otherwise than at the other site.

use std::collections::BTreeMap;

use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Error, catalog};

use super::finding::{reloaded, restarted};
use super::{Findings, Side, sql};
use crate::end::Role;

/// Milliseconds of silence below which a busy Extract could be cut off.
const HASTY: i64 = 10_000;

/// Settings as the session has them, in their base units.
type Settings = BTreeMap<String, String>;

pub(super) async fn of(side: &Side<'_>, findings: &mut Findings) {
    if let Err(error) = examine(side, findings).await {
        findings.unanswered(&side.end, "settings", &error);
    }
}

async fn settings(side: &Side<'_>) -> Result<Settings, Error> {
    // What the preflight has set for itself does not count.
    const SQL: &str =
        "SELECT name, coalesce(reset_val, '') FROM pg_catalog.pg_settings WHERE name = ANY ($1)";
    const NAMES: &[&str] = &[
        "fsync",
        "full_page_writes",
        "data_checksums",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "transaction_timeout",
        "wal_sender_timeout",
        "idle_replication_slot_timeout",
        "old_snapshot_threshold",
        "session_replication_role",
        "synchronous_standby_names",
        "logical_decoding_work_mem",
        "default_transaction_read_only",
    ];
    let rows = side.session.query(SQL, &[&NAMES]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn examine(side: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    let settings = settings(side).await?;
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(0);
    let end = &side.end;
    let role = quote_identifier(end.own_login().role());
    for (name, consequence) in [
        ("fsync", "a crash can take back what has been sent to the other site"),
        ("full_page_writes", "a crash can leave pages that are half written"),
        ("data_checksums", "damage to the database's files is not noticed"),
    ] {
        if settings.get(name).is_some_and(|value| value == "off") {
            findings.note(end, format!("setting \"{name}\""), format!("it is off: {consequence}"));
        }
    }
    if side.is_own && end.role == Role::Source {
        for name in ["idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"] {
            if number(name) > 0 {
                findings.warning(
                    end,
                    format!("setting \"{name}\""),
                    "it ends sessions of Extract's role, that which holds the snapshot of an initial load among them",
                    sql([format!("ALTER ROLE {role} SET {name} = 0")]),
                );
            }
        }
        let timeout = number("wal_sender_timeout");
        if timeout == 0 {
            findings.warning(
                end,
                "setting \"wal_sender_timeout\"",
                "it is 0: the server never notices that an Extract is gone, and its slot stays in use",
                sql([format!("ALTER ROLE {role} SET wal_sender_timeout = '60s'")]),
            );
        } else if timeout < HASTY {
            findings.warning(
                end,
                "setting \"wal_sender_timeout\"",
                format!("it is {timeout} ms: an Extract that is busy for a moment is cut off"),
                sql([format!("ALTER ROLE {role} SET wal_sender_timeout = '60s'")]),
            );
        }
    }
    if end.role == Role::Source {
        if number("idle_replication_slot_timeout") > 0 {
            findings.warning(
                end,
                "setting \"idle_replication_slot_timeout\"",
                "a slot is lost when its Extract was stopped for that long, and the flow must be instantiated again",
                reloaded("idle_replication_slot_timeout", "0"),
            );
        }
        if settings.contains_key("old_snapshot_threshold") && number("old_snapshot_threshold") >= 0 {
            findings.warning(
                end,
                "setting \"old_snapshot_threshold\"",
                "an initial load that takes longer fails with \"snapshot too old\"",
                restarted("old_snapshot_threshold", -1),
            );
        }
        if number("logical_decoding_work_mem") < 1024 {
            findings.note(
                end,
                "setting \"logical_decoding_work_mem\"",
                "it is less than 1 MB: even small transactions are spilled to the server's disk or streamed before they commit",
            );
        }
    }
    if settings.get("default_transaction_read_only").is_some_and(|value| value == "on")
        && side.is_own
        && end.role == Role::Target
    {
        findings.error(
            end,
            "setting \"default_transaction_read_only\"",
            "Replicat's transactions could not write",
            sql([format!("ALTER ROLE {role} SET default_transaction_read_only = off")]),
        );
    }
    let names = settings.get("synchronous_standby_names").map(String::as_str).unwrap_or_default();
    standbys(side, names, findings).await?;
    by_role_and_database(side, findings).await?;
    limits(side, findings).await
}

/// A commit waits until the standbys that are named have it, for ever if none is there.
async fn standbys(side: &Side<'_>, names: &str, findings: &mut Findings) -> Result<(), Error> {
    if names.trim().is_empty() {
        return Ok(());
    }
    const SQL: &str = "SELECT application_name FROM pg_catalog.pg_stat_replication";
    let rows = side.session.query(SQL, &[]).await?;
    let connected: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !is_waited_for(names, &connected) {
        findings.warning(
            &side.end,
            "setting \"synchronous_standby_names\"",
            format!("it is \"{names}\", and none of them is connected: each commit waits"),
            "start a standby that it names, or ALTER SYSTEM RESET synchronous_standby_names and reload",
        );
    }
    Ok(())
}

/// Whether one of the connected is among those that commits wait for.
fn is_waited_for(names: &str, connected: &[String]) -> bool {
    let named = |text: &str| text.trim_matches(['"', ' ']).to_ascii_lowercase();
    let inside = names.split_once('(').map_or(names, |(_, inside)| inside).trim_end_matches([' ', ')']);
    inside
        .split(',')
        .map(named)
        .any(|name| connected.iter().any(|connected| name == "*" || connected.to_ascii_lowercase() == name))
}

/// What `ALTER ROLE ... SET` and `ALTER DATABASE ... SET` say of the role in which sessions replicate.
async fn by_role_and_database(side: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    const SQL: &str = "
        SELECT r.rolname::pg_catalog.text, d.datname::pg_catalog.text
          FROM pg_catalog.pg_db_role_setting s
         CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c(setting)
          LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
          LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
         WHERE c.setting IN ('session_replication_role=replica', 'session_replication_role=local')
           AND (s.setdatabase = 0 OR d.datname = current_database())
           AND r.rolname IS DISTINCT FROM $1::pg_catalog.text ORDER BY 1, 2";
    for row in side.session.query(SQL, &[&side.end.own_login().role()]).await? {
        let (role, database): (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let whose = match (&role, &database) {
            (Some(role), Some(database)) => {
                format!("ROLE {} IN DATABASE {}", quote_identifier(role), quote_identifier(database))
            }
            (Some(role), None) => format!("ROLE {}", quote_identifier(role)),
            (None, Some(database)) => format!("DATABASE {}", quote_identifier(database)),
            (None, None) => "ROLE ALL".to_owned(),
        };
        findings.warning(
            &side.end,
            "setting \"session_replication_role\"",
            format!("ALTER {whose} has set it: applications write without triggers and foreign keys"),
            sql([format!("ALTER {whose} RESET session_replication_role")]),
        );
    }
    Ok(())
}

/// How many sessions the own role may have, and until when it gets in.
async fn limits(side: &Side<'_>, findings: &mut Findings) -> Result<(), Error> {
    let (end, name) = (&side.end, side.end.own_login().role());
    let Some(role) = catalog::role_facts(&side.session, Some(name)).await? else { return Ok(()) };
    let object = format!("role \"{name}\"");
    const LEAST: i32 = 10;
    if (0..LEAST).contains(&role.connection_limit) {
        findings.warning(
            end,
            &object,
            format!("it may have {} connections, and its flow uses several at a time", role.connection_limit),
            sql([format!("ALTER ROLE {} CONNECTION LIMIT -1", quote_identifier(name))]),
        );
    }
    const SQL: &str = "
        SELECT CASE WHEN pg_catalog.isfinite(r.rolvaliduntil)
                    THEN extract(day FROM r.rolvaliduntil - pg_catalog.now())::pg_catalog.int4 END, d.datconnlimit
          FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
         WHERE r.rolname = $1::pg_catalog.text AND d.datname = current_database()";
    let Some(row) = side.session.query_opt(SQL, &[&name]).await? else { return Ok(()) };
    let (days, limit): (Option<i32>, i32) = (row.try_get(0)?, row.try_get(1)?);
    if let Some(days) = days.filter(|days| *days < 30) {
        findings.warning(
            end,
            &object,
            format!("its password is valid for {days} more days"),
            sql([format!("ALTER ROLE {} VALID UNTIL 'infinity'", quote_identifier(name))]),
        );
    }
    if (0..LEAST).contains(&limit) {
        let database = end.address.database();
        findings.warning(
            end,
            format!("database \"{database}\""),
            format!("it takes {limit} connections"),
            sql([format!("ALTER DATABASE {} CONNECTION LIMIT -1", quote_identifier(database))]),
        );
    }
    Ok(())
}

/// Clocks that differ by more than this, in seconds, make every lag wrong.
const APART: f64 = 5.0;

/// The clocks of both sites: lags and reports mix their times.
pub(super) async fn clocks(source: &Side<'_>, target: &Side<'_>, findings: &mut Findings) {
    match apart(source, target).await {
        Ok(apart) if apart > APART => findings.warning(
            &target.end,
            "clock",
            format!("it differs from that of {} by {apart:.1} s: lags are told wrong", source.end),
            "set the clocks of both sites by the same time servers",
        ),
        Ok(_) => {}
        Err(error) => findings.unanswered(&target.end, "clock", &error),
    }
}

/// By how many seconds at least the clocks differ.
pub(super) async fn apart(source: &Side<'_>, target: &Side<'_>) -> Result<f64, Error> {
    const SQL: &str = "SELECT EXTRACT(epoch FROM clock_timestamp())::pg_catalog.float8";
    let before: f64 = source.session.query_one(SQL, &[]).await?.try_get(0)?;
    let there: f64 = target.session.query_one(SQL, &[]).await?.try_get(0)?;
    let after: f64 = source.session.query_one(SQL, &[]).await?.try_get(0)?;
    Ok((there - after).max(before - there).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::is_waited_for;

    #[test]
    fn commits_wait_for_whoever_is_named() {
        let connected = ["s1".to_owned(), "walreceiver".to_owned()];
        for names in ["s1", "FIRST 1 (s1, s2)", "ANY 2 (\"S1\",x)", "*", "2 (a, walreceiver )"] {
            assert!(is_waited_for(names, &connected), "{names}");
        }
        assert!(!is_waited_for("FIRST 1 (s2, s3)", &connected));
        assert!(!is_waited_for("*", &[]));
    }
}
