//! The lock and the status file of a group, seen from another process.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/child.rs"]
mod child;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use irongate_checkpoint::{
    Error, Failure, GroupLock, Program, Publisher, State, Status, TableCounters, read_status,
};
use irongate_trail::{Lsn, Position, Timestamp};
use tempfile::TempDir;

fn published(dir: &Path) -> Status {
    read_status(dir, "csp_r").unwrap().unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_group_runs_once_on_a_machine_and_the_second_is_told_by_whom() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("not yet/state");
    let lock = GroupLock::acquire(&state, "csp_x").unwrap();
    assert_eq!((lock.group(), lock.state_dir()), ("csp_x", state.as_path()));
    let error = GroupLock::acquire(&state, "csp_x").unwrap_err();
    let Error::Held { group, holder } = &error else { panic!("{error:?}") };
    assert_eq!((group.as_str(), holder.pid), ("csp_x", Some(std::process::id())));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    GroupLock::acquire(&state, "csp_r").expect("another group");
    drop(lock);
    GroupLock::acquire(&state, "csp_x").expect("free again");
}

#[test]
fn a_name_that_would_lead_out_of_the_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    for name in ["", "../x", "a/b", ".hidden", "a\0b", "a\nb", &"x".repeat(129)] {
        assert!(matches!(GroupLock::acquire(dir.path(), name), Err(Error::BadName { .. })), "{name:?}");
        assert!(matches!(read_status(dir.path(), name), Err(Error::BadName { .. })), "{name:?}");
    }
}

#[test]
fn a_killed_process_is_reported_as_abended_though_its_file_says_running() {
    let dir = TempDir::new().unwrap();
    assert_eq!(read_status(dir.path(), "csp_r").unwrap(), None);
    let mut other = child::start("run_a_group", &[("STATE", dir.path().as_os_str())]);
    child::wait_for(&mut other, "running");
    let status = published(dir.path());
    assert_eq!((status.state, status.pid), (State::Running, other.id()));
    assert_eq!(status.doing, "applying");
    assert_eq!(status.error, None);
    let refused = GroupLock::acquire(dir.path(), "csp_r").unwrap_err();
    assert!(matches!(&refused, Error::Held { holder, .. } if holder.pid == Some(other.id())), "{refused:?}");
    other.kill().unwrap();
    other.wait().unwrap();
    let status = published(dir.path());
    assert_eq!(status.state, State::Abended);
    let failure = status.error.unwrap();
    assert_eq!(failure.message, "ended without a word (killed?)");
    assert!(failure.transient && failure.hint.is_some());
    assert_eq!(status.position, Some(Position { seqno: 3, offset: 44 }), "where it was is still told");
    GroupLock::acquire(dir.path(), "csp_r").expect("the kernel has released the lock");
}

#[test]
#[ignore = "the process that another test kills"]
fn run_a_group() {
    let Some(dir) = child::order("STATE") else { return };
    let _lock = GroupLock::acquire(Path::new(&dir), "csp_r").unwrap();
    let publisher =
        Publisher::start(Path::new(&dir), Status::starting("csp_r", "csp", Program::Replicat)).unwrap();
    publisher.update(|status| status.position = Some(Position { seqno: 3, offset: 44 }));
    publisher.state(State::Running, "applying");
    child::say("running");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_group_that_ends_says_how_and_that_outlives_it() {
    let dir = TempDir::new().unwrap();
    let life = |end: &dyn Fn(&Publisher)| {
        let _lock = GroupLock::acquire(dir.path(), "csp_r").unwrap();
        let status = Status::starting("csp_r", "csp", Program::Replicat);
        let publisher = Publisher::start(dir.path(), status).unwrap();
        assert_eq!(published(dir.path()).state, State::Starting);
        publisher.state(State::Running, "applying");
        assert_eq!(published(dir.path()).state, State::Running);
        end(&publisher);
    };
    life(&|publisher| publisher.state(State::Stopped, "stopped as asked"));
    let stopped = published(dir.path());
    assert_eq!((stopped.state, stopped.doing.as_str()), (State::Stopped, "stopped as asked"));
    let failure = Failure { message: "no such table".to_owned(), hint: None, transient: false };
    life(&|publisher| publisher.abended(failure.clone()));
    let abended = published(dir.path());
    assert_eq!((abended.state, abended.error), (State::Abended, Some(failure.clone())));
    life(&|publisher| {
        publisher.abended(failure.clone());
        publisher.state(State::Running, "again");
        publisher.state(State::Stopped, "stopped");
    });
    assert_eq!(published(dir.path()).error, None, "an error that was got over");
}

#[test]
fn everything_that_is_published_is_read_back_and_positions_are_texts_in_the_file() {
    let dir = TempDir::new().unwrap();
    let _lock = GroupLock::acquire(dir.path(), "csp_r").unwrap();
    let publisher =
        Publisher::start(dir.path(), Status::starting("csp_r", "csp", Program::Replicat)).unwrap();
    let time = Timestamp(812_345_678_901_234);
    publisher.update(|status| {
        status.state = State::Running;
        status.position = Some(Position { seqno: 1, offset: u64::MAX });
        status.resume_lsn = Some(Lsn(u64::MAX));
        status.commit_lsn = Some(Lsn(0x16_B374_D848));
        status.lag_bytes = Some(u64::MAX);
        status.lag_seconds = Some(0.25);
        status.last_commit_time = Some(time);
        status.counters.transactions = 7;
        let counters = TableCounters { inserts: 1, updates: 2, deletes: 3, truncates: 4, skipped: 5 };
        status.tables.insert("public.\"Mixed\"".to_owned(), counters);
    });
    let read = published(dir.path());
    assert_eq!(read, publisher.status());
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("csp_r.status.json")).unwrap()).unwrap();
    assert_eq!(json["commit_lsn"], "16/B374D848");
    assert_eq!(json["program"], "replicat");
    assert_eq!(json["state"], "RUNNING");
    assert_eq!(json["last_commit_time"], time.unix_micros());
    assert_eq!(json["version"], 1);
}

#[test]
fn frequent_updates_cost_few_writes_and_the_last_one_is_published() {
    let dir = TempDir::new().unwrap();
    let _lock = GroupLock::acquire(dir.path(), "csp_r").unwrap();
    let publisher =
        Publisher::start(dir.path(), Status::starting("csp_r", "csp", Program::Replicat)).unwrap();
    publisher.state(State::Running, "applying");
    let begun = Instant::now();
    let (mut updates, mut versions, mut last) = (0_u64, 0_u64, published(dir.path()).written);
    while begun.elapsed() < Duration::from_secs(1) {
        for _ in 0..100 {
            updates += 1;
            publisher.update(|status| status.counters.transactions = updates);
        }
        let written = published(dir.path()).written;
        versions += u64::from(written != last);
        last = written;
    }
    assert!((1..=5).contains(&versions), "{versions} writes in a second for {updates} updates");
    eventually("the last update is never written", || published(dir.path()).counters.transactions == updates);
    publisher.doing("the very last");
    drop(publisher);
    assert_eq!(published(dir.path()).doing, "the very last");
}

#[test]
fn the_file_lists_the_busiest_tables_and_not_all() {
    let dir = TempDir::new().unwrap();
    let _lock = GroupLock::acquire(dir.path(), "csp_r").unwrap();
    let mut status = Status::starting("csp_r", "csp", Program::Replicat);
    for n in 0..5000_u64 {
        status.tables.insert(format!("t{n}"), TableCounters { inserts: n, ..TableCounters::default() });
    }
    let publisher = Publisher::start(dir.path(), status).unwrap();
    let tables = published(dir.path()).tables;
    assert!(tables.len() < 500, "{}", tables.len());
    assert!(tables.contains_key("t4999") && !tables.contains_key("t3"));
    assert_eq!(publisher.status().tables.len(), 5000);
}

#[test]
fn readers_always_see_a_whole_status_and_a_living_process_alive() {
    let dir = TempDir::new().unwrap();
    let _lock = GroupLock::acquire(dir.path(), "csp_r").unwrap();
    let publisher =
        Publisher::start(dir.path(), Status::starting("csp_r", "csp", Program::Replicat)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                publisher.state(State::Running, "one");
                publisher.state(State::Starting, "two");
            }
        });
        for _ in 0..2000 {
            let status = read_status(dir.path(), "csp_r");
            stop.fetch_or(status.is_err(), Ordering::Relaxed);
            assert!(status.unwrap().unwrap().state.is_live());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn looking_at_a_group_never_keeps_it_from_starting_or_calls_it_killed() {
    let dir = TempDir::new().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(status) = read_status(dir.path(), "csp_r").unwrap() {
                        assert_ne!(status.state, State::Abended);
                    }
                }
            });
        }
        for _ in 0..100 {
            let lock = GroupLock::acquire(dir.path(), "csp_r");
            stop.fetch_or(lock.is_err(), Ordering::Relaxed);
            let lock = lock.unwrap();
            let status = Status::starting("csp_r", "csp", Program::Replicat);
            let publisher = Publisher::start(dir.path(), status).unwrap();
            publisher.state(State::Stopped, "stopped");
            drop(publisher);
            drop(lock);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_damaged_or_newer_status_is_an_error_with_a_hint_and_more_fields_are_none() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("csp_r.status.json");
    // A power cut leaves such a file where nothing was synced.
    for nothing in ["", "\0\0\0\0"] {
        std::fs::write(&path, nothing).unwrap();
        assert_eq!(read_status(dir.path(), "csp_r").unwrap(), None);
    }
    for bad in ["{", "[]", "\0\0{}", "{\"version\": 2}", "{\"version\": 1}"] {
        std::fs::write(&path, bad).unwrap();
        let error = read_status(dir.path(), "csp_r").unwrap_err();
        assert!(matches!(error, Error::StatusUnreadable { .. }), "{bad}: {error:?}");
        assert!(error.hint().is_some());
    }
    std::fs::write(
        &path,
        r#"{"version": 1, "group": "csp_r", "flow": "csp", "program": "pump", "pid": 1, "state": "STOPPED",
            "since": 5, "written": 6, "tomorrow": {"x": 1}}"#,
    )
    .unwrap();
    let status = published(dir.path());
    assert_eq!((status.program, status.since.unix_micros()), (Program::Pump, 5));
}
