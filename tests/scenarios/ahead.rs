//! Large transactions applied ahead of their commit: the same comes of it as of plain applying, whatever happens in the
//! middle. In all of them the ledger, a table without a key, tells what came twice.

use std::time::{Duration, Instant};

use irongate_apply::AheadSettings;
use irongate_checkpoint::Counters;
use irongate_tests::{Mode, Settings, Tables, Tier, seed, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use super::support::{Flow, PATIENCE, pairs, pairs_in_turn};

const SCHEMA: &str = "
    CREATE TABLE item (id bigint PRIMARY KEY, n int, word text);
    CREATE TABLE remark (at int, word text, n int); ALTER TABLE remark REPLICA IDENTITY FULL;
    CREATE TABLE ledger (n bigint, filler text);
    CREATE TABLE small (id bigint PRIMARY KEY, n int)";

/// So many rows of [`fill`] surely are enough for a transaction to be begun with.
const ENOUGH: u32 = 6000;

/// Rows for the item table and the ledger, from `first` on: about 300 bytes each in the trail.
fn fill(first: u32, rows: u32) -> String {
    let last = first + rows - 1;
    format!(
        "INSERT INTO item SELECT i, i % 100, repeat('w', 150) FROM generate_series({first}, {last}) i;
         INSERT INTO ledger SELECT i, repeat('f', 100) FROM generate_series({first}, {last}) i"
    )
}

async fn prepare(flow: &mut Flow) {
    flow.at_both(SCHEMA).await;
    flow.little_decoding_memory().await;
    flow.replicat.ahead = AheadSettings { from: Some(256 << 10), ..AheadSettings::default() };
}

async fn started(name: &str, pair: (u32, u32)) -> Flow {
    let mut flow = Flow::new(name, pair).await;
    prepare(&mut flow).await;
    flow.start().await;
    flow
}

fn counters(flow: &Flow) -> Counters {
    flow.status(&flow.replicat.group).map(|status| status.counters).unwrap_or_default()
}

/// Changes that are applied ahead now, as Replicat says it.
fn rows_ahead(flow: &Flow) -> Option<u64> {
    let doing = flow.status(&flow.replicat.group)?.doing;
    doing.split_once(" changes ahead")?.0.rsplit(' ').next()?.parse().ok()
}

async fn until_ahead(flow: &Flow, rows: u64) {
    wait_for(PATIENCE, "changes ahead", async || match rows_ahead(flow) {
        Some(ahead) if ahead >= rows => Ok(()),
        _ => Err(format!("{:?}", flow.status(&flow.replicat.group))),
    })
    .await;
}

/// Replicat tells its counters now and then only.
async fn until_counted(flow: &Flow, is_so: impl Fn(Counters) -> bool) {
    wait_for(PATIENCE, "the counters", async || match counters(flow) {
        counted if is_so(counted) => Ok(()),
        _ => Err(format!("{:?}", flow.status(&flow.replicat.group))),
    })
    .await;
}

async fn until_given_up(flow: &Flow, times: u64) {
    until_counted(flow, |counted| counted.given_up >= times).await;
}

/// What must hold in the end.
async fn same(flow: &mut Flow) {
    flow.drain().await;
    let numbers = "SELECT count(*) || ' of ' || count(DISTINCT n) FROM ledger";
    let (source, target) = (flow.source_says(numbers).await, flow.target_says(numbers).await);
    assert_eq!(source, target);
    let (all, different) = target.split_once(" of ").unwrap();
    assert_eq!(all, different, "a number came twice");
    flow.compare(&Tables::All).await.assert_same();
}

async fn run(session: &Client, sql: &str) {
    let done = session.batch_execute(sql).await;
    done.unwrap_or_else(|error| panic!("{}: {sql}", error.as_db_error().map_or("", |e| e.message())));
}

/// One step of a large transaction: rows that a small one has just made or changed are changed by it.
async fn step(random: &mut StdRng, large: &Client, small: &Client, next: &mut u32, first: u32) {
    let from = *next;
    *next += 400;
    let until = *next - 1;
    run(small, &format!("{}; UPDATE item SET n = n + 1 WHERE id = {from}", fill(from, 100))).await;
    run(small, &format!("INSERT INTO remark SELECT i % 3, 'w', 0 FROM generate_series({from}, {until}) i"))
        .await;
    run(small, &format!("INSERT INTO small VALUES ({from}, 0); UPDATE small SET n = n + 1")).await;
    run(large, &fill(from + 100, 300)).await;
    let sql = match random.random_range(0..6) {
        0 => format!("UPDATE item SET n = n + 7, word = word || 'x' WHERE id BETWEEN {from} AND {until}"),
        1 => format!("DELETE FROM item WHERE id BETWEEN {from} AND {until} AND id % 2 = 0"),
        2 => format!("UPDATE item SET id = id + 100000000 WHERE id BETWEEN {from} AND {}", from + 50),
        // Rows of before, some of them its own; some are gone.
        3 => format!("UPDATE item SET n = n * 2 WHERE id BETWEEN {first} AND {until} AND id % 37 = 0"),
        4 => "UPDATE remark SET n = n + 1 WHERE ctid IN (SELECT ctid FROM remark LIMIT 20)".to_owned(),
        _ => "DELETE FROM remark WHERE ctid IN (SELECT ctid FROM remark LIMIT 10)".to_owned(),
    };
    run(large, &sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seeded_mixes_come_out_as_at_the_source() {
    let mut random = StdRng::seed_from_u64(seed());
    for pair in pairs_in_turn() {
        let mut flow = started("ahead_mixes", pair).await;
        let (large, small) = (flow.session().await, flow.session().await);
        let (mut next, mut tried) = (1, 0);
        for round in 0..Tier::pick(3, 4, 20) {
            let (first, ends) = (next, random.random_range(0..4));
            let undoes = random.random_bool(0.3);
            run(&large, "BEGIN").await;
            run(&large, &fill(next, ENOUGH)).await;
            next += ENOUGH;
            // What must come before it is applied first, and it is well under way.
            until_ahead(&flow, 1000).await;
            for _ in 0..random.random_range(2..8) {
                step(&mut random, &large, &small, &mut next, first).await;
                if random.random_bool(0.5) {
                    run(&large, "SAVEPOINT s").await;
                    step(&mut random, &large, &small, &mut next, first).await;
                    run(&large, if undoes { "ROLLBACK TO s; RELEASE s" } else { "RELEASE s" }).await;
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            }
            tried += 1;
            let commits = round == 0 || ends > 0;
            run(&large, if commits { "COMMIT" } else { "ROLLBACK" }).await;
            run(&small, &format!("UPDATE item SET n = n + 3 WHERE id % 11 = 0; {}", fill(next, 10))).await;
            next += 10;
            same(&mut flow).await;
            if commits && !undoes {
                // A remark that is like others may have been taken by both sides: then one has given way.
                until_counted(&flow, |counted| counted.ahead + counted.given_up >= tried).await;
            }
            println!("{pair:?} round {round}: commits {commits}, undoes {undoes}: {:?}", counters(&flow));
        }
        // Chance may have had all of them given up. One with nothing beside it is not.
        run(&large, "BEGIN").await;
        run(&large, &fill(next, ENOUGH)).await;
        until_ahead(&flow, 1000).await;
        run(&large, "COMMIT").await;
        same(&mut flow).await;
        until_counted(&flow, |counted| counted.ahead > 0).await;
        drop((large, small));
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_commit_is_left_at_the_end_and_later_rows_come_behind_it() {
    for pair in pairs() {
        let mut flow = started("ahead_commit", pair).await;
        let large = flow.session().await;
        run(&large, "BEGIN").await;
        run(&large, &fill(1, ENOUGH)).await;
        until_ahead(&flow, 5000).await;
        assert_eq!(flow.target_says("SELECT count(*) FROM item").await, "0", "it is not committed");
        // The flow goes on beside it.
        flow.drain().await;
        // A change of a key, and rows that no longer are.
        run(&large, "UPDATE item SET id = -id WHERE id % 5 = 0; DELETE FROM item WHERE id % 7 = 0").await;
        run(&large, "COMMIT").await;
        // It is large as well.
        flow.at_source("UPDATE item SET n = -1").await;
        same(&mut flow).await;
        until_counted(&flow, |counted| counted.ahead >= 1 && counted.rows_inserted >= u64::from(2 * ENOUGH))
            .await;
        // What another Replicat finds is behind it.
        flow.stop_replicat().await;
        flow.start_replicat().await;
        same(&mut flow).await;
        drop(large);
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unusual_is_given_up_and_applied_at_the_commit() {
    for pair in pairs_in_turn() {
        let mut flow = started("ahead_unusual", pair).await;
        flow.at_both("CREATE TABLE empty (id int PRIMARY KEY)").await;
        flow.at_source(&format!("ALTER PUBLICATION {} ADD TABLE empty", flow.name)).await;
        let large = flow.session().await;
        let cases = [
            ("rolled back", "ROLLBACK"),
            (
                "savepoint",
                "SAVEPOINT s; INSERT INTO ledger SELECT -i, repeat('s', 500) FROM generate_series(1, 3000) i; ROLLBACK TO s; COMMIT",
            ),
            ("message", "SELECT pg_logical_emit_message(true, 'app', 'word'); COMMIT"),
            ("truncate", "INSERT INTO empty VALUES (1); TRUNCATE empty; COMMIT"),
        ];
        let mut first = 1;
        for (times, (what, end)) in (1..).zip(cases) {
            run(&large, "BEGIN").await;
            run(&large, &fill(first, ENOUGH)).await;
            first += ENOUGH;
            until_ahead(&flow, 1000).await;
            run(&large, end).await;
            same(&mut flow).await;
            // Once it has begun with the transaction the source's commit may be a moment behind.
            until_given_up(&flow, times).await;
            assert_eq!(counters(&flow).ahead, 0, "{what}");
        }
        drop(large);
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_is_applied_ahead_and_both_arrive() {
    for pair in pairs() {
        let mut flow = started("ahead_two", pair).await;
        let (one, other) = (flow.session().await, flow.session().await);
        run(&one, "BEGIN").await;
        run(&other, "BEGIN").await;
        run(&one, &fill(1, ENOUGH)).await;
        run(&other, &fill(100_000, ENOUGH)).await;
        until_ahead(&flow, 1000).await;
        run(&one, &fill(10_000, 2000)).await;
        run(&other, &fill(110_000, 3000)).await;
        run(&other, "COMMIT").await;
        flow.drain().await;
        run(&one, "COMMIT").await;
        same(&mut flow).await;
        until_counted(&flow, |counted| (1..=2).contains(&counted.ahead)).await;
        drop((one, other));
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_wait_for_it() {
    for pair in pairs_in_turn() {
        let mut flow = started("ahead_locks", pair).await;
        let large = flow.session().await;
        // A reader at the target keeps the rows out.
        let reader = flow.target.client(&flow.database).await;
        run(&reader, "BEGIN; LOCK TABLE item IN SHARE MODE").await;
        run(&large, "BEGIN").await;
        run(&large, &fill(1, ENOUGH)).await;
        until_given_up(&flow, 1).await;
        flow.drain().await;
        run(&reader, "COMMIT").await;
        run(&large, "COMMIT").await;
        same(&mut flow).await;
        assert_eq!(counters(&flow).ahead, 0);

        // Somebody at the target wants what it has.
        run(&large, "BEGIN").await;
        run(&large, &fill(10_000, ENOUGH)).await;
        until_ahead(&flow, 1000).await;
        let begin = Instant::now();
        run(&reader, "BEGIN; LOCK TABLE ledger; COMMIT").await;
        println!("{pair:?}: the lock was granted after {:?}", begin.elapsed());
        until_given_up(&flow, 2).await;
        run(&large, "COMMIT").await;
        same(&mut flow).await;

        // A unique index that only the target has lets the two sessions meet.
        flow.at_target("CREATE UNIQUE INDEX ON small (n)").await;
        run(&large, "BEGIN; INSERT INTO small VALUES (1, 77)").await;
        run(&large, &fill(20_000, ENOUGH)).await;
        until_ahead(&flow, 1000).await;
        flow.at_source("INSERT INTO small VALUES (2, 77)").await;
        until_given_up(&flow, 3).await;
        run(&large, "ROLLBACK").await;
        same(&mut flow).await;
        assert_eq!(counters(&flow).ahead, 0);
        drop((large, reader));
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_somebody_watches_is_not_applied_ahead() {
    for pair in pairs() {
        let mut flow = started("ahead_watched", pair).await;
        flow.at_target(
            "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER watch BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION watch();
             ALTER TABLE item ENABLE ALWAYS TRIGGER watch",
        )
        .await;
        let large = flow.session().await;
        run(&large, "BEGIN").await;
        run(&large, &fill(1, ENOUGH)).await;
        until_given_up(&flow, 1).await;
        run(&large, "COMMIT").await;
        same(&mut flow).await;
        assert_eq!(counters(&flow).ahead, 0);
        drop(large);
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_it_and_the_next_replicat_begins_it_anew() {
    for pair in pairs_in_turn() {
        let mut flow = started("ahead_stop", pair).await;
        let large = flow.session().await;
        run(&large, "BEGIN").await;
        run(&large, &fill(1, ENOUGH)).await;
        until_ahead(&flow, 1000).await;
        let begin = Instant::now();
        flow.stop_replicat().await;
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND usename = 'replicat'";
        wait_for(PATIENCE, "the open transaction to go", async || match flow.target_says(open).await {
            none if none == "0" => Ok(()),
            other => Err(other),
        })
        .await;
        flow.replicat.ahead.idle = Duration::from_secs(2);
        flow.start_replicat().await;
        until_ahead(&flow, 1000).await;
        // Nothing more comes of it, though the flow goes on.
        wait_for(PATIENCE, "an end of the patience", async || {
            flow.at_source("UPDATE small SET n = 1").await;
            if counters(&flow).given_up > 0 { Ok(()) } else { Err(String::new()) }
        })
        .await;
        run(&large, "COMMIT").await;
        same(&mut flow).await;
        drop(large);
        flow.end().await;
    }
}

/// A large transaction that goes on while things are killed, and small ones beside it.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_in_the_middle_nothing_is_lost_and_nothing_comes_twice() {
    let mut random = StdRng::seed_from_u64(seed());
    for pair in pairs_in_turn() {
        let mut flow =
            Flow::alone("ahead_killed", pair, &Settings::new().set("wal_writer_delay", "400ms")).await;
        prepare(&mut flow).await;
        flow.start().await;
        let (mut next, mut begun) = (1, 0);
        let mut ahead = 0;
        for round in 0..Tier::pick(6, 9, 60) {
            let (large, small) = (flow.session().await, flow.session().await);
            run(&large, "BEGIN").await;
            run(&large, &fill(next, ENOUGH)).await;
            next += ENOUGH;
            // Mostly in the middle of it, sometimes before it has begun.
            if random.random_bool(0.8) {
                until_ahead(&flow, random.random_range(1..8000)).await;
                begun += 1;
            }
            run(&small, &fill(next, 50)).await;
            next += 50;
            // Sometimes around the commit.
            let commits_first = random.random_bool(0.5);
            if commits_first {
                run(&large, "COMMIT").await;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
            }
            ahead += counters(&flow).ahead;
            match round % 3 {
                0 => {
                    flow.kill_replicat().await;
                    flow.start_replicat().await;
                }
                1 => {
                    flow.kill_extract().await;
                    flow.start_extract().await;
                }
                _ => {
                    flow.target_server().stop(Mode::Immediate).await;
                    flow.target_server().start_again().await;
                }
            }
            if !commits_first {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
                run(&large, &fill(next, 100)).await;
                next += 100;
                run(&large, "COMMIT").await;
            }
            drop((large, small));
            same(&mut flow).await;
            println!("{pair:?} round {round}: {:?}", counters(&flow));
        }
        assert!(begun > 0);
        println!("{pair:?}: begun {begun} times, counted before a kill {ahead}");
        flow.end().await;
    }
}
