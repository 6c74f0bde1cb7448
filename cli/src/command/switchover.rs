//! `irongate switchover`, `switchback`, `failover` and `reinstate`.

use std::time::Duration;

use irongate_switchover::plan::{self, By, Kind, Limits, Order, Request};

use super::{Here, runs};
use crate::arguments::Global;
use crate::arguments::plan::{Failover, Plan, Reinstate, Switchback, Switchover, Way};
use crate::output;

/// What all plans take, as the library does.
fn request<'a>(kind: Kind, site: &'a str, plan: &'a Plan) -> Request<'a> {
    let order = match (&plan.resume, &plan.abort) {
        (Some(run), _) => Order::Resume(run.clone()),
        (_, Some(run)) => Order::Abort(run.clone()),
        _ if plan.dry_run => Order::DryRun,
        _ => Order::Begin,
    };
    Request {
        plan: kind,
        site,
        databases: &plan.database,
        order,
        accept_loss: false,
        force: false,
        by: By::Either,
    }
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
    runs::show(global, &report)
}

pub(crate) async fn switchover(global: &Global, options: &Switchover) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let limits = Limits { lag: Duration::from_secs(options.max_lag), ..limits(&options.plan) };
    let kind = if options.drill { Kind::Drill } else { Kind::Switchover };
    run(global, &here, &request(kind, &options.to, &options.plan), &limits).await
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
    let by = match options.by {
        None => By::Either,
        Some(Way::Repair) => By::Repair,
        Some(Way::Copy) => By::Copy,
    };
    let request = Request { accept_loss: options.accept_loss, by, ..request };
    run(global, &here, &request, &limits(&options.plan)).await
}
