//! Sequences of a database that one site writes: the standby's stay ahead of them, also when processes are killed; at a
//! switchover they are exact, and where the source is lost they are put beyond the rows.

use std::path::Path;

use irongate_deployment::{Configuration, secure_sequences};
use irongate_tests::{Plan, Reference, SITES, Server, wait_for, wait_until};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};
use irongate_tests::books::{ACCESS, running};

const LOOKS: &str = "[manager]\nwatch_interval = \"200ms\"\nsequence_interval = \"100ms\"\n";
const TABLES: &str = r#"
    CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, word text);
    CREATE TABLE "Odd ""Table" ("Id col" serial PRIMARY KEY, word text);
    CREATE SEQUENCE down INCREMENT -3;
    CREATE TABLE falling (id bigint PRIMARY KEY DEFAULT nextval('down'), word text);
    CREATE SEQUENCE short MAXVALUE 40; CREATE SEQUENCE round MAXVALUE 500 CYCLE; CREATE SEQUENCE "select";
    CREATE SEQUENCE untouched START 77;"#;
/// Takes a hundred values of each.
const TAKE: &str = r#"
    INSERT INTO item (word) SELECT 'w' FROM generate_series(1, 100);
    INSERT INTO "Odd ""Table" (word) SELECT 'w' FROM generate_series(1, 100);
    INSERT INTO falling (word) SELECT 'w' FROM generate_series(1, 100);
    SELECT nextval('round'), nextval('"select"') FROM generate_series(1, 100);"#;
/// What each sequence gives next, of those that begin again or end soon none.
const NEXT: &str = r#"
    SELECT 'item', last_value + is_called::int FROM item_id_seq
    UNION ALL SELECT 'odd', last_value + is_called::int FROM "Odd ""Table_Id col_seq"
    UNION ALL SELECT 'down', -(last_value - 3 * is_called::int) FROM down
    UNION ALL SELECT 'select', last_value + is_called::int FROM "select" ORDER BY 1"#;

async fn reference(major: u32) -> Reference {
    let more = format!("{ACCESS}{LOOKS}");
    let reference = Plan::new(major).tables(TABLES, "").more(&more).control().make().await;
    for server in &reference.servers {
        let grants = "CREATE ROLE app LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
                      GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app";
        server.batch_in("config", grants).await;
    }
    reference.expect("secondary", 0, &["setup", "css"]).await;
    reference.expect("secondary", 0, &["fence", "secondary"]).await;
    reference
}

async fn next(server: &Server) -> Vec<i64> {
    let rows = server.rows("config", NEXT).await;
    rows.iter().map(|row| row[1].as_ref().expect("a value").parse().expect("a number")).collect()
}

/// Waits until every sequence of the other site is ahead of this one by the whole margin.
async fn ahead(from: &Server, to: &Server) {
    // In the order of their names: down, which goes in threes, item, odd, select.
    let values = next(from).await.into_iter().zip([3000, 1000, 1000, 1000]);
    let wanted: Vec<i64> = values.map(|(value, margin)| value + margin).collect();
    wait_for(PATIENCE, "the standby's sequences to be ahead by the margin", async || {
        let there = next(to).await;
        if there == wanted { Ok(()) } else { Err(format!("{there:?}, and not {wanted:?}")) }
    })
    .await;
}

async fn value(server: &Server, sequence: &str) -> i64 {
    let sql = format!("SELECT last_value FROM {sequence}");
    server.scalar("config", &sql).await.parse().expect("a number")
}

fn pid(groups: &[Value], name: &str) -> Option<i64> {
    groups.iter().find(|group| group["name"] == name)?["pid"].as_i64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standbys_sequences_stay_ahead_and_are_exact_after_a_switchover() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        reference.servers[0]
            .batch_in("config", "CREATE SEQUENCE only_here; SELECT nextval('only_here')")
            .await;
        reference.expect("main", 0, &["setup", "csp"]).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let [main, secondary] = &reference.servers;

        // What the standby gives next is beyond what the source has given when it was looked before.
        for round in 0..6 {
            let before = next(main).await;
            main.batch_in("config", TAKE).await;
            if round == 2 || round == 4 {
                let (site, name) =
                    if round == 2 { ("main", "csp-extract") } else { ("secondary", "csp-replicat") };
                let groups = reference.groups(site).await;
                if let Some(pid) =
                    pid(&groups, name).and_then(|pid| rustix::process::Pid::from_raw(pid as i32))
                {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
                }
            }
            wait_for(PATIENCE, "the standby to be ahead of what was", async || {
                let there = next(secondary).await;
                let behind = before.iter().zip(&there).any(|(before, there)| there < before);
                if round == 0 || !behind { Ok(()) } else { Err(format!("{there:?} behind {before:?}")) }
            })
            .await;
        }
        ahead(main, secondary).await;
        assert_eq!(value(secondary, "untouched").await, 77, "what never moved is left alone");
        // What ends soon is not used up, and what begins again goes round.
        main.batch_in("config", "SELECT nextval('short') FROM generate_series(1, 30)").await;
        wait_until(PATIENCE, "the short one", async || value(secondary, "short").await == 35).await;
        wait_until(PATIENCE, "the round one", async || {
            value(secondary, "round").await == (value(main, "round").await - 1 + 250) % 500 + 1
        })
        .await;
        // One that the standby lacks is known, and stops nothing.
        let found =
            reference.start("main", &["check", "csp", "--json"]).finish(PATIENCE).await.json().to_string();
        assert!(found.contains("only_here") && found.contains("does not exist"), "{found}");
        assert!(!found.contains("it gives values that are in"), "{found}");
        let groups = reference.groups("secondary").await;
        assert!(groups.iter().any(|group| group["name"] == "csp-replicat" && group["state"] == "RUNNING"));

        let switchover = ["switchover", "--to", "secondary"];
        let refused = reference.expect("secondary", 3, &switchover).await.stderr;
        assert!(refused.contains("only_here"), "{refused}");
        secondary.batch_in("config", "CREATE SEQUENCE only_here").await;
        reference.expect("main", 0, &["setup", "csp"]).await;
        reference.expect("secondary", 0, &["setup", "css"]).await;

        let last = next(main).await;
        let done = reference.json("secondary", &switchover).await;
        assert_eq!(done["result"], "done", "{done}");
        assert_eq!(next(secondary).await, last, "exact at a switchover");
        assert_eq!((value(secondary, "short").await, value(secondary, "only_here").await), (30, 1));
        secondary.batch_in("config", TAKE).await;
        ahead(secondary, main).await;
        for manager in managers {
            stop(manager).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_source_is_lost_sequences_are_put_beyond_the_rows() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        let [main, secondary] = &reference.servers;
        // Rows with values of somebody's own, at both sites; nothing follows the sequences.
        let rows = r#"INSERT INTO item OVERRIDING SYSTEM VALUE VALUES (5000, 'own');
            INSERT INTO "Odd ""Table" VALUES (7000, 'own'); INSERT INTO falling VALUES (-5000, 'own');
            ALTER SEQUENCE item_id_seq INCREMENT 2;
            CREATE TABLE shared (n int DEFAULT nextval('"select"'), word text DEFAULT 'x' || nextval('"select"'));
            INSERT INTO shared (n) VALUES (300);
            CREATE SEQUENCE full_one MAXVALUE 9; CREATE TABLE filled (n numeric DEFAULT nextval('full_one'));
            INSERT INTO filled VALUES (9), (4.5), ('NaN'), (1e30)"#;
        for server in [main, secondary] {
            server.batch_in("config", rows).await;
        }
        let found = reference.start("main", &["check", "csp", "--json"]).finish(PATIENCE).await.json();
        let found: Vec<&Value> = found["findings"].as_array().expect("a list").iter().collect();
        let behind = |name: &str| {
            found.iter().find(|one| {
                one["reason"].to_string().contains("it gives values that are in")
                    && one["object"].to_string().contains(name)
            })
        };
        for (name, fix) in
            [("item_id_seq", "max(\\\"id\\\")"), ("Odd", "max(\\\"Id col\\\")"), ("down", "min(\\\"id\\\")")]
        {
            let fix_found = behind(name).unwrap_or_else(|| panic!("{name}: {found:?}"))["fix"].to_string();
            assert!(fix_found.contains(fix), "{fix_found}");
        }
        let fix = behind("item_id_seq").and_then(|one| one["fix"].as_str()).expect("a statement").to_owned();
        main.batch_in("config", &fix).await;
        main.batch_in("config", "INSERT INTO item (word) VALUES ('after the fix')").await;

        let file = reference.directory.path().join("irongate.toml");
        let configuration =
            Configuration::load_at(Path::new(&file), Some("secondary")).expect("a sound file");
        let flow = configuration.flow("csp").expect("the flow");
        let secured = secure_sequences(&configuration, flow).await.expect("the target answers");
        let raised: Vec<(&str, i64, bool)> = secured
            .raised
            .iter()
            .map(|one| (one.sequence.as_str(), one.now, one.trouble.is_some()))
            .collect();
        assert_eq!(
            raised,
            [
                ("public.Odd \"Table_Id col_seq", 8000, false),
                ("public.down", -8002, false),
                ("public.full_one", 9, true),
                ("public.item_id_seq", 7001, false),
                ("public.select", 1300, false),
            ],
            "{secured:?}"
        );
        assert!(secured.passed_over.is_empty(), "{secured:?}");
        secondary
            .batch_in(
                "config",
                r#"INSERT INTO item (word) VALUES ('new'); INSERT INTO "Odd ""Table" (word) VALUES ('new');
                   INSERT INTO falling (word) VALUES ('new'); INSERT INTO shared (n) VALUES (DEFAULT)"#,
            )
            .await;
        assert_eq!(secondary.scalar("config", "SELECT max(id) FROM item").await, "7003");
        let again = secure_sequences(&configuration, flow).await.expect("the target answers");
        assert!(again.raised.is_empty(), "what is beyond is left alone: {again:?}");
    }
}
