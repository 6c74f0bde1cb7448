//! From nothing to a running flow and back to nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_tests::{Process, Server, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use super::deployment::{Deployment, PATIENCE, stop};

fn severities(check: &Value) -> Vec<&str> {
    let findings = check["findings"].as_array().expect("findings are a list");
    findings.iter().filter_map(|finding| finding["severity"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_set_up_instantiated_run_watched_and_torn_down() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, "").await;
        set_up(&deployment).await;
        run(&deployment).await;
        tear_down(&deployment).await;
    }
}

async fn set_up(deployment: &Deployment) {
    let before = deployment.expect(3, &["check", "--json"]).await.json();
    assert!(severities(&before).contains(&"error"), "{before}");
    for finding in before["findings"].as_array().expect("findings are a list") {
        let keys: BTreeSet<_> = finding.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["severity", "object", "reason", "fix"]));
    }

    // Showing changes nothing: the same is shown twice.
    let printed = deployment.expect(0, &["setup", "--print-sql"]).await.stdout;
    assert!(printed.contains("CREATE ROLE") && printed.contains("CREATE PUBLICATION"), "{printed}");
    assert!(!printed.contains("a secret of its own"), "{printed}");
    assert_eq!(deployment.expect(0, &["setup", "--print-sql"]).await.stdout, printed);

    let done = deployment.json(&["setup"]).await;
    assert_eq!(done["started"][0], "csp");
    assert_eq!(done["to_instantiate"][0], "csp");
    let again = deployment.json(&["setup"]).await;
    assert_eq!(again["statements"].as_array().map(Vec::len), Some(0), "{again}");
    let superusers = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^irongate' AND NOT rolsuper";
    assert_eq!(deployment.source.scalar("app", superusers).await, "1");

    let done = deployment.json(&["instantiate", "csp"]).await;
    assert_eq!((&done["tables"], &done["rows"]), (&2.into(), &2000.into()));
    deployment.compare().await.assert_same();
    // Rows that are there are not doubled, unless it is said that they may go.
    deployment.expect(3, &["instantiate", "csp"]).await;
    deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
    deployment.compare().await.assert_same();
    let after = deployment.json(&["check"]).await;
    assert!(!severities(&after).contains(&"error"), "{after}");
}

async fn run(deployment: &Deployment) {
    let mut extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.expect(3, &["run", "csp-replicat"]).await;
    deployment.expect(3, &["instantiate", "csp", "--truncate"]).await;

    let change =
        "UPDATE person SET name = 'changed' WHERE id % 7 = 0; DELETE FROM note WHERE person % 10 = 0;
         INSERT INTO person VALUES (5000, 'last')";
    deployment.source.batch_in("app", change).await;
    deployment.arrived(5000).await;
    deployment.compare().await.assert_same();

    wait_until(PATIENCE, "a lag of nothing", async || {
        let lag = deployment.json(&["lag"]).await;
        let flow = &lag["flows"][0];
        flow["replicat"]["lag_bytes"] == 0 && flow["lag_seconds"] == 0.0 && flow["source_silent"].is_null()
    })
    .await;
    let stats = deployment.json(&["stats", "csp-replicat"]).await;
    let tables = stats["groups"][0]["tables"].as_array().expect("tables are a list").clone();
    let person = tables.iter().find(|table| table["name"] == "public.person").expect("the table was changed");
    assert_eq!((&person["inserts"], &person["updates"]), (&1.into(), &142.into()));
    assert!(deployment.group("csp-replicat").await["position"].is_string());

    // Killed, it is told from stopped; started again, it goes on.
    extract.kill();
    assert_eq!(deployment.group("csp-extract").await["state"], "ABENDED");
    deployment.add(5001).await;
    let lag = deployment.json(&["lag"]).await;
    assert!(lag["flows"][0]["extract"]["lag_bytes"].as_u64() > Some(0), "{lag}");
    let extract = deployment.start("csp-extract").await;
    deployment.arrived(5001).await;

    for command in
        [&["trail", "ls", "csp"] as &[_], &["trail", "check", "csp"], &["info"], &["stats"], &["lag"]]
    {
        let text = deployment.expect(0, command).await.stdout;
        assert!(!text.trim().is_empty(), "{command:?}");
    }
    let dump =
        deployment.expect(0, &["trail", "dump", "csp", "--table", "public.person", "--key", "5001"]).await;
    assert!(dump.stdout.contains("person 5001"), "{}", dump.stdout);

    stop(replicat).await;
    stop(extract).await;
    for group in ["csp-extract", "csp-replicat"] {
        assert_eq!(deployment.group(group).await["state"], "STOPPED", "{group}");
    }
    deployment.compare().await.assert_same();
}

async fn tear_down(deployment: &Deployment) {
    let printed = deployment.expect(0, &["teardown", "--print-sql"]).await.stdout;
    assert!(printed.contains("pg_drop_replication_slot"), "{printed}");
    deployment.expect(0, &["teardown"]).await;
    let left = "SELECT count(*) FROM (SELECT slot_name::text FROM pg_replication_slots \
         UNION ALL SELECT pubname FROM pg_publication UNION ALL SELECT roname FROM pg_replication_origin \
         UNION ALL SELECT rolname FROM pg_roles WHERE rolname ~ '^irongate' \
         UNION ALL SELECT nspname FROM pg_namespace WHERE nspname ~ '^irongate') x";
    for server in [&deployment.source, &deployment.target] {
        assert_eq!(server.scalar("app", left).await, "0");
    }
    assert!(!deployment.path().join("state/trail/csp").exists());
    assert_eq!(deployment.group("csp-extract").await["doing"], "never started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_waits_to_try_again_stops_at_the_first_signal() {
    let major = Server::majors()[0];
    let mut deployment = Deployment::ready(major, "").await;
    deployment.source.stop(irongate_tests::Mode::Fast).await;
    let extract = Process::irongate(deployment.path(), &["run", "csp-extract"]);
    wait_until(PATIENCE, "an attempt that failed", async || {
        deployment.group("csp-extract").await["error"].is_string()
    })
    .await;
    stop(extract).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_group_at_once() {
    let major = Server::majors()[0];
    let deployment = Deployment::ready(major, "").await;
    let extract = deployment.start("csp-extract").await;
    let mut replicat = deployment.start("csp-replicat").await;
    // The lock keeps Replicat in the middle of a transaction, which an orderly stop would wait for.
    let locker = deployment.target.client("app").await;
    locker.batch_execute("BEGIN; LOCK TABLE person IN ACCESS EXCLUSIVE MODE").await.expect("the lock");
    deployment.add(5000).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    wait_until(PATIENCE, "Replicat to wait for the lock", async || {
        deployment.target.scalar("app", waits).await == "1"
    })
    .await;
    replicat.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(replicat.is_running(), "it ends in order, which it cannot yet");
    replicat.signal(Signal::INT);
    let status = replicat.wait(Duration::from_secs(60)).await;
    assert_eq!(status.code(), Some(1));
    drop(locker);
    let replicat = deployment.start("csp-replicat").await;
    deployment.arrived(5000).await;
    deployment.compare().await.assert_same();
    stop(replicat).await;
    stop(extract).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_and_no_secret_is_in_the_log_of_a_process() {
    let major = Server::majors()[0];
    let deployment = Deployment::ready(major, "").await;
    let mut processes = Vec::new();
    for group in ["csp-extract", "csp-replicat"] {
        let mut command = Process::command(deployment.path(), &["run", group, "--log-format", "json"]);
        command.env("IRONGATE_LOG", "trace");
        processes.push(Process::spawn(command));
    }
    let secret = "INSERT INTO person VALUES (5000, 'value of a row')";
    deployment.source.batch_in("app", secret).await;
    deployment.arrived(5000).await;
    for process in processes {
        let log = process.stderr();
        assert!(log.lines().count() >= 2, "{log}");
        for line in log.lines() {
            assert!(line.starts_with('{') && line.ends_with('}'), "not one JSON object a line: {line}");
        }
        assert!(!log.contains("value of a row") && !log.contains("a secret of its own"), "{log}");
        stop(process).await;
    }
}
