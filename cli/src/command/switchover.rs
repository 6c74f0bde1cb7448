//! `irongate switchover`, `switchback`, `failover`, `reinstate` and `runs`.

use std::time::Duration;

use irongate_switchover::journal::Journal;
use irongate_switchover::plan::{self, Kind, Limits, Order, Report, Request};
use irongate_trail::Timestamp;
use serde_json::json;

use super::Here;
use crate::arguments::Global;
use crate::arguments::plan::{Failover, Plan, Reinstate, Switchback, Switchover};
use crate::output;

/// What all plans take, as the library does.
fn request<'a>(kind: Kind, site: &'a str, plan: &'a Plan) -> Request<'a> {
    let order = match (&plan.resume, &plan.abort) {
        (Some(run), _) => Order::Resume(run.clone()),
        (_, Some(run)) => Order::Abort(run.clone()),
        _ if plan.dry_run => Order::DryRun,
        _ => Order::Begin,
    };
    Request { plan: kind, site, databases: &plan.database, order, accept_loss: false, force: false }
}

fn limits(plan: &Plan) -> Limits {
    Limits {
        writers: Duration::from_secs(plan.writers_timeout),
        drain: Duration::from_secs(plan.drain_timeout),
        slot: Duration::from_secs(plan.slot_timeout),
        ..Limits::default()
    }
}

async fn run(global: &Global, here: &Here, request: &Request<'_>, limits: &Limits) -> anyhow::Result<()> {
    let mut tell = |step: &str, what: &str| output::note(format_args!("{step}: {what}"));
    let report = plan::run(&here.configuration, request, limits, &mut tell).await?;
    show(global, &report)
}

pub(crate) async fn switchover(global: &Global, options: &Switchover) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let limits = Limits { lag: Duration::from_secs(options.max_lag), ..limits(&options.plan) };
    run(global, &here, &request(Kind::Switchover, &options.to, &options.plan), &limits).await
}

pub(crate) async fn switchback(global: &Global, options: &Switchback) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let limits = Limits { lag: Duration::from_secs(options.max_lag), ..limits(&options.plan) };
    let home = plan::home(&here.configuration, &options.plan.database)?;
    run(global, &here, &request(Kind::Switchback, &home, &options.plan), &limits).await
}

pub(crate) async fn failover(global: &Global, options: &Failover) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let limits = Limits { probe: Duration::from_secs(options.probe_timeout), ..limits(&options.plan) };
    let Failover { accept_loss, force, .. } = *options;
    let request = Request { accept_loss, force, ..request(Kind::Failover, &options.to, &options.plan) };
    run(global, &here, &request, &limits).await
}

pub(crate) async fn reinstate(global: &Global, options: &Reinstate) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let request = request(Kind::Reinstate, &options.back, &options.plan);
    let request = Request { accept_loss: options.accept_loss, ..request };
    run(global, &here, &request, &limits(&options.plan)).await
}

pub(crate) fn runs(global: &Global, run: Option<&str>) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let state = &here.configuration.state_directory;
    let read =
        |run: &str| Journal::read(state, run).map(|(heading, entries)| plan::report(&heading, &entries));
    if let Some(run) = run {
        return show(global, &read(run)?);
    }
    let reports = Journal::runs(state)?.iter().map(|run| read(run)).collect::<Result<Vec<_>, _>>()?;
    if global.json {
        return output::json(&json!({ "runs": reports }));
    }
    let mut table = output::table(&["RUN", "PLAN", "FROM", "TO", "DATABASES", "RESULT", ">OUTAGE"]);
    for report in reports {
        table.add_row([
            output::cell(report.run.clone().unwrap_or_default(), None),
            output::cell(&report.plan, None),
            output::cell(&report.from, None),
            output::cell(&report.to, None),
            output::cell(report.databases.join(", "), None),
            output::cell(report.result, None),
            output::cell(outage(&report), None),
        ]);
    }
    Ok(output::print(&table)?)
}

fn outage(report: &Report) -> String {
    report.outage_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2} s"))
}

fn show(global: &Global, report: &Report) -> anyhow::Result<()> {
    if global.json {
        return output::json(report);
    }
    let mut table = output::table(&["STEP", "RESULT", "BEGUN", ">SECONDS", "EVIDENCE"]);
    for step in &report.steps {
        let mut evidence = step.evidence.to_string();
        if let Some((end, _)) = evidence.char_indices().nth(90) {
            evidence.truncate(end);
            evidence.push('…');
        }
        table.add_row([
            output::cell(&step.name, None),
            output::cell(step.result, None),
            output::cell(Timestamp(step.at), None),
            output::cell(format!("{:.2}", step.seconds), None),
            output::cell(evidence, None),
        ]);
    }
    output::print(&table)?;
    for note in report.steps.iter().filter_map(|step| step.evidence["notes"].as_array()).flatten() {
        output::text(format_args!("note: {}", note.as_str().unwrap_or_default()))?;
    }
    let run = report.run.as_deref().unwrap_or("dry run");
    let lost = report.lost_transactions.map_or_else(|| "not known".to_owned(), |lost| lost.to_string());
    output::text(format_args!(
        "{run}: {} from {} to {} ({}): {}; outage {}, transactions lost: {lost}",
        report.plan,
        report.from,
        report.to,
        report.databases.join(", "),
        report.result,
        outage(report),
    ))?;
    Ok(())
}
