//! The supervisor as a conversation: each test says what happens and what is answered.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> RestartPolicy {
    RestartPolicy { attempts: 3, first: SECOND, longest: 4 * SECOND, reset: 60 * SECOND }
}

fn rules(rules: &[(&str, bool)]) -> Vec<GroupRule> {
    rules
        .iter()
        .map(|(name, autostart)| GroupRule { name: (*name).to_owned(), autostart: *autostart })
        .collect()
}

fn machine(groups: &[(&str, bool)], desired: Desired) -> Supervisor {
    Supervisor::new(policy(), 10 * SECOND, rules(groups), desired)
}

/// Effects without what is only told.
fn acts(effects: Vec<Effect>) -> Vec<String> {
    let act = |effect| match effect {
        Effect::Save => Some("save".to_owned()),
        Effect::Spawn(group) => Some(format!("spawn {group}")),
        Effect::Terminate(group) => Some(format!("term {group}")),
        Effect::Kill(group) => Some(format!("kill {group}")),
        Effect::Record(_) => None,
    };
    effects.into_iter().filter_map(act).collect()
}

fn told(effects: &[Effect]) -> Vec<(Severity, Kind)> {
    let notice = |effect: &Effect| match effect {
        Effect::Record(notice) => Some((notice.severity, notice.kind)),
        _ => None,
    };
    effects.iter().filter_map(notice).collect()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn started(group: &str, pid: u32) -> Event {
    Event::Started { group: group.to_owned(), pid }
}

fn exited(group: &str, failure: Option<bool>) -> Event {
    let failure = failure.map(|transient| Failure {
        message: "it broke".into(),
        hint: Some("mend it".into()),
        transient,
    });
    let how = How::Code(if failure.is_some() { 1 } else { 0 });
    Event::Exited { group: group.to_owned(), exit: Exit { how, failure } }
}

fn running(desired: Desired) -> Supervisor {
    let mut it = machine(&[("a", true)], desired);
    assert_eq!(acts(it.handle(at(0), Event::Tick)), ["spawn a"]);
    assert!(acts(it.handle(at(0), started("a", 7))).is_empty());
    it
}

#[test]
fn the_first_tick_starts_what_should_run_and_nothing_else() {
    let mut it = machine(&[("a", true), ("reverse", false)], Desired::default());
    assert_eq!(acts(it.handle(at(0), Event::Tick)), ["spawn a"]);
    assert!(acts(it.handle(at(1), Event::Tick)).is_empty(), "asked for once");
    let effects = it.handle(at(1), started("a", 7));
    assert_eq!(told(&effects), [(Severity::Info, Kind::Started)]);
    assert_eq!(it.groups()["a"].phase, Phase::Running { pid: 7, since: at(1) });
    assert_eq!(it.groups()["reverse"].phase, Phase::Off);
    assert_eq!(it.deadline(), None);
}

#[test]
fn a_group_that_dies_is_restarted_with_growing_pauses_and_then_no_more() {
    let mut it = running(Desired::default());
    let mut now = 0;
    for pause in [1, 2, 4] {
        let effects = it.handle(at(now), exited("a", Some(true)));
        assert_eq!(told(&effects), [(Severity::Warning, Kind::Died)]);
        assert_eq!(it.deadline(), Some(at(now + pause)));
        assert!(acts(it.handle(at(now + pause) - SECOND / 2, Event::Tick)).is_empty());
        now += pause;
        assert_eq!(acts(it.handle(at(now), Event::Tick)), ["spawn a"]);
        it.handle(at(now), started("a", 7));
    }
    let effects = it.handle(at(now), exited("a", Some(true)));
    assert_eq!(told(&effects), [(Severity::Error, Kind::Abended)]);
    assert_eq!(acts(effects), ["save"]);
    let failure = it.abended("a").unwrap();
    assert!(failure.message.contains("4 times") && !failure.transient, "{failure:?}");
    assert!(acts(it.handle(at(now + 10_000), Event::Tick)).is_empty());
}

#[test]
fn a_long_life_makes_earlier_deaths_forgotten() {
    let mut it = running(Desired::default());
    let mut now = 0;
    for _ in 0..20 {
        now += 60;
        it.handle(at(now), exited("a", Some(true)));
        assert_eq!(it.groups()["a"].deaths, 1);
        now += 1;
        assert_eq!(acts(it.handle(at(now), Event::Tick)), ["spawn a"]);
        it.handle(at(now), started("a", 7));
    }
}

#[test]
fn an_error_that_a_retry_cannot_help_ends_the_attempts_until_a_person_speaks() {
    let mut it = running(Desired::default());
    let effects = it.handle(at(5), exited("a", Some(false)));
    let Some(Effect::Record(notice)) = effects.last() else { panic!("{effects:?}") };
    assert!(notice.text.contains("it broke") && notice.text.contains("mend it"), "{}", notice.text);
    assert_eq!(acts(effects), ["save"]);
    assert!(acts(it.handle(at(999), Event::Tick)).is_empty());
    // The next manager knows it too.
    let mut next = machine(&[("a", true)], it.desired().clone());
    assert!(acts(next.handle(at(0), Event::Tick)).is_empty());
    let (answer, effects) = next.say(at(1), "a", Word::Start).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Starting, vec!["save".to_owned(), "spawn a".into()]));
    assert_eq!(next.abended("a"), None);
}

#[test]
fn an_end_that_nobody_asked_for_is_mended_even_if_it_was_orderly() {
    let mut it = running(Desired::default());
    let effects = it.handle(at(5), exited("a", None));
    assert_eq!(told(&effects), [(Severity::Warning, Kind::Died)]);
    assert_eq!(acts(it.handle(at(6), Event::Tick)), ["spawn a"]);
}

#[test]
fn a_stopped_group_stays_stopped_also_for_the_next_manager() {
    let mut it = running(Desired::default());
    let (answer, effects) = it.say(at(1), "a", Word::Stop).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Stopping, vec!["save".to_owned(), "term a".into()]));
    let (answer, effects) = it.say(at(1), "a", Word::Stop).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Stopping, vec![]), "said twice, done once");
    let effects = it.handle(at(2), exited("a", None));
    assert_eq!(told(&effects), [(Severity::Info, Kind::Stopped)]);
    assert!(acts(it.handle(at(999), Event::Tick)).is_empty());
    let mut next = machine(&[("a", true)], it.desired().clone());
    assert!(acts(next.handle(at(0), Event::Tick)).is_empty());
    assert_eq!(next.say(at(0), "a", Word::Stop).unwrap().0, Answer::AlreadyStopped);
}

#[test]
fn a_group_without_autostart_runs_when_a_person_starts_it_and_again_with_the_next_manager() {
    let mut it = machine(&[("reverse", false)], Desired::default());
    assert!(acts(it.handle(at(0), Event::Tick)).is_empty());
    let (answer, effects) = it.say(at(1), "reverse", Word::Start).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Starting, vec!["save".to_owned(), "spawn reverse".into()]));
    let mut next = machine(&[("reverse", false)], it.desired().clone());
    assert_eq!(acts(next.handle(at(0), Event::Tick)), ["spawn reverse"]);
    assert_eq!(next.say(at(0), "reverse", Word::Start).unwrap().0, Answer::AlreadyRunning);
}

#[test]
fn a_group_that_does_not_stop_is_told_of_once_and_killed_only_by_a_person() {
    let mut it = running(Desired::default());
    it.say(at(1), "a", Word::Stop).unwrap();
    assert_eq!(it.deadline(), Some(at(11)));
    let effects = it.handle(at(11), Event::Tick);
    assert_eq!(told(&effects), [(Severity::Warning, Kind::NotStopping)]);
    assert!(acts(effects).is_empty());
    assert!(it.handle(at(12), Event::Tick).is_empty());
    assert_eq!(it.deadline(), None);
    let (answer, effects) = it.say(at(13), "a", Word::Kill).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Killing, vec!["kill a".to_owned()]));
    let effects = it.handle(at(14), exited("a", Some(true)));
    assert_eq!(told(&effects), [(Severity::Info, Kind::Stopped)]);
    assert!(acts(it.handle(at(999), Event::Tick)).is_empty());
}

#[test]
fn restart_stops_first_and_starts_when_the_process_is_gone() {
    let mut it = running(Desired::default());
    let (answer, effects) = it.say(at(1), "a", Word::Restart).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Restarting, vec!["save".to_owned(), "term a".into()]));
    assert!(acts(it.handle(at(2), Event::Tick)).is_empty());
    assert_eq!(acts(it.handle(at(3), exited("a", None))), ["spawn a"]);
    // A start while the group is stopping follows it as well.
    it.handle(at(3), started("a", 8));
    it.say(at(4), "a", Word::Stop).unwrap();
    assert_eq!(it.say(at(4), "a", Word::Start).unwrap().0, Answer::Restarting);
    assert_eq!(acts(it.handle(at(5), exited("a", None))), ["spawn a"]);
    // And a stop while it is being started.
    let (answer, effects) = it.say(at(6), "a", Word::Stop).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Stopping, vec!["save".to_owned()]));
    assert_eq!(acts(it.handle(at(6), started("a", 9))), ["term a"]);
}

#[test]
fn a_restart_of_what_waits_for_its_next_attempt_comes_at_once() {
    let mut it = running(Desired::default());
    it.handle(at(1), exited("a", Some(true)));
    let (answer, effects) = it.say(at(1), "a", Word::Restart).unwrap();
    assert_eq!((answer, acts(effects)), (Answer::Starting, vec!["save".to_owned(), "spawn a".into()]));
    assert_eq!(it.groups()["a"].deaths, 0);
}

#[test]
fn what_was_left_running_is_taken_over_or_ended() {
    let mut it = machine(&[("a", true), ("b", true), ("reverse", false)], Desired::default());
    let found = |group: &str, pid| Event::Found { group: group.to_owned(), pid };
    assert!(acts(it.handle(at(0), found("a", 7))).is_empty());
    let effects = it.handle(at(0), found("reverse", 8));
    assert_eq!(told(&effects), [(Severity::Warning, Kind::Adopted)]);
    assert_eq!(acts(effects), ["term reverse"]);
    // Nothing is started before everything that runs was told.
    assert_eq!(acts(it.handle(at(0), Event::Tick)), ["spawn b"]);
    it.handle(at(0), started("b", 9));
    it.handle(at(1), exited("reverse", None));
    assert!(acts(it.handle(at(2), Event::Tick)).is_empty());
    // It counts like a child: when it dies it is started.
    it.handle(at(3), exited("a", Some(true)));
    assert_eq!(acts(it.handle(at(4), Event::Tick)), ["spawn a"]);
}

#[test]
fn an_abended_group_that_somebody_mended_and_runs_is_taken_over() {
    let mut it = running(Desired::default());
    it.handle(at(1), exited("a", Some(false)));
    let effects = it.handle(at(2), Event::Found { group: "a".into(), pid: 9 });
    assert_eq!(acts(effects), ["save"]);
    assert_eq!((it.abended("a"), it.groups()["a"].phase.pid()), (None, Some(9)));
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_no_death() {
    let mut it = machine(&[("a", true)], Desired::default());
    it.handle(at(0), Event::Tick);
    let busy = || Event::Busy { group: "a".into(), holder: "an initial load".into() };
    let effects = it.handle(at(0), busy());
    assert_eq!(told(&effects), [(Severity::Warning, Kind::Waiting)]);
    for second in 1..20 {
        assert_eq!(acts(it.handle(at(second * 2), Event::Tick)), ["spawn a"]);
        assert!(it.handle(at(second * 2), busy()).is_empty(), "told once");
    }
    assert_eq!(it.groups()["a"].deaths, 0);
    it.handle(at(100), Event::Tick);
    it.handle(at(100), started("a", 3));
    assert_eq!(it.groups()["a"].busy, None);
}

#[test]
fn a_program_that_cannot_be_started_is_tried_again_and_then_abends() {
    let mut it = machine(&[("a", true)], Desired::default());
    it.handle(at(0), Event::Tick);
    let failed = || Event::NotStarted { group: "a".into(), reason: "no such file".into() };
    for second in [1, 3, 7] {
        it.handle(at(second), failed());
        assert_eq!(acts(it.handle(at(second * 10), Event::Tick)), ["spawn a"]);
    }
    let effects = it.handle(at(80), failed());
    assert_eq!(told(&effects), [(Severity::Error, Kind::Abended)]);
    assert!(it.abended("a").unwrap().message.contains("no such file"));
}

#[test]
fn what_the_watch_holds_stops_and_comes_back_unless_a_person_stopped_it() {
    let mut it = running(Desired::default());
    let hold = || Event::Hold { group: "a".into(), reason: "the disk is full".into() };
    let release = || Event::Release { group: "a".into() };
    let effects = it.handle(at(1), hold());
    assert_eq!(told(&effects), [(Severity::Error, Kind::Held)]);
    assert_eq!(acts(effects), ["term a"]);
    assert!(it.handle(at(1), hold()).is_empty(), "said twice, done once");
    it.handle(at(2), exited("a", None));
    assert!(acts(it.handle(at(99), Event::Tick)).is_empty());
    assert_eq!(it.say(at(99), "a", Word::Start).unwrap().0, Answer::Waiting);
    assert_eq!(acts(it.handle(at(100), release())), ["spawn a"]);
    it.handle(at(100), started("a", 8));
    it.handle(at(101), hold());
    it.handle(at(102), exited("a", None));
    it.say(at(103), "a", Word::Stop).unwrap();
    assert!(acts(it.handle(at(104), release())).is_empty());
    assert!(it.handle(at(105), release()).is_empty());
}

#[test]
fn a_shutdown_stops_all_waits_and_forces_without_forgetting_what_is_wished() {
    let mut it = machine(&[("a", true), ("b", true), ("c", true)], Desired::default());
    it.handle(at(0), Event::Tick);
    it.handle(at(0), started("a", 1));
    it.handle(at(0), started("b", 2));
    it.handle(at(0), started("c", 3));
    it.handle(at(1), exited("c", Some(true)));
    assert_eq!(acts(it.handle(at(1), Event::Shutdown)), ["term a", "term b"]);
    assert_eq!(it.say(at(1), "c", Word::Start), Err(Refusal::ShuttingDown));
    assert!(acts(it.handle(at(3), Event::Tick)).is_empty(), "no attempt any more");
    assert!(acts(it.handle(at(2), exited("a", None))).is_empty());
    assert!(!it.is_finished());
    assert_eq!(acts(it.handle(at(11), Event::Tick)), ["kill b"]);
    assert!(!it.is_finished());
    it.handle(at(12), exited("b", Some(true)));
    assert!(it.is_finished());
    let mut next = machine(&[("a", true), ("b", true), ("c", true)], it.desired().clone());
    assert_eq!(acts(next.handle(at(0), Event::Tick)), ["spawn a", "spawn b", "spawn c"]);
}

#[test]
fn a_reload_starts_what_is_new_and_ends_what_is_gone() {
    let mut it = running(Desired::default());
    assert_eq!(acts(it.handle(at(1), Event::Reload(rules(&[("b", true)])))), ["term a", "spawn b"]);
    assert_eq!(it.say(at(1), "a", Word::Start), Err(Refusal::Unknown));
    it.handle(at(2), exited("a", None));
    assert!(!it.groups().contains_key("a"));
    it.handle(at(2), started("b", 5));
    // Back again, before and after its end; and autostart decides where nobody has spoken.
    assert_eq!(
        acts(it.handle(at(3), Event::Reload(rules(&[("a", true), ("b", false)])))),
        ["spawn a", "term b"]
    );
    it.handle(at(3), exited("b", None));
    assert!(acts(it.handle(at(4), Event::Tick)).is_empty());
    assert_eq!(it.groups().len(), 2);
}

#[test]
fn what_cannot_be_changes_nothing() {
    let mut it = running(Desired::default());
    let before = it.groups().clone();
    for event in [
        started("a", 99),
        started("nobody", 1),
        exited("nobody", Some(true)),
        Event::NotStarted { group: "a".into(), reason: "late".into() },
        Event::Busy { group: "a".into(), holder: "x".into() },
        Event::Found { group: "a".into(), pid: 99 },
        Event::Hold { group: "nobody".into(), reason: "x".into() },
        Event::Release { group: "a".into() },
    ] {
        assert!(it.handle(at(1), event).is_empty());
    }
    assert_eq!(*it.groups(), before);
    assert_eq!(it.say(at(1), "nobody", Word::Start), Err(Refusal::Unknown));
}

#[test]
fn a_stop_of_what_has_abended_makes_it_stopped_and_tells_why_it_had() {
    let mut it = running(Desired::default());
    let failure = Failure { message: "no slot".into(), hint: None, transient: false };
    let exit = Exit { how: How::Code(1), failure: Some(failure) };
    it.handle(at(2), Event::Exited { group: "a".into(), exit });
    assert!(it.abended("a").is_some());
    let (answer, effects) = it.say(at(3), "a", Word::Stop).unwrap();
    assert_eq!((answer, it.abended("a"), it.wish("a")), (Answer::Stopped, None, Wish::Stop));
    assert!(
        matches!(&effects[..], [Effect::Save, Effect::Record(told)] if told.text.contains("no slot")),
        "{effects:?}"
    );
    // It is kept, and said once.
    let mut next = machine(&[("a", true)], it.desired().clone());
    assert!(acts(next.handle(at(0), Event::Tick)).is_empty());
    assert_eq!(next.say(at(1), "a", Word::Stop).unwrap().0, Answer::AlreadyStopped);
}
