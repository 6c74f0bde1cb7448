//! `irongate info`.

use irongate_checkpoint::{Program, State, Status, read_status};
use irongate_deployment::Group;
use serde::Serialize;

use super::Here;
use crate::arguments::{Global, Names};
use crate::output;

/// A group as JSON shows it; the names are a contract.
#[derive(Serialize)]
struct Shown {
    name: String,
    flow: String,
    program: Program,
    state: State,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    position: Option<String>,
    since: Option<String>,
    doing: String,
    error: Option<String>,
    hint: Option<String>,
    pid: Option<u32>,
    #[serde(skip)]
    since_short: Option<String>,
}

/// What a group does that has never been started.
const NEVER_STARTED: &str = "never started";

fn shown(group: &Group<'_>, status: Option<Status>) -> Shown {
    let mut shown = Shown {
        name: group.name.clone(),
        flow: group.flow_name().to_owned(),
        program: group.program,
        state: State::Stopped,
        lag_bytes: None,
        lag_seconds: None,
        position: None,
        since: None,
        doing: NEVER_STARTED.to_owned(),
        error: None,
        hint: None,
        pid: None,
        since_short: None,
    };
    if let Some(status) = status {
        shown.state = status.state;
        shown.lag_bytes = status.lag_bytes;
        shown.lag_seconds = status.lag_seconds;
        shown.position = status.position.map(|position| position.to_string());
        shown.since = Some(output::time(status.since));
        shown.since_short = Some(output::short_time(status.since));
        shown.pid = status.state.is_live().then_some(status.pid);
        (shown.error, shown.hint) =
            status.error.map_or((None, None), |failure| (Some(failure.message), failure.hint));
        shown.doing = status.doing;
    }
    shown
}

pub(crate) fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut groups = Vec::new();
    for group in here.configuration.select_groups(&names.names, here.site())? {
        let status = read_status(&here.configuration.state_directory, &group.name)?;
        groups.push(shown(&group, status));
    }
    if global.json {
        return output::json(&serde_json::json!({ "site": here.site(), "groups": groups }));
    }
    let mut table =
        output::table(&["GROUP", "PROGRAM", "STATE", ">LAG", ">BEHIND", "POSITION", "SINCE", "DOING"]);
    for group in &groups {
        table.add_row([
            output::cell(&group.name, None),
            output::cell(group.program, None),
            output::cell(group.state, output::colour_of(group.state)),
            output::cell(output::or_dash(group.lag_seconds.map(output::seconds)), None),
            output::cell(output::or_dash(group.lag_bytes.map(output::bytes)), None),
            output::cell(output::or_dash(group.position.as_ref()), None),
            output::cell(output::or_dash(group.since_short.as_ref()), None),
            output::cell(&group.doing, None),
        ]);
    }
    output::print(&table)?;
    for group in groups.iter().filter(|group| group.error.is_some()) {
        output::text(format_args!("\n{}: {}", group.name, output::or_dash(group.error.as_ref())))?;
        if let Some(hint) = &group.hint {
            output::text(format_args!("  hint: {hint}"))?;
        }
    }
    Ok(())
}
