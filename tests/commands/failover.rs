//! The life after a disaster: a site is lost under load, the other one takes over, the lost one comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_tests::{SITES, Server, wait_until};

use super::deployment::{PATIENCE, stop};
use irongate_tests::books::{
    Application, books, follows, numbers, power_off, power_on, reference, running, slots,
};

/// The acknowledged numbers that are at a site.
async fn there(server: &Server) -> BTreeSet<i64> {
    let rows = server.rows("config", "SELECT n::text FROM entry WHERE site = 'app'").await;
    rows.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_is_taken_over_and_comes_back_closed_and_is_reinstated() {
    for major in Server::majors_in_turn() {
        let mut reference = reference(major).await;
        let [main_manager, secondary_manager] = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;

        // A site that answers is not taken over, and nobody loses what he has not been told of.
        let failover = ["failover", "--to", "secondary"];
        let refused = reference.expect("secondary", 3, &failover).await.stderr;
        assert!(refused.contains("is not lost") && refused.contains("--accept-loss"), "{refused}");
        reference.expect("main", 2, &failover).await;
        let nowhere = reference.expect("secondary", 2, &["failover", "--to", "nowhere"]).await.stderr;
        assert!(nowhere.contains("no site \"nowhere\"") && nowhere.contains("secondary"), "{nowhere}");
        assert_eq!(slots(&reference, 1).await, "mss");

        let application = Application::start(&reference.servers, 0);
        wait_until(PATIENCE, "the standby's sequence to be ahead", async || {
            let stands = "SELECT last_value FROM numbers";
            let [main, secondary] = &reference.servers;
            let (here, there) =
                (main.scalar("config", stands).await, secondary.scalar("config", stands).await);
            there.parse::<i64>().ok() > here.parse().ok()
        })
        .await;
        power_off(&mut reference);
        drop(main_manager);
        let refused =
            reference.expect("secondary", 3, &[&failover[..], &["--dry-run"]].concat()).await.stderr;
        assert!(refused.contains("is lost with it") && !refused.contains("is not lost"), "{refused}");
        let taken = reference.json("secondary", &[&failover[..], &["--accept-loss"]].concat()).await;
        assert_eq!(taken["result"], "done", "{taken}");
        assert!(taken["lost_transactions"].is_null(), "a dead site cannot be read: {taken}");
        let probes = taken["steps"][0]["evidence"]["probes"].as_array().expect("a list").clone();
        assert!(probes.len() == 2 && probes.iter().all(|probe| probe["answers"] == false), "{taken}");
        println!("PostgreSQL {major}: {}", taken["steps"][0]["evidence"]["databases"][0]["arrived"]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(slots(&reference, 1).await, "css,mss");

        // The old primary powers on, and its services start by themselves.
        let main_manager = power_on(&mut reference).await;
        let before = there(&reference.servers[0]).await;
        let roles = "SELECT live || ' ' || epoch || ' ' || coalesce(run, 'free') FROM irongate.role";
        for server in &reference.servers {
            assert_eq!(server.scalar("config", roles).await, "secondary 2 free");
        }
        wait_until(PATIENCE, "the old Extract to be kept from running", async || {
            let groups = reference.json("main", &["info", "csp"]).await["groups"].to_string();
            groups.contains("ABENDED") || groups.contains("STOPPED")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let acknowledged = application.stop().await;
        let now = there(&reference.servers[1]).await;
        let lost: Vec<i64> = acknowledged.iter().filter(|n| !now.contains(n)).copied().collect();
        println!("PostgreSQL {major}: {} acknowledged, {} lost: {lost:?}", acknowledged.len(), lost.len());
        // What was lost is at the site that was, and nothing of it came here behind the taking over.
        assert!(lost.iter().all(|n| before.contains(n)), "{lost:?}");

        let reinstated = reference.json("secondary", &["reinstate", "main", "--accept-loss"]).await;
        assert_eq!(reinstated["result"], "done", "{reinstated}");
        assert!(reference.servers[0].try_client("app", "config").await.is_err(), "a standby stays closed");
        follows(&reference, 1, 1).await;

        let application = Application::start(&reference.servers, 5_000_000);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let back = reference.json("main", &["switchback"]).await;
        assert_eq!((&back["result"], &back["plan"]), (&"done".into(), &"switchback".into()), "{back}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let more = application.stop().await;
        let kept = acknowledged.into_iter().filter(|n| !lost.contains(n)).chain(more).collect::<Vec<_>>();
        books(&reference.servers[0], &kept).await;
        numbers(&reference.servers[0]).await;
        follows(&reference, 0, 2).await;
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into()),
            "normal mode: the reverse set is stopped and keeps no log"
        );
        for manager in [main_manager, secondary_manager] {
            stop(manager).await;
        }
    }
}

/// What has arrived must be applied before a site takes over: where that cannot be, it is said before anything is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_replicat_cannot_go_on_does_not_take_over_before_that_is_mended() {
    let mut reference = reference(Server::majors()[0]).await;
    let [main_manager, secondary_manager] = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let [main, secondary] = &reference.servers;
    secondary.batch_in("config", "ALTER TABLE entry RENAME TO other").await;
    main.batch_in("config", "INSERT INTO entry VALUES ('arrived', 1)").await;
    wait_until(PATIENCE, "Replicat to stop for good", async || {
        let groups = reference.groups("secondary").await;
        groups.iter().any(|group| group["name"] == "csp-replicat" && group["state"] == "ABENDED")
    })
    .await;
    power_off(&mut reference);
    drop(main_manager);
    let failover = ["failover", "--to", "secondary", "--accept-loss"];
    let refused = reference.expect("secondary", 3, &failover).await.stderr;
    assert!(refused.contains("csp-replicat is ABENDED") && refused.contains("mend that first"), "{refused}");
    assert_eq!(slots(&reference, 1).await, "mss", "nothing was done");
    let secondary = &reference.servers[1];
    secondary.batch_in("config", "ALTER TABLE other RENAME TO entry").await;
    reference.expect("secondary", 0, &["start", "csp-replicat"]).await;
    let taken = reference.json("secondary", &failover).await;
    assert_eq!(taken["result"], "done", "{taken}");
    let arrived = "SELECT count(*) FROM entry WHERE site = 'arrived'";
    assert_eq!(secondary.scalar("config", arrived).await, "1");
    stop(secondary_manager).await;
}
