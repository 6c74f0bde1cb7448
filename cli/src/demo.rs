//! `irongate demo`: two sites on two throw-away servers, a live load, processes that are killed, a switchover and back, a
//! disaster with everything that comes after it, and a full compare in the end.
//!
//! It is a program over the libraries, written as anybody could write it: the configuration is a file, set-up and the
//! initial load are calls, and the rest is what an operator has: a manager at each site, which starts Extract, pump,
//! collector and Replicat as processes of this same binary and starts them again when they die. What it adds is the world
//! around them: servers, applications that write, and somebody who pulls plugs.

mod binaries;
mod business;
mod compare;
mod guard;
mod heartbeat;
mod kept;
mod life;
mod load;
mod log;
mod process;
mod report;
mod server;
mod site;
mod sites;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use irongate_checkpoint::State;
use irongate_deployment::{self as deployment, Severity};
use irongate_manager::Control;
use irongate_trail::{Directory, Storage};
use rand::Rng;

use crate::arguments::{Demo, Global};
use crate::failure::End;
use crate::{output, signals};
use binaries::Binaries;
use compare::compare;
use guard::Guard;
use heartbeat::Heartbeat;
use irongate_verify::Comparison;
use kept::keep;
use load::Load;
use log::Log;
use report::Report;
use site::Site;
use sites::{Base, Sites, configure, database, servers};

/// The sites: the one that writes, and the live standby.
const SITES: [&str; 2] = ["main", "secondary"];
/// The configuration database, which one site writes at a time.
const DATABASE: &str = "config";
const SCHEMAS: [&str; 2] = ["config", "stat"];
/// The log database, which both sites write.
const LOG: &str = "log";
/// The flow of the configuration database in normal mode.
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

/// The whole play, in a directory of its own. Returns what to say about what was kept.
async fn perform(global: &Global, options: &Demo, report: &mut Report) -> anyhow::Result<Option<String>> {
    let binaries = Binaries::find()?;
    let mut directory = Some(Base::new().context("cannot make a directory for the demo")?);
    let outcome = play(global, options, report, &binaries, &mut directory).await;
    // What it was about is in the files, though nothing runs any more.
    if let (Err(_), true, Some(directory)) = (&outcome, options.keep, directory.take()) {
        output::note(format_args!(
            "logs, trails and databases of it are kept in {}",
            directory.keep().display()
        ));
    }
    outcome
}

/// Takes the directory where everything is left running.
async fn play(
    global: &Global,
    options: &Demo,
    report: &mut Report,
    binaries: &Binaries,
    directory: &mut Option<Base>,
) -> anyhow::Result<Option<String>> {
    let base = directory.as_ref().map(|base| base.path().to_owned()).unwrap_or_default();
    // Dropped in reverse order: managers with their groups, servers, guard; the directory outlives them.
    let guard = Guard::over(&base)?;
    if !global.json {
        output::text(format_args!(
            "Irongate {}, PostgreSQL {}, everything in {}\n",
            env!("CARGO_PKG_VERSION"),
            binaries.version,
            base.display()
        ))?;
    }
    let mut servers = report.step("servers", "starting two servers", servers(binaries, &base)).await?;
    report.step("schema", "making the databases", database(&servers)).await?;
    let file = configure(&base, &servers)?;
    let mut sites = [Site::new(SITES[0], &file, &guard)?, Site::new(SITES[1], &file, &guard)?];
    report.step("setup", "roles, publications, slots, trails", setup(&sites)).await?;
    let mut load = Load::start(&servers.main, DATABASE, SCALE).await?;
    let began = Instant::now();
    report.step("instantiate", "copying a snapshot under load", instantiate(&sites[0])).await?;
    report.step("check", "the preflight", check(&sites)).await?;
    report.step("run", "a manager at each site", start(&mut sites)).await?;
    let mut log = Log::start(servers.both()).await?;
    let mut heartbeat = Heartbeat::start(servers.both(), DATABASE).await?;
    report.step("live", "load, undisturbed", live(&mut load, &mut sites, &heartbeat)).await?;
    let length = Duration::from_secs(options.seconds);
    report
        .step("kills", "load, and kill -9", kills(&servers, &mut load, &mut log, &mut sites, length))
        .await?;
    report.kills = sites.iter().map(kills_at).sum();
    let drained = drain(&servers, load, log, began, &mut sites, &mut heartbeat);
    report.transactions = report.step("drain", "waiting for the other site", drained).await?;
    report.step("terminal", "one terminal for both sites", terminal(&sites)).await?;
    let cost = life::live(report, binaries, &mut servers, &mut sites).await?;
    report.outage_seconds = cost.outage;
    report.transactions += cost.acknowledged;
    let found = report.step("compare", "every row of every table", compared(&sites[0])).await?;
    report.step("stop", "an orderly stop", stop(&mut sites)).await?;
    report.step("trail", "every checksum of the trails", trails(&sites)).await?;
    let verdict = judge(report, found);
    if !options.keep {
        return verdict.map(|()| None);
    }
    // A difference is what one most wants to look at. A pump runs only when the other site takes what it sends, so both
    // managers are started before either is waited for.
    start(&mut sites).await?;
    let Some(directory) = directory.take() else { return verdict.map(|()| None) };
    let kept = keep(directory, &mut servers, &mut sites, guard, &file)?;
    if verdict.is_err() {
        output::note(&kept);
    }
    verdict.map(|()| Some(kept))
}

/// Each flow is set up where it begins. The log is empty, so nothing has to be copied.
async fn setup([main, secondary]: &[Site; 2]) -> anyhow::Result<((), String)> {
    let mut statements = 0;
    for (site, flow) in [(main, FLOW), (secondary, "css"), (main, "msp"), (secondary, "mss")] {
        let configuration = &site.configuration;
        let options = deployment::Setup { site: Some(site.name.to_owned()), ..deployment::Setup::default() };
        let done =
            deployment::setup(configuration, &[configuration.flow(flow)?], &options, &mut |_| {}).await?;
        statements += done.statements.len();
    }
    Ok(((), format!("{statements} statements for four flows; no role of Irongate's is a superuser")))
}

async fn check(sites: &[Site; 2]) -> anyhow::Result<((), String)> {
    let (mut warnings, mut notes) = (0, 0);
    for (site, flow) in [(&sites[0], FLOW), (&sites[0], "msp"), (&sites[1], "mss")] {
        let findings = deployment::check(&site.configuration, &[site.configuration.flow(flow)?]).await?;
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        if let Some(finding) = findings.iter().find(|finding| finding.severity == Severity::Error) {
            anyhow::bail!("{finding}");
        }
        warnings += count(Severity::Warning);
        notes += count(Severity::Note);
    }
    let counts = [(0, "error"), (warnings, "warning"), (notes, "note")];
    Ok(((), counts.map(|(number, noun)| output::plural(number, noun)).join(", ")))
}

async fn instantiate(main: &Site) -> anyhow::Result<((), String)> {
    let flow = main.configuration.flow(FLOW)?;
    let options = deployment::Instantiate::default();
    let done = deployment::instantiate(&main.configuration, flow, &options, &mut |_| {}).await?;
    let evidence = format!(
        "{} rows of {} tables copied under load, as of {}",
        output::count(done.rows),
        done.tables,
        done.consistent_point
    );
    Ok(((), evidence))
}

async fn start(sites: &mut [Site; 2]) -> anyhow::Result<((), String)> {
    for site in sites.iter_mut() {
        site.manager.start()?;
    }
    for site in sites.iter_mut() {
        site.runs().await?;
    }
    let groups = sites.iter().map(|site| site.groups.len()).sum::<usize>();
    let evidence = format!(
        "a manager at each site; {groups} groups of {FLOW}, msp and mss are RUNNING, linked by TLS 1.3; css waits"
    );
    Ok(((), evidence))
}

/// How long the load is only watched.
const CALM: Duration = Duration::from_secs(4);

/// Nobody disturbs: how long a commit takes until it is seen at the target.
async fn live(load: &mut Load, sites: &mut [Site; 2], heartbeat: &Heartbeat) -> anyhow::Result<((), String)> {
    // What was written during the initial load comes first.
    let begin = Instant::now();
    while heartbeat.latency().is_none() {
        for site in sites.iter_mut() {
            site.is_well()?;
        }
        anyhow::ensure!(begin.elapsed() < PATIENCE, "nothing was seen at the target");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    heartbeat.latency();
    let (begin, before) = (Instant::now(), load.counts().committed.load(Ordering::Relaxed));
    tokio::time::sleep(CALM).await;
    load.is_well()?;
    for site in sites.iter_mut() {
        site.is_well()?;
    }
    let written = load.counts().committed.load(Ordering::Relaxed) - before;
    let rate = written as f64 / begin.elapsed().as_secs_f64();
    let latency = heartbeat.latency().context("nothing was seen at the target")?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let evidence = format!(
        "{rate:.0} transactions/s; from commit to visible at the other site: median {:.0} ms, 95 % {:.0} ms, 99 % {:.0} ms",
        millis(latency.median),
        millis(latency.p95),
        millis(latency.p99)
    );
    Ok(((), evidence))
}

/// Kills of a site: of its manager and of its groups.
fn kills_at(site: &Site) -> u32 {
    site.manager.kills + site.groups.iter().map(|group| group.kills).sum::<u32>()
}

/// The load goes on; groups are killed again and again, alone and a whole site at once, and managers too.
async fn kills(
    servers: &Sites,
    load: &mut Load,
    log: &mut Log,
    sites: &mut [Site; 2],
    length: Duration,
) -> anyhow::Result<((), String)> {
    let random = |from: u64, to: u64| Duration::from_millis(rand::rng().random_range(from..to));
    let begin = Instant::now();
    let (mut large, mut round) = (0, 0);
    while begin.elapsed() < length {
        tokio::time::sleep(random(400, 1_400)).await;
        load.is_well()?;
        log.is_well()?;
        for site in sites.iter_mut() {
            site.is_well()?;
        }
        round += 1;
        let site = &mut sites[round % 2];
        match round % 4 {
            // Extract is killed while the server streams it.
            3 if large == 0 => {
                let write = load::large(&servers.main, DATABASE, load.counts());
                let main = &mut sites[0];
                let extract = main.groups.iter().position(|group| group.name.ends_with("extract"));
                let pause = random(300, 600);
                let kill = async {
                    tokio::time::sleep(pause).await;
                    extract.map_or(Ok(()), |place| main.kill(place))
                };
                let (rows, killed) = tokio::join!(write, kill);
                killed?;
                large = rows?;
            }
            // The whole site but its database: whoever supervises, and everybody else.
            2 => {
                site.manager.kill()?;
                (0..site.groups.len()).try_for_each(|place| site.kill(place))?;
                tokio::time::sleep(random(50, 300)).await;
                site.manager.start()?;
            }
            // A manager alone: the next one takes over what it finds.
            0 => {
                site.manager.kill()?;
                tokio::time::sleep(random(50, 300)).await;
                site.manager.start()?;
            }
            _ => {
                let place = rand::rng().random_range(0..site.groups.len());
                site.kill(place)?;
            }
        }
    }
    for site in sites.iter_mut() {
        site.runs().await?;
    }
    let of = |program: &str| {
        let groups = sites.iter().flat_map(|site| &site.groups);
        groups.filter(|group| group.name.ends_with(program)).map(|group| group.kills).sum::<u32>()
    };
    let managers: u32 = sites.iter().map(|site| site.manager.kills).sum();
    let evidence = format!(
        "kill -9 of Extract {} times, pump {}, collector {}, Replicat {}, manager {managers}; one transaction of {} changes",
        of("extract"),
        of("pump"),
        of("collector"),
        of("replicat"),
        output::count(large.into())
    );
    Ok(((), evidence))
}

/// The load ends, and each site gets everything. Returns the number of transactions.
async fn drain(
    servers: &Sites,
    load: Load,
    log: Log,
    began: Instant,
    sites: &mut [Site; 2],
    heartbeat: &mut Heartbeat,
) -> anyhow::Result<(u64, String)> {
    let counts = load.stop().await?;
    let entries = log.stop(servers.both()).await?;
    let written = began.elapsed().as_secs_f64();
    let begin = Instant::now();
    let arrive =
        async { tokio::try_join!(heartbeat.wait_for_all(PATIENCE), log::arrived(servers.both(), PATIENCE)) };
    tokio::select! {
        result = arrive => result.map(drop),
        error = failure_of(sites) => Err(error),
    }?;
    let behind = begin.elapsed().as_secs_f64();
    let committed = counts.committed.load(Ordering::Relaxed);
    let evidence = format!(
        "{} transactions in {written:.0} s ({} rolled back, {} refused), {} log entries at both sites; caught up with {behind:.1} s after the last",
        output::count(committed),
        counts.rolled_back.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
        output::count(entries)
    );
    Ok((committed, evidence))
}

/// Waits until something has ended that should not.
async fn failure_of(sites: &mut [Site; 2]) -> anyhow::Error {
    loop {
        for site in sites.iter_mut() {
            if let Err(error) = site.is_well() {
                return error;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What one terminal sees of the other site, over the link.
async fn terminal([main, secondary]: &[Site; 2]) -> anyhow::Result<((), String)> {
    let control = Control::between(&main.configuration, main.name, secondary.name)?;
    let begin = Instant::now();
    let info = control.info().await?;
    let took = begin.elapsed();
    let running = info.groups.iter().filter(|group| group.state == State::Running).count();
    anyhow::ensure!(running == secondary.groups.len(), "{running} groups of {} are RUNNING", info.site);
    let never = info.groups.iter().filter(|group| group.flow == "css" && group.starts == 0).count();
    anyhow::ensure!(never == 2, "css was started");
    let evidence = format!(
        "from {}, over TLS: the {running} groups of {} RUNNING, css never started ({:.0} ms)",
        main.name,
        info.site,
        took.as_secs_f64() * 1e3
    );
    Ok(((), evidence))
}

async fn stop(sites: &mut [Site; 2]) -> anyhow::Result<((), String)> {
    for site in sites.iter_mut() {
        site.is_well()?;
        site.manager.stop().await?;
    }
    for site in sites.iter() {
        for group in &site.groups {
            let state = site.status(&group.name)?.map(|status| status.state);
            anyhow::ensure!(state == Some(State::Stopped), "{} did not end in good order", group.name);
        }
    }
    let most = |program: &str| {
        let groups = sites.iter().flat_map(|site| &site.groups);
        let most = groups.filter(|group| group.name.ends_with(program)).map(|group| group.peak_memory).max();
        format!("{program} {}", output::bytes(most.unwrap_or(0)))
    };
    let memory = ["extract", "pump", "collector", "replicat"].map(most).join(", ");
    Ok(((), format!("both managers and all groups ended as asked; peak memory: {memory}")))
}

/// Reads every trail again, at both sites, as irongate trail check does.
async fn trails(sites: &[Site; 2]) -> anyhow::Result<((), String)> {
    let (mut files, mut bytes, mut transactions, mut count) = (0, 0, 0, 0);
    for site in sites {
        for flow in [FLOW, "msp", "mss"] {
            let directory = site.configuration.trail(site.configuration.flow(flow)?);
            let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
            let found =
                tokio::task::spawn_blocking(move || irongate_trail::check(&storage, |_| {})).await??;
            if let Some(finding) = found.findings.first().filter(|_| !found.is_sound()) {
                anyhow::bail!(
                    "the trail of {flow} at {} is damaged: {} at {}: {}",
                    site.name,
                    finding.file,
                    finding.offset,
                    finding.reason
                );
            }
            count += 1;
            files += found.files.len();
            bytes += found.bytes();
            transactions += found.transactions();
        }
    }
    let evidence = format!(
        "{count} trails, {files} files, {}, {} transactions: every checksum and digest is right",
        output::bytes(bytes),
        output::count(transactions)
    );
    Ok(((), evidence))
}

async fn compared(site: &Site) -> anyhow::Result<([Comparison; 2], String)> {
    let found = compare(site, FLOW).await?;
    let log = compare(site, "msp").await?;
    let evidence = format!(
        "{} tables, {} rows: {} differences; the log, {} rows of both sites: {} differences",
        found.tables.len(),
        output::count(found.rows()),
        found.differences,
        output::count(log.rows()),
        log.differences
    );
    Ok(([found, log], evidence))
}

/// Takes the compares into the report, and fails if anything differs.
fn judge(report: &mut Report, [found, log]: [Comparison; 2]) -> anyhow::Result<()> {
    let journal = found.table("stat.journal").context("the journal was not compared")?;
    report.lost_transactions = Some(journal.missing_at_target);
    report.repeated_transactions = Some(journal.missing_at_source);
    let differences = found.differences + log.differences;
    let tables: Vec<_> = found
        .tables
        .iter()
        .chain(&log.tables)
        .filter(|table| table.differences > 0)
        .map(|table| {
            format!(
                "{} ({} missing at the target, {} missing at the source, {} different)",
                table.name, table.missing_at_target, table.missing_at_source, table.different
            )
        })
        .collect();
    (report.compare, report.compare_log) = (Some(found), Some(log));
    if differences > 0 {
        let message = format!("source and target differ in {differences} rows: {}", tables.join(", "));
        return Err(End::Failed(message).into());
    }
    Ok(())
}
