//! `irongate instantiate`.

use std::time::{Duration, Instant};

use irongate_deployment::{self as deployment, Event};
use serde_json::json;

use super::{Here, setup};
use crate::arguments::{Global, Instantiate};
use crate::{output, progress};

pub(crate) async fn run(global: &Global, options: &Instantiate) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&options.flow)?;
    let how = deployment::Instantiate {
        truncate: options.truncate,
        slot_limit: Duration::from_secs(options.slot_timeout),
    };
    let bar = progress::bar(global, None, "{spinner} {prefix} [{bar:30}] {pos}/{len} tables  {wide_msg}");
    bar.set_prefix(flow.name.clone());
    let begin = Instant::now();
    let result = deployment::instantiate(&here.configuration, flow, &how, &mut |event| match event {
        Event::Copy(copy) => {
            bar.set_length(copy.tables_total as u64);
            bar.set_position(copy.tables_done as u64);
            let of = copy
                .estimated_rows
                .map_or_else(String::new, |rows| format!(" of about {}", output::count(rows.max(copy.rows))));
            bar.set_message(format!(
                "{}: {}{of} rows, {}",
                copy.table,
                output::count(copy.rows),
                output::bytes(copy.bytes)
            ));
        }
        other => bar.suspend(|| setup::tell(&other)),
    })
    .await;
    bar.finish_and_clear();
    let done = result?;
    let seconds = begin.elapsed().as_secs_f64();
    if global.json {
        return output::json(&json!({
            "flow": flow.name,
            "consistent_point": done.consistent_point.to_string(),
            "tables": done.tables,
            "rows": done.rows,
            "bytes": done.bytes,
            "sequences": done.sequences,
            "seconds": seconds,
        }));
    }
    output::text(format_args!(
        "flow \"{}\": {} rows ({}) of {} tables and {} sequences copied in {}, as of {}",
        flow.name,
        output::count(done.rows),
        output::bytes(done.bytes),
        done.tables,
        done.sequences,
        output::seconds(seconds),
        done.consistent_point,
    ))?;
    let groups = here.configuration.select_groups(std::slice::from_ref(&flow.name), None)?;
    let names: Vec<_> = groups.iter().map(|group| format!("irongate run {}", group.name)).collect();
    Ok(output::text(format_args!("next: {}", names.join(" and ")))?)
}
