//! Standbys of the source: whether the flow's slot follows when one of them is promoted.

use irongate_postgres::catalog::SlotFacts;

use super::{Findings, Side, listed};
use crate::configuration::Flow;
use crate::setup::FAILOVER_SLOTS;

/// What the server says of its standbys, as far as everybody may see it.
#[derive(Default)]
struct Standbys {
    /// Physical slots, by which standbys hold the log.
    slots: Vec<String>,
    /// `synchronized_standby_slots`; empty before 17.
    waited_for: String,
}

/// What would go wrong, and what mends it.
#[derive(PartialEq, Eq, Debug)]
struct Weakness {
    reason: String,
    fix: String,
}

pub(super) async fn slot(side: &Side<'_>, flow: &Flow, slot: &SlotFacts, findings: &mut Findings) {
    const SQL: &str = "SELECT coalesce(pg_catalog.current_setting('synchronized_standby_slots', true), ''), \
         ARRAY(SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots \
               WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1)";
    let asked = async {
        let row = side.session.query_one(SQL, &[]).await?;
        Ok(Standbys { waited_for: row.try_get(0)?, slots: row.try_get(1)? })
    };
    let asked: Result<Standbys, tokio_postgres::Error> = asked.await;
    let object = format!("slot \"{}\"", slot.name);
    match asked {
        Ok(standbys) => {
            if let Some(Weakness { reason, fix }) =
                weakness(side.facts.version_num, flow, &slot.name, slot.failover, &standbys)
            {
                findings.warning(&side.end, object, reason, fix);
            }
        }
        Err(error) => findings.unanswered(&side.end, &object, &error.into()),
    }
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
            ),
        });
    }
    if standbys.waited_for.trim().is_empty() {
        return Some(Weakness {
            reason: "Extract can be ahead of the standbys; when one is promoted that lacks what Extract has, the flow stops and must be compared".to_owned(),
            fix: format!(
                "ALTER SYSTEM SET synchronized_standby_slots = '{}'; SELECT pg_reload_conf()",
                listed(&standbys.slots)
            ),
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
            waited_for: waited_for.to_owned(),
        };
        let says = |version, flow, follows, standbys: &Standbys| {
            weakness(version, flow, "s", follows, standbys).map(|weakness| weakness.fix)
        };
        let two = standbys(&["s1", "s2"], "");
        assert_eq!(says(180_000, flow, true, &standbys(&[], "")), None);
        assert_eq!(says(160_000, flow, false, &two), None);
        assert_eq!(says(180_000, &alone, false, &two), None, "it is wanted so");
        assert!(says(170_000, flow, false, &two).unwrap().contains("ALTER_REPLICATION_SLOT"));
        assert!(says(170_000, flow, true, &two).unwrap().contains("synchronized_standby_slots = 's1, s2'"));
        assert_eq!(says(170_000, flow, true, &standbys(&["s1"], "s1")), None);
    }
}
