//! A pump over a long and narrow line: the same trail at several distances, and a raw TCP stream beside it.
//!
//! The line lets so many bytes a second through, each way, whatever the distance; so the ratio of a distance's rate to that
//! of no distance says what the distance costs. A raw stream with large buffers says what the line itself gives. All rates
//! are of what is carried, from the start of the process that sends to the acknowledgement of the last byte, so the first
//! round trips and TCP's slow start are in them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use irongate_pump::certs;
use irongate_tests::network::order::{Shape, Way};
use irongate_tests::network::{Site, program};
use irongate_tests::{Network, TempDir};
use irongate_trail::Directory;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::{Value as Json, json};

use crate::Options;
use crate::processes;
use crate::report::median;
use crate::trail::{words, write_trail};

/// Bytes a second that the line lets through, each way.
const RATE: u64 = 5_000_000;
/// Bytes that wait at its beginning before packets are dropped: what a router of such a line has.
const QUEUE: u64 = 1 << 20;
/// Round trips, in milliseconds.
const DISTANCES: [u64; 4] = [0, 10, 50, 100];
/// The least ratio at the longest distance.
const GOAL: f64 = 0.90;

/// Rates of one distance, in bytes a second, a turn each.
#[derive(Default)]
struct Figures {
    raw: Vec<f64>,
    pump: Vec<f64>,
    zstd: Vec<f64>,
}

/// Measures and prints.
pub(crate) async fn wan(options: &Options) -> anyhow::Result<()> {
    let network = Network::start().map_err(|reason| anyhow::anyhow!("no line can be made here: {reason}"))?;
    let world = World::new(if options.quick { 50_000_000 } else { 100_000_000 })?;
    let mut all: [Figures; 4] = Default::default();
    for turn in 0..options.runs {
        for (milliseconds, figures) in DISTANCES.into_iter().zip(&mut all) {
            let delay = Duration::from_millis(milliseconds) / 2;
            network.shape(Way::Both, Shape { delay, rate: Some(RATE), queue: QUEUE });
            figures.raw.push(world.raw(&network)?);
            figures.pump.push(world.pump(&network, "random", None).await?);
            figures.zstd.push(world.pump(&network, "words", Some(3)).await?);
            let last = |rates: &[f64]| rates.last().copied().unwrap_or(f64::NAN) / 1e6;
            eprintln!(
                "turn {} at {milliseconds} ms: raw {:.2}, pump {:.2}, zstd {:.2} MB/s",
                turn + 1,
                last(&figures.raw),
                last(&figures.pump),
                last(&figures.zstd)
            );
        }
    }
    print(&all, options.json);
    Ok(())
}

fn print(all: &[Figures; 4], as_json: bool) {
    // Of the turns' ratios, because a machine's speed drifts within minutes.
    let ratio = |rates: &[f64], to: &[f64]| {
        median(&rates.iter().zip(to).map(|(rate, to)| rate / to).collect::<Vec<_>>())
    };
    if as_json {
        let line = |(milliseconds, figures): (u64, &Figures)| -> Json {
            json!({
                "round_trip_ms": milliseconds, "raw": figures.raw, "pump": figures.pump, "pump_zstd": figures.zstd,
                "ratio": ratio(&figures.pump, &all[0].pump), "of_raw": ratio(&figures.pump, &figures.raw),
            })
        };
        let figures: Vec<Json> = DISTANCES.into_iter().zip(all).map(line).collect();
        let document = json!({
            "machine": processes::machine(), "line_bytes_per_second": RATE, "line_queue_bytes": QUEUE,
            "goal_ratio_at_longest": GOAL, "figures": figures,
        });
        println!("{document:#}");
        return;
    }
    println!("machine: {}", processes::machine());
    println!(
        "line: {} MB/s each way, a queue of {QUEUE} bytes; MB/s of what is carried, medians",
        RATE / 1_000_000
    );
    println!(
        "\n{:>10} {:>8} {:>8} {:>14} {:>10} {:>10}  goal",
        "round trip", "raw TCP", "pump", "ratio to 0 ms", "of raw", "with zstd"
    );
    for (milliseconds, figures) in DISTANCES.into_iter().zip(all) {
        println!(
            "{milliseconds:>7} ms {:>8.2} {:>8.2} {:>14.2} {:>10.2} {:>10.2}  {}",
            median(&figures.raw) / 1e6,
            median(&figures.pump) / 1e6,
            ratio(&figures.pump, &all[0].pump),
            ratio(&figures.pump, &figures.raw),
            median(&figures.zstd) / 1e6,
            if Some(&milliseconds) == DISTANCES.last() { format!("≥ {GOAL:.2}") } else { String::new() }
        );
    }
}

/// Trails and certificates.
struct World {
    directory: TempDir,
    /// Bytes of each trail.
    bytes: u64,
}

/// A process that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    fn new(bytes: u64) -> anyhow::Result<Self> {
        let world = Self { directory: TempDir::new(), bytes };
        certs::make(&world.directory.path().join("certs"), "bench", &["main", "secondary"])?;
        // What no compression makes shorter: the line carries it as it is.
        let mut random = StdRng::seed_from_u64(1);
        write_trail(&world.near("random"), bytes, |value| random.fill_bytes(value))?;
        write_trail(&world.near("words"), bytes, words())?;
        Ok(world)
    }

    fn near(&self, name: &str) -> PathBuf {
        self.directory.path().join("near").join(name)
    }

    /// Bytes a second of a raw stream.
    fn raw(&self, network: &Network) -> anyhow::Result<f64> {
        let (here, there) = (network.site(0), network.site(1));
        let address = format!("{}:7419", there.address());
        let bytes = self.bytes / 2;
        let _receiver = start(there, &program("stream"), &["receive", &address])?;
        let mut command = Command::new(program("stream"));
        command.args(["send", &address, &bytes.to_string()]);
        let output = here.enter(&command).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "a raw stream failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(bytes as f64 / said.trim().parse::<f64>().context("a stream prints seconds")?)
    }

    /// Bytes of a trail a second, carried by a pump and a collector that are new to it.
    async fn pump(&self, network: &Network, name: &str, level: Option<u32>) -> anyhow::Result<f64> {
        let run = TempDir::new();
        let near = self.near(name);
        // A pump that has gone this way before has left its mark.
        let _ = std::fs::remove_file(near.join("reader-pump"));
        let far = run.path().join("far");
        let address = format!("{}:7420", network.site(1).address());
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (certs, state) = (text(&self.directory.path().join("certs")), run.path().join("state"));
        let bench = std::env::current_exe()?;
        let (trails, there) = (text(&far), text(&state.join("there")));
        let _collector =
            start(network.site(1), &bench, &["child", "collector", &address, &trails, &there, &certs])?;
        let (near_text, here) = (text(&near), text(&state.join("here")));
        let level = level.unwrap_or(0).to_string();
        let begin = Instant::now();
        let _pump =
            start(network.site(0), &bench, &["child", "pump", &address, &near_text, &here, &certs, &level])?;
        let goal = irongate_trail::durable(&Directory::new(&near))?.context("the trail was written")?;
        let storage = Directory::new(far.join("csp"));
        loop {
            let reached = irongate_trail::durable(&storage).ok().flatten();
            if reached.is_some_and(|mark| mark.commit_lsn >= goal.commit_lsn) {
                return Ok(self.bytes as f64 / begin.elapsed().as_secs_f64());
            }
            ensure!(begin.elapsed() < Duration::from_secs(300), "the trail does not arrive: {reached:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn start(site: &Site, program: &Path, arguments: &[&str]) -> anyhow::Result<Running> {
    let mut command = Command::new(program);
    command.args(arguments);
    let child = site.enter(&command).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    Ok(Running(child))
}
