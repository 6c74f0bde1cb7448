//! The servers: versions, settings, room for one more slot, walsender and origin.

use irongate_checkpoint::Origin;
use irongate_postgres::catalog::{self, ServerFacts};
use irongate_postgres::{Error, ReplicationConnection};

use super::finding::{reloaded, restarted};
use super::{APPLICATION, Findings, Fix, Severity, Side};
use crate::configuration::Flow;

/// The oldest server that is supported.
const OLDEST: u32 = 150_000;

/// By major version: below the first minor release decoding is known to lose changes; below the second, to stop, to
/// bloat or to send wrong defaults.
const MINORS: [(u32, u32, u32); 4] = [(15, 13, 18), (16, 9, 14), (17, 5, 10), (18, 0, 4)];

/// What a release is known for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Release {
    TooOld,
    LosesChanges(u32),
    HasDefects(u32),
    Sound,
}

fn release(version_num: u32) -> Release {
    if version_num < OLDEST {
        return Release::TooOld;
    }
    let (major, minor) = (version_num / 10_000, version_num % 10_000);
    match MINORS.iter().find(|(known, ..)| *known == major) {
        Some((_, loses, wanted)) if minor < *loses => Release::LosesChanges(*wanted),
        Some((.., wanted)) if minor < *wanted => Release::HasDefects(*wanted),
        _ => Release::Sound,
    }
}

pub(super) async fn source(side: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    let Side { end, facts, .. } = side;
    let upgrade =
        |minor: u32| format!("upgrade to PostgreSQL {}.{minor} or later", facts.version_num / 10_000);
    match release(facts.version_num) {
        Release::TooOld => findings.error(
            end,
            "server version",
            format!("Extract reads PostgreSQL 15 and later, this is {}", facts.version),
            "upgrade the server",
        ),
        Release::LosesChanges(minor) => findings.error(
            end,
            "server version",
            format!(
                "PostgreSQL {} loses changes when a publication is altered while transactions are open",
                facts.version
            ),
            upgrade(minor),
        ),
        Release::HasDefects(minor) => findings.warning(
            end,
            "server version",
            format!(
                "logical decoding of PostgreSQL {} has defects that later minor releases mend",
                facts.version
            ),
            upgrade(minor),
        ),
        Release::Sound => {}
    }
    standby(side, findings);
    if facts.wal_level != "logical" {
        findings.error(
            end,
            "setting \"wal_level\"",
            format!("it is \"{}\"; the log then lacks what logical decoding needs", facts.wal_level),
            restarted("wal_level", "'logical'"),
        );
    }
    output_plugins(side, findings).await;
    match catalog::slots(&side.session).await {
        Ok(slots) => {
            let own = slots.iter().find(|slot| slot.name == flow.slot);
            if own.is_none() && slots.len() >= facts.max_replication_slots as usize {
                findings.error(
                    end,
                    "setting \"max_replication_slots\"",
                    format!("all {} slots are taken, and the flow needs one", facts.max_replication_slots),
                    restarted("max_replication_slots", facts.max_replication_slots + 5),
                );
            }
            // An Extract that is running has proven what the probe would.
            if facts.wal_level == "logical" && !own.is_some_and(|slot| slot.active) {
                walsender(side, findings).await;
            }
        }
        Err(error) => findings.unanswered(end, "slots", &error),
    }
    if facts.max_slot_wal_keep_size_mb < 0 {
        findings.note(
            end,
            "setting \"max_slot_wal_keep_size\"",
            "there is no limit to the log that a slot keeps while nobody reads it",
        );
    }
}

fn standby(side: &Side<'_>, findings: &mut Findings) {
    if side.facts.in_recovery {
        findings.error(
            &side.end,
            "server",
            "it is a standby and cannot be written to",
            "name the primary, or both hosts with target_session_attrs=read-write",
        );
    }
}

/// From some minor releases on only listed plugins may be loaded.
async fn output_plugins(side: &Side<'_>, findings: &mut Findings) {
    match catalog::setting(&side.session, "output_plugin_libraries").await {
        Ok(Some(list)) if !allows_pgoutput(&list) => findings.error(
            &side.end,
            "setting \"output_plugin_libraries\"",
            "it does not allow \"pgoutput\"",
            reloaded("output_plugin_libraries", "'pgoutput'"),
        ),
        Ok(_) => {}
        Err(error) => findings.unanswered(&side.end, "setting \"output_plugin_libraries\"", &error),
    }
}

fn allows_pgoutput(list: &str) -> bool {
    list.split(',').map(|name| name.trim().trim_matches('"')).any(|name| name == "pgoutput" || name == "*")
}

/// Tries what Extract does: a replication connection needs a right, a line in `pg_hba.conf` and a free walsender.
async fn walsender(side: &Side<'_>, findings: &mut Findings) {
    if !side.is_own {
        return;
    }
    let login = side.end.own_login();
    let Err(error) = ReplicationConnection::connect(&login.endpoint, APPLICATION).await else { return };
    let (object, fix) = match error.code() {
        Some("53300") => (
            "setting \"max_wal_senders\"".to_owned(),
            Some(restarted("max_wal_senders", side.facts.max_wal_senders + 5)),
        ),
        // The role's attribute is a finding of its own.
        Some("42501") => return,
        _ => (format!("replication connection as \"{}\"", login.role()), error.hint().map(Fix::Words)),
    };
    findings.add(Severity::Error, &side.end, object, refusal(&error), fix);
}

fn refusal(error: &Error) -> String {
    format!("Extract cannot connect for replication: {error}")
}

pub(super) async fn target(side: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    let Side { end, facts, .. } = side;
    if release(facts.version_num) == Release::TooOld {
        findings.error(
            end,
            "server version",
            format!("Replicat needs PostgreSQL 15 or later, this is {}", facts.version),
            "upgrade the server",
        );
    }
    standby(side, findings);
    if let Err(error) = origin_room(side, facts, flow, findings).await {
        findings.unanswered(end, "replication origins", &error);
    }
}

async fn origin_room(
    side: &Side<'_>,
    facts: &ServerFacts,
    flow: &Flow,
    findings: &mut Findings,
) -> Result<(), Error> {
    let Ok(own) = Origin::name_for(&flow.name) else { return Ok(()) };
    const SQL: &str =
        "SELECT count(*), coalesce(bool_or(roname = $1), false) FROM pg_catalog.pg_replication_origin";
    let row = side.session.query_one(SQL, &[&own]).await?;
    let (count, is_there): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let limit = facts.max_replication_origins;
    if !is_there && count >= i64::from(limit) {
        let setting = if facts.version_num >= 180_000 {
            "max_active_replication_origins"
        } else {
            "max_replication_slots"
        };
        findings.error(
            &side.end,
            format!("setting \"{setting}\""),
            format!("there are {count} replication origins and room for {limit}, and the flow needs one"),
            restarted(setting, count + 5),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_lose_changes_are_known() {
        for (version, expected) in [
            (140_022, Release::TooOld),
            (150_012, Release::LosesChanges(18)),
            (150_013, Release::HasDefects(18)),
            (150_018, Release::Sound),
            (160_008, Release::LosesChanges(14)),
            (170_004, Release::LosesChanges(10)),
            (170_010, Release::Sound),
            (180_000, Release::HasDefects(4)),
            (180_004, Release::Sound),
            (190_000, Release::Sound),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }

    #[test]
    fn a_list_of_plugins_must_name_ours() {
        assert!(allows_pgoutput("pgoutput, test_decoding"));
        assert!(allows_pgoutput("\"pgoutput\""));
        assert!(!allows_pgoutput("test_decoding,wal2json"));
        assert!(!allows_pgoutput(""));
    }
}
