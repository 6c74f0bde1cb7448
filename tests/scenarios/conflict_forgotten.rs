//! The server forgets versions that matter, and Replicat says so before it overlooks a conflict.

use irongate_apply::{Error, accept_conflicts};
use irongate_tests::wait_for;

use super::super::support::{Flow, PATIENCE, pairs};
use super::Sites;

/// Both sites change the same row while the flow is cut; then `forget` has its way with the target.
async fn forgets(test: &str, forget: impl AsyncFn(&mut Flow)) {
    for pair in pairs() {
        let Sites { mut there, back } = Sites::new(test, pair).await;
        // So that the servers are this flow's alone.
        drop(back);
        there.start().await;
        for table in ["latest", "site"] {
            there.at_source(&format!("INSERT INTO {table} VALUES (45, 0, 'first', '')")).await;
        }
        there.drain().await;
        there.stop_replicat().await;
        for table in ["latest", "site"] {
            there.at_source(&format!("UPDATE {table} SET a = 'by a'")).await;
            there.at_target(&format!("UPDATE {table} SET a = 'by b'")).await;
        }
        forget(&mut there).await;
        let known = "SELECT (pg_xact_commit_timestamp(xmin) IS NOT NULL)::text FROM latest";
        assert_eq!(there.target_says(known).await, "false", "the test needs a version that is forgotten");
        there.start_replicat().await;
        let error = there.replicat_abends().await;
        assert!(matches!(&error, Error::VersionsForgotten { .. }), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("irongate conflicts accept {}", there.name)), "{hint}");
        for table in ["latest", "site"] {
            assert_eq!(there.target_says(&format!("SELECT a FROM {table}")).await, "by b");
        }
        // Not by itself, and not by another start.
        there.start_replicat().await;
        assert!(matches!(there.replicat_abends().await, Error::VersionsForgotten { .. }));
        let client = there.target.client(&there.database).await;
        assert!(accept_conflicts(&client, &there.name).await.unwrap().is_some());
        there.start_replicat().await;
        there.drain().await;
        assert!(accept_conflicts(&client, "none").await.unwrap().is_none());
        there.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_times_that_were_off_for_a_while_stop_the_flow() {
    forgets("was_off", async |there: &mut Flow| {
        for setting in ["off", "on"] {
            there.target_server().configure("track_commit_timestamp", setting);
            there.target_server().restart().await;
        }
    })
    .await;
}

/// Freezes every row of every database, as VACUUM does by and by, and so has the server forget commit times.
async fn freeze(there: &Flow) {
    there.at_target("ALTER DATABASE template0 ALLOW_CONNECTIONS true").await;
    let databases = there.target_says("SELECT string_agg(datname, ' ') FROM pg_database").await;
    for database in databases.split(' ') {
        there.target.batch_in(database, "VACUUM (FREEZE)").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_frozen_while_the_flow_was_cut_stop_it() {
    forgets("was_frozen", async |there: &mut Flow| freeze(there).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_frozen_while_the_flow_was_in_step_do_not() {
    let pair = pairs()[0];
    let mut sites = Sites::new("in_step", pair).await;
    sites.there.start().await;
    sites.there.drain().await;
    let canary = "SELECT xid::text FROM irongate.canary";
    let first = sites.there.target_says(canary).await;
    sites.there.at_source("INSERT INTO latest VALUES (1, 0, 'first', '')").await;
    sites.there.drain().await;
    sites.there.at_target("UPDATE latest SET n = 1").await;
    // The canary goes on as the source's commits come; each start looks at once.
    wait_for(PATIENCE, "the canary to go on", async || {
        sites.there.drain().await;
        sites.there.stop_replicat().await;
        sites.there.start_replicat().await;
        sites.there.drain().await;
        let now = sites.there.target_says(canary).await;
        if now == first { Err(now) } else { Ok(()) }
    })
    .await;
    sites.there.stop_replicat().await;
    let last = sites.there.target_says(canary).await;
    // A cut holds it where it is.
    sites.there.at_source("UPDATE latest SET n = 2").await;
    for _ in 0..2 {
        sites.there.start_replicat().await;
        sites.there.drain().await;
        sites.there.stop_replicat().await;
        sites.there.stop_extract().await;
        sites.there.start_extract().await;
    }
    assert!(sites.there.target_says(canary).await.parse::<u64>().unwrap() >= last.parse().unwrap());
    sites.there.start_replicat().await;
    sites.there.at_source("UPDATE latest SET n = 3").await;
    sites.there.drain().await;
    assert_eq!(sites.there.target_says("SELECT n FROM latest").await, "3");
    sites.there.end().await;
}
