//! A run that is killed at every boundary of its steps, and inside each, comes to the same end as one that is not.

use std::process::Command;
use std::time::Duration;

use irongate_switchover::plan::Kind;
use irongate_tests::{Process, Reference, SITES, Server, Tier};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::books::{Application, books, follows, numbers, reference, rights, running, slots};
use super::deployment::{PATIENCE, stop};

/// Runs a plan to the place where it kills itself; whether it came there.
async fn killed(reference: &Reference, here: &str, order: &str, step: &str, place: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_run-a-plan"));
    let file = reference.directory.path().join("irongate.toml");
    command.arg(file).args([here, "switchover", here, order, step, place]);
    command.current_dir(reference.directory.path());
    let mut run = Process::spawn(command);
    let status = run.wait(PATIENCE).await;
    if status.success() {
        return false;
    }
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(9), "at {step} {place}: {}", run.stderr());
    true
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
        let mut places: Vec<(&str, String)> = Vec::new();
        for step in Kind::Switchover.steps() {
            places.extend([(step.name, "begins".to_owned()), (step.name, "done".to_owned())]);
            for _ in 0..Tier::pick(0, 1, 3) {
                places.push((step.name, random.random_range(1..120).to_string()));
            }
        }
        if Tier::pick(true, false, false) {
            places = places.choose_multiple(&mut random, 4).cloned().collect();
        }
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
            if killed(&reference, SITES[to], "begin", step, &place).await {
                cut += 1;
                if random.random_bool(0.4) {
                    // The taking back is cut off too, at a step that may have begun.
                    let steps = Kind::Switchover.steps();
                    let undone = steps.choose(&mut random).map_or("lock", |step| step.name);
                    let could = !is_behind_no_return(&reference, SITES[to]).await;
                    if could {
                        killed(&reference, SITES[to], "abort", undone, "undone").await;
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

/// Whether the last run of a site is behind the point of no return.
async fn is_behind_no_return(reference: &Reference, site: &str) -> bool {
    let runs = reference.json(site, &["runs"]).await;
    let last = runs["runs"].as_array().and_then(|runs| runs.last()).cloned().unwrap_or_default();
    let no_return = Kind::Switchover.steps().iter().find(|step| step.no_return).map(|step| step.name);
    last["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["name"].as_str() == no_return))
}
