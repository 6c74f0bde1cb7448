//! `irongate export` and `irongate import`: the initial load through files.

use std::time::{Duration, Instant};

use irongate_deployment::configuration::Flow;
use irongate_deployment::{self as deployment, Event};
use serde_json::json;

use super::Here;
use super::instantiate::Screen;
use crate::arguments::{Export, Global, Import};
use crate::failure::End;
use crate::{output, signals};

/// The flow that is named, or the only one.
fn flow<'a>(here: &'a Here, name: Option<&str>) -> anyhow::Result<&'a Flow> {
    let mut all = here.configuration.flows.values();
    match (name, all.next(), all.next()) {
        (Some(name), ..) => Ok(here.configuration.flow(name)?),
        (None, Some(only), None) => Ok(only),
        (None, ..) => {
            let reason = "there are several flows: name the one that is meant".to_owned();
            Err(End::Refused(reason).into())
        }
    }
}

pub(crate) async fn export(global: &Global, options: &Export) -> anyhow::Result<()> {
    if options.status {
        let status = deployment::export_status(&options.directory)?;
        if global.json {
            return output::json(&status);
        }
        return Ok(output::text(format_args!(
            "export {} of flow \"{}\": {}, {} of {} files, {} rows, {}",
            status.job,
            status.flow,
            status.state,
            status.files,
            status.files_total,
            output::count(status.rows),
            output::bytes(status.bytes),
        ))?);
    }
    let here = Here::load(global)?;
    let flow = flow(&here, options.flow.as_deref())?;
    let how = deployment::Export {
        parallel: options.parallel.map(|number| number as usize),
        rate_limit: options.rate_limit,
        restart: options.restart,
        slot_limit: Duration::from_secs(options.slot_timeout),
    };
    let stop = signals::stop()?;
    let mut screen = Screen::new(global, &flow.name);
    let begin = Instant::now();
    let mut tell = |event: Event<'_>| screen.tell(event);
    let result = {
        let work = deployment::export(&here.configuration, flow, &options.directory, &how, &mut tell);
        tokio::select! {
            done = work => Some(done),
            () = stop => None,
        }
    };
    screen.clear();
    let Some(result) = result else {
        return Err(End::Incomplete(format!(
            "the export of flow \"{}\" was stopped: remove \"{}\" and export again, which replaces the slot",
            flow.name,
            options.directory.display()
        ))
        .into());
    };
    let done = result?;
    if global.json {
        return output::json(&json!({
            "flow": flow.name, "job": done.job, "consistent_point": done.consistent_point.to_string(),
            "tables": done.tables, "files": done.files, "rows": done.rows, "bytes": done.bytes,
            "sequences": done.sequences, "seconds": begin.elapsed().as_secs_f64(),
        }));
    }
    output::text(format_args!(
        "flow \"{}\": export {} of {} rows of {} tables in {} files ({}), as of {}",
        flow.name,
        done.job,
        output::count(done.rows),
        done.tables,
        done.files,
        output::bytes(done.bytes),
        done.consistent_point,
    ))?;
    Ok(output::text(format_args!(
        "next: irongate run {0}-extract, carry the directory, and irongate import DIR {0}",
        flow.name
    ))?)
}

pub(crate) async fn import(global: &Global, options: &Import) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = flow(&here, options.flow.as_deref())?;
    let how = deployment::Import {
        truncate: options.truncate,
        parallel: options.parallel.map(|number| number as usize),
        rate_limit: options.rate_limit,
        lock_limit: Duration::from_secs(options.lock_timeout),
    };
    let stop = signals::stop()?;
    let mut screen = Screen::new(global, &flow.name);
    let begin = Instant::now();
    let mut tell = |event: Event<'_>| screen.tell(event);
    let result = {
        let work = deployment::import(&here.configuration, flow, &options.directory, &how, &mut tell);
        tokio::select! {
            done = work => Some(done),
            () = stop => None,
        }
    };
    screen.clear();
    let Some(result) = result else {
        return Err(End::Incomplete(format!(
            "the import of flow \"{}\" was stopped: the same command goes on with it",
            flow.name
        ))
        .into());
    };
    let done = result?;
    if global.json {
        return output::json(&json!({
            "flow": flow.name, "job": done.job, "consistent_point": done.consistent_point.to_string(),
            "tables": done.tables, "rows": done.rows, "bytes": done.bytes, "sequences": done.sequences,
            "seconds": begin.elapsed().as_secs_f64(),
        }));
    }
    output::text(format_args!(
        "flow \"{}\": {} rows of {} tables and {} sequences imported, as of {}",
        flow.name,
        output::count(done.rows),
        done.tables,
        done.sequences,
        done.consistent_point,
    ))?;
    Ok(output::text(format_args!("next: irongate run {}-replicat", flow.name))?)
}
