//! The initial load beside a pipe of two `psql` for each table, as many at a time, as somebody who knows how would write
//! it: binary, frozen, without waiting for the disk at each commit, foreign keys silent.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, ensure};
use irongate_deployment::{Configuration, Instantiate, Setup, instantiate, setup};
use irongate_tests::{Server, Settings, TempDir};

use crate::Options;
use crate::report::{Goal, Line, Report};

/// As many sessions side by side, either way.
const PARALLEL: usize = 2;

pub(crate) async fn load(options: &Options) -> anyhow::Result<()> {
    let (tables, rows): (u32, u32) = if options.quick { (10, 100_000) } else { (40, 125_000) };
    let mut report = Report::new(options);
    for &major in &options.majors {
        let settings = Settings::new()
            .on_disk()
            .fsync(true)
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "8GB")
            .set("checkpoint_timeout", "1h")
            .set("max_replication_slots", 20);
        let (source, target) = Server::start_two((major, major), &settings).await;
        source.create_database("bench").await;
        for database in ["pipe", "ours"] {
            target.create_database(database).await;
        }
        let names: Vec<String> = (0..tables).map(|number| format!("load_{number}")).collect();
        for name in &names {
            let create = format!(
                "CREATE TABLE {name} (id bigint PRIMARY KEY, a int, b timestamptz, n numeric(12,2), t text, j jsonb)"
            );
            source.batch_in("bench", &create).await;
            for database in ["pipe", "ours"] {
                target.batch_in(database, &create).await;
            }
            let fill = format!(
                "INSERT INTO {name} SELECT g, g % 1000, '2020-01-01'::timestamptz + g * interval '1 s', g / 7.0,
                     repeat('t', g % 60), jsonb_build_object('n', g, 'ok', g % 2 = 0)
                 FROM generate_series(1, {rows}) g; ANALYZE {name}"
            );
            source.batch_in("bench", &fill).await;
        }
        source.batch_in("bench", "VACUUM").await;
        report.server(major, &source.scalar("bench", "SHOW server_version").await);
        let dir = TempDir::new();
        let configuration = configuration(dir.path(), &source, &target)?;
        let flow = configuration.flow("load").context("the flow")?;
        setup(&configuration, &[flow], &Setup::default(), &mut |_| {}).await?;
        let all = names.join(", ");
        let (mut by_pipe, mut ours) = (Vec::new(), Vec::new());
        for turn in 0..options.runs {
            let mut pipe = async || -> anyhow::Result<()> {
                target.batch_in("pipe", &format!("TRUNCATE {all}")).await;
                target.batch_in("pipe", "CHECKPOINT").await;
                let begin = Instant::now();
                tokio::task::block_in_place(|| pipes(&names, &source, &target))?;
                by_pipe.push(f64::from(tables * rows) / begin.elapsed().as_secs_f64());
                Ok(())
            };
            if turn % 2 == 0 {
                pipe().await?;
            }
            target.batch_in("ours", &format!("TRUNCATE {all}; DELETE FROM irongate.checkpoint")).await;
            target.batch_in("ours", "CHECKPOINT").await;
            let how = Instantiate { parallel: Some(PARALLEL), with_extract: true, ..Instantiate::default() };
            let begin = Instant::now();
            let done = instantiate(&configuration, flow, &how, &mut |_| {}).await?;
            ours.push(f64::from(tables * rows) / begin.elapsed().as_secs_f64());
            ensure!(done.rows == u64::from(tables * rows), "{done:?}");
            if turn % 2 == 1 {
                pipe().await?;
            }
        }
        let sums = format!("SELECT sum(id)::text || ' ' || sum(n)::text FROM {}", names[0]);
        let sum = source.scalar("bench", &sums).await;
        for database in ["pipe", "ours"] {
            ensure!(target.scalar(database, &sums).await == sum, "rows differ in \"{database}\"");
        }
        let work = format!("initial load, {tables} tables of {rows} rows");
        let line = Line::new(major, &work, "rows/s", (by_pipe, ours));
        report.add(line.against("pipes of psql").goal(Goal::AtLeast(0.9)));
    }
    report.print(options.json);
    Ok(())
}

fn configuration(directory: &Path, source: &Server, target: &Server) -> anyhow::Result<Configuration> {
    let uri = |server: &Server, database: &str| server.uri("postgres", database);
    let end = |site: &str, server: &Server, database: &str| {
        let uri = uri(server, database);
        format!("[databases.bench.{site}]\nuri = \"{uri}\"\nadmin_uri = \"{uri}\"\n")
    };
    let text = format!(
        "[deployment]\nname = \"bench\"\nstate_directory = \"state\"\n[sites.a]\n[sites.b]\n{}{}\
         [flows.load]\ndatabase = \"bench\"\nfrom = \"a\"\nto = \"b\"\ntables = [\"public.*\"]\n",
        end("a", source, "bench"),
        end("b", target, "ours")
    );
    Ok(Configuration::parse(&text, &directory.join("irongate.toml"))?)
}

/// Every table through a pipe of its own, so many at a time.
fn pipes(names: &[String], source: &Server, target: &Server) -> anyhow::Result<()> {
    let queue: Mutex<VecDeque<&String>> = Mutex::new(names.iter().collect());
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    std::thread::scope(|scope| {
        let worker = || -> anyhow::Result<()> {
            while let Some(name) = next() {
                pipe(name, &source.socket_uri("postgres", "bench"), &target.socket_uri("postgres", "pipe"))?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a thread has panicked"))??;
        }
        Ok(())
    })
}

fn pipe(name: &str, source: &str, target: &str) -> anyhow::Result<()> {
    let psql = |uri: &str, commands: &[&str]| {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", uri]);
        for command in commands {
            psql.args(["--command", command]);
        }
        psql
    };
    let mut out = psql(source, &[&format!("COPY {name} TO STDOUT (FORMAT binary)")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("psql is needed")?;
    let rows = out.stdout.take().context("the pipe")?;
    let copy = format!("COPY {name} FROM STDIN (FORMAT binary, FREEZE)");
    let truncate = format!("TRUNCATE {name}");
    let commands = [
        "SET synchronous_commit = off",
        "SET session_replication_role = replica",
        "BEGIN",
        &truncate,
        &copy,
        "COMMIT",
    ];
    let into = psql(target, &commands).stdin(rows).status()?;
    ensure!(into.success() && out.wait()?.success(), "the pipe of {name} has failed");
    Ok(())
}
