//! Single tables copied anew: the others stay as they are, Extract goes on, Replicat waits, and nothing is missed or done
//! twice, however often the command is killed.

use irongate_tests::{Process, Server, wait_until};

use super::deployment::{Deployment, PATIENCE, Writer, stop};

const SMALL: &str = "[flows.csp.instantiate]\nchunk_size = \"64KiB\"\nparallel = 2\n";

/// Writes all tables.
fn changes(n: i32) -> String {
    format!(
        "INSERT INTO person VALUES ({n}, 'new {n}'); INSERT INTO note VALUES ({n}, 1, 'new');
         UPDATE person SET name = 'changed {n}' WHERE id = {n} % 1000; DELETE FROM note WHERE person = {n} % 997;
         INSERT INTO big VALUES ({n}, repeat('x', 100)); UPDATE big SET t = t || 'y' WHERE id = {n} % 3000"
    )
}
/// What the other tables' rows lie in: a copy would have moved them.
const OTHERS: &str =
    "SELECT md5(string_agg(ctid::text || xmin::text || note::text, ',' ORDER BY ctid)) FROM note";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_copied_anew_beside_a_stream_that_goes_on() {
    for major in Server::majors() {
        let deployment = Deployment::new(major, SMALL).await;
        for server in [&deployment.source, &deployment.target] {
            server.batch_in("app", "CREATE TABLE big (id int PRIMARY KEY, t text)").await;
        }
        let fill = "INSERT INTO big SELECT n, repeat(md5(n::text), 5) FROM generate_series(1, 3000) n";
        deployment.source.batch_in("app", fill).await;
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        let writer = Writer::start(&deployment.source, changes).await;
        deployment.add(5_000).await;
        deployment.arrived(5_000).await;
        // While Replicat runs, nothing is emptied below it.
        let again = [
            "instantiate",
            "csp",
            "--table",
            "public.big",
            "--table",
            "public.person",
            "--rate-limit",
            "150KiB",
        ];
        let said = deployment.expect(3, &again).await.stderr;
        assert!(said.contains("csp-replicat") && said.contains("irongate stop csp-replicat"), "{said}");
        stop(replicat).await;
        for (table, words) in [("public.nothing", "has no table public.nothing"), ("odd", "schema")] {
            let code = if table == "odd" { 2 } else { 3 };
            let said = deployment.expect(code, &["instantiate", "csp", "--table", table]).await.stderr;
            assert!(said.contains(words), "{said}");
        }
        // Damage that nobody can put right row by row; another table refers to one of the two.
        let spoil = "SET session_replication_role = replica; UPDATE big SET t = 'spoilt'; DELETE FROM person WHERE id % 3 = 0;
             INSERT INTO person VALUES (-1, 'a stranger')";
        deployment.target.batch_in("app", spoil).await;
        let others = deployment.target.scalar("app", OTHERS).await;
        let confirmed =
            "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots
             WHERE slot_name LIKE 'irongate%' AND NOT temporary";
        let mut waiting = None;
        for kill in 0..3 {
            let mut process = Process::irongate(deployment.path(), &again);
            let chunks = format!("SELECT count(*) > {} FROM irongate.load_chunk", kill * 3);
            wait_until(PATIENCE, "chunks of it", async || {
                assert!(process.is_running(), "{kill}: {}", process.stderr());
                deployment.target.scalar("app", &chunks).await == "t"
                    && deployment.target.scalar("app", "SELECT done_at IS NULL FROM irongate.load").await
                        == "t"
            })
            .await;
            process.kill();
            process.wait(PATIENCE).await;
            if kill == 1 {
                // The keeper, too: what is unfinished begins later still.
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'irongate keeper%'";
                deployment.source.batch_in("app", end).await;
            }
            if waiting.is_none() {
                // Replicat waits, and touches nothing.
                let process = Process::irongate(deployment.path(), &["run", "csp-replicat"]);
                wait_until(PATIENCE, "Replicat to wait", async || {
                    let group = deployment.group("csp-replicat").await;
                    group["state"] == "STARTING" && group["doing"].to_string().contains("initial load")
                })
                .await;
                waiting = Some(process);
            }
        }
        let other = deployment.expect(3, &["instantiate", "csp", "--table", "public.note"]).await.stderr;
        assert!(other.contains("a load is under way") && other.contains("public.big"), "{other}");
        assert_eq!(deployment.target.scalar("app", OTHERS).await, others, "the other table was not touched");
        let behind: i64 = deployment.source.scalar("app", confirmed).await.parse().expect("a number");
        assert!(behind < 16 << 20, "the slot ages: {behind}");
        let done = deployment.expect(0, &["instantiate", "csp"]).await;
        assert!(done.stderr.contains("resuming load"), "{}", done.stderr);
        // Replicat goes on by itself.
        deployment.add(6_000).await;
        deployment.arrived(6_000).await;
        let stats = deployment.json(&["stats", "csp-replicat"]).await.to_string();
        assert!(stats.contains("skipped"), "{stats}");
        drop(writer);
        deployment.add(7_000).await;
        deployment.arrived(7_000).await;
        deployment.compare().await.assert_same();
        assert_eq!(deployment.target.scalar("app", "SELECT count(*) FROM irongate.checkpoint").await, "1");
        stop(waiting.expect("it was started")).await;
        stop(extract).await;
    }
}
