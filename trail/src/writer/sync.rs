//! Making durable what was appended.
//!
//! A job is started, run on any thread, and answered. The mark moves only when the job that covers it *and every job
//! before it* has run to a good end: a job that failed closes the writer whatever later jobs say, because a system
//! reports a failed write-back once; a job that was dropped without having been run is made good by the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Writer;
use crate::error::Error;
use crate::format::{Mark, main_name};
use crate::lsn::Position;
use crate::storage::{File, Storage};

/// A side file is synced along, before its transaction commits, when it has grown by so many bytes.
const SIDE_SYNC_AT: u64 = 8 << 20;

/// More bytes than this are not told of before they are durable: a reader with so much to read is busy anyway.
const MOST_EARLY: u64 = 16 << 10;

const WAITS: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Files to be synced, and what is durable then. Runs on any thread.
#[derive(Debug)]
pub struct SyncJob {
    files: Arc<[(String, Arc<dyn File>)]>,
    directory: bool,
    storage: Arc<dyn Storage>,
    then: Mark,
    state: Arc<AtomicU8>,
}

/// A job that the writer has handed out.
#[derive(Debug)]
pub(super) struct Started {
    files: Arc<[(String, Arc<dyn File>)]>,
    directory: bool,
    then: Mark,
    state: Arc<AtomicU8>,
}

impl Started {
    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    /// Nobody will run it any more.
    fn is_dropped(&self) -> bool {
        Arc::strong_count(&self.state) == 1 && self.state() == WAITS
    }
}

impl SyncJob {
    /// Syncs. Blocks for as long as the disk takes. Hand the answer to [`Writer::synced`] or, if it is an error, call
    /// [`Writer::sync_failed`].
    ///
    /// # Errors
    /// [`Error::Io`], after which it is unknown what is durable.
    pub fn run(&self) -> Result<Mark, Error> {
        let result = self.sync();
        self.state.store(if result.is_ok() { DONE } else { FAILED }, Ordering::Release);
        result
    }

    fn sync(&self) -> Result<Mark, Error> {
        for (name, file) in &*self.files {
            file.sync().map_err(Error::io("sync", self.storage.path(name)))?;
        }
        if self.directory {
            self.storage.sync_directory().map_err(Error::io("sync", self.storage.path("")))?;
        }
        Ok(self.then)
    }
}

impl Writer {
    /// Flushes, and returns what must be synced to make every appended transaction durable; `None` when all is, or is
    /// about to be by a job that was handed out before.
    ///
    /// # Errors
    /// [`Error::Io`] as for [`Writer::flush`].
    pub fn sync_job(&mut self) -> Result<Option<SyncJob>, Error> {
        self.flush()?;
        self.take_answers(None)?;
        while let Some(place) = self.started.iter().position(Started::is_dropped) {
            let Some(job) = self.started.remove(place) else { break };
            self.unsynced.extend(job.files.iter().cloned());
            self.directory_changed |= job.directory;
        }
        let mut files = Vec::new();
        for side in self.sides.values_mut() {
            if side.unsynced() >= SIDE_SYNC_AT {
                files.extend(side.sync_target());
            }
        }
        let covered = self.started.back().map_or(self.durable.position, |job| job.then.position);
        let pending = self.directory_changed || !files.is_empty() || !self.unsynced.is_empty();
        if self.appended.position == covered && !pending {
            return Ok(None);
        }
        files.append(&mut self.unsynced);
        files.push((main_name(self.main.seqno), Arc::clone(self.main.file())));
        let directory = std::mem::take(&mut self.directory_changed);
        if directory {
            // With each new file, so that a mark that a power cut leaves is never older than that.
            files.push(self.mark.target());
        }
        let then = Mark { set: (self.options.clock)(), ..self.appended };
        let (files, state): (Arc<[_]>, _) = (files.into(), Arc::new(AtomicU8::new(WAITS)));
        self.started.push_back(Started { files: files.clone(), directory, then, state: state.clone() });
        Ok(Some(SyncJob { files, directory, storage: Arc::clone(&self.storage), then, state }))
    }

    /// Tells readers of what the job handed out last makes durable, if that is little and they need nothing else for it: so
    /// that they can begin with it while the disk works. Whoever calls this before running the job gains time, and whoever
    /// does not loses nothing.
    pub fn tell_early(&mut self) {
        let [job] = self.started.make_contiguous() else { return };
        let (from, to) = (self.durable.position, job.then.position);
        let is_little = from.seqno == to.seqno && to.offset - from.offset <= MOST_EARLY;
        if !job.directory && job.files.len() == 1 && is_little {
            self.mark.appended.tell(to);
        }
    }

    /// Takes a finished job's answer: moves the mark that readers see. Jobs are answered in their order.
    ///
    /// # Errors
    /// [`Error::Io`], when the mark cannot be written: what was synced is durable, readers learn it with the next
    /// [`Writer::sync_job`] or [`Writer::sync`]. [`Error::Poisoned`] when another job has failed. [`Error::Misuse`] for a
    /// mark that is not a job's answer, or when a job before it has not come to its end.
    pub fn synced(&mut self, mark: Mark) -> Result<(), Error> {
        if self.poisoned {
            return Err(self.poisoned());
        }
        self.take_answers(Some(mark))
    }

    /// Moves the mark over the oldest jobs that are done: all up to `until`, or as many as there are.
    fn take_answers(&mut self, until: Option<Mark>) -> Result<(), Error> {
        if self.started.iter().any(|job| job.state() == FAILED) {
            self.sync_failed();
            return Err(self.poisoned());
        }
        let is_wanted = |job: &Started| until.is_none_or(|mark| job.then.position <= mark.position);
        while let Some(job) = self.started.front().filter(|job| is_wanted(job) && job.state() == DONE) {
            self.durable = job.then;
            self.started.pop_front();
        }
        if self.started.front().is_some_and(|job| until.is_some() && is_wanted(job)) {
            return Err(Error::Misuse("a sync job was answered before an earlier one"));
        }
        if until.is_some_and(|mark| mark.position > self.durable.position) {
            return Err(Error::Misuse("a mark that no sync job has given"));
        }
        if self.published == self.durable { Ok(()) } else { self.publish() }
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.mark.publish(&self.durable)?;
        self.published = self.durable;
        Ok(())
    }

    /// Takes note that a job failed: cuts back to the mark, as far as the disk allows, and refuses further work.
    pub fn sync_failed(&mut self) {
        self.poisoned = true;
        self.mark.appended.take_back();
        // The error that matters has been reported already, and when the trail is opened again everything behind the mark
        // is written once more before it is vouched for: so nothing hangs on whether this succeeds.
        let at = self.durable.position;
        if at == Position::default() {
            return;
        }
        for seqno in (at.seqno + 1..=self.main.seqno).rev() {
            let _ = self.storage.remove(&main_name(seqno));
        }
        if let Ok(file) = self.storage.open(&main_name(at.seqno), true)
            && file.length().is_ok_and(|length| length > at.offset)
        {
            let _ = file.truncate(at.offset);
        }
    }

    /// Makes everything appended durable, here and now.
    ///
    /// # Errors
    /// [`Error::Io`]. After a failed sync the writer is closed for further work. [`Error::Misuse`] while a job that was
    /// handed out before has not come to its end.
    pub fn sync(&mut self) -> Result<Mark, Error> {
        match self.sync_job()? {
            Some(job) => match job.run() {
                Ok(mark) => self.synced(mark)?,
                Err(error) => {
                    self.sync_failed();
                    return Err(error);
                }
            },
            None if self.started.is_empty() => {}
            None => return Err(Error::Misuse("a sync while a job that covers it has not come to its end")),
        }
        Ok(self.durable)
    }
}
