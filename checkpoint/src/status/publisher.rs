//! The writing side of the status file: updates are cheap and frequent, writes are few and in a thread of their own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use irongate_trail::Timestamp;

use super::{Failure, State, Status, path_of};
use crate::error::Error;

/// Shortest time between two writes of one state.
const INTERVAL: Duration = Duration::from_millis(250);
/// Tables that stand in the file at most: those with the most changes.
const TOP_TABLES: usize = 200;

/// Publishes the status of this process. Cheap to update for each transaction: an update takes a lock and runs the
/// caller's closure, and a thread of its own writes the file at most four times a second. A change of state is in the file
/// when the call that made it returns, and on the disk if it is an end: after a power cut a process that lived does not, so
/// that nothing is worth waiting for a disk while one begins. A file that cannot be written stops nothing: it is warned of
/// once.
///
/// Create it after the group's lock is taken and drop it before the lock is released; only so can a reader tell a
/// process that was killed from one that ended.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Number of the version that is in the file. Locked after `inner`, never before it.
    file: Mutex<u64>,
    path: PathBuf,
}

#[derive(Debug)]
struct Inner {
    status: Status,
    number: u64,
    dirty: bool,
    closing: bool,
    written: Instant,
    failing: bool,
}

impl Publisher {
    /// Writes the first status into `dir` and keeps it up to date until dropped.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be written even once, [`Error::BadName`].
    pub fn start(dir: &Path, status: Status) -> Result<Self, Error> {
        let path = path_of(dir, &status.group)?;
        fs::create_dir_all(dir).map_err(|e| Error::file("create directory", dir, e))?;
        write(&path, &status)?;
        let inner = Inner {
            status,
            number: 0,
            dirty: false,
            closing: false,
            written: Instant::now(),
            failing: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            file: Mutex::new(0),
            path: path.clone(),
        });
        let theirs = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("status".to_owned())
            .spawn(move || theirs.keep_written())
            .map_err(|e| Error::file("start the writer of", &path, e))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Changes the status by `change`. If that changes the state, `since` is set and the file is written at once.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut inner = self.shared.lock();
        let before = inner.status.state;
        change(&mut inner.status);
        if inner.status.state == before {
            if !inner.dirty {
                inner.dirty = true;
                self.shared.changed.notify_one();
            }
        } else {
            inner.status.since = Timestamp::now();
            self.shared.write_now(&mut inner);
        }
    }

    /// Says what the process is doing, in one sentence.
    pub fn doing(&self, sentence: &str) {
        self.update(|status| {
            status.doing.clear();
            status.doing.push_str(sentence);
        });
    }

    /// Goes into `state`, clearing the error of a state that is over unless the new one is an end.
    pub fn state(&self, state: State, doing: &str) {
        self.update(|status| {
            status.state = state;
            status.doing = doing.to_owned();
            if state != State::Abended {
                status.error = None;
            }
        });
    }

    /// Ends as [`State::Abended`] with the reason.
    pub fn abended(&self, failure: Failure) {
        self.update(|status| {
            status.state = State::Abended;
            status.doing.clone_from(&failure.message);
            status.error = Some(failure);
        });
    }

    /// What is published now.
    pub fn status(&self) -> Status {
        self.shared.lock().status.clone()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        {
            let mut inner = self.shared.lock();
            inner.closing = true;
            self.shared.changed.notify_one();
        }
        if let Some(writer) = self.writer.take() {
            // It catches nothing and owns nothing: a panic there has been printed already.
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a caller's closure leaves a status that is at worst half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_written(&self) {
        let mut inner = self.lock();
        loop {
            if inner.closing {
                if inner.dirty {
                    self.write_now(&mut inner);
                }
                return;
            }
            inner = if inner.dirty {
                let passed = inner.written.elapsed();
                if passed >= INTERVAL {
                    inner = self.write_unlocked(inner);
                    continue;
                }
                self.changed.wait_timeout(inner, INTERVAL - passed).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Writes and lets updates go on meanwhile.
    fn write_unlocked<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let (number, status) = inner.next_to_write();
        drop(inner);
        let result = self.write(number, &status);
        let mut inner = self.lock();
        self.note(&mut inner, result);
        inner
    }

    /// Writes with the lock held: the next update waits for the disk.
    fn write_now(&self, inner: &mut Inner) {
        let (number, status) = inner.next_to_write();
        let result = self.write(number, &status);
        self.note(inner, result);
    }

    /// Writes version `number`, unless a later one is written already: the two kinds of write may overtake each other.
    fn write(&self, number: u64, status: &Status) -> Result<(), Error> {
        let mut last = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *last {
            write(&self.path, status)?;
            *last = number;
        }
        Ok(())
    }

    fn note(&self, inner: &mut Inner, result: Result<(), Error>) {
        let failed = result.is_err();
        if let Err(error) = result
            && !inner.failing
        {
            tracing::warn!(%error, "status file cannot be written: others see an old status");
        }
        inner.failing = failed;
    }
}

impl Inner {
    fn next_to_write(&mut self) -> (u64, Status) {
        self.number += 1;
        self.dirty = false;
        self.written = Instant::now();
        self.status.written = Timestamp::now();
        (self.number, self.status.clone())
    }
}

/// Replaces the file as a whole. Only the holder of the group's lock writes it, so one name for the new file will do.
fn write(path: &Path, status: &Status) -> Result<(), Error> {
    let short;
    let status = if status.tables.len() > TOP_TABLES {
        let mut tables: Vec<_> = status.tables.iter().collect();
        tables.sort_unstable_by_key(|(name, counters)| (std::cmp::Reverse(counters.total()), *name));
        let tables =
            tables.into_iter().take(TOP_TABLES).map(|(name, counters)| (name.clone(), *counters)).collect();
        short = Status { tables, ..status.clone() };
        &short
    } else {
        status
    };
    let bytes = serde_json::to_vec_pretty(status).map_err(|e| Error::file("write", path, e.into()))?;
    let new = path.with_extension("json.new");
    File::create(&new)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            if status.state.is_live() { Ok(()) } else { file.sync_all() }
        })
        .map_err(|e| Error::file("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| Error::file("replace", path, e))?;
    match path.parent() {
        Some(directory) if !status.state.is_live() => File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| Error::file("sync", directory, e)),
        _ => Ok(()),
    }
}
