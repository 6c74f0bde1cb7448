//! Managers that are killed, and what the next one makes of what they left.

use std::time::Duration;

use irongate_checkpoint::{GroupLock, Program, Publisher, State, Status, read_status};
use irongate_manager::event::Kind;
use irongate_manager::supervisor::Word;
use rustix::process::Signal;

use crate::site::{SITE, Site, is_alive, processes, signal, until};

#[tokio::test]
async fn groups_go_on_without_their_manager_and_the_next_one_takes_them_over() {
    let mut site = Site::new(&[("a", "work", true), ("b", "talk", true), ("c", "work", true)]);
    let manager = site.start().await;
    let a = site.until_state("a", State::Running).await.pid.unwrap();
    let b = site.until_state("b", State::Running).await.pid.unwrap();
    let c = site.until_state("c", State::Running).await.pid.unwrap();
    site.kill(manager).await;
    let done = |group: &str| read_status(&site.state(), group).unwrap().unwrap().counters.transactions;
    let before = (done("a"), done("b"));
    until("they go on working", async || Some(()).filter(|()| done("a") > before.0 && done("b") > before.1))
        .await;
    // One dies while nobody looks.
    signal(c, Signal::KILL);
    until("it is gone", async || (!is_alive(c)).then_some(())).await;

    let manager = site.start().await;
    assert_eq!(site.until_state("a", State::Running).await.pid, Some(a));
    assert_eq!(site.until_state("b", State::Running).await.pid, Some(b));
    let back = site.until_state("c", State::Running).await;
    assert_ne!(back.pid, Some(c), "a dead process that said RUNNING is recognised");
    assert_eq!(site.group("a").await.starts, 0);
    assert_eq!(site.events(Kind::Adopted).await.len(), 2);
    // An adopted process is supervised like a child.
    signal(a, Signal::KILL);
    let again = until("it is started", async || {
        Some(site.group("a").await).filter(|group| group.state == State::Running && group.pid != Some(a))
    })
    .await;
    assert_eq!(again.starts, 1);
    assert!(site.order(Word::Stop, "b").await.done);
    assert!(!is_alive(b));
    assert_eq!(read_status(&site.state(), "b").unwrap().unwrap().state, State::Stopped);
    site.stop(manager).await;
}

#[tokio::test]
async fn what_runs_and_should_not_is_ended() {
    let mut site = Site::new(&[("a", "work", true), ("reverse", "work", false)]);
    let manager = site.start().await;
    let a = site.until_state("a", State::Running).await.pid.unwrap();
    assert!(site.order(Word::Start, "reverse").await.done);
    let reverse = site.group("reverse").await.pid.unwrap();
    // The manager dies with the word "stop" saved and not acted upon.
    signal(reverse, Signal::STOP);
    let stop = site.control().order(Word::Stop, &["reverse".to_owned()], Duration::ZERO).await.unwrap();
    assert!(!stop[0].done);
    site.kill(manager).await;
    signal(reverse, Signal::CONT);
    let manager = site.start().await;
    until("it has ended", async || (!is_alive(reverse)).then_some(())).await;
    site.until_state("reverse", State::Stopped).await;
    assert_eq!(site.until_state("a", State::Running).await.pid, Some(a));
    // Somebody runs it by hand beside the manager.
    let mut by_hand = std::process::Command::new(env!("CARGO_BIN_EXE_play-a-part"));
    let state = site.state();
    by_hand.args(["group".as_ref(), state.as_os_str(), "reverse".as_ref(), "work".as_ref()]);
    let mut by_hand = by_hand.stdout(std::process::Stdio::null()).spawn().unwrap();
    until("it is ended", async || by_hand.try_wait().unwrap()).await;
    let adopted = site.events(Kind::Adopted).await;
    assert!(adopted.iter().any(|text| text.contains("although it is to be stopped")), "{adopted:?}");
    site.stop(manager).await;
}

#[tokio::test]
async fn a_second_manager_is_refused_and_the_first_one_is_named() {
    let mut site = Site::new(&[("a", "work", true)]);
    let manager = site.start().await;
    let pid = site.until_state("a", State::Running).await.pid;
    let second = site.launch();
    let status = site.ended(second).await;
    assert_eq!(status.code(), Some(1));
    let said = site.said();
    assert!(said.contains("a manager of site \"main\" is already running"), "{said}");
    assert!(said.contains(&format!("process {manager}")), "{said}");
    assert_eq!(site.group("a").await.pid, pid, "nothing happened to the first one");
    site.stop(manager).await;
}

#[tokio::test]
async fn a_lock_that_somebody_else_holds_is_waited_for_and_he_is_left_alone() {
    let mut site = Site::new(&[("a", "work", true), ("reverse", "work", false)]);
    // Like an initial load, which keeps the group from running.
    let lock = GroupLock::acquire(&site.state(), "a").unwrap();
    // And which does its work meanwhile, as that of a group that is to be stopped: this process, which would be ended.
    let _stopped = GroupLock::acquire(&site.state(), "reverse").unwrap();
    let works = Publisher::start(&site.state(), Status::starting("reverse", "f", Program::Extract)).unwrap();
    works.state(State::Running, "carrying rows");
    let manager = site.start().await;
    let waiting = until("it waits", async || {
        Some(site.group("a").await).filter(|group| group.doing.contains("waiting for its lock"))
    })
    .await;
    assert_eq!((waiting.state, waiting.deaths, waiting.starts), (State::Stopped, 0, 0));
    assert!(waiting.doing.contains(&std::process::id().to_string()), "{}", waiting.doing);
    // It looks every 2 s.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(site.events(Kind::Adopted).await, Vec::<String>::new());
    drop(lock);
    assert_eq!(site.until_state("a", State::Running).await.starts, 1);
    assert_eq!(site.events(Kind::Waiting).await.len(), 1);
    site.stop(manager).await;
}

#[tokio::test]
async fn a_damaged_file_of_wishes_stops_the_manager_and_not_the_groups() {
    let mut site = Site::new(&[("a", "work", true)]);
    let manager = site.start().await;
    let a = site.until_state("a", State::Running).await.pid.unwrap();
    site.kill(manager).await;
    std::fs::write(site.own().join("desired.json"), "{\"version\": 1, \"gro").unwrap();
    let second = site.launch();
    assert_eq!(site.ended(second).await.code(), Some(1));
    let said = site.said();
    assert!(said.contains("desired.json") && said.contains("cannot be understood"), "{said}");
    assert!(is_alive(a));
    std::fs::remove_file(site.own().join("desired.json")).unwrap();
    let manager = site.start().await;
    assert_eq!(site.until_state("a", State::Running).await.pid, Some(a));
    site.stop(manager).await;
}

#[tokio::test]
async fn managers_killed_at_any_moment_never_make_two_processes_or_wake_what_was_stopped() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true), ("reverse", "work", false)]);
    let manager = site.start().await;
    assert!(site.order(Word::Stop, "b").await.done);
    site.kill(manager).await;
    for round in 0..12_u64 {
        let manager = site.launch();
        tokio::time::sleep(Duration::from_millis(3 * round * round)).await;
        site.kill(manager).await;
        for group in ["b", "reverse"] {
            assert!(!GroupLock::is_held(&site.state(), group).unwrap(), "\"{group}\" runs");
        }
    }
    let manager = site.start().await;
    let a = site.until_state("a", State::Running).await;
    assert_eq!(processes(&site.state()), [a.pid.unwrap()]);
    site.stop(manager).await;
    assert!(!site.own().join("control.sock").exists(), "socket of \"{SITE}\"");
}
