//! The initial load with its structure: made by pg_dump's words, before the rows and behind them, killed anywhere.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use irongate_tests::{Process, Server, wait_until};

use super::deployment::{Deployment, PATIENCE, stop};

const SMALL: &str = "[flows.csp.instantiate]\nchunk_size = \"64KiB\"\nparallel = 2\n";

/// A structure of every kind.
const STRUCTURE: &str = r#"
CREATE SCHEMA shop;
CREATE TYPE shop.colour AS ENUM ('red', 'green; blue');
CREATE DOMAIN shop.price AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE SEQUENCE shop.number START 100;
CREATE FUNCTION shop.next_number() RETURNS bigint LANGUAGE plpgsql AS $body$
BEGIN
    -- Name: nothing; Type: TABLE; Schema: shop; Owner: nobody
    RETURN nextval('shop.number');
END $body$;
CREATE TABLE shop.item (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number bigint NOT NULL DEFAULT shop.next_number() UNIQUE,
    colour shop.colour NOT NULL DEFAULT 'red',
    price shop.price,
    "odd ""name""" text DEFAULT E'it''s; \\',
    twice numeric GENERATED ALWAYS AS (price * 2) STORED);
CREATE TABLE shop.sale (id serial, item bigint NOT NULL REFERENCES shop.item ON DELETE CASCADE, at date NOT NULL,
    PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE shop.sale_2020 PARTITION OF shop.sale FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE shop.sale_rest PARTITION OF shop.sale DEFAULT;
CREATE INDEX ON shop.sale (at);
CREATE VIEW shop.dear AS SELECT * FROM shop.item WHERE price > 100;
CREATE FUNCTION shop.checked() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER checked BEFORE INSERT ON shop.item FOR EACH ROW EXECUTE FUNCTION shop.checked();
COMMENT ON TABLE shop.item IS 'what is sold; -- and not bought';
GRANT USAGE ON SCHEMA shop TO app_owner;
GRANT SELECT ON shop.item TO app_reader WITH GRANT OPTION;
GRANT USAGE ON SCHEMA shop TO app_reader;
INSERT INTO shop.item (price) SELECT n FROM generate_series(1, 3000) n;
INSERT INTO shop.sale (item, at) SELECT n, '2020-06-01'::date + n FROM generate_series(1, 3000) n;
ALTER TABLE shop.item OWNER TO app_owner;
"#;

/// What the catalogs say of the application's structure, in words that all versions have.
const FACTS: &str = "
SELECT string_agg(fact, E'\\n' ORDER BY fact) FROM (
    SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) AS fact
      FROM pg_constraint WHERE connamespace IN ('shop'::regnamespace, 'public'::regnamespace) AND contype <> 'n'
    UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index
      JOIN pg_class ON oid = indexrelid WHERE relnamespace IN ('shop'::regnamespace, 'public'::regnamespace)
    UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'default ' || adrelid::regclass || ' ' || pg_get_expr(adbin, adrelid) FROM pg_attrdef
      JOIN pg_class c ON c.oid = adrelid WHERE relnamespace IN ('shop'::regnamespace, 'public'::regnamespace)
    UNION ALL SELECT 'function ' || oid::regprocedure || prosrc FROM pg_proc WHERE pronamespace = 'shop'::regnamespace
    UNION ALL SELECT 'view ' || attname FROM pg_attribute WHERE attrelid = 'shop.dear'::regclass AND attnum > 0
    UNION ALL SELECT 'comment ' || obj_description('shop.item'::regclass)
    UNION ALL SELECT 'owner ' || relname || ' ' || pg_get_userbyid(relowner) FROM pg_class
      WHERE relnamespace = 'shop'::regnamespace
    UNION ALL SELECT 'right ' || has_table_privilege('app_reader', 'shop.item', 'SELECT WITH GRANT OPTION')
    UNION ALL SELECT 'identity ' || attname || attidentity::text || attgenerated::text FROM pg_attribute
      WHERE attrelid = 'shop.item'::regclass AND attnum > 0
) facts";

/// A source with a structure, and a target with none.
async fn deployment(majors: (u32, u32)) -> Deployment {
    let deployment = Deployment::between(majors, SMALL).await;
    for server in [&deployment.source, &deployment.target] {
        server.batch_in("app", "CREATE ROLE app_owner; CREATE ROLE app_reader").await;
    }
    deployment.target.batch_in("app", "DROP TABLE note, person").await;
    deployment.source.batch_in("app", STRUCTURE).await;
    let indexes: String = (0..12).map(|n| format!("CREATE INDEX person_{n} ON person (name, id);")).collect();
    deployment.source.batch_in("app", &indexes).await;
    let path = deployment.path().join("irongate.toml");
    let text = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, text.replace("[\"public.*\"]", "[\"public.*\", \"shop.*\"]")).expect("it is ours");
    deployment
}

/// The newest pg_dump here: `IRONGATE_PG_DUMP`, or what the path has.
fn newest_pg_dump() -> String {
    std::env::var("IRONGATE_PG_DUMP").unwrap_or_else(|_| "pg_dump".to_owned())
}

/// The newest source for a target that the pg_dump here can read.
fn source_for(target: u32) -> u32 {
    let output = Command::new(newest_pg_dump()).arg("--version").output().expect("servers come with pg_dump");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let digits = said.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
    let version: u32 = digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    if version < target {
        let _ = writeln!(
            std::io::stderr(),
            "\nskipped: --with-schema out of PostgreSQL {target}: pg_dump is of {version} (IRONGATE_PG_DUMP names another one)"
        );
    }
    let readable = Server::majors().into_iter().filter(|major| *major <= version.min(target));
    readable.max().expect("a source that pg_dump reads")
}

/// A program that stands for pg_dump.
fn program(deployment: &Deployment, name: &str, script: &str) -> PathBuf {
    let path = deployment.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

/// How many lines of the structure's ledger there are of a kind.
async fn count(server: &Server, which: &str) -> i64 {
    let there = server.scalar("app", "SELECT to_regclass('irongate.load_schema') IS NOT NULL").await;
    if there != "t" {
        return 0;
    }
    let sql = format!("SELECT count(*) FROM irongate.load_schema WHERE {which}");
    server.scalar("app", &sql).await.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn structure_and_rows_are_brought_to_an_empty_target_whenever_the_command_is_killed() {
    for major in Server::majors_in_turn() {
        let deployment = deployment((source_for(major), major)).await;
        deployment.expect(0, &["setup"]).await;
        let arguments = format!(
            "printf '%s ' \"$0\" \"$@\" >>\"$(dirname \"$0\")/arguments\"; exec '{}' \"$@\"",
            newest_pg_dump()
        );
        let pg_dump = program(&deployment, "pg_dump", &arguments);
        let pg_dump = pg_dump.to_str().expect("a name").to_owned();
        let words = ["instantiate", "csp", "--with-schema", "--pg-dump", &pg_dump, "--rate-limit", "200KiB"];
        // As soon as the structure is there, between the rows, and behind them.
        let rows = "SELECT count(*) FROM irongate.load_chunk";
        for point in 0..3 {
            let mut process = Process::irongate(deployment.path(), &words);
            wait_until(PATIENCE, &format!("point {point} of a load"), async || {
                assert!(process.is_running(), "{point}: {}", process.stderr());
                match point {
                    0 => count(&deployment.target, "before").await > 0,
                    1 => {
                        deployment.target.scalar("app", rows).await.parse::<i64>().is_ok_and(|rows| rows > 3)
                    }
                    _ => count(&deployment.target, "NOT before AND done_at IS NOT NULL").await > 2,
                }
            })
            .await;
            process.kill();
            process.wait(PATIENCE).await;
        }
        let left = count(&deployment.target, "done_at IS NULL").await;
        // What is gone on with knows its structure, whether it is told or not.
        let done = deployment.expect(0, &["instantiate", "csp"]).await;
        assert!(done.stderr.contains("resuming load"), "{}", done.stderr);
        assert!(left > 0 && count(&deployment.target, "done_at IS NULL").await == 0, "{left}");
        let said = fs::read_to_string(deployment.path().join("arguments")).expect("it was called");
        for secret in ["secret", "127.0.0.1", "postgresql://"] {
            assert!(!said.contains(secret), "{said}");
        }
        assert!(said.contains("--snapshot"), "{said}");
        let extract = deployment.start("csp-extract").await;
        let replicat = deployment.start("csp-replicat").await;
        deployment.source.batch_in("app", "INSERT INTO shop.item (price) VALUES (7)").await;
        deployment.add(5_000).await;
        deployment.arrived(5_000).await;
        deployment.compare().await.assert_same();
        let [source, target] = [&deployment.source, &deployment.target];
        let (source, target) = (source.scalar("app", FACTS).await, target.scalar("app", FACTS).await);
        assert_eq!(source, target);
        assert!(source.contains("person_11") && source.contains("owner item app_owner"), "{source}");
        stop(replicat).await;
        stop(extract).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_structure_that_cannot_be_copied_is_refused_by_name_and_nothing_is_changed() {
    let oldest = *Server::majors().first().expect("a version");
    let deployment = deployment((oldest, oldest)).await;
    deployment.expect(0, &["setup"]).await;
    let slot = "SELECT string_agg(slot_name || confirmed_flush_lsn, ',') FROM pg_replication_slots";
    let before = deployment.source.scalar("app", slot).await;
    let refused = async |more: &[&str], parts: &[&str]| {
        let words = [&["instantiate", "csp", "--with-schema"], more].concat();
        let said = deployment.expect(3, &words).await.stderr;
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(deployment.source.scalar("app", slot).await, before, "{said}");
        assert_eq!(
            deployment.target.scalar("app", "SELECT to_regclass('shop.item') IS NULL").await,
            "t",
            "{said}"
        );
    };
    // Programs that do not fit.
    let old = program(&deployment, "old", "echo 'pg_dump (PostgreSQL) 14.1'");
    refused(&["--pg-dump", old.to_str().expect("a name")], &["PostgreSQL 14", "--pg-dump"]).await;
    refused(&["--pg-dump", "/nonexistent/pg_dump"], &["/nonexistent/pg_dump", "cannot be used"]).await;
    let broken =
        "case $1 in --version) exec pg_dump --version;; esac; echo 'pg_dump: error: no luck' >&2; exit 1";
    let broken = program(&deployment, "broken", broken);
    refused(&["--pg-dump", broken.to_str().expect("a name")], &["no luck"]).await;
    // A role that is not there.
    deployment.target.batch_in("app", "DROP ROLE app_reader").await;
    refused(&[], &["app_reader", "CREATE ROLE"]).await;
    deployment.target.batch_in("app", "CREATE ROLE app_reader").await;
    // What is there and is not the source's.
    let other = "CREATE TABLE person (id int PRIMARY KEY, name varchar(5), at timestamptz)";
    deployment.target.batch_in("app", other).await;
    refused(&[], &["table public.person", "not the source's"]).await;
    deployment.target.batch_in("app", "DROP TABLE person; CREATE DOMAIN public.item AS int").await;
    // Looking only.
    let script = deployment.expect(0, &["instantiate", "csp", "--with-schema", "--print-sql"]).await.stdout;
    let place = |words: &str| script.find(words).unwrap_or_else(|| panic!("{words}: {script}"));
    assert!(place("CREATE TABLE public.note") < place("FOREIGN KEY (person)"), "{script}");
    assert!(place("CREATE INDEX person_0") < place("FOREIGN KEY (person)"), "{script}");
    assert!(!script.contains("irongate_extract"), "{script}");
    let plan = deployment.json(&["instantiate", "csp", "--with-schema", "--print-sql"]).await;
    assert!(plan["statements"].as_array().is_some_and(|all| all.len() > 20), "{plan}");
    assert_eq!(deployment.target.scalar("app", "SELECT to_regclass('person') IS NULL").await, "t");
    // What is there and equal stays: by somebody's hand, another owner's, and without its indexes.
    let equal = "CREATE TABLE person (id integer NOT NULL, name text NOT NULL, at timestamp with time zone DEFAULT now());
         ALTER TABLE person OWNER TO app_owner; ALTER TABLE person REPLICA IDENTITY FULL";
    deployment.target.batch_in("app", equal).await;
    deployment.expect(0, &["instantiate", "csp", "--with-schema"]).await;
    deployment.compare().await.assert_same();
    assert_eq!(deployment.target.scalar("app", FACTS).await, deployment.source.scalar("app", FACTS).await);
    // Everything is there now, and the rows are what is in the way.
    let said = deployment.expect(3, &["instantiate", "csp", "--with-schema"]).await.stderr;
    assert!(said.contains("have rows already"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_between_tables_of_different_moments_are_made_without_a_look_at_the_rows() {
    let oldest = *Server::majors().first().expect("a version");
    let deployment = Deployment::between((oldest, oldest), SMALL).await;
    deployment.target.batch_in("app", "DROP TABLE note, person").await;
    deployment.expect(0, &["setup"]).await;
    let more = "INSERT INTO note SELECT n, 2, repeat(md5(n::text), 40) FROM generate_series(1, 1000) n";
    deployment.source.batch_in("app", more).await;
    let words = ["instantiate", "csp", "--with-schema", "--rate-limit", "200KiB", "--parallel", "1"];
    let mut process = Process::irongate(deployment.path(), &words);
    // The smaller table is copied last: what is left of the larger one begins later.
    let begun = "SELECT count(*) FROM irongate.load_chunk";
    wait_until(PATIENCE, "the first chunk", async || {
        assert!(process.is_running(), "{}", process.stderr());
        deployment.target.scalar("app", begun).await != "0"
    })
    .await;
    process.kill();
    process.wait(PATIENCE).await;
    let keeper = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'irongate keeper%'";
    deployment.source.batch_in("app", keeper).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    deployment.add(6_000).await;
    deployment.source.batch_in("app", "INSERT INTO note VALUES (6000, 1, 'late')").await;
    let done = deployment.expect(0, &["instantiate", "csp"]).await;
    assert!(done.stderr.contains("VALIDATE"), "{}", done.stderr);
    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.add(7_000).await;
    deployment.arrived(7_000).await;
    deployment.compare().await.assert_same();
    deployment.target.batch_in("app", "ALTER TABLE note VALIDATE CONSTRAINT note_person_fkey").await;
    stop(replicat).await;
    stop(extract).await;
}
