//! Single tables copied anew: the others stay as they are and are followed all the while, and nothing is missed or done
//! twice, however often command, keeper and Replicat are killed.

use irongate_tests::{Process, Server, wait_until};
use irongate_trail::{Directory, Lsn};

use super::deployment::{Deployment, PATIENCE, Writer, stop};

const SMALL: &str = "[flows.csp.instantiate]\nchunk_size = \"64KiB\"\nparallel = 2\n";

/// Writes all tables.
fn changes(n: i32) -> String {
    format!(
        "BEGIN; INSERT INTO person VALUES ({n}, 'new {n}'); INSERT INTO note VALUES ({n}, 1, 'new'); COMMIT;
         UPDATE person SET name = 'changed {n}' WHERE id = {n} % 1000; DELETE FROM note WHERE person = {n} % 997;
         INSERT INTO big VALUES ({n}, repeat('x', 100)); UPDATE big SET t = t || 'y' WHERE id = {n} % 3000"
    )
}

const AGAIN: [&str; 8] =
    ["instantiate", "csp", "--table", "public.big", "--table", "public.person", "--rate-limit", "150KiB"];
const LOADING: &str = "SELECT done_at IS NULL FROM irongate.load";

/// Three tables that are written all the time, and a flow that follows.
async fn followed(major: u32) -> (Deployment, [Process; 2], Writer) {
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
    (deployment, [extract, replicat], writer)
}

/// Begins a load, or goes on with it, until it has more chunks than `chunks`.
async fn loads(deployment: &Deployment, words: &[&str], chunks: usize) -> Process {
    let mut process = Process::irongate(deployment.path(), words);
    let is_there = format!("SELECT count(*) > {chunks} FROM irongate.load_chunk");
    wait_until(PATIENCE, "chunks of it", async || {
        assert!(process.is_running(), "{}", process.stderr());
        deployment.target.scalar("app", LOADING).await == "t"
            && deployment.target.scalar("app", &is_there).await == "t"
    })
    .await;
    process
}

async fn kill(mut process: Process) {
    process.kill();
    process.wait(PATIENCE).await;
}

/// The other table is followed while the load is under way.
async fn others_are_followed(deployment: &Deployment) {
    let last = "SELECT coalesce(max(person), 0) FROM note";
    let now = deployment.source.scalar("app", last).await;
    let has_come = format!("SELECT max(person) > {now} FROM note");
    wait_until(PATIENCE, "the other table to be followed", async || {
        deployment.target.scalar("app", &has_come).await == "t"
    })
    .await;
    assert_eq!(deployment.target.scalar("app", LOADING).await, "t", "the load is not done meanwhile");
}

/// What the tables lack that are being copied is still to be read: the trail is kept.
async fn trail_is_kept(deployment: &Deployment) {
    let kept = "SELECT end_lsn FROM irongate.checkpoint WHERE flow = 'csp (aside)'";
    let kept: Lsn = deployment.target.scalar("app", kept).await.parse().expect("an LSN");
    let trail = Directory::new(deployment.path().join("state/trail/csp"));
    let readers = irongate_trail::readers(&trail).expect("the trail can be read");
    let (_, mark) = readers.iter().find(|(name, _)| name == "csp-replicat").expect("it has read");
    assert!(mark.resume_lsn.0 <= kept, "{mark:?} {kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_copied_anew_beside_a_flow_that_goes_on() {
    for major in Server::majors_in_turn() {
        let (deployment, [extract, mut replicat], writer) = followed(major).await;
        for (table, words) in [("public.nothing", "has no table public.nothing"), ("odd", "schema")] {
            let code = if table == "odd" { 2 } else { 3 };
            let said = deployment.expect(code, &["instantiate", "csp", "--table", table]).await.stderr;
            assert!(said.contains(words), "{said}");
        }
        // Damage that nobody can put right row by row; another table refers to one of the two.
        let spoil = "SET session_replication_role = replica; UPDATE big SET t = 'spoilt'; DELETE FROM person WHERE id % 3 = 0;
             INSERT INTO person VALUES (-1, 'a stranger')";
        deployment.target.batch_in("app", spoil).await;
        for round in 0..3 {
            let process = loads(&deployment, &AGAIN, round * 3).await;
            others_are_followed(&deployment).await;
            trail_is_kept(&deployment).await;
            kill(process).await;
            match round {
                0 => {
                    let words = "public.big, public.person, being copied anew";
                    wait_until(PATIENCE, "Replicat to say what it leaves out", async || {
                        deployment.group("csp-replicat").await["doing"].to_string().contains(words)
                    })
                    .await;
                    let compared = deployment.expect(4, &["compare", "csp", "--table", "public.big"]).await;
                    let said = format!("{}{}", compared.stdout, compared.stderr);
                    assert!(said.contains("is being copied anew"), "{said}");
                }
                1 => {
                    // The keeper, too: what is unfinished begins later still.
                    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'irongate keeper%'";
                    deployment.source.batch_in("app", end).await;
                }
                _ => {
                    kill(replicat).await;
                    replicat = deployment.start("csp-replicat").await;
                    others_are_followed(&deployment).await;
                }
            }
        }
        let other = deployment.expect(3, &["instantiate", "csp", "--table", "public.note"]).await.stderr;
        assert!(other.contains("a load is under way") && other.contains("public.big"), "{other}");
        let confirmed =
            "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots
             WHERE slot_name LIKE 'irongate%' AND NOT temporary";
        let behind: i64 = deployment.source.scalar("app", confirmed).await.parse().expect("a number");
        assert!(behind < 16 << 20, "the slot ages: {behind}");
        let done = deployment.expect(0, &["instantiate", "csp"]).await;
        assert!(done.stderr.contains("resuming load"), "{}", done.stderr);
        deployment.add(6_000).await;
        deployment.arrived(6_000).await;
        let stats = deployment.json(&["stats", "csp-replicat"]).await.to_string();
        assert!(stats.contains("skipped"), "{stats}");
        writer.end().await;
        deployment.add(7_000).await;
        deployment.arrived(7_000).await;
        deployment.compare().await.assert_same();
        assert_eq!(deployment.target.scalar("app", "SELECT count(*) FROM irongate.checkpoint").await, "1");
        stop(replicat).await;
        stop(extract).await;
    }
}

/// One load behind another, before the flow has brought the first one's tables to where the others are.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_begins_where_the_tables_of_the_last_one_are_not_where_the_others_are() {
    for major in Server::majors_in_turn() {
        let (deployment, [extract, replicat], writer) = followed(major).await;
        let first = loads(&deployment, &AGAIN, 2).await;
        others_are_followed(&deployment).await;
        stop(replicat).await;
        kill(first).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        let behind =
            "SELECT l.others_lsn > c.end_lsn FROM irongate.load l JOIN irongate.checkpoint c USING (flow)";
        assert_eq!(deployment.target.scalar("app", behind).await, "t");
        // The next one empties what was not copied the last time, and what was brings itself on meanwhile.
        let words = ["instantiate", "csp", "--table", "public.note", "--rate-limit", "20KiB"];
        let second = loads(&deployment, &words, 0).await;
        let replicat = deployment.start("csp-replicat").await;
        deployment.add(6_000).await;
        deployment.arrived(6_000).await;
        assert_eq!(deployment.target.scalar("app", LOADING).await, "t");
        kill(replicat).await;
        kill(second).await;
        // A checkpoint that waits for the copies is not moved.
        let refused =
            deployment.expect(1, &["position", "csp-replicat", "--to", "end", "--accept-loss"]).await.stderr;
        assert!(refused.contains("public.note"), "{refused}");
        let replicat = deployment.start("csp-replicat").await;
        // Given up by somebody who thinks better of it: what it was about is copied from the beginning.
        let anew = deployment.expect(0, &["instantiate", "csp", "--restart"]).await.stderr;
        assert!(anew.contains("is given up (as asked)") && anew.contains("1 of 3 tables"), "{anew}");
        writer.end().await;
        deployment.add(7_000).await;
        deployment.arrived(7_000).await;
        deployment.compare().await.assert_same();

        // Its stream is gone in the middle of a copy: nothing is emptied that nobody has asked to be, and all of it is brought.
        let third = loads(&deployment, &words, 0).await;
        kill(third).await;
        stop(replicat).await;
        stop(extract).await;
        let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '%csp'";
        deployment.source.batch_in("app", slot).await;
        let refused = deployment.expect(3, &["instantiate", "csp"]).await.stderr;
        assert!(refused.contains("--truncate") && refused.contains("slot is not there"), "{refused}");
        deployment.expect(0, &["instantiate", "csp", "--truncate"]).await;
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        deployment.add(8_000).await;
        deployment.arrived(8_000).await;
        deployment.compare().await.assert_same();
        stop(replicat).await;
        stop(extract).await;
    }
}
