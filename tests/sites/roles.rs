//! Changes of roles between sites that are far from each other, and that lose sight of each other.

use std::time::Duration;

use irongate_tests::books::{ACCESS, Application, books, follows, numbers, prepared, running, slots};
use irongate_tests::network::order::{Shape, Way};
use irongate_tests::{Network, Plan, Process, Reference, SITES, Server, wait_until};

use super::{PATIENCE, stop};

async fn sites(test: &str, major: u32) -> Option<(Reference, [Process; 2])> {
    let network = Network::start_or_skip(test)?;
    let link = "ping_interval = \"1s\"\nsilence = \"4s\"\nconnect_timeout = \"3s\"\n";
    let more = format!("{ACCESS}[manager.restart]\ndelay = \"100ms\"\nlongest_delay = \"1s\"\n");
    let reference = prepared(Plan::new(major).at(network).link(link).more(&more).control()).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    Some((reference, managers))
}

/// Application writes are refused for less than 2 s, and for less than 5 s where a round trip takes 50 ms.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switchover_lets_nobody_write_for_a_moment_only() {
    let test = "a_planned_switchover_lets_nobody_write_for_a_moment_only";
    for major in Server::majors_in_turn() {
        let Some((reference, managers)) = sites(test, major).await else { return };
        let network = reference.network.as_ref().unwrap();
        let (mut live, mut kept) = (0, Vec::new());
        for (round, delay) in (1..).zip([0, 0, 25, 25]) {
            let delay = Duration::from_millis(delay);
            network.shape(Way::Both, Shape { delay, ..Shape::default() });
            let to = 1 - live;
            let application = Application::start(&reference.servers, 1_000_000 * round);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let run = reference.json(SITES[to], &["switchover", "--to", SITES[to]]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            kept.extend(application.stop().await);
            let outage = run["outage_seconds"].as_f64().unwrap();
            println!(
                "PostgreSQL {major}, {} ms round trip: writes refused for {outage:.2} s",
                2 * delay.as_millis()
            );
            let steps = run["steps"].as_array().unwrap().iter();
            let steps: Vec<_> = steps
                .map(|step| {
                    format!("{} {:.2}", step["name"].as_str().unwrap(), step["seconds"].as_f64().unwrap())
                })
                .collect();
            println!("  {}", steps.join(", "));
            books(&reference.servers[to], &kept).await;
            numbers(&reference.servers[to]).await;
            follows(&reference, to, round).await;
            live = to;
        }
        for manager in managers {
            stop(manager).await;
        }
    }
}

/// The sites lose sight of each other, and both write: what the old one goes on to write reaches nobody, and when they see
/// each other again it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_was_only_cut_off_is_not_mixed_with_the_one_that_took_over() {
    let test = "a_site_that_was_only_cut_off_is_not_mixed_with_the_one_that_took_over";
    for major in Server::majors_in_turn() {
        let Some((reference, managers)) = sites(test, major).await else { return };
        let network = reference.network.as_ref().unwrap();
        let [main, secondary] = &reference.servers;
        // As long as it answers, it is not lost.
        let failover = ["failover", "--to", "secondary", "--accept-loss"];
        let refused = reference.expect("secondary", 3, &failover).await.stderr;
        assert!(refused.contains("is not lost") && refused.contains("switchover"), "{refused}");

        network.cut(Way::Both);
        // Written where nobody sees it any more.
        for n in 0..50 {
            main.batch_in("config", &format!("INSERT INTO entry VALUES ('cut off', {n})")).await;
        }
        let taken = reference.json("secondary", &failover).await;
        assert_eq!(taken["result"], "done", "{taken}");
        for n in 0..50 {
            main.batch_in("config", &format!("INSERT INTO entry VALUES ('cut off', 100 + {n})")).await;
            secondary.batch_in("config", &format!("INSERT INTO entry VALUES ('anew', {n})")).await;
        }
        assert!(main.try_client("app", "config").await.is_ok(), "nobody could tell it");
        network.mend(Way::Both);
        wait_until(PATIENCE, "the site that was cut off to be closed", async || {
            main.try_client("app", "config").await.is_err()
        })
        .await;
        // Both databases that both sites write go on as if nothing had been.
        for (number, site) in SITES.iter().enumerate() {
            let server = &reference.servers[number];
            server.batch_in("log", &format!("INSERT INTO entry VALUES ('behind {site}', 1)")).await;
        }
        for (number, site) in SITES.iter().enumerate() {
            let seen = format!("SELECT count(*) FROM entry WHERE site = 'behind {site}'");
            wait_until(PATIENCE, "the log to go on", async || {
                reference.servers[1 - number].scalar("log", &seen).await == "1"
            })
            .await;
        }
        let count = "SELECT count(*) FILTER (WHERE site = 'cut off') || ' ' || count(*) FILTER (WHERE site = 'anew') FROM entry";
        assert_eq!(main.scalar("config", count).await, "100 0");
        assert_eq!(
            secondary.scalar("config", count).await,
            "0 50",
            "nothing of an epoch that is over has come in"
        );
        assert_eq!(slots(&reference, 1).await, "css,mss");
        for manager in managers {
            stop(manager).await;
        }
    }
}
