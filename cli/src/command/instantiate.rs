//! `irongate instantiate`, and the keeper of its snapshot.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use irongate_deployment::{
    self as deployment, Event, KEEPER_CONNECTED, KeeperEnd, KeeperPlace, Kept, SchemaCopy,
};
use serde_json::json;

use super::{Here, large_objects, setup};
use crate::arguments::{Global, Instantiate, KeepSnapshot};
use crate::failure::End;
use crate::{output, progress, signals};

/// How often `--json` tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Most tables that have a line of their own.
const MOST_LINES: usize = 8;

pub(crate) async fn run(global: &Global, options: &Instantiate) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&options.flow)?;
    let schema = SchemaCopy {
        pg_dump: options.pg_dump.clone(),
        owners: !options.no_owner,
        privileges: !options.no_privileges,
    };
    let limit = Duration::from_secs(options.slot_timeout);
    if options.print_sql {
        let mut tell = |event: Event<'_>| setup::tell(&event);
        let plan = deployment::schema_plan(&here.configuration, flow, &schema, limit, &mut tell).await?;
        return setup::print_plan(global, &plan);
    }
    let stop = signals::stop()?;
    let how = deployment::Instantiate {
        truncate: options.truncate,
        restart: options.restart,
        slot_limit: limit,
        parallel: options.parallel.map(|number| number as usize),
        rate_limit: options.rate_limit,
        keeper: KeeperPlace::Process(keeper_words(global)?),
        with_extract: !options.no_extract,
        tables: options.table.clone(),
        with_schema: options.with_schema.then_some(schema),
        with_large_objects: options.with_large_objects,
    };
    let mut screen = Screen::new(global, &flow.name);
    let begin = Instant::now();
    let mut tell = |event: Event<'_>| screen.tell(event);
    let result = deployment::instantiate_until(&here.configuration, flow, &how, stop, &mut tell).await;
    screen.clear();
    let Some(done) = result? else {
        let limit = output::seconds(flow.load.keeper_limit.as_secs_f64());
        return Err(End::Incomplete(format!(
            "the load of flow \"{}\" was stopped: the same command goes on with it, and within {limit} under the same \
             snapshot",
            flow.name
        ))
        .into());
    };
    let seconds = begin.elapsed().as_secs_f64();
    if global.json {
        output::json(&json!({
            "flow": flow.name,
            "job": done.job,
            "consistent_point": done.consistent_point.to_string(),
            "tables": done.tables,
            "later_tables": done.later_tables,
            "rows": done.rows,
            "bytes": done.bytes,
            "sequences": done.sequences,
            "large_objects": done.large_objects,
            "large_objects_left": done.large_objects_left,
            "seconds": seconds,
        }))?;
        return judge(&done);
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
    if done.later_tables > 0 && options.table.is_empty() {
        output::text(format_args!(
            "{} begin later than that, because the snapshot was lost on the way: Replicat leaves out what their copies \
             have, and the target is consistent as soon as it has caught up",
            output::plural(done.later_tables, "table")
        ))?;
    }
    if let Some(objects) = &done.large_objects {
        large_objects::told(objects)?;
        output::text(large_objects::done(objects, ""))?;
    }
    if done.large_objects_left > 0 {
        output::text(format_args!(
            "large objects are not copied, and not in the stream: {} at the source; irongate large-objects copy {} copies them as \
             they are then",
            output::count(done.large_objects_left),
            flow.name
        ))?;
    }
    let groups = here.configuration.select_groups(std::slice::from_ref(&flow.name), None)?;
    let names: Vec<_> = groups.iter().map(|group| format!("irongate run {}", group.name)).collect();
    output::text(format_args!("next: {}", names.join(" and ")))?;
    judge(&done)
}

/// The rows are there; large objects perhaps not all of them.
fn judge(done: &deployment::Instantiated) -> anyhow::Result<()> {
    done.large_objects.as_ref().map_or(Ok(()), |objects| large_objects::complete(objects, false))
}

/// This program with what it was told of the configuration, for the keeper.
fn keeper_words(global: &Global) -> anyhow::Result<Vec<OsString>> {
    let mut words: Vec<OsString> = vec![std::env::current_exe()?.into()];
    words.push("--config".into());
    words.push(std::path::absolute(&global.config)?.into());
    if let Some(site) = &global.site {
        words.extend(["--site".into(), site.into()]);
    }
    words.push("keep-snapshot".into());
    Ok(words)
}

/// What the operator sees meanwhile.
pub(super) struct Screen {
    flow: String,
    whole: ProgressBar,
    told: Option<Instant>,
    json: bool,
}

impl Screen {
    pub(super) fn new(global: &Global, flow: &str) -> Self {
        let whole = progress::bar(global, Some(1000), "{spinner} {prefix} [{bar:30}] {wide_msg}");
        whole.set_prefix(flow.to_owned());
        Self { flow: flow.to_owned(), whole, told: None, json: global.json }
    }

    pub(super) fn tell(&mut self, event: Event<'_>) {
        match event {
            Event::Copy(copy) if self.json => {
                let is_last = copy.tables_done == copy.tables_total;
                if is_last || self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    self.told = Some(Instant::now());
                    self.line(&copy);
                }
            }
            Event::Copy(copy) => self.draw(&copy),
            other => self.whole.suspend(|| setup::tell(&other)),
        }
    }

    /// Progress for a program: one document a line on standard error.
    fn line(&self, copy: &deployment::Progress) {
        let seconds = |remaining: Option<Duration>| remaining.map(|time| time.as_secs_f64());
        let tables: Vec<_> = copy
            .tables
            .iter()
            .map(|table| {
                json!({
                    "name": table.table, "rows": table.rows, "estimated_rows": table.estimated_rows,
                    "bytes": table.bytes, "chunks_done": table.chunks_done, "chunks": table.chunks,
                    "fraction": table.fraction, "remaining_seconds": seconds(table.remaining),
                })
            })
            .collect();
        let line = json!({
            "flow": self.flow, "job": copy.job, "tables_done": copy.tables_done, "tables_total": copy.tables_total,
            "rows": copy.rows, "bytes": copy.bytes, "fraction": copy.fraction,
            "remaining_seconds": seconds(copy.remaining), "tables": tables,
        });
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    fn draw(&self, copy: &deployment::Progress) {
        let left = |remaining: Option<Duration>| {
            remaining
                .map_or_else(String::new, |time| format!(", {} left", output::seconds(time.as_secs_f64())))
        };
        let mut text = format!(
            "{}/{} tables, {} rows, {}{}",
            copy.tables_done,
            copy.tables_total,
            output::count(copy.rows),
            output::bytes(copy.bytes),
            left(copy.remaining)
        );
        for table in copy.tables.iter().take(MOST_LINES) {
            let of = table.estimated_rows.map_or_else(String::new, |rows| {
                format!(" of about {}", output::count(rows.max(table.rows)))
            });
            text.push_str(&format!(
                "\n    {}: {:.0} %, {}{of} rows, {}{}",
                table.table,
                table.fraction * 100.0,
                output::count(table.rows),
                output::bytes(table.bytes),
                left(table.remaining)
            ));
        }
        self.whole.set_position((copy.fraction * 1000.0) as u64);
        self.whole.set_message(text);
    }

    pub(super) fn clear(&self) {
        self.whole.finish_and_clear();
    }
}

/// Where a keeper says who it is.
fn state_file(directory: &Path, flow: &str) -> PathBuf {
    directory.join(format!("{flow}-keeper.json"))
}

/// `irongate keep-snapshot`, which `instantiate` runs for itself.
pub(crate) async fn keep(global: &Global, options: &KeepSnapshot) -> anyhow::Result<()> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(&options.flow)?;
    let stop = signals::stop()?;
    // The terminal of the command may close; the snapshot is for the next one.
    let mut hang_up = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    tokio::spawn(async move { while hang_up.recv().await.is_some() {} });
    let snapshot = async {
        output::text(KEEPER_CONNECTED).ok()?;
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: one that reads does not hold up the end of the process.
        std::thread::spawn(move || {
            let line = std::io::stdin().lines().next().and_then(Result::ok);
            let _ = tell.send(line);
        });
        told.await.ok().flatten()
    };
    let limit = Duration::from_secs(options.limit);
    let path = state_file(&here.configuration.state_directory, &flow.name);
    let ready = |kept: &Kept| {
        let state = json!({
            "flow": flow.name, "pid": std::process::id(), "server_process": kept.pid, "since": kept.start,
            "snapshot": kept.snapshot,
        });
        if let Err(error) = std::fs::write(&path, format!("{state}\n")) {
            tracing::warn!(%error, file = %path.display(), "cannot say who keeps the snapshot");
        }
        tracing::info!(flow = flow.name, snapshot = kept.snapshot, "keeping the snapshot");
        if let Err(error) = output::text(kept.to_line()) {
            tracing::warn!(%error, "whoever wanted the snapshot kept is gone");
        }
    };
    let ended = deployment::keep_snapshot(&here.configuration, flow, limit, snapshot, ready, stop).await;
    let is_mine = std::fs::read_to_string(&path)
        .is_ok_and(|text| text.contains(&format!("\"pid\":{},", std::process::id())));
    if is_mine {
        let _ = std::fs::remove_file(&path);
    }
    match ended? {
        KeeperEnd::Told => tracing::info!(flow = flow.name, "the snapshot is not needed any more"),
        KeeperEnd::Alone => {
            tracing::warn!(
                flow = flow.name,
                "nobody has gone on with the load in time: the snapshot is given up"
            );
        }
    }
    Ok(())
}
