//! `irongate info`.

use std::time::Duration;

use irongate_checkpoint::{Program, State, Status, read_status};
use irongate_deployment::Group;
use irongate_manager::compare::{LastCompare, last};
use irongate_manager::{Control, GroupInfo, Info};
use serde::Serialize;

use super::{Here, sites};
use crate::arguments::{Global, Names};
use crate::output;

/// How long the manager of this site may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A group as JSON shows it; the names are a contract.
#[derive(Serialize)]
struct Shown {
    name: String,
    /// The site that runs it.
    site: String,
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
    /// Of a Replicat with a manager: changes that wait in the error queue.
    errors_pending: Option<u64>,
    #[serde(skip)]
    since_short: Option<String>,
}

/// What a group does that has never been started.
const NEVER_STARTED: &str = "never started";

fn shown(group: &Group<'_>, status: Option<Status>) -> Shown {
    let mut shown = Shown {
        name: group.name.clone(),
        site: group.site.to_owned(),
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
        errors_pending: None,
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

/// What the manager of this site says, which knows of its groups more than their last words: what people wish of them.
/// Without one that answers soon, these words are all there is.
async fn managed(here: &Here) -> Option<Info> {
    let control = Control::of(&here.configuration.state_directory, here.site()?);
    control.with_patience(PATIENCE).info().await.ok()
}

/// A group as its manager shows it.
fn shown_there(site: &str, group: GroupInfo) -> Shown {
    Shown {
        name: group.name,
        site: site.to_owned(),
        flow: group.flow,
        program: group.program,
        state: group.state,
        lag_bytes: group.lag_bytes,
        lag_seconds: group.lag_seconds,
        position: group.position,
        since_short: group.since.as_deref().map(output::short),
        since: group.since,
        doing: group.doing,
        error: group.error,
        hint: group.hint,
        pid: group.pid,
        errors_pending: group.errors_pending,
    }
}

/// The last compare of each flow that is shown: the youngest, of those made here and at other sites.
fn compares(here: &Here, groups: &[Shown], there: Vec<LastCompare>) -> anyhow::Result<Vec<LastCompare>> {
    let mut flows: Vec<&str> = groups.iter().map(|group| group.flow.as_str()).collect();
    flows.sort_unstable();
    flows.dedup();
    let age = |compare: &LastCompare| compare.age_seconds.unwrap_or(f64::INFINITY);
    let mut found = Vec::new();
    for flow in flows {
        let own = last(&here.configuration.state_directory, flow)?;
        let all = own.into_iter().chain(there.iter().filter(|compare| compare.flow == flow).cloned());
        found.extend(all.min_by(|one, other| age(one).total_cmp(&age(other))));
    }
    Ok(found)
}

pub(crate) async fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut groups = Vec::new();
    let managed = managed(&here).await;
    for group in here.configuration.select_groups(&names.names, here.site())? {
        let known = managed.iter().flat_map(|info| &info.groups).find(|known| known.name == group.name);
        groups.push(match known {
            Some(known) => shown_there(group.site, known.clone()),
            None => shown(&group, read_status(&here.configuration.state_directory, &group.name)?),
        });
    }
    let others = if names.here { Vec::new() } else { here.others(&names.names)? };
    let asked = here.sites().filter(|_| !others.is_empty());
    let (mut missing, mut there) = (Vec::new(), Vec::new());
    if let Some(sites) = asked {
        let answers = sites.ask(others, |control, _| async move { control.info().await }).await;
        let wanted = here.configuration.select_groups(&names.names, None)?;
        let came;
        (came, missing) = sites::sort(answers);
        for (site, info) in came {
            let is_wanted = |group: &GroupInfo| wanted.iter().any(|wanted| wanted.name == group.name);
            there.extend(info.seen.flows.into_iter().filter_map(|flow| flow.compare));
            groups.extend(info.groups.into_iter().filter(is_wanted).map(|group| shown_there(&site, group)));
        }
    }
    let compares = compares(&here, &groups, there)?;
    if global.json {
        output::json(&serde_json::json!({
            "site": here.site(), "groups": groups, "compares": compares, "unreachable": missing,
        }))?;
        return sites::say(&missing);
    }
    let has_sites = asked.is_some();
    let mut columns = vec!["GROUP", "PROGRAM", "STATE", ">LAG", ">BEHIND", "POSITION", "SINCE", "DOING"];
    if has_sites {
        columns.insert(0, "SITE");
    }
    let mut table = output::table(&columns);
    for group in &groups {
        let mut cells = vec![
            output::cell(&group.name, None),
            output::cell(group.program, None),
            output::cell(group.state, output::colour_of(group.state)),
            output::cell(output::or_dash(group.lag_seconds.map(output::seconds)), None),
            output::cell(output::or_dash(group.lag_bytes.map(output::bytes)), None),
            output::cell(output::or_dash(group.position.as_ref()), None),
            output::cell(output::or_dash(group.since_short.as_ref()), None),
            output::cell(&group.doing, None),
        ];
        if has_sites {
            cells.insert(0, output::cell(&group.site, None));
        }
        table.add_row(cells);
    }
    output::print(&table)?;
    for compare in &compares {
        output::text(format_args!("flow \"{}\" {}", compare.flow, compare.sentence()))?;
    }
    for group in &groups {
        if let Some(waiting) = group.errors_pending.filter(|waiting| *waiting > 0) {
            let (name, flow) = (&group.name, &group.flow);
            let changes = output::plural(usize::try_from(waiting).unwrap_or(usize::MAX), "change");
            output::text(format_args!(
                "\n{name}: {changes} in the error queue: \"irongate errors list {flow}\""
            ))?;
        }
    }
    for group in groups.iter().filter(|group| group.error.is_some()) {
        output::text(format_args!("\n{}: {}", group.name, output::or_dash(group.error.as_ref())))?;
        if let Some(hint) = &group.hint {
            output::text(format_args!("  hint: {hint}"))?;
        }
    }
    sites::say(&missing)
}
