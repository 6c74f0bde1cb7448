//! The error queue keeps the order of a row's changes: what follows a queued change queues behind it.

use irongate_apply::{
    Action, BEHIND, Error, Policies, Policy, RowError, Rule, TableRule, list, replay, skip,
};
use irongate_tests::wait_for;

use super::super::support::{Flow, PATIENCE, pairs, pairs_in_turn};
use super::{Sites, key};

fn queue(action: Action) -> Policies {
    Policies(vec![Policy { table: None, class: Some("23".to_owned()), action }])
}

async fn classes(flow: &Flow) -> Vec<(i64, String)> {
    let client = flow.target.client(&flow.database).await;
    let queue = list(&client, &flow.name, false).await.unwrap();
    queue.into_iter().map(|change| (change.id, change.class)).collect()
}

const ROWS: &str = "SELECT coalesce(string_agg(format('%s:%s:%s', id, u, n), ' ' ORDER BY id), '') FROM uq";

#[tokio::test(flavor = "multi_thread")]
async fn two_sites_that_collide_on_another_constraint_end_the_same_after_the_replays() {
    for pair in pairs_in_turn() {
        let mut sites = Sites::new("order_two", pair).await;
        sites
            .there
            .at_both("CREATE TABLE uq (id int PRIMARY KEY, u int UNIQUE, n int); ALTER TABLE uq REPLICA IDENTITY FULL")
            .await;
        for flow in [&mut sites.there, &mut sites.back] {
            let rule = ("public.uq".to_owned(), TableRule::of(Rule::Latest));
            flow.replicat.conflicts.as_mut().unwrap().tables.push(rule);
            flow.replicat.policies = queue(Action::QueueRow);
            for sql in irongate_apply::tombstone_triggers("public", "uq", &key()) {
                flow.at_target(&sql).await;
            }
        }
        sites.there.start().await;
        sites.back.start().await;
        sites.drain().await;
        sites.there.stop_replicat().await;
        sites.back.stop_replicat().await;
        sites
            .there
            .each_at_source(&[
                "INSERT INTO uq VALUES (300, 950, 1)",
                "UPDATE uq SET n = 2 WHERE id = 300",
                "DELETE FROM uq WHERE id = 300",
            ])
            .await;
        sites.back.at_source("INSERT INTO uq VALUES (301, 950, 2)").await;
        // At a the key is free again by now; a row with that value is put in the way.
        sites.there.at_source("INSERT INTO uq VALUES (302, 950, 3)").await;
        sites.there.start_replicat().await;
        sites.back.start_replicat().await;
        sites.drain().await;
        sites.back.at_source("UPDATE uq SET u = 951 WHERE id = 301").await;
        sites.there.at_source("UPDATE uq SET u = 952 WHERE id = 302").await;
        sites.drain().await;
        for flow in [&sites.there, &sites.back] {
            let queue = classes(flow).await;
            assert!(
                queue.iter().any(|(_, class)| class == "23505") && queue.iter().any(|(_, c)| c == BEHIND),
                "{queue:?}"
            );
        }
        for flow in [&sites.there, &sites.back] {
            replay(&flow.replicat, None).await.unwrap();
        }
        sites.drain().await;
        let (a, b) = (sites.there.source_says(ROWS).await, sites.there.target_says(ROWS).await);
        assert_eq!((a.as_str(), b.as_str()), ("301:951:2 302:952:3", "301:951:2 302:952:3"));
        sites.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_direction_what_follows_a_queued_change_waits_and_is_replayed_in_order() {
    for pair in pairs() {
        let mut flow = Flow::new("order_one", pair).await;
        flow.at_both(
            "CREATE TABLE uq (id numeric PRIMARY KEY, u int, n int);
             CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL",
        )
        .await;
        flow.at_target("CREATE UNIQUE INDEX ON uq (u); INSERT INTO uq VALUES (9, 90, 0); CREATE UNIQUE INDEX ON whole (b); INSERT INTO whole VALUES (0, 'taken')").await;
        flow.replicat.policies = queue(Action::QueueRow);
        flow.start().await;
        flow.each_at_source(&[
            "INSERT INTO uq VALUES (1, 10, 0), (2, 20, 0), (3, 30, 0)",
            // Refused at the target.
            "UPDATE uq SET u = 90 WHERE id = 1",
        ])
        .await;
        // Of one group the last update alone would be written.
        flow.drain().await;
        flow.each_at_source(&[
            // Old over new, if it were replayed alone.
            "UPDATE uq SET u = 11, n = 1 WHERE id = 1",
            "UPDATE uq SET n = 5 WHERE id = 2; UPDATE uq SET n = 2 WHERE id = 1",
            // To another key and a new row under the old one, written differently.
            "UPDATE uq SET id = 4 WHERE id = 1",
            "INSERT INTO uq VALUES (1.0, 12, 7)",
            "UPDATE uq SET n = 3 WHERE id = 4",
            "INSERT INTO whole VALUES (1, 'taken')",
            "UPDATE whole SET a = 2 WHERE b = 'taken'",
            "UPDATE whole SET b = 'free'",
        ])
        .await;
        flow.drain().await;
        // A restart forgets nothing of it.
        flow.stop_replicat().await;
        flow.start_replicat().await;
        flow.each_at_source(&["UPDATE uq SET n = 8 WHERE id = 1", "UPDATE uq SET n = 6 WHERE id = 3"]).await;
        flow.drain().await;
        let rows = "SELECT string_agg(format('%s:%s:%s', trim_scale(id), u, n), ' ' ORDER BY id) FROM uq";
        assert_eq!(flow.target_says(rows).await, "1:10:0 2:20:5 3:30:6 9:90:0");
        let queued = classes(&flow).await;
        let classes_only: Vec<&str> = queued.iter().map(|(_, class)| class.as_str()).collect();
        assert_eq!(
            classes_only,
            ["23505", BEHIND, BEHIND, BEHIND, BEHIND, BEHIND, "23505", BEHIND, BEHIND, BEHIND]
        );
        // None before those in front of it, and nothing is done where the first is refused again.
        let error = replay(&flow.replicat, Some(&[queued[1].0])).await.unwrap_err();
        assert!(matches!(&error, Error::Row { reason: RowError::Behind, .. }), "{error}");
        assert!(error.hint().unwrap().contains("--all"), "{:?}", error.hint());
        let error = replay(&flow.replicat, None).await.unwrap_err();
        assert!(matches!(&error, Error::Row { reason, .. } if reason.class() == "23505"), "{error}");
        assert_eq!(classes(&flow).await, queued);
        flow.at_target("DELETE FROM uq WHERE id = 9; DELETE FROM whole WHERE a = 0").await;
        // Replayed while Replicat runs; what comes then goes its usual way.
        assert_eq!(replay(&flow.replicat, None).await.unwrap(), 10);
        flow.each_at_source(&["UPDATE uq SET n = 9 WHERE id = 1", "UPDATE whole SET a = 3"]).await;
        flow.end_same().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_queue_as_a_whole_behind_one_that_has_and_after_a_skip_nothing_waits() {
    let mut flow = Flow::new("order_whole", pairs()[0]).await;
    flow.at_both("CREATE TABLE uq (id int PRIMARY KEY, u int, n int)").await;
    flow.at_target("CREATE UNIQUE INDEX ON uq (u); INSERT INTO uq VALUES (9, 90, 0)").await;
    flow.replicat.policies = queue(Action::QueueTransaction);
    flow.start().await;
    flow.each_at_source(&[
        "INSERT INTO uq VALUES (1, 10, 0), (2, 20, 0), (3, 30, 0)",
        "BEGIN; UPDATE uq SET u = 90 WHERE id = 1; UPDATE uq SET n = 1 WHERE id = 2; COMMIT",
        "BEGIN; UPDATE uq SET n = 2 WHERE id = 2; UPDATE uq SET n = 1 WHERE id = 3; COMMIT",
        "UPDATE uq SET n = 2 WHERE id = 3",
    ])
    .await;
    flow.drain().await;
    assert_eq!(flow.target_says(ROWS).await, "1:10:0 2:20:0 3:30:0 9:90:0");
    assert_eq!(classes(&flow).await.len(), 5);
    let client = flow.target.client(&flow.database).await;
    assert_eq!(skip(&client, &flow.name, None).await.unwrap(), 5);
    wait_for(PATIENCE, "changes to be applied again", async || {
        flow.at_source("UPDATE uq SET n = n + 10 WHERE id = 3").await;
        flow.drain().await;
        if classes(&flow).await.is_empty() { Ok(()) } else { Err("queued".to_owned()) }
    })
    .await;
    assert_eq!(flow.target_says(ROWS).await, "1:10:0 2:20:0 3:30:12 9:90:0");
    // A TRUNCATE takes every row, and waits for those that wait.
    flow.at_source("UPDATE uq SET u = 90 WHERE id = 1").await;
    flow.drain().await;
    flow.each_at_source(&[
        "UPDATE uq SET u = 91 WHERE id = 1",
        "UPDATE uq SET u = 90 WHERE id = 1",
        "TRUNCATE uq",
    ])
    .await;
    flow.drain().await;
    assert_eq!(flow.target_says(ROWS).await, "1:10:0 2:20:0 3:30:12 9:90:0");
    flow.at_target("DELETE FROM uq WHERE id = 9").await;
    replay(&flow.replicat, None).await.unwrap();
    assert_eq!(flow.target_says(ROWS).await, "");
    flow.end().await;
}
