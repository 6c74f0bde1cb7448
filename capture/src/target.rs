//! A sink whose content is made durable beside the stream: one thread appends while another syncs.

use std::sync::Arc;

use irongate_trail::{
    Begin, Commit, CommitLsn, Mark, Message, Progress, Relation, ResumeLsn, Truncate, Writer,
};

use crate::error::Error;
use crate::sink::Sink;

/// Makes durable what was appended before it was made. Runs on any thread.
pub(crate) type Job = Box<dyn FnOnce() -> Result<Mark, Error> + Send>;

/// What `run` needs of a sink beyond [`Sink`].
pub(crate) trait Target: Sink + Send {
    /// What is durable.
    fn durable(&self) -> Mark;

    /// What must be done to make everything appended durable; `None` when all is. One job at a time.
    fn sync_job(&mut self) -> Result<Option<Job>, Error>;

    /// Tells readers what the job that was just made will make durable, where they can begin with it before.
    fn tell_early(&mut self) {}

    /// Takes a finished job's answer; returns what is durable now.
    fn synced(&mut self, outcome: Result<Mark, Error>) -> Result<ResumeLsn, Error>;

    /// Makes everything appended durable, here and now. Blocks.
    fn sync_now(&mut self) -> Result<(), Error> {
        match self.sync_job()? {
            Some(job) => self.synced(job()).map(|_| ()),
            None => Ok(()),
        }
    }
}

impl Sink for Writer {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        Ok(Writer::begin(self, begin)?)
    }
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        Ok(Writer::relation(self, relation)?)
    }
    #[inline]
    fn row(&mut self, relation: u32, operation: u8, bytes: &[u8]) -> Result<(), Error> {
        Ok(Writer::row(self, relation, operation, bytes)?)
    }
    fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        Ok(Writer::truncate(self, truncate)?)
    }
    fn message(&mut self, message: &Message<'_>) -> Result<(), Error> {
        Ok(Writer::message(self, message)?)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        Ok(Writer::commit(self, commit)?)
    }
    fn rollback(&mut self) -> Result<(), Error> {
        Ok(Writer::rollback(self)?)
    }
    fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        Ok(Writer::progress(self, progress)?)
    }
    fn sync(&mut self) -> Result<(), Error> {
        Ok(Writer::sync(self).map(|_| ())?)
    }
    fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        Ok(Writer::side_relation(self, xid, relation)?)
    }
    #[inline]
    fn side_row(
        &mut self,
        xid: u32,
        subxid: u32,
        relation: u32,
        operation: u8,
        bytes: &[u8],
    ) -> Result<(), Error> {
        Ok(Writer::side_row(self, xid, subxid, relation, operation, bytes)?)
    }
    fn side_truncate(&mut self, xid: u32, subxid: u32, truncate: &Truncate) -> Result<(), Error> {
        Ok(Writer::side_truncate(self, xid, subxid, truncate)?)
    }
    fn side_message(&mut self, xid: u32, subxid: u32, message: &Message<'_>) -> Result<(), Error> {
        Ok(Writer::side_message(self, xid, subxid, message)?)
    }
    fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        Ok(Writer::side_abort(self, xid, subxid)?)
    }
    fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        Ok(Writer::side_drop(self, xid)?)
    }
    fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<(), Error> {
        if Writer::adopt(self, xid, begin, commit)? {
            return Ok(());
        }
        Err(irongate_trail::Error::Misuse("an adoption of nothing").into())
    }
}

impl Target for Writer {
    fn durable(&self) -> Mark {
        Writer::durable(self)
    }

    fn sync_job(&mut self) -> Result<Option<Job>, Error> {
        let job = Writer::sync_job(self)?;
        Ok(job.map(|job| Box::new(move || Ok(job.run()?)) as Job))
    }

    fn tell_early(&mut self) {
        Writer::tell_early(self);
    }

    fn synced(&mut self, outcome: Result<Mark, Error>) -> Result<ResumeLsn, Error> {
        match outcome {
            Ok(mark) => {
                Writer::synced(self, mark)?;
                Ok(mark.resume_lsn)
            }
            Err(error) => {
                self.sync_failed();
                Err(error)
            }
        }
    }
}

/// An embedder's sink, synced in place.
pub(crate) struct Inline<'a, S> {
    sink: &'a mut S,
    appended: Mark,
    durable: Mark,
}

impl<'a, S: Sink> Inline<'a, S> {
    pub(crate) fn new(sink: &'a mut S, resume_lsn: ResumeLsn, commit_lsn: CommitLsn) -> Self {
        let mark = Mark { resume_lsn, commit_lsn, ..Mark::default() };
        Self { sink, appended: mark, durable: mark }
    }

    fn commit_to(&mut self, commit: &Commit) {
        self.appended.commit_lsn = commit.commit_lsn;
        self.appended.commit_time = commit.commit_time;
        self.appended.resume_lsn = self.appended.resume_lsn.max(commit.end_lsn);
    }
}

impl<S: Sink> Sink for Inline<'_, S> {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        let begin = Begin { previous: self.appended.commit_lsn, ..begin.clone() };
        self.sink.begin(&begin)
    }
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        self.sink.relation(relation)
    }
    #[inline]
    fn row(&mut self, relation: u32, operation: u8, bytes: &[u8]) -> Result<(), Error> {
        self.sink.row(relation, operation, bytes)
    }
    fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        self.sink.truncate(truncate)
    }
    fn message(&mut self, message: &Message<'_>) -> Result<(), Error> {
        self.sink.message(message)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.sink.commit(commit)?;
        self.commit_to(commit);
        Ok(())
    }
    fn rollback(&mut self) -> Result<(), Error> {
        self.sink.rollback()
    }
    fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        self.sink.progress(progress)?;
        self.appended.resume_lsn = self.appended.resume_lsn.max(progress.resume_lsn);
        Ok(())
    }
    fn sync(&mut self) -> Result<(), Error> {
        self.sink.sync()
    }
    fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        self.sink.side_relation(xid, relation)
    }
    fn side_row(
        &mut self,
        xid: u32,
        subxid: u32,
        relation: u32,
        operation: u8,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.sink.side_row(xid, subxid, relation, operation, bytes)
    }
    fn side_truncate(&mut self, xid: u32, subxid: u32, truncate: &Truncate) -> Result<(), Error> {
        self.sink.side_truncate(xid, subxid, truncate)
    }
    fn side_message(&mut self, xid: u32, subxid: u32, message: &Message<'_>) -> Result<(), Error> {
        self.sink.side_message(xid, subxid, message)
    }
    fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        self.sink.side_abort(xid, subxid)
    }
    fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        self.sink.side_drop(xid)
    }
    fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<(), Error> {
        let begin = Begin { previous: self.appended.commit_lsn, ..begin.clone() };
        self.sink.adopt(xid, &begin, commit)?;
        self.commit_to(commit);
        Ok(())
    }
}

impl<S: Sink + Send> Target for Inline<'_, S> {
    fn durable(&self) -> Mark {
        self.durable
    }

    fn sync_job(&mut self) -> Result<Option<Job>, Error> {
        if self.appended == self.durable {
            return Ok(None);
        }
        self.sink.sync()?;
        let mark = self.appended;
        Ok(Some(Box::new(move || Ok(mark))))
    }

    fn synced(&mut self, outcome: Result<Mark, Error>) -> Result<ResumeLsn, Error> {
        self.durable = outcome?;
        Ok(self.durable.resume_lsn)
    }
}
