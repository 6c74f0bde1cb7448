//! Crashes under load: of the servers, of tasks and of processes. Nothing is lost, nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use irongate_tests::{Load, Mode, RunningLoad, Settings, Tables, Tier, seed};
use irongate_trail::{Directory, PurgePolicy, purge};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::processes::{Group, hurried};
use super::support::{Flow, PATIENCE, pairs_in_turn};

/// A configuration database in small, and a ledger: a table without a key that only grows, in which each number stands
/// once. What comes twice stands there twice.
const SCHEMA: &str = "
    CREATE TYPE channel AS ENUM ('voice', 'mail', 'chat');
    CREATE TABLE site (id int PRIMARY KEY, name text NOT NULL, props jsonb, changed timestamptz);
    CREATE TABLE agent (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, site int REFERENCES site ON DELETE CASCADE,
                        name varchar(40), channel channel, tags text[], skill numeric(8, 3), notes text);
    CREATE TABLE queue (site int, code text, weight float8, open boolean, PRIMARY KEY (site, code));
    CREATE TABLE setting (id uuid PRIMARY KEY, value text, blob bytea, UNIQUE (id, value));
    CREATE TABLE event (id bigint, day date, what text, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
    CREATE TABLE event0 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE event1 PARTITION OF event FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE remark (at timestamptz, word text, n int); ALTER TABLE remark REPLICA IDENTITY FULL;
    ALTER TABLE setting ALTER value SET STORAGE EXTERNAL;
    CREATE TABLE ledger (n bigint, filler text)";

const LOADED: [&str; 6] =
    ["public.site", "public.agent", "public.queue", "public.setting", "public.event", "public.remark"];

/// Writes the source while things crash, and removes of the trail whatever no reader holds.
struct Writers {
    load: RunningLoad,
    stop: Arc<AtomicBool>,
    ledger: tokio::task::JoinHandle<()>,
    removed: Arc<AtomicUsize>,
    purge: std::thread::JoinHandle<()>,
}

impl Writers {
    async fn start(flow: &Flow, two_phase: bool) -> Self {
        let uri = flow.source.socket_uri("postgres", &flow.database);
        let load = Load::new(&uri).tables(&LOADED).sessions(3).bulk(1500).pause(Duration::from_millis(3));
        let load = if two_phase { load.two_phase() } else { load };
        let stop = Arc::new(AtomicBool::new(false));
        let ledger = tokio::spawn(keep_ledger(uri, Arc::clone(&stop)));
        let (trail, over) = (Directory::new(&flow.extract.trail), Arc::clone(&stop));
        let removed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&removed);
        let purge = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let gone = purge(&trail, &PurgePolicy::default()).unwrap().removed.len();
                count.fetch_add(gone, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { load: load.start().await, stop, ledger, removed, purge }
    }

    /// How many files of the trail were removed up to now.
    fn removed(&self) -> usize {
        self.removed.load(Ordering::Relaxed)
    }

    /// Ends; how many files of the trail were removed meanwhile.
    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.ledger.await.unwrap();
        self.load.stop().await;
        self.purge.join().unwrap();
        self.removed.load(Ordering::Relaxed)
    }
}

/// Appends numbers, of which no two are the same; some transactions are streamed, some rolled back.
async fn keep_ledger(uri: String, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok((client, connection)) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let count = if round % 40 == 0 { 2000 } else { 1 + round % 5 };
            let insert = format!(
                "INSERT INTO public.ledger SELECT nextval('public.ledger_n'), repeat('x', 50) FROM generate_series(1, {count})"
            );
            let end = if round % 7 == 0 { "ROLLBACK" } else { "COMMIT" };
            if client.batch_execute(&format!("BEGIN; {insert}; {end}")).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn prepare(flow: &mut Flow) {
    flow.at_both(SCHEMA).await;
    flow.at_source("CREATE SEQUENCE ledger_n").await;
    flow.extract = hurried(flow.extract.clone());
}

/// What must hold in the end.
async fn nothing_lost_and_nothing_twice(flow: &mut Flow) {
    flow.drain().await;
    let numbers = "SELECT count(*) || ' of ' || count(DISTINCT n) FROM ledger";
    let (source, target) = (flow.source_says(numbers).await, flow.target_says(numbers).await);
    assert_eq!(source, target);
    let (all, different) = target.split_once(" of ").unwrap();
    assert_eq!(all, different, "a number came twice");
    let found = flow.compare(&Tables::All).await;
    assert!(found.total_rows() > 500, "the load did next to nothing: {found}");
    found.assert_same();
}

fn server_settings() -> Settings {
    // What is not yet on the disk at the target is lost there in a crash, with the position; the longer it takes, the more.
    Settings::new().set("logical_decoding_work_mem", "64kB").set("wal_writer_delay", "400ms")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_crashes_again_and_again_is_followed() {
    for pair in pairs_in_turn() {
        let mut flow = Flow::alone("source_crash", pair, &server_settings()).await;
        prepare(&mut flow).await;
        flow.start().await;
        let writers = Writers::start(&flow, false).await;
        for round in 0..Tier::pick(5, 10, 30) {
            writers.load.commits(60, PATIENCE).await;
            if round % 2 == 0 {
                flow.source_server().kill();
            } else {
                flow.source_server().stop(Mode::Immediate).await;
            }
            flow.source_server().start_again().await;
            flow.assert_running().await;
        }
        writers.load.commits(30, PATIENCE).await;
        writers.stop().await;
        nothing_lost_and_nothing_twice(&mut flow).await;
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_again_and_again_is_brought_up_to_date() {
    for pair in pairs_in_turn() {
        let mut flow = Flow::alone("target_crash", pair, &server_settings()).await;
        prepare(&mut flow).await;
        flow.start().await;
        let writers = Writers::start(&flow, false).await;
        let (mut went_back, rounds) = (0, Tier::pick(5, 10, 30));
        // On a busy machine the target's disk may be quick enough for a while that a crash takes nothing back.
        for round in 0..8 * rounds {
            if round >= rounds && went_back > 0 && writers.removed() > 0 {
                break;
            }
            writers.load.commits(60, PATIENCE).await;
            // Now and then long enough for Replicat to learn what is flushed, and for the trail to lose that.
            tokio::time::sleep(Duration::from_millis(if round % 3 == 0 { 1500 } else { 0 })).await;
            let count = "SELECT count(*) FROM ledger";
            let before: u64 = flow.target_says(count).await.parse().unwrap();
            if round % 2 == 0 {
                flow.target_server().kill();
            } else {
                flow.target_server().stop(Mode::Immediate).await;
            }
            flow.target_server().start_again().await;
            let after: u64 = flow.target_says(count).await.parse().unwrap();
            went_back += u64::from(after < before);
            flow.assert_running().await;
        }
        let removed = writers.stop().await;
        assert!(removed > 0, "no file of the trail was removed, so nothing was shown");
        nothing_lost_and_nothing_twice(&mut flow).await;
        assert!(went_back > 0, "no crash took anything back, so nothing was shown");
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_dropped_at_random_go_on_where_they_were() {
    let mut random = StdRng::seed_from_u64(seed());
    for pair in pairs_in_turn() {
        let mut flow = Flow::alone("task_kills", pair, &server_settings()).await;
        prepare(&mut flow).await;
        flow.start().await;
        let writers = Writers::start(&flow, true).await;
        for _ in 0..Tier::pick(8, 30, 200) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
            flow.assert_running().await;
            match random.random_range(0..3) {
                0 => {
                    flow.kill_extract().await;
                    flow.start_extract().await;
                }
                1 => {
                    flow.kill_replicat().await;
                    flow.start_replicat().await;
                }
                _ => {
                    flow.kill_extract().await;
                    flow.kill_replicat().await;
                    flow.start_replicat().await;
                    flow.start_extract().await;
                }
            }
        }
        writers.stop().await;
        nothing_lost_and_nothing_twice(&mut flow).await;
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_killed_at_random_lose_and_repeat_nothing() {
    let mut random = StdRng::seed_from_u64(seed());
    for pair in pairs_in_turn() {
        let mut flow = Flow::alone("process_kills", pair, &server_settings()).await;
        prepare(&mut flow).await;
        flow.set_up().await;
        let groups = Group::of(&flow).map(Group::hurried);
        let mut processes = groups.each_ref().map(Group::start);
        let writers = Writers::start(&flow, true).await;
        let kills = Tier::pick(6, 20, 200);
        for _ in 0..kills {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..600))).await;
            let which = random.random_range(0..2);
            for (process, group) in processes.iter_mut().zip(&groups) {
                let name = group.name();
                assert!(process.is_running(), "{name} ended:\n{}{}", process.stdout(), process.stderr());
            }
            processes[which].kill();
            processes[which] = groups[which].start();
        }
        writers.stop().await;
        nothing_lost_and_nothing_twice(&mut flow).await;
        for process in &mut processes {
            assert!(process.is_running());
            process.kill();
        }
        flow.end().await;
    }
}
