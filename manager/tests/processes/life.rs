//! The life of a group under a manager.

use std::time::{Duration, Instant};

use irongate_checkpoint::State;
use irongate_manager::event::Kind;
use irongate_manager::supervisor::{Answer, Wish, Word};
use rustix::process::Signal;

use crate::site::{Site, is_alive, signal, until};

#[tokio::test]
async fn what_should_run_runs_and_what_a_person_stops_stays_stopped_for_the_next_manager_too() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true), ("reverse", "work", false)]);
    let manager = site.start().await;
    let a = site.until_state("a", State::Running).await;
    site.until_state("b", State::Running).await;
    let reverse = site.group("reverse").await;
    assert_eq!(
        (reverse.state, reverse.wish, reverse.doing.as_str()),
        (State::Stopped, Wish::Stop, "never started")
    );
    let outcome = site.order(Word::Stop, "a").await;
    assert!(outcome.done && outcome.answer == Answer::Stopping, "{outcome:?}");
    assert!(!is_alive(a.pid.unwrap()));
    assert_eq!(site.order(Word::Stop, "a").await.answer, Answer::AlreadyStopped);
    site.stop(manager).await;

    let manager = site.start().await;
    site.until_state("b", State::Running).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.group("a").await.state, State::Stopped);
    let outcome = site.order(Word::Start, "a").await;
    assert!(outcome.done, "{outcome:?}");
    let first = site.group("a").await.pid.unwrap();
    assert!(site.order(Word::Restart, "a").await.done);
    assert_ne!(site.group("a").await.pid.unwrap(), first);
    let report = site.control().report("a", 100).await.unwrap();
    assert!(report.contains("playing a as work") && report.contains("the manager starts group"), "{report}");
    site.stop(manager).await;
    assert!(!is_alive(first));
}

#[tokio::test]
async fn a_group_that_is_killed_comes_back_and_one_that_keeps_dying_is_given_up_with_growing_pauses() {
    let mut site = Site::new(&[("a", "work", true), ("dying", "die", true)]);
    let manager = site.start().await;
    let first = site.until_state("a", State::Running).await.pid.unwrap();
    signal(first, Signal::KILL);
    let second = until("it is back", async || {
        Some(site.group("a").await).filter(|group| group.state == State::Running && group.pid != Some(first))
    })
    .await;
    assert_eq!((second.starts, second.deaths), (2, 1));

    let given_up = until("it is given up", async || {
        Some(site.group("dying").await)
            .filter(|group| group.error.as_deref().is_some_and(|e| e.contains("in a row")))
    })
    .await;
    assert_eq!((given_up.state, given_up.starts), (State::Abended, 4), "three attempts after the first");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(site.group("dying").await.starts, 4);
    let died = site.events(Kind::Died).await;
    for pause in ["in 0.0 s", "in 0.1 s"] {
        assert!(died.iter().any(|text| text.contains(pause)), "{died:?}");
    }
    // It has been mended: a person starts it.
    site.behave("dying", "work");
    assert!(site.order(Word::Start, "dying").await.done);
    assert_eq!(site.group("dying").await.error, None);
    site.stop(manager).await;
}

#[tokio::test]
async fn an_error_that_a_retry_cannot_help_is_not_retried_not_by_the_next_manager_either() {
    let mut site = Site::new(&[("a", "abend", true), ("b", "usage", true), ("c", "flap", true)]);
    let manager = site.start().await;
    let a = until("a abends", async || {
        Some(site.group("a").await)
            .filter(|group| group.state == State::Abended && group.doing.starts_with("abended: "))
    })
    .await;
    assert_eq!((a.error.as_deref(), a.hint.as_deref()), (Some("the slot is gone"), Some("mend it")));
    assert_eq!((a.starts, a.wish), (1, Wish::Run));
    let b = until("b abends", async || {
        Some(site.group("b").await).filter(|group| group.doing.starts_with("abended: "))
    })
    .await;
    assert!(b.error.as_deref().unwrap().contains("no way to call me"), "{b:?}");
    assert_eq!(b.starts, 1);
    // What may pass is tried again.
    until("c is tried again", async || Some(site.group("c").await).filter(|group| group.starts > 2)).await;
    site.behave("c", "work");
    site.until_state("c", State::Running).await;
    let info = site.info().await;
    assert!(
        !info.healthy && info.complaints.iter().any(|text| text.contains("the slot is gone")),
        "{info:?}"
    );
    site.stop(manager).await;

    let manager = site.start().await;
    site.until_state("c", State::Running).await;
    let a = site.group("a").await;
    assert_eq!((a.state, a.starts, a.error.as_deref()), (State::Abended, 0, Some("the slot is gone")));
    site.stop(manager).await;
}

#[tokio::test]
async fn a_group_that_ignores_the_wish_to_stop_is_waited_for_and_killed_by_a_person() {
    let mut site = Site::new(&[("a", "deaf", true)]).with("stop_limit", 300);
    let manager = site.start().await;
    let pid = site.until_state("a", State::Running).await.pid.unwrap();
    let stop = site.control().order(Word::Stop, &[], Duration::from_millis(900)).await.unwrap();
    assert!(!stop[0].done && stop[0].answer == Answer::Stopping, "{stop:?}");
    assert_eq!(stop[0].doing, "stopping: finishing a large transaction");
    let told = site.events(Kind::NotStopping).await;
    assert!(told.len() == 1 && told[0].contains("irongate kill a"), "{told:?}");
    assert!(is_alive(pid));
    let kill = site.order(Word::Kill, "a").await;
    assert!(kill.done && kill.answer == Answer::Killing, "{kill:?}");
    assert!(!is_alive(pid));
    assert_eq!(site.group("a").await.state, State::Stopped);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(site.group("a").await.pid, None, "killed by a person, so not started again");
    site.stop(manager).await;
}

#[tokio::test]
async fn a_manager_that_ends_waits_for_its_groups_and_forces_those_that_take_too_long() {
    let mut site = Site::new(&[("slow", "slow", true), ("deaf", "deaf", true)]).with("stop_limit", 2000);
    let manager = site.start().await;
    let slow = site.until_state("slow", State::Running).await.pid.unwrap();
    let deaf = site.until_state("deaf", State::Running).await.pid.unwrap();
    let begin = Instant::now();
    signal(manager, Signal::TERM);
    until("orders are refused", async || {
        let said = site.control().order(Word::Start, &[], Duration::ZERO).await;
        said.err()
            .map(|error| assert!(error.is_transient() || error.to_string().contains("ending"), "{error}"))
    })
    .await;
    let status = site.ended(manager).await;
    assert!(status.success() && begin.elapsed() >= Duration::from_secs(2), "{status} {:?}", begin.elapsed());
    assert!(!is_alive(slow) && !is_alive(deaf));
    let status = irongate_checkpoint::read_status(&site.state(), "slow").unwrap().unwrap();
    assert_eq!(status.state, State::Stopped, "it ended in order");
    let error = site.control().ping().await.unwrap_err();
    assert!(error.to_string().starts_with("no manager is running for site \"main\""), "{error}");
    assert!(error.hint().unwrap().contains("manager"));
}

#[tokio::test]
async fn a_terminal_s_interrupt_does_not_reach_the_groups() {
    let mut site = Site::new(&[("a", "work", true)]);
    let manager = site.start().await;
    let pid = site.until_state("a", State::Running).await.pid.unwrap();
    let group =
        |pid: u32| rustix::process::getpgid(rustix::process::Pid::from_raw(pid.cast_signed())).unwrap();
    assert_ne!(group(pid), group(manager));
    site.stop(manager).await;
}

#[tokio::test]
async fn a_reload_takes_over_what_changed_and_says_what_has_to_wait() {
    let mut site = Site::new(&[("a", "work", true), ("b", "work", true)]);
    let manager = site.start().await;
    site.until_state("a", State::Running).await;
    let b = site.until_state("b", State::Running).await.pid.unwrap();
    site.settings["groups"] = serde_json::json!([["a", "talk", true], ["c", "work", true]]);
    site.write();
    let difference = site.control().reload().await.unwrap();
    let has = |list: &[String], word: &str| list.iter().any(|text| text.contains(word));
    assert!(has(&difference.changed, "\"b\" is no longer") && has(&difference.changed, "\"c\" is new"));
    assert!(has(&difference.needs_restart, "irongate restart a"), "{difference:?}");
    site.until_state("c", State::Running).await;
    until("b has ended", async || (!is_alive(b)).then_some(())).await;
    // By signal, as a service manager does it; what cannot be read changes nothing.
    std::fs::write(site.dir.path().join("settings.json"), "{").unwrap();
    signal(manager, Signal::HUP);
    until("the failure is told", async || {
        let told = site.events(Kind::Reloaded).await;
        Some(told.last()?.clone()).filter(|text| text.contains("those before hold"))
    })
    .await;
    let error = site.control().reload().await.unwrap_err();
    assert!(error.to_string().contains("settings.json"), "{error}");
    assert_eq!(site.info().await.groups.len(), 2);
    site.stop(manager).await;
}

#[tokio::test]
async fn a_report_is_bounded_while_its_process_writes() {
    let mut site = Site::new(&[("a", "talk", true)]).with("report_bytes", 400);
    let manager = site.start().await;
    let report = site.state().join("report");
    until("it was cut", async || report.join("a.log.1").exists().then_some(())).await;
    let text = site.control().report("a", 5).await.unwrap();
    assert!(text.is_empty() || text.contains("line"), "{text}");
    site.stop(manager).await;
}
