//! `irongate position`.

use irongate_deployment::{self as deployment, Checkpoint, MoveTo};
use serde_json::{Value, json};

use super::Here;
use crate::arguments::{Global, Place, Position};
use crate::output;

fn shown(checkpoint: &Checkpoint) -> Value {
    json!({
        "position": checkpoint.position.to_string(),
        "resume_lsn": checkpoint.resume_lsn.to_string(),
        "commit_lsn": (checkpoint.commit_lsn.0.0 != 0).then(|| checkpoint.commit_lsn.to_string()),
        "commit_time": (checkpoint.commit_lsn.0.0 != 0).then(|| output::time(checkpoint.commit_time)),
        "transactions": checkpoint.transactions,
        "epoch": checkpoint.epoch,
        "system_identifier": checkpoint.lineage.system_identifier.to_string(),
        "timeline": checkpoint.lineage.timeline,
        "slot_incarnation": checkpoint.lineage.slot_incarnation.to_string(),
    })
}

fn described(checkpoint: &Checkpoint) -> String {
    let mut text = format!(
        "  begins again   {} in the source's log\n  in the trail   {}\n",
        checkpoint.resume_lsn, checkpoint.position
    );
    if checkpoint.commit_lsn.0.0 == 0 {
        text.push_str("  last commit    none yet\n");
    } else {
        text.push_str(&format!(
            "  last commit    {} at {}\n",
            checkpoint.commit_lsn,
            output::short_time(checkpoint.commit_time)
        ));
    }
    if let Some(transactions) = checkpoint.transactions {
        text.push_str(&format!("  transactions   {}\n", output::count(transactions)));
    }
    text.push_str(&format!("  source         {}, epoch {}", checkpoint.lineage, checkpoint.epoch));
    text
}

pub(crate) async fn run(global: &Global, options: &Position) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let group = here.configuration.group(&options.group)?;
    let Some(to) = options.to else {
        let found = deployment::checkpoint(&here.configuration, &group).await?;
        if global.json {
            return output::json(&json!({
                "group": group.name,
                "flow": group.flow_name(),
                "program": group.program,
                "checkpoint": found.as_ref().map(shown),
            }));
        }
        let text = match &found {
            Some(checkpoint) => format!("{}\n{}", group.name, described(checkpoint)),
            None => format!("{} has no checkpoint yet", group.name),
        };
        return Ok(output::text(text)?);
    };
    let to = match to {
        Place::Lsn(lsn) => MoveTo::Lsn(lsn),
        Place::End => MoveTo::End,
    };
    let (before, after) = deployment::reposition(&here.configuration, &group, to).await?;
    if global.json {
        return output::json(&json!({
            "group": group.name,
            "flow": group.flow_name(),
            "program": group.program,
            "before": shown(&before),
            "after": shown(&after),
        }));
    }
    Ok(output::text(format_args!(
        "{} was at\n{}\nand is at\n{}\nsource and target may differ now: compare them",
        group.name,
        described(&before),
        described(&after)
    ))?)
}
