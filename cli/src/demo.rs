//! `irongate demo`: two throw-away servers, a live load, processes that are killed, and a full compare in the end.
//!
//! It is a program over the libraries, written as anybody could write it: the configuration is a file, set-up and the
//! initial load are calls, Extract and Replicat are processes of this same binary. What it adds is the world around
//! them: servers, applications that write, and somebody who pulls plugs.

mod binaries;
mod compare;
mod guard;
mod heartbeat;
mod kept;
mod load;
mod process;
mod report;
mod server;
mod sites;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use irongate_deployment::{self as deployment, Configuration, Severity};
use irongate_trail::{Directory, Storage};
use rand::Rng;

use crate::arguments::{Demo, Global};
use crate::failure::End;
use crate::{output, signals};
use binaries::Binaries;
use compare::{Comparison, compare};
use guard::Guard;
use heartbeat::Heartbeat;
use kept::keep;
use load::Load;
use process::Process;
use report::Report;
use sites::{Base, Sites, configure, database, servers};

const DATABASE: &str = "config";
const SCHEMAS: [&str; 2] = ["config", "stat"];
const FLOW: &str = "csp";
/// People in the configuration database before the load begins.
const SCALE: u32 = 4_000;
/// How long the target may take to catch up.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the demo.
pub(crate) async fn run(global: &Global, options: &Demo) -> anyhow::Result<()> {
    let stop = signals::stop()?;
    let mut report = Report::new(global);
    let outcome = tokio::select! {
        outcome = perform(global, options, &mut report) => outcome,
        // What was started goes with the future.
        () = stop => return Err(End::Failed("interrupted; nothing is left behind".to_owned()).into()),
    };
    if outcome.is_ok() {
        report.succeed();
    }
    report.print()?;
    match outcome {
        Ok(Some(kept)) if !global.json => Ok(output::text(kept)?),
        Ok(Some(kept)) => {
            output::note(kept);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The whole play. Returns what to say about what was kept.
async fn perform(global: &Global, options: &Demo, report: &mut Report) -> anyhow::Result<Option<String>> {
    let binaries = Binaries::find()?;
    let directory = Base::new().context("cannot make a directory for the demo")?;
    let base = directory.path().to_owned();
    // Dropped in reverse order: processes, servers, guard, directory.
    let guard = Guard::over(&base)?;
    if !global.json {
        output::text(format_args!(
            "Irongate {}, PostgreSQL {}, everything in {}\n",
            env!("CARGO_PKG_VERSION"),
            binaries.version,
            base.display()
        ))?;
    }
    let mut sites = report.step("servers", "starting two servers", servers(&binaries, &base)).await?;
    report.step("schema", "making the database", database(&sites)).await?;
    let file = configure(&base, &sites)?;
    let configuration = Configuration::load(&file)?;
    report.step("setup", "roles, publication, slot, trail", setup(&configuration)).await?;
    let mut load = Load::start(&sites.main, DATABASE, SCALE).await?;
    let began = Instant::now();
    report.step("instantiate", "copying a snapshot under load", instantiate(&configuration)).await?;
    report.step("check", "the preflight", check(&configuration)).await?;

    let mut groups = Vec::new();
    for group in configuration.groups(None) {
        groups.push(Process::new(&group.name, &file, base.join(format!("{}.log", group.name)), &guard));
    }
    report.step("run", "starting Extract and Replicat", start(&configuration, &mut groups)).await?;
    let mut heartbeat = Heartbeat::start(sites.both(), DATABASE).await?;
    report.step("live", "load, undisturbed", live(&mut load, &mut groups, &heartbeat)).await?;
    let length = Duration::from_secs(options.seconds);
    report.step("kills", "load, and kill -9", kills(&sites, &mut load, &mut groups, length)).await?;
    report.kills = groups.iter().map(|group| group.kills).sum();
    report
        .step("drain", "waiting for the target", drain(load, began, &mut groups, &mut heartbeat))
        .await
        .map(|transactions| report.transactions = transactions)?;
    report.step("stop", "an orderly stop", stop(&mut groups)).await?;
    report.step("trail", "every checksum of the trail", trail(&configuration)).await?;
    let found = report.step("compare", "every row of every table", compared(&sites)).await?;
    let verdict = judge(report, found);
    if !options.keep {
        return verdict.map(|()| None);
    }
    // A difference is what one most wants to look at.
    for group in &mut groups {
        group.start()?;
    }
    let kept = keep(directory, &mut sites, groups, guard, &file)?;
    if verdict.is_err() {
        output::note(&kept);
    }
    verdict.map(|()| Some(kept))
}

async fn setup(configuration: &Configuration) -> anyhow::Result<((), String)> {
    let flow = configuration.flow(FLOW)?;
    let options = deployment::Setup { site: configuration.site.clone(), ..deployment::Setup::default() };
    let done = deployment::setup(configuration, &[flow], &options, &mut |_| {}).await?;
    let evidence = format!("{} statements; Extract and Replicat are no superusers", done.statements.len());
    Ok(((), evidence))
}

async fn check(configuration: &Configuration) -> anyhow::Result<((), String)> {
    let findings = deployment::check(configuration, &[configuration.flow(FLOW)?]).await?;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    if let Some(finding) = findings.iter().find(|finding| finding.severity == Severity::Error) {
        anyhow::bail!("{finding}");
    }
    let (warnings, notes) = (count(Severity::Warning), count(Severity::Note));
    let counts = [(0, "error"), (warnings, "warning"), (notes, "note")];
    Ok(((), counts.map(|(number, noun)| output::plural(number, noun)).join(", ")))
}

async fn instantiate(configuration: &Configuration) -> anyhow::Result<((), String)> {
    let flow = configuration.flow(FLOW)?;
    let options = deployment::Instantiate::default();
    let done = deployment::instantiate(configuration, flow, &options, &mut |_| {}).await?;
    let evidence = format!(
        "{} rows of {} tables copied under load, as of {}",
        output::count(done.rows),
        done.tables,
        done.consistent_point
    );
    Ok(((), evidence))
}

async fn start(configuration: &Configuration, groups: &mut [Process]) -> anyhow::Result<((), String)> {
    for group in groups.iter_mut() {
        group.start()?;
    }
    let begin = Instant::now();
    for group in groups.iter_mut() {
        loop {
            group.is_well()?;
            let status = irongate_checkpoint::read_status(&configuration.state_directory, group.name())?;
            if status.is_some_and(|status| status.state == irongate_checkpoint::State::Running) {
                break;
            }
            anyhow::ensure!(begin.elapsed() < PATIENCE, "{} does not come up", group.name());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let names: Vec<_> = groups.iter().map(Process::name).collect();
    Ok(((), format!("{} are RUNNING", names.join(" and "))))
}

/// How long the load is only watched.
const CALM: Duration = Duration::from_secs(4);

/// Nobody disturbs: how long a commit takes until it is seen at the target.
async fn live(
    load: &mut Load,
    groups: &mut [Process],
    heartbeat: &Heartbeat,
) -> anyhow::Result<((), String)> {
    // What was written during the initial load comes first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    heartbeat.latency();
    let (begin, before) = (Instant::now(), load.counts().committed.load(Ordering::Relaxed));
    tokio::time::sleep(CALM).await;
    load.is_well()?;
    for group in groups.iter_mut() {
        group.is_well()?;
    }
    let written = load.counts().committed.load(Ordering::Relaxed) - before;
    let rate = written as f64 / begin.elapsed().as_secs_f64();
    let latency = heartbeat.latency().context("nothing was seen at the target")?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let evidence = format!(
        "{rate:.0} transactions/s; from commit to visible at the target: median {:.0} ms, 95 % {:.0} ms, 99 % {:.0} ms",
        millis(latency.median),
        millis(latency.p95),
        millis(latency.p99)
    );
    Ok(((), evidence))
}

/// The load goes on; Extract and Replicat are killed again and again, alone and together.
async fn kills(
    sites: &Sites,
    load: &mut Load,
    groups: &mut [Process],
    length: Duration,
) -> anyhow::Result<((), String)> {
    let random = |from: u64, to: u64| Duration::from_millis(rand::rng().random_range(from..to));
    let begin = Instant::now();
    let (mut large, mut round) = (0, 0);
    while begin.elapsed() < length {
        tokio::time::sleep(random(400, 1_400)).await;
        load.is_well()?;
        round += 1;
        if round == 3 {
            // Extract is killed while the server streams it.
            let write = load::large(&sites.main, DATABASE, load.counts());
            let (rows, killed) = tokio::join!(write, kill_and_start(&mut groups[..1], random(300, 600)));
            killed?;
            large = rows?;
            continue;
        }
        let from = if round % 3 == 0 { 0 } else { round % groups.len() };
        let to = if round % 3 == 0 { groups.len() } else { from + 1 };
        kill_and_start(&mut groups[from..to], random(50, 300)).await?;
    }
    for group in groups.iter_mut() {
        group.is_well()?;
    }
    let kills: Vec<_> =
        groups.iter().map(|group| format!("{} {} times", group.name(), group.kills)).collect();
    let evidence = format!(
        "kill -9 of {}; one transaction of {} changes",
        kills.join(", "),
        output::count(large.into())
    );
    Ok(((), evidence))
}

async fn kill_and_start(groups: &mut [Process], pause: Duration) -> anyhow::Result<()> {
    tokio::time::sleep(pause).await;
    for group in groups.iter_mut() {
        group.kill()?;
    }
    tokio::time::sleep(pause).await;
    for group in groups.iter_mut() {
        group.start()?;
    }
    Ok(())
}

/// The load ends, and the target gets everything. Returns the number of transactions.
async fn drain(
    load: Load,
    began: Instant,
    groups: &mut [Process],
    heartbeat: &mut Heartbeat,
) -> anyhow::Result<(u64, String)> {
    let counts = load.stop().await?;
    let written = began.elapsed().as_secs_f64();
    let begin = Instant::now();
    let caught_up = async {
        tokio::select! {
            result = heartbeat.wait_for_all(PATIENCE) => result,
            error = failure_of(groups) => Err(error),
        }
    };
    caught_up.await?;
    let behind = begin.elapsed().as_secs_f64();
    let committed = counts.committed.load(Ordering::Relaxed);
    let evidence = format!(
        "{} transactions in {written:.0} s ({} rolled back, {} refused); caught up with {behind:.1} s after the last",
        output::count(committed),
        counts.rolled_back.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
    );
    Ok((committed, evidence))
}

/// Waits until a group has ended by itself.
async fn failure_of(groups: &mut [Process]) -> anyhow::Error {
    loop {
        for group in groups.iter_mut() {
            if let Err(error) = group.is_well() {
                return error;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stop(groups: &mut [Process]) -> anyhow::Result<((), String)> {
    for group in groups.iter_mut() {
        group.stop().await?;
    }
    let memory = groups.iter().map(|group| format!("{} {}", group.name(), output::bytes(group.peak_memory)));
    let memory = memory.collect::<Vec<_>>().join(", ");
    Ok(((), format!("both ended as asked; peak memory: {memory}")))
}

/// Reads the whole trail again, as irongate trail check does.
async fn trail(configuration: &Configuration) -> anyhow::Result<((), String)> {
    let directory = configuration.trail(configuration.flow(FLOW)?);
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let found = tokio::task::spawn_blocking(move || irongate_trail::check(&storage, |_| {})).await??;
    if let Some(finding) = found.findings.first().filter(|_| !found.is_sound()) {
        anyhow::bail!("the trail is damaged: {} at {}: {}", finding.file, finding.offset, finding.reason);
    }
    let evidence = format!(
        "{} files, {}, {} transactions: every checksum and digest is right",
        found.files.len(),
        output::bytes(found.bytes()),
        output::count(found.transactions())
    );
    Ok(((), evidence))
}

async fn compared(sites: &Sites) -> anyhow::Result<(Comparison, String)> {
    let found = compare(sites.both(), DATABASE, &SCHEMAS, FLOW).await?;
    let evidence = format!(
        "{} tables, {} rows: {} differences",
        found.tables.len(),
        output::count(found.rows()),
        found.differences
    );
    Ok((found, evidence))
}

/// Takes the compare into the report, and fails if anything differs.
fn judge(report: &mut Report, found: Comparison) -> anyhow::Result<()> {
    let journal = found.table("stat.journal").context("the journal was not compared")?;
    report.lost_transactions = Some(journal.missing_at_target);
    report.repeated_transactions = Some(journal.missing_at_source);
    let differences = found.differences;
    let tables: Vec<_> = found
        .tables
        .iter()
        .filter(|table| table.differences > 0)
        .map(|table| {
            format!(
                "{} ({} missing at the target, {} missing at the source, {} different)",
                table.name, table.missing_at_target, table.missing_at_source, table.different
            )
        })
        .collect();
    report.compare = Some(found);
    if differences > 0 {
        let message = format!("source and target differ in {differences} rows: {}", tables.join(", "));
        return Err(End::Failed(message).into());
    }
    Ok(())
}
