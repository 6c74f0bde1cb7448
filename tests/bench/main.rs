//! Irongate beside native logical replication: the same servers, the same work, in turn, in one run.
//!
//! What is compared: native replicates from the source into one database of the target server, Irongate into another, by
//! a slot of its own. Only one of them runs at a time, and they take turns, because a machine's speed drifts within
//! minutes. So the figure is the median of the turns' ratios; the medians of each are shown to give a feeling.
//!
//! With `--wan`, no server: a pump over lines of several lengths. With `--load`: the initial load beside pipes of `psql`.
//! With `--kafka`, no server either: a trail through a broker beside one over TLS.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own that prints its figures")]

mod child;
mod growth;
mod kafka;
mod load;
mod mixed;
mod page;
mod pair;
mod processes;
mod report;
mod trail;
mod wan;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use pair::Pair;
use report::Report;

const USAGE: &str = "usage: bench [--quick] [--json] [--majors 15,17] [--runs N] [--only WORK[,WORK]] [--synchronous-commit]
             [--page FILE]
       bench --wan [--quick] [--json] [--runs N]
       bench --load [--quick] [--json] [--majors 15,17] [--runs N]
       bench --kafka [--quick] [--json] [--runs N]

  --quick    fewer rows and runs, one major: under 3 minutes
  --json     one JSON document on standard output
  --majors   versions of the servers (15,17)
  --runs     turns of each work (5, with --wan, --load and --kafka 3; 1 with --quick)
  --only     some kinds of work: catchup, mixed, bulk, latency, extract, growth
  --page     writes the figures as a page with charts, too
  --synchronous-commit   both appliers commit durably at the target (default: neither, as native's default is)
  --wan      a pump over a line of 5 MB/s at round trips of 0, 10, 50 and 100 ms (needs the right to make network
             namespaces); about 3 minutes a turn, 90 s with --quick
  --load     the initial load beside a pipe of two psql for each table, as many at a time
  --kafka    a trail through Kafka beside one over TLS (needs Java, and the broker that scripts/kafka fetches); a minute a turn";

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    quick: bool,
    json: bool,
    majors: Vec<u32>,
    runs: usize,
    only: Vec<String>,
    page: Option<PathBuf>,
    synchronous_commit: bool,
    wan: bool,
    load: bool,
    kafka: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self {
            quick: false,
            json: false,
            majors: vec![15, 17],
            runs: 0,
            only: Vec::new(),
            page: None,
            synchronous_commit: false,
            wan: false,
            load: false,
            kafka: false,
        };
        let named = arguments.iter().any(|argument| argument == "--majors");
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--wan" => options.wan = true,
                "--load" => options.load = true,
                "--kafka" => options.kafka = true,
                "--synchronous-commit" => options.synchronous_commit = true,
                "--majors" => {
                    let majors = value()?.split(',').map(str::parse).collect::<Result<_, _>>();
                    options.majors = majors.context("--majors takes numbers with commas between")?;
                }
                "--runs" => options.runs = value()?.parse().context("--runs takes a number")?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--page" => options.page = Some(value()?.into()),
                other => bail!("unknown argument \"{other}\""),
            }
        }
        if options.quick && !named {
            options.majors.truncate(1);
        }
        if options.runs == 0 {
            options.runs = match (options.quick, options.wan || options.load || options.kafka) {
                (true, _) => 1,
                (false, true) => 3,
                (false, false) => 5,
            };
        }
        let known = ["catchup", "mixed", "bulk", "latency", "extract", "growth"];
        if !options.only.iter().all(|only| known.contains(&only.as_str())) {
            bail!("--only takes some of {}", known.join(", "));
        }
        Ok(options)
    }

    fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == work)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "child") {
        std::process::exit(child::main(&arguments[1..]).await);
    }
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return;
    }
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench: {error}\n{USAGE}");
            std::process::exit(2);
        }
    };
    if let Err(error) = run(&options).await {
        eprintln!("bench: {error:?}");
        std::process::exit(1);
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    if options.wan {
        return wan::wan(options).await;
    }
    if options.load {
        return load::load(options).await;
    }
    if options.kafka {
        return kafka::kafka(options).await;
    }
    let mut report = Report::new(options);
    for &major in &options.majors {
        let scale = if options.quick { 2 } else { 10 };
        let pair = Pair::start(major, scale, options.synchronous_commit).await?;
        report.server(major, &pair.version().await?);
        if options.wants("catchup") {
            let transactions = if options.quick { 20_000 } else { 100_000 };
            work::catch_up(&pair, transactions, options.runs, &mut report).await?;
        }
        if options.wants("mixed") {
            let transactions = if options.quick { 20_000 } else { 100_000 };
            mixed::mixed(&pair, transactions, options.runs, &mut report).await?;
        }
        if options.wants("bulk") {
            let rows = if options.quick { 100_000 } else { 1_000_000 };
            work::bulk(&pair, rows, options.runs.min(3), &mut report).await?;
        }
        if options.wants("latency") {
            let span = Duration::from_secs(if options.quick { 5 } else { 20 });
            work::latency(&pair, span, options.runs.min(3), &mut report).await?;
        }
        if options.wants("extract") {
            let transactions = if options.quick { 20_000 } else { 100_000 };
            work::extract_alone(&pair, transactions, options.runs, &mut report).await?;
        }
        if options.wants("growth") {
            let most: &[u32] = if options.quick { &[] } else { &[10_000_000] };
            let sizes = [&[10_000, 100_000, 1_000_000], most].concat();
            growth::by_size(&pair, &sizes, options.runs.min(3), &mut report).await?;
            // Last: this flow's markers would meet those of the other.
            growth::by_tables(&pair, &[1, 100, 2000], &mut report).await?;
        }
        report.memory(major);
        // Of each version when it is done: the next takes a quarter of an hour.
        if let Some(path) = &options.page {
            page::write(&report, path)?;
        }
    }
    report.print(options.json);
    Ok(())
}
