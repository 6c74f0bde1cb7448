//! `irongate compare`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use comfy_table::Color;
use indicatif::ProgressBar;
use irongate_deployment::configuration::TablePattern;
use irongate_manager::compare as last;
use irongate_verify::{
    self as verify, Comparison, Difference, Image, Kind, Observer, Progress, Wanted, Writer,
};
use serde_json::{Value, json};

use super::Here;
use crate::arguments::Global;
use crate::arguments::verify::{Compare, Comparing};
use crate::failure::End;
use crate::{output, progress, signals};

pub(crate) async fn run(global: &Global, options: &Compare) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&options.flow)?;
    let flow = last::flow(&here.configuration, flow)?;
    let show = options.show.unwrap_or(0);
    let (found, shown) = found(global, &flow, &options.how, options.out.as_deref(), show).await?;
    if let Err(error) = last::keep(&here.configuration.state_directory, &found) {
        tracing::warn!(%error, "what the compare found is not kept for the next change of roles");
    }
    if global.json {
        let mut document = serde_json::to_value(&found)?;
        if options.show.is_some() {
            document["shown"] = shown.iter().map(|one| described(one, options.values)).collect();
        }
        output::json(&document)?;
    } else {
        print(&found)?;
        for one in &shown {
            output::text(line(one, options.values))?;
        }
    }
    judge(&found)
}

/// Compares, shows how far it is, and keeps differences in a file if there is to be one. The first few are given back.
pub(super) async fn found(
    global: &Global,
    flow: &verify::Flow,
    how: &Comparing,
    out: Option<&Path>,
    show: usize,
) -> anyhow::Result<(Comparison, Vec<Difference>)> {
    let patterns: Vec<TablePattern> = how
        .table
        .iter()
        .map(|text| {
            let hint = "write schema.table; * stands for any run of characters";
            TablePattern::parse(text).map_err(|problem| End::usage(problem, hint))
        })
        .collect::<Result<_, _>>()?;
    let wanted: Vec<Wanted<'_>> = patterns
        .iter()
        .map(|pattern| Wanted {
            text: pattern.to_string(),
            fits: Box::new(|name| pattern.matches(&name.schema, &name.name)),
        })
        .collect();
    let comparing = verify::Comparing {
        parallel: how.parallel.into(),
        bytes_a_second: how.rate.map(|rate| rate << 20),
        settle: Duration::from_secs(how.settle),
        statement_limit: Duration::from_secs(how.statement_timeout),
        most: how.limit,
        images: out.is_some() || show > 0,
        ..verify::Comparing::default()
    };
    let stop = signals::stop()?;
    let started = irongate_trail::Timestamp::now().to_string();
    let ends = if out.is_some() { Some(verify::ends(flow).await?) } else { None };
    let writer =
        out.map(|file| Writer::marked(file, &flow.name, &started, ends)).transpose().map_err(|error| {
            End::usage(error.to_string(), "name a file in a directory that is there and yours")
        })?;
    let bar = progress::bar(
        global,
        Some(0),
        "{spinner} {prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {wide_msg} {eta}",
    );
    bar.set_prefix(flow.name.clone());
    let watching = Watching { bar: bar.clone(), show, keep: Mutex::new(Kept { writer, shown: Vec::new() }) };
    let compared = tokio::select! {
        compared = verify::compare(flow, &comparing, &wanted, &watching) => compared.map_err(Into::into),
        () = stop => Err(End::Failed("ended before everything was compared; nothing was changed".into()).into()),
    };
    bar.finish_and_clear();
    let Kept { writer, shown } = watching.keep.into_inner().unwrap_or_else(PoisonError::into_inner);
    let finished = writer.map(Writer::finish).transpose();
    let compared: anyhow::Result<Comparison> = compared;
    if let (Err(_), Some(file)) = (&compared, out) {
        // A part would look like the whole.
        let _ = std::fs::remove_file(file);
    }
    let found = compared?;
    finished?;
    Ok((found, shown))
}

struct Kept {
    writer: Option<Writer>,
    shown: Vec<Difference>,
}

struct Watching {
    bar: ProgressBar,
    show: usize,
    keep: Mutex<Kept>,
}

impl Observer for Watching {
    fn progress(&self, progress: &Progress) {
        self.bar.set_length(progress.total_bytes.max(progress.bytes));
        self.bar.set_position(progress.bytes);
        self.bar.set_message(format!(
            "{}/{} tables, {} rows, {} different",
            progress.tables_done,
            progress.tables_total,
            output::count(progress.rows),
            output::count(progress.differences)
        ));
    }

    fn difference(&self, difference: Difference) -> std::io::Result<()> {
        let mut keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &mut keep.writer {
            writer.write(&difference)?;
        }
        if keep.shown.len() < self.show {
            keep.shown.push(difference);
        }
        Ok(())
    }
}

fn print(found: &Comparison) -> anyhow::Result<()> {
    let headings = [
        "TABLE",
        ">ROWS",
        ">DIFFERENCES",
        ">MISSING AT TARGET",
        ">MISSING AT SOURCE",
        ">DIFFERENT",
        ">UNSETTLED",
    ];
    let mut table = output::table(&headings);
    for one in &found.tables {
        let colour = (one.differences > 0 || one.problem.is_some()).then_some(Color::Red);
        table.add_row([
            output::cell(&one.name, colour),
            output::cell(output::count(one.rows), None),
            output::cell(
                format!("{}{}", output::count(one.differences), if one.truncated { "+" } else { "" }),
                colour,
            ),
            output::cell(output::count(one.missing_at_target), None),
            output::cell(output::count(one.missing_at_source), None),
            output::cell(output::count(one.different), None),
            output::cell(output::count(one.unsettled), None),
        ]);
    }
    output::print(&table)?;
    output::text(format_args!(
        "flow \"{}\": {}, {} rows: {} differences in {}",
        found.flow,
        output::plural(found.tables.len(), "table"),
        output::count(found.rows()),
        output::count(found.differences),
        output::seconds(found.seconds),
    ))?;
    Ok(())
}

/// A difference for a person.
fn line(one: &Difference, values: bool) -> String {
    let kind = match one.kind {
        Kind::MissingAtTarget => "missing at target",
        Kind::MissingAtSource => "missing at source",
        Kind::Different => "different",
    };
    let pairs = |image: &Image| {
        let pair = |(name, value): (&String, &Option<String>)| {
            format!("{name}={}", value.as_deref().unwrap_or("NULL"))
        };
        image.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    let key = match &one.key {
        Some(key) => pairs(key),
        None => format!("{} without a key", output::plural(one.rows as usize, "row")),
    };
    let mut text = format!("{} ({key}): {kind}", one.table);
    if values {
        for (side, image) in [("source", &one.source), ("target", &one.target)] {
            if let Some(image) = image {
                text.push_str(&format!("\n    {side}: {}", pairs(image)));
            }
        }
    }
    text
}

fn described(one: &Difference, values: bool) -> Value {
    let mut value = json!({
        "table": one.table.to_string(), "kind": one.kind, "key": one.key, "rows": one.rows,
    });
    if values {
        value["source"] = json!(one.source);
        value["target"] = json!(one.target);
    }
    value
}

/// What the exit code says: 3 for differences, 4 for what could not be compared or settled.
fn judge(found: &Comparison) -> anyhow::Result<()> {
    let mut said: Vec<String> = found
        .failed()
        .map(|table| {
            let hint = table.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("table {}: {}{hint}", table.name, table.problem.as_deref().unwrap_or_default())
        })
        .collect();
    if found.unsettled > 0 {
        let why = found
            .unsettled_because
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_else(|| ": they are changed all the time; a longer --settle may tell".to_owned());
        said.push(format!("{} rows are not the same and not settled{why}", output::count(found.unsettled)));
    }
    if found.differences > 0 {
        let count = format!(
            "{} confirmed; \"irongate repair {}\" shows or makes the repair",
            output::plural(found.differences as usize, "difference"),
            found.flow
        );
        said.insert(0, count);
        return Err(End::Refused(said.join("; ")).into());
    }
    if said.is_empty() { Ok(()) } else { Err(End::Incomplete(said.join("; ")).into()) }
}
