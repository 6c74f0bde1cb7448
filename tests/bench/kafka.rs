//! A trail that goes through Kafka, beside one that a pump carries over TLS: the same trail, in turn, in one run.
//!
//! Throughput: a trail that is there is carried by processes that are new to it, from the start of the one that sends to the
//! last commit that is durable at the other side. Latency: a trail grows by so many transactions a second, each made durable
//! by itself; from then until it is durable at the other side, as one who follows the trail there sees it. One broker, on the
//! loopback, so a replica's round trip is not in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use irongate_pump::certs;
use irongate_pump::kafka::{TopicSettings, create_topic};
use irongate_tests::{Kafka, KafkaSettings as Cluster, TempDir};
use irongate_trail::{Begins, CommitLsn, Directory, Follower, Item, Source};
use serde_json::{Value as Json, json};

use crate::report::{median, percentile};
use crate::trail::{Live, words, write_trail};
use crate::wan::Running;
use crate::{Options, child, processes};

/// Transactions a second, to measure latency.
const PACE: u64 = 100;
/// Bytes of a row then, one row a transaction.
const SMALL: usize = 200;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pump,
    Kafka,
}

/// What was measured of one way, a turn each.
#[derive(Default)]
struct Figures {
    /// Bytes a second.
    rate: Vec<f64>,
    /// Milliseconds, at these shares.
    latency: [Vec<f64>; 3],
}

const SHARES: [f64; 3] = [0.50, 0.95, 0.99];

/// Measures and prints.
pub(crate) async fn kafka(options: &Options) -> anyhow::Result<()> {
    let cluster = Kafka::start(&Cluster::new()).await;
    let directory = TempDir::new();
    certs::make(&directory.path().join("certs"), "bench", &["main", "secondary"])?;
    let bytes = if options.quick { 50_000_000 } else { 200_000_000 };
    let near = directory.path().join("near");
    write_trail(&near, bytes, words())?;
    let span = Duration::from_secs(if options.quick { 5 } else { 20 });
    let (mut pump, mut through) = (Figures::default(), Figures::default());
    for turn in 0..options.runs {
        for (way, figures) in [(Way::Pump, &mut pump), (Way::Kafka, &mut through)] {
            let world = World::new(&directory, &cluster, way).await?;
            figures.rate.push(world.throughput(&near, bytes).await?);
            let world = World::new(&directory, &cluster, way).await?;
            let latencies = world.latency(span).await?;
            for (share, all) in SHARES.into_iter().zip(&mut figures.latency) {
                all.push(percentile(&latencies, share));
            }
            let last = |all: &[f64]| all.last().copied().unwrap_or(f64::NAN);
            eprintln!(
                "turn {}, {}: {:.0} MB/s, p50 {:.2} ms",
                turn + 1,
                if way == Way::Pump { "pump over TLS" } else { "through Kafka" },
                last(&figures.rate) / 1e6,
                last(&figures.latency[0])
            );
        }
    }
    print(&pump, &through, options.json);
    Ok(())
}

fn print(pump: &Figures, through: &Figures, as_json: bool) {
    // Of the turns' ratios, because a machine's speed drifts within minutes.
    let ratio = |one: &[f64], other: &[f64]| {
        median(&one.iter().zip(other).map(|(one, other)| one / other).collect::<Vec<_>>())
    };
    let rate = ratio(&through.rate, &pump.rate);
    let latency: Vec<f64> =
        through.latency.iter().zip(&pump.latency).map(|(one, other)| ratio(one, other)).collect();
    if as_json {
        let of = |figures: &Figures| -> Json {
            json!({ "bytes_per_second": figures.rate, "latency_ms": { "p50": figures.latency[0], "p95": figures.latency[1], "p99": figures.latency[2] } })
        };
        let document = json!({
            "machine": processes::machine(), "load": processes::load(), "transactions_per_second": PACE,
            "pump": of(pump), "kafka": of(through),
            "ratio": { "rate": rate, "p50": latency[0], "p95": latency[1], "p99": latency[2] },
        });
        println!("{document:#}");
        return;
    }
    println!("machine: {}, load {:.1}", processes::machine(), processes::load());
    println!("one broker; trail to trail, medians; latency at {PACE} transactions a second");
    println!("\n{:<14} {:>10} {:>10} {:>10} {:>10}", "", "MB/s", "p50 ms", "p95 ms", "p99 ms");
    for (name, figures) in [("pump over TLS", pump), ("through Kafka", through)] {
        let [p50, p95, p99] = figures.latency.each_ref().map(|all| median(all));
        println!("{name:<14} {:>10.1} {p50:>10.2} {p95:>10.2} {p99:>10.2}", median(&figures.rate) / 1e6);
    }
    println!("{:<14} {rate:>10.2} {:>10.2} {:>10.2} {:>10.2}", "ratio", latency[0], latency[1], latency[2]);
}

/// One turn of one way.
struct World<'a> {
    run: TempDir,
    certificates: PathBuf,
    cluster: &'a Kafka,
    way: Way,
    /// Of a collector.
    address: String,
    topic: String,
}

impl<'a> World<'a> {
    async fn new(directory: &TempDir, cluster: &'a Kafka, way: Way) -> anyhow::Result<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = free.local_addr()?.to_string();
        drop(free);
        let run = TempDir::new();
        let name = run.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let topic = format!("bench.{}", name.context("a directory has a name")?);
        if way == Way::Kafka {
            let made = TopicSettings { replication: 1, min_in_sync: 1, ..TopicSettings::new(&topic) };
            create_topic(&child::kafka(&cluster.brokers().join(",")), &made).await?;
        }
        Ok(Self { run, certificates: directory.path().join("certs"), cluster, way, address, topic })
    }

    fn far(&self) -> PathBuf {
        self.run.path().join("far").join("csp")
    }

    fn start(&self, arguments: &[&str]) -> anyhow::Result<Running> {
        let child = Command::new(std::env::current_exe()?)
            .arg("child")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running(child))
    }

    /// What writes the trail at the other side.
    fn takes(&self) -> anyhow::Result<Running> {
        let (trails, trail) = (text(&self.run.path().join("far")), text(&self.far()));
        let (state, certificates) = (text(&self.run.path().join("there")), text(&self.certificates));
        let brokers = self.cluster.brokers().join(",");
        match self.way {
            Way::Pump => self.start(&["collector", &self.address, &trails, &state, &certificates]),
            Way::Kafka => self.start(&["kafka-reader", &brokers, &self.topic, &trail, &state]),
        }
    }

    /// What reads the trail here.
    fn sends(&self, near: &Path) -> anyhow::Result<Running> {
        // One that has gone this way before has left its mark.
        let _ = std::fs::remove_file(near.join("reader-pump"));
        let (near, state) = (text(near), text(&self.run.path().join("here")));
        let (brokers, certificates) = (self.cluster.brokers().join(","), text(&self.certificates));
        match self.way {
            Way::Pump => self.start(&["pump", &self.address, &near, &state, &certificates, "0"]),
            Way::Kafka => self.start(&["kafka-pump", &brokers, &self.topic, &near, &state, "0"]),
        }
    }

    /// Bytes a second.
    async fn throughput(&self, near: &Path, bytes: u64) -> anyhow::Result<f64> {
        let goal = irongate_trail::durable(&Directory::new(near))?.context("the trail was written")?;
        let _taking = self.takes()?;
        let begin = Instant::now();
        let _sending = self.sends(near)?;
        let storage = Directory::new(self.far());
        loop {
            let reached = irongate_trail::durable(&storage).ok().flatten();
            if reached.is_some_and(|mark| mark.commit_lsn >= goal.commit_lsn) {
                return Ok(bytes as f64 / begin.elapsed().as_secs_f64());
            }
            ensure!(begin.elapsed() < PATIENCE, "the trail does not arrive: {reached:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Milliseconds of each transaction, but of those that come while the ways are being made.
    async fn latency(&self, span: Duration) -> anyhow::Result<Vec<f64>> {
        let near = self.run.path().join("near");
        let mut live = Live::begin(&near)?;
        let mut fill = words();
        let first = live.append(1, SMALL, &mut fill)?;
        live.sync()?;
        let (_taking, _sending) = (self.takes()?, self.sends(&near)?);
        let begin = Instant::now();
        while irongate_trail::durable(&Directory::new(self.far())).ok().flatten().is_none() {
            ensure!(begin.elapsed() < PATIENCE, "the trail does not begin");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let count = span.as_secs() * PACE;
        let follows = tokio::spawn(follow(self.far(), count));
        let (mut sent, mut next) =
            (HashMap::new(), tokio::time::interval(Duration::from_millis(1000 / PACE)));
        for _ in 0..count {
            next.tick().await;
            let commit = live.append(1, SMALL, &mut fill)?;
            live.sync()?;
            sent.insert(commit, Instant::now());
        }
        let seen = tokio::time::timeout(PATIENCE, follows).await.context("not all has come")???;
        let warm = count / 10;
        let seen = seen.into_iter().filter(|(commit, _)| *commit != first).skip(warm as usize);
        let of = |(commit, at): (CommitLsn, Instant)| {
            let sent: &Instant = sent.get(&commit).context("what came was sent")?;
            Ok(at.saturating_duration_since(*sent).as_secs_f64() * 1e3)
        };
        seen.map(of).collect()
    }
}

/// When each commit was to be seen at the other side, behind the first one.
async fn follow(trail: PathBuf, count: u64) -> anyhow::Result<Vec<(CommitLsn, Instant)>> {
    let mut follower = Follower::open(&trail, Begins::File(1))?;
    let mut seen = Vec::new();
    loop {
        while let Some(item) = follower.next()? {
            if let Item::Commit(commit) = item {
                seen.push((commit.commit_lsn, Instant::now()));
            }
        }
        if seen.len() as u64 > count {
            return Ok(seen);
        }
        follower.wait().await?;
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
