//! What befalls the compare of a `reinstate`, and what is known before it.

use std::time::Duration;

use irongate_tests::books::{ACCESS, at_sites, follows, power_off, power_on, prepared, running};
use irongate_tests::{Cut, Plan, Process, Reference, SITES, Server, wait_until};
use serde_json::Value;

use super::deployment::{Deployment, PATIENCE, stop};

/// One that takes seconds to be read, at the rate below, and some that are read behind it.
const TABLES: &str =
    "CREATE TABLE big (id int PRIMARY KEY, v text); ALTER TABLE big ALTER v SET STORAGE PLAIN;
    CREATE TABLE small (id int PRIMARY KEY, v text); CREATE TABLE emptied (id int PRIMARY KEY, v text);
    CREATE TABLE part (id int, k text, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
    CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
    CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b')";
const RATE: &str = "[flows.css.instantiate]\nrate_limit = \"1MiB\"\n";
const BEFORE: &str = "INSERT INTO big SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 2000) n;
    INSERT INTO small SELECT n, 'old' FROM generate_series(1, 200) n;
    INSERT INTO emptied SELECT n, 'old' FROM generate_series(1, 200) n;
    INSERT INTO part SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 'old' FROM generate_series(1, 200) n";
/// What a migration does to the tables, none of which changes its structure.
const REWRITE: [&str; 3] = [
    "ALTER TABLE small ALTER v TYPE text USING v || ''",
    "TRUNCATE emptied; INSERT INTO emptied SELECT n, 'anew' FROM generate_series(1, 50) n",
    "TRUNCATE part_a; INSERT INTO part SELECT n, 'a', 'anew' FROM generate_series(1, 30) n",
];
const WORDS: [&str; 3] = ["reinstate", "main", "--accept-loss"];
/// How many sessions read for a compare.
const READERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'irongate compare'";

/// A deployment whose main site was lost and is back, closed; its managers.
async fn lost(major: u32) -> (Reference, [Process; 2]) {
    let plan = Plan::new(major).more(ACCESS).more(RATE).extract("file_size = \"1MiB\"\n").control();
    let mut reference = prepared(at_sites(plan.tables(TABLES, ""))).await;
    let [first, secondary] = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    reference.servers[0].batch_in("config", BEFORE).await;
    follows(&reference, 0, -1).await;
    power_off(&mut reference);
    reference.expect("secondary", 0, &["failover", "--to", "secondary", "--accept-loss"]).await;
    // A transaction is whole in one file of the trail.
    for n in 0..10 {
        let update = format!("UPDATE big SET v = repeat(md5(v), 60) WHERE id % 10 = {n}");
        reference.servers[1].batch_in("config", &update).await;
    }
    reference.servers[1].batch_in("config", "UPDATE small SET v = 'new' WHERE id <= 20").await;
    let main = power_on(&mut reference).await;
    drop(first);
    (reference, [main, secondary])
}

fn evidence<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().expect("steps");
    &steps.iter().find(|step| step["name"] == name).expect("the step was done")["evidence"]
}

/// What is known beforehand: how many rows may differ, and whether there may be more.
async fn known(reference: &Reference) -> (u64, bool) {
    let dry = reference.json("secondary", &[&WORDS[..], &["--dry-run", "--by", "repair"]].concat()).await;
    let estimate = &evidence(&dry, "prechecks")["estimates"][0];
    (estimate["changed"].as_u64().expect("a number"), estimate["and_more"].as_bool().expect("yes or no"))
}

/// The compare reads at the live site, having said this.
async fn compares(reference: &Reference, run: &mut Process, said: &str) {
    wait_until(PATIENCE, "the compare to read", async || {
        run.stderr().contains(said) && reference.servers[1].scalar("config", READERS).await == "2"
            || !run.is_running()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Tables that are emptied or rewritten while they are compared keep their rows, and a snapshot that is lost makes nothing
/// of it a copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_compare_beside_a_migration_loses_no_row_and_one_that_is_cut_off_is_made_again() {
    let majors = Server::majors();
    let ends = [majors[0], *majors.last().expect("a version")];
    for (number, major) in ends.into_iter().enumerate() {
        let (mut reference, managers) = lost(major).await;
        // What an administrator sets against applications that forget their transactions.
        let limit = if major >= 17 {
            "transaction_timeout = '3s'"
        } else {
            "idle_in_transaction_session_timeout = '1500ms'"
        };
        reference.servers[1].batch(&format!("ALTER SYSTEM SET {limit}")).await;
        reference.servers[1].reload();

        let mut run = reference.start("secondary", &[&WORDS[..], &["--json"]].concat());
        compares(&reference, &mut run, "compare: begins").await;
        for statement in REWRITE {
            let begun = std::time::Instant::now();
            let unlimited = if major >= 17 { "SET transaction_timeout = 0; " } else { "" };
            reference.servers[1].batch_in("config", &format!("{unlimited}{statement}")).await;
            // It waits for a table that is being read just now, and for no other.
            assert!(begun.elapsed() < Duration::from_secs(60), "{statement}: {:?}", begun.elapsed());
        }
        compares(&reference, &mut run, "comparing again").await;
        assert!(run.stderr().contains("was emptied or rewritten"), "{}", run.stderr());
        if number == 0 {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'irongate reinstate'";
            reference.servers[1].batch(end).await;
        } else {
            reference.servers[1].kill();
            tokio::time::sleep(Duration::from_secs(1)).await;
            reference.servers[1].start_again().await;
        }
        let done = run.finish(PATIENCE).await;
        println!("PostgreSQL {major}: {}", done.stderr);
        assert!(done.stderr.contains("is lost"), "{}", done.stderr);
        let done = if done.code() == 0 {
            done.json()
        } else {
            // The run's own sessions had ended with the server.
            assert_ne!(number, 0, "{}", done.stderr);
            reference.json("secondary", &["reinstate", "main", "--resume"]).await
        };
        assert_eq!(
            (&done["result"], &evidence(&done, "compare")["by"]),
            (&"done".into(), &"repair".into()),
            "{done}"
        );
        follows(&reference, 1, 1).await;
        let rows = "SELECT (SELECT count(*) FROM small) || ' ' || (SELECT count(*) FROM emptied) || ' ' || (SELECT count(*) FROM part)";
        assert_eq!(reference.servers[0].scalar("config", rows).await, "200 50 130");
        for manager in managers {
            stop(manager).await;
        }
    }
}

/// An estimate counts what there is of the trail, and refuses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_differ_is_counted_over_all_slots_and_without_what_was_purged_or_damaged() {
    let (reference, managers) = lost(Server::majors()[0]).await;
    let (all, and_more) = known(&reference).await;
    assert!(all >= 2020 && !and_more, "{all} {and_more}");
    // A run that is taken back leaves another slot's trail behind.
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "compare", place: "2500" };
    assert!(reference.cut_off("secondary", &cut).await);
    reference.expect("secondary", 0, &["reinstate", "main", "--abort"]).await;
    let (counted, and_more) = known(&reference).await;
    assert!(counted >= all && and_more, "{counted} {and_more}");
    let directory = reference.trails("secondary").join("css");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("the trail is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "trail"))
        .collect();
    files.sort();
    assert!(files.len() > 2, "{files:?}");
    std::fs::remove_file(&files[0]).expect("it is there");
    let (left, and_more) = known(&reference).await;
    assert!(left > 0 && left < counted && and_more, "{left} of {counted}");
    let mut bytes = std::fs::read(&files[1]).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&files[1], bytes).expect("it is ours");
    let (undamaged, and_more) = known(&reference).await;
    assert!(undamaged > 0 && undamaged < left && and_more, "{undamaged} of {left}");
    for manager in managers {
        stop(manager).await;
    }
}

/// Rows without a key are found by going through their table: a few times, and not once for every few of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_without_a_key_are_fetched_in_a_few_scans() {
    let deployment = Deployment::new(Server::majors()[0], "").await;
    for server in [&deployment.source, &deployment.target] {
        let table = "CREATE TABLE nk (a int, b text); ALTER TABLE nk REPLICA IDENTITY FULL";
        server.batch_in("app", table).await;
    }
    let fill = "INSERT INTO nk SELECT n, 'v' || n FROM generate_series(1, 10000) n";
    deployment.source.batch_in("app", fill).await;
    deployment.expect(0, &["setup"]).await;
    deployment.expect(0, &["instantiate", "csp"]).await;
    let running = [deployment.start("csp-extract").await, deployment.start("csp-replicat").await];
    deployment.target.batch_in("app", "DELETE FROM nk WHERE a <= 2000").await;
    let scans = async || {
        // A session tells what it has done when it ends.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let sql = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'nk'";
        deployment.source.scalar("app", sql).await.parse::<u64>().expect("a number")
    };
    let before = scans().await;
    deployment.expect(3, &["compare", "csp", "--out", "found"]).await;
    let took = scans().await - before;
    assert!(took < 20, "{took}");
    deployment.expect(0, &["repair", "csp", "--from", "found", "--apply"]).await;
    deployment.expect(0, &["compare", "csp"]).await;
    for process in running {
        stop(process).await;
    }
}
