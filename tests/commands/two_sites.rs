//! The reference deployment: two sites with a manager each, a database that one site writes and one that both write.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use irongate_tests::{Plan, SITES, Server, seed, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};

/// Writes a site's entries until it is dropped.
struct Writer(tokio::task::JoinHandle<()>);

impl Writer {
    async fn start(server: &Server, database: &str, site: &'static str) -> Self {
        let client = server.client(database).await;
        Self(tokio::spawn(async move {
            for n in 1_i64.. {
                let insert = "INSERT INTO entry VALUES ($1, $2, repeat('x', ($2::bigint % 300)::int))";
                client.execute(insert, &[&site, &n]).await.expect("the server stays");
                if n % 5 == 0 {
                    let change = "UPDATE entry SET word = 'changed' WHERE site = $1 AND n = $2::bigint - 3";
                    client.execute(change, &[&site, &n]).await.expect("the server stays");
                }
                if n % 7 == 0 {
                    let delete = "DELETE FROM entry WHERE site = $1 AND n = $2::bigint - 6";
                    client.execute(delete, &[&site, &n]).await.expect("the server stays");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs Prometheus' own tool over a text, if it is here: it finds no fault.
fn promtool(words: &[&str], text: &str) {
    let Some(promtool) = std::env::var_os("IRONGATE_PROMTOOL") else {
        // Not a macro's output, which the test runner keeps to itself when a test passes.
        let reason = "IRONGATE_PROMTOOL names no promtool: the Debian package prometheus has it";
        let _ = writeln!(std::io::stderr(), "\nskipped: promtool {}: {reason}", words.join(" "));
        return;
    };
    let mut command = std::process::Command::new(promtool);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool can be run");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // It warns with exit code 3.
    assert!(output.status.success(), "promtool {}: {said}", words.join(" "));
}

#[test]
fn the_alert_rules_are_rules() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts.yml");
    promtool(&["check", "rules", rules.to_str().expect("a plain path")], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_run_the_reference_deployment_whatever_is_killed() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for major in Server::majors_in_turn() {
        let reference = Plan::new(major).http().make().await;
        let mut managers = SITES.map(|site| reference.start(site, &["manager"]));
        reference.runs().await;
        reference.same(0).await;
        reference.expect("main", 3, &["manager"]).await;

        let [main, secondary] = &reference.servers;
        let writers = [
            Writer::start(main, "config", "main").await,
            Writer::start(main, "log", "main").await,
            Writer::start(secondary, "log", "secondary").await,
        ];
        for round in 0..irongate_tests::Tier::pick(3, 8, 60) {
            let site = *SITES.choose(&mut random).expect("two sites");
            let groups = reference.groups(site).await;
            let live: Vec<i64> = groups.iter().filter_map(|group| group["pid"].as_i64()).collect();
            if let Some(pid) = live.choose(&mut random).and_then(|pid| Pid::from_raw(*pid as i32)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if round % 4 == 3 {
                // The manager too: what it left running is taken over by the next.
                let which = usize::from(random.random_bool(0.5));
                managers[which].kill();
                managers[which] = reference.start(SITES[which], &["manager"]);
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
        }
        drop(writers);
        reference.runs().await;
        reference.same(1).await;

        // What came from the other site does not go back: the log stands still.
        reference.nothing_goes_round().await;

        for site in SITES {
            let page = reference.metrics(site);
            assert!(page.contains(&format!("irongate_healthy{{site=\"{site}\"}}")), "{page}");
            promtool(&["check", "metrics"], &page);
        }
        for manager in managers {
            stop(manager).await;
        }
        for site in SITES {
            let groups = reference.groups(site).await;
            assert!(groups.iter().all(|group| group["state"] == "STOPPED"), "{groups:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_stops_stays_stopped_until_it_is_started() {
    let major = Server::majors()[0];
    let reference = Plan::new(major).make().await;
    let finished = reference.expect("secondary", 1, &["stop", "csp-replicat"]).await;
    assert!(finished.stderr.contains("no manager"), "{}", finished.stderr);
    let mut managers = SITES.map(|site| reference.start(site, &["manager"]));
    reference.runs().await;
    let stopped = reference.json("secondary", &["stop", "csp-replicat"]).await;
    assert_eq!(stopped["groups"][0]["done"], true, "{stopped}");
    let state =
        async || reference.json("secondary", &["info", "csp-replicat"]).await["groups"][0]["state"].clone();
    assert_eq!(state().await, "STOPPED");
    managers[1].kill();
    managers[1] = reference.start("secondary", &["manager"]);
    wait_until(PATIENCE, "the next manager", async || {
        reference.start("secondary", &["events"]).finish(PATIENCE).await.code() == 0
    })
    .await;
    reference.servers[0].batch_in("config", "INSERT INTO entry VALUES ('late', 1)").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state().await, "STOPPED");
    reference.expect("secondary", 0, &["start", "csp"]).await;
    reference.same(2).await;
    let events = reference.json("secondary", &["events", "-n", "100"]).await.to_string();
    assert!(events.contains("csp-replicat") && events.contains("adopted"), "{events}");
    let report = reference.expect("secondary", 0, &["report", "csp-replicat"]).await.stdout;
    assert!(report.contains("replicat started"), "{report}");
    let reload = reference.expect("secondary", 0, &["reload"]).await.stdout;
    assert_eq!(reload.trim(), "nothing has changed");
    let unknown = reference.expect("secondary", 2, &["start", "nobody"]).await.stderr;
    assert!(unknown.contains("nobody"), "{unknown}");
    for manager in managers {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_of_an_operator_start_show_and_stop_a_site() {
    let reference = Plan::new(*Server::majors().last().expect("a version")).make().await;
    reference.script("main", 2, "replication-status", &[]).await;
    reference.script("main", 1, "stop-replication", &[]).await;
    for site in SITES {
        let started = reference.script(site, 0, "start-replication", &[]).await.stdout;
        assert!(started.contains("manager started as process"), "{started}");
        // Once more is no second manager.
        assert_eq!(reference.script(site, 0, "start-replication", &[]).await.stdout, "");
    }
    reference.runs().await;
    reference.same(3).await;
    let status = reference.script("main", 0, "replication-status", &["csp"]).await.stdout;
    assert!(status.contains("csp-extract") && status.contains("RUNNING"), "{status}");
    reference.script("secondary", 0, "stop-replication", &["csp"]).await;
    assert_eq!(reference.json("secondary", &["info", "csp"]).await["groups"][0]["state"], "STOPPED");
    reference.script("secondary", 0, "start-replication", &["csp"]).await;
    reference.same(4).await;
    // A trail that is gone is nothing that waiting helps.
    reference.script("main", 0, "stop-replication", &["msp"]).await;
    fs::remove_dir_all(reference.directory.path().join("state-main/trail/msp")).expect("the trail is there");
    reference.script("main", 4, "start-replication", &["msp"]).await;
    reference.script("main", 2, "replication-status", &[]).await;
    for site in SITES {
        reference.script(site, 0, "stop-replication", &[]).await;
        reference.script(site, 2, "replication-status", &[]).await;
        let groups = reference.groups(site).await;
        assert!(groups.iter().all(|group| group["state"] != "RUNNING"), "{groups:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_terminal_sees_and_commands_both_sites() {
    let reference = Plan::new(*Server::majors().last().expect("a version")).control().make().await;
    let main = |code: i32, words: &'static [&'static str]| reference.expect("main", code, words);
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    wait_until(PATIENCE, "all groups of both sites to run", async || {
        let answer = reference.start("main", &["info", "--json"]).finish(PATIENCE).await;
        let groups = answer.json()["groups"].as_array().expect("groups are a list").clone();
        let here = groups.iter().filter(|group| group["site"] == "main").count();
        answer.code() == 0
            && (here, groups.len()) == (7, 14)
            && groups.iter().all(|group| group["flow"] == "css" || group["state"] == "RUNNING")
    })
    .await;
    reference.same(5).await;
    // Each stage of a flow, measured where it is.
    wait_until(PATIENCE, "the lag of every stage", async || {
        let lag = reference.json("main", &["lag", "csp", "mss"]).await;
        let flows = lag["flows"].as_array().expect("flows are a list").clone();
        let stages = ["decoded", "extract", "pump", "replicat"];
        let is_known = |flow: &Value| stages.iter().all(|stage| flow[stage]["state"] == "RUNNING");
        let is_measured = |flow: &Value| stages.iter().all(|stage| flow[stage]["lag_bytes"].is_u64());
        flows.len() == 2 && flows.iter().all(|flow| is_known(flow) && is_measured(flow))
    })
    .await;
    let lag = main(0, &["lag", "mss"]).await.stdout;
    assert!(lag.contains("trail to other site") && lag.contains("end to end"), "{lag}");
    let stats = reference.json("main", &["stats", "csp"]).await;
    let names: Vec<_> =
        stats["groups"].as_array().expect("a list").iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["csp-extract", "csp-pump", "csp-replicat"]);
    assert!(stats["groups"][2]["tables"].to_string().contains("public.entry"), "{stats}");
    // Orders go to the site whose group it is, and a flow's to both.
    let stopped = reference.json("main", &["stop", "csp"]).await;
    let done: Vec<_> = stopped["groups"].as_array().expect("a list").iter().map(|it| &it["done"]).collect();
    assert_eq!(done, [true, true, true], "{stopped}");
    let state = async |name: &'static str| {
        reference.json("secondary", &["info", "--here", name]).await["groups"][0]["state"].clone()
    };
    assert_eq!(state("csp-replicat").await, "STOPPED");
    main(0, &["start", "csp"]).await;
    main(0, &["restart", "mss-extract"]).await;
    reference.same(6).await;
    let events = reference.json("main", &["events", "-n", "200"]).await["events"].clone();
    let of = |site: &str, text: &str| {
        let all = events.as_array().expect("a list").iter();
        all.filter(|it| it["site"] == site && it["text"] == text).count()
    };
    assert_eq!(of("main", "asked to stop"), 2, "{events}");
    assert_eq!(of("secondary", "asked to stop from site \"main\""), 1, "{events}");
    assert!(main(0, &["report", "mss-extract"]).await.stdout.contains("extract"), "the other site's");
    let unknown = main(2, &["stop", "csp", "nobody"]).await.stderr;
    assert!(unknown.contains("nobody"), "{unknown}");
    assert_eq!(state("csp-replicat").await, "RUNNING", "one bad name and nothing is done");

    // A site that cannot be asked is said to be missing; what is here is shown.
    let [here, there] = managers;
    stop(there).await;
    let info = main(4, &["info"]).await;
    assert!(info.stdout.contains("csp-extract") && !info.stdout.contains("csp-replicat"), "{}", info.stdout);
    assert!(info.stderr.contains("site \"secondary\" cannot be asked: cannot connect"), "{}", info.stderr);
    let answer = main(4, &["info", "--json"]).await.json();
    assert_eq!(answer["unreachable"][0]["site"], "secondary", "{answer}");
    main(0, &["info", "--here"]).await;
    main(4, &["restart", "csp"]).await;
    main(1, &["restart", "csp-replicat"]).await;
    main(4, &["events"]).await;
    stop(here).await;
}
