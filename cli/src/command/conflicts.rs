//! `irongate conflicts`.

use irongate_apply::{self as apply, Conflict};
use irongate_deployment::configuration::Flow;
use irongate_postgres::Session;
use serde_json::{Value, json};

use super::Here;
use crate::arguments::{Conflicts, Global};
use crate::failure::End;
use crate::output;

pub(crate) async fn run(global: &Global, conflicts: Conflicts) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let (Conflicts::List { flow, .. }
    | Conflicts::Show { flow, .. }
    | Conflicts::Accept { flow }
    | Conflicts::Purge { flow, .. }) = &conflicts;
    let flow = here.configuration.flow(flow)?;
    if flow.conflicts.is_none() {
        return Err(End::usage(
            format!("flow \"{}\" does not look for conflicts", flow.name),
            format!("give it a policy in [flows.{}.conflicts]", flow.name),
        ));
    }
    let target = here.configuration.target(flow)?;
    let session = Session::connect(&target.replicat.endpoint, "irongate conflicts").await?;
    match conflicts {
        Conflicts::List { limit, .. } => {
            list(global, flow, &apply::conflicts(&session, &flow.name, i64::from(limit)).await?)
        }
        Conflicts::Show { id, .. } => match apply::conflict(&session, &flow.name, id).await? {
            Some(conflict) => show(global, &conflict),
            None => Err(End::usage(
                format!("flow \"{}\" has no conflict {id}", flow.name),
                format!("irongate conflicts list {} shows what it has", flow.name),
            )),
        },
        Conflicts::Accept { .. } => {
            let since = apply::accept_conflicts(&session, &flow.name).await?;
            if global.json {
                return output::json(
                    &json!({ "flow": flow.name, "accepted": since.is_some(), "since": since }),
                );
            }
            match since {
                None => output::text(format_args!(
                    "flow \"{}\" has nothing to accept: it has not begun",
                    flow.name
                ))?,
                Some(since) => output::text(format_args!(
                    "flow \"{}\" goes on when it is started; versions of rows changed since {since} UTC may be unknown\n\
                     when both flows have caught up, compare the databases (irongate compare) and mend what differs",
                    flow.name
                ))?,
            }
            Ok(())
        }
        Conflicts::Purge { keep_days, .. } => {
            let seconds = f64::from(keep_days) * 86_400.0;
            let purged = apply::purge_conflicts(&session, &flow.name, seconds).await?;
            if global.json {
                return output::json(&json!({ "flow": flow.name, "purged": purged }));
            }
            Ok(output::text(format_args!("{} removed", output::plural(purged as usize, "conflict")))?)
        }
    }
}

fn list(global: &Global, flow: &Flow, conflicts: &[Conflict]) -> anyhow::Result<()> {
    if global.json {
        return output::json(&json!({ "flow": flow.name, "conflicts": conflicts }));
    }
    if conflicts.is_empty() {
        return Ok(output::text(format_args!("flow \"{}\" has no conflict on record", flow.name))?);
    }
    let mut table = output::table(&[">ID", "TABLE", "KEY", "KIND", "POLICY", "WON", "COMMIT", "FOUND"]);
    for conflict in conflicts {
        table.add_row([
            conflict.id.to_string(),
            conflict.table.clone(),
            conflict.key.to_string(),
            conflict.kind.clone(),
            conflict.rule.clone(),
            conflict.decision.clone(),
            conflict.commit_lsn.clone(),
            conflict.found_at.clone(),
        ]);
    }
    Ok(output::print(&table)?)
}

fn show(global: &Global, conflict: &Conflict) -> anyhow::Result<()> {
    if global.json {
        return output::json(conflict);
    }
    let local = match (&conflict.local_time, &conflict.local_origin) {
        (None, _) => "nobody knows when".to_owned(),
        (Some(time), None) => format!("{time}, by this site"),
        (Some(time), Some(origin)) => format!("{time}, under origin \"{origin}\""),
    };
    output::text(format_args!(
        "conflict {} in {}, key {}: {}\n  policy: {}; won: {}\n  came: from site \"{}\", commit {} at {}, change {}\n  \
         here: written {local}\n  found: {}",
        conflict.id,
        conflict.table,
        conflict.key,
        conflict.kind,
        conflict.rule,
        conflict.decision,
        conflict.origin,
        conflict.commit_lsn,
        conflict.commit_time,
        conflict.ordinal,
        conflict.found_at,
    ))?;
    let images = [&conflict.incoming_old, &conflict.incoming_new, &conflict.local_row]
        .map(|image| image.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
    let mut names: Vec<&String> = images.iter().flat_map(serde_json::Map::keys).collect();
    names.sort();
    names.dedup();
    let mut table = output::table(&["COLUMN", "CAME: BEFORE", "CAME: AFTER", "HERE"]);
    for name in names {
        let value = |row: &serde_json::Map<String, Value>| match row.get(name) {
            None => String::new(),
            Some(Value::Null) => "NULL".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        table.add_row([name.clone(), value(&images[0]), value(&images[1]), value(&images[2])]);
    }
    Ok(output::print(&table)?)
}
