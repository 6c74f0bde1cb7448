//! The reference deployment: two sites with a manager each, a database that one site writes and one that both write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use irongate_tests::{Finished, Process, Server, Settings, Tables, TempDir, compare, seed, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};

pub(super) const SITES: [&str; 2] = ["main", "secondary"];
/// Keys of the log do not collide: each site has its own numbers.
const TABLES: &str = "CREATE TABLE entry (site text, n bigint, word text, at timestamptz DEFAULT now(),
                                          PRIMARY KEY (site, n))";

pub(super) struct Reference {
    /// In the order of [`SITES`].
    pub(super) servers: [Server; 2],
    directory: TempDir,
}

impl Reference {
    /// Set up, instantiated, and its managers not yet started.
    pub(super) async fn new(major: u32, more: &str) -> Self {
        Self::made(major, more, false).await
    }

    /// The same, with managers that other sites reach, if they are to have `control`.
    pub(super) async fn made(major: u32, more: &str, control: bool) -> Self {
        let (main, secondary) = Server::start_two((major, major), &Settings::new()).await;
        for server in [&main, &secondary] {
            for database in ["config", "log"] {
                server.create_database(database).await;
                server.batch_in(database, TABLES).await;
            }
        }
        let rows = "INSERT INTO entry SELECT 'before', n, 'word ' || n FROM generate_series(1, 500) n";
        main.batch_in("config", rows).await;
        main.batch_in("log", rows).await;
        let directory = TempDir::new();
        let password = directory.path().join("password");
        fs::write(&password, "a secret of its own").expect("the directory is ours");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let reference = Self { servers: [main, secondary], directory };
        reference.configure(more, control);
        reference.expect("main", 0, &["certs", "certs"]).await;
        reference.expect("main", 3, &["certs", "certs"]).await;
        reference.expect("main", 0, &["setup", "csp", "msp"]).await;
        reference.expect("secondary", 0, &["setup", "mss", "--start-here"]).await;
        reference.expect("main", 0, &["instantiate", "csp"]).await;
        reference.expect("main", 0, &["instantiate", "msp"]).await;
        reference
    }

    fn configure(&self, more: &str, control: bool) {
        let ports = [free_port(), free_port()];
        let mut text = "[deployment]\nname = \"shop\"\nstate_directory = \"state-{site}\"\n".to_owned();
        text +=
            "[link]\ncertificates = \"certs\"\nretry_delay = \"100ms\"\nretry_longest_delay = \"500ms\"\n";
        for ((site, server), port) in SITES.iter().zip(&self.servers).zip(ports) {
            text +=
                &format!("[sites.{site}]\nlisten = \"127.0.0.1:{port}\"\naddress = \"localhost:{port}\"\n");
            if control {
                let port = free_port();
                text += &format!(
                    "control_listen = \"127.0.0.1:{port}\"\ncontrol_address = \"localhost:{port}\"\n"
                );
            }
            for database in ["config", "log"] {
                text += &format!(
                    "[databases.{database}.{site}]\nuri = \"postgresql://127.0.0.1:{}/{database}\"\n\
                     password_file = \"password\"\nadmin_uri = \"{}\"\n",
                    server.port(),
                    server.uri("postgres", database)
                );
            }
        }
        for (flow, database, from, to) in [
            ("csp", "config", "main", "secondary"),
            ("css", "config", "secondary", "main"),
            ("msp", "log", "main", "secondary"),
            ("mss", "log", "secondary", "main"),
        ] {
            text += &format!(
                "[flows.{flow}]\ndatabase = \"{database}\"\nfrom = \"{from}\"\nto = \"{to}\"\n\
                 tables = [\"public.*\"]\nautostart = {}\n[flows.{flow}.pump]\n[flows.{flow}.extract]\n\
                 retry_delay = \"100ms\"\nprogress_interval = \"200ms\"\n",
                flow != "css"
            );
        }
        fs::write(self.directory.path().join("irongate.toml"), text + more).expect("the directory is ours");
    }

    pub(super) fn start(&self, site: &str, arguments: &[&str]) -> Process {
        Process::irongate(self.directory.path(), &[&["--site", site], arguments].concat())
    }

    pub(super) async fn expect(&self, site: &str, code: i32, arguments: &[&str]) -> Finished {
        let finished = self.start(site, arguments).finish(PATIENCE).await;
        let (out, err) = (&finished.stdout, &finished.stderr);
        assert_eq!(finished.code(), code, "irongate {} at {site}\n{out}\n{err}", arguments.join(" "));
        finished
    }

    /// Runs one of the scripts for operators, and expects this exit code.
    async fn script(&self, site: &str, code: i32, name: &str, arguments: &[&str]) -> Finished {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
        let mut command = std::process::Command::new(script);
        command.args(arguments).current_dir(self.directory.path());
        command.env("IRONGATE_BIN", Process::binary()).env("IRONGATE_SITE", site);
        let finished = Process::spawn(command).finish(PATIENCE).await;
        let (out, err) = (&finished.stdout, &finished.stderr);
        assert_eq!(finished.code(), code, "{name} {} at {site}\n{out}\n{err}", arguments.join(" "));
        finished
    }

    pub(super) async fn json(&self, site: &str, arguments: &[&str]) -> Value {
        self.expect(site, 0, &[arguments, &["--json"]].concat()).await.json()
    }

    /// What info says of the groups of a site.
    pub(super) async fn groups(&self, site: &str) -> Vec<Value> {
        let info = self.json(site, &["info"]).await;
        info["groups"].as_array().expect("groups are a list").clone()
    }

    /// Waits until everything runs that should, and looks that nothing else does.
    pub(super) async fn runs(&self) {
        for site in SITES {
            wait_until(PATIENCE, &format!("all groups of {site} to run"), async || {
                let groups = self.groups(site).await;
                let (reverse, others): (Vec<_>, Vec<_>) =
                    groups.iter().partition(|group| group["flow"] == "css");
                assert!(reverse.iter().all(|group| group["doing"] == "never started"), "{reverse:?}");
                others.len() == 6 - usize::from(site == "secondary")
                    && others.iter().all(|g| g["state"] == "RUNNING")
            })
            .await;
        }
    }

    /// Waits until what was written at each site by now is at the other, and compares.
    async fn same(&self, mark: i64) {
        for (database, from) in [("config", 0), ("log", 0), ("log", 1)] {
            let site = SITES[from];
            let sql = format!("INSERT INTO entry VALUES ('mark {site}', {mark})");
            self.servers[from].batch_in(database, &sql).await;
            let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark {site}' AND n = {mark}");
            wait_until(PATIENCE, &format!("mark {mark} of {database} at {site}"), async || {
                self.servers[1 - from].scalar(database, &seen).await == "1"
            })
            .await;
        }
        for database in ["config", "log"] {
            let [one, other] = self.servers.each_ref().map(|server| server.uri("postgres", database));
            compare(&one, &other, &Tables::All).await.assert_same();
        }
    }
}

impl Drop for Reference {
    /// A test that fails leaves managers and groups that outlive it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for site in SITES {
            let ask = |words: &[&str]| {
                let arguments = [&["--site", site, "--json"], words].concat();
                let answer = Process::command(self.directory.path(), &arguments).output();
                answer.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.stdout).ok())
            };
            let kill = |pid: &Value| {
                if let Some(pid) = pid.as_i64().and_then(|pid| Pid::from_raw(pid as i32)) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            };
            // The manager first, or it would start the groups again.
            kill(&ask(&["health"]).unwrap_or_default()["pid"]);
            let groups = ask(&["info"]).unwrap_or_default();
            groups["groups"].as_array().into_iter().flatten().for_each(|group| kill(&group["pid"]));
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_run_the_reference_deployment_whatever_is_killed() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for major in Server::majors() {
        let reference = Reference::new(major, "").await;
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
        let sent = async |site: &str, group: &str| {
            reference.json(site, &["stats", group]).await["groups"][0]["tables"].to_string()
        };
        // Each tells of itself once a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = [sent("main", "msp-extract").await, sent("secondary", "mss-extract").await];
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = [sent("main", "msp-extract").await, sent("secondary", "mss-extract").await];
        assert_eq!(before, after, "something goes round");

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
    let reference = Reference::new(major, "").await;
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
    let unknown = reference.expect("secondary", 1, &["start", "nobody"]).await.stderr;
    assert!(unknown.contains("nobody"), "{unknown}");
    for manager in managers {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_of_an_operator_start_show_and_stop_a_site() {
    let reference = Reference::new(*Server::majors().last().expect("a version"), "").await;
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
    let reference = Reference::made(*Server::majors().last().expect("a version"), "", true).await;
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
    let unknown = main(1, &["stop", "csp", "nobody"]).await.stderr;
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
