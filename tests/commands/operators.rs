//! Who is in the way of a switchover: an application in the middle of a transaction, and a second operator.

use std::time::Duration;

use irongate_tests::books::{follows, power_off, power_on, reference, running};
use irongate_tests::{Cut, SITES, Server, wait_until};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use super::deployment::{PATIENCE, stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_open_is_committed_and_replicated_or_rolled_back() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let [main, secondary] = &reference.servers;
        // One is in the middle of it, one has prepared what somebody else is to commit.
        let open = main.try_client("app", "config").await.expect("the site that writes is open");
        open.batch_execute("BEGIN; INSERT INTO entry VALUES ('open', 1)").await.expect("it may write");
        let prepared = "BEGIN; INSERT INTO entry VALUES ('prepared', 1); PREPARE TRANSACTION 'half'";
        main.batch_in("config", prepared).await;
        let words = ["switchover", "--to", "secondary"];
        let refused = reference.expect("secondary", 3, &words).await.stderr;
        assert!(refused.contains("prepared transaction \"half\""), "{refused}");
        main.batch_in("config", "COMMIT PREPARED 'half'").await;
        // Somebody whom no fence concerns is waited for: what he commits is there, too.
        let administrator = main.client("config").await;
        administrator
            .batch_execute("BEGIN; INSERT INTO entry VALUES ('administrator', 1)")
            .await
            .expect("a superuser may write");
        let run = reference.start("secondary", &words);
        wait_until(PATIENCE, "the fence", async || main.try_client("app", "config").await.is_err()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        administrator.batch_execute("COMMIT").await.expect("his session was left alone");
        let finished = run.finish(PATIENCE).await;
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        assert!(open.batch_execute("COMMIT").await.is_err(), "the session was ended");
        let rows = "SELECT string_agg(site, ' ' ORDER BY site) FROM entry WHERE site <> 'before'";
        assert_eq!(secondary.scalar("config", rows).await, "administrator prepared");
        follows(&reference, 1, 1).await;
        for manager in managers {
            stop(manager).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_operator_is_refused_with_the_name_of_the_first() {
    for major in Server::majors_in_turn() {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let words = ["switchover", "--to", "secondary"];
        // A run that is under way, and stands still for a moment.
        let mut first = reference.start("secondary", &words);
        wait_until(PATIENCE, "the run to begin", async || {
        let held = "SELECT count(*) FROM pg_class WHERE relname = 'role' AND relnamespace = 'irongate'::regnamespace";
        reference.servers[1].scalar("config", held).await == "1"
    })
    .await;
        first.signal(Signal::STOP);
        for more in [&[][..], &["--resume"], &["--abort"]] {
            let second = reference.expect("secondary", 3, &[&words[..], more].concat()).await.stderr;
            let pid = first.id().to_string();
            assert!(second.contains(&pid), "the process {pid} is not named: {second}");
        }
        first.signal(Signal::CONT);
        let finished = first.finish(PATIENCE).await;
        assert_eq!(finished.code(), 0, "{}", finished.stderr);

        // One that was cut off, and somebody who begins another at the other site.
        let cut = Cut { plan: "switchover", site: "main", order: "begin", step: "lock", place: "done" };
        assert!(reference.cut_off("main", &cut).await);
        let held = reference.json("main", &["runs", "--unfinished"]).await["run"].clone();
        let held = held.as_str().expect("a run is not over").to_owned();
        for (site, words) in [
            ("secondary", &["failover", "--to", "secondary", "--accept-loss", "--force"][..]),
            ("secondary", &["reinstate", "main", "--accept-loss"]),
            ("secondary", &["open", "secondary"]),
        ] {
            let refused = reference.expect(site, 3, words).await.stderr;
            assert!(refused.contains(&held) && refused.contains('@'), "{words:?}: {refused}");
        }
        // Who looks in the morning is told, at both sites.
        let late = "UPDATE irongate.role SET run_since = now() - interval '2 minutes'";
        for (server, site) in reference.servers.iter().zip(SITES) {
            server.batch_in("config", late).await;
            wait_until(PATIENCE, "health to tell of the run", async || {
                let health = reference.start(site, &["health"]).finish(PATIENCE).await;
                health.code() == 4 && health.stdout.contains(&held) && health.stdout.contains("--resume")
            })
            .await;
        }
        reference.expect("main", 0, &["switchover", "--to", "main", "--abort"]).await;
        let healthy = async || {
            for site in SITES {
                wait_until(PATIENCE, "everything to be well again", async || {
                    reference.start(site, &["health"]).finish(PATIENCE).await.code() == 0
                })
                .await;
            }
        };
        healthy().await;
        follows(&reference, 1, 3).await;
        reference.expect("main", 0, &["open", "main", "--force"]).await;
        wait_until(PATIENCE, "health to tell of the open standby", async || {
            let health = reference.start("main", &["health"]).finish(PATIENCE).await;
            health.code() == 4 && health.stdout.contains("config.main is open to its applications")
        })
        .await;
        reference.expect("main", 0, &["fence", "main"]).await;
        wait_until(PATIENCE, "health to tell of what was open", async || {
            let health = reference.start("main", &["health"]).finish(PATIENCE).await;
            health.code() == 4 && health.stdout.contains("irongate fence main --is-copy")
        })
        .await;
        reference.expect("main", 0, &["fence", "main", "--is-copy"]).await;
        healthy().await;
        for manager in managers {
            stop(manager).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_goes_on_from_a_run_in_the_middle_of_which_the_other_site_was_lost() {
    let seed = irongate_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    // Before anything is closed, in the middle of it, and behind the point of no return.
    let (step, place) =
        *[("lock", "done"), ("fence", "done"), ("drain", "begins"), ("open", "done"), ("roles", "done")]
            .choose(&mut random)
            .expect("a place");
    println!("seed {seed}: {step} {place}");
    let major = *Server::majors().last().expect("a version");
    let mut reference = reference(major).await;
    let [main_manager, secondary_manager] = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    reference.servers[0].batch_in("config", "INSERT INTO entry VALUES ('sent', 1)").await;
    follows(&reference, 0, 1).await;
    let cut = Cut { plan: "switchover", site: "secondary", order: "begin", step, place };
    assert!(reference.cut_off("secondary", &cut).await);
    power_off(&mut reference);
    drop(main_manager);
    let failover = ["failover", "--to", "secondary"];
    // The run cannot go either way without the other site.
    reference.expect("secondary", 1, &["switchover", "--to", "secondary", "--resume"]).await;
    reference.expect("secondary", 3, &failover).await;
    let taken = reference.json("secondary", &[&failover[..], &["--accept-loss"]].concat()).await;
    assert_eq!(taken["result"], "done", "{taken}");
    let secondary = &reference.servers[1];
    let app = secondary.try_client("app", "config").await.expect("the site that took over is open");
    app.execute("INSERT INTO entry VALUES ('anew', 1)", &[]).await.expect("applications write there");
    let runs = reference.json("secondary", &["runs"]).await;
    assert_eq!(runs["runs"][0]["result"], "superseded", "{runs}");
    let main_manager = power_on(&mut reference).await;
    // Nobody loads the site that writes with the rows of the one that was lost.
    reference.expect("main", 0, &["stop", "csp"]).await;
    let refused = reference.expect("main", 3, &["instantiate", "csp", "--truncate"]).await.stderr;
    assert!(refused.contains("writes"), "{refused}");
    // A reinstatement that is taken back leaves it closed, and the site that writes is captured.
    let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: "stop-groups", place: "done" };
    assert!(reference.cut_off("secondary", &cut).await);
    reference.expect("secondary", 0, &["reinstate", "main", "--abort"]).await;
    assert!(reference.servers[0].try_client("app", "config").await.is_err(), "it stays closed");
    let groups = reference.groups("secondary").await;
    let capture = groups.iter().find(|group| group["name"] == "css-extract").expect("the group is known");
    assert_eq!(capture["state"], "RUNNING", "{capture}");
    reference.expect("secondary", 0, &["reinstate", "main", "--accept-loss"]).await;
    follows(&reference, 1, 2).await;
    for manager in [main_manager, secondary_manager] {
        stop(manager).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_not_wait_for_a_group_that_has_fallen() {
    let major = Server::majors()[0];
    let reference = reference(major).await;
    let managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    // Somebody has spoilt the standby, and behind the prechecks Replicat comes to where it cannot go on.
    let row = "INSERT INTO entry VALUES ('twice', 1)";
    let spoil = format!("SET session_replication_role = replica; {row}");
    reference.servers[1].batch_in("config", &spoil).await;
    let cut = Cut { plan: "switchover", site: "secondary", order: "begin", step: "fence", place: "begins" };
    assert!(reference.cut_off("secondary", &cut).await);
    reference.servers[0].batch_in("config", row).await;
    let state = async || reference.json("secondary", &["info", "csp-replicat"]).await["groups"][0].clone();
    wait_until(PATIENCE, "Replicat to fall", async || state().await["state"] == "ABENDED").await;
    let words = ["switchover", "--to", "secondary"];
    let begin = std::time::Instant::now();
    let resumed = [&words[..], &["--resume"]].concat();
    let stopped = reference.start("secondary", &resumed).finish(PATIENCE).await;
    assert_ne!(stopped.code(), 0);
    for word in ["\"drain\"", "csp-replicat", "public.entry", "duplicate key", "--abort"] {
        assert!(stopped.stderr.contains(word), "{word}: {}", stopped.stderr);
    }
    assert!(begin.elapsed() < Duration::from_secs(60), "the applications wait all that time");
    // Somebody lets them in again where they were: that is no copy gone astray, and the next run does not take it for one.
    reference.expect("main", 0, &["open", "main", "--force"]).await;
    assert!(reference.servers[0].try_client("app", "config").await.is_ok());
    reference.expect("secondary", 0, &[&words[..], &["--abort"]].concat()).await;
    let mend = "SET session_replication_role = replica; DELETE FROM entry WHERE site = 'twice'";
    reference.servers[1].batch_in("config", mend).await;
    reference.expect("secondary", 0, &["start", "csp-replicat"]).await;
    follows(&reference, 0, 1).await;
    reference.expect("secondary", 0, &words).await;
    let there = "SELECT count(*) FROM entry WHERE site = 'twice'";
    assert_eq!(reference.servers[1].scalar("config", there).await, "1");
    for manager in managers {
        stop(manager).await;
    }
}
