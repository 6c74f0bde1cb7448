//! A run that is killed at every boundary of its steps, and inside each, comes to the same end as one that is not.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_switchover::plan::Kind;
use irongate_tests::{Cut, Reference, SITES, Server, Tier};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::deployment::{PATIENCE, stop};
use irongate_tests::books::{
    Application, books, follows, numbers, power_off, power_on, reference, rights, running, slots,
};

/// All places of a plan, each step's beginning and end and some inside. The full tier takes them all, the others some.
fn places(plan: Kind, random: &mut StdRng) -> Vec<(&'static str, String)> {
    let mut places: Vec<(&str, String)> = Vec::new();
    for step in plan.steps() {
        places.extend([(step.name, "begins".to_owned()), (step.name, "done".to_owned())]);
        for _ in 0..Tier::pick(0, 1, 3) {
            places.push((step.name, random.random_range(1..120).to_string()));
        }
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_at_every_boundary_comes_to_the_same_end() {
    let seed = irongate_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let majors = match Tier::pick(0, 1, 2) {
        2 => Server::majors(),
        _ => vec![*Server::majors().choose(&mut random).expect("a version")],
    };
    for major in majors {
        let reference = reference(major).await;
        let managers = SITES.map(|site| reference.start(site, &["manager"]));
        running(&reference).await;
        let mut places = places(Kind::Switchover, &mut random);
        let rounds = Tier::pick(4, 12, places.len());
        places = places.choose_multiple(&mut random, rounds).cloned().collect();
        let (mut live, mut kept, mut cut, mut taken_back) = (0, Vec::new(), 0, 0);
        for (round, (step, place)) in (1_i64..).zip(places) {
            let to = 1 - live;
            let what = format!("seed {seed}, PostgreSQL {major}, {step} {place}");
            let words = ["switchover", "--to", SITES[to]];
            let resume = [&words[..], &["--resume"]].concat();
            let abort = [&words[..], &["--abort"]].concat();
            let before = rights(&reference.servers[live]).await;
            let application = Application::start(&reference.servers, 1_000_000 * round);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let cut_at = async |order, step, place: &str| {
                let cut = Cut { plan: "switchover", site: SITES[to], order, step, place };
                reference.cut_off(SITES[to], &cut).await
            };
            if cut_at("begin", step, &place).await {
                cut += 1;
                if random.random_bool(0.4) {
                    // The taking back is cut off too, at a step that may have begun.
                    let steps = Kind::Switchover.steps();
                    let undone = steps.choose(&mut random).map_or("lock", |step| step.name);
                    let could = !is_behind_no_return(&reference, SITES[to]).await;
                    if could {
                        cut_at("abort", undone, "undone").await;
                    }
                    let finished = reference.start(SITES[to], &abort).finish(PATIENCE).await;
                    match finished.code() {
                        0 => {
                            taken_back += 1;
                            assert_eq!(rights(&reference.servers[live]).await, before, "{what}");
                            let reverse = ["css", "csp"][usize::from(to == 0)];
                            assert!(!slots(&reference, to).await.contains(reverse), "{what}");
                            reference.expect(SITES[to], 0, &words).await;
                        }
                        3 if could => {
                            // The taking back had come to its end.
                            assert!(finished.stderr.contains("is over"), "{what}: {}", finished.stderr);
                            reference.expect(SITES[to], 0, &words).await;
                        }
                        3 => drop(reference.expect(SITES[to], 0, &resume).await),
                        code => panic!("{what}: exit code {code}: {}", finished.stderr),
                    }
                } else {
                    reference.expect(SITES[to], 0, &resume).await;
                }
            }
            live = to;
            tokio::time::sleep(Duration::from_millis(150)).await;
            kept.extend(application.stop().await);
            books(&reference.servers[live], &kept).await;
            numbers(&reference.servers[live]).await;
            follows(&reference, live, round).await;
            let roles = "SELECT live || ' ' || coalesce(run, 'free') FROM irongate.role";
            for server in &reference.servers {
                assert_eq!(server.scalar("config", roles).await, format!("{} free", SITES[live]), "{what}");
            }
        }
        println!("seed {seed}, PostgreSQL {major}: {cut} runs cut off, {taken_back} taken back");
        for manager in managers {
            stop(manager).await;
        }
    }
}

/// The whole life after a disaster, with the run of each of its plans killed somewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_and_a_reinstatement_killed_at_every_boundary_come_to_the_same_end() {
    let seed = irongate_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let major = *Server::majors().choose(&mut random).expect("a version");
    let mut reference = reference(major).await;
    let mut managers = SITES.map(|site| reference.start(site, &["manager"]));
    running(&reference).await;
    let [mut takeovers, mut returns] =
        [Kind::Failover, Kind::Reinstate].map(|plan| places(plan, &mut random));
    takeovers.shuffle(&mut random);
    returns.shuffle(&mut random);
    let rounds = Tier::pick(1, 2, takeovers.len());
    let mut kept: Vec<i64> = Vec::new();
    for round in 0..rounds {
        let (number, takeover) = (round as i64 + 1, &takeovers[round]);
        let back = &returns[round % returns.len()];
        let what = format!("seed {seed}, PostgreSQL {major}, failover {takeover:?}, reinstate {back:?}");
        println!("{what}");
        let application = Application::start(&reference.servers, 1_000_000 * number);
        tokio::time::sleep(Duration::from_millis(400)).await;
        power_off(&mut reference);
        let words = ["failover", "--to", "secondary", "--accept-loss"];
        let cut =
            Cut { plan: "failover", site: "secondary", order: "begin", step: takeover.0, place: &takeover.1 };
        if reference.cut_off("secondary", &cut).await {
            if random.random_bool(0.3) && takeover.0 != "open" && takeover.0 != "roles" {
                let abort = reference.start("secondary", &[&words[..3], &["--abort"]].concat());
                let code = abort.finish(PATIENCE).await.code();
                let words = if code == 0 { words.to_vec() } else { [&words[..3], &["--resume"]].concat() };
                reference.expect("secondary", 0, &words).await;
            } else {
                reference.expect("secondary", 0, &[&words[..3], &["--resume"]].concat()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        managers[0] = power_on(&mut reference).await;
        let acknowledged = application.stop().await;
        // What 1 had not sent is lost, and everything that 2 acknowledged is there.
        let there = reference.servers[1].rows("config", "SELECT n::text FROM entry WHERE site = 'app'").await;
        let there: BTreeSet<i64> = there.iter().filter_map(|row| row[0].as_ref()?.parse().ok()).collect();
        let lost = acknowledged.iter().filter(|n| !there.contains(n)).count();
        println!("{lost} of {} lost", acknowledged.len());
        kept.extend(acknowledged.into_iter().filter(|n| there.contains(n)));

        let words = ["reinstate", "main", "--accept-loss"];
        let cut = Cut { plan: "reinstate", site: "main", order: "begin", step: back.0, place: &back.1 };
        if reference.cut_off("secondary", &cut).await {
            reference.expect("secondary", 0, &[&words[..2], &["--resume"]].concat()).await;
        }
        follows(&reference, 1, 10 * number).await;
        reference.expect("main", 0, &["switchback"]).await;
        follows(&reference, 0, 10 * number + 1).await;
        books(&reference.servers[0], &kept).await;
        let normal = (slots(&reference, 0).await, slots(&reference, 1).await);
        assert_eq!(normal, ("csp,msp".into(), "mss".into()), "{what}");
    }
    for manager in managers {
        stop(manager).await;
    }
}

/// Whether the last run of a site is behind the point of no return.
async fn is_behind_no_return(reference: &Reference, site: &str) -> bool {
    let runs = reference.json(site, &["runs"]).await;
    let last = runs["runs"].as_array().and_then(|runs| runs.last()).cloned().unwrap_or_default();
    let no_return = Kind::Switchover.steps().iter().find(|step| step.no_return).map(|step| step.name);
    last["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["name"].as_str() == no_return))
}
