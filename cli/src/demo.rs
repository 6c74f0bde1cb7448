//! `irongate demo`: two throw-away servers, a live load, processes that are killed, and a full compare in the end.
//!
//! It is a program over the libraries, written as anybody could write it: the configuration is a file, set-up and the
//! initial load are calls, Extract and Replicat are processes of this same binary. What it adds is the world around
//! them: servers, applications that write, and somebody who pulls plugs.

mod binaries;
mod compare;
mod guard;
mod heartbeat;
mod load;
mod process;
mod report;
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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
use load::Load;
use process::Process;
use report::Report;
use server::Server;

const SCHEMA: &str = include_str!("demo/schema.sql");
const SEED: &str = include_str!("demo/seed.sql");
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

/// A directory that goes with the demo. The path is short, because a unix socket's may have 107 bytes only.
fn directory() -> anyhow::Result<tempfile::TempDir> {
    let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() < 50);
    let base = base.unwrap_or_else(|| "/tmp".into());
    let directory = tempfile::Builder::new().prefix("irongate-demo-").tempdir_in(base)?;
    // The user of the servers passes through it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
    Ok(directory)
}

/// The two servers. Fields are dropped in this order: everything that uses them is gone by then.
struct Sites {
    main: Server,
    secondary: Server,
}

impl Sites {
    fn both(&self) -> [&Server; 2] {
        [&self.main, &self.secondary]
    }
}

/// The whole play. Returns what to say about what was kept.
async fn perform(global: &Global, options: &Demo, report: &mut Report) -> anyhow::Result<Option<String>> {
    let binaries = Binaries::find()?;
    let directory = directory().context("cannot make a directory for the demo")?;
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
    judge(report, found)?;
    if !options.keep {
        return Ok(None);
    }
    for group in &mut groups {
        group.start()?;
    }
    keep(directory, &mut sites, groups, guard, &file).map(Some)
}

async fn servers(binaries: &Binaries, base: &Path) -> anyhow::Result<(Sites, String)> {
    let start = |site: &str| {
        let (binaries, directory) = (binaries.clone(), base.join(site));
        tokio::task::spawn_blocking(move || Server::start(&binaries, &directory))
    };
    let (main, secondary) = tokio::join!(start("main"), start("secondary"));
    let sites = Sites { main: main??, secondary: secondary?? };
    Ok((sites, format!("two servers, PostgreSQL {}, wal_level logical", binaries.version)))
}

/// The same schema at both sites; rows at the main site.
async fn database(sites: &Sites) -> anyhow::Result<((), String)> {
    let make = async |server: &Server, sql: &str| -> anyhow::Result<u64> {
        server.client("postgres").await?.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let client = server.client(DATABASE).await?;
        // A server can be built without it.
        let has_xml = client.query_one("SELECT '<a/>'::xml::text", &[]).await.is_ok();
        let sql = sql.replace("@XML@", if has_xml { "xml" } else { "text" });
        client.batch_execute(&sql.replace("@SCALE@", &SCALE.to_string())).await.map_err(said)?;
        let tables = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY ($1)";
        let count: i64 = client.query_one(tables, &[&SCHEMAS.as_slice()]).await?.try_get(0)?;
        Ok(count.unsigned_abs())
    };
    let both = format!("{SCHEMA}\n{SEED}");
    let (tables, _) = tokio::try_join!(make(&sites.main, &both), make(&sites.secondary, SCHEMA))?;
    let rows = "SELECT coalesce(sum(reltuples) FILTER (WHERE reltuples > 0), 0)::int8 FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = ANY ($1)";
    let client = sites.main.client(DATABASE).await?;
    let rows: i64 = client.query_one(rows, &[&SCHEMAS.as_slice()]).await?.try_get(0)?;
    let evidence = format!("{tables} tables, {} rows at the main site", output::count(rows.unsigned_abs()));
    Ok(((), evidence))
}

/// With the server's own words, which the driver's error leaves out.
fn said(error: tokio_postgres::Error) -> anyhow::Error {
    let words = error.as_db_error().map(|error| error.message().to_owned());
    let error = anyhow::Error::from(error);
    match words {
        Some(words) => error.context(words),
        None => error,
    }
}

/// Writes the configuration as an operator would.
fn configure(base: &Path, sites: &Sites) -> anyhow::Result<PathBuf> {
    let password = base.join("password");
    let secret: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect();
    fs::write(&password, secret)?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let address = |name: &str, server: &Server| {
        format!(
            "[databases.config.{name}]\nuri = \"{}\"\npassword_file = \"password\"\nadmin_uri = \"{}\"\n\n",
            server.uri("", DATABASE),
            server.uri("postgres", DATABASE)
        )
    };
    let text = format!(
        "# Made by irongate demo.\nsite = \"secondary\"\n\n\
         [deployment]\nname = \"demo\"\nstate_directory = \"state\"\n\n\
         [sites.main]\ndescription = \"the site that writes\"\n\n[sites.secondary]\ndescription = \"the live standby\"\n\n\
         {}{}[flows.{FLOW}]\ndatabase = \"config\"\nfrom = \"main\"\nto = \"secondary\"\n\
         tables = [\"config.*\", \"stat.*\"]\n\n\
         [flows.{FLOW}.extract]\nfile_size = \"4MiB\"\nretry_delay = \"100ms\"\n\n\
         [flows.{FLOW}.replicat]\nretry_delay = \"100ms\"\n",
        address("main", &sites.main),
        address("secondary", &sites.secondary),
    );
    let file = base.join("irongate.toml");
    fs::write(&file, text)?;
    Ok(file)
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
    let mut evidence = format!(
        "{} transactions ({:.0}/s; {} rolled back, {} refused) caught up with {behind:.1} s after the last",
        output::count(committed),
        committed as f64 / written,
        counts.rolled_back.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
    );
    if let Some(latency) = heartbeat.latency() {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        evidence.push_str(&format!(
            "; commit to visible: median {:.0} ms, 95 % {:.0} ms, worst {:.0} ms",
            millis(latency.median),
            millis(latency.p95),
            millis(latency.worst)
        ));
    }
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

/// Leaves everything running, with a script that ends it.
fn keep(
    directory: tempfile::TempDir,
    sites: &mut Sites,
    groups: Vec<Process>,
    guard: Guard,
    file: &Path,
) -> anyhow::Result<String> {
    let base = directory.keep();
    let psql = [sites.main.psql(DATABASE), sites.secondary.psql(DATABASE)];
    let words = |pids: Vec<u32>| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let processes = words(groups.into_iter().filter_map(|mut group| group.keep()).collect());
    let servers =
        words([&mut sites.main, &mut sites.secondary].into_iter().filter_map(Server::keep).collect());
    let script = base.join("stop");
    // A pid may be a stranger's by then: its command line tells. What the servers hold is thrown away, so they abort.
    let text = format!(
        "#!/bin/sh\n# Ends what irongate demo --keep has left running, and removes it.\n\
         end() {{\n\
         \x20   signal=$1; shift\n\
         \x20   for pid in \"$@\"; do grep -q '{base}' \"/proc/$pid/cmdline\" 2>/dev/null && kill -\"$signal\" \"$pid\"; done\n\
         \x20   for pid in \"$@\"; do\n\
         \x20       i=0; while [ $i -lt 100 ] && kill -0 \"$pid\" 2>/dev/null; do sleep 0.1; i=$((i + 1)); done\n\
         \x20   done\n\
         }}\n\
         end TERM {processes}\nend QUIT {servers}\nrm -rf '{base}'\n",
        base = base.display(),
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    drop(guard);
    let program = std::env::current_exe().unwrap_or_else(|_| "irongate".into());
    Ok(format!(
        "\nKept running. To look at it:\n  {} --config {} info\n  {}\n  {}\nTo end it and remove everything:\n  {}",
        program.display(),
        file.display(),
        psql[0],
        psql[1],
        script.display()
    ))
}
