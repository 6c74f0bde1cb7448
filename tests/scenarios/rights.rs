//! What Replicat's role may not do stops the flow by name, and the flow goes on when it may.

use irongate_tests::wait_until;

use super::support::{Flow, PATIENCE, pairs, pairs_in_turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_can_be_given() {
    for pair in pairs() {
        let mut flow = Flow::new("rights", pair).await;
        flow.at_both(
            "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE guarded (id int PRIMARY KEY, a text);
             CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int PRIMARY KEY)",
        )
        .await;
        flow.at_target(
            "REVOKE UPDATE ON t FROM replicat; REVOKE USAGE ON SCHEMA hidden FROM replicat;
             ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
        )
        .await;
        flow.at_both("INSERT INTO t VALUES (1, 'a')").await;
        flow.start().await;
        for (sql, table, remedy) in [
            ("UPDATE t SET a = 'b'", "public.t", "GRANT UPDATE ON t TO replicat"),
            ("INSERT INTO hidden.t VALUES (1)", "hidden.t", "GRANT USAGE ON SCHEMA hidden TO replicat"),
            (
                "INSERT INTO guarded VALUES (1, 'a')",
                "public.guarded",
                "ALTER TABLE guarded DISABLE ROW LEVEL SECURITY",
            ),
        ] {
            flow.at_source(sql).await;
            let error = flow.replicat_abends().await;
            assert!(error.to_string().contains(table), "{table} is not in: {error}");
            assert!(error.to_string().contains("42501"), "{error}");
            assert!(error.hint().is_some());
            flow.at_target(remedy).await;
            flow.start_replicat().await;
            flow.assert_same().await;
        }
        // Rows that a policy hides are seen by a role that may bypass it.
        flow.at_target("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER ROLE replicat BYPASSRLS").await;
        flow.stop_replicat().await;
        flow.start_replicat().await;
        flow.each_at_source(&[
            "INSERT INTO guarded SELECT i, 'x' FROM generate_series(10, 700) i",
            "UPDATE guarded SET a = 'y' WHERE id < 20; DELETE FROM guarded WHERE id = 1",
        ])
        .await;
        flow.assert_same().await;
        flow.at_target("ALTER ROLE replicat NOBYPASSRLS").await;
        flow.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_somebody_ends_or_holds_up_are_no_reason_to_stop() {
    for pair in pairs_in_turn() {
        let mut flow = Flow::new("held_up", pair).await;
        flow.at_both("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
        flow.start().await;
        flow.at_source("INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i").await;
        flow.drain().await;
        // Rows that somebody else has locked are waited for. Replicat even loses a deadlock without losing its place: it
        // looks for one some time after it began to wait, and by then there is one unless this machine sleeps.
        let patience =
            format!("ALTER ROLE replicat IN DATABASE {} SET deadlock_timeout = '4s'", flow.database);
        flow.at_target(&patience).await;
        flow.stop_replicat().await;
        flow.start_replicat().await;
        let mut attempts = 0;
        loop {
            let other = flow.target.client(&flow.database).await;
            other
                .batch_execute("SET deadlock_timeout = '20s'; BEGIN; UPDATE t SET n = n WHERE id = 50")
                .await
                .unwrap();
            flow.at_source("UPDATE t SET n = n + 1").await;
            wait_until(PATIENCE, "Replicat to wait", async || {
                let waiting = format!(
                    "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = '{}' AND wait_event_type = 'Lock' AND usename = 'replicat'",
                    flow.database
                );
                flow.target_says(&waiting).await == "1"
            })
            .await;
            let gives_way = other.batch_execute("UPDATE t SET n = n WHERE id = 1").await.is_ok();
            other.batch_execute("ROLLBACK").await.unwrap();
            flow.drain().await;
            attempts += 1;
            assert!(gives_way || attempts < 5, "Replicat never lost");
            if gives_way {
                break;
            }
        }
        for round in 0..5 {
            flow.at_source(&format!("UPDATE t SET n = {round}")).await;
            let end = |user: &str, slot: &str| {
                format!(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = '{}' AND usename = '{user}' {slot}",
                    flow.database
                )
            };
            flow.source_says(&end("extract", "")).await;
            flow.target_says(&end("replicat", "")).await;
            flow.at_source("UPDATE t SET n = n + 1").await;
            if round % 2 == 0 {
                flow.drain().await;
            }
        }
        flow.end_same().await;
    }
}
