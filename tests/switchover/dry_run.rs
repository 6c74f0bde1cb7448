//! A dry run says everything that is wrong, at once, each with what mends it, and changes nothing. And what happens by
//! accident at a standby.

use std::time::Duration;

use irongate_tests::books::{ACCESS, at_sites};
use irongate_tests::{Plan, Process, Reference, SITES, Server, Tables, compare, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const TABLES: &str = "CREATE TABLE extra (id int PRIMARY KEY, word text); CREATE SEQUENCE lonely;
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY REFERENCES parent)";
const DRY: [&str; 4] = ["switchover", "--to", "secondary", "--dry-run"];

/// Everything that a run could change in a database and its server.
const STATE: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT format('relation %s %s %s %s', c.oid, c.oid::regclass, c.relowner::regrole, c.relacl) FROM pg_class c
         WHERE c.relnamespace IN ('public'::regnamespace, to_regnamespace('irongate'))
        UNION ALL SELECT format('column %s %s %s', attrelid::regclass, attname, attacl) FROM pg_attribute a
                    JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL SELECT format('trigger %s %s', tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT format('slot %s %s %s', slot_name, database, active) FROM pg_replication_slots
        UNION ALL SELECT format('origin %s', roname) FROM pg_replication_origin
        UNION ALL SELECT format('publication %s', pubname) FROM pg_publication
        UNION ALL SELECT format('role %s %s %s %s', rolname, rolcanlogin, rolsuper, rolvaliduntil) FROM pg_roles
        UNION ALL SELECT format('member %s %s', roleid::regrole, member::regrole) FROM pg_auth_members
        UNION ALL SELECT format('database %s %s', datname, datacl) FROM pg_database
        UNION ALL SELECT format('prepared %s', gid) FROM pg_prepared_xacts
        UNION ALL SELECT format('sequence %s %s', sequencename, last_value) FROM pg_sequences WHERE schemaname = 'public'
        UNION ALL SELECT format('rows %s %s', t, query_to_xml(format('TABLE %s', t), true, false, ''))
                    FROM unnest(ARRAY['irongate.fence', 'irongate.role', 'irongate.error_queue']) t
                   WHERE to_regclass(t) IS NOT NULL
    ) s (line)";

async fn state(reference: &Reference) -> Vec<String> {
    let mut state = Vec::new();
    for server in &reference.servers {
        for database in ["config", "log"] {
            state.push(server.scalar(database, STATE).await);
        }
    }
    let runs = reference.json("secondary", &["runs"]).await;
    state.push(runs.to_string());
    state
}

/// The reference deployment in normal mode, with a standby that is closed.
async fn normal(major: u32) -> (Reference, [Process; 2]) {
    let reference = at_sites(Plan::new(major).tables(TABLES, "").more(ACCESS).control()).make().await;
    for server in &reference.servers {
        let rights = "CREATE ROLE app LOGIN; GRANT ALL ON entry, extra, parent, child, lonely TO app";
        server.batch_in("config", rights).await;
    }
    for (flow, site) in [("csp", "main"), ("css", "secondary")] {
        reference.expect(site, 0, &["setup", flow]).await;
    }
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    (reference, managers)
}

async fn running(reference: &Reference) {
    wait_until(PATIENCE, "everything but the reverse set to run", async || {
        let info = reference.start("main", &["info", "--json"]).finish(PATIENCE).await.json();
        let groups = info["groups"].as_array().expect("groups are a list").clone();
        let running = |group: &&Value| group["state"] == "RUNNING" && group["flow"] != "css";
        groups.iter().filter(running).count() == 11
    })
    .await;
}

async fn stop(managers: [Process; 2]) {
    for mut manager in managers {
        manager.terminate();
        let status = manager.wait(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", manager.stderr());
    }
}

/// A dry run that is refused: each of these is said, and nothing has changed.
async fn refused(reference: &Reference, more: &[&str], faults: &[&str]) {
    let before = state(reference).await;
    let said = reference.expect("secondary", 3, &[&DRY[..], more].concat()).await.stderr;
    println!("{said}");
    for fault in faults {
        assert!(said.contains(fault), "\"{fault}\" is not said:\n{said}");
    }
    let after = state(reference).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after, "a dry run has changed something");
    }
}

async fn prepares_and_holds(server: &Server) -> tokio_postgres::Client {
    let prepared = "BEGIN; INSERT INTO entry VALUES ('prepared', 1); PREPARE TRANSACTION 'later'";
    server.batch_in("log", prepared).await;
    let long = server.client("postgres").await;
    long.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    long
}

/// Has the ledger say that a table is being copied anew, or is there.
fn half_copied(done: &str, again: bool) -> String {
    format!(
        "INSERT INTO irongate.load (flow, job, system_identifier, timeline, slot_incarnation, consistent_point, trail_seqno,
                trail_offset, epoch, snapshot, snapshot_lsn, snapshot_time, keeper_pid, keeper_start, done_at, beside)
            SELECT flow, 'j', system_identifier, timeline, slot_incarnation, end_lsn, 1, 0, epoch, 's', end_lsn, now(), 1, 'x',
                   {done}, {again} FROM irongate.checkpoint WHERE flow = 'csp'
            ON CONFLICT (flow) DO UPDATE SET done_at = excluded.done_at, beside = excluded.beside;
         INSERT INTO irongate.load_table (flow, source_schema, source_table, target_schema, target_table, generation,
                start_lsn, chunks, chunk_blocks, size, again)
            VALUES ('csp', 'public', 'extra', 'public', 'extra', 2, '0/1', 1, 0, 1, {again})
            ON CONFLICT (flow, source_schema, source_table) DO UPDATE SET again = excluded.again"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_every_fault_and_changes_nothing() {
    for major in Server::majors_in_turn() {
        let (reference, managers) = normal(major).await;
        let [main, secondary] = &reference.servers;
        // The preflight finds nothing that should not be so, although the reverse flow has neither slot nor trail.
        let check = async |severity: &str| -> Vec<String> {
            let found = reference.start("secondary", &["check", "--json"]).finish(PATIENCE).await.json();
            let found = found["findings"].as_array().expect("findings are a list").clone();
            found.iter().filter(|found| found["severity"] == severity).map(ToString::to_string).collect()
        };
        assert_eq!(check("error").await, [""; 0]);
        main.batch("ALTER ROLE app SUPERUSER").await;
        let warnings = check("warning").await.join("\n");
        assert!(
            warnings.contains("config.main: fence") && warnings.contains("ALTER ROLE app NOSUPERUSER"),
            "{warnings}"
        );
        main.batch("ALTER ROLE app NOSUPERUSER").await;
        // There and back, so that there are roles, and a reverse set that could run.
        reference.expect("secondary", 0, &["switchover", "--to", "secondary"]).await;
        reference.expect("main", 0, &["switchover", "--to", "main"]).await;

        // Nothing is wrong, and there are things to be seen.
        main.batch_in("config", "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER noted AFTER INSERT ON extra FOR EACH ROW EXECUTE FUNCTION noted(); SELECT lo_create(0)").await;
        secondary.batch_in("config", "ALTER TABLE child DROP CONSTRAINT child_id_fkey").await;
        let before = state(&reference).await;
        let report = reference.json("secondary", &DRY).await;
        assert_eq!(report["result"], "checked", "{report}");
        let notes = report["steps"][0]["evidence"]["notes"].to_string();
        for note in [
            "trigger \\\"noted\\\" of table public.extra",
            "foreign key \\\"child_id_fkey\\\"",
            "large objects",
            "its log takes",
            "nobody knows of a compare of all its tables",
        ] {
            assert!(notes.contains(note), "{note}: {notes}");
        }
        let text = reference.expect("secondary", 0, &DRY).await.stdout;
        let text: Vec<&str> = text.split_whitespace().collect();
        assert!(
            text.join(" ").contains("trigger \"noted\" of table public.extra: config.main has it"),
            "{text:?}"
        );
        assert_eq!(state(&reference).await, before);

        // The site that writes is not closed by a slip of the finger.
        let said = reference.expect("main", 3, &["fence", "main"]).await.stderr;
        assert!(said.contains("is written by its applications") && said.contains("--force"), "{said}");
        main.try_client("app", "config").await.unwrap();

        // Many things at once.
        let long = prepares_and_holds(secondary).await;
        let writer = main.client("config").await;
        writer.batch_execute("BEGIN; INSERT INTO extra VALUES (1, 'one')").await.unwrap();
        let room: usize = secondary.scalar("config", "SHOW max_replication_slots").await.parse().unwrap();
        for n in 1..room {
            secondary.batch(&format!("SELECT pg_create_physical_replication_slot('filler_{n}')")).await;
        }
        let queued = "INSERT INTO irongate.error_queue (flow, commit_lsn, ordinal, xid, commit_time, table_schema, table_name,
                          operation, key_columns, whole_transaction, class, reason, state)
                      SELECT 'csp', '0/1', 1, 1, now(), 'public', 'entry', 'insert', '{n}', false, '23', 'no', s
                        FROM unnest(ARRAY['queued', 'skipped']) s";
        secondary
            .batch_in("config", &format!("{queued}; ALTER TABLE extra DROP word; DROP SEQUENCE lonely"))
            .await;
        secondary.batch_in("config", &half_copied("NULL", true)).await;
        secondary.batch_in("config", "GRANT INSERT ON entry TO app").await;
        secondary.batch("ALTER ROLE app VALID UNTIL '2001-01-01'").await;
        main.batch("ALTER ROLE app SUPERUSER").await;
        reference.expect("secondary", 0, &["stop", "csp-replicat"]).await;
        reference.expect("secondary", 0, &["start", "css-pump"]).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        refused(
            &reference,
            &["--slot-timeout", "1", "--writers-timeout", "1"],
            &[
                "prepared transaction \"later\" of role \"postgres\" in database \"log\" at config.secondary: it is open, and the reverse slot waits for it",
                "its transaction has written and is open for",
                "the reverse slot would wait 1 s for it (end it: SELECT pg_terminate_backend(",
                "the fence would wait 1 s for it (end it: SELECT pg_terminate_backend(",
                "config.secondary: 1 changes of flow \"csp\" wait in the error queue (irongate errors list csp",
                "config.secondary: a load of flow \"csp\" is not done; not whole are public.extra (irongate instantiate csp",
                "group \"csp-replicat\": it is STOPPED",
                "group \"css-pump\": it runs, and the reverse set must be stopped (irongate stop css-pump)",
                "column \"word\" of table public.extra: it does not exist (ALTER TABLE \"public\".\"extra\" ADD COLUMN",
                "sequence public.lonely: it does not exist",
                "setting \"max_replication_slots\": all 20 slots are taken",
                "role app is a superuser (ALTER ROLE app NOSUPERUSER)",
                "role \"app\" at config.secondary: its password has expired",
                "1 rights came behind its fence (irongate fence secondary takes them too)",
            ],
        )
        .await;

        // Mended, and wrong in other ways.
        secondary.batch_in("config", &half_copied("now()", false)).await;
        long.batch_execute("ROLLBACK").await.unwrap();
        writer.batch_execute("ROLLBACK").await.unwrap();
        main.batch("ALTER ROLE app NOSUPERUSER").await;
        reference.expect("secondary", 0, &["stop", "css-pump"]).await;
        secondary.batch_in("log", "ROLLBACK PREPARED 'later'").await;
        for n in 1..room {
            secondary.batch(&format!("SELECT pg_drop_replication_slot('filler_{n}')")).await;
        }
        secondary.batch("ALTER ROLE app VALID UNTIL 'infinity'; ALTER ROLE app CONNECTION LIMIT 0").await;
        let renamed = "ALTER TABLE irongate.error_queue RENAME TO away; ALTER TABLE extra ADD word text";
        secondary.batch_in("config", renamed).await;
        secondary.batch_in("config", "CREATE SEQUENCE lonely").await;
        // Behind on account of a lock of somebody who has not written.
        secondary.batch_in("config", "REVOKE INSERT ON entry FROM app").await;
        let lock = secondary.client("config").await;
        lock.batch_execute("BEGIN; LOCK TABLE entry IN SHARE MODE").await.unwrap();
        reference.expect("secondary", 0, &["start", "csp-replicat"]).await;
        main.batch_in(
            "config",
            "INSERT INTO entry VALUES ('late', 1); ALTER ROLE app NOLOGIN; ALTER ROLE app LOGIN",
        )
        .await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        secondary.batch("ALTER DATABASE config CONNECTION LIMIT 0").await;
        refused(
            &reference,
            &["--max-lag", "1"],
            &[
                "flow \"csp\": the target is ",
                " s behind its trail, and 1 s are allowed (irongate info csp-replicat shows what it waits for)",
                "config.secondary: table irongate.error_queue does not exist (irongate setup csp)",
                "role \"app\" at config.secondary: its connection limit is 0 (ALTER ROLE app CONNECTION LIMIT -1)",
                "config.secondary: its connection limit is 0: applications would be refused",
                // Made anew, and without what the applications had.
                "role \"app\" at config.secondary: behind the opening it would lack what it has at config.main",
                "on public.lonely",
            ],
        )
        .await;

        lock.batch_execute("ROLLBACK").await.unwrap();
        let mended = "ALTER TABLE irongate.away RENAME TO error_queue; DELETE FROM irongate.error_queue WHERE state = 'queued';
             GRANT ALL ON lonely TO app; GRANT SELECT, UPDATE ON lonely TO irongate_replicat;
             GRANT SELECT ON lonely TO irongate_extract; ALTER DATABASE config CONNECTION LIMIT -1; ALTER ROLE app CONNECTION LIMIT -1";
        secondary.batch_in("config", mended).await;
        reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
        secondary.batch("ALTER ROLE app RENAME TO application").await;
        refused(
            &reference,
            &[],
            &[
                "config.secondary: it is open, and a standby must not be (irongate fence secondary)",
                "database \"config.secondary\" has no role \"app\"",
            ],
        )
        .await;
        secondary.batch("ALTER ROLE application RENAME TO app").await;
        reference.expect("secondary", 0, &["fence", "secondary", "--is-copy"]).await;
        running(&reference).await;
        wait_until(PATIENCE, "the standby to have caught up", async || {
            secondary.scalar("config", "SELECT count(*) FROM entry WHERE site = 'late'").await == "1"
        })
        .await;
        reference.expect("secondary", 0, &DRY).await;

        // An administrator who may do nothing, and one who may look.
        main.batch("CREATE ROLE adm LOGIN").await;
        let file = reference.directory.path().join("irongate.toml");
        let whole = std::fs::read_to_string(&file).unwrap();
        let (superuser, other) = (main.uri("postgres", "config"), main.socket_uri("adm", "config"));
        std::fs::write(&file, whole.replace(&superuser, &other)).unwrap();
        refused(&reference, &[], &["config.main: its administrator adm may not look into schema irongate"])
            .await;
        let look =
            "GRANT USAGE ON SCHEMA irongate TO adm; GRANT SELECT ON ALL TABLES IN SCHEMA irongate TO adm";
        main.batch_in("config", look).await;
        refused(
            &reference,
            &[],
            &[
                "role \"adm\" at config.main: the administrator may not look into a slot, nor drop one (ALTER ROLE \"adm\" REPLICATION)",
                "role adm does not own what role postgres owns in schema irongate (ALTER SCHEMA irongate OWNER TO adm",
                "role adm does not own database config (ALTER DATABASE config OWNER TO adm)",
                "role adm may not take role app, which the fence is tried as (GRANT app TO adm)",
            ],
        )
        .await;
        std::fs::write(&file, whole).unwrap();
        reference.expect("secondary", 0, &DRY).await;
        stop(managers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_a_standby_by_accident_is_refused_or_stays_there() {
    for major in Server::majors() {
        let (reference, managers) = normal(major).await;
        let [main, secondary] = &reference.servers;
        // An application: it does not come in, and could not write if it did.
        assert!(secondary.try_client("app", "config").await.is_err());
        let write = "INSERT INTO entry VALUES ('stray', 1, 'by accident')";
        let error = secondary.try_batch_in("config", &format!("SET ROLE app; {write}")).await.unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{error}");

        // A superuser is kept out by nothing. What he writes is found by a comparison and does not go anywhere.
        secondary.batch_in("config", write).await;
        let stray = "SELECT count(*) FROM entry WHERE site = 'stray'";
        let mark = async |server: &Server, n: i32| {
            server.batch_in("config", &format!("INSERT INTO entry VALUES ('mark', {n})")).await;
            let seen = format!("SELECT count(*) FROM entry WHERE site = 'mark' AND n = {n}");
            for server in &reference.servers {
                wait_until(PATIENCE, "a mark at both sites", async || {
                    server.scalar("config", &seen).await == "1"
                })
                .await;
            }
        };
        mark(main, 1).await;
        let [one, other] = reference.servers.each_ref().map(|server| server.socket_uri("postgres", "config"));
        let differences = compare(&one, &other, &Tables::All).await.differences;
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(main.scalar("config", stray).await, "0");
        let slots = "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE database = 'config'";
        assert_eq!(secondary.scalar("config", slots).await, "", "nobody captures there");

        // Not either when the standby becomes the site that writes: its capture begins behind that.
        reference.expect("secondary", 0, &["switchover", "--to", "secondary"]).await;
        mark(secondary, 2).await;
        assert_eq!(main.scalar("config", stray).await, "0");
        assert_eq!(secondary.scalar("config", stray).await, "1");
        stop(managers).await;
    }
}
