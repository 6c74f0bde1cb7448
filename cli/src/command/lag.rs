//! `irongate lag`.

use irongate_deployment::{self as deployment, Lag};

use super::Here;
use crate::arguments::{Global, Names};
use crate::output;

pub(crate) async fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut flows: Vec<Lag> = Vec::new();
    for group in here.configuration.select_groups(&names.names, here.site())? {
        let Some(flow) = group.flow else { continue };
        if !flows.iter().any(|lag| lag.flow == flow.name) {
            flows.push(deployment::lag(&here.configuration, flow).await?);
        }
    }
    if global.json {
        return output::json(&serde_json::json!({ "site": here.site(), "flows": flows }));
    }
    let mut table = output::table(&["FLOW", "STAGE", "STATE", ">LAG", ">BEHIND"]);
    for lag in &flows {
        let stages = [
            ("source to trail", lag.extract.state, lag.extract.lag_seconds, lag.extract.lag_bytes),
            ("trail to target", lag.replicat.state, lag.replicat.lag_seconds, lag.replicat.lag_bytes),
        ];
        for (stage, state, seconds, bytes) in stages {
            table.add_row([
                output::cell(&lag.flow, None),
                output::cell(stage, None),
                output::cell(output::or_dash(state), state.and_then(output::colour_of)),
                output::cell(output::or_dash(seconds.map(output::seconds)), None),
                output::cell(output::or_dash(bytes.map(output::bytes)), None),
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
                "flow \"{}\": the source was not asked, so what Extract said last is shown: {reason}",
                lag.flow
            ));
        }
    }
    Ok(())
}
