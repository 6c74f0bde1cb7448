//! The slot, the trail and the checkpoint: three places that must fit together.

use irongate_checkpoint::{Applied, CheckpointTable};
use irongate_postgres::Error;
use irongate_postgres::catalog::{self, SlotFacts};
use irongate_postgres::replication::OUTPUT_PLUGIN;
use irongate_postgres::sql::quote_literal;
use irongate_trail::{Begins, Directory, Lineage, Lsn, Mark, Reader};

use super::{Findings, Side, choice, listed, standby};
use crate::configuration::{Configuration, Flow};

/// A slot that nobody reads and that keeps so many bytes of log is reported.
const MUCH_LOG: u64 = 1 << 30;

pub(super) async fn source(
    side: &Side<'_>,
    target: Option<&Side<'_>>,
    configuration: &Configuration,
    flow: &Flow,
    findings: &mut Findings,
) {
    let object = format!("slot \"{}\"", flow.slot);
    let checkpoint = match target {
        Some(target) => checkpoint(target, flow, findings).await,
        None => Known::Not,
    };
    match catalog::slot(&side.session, &flow.slot).await {
        Ok(Some(slot)) => {
            usable(side, flow, &slot, findings);
            if let Err(error) = retained(side, &slot, findings).await {
                findings.unanswered(&side.end, &object, &error);
            }
            trail(side, target, configuration, flow, &slot, &checkpoint, findings);
            standby::slot(side, flow, &slot, findings).await;
        }
        Ok(None) => {
            let fix = match checkpoint {
                Known::Yes(_) => format!("irongate instantiate {}", flow.name),
                Known::Not | Known::Absent => "irongate setup".to_owned(),
            };
            findings.error(&side.end, &object, "it does not exist", fix);
            holders(side, &object, findings).await;
        }
        Err(error) => findings.unanswered(&side.end, &object, &error),
    }
}

/// A flow whose turn it is not needs no slot; one that is there keeps log for nobody.
pub(super) async fn of_another_turn(side: &Side<'_>, flow: &Flow, findings: &mut Findings) {
    let object = format!("slot \"{}\"", flow.slot);
    match catalog::slot(&side.session, &flow.slot).await {
        Ok(None) => {}
        Ok(Some(_)) => findings.warning(
            &side.end,
            &object,
            "it is not this site's turn to write, and the slot keeps log and old catalog rows for nobody",
            choice([format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&flow.slot))]),
        ),
        Err(error) => findings.unanswered(&side.end, &object, &error),
    }
}

fn usable(side: &Side<'_>, flow: &Flow, slot: &SlotFacts, findings: &mut Findings) {
    let object = format!("slot \"{}\"", slot.name);
    let again = format!("irongate instantiate {}", flow.name);
    let other = || "give the flow another slot in the configuration".to_owned();
    if let Some(reason) = slot.lost() {
        let reason = format!("it is lost ({reason}): changes are gone that the target never had");
        findings.error(&side.end, &object, reason, again);
        return;
    }
    if slot.plugin.as_deref() != Some(OUTPUT_PLUGIN) {
        findings.error(&side.end, &object, "its output plugin is not \"pgoutput\"", other());
    } else if slot.database.as_deref() != Some(side.end.address.database()) {
        findings.error(&side.end, &object, "it belongs to another database", other());
    } else if slot.temporary {
        findings.error(&side.end, &object, "it is temporary and vanishes with its session", other());
    } else if slot.two_phase {
        let reason = "it sends prepared transactions before they commit, out of commit order";
        findings.error(&side.end, &object, reason, again);
    }
}

/// How much log the slot keeps, and how near it is to losing it.
async fn retained(side: &Side<'_>, slot: &SlotFacts, findings: &mut Findings) -> Result<(), Error> {
    if slot.lost().is_some() {
        return Ok(());
    }
    let object = format!("slot \"{}\"", slot.name);
    let now = catalog::current_wal_lsn(&side.session).await?;
    let kept = slot.restart_lsn.map_or(0, |restart| now.bytes_since(restart));
    let limit = u64::try_from(side.facts.max_slot_wal_keep_size_mb).ok().map(|mb| mb << 20);
    let near = limit.is_some_and(|limit| kept >= limit / 4 * 3);
    if near || slot.wal_status.as_deref() == Some("unreserved") {
        findings.warning(
            &side.end,
            &object,
            format!("it keeps {} MiB of log, and is lost when that reaches the limit", kept >> 20),
            "start Extract, or raise \"max_slot_wal_keep_size\"",
        );
    } else if !slot.active && kept >= MUCH_LOG {
        findings.warning(
            &side.end,
            &object,
            format!("nobody reads it, and it keeps {} MiB of log", kept >> 20),
            "start Extract, or irongate teardown",
        );
    }
    Ok(())
}

/// Transactions that the creation of a slot would have to wait for, as far as they can be expected to stay.
async fn holders(side: &Side<'_>, object: &str, findings: &mut Findings) {
    match catalog::prepared_transactions(&side.session).await {
        Ok(prepared) if prepared.is_empty() => {}
        Ok(prepared) => findings.warning(
            &side.end,
            object,
            format!(
                "its creation will wait for prepared transactions: {}",
                listed(prepared.iter().map(|one| format!("\"{}\"", one.gid)))
            ),
            "commit them or roll them back",
        ),
        Err(error) => findings.unanswered(&side.end, object, &error),
    }
}

/// What is known of the checkpoint at the target.
enum Known {
    /// It could not be asked for.
    Not,
    Absent,
    Yes(Box<Applied>),
}

async fn checkpoint(target: &Side<'_>, flow: &Flow, findings: &mut Findings) -> Known {
    // A missing table or right is a finding of its own.
    let Ok(table) = CheckpointTable::prepare(&target.session, &flow.name).await else { return Known::Not };
    match table.load(&target.session).await {
        Ok(Some(applied)) => Known::Yes(Box::new(applied)),
        Ok(None) => {
            findings.error(
                &target.end,
                format!("checkpoint of flow \"{}\"", flow.name),
                "there is none: the target was never brought to the state of the source",
                format!("irongate instantiate {}", flow.name),
            );
            Known::Absent
        }
        Err(error) => {
            findings.error(
                &target.end,
                format!("checkpoint of flow \"{}\"", flow.name),
                error.to_string(),
                error.hint().unwrap_or_else(|| format!("irongate instantiate {}", flow.name)),
            );
            Known::Not
        }
    }
}

/// The end of a trail, if it can be read here.
fn trail_end(
    configuration: &Configuration,
    flow: &Flow,
) -> Result<Option<(Lineage, Mark)>, irongate_trail::Error> {
    let directory = configuration.trail(flow);
    if !directory.is_dir() {
        return Ok(None);
    }
    let storage = Directory::new(directory);
    let Some(mark) = irongate_trail::durable(&storage)? else { return Ok(None) };
    let reader = Reader::open(std::sync::Arc::new(storage), Begins::File(mark.position.seqno))?;
    Ok(Some((reader.lineage(), mark)))
}

fn trail(
    side: &Side<'_>,
    target: Option<&Side<'_>>,
    configuration: &Configuration,
    flow: &Flow,
    slot: &SlotFacts,
    checkpoint: &Known,
    findings: &mut Findings,
) {
    // The trail lies at the flow's own site.
    if configuration.site.as_ref().is_some_and(|site| *site != flow.at) {
        return;
    }
    let object = format!("trail \"{}\"", configuration.trail(flow).display());
    let again = || format!("irongate instantiate {}", flow.name);
    let (lineage, mark) = match trail_end(configuration, flow) {
        Ok(Some(end)) => end,
        Ok(None) => {
            findings.error(&side.end, object, "there is a slot and no trail", again());
            return;
        }
        Err(error) => {
            let fix = error.hint().unwrap_or_else(again);
            findings.error(&side.end, object, error.to_string(), fix);
            return;
        }
    };
    if lineage.system_identifier != side.facts.system_identifier {
        findings.error(
            &side.end,
            &object,
            format!("it holds the changes of another server ({lineage})"),
            "correct the address in the configuration, or instantiate again",
        );
        return;
    }
    let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    if confirmed > mark.resume_lsn.0 && slot.lost().is_none() {
        findings.error(
            &side.end,
            &object,
            format!(
                "it ends at {}, and the slot has been confirmed up to {confirmed}: what lies between is lost",
                mark.resume_lsn
            ),
            again(),
        );
    }
    if let (Known::Yes(applied), Some(target)) = (checkpoint, target)
        && (applied.lineage.system_identifier, applied.lineage.slot_incarnation)
            != (lineage.system_identifier, lineage.slot_incarnation)
    {
        findings.error(
            &target.end,
            format!("checkpoint of flow \"{}\"", flow.name),
            format!("it belongs to {}, and the trail to {lineage}", applied.lineage),
            again(),
        );
    }
}
