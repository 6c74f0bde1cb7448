//! `irongate stats`.

use irongate_checkpoint::{Counters, Program, State, Status, read_status};
use irongate_manager::Control;
use serde::Serialize;

use super::{Here, sites};
use crate::arguments::{Global, Names};
use crate::output;

#[derive(Serialize)]
struct Table {
    name: String,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
    skipped: u64,
}

/// What a group has done since it was started last.
#[derive(Serialize)]
struct Group {
    name: String,
    site: Option<String>,
    flow: String,
    program: Program,
    state: State,
    #[serde(flatten)]
    counters: Counters,
    tables: Vec<Table>,
}

fn shown(site: Option<&str>, status: Status) -> Group {
    let table = |(name, counts): (String, irongate_checkpoint::TableCounters)| Table {
        name,
        inserts: counts.inserts,
        updates: counts.updates,
        deletes: counts.deletes,
        truncates: counts.truncates,
        skipped: counts.skipped,
    };
    Group {
        name: status.group,
        site: site.map(str::to_owned),
        flow: status.flow,
        program: status.program,
        state: status.state,
        counters: status.counters,
        tables: status.tables.into_iter().map(table).collect(),
    }
}

pub(crate) async fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut groups = Vec::new();
    for group in here.configuration.select_groups(&names.names, here.site())? {
        let Some(status) = read_status(&here.configuration.state_directory, &group.name)? else { continue };
        groups.push(shown(here.site(), status));
    }
    let others = if names.here { Vec::new() } else { here.others(&names.names)? };
    let mut missing = Vec::new();
    if let Some(sites) = here.sites() {
        let question = |control: Control, groups: Vec<String>| async move { control.stats(&groups).await };
        let (came, silent) = sites::sort(sites.ask(others, question).await);
        missing = silent;
        for (site, statuses) in came {
            groups.extend(statuses.into_iter().map(|status| shown(Some(&site), status)));
        }
    }
    if global.json {
        output::json(&serde_json::json!({ "site": here.site(), "groups": groups, "unreachable": missing }))?;
        return sites::say(&missing);
    }
    if groups.is_empty() {
        output::text("no group has ever been started here")?;
    }
    for (index, group) in groups.iter().enumerate() {
        let Counters { transactions, messages, errors, conflicts, .. } = group.counters;
        let gap = if index > 0 { "\n" } else { "" };
        output::text(format_args!(
            "{gap}{} ({}, {}): {} transactions, {} messages, {} errors, {} conflicts since its last start",
            group.name,
            group.program,
            group.state,
            output::count(transactions),
            output::count(messages),
            output::count(errors),
            output::count(conflicts),
        ))?;
        let Counters { ahead, given_up, beside, early, .. } = group.counters;
        if beside > 0 {
            output::text(format_args!("{} applied beside others", output::count(beside)))?;
        }
        if early > 0 {
            output::text(format_args!(
                "{} applied before they were durable in the trail, and committed when they were",
                output::count(early)
            ))?;
        }
        if ahead > 0 || given_up > 0 {
            output::text(format_args!(
                "{} applied ahead of their commit, {} begun so and given up",
                output::count(ahead),
                output::count(given_up)
            ))?;
        }
        if group.tables.is_empty() {
            continue;
        }
        // Only behind a load whose tables were copied under more than one snapshot.
        let has_skipped = group.tables.iter().any(|table| table.skipped > 0);
        let mut heads = vec!["TABLE", ">INSERTS", ">UPDATES", ">DELETES", ">TRUNCATES"];
        heads.extend(has_skipped.then_some(">SKIPPED"));
        let mut table = output::table(&heads);
        for row in &group.tables {
            let number = |number| output::cell(output::count(number), None);
            let mut cells = vec![
                output::cell(&row.name, None),
                number(row.inserts),
                number(row.updates),
                number(row.deletes),
                number(row.truncates),
            ];
            cells.extend(has_skipped.then(|| number(row.skipped)));
            table.add_row(cells);
        }
        output::print(&table)?;
    }
    sites::say(&missing)
}
