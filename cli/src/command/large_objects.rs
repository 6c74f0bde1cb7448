//! `irongate large-objects`.

use irongate_deployment::configuration::Flow;
use irongate_deployment::{
    self as deployment, ComparedObjects, CopiedObjects, LargeObjectTrouble, LargeObjectsProgress,
};
use serde_json::{Value, json};
use std::time::Instant;

use super::Here;
use crate::arguments::Global;
use crate::arguments::large_objects::{LargeObjects, Objects};
use crate::failure::End;
use crate::{output, progress, signals};

const BAR: &str = "{spinner} {prefix} [{bar:30}] {wide_msg}";

pub(crate) async fn run(global: &Global, options: &LargeObjects) -> anyhow::Result<()> {
    match options {
        LargeObjects::Compare { what } => compare(global, what).await,
        LargeObjects::Copy { what, delete, dry_run } => copy(global, what, *delete, *dry_run).await,
    }
}

fn wanted(what: &Objects, delete: bool) -> deployment::LargeObjects {
    deployment::LargeObjects { attributes: !what.content_only, delete, most: what.show }
}

/// A bar for both commands.
fn bar(global: &Global, flow: &Flow) -> (indicatif::ProgressBar, impl FnMut(&LargeObjectsProgress) + Send) {
    let bar = progress::bar(global, Some(0), BAR);
    bar.set_prefix(flow.name.clone());
    let shown = bar.clone();
    let tell = move |progress: &LargeObjectsProgress| {
        shown.set_length(progress.source.max(progress.target).max(progress.compared));
        shown.set_position(progress.compared);
        shown.set_message(format!(
            "{} objects, {} compared, {} copied",
            output::count(progress.compared),
            output::bytes(progress.compared_bytes),
            output::bytes(progress.written_bytes)
        ));
    };
    (bar, tell)
}

async fn compare(global: &Global, what: &Objects) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&what.flow)?;
    let begin = Instant::now();
    let (bar, mut tell) = bar(global, flow);
    let stop = signals::stop()?;
    let compared = tokio::select! {
        compared = deployment::compare_large_objects(&here.configuration, flow, wanted(what, false), &mut tell) =>
            compared.map_err(anyhow::Error::from),
        () = stop => Err(End::Failed("ended before everything was compared; nothing was changed".into()).into()),
    };
    bar.finish_and_clear();
    let found = compared?;
    let seconds = begin.elapsed().as_secs_f64();
    if global.json {
        output::json(&document(flow, serde_json::to_value(&found)?, json!({ "seconds": seconds })))?;
    } else {
        print(flow, &found, seconds)?;
    }
    judge(flow, &found)
}

/// A result with the flow's name before it and more behind it.
fn document(flow: &Flow, result: Value, more: Value) -> Value {
    let mut all = json!({ "flow": flow.name });
    if let Value::Object(all) = &mut all {
        for part in [result, more] {
            if let Value::Object(part) = part {
                all.extend(part);
            }
        }
    }
    all
}

fn print(flow: &Flow, found: &ComparedObjects, seconds: f64) -> anyhow::Result<()> {
    if !found.shown.is_empty() {
        let mut table = output::table(&[">OID", "DIFFERENT", ">AT SOURCE", ">AT TARGET"]);
        let size = |size: Option<i64>| output::or_dash(size.map(|size| output::bytes(size.unsigned_abs())));
        for one in &found.shown {
            table.add_row([
                one.oid.to_string(),
                one.different.join(", "),
                size(one.source_bytes),
                size(one.target_bytes),
            ]);
        }
        output::print(&table)?;
        more(found.differences, found.shown.len())?;
    }
    troubles(&found.troubles, found.not_compared)?;
    Ok(output::text(format_args!(
        "flow \"{}\": {} large objects ({}) at the source and {} ({}) at the target: {} differences ({} missing at target, {} \
         missing at source, {} with another content, {} with another owner, rights or comment) in {}",
        flow.name,
        output::count(found.source_objects),
        output::bytes(found.source_bytes),
        output::count(found.target_objects),
        output::bytes(found.target_bytes),
        output::count(found.differences),
        output::count(found.missing_at_target),
        output::count(found.missing_at_source),
        output::count(found.different),
        output::count(found.attributes),
        output::seconds(seconds),
    ))?)
}

/// Says that there are more than were shown.
fn more(all: u64, shown: usize) -> std::io::Result<()> {
    match all.saturating_sub(shown as u64) {
        0 => Ok(()),
        more => output::text(format_args!("and {} more; --show shows them", output::count(more))),
    }
}

fn troubles(troubles: &[LargeObjectTrouble], all: u64) -> std::io::Result<()> {
    for one in troubles {
        output::text(format_args!(
            "large object {} at {}: {}\n    {}",
            one.oid, one.end, one.reason, one.fix
        ))?;
    }
    if troubles.is_empty() { Ok(()) } else { more(all, troubles.len()) }
}

/// What mends many of them at once.
const FOR_ALL: &str = "an address for the administrator (admin_uri) has Irongate deal with them as him";

/// What the exit code says: 3 for differences, 4 for what could not be compared.
fn judge(flow: &Flow, found: &ComparedObjects) -> anyhow::Result<()> {
    let unread = (found.not_compared > 0)
        .then(|| format!("{} could not be compared; {FOR_ALL}", objects(found.not_compared)));
    if found.differences > 0 {
        let mut said = format!(
            "{} {} not the same; \"irongate large-objects copy {}\" makes the target's what the source's are",
            objects(found.differences),
            if found.differences == 1 { "is" } else { "are" },
            flow.name
        );
        if let Some(unread) = unread {
            said.push_str("; ");
            said.push_str(&unread);
        }
        return Err(End::Refused(said).into());
    }
    match unread {
        Some(unread) => Err(End::Incomplete(unread).into()),
        None => Ok(()),
    }
}

fn objects(number: u64) -> String {
    format!("{} large object{}", output::count(number), if number == 1 { "" } else { "s" })
}

async fn copy(global: &Global, what: &Objects, delete: bool, dry_run: bool) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&what.flow)?;
    let begin = Instant::now();
    let (bar, mut tell) = bar(global, flow);
    let stop = signals::stop()?;
    let options = wanted(what, delete);
    let copied = tokio::select! {
        copied = deployment::copy_large_objects(&here.configuration, flow, options, dry_run, &mut tell) =>
            copied.map_err(anyhow::Error::from),
        () = stop => Err(End::Incomplete(
            "ended before everything was copied: the same command goes on, and leaves alone what is the same".into(),
        ).into()),
    };
    bar.finish_and_clear();
    let copied = copied?;
    let seconds = begin.elapsed().as_secs_f64();
    if global.json {
        let more = json!({ "dry_run": dry_run, "seconds": seconds });
        output::json(&document(flow, serde_json::to_value(&copied)?, more))?;
    } else {
        troubles(&copied.troubles, copied.failed)?;
        let would = if dry_run { "would be " } else { "" };
        output::text(format_args!(
            "flow \"{}\": {} in {}",
            flow.name,
            done(&copied, would),
            output::seconds(seconds)
        ))?;
    }
    complete(&copied, dry_run)
}

/// What a copy has done, in a sentence.
pub(super) fn done(copied: &CopiedObjects, would: &str) -> String {
    let mut text = format!(
        "{} {would}copied, {} {would}replaced ({}), {} {would}given another owner, rights or comment, {} {would}removed, {} the \
         same",
        objects(copied.created),
        output::count(copied.replaced),
        output::bytes(copied.bytes),
        output::count(copied.attributes),
        output::count(copied.deleted),
        output::count(copied.same),
    );
    if copied.only_at_target > 0 {
        let stay = format!("; {} that only the target has stay", objects(copied.only_at_target));
        text.push_str(&stay);
    }
    text
}

/// Exit code 4 where not everything was copied.
pub(super) fn complete(copied: &CopiedObjects, dry_run: bool) -> anyhow::Result<()> {
    if copied.failed == 0 {
        return Ok(());
    }
    let said = format!(
        "{} {} not, or not wholly, what the source's are; {FOR_ALL}",
        objects(copied.failed),
        if dry_run { "would be" } else { "are" }
    );
    Err(End::Incomplete(said).into())
}

/// What is said of each that was not copied.
pub(super) fn told(copied: &CopiedObjects) -> anyhow::Result<()> {
    Ok(troubles(&copied.troubles, copied.failed)?)
}
