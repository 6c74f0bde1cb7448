//! The initial load, as the command does it: side by side, killed anywhere and gone on with, with and without the keeper
//! of its snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use irongate_tests::{Load, Process, RunningLoad, Server, Tier, seed, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::deployment::{Deployment, PATIENCE, Writer, stop};

/// Small chunks, so that there are many.
const SMALL: &str = "[flows.csp.instantiate]\nchunk_size = \"64KiB\"\nparallel = 3\n";

/// Tables of which some are large, some are wide, some have what not.
async fn fill(deployment: &Deployment, tables: u32, rows: u32) {
    for number in 0..tables {
        let columns = match number % 4 {
            0 => "id bigint PRIMARY KEY, a int, b timestamptz, t text",
            1 => "id bigint PRIMARY KEY, a numeric, j jsonb, t text",
            2 => "id bigint PRIMARY KEY, r int4range, x xml, t text",
            _ => "id bigint PRIMARY KEY, parent bigint REFERENCES load_0, t text",
        };
        let values = match number % 4 {
            0 => "n, n % 1000, '2020-01-01'::timestamptz + n * interval '1 s', repeat('t', n % 80)",
            1 => "n, n / 7.0, jsonb_build_object('n', n), repeat('t', n % 80)",
            2 => "n, int4range(n, n + 5), '<a/>', repeat('t', n % 80)",
            _ => "n, n, repeat('t', n % 80)",
        };
        for server in [&deployment.source, &deployment.target] {
            server.batch_in("app", &format!("CREATE TABLE load_{number} ({columns})")).await;
        }
        // Not all of a size.
        let count = rows * (1 + number % 3) / 2;
        let count = if number == 0 { rows * 3 / 2 } else { count };
        let sql = format!("INSERT INTO load_{number} SELECT {values} FROM generate_series(1, {count}) n");
        deployment.source.batch_in("app", &sql).await;
    }
    deployment.source.batch_in("app", "ANALYZE").await;
}

/// Writes at the source all the while.
async fn writing(deployment: &Deployment) -> RunningLoad {
    Load::new(&deployment.source.socket_uri("postgres", "app"))
        .sessions(2)
        .pause(Duration::from_millis(5))
        .start()
        .await
}

/// Follows how far the slot is behind all through, in bytes; the most that was seen.
struct Distance {
    task: tokio::task::JoinHandle<()>,
    seen: std::sync::Arc<std::sync::Mutex<Vec<i64>>>,
}

impl Distance {
    async fn of(server: &Server) -> Self {
        let client = server.client("app").await;
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let sql = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots
                WHERE slot_name LIKE 'irongate%' AND NOT temporary AND active";
            loop {
                match client.query_opt(sql, &[]).await {
                    // A slot that is being made has confirmed nothing.
                    Ok(row) => kept
                        .lock()
                        .expect("the list")
                        .extend(row.and_then(|row| row.get::<_, Option<i64>>(0))),
                    Err(_) => return,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { task, seen }
    }

    fn end(self) -> Vec<i64> {
        self.task.abort();
        self.seen.lock().expect("the list").clone()
    }
}

/// What the ledger says: chunks and rows by generation of each table.
async fn ledger(deployment: &Deployment) -> BTreeMap<String, (i64, i64)> {
    let sql = "SELECT t.source_table, count(c.chunk), coalesce(sum(c.rows), 0)::bigint
        FROM irongate.load_table t LEFT JOIN irongate.load_chunk c
          USING (flow, source_schema, source_table, generation) GROUP BY 1";
    let rows = deployment.target.rows("app", sql).await;
    rows.into_iter()
        .map(|row| {
            let number = |at: usize| row[at].as_ref().and_then(|text| text.parse().ok()).unwrap_or(-1);
            (row[0].clone().unwrap_or_default(), (number(1), number(2)))
        })
        .collect()
}

/// Lets the flow run until the target has what the source has, and compares every row.
async fn stream_and_compare(deployment: &Deployment, load: RunningLoad) {
    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    let counts = load.stop().await;
    assert!(counts.committed > 50, "{counts:?}");
    deployment.add(1_000_000).await;
    deployment.arrived(1_000_000).await;
    deployment.compare().await.assert_same();
    stop(replicat).await;
    stop(extract).await;
}

async fn keeper_of(deployment: &Deployment) -> Option<Value> {
    let path = deployment.path().join("state/csp-keeper.json");
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// Kills the keeper that says that it is there. True if it was.
async fn kill_keeper(deployment: &Deployment) -> bool {
    let Some(state) = keeper_of(deployment).await else { return false };
    let Some(pid) = state["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
    else {
        return false;
    };
    // The file of one that was killed before stays; its number could be another's by now.
    let words = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let is_keeper = String::from_utf8_lossy(&words).contains("keep-snapshot");
    is_keeper && rustix::process::kill_process(pid, Signal::KILL).is_ok()
}

/// Ends a keeper that a failing test would leave behind.
struct NoKeeper(PathBuf);

impl NoKeeper {
    fn of(deployment: &Deployment) -> Self {
        Self(deployment.path().join("state/csp-keeper.json"))
    }
}

impl Drop for NoKeeper {
    fn drop(&mut self) {
        let Some(pid) = std::fs::read_to_string(&self.0)
            .ok()
            .and_then(|text| serde_json::from_str::<Value>(&text).ok())
            .and_then(|state| state["pid"].as_i64())
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
        else {
            return;
        };
        let words = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains("keep-snapshot") {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The tables that are finished, each with what must not change any more.
fn finished(ledger: &[Vec<Option<String>>]) -> Vec<(String, String)> {
    ledger
        .iter()
        .map(|row| (row[0].clone().unwrap_or_default(), row[1].clone().unwrap_or_default()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_again_and_again_goes_on_and_copies_no_chunk_twice() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (kills, tables, rows) = Tier::pick((4, 6, 6_000), (8, 8, 8_000), (50, 40, 125_000));
    let major = *Server::majors().last().expect("a version");
    let deployment = Deployment::new(major, SMALL).await;
    fill(&deployment, tables, rows).await;
    deployment.expect(0, &["setup"]).await;
    let _no_keeper = NoKeeper::of(&deployment);
    let distance = Distance::of(&deployment.source).await;
    let size = "SELECT sum(pg_relation_size(oid))::bigint FROM pg_class WHERE relname LIKE 'load\\_%'
        AND relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let size_of =
        async |server: &Server| -> i64 { server.scalar("app", size).await.parse().expect("a number") };
    let at_source = size_of(&deployment.source).await;
    let load = writing(&deployment).await;
    let mut killed = 0;
    let mut resumed = 0;
    // Slow enough that it is at work whenever it is killed.
    let rate = Tier::pick("400KiB", "400KiB", "10MiB");
    for kill in 0..kills {
        let mut process =
            Process::irongate(deployment.path(), &["instantiate", "csp", "--rate-limit", rate, "--json"]);
        // One while it begins, one while it copies.
        if kill % 2 == 0 {
            wait_until(PATIENCE, "the copy", async || {
                !process.is_running() || process.stderr().contains("tables_done")
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1000))).await;
        if !process.is_running() {
            break;
        }
        process.kill();
        killed += 1;
        resumed += u32::from(process.stderr().contains("resuming load"));
    }
    assert!(killed >= kills / 2, "{killed} of {kills} kills came in time");
    assert!(resumed + 1 >= killed / 2, "resumed {resumed} times after {killed} kills");
    let done = deployment.json(&["instantiate", "csp"]).await;
    let distances = distance.end();
    let ledger = ledger(&deployment).await;
    let chunks: i64 = ledger.values().map(|(chunks, _)| chunks).sum();
    let copied: i64 = ledger.values().map(|(_, rows)| rows).sum();
    assert_eq!(done["rows"].as_i64(), Some(copied));
    assert_eq!(done["later_tables"], 0, "the snapshot outlived every kill");
    assert!(chunks > 3 * i64::from(tables), "{ledger:?}");
    let generations = "SELECT count(*) FROM irongate.load_table WHERE generation > 1";
    assert_eq!(deployment.target.scalar("app", generations).await, "0");
    // What was rolled back lies in the tables, too: no more than what was in flight, three chunks a kill.
    let in_flight = 3 * i64::from(killed) * (72 << 10);
    let at_target = size_of(&deployment.target).await;
    let may_be = at_source + at_source / 10 + in_flight;
    assert!(at_target <= may_be, "{at_target} bytes written for {at_source}, and {in_flight} were in flight");
    println!("{killed} kills, {chunks} chunks, {copied} rows, {at_target} bytes written for {at_source}");
    stream_and_compare(&deployment, load).await;
    assert!(distances.len() > 10, "the slot was followed: {}", distances.len());
    let most = distances.iter().max().copied().unwrap_or(0);
    assert!(most < 16 << 20, "confirmed_flush_lsn was {most} bytes behind");
    println!("confirmed_flush_lsn at most {most} bytes behind in {} looks", distances.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_keeper_finished_tables_stay_and_the_others_begin_later() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (kills, tables, rows) = Tier::pick((1, 6, 5_000), (2, 8, 6_000), (10, 40, 125_000));
    for major in Server::majors_in_turn() {
        let mut deployment = Deployment::new(major, SMALL).await;
        fill(&deployment, tables, rows).await;
        deployment.expect(0, &["setup"]).await;
        let _no_keeper = NoKeeper::of(&deployment);
        // Large transactions are streamed before they commit.
        deployment.source.configure("logical_decoding_work_mem", "64kB");
        deployment.source.reload();
        let load = Load::new(&deployment.source.socket_uri("postgres", "app"))
            .sessions(2)
            .pause(Duration::from_millis(5))
            .bulk(1000)
            .start()
            .await;
        let rate = Tier::pick("700KiB", "700KiB", "12MiB");
        let stays =
            "SELECT source_table, generation || ' ' || start_lsn || ' ' || rows FROM irongate.load_table
            WHERE chunks_done = chunks ORDER BY 1";
        let mut before: Vec<(String, String)> = Vec::new();
        let mut killed = 0;
        let mut restarted = false;
        let begin = Instant::now();
        while killed < kills || !restarted {
            assert!(begin.elapsed() < PATIENCE * 4);
            let command = &["instantiate", "csp", "--rate-limit", rate, "--json"];
            let mut process = Process::irongate(deployment.path(), command);
            // Something is finished, something is not.
            wait_until(PATIENCE, "a finished table more", async || {
                !process.is_running()
                    || deployment.target.try_batch_in("app", "SELECT FROM irongate.load_table").await.is_ok()
                        && finished(&deployment.target.rows("app", stays).await).len() > before.len()
            })
            .await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
            assert!(process.is_running(), "it was quicker than it may be: {}", process.stderr());
            let now = finished(&deployment.target.rows("app", stays).await);
            for table in &before {
                assert!(now.contains(table), "{table:?} was finished and was copied again: {now:?}");
            }
            before = now;
            if killed < kills {
                process.kill();
                assert!(kill_keeper(&deployment).await);
                killed += 1;
            } else {
                // With the server goes every snapshot; the command itself goes on.
                deployment.source.restart().await;
                restarted = true;
                let finished = process.finish(PATIENCE * 2).await;
                assert_eq!(finished.code(), 0, "{}", finished.stderr);
                assert!(finished.stderr.contains("the snapshot is lost"), "{}", finished.stderr);
                let done: Value = serde_json::from_str(&finished.stdout).expect("a document");
                assert!(done["later_tables"].as_u64() > Some(0), "{done}");
            }
        }
        let now = finished(&deployment.target.rows("app", stays).await);
        for table in &before {
            assert!(now.contains(table), "{table:?} was finished and was copied again: {now:?}");
        }
        let later = "SELECT count(DISTINCT start_lsn) FROM irongate.load_table";
        let starts: u32 = deployment.target.scalar("app", later).await.parse().expect("a number");
        assert!(starts >= 2, "tables begin at {starts} places");
        stream_and_compare(&deployment, load).await;
        let stats = deployment.json(&["stats", "csp-replicat"]).await;
        assert!(stats["groups"][0]["skipped"].as_u64() > Some(0), "what was left out is counted: {stats}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_stopped_says_how_it_goes_on_and_can_begin_anew() {
    let major = Server::majors()[0];
    let more = format!("{SMALL}keeper_limit = \"3s\"\n");
    let deployment = Deployment::new(major, &more).await;
    fill(&deployment, 2, 5_000).await;
    deployment.expect(0, &["setup"]).await;
    let _no_keeper = NoKeeper::of(&deployment);
    let slowly = &["instantiate", "csp", "--rate-limit", "100KiB"];
    let mut process = Process::irongate(deployment.path(), slowly);
    let chunks = "SELECT count(*) FROM irongate.load_chunk";
    let some = async || {
        wait_until(PATIENCE, "some chunks", async || deployment.target.scalar("app", chunks).await != "0")
            .await;
    };
    some().await;
    // Nobody else loads the flow meanwhile, and its groups cannot be taken for done.
    deployment.expect(3, &["instantiate", "csp"]).await;
    let keeper = keeper_of(&deployment).await.expect("a keeper says who it is");
    assert!(keeper["snapshot"].is_string() && keeper["server_process"].is_number(), "{keeper}");
    process.signal(Signal::INT);
    let stopped = process.finish(PATIENCE).await;
    assert_eq!(stopped.code(), 4, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the same command goes on with it"), "{}", stopped.stderr);
    // What ran beside it has stopped in order, and has not fallen.
    assert_eq!(deployment.group("csp-extract").await["state"], "STOPPED");
    let left: i64 = deployment.target.scalar("app", chunks).await.parse().expect("a number");
    // The keeper gives up after its limit, and says so.
    wait_until(PATIENCE, "the keeper to end", async || keeper_of(&deployment).await.is_none()).await;
    let log = std::fs::read_to_string(deployment.path().join("state/csp-keeper.log")).expect("its log");
    assert!(log.contains("the snapshot is given up"), "{log}");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'irongate keeper%'";
    assert_eq!(deployment.source.scalar("app", sessions).await, "0");
    // Rows of somebody else in a table of which nothing has come are refused; ours are not.
    let second = Process::irongate(deployment.path(), slowly);
    wait_until(PATIENCE, "more chunks", async || {
        let now: i64 = deployment.target.scalar("app", chunks).await.parse().expect("a number");
        now > left || second.stderr().contains("finished")
    })
    .await;
    assert!(second.stderr().contains("resuming load"), "{}", second.stderr());
    drop(second);
    let anew = deployment.expect(0, &["instantiate", "csp", "--restart"]).await;
    assert!(anew.stderr.contains("is given up (as asked)"), "{}", anew.stderr);
    deployment.compare().await.assert_same();
    let starts = "SELECT count(DISTINCT start_lsn), max(generation) FROM irongate.load_table";
    assert_eq!(deployment.target.rows("app", starts).await[0], [Some("1".to_owned()), Some("1".to_owned())]);
    // Progress is for programs, too.
    deployment.expect(3, &["instantiate", "csp", "--json"]).await;
    let again = deployment.expect(0, &["instantiate", "csp", "--truncate", "--json"]).await;
    let lines: Vec<Value> = again.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = lines.last().expect("progress");
    assert_eq!((&last["tables_done"], &last["fraction"]), (&4.into(), &1.0.into()), "{last}");
    let document: Value = serde_json::from_str(&again.stdout).expect("one document");
    assert_eq!(document["rows"], last["rows"]);
}

/// Twice a second and more, as one that fills a table anew all the time.
fn emptying(n: i32) -> String {
    format!("SELECT pg_sleep(0.15); BEGIN; TRUNCATE buffer; INSERT INTO buffer VALUES ({n}, 'again'); COMMIT")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_empties_a_table_all_the_time_does_not_keep_a_load_from_beginning() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, SMALL).await;
        fill(&deployment, 3, 5_000).await;
        for server in [&deployment.source, &deployment.target] {
            server.batch_in("app", "CREATE TABLE buffer (id int PRIMARY KEY, t text)").await;
        }
        deployment.expect(0, &["setup"]).await;
        let _no_keeper = NoKeeper::of(&deployment);
        let writers = [
            Writer::start(&deployment.source, emptying).await,
            Writer::start(&deployment.source, emptying).await,
        ];
        let mut times = 0;
        for round in 0..4 {
            let more: &[&str] = if round == 0 { &[] } else { &["--truncate"] };
            let begin = Instant::now();
            let done = deployment.expect(0, &[&["instantiate", "csp"], more].concat()).await;
            println!("{:?}\n{}", begin.elapsed(), done.stderr);
            times += done.stderr.matches("letting go").count();
        }
        println!("PostgreSQL {major}: let go {times} times in 4 loads");
        // One in three would be one time too many already; a hundred are allowed to each.
        assert!(times < 40, "let go {times} times in 4 loads");
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        for writer in writers {
            writer.end().await;
        }
        deployment.add(1_000_000).await;
        deployment.arrived(1_000_000).await;
        deployment.compare().await.assert_same();
        stop(replicat).await;
        stop(extract).await;
    }
}
