//! A switchover of the reference deployment and back, under the writes of an application that keeps its own books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use irongate_tests::{Plan, Reference, SITES, Server, Tables, compare, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};

const ACCESS: &str = "[access.config]\nroles = [\"app\"]\n";

/// An application that writes wherever it is let, and remembers what was acknowledged.
struct Application {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<i64>>,
}

impl Application {
    fn start(servers: &[Server; 2], first: i64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let addresses = servers.each_ref().map(|server| server.uri("app", "config"));
        let stopped = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let (mut acknowledged, mut n, mut site) = (Vec::new(), first, 0);
            while !stopped.load(Ordering::Relaxed) {
                site = 1 - site;
                let connected = tokio_postgres::connect(&addresses[site], tokio_postgres::NoTls).await;
                let Ok((client, connection)) = connected else {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let connection = tokio::spawn(connection);
                while !stopped.load(Ordering::Relaxed) {
                    n += 1;
                    let insert = "INSERT INTO entry VALUES ('app', $1, nextval('numbers')::text)";
                    if client.execute(insert, &[&n]).await.is_err() {
                        break;
                    }
                    acknowledged.push(n);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                connection.abort();
            }
            acknowledged
        });
        Self { over, task }
    }

    async fn stop(self) -> Vec<i64> {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("the application does not panic")
    }
}

async fn reference(major: u32) -> Reference {
    let reference = Plan::new(major).more(ACCESS).control().make().await;
    for server in &reference.servers {
        let rights = "CREATE ROLE app LOGIN; CREATE SEQUENCE numbers; GRANT ALL ON entry, numbers TO app";
        server.batch_in("config", rights).await;
    }
    for flow in ["csp", "css"] {
        let (site, notes) = if flow == "csp" { ("main", false) } else { ("secondary", true) };
        let said = reference.expect(site, 0, &["setup", flow]).await.stderr;
        assert_eq!(said.contains("begins when it is its turn"), notes, "{said}");
    }
    assert_eq!(slots(&reference, 1).await, "mss", "no log is kept for the reverse flow");
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    reference
}

/// Waits until everything runs but the reverse set; one terminal sees both sites.
async fn running(reference: &Reference) {
    wait_until(PATIENCE, "everything but the reverse set to run", async || {
        // As long as a site cannot be asked, the exit code says so.
        let info = reference.start("main", &["info", "--json"]).finish(PATIENCE).await.json();
        let groups = info["groups"].as_array().expect("groups are a list").clone();
        let reverse = groups.iter().filter(|group| group["flow"] == "css").count();
        let running = groups.iter().filter(|group| group["state"] == "RUNNING").count();
        reverse == 3 && running == groups.len() - reverse && running == 11
    })
    .await;
}

/// The flows that have a slot at a site.
async fn slots(reference: &Reference, site: usize) -> String {
    let sql = "SELECT coalesce(string_agg(right(slot_name, 3), ',' ORDER BY slot_name), '') FROM pg_replication_slots";
    reference.servers[site].scalar("config", sql).await
}

/// Waits until what is written at one site is at the other, and compares.
async fn follows(reference: &Reference, from: usize, mark: i64) {
    let sql = format!("INSERT INTO entry VALUES ('mark', {mark})");
    reference.servers[from].batch_in("config", &sql).await;
    let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark' AND n = {mark}");
    wait_until(PATIENCE, &format!("mark {mark} at the other site"), async || {
        reference.servers[1 - from].scalar("config", &seen).await == "1"
    })
    .await;
    let [one, other] = reference.servers.each_ref().map(|server| server.uri("postgres", "config"));
    compare(&one, &other, &Tables::All).await.assert_same();
}

/// Every acknowledged row is there once, and no number of the sequence came twice.
async fn books(server: &Server, acknowledged: &[i64]) {
    let rows = server.rows("config", "SELECT n::text FROM entry WHERE site = 'app' ORDER BY n").await;
    let there: std::collections::BTreeSet<i64> =
        rows.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let twice = "SELECT count(*) - count(DISTINCT word) FROM entry WHERE site = 'app'";
    assert_eq!(server.scalar("config", twice).await, "0", "numbers of the sequence came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_and_back_loses_nothing_and_repeats_nothing() {
    for major in Server::majors() {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let [main, secondary] = &reference.servers;
        assert!(secondary.try_client("app", "config").await.is_err(), "the standby refuses applications");
        let application = Application::start(&reference.servers, 0);

        // What is not right is said, and nothing is changed.
        reference.expect("main", 2, &["switchover", "--to", "secondary"]).await;
        let here = reference.expect("main", 3, &["switchover", "--to", "main"]).await.stderr;
        assert!(here.contains("says that site \"main\" writes"), "{here}");
        reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--resume"]).await;
        reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
        let refused =
            reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert!(refused.stderr.contains("is open, and a standby must not be"), "{}", refused.stderr);
        reference.expect("secondary", 0, &["fence", "secondary"]).await;
        let none = reference.expect("main", 0, &["open", "main"]).await.stdout;
        assert!(none.contains("there is no fence"), "{none}");
        reference.expect("secondary", 0, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert_eq!(slots(&reference, 1).await, "mss");

        let there = reference.json("secondary", &["switchover", "--to", "secondary"]).await;
        assert_eq!((&there["result"], &there["lost_transactions"]), (&"done".into(), &0.into()), "{there}");
        println!("PostgreSQL {major}: outage {} s", there["outage_seconds"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(main.try_client("app", "config").await.is_err(), "the old site refuses applications");
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("msp".into(), "css,mss".into())
        );
        let acknowledged = application.stop().await;
        books(secondary, &acknowledged).await;
        follows(&reference, 1, 1).await;

        // The old Extract, started by somebody, does not run.
        reference.start("main", &["start", "csp-extract"]).finish(PATIENCE).await;
        wait_until(PATIENCE, "the old Extract to refuse", async || {
            let groups = reference.json("main", &["info", "csp-extract"]).await;
            groups["groups"][0]["state"] == "ABENDED" && groups.to_string().contains("writes this database")
        })
        .await;

        let application = Application::start(&reference.servers, 1_000_000);
        let back = reference.json("main", &["switchover", "--to", "main"]).await;
        assert_eq!(back["result"], "done", "{back}");
        let more = application.stop().await;
        books(main, &[acknowledged, more].concat()).await;
        follows(&reference, 0, 2).await;
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into())
        );
        let epochs = "SELECT live || ' ' || epoch || ' ' || coalesce(run, 'free') FROM irongate.role";
        for server in &reference.servers {
            assert_eq!(server.scalar("config", epochs).await, "main 3 free");
        }
        let runs = reference.json("main", &["runs"]).await;
        assert_eq!(runs["runs"][0]["result"], "done", "{runs}");
        let steps: Vec<&Value> = back["steps"].as_array().expect("a list").iter().collect();
        assert!(steps.iter().all(|step| step["result"] == "done"), "{back}");
        for manager in managers {
            stop(manager).await;
        }
    }
}

/// Everything that a fence takes away, at one site.
async fn rights(server: &Server) -> String {
    let sql = "SELECT string_agg(line, ' ' ORDER BY line) FROM (
        SELECT format('%s:%s', relname, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(relacl) a))
          FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')
        UNION ALL SELECT format('%s:%s', rolname, rolcanlogin) FROM pg_roles WHERE rolname = 'app') s (line)";
    server.scalar("config", sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_anywhere_is_gone_on_with_or_taken_back() {
    let seed = irongate_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let major = *Server::majors().choose(&mut random).expect("a version");
    let reference = reference(major).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let (mut live, mut books_kept, mut cut, mut taken_back) = (0, Vec::new(), 0, 0);
    for round in 0..irongate_tests::Tier::pick(2, 4, 100) {
        let to = 1 - live;
        let words = ["switchover", "--to", SITES[to]];
        let before = rights(&reference.servers[live]).await;
        let application = Application::start(&reference.servers, 1_000_000 * (round + 1));
        let mut run = reference.start(SITES[to], &words);
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
        run.kill();
        let runs = reference.json(SITES[to], &["runs"]).await;
        let last = runs["runs"].as_array().and_then(|runs| runs.last()).cloned().unwrap_or_default();
        if last["result"] == "unfinished" {
            cut += 1;
            // Nobody opens by hand what a run has in hand, and a second run is refused as long as the first is not over.
            if reference.servers[live]
                .scalar("config", "SELECT count(*) FROM irongate.role WHERE run IS NOT NULL")
                .await
                == "1"
            {
                reference.expect(SITES[live], 3, &["open", SITES[live]]).await;
            }
            let second = reference.expect(SITES[to], 3, &words).await.stderr;
            assert!(second.contains("is not over"), "{second}");
            let abort = [&words[..], &["--abort"]].concat();
            if random.random_bool(0.4) {
                let finished = reference.start(SITES[to], &abort).finish(PATIENCE).await;
                match finished.code() {
                    0 => {
                        taken_back += 1;
                        assert_eq!(rights(&reference.servers[live]).await, before, "given back exactly");
                        let reverse = slots(&reference, to).await;
                        assert!(!reverse.contains(["css", "csp"][usize::from(to == 0)]), "{reverse}");
                        reference.expect(SITES[to], 0, &words).await;
                    }
                    // Behind the point of no return there is one way only.
                    3 => drop(reference.expect(SITES[to], 0, &[&words[..], &["--resume"]].concat()).await),
                    code => panic!("exit code {code}: {}", finished.stderr),
                }
            } else {
                reference.expect(SITES[to], 0, &[&words[..], &["--resume"]].concat()).await;
            }
        } else if last["result"] != "done" || last["to"] != SITES[to] {
            // Killed before it had begun.
            reference.expect(SITES[to], 0, &words).await;
        }
        live = to;
        // The application finds the open site by itself.
        tokio::time::sleep(Duration::from_millis(200)).await;
        books_kept.extend(application.stop().await);
        books(&reference.servers[live], &books_kept).await;
        follows(&reference, live, round + 1).await;
    }
    println!("seed {seed}, PostgreSQL {major}: {cut} runs cut off, {taken_back} taken back");
    for manager in managers {
        stop(manager).await;
    }
}
