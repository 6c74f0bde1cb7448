//! `irongate runs`, and how a run is shown when it has ended.

mod text;

use std::path::Path;

use anyhow::Context;
use comfy_table::Color;
use irongate_switchover::Freed;
use irongate_switchover::journal::Journal;
use irongate_switchover::report::{self, Report};
use irongate_trail::Timestamp;
use serde_json::json;

use super::Here;
use crate::arguments::Global;
use crate::failure::End;
use crate::output;

/// So wide is what is no terminal.
const WIDTH: usize = 120;

pub(crate) fn run(global: &Global, run: Option<&str>, html: Option<&Path>) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let state = &here.configuration.state_directory;
    let read =
        |run: &str| Journal::read(state, run).map(|(heading, entries)| report::report(&heading, &entries));
    if let Some(run) = run {
        let report = read(run)?;
        if let Some(file) = html {
            std::fs::write(file, report::html(&report))
                .with_context(|| format!("could not write \"{}\"", file.display()))?;
            output::note(format_args!("the report is in \"{}\"", file.display()));
        }
        return if html.is_none() || global.json { show(global, &report) } else { Ok(()) };
    }
    let reports = Journal::runs(state)?.iter().map(|run| read(run)).collect::<Result<Vec<_>, _>>()?;
    if global.json {
        return output::json(&json!({ "runs": reports }));
    }
    let mut table =
        output::table(&["RUN", "PLAN", "FROM", "TO", "DATABASES", "BEGUN", "RESULT", ">OUTAGE", ">LOST"]);
    for report in reports {
        table.add_row([
            output::cell(output::or_dash(report.run.as_ref()), None),
            output::cell(&report.plan, None),
            output::cell(&report.from, None),
            output::cell(&report.to, None),
            output::cell(report.databases.join(", "), None),
            output::cell(
                output::or_dash(report.time.map(|time| output::short_time(Timestamp(time.begun)))),
                None,
            ),
            output::cell(report.result, colour_of(report.result)),
            output::cell(
                output::or_dash(report.outage_seconds.map(|seconds| format!("{seconds:.2} s"))),
                None,
            ),
            output::cell(
                report.lost_transactions.map_or_else(|| "?".to_owned(), |lost| lost.to_string()),
                None,
            ),
        ]);
    }
    Ok(output::print(&table)?)
}

/// Frees what a run has in hand that nobody can end.
pub(crate) async fn forget(global: &Global, run: &str) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let (freed, silent) = irongate_switchover::forget(&here.configuration, run).await?;
    if global.json {
        output::json(&json!({ "run": run, "freed": freed, "unreachable": silent }))?;
    } else {
        for freed in &freed {
            output::text(format_args!(
                "{}: freed; it says that site \"{}\" writes in epoch {}, and is {}",
                freed.database,
                freed.live,
                freed.epoch,
                if freed.is_closed { "closed to its applications" } else { "open to its applications" }
            ))?;
        }
        for Freed { database, live, next_live, .. } in &freed {
            let name = database.rsplit_once('.').map_or(database.as_str(), |(name, _)| name);
            let is_silent =
                |next: &&String| silent.iter().any(|told| told.starts_with(&format!("{name}.{next}:")));
            if let Some(next) = next_live.as_ref().filter(|next| *next != live).filter(is_silent) {
                output::text(format_args!(
                    "{database}: site \"{next}\" may have been opened by the run; if \"{live}\" is to write from now on, irongate failover \
                     --to {live} --accept-loss --force there makes \"{next}\" give way when it comes back"
                ))?;
            }
        }
        output::text("irongate health of each site says what is to be done now")?;
    }
    if silent.is_empty() {
        return Ok(());
    }
    Err(End::Incomplete(format!("not asked: {}", silent.join("; "))).into())
}

/// Prints the name of the last run, for scripts; with `unfinished` only if it is not over.
pub(crate) fn name(global: &Global, unfinished: bool) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let state = &here.configuration.state_directory;
    let mut last = None;
    for run in Journal::runs(state)? {
        let (heading, entries) = Journal::read(state, &run)?;
        if !unfinished || report::report(&heading, &entries).result == "unfinished" {
            last = Some(run);
        }
    }
    if global.json {
        return output::json(&json!({ "run": last }));
    }
    match last {
        Some(run) => Ok(output::text(run)?),
        None => Ok(()),
    }
}

/// Shows what has come of a run.
pub(crate) fn show(global: &Global, report: &Report) -> anyhow::Result<()> {
    if global.json {
        return output::json(report);
    }
    let width = comfy_table::Table::new().width().map_or(WIDTH, usize::from);
    let mut lines = text::lines(report, width);
    if let Some(verdict) = lines.get_mut(1) {
        let painted = output::painted(report.result, colour_of(report.result));
        *verdict = verdict.replacen(report.result, &painted, 1);
    }
    Ok(output::text(lines.join("\n"))?)
}

fn colour_of(result: &str) -> Option<Color> {
    match result {
        "done" | "checked" => Some(Color::Green),
        "unfinished" => Some(Color::Red),
        _ => Some(Color::Yellow),
    }
}
