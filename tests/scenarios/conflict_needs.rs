//! What a rule needs and does not have; local writers at the very row; columns that go their own way.

use std::time::Duration;

use irongate_apply::{
    Action, BEHIND, ColumnRule, Error, INCOMPLETE, Policies, Policy, RowError, Rule, TableRule, list, replay,
    skip, tombstone_triggers, version_triggers,
};
use irongate_tests::{Settings, wait_for};

use super::super::support::{Flow, PATIENCE, pairs, pairs_in_turn};
use super::{Sites, rules};

/// One pair is enough for what does not depend on versions.
fn pair() -> (u32, u32) {
    pairs()[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn without_commit_times_replicat_stops_and_says_how_to_have_them() {
    let settings = Settings::new().set("track_commit_timestamp", "off");
    let mut flow = Flow::alone("no_times", pair(), &settings).await;
    flow.at_both("CREATE TABLE latest (id int PRIMARY KEY)").await;
    flow.replicat.conflicts = Some(rules("b"));
    flow.start().await;
    let error = flow.replicat_abends().await;
    assert!(matches!(&error, Error::NotPrepared { .. }), "{error}");
    assert!(error.hint().unwrap().contains("track_commit_timestamp = on"), "{:?}", error.hint());
    flow.target_server().configure("track_commit_timestamp", "on");
    flow.target_server().restart().await;
    flow.start_replicat().await;
    let error = flow.replicat_abends().await;
    assert!(error.hint().unwrap().contains("irongate setup"), "{error} {:?}", error.hint());
    flow.replicat.conflicts = None;
    flow.start_replicat().await;
    flow.drain().await;
    flow.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_what_its_rule_needs_stops_replicat_before_it_is_touched() {
    let mut sites = Sites::new("needs", pair()).await;
    sites.there.at_target("DROP TRIGGER irongate_moved ON latest").await;
    sites.there.at_both("CREATE TABLE no_key (a int); ALTER TABLE no_key REPLICA IDENTITY FULL").await;
    sites.there.start().await;
    sites.there.at_source("INSERT INTO latest VALUES (1, 1, 'x', '')").await;
    let error = sites.there.replicat_abends().await;
    assert!(error.to_string().contains("nobody remembers what is deleted"), "{error}");
    assert!(error.hint().unwrap().contains("irongate setup"), "{:?}", error.hint());
    assert_eq!(sites.there.target_says("SELECT count(*) FROM latest").await, "0");
    for sql in tombstone_triggers("public", "latest", &["id".to_owned()]) {
        sites.there.at_target(&sql).await;
    }
    let conflicts = sites.there.replicat.conflicts.as_mut().unwrap();
    conflicts.tables.push(("public.no_key".to_owned(), TableRule::of(Rule::Latest)));
    sites.there.start_replicat().await;
    sites.there.drain().await;
    sites.there.at_source("INSERT INTO no_key VALUES (1)").await;
    let error = sites.there.replicat_abends().await;
    assert!(error.to_string().contains("no unique key"), "{error}");
    sites.there.replicat.conflicts.as_mut().unwrap().tables.pop();
    sites.there.start_replicat().await;
    sites.there.drain().await;
    sites.there.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_which_a_part_was_not_sent_is_not_made_up() {
    let mut sites = Sites::new("incomplete", pair()).await;
    sites.there.at_both("ALTER TABLE pair REPLICA IDENTITY DEFAULT").await;
    sites.there.start().await;
    sites.there.at_source("INSERT INTO pair VALUES (1, 1, 'x', repeat('large', 2000))").await;
    sites.there.drain().await;
    sites.there.at_target("DELETE FROM pair").await;
    sites.there.at_source("UPDATE pair SET n = 2").await;
    let error = sites.there.replicat_abends().await;
    assert!(matches!(&error, Error::Row { reason: RowError::Incomplete, .. }), "{error}");
    assert!(error.hint().unwrap().contains("REPLICA IDENTITY FULL"));
    assert_eq!(sites.there.target_says("SELECT count(*) FROM pair").await, "0");
    assert_eq!(sites.there.target_says("SELECT count(*) FROM irongate.conflict").await, "0");
    // All of it is there when it changes.
    sites.there.replicat.policies =
        Policies(vec![Policy { table: None, class: Some(INCOMPLETE.to_owned()), action: Action::QueueRow }]);
    sites.there.start_replicat().await;
    sites.there.at_source("UPDATE pair SET big = 'small'").await;
    sites.there.drain().await;
    // It waits behind the part that never becomes a row by itself.
    assert_eq!(sites.there.target_says("SELECT count(*) FROM pair").await, "0");
    let client = sites.there.target.client(&sites.there.database).await;
    let queue = list(&client, &sites.there.name, false).await.unwrap();
    assert_eq!(queue.iter().map(|change| change.class.as_str()).collect::<Vec<_>>(), [INCOMPLETE, BEHIND]);
    skip(&client, &sites.there.name, Some(&[queue[0].id])).await.unwrap();
    replay(&sites.there.replicat, None).await.unwrap();
    assert_eq!(sites.there.target_says("SELECT n || big FROM pair").await, "2small");
    sites.there.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_writers_at_the_same_row_come_before_the_decision_or_after_it() {
    for pair in pairs_in_turn() {
        let mut sites = Sites::new("writers", pair).await;
        sites.there.start().await;
        sites.back.start().await;
        sites
            .there
            .at_source("INSERT INTO latest SELECT i, 0, 'first', '' FROM generate_series(1, 3) i")
            .await;
        sites.drain().await;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^irongate' AND wait_event_type = 'Lock'";
        for (local, incoming, expected) in [
            (
                "UPDATE latest SET a = 'local' WHERE id = 1",
                "UPDATE latest SET a = 'came' WHERE id = 1",
                "local",
            ),
            ("DELETE FROM latest WHERE id = 2", "UPDATE latest SET a = 'came' WHERE id = 2", "gone"),
            (
                "INSERT INTO latest VALUES (10, 0, 'local', '')",
                "INSERT INTO latest VALUES (10, 0, 'came', '')",
                "local",
            ),
            (
                "DELETE FROM latest WHERE id = 3; INSERT INTO latest VALUES (3, 0, 'local', '')",
                "DELETE FROM latest WHERE id = 3",
                "local",
            ),
        ] {
            let session = sites.back.session().await;
            session.batch_execute(&format!("BEGIN; {local}")).await.unwrap();
            sites.there.at_source(incoming).await;
            wait_for(PATIENCE, "Replicat to wait for the local writer", async || {
                let waiting = sites.there.target_says(waits).await;
                if waiting == "1" { Ok(()) } else { Err(waiting) }
            })
            .await;
            session.batch_execute("COMMIT").await.unwrap();
            sites.drain().await;
            let key = incoming
                .split(['(', '=', ','])
                .filter_map(|word| word.trim().parse::<i32>().ok())
                .next_back();
            let key = if incoming.starts_with("INSERT") { Some(10) } else { key };
            let row = format!("SELECT coalesce((SELECT a FROM latest WHERE id = {}), 'gone')", key.unwrap());
            assert_eq!(sites.there.target_says(&row).await, expected, "{local}");
            sites.assert_same(&["latest"]).await;
        }
        sites.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_go_their_own_way_whoever_wins_the_row() {
    let mut sites = Sites::new("columns", pair()).await;
    // At both sites a is that of site a, and big that of site b; n is added up.
    for (here, flow) in [("b", &mut sites.there), ("a", &mut sites.back)] {
        let (a, big) = if here == "a" {
            (ColumnRule::Keep, ColumnRule::Overwrite)
        } else {
            (ColumnRule::Overwrite, ColumnRule::Keep)
        };
        let rule = flow.replicat.conflicts.as_mut().unwrap();
        let (_, rule) = rule.tables.iter_mut().find(|(table, _)| table == "public.sums").unwrap();
        rule.columns.insert("a".to_owned(), a);
        rule.columns.insert("big".to_owned(), big);
    }
    sites.there.start().await;
    sites.back.start().await;
    sites
        .there
        .at_source("INSERT INTO sums SELECT i, 100, 'first', 'first' FROM generate_series(1, 2) i")
        .await;
    sites.drain().await;
    sites.there.stop_replicat().await;
    sites.back.stop_replicat().await;
    let set = |site: &str, n: i32, id: i32| {
        format!("UPDATE sums SET n = n + {n}, a = 'by {site}', big = 'of {site}' WHERE id = {id}")
    };
    sites.there.at_source(&set("a", 5, 1)).await;
    sites.back.at_source(&set("b", 7, 1)).await;
    sites.back.at_source(&set("b", 7, 2)).await;
    sites.there.at_source(&set("a", -5, 2)).await;
    sites.there.start_replicat().await;
    sites.back.start_replicat().await;
    sites.drain().await;
    let rows = "SELECT string_agg(format('%s %s %s', n, a, big), ', ' ORDER BY id) FROM sums";
    let expected = "112 by a of b, 102 by a of b";
    assert_eq!(
        (sites.there.source_says(rows).await, sites.there.target_says(rows).await),
        (expected.into(), expected.into())
    );
    let merged = "SELECT string_agg(DISTINCT decision, ' ') FROM irongate.conflict";
    assert_eq!(sites.there.target_says(merged).await, "merged");
    sites.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tombstones_go_and_another_constraint_is_a_matter_of_its_policy() {
    let mut sites = Sites::new("old", pair()).await;
    sites.there.replicat.conflicts.as_mut().unwrap().tombstone_age = Duration::from_millis(300);
    sites.there.start().await;
    sites.there.at_source("INSERT INTO latest SELECT i, i, 'x', '' FROM generate_series(1, 3) i").await;
    sites.there.drain().await;
    sites.there.at_target("DELETE FROM latest WHERE id = 1; UPDATE latest SET id = 20 WHERE id = 2").await;
    assert_eq!(sites.there.target_says("SELECT count(*) FROM irongate.tombstone").await, "2");
    wait_for(PATIENCE, "old tombstones to go", async || {
        let left = sites.there.target_says("SELECT count(*) FROM irongate.tombstone").await;
        if left == "0" { Ok(()) } else { Err(left) }
    })
    .await;
    sites.there.at_target("CREATE UNIQUE INDEX ON latest (n)").await;
    sites.there.at_source("INSERT INTO latest VALUES (30, 3, 'same n', '')").await;
    let error = sites.there.replicat_abends().await;
    assert!(matches!(&error, Error::Row { reason, .. } if reason.class() == "23505"), "{error}");
    sites.there.replicat.policies =
        Policies(vec![Policy { table: None, class: Some("23505".to_owned()), action: Action::QueueRow }]);
    sites.there.start_replicat().await;
    sites.there.drain().await;
    assert_eq!(
        sites.there.target_says("SELECT string_agg(class, ' ') FROM irongate.error_queue").await,
        "23505"
    );
    sites.there.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_remembered_whatever_its_types_and_whatever_the_session_prints() {
    for pair in pairs() {
        let mut sites = Sites::new("keys", pair).await;
        let table = "CREATE DOMAIN name AS text CHECK (VALUE <> '');
            CREATE TABLE \"Odd keys\" (at timestamptz, day date, \"q'\"\"k\" name, fixed char(5), code varchar(9), bytes bytea,
              amount numeric(12, 3), id uuid, flag bool, small smallint, f float8, d interval, v text,
              PRIMARY KEY (at, day, \"q'\"\"k\", fixed, code, bytes, amount, id, flag, small, f, d));
            ALTER TABLE \"Odd keys\" REPLICA IDENTITY FULL";
        sites.there.at_both(table).await;
        let key = ["at", "day", "q'\"k", "fixed", "code", "bytes", "amount", "id", "flag", "small", "f", "d"];
        let key = key.map(str::to_owned);
        for sql in tombstone_triggers("public", "Odd keys", &key) {
            sites.there.at_target(&sql).await;
        }
        for sql in version_triggers("public", "Odd keys", &key) {
            sites.there.at_source(&sql).await;
        }
        let rule = ("public.Odd keys".to_owned(), TableRule::of(Rule::Keep));
        sites.there.replicat.conflicts.as_mut().unwrap().tables.push(rule);
        sites.there.start().await;
        sites
            .there
            .at_source(
                "INSERT INTO \"Odd keys\" VALUES ('2026-03-01 12:00:00.123456+02', '2026-03-01', E'it''s \u{FC}\"\\\\', 'ab', 'c ',
                   '\\x00ff5c', 1.500, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', true, -7, 0.1, '1 mon 2 days 03:04:05', 'first')",
            )
            .await;
        sites.there.drain().await;
        sites.there.stop_replicat().await;
        sites.there.at_source("UPDATE \"Odd keys\" SET v = 'came'").await;
        sites
            .there
            .at_target(
                "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'iso_8601';
                 SET bytea_output = 'escape'; SET extra_float_digits = 0; DELETE FROM \"Odd keys\"",
            )
            .await;
        sites.there.start_replicat().await;
        sites.there.drain().await;
        assert_eq!(sites.there.target_says("SELECT count(*) FROM \"Odd keys\"").await, "0");
        let recorded =
            "SELECT kind || ' ' || decision || ' ' || (local_time IS NOT NULL) FROM irongate.conflict";
        assert_eq!(sites.there.target_says(recorded).await, "update missing local true");
        sites.there.end().await;
    }
}
