//! Checkpoints that an operator moves.

use irongate_tests::Server;

use super::deployment::{Deployment, stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_replicat_s_checkpoint_is_moved_on_and_back() {
    let deployment = Deployment::ready(Server::majors()[0], "").await;
    let extract = deployment.start("csp-extract").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.add(5000).await;
    deployment.arrived(5000).await;
    // Not while it runs.
    deployment.expect(3, &["position", "csp-replicat", "--to", "end", "--accept-loss"]).await;
    stop(replicat).await;
    let before = deployment.json(&["position", "csp-replicat"]).await["checkpoint"].clone();
    assert_eq!(before["transactions"], 1);

    for id in 6000..6010 {
        deployment.add(id).await;
    }
    let caught =
        "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= pg_current_wal_insert_lsn()";
    irongate_tests::wait_until(super::deployment::PATIENCE, "the trail to have it all", async || {
        deployment.source.scalar("app", caught).await == "1"
    })
    .await;
    let moved = deployment.json(&["position", "csp-replicat", "--to", "end", "--accept-loss"]).await;
    assert_eq!(moved["before"], before);
    assert_ne!(moved["after"]["resume_lsn"], before["resume_lsn"]);
    let replicat = deployment.start("csp-replicat").await;
    deployment.add(7000).await;
    deployment.arrived(7000).await;
    stop(replicat).await;
    let skipped = "SELECT count(*) FROM person WHERE id BETWEEN 6000 AND 6009";
    assert_eq!(deployment.target.scalar("app", skipped).await, "0", "what was passed over is missing");

    // Back to where it was, and what was passed over comes; so does the last row, again, once it is out of the way.
    let lsn = before["resume_lsn"].as_str().expect("an LSN").to_owned();
    let moved = deployment.json(&["position", "csp-replicat", "--to", &lsn, "--accept-loss"]).await;
    assert_eq!(moved["after"]["resume_lsn"], before["resume_lsn"]);
    assert_eq!(moved["after"]["position"], before["position"]);
    deployment.target.batch_in("app", "DELETE FROM person WHERE id = 7000").await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.arrived(7000).await;
    deployment.compare().await.assert_same();
    stop(replicat).await;
    stop(extract).await;
    // A place before the trail.
    let answer = deployment.expect(1, &["position", "csp-replicat", "--to", "0/1", "--accept-loss"]).await;
    assert!(answer.stderr.contains("the trail begins later"), "{}", answer.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extract_s_checkpoint_is_moved_on_and_never_back() {
    let deployment = Deployment::ready(Server::majors()[0], "").await;
    let extract = deployment.start("csp-extract").await;
    deployment.add(5000).await;
    let replicat = deployment.start("csp-replicat").await;
    deployment.arrived(5000).await;
    stop(extract).await;
    let before = deployment.json(&["position", "csp-extract"]).await["checkpoint"].clone();
    deployment.add(6000).await;
    deployment.expect(0, &["position", "csp-extract", "--to", "end", "--accept-loss"]).await;
    let lsn = before["resume_lsn"].as_str().expect("an LSN").to_owned();
    let answer = deployment.expect(1, &["position", "csp-extract", "--to", &lsn, "--accept-loss"]).await;
    assert!(answer.stderr.contains("cannot be taken back"), "{}", answer.stderr);
    deployment.expect(1, &["position", "csp-extract", "--to", "FFFF/0", "--accept-loss"]).await;
    let extract = deployment.start("csp-extract").await;
    deployment.add(7000).await;
    deployment.arrived(7000).await;
    let skipped = "SELECT count(*) FROM person WHERE id = 6000";
    assert_eq!(deployment.target.scalar("app", skipped).await, "0");
    stop(extract).await;
    stop(replicat).await;
}
