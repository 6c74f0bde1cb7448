//! The kinds of work.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::pair::{Pair, Way};
use crate::processes::{Used, used};
use crate::report::{Goal, Line, Report, median, percentile};

/// Numbers for markers, never used twice.
static NEXT: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1);

pub(crate) fn next() -> i64 {
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Who goes first changes from turn to turn.
pub(crate) fn order(turn: usize) -> [Way; 2] {
    if turn.is_multiple_of(2) { [Way::Native, Way::Ours] } else { [Way::Ours, Way::Native] }
}

pub(crate) fn push(way: Way, value: f64, figures: &mut (Vec<f64>, Vec<f64>)) {
    match way {
        Way::Native => figures.0.push(value),
        Way::Ours => figures.1.push(value),
    }
}

/// Processor seconds and memory of one turn of our way, by process.
fn usage(extract: Used, replicat: Used, sender: Used, backend: Used) -> String {
    format!(
        "CPU s: extract {:.2}, replicat {:.2}, walsender {:.2}, backend {:.2}; peak MiB: {:.0}, {:.0}",
        extract.cpu, replicat.cpu, sender.cpu, backend.cpu, extract.memory, replicat.memory
    )
}

/// A backlog of small transactions, from the slot; and, for ours, from the trail of a standby that was down.
pub(crate) async fn catch_up(
    pair: &Pair,
    transactions: u32,
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut rates = (Vec::new(), Vec::new());
    let mut from_trail = (Vec::new(), Vec::new());
    let mut cpu = (Vec::new(), Vec::new());
    // Each changes a row and inserts one.
    let millions = f64::from(transactions) * 2.0 / 1e6;
    let (mut note, mut native_note, mut trail_note) = (String::new(), String::new(), String::new());
    for turn in 0..turns {
        pair.level().await?;
        pair.pgbench(transactions)?;
        let n = next();
        pair.mark(n).await?;
        for way in order(turn) {
            let start = Instant::now();
            match way {
                Way::Native => {
                    pair.enable_native(true).await?;
                    let seconds = pair.await_marker(way, n, start).await?;
                    let (sender, worker) = pair.native_used().await?;
                    native_note =
                        format!("native CPU s: walsender {:.2}, worker {:.2}", sender.cpu, worker.cpu);
                    pair.enable_native(false).await?;
                    push(way, worker.cpu / millions, &mut cpu);
                    push(way, f64::from(transactions) / seconds, &mut rates);
                }
                Way::Ours => {
                    let ours = pair.start_ours("ours", true, true)?;
                    let seconds = pair.await_marker(way, n, start).await?;
                    let (sender, backend) = pair.ours_backends_used("ours").await?;
                    let (extract, replicat) = pair.stop_ours(ours)?;
                    note = format!("{}; {native_note}", usage(extract, replicat, sender, backend));
                    report.peak(extract, replicat);
                    push(way, (extract.cpu + replicat.cpu) / millions, &mut cpu);
                    push(way, f64::from(transactions) / seconds, &mut rates);
                }
            }
        }
        // The usual disaster: the standby was away, Extract was not.
        pair.level().await?;
        pair.pgbench(transactions)?;
        let n = next();
        pair.mark(n).await?;
        let extract = pair.start_ours("ours", true, false)?;
        wait_for_extract(pair, "ours").await?;
        for way in order(turn) {
            let start = Instant::now();
            let seconds = match way {
                Way::Native => {
                    pair.enable_native(true).await?;
                    let seconds = pair.await_marker(way, n, start).await?;
                    pair.enable_native(false).await?;
                    seconds
                }
                Way::Ours => {
                    let replicat = pair.start_ours("ours", false, true)?;
                    let seconds = pair.await_marker(way, n, start).await?;
                    let (_, backend) = pair.ours_backends_used("ours").await?;
                    let (_, replicat) = pair.stop_ours(replicat)?;
                    trail_note = format!("CPU s: replicat {:.2}, backend {:.2}", replicat.cpu, backend.cpu);
                    report.peak(Used::default(), replicat);
                    seconds
                }
            };
            push(way, f64::from(transactions) / seconds, &mut from_trail);
        }
        pair.stop_ours(extract)?;
    }
    let major = pair.major();
    let line = |work, figures, goal| Line::new(major, work, "transactions/s", figures).goal(goal);
    report.add(line("catch-up from the slot", rates, Goal::AtLeast(1.4)).note(note));
    report.add(line("catch-up, standby was down", from_trail, Goal::AtLeast(3.0)).note(trail_note));
    let cpu = Line::new(major, "CPU of own processes per million rows", "s", cpu);
    report.add(cpu.against("the apply worker").goal(Goal::AtMost(0.5)));
    Ok(())
}

/// Waits until Extract has confirmed everything there is.
pub(crate) async fn wait_for_extract(pair: &Pair, flow: &str) -> anyhow::Result<()> {
    let end = pair.source.scalar("bench", "SELECT pg_current_wal_lsn()::text").await;
    let sql = format!(
        "SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots WHERE slot_name = '{flow}'"
    );
    let start = Instant::now();
    while pair.source.scalar("bench", &sql).await != "true" {
        ensure!(start.elapsed() < Duration::from_secs(300), "Extract does not get to {end}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// One large transaction: how long after its commit it is visible.
pub(crate) async fn bulk(pair: &Pair, rows: u32, turns: usize, report: &mut Report) -> anyhow::Result<()> {
    let insert = format!(
        "INSERT INTO bulk SELECT g, g % 100, 'row number ' || g, now() FROM generate_series(1, {rows}) g"
    );
    let update = "UPDATE bulk SET a = a + 1, b = b || '.'";
    let mut figures = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    let mut note = String::new();
    for turn in 0..turns {
        for way in order(turn) {
            let ours = match way {
                Way::Native => {
                    pair.enable_native(true).await?;
                    None
                }
                Way::Ours => Some(pair.start_ours("ours", true, true)?),
            };
            settle(pair, way).await?;
            for (sql, figures) in [insert.as_str(), update].into_iter().zip(&mut figures) {
                let n = next();
                let sql = format!("BEGIN; {sql}; INSERT INTO marker VALUES ({n}); COMMIT");
                pair.source_client.batch_execute(&sql).await?;
                let seconds = pair.await_marker(way, n, Instant::now()).await?;
                push(way, seconds, figures);
            }
            pair.source_client.batch_execute("TRUNCATE bulk").await?;
            settle(pair, way).await?;
            match ours {
                None => pair.enable_native(false).await?,
                Some(ours) => {
                    let (sender, backend) = pair.ours_backends_used("ours").await?;
                    let (extract, replicat) = pair.stop_ours(ours)?;
                    note = usage(extract, replicat, sender, backend);
                    report.peak(extract, replicat);
                }
            }
        }
    }
    let [inserts, updates] = figures;
    let is_parallel = pair.major() >= 16;
    let line = |what: &str, figures, goal| {
        let work = format!("lag after commit of {rows} {what}");
        Line::new(pair.major(), &work, "s", figures).goal(Goal::AtMost(goal))
    };
    report.add(line("inserts", inserts, if is_parallel { 0.9 } else { 0.35 }).note(note));
    report.add(line("updates", updates, if is_parallel { 0.8 } else { 0.5 }));
    Ok(())
}

/// Waits until a way has nothing left to do.
pub(crate) async fn settle(pair: &Pair, way: Way) -> anyhow::Result<()> {
    let n = next();
    pair.mark(n).await?;
    pair.await_marker(way, n, Instant::now()).await?;
    // The WAL of the other way's turn is decoded and passed over; what is measured begins after it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// 100 transactions a second: from sending COMMIT to visible at the target. The commit's own time, which is the same for
/// both, is shown beside.
pub(crate) async fn latency(
    pair: &Pair,
    span: Duration,
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut all = (Vec::new(), Vec::new());
    let mut commits = Vec::new();
    for turn in 0..turns {
        for way in order(turn) {
            let ours = match way {
                Way::Native => {
                    pair.enable_native(true).await?;
                    None
                }
                Way::Ours => Some(pair.start_ours("ours", true, true)?),
            };
            settle(pair, way).await?;
            let delays = ticks(pair, way, span, &mut commits).await?;
            match way {
                Way::Native => all.0.extend(delays),
                Way::Ours => all.1.extend(delays),
            }
            match ours {
                None => pair.enable_native(false).await?,
                Some(ours) => drop(pair.stop_ours(ours)?),
            }
        }
    }
    let goals =
        [(0.5, "p50", Goal::AtMost(1.3)), (0.95, "p95", Goal::Shown), (0.99, "p99", Goal::AtMost(1.2))];
    for (share, name, goal) in goals {
        let figures = (vec![percentile(&all.0, share)], vec![percentile(&all.1, share)]);
        let work = format!("latency at 100 transactions/s, {name}");
        let note =
            format!("{} samples; the source's own commit {:.2}", all.1.len(), percentile(&commits, share));
        report.add(Line::new(pair.major(), &work, "ms", figures).goal(goal).note(note));
    }
    Ok(())
}

/// Commits a row every 10 ms and waits for it at the target; milliseconds of each, and of each commit alone.
async fn ticks(pair: &Pair, way: Way, span: Duration, commits: &mut Vec<f64>) -> anyhow::Result<Vec<f64>> {
    let target = pair.target.client(way.database()).await;
    let seen = target.prepare("SELECT 1 FROM tick WHERE id = $1").await?;
    let insert = pair.source_client.prepare("INSERT INTO tick VALUES ($1, now())").await?;
    let mut delays = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(10));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let begin = Instant::now();
    while begin.elapsed() < span {
        clock.tick().await;
        let id = next();
        pair.source_client.batch_execute("BEGIN").await?;
        pair.source_client.execute(&insert, &[&id]).await?;
        let sent = Instant::now();
        pair.source_client.batch_execute("COMMIT").await?;
        commits.push(sent.elapsed().as_secs_f64() * 1000.0);
        while target.query_opt(&seen, &[&id]).await?.is_none() {
            ensure!(sent.elapsed() < Duration::from_secs(60), "row {id} has not come");
        }
        delays.push(sent.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(delays)
}

/// Extract with a synced trail beside `pg_recvlogical` to nowhere: decoding is the floor of both.
pub(crate) async fn extract_alone(
    pair: &Pair,
    transactions: u32,
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    pair.make_flow("alone").await?;
    pair.source.batch_in("bench", "SELECT pg_create_logical_replication_slot('nowhere', 'pgoutput')").await;
    let own = pair.source.binaries().program("pg_recvlogical");
    let debian = "/usr/lib/postgresql/15/bin/pg_recvlogical".into();
    let program = [own, debian].into_iter().find(|path: &std::path::PathBuf| path.is_file());
    let program = program.context("pg_recvlogical is not installed")?;
    let mut rates = (Vec::new(), Vec::new());
    let mut note = String::new();
    for turn in 0..turns {
        pair.pgbench(transactions)?;
        let end = pair.source.scalar("bench", "SELECT pg_current_wal_lsn()::text").await;
        for way in order(turn) {
            let start = Instant::now();
            match way {
                Way::Native => {
                    let status = Command::new(&program)
                        .args([
                            "-h",
                            "127.0.0.1",
                            "-p",
                            &pair.source.port().to_string(),
                            "-U",
                            "postgres",
                            "-d",
                            "bench",
                        ])
                        .args(["-S", "nowhere", "--start", "-f", "/dev/null", "-E", &end, "-F", "1"])
                        .args(["-o", "proto_version=3", "-o", "publication_names=all_of_it"])
                        .args(["-o", "streaming=on", "-o", "messages=true"])
                        .stdout(Stdio::null())
                        .status()?;
                    ensure!(status.success(), "pg_recvlogical failed with {status}");
                }
                Way::Ours => {
                    let ours = pair.start_ours("alone", true, false)?;
                    wait_until_trailed(pair, &end).await?;
                    let seconds = start.elapsed();
                    let extract = ours.extract.as_ref().map(|child| used(child.id())).unwrap_or_default();
                    note = format!("extract CPU s {:.2}, peak MiB {:.0}", extract.cpu, extract.memory);
                    pair.stop_ours(ours)?;
                    push(way, f64::from(transactions) / seconds.as_secs_f64(), &mut rates);
                    continue;
                }
            }
            push(way, f64::from(transactions) / start.elapsed().as_secs_f64(), &mut rates);
        }
    }
    ensure!(median(&rates.1) > 0.0, "Extract has done nothing");
    let line = Line::new(pair.major(), "Extract alone", "transactions/s", rates);
    report.add(line.against("pg_recvlogical to nowhere").goal(Goal::AtLeast(0.95)).note(note));
    Ok(())
}

/// Waits until the slot `alone` is confirmed up to `end`: everything before it is durable in the trail.
async fn wait_until_trailed(pair: &Pair, end: &str) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots WHERE slot_name = 'alone'"
    );
    let start = Instant::now();
    let client = pair.source.client("bench").await;
    loop {
        let row = client.query_one(&sql, &[]).await?;
        if row.get::<_, String>(0) == "true" {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(300), "Extract does not get to {end}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
