//! A switchover of the reference deployment and back, under the writes of an application that keeps its own books.

use std::time::Duration;

use irongate_switchover::plan::Kind;
use irongate_tests::{Cut, SITES, Server, wait_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::deployment::{PATIENCE, stop};
use irongate_tests::books::{Application, books, follows, numbers, reference, rights, running, slots};

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_and_back_loses_nothing_and_repeats_nothing() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let [main, secondary] = &reference.servers;
        assert!(secondary.try_client("app", "config").await.is_err(), "the standby refuses applications");
        let application = Application::start(&reference.servers, 0);

        // What is not right is said, and nothing is changed.
        reference.expect("main", 2, &["switchover", "--to", "secondary"]).await;
        let here = reference.expect("main", 3, &["switchover", "--to", "main"]).await.stderr;
        assert!(here.contains("says that site \"main\" writes"), "{here}");
        reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--resume"]).await;
        reference.expect("secondary", 0, &["open", "secondary", "--force"]).await;
        let refused =
            reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert!(refused.stderr.contains("is open, and a standby must not be"), "{}", refused.stderr);
        let dry = ["switchover", "--to", "secondary", "--dry-run", "--json"];
        let told = reference.expect("secondary", 3, &dry).await.json();
        assert_eq!(told["result"], "refused", "{told}");
        assert!(told["complaints"].to_string().contains("is open, and a standby must not be"), "{told}");
        reference.expect("secondary", 0, &["fence", "secondary"]).await;
        let refused =
            reference.expect("secondary", 3, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert!(refused.stderr.contains("may be no copy any more"), "{}", refused.stderr);
        reference.expect("secondary", 0, &["fence", "secondary", "--is-copy"]).await;
        let none = reference.expect("main", 0, &["open", "main"]).await.stdout;
        assert!(none.contains("there is no fence"), "{none}");
        reference.expect("secondary", 0, &["switchover", "--to", "secondary", "--dry-run"]).await;
        assert_eq!(slots(&reference, 1).await, "mss");

        let there = reference.json("secondary", &["switchover", "--to", "secondary"]).await;
        assert_eq!((&there["result"], &there["lost_transactions"]), (&"done".into(), &0.into()), "{there}");
        let follow = there["steps"].as_array().and_then(|steps| steps.last()).expect("there are steps");
        let sessions = &follow["evidence"]["application_sessions"];
        assert_eq!((&sessions[0]["database"], &sessions[0]["sessions"]), (&"config.main".into(), &0.into()));
        assert_eq!(
            (&sessions[1]["database"], &sessions[1]["sessions"]),
            (&"config.secondary".into(), &1.into())
        );
        println!("PostgreSQL {major}: outage {} s", there["outage_seconds"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(main.try_client("app", "config").await.is_err(), "the old site refuses applications");
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("msp".into(), "css,mss".into())
        );
        let acknowledged = application.stop().await;
        books(secondary, &acknowledged).await;
        numbers(secondary).await;
        follows(&reference, 1, 1).await;

        // The old Extract, started by somebody, does not run.
        reference.start("main", &["start", "csp-extract"]).finish(PATIENCE).await;
        wait_until(PATIENCE, "the old Extract to refuse", async || {
            let groups = reference.json("main", &["info", "csp-extract"]).await;
            groups["groups"][0]["state"] == "ABENDED" && groups.to_string().contains("writes this database")
        })
        .await;

        let application = Application::start(&reference.servers, 1_000_000);
        let back = reference.json("main", &["switchover", "--to", "main"]).await;
        assert_eq!(back["result"], "done", "{back}");
        let more = application.stop().await;
        books(main, &[acknowledged, more].concat()).await;
        numbers(main).await;
        follows(&reference, 0, 2).await;
        assert_eq!(
            (slots(&reference, 0).await, slots(&reference, 1).await),
            ("csp,msp".into(), "mss".into())
        );
        let epochs = "SELECT live || ' ' || epoch || ' ' || coalesce(run, 'free') FROM irongate.role";
        for server in &reference.servers {
            assert_eq!(server.scalar("config", epochs).await, "main 3 free");
        }
        let runs = reference.json("main", &["runs"]).await;
        assert_eq!(runs["runs"][0]["result"], "done", "{runs}");
        let steps: Vec<&Value> = back["steps"].as_array().expect("a list").iter().collect();
        assert!(steps.iter().all(|step| step["result"] == "done"), "{back}");
        for manager in managers {
            stop(manager).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_anywhere_is_gone_on_with_or_taken_back() {
    let seed = irongate_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let major = *Server::majors().choose(&mut random).expect("a version");
    let reference = reference(major).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let (mut live, mut books_kept, mut cut, mut taken_back) = (0, Vec::new(), 0, 0);
    for round in 0..irongate_tests::Tier::pick(2, 5, 100) {
        let to = 1 - live;
        let words = ["switchover", "--to", SITES[to]];
        let before = rights(&reference.servers[live]).await;
        let application = Application::start(&reference.servers, 1_000_000 * (round + 1));
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        let step = Kind::Switchover.steps().choose(&mut random).map_or("fence", |step| step.name);
        let place = match random.random_range(0..4) {
            0 => "begins".to_owned(),
            1 => "done".to_owned(),
            _ => random.random_range(0..150).to_string(),
        };
        let cut_at = Cut { plan: "switchover", site: SITES[to], order: "begin", step, place: &place };
        let is_cut = if random.random_bool(0.6) {
            reference.cut_off(SITES[to], &cut_at).await
        } else {
            reference.expect(SITES[to], 0, &words).await;
            false
        };
        println!(
            "round {round}: to {}, {}",
            SITES[to],
            if is_cut { format!("cut off at {step} {place}") } else { "whole".into() }
        );
        if is_cut {
            cut += 1;
            // Nobody opens by hand what a run has in hand, and a second run is refused as long as the first is not over.
            let live_site = &reference.servers[live];
            let has_roles = "SELECT to_regclass('irongate.role') IS NOT NULL";
            let is_held = "SELECT count(*) > 0 FROM irongate.role WHERE run IS NOT NULL";
            if live_site.scalar("config", has_roles).await == "t"
                && live_site.scalar("config", is_held).await == "t"
            {
                reference.expect(SITES[live], 3, &["open", SITES[live]]).await;
            }
            // Killed before anything is in hand, it has left nothing.
            let left = reference.json(SITES[to], &["runs", "--unfinished"]).await;
            if left["run"].is_null() {
                reference.expect(SITES[to], 0, &words).await;
                live = to;
                books_kept.extend(application.stop().await);
                continue;
            }
            let second = reference.expect(SITES[to], 3, &words).await.stderr;
            assert!(second.contains("is not over"), "{second}");
            let abort = [&words[..], &["--abort"]].concat();
            if random.random_bool(0.4) {
                let finished = reference.start(SITES[to], &abort).finish(PATIENCE).await;
                match finished.code() {
                    0 => {
                        taken_back += 1;
                        assert_eq!(rights(&reference.servers[live]).await, before, "given back exactly");
                        let reverse = slots(&reference, to).await;
                        assert!(!reverse.contains(["css", "csp"][usize::from(to == 0)]), "{reverse}");
                        reference.expect(SITES[to], 0, &words).await;
                    }
                    // Behind the point of no return there is one way only.
                    3 => drop(reference.expect(SITES[to], 0, &[&words[..], &["--resume"]].concat()).await),
                    code => panic!("exit code {code}: {}", finished.stderr),
                }
            } else {
                reference.expect(SITES[to], 0, &[&words[..], &["--resume"]].concat()).await;
            }
        }
        live = to;
        // The application finds the open site by itself.
        tokio::time::sleep(Duration::from_millis(200)).await;
        books_kept.extend(application.stop().await);
        books(&reference.servers[live], &books_kept).await;
        numbers(&reference.servers[live]).await;
        follows(&reference, live, round + 1).await;
    }
    println!("seed {seed}, PostgreSQL {major}: {cut} runs cut off, {taken_back} taken back");
    for manager in managers {
        stop(manager).await;
    }
}
