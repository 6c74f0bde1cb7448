//! Standbys of the source: whether the flow's slot follows when one of them is promoted.

use irongate_postgres::catalog::SlotFacts;
use irongate_postgres::sql::quote_literal;

use super::finding::reloaded;
use super::{Findings, Fix, Side};
use crate::configuration::Flow;
use crate::setup::FAILOVER_SLOTS;

/// What the server says of its standbys, as far as everybody may see it.
#[derive(Default)]
struct Standbys {
    /// Physical slots, by which standbys hold the log.
    slots: Vec<String>,
    /// Those of them that somebody uses.
    in_use: Vec<String>,
    /// `synchronized_standby_slots`; empty before 17.
    waited_for: String,
}

/// What would go wrong, and what mends it.
#[derive(Debug)]
struct Weakness {
    reason: String,
    fix: Fix,
}

pub(super) async fn slot(side: &Side<'_>, flow: &Flow, slot: &SlotFacts, findings: &mut Findings) {
    const SQL: &str = "SELECT coalesce(pg_catalog.current_setting('synchronized_standby_slots', true), ''), \
         ARRAY(SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots \
               WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1), \
         ARRAY(SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots \
               WHERE slot_type = 'physical' AND active ORDER BY 1)";
    let asked = async {
        let row = side.session.query_one(SQL, &[]).await?;
        Ok(Standbys { waited_for: row.try_get(0)?, slots: row.try_get(1)?, in_use: row.try_get(2)? })
    };
    let asked: Result<Standbys, tokio_postgres::Error> = asked.await;
    let object = format!("slot \"{}\"", slot.name);
    match asked {
        Ok(standbys) => {
            if let Some(Weakness { reason, fix }) = waits_in_vain(slot.failover, &standbys)
                .or_else(|| weakness(side.facts.version_num, flow, &slot.name, slot.failover, &standbys))
            {
                findings.warning(&side.end, object, reason, fix);
            }
        }
        Err(error) => findings.unanswered(&side.end, &object, &error.into()),
    }
}

/// What Extract would wait for without end: standbys that are named, and whose slot is not there or not in use.
fn waits_in_vain(follows: bool, standbys: &Standbys) -> Option<Weakness> {
    let names = standbys.waited_for.split(',').map(|name| name.trim().trim_matches('"'));
    let missing: Vec<&str> =
        names.filter(|name| !name.is_empty() && !standbys.in_use.iter().any(|slot| slot == name)).collect();
    if !follows || missing.is_empty() {
        return None;
    }
    let missing: Vec<String> = missing.iter().map(|name| format!("slot \"{name}\"")).collect();
    Some(Weakness {
        reason: format!(
            "\"synchronized_standby_slots\" is set, and Extract waits for {}, which no standby uses",
            missing.join(" and ")
        ),
        fix: "start the standby, or take it out of synchronized_standby_slots".into(),
    })
}

/// The first thing that is missing for Extract to go on alone at a standby that was promoted. Without standbys, nothing.
fn weakness(version: u32, flow: &Flow, slot: &str, follows: bool, standbys: &Standbys) -> Option<Weakness> {
    if standbys.slots.is_empty() || version < FAILOVER_SLOTS || !flow.failover_slot {
        return None;
    }
    if !follows {
        return Some(Weakness {
            reason: "the server has standbys, and the slot is not synchronized to them: when one is promoted, the flow must be instantiated again".to_owned(),
            fix: format!(
                "stop Extract, run ALTER_REPLICATION_SLOT {} (FAILOVER true) on a replication connection, and turn sync_replication_slots on at the standbys",
                slot
            )
            .into(),
        });
    }
    if standbys.waited_for.trim().is_empty() {
        return Some(Weakness {
            reason: "Extract can be ahead of the standbys; when one is promoted that lacks what Extract has, the flow stops and must be compared".to_owned(),
            fix: reloaded("synchronized_standby_slots", &quote_literal(&standbys.slots.join(", "))),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Configuration;

    #[test]
    fn a_slot_that_would_not_follow_a_promotion_is_told_where_there_are_standbys() {
        let configuration = Configuration::parse(Configuration::example(), Path::new("/f.toml")).unwrap();
        let flow = configuration.flow("csp").unwrap();
        let mut alone = flow.clone();
        alone.failover_slot = false;
        let standbys = |slots: &[&str], waited_for: &str| Standbys {
            slots: slots.iter().map(|slot| (*slot).to_owned()).collect(),
            in_use: slots.iter().take(1).map(|slot| (*slot).to_owned()).collect(),
            waited_for: waited_for.to_owned(),
        };
        let says = |version, flow, follows, standbys: &Standbys| {
            weakness(version, flow, "s", follows, standbys).map(|weakness| weakness.fix.to_string())
        };
        let two = standbys(&["s1", "s2"], "");
        assert_eq!(says(180_000, flow, true, &standbys(&[], "")), None);
        assert_eq!(says(160_000, flow, false, &two), None);
        assert_eq!(says(180_000, &alone, false, &two), None, "it is wanted so");
        assert!(says(170_000, flow, false, &two).unwrap().contains("ALTER_REPLICATION_SLOT"));
        assert!(says(170_000, flow, true, &two).unwrap().contains("synchronized_standby_slots = 's1, s2'"));
        assert_eq!(says(170_000, flow, true, &standbys(&["s1"], "s1")), None);
        assert!(
            waits_in_vain(true, &standbys(&["s1", "s2"], "s1, \"s2\""))
                .unwrap()
                .reason
                .contains("slot \"s2\"")
        );
        assert!(waits_in_vain(true, &standbys(&["s1"], "s1")).is_none());
        assert!(waits_in_vain(false, &standbys(&[], "s1")).is_none(), "only slots that follow wait");
    }
}
