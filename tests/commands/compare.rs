//! Compare and repair as an operator uses them: differences of all kinds, under load, across versions; everything that gets
//! in the way of a compare; what is repaired does not come back.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use irongate_tests::{Process, Server, wait_until};
use serde_json::Value;

use super::deployment::{Deployment, PATIENCE, stop};

/// Tables of every shape, filled; `id` above 5000 is the load's.
const SHAPES: &str = r#"
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE TABLE typed (id int PRIMARY KEY, b bool, n numeric, f float8, t text, c char(8), by bytea, ts timestamptz, d date,
  iv interval, u uuid, j json, jb jsonb, a int[], e mood, r int4range, net inet, bi bit varying, m money, co pair, p posint,
  x xml);
CREATE TABLE keyless (v text, n int); ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE parted (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (1000) TO (MAXVALUE);
CREATE TABLE ident (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (length(k)) STORED,
  v text);
CREATE TABLE toasted (id int PRIMARY KEY, big text, note text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."Odd ""t""" ("the key" text, part int, "it's" text, PRIMARY KEY ("the key", part));
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE sparse (id bigint PRIMARY KEY, v text);
CREATE TABLE extreme (id bigint PRIMARY KEY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent);
"#;

const ROWS: &str = r#"
INSERT INTO typed SELECT i, i % 2 = 0, i * 1.10, i / 3.0, 'text ' || i, 'c' || i, decode(md5(i::text), 'hex'),
  '2026-01-01'::timestamptz + i * interval '1 hour', '2026-01-01'::date + i % 1000, i * interval '1 minute', md5(i::text)::uuid,
  json_build_object('i', i), jsonb_build_object('i', i), ARRAY[i, NULL, i + 1],
  CASE i % 3 WHEN 0 THEN 'sad' WHEN 1 THEN 'ok' ELSE 'happy' END::mood, int4range(i, i + 5), '10.0.0.1'::inet + i,
  (i % 8)::bit(3)::varbit, i::money, ROW(i, 'b' || i)::pair, i, ('<i>' || i || '</i>')::xml FROM generate_series(1, 9000) i;
INSERT INTO keyless SELECT 'v' || i % 500, i % 10 FROM generate_series(1, 2000) i;
INSERT INTO keyless SELECT NULL, NULL FROM generate_series(1, 3);
INSERT INTO parted SELECT i, 'v' || i FROM generate_series(-100, 6000) i;
INSERT INTO ident (k, v) SELECT 'k' || i, 'v' || i FROM generate_series(1, 3000) i;
INSERT INTO toasted SELECT i, repeat(md5(i::text), 400), 'n' || i FROM generate_series(1, 300) i;
INSERT INTO "Odd schema"."Odd ""t""" SELECT 'it''s \ ' || i, i % 3, CASE WHEN i % 5 > 0 THEN 'é' || i END FROM generate_series(1, 2000) i;
INSERT INTO sparse SELECT 4000000000000000000 + i, 'v' || i FROM generate_series(1, 12000) i;
INSERT INTO sparse VALUES (0, 'least'), (9000000000000000000, 'most');
INSERT INTO extreme VALUES (-9223372036854775808), (-1);
INSERT INTO parent SELECT generate_series(1, 100);
INSERT INTO child SELECT i, i FROM generate_series(1, 100) i;
"#;

/// Statements that each make one row different at the target, and how many there are of each kind.
const DIFFERENCES: &[&str] = &[
    // 21: one in each column of every type group.
    "UPDATE typed SET b = NOT b WHERE id = 1",
    "UPDATE typed SET n = n + 0.01 WHERE id = 2",
    "UPDATE typed SET n = 3.300 WHERE id = 3",
    "UPDATE typed SET f = '-0' WHERE id = 4",
    "UPDATE typed SET f = 'NaN' WHERE id = 5",
    "UPDATE typed SET t = t || ' ' WHERE id = 6",
    "UPDATE typed SET t = NULL WHERE id = 7",
    "UPDATE typed SET c = 'other' WHERE id = 8",
    "UPDATE typed SET by = '\\x00' WHERE id = 9",
    "UPDATE typed SET ts = ts + interval '1 microsecond' WHERE id = 10",
    "UPDATE typed SET d = 'infinity' WHERE id = 11",
    "UPDATE typed SET iv = '1 month' WHERE id = 12",
    "UPDATE typed SET u = '00000000-0000-0000-0000-000000000000' WHERE id = 13",
    "UPDATE typed SET j = '{\"i\":  14}' WHERE id = 14",
    "UPDATE typed SET jb = '{\"i\": 15.0}' WHERE id = 15",
    "UPDATE typed SET a = '{NULL}' WHERE id = 16",
    "UPDATE typed SET e = 'sad' WHERE id = 17",
    "UPDATE typed SET r = 'empty' WHERE id = 18",
    "UPDATE typed SET bi = '1111', net = '::1' WHERE id = 19",
    "UPDATE typed SET m = -1, p = 77 WHERE id = 20",
    "UPDATE typed SET co = NULL, x = NULL WHERE id = 21",
    // 8 missing.
    "DELETE FROM typed WHERE id BETWEEN 101 AND 104",
    "DELETE FROM toasted WHERE id = 7",
    "DELETE FROM parted WHERE id IN (-5, 2000)",
    "DELETE FROM \"Odd schema\".\"Odd \"\"t\"\"\" WHERE \"the key\" = 'it''s \\ 9'",
    // 6 extra.
    "INSERT INTO typed (id, t) VALUES (-1, 'it''s \\ extra'), (20001, NULL)",
    "INSERT INTO parted VALUES (90001, 'extra')",
    "INSERT INTO empty VALUES (1)",
    "INSERT INTO ident (k, v) VALUES ('extra', 'x')",
    "INSERT INTO \"Odd schema\".\"Odd \"\"t\"\"\" VALUES ('', -1, NULL)",
    // 8 different otherwise.
    "UPDATE parted SET v = 'other' WHERE id = 3",
    "UPDATE sparse SET v = 'other' WHERE id = 4000000000000007777",
    "UPDATE toasted SET big = big || 'x' WHERE id = 8",
    "UPDATE toasted SET note = 'other' WHERE id = 9",
    "DELETE FROM ident WHERE k = 'k5'; INSERT INTO ident OVERRIDING SYSTEM VALUE VALUES ('k5', 99999, DEFAULT, 'v5')",
    "UPDATE ident SET v = NULL WHERE k = 'k6'",
    "UPDATE \"Odd schema\".\"Odd \"\"t\"\"\" SET \"it's\" = '' WHERE \"the key\" = 'it''s \\ 10'",
    "UPDATE person SET name = 'other' WHERE id = 5",
    // 5 rows of a table without a key: two copies fewer, one more, one that is another one now.
    "DELETE FROM keyless WHERE ctid IN (SELECT ctid FROM keyless WHERE v = 'v7' LIMIT 2)",
    "INSERT INTO keyless VALUES (NULL, NULL)",
    "UPDATE keyless SET n = -1 WHERE ctid = (SELECT min(ctid) FROM keyless WHERE v = 'v8')",
    // 2 missing, one of which needs the other to be there.
    "DELETE FROM child WHERE id = 50; DELETE FROM parent WHERE id = 50",
];

const MISSING: u64 = 8 + 2 + 2 + 1;
const EXTRA: u64 = 6 + 1 + 1;
const DIFFERENT: u64 = 21 + 8;

/// Writes at the source all the time, in rows that are not among the differences.
const LOAD: &[&str] = &[
    "UPDATE typed SET n = n + 1, t = t || 'x' WHERE id BETWEEN 5001 AND 5040",
    "DELETE FROM typed WHERE id = 5100; INSERT INTO typed (id, t) VALUES (5100, md5(random()::text))",
    "UPDATE typed SET id = -id WHERE abs(id) = 5200",
    "INSERT INTO keyless VALUES (md5(random()::text), 1); DELETE FROM keyless WHERE ctid IN (SELECT ctid FROM keyless WHERE length(v) = 32 LIMIT 1)",
    "UPDATE parted SET v = v || 'y' WHERE id BETWEEN 5000 AND 5005",
    "UPDATE toasted SET note = md5(random()::text) WHERE id > 290",
    "INSERT INTO person SELECT 100000 + coalesce(max(id), 0) % 100000 + 1, 'new' FROM person",
];

/// A flow between two versions with all of that, set up and running.
async fn world(majors: (u32, u32)) -> (Deployment, Vec<Process>) {
    let deployment = Deployment::between(majors, "").await;
    for server in [&deployment.source, &deployment.target] {
        server.batch_in("app", SHAPES).await;
    }
    deployment.source.batch_in("app", ROWS).await;
    let file = deployment.path().join("irongate.toml");
    let text = std::fs::read_to_string(&file).expect("the file is ours");
    let text = text.replace("[\"public.*\"]", "[\"public.*\", \"\\\"Odd schema\\\".*\"]");
    std::fs::write(&file, text).expect("the file is ours");
    deployment.expect(0, &["setup"]).await;
    deployment.expect(0, &["instantiate", "csp"]).await;
    let running = vec![deployment.start("csp-extract").await, deployment.start("csp-replicat").await];
    (deployment, running)
}

/// Copies of two rows that come and go all the time.
const CHURN: &[&str] = &[
    "INSERT INTO nk VALUES (1), (2); DELETE FROM nk WHERE ctid = (SELECT ctid FROM nk WHERE a = 1 LIMIT 1)",
];

struct Load {
    over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    async fn start(server: &Server, statements: &'static [&'static str]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for first in 0..2 {
            let (client, over) = (server.client("app").await, Arc::clone(&over));
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    let sql = statements[(count as usize + first * 3) % statements.len()];
                    // Two at the same row: one may lose.
                    let _ = client.batch_execute(sql).await;
                    count += 1;
                    // No more than a Replicat on a busy machine keeps up with.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                count
            }));
        }
        Self { over, tasks }
    }

    async fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let mut count = 0;
        for task in self.tasks {
            count += task.await.expect("the load ends in good order");
        }
        count
    }
}

fn psql(deployment: &Deployment, script: &str) -> String {
    let file = deployment.path().join("repair.sql");
    std::fs::write(&file, script).expect("the directory is ours");
    let uri = deployment.target.uri("postgres", "app");
    let done = Command::new("psql")
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&file)
        .arg(&uri)
        .output()
        .expect("psql is there: scripts/test installs it");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    said
}

/// Changes that a reverse Extract would send, and all there are behind a slot.
async fn captured(target: &Server, only_local: bool) -> String {
    let count = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_changes('looking', NULL, NULL, 'only-local', '{}')
          WHERE data LIKE 'table %' AND data NOT LIKE 'table irongate.%'",
        if only_local { "on" } else { "off" }
    );
    target.scalar("app", &count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_differences_of_all_kinds_are_found_under_load_and_repaired() {
    let majors = Server::majors();
    let mut pairs: Vec<(u32, u32)> = majors.iter().map(|major| (*major, *major)).collect();
    if majors.len() > 1 {
        pairs.push((majors[0], majors[majors.len() - 1]));
    }
    for majors in pairs {
        let (deployment, running) = world(majors).await;
        let load = Load::start(&deployment.source, LOAD).await;
        let clean = deployment.json(&["compare", "csp", "--settle", "100"]).await;
        assert_eq!(
            (&clean["differences"], &clean["unsettled"]),
            (&0.into(), &0.into()),
            "{majors:?} {clean}"
        );

        deployment
            .target
            .batch_in("app", "SELECT pg_create_logical_replication_slot('looking', 'test_decoding')")
            .await;
        for sql in DIFFERENCES {
            deployment
                .target
                .batch_in("app", &format!("SET session_replication_role = replica; {sql}"))
                .await;
        }
        let by_hand = captured(&deployment.target, true).await;
        assert_ne!(by_hand, "0", "what is written by hand is captured");

        let file = deployment.path().join("differences.jsonl");
        let file = file.to_str().expect("a path in UTF-8");
        let found = deployment
            .expect(3, &["compare", "csp", "--settle", "100", "--json", "--out", file])
            .await
            .json();
        let sum = |name: &str| -> u64 {
            let tables = found["tables"].as_array().expect("tables are a list");
            tables.iter().filter_map(|table| table[name].as_u64()).sum()
        };
        let kinds = (sum("missing_at_target"), sum("missing_at_source"), sum("different"));
        assert_eq!(kinds, (MISSING, EXTRA, DIFFERENT), "{majors:?} {found}");
        assert_eq!((&found["differences"], &found["unsettled"]), (&50.into(), &0.into()));

        // What is not the row any more that was compared is left alone; it is repaired by the next one.
        deployment.target.batch_in("app", "UPDATE person SET name = 'again another' WHERE id = 5").await;
        let script = deployment.expect(0, &["repair", "csp", "--from", file, "--print-sql"]).await.stdout;
        let said = psql(&deployment, &script);
        assert_eq!(said.matches("UPDATE 0").count(), 1, "{said}");
        let left = deployment
            .expect(3, &["compare", "csp", "--settle", "100", "--json", "--show", "5", "--values"])
            .await
            .json();
        assert_eq!(left["differences"], 1, "{majors:?} {left}");
        assert_eq!(left["shown"][0]["target"]["name"], "again another", "{left}");
        let done = deployment.json(&["repair", "csp", "--table", "public.per*", "--apply"]).await;
        assert_eq!((&done["repaired"], &done["left_alone"]), (&1.into(), &0.into()), "{done}");
        let clean = deployment.json(&["compare", "csp", "--settle", "100"]).await;
        assert_eq!(
            (&clean["differences"], &clean["unsettled"]),
            (&0.into(), &0.into()),
            "{majors:?} {clean}"
        );

        assert!(load.stop().await > 100);
        // One more row by hand than before: nothing of the repair was written like that.
        let now = captured(&deployment.target, true).await;
        let expected = by_hand.parse::<u64>().expect("a number") + 1;
        assert_eq!(now, expected.to_string(), "{majors:?}");
        assert_ne!(
            captured(&deployment.target, false).await,
            now,
            "the repair is in the log, under its origin"
        );
        for process in running {
            stop(process).await;
        }
        deployment.compare().await.assert_same();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_written_all_the_time_are_never_the_same_by_chance() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, "").await;
        for server in [&deployment.source, &deployment.target] {
            let nk = "CREATE TABLE nk (a int, b text); ALTER TABLE nk REPLICA IDENTITY FULL";
            server.batch_in("app", nk).await;
        }
        let fill =
            "INSERT INTO nk SELECT n, CASE WHEN n > 2 THEN 'v' || n END FROM generate_series(1, 100) n";
        deployment.source.batch_in("app", fill).await;
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        let running = [deployment.start("csp-extract").await, deployment.start("csp-replicat").await];
        deployment.expect(0, &["compare", "csp"]).await;
        let one_too_many = "SET session_replication_role = replica; INSERT INTO nk VALUES (1, NULL)";
        deployment.target.batch_in("app", one_too_many).await;
        let found = deployment.expect(3, &["compare", "csp", "--json"]).await.json();
        assert_eq!((&found["differences"], &found["unsettled"]), (&1.into(), &0.into()), "{major} {found}");

        // What is in the way of one number is in the way of the other: nobody can say, and nobody says that it is well.
        let load = Load::start(&deployment.source, CHURN).await;
        let compared = async |seeded: u64| {
            let arguments = ["compare", "csp", "--json", "--settle", "5"];
            let found = Process::irongate(deployment.path(), &arguments).finish(PATIENCE).await;
            let (code, document) = (found.code(), found.json());
            let nk = table(&document, "public.nk");
            let number = |name: &str| nk[name].as_u64().expect("a number");
            let (hot, unsettled) = (number("differences") - seeded, number("unsettled"));
            assert_eq!(code, if hot + seeded > 0 { 3 } else { 4 }, "{major} {document}");
            assert!(hot == 1 || hot == 0 && unsettled > 0, "{major} {document}");
            assert_eq!(nk["problem"], Value::Null, "{major} {document}");
        };
        for _ in 0..2 {
            compared(0).await;
        }
        // What nobody touches is told every time, beside what is being written.
        let seeds = "SET session_replication_role = replica; DELETE FROM nk WHERE a = 7; INSERT INTO nk VALUES (8, 'v8'), (8, 'v8'), (0, 'x')";
        deployment.target.batch_in("app", seeds).await;
        compared(4).await;
        let repair = ["repair", "csp", "--apply", "--json", "--settle", "5"];
        let done = deployment.expect(4, &repair).await.json();
        let repaired = done["repaired"].as_u64().expect("a number");
        assert!(repaired == 3 || repaired == 4, "{major} {done}");
        assert!(load.stop().await > 50);
        if repaired == 3 {
            let left = deployment.expect(3, &["compare", "csp", "--json", "--show", "9"]).await.json();
            assert_eq!((&left["differences"], &left["unsettled"]), (&1.into(), &0.into()), "{major} {left}");
            assert_eq!(left["shown"][0]["kind"], "missing_at_source", "{left}");
            let done = deployment.json(&["repair", "csp", "--apply"]).await;
            assert_eq!(done["repaired"], 1, "{done}");
        }
        deployment.expect(0, &["compare", "csp"]).await;
        for process in running {
            stop(process).await;
        }
        deployment.compare().await.assert_same();
        // Nothing comes through any more: numbers that are the same show nothing.
        let stopped = deployment.expect(4, &["compare", "csp", "--settle", "1"]).await;
        assert!(stopped.stderr.contains("public.nk have no key, and cannot be shown"), "{}", stopped.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unique_values_in_a_circle_are_repaired_and_what_is_refused_is_told_by_its_key() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::new(major, "").await;
        for server in [&deployment.source, &deployment.target] {
            server.batch_in("app", "CREATE TABLE uq (id int PRIMARY KEY, u int UNIQUE, w text)").await;
        }
        let fill = "INSERT INTO uq SELECT n, n, 'w' || n FROM generate_series(1, 1000) n";
        deployment.source.batch_in("app", fill).await;
        deployment.expect(0, &["setup"]).await;
        deployment.expect(0, &["instantiate", "csp"]).await;
        let running = [deployment.start("csp-extract").await, deployment.start("csp-replicat").await];
        // Two that are swapped, a circle that is longer than a batch, and a row that has the value of one that is missing.
        let circle = "SET session_replication_role = replica; UPDATE uq SET u = -u;
             UPDATE uq SET u = CASE WHEN id = 7 THEN 8 WHEN id = 8 THEN 7 WHEN id = 900 THEN 100
                 WHEN id BETWEEN 100 AND 899 THEN id + 1 ELSE id END;
             DELETE FROM uq WHERE id = 20; INSERT INTO uq VALUES (2020, 20, 'x'); UPDATE uq SET w = 'y' WHERE id = 30";
        for way in ["--print-sql", "--apply"] {
            deployment.target.batch_in("app", circle).await;
            let found = deployment.expect(3, &["compare", "csp", "--json"]).await.json();
            assert_eq!(found["differences"], 2 + 801 + 2 + 1, "{major} {found}");
            let done = deployment.expect(0, &["repair", "csp", way]).await;
            match way {
                "--print-sql" => drop(psql(&deployment, &done.stdout)),
                _ => assert!(done.stdout.contains("806 repaired"), "{}", done.stdout),
            }
            deployment.expect(0, &["compare", "csp"]).await;
        }
        // A script leaves alone what has changed since, also where it would take it out.
        deployment.target.batch_in("app", circle).await;
        let script =
            deployment.expect(0, &["repair", "csp", "--print-sql", "--table", "public.uq"]).await.stdout;
        deployment.target.batch_in("app", "DELETE FROM uq WHERE id = 8").await;
        psql(&deployment, &script);
        assert_eq!(deployment.target.scalar("app", "SELECT count(*) FROM uq WHERE id = 8").await, "0");
        deployment.expect(0, &["repair", "csp", "--apply"]).await;

        let refusing = "SET session_replication_role = replica; DELETE FROM uq WHERE id = 41;
             INSERT INTO person VALUES (5000, 'extra'); ALTER TABLE uq ADD CHECK (id <> 41)";
        deployment.target.batch_in("app", refusing).await;
        let stopped = deployment.expect(4, &["repair", "csp", "--apply"]).await.stderr;
        for said in
            ["row (id=41) of table public.uq", "1 differences were repaired before", "repair it by hand"]
        {
            assert!(stopped.contains(said), "{said}: {stopped}");
        }
        for process in running {
            stop(process).await;
        }
    }
}

fn table<'a>(found: &'a Value, name: &str) -> &'a Value {
    let tables = found["tables"].as_array().expect("tables are a list");
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("{name} is not in {found}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_or_settled_is_said_by_name() {
    let major = Server::majors()[0];
    let deployment = Deployment::ready(major, "").await;
    // Nothing runs, and nothing is different.
    deployment.expect(0, &["compare", "csp"]).await;
    // Nothing runs: what is different may be on its way, for all that anybody knows.
    deployment.source.batch_in("app", "UPDATE person SET name = 'new' WHERE id = 1").await;
    let found = deployment.expect(4, &["compare", "csp", "--json", "--settle", "1"]).await;
    let document = found.json();
    assert_eq!((&document["differences"], &document["unsettled"]), (&0.into(), &1.into()), "{document}");
    assert!(found.stderr.contains("has not applied"), "{}", found.stderr);
    let refused = deployment.expect(4, &["repair", "csp", "--apply", "--settle", "1"]).await;
    // An unsettled row is no difference that could be repaired.
    assert!(
        refused.stdout.contains("0 repaired") || refused.stderr.contains("nothing"),
        "{}",
        refused.stdout
    );

    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.expect(0, &["compare", "csp"]).await;

    let unknown = deployment.expect(2, &["compare", "csp", "--table", "public.nothing"]).await;
    assert!(unknown.stderr.contains("public.nothing"), "{}", unknown.stderr);
    deployment.expect(2, &["compare", "no-such-flow"]).await;
    deployment.expect(2, &["repair", "csp"]).await;
    let file = deployment.path().join("irongate.toml");
    deployment.expect(2, &["repair", "csp", "--apply", "--from", file.to_str().expect("UTF-8")]).await;

    deployment.expect(2, &["repair", "csp", "--apply", "--from", "/nonexistent/x"]).await;
    let out = deployment.expect(2, &["compare", "csp", "--out", "/nonexistent/x"]).await;
    assert!(out.stderr.contains("/nonexistent/x"), "{}", out.stderr);
    // What was compared elsewhere is refused, and what does not say where is taken with a warning.
    let kept = deployment.path().join("kept.jsonl");
    let from = ["repair", "csp", "--print-sql", "--from", kept.to_str().expect("UTF-8")];
    deployment.expect(0, &["compare", "csp", "--out", from[4]]).await;
    let heading = std::fs::read_to_string(&kept).expect("it is there");
    let ends = heading.find(",\"ends\"").expect("it says of which databases it is");
    let elsewhere = heading.replace("/app\"", "1/app\"");
    std::fs::write(&kept, elsewhere).expect("the file is ours");
    let refused = deployment.expect(2, &from).await;
    assert!(refused.stderr.contains("differences between the databases"), "{}", refused.stderr);
    std::fs::write(&kept, format!("{}}}\n", &heading[..ends])).expect("the file is ours");
    let warned = deployment.expect(0, &from).await;
    assert!(warned.stderr.contains("older release"), "{}", warned.stderr);

    // A right that is lacking, with what gives it.
    let owner = "SELECT rolname FROM pg_roles WHERE rolname ~ 'replicat'";
    let role = deployment.target.scalar("app", owner).await;
    deployment.target.batch_in("app", &format!("REVOKE ALL ON note FROM \"{role}\"")).await;
    let found = deployment.expect(4, &["compare", "csp", "--json"]).await;
    let note = table(&found.json(), "public.note").clone();
    assert!(note["problem"].as_str().is_some_and(|why| why.contains("may not read")), "{note}");
    assert!(
        note["hint"].as_str().is_some_and(|fix| fix.contains("GRANT SELECT ON \"public\".\"note\"")),
        "{note}"
    );
    assert_eq!(table(&found.json(), "public.person")["problem"], Value::Null, "the others are compared");
    let grant = note["hint"].as_str().expect("there is one").to_owned();
    deployment.target.batch_in("app", &grant).await;
    deployment.expect(0, &["compare", "csp"]).await;

    // Another column, and then no table.
    deployment.target.batch_in("app", "ALTER TABLE note RENAME text TO words").await;
    let found = deployment.expect(4, &["compare", "csp"]).await;
    assert!(found.stderr.contains("has no column \"text\""), "{}", found.stderr);
    deployment.target.batch_in("app", "DROP TABLE note").await;
    let found = deployment.expect(4, &["compare", "csp"]).await;
    assert!(found.stderr.contains("table public.note does not exist"), "{}", found.stderr);
    stop(extract).await;
    stop(replicat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compare_gets_over_killed_processes_and_lost_connections() {
    for major in Server::majors_in_turn() {
        let deployment = Deployment::ready(major, "").await;
        let fill = "INSERT INTO person SELECT n, repeat('x', 300) FROM generate_series(2000, 60000) n";
        deployment.source.batch_in("app", fill).await;
        let extract = deployment.start("csp-extract").await;
        let mut replicat = deployment.start("csp-replicat").await;
        deployment.arrived(60000).await;
        deployment.target.batch_in("app", "UPDATE person SET name = 'other' WHERE id = 77").await;
        // So slow that it is still at it when everything happens.
        let compare = Process::irongate(deployment.path(), &["compare", "csp", "--json", "--rate", "8"]);
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'irongate compare'";
        for server in [&deployment.source, &deployment.target] {
            wait_until(PATIENCE, "sessions to cut", async || server.scalar("app", cut).await != "0").await;
        }
        replicat.kill();
        // In flight now, and to stay so until the next Replicat.
        deployment.source.batch_in("app", "UPDATE person SET name = 'late' WHERE id % 100 = 0").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let replicat = deployment.start("csp-replicat").await;
        let found = compare.finish(PATIENCE).await;
        assert_eq!(found.code(), 3, "{}\n{}", found.stdout, found.stderr);
        assert_eq!(found.json()["differences"], 1, "{}", found.stdout);
        let done = deployment.json(&["repair", "csp", "--apply", "--only", "different"]).await;
        assert_eq!(done["repaired"], 1, "{done}");

        // A table that is altered in the middle, and a compare that is ended.
        deployment.target.batch_in("app", "UPDATE person SET name = 'other' WHERE id = 77").await;
        let compare =
            Process::irongate(deployment.path(), &["compare", "csp", "--rate", "8", "--parallel", "1"]);
        let there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'irongate compare' AND query LIKE '%hashtext%person%'";
        wait_until(PATIENCE, "the compare to be at it", async || {
            deployment.target.scalar("app", there).await != "0"
        })
        .await;
        for server in [&deployment.source, &deployment.target] {
            server.batch_in("app", "ALTER TABLE person RENAME at TO seen").await;
        }
        let found = compare.finish(PATIENCE).await;
        assert_eq!(found.code(), 4, "{}\n{}", found.stdout, found.stderr);
        assert!(found.stderr.contains("public.person was altered"), "{}", found.stderr);
        let out = deployment.path().join("never.jsonl");
        let out = out.to_str().expect("UTF-8");
        let mut compare =
            Process::irongate(deployment.path(), &["compare", "csp", "--rate", "1", "--out", out]);
        wait_until(PATIENCE, "the compare to be at it", async || {
            deployment.target.scalar("app", there).await != "0"
        })
        .await;
        compare.terminate();
        assert_eq!(compare.wait(PATIENCE).await.code(), Some(1), "{}", compare.stderr());
        assert!(!std::path::Path::new(out).exists(), "a part would look like the whole");
        stop(extract).await;
        stop(replicat).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_at_the_standby_is_found_by_the_compare_in_the_background() {
    let often = "[manager]\nwatch_interval = \"200ms\"\ncompare_interval = \"1s\"\ncompare_rate = \"8MiB\"\n";
    let deployment = Deployment::ready(Server::majors()[0], often).await;
    let manager = Process::irongate(deployment.path(), &["manager"]);
    let last = async || deployment.json(&["info"]).await["compares"][0].clone();
    wait_until(PATIENCE, "a compare in the background", async || {
        let last = last().await;
        last["differences"] == 0 && last["rows"] == 2000 && last["problem"].is_null()
    })
    .await;
    deployment.expect(0, &["health"]).await;
    // A superuser is not kept out.
    deployment
        .target
        .batch_in("app", "SET session_replication_role = replica; DELETE FROM person WHERE id = 9")
        .await;
    wait_until(PATIENCE, "the difference to be found", async || last().await["differences"] == 1).await;
    wait_until(PATIENCE, "the alarm", async || {
        let health = Process::irongate(deployment.path(), &["health"]).finish(PATIENCE).await;
        health.code() == 4 && (health.stdout + &health.stderr).contains("1 rows of the target")
    })
    .await;
    let events = deployment.expect(0, &["events"]).await.stdout;
    assert!(events.contains("are not those of the source (public.person)"), "{events}");
    deployment.expect(0, &["repair", "csp", "--apply"]).await;
    // It takes care of itself when the next compare finds nothing.
    wait_until(PATIENCE, "health", async || {
        Process::irongate(deployment.path(), &["health"]).finish(PATIENCE).await.code() == 0
    })
    .await;
    assert!(deployment.expect(0, &["info"]).await.stdout.contains("flow \"csp\" compared 0 min ago"));
    // The other way round, which needs a Replicat's role there.
    deployment.target.batch_in("app", "UPDATE person SET name = 'kept' WHERE id = 3").await;
    let back = ["repair", "csp", "--apply", "--direction", "target-to-source"];
    let refused = deployment.expect(1, &back).await;
    assert!(
        refused.stderr.contains("app.main") && refused.stderr.contains("CREATE ROLE \"irongate_replicat\""),
        "{}",
        refused.stderr
    );
    let mut grants = irongate_checkpoint::origin_grants("irongate_replicat").join(";");
    grants.push_str(
        "; GRANT SELECT ON person TO irongate_replicat; GRANT CONNECT ON DATABASE app TO irongate_replicat",
    );
    let role = "CREATE ROLE irongate_replicat LOGIN PASSWORD 'a secret of its own'";
    deployment.source.batch_in("app", &format!("{role}; {grants}")).await;
    let refused = deployment.expect(3, &back).await;
    assert!(refused.stderr.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"), "{}", refused.stderr);
    deployment
        .source
        .batch_in("app", "GRANT SELECT, INSERT, UPDATE, DELETE ON person TO irongate_replicat")
        .await;
    deployment.expect(0, &back).await;
    assert_eq!(deployment.source.scalar("app", "SELECT name FROM person WHERE id = 3").await, "kept");
    deployment.compare().await.assert_same();
    stop(manager).await;
}
