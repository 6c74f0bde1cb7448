//! `irongate repair`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_deployment::configuration::TablePattern;
use irongate_manager::compare as last;
use irongate_verify::{self as verify, Difference, Kind, Reader, Repairing};
use serde_json::json;

use super::{Here, compare};
use crate::arguments::Global;
use crate::arguments::verify::{self as arguments, Direction};
use crate::failure::End;
use crate::{output, progress, signals};

pub(crate) async fn run(global: &Global, options: &arguments::Repair) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let of_configuration = here.configuration.flow(&options.flow)?;
    let flow = last::flow(&here.configuration, of_configuration)?;
    let direction = match options.direction {
        Direction::SourceToTarget => verify::Direction::SourceToTarget,
        Direction::TargetToSource => verify::Direction::TargetToSource,
    };
    let only = options.only.map(|only| match only {
        arguments::Kind::Missing => Kind::MissingAtTarget,
        arguments::Kind::Different => Kind::Different,
        arguments::Kind::Extra => Kind::MissingAtSource,
    });
    let repairing = Repairing {
        direction,
        only,
        settle: Duration::from_secs(options.how.settle),
        writer: last::writer(&here.configuration, of_configuration, direction)?,
    };
    let mut unsettled = 0;
    let (file, _own) = match &options.from {
        Some(file) => {
            // A file that cannot be read is told before anybody is asked anything.
            let written = Reader::open(file, &flow.name).map_err(|error| match error {
                verify::Error::File { .. } => {
                    End::usage(error.to_string(), "name a file that compare --out has written")
                }
                error => error.into(),
            })?;
            if !written.is_of(&verify::ends(&flow).await?)? {
                output::note(format_args!(
                    "file \"{}\" was written by an older release and does not say which databases were compared",
                    file.display()
                ));
            }
            (file.clone(), None)
        }
        None => {
            let file = Own::file(&here.configuration.state_directory, &flow.name)?;
            let (found, _) = compare::found(global, &flow, &options.how, Some(&file.0), 0).await?;
            unsettled = found.unsettled;
            if let Some(failed) = found.failed().next() {
                let why = failed.problem.as_deref().unwrap_or_default();
                output::note(format_args!("table {} is left out: {why}", failed.name));
            }
            (file.0.clone(), Some(file))
        }
    };
    let patterns: Vec<TablePattern> = options
        .how
        .table
        .iter()
        .map(|text| TablePattern::parse(text).map_err(|problem| End::usage(problem, "write schema.table")))
        .collect::<Result<_, _>>()?;
    let (name, wanted) = (flow.name.clone(), patterns);
    let differences = move || -> Result<Box<dyn Iterator<Item = Result<Difference, verify::Error>> + Send>, verify::Error> {
        let wanted = wanted.clone();
        let fits = move |one: &Result<Difference, verify::Error>| match one {
            Ok(one) => {
                wanted.is_empty()
                    || wanted.iter().any(|pattern| pattern.matches(&one.table.schema, &one.table.name))
            }
            Err(_) => true,
        };
        Ok(Box::new(Reader::open(&file, &name)?.filter(fits)))
    };
    let repair = verify::Repair::of(&flow, &repairing, &differences).await?;
    if options.print_sql {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        repair.print(&mut out)?;
        return Ok(out.flush()?);
    }
    let stop = signals::stop()?;
    let bar = progress::bar(global, None, "{spinner} {prefix} {wide_msg}");
    bar.set_prefix(flow.name.clone());
    let tell = |applied: &verify::Applied| {
        bar.set_message(format!(
            "{} repaired, {} left alone",
            output::count(applied.repaired),
            output::count(applied.left_alone)
        ));
    };
    let applied = tokio::select! {
        applied = repair.apply(&tell) => applied?,
        () = stop => {
            let said = "ended before everything was repaired; what is committed stays";
            return Err(End::Incomplete(said.into()).into());
        }
    };
    bar.finish_and_clear();
    // What the compare could not settle is not repaired either.
    let not_settled = applied.unsettled + unsettled;
    if global.json {
        output::json(&json!({
            "flow": flow.name,
            "repaired": applied.repaired,
            "left_alone": applied.left_alone,
            "unsettled": not_settled,
            "unsettled_because": applied.unsettled_because,
        }))?;
    } else {
        output::text(format_args!(
            "flow \"{}\": {} repaired at {}, {} left alone, {} not settled",
            flow.name,
            output::count(applied.repaired),
            repairing.writer.label,
            output::count(applied.left_alone),
            output::count(not_settled),
        ))?;
    }
    let left = applied.left_alone + applied.unsettled;
    if left > 0 {
        let why =
            applied.unsettled_because.unwrap_or_else(|| "they are not what the compare saw any more".into());
        return Err(
            End::Incomplete(format!("{left} differences are not repaired: {why}; compare again")).into()
        );
    }
    if unsettled > 0 {
        let said = "rows are not the same and nobody can say yet whether they will be; compare again";
        return Err(End::Incomplete(format!("{unsettled} {said}")).into());
    }
    Ok(())
}

/// A file of differences that is gone when the command is.
struct Own(PathBuf);

impl Own {
    fn file(state_directory: &Path, flow: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state_directory)?;
        Ok(Self(state_directory.join(format!("repair-{flow}-{}.jsonl", std::process::id()))))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
