//! What is applied before it is durable in the trail is committed when it is, and not at all if it never is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_apply::{
    Action, Applier, Policies, Policy, PostgresTarget, ReplicatSettings, Step, Totals, TrailDirectory,
};
use irongate_tests::{Server, Tier};
use irongate_trail::{
    Directory, Relation, ReplicaIdentity, Storage, SyncJob, Timestamp, Writer, WriterOptions,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::support::{Bench, LINEAGE, Op, relation, tuple};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a <> 'bad'))";

fn t() -> Arc<Relation> {
    relation(1, "t", ReplicaIdentity::Default, &["id!", "a"])
}

fn insert(id: usize, a: &str) -> Op {
    Op::Insert(t(), tuple(&[Some(&id.to_string()), Some(a)]))
}

/// Replicat beside the test.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Totals>,
}

fn start(settings: ReplicatSettings) -> Running {
    let (stop, mut stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let (grouping, trail) = (settings.grouping, TrailDirectory(settings.trail.clone()));
        let mut applier = Applier::new(trail, PostgresTarget::new(settings), grouping);
        loop {
            match applier.step().await {
                Ok(Step::Applied) => {}
                Ok(Step::Idle) => tokio::select! {
                    _ = stopped.wait_for(|stopped| *stopped) => return applier.totals().clone(),
                    waited = applier.wait() => waited.unwrap(),
                },
                Err(error) => panic!("{error}"),
            }
        }
    });
    Running { stop, task }
}

impl Running {
    async fn stop(self) -> Totals {
        self.stop.send(true).unwrap();
        self.task.await.unwrap()
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sessions of Replicat that have changed something and neither committed nor rolled back.
async fn is_open(bench: &Bench) -> bool {
    const SQL: &str = "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'idle in transaction' \
                       AND backend_xid IS NOT NULL AND application_name LIKE 'irongate %'";
    bench.server.scalar("target", SQL).await != "0"
}

impl Bench {
    fn tell(&mut self, ops: &[Op]) -> SyncJob {
        self.append(Timestamp::now(), ops);
        let job = self.writer.sync_job().unwrap().unwrap();
        self.writer.tell_early();
        job
    }

    /// Extract dies. With `cut`, so does its machine: what was not durable is gone.
    fn lose_writer(&mut self, cut: bool) {
        let at = self.writer.durable().position;
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(self.trail()));
        let other = self.dir.path().join("nobody's");
        let nobody = Arc::new(Directory::create(&other).unwrap());
        let nobody = Writer::create(nobody, WriterOptions::new("f", LINEAGE), super::support::START).unwrap();
        drop(std::mem::replace(&mut self.writer, nobody));
        std::fs::remove_dir_all(other).unwrap();
        if cut {
            let file = storage.open(&format!("{:09}.trail", at.seqno), true).unwrap();
            file.truncate(at.offset).unwrap();
        }
        let opened = Writer::open(storage, WriterOptions::new("f", LINEAGE), Some(LINEAGE)).unwrap();
        self.writer = opened.0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_applied_at_once_and_seen_when_it_is_durable() {
    for major in Server::majors() {
        let mut bench = Bench::new(major, SCHEMA).await;
        let replicat = start(bench.settings());
        bench.transaction(&[insert(1, "one")]);
        until("the first row", async || bench.rows("t").await.len() == 1).await;
        let job = bench.tell(&[insert(2, "two"), insert(3, "three")]);
        until("the second is applied", async || is_open(&bench).await).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(bench.rows("t").await, ["(1,one)"], "not durable, and there");
        bench.writer.synced(job.run().unwrap()).unwrap();
        until("the others", async || bench.rows("t").await.len() == 3).await;
        assert!(!is_open(&bench).await);
        let totals = replicat.stop().await;
        assert_eq!((totals.early, totals.transactions, totals.refused), (1, 2, 0));
        // What is remembered is the end of it.
        assert_eq!(bench.apply_totals(bench.settings()).await.unwrap().transactions, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_takes_from_the_trail_never_was_at_the_target() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let replicat = start(bench.settings());
    bench.transaction(&[insert(1, "one")]);
    until("the first row", async || bench.rows("t").await.len() == 1).await;
    let job = bench.tell(&[insert(2, "lost")]);
    until("the second is applied", async || is_open(&bench).await).await;
    drop(job);
    bench.lose_writer(true);
    bench.next -= 0x100;
    // Longer, so that the mark comes to where the other one ended, and beyond.
    bench.transaction(&[insert(2, "two"), insert(3, "three"), insert(4, "four")]);
    until("what came instead", async || bench.rows("t").await.len() == 4).await;
    assert_eq!(bench.rows("t").await, ["(1,one)", "(2,two)", "(3,three)", "(4,four)"]);
    assert_eq!(replicat.stop().await.early, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_leaves_no_transaction_open() {
    let newest = *Server::majors().last().unwrap();
    let mut bench = Bench::new(newest, SCHEMA).await;
    let replicat = start(bench.settings());
    bench.transaction(&[insert(1, "one")]);
    until("the first row", async || bench.rows("t").await.len() == 1).await;
    let job = bench.tell(&[insert(2, "two")]);
    until("the second is applied", async || is_open(&bench).await).await;
    const ORIGIN: &str = "SELECT coalesce(pg_replication_origin_progress('irongate_f', false)::text, 'none')";
    let origin = bench.server.scalar("target", ORIGIN).await;
    until("it is taken back", async || !is_open(&bench).await).await;
    assert_eq!(bench.server.scalar("target", ORIGIN).await, origin, "a rollback moved the origin");
    // Nor is it tried again and again.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(!is_open(&bench).await, "again after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.server.batch_in("target", "INSERT INTO t VALUES (9, 'nobody waits')").await;
    bench.writer.synced(job.run().unwrap()).unwrap();
    until("the second row", async || bench.rows("t").await.len() == 3).await;
    assert_eq!(replicat.stop().await.early, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_refuses_meets_its_policy_when_it_is_durable() {
    let mut bench = Bench::new(Server::majors()[0], SCHEMA).await;
    let mut settings = bench.settings();
    settings.policies = Policies(vec![Policy { table: None, class: None, action: Action::QueueRow }]);
    let replicat = start(settings);
    bench.transaction(&[insert(1, "one")]);
    until("the first row", async || bench.rows("t").await.len() == 1).await;
    let job = bench.tell(&[insert(2, "two"), insert(3, "bad")]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    const QUEUED: &str = "SELECT count(*)::text FROM irongate.error_queue";
    assert_eq!(bench.server.scalar("target", QUEUED).await, "0", "it is not durable");
    bench.writer.synced(job.run().unwrap()).unwrap();
    until("the sound row", async || bench.rows("t").await.len() == 2).await;
    assert_eq!(bench.server.scalar("target", QUEUED).await, "1");
    let totals = replicat.stop().await;
    assert_eq!((totals.early, totals.errors), (0, 1));
}

/// Transactions that are told early, synced, cut off by the end of Extract or of its machine, in any order.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_extract_each_transaction_is_there_once() {
    let seed =
        std::env::var("IRONGATE_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("seed {seed}, IRONGATE_TEST_SEED={seed} runs it again");
    let rounds = match Tier::current() {
        Tier::Quick => 40,
        Tier::Ci => 150,
        Tier::Full => 2000,
    };
    for major in Server::majors() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bench = Bench::new(major, SCHEMA).await;
        let replicat = start(bench.settings());
        let (mut expected, mut id, mut losses) = (Vec::new(), 0, 0);
        for round in 0..rounds {
            let first = id;
            let mut rows = Vec::new();
            let ops: Vec<Op> = (0..random.random_range(1..4))
                .map(|_| {
                    id += 1;
                    rows.push(format!("({id},{round})"));
                    insert(id, &round.to_string())
                })
                .collect();
            let job = bench.tell(&ops);
            let pause = random.random_range(0..12);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match random.random_range(0..10) {
                0 => {
                    // Gone, and sent again as another one.
                    drop(job);
                    bench.lose_writer(true);
                    (bench.next, id) = (bench.next - 0x100, first);
                    losses += 1;
                    continue;
                }
                1 => {
                    drop(job);
                    bench.lose_writer(false);
                }
                _ => bench.writer.synced(job.run().unwrap()).unwrap(),
            }
            expected.append(&mut rows);
            if random.random_ratio(1, 3) {
                // Or the next comes behind what is durable and not read yet.
                let seen = expected.len();
                until("what is durable", async || bench.rows("t").await.len() >= seen).await;
            }
        }
        until("everything", async || bench.rows("t").await.len() >= expected.len()).await;
        expected.sort();
        assert_eq!(bench.rows("t").await, expected, "{major}, seed {seed}");
        let totals = replicat.stop().await;
        println!("{major}: {} of {} early, {losses} lost", totals.early, totals.transactions);
        assert!(totals.early > 0);
    }
}
