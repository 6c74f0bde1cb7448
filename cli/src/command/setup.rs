//! `irongate setup` and `irongate teardown`.

use std::time::Duration;

use irongate_deployment::{self as deployment, Event, Statement};
use serde::Serialize;
use serde_json::json;

use super::Here;
use crate::arguments::{Global, Setup, Teardown};
use crate::output;

/// A statement as JSON shows it.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    site: &'a str,
    database: &'a str,
    connection: String,
    sql: &'a str,
    why: &'a str,
}

pub(super) fn shown(statements: &[Statement]) -> Vec<Shown<'_>> {
    statements
        .iter()
        .map(|statement| Shown {
            site: &statement.site,
            database: &statement.database,
            connection: statement.connection.to_string(),
            sql: &statement.sql,
            why: &statement.why,
        })
        .collect()
}

pub(super) fn print_plan(global: &Global, plan: &[Statement]) -> anyhow::Result<()> {
    if global.json {
        return output::json(&json!({ "statements": shown(plan) }));
    }
    if plan.is_empty() {
        return Ok(output::text("-- nothing is left to be done")?);
    }
    Ok(output::text(deployment::script(plan).trim_end())?)
}

/// Says on standard error what is happening.
pub(super) fn tell(event: &Event<'_>) {
    match event {
        Event::Statement(statement) => {
            tracing::info!(
                site = statement.site,
                database = statement.database,
                sql = statement.sql,
                "running a statement"
            );
        }
        Event::Waiting(blockers) => {
            for blocker in *blockers {
                output::note(format_args!("waiting for {blocker}"));
            }
        }
        Event::Note(note) => output::note(note),
        Event::Copy(_) => {}
    }
}

pub(crate) async fn setup(global: &Global, options: &Setup) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flows = here.flows(&options.flows.flows)?;
    if options.print_sql {
        return print_plan(global, &deployment::plan(&here.configuration, &flows).await?);
    }
    let how = deployment::Setup {
        site: here.site.clone(),
        start_here: options.start_here,
        slot_limit: Duration::from_secs(options.slot_timeout),
    };
    let report = deployment::setup(&here.configuration, &flows, &how, &mut |event| tell(&event)).await?;
    if global.json {
        return output::json(&json!({
            "statements": shown(&report.statements),
            "started": report.started,
            "to_instantiate": report.to_instantiate,
        }));
    }
    match report.statements.len() {
        0 => output::text("roles, rights and publications were there already")?,
        count => output::text(format_args!("{} run", output::plural(count, "statement")))?,
    }
    for flow in &report.started {
        output::text(format_args!("flow \"{flow}\": slot and trail made"))?;
    }
    for flow in &report.to_instantiate {
        output::text(format_args!("flow \"{flow}\": next, irongate instantiate {flow}"))?;
    }
    Ok(())
}

pub(crate) async fn teardown(global: &Global, options: &Teardown) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flows = here.flows(&options.flows.flows)?;
    if options.print_sql {
        let plan = deployment::teardown_plan(&here.configuration, &flows, &mut |event| tell(&event)).await?;
        return print_plan(global, &plan);
    }
    let done = deployment::teardown(&here.configuration, &flows, &mut |event| tell(&event)).await?;
    if global.json {
        return output::json(&json!({ "statements": shown(&done) }));
    }
    Ok(output::text(format_args!("{} run; the trails are gone", output::plural(done.len(), "statement")))?)
}
