//! `irongate salvage`.

use std::path::Path;

use irongate_switchover::salvage::{self, Carried, Options, Salvaged};
use serde_json::json;

use super::Here;
use crate::arguments::{self, Global};
use crate::failure::End;
use crate::output;

pub(crate) async fn run(global: &Global, options: &arguments::Salvage) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    match &options.apply {
        Some(directory) => apply(global, &here, &options.lost, directory).await,
        None => find(global, &here, options).await,
    }
}

async fn find(global: &Global, here: &Here, options: &arguments::Salvage) -> anyhow::Result<()> {
    let configuration = &here.configuration;
    let databases = configuration.chosen(&options.database)?;
    let state = &configuration.state_directory;
    let out = options.out.clone().unwrap_or_else(|| salvage::default_directory(state, &options.lost));
    let mut tell = |what: &str| output::note(what);
    let mut all = Vec::new();
    for database in &databases {
        // One database needs no directory of its own.
        let out = if databases.len() == 1 { out.clone() } else { out.join(database) };
        let how = Options { out, divergence: options.divergence };
        let salvaged = salvage::salvage(configuration, database, &options.lost, &how, &mut tell).await?;
        if !global.json {
            show(&salvaged)?;
        }
        all.push(salvaged);
    }
    if global.json {
        output::json(&json!({ "site": options.lost, "directory": out, "salvages": all }))?;
    }
    if all.iter().any(|salvaged| !salvaged.summary.unknown.is_empty()) {
        let said = "what was lost is not known completely; the report says which part is not, and why";
        return Err(End::Incomplete(said.to_owned()).into());
    }
    Ok(())
}

fn show(salvaged: &Salvaged) -> anyhow::Result<()> {
    let Salvaged { directory, heading, summary } = salvaged;
    output::text(format_args!(
        "{}: {} lost ({} in the trail, {} in the slot) behind {}; {}",
        heading.database,
        output::plural(usize::try_from(summary.transactions).unwrap_or(usize::MAX), "transaction"),
        summary.in_trail,
        summary.in_slot,
        heading.divergence,
        output::plural(usize::try_from(summary.conflicts).unwrap_or(usize::MAX), "conflict"),
    ))?;
    for unknown in &summary.unknown {
        let to = output::or_dash(unknown.to.as_ref());
        output::text(format_args!("cannot be known from {} to {to}: {}", unknown.from, unknown.why))?;
    }
    Ok(output::text(format_args!("report: {}", directory.join("report.txt").display()))?)
}

async fn apply(global: &Global, here: &Here, site: &str, directory: &Path) -> anyhow::Result<()> {
    let mut tell = |what: &str| output::note(what);
    let mut all: Vec<Carried> = Vec::new();
    for directory in salvage::directories(directory).map_err(irongate_switchover::Error::from)? {
        let carried = salvage::apply(&here.configuration, site, &directory, &mut tell).await?;
        if !global.json {
            output::text(format_args!(
                "{} at {}: {} of {} repeated with {}, {} dealt with before, {} kept, {} discarded; signed off by {}",
                carried.database,
                carried.live,
                carried.replayed,
                output::plural(usize::try_from(carried.transactions).unwrap_or(usize::MAX), "transaction"),
                output::plural(usize::try_from(carried.changes).unwrap_or(usize::MAX), "change"),
                carried.before,
                output::plural(usize::try_from(carried.kept).unwrap_or(usize::MAX), "change"),
                carried.discarded,
                carried.signed_off_by,
            ))?;
        }
        all.push(carried);
    }
    if global.json { output::json(&json!({ "site": site, "applied": all })) } else { Ok(()) }
}
