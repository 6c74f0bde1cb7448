//! Both directions at once: what came from the other side never goes back to it.

use irongate_tests::{Load, Tier};

use super::support::{Flow, PATIENCE, pairs, pairs_in_turn};

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_the_other_side_does_not_go_back() {
    for pair in pairs() {
        let mut there = Flow::new("two_way", pair).await;
        let mut back = there.reverse();
        // A row that went round would come again, and a table without a key would show it.
        there
            .at_both(
                "CREATE TABLE t (site text, id int, n int, a text, PRIMARY KEY (site, id));
                 CREATE TABLE log (site text, id int, a text)",
            )
            .await;
        for flow in [&there, &back] {
            flow.little_decoding_memory().await;
        }
        there.start().await;
        back.start().await;
        for round in 0..3 {
            for (flow, site) in [(&there, "main"), (&back, "other")] {
                let from = round * 10_000;
                flow.each_at_source(&[
                    &format!("INSERT INTO t SELECT '{site}', {from} + i, 0, 'a' FROM generate_series(1, 50) i"),
                    &format!("INSERT INTO log SELECT '{site}', {from} + i, 'a' FROM generate_series(1, 50) i"),
                    // Streamed before its commit, in the direction that it goes and in the one that it must not.
                    &format!("INSERT INTO log SELECT '{site}', {from} + i, repeat('x', 100) FROM generate_series(100, 3000) i"),
                    &format!("UPDATE t SET n = n + 1 WHERE site = '{site}'; DELETE FROM t WHERE site = '{site}' AND id = {from} + 2"),
                    &format!("BEGIN; SAVEPOINT a; INSERT INTO log VALUES ('{site}', 0, 'never'); ROLLBACK TO a; INSERT INTO log VALUES ('{site}', 0, 'once'); COMMIT"),
                    &format!("UPDATE t SET id = -id WHERE site = '{site}' AND id = {from} + 3"),
                ])
                .await;
            }
            if round == 1 {
                // Place and filter survive a kill.
                there.kill_extract().await;
                back.kill_replicat().await;
                there.start_extract().await;
                back.start_replicat().await;
            }
        }
        there.drain().await;
        back.drain().await;
        there.drain().await;
        there.assert_same().await;
        for flow in [&there, &back] {
            assert_eq!(
                flow.source_says("SELECT count(*) FROM log").await,
                (2 * 3 * (50 + 2901 + 1)).to_string()
            );
        }
        // Each direction carried its own transactions and the marks of draining, no more.
        let (forth, marks) = (there.stop_replicat().await.applied.transactions, 3);
        assert_eq!(forth, 3 * 6 + marks);
        assert_eq!(back.stop_replicat().await.applied.transactions, 3 * 6 + 1);
        back.end().await;
        there.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_that_empties_a_table_first_does_not_go_back() {
    for pair in pairs() {
        let mut there = Flow::new("two_way_truncate", pair).await;
        let mut back = there.reverse();
        there.at_both("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE log (id int, a text)").await;
        for flow in [&there, &back] {
            flow.little_decoding_memory().await;
        }
        there.start().await;
        back.start().await;
        // Behind the commit in one group, as the first in a transaction of its own, and behind nothing that is applied.
        let rows = "SELECT i, repeat('x', 100) FROM generate_series(1, 9000) i";
        there
            .each_at_source(&[
                "INSERT INTO t VALUES (1, 'a')",
                &format!("BEGIN; TRUNCATE t; INSERT INTO t {rows}; COMMIT"),
                &format!("BEGIN; TRUNCATE log; INSERT INTO log {rows}; COMMIT"),
                &format!("BEGIN; TRUNCATE t, log; INSERT INTO log {rows}; INSERT INTO t {rows}; COMMIT"),
            ])
            .await;
        there.drain().await;
        back.drain().await;
        there.drain().await;
        there.assert_same().await;
        assert_eq!(there.source_says("SELECT count(*) FROM log").await, "9000");
        // Nothing but the mark of its draining.
        assert_eq!(back.stop_replicat().await.applied.transactions, 1);
        back.end().await;
        there.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_loads_in_both_directions_end_with_the_same_rows() {
    for pair in pairs_in_turn() {
        let mut there = Flow::new("two_way_load", pair).await;
        let mut back = there.reverse();
        let table =
            |name: &str| format!("CREATE TABLE {name} (id uuid PRIMARY KEY, n int, a text, t timestamptz)");
        there.at_both(&format!("{}; {}", table("of_main"), table("of_other"))).await;
        for flow in [&there, &back] {
            flow.little_decoding_memory().await;
        }
        there.start().await;
        back.start().await;
        let uri = |flow: &Flow| flow.source.socket_uri("postgres", &flow.database);
        let load = |flow: &Flow, table: &str| Load::new(&uri(flow)).tables(&[table]).sessions(2).bulk(1000);
        let (main, other) =
            (load(&there, "public.of_main").start().await, load(&back, "public.of_other").start().await);
        let commits = Tier::pick(150, 400, 3000);
        main.commits(commits, PATIENCE).await;
        other.commits(commits, PATIENCE).await;
        main.stop().await;
        other.stop().await;
        there.drain().await;
        back.drain().await;
        there.assert_same().await;
        back.end().await;
        there.end().await;
    }
}
