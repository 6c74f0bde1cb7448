//! Conflicts and sequences, as an operator looks at them.

use irongate_tests::{Server, wait_until};

use super::deployment::{Deployment, PATIENCE, stop};

const RULES: &str = "[flows.csp.conflicts]\npolicy = \"latest\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_listed_shown_counted_and_purged() {
    let mut deployment = Deployment::new(Server::majors()[0], RULES).await;
    let plan = deployment.expect(0, &["setup", "--print-sql"]).await.stdout;
    for made in [
        "irongate.tombstone",
        "TRIGGER irongate_deleted AFTER DELETE ON \"public\".\"person\"",
        "irongate.conflict",
    ] {
        assert!(plan.contains(made), "{made} is not in:\n{plan}");
    }
    deployment.expect(0, &["setup"]).await;
    deployment.expect(0, &["instantiate", "csp"]).await;
    assert!(
        deployment.json(&["setup", "--print-sql"]).await["statements"].as_array().is_some_and(Vec::is_empty)
    );
    for server in [&mut deployment.source, &mut deployment.target] {
        server.configure("track_commit_timestamp", "off");
        server.restart().await;
    }
    // Large values may not come along, nobody goes back, and nothing has a time.
    let found = deployment.expect(3, &["check", "--json"]).await.json();
    let fixes = found["findings"].as_array().expect("findings");
    for fix in [
        "track_commit_timestamp = on",
        "REPLICA IDENTITY FULL",
        "add a flow from",
        "NOT EXISTS (SELECT FROM \"public\".\"person\" p WHERE p.\"id\" = c.\"person\")",
    ] {
        assert!(
            fixes.iter().any(|finding| finding["fix"].as_str().is_some_and(|text| text.contains(fix))),
            "{fix} is not in {found}"
        );
    }
    for server in [&mut deployment.source, &mut deployment.target] {
        server.configure("track_commit_timestamp", "on");
        server.restart().await;
        server
            .batch_in(
                "app",
                "ALTER TABLE person REPLICA IDENTITY FULL; ALTER TABLE note REPLICA IDENTITY FULL",
            )
            .await;
    }
    assert_eq!(
        deployment.json(&["conflicts", "list", "csp"]).await["conflicts"].as_array().map(Vec::len),
        Some(0)
    );
    deployment.source.batch_in("app", "UPDATE person SET name = 'came' WHERE id = 1").await;
    deployment.source.batch_in("app", "UPDATE person SET name = 'came' WHERE id = 2").await;
    deployment.target.batch_in("app", "UPDATE person SET name = 'local secret' WHERE id = 1").await;
    deployment
        .target
        .batch_in("app", "DELETE FROM note WHERE person = 2; DELETE FROM person WHERE id = 2")
        .await;
    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.add(7000).await;
    deployment.arrived(7000).await;
    let list = deployment.json(&["conflicts", "list", "csp"]).await;
    let conflicts = list["conflicts"].as_array().expect("a list");
    let kinds: Vec<_> = conflicts.iter().map(|one| (one["kind"].clone(), one["decision"].clone())).collect();
    assert_eq!(kinds, [("update differs".into(), "local".into()), ("update missing".into(), "local".into())]);
    assert!(conflicts[0].get("local_row").is_none(), "a list holds no values");
    let text = deployment.expect(0, &["conflicts", "list", "csp"]).await.stdout;
    assert!(text.contains("update differs") && !text.contains("secret"), "{text}");
    assert_eq!(
        deployment.json(&["conflicts", "list", "csp", "--limit", "1"]).await["conflicts"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    let id = conflicts[0]["id"].to_string();
    let shown = deployment.json(&["conflicts", "show", "csp", &id]).await;
    assert_eq!(
        (&shown["local_row"]["name"], &shown["incoming_new"]["name"]),
        (&"local secret".into(), &"came".into())
    );
    let text = deployment.expect(0, &["conflicts", "show", "csp", &id]).await.stdout;
    assert!(text.contains("local secret") && text.contains("person 1"), "{text}");
    deployment.expect(2, &["conflicts", "show", "csp", "999"]).await;
    wait_until(PATIENCE, "the conflicts to be counted", async || {
        deployment.json(&["stats", "csp-replicat"]).await["groups"][0]["conflicts"] == 2
    })
    .await;
    assert!(!replicat.stderr().contains("secret"), "a row value in a log");
    assert_eq!(deployment.json(&["conflicts", "purge", "csp", "--keep-days", "1"]).await["purged"], 0);
    assert_eq!(deployment.json(&["conflicts", "purge", "csp", "--keep-days", "0"]).await["purged"], 2);
    let accepted = deployment.json(&["conflicts", "accept", "csp"]).await;
    assert!(accepted["accepted"] == true && accepted["since"].is_string(), "{accepted}");
    let text = deployment.expect(0, &["conflicts", "accept", "csp"]).await.stdout;
    assert!(text.contains("nothing to accept"), "{text}");
    stop(replicat).await;
    stop(extract).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_are_interleaved_and_a_flow_without_a_policy_has_no_conflicts() {
    let deployment = Deployment::new(Server::majors()[0], "").await;
    let refused = deployment.expect(2, &["conflicts", "list", "csp"]).await;
    assert!(refused.stderr.contains("[flows.csp.conflicts]"), "{}", refused.stderr);
    for server in [&deployment.source, &deployment.target] {
        server.batch_in("app", "CREATE TABLE ticket (id bigserial PRIMARY KEY)").await;
    }
    deployment.source.batch_in("app", "INSERT INTO ticket SELECT FROM generate_series(1, 9)").await;
    let printed = deployment.expect(0, &["sequences", "csp"]).await.stdout;
    assert!(
        printed.contains("ALTER SEQUENCE \"public\".\"ticket_id_seq\" INCREMENT BY 2 RESTART WITH 10"),
        "{printed}"
    );
    let done = deployment.json(&["sequences", "csp", "--apply"]).await;
    assert_eq!(done["statements"].as_array().map(Vec::len), Some(2));
    for (server, expected) in [(&deployment.source, "10"), (&deployment.target, "11")] {
        assert_eq!(server.scalar("app", "SELECT nextval('ticket_id_seq')").await, expected);
    }
    let again = deployment.expect(0, &["sequences", "csp", "--apply"]).await.stdout;
    assert!(again.contains("interleaved already"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_differences_that_takes_null_is_an_error_of_the_check_with_what_mends_it() {
    const SUMS: &str = "[flows.csp.conflicts]\npolicy = \"latest\"\n\n[[flows.csp.conflicts.table]]\n\
        table = \"public.note\"\npolicy = \"latest\"\ncolumns = { size = \"difference\" }\n";
    let deployment = Deployment::new(Server::majors()[0], SUMS).await;
    for server in [&deployment.source, &deployment.target] {
        server.batch_in("app", "ALTER TABLE note ADD size int; ALTER TABLE note REPLICA IDENTITY FULL").await;
    }
    let fix = "ALTER TABLE \"public\".\"note\" ALTER COLUMN \"size\" SET NOT NULL";
    let count = async |answer: serde_json::Value| {
        let findings = answer["findings"].as_array().cloned().unwrap_or_default();
        let says = |finding: &&serde_json::Value| finding["fix"].to_string().contains("SET NOT NULL");
        findings.iter().filter(says).count()
    };
    let found = deployment.expect(3, &["check", "--json"]).await.json();
    assert_eq!(count(found.clone()).await, 2, "{fix} for each site is not in {found}");
    deployment.target.batch_in("app", fix).await;
    let found = deployment.expect(3, &["check", "--json"]).await.json();
    assert_eq!(count(found.clone()).await, 1, "{found}");
}
