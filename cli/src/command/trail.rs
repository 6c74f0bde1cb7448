//! `irongate trail`.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use irongate_deployment::configuration::PurgeOptions;
use irongate_pump::kafka::KafkaReader;
use irongate_trail::{
    self as trail, CommitLsn, Directory, Dump, DumpFilter, DumpFormat, DumpOptions, KeyValue, Listing, Lsn,
    Mark, PurgePolicy, Severity, Storage, Timestamp,
};
use serde_json::{Value, json};

use super::Here;
use crate::arguments::{self, Global, Operation, Purge, Trail, WhichTrail};
use crate::failure::End;
use crate::{output, progress};

pub(crate) async fn run(global: &Global, command: Trail) -> anyhow::Result<()> {
    let global = global.clone();
    // All of it reads or removes files: work that would hold up others on the runtime's own threads.
    tokio::task::spawn_blocking(move || match command {
        Trail::Ls(which) => ls(&global, &which),
        Trail::Dump(options) => dump(&global, &options),
        Trail::Check(which) => check(&global, &which),
        Trail::Purge(options) => purge(&global, &options),
    })
    .await?
}

/// A trail's directory, and what the flow's settings say of its purge.
fn find(global: &Global, which: &WhichTrail) -> anyhow::Result<(PathBuf, Option<PurgeOptions>)> {
    let (directory, options) = match (&which.directory, &which.flow) {
        (Some(directory), _) => (directory.clone(), None),
        (None, flow) => {
            let here = Here::load(global)?;
            let flow = here.configuration.flow(flow.as_deref().unwrap_or_default())?;
            (here.configuration.trail(flow), Some(flow.purge.clone()))
        }
    };
    if directory.is_dir() { Ok((directory, options)) } else { Err(trail::Error::Missing(directory).into()) }
}

fn open(global: &Global, which: &WhichTrail) -> anyhow::Result<Arc<dyn Storage>> {
    Ok(Arc::new(Directory::new(find(global, which)?.0)))
}

fn mark(mark: &Mark) -> Value {
    json!({
        "position": mark.position.to_string(),
        "resume_lsn": mark.resume_lsn.to_string(),
        "commit_lsn": (mark.commit_lsn.0.0 != 0).then(|| mark.commit_lsn.to_string()),
        "commit_time": (mark.commit_time.0 != 0).then(|| output::time(mark.commit_time)),
        "set": output::time(mark.set),
    })
}

fn ls(global: &Global, which: &WhichTrail) -> anyhow::Result<()> {
    let (directory, _) = find(global, which)?;
    let listing = trail::list(&Directory::new(&directory))?;
    if global.json {
        let files: Vec<_> = listing
            .files
            .iter()
            .map(|file| {
                json!({
                    "name": file.name,
                    "seqno": file.seqno,
                    "bytes": file.bytes,
                    "side_files": file.sides,
                    "side_bytes": file.side_bytes,
                    "sealed": file.sealed,
                    "created": file.header.as_ref().map(|header| output::time(header.created)),
                    "resume_lsn": file.header.as_ref().map(|header| header.resume_lsn.to_string()),
                    "epoch": file.header.as_ref().map(|header| header.epoch),
                })
            })
            .collect();
        let readers: Vec<_> =
            listing.readers.iter().map(|(name, at)| json!({ "name": name, "at": mark(at) })).collect();
        return output::json(&json!({
            "directory": directory,
            "files": files,
            "durable": listing.durable.as_ref().map(mark),
            "readers": readers,
            "being_written": listing.is_being_written,
        }));
    }
    print_listing(&listing)
}

fn print_listing(listing: &Listing) -> anyhow::Result<()> {
    let mut table =
        output::table(&["FILE", ">BYTES", ">SIDE FILES", ">SIDE BYTES", "STATE", "BEGINS AT", "CREATED"]);
    for file in &listing.files {
        let header = file.header.as_ref();
        table.add_row([
            file.name.clone(),
            output::count(file.bytes),
            file.sides.to_string(),
            output::count(file.side_bytes),
            if file.sealed { "sealed" } else { "open" }.to_owned(),
            output::or_dash(header.map(|header| header.resume_lsn)),
            output::or_dash(header.map(|header| output::short_time(header.created))),
        ]);
    }
    output::print(&table)?;
    let total: u64 = listing.files.iter().map(|file| file.bytes + file.side_bytes).sum();
    let writer = if listing.is_being_written { "a writer has it open" } else { "nobody writes it" };
    output::text(format_args!(
        "{} in {}; {writer}",
        output::bytes(total),
        output::plural(listing.files.len(), "file")
    ))?;
    let place = |mark: &Mark| format!("{} (source {})", mark.position, mark.resume_lsn);
    output::text(format_args!("durable up to {}", output::or_dash(listing.durable.as_ref().map(place))))?;
    for (name, at) in &listing.readers {
        output::text(format_args!("reader {name} has passed {}", place(at)))?;
    }
    Ok(())
}

fn range<T: Copy>(
    from: Option<T>,
    to: Option<T>,
    [least, most]: [T; 2],
) -> Option<std::ops::RangeInclusive<T>> {
    (from.is_some() || to.is_some()).then(|| from.unwrap_or(least)..=to.unwrap_or(most))
}

fn time(time: jiff::Timestamp) -> Timestamp {
    Timestamp(time.as_microsecond().saturating_sub(Timestamp(0).unix_micros()))
}

/// The trail in the directory of a copy.
const COPY: &str = "trail";

/// A trail made of what a flow's topic holds at present.
fn copy_of_topic(global: &Global, which: &WhichTrail) -> anyhow::Result<tempfile::TempDir> {
    let here = Here::load(global)?;
    let flow = here.configuration.flow(which.flow.as_deref().unwrap_or_default())?;
    if !flow.is_through_kafka() {
        return Err(End::usage(
            format!("flow \"{}\" does not go through Kafka", flow.name),
            "leave --kafka away, for its trail here",
        ));
    }
    let directory = tempfile::tempdir()?;
    let mut settings = here.configuration.kafka_reader_settings(flow)?;
    (settings.trail, settings.state_directory) =
        (directory.path().join(COPY), directory.path().join("state"));
    // All of it, also what this site would not take any more.
    settings.epoch = 0;
    let topic = settings.topic.clone();
    let copied = tokio::runtime::Handle::current().block_on(async {
        // On the runtime's own threads, where reading may block.
        tokio::spawn(KafkaReader::new(settings).copy()).await
    })??;
    // A trail begins with its first file; there is none before a pump has begun.
    anyhow::ensure!(
        copied.position.seqno != 0,
        "topic \"{topic}\" holds nothing yet: its pump has not begun"
    );
    Ok(directory)
}

fn dump(global: &Global, options: &arguments::Dump) -> anyhow::Result<()> {
    let operation = |operation: &Operation| match operation {
        Operation::Insert => trail::Operation::Insert,
        Operation::Update => trail::Operation::Update,
        Operation::Delete => trail::Operation::Delete,
        Operation::Truncate => trail::Operation::Truncate,
        Operation::Message => trail::Operation::Message,
    };
    let key = |text: &String| match text.split_once('=') {
        Some((column, value)) => KeyValue { column: Some(column.to_owned()), value: value.to_owned() },
        None => KeyValue { column: None, value: text.clone() },
    };
    let filter = DumpFilter {
        first_file: options.from,
        last_file: options.to,
        tables: options.tables.clone(),
        operations: options.operations.iter().map(operation).collect(),
        keys: options.keys.iter().map(key).collect(),
        xid: options.xid,
        commits: range(
            options.from_lsn.map(CommitLsn),
            options.to_lsn.map(CommitLsn),
            [CommitLsn(Lsn(0)), CommitLsn(Lsn(u64::MAX))],
        ),
        times: range(
            options.since.map(time),
            options.until.map(time),
            [Timestamp(i64::MIN), Timestamp(i64::MAX)],
        ),
    };
    let format = if global.json { DumpFormat::Json } else { DumpFormat::Text };
    let (subtransactions, to_the_end) = (options.subtransactions, options.to_the_end);
    let how = DumpOptions { format, filter, subtransactions, to_the_end };
    // Gone with its files at the end.
    let copied = options.kafka.then(|| copy_of_topic(global, &options.which)).transpose()?;
    let storage: Arc<dyn Storage> = match &copied {
        Some(directory) => Arc::new(Directory::new(directory.path().join(COPY))),
        None => open(global, &options.which)?,
    };
    let mut dump = Dump::open(storage, how)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let result = loop {
        match dump.next_line() {
            Ok(Some(line)) => writeln!(out, "{line}")?,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // What was read before a damaged place is sound, and is shown.
    out.flush()?;
    Ok(result?)
}

fn check(global: &Global, which: &WhichTrail) -> anyhow::Result<()> {
    let storage = open(global, which)?;
    let listing = trail::list(&*storage)?;
    let total = listing.files.iter().map(|file| file.bytes + file.side_bytes).sum();
    let bar = progress::bar(
        global,
        Some(total),
        "{spinner} [{bar:40}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {wide_msg}",
    );
    let report = trail::check(&storage, |file| {
        bar.inc(file.bytes + file.side_bytes);
        bar.set_message(file.name.clone());
    });
    bar.finish_and_clear();
    let report = report?;
    if global.json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "severity": word(finding.severity),
                    "file": finding.file,
                    "offset": finding.offset,
                    "reason": finding.reason,
                })
            })
            .collect();
        output::json(&json!({
            "sound": report.is_sound(),
            "files": report.files.len(),
            "transactions": report.transactions(),
            "bytes": report.bytes(),
            "durable": report.durable.as_ref().map(mark),
            "findings": findings,
        }))?;
    } else {
        for finding in &report.findings {
            output::text(format_args!(
                "{}: {} at {}: {}",
                word(finding.severity),
                finding.file,
                finding.offset,
                finding.reason
            ))?;
        }
        output::text(format_args!(
            "{}, {}, {} transactions: {}",
            output::plural(report.files.len(), "file"),
            output::bytes(report.bytes()),
            output::count(report.transactions()),
            if report.is_sound() { "sound" } else { "damaged" }
        ))?;
    }
    if report.is_sound() { Ok(()) } else { Err(End::Failed("the trail is damaged".to_owned()).into()) }
}

fn word(severity: Severity) -> String {
    format!("{severity:?}").to_lowercase()
}

fn purge(global: &Global, options: &Purge) -> anyhow::Result<()> {
    let (directory, settings) = find(global, &options.which)?;
    if settings.as_ref().is_some_and(|settings| !settings.purge) {
        return Err(
            End::Refused("the flow's trail has \"purge = false\" in the configuration".to_owned()).into()
        );
    }
    let mut policy = PurgePolicy::default();
    if let Some(settings) = settings {
        policy.min_age_seconds = settings.keep.as_secs();
        policy.min_files = settings.keep_files as usize;
    }
    policy.min_age_seconds = options.keep_seconds.unwrap_or(policy.min_age_seconds);
    policy.min_files = options.keep_files.unwrap_or(policy.min_files);
    let purged = trail::purge(&Directory::new(directory), &policy)?;
    if global.json {
        return output::json(&json!({
            "removed": purged.removed,
            "bytes": purged.bytes,
            "kept_by": purged.kept_by.as_ref().map(|(name, at)| json!({ "reader": name, "position": at.to_string() })),
        }));
    }
    output::text(format_args!(
        "{} removed ({})",
        output::plural(purged.removed.len(), "file"),
        output::bytes(purged.bytes)
    ))?;
    if let Some((reader, at)) = &purged.kept_by {
        output::text(format_args!("reader {reader} at {at} keeps the rest"))?;
    }
    Ok(())
}
