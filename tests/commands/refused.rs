//! Changes that the target refuses.

use irongate_tests::{Server, wait_until};

use super::deployment::{Deployment, PATIENCE, stop};

const QUEUE: &str = "[[flows.csp.replicat.on_error]]\nclass = \"23\"\naction = \"queue-row\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn refused_changes_are_listed_shown_replayed_and_skipped() {
    let deployment = Deployment::ready(Server::majors()[0], QUEUE).await;
    assert_eq!(deployment.json(&["errors", "list", "csp"]).await["errors"].as_array().map(Vec::len), Some(0));
    let in_the_way =
        "INSERT INTO person VALUES (6001, 'in the way'), (6002, 'in the way'), (6003, 'in the way')";
    deployment.target.batch_in("app", in_the_way).await;
    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    for id in [6001, 6002, 6003, 7000] {
        deployment.add(id).await;
    }
    deployment.arrived(7000).await;

    let list = deployment.json(&["errors", "list", "csp"]).await;
    let queue = list["errors"].as_array().expect("a list");
    assert_eq!(queue.len(), 3, "{list}");
    let ids: Vec<String> = queue.iter().map(|change| change["id"].to_string()).collect();
    let first = &queue[0];
    assert_eq!((&first["table"], &first["operation"]), (&"public.person".into(), &"insert".into()));
    assert_eq!((&first["class"], &first["state"]), (&"23505".into(), &"queued".into()));
    assert!(first.get("new_row").is_none(), "a list holds no values");
    let text = deployment.expect(0, &["errors", "list", "csp"]).await.stdout;
    assert!(text.contains("23505") && !text.contains("person 6001"), "{text}");
    let shown = deployment.json(&["errors", "show", "csp", &ids[0]]).await;
    assert_eq!(shown["new_row"]["name"], "person 6001");
    let text = deployment.expect(0, &["errors", "show", "csp", &ids[0]]).await.stdout;
    assert!(text.contains("person 6001"), "{text}");

    // Still refused: nothing was done.
    deployment.expect(1, &["errors", "replay", "csp", &ids[0]]).await;
    // The first is taken, the second is not: executed but incomplete.
    deployment.target.batch_in("app", "DELETE FROM person WHERE id = 6001").await;
    let partly = deployment.expect(4, &["errors", "replay", "csp", "--all", "--json"]).await.json();
    assert_eq!((&partly["replayed"], &partly["left"]), (&1.into(), &2.into()));
    deployment.target.batch_in("app", "DELETE FROM person WHERE id = 6002").await;
    let done = deployment.json(&["errors", "replay", "csp", &ids[1]]).await;
    assert_eq!((&done["replayed"], &done["left"]), (&1.into(), &0.into()));
    deployment.expect(2, &["errors", "replay", "csp", &ids[1]]).await;
    assert_eq!(deployment.json(&["errors", "skip", "csp", &ids[2]]).await["skipped"], 1);
    assert_eq!(deployment.json(&["errors", "list", "csp"]).await["errors"].as_array().map(Vec::len), Some(0));
    let all = deployment.json(&["errors", "list", "csp", "--all"]).await;
    let states: Vec<_> =
        all["errors"].as_array().expect("a list").iter().map(|c| c["state"].clone()).collect();
    assert_eq!(states, ["replayed", "replayed", "skipped"]);
    let found = deployment.compare().await;
    assert_eq!(found.differences.len(), 1, "only the row that was skipped differs: {found}");
    stop(replicat).await;
    stop(extract).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_replicat_abends_and_says_what_to_do() {
    let deployment = Deployment::ready(Server::majors()[0], "").await;
    deployment.target.batch_in("app", "INSERT INTO person VALUES (6001, 'in the way')").await;
    let extract = deployment.start("csp-extract").await;
    let mut replicat = deployment.start("csp-replicat").await;
    deployment.add(6001).await;
    let status = replicat.wait(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    let said = replicat.stderr();
    assert!(said.contains("public.person") && said.contains("hint:"), "{said}");
    assert!(!said.contains("in the way") && !said.contains("6001"), "a row's value is in the log: {said}");
    let group = deployment.group("csp-replicat").await;
    assert_eq!(group["state"], "ABENDED");
    assert!(group["error"].is_string() && group["hint"].is_string(), "{group}");
    deployment.target.batch_in("app", "DELETE FROM person WHERE id = 6001").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.arrived(6001).await;
    wait_until(PATIENCE, "no error to be shown", async || {
        deployment.group("csp-replicat").await["error"].is_null()
    })
    .await;
    stop(replicat).await;
    stop(extract).await;
}
