//! Servers that go, disks that fill, an Extract that is killed: nothing is lost, and nothing comes twice.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use irongate_capture::Extract;
use irongate_tests::{Mode, Server, Settings, wait_for, wait_until};
use irongate_trail::{Directory, File, Storage};
use tokio::sync::oneshot;

use crate::support::{Running, SOON, Site, TABLE};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_primary_is_let_go_at_once_and_found_again() {
    for major in Server::majors() {
        let mut site = Site::new(major, &Settings::new(), TABLE).await;
        let extract = site.run();
        site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        site.server.batch("CREATE TABLE unpublished AS SELECT generate_series(1, 10000) AS id").await;
        site.wait_for_transactions(1).await;
        let begin = Instant::now();
        site.server.stop(Mode::Fast).await;
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "PostgreSQL {major} took {took:?} to stop");
        site.server.start_again().await;
        site.server.batch("INSERT INTO t VALUES (2, 'after')").await;
        let told = site.wait_for_transactions(2).await;
        assert_eq!(told, ["begin", "I t 1 before", "commit 1", "begin", "I t 2 after", "commit 1"]);
        extract.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_server_and_a_killed_extract_lose_and_repeat_nothing() {
    for major in Server::majors() {
        let settings = Settings::new().fsync(true).set("logical_decoding_work_mem", "64kB");
        let mut site = Site::new(major, &settings, TABLE).await;
        let mut extract = site.run();
        let mut next = 0;
        for round in 0..6 {
            for _ in 0..20 {
                let (id, many) = (next, if next % 7 == 3 { 2000 } else { 1 });
                site.server
                    .batch(&format!(
                        "INSERT INTO t SELECT {id} * 10000 + i, repeat('x', 100) FROM generate_series(1, {many}) i"
                    ))
                    .await;
                next += 1;
            }
            if round % 2 == 0 {
                site.server.kill();
                site.server.start_again().await;
            } else {
                extract.kill().await;
                // The lock goes with the process; a task's goes when its last thread does.
                extract = wait_for(SOON, "the lock", async || {
                    let running = site.run();
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    if running.task.is_finished() {
                        Err(format!("{:?}", running.task.await))
                    } else {
                        Ok(running)
                    }
                })
                .await;
            }
        }
        let told = site.wait_for_transactions(next).await;
        extract.stop().await;
        let ids: Vec<i64> = told
            .iter()
            .filter(|line| line.starts_with('I'))
            .map(|line| line.split(' ').nth(2).unwrap().parse().unwrap())
            .collect();
        let expected: Vec<i64> = site
            .server
            .rows("postgres", "SELECT id FROM t ORDER BY id")
            .await
            .into_iter()
            .map(|row| row[0].as_ref().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ids, expected, "{major}");
        assert_eq!(told.iter().filter(|line| line.starts_with("commit")).count(), next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_left_and_found_again() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new().set("wal_sender_timeout", "1s"), TABLE).await;
        let mut settings = site.settings();
        settings.source.silence = Duration::from_secs(2);
        let extract = Running::start(settings);
        site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
        site.wait_for_transactions(1).await;
        // An idle stream is not a silent one: the server is asked, and answers.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let walsender = "SELECT active_pid FROM pg_replication_slots";
        let pid = site.server.scalar("postgres", walsender).await;
        let log = site.server.log();
        assert_eq!(log.matches("starting logical decoding").count(), 1, "{log}");

        let signal = |name: &str| {
            assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
        };
        signal("-STOP");
        let status_says = async |what: &str| {
            let status =
                irongate_checkpoint::read_status(&site.dir.path().join("state"), "csp_e").unwrap().unwrap();
            status.error.is_some_and(|failure| failure.message.contains(what))
        };
        wait_until(SOON, "the slot to be in use by the silent one", async || {
            status_says("is active for PID").await
        })
        .await;
        signal("-CONT");
        site.server.batch("INSERT INTO t VALUES (2, 'after')").await;
        let told = site.wait_for_transactions(2).await;
        assert_eq!(told[3..], ["begin", "I t 2 after", "commit 1"]);
        extract.stop().await;
    }
}

/// A directory on a disk that can be full.
#[derive(Debug)]
struct Filling {
    directory: Directory,
    is_full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct FillingFile {
    file: Arc<dyn File>,
    is_full: Arc<AtomicBool>,
}

impl Filling {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FillingFile { file, is_full: Arc::clone(&self.is_full) })
    }
}

impl File for FillingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            // Some of it still fits.
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

impl Storage for Filling {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.directory.create(name).map(|file| self.wrap(file))
    }
    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn File>> {
        self.directory.open(name, writable).map(|file| self.wrap(file))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.directory.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_directory()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.directory.lock()
    }
    fn modified(&self, name: &str) -> io::Result<u64> {
        self.directory.modified(name)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_up_the_trail_and_loses_nothing() {
    for major in Server::majors() {
        let site = Site::new(major, &Settings::new().set("logical_decoding_work_mem", "64kB"), TABLE).await;
        let is_full = Arc::new(AtomicBool::new(false));
        let storage = Filling { directory: Directory::new(site.trail()), is_full: Arc::clone(&is_full) };
        let mut settings = site.settings();
        settings.file_size = 64 << 10;
        let (stop, stopped) = oneshot::channel();
        let extract = Extract::new(settings).with_storage(Arc::new(storage));
        let extract = Running { stop, task: tokio::spawn(extract.run(async { _ = stopped.await })) };
        let mut next = 0;
        for round in 0..3 {
            is_full.store(true, Ordering::Relaxed);
            for _ in 0..20 {
                let many = if next % 5 == 3 { 2000 } else { 1 };
                site.server
                    .batch(&format!(
                        "INSERT INTO t SELECT {next} * 10000 + i, repeat('x', 100) FROM generate_series(1, {many}) i"
                    ))
                    .await;
                next += 1;
            }
            let status_says = async || {
                let status = irongate_checkpoint::read_status(&site.dir.path().join("state"), "csp_e")
                    .unwrap()
                    .unwrap();
                status
                    .error
                    .is_some_and(|failure| failure.hint.is_some_and(|hint| hint.contains("free space")))
            };
            wait_until(SOON, &format!("the full disk of round {round} to be said"), status_says).await;
            is_full.store(false, Ordering::Relaxed);
            site.wait_for_transactions(next).await;
        }
        extract.stop().await;
        let ids: Vec<i64> = site
            .told()
            .iter()
            .filter(|line| line.starts_with('I'))
            .map(|line| line.split(' ').nth(2).unwrap().parse().unwrap())
            .collect();
        let expected = site.server.rows("postgres", "SELECT id FROM t ORDER BY id").await;
        let expected: Vec<i64> =
            expected.into_iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        assert_eq!(ids, expected, "{major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stays_away_is_given_up_after_so_many_attempts() {
    let mut site = Site::new(Server::majors()[0], &Settings::new(), TABLE).await;
    let mut settings = site.settings();
    settings.retry_attempts = Some(3);
    (settings.retry_first, settings.retry_longest) = (Duration::from_millis(10), Duration::from_millis(20));
    let extract = Running::start(settings.clone());
    site.server.batch("INSERT INTO t VALUES (1, 'before')").await;
    site.wait_for_transactions(1).await;
    site.server.stop(Mode::Immediate).await;
    let error = extract.fails().await;
    assert!(error.is_transient(), "whoever supervises may try again later: {error}");
    let status = irongate_checkpoint::read_status(&site.dir.path().join("state"), "csp_e").unwrap().unwrap();
    assert_eq!(status.state, irongate_checkpoint::State::Abended);
    assert!(status.error.unwrap().transient);
    // It is there again, and nothing is lost.
    site.server.start_again().await;
    let extract = Running::start(settings);
    site.server.batch("INSERT INTO t VALUES (2, 'after')").await;
    site.wait_for_transactions(2).await;
    extract.stop().await;
}
