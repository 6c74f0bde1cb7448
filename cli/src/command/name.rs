//! `irongate name`.

use irongate_switchover::names::{self, Checked, Move, Pointed, ServerView};
use serde_json::json;

use super::Here;
use crate::arguments::{Global, Name, PointName};
use crate::failure::End;
use crate::output;

pub(crate) async fn run(global: &Global, command: &Name) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    match command {
        Name::Show { database } => show(global, &here, database).await,
        Name::Point(options) if options.dry_run => check(global, &here, options).await,
        Name::Point(options) => point(global, &here, options).await,
    }
}

fn way(options: &PointName) -> Move<'_> {
    Move { from: options.from.as_deref(), to: &options.to, databases: &options.database }
}

/// The databases that are meant, checked as those of a run are.
fn known(here: &Here, databases: &[String]) -> anyhow::Result<()> {
    Ok(here.configuration.chosen(databases).map(drop)?)
}

async fn show(global: &Global, here: &Here, databases: &[String]) -> anyhow::Result<()> {
    known(here, databases)?;
    let zones = names::show(&here.configuration, databases).await?;
    if global.json {
        output::json(&json!({ "zones": zones }))?;
    } else {
        table(zones.iter().flat_map(|zone| zone.servers.iter().map(|server| (zone.zone.as_str(), server))))?;
        for zone in &zones {
            let leads = match &zone.site {
                Some(site) => format!("leads to site \"{site}\""),
                None => "does not lead to one site at every name server".to_owned(),
            };
            output::text(format_args!("{}: {leads}", zone.zone))?;
        }
    }
    let silent: Vec<_> = zones
        .iter()
        .flat_map(|zone| &zone.servers)
        .filter_map(|server| Some(format!("{}: {}", server.server, server.problem.as_ref()?)))
        .collect();
    if silent.is_empty() { Ok(()) } else { Err(End::Incomplete(silent.join("; ")).into()) }
}

async fn check(global: &Global, here: &Here, options: &PointName) -> anyhow::Result<()> {
    known(here, &options.database)?;
    let mut complaints = Vec::new();
    let zones = names::check(&here.configuration, &way(options), &mut complaints).await?;
    if global.json {
        output::json(&json!({ "to": options.to, "zones": zones, "complaints": complaints }))?;
    } else {
        for Checked { zone, key, to_change, already, servers, .. } in &zones {
            let changes: Vec<_> = to_change.iter().map(change).collect();
            output::text(format_args!(
                "{zone}: key \"{key}\" is accepted, {} asked; to be changed: {}; there already: {}",
                output::plural(servers.len(), "name server"),
                listed(&changes),
                listed(already),
            ))?;
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(End::Refused(complaints.join("; ")).into()) }
}

async fn point(global: &Global, here: &Here, options: &PointName) -> anyhow::Result<()> {
    known(here, &options.database)?;
    let zones = names::point(&here.configuration, &way(options)).await?;
    if global.json {
        return output::json(&json!({ "to": options.to, "zones": zones }));
    }
    table(zones.iter().flat_map(|zone| zone.servers.iter().map(|server| (zone.zone.as_str(), server))))?;
    for Pointed { zone, changed, already, caches_until, servers } in &zones {
        let changes: Vec<_> = changed.iter().map(change).collect();
        output::text(format_args!(
            "{zone}: changed in one operation: {}; there already: {}; {} say so",
            listed(&changes),
            listed(already),
            output::plural(servers.len(), "name server"),
        ))?;
        if let Some(until) = caches_until {
            output::text(format_args!(
                "{zone}: caches may say what was there before until {}",
                output::short(until)
            ))?;
        }
    }
    Ok(())
}

fn change(record: &names::ChangedRecord) -> String {
    let words = |values: &std::collections::BTreeSet<String>| {
        values.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    format!("{} {} from {} to {}", record.name, record.kind, words(&record.before), words(&record.after))
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

fn table<'a>(servers: impl Iterator<Item = (&'a str, &'a ServerView)>) -> anyhow::Result<()> {
    let mut table =
        output::table(&["ZONE", "NAME SERVER", ">SERIAL", "NAME", "TYPE", "VALUE", ">TTL", "SITE"]);
    for (zone, server) in servers {
        let serial = server.serial.map_or("-".to_owned(), |serial| serial.to_string());
        if let Some(problem) = &server.problem {
            table.add_row([zone, &server.server, &serial, problem].map(|text| output::cell(text, None)));
        }
        for record in &server.records {
            let values = if record.values.is_empty() { "-".to_owned() } else { record.values.join(", ") };
            table.add_row([
                output::cell(zone, None),
                output::cell(&server.server, None),
                output::cell(&serial, None),
                output::cell(&record.name, None),
                output::cell(record.kind, None),
                output::cell(values, None),
                output::cell(record.ttl.map_or("-".to_owned(), |ttl| ttl.to_string()), None),
                output::cell(record.site.as_deref().unwrap_or("-"), None),
            ]);
        }
    }
    Ok(output::print(&table)?)
}
