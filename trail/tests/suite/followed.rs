//! Reading while it is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use irongate_trail::{
    Begins, Directory, Error, Follower, Item, Source, Storage, Writer, WriterOptions, check, list,
};

use crate::support::*;

const FILES: u64 = 120;
const EACH: u64 = 8;

fn write(storage: Arc<dyn Storage>) {
    let (mut writer, _) = reopen(&storage).unwrap();
    for number in 1..=FILES * EACH {
        if number % 5 == 0 {
            streamed(&mut writer, number, 30).unwrap();
        } else {
            transaction(&mut writer, number, 10).unwrap();
        }
        if number % 3 == 0 {
            writer.sync().unwrap();
        }
        if number % EACH == 0 {
            writer.rotate().unwrap();
        }
    }
    writer.sync().unwrap();
}

#[test]
fn a_reader_follows_the_writer_through_a_hundred_files_and_sees_each_transaction_once() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    drop(create(&storage));
    let mut reader = open(&storage, Begins::First).unwrap();
    let writing = std::thread::spawn({
        let storage = Arc::clone(&storage);
        move || write(storage)
    });
    let (mut seen, mut looks, mut checks) = (Vec::new(), 0, 0);
    while seen.len() < (FILES * EACH) as usize {
        assert!(!writing.is_finished() || looks < 1_000_000, "{} were seen", seen.len());
        let (more, result) = read(&mut reader);
        result.unwrap();
        seen.extend(more);
        looks += 1;
        if looks % 50 == 0 {
            // Neither of these minds that it is being written.
            let report = check(&storage, |_| {}).unwrap();
            assert!(report.is_sound(), "{:?}", report.findings);
            checks += 1;
        }
        list(&*storage).unwrap();
    }
    writing.join().unwrap();
    assert_eq!(numbers(&mut reader), [0; 0]);
    let expected: Vec<_> =
        (1..=FILES * EACH).map(|number| (number, if number % 5 == 0 { 20 } else { 10 })).collect();
    assert_eq!(seen, expected);
    assert_eq!(reader.header().seqno, FILES + 1);
    assert!(looks > 3, "{looks} looks and {checks} checks");
    assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_woken_long_before_its_second_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    let mut writer = create(&storage);
    let mut follower = Follower::open(directory.path(), after(0)).unwrap();
    let mut waits = Vec::new();
    for number in 1..=9 {
        while follower.next().unwrap().is_some() {}
        let writing = std::thread::spawn(move || {
            // Long enough that the follower waits.
            std::thread::sleep(Duration::from_millis(30));
            transaction(&mut writer, number, 1).unwrap();
            let start = Instant::now();
            writer.sync().unwrap();
            (writer, start)
        });
        // A watch may tell of what was read already.
        while !matches!(follower.next().unwrap(), Some(Item::Begin(_))) {
            follower.wait().await.unwrap();
        }
        let woken = Instant::now();
        let start;
        (writer, start) = writing.join().unwrap();
        waits.push(woken.saturating_duration_since(start));
    }
    waits.sort_unstable();
    assert!(waits[4] < Duration::from_millis(500), "{waits:?}");
}

#[tokio::test]
async fn a_follower_whose_wait_was_cancelled_misses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    let mut writer = create(&storage);
    let mut follower = Follower::open(directory.path(), after(0)).unwrap();
    let mut seen = 0;
    for number in 1..=50 {
        let _ = tokio::time::timeout(Duration::from_millis(1), follower.wait()).await;
        transaction(&mut writer, number, 1).unwrap();
        writer.sync().unwrap();
        while let Some(item) = follower.next().unwrap() {
            seen += u64::from(matches!(item, Item::Commit(_)));
        }
        assert_eq!(seen, number);
    }
}

#[tokio::test]
async fn a_follower_of_a_trail_that_nobody_vouches_for_yet_is_told_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Follower::open(directory.path(), after(0)), Err(Error::Missing(_))));
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.sync().unwrap();
    drop(writer);
    std::fs::remove_file(directory.path().join("durable")).unwrap();
    let error = Follower::open(directory.path(), after(0)).unwrap_err();
    assert!(matches!(error, Error::NotDurable(_)) && error.is_transient(), "{error}");
    let options = WriterOptions { epoch: 2, ..options() };
    let (_writer, _) = Writer::open(storage, options, Some(LINEAGE)).unwrap();
    let mut follower = Follower::open(directory.path(), after(0)).unwrap();
    let mut commits = 0;
    while let Some(item) = follower.next().unwrap() {
        commits += u64::from(matches!(item, Item::Commit(_)));
    }
    assert_eq!((commits, follower.epoch()), (1, 2));
}
