//! A real process that writes a trail is killed at any moment.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use irongate_trail::{
    Begins, Directory, Error, Mark, PurgePolicy, Storage, Writer, WriterOptions, check, purge,
    register_reader,
};

use crate::disk::Dice;
use crate::support::*;

const DIRECTORY: &str = "TRAIL_TO_WRITE";
const KILLS: u64 = 30;

/// The process that is killed. As a test of its own it has nothing to do.
#[test]
#[ignore = "it is run by another test, in a process of its own"]
fn writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let options = WriterOptions { file_size: 40_000, ..WriterOptions::new("flow", LINEAGE) };
    let mut writer = match Writer::open(Arc::clone(&storage), options.clone(), Some(LINEAGE)) {
        Err(Error::Missing(_)) => Writer::create(storage, options, START).unwrap(),
        other => other.unwrap().0,
    };
    let mut out = std::io::stdout();
    loop {
        let next = writer.appended().commit_lsn.0.0 / 1000 + 1;
        match next % 7 {
            0 => streamed(&mut writer, next, 3000).unwrap(),
            1 | 2 => streamed(&mut writer, next, 30).unwrap(),
            _ => transaction(&mut writer, next, next % 50 + 1).unwrap(),
        }
        writer.side_relation(1_000_000, &relation("never committed")).unwrap();
        if next % 3 == 0 {
            let durable = writer.sync().unwrap().commit_lsn.0.0 / 1000;
            writeln!(out, "durable {durable}").unwrap();
        }
    }
}

#[test]
fn what_a_killed_writer_called_durable_is_there_and_whole_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    let told = Arc::new(AtomicU64::new(0));
    let mut dice = Dice::new(u64::from(std::process::id()));
    let (mut grew, mut first) = (0, 1);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = std::thread::spawn({
            let told = Arc::clone(&told);
            move || {
                for line in lines.map_while(Result::ok) {
                    if let Some(number) = line.strip_prefix("durable ") {
                        told.store(number.parse().unwrap(), Ordering::SeqCst);
                    }
                }
            }
        });
        // Some are killed while they open the trail, the others when they have got a little further.
        let before = told.load(Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(30);
        while kill % 5 != 0 && told.load(Ordering::SeqCst) == before {
            assert!(Instant::now() < deadline, "the writer does not get on");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        listening.join().unwrap();

        let told = told.load(Ordering::SeqCst);
        if told == 0 {
            continue;
        }
        let mut reader = open(&storage, Begins::First).unwrap();
        let (seen, result) = read(&mut reader);
        result.unwrap();
        let last = seen.last().map_or(first - 1, |(number, _)| *number);
        assert!(last >= told, "{told} was durable, {last} is there");
        for (expected, (number, rows)) in (first..).zip(&seen) {
            let made = match number % 7 {
                0 => 2000,
                1 | 2 => 20,
                _ => number % 50 + 1,
            };
            assert_eq!((*number, *rows), (expected, made));
        }
        grew += u64::from(last > before);
        // Every now and then the beginning goes.
        if kill % 4 == 3 {
            let mark = Mark { position: reader.position(), ..Mark::default() };
            register_reader(&*storage, "reader", &mark).unwrap();
            purge(&*storage, &PurgePolicy { min_files: 3, ..PurgePolicy::default() }).unwrap();
            first = open(&storage, Begins::First).unwrap().previous().0.0 / 1000 + 1;
        }
        let report = check(&storage, |_| {}).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
    }
    assert!(grew > KILLS / 2, "{grew} of {KILLS} processes wrote something");
    let (writer, recovered) = reopen(&storage).unwrap();
    assert_eq!(recovered.missing_before, None);
    drop(writer);
    assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
}
