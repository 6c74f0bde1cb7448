//! Transactions: rolled back in part, interleaved, prepared, empty, very many and very large ones.

use std::time::Duration;

use irongate_apply::{Action, Policy};
use irongate_capture::pgoutput::Streaming;
use irongate_tests::{Settings, Tier, seed, wait_for, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::{Flow, PATIENCE, pairs, pairs_in_turn};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, a text);
    CREATE TABLE history (n bigserial PRIMARY KEY, who int, what text);
    CREATE TABLE keyless (n bigint, who int)";

/// Rows that together are more than the little memory that decoding has.
fn fill(from: i32, to: i32) -> String {
    format!("INSERT INTO t SELECT i, 0, repeat('x', 100) FROM generate_series({from}, {to}) i")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_savepoint_took_back_never_was() {
    for pair in pairs() {
        for streaming in [Streaming::On, Streaming::Off] {
            let mut flow = Flow::new(&format!("savepoints_{streaming:?}").to_lowercase(), pair).await;
            flow.extract.source.streaming = streaming;
            flow.little_decoding_memory().await;
            flow.at_both(TABLES).await;
            flow.start().await;
            for size in [3, 2000] {
                let from = size * 10;
                let part = |number: i32| fill(from + number * size + 1, from + (number + 1) * size);
                flow.each_at_source(&[
                    &format!("BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; {}; COMMIT", part(0), part(1), part(2)),
                    // Nested, released, taken back by the outer one; names that come again.
                    &format!(
                        "BEGIN; SAVEPOINT a; {}; SAVEPOINT b; {}; RELEASE b; SAVEPOINT b; {}; ROLLBACK TO b; RELEASE a;
                         UPDATE t SET n = 1 WHERE id % 7 = 0; COMMIT",
                        part(3),
                        part(4),
                        part(5)
                    ),
                    &format!(
                        "BEGIN; SAVEPOINT a; SAVEPOINT b; {}; RELEASE b; ROLLBACK TO a; {}; DELETE FROM t WHERE id % 11 = 0; COMMIT",
                        part(5),
                        part(5)
                    ),
                    // Nothing is left, or only what was first.
                    &format!("BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; COMMIT", part(6)),
                    &format!("BEGIN; {}; UPDATE t SET n = 2; ROLLBACK", part(6)),
                    &format!("BEGIN; UPDATE t SET n = 3 WHERE id = {from} + 1; SAVEPOINT a; UPDATE t SET n = 4; {}; ROLLBACK TO a; COMMIT", part(6)),
                    &format!("BEGIN; SAVEPOINT a; UPDATE t SET n = n + 1; TRUNCATE t; {}; ROLLBACK TO a; {}; COMMIT", fill(1, 2000), part(7)),
                    // An exception that plpgsql catches is a savepoint.
                    &format!(
                        "DO $$ BEGIN FOR i IN 1..50 LOOP BEGIN INSERT INTO t VALUES (-{from} - i, i, repeat('y', 3000));
                           IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$"
                    ),
                    &format!(
                        "DO $$ BEGIN FOR i IN 1..3000 LOOP BEGIN INSERT INTO t VALUES (-1000000 - {from} - i, i, '');
                           IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$"
                    ),
                ])
                .await;
            }
            flow.drain().await;
            let streamed = "SELECT sum(stream_txns) > 0 FROM pg_stat_replication_slots WHERE slot_name = ";
            let streamed = format!("{streamed}'{}'", flow.extract.source.slot);
            wait_until(PATIENCE, "the statistics", async || {
                flow.source_says(&streamed).await == if streaming == Streaming::On { "t" } else { "f" }
            })
            .await;
            flow.end_same().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_are_streamed_side_by_side_arrive_whole_and_in_order() {
    let seed = seed();
    for pair in pairs() {
        let mut flow = Flow::new("interleaved", pair).await;
        flow.little_decoding_memory().await;
        flow.at_both(TABLES).await;
        flow.start().await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push((flow.session().await, false, 0));
        }
        let mut next = 0;
        for round in 0..Tier::pick(120, 250, 1500) {
            let who = random.random_range(0..sessions.len());
            let (session, open, savepoints) = &mut sessions[who];
            if !*open {
                session.batch_execute("BEGIN").await.unwrap();
                (*open, *savepoints) = (true, 0);
            }
            let sql = match random.random_range(0..12) {
                0..5 => {
                    let count = [1, 20, 500][random.random_range(0..3)];
                    next += count;
                    fill(next - count + 1, next)
                }
                5..7 => format!(
                    "INSERT INTO keyless SELECT i, {who} FROM generate_series({round} * 10, {round} * 10 + 9) i"
                ),
                7 => {
                    *savepoints += 1;
                    format!("SAVEPOINT s{savepoints}")
                }
                8 if *savepoints > 0 => format!("ROLLBACK TO s{}", random.random_range(1..=*savepoints)),
                // Rows of this session alone: others wait for nobody.
                9 => format!(
                    "INSERT INTO history (who, what) SELECT {who}, repeat('h', 500) FROM generate_series(1, 200)"
                ),
                10 => {
                    *open = false;
                    "ROLLBACK".to_owned()
                }
                _ => {
                    *open = false;
                    format!("INSERT INTO history (who, what) VALUES ({who}, 'commit {round}'); COMMIT")
                }
            };
            let done = session.batch_execute(&sql).await;
            // A savepoint that an earlier ROLLBACK TO has taken away.
            if done.is_err() {
                session.batch_execute("ROLLBACK").await.unwrap();
                *open = false;
            }
        }
        for (place, (session, open, _)) in sessions.iter().enumerate() {
            if *open {
                session.batch_execute(if place % 2 == 0 { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
            }
        }
        flow.assert_same().await;
        assert!(flow.target_says("SELECT count(*) FROM t").await.parse::<u32>().unwrap() > 500);
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_arrive_at_their_commit() {
    for pair in pairs() {
        let settings = Settings::new().set("logical_decoding_work_mem", "64kB");
        let mut flow = Flow::alone("prepared", pair, &settings).await;
        flow.at_both(TABLES).await;
        flow.start().await;
        flow.each_at_source(&[
            "BEGIN; INSERT INTO t VALUES (1, 1, 'prepared'); PREPARE TRANSACTION 'one'",
            "INSERT INTO t VALUES (2, 2, 'meanwhile')",
        ])
        .await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT string_agg(a, ',') FROM t").await, "meanwhile");
        // What is prepared waits through an end of Extract, a crash of the server and a transaction that uses its id.
        let large = format!(
            "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; INSERT INTO history (who) VALUES (7); PREPARE TRANSACTION 'large'",
            fill(100, 3000),
            fill(3001, 6000)
        );
        flow.each_at_source(&[
            &large,
            "BEGIN; INSERT INTO t VALUES (3, 3, 'never'); PREPARE TRANSACTION 'never'",
        ])
        .await;
        flow.stop_extract().await;
        flow.start_extract().await;
        flow.drain().await;
        flow.source_server().kill();
        flow.source_server().start_again().await;
        flow.each_at_source(&[
            "INSERT INTO t VALUES (4, 4, 'before')",
            "COMMIT PREPARED 'large'",
            "ROLLBACK PREPARED 'never'",
            "UPDATE t SET n = 5 WHERE id = 100",
            "COMMIT PREPARED 'one'",
            "UPDATE t SET a = a || '!' WHERE id < 5",
            "BEGIN; INSERT INTO t VALUES (8, 8, 'x'); PREPARE TRANSACTION 'one'",
        ])
        .await;
        flow.kill_extract().await;
        flow.each_at_source(&[
            "COMMIT PREPARED 'one'",
            "BEGIN; PREPARE TRANSACTION 'empty'",
            "COMMIT PREPARED 'empty'",
        ])
        .await;
        flow.start_extract().await;
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) FROM t WHERE id >= 100").await, "2901");
        assert_eq!(flow.target_says("SELECT a FROM t WHERE id = 1").await, "prepared!");
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_without_rows_are_passed_over() {
    for pair in pairs() {
        let mut flow = Flow::new("empty", pair).await;
        flow.at_both(TABLES).await;
        flow.at_source("CREATE TABLE unpublished (id int); CREATE TEMP TABLE temporary (id int)").await;
        flow.publication = "t".to_owned();
        flow.start().await;
        for n in 0..20 {
            flow.each_at_source(&[
                "BEGIN; COMMIT",
                "BEGIN; SELECT pg_current_xact_id(); COMMIT",
                "INSERT INTO unpublished VALUES (1)",
                "SELECT pg_logical_emit_message(true, 'app', 'only this')",
                "SELECT pg_logical_emit_message(false, 'app', 'nor this')",
                "UPDATE t SET n = n + 1 WHERE false",
                "BEGIN; SELECT pg_logical_emit_message(false, 'app', 'first'); SAVEPOINT s; INSERT INTO t VALUES (0, 0, ''); ROLLBACK TO s; COMMIT",
                &format!("BEGIN; SELECT pg_logical_emit_message(true, 'app', repeat('m', 100000)); INSERT INTO t VALUES ({n} + 1, 1, 'a'); COMMIT"),
                "CREATE TABLE comes_and_goes (); DROP TABLE comes_and_goes",
                "UPDATE t SET n = n",
            ])
            .await;
        }
        flow.drain().await;
        assert_eq!(flow.target_says("SELECT count(*) || ' ' || sum(n) FROM t").await, "20 20");
        // The status is written now and then.
        for group in [&flow.extract.group, &flow.replicat.group] {
            wait_for(PATIENCE, "logical messages to be counted", async || {
                let counters = flow.status(group).unwrap().counters;
                if counters.messages == 80 { Ok(()) } else { Err(format!("{counters:?}")) }
            })
            .await;
        }
        flow.at_source("DROP TABLE unpublished").await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_small_transactions_keep_their_order() {
    for pair in pairs_in_turn() {
        let count = Tier::pick(10_000, if pair.0 == 15 { 100_000_u32 } else { 30_000 }, 100_000);
        let mut flow = Flow::new("order", pair).await;
        flow.at_source("CREATE TABLE history (n int PRIMARY KEY, state int); CREATE TABLE state (id int PRIMARY KEY, n int)")
            .await;
        // The target counts arrivals.
        flow.at_target(
            "CREATE TABLE history (n int PRIMARY KEY, state int, arrived bigserial);
             CREATE TABLE state (id int PRIMARY KEY, n int)",
        )
        .await;
        flow.at_both("INSERT INTO state SELECT i, 0 FROM generate_series(0, 9) i").await;
        flow.start().await;
        flow.at_source(&format!(
            "DO $$ BEGIN FOR i IN 1..{count} LOOP
               IF i % 2 = 0 THEN UPDATE state SET n = i WHERE id = i % 10; END IF;
               INSERT INTO history VALUES (i, (SELECT n FROM state WHERE id = i % 10));
               COMMIT;
             END LOOP; END $$"
        ))
        .await;
        flow.drain_within(Duration::from_secs(300)).await;
        let disorder = "SELECT count(*) FROM (SELECT n, row_number() OVER (ORDER BY arrived) AS place FROM history) h WHERE n <> place";
        assert_eq!(flow.target_says(disorder).await, "0");
        assert_eq!(flow.target_says("SELECT count(*) FROM history").await, count.to_string());
        let applied = flow.stop_replicat().await.applied;
        assert_eq!(applied.transactions, u64::from(count) + 1);
        for (table, columns) in [("history", "n, state"), ("state", "id, n")] {
            let sum =
                format!("SELECT md5(string_agg(({columns})::text, ',' ORDER BY {columns})) FROM {table}");
            assert_eq!(flow.source_says(&sum).await, flow.target_says(&sum).await);
        }
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_widest_rows_arrive() {
    const COLUMNS: usize = 1600;
    for pair in pairs_in_turn() {
        let mut flow = Flow::new("wide", pair).await;
        let columns: Vec<String> = (2..=COLUMNS).map(|n| format!("c{n} int2")).collect();
        flow.at_both(&format!("CREATE TABLE widest (id int PRIMARY KEY, {})", columns.join(", "))).await;
        let columns: Vec<String> = (2..=150).map(|n| format!("c{n} text")).collect();
        flow.at_both(&format!(
            "CREATE TABLE texts (id int, {}); ALTER TABLE texts REPLICA IDENTITY FULL",
            columns.join(", ")
        ))
        .await;
        flow.start().await;
        let values: Vec<String> = (2..=COLUMNS).map(|n| format!("(i + {n}) % 32000")).collect();
        let texts: Vec<String> = (2..=150).map(|n| format!("repeat('t{n} ', 200 * (i % 2) + {n})")).collect();
        flow.each_at_source(&[
            &format!("INSERT INTO widest SELECT i, {} FROM generate_series(1, 20) i", values.join(", ")),
            "UPDATE widest SET c1600 = NULL, c2 = -1 WHERE id < 10",
            "UPDATE widest SET id = -id WHERE id = 11; DELETE FROM widest WHERE id = 12",
            &format!("INSERT INTO widest SELECT i, {} FROM generate_series(1001, 1600) i", values.join(", ")),
            &format!("INSERT INTO texts SELECT i, {} FROM generate_series(1, 20) i", texts.join(", ")),
            "UPDATE texts SET c150 = NULL, c2 = 'new' WHERE id < 10",
            "DELETE FROM texts WHERE id = 12",
        ])
        .await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_deep_in_a_large_transaction_goes_by_its_policy() {
    for pair in pairs_in_turn() {
        for (place, action) in
            [Action::QueueRow, Action::QueueTransaction, Action::Abend].into_iter().enumerate()
        {
            let mut flow = Flow::new(&format!("deep_{place}"), pair).await;
            flow.little_decoding_memory().await;
            flow.at_both(TABLES).await;
            flow.at_target("ALTER TABLE t ADD CHECK (n <> 13)").await;
            flow.replicat.policies.0.push(Policy { table: None, class: Some("23514".to_owned()), action });
            flow.start().await;
            // Applied in pieces, of which only the last is refused.
            flow.each_at_source(&[
                &fill(1, 3),
                &format!(
                    "BEGIN; {}; UPDATE t SET n = id WHERE id > 9500; INSERT INTO t VALUES (13, 13, 'refused'), (14, 14, 'x');
                     DELETE FROM t WHERE id = 9501; COMMIT",
                    fill(101, 10_000)
                ),
                &fill(10_001, 10_003),
            ])
            .await;
            let count = "SELECT count(*) || ' ' || count(*) FILTER (WHERE id = 14) FROM t";
            if action == Action::Abend {
                let error = flow.replicat_abends().await.to_string();
                assert!(error.contains("\"public.t\"") && error.contains("23514"), "{error}");
                assert_eq!(flow.target_says(count).await, "3 0");
                flow.at_target("ALTER TABLE t DROP CONSTRAINT t_n_check").await;
                flow.start_replicat().await;
                flow.end_same().await;
                continue;
            }
            flow.drain().await;
            let queued = flow.target_says("SELECT count(*) FROM irongate.error_queue").await;
            if action == Action::QueueRow {
                assert_eq!(flow.target_says(count).await, "9906 1");
                assert_eq!(queued, "1");
            } else {
                assert_eq!(flow.target_says(count).await, "6 0");
                assert_eq!(queued, (9_900 + 500 + 2 + 1).to_string());
            }
            // What is in the queue is applied once nothing forbids it.
            flow.at_target("ALTER TABLE t DROP CONSTRAINT t_n_check").await;
            if action == Action::QueueRow {
                irongate_apply::replay(&flow.replicat, None).await.unwrap();
                flow.assert_same().await;
            }
            flow.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_with_ddl_in_its_middle_arrives() {
    for pair in pairs_in_turn() {
        for streaming in [Streaming::On, Streaming::Off] {
            let mut flow = Flow::new(&format!("large_ddl_{streaming:?}").to_lowercase(), pair).await;
            flow.extract.source.streaming = streaming;
            flow.little_decoding_memory().await;
            flow.at_both(TABLES).await;
            flow.start().await;
            flow.at_target("ALTER TABLE t ADD later int DEFAULT 7, ADD dropped_soon text").await;
            let other = flow.session().await;
            other.batch_execute(&format!("BEGIN; {}", fill(50_001, 52_000))).await.unwrap();
            // Another one goes on meanwhile, with the table as it was when it began.
            let session = flow.session().await;
            session.batch_execute(&format!("BEGIN; {}", fill(1, 2000))).await.unwrap();
            other.batch_execute("COMMIT").await.unwrap();
            for sql in [
                "ALTER TABLE t ADD later int DEFAULT 7",
                &fill(2001, 4000),
                "UPDATE t SET later = id WHERE id % 5 = 0",
                "SAVEPOINT s; ALTER TABLE t ADD never int",
                &fill(4001, 5000),
                "ROLLBACK TO s",
                &fill(4001, 6000),
                "ALTER TABLE t ADD dropped_soon text; UPDATE t SET dropped_soon = 'x' WHERE id < 3000",
                "ALTER TABLE t DROP dropped_soon; DELETE FROM t WHERE id % 9 = 0",
                &fill(6001, 7000),
                "COMMIT",
            ] {
                session.batch_execute(sql).await.unwrap();
            }
            flow.drain().await;
            flow.at_target("ALTER TABLE t DROP dropped_soon").await;
            flow.end_same().await;
        }
    }
}
