//! `irongate errors`.

use irongate_apply::{self as apply, Queued};
use irongate_deployment::configuration::Flow;
use irongate_postgres::Session;
use serde_json::json;

use super::Here;
use crate::arguments::{Errors, Global, Queued as Chosen};
use crate::failure::End;
use crate::output;

pub(crate) async fn run(global: &Global, errors: Errors) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    match errors {
        Errors::List { flow, all } => {
            let flow = here.configuration.flow(&flow)?;
            let session = session(&here, flow).await?;
            list(global, flow, &apply::list(&session, &flow.name, all).await?)
        }
        Errors::Show { flow, id } => {
            let flow = here.configuration.flow(&flow)?;
            let session = session(&here, flow).await?;
            match apply::show(&session, &flow.name, id).await? {
                Some(queued) => show(global, &queued),
                None => Err(nothing_of(flow, &[id])),
            }
        }
        Errors::Replay(chosen) => replay(global, &here, &chosen).await,
        Errors::Skip(chosen) => skip(global, &here, &chosen).await,
    }
}

async fn session(here: &Here, flow: &Flow) -> anyhow::Result<Session> {
    let target = here.configuration.target(flow)?;
    Ok(Session::connect(&target.replicat.endpoint, "irongate errors").await?)
}

fn nothing_of(flow: &Flow, ids: &[i64]) -> anyhow::Error {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    End::usage(
        format!("the error queue of flow \"{}\" has no change {} to deal with", flow.name, ids.join(", ")),
        format!("irongate errors list {} shows what it has", flow.name),
    )
}

fn list(global: &Global, flow: &Flow, queue: &[Queued]) -> anyhow::Result<()> {
    if global.json {
        return output::json(&json!({ "flow": flow.name, "errors": queue }));
    }
    if queue.is_empty() {
        return Ok(output::text(format_args!("the error queue of flow \"{}\" is empty", flow.name))?);
    }
    let mut table =
        output::table(&[">ID", "TABLE", "OPERATION", "CLASS", "STATE", "COMMIT", ">NO", "QUEUED", "REASON"]);
    for change in queue {
        table.add_row([
            change.id.to_string(),
            change.table.clone(),
            change.operation.clone(),
            change.class.clone(),
            change.state.clone(),
            change.commit_lsn.clone(),
            change.ordinal.to_string(),
            change.queued_at.clone(),
            change.reason.clone(),
        ]);
    }
    Ok(output::print(&table)?)
}

fn show(global: &Global, change: &Queued) -> anyhow::Result<()> {
    if global.json {
        return output::json(change);
    }
    output::text(format_args!(
        "change {} of {} ({}), {}\n  refused: {} ({})\n  source transaction: xid {}, commit {} at {}, change {}\n  queued: {}",
        change.id,
        change.table,
        change.operation,
        change.state,
        change.reason,
        change.class,
        change.xid,
        change.commit_lsn,
        change.commit_time,
        change.ordinal,
        change.queued_at,
    ))?;
    let empty = serde_json::Map::new();
    let object = |row: &Option<serde_json::Value>| row.as_ref().and_then(|row| row.as_object()).cloned();
    let (old, new) = (object(&change.old_row), object(&change.new_row));
    let (before, after) = (old.as_ref().unwrap_or(&empty), new.as_ref().unwrap_or(&empty));
    let mut table = output::table(&["COLUMN", "BEFORE", "AFTER"]);
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let value = |row: &serde_json::Map<String, serde_json::Value>| match row.get(name) {
            None => String::new(),
            Some(serde_json::Value::Null) => "NULL".to_owned(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        table.add_row([name.clone(), value(before), value(after)]);
    }
    Ok(output::print(&table)?)
}

/// How many queued changes are meant.
async fn wanted(here: &Here, flow: &Flow, chosen: &Chosen) -> anyhow::Result<u64> {
    let session = session(here, flow).await?;
    let queue = apply::list(&session, &flow.name, false).await?;
    let absent: Vec<_> =
        chosen.ids.iter().filter(|id| !queue.iter().any(|change| change.id == **id)).copied().collect();
    if !absent.is_empty() {
        return Err(nothing_of(flow, &absent));
    }
    Ok(if chosen.all { queue.len() as u64 } else { chosen.ids.len() as u64 })
}

async fn replay(global: &Global, here: &Here, chosen: &Chosen) -> anyhow::Result<()> {
    let flow = here.configuration.flow(&chosen.flow)?;
    let wanted = wanted(here, flow, chosen).await?;
    let settings = here.configuration.replicat_settings(flow)?;
    let ids = (!chosen.all).then_some(chosen.ids.as_slice());
    let result = apply::replay(&settings, ids).await;
    // Each change that is applied leaves the queue by itself, also when a later one is refused.
    let session = session(here, flow).await?;
    let left = apply::list(&session, &flow.name, false).await?;
    let left = left.iter().filter(|change| chosen.all || chosen.ids.contains(&change.id)).count() as u64;
    let replayed = wanted.saturating_sub(left);
    if global.json {
        output::json(&json!({ "flow": flow.name, "replayed": replayed, "left": left }))?;
    } else {
        output::text(format_args!("{} replayed, {left} left", output::plural(replayed as usize, "change")))?;
    }
    match result {
        Ok(_) => Ok(()),
        Err(error) if replayed > 0 => {
            Err(anyhow::Error::from(error).context(End::Incomplete("not every change was taken".to_owned())))
        }
        Err(error) => Err(error.into()),
    }
}

async fn skip(global: &Global, here: &Here, chosen: &Chosen) -> anyhow::Result<()> {
    let flow = here.configuration.flow(&chosen.flow)?;
    wanted(here, flow, chosen).await?;
    let ids = (!chosen.all).then_some(chosen.ids.as_slice());
    let session = session(here, flow).await?;
    let skipped = apply::skip(&session, &flow.name, ids).await?;
    if global.json {
        return output::json(&json!({ "flow": flow.name, "skipped": skipped }));
    }
    Ok(output::text(format_args!("{} skipped", output::plural(skipped as usize, "change")))?)
}
