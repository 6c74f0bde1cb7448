//! Groups applied side by side give what one session gives, whoever is in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use irongate_apply::{Grouping, ReplicatSettings};
use irongate_tests::{Server, Tier};
use irongate_trail::{Relation, ReplicaIdentity};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fast_and_exact::{FEW, Model, change, expected};
use super::support::{Bench, Op, relation, tuple};

const SCHEMA: &str = "
    CREATE TABLE plain (id int PRIMARY KEY, a text, b numeric(10,2));
    CREATE TABLE other_unique (id int PRIMARY KEY, a text UNIQUE, b numeric(10,2));
    CREATE TABLE deferred (id int PRIMARY KEY, a text UNIQUE DEFERRABLE INITIALLY DEFERRED, b numeric(10,2));
    CREATE TABLE parted (id int PRIMARY KEY, a text, b numeric(10,2)) PARTITION BY HASH (id);
    CREATE TABLE parted0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parted1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE spelled (id int PRIMARY KEY, a text, b numeric(10,2));
    CREATE TABLE ledger (n int);
    CREATE TABLE keyless (id int, a text, b numeric(10,2))";

fn tables() -> Vec<Arc<Relation>> {
    let default = |id, name| relation(id, name, ReplicaIdentity::Default, &["id!", "a", "b"]);
    vec![
        default(1, "plain"),
        default(2, "parted"),
        default(3, "other_unique"),
        default(4, "deferred"),
        default(5, "spelled"),
        relation(6, "keyless", ReplicaIdentity::Full, &["id", "a", "b"]),
    ]
}

/// A stream of small transactions with many or few keys, of some of the tables, and what must come of it.
struct Stream {
    random: StdRng,
    bench: Bench,
    tables: Vec<Arc<Relation>>,
    models: Vec<Model>,
    ledger: Arc<Relation>,
    written: usize,
    beside: u64,
}

impl Stream {
    async fn new(major: u32, seed: u64) -> Self {
        println!("seed {seed}, IRONGATE_TEST_SEED={seed} runs it again");
        let tables = tables();
        Self {
            random: StdRng::seed_from_u64(seed),
            bench: Bench::new(major, SCHEMA).await,
            models: vec![Model::new(); tables.len()],
            tables,
            ledger: relation(9, "ledger", ReplicaIdentity::Default, &["n"]),
            written: 0,
            beside: 0,
        }
    }

    /// Writes transactions of the first so many tables into the trail.
    fn write(&mut self, transactions: usize, tables: usize, keys: i32) {
        for _ in 0..transactions {
            let changes = self.random.random_range(1..8);
            let mut ops: Vec<Op> = (0..changes)
                .map(|_| {
                    let table = self.random.random_range(0..tables);
                    change(&mut self.random, &self.tables[table], &mut self.models[table], keys)
                })
                .collect();
            self.written += 1;
            // It tells what came twice.
            ops.push(Op::Insert(Arc::clone(&self.ledger), tuple(&[Some(&self.written.to_string())])));
            self.bench.transaction(&ops);
        }
    }

    async fn apply(&mut self, sessions: usize, changes: usize) {
        let grouping = Grouping { changes, ..Grouping::default() };
        let settings = ReplicatSettings { sessions, grouping, ..self.bench.settings() };
        let totals = self.bench.apply_totals(settings).await.unwrap();
        self.beside += totals.beside;
    }

    /// The same while others run statements at the target, how often is the answer.
    async fn apply_disturbed(&mut self, sql: &[&str], pause: Duration) -> usize {
        let grouping = Grouping { changes: 60, ..Grouping::default() };
        let settings = ReplicatSettings { sessions: 3, grouping, ..self.bench.settings() };
        let is_done = AtomicBool::new(false);
        let work = async {
            let totals = self.bench.apply_totals(settings).await;
            is_done.store(true, Ordering::Relaxed);
            totals.unwrap()
        };
        let (totals, times) = tokio::join!(work, disturb(&self.bench.server, &is_done, sql, pause));
        self.beside += totals.beside;
        times
    }

    async fn assert_as_written(&self, context: &str) {
        for (relation, model) in self.tables.iter().zip(&self.models) {
            let found = self.bench.rows(&relation.name).await;
            assert_eq!(found, expected(model, &relation.name), "{} {context}", relation.name);
        }
        let ledger = "SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || coalesce(max(n), 0) FROM ledger";
        let n = self.written;
        assert_eq!(self.bench.server.scalar("target", ledger).await, format!("{n} {n} {n}"), "{context}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_sessions_apply_is_what_one_applies() {
    for major in Server::majors() {
        let mut stream = Stream::new(major, irongate_tests::seed()).await;
        for round in 0..Tier::pick(12, 24, 200) {
            // Tables of all kinds stop each other; among the first two alone little is in the way.
            let tables = if round % 3 == 0 { stream.tables.len() } else { 2 + round as usize % 4 };
            let keys = if stream.random.random_bool(0.5) { FEW } else { 600 };
            let (sessions, changes) = (stream.random.random_range(2..6), stream.random.random_range(2..150));
            let transactions = stream.random.random_range(20..200);
            stream.write(transactions, tables, keys);
            stream.apply(sessions, changes).await;
            stream.assert_as_written(&format!("after round {round}, {sessions} sessions")).await;
        }
        println!("{major}: {} of {} transactions beside others", stream.beside, stream.written);
        assert!(stream.beside as usize > stream.written / 10, "{}", stream.beside);
    }
}

/// Runs statements of others while there is work.
async fn disturb(server: &Server, is_done: &AtomicBool, sql: &[&str], pause: Duration) -> usize {
    let client = server.client("target").await;
    let mut times = 0;
    loop {
        tokio::time::sleep(pause).await;
        if is_done.load(Ordering::Relaxed) {
            return times;
        }
        for sql in sql {
            client.batch_execute(sql).await.unwrap();
        }
        times += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_a_lock_or_ends_a_session_stops_nothing_for_long() {
    // Who comes first waits for who comes behind him: for the one that asks for the lock, who waits for a session beside.
    const LOCKS: &[&str] = &["BEGIN; LOCK TABLE plain; COMMIT", "BEGIN; LOCK TABLE parted; COMMIT"];
    const KILLS: &[&str] = &["SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_locks \
                              WHERE locktype = 'advisory' AND mode = 'ShareLock'"];
    for major in Server::majors_in_turn() {
        for (what, sql, pause) in [("locks", LOCKS, 5), ("kills", KILLS, 150)] {
            let mut stream = Stream::new(major, irongate_tests::seed()).await;
            let mut times = 0;
            for round in 0..Tier::pick(2, 4, 40) {
                stream.write(800, 2, 600);
                times += stream.apply_disturbed(sql, Duration::from_millis(pause)).await;
                stream.assert_as_written(&format!("with {what} in round {round}")).await;
            }
            println!("{major}: {what} {times} times, {} of {} beside", stream.beside, stream.written);
            assert!(times > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_origins_are_short_one_session_applies_everything() {
    const ORIGINS: &str = "SELECT pg_replication_origin_create('irongate_other' || n) FROM generate_series(1, \
        coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int - 3) n";
    for major in Server::majors_in_turn() {
        let mut stream = Stream::new(major, irongate_tests::seed()).await;
        stream.bench.server.batch_in("target", ORIGINS).await;
        stream.write(200, 2, 600);
        stream.apply(4, 50).await;
        stream.assert_as_written("with one session").await;
        assert_eq!(stream.beside, 0, "{major}");
        // There is room for one, and two are left for others.
        stream.bench.server.batch_in("target", "SELECT pg_replication_origin_drop('irongate_other1')").await;
        stream.write(200, 2, 600);
        stream.apply(4, 50).await;
        stream.assert_as_written("with two sessions").await;
        assert!(stream.beside > 0, "{major}");
        let beside =
            "SELECT string_agg(roname, ' ') FROM pg_replication_origin WHERE roname LIKE 'irongate_f/%'";
        assert_eq!(stream.bench.server.scalar("target", beside).await, "irongate_f/1001");
    }
}
