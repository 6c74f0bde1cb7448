//! The list is exactly what was acknowledged at one site and is not at the other, and finding it changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use irongate_tests::{Server, Tables, compare};
use serde_json::json;

use super::world::{Books, World};

/// Changes of every kind, each a transaction.
pub(crate) const CHANGES: &[&str] = &[
    "UPDATE whole SET name = 'changed' WHERE id = 1; DELETE FROM whole WHERE id = 2",
    "UPDATE whole SET id = 30, more = NULL WHERE id = 3; INSERT INTO whole VALUES (6, E'it''s\\\\\\n', '{\"a\" : 1}', '(3,4)')",
    "DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE x = 1 LIMIT 1)",
    "UPDATE keyless SET y = 'was null' WHERE x = 2; INSERT INTO keyless VALUES (3, NULL)",
    "UPDATE by_index SET v = 'changed' WHERE a = 1; UPDATE by_index SET b = 'zwei' WHERE a = 2; DELETE FROM by_index WHERE a = 3",
    "UPDATE part SET v = 'changed' WHERE id = 1; UPDATE part SET region = 'n' WHERE id = 2; INSERT INTO part VALUES (3, 's', 'new')",
    "UPDATE made SET base = 10 WHERE id = 1; INSERT INTO made (id, base) VALUES (3, 3); UPDATE made SET n = DEFAULT WHERE id = 2",
    "UPDATE toast SET small = 'changed' WHERE id = 1; UPDATE toast SET id = 20 WHERE id = 2; UPDATE toast SET big = 'short' WHERE id = 3",
    "TRUNCATE emptied; INSERT INTO emptied VALUES (7)",
    "INSERT INTO \"Odd \"\"ta.ble/\" VALUES ('k', 'ab', 'la la', '{\"x,y\",NULL,\"q\\\"\"}', '{\"k\": [1, \"é\"]}', '\\x00ff', \
     'infinity', 'NaN', '[1,5)', B'101', '12.30', '1 mon -2 days', true)",
    "UPDATE \"Odd \"\"ta.ble/\" SET \"Id \"\"x\" = 'kk', c = 'z ', u = NULL",
    "INSERT INTO parent VALUES (3); INSERT INTO child VALUES (3, 3)",
    "DELETE FROM parent WHERE id = 1",
    "SAVEPOINT s; INSERT INTO entry VALUES (9001, 'kept'); SAVEPOINT t; INSERT INTO entry VALUES (9002, 'not'); ROLLBACK TO t",
];

/// What leaves nothing that was lost.
pub(crate) const BESIDE: &[&str] = &[
    "BEGIN; INSERT INTO entry VALUES (9100, 'rolled back'); ROLLBACK",
    "SELECT pg_logical_emit_message(true, 'irongate.marker', 'run')",
    "CREATE TABLE IF NOT EXISTS not_in_the_flow (id int); INSERT INTO not_in_the_flow VALUES (1)",
    "INSERT INTO irongate.own VALUES (1)",
];

/// Part of the changes trailed and never applied, part never trailed.
pub(crate) async fn lose(world: &mut World, books: &mut Books) {
    books
        .beside(
            "CREATE SCHEMA irongate; CREATE TABLE irongate.own (id int);
             DO $$ BEGIN EXECUTE format('ALTER PUBLICATION %I ADD TABLE irongate.own', pubname) FROM pg_publication; END $$",
        )
        .await;
    for n in 0..30 {
        books.commit(&format!("INSERT INTO entry VALUES ({n}, 'word {n}')")).await;
    }
    let half = CHANGES.len() / 2;
    for sql in &CHANGES[..half] {
        books.commit(sql).await;
    }
    for sql in BESIDE {
        books.beside(sql).await;
    }
    world.captured().await;
    world.kill_extract();
    for sql in &CHANGES[half..] {
        books.commit(sql).await;
    }
    for sql in BESIDE {
        books.beside(sql).await;
    }
    for n in 30..60 {
        books
            .commit(&format!(
                "INSERT INTO entry VALUES ({n}, 'word {n}'); UPDATE entry SET word = 'again' WHERE n = {}",
                n - 1
            ))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lost_transaction_is_listed_once_and_both_sites_are_untouched() {
    for major in Server::majors() {
        let mut world = World::new(major, "").await;
        let mut books = Books::open(&world.main).await;
        for n in 100..110 {
            books.commit(&format!("INSERT INTO entry VALUES ({n}, 'arrives')")).await;
        }
        world.mark(-5000).await;
        world.cut().await;
        books.kept.clear();
        lose(&mut world, &mut books).await;
        world.fail_over().await;

        let before = world.state().await;
        let (found, printed) = world.salvage(0, "found", &[]).await;
        assert_eq!(world.state().await, before);
        assert_eq!(found.xids(), books.kept, "just these, in the order of their commits");
        let (trailed, slot) = (found.from("trail"), found.from("slot"));
        assert!(trailed >= 30 && slot >= 30 && trailed + slot == books.kept.len(), "{trailed} {slot}");
        assert_eq!(found.unknown().len(), 0);
        let summary = &printed["salvages"][0]["summary"];
        assert_eq!(summary["transactions"], books.kept.len());
        assert_eq!(summary["conflicts"], 0, "{}", found.report());
        assert_eq!(summary["tables"]["public.entry"]["inserts"], 61);
        assert_eq!(
            summary["tables"]["public.audit"]["inserts"], 1,
            "what a trigger did is a change like others"
        );

        // Only the owner reads it, and looking twice shows the same.
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&found.directory), 0o700);
        for file in ["report.txt", "salvage.json", "replay.sql", "decisions.toml", "tables/public.entry.sql"]
        {
            assert_eq!(mode(&found.directory.join(file)), 0o600, "{file}");
        }
        let (again, _) = world.salvage(0, "again", &[]).await;
        assert_eq!(again.document["transactions"], found.document["transactions"]);
        world.expect(3, &["salvage", "main", "--out", "again"]).await;
        let divergence = world.divergence().await;
        world.expect(0, &["salvage", "main", "--out", "by-hand", "--divergence", &divergence]).await;
        world.expect(3, &["salvage", "main", "--out", "other", "--divergence", "0/1"]).await;

        // Old values as far as they were logged, unchanged ones told apart, the row that is there now beside them.
        let toast = found.changes(books.kept[37]);
        assert_eq!(toast.len(), 3);
        check_images(&found, &books.kept);
        let report = found.report();
        assert!(report.starts_with("LOST AT MAIN AND NOT AT SECONDARY"), "{report}");
        assert!(
            report.contains("captured and never shipped (trail)") && report.contains("public.by_index"),
            "{report}"
        );

        assert!(report.contains("app.main is not closed"), "{report}");

        // The script alone brings the other site level.
        let script = found.directory.join("replay.sql");
        run(&world.secondary, &script).await.unwrap();
        let twice = run(&world.secondary, &script).await.unwrap_err();
        assert!(twice.contains("duplicate key") || twice.contains("irongate: change 1"), "{twice}");
        let [one, other] = [&world.main, &world.secondary].map(|server| server.uri("postgres", "app"));
        world.main.batch_in("app", "DROP TABLE not_in_the_flow").await;
        compare(&one, &other, &Tables::All).await.assert_same();
        // And what it has brought is no more lost than it was: those who look again are told.
        let (there, _) = world.salvage(0, "there", &[]).await;
        assert_eq!(there.xids(), books.kept);
        let same: BTreeSet<&str> = there
            .transactions()
            .iter()
            .flat_map(|transaction| transaction["changes"].as_array().unwrap())
            .filter_map(|change| change["there"]["verdict"].as_str())
            .collect();
        assert!(same.contains("same"), "{same:?}");
    }
}

/// The images of some changes, by the place of their transactions in the books.
fn check_images(found: &super::world::Found, kept: &[u64]) {
    let whole = found.changes(kept[30]);
    assert_eq!(whole[0]["old"]["name"], "name 1");
    assert_eq!(whole[0]["new"]["name"], "changed");
    assert_eq!(whole[0]["key"], json!({ "id": "1" }));
    assert_eq!(whole[0]["there"]["verdict"], "expected");
    assert_eq!(whole[0]["there"]["row"]["name"], "name 1");
    assert_eq!((&whole[1]["operation"], &whole[1]["new"]), (&"delete".into(), &serde_json::Value::Null));
    let by_index = found.changes(kept[34]);
    assert_eq!((&by_index[1]["key"], &by_index[1]["new"]["b"]), (&json!({ "b": "two" }), &"zwei".into()));
    assert_eq!(by_index[1]["old"], serde_json::Value::Null);
    let toast = found.changes(kept[37]);
    assert_eq!(toast[0]["new"]["big"], json!({ "unchanged": true }));
    assert_eq!(toast[1]["key"], json!({ "id": "2" }));
    assert_eq!(toast[1]["new"]["id"], "20");
    let truncate = found.changes(kept[38]);
    assert_eq!(truncate[0]["operation"], "truncate");
    assert_eq!(truncate[1]["there"]["verdict"], "follows");
    assert_eq!(truncate[0]["truncated"][0]["table"], "emptied");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_were_captured_in_binary_are_shown_as_text() {
    let major = *Server::majors().last().unwrap();
    let mut world = World::with(major, "binary = true\n", "\"public.entry\", \"public.plain\"").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    let insert = "INSERT INTO plain VALUES (7, true, 'ab', 1.50, '2001-02-03 04:05:06+00', '{\"a\": 1}', '\\x00ff', 'NaN',
        '1 mon -2 days', '00000000-0000-0000-0000-00000000000a', 'v'), (8, NULL)";
    books.commit(&insert.replace(", (8, NULL)", "")).await;
    books.commit("INSERT INTO plain (id) VALUES (8); DELETE FROM plain WHERE id = 7").await;
    world.captured().await;
    world.kill_extract();
    world.fail_over().await;
    let (found, _) = world.salvage(0, "found", &[]).await;
    assert_eq!((found.xids(), found.from("trail")), (books.kept.clone(), 2));
    let expected = json!({
        "id": "7", "b": "t", "c": "ab   ", "n": "1.50", "t": "2001-02-03 04:05:06+00", "j": "{\"a\": 1}", "y": "\\x00ff",
        "f": "NaN", "i": "1 mon -2 days", "u": "00000000-0000-0000-0000-00000000000a", "v": "v"
    });
    assert_eq!(found.changes(books.kept[0])[0]["new"], expected);
    assert_eq!(found.changes(books.kept[1])[0]["new"]["b"], serde_json::Value::Null);
    assert_eq!(found.changes(books.kept[1])[1]["key"], json!({ "id": "7" }));
}

/// Runs a script of a salvage as psql would, but for the line that is psql's own.
async fn run(server: &Server, script: &std::path::Path) -> Result<(), String> {
    let text = fs::read_to_string(script).unwrap();
    let (own, sql): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("\\set"));
    assert_eq!(own, ["\\set ON_ERROR_STOP on"]);
    let done = server.client("app").await.batch_execute(&sql.join("\n")).await;
    done.map_err(|error| {
        error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
    })
}
