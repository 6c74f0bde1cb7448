//! `irongate lag`.

use std::collections::BTreeMap;

use irongate_deployment::{self as deployment, Lag};

use super::{Here, sites};
use crate::arguments::{Global, Names};
use crate::output;

pub(crate) async fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let others = if names.here { Vec::new() } else { here.others(&names.names)? };
    let asked = here.sites().filter(|_| !others.is_empty());
    let (mut there, mut missing) = (BTreeMap::new(), Vec::new());
    if let Some(sites) = asked {
        let answers = sites.ask(others, |control, _| async move { control.info().await }).await;
        let (came, silent) = sites::sort(answers);
        (there, missing) = (came.into_iter().collect(), silent);
    }
    // With a terminal for both sites, every flow of them has its place here.
    let site = if asked.is_some() { None } else { here.site() };
    let mut flows: Vec<Lag> = Vec::new();
    for group in here.configuration.select_groups(&names.names, site)? {
        let Some(flow) = group.flow else { continue };
        if flows.iter().any(|lag| lag.flow == flow.name) {
            continue;
        }
        flows.push(match asked {
            Some(sites) => sites.lag(flow, &there).await?,
            None => deployment::lag(&here.configuration, flow).await?,
        });
    }
    if global.json {
        output::json(&serde_json::json!({ "site": here.site(), "flows": flows, "unreachable": missing }))?;
        return sites::say(&missing);
    }
    let mut table = output::table(&["FLOW", "STAGE", "STATE", ">LAG", ">BEHIND"]);
    for lag in &flows {
        let stages = [
            ("source to Extract", Some(&lag.decoded)),
            ("source to trail", Some(&lag.extract)),
            ("trail to other site", lag.pump.as_ref()),
            ("trail to target", Some(&lag.replicat)),
            ("trail to feed", lag.feed.as_ref()),
        ];
        for (name, stage) in stages {
            let Some(stage) = stage else { continue };
            table.add_row([
                output::cell(&lag.flow, None),
                output::cell(name, None),
                output::cell(output::or_dash(stage.state), stage.state.and_then(output::colour_of)),
                output::cell(output::or_dash(stage.lag_seconds.map(output::seconds)), None),
                output::cell(output::or_dash(stage.lag_bytes.map(output::bytes)), None),
            ]);
        }
        table.add_row([
            output::cell(&lag.flow, None),
            output::cell("end to end", None),
            output::cell("", None),
            output::cell(output::or_dash(lag.lag_seconds.map(output::seconds)), None),
            output::cell(output::or_dash(lag.lag_bytes.map(output::bytes)), None),
        ]);
    }
    output::print(&table)?;
    for lag in &flows {
        if let Some(reason) = &lag.source_silent {
            output::note(format_args!(
                "flow \"{}\": the source does not answer, so it is not known how far the trail is behind: {reason}",
                lag.flow
            ));
        }
    }
    sites::say(&missing)
}
