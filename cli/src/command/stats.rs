//! `irongate stats`.

use irongate_checkpoint::{Counters, Program, State, read_status};
use serde::Serialize;

use super::Here;
use crate::arguments::{Global, Names};
use crate::output;

#[derive(Serialize)]
struct Table {
    name: String,
    inserts: u64,
    updates: u64,
    deletes: u64,
    truncates: u64,
}

/// What a group has done since it was started last.
#[derive(Serialize)]
struct Group {
    name: String,
    flow: String,
    program: Program,
    state: State,
    #[serde(flatten)]
    counters: Counters,
    tables: Vec<Table>,
}

pub(crate) fn run(global: &Global, names: &Names) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let mut groups = Vec::new();
    for group in here.configuration.select_groups(&names.names, here.site())? {
        let Some(status) = read_status(&here.configuration.state_directory, &group.name)? else { continue };
        let table = |(name, counts): (String, irongate_checkpoint::TableCounters)| Table {
            name,
            inserts: counts.inserts,
            updates: counts.updates,
            deletes: counts.deletes,
            truncates: counts.truncates,
        };
        groups.push(Group {
            name: group.name.clone(),
            flow: group.flow_name().to_owned(),
            program: group.program,
            state: status.state,
            counters: status.counters,
            tables: status.tables.into_iter().map(table).collect(),
        });
    }
    if global.json {
        return output::json(&serde_json::json!({ "site": here.site(), "groups": groups }));
    }
    if groups.is_empty() {
        return Ok(output::text("no group has ever been started here")?);
    }
    for (index, group) in groups.iter().enumerate() {
        let Counters { transactions, messages, errors, .. } = group.counters;
        let gap = if index > 0 { "\n" } else { "" };
        output::text(format_args!(
            "{gap}{} ({}, {}): {} transactions, {} messages, {} errors since its last start",
            group.name,
            group.program,
            group.state,
            output::count(transactions),
            output::count(messages),
            output::count(errors),
        ))?;
        if group.tables.is_empty() {
            continue;
        }
        let mut table = output::table(&["TABLE", ">INSERTS", ">UPDATES", ">DELETES", ">TRUNCATES"]);
        for row in &group.tables {
            let number = |number| output::cell(output::count(number), None);
            table.add_row([
                output::cell(&row.name, None),
                number(row.inserts),
                number(row.updates),
                number(row.deletes),
                number(row.truncates),
            ]);
        }
        output::print(&table)?;
    }
    Ok(())
}
