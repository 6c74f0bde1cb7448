//! A whole site is lost under load, part of its tail trailed and never shipped, part never trailed; what it had alone is found
//! when it comes back, repeated at the other one while applications write there, and goes back to it.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_tests::books::{Application, follows, power_off, power_on, reference, running};
use irongate_tests::{SITES, Server};

use super::world::{Found, PATIENCE};

/// The application's numbers that are at a site.
async fn there(server: &Server) -> BTreeSet<i64> {
    let rows = server.rows("config", "SELECT n::text FROM entry WHERE site = 'app'").await;
    rows.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_lost_primary_is_found_and_brought_back() {
    for major in Server::majors_in_turn() {
        let mut reference = reference(major).await;
        let [main_manager, secondary_manager] = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let application = Application::start(&reference.servers, 0);
        tokio::time::sleep(Duration::from_millis(700)).await;
        for group in ["csp-pump", "csp-extract"] {
            reference.expect("main", 0, &["stop", group]).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        power_off(&mut reference);
        drop(main_manager);
        let failover = ["failover", "--to", "secondary", "--accept-loss"];
        let taken = reference.json("secondary", &failover).await;
        assert_eq!(taken["result"], "done", "{taken}");
        tokio::time::sleep(Duration::from_millis(300)).await;

        let main_manager = power_on(&mut reference).await;
        let only_there = &there(&reference.servers[0]).await - &there(&reference.servers[1]).await;
        let done = reference.json("main", &["salvage", "main", "--out", "found"]).await;
        let found = Found::read(&reference.directory.path().join("found"));
        let listed: Vec<i64> = found
            .transactions()
            .iter()
            .flat_map(|transaction| transaction["changes"].as_array().unwrap())
            .map(|change| change["new"]["n"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), only_there);
        assert_eq!(listed.len(), only_there.len(), "each once");
        let (trail, slot) = (found.from("trail"), found.from("slot"));
        println!("PostgreSQL {major}: {trail} lost in the trail, {slot} in the slot");
        assert!(trail > 20 && slot > 20, "{done}");
        // The point where the sites part is what the report of the failover says.
        let divergence = found.document["divergence"].as_str().unwrap();
        assert!(taken["steps"].to_string().contains(&format!("\"end_lsn\":\"{divergence}\"")), "{taken}");

        assert_eq!(
            found.document["summary"]["notes"].to_string(),
            "[]",
            "the site is closed, and nothing is torn"
        );
        found.decide("replay", &[]);
        let apply = reference.json("main", &["salvage", "main", "--apply", "found"]).await;
        assert_eq!(apply["applied"][0]["replayed"], listed.len(), "{apply}");
        let acknowledged = application.stop().await;
        let now = there(&reference.servers[1]).await;
        let lost: Vec<_> = acknowledged.iter().filter(|n| !now.contains(n)).collect();
        assert!(lost.is_empty(), "acknowledged and nowhere: {lost:?}");
        let reinstated = reference.json("secondary", &["reinstate", "main"]).await;
        assert_eq!(reinstated["result"], "done", "{reinstated}");
        let signed = &reinstated["steps"][0]["evidence"]["salvaged"][0];
        assert_eq!(signed["transactions"], listed.len(), "{reinstated}");
        follows(&reference, 1, 1).await;
        for mut manager in [main_manager, secondary_manager] {
            manager.terminate();
            manager.wait(PATIENCE).await;
        }
    }
}
