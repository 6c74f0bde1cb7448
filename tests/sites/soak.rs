//! The reference deployment under load while everything breaks that can: processes of both sites, managers, servers,
//! whole sites and the line between them, at random, again and again. In the end nothing is lost, nothing came twice,
//! nothing goes round, and the reverse flow was never started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use irongate_tests::network::order::{Shape, Way};
use irongate_tests::{
    Load, Mode, Network, Plan, Process, Reference, RunningLoad, SITES, Server, Settings, Tier, seed,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use super::stop;

/// A configuration database in small.
const CONFIG: &str = "
    CREATE TYPE channel AS ENUM ('voice', 'mail', 'chat');
    CREATE TABLE place (id int PRIMARY KEY, name text NOT NULL, props jsonb, changed timestamptz);
    CREATE TABLE agent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, place int REFERENCES place ON DELETE CASCADE,
                        name varchar(40), channel channel, tags text[], skill numeric(8, 3), notes text);
    CREATE TABLE queue (place int, code text, weight float8, open boolean, PRIMARY KEY (place, code));
    CREATE TABLE setting (id uuid PRIMARY KEY, value text, blob bytea, UNIQUE (id, value));
    ALTER TABLE setting ALTER value SET STORAGE EXTERNAL;
    CREATE TABLE event (id bigint, day date, what text, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
    CREATE TABLE event0 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE event1 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
const LOADED: [&str; 5] = ["public.place", "public.agent", "public.queue", "public.setting", "public.event"];

/// A table without a key that only grows, in which each number of a site stands once. What comes twice stands there
/// twice.
const LEDGER: &str = "CREATE TABLE ledger (site text, n bigint, filler text)";

/// Managers that lose no patience, since here things die for no reason.
const MANAGER: &str = "[manager]\nwatch_interval = \"1s\"\nheartbeat_interval = \"1s\"\n\
    [manager.restart]\nattempts = 100000\ndelay = \"100ms\"\nlongest_delay = \"1s\"\n";

/// The processes that run in normal mode, by what their command line ends with.
const PROCESSES: usize = 13;

/// Writes both sites while things break.
struct Writers {
    load: RunningLoad,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writers {
    async fn start(servers: &[Server; 2], seed: u64) -> Self {
        let uri = |site: usize, database| servers[site].socket_uri("postgres", database);
        let load = Load::new(&uri(0, "config")).tables(&LOADED).sessions(2).seed(seed).bulk(1500);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (site, database) in [(0, "config"), (0, "log"), (1, "log")] {
            tasks.push(tokio::spawn(write(uri(site, database), SITES[site], Arc::clone(&stop))));
        }
        Self { load: load.pause(Duration::from_millis(10)).start().await, stop, tasks }
    }

    /// How many transactions were committed.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut committed = self.load.stop().await.committed;
        for task in self.tasks {
            committed += task.await.unwrap();
        }
        committed
    }
}

/// Writes a site's entries and its ledger, whatever becomes of its sessions; says how many transactions were committed.
async fn write(uri: String, site: &'static str, stop: Arc<AtomicBool>) -> u64 {
    let (mut n, mut committed) = (0_u64, 0);
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            // Whether the last one was committed when the session was lost is not known; its number is not used again.
            n += 1;
            let (many, filler) = (if n % 60 == 0 { 1500 } else { 1 + n % 4 }, n % 300);
            let end = if n % 7 == 0 { "ROLLBACK" } else { "COMMIT" };
            let sql = format!(
                "BEGIN;
                 INSERT INTO entry VALUES ('{site}', {n}, repeat('x', {filler}));
                 UPDATE entry SET word = 'changed' WHERE site = '{site}' AND n = {n} - 3 AND n % 5 = 0;
                 DELETE FROM entry WHERE site = '{site}' AND n = {n} - 6 AND n % 7 < 3;
                 INSERT INTO ledger SELECT '{site}', {n} * 10000 + i, 'x' FROM generate_series(1, {many}) i;
                 {end}"
            );
            if client.batch_execute(&sql).await.is_err() {
                break;
            }
            committed += u64::from(n % 7 != 0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    committed
}

/// What can be done to the deployment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    /// A process is killed; if it is the manager, another is started.
    Process,
    /// A server is stopped without a checkpoint and started again.
    Server,
    /// Everything at a site ends at once, the server included, and is started again.
    Power,
    /// The line is cut, one way or both.
    Cut,
}

/// How often each is drawn.
const FAULTS: [(Fault, u32); 4] =
    [(Fault::Process, 80), (Fault::Server, 7), (Fault::Power, 4), (Fault::Cut, 9)];

/// The deployment, and what is done to it.
struct Soak {
    reference: Reference,
    managers: [Process; 2],
    random: StdRng,
    /// How often each process was killed, by site and what it runs.
    kills: BTreeMap<String, u32>,
    faults: BTreeMap<Fault, u32>,
    /// The line is cut until then.
    mend: Option<Instant>,
    /// Ways that the line has not been cut yet.
    ways: Vec<Way>,
    /// How long the line stays cut.
    cut: std::ops::Range<u64>,
}

impl Soak {
    fn site(&self, site: usize) -> &irongate_tests::network::Site {
        self.reference.place(SITES[site]).unwrap()
    }

    /// What runs at the sites of Irongate, by site and what it runs.
    fn processes(&self) -> Vec<(usize, String, u32)> {
        let mut found = Vec::new();
        for site in [0, 1] {
            for (pid, name) in self.site(site).processes() {
                if name == "irongate"
                    && let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline"))
                    && let Some(last) = line.split(|byte| *byte == 0).rev().find(|word| !word.is_empty())
                {
                    found.push((site, format!("{} {}", SITES[site], String::from_utf8_lossy(last)), pid));
                }
            }
        }
        found
    }

    fn manage(&mut self, site: usize) {
        self.managers[site].kill();
        self.managers[site] = self.reference.start(SITES[site], &["manager"]);
    }

    async fn pause(&mut self, milliseconds: std::ops::Range<u64>) {
        let pause = self.random.random_range(milliseconds);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    async fn strike(&mut self) {
        let network = self.reference.network.as_ref().unwrap();
        if self.mend.is_some_and(|mend| mend <= Instant::now()) {
            network.mend(Way::Both);
            self.mend = None;
        }
        let (fault, _) = *FAULTS.choose_weighted(&mut self.random, |(_, weight)| *weight).unwrap();
        let site = self.random.random_range(0..2);
        match fault {
            Fault::Process => {
                let live = self.processes();
                // Rather one that was spared so far.
                let killed = |name: &String| self.kills.get(name).copied().unwrap_or(0);
                let least = live.iter().map(|(_, name, _)| killed(name)).min().unwrap_or(0);
                let spared: Vec<_> = live.iter().filter(|(_, name, _)| killed(name) == least).collect();
                let all: Vec<_> = live.iter().collect();
                let from = if self.random.random_bool(0.5) { spared } else { all };
                let Some((site, name, pid)) = from.choose(&mut self.random).copied().cloned() else { return };
                *self.kills.entry(name.clone()).or_default() += 1;
                let _ = Pid::from_raw(pid as i32).map(|pid| kill_process(pid, Signal::KILL));
                if name.ends_with(" manager") {
                    self.pause(0..3000).await;
                    self.manage(site);
                }
            }
            Fault::Server => {
                self.reference.servers[site].stop(Mode::Immediate).await;
                self.pause(0..3000).await;
                self.reference.servers[site].start_again().await;
            }
            Fault::Power => {
                self.site(site).kill(&["irongate", "postgres"]);
                self.reference.servers[site].kill();
                self.pause(0..3000).await;
                self.reference.servers[site].start_again().await;
                self.manage(site);
            }
            Fault::Cut if self.mend.is_some() => return,
            Fault::Cut => {
                let way = match self.ways.pop() {
                    Some(way) => way,
                    None => *[Way::There, Way::Back, Way::Both].choose(&mut self.random).unwrap(),
                };
                let span = Duration::from_millis(self.random.random_range(self.cut.clone()));
                self.reference.network.as_ref().unwrap().cut(way);
                self.mend = Some(Instant::now() + span);
            }
        }
        *self.faults.entry(fault).or_default() += 1;
    }
}

/// How long things break.
fn span() -> Duration {
    let given = std::env::var("IRONGATE_SOAK_SECONDS").ok();
    let given = given.map(|text| text.parse().expect("IRONGATE_SOAK_SECONDS is a number of seconds"));
    Duration::from_secs(given.unwrap_or(Tier::pick(20, 70, 600)))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sites_stay_the_same_whatever_breaks_on_either_or_between_them() {
    let seed = seed();
    let majors = if Tier::current() == Tier::Full { Server::majors() } else { vec![Server::majors()[0]] };
    for major in majors {
        let name = "two_sites_stay_the_same_whatever_breaks_on_either_or_between_them";
        let Some(network) = Network::start_or_skip(name) else { return };
        let shape = Shape { delay: Duration::from_millis(10), rate: Some(5_000_000), ..Shape::default() };
        network.shape(Way::Both, shape);
        soak(Plan::new(major).at(network), seed).await;
    }
}

async fn soak(plan: Plan, seed: u64) {
    // The longer what is committed at a target is not on its disk, the more a crash takes back.
    let settings = Settings::new().set("logical_decoding_work_mem", "64kB").set("wal_writer_delay", "400ms");
    let plan =
        plan.settings(settings).link("ping_interval = \"1s\"\nsilence = \"4s\"\nconnect_timeout = \"4s\"\n");
    let plan =
        plan.tables(&format!("{CONFIG};{LEDGER}"), LEDGER).extract("file_size = \"1MiB\"\n").more(MANAGER);
    let reference = plan.make().await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.runs().await;
    reference.same(0).await;
    let span = span();
    // A minute where there is time for it.
    let cut = if span > Duration::from_secs(300) { 20_000..60_000 } else { 1000..7000 };
    let mut soak = Soak {
        reference,
        managers,
        random: StdRng::seed_from_u64(seed),
        kills: BTreeMap::new(),
        faults: BTreeMap::new(),
        mend: None,
        ways: vec![Way::There, Way::Back, Way::Both],
        cut,
    };
    let writers = Writers::start(&soak.reference.servers, seed).await;
    let begin = Instant::now();
    while begin.elapsed() < span {
        soak.strike().await;
        soak.pause(50..900).await;
    }
    let committed = writers.stop().await;
    soak.reference.network.as_ref().unwrap().mend(Way::Both);
    println!("{committed} transactions, {:?}, {:?}", soak.faults, soak.kills);

    let Soak { reference, managers, kills, .. } = soak;
    reference.runs().await;
    let [config, log] = reference.same(1).await;
    let enough = span.as_secs() * 5;
    assert!(
        committed > enough && log.total_rows() > enough,
        "the load did next to nothing: {committed}, {log}"
    );
    assert!(config.total_rows() > 500, "{config}");
    let numbers = "SELECT count(*) || ' of ' || count(DISTINCT (site, n)) FROM ledger";
    for (server, database) in [(0, "config"), (1, "config"), (0, "log"), (1, "log")] {
        let said = reference.servers[server].scalar(database, numbers).await;
        let (all, different) = said.split_once(" of ").unwrap();
        assert_eq!(all, different, "a number came twice: {database} at {}", SITES[server]);
    }
    reference.nothing_goes_round().await;
    if span >= Duration::from_secs(60) {
        assert_eq!(kills.len(), PROCESSES, "not everything was killed: {kills:?}");
    }
    for site in SITES {
        let events = reference.events(site).await;
        let bad = events.iter().find(|event| event["kind"] == "abended");
        assert_eq!(bad, None, "a group has abended at {site}");
        let reverse =
            events.iter().find(|event| event["group"].as_str().is_some_and(|group| group.starts_with("css")));
        assert_eq!(reverse, None, "the reverse flow was touched at {site}");
    }
    // What says that a flow was never started lies beside what says how the others are.
    reference.runs().await;
    for manager in managers {
        stop(manager).await;
    }
}
