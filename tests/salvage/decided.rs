//! Decisions are carried out once, by somebody who has signed, and never over what came since unless it is said.

use std::time::Duration;

use irongate_switchover::Place;
use irongate_switchover::salvage::signed_off;
use irongate_tests::{Process, Server, Tables, compare, wait_until};
use irongate_trail::Lsn;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::exact::lose;
use super::world::{Books, PATIENCE, World};

/// A slot at secondary, as reverse capture has one.
const REVERSE: [&str; 2] = [
    "CREATE PUBLICATION reverse FOR TABLES IN SCHEMA public",
    "SELECT pg_create_logical_replication_slot('reverse', 'pgoutput')",
];

/// The changes that reverse capture would carry: those without an origin.
async fn captured(server: &Server) -> Vec<String> {
    let origin = if server.major() >= 16 { ", 'origin', 'none'" } else { "" };
    let sql = format!(
        "SELECT chr(get_byte(data, 0)) FROM pg_logical_slot_peek_binary_changes('reverse', NULL, NULL,
            'proto_version', '1', 'publication_names', 'reverse'{origin}) WHERE get_byte(data, 0) IN (68, 73, 79, 84, 85)"
    );
    server.rows("app", &sql).await.into_iter().flatten().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_repeated_is_repeated_once_and_goes_back() {
    for major in Server::majors() {
        let mut world = World::new(major, "").await;
        let mut books = Books::open(&world.main).await;
        world.cut().await;
        lose(&mut world, &mut books).await;
        world.fail_over().await;
        for sql in REVERSE {
            world.secondary.batch_in("app", sql).await;
        }
        let (found, _) = world.salvage(0, "found", &[]).await;
        let lost = books.kept.len();

        // Nothing happens before everything is decided and signed for, nor with another document than was signed for.
        let apply = ["salvage", "main", "--apply", "found", "--json"];
        let undecided = world.expect(3, &apply).await.stderr;
        assert!(
            undecided.contains("is undecided") && undecided.contains("signed_off_by is empty"),
            "{undecided}"
        );
        found.decide("replay", &[]);
        let document = found.directory.join("salvage.json");
        let text = std::fs::read_to_string(&document).unwrap();
        std::fs::write(&document, text.replace("changed", "altered")).unwrap();
        world.expect(2, &apply).await;
        std::fs::write(&document, text).unwrap();
        assert_eq!(captured(&world.secondary).await.len(), 0);
        let configuration = world.configuration();
        let place = Place::connect(&configuration, "app", "secondary").await.unwrap();
        let divergence: Lsn = world.divergence().await.parse().unwrap();
        assert_eq!(signed_off(&place, "csp", divergence).await.unwrap(), None);

        let done = world.expect(0, &apply).await.json();
        let done = &done["applied"][0];
        assert_eq!((&done["replayed"], &done["before"]), (&lost.into(), &0.into()), "{done}");
        let [one, other] = [&world.main, &world.secondary].map(|server| server.uri("postgres", "app"));
        world.main.batch_in("app", "DROP TABLE not_in_the_flow").await;
        compare(&one, &other, &Tables::All).await.assert_same();
        let carried = captured(&world.secondary).await;
        // Two rows of "made" have a column that no update may set: each was taken out and put in again.
        assert_eq!(carried.len() as u64, done["changes"].as_u64().unwrap() + 2, "{carried:?}");
        assert!(!carried.contains(&"O".to_owned()), "it has an origin");

        let again = world.expect(0, &apply).await.json();
        assert_eq!(
            (&again["applied"][0]["replayed"], &again["applied"][0]["before"]),
            (&0.into(), &lost.into())
        );
        assert_eq!(captured(&world.secondary).await, carried);
        let signed = signed_off(&place, "csp", divergence).await.unwrap().expect("it was signed for");
        assert_eq!(
            (signed.by.as_str(), signed.transactions, signed.incomplete),
            ("A. Dba", lost as u64, false)
        );
        assert_eq!(signed.looked_up_to.as_deref(), found.document["looked_up_to"].as_str());
        assert_eq!(signed_off(&place, "csp", Lsn(1)).await.unwrap(), None);
        // What comes next finds values of its own in the sequences.
        world.secondary.batch_in("app", "INSERT INTO parent VALUES (77)").await;
        assert_eq!(done["sequences"][0]["sequence"], "public.audit_id_seq", "{done}");
        // The records hold against another salvage of the same as well.
        let (twin, _) = world.salvage(0, "twin", &[]).await;
        twin.decide("replay", &[]);
        let twin = world.expect(0, &["salvage", "main", "--apply", "twin", "--json"]).await.json();
        assert_eq!(twin["applied"][0]["replayed"], 0, "{twin}");
    }
}

/// Lost changes, and what was done at the other site since.
const LOST: &[&str] = &[
    "UPDATE entry SET word = 'lost' WHERE n = -1",
    "INSERT INTO entry VALUES (500, 'lost')",
    "UPDATE whole SET name = 'lost' WHERE id = 1",
    "DELETE FROM by_index WHERE b = 'one'",
    "UPDATE toast SET small = 'lost' WHERE id = 1",
    "UPDATE made SET base = 50 WHERE id = 1",
    "TRUNCATE emptied",
    "INSERT INTO child VALUES (10, 2)",
];
const SINCE: &str = "UPDATE entry SET word = 'since' WHERE n = -1; INSERT INTO entry VALUES (500, 'since');
    UPDATE whole SET more = '{\"since\": 1}' WHERE id = 1; UPDATE by_index SET v = 'since' WHERE b = 'one';
    DELETE FROM toast WHERE id = 1; UPDATE made SET base = 50 WHERE id = 1; INSERT INTO emptied VALUES (9);
    DELETE FROM child WHERE parent = 2; DELETE FROM parent WHERE id = 2";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_since_is_named_and_not_written_over_unless_it_is_said() {
    for major in Server::majors() {
        let mut world = World::new(major, "").await;
        let mut books = Books::open(&world.main).await;
        world.cut().await;
        for sql in LOST {
            books.commit(sql).await;
        }
        world.captured().await;
        world.kill_extract();
        world.fail_over().await;
        world.secondary.batch_in("app", SINCE).await;
        let (found, _) = world.salvage(0, "found", &[]).await;
        let verdict = |n: usize| {
            let there = &found.changes(books.kept[n])[0]["there"];
            (
                there["verdict"].as_str().unwrap().to_owned(),
                there["reason"].as_str().unwrap_or_default().to_owned(),
            )
        };
        let conflict = |reason: &str| ("conflict".to_owned(), reason.to_owned());
        assert_eq!(verdict(0), conflict("the row was changed there since"));
        assert_eq!(verdict(1), conflict("another row with this key is there"));
        assert_eq!(verdict(2), conflict("the row was changed there since"));
        assert_eq!(verdict(3), conflict("the row was changed there since"));
        assert_eq!(verdict(4), conflict("the row is not there any more"));
        assert_eq!(verdict(5).0, "same");
        assert_eq!(verdict(6), conflict("rows were written there since"));
        assert_eq!(verdict(7).0, "expected");
        let report = found.report();
        assert!(report.contains("6 conflicts with what is at secondary now"), "{report}");

        // The first conflict ends the run, and nothing is done.
        let apply = ["salvage", "main", "--apply", "found", "--json"];
        found.decide("replay", &[]);
        let refused = world.expect(3, &apply).await.stderr;
        assert!(
            refused.contains("update of public.entry") && refused.contains("was changed there since"),
            "{refused}"
        );
        assert_eq!(world.secondary.scalar("app", "SELECT word FROM entry WHERE n = -1").await, "since");

        // Over what is there, except for what is left to people, and except for a row of which not all is known.
        let over = "{ decision = \"replay\", replay_over = true }";
        let keep = "{ decision = \"keep\" }";
        let others =
            ["public.entry", "public.whole", "public.by_index", "public.toast"].map(|table| (table, over));
        found.decide("replay", &[&others[..], &[("public.emptied", keep)]].concat());
        let refused = world.expect(4, &apply).await.stderr;
        assert!(refused.contains("not all of its values were logged"), "{refused}");
        let others: Vec<_> =
            others[..3].iter().copied().chain([("public.toast", keep), ("public.emptied", keep)]).collect();
        found.decide("replay", &others);
        // A child whose parent has gone since.
        let refused = world.expect(4, &apply).await.stderr;
        assert!(
            refused.contains("foreign key \"child_parent_fkey\" of public.child would be broken"),
            "{refused}"
        );
        let discard = ("public.child", "{ decision = \"discard\" }");
        found.decide("replay", &[&others[..], &[discard]].concat());
        let done = world.expect(0, &apply).await.json();
        let done = &done["applied"][0];
        // What was kept has been recorded by the run before, up to where that ended.
        assert_eq!(
            (&done["before"], &done["kept"], &done["discarded"]),
            (&7.into(), &0.into(), &1.into()),
            "{done}"
        );
        for (sql, expected) in [
            ("SELECT string_agg(word, ',' ORDER BY n) FROM entry WHERE n IN (-1, 500)", "lost,lost"),
            // Only what the lost change had changed.
            ("SELECT name || more FROM whole WHERE id = 1", "lost{\"since\": 1}"),
            ("SELECT count(*) FROM by_index WHERE b = 'one'", "0"),
            ("SELECT count(*) FROM toast WHERE id = 1", "0"),
            ("SELECT count(*) FROM emptied", "3"),
            (
                "SELECT string_agg(decision, ',' ORDER BY commit_lsn) FROM irongate.salvage",
                "replay,replay,replay,replay,keep,replay,keep,discard",
            ),
        ] {
            assert_eq!(world.secondary.scalar("app", sql).await, expected, "{sql}");
        }
        // What was kept may be repeated later, when it is in nobody's way any more.
        world.secondary.batch_in("app", "DELETE FROM emptied").await;
        found.decide("replay", &[&others[..4], &[("public.emptied", over), discard]].concat());
        let later = world.expect(0, &apply).await.json();
        assert_eq!(later["applied"][0]["replayed"], 1, "{later}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_anywhere_repeats_nothing() {
    const LOST: usize = 600;
    let seed = irongate_tests::seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let major = *Server::majors().choose(&mut random).unwrap();
    let mut world = World::new(major, "").await;
    let mut books = Books::open(&world.main).await;
    world.cut().await;
    for n in 0..LOST {
        // A table without a key takes as many equal rows as come.
        books
            .commit(&format!(
                "INSERT INTO keyless VALUES ({n}, 'lost'); INSERT INTO entry VALUES ({n}, 'lost')"
            ))
            .await;
    }
    world.captured().await;
    world.kill_extract();
    world.fail_over().await;
    let (found, _) = world.salvage(0, "found", &[]).await;
    assert_eq!(found.xids(), books.kept);
    found.decide("replay", &[]);
    let apply = ["salvage", "main", "--apply", "found", "--json"];
    let mut killed = 0;
    for _ in 0..8 {
        let mut run = Process::irongate(world.path(), &apply);
        tokio::time::sleep(Duration::from_millis(random.random_range(100..900))).await;
        killed += u32::from(run.is_running());
        run.kill();
        // Its session may still be at its last transaction.
        let alive = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'irongate salvage'";
        wait_until(PATIENCE, "the session to end", async || {
            world.secondary.scalar("app", alive).await == "0"
        })
        .await;
        let rows = "SELECT count(*) FILTER (WHERE r IS NULL OR x IS NULL) || ' ' || (count(*) - count(DISTINCT x)) FROM
             (SELECT xid AS r, commit_lsn, row_number() OVER (ORDER BY commit_lsn) AS place FROM irongate.salvage
               WHERE table_name = 'keyless') s FULL JOIN (SELECT x FROM keyless WHERE y = 'lost') k ON k.x = s.place - 1";
        assert_eq!(
            world.secondary.scalar("app", rows).await,
            "0 0",
            "rows and their record are there together"
        );
    }
    let done = world.expect(0, &apply).await.json();
    println!(
        "PostgreSQL {major}: {killed} runs killed, {} transactions left to the last",
        done["applied"][0]["replayed"]
    );
    let [one, other] = [&world.main, &world.secondary].map(|server| server.uri("postgres", "app"));
    compare(&one, &other, &Tables::All).await.assert_same();
}
