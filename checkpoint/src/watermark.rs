//! How far Replicat has come, and how far the target has made that durable.
//!
//! With `synchronous_commit = off` at the target a COMMIT returns before its record is on the target's disk. A crash of
//! the target then takes the last transactions back, together with their rows in the checkpoint table: Replicat begins
//! again where the table says, and nothing is lost *if the trail still has them*. So two marks are kept: the high
//! watermark, up to where transactions are applied, and the low watermark, up to where they are known to be durable at
//! the target. The trail may be purged up to the low one only.
//!
//! A transaction is durable once the target's flush LSN has reached the target's insert LSN as read after the COMMIT
//! returned (PostgreSQL manual, "Asynchronous Commit"; `pg_current_wal_insert_lsn`, `pg_current_wal_flush_lsn`).
//!
//! Correctness: an entry `(mark, insert)` says "once `insert` is flushed, everything up to `mark` is durable". That
//! stays true when `insert` grows or `mark` shrinks. All that happens to entries is of that kind, so the low
//! watermark may come late and never early.

use std::collections::VecDeque;

use irongate_trail::{Lsn, Position, ResumeLsn};

use crate::error::Error;

/// Entries kept when nothing else is asked for.
const DEFAULT_CAPACITY: usize = 1024;

/// A place that both the trail and the source understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// Just behind the transaction in the trail.
    pub position: Position,
    /// Just behind the transaction in the source's log.
    pub resume_lsn: ResumeLsn,
}

impl Mark {
    /// The earlier of both in each coordinate.
    fn or_earlier(self, other: Self) -> Self {
        Self {
            position: self.position.min(other.position),
            resume_lsn: self.resume_lsn.min(other.resume_lsn),
        }
    }

    fn is_before(self, other: Self) -> bool {
        self.resume_lsn < other.resume_lsn
    }
}

/// The high and the low watermark of one Replicat. Knows no clock and no connection.
#[derive(Clone, Debug)]
pub struct Watermarks {
    high: Mark,
    low: Mark,
    /// Applied and not known to be durable, in order; insert LSNs rise strictly, marks do not fall.
    pending: VecDeque<(Mark, Lsn)>,
    capacity: usize,
}

impl Watermarks {
    /// Begins at `loaded`, the place of the checkpoint table as it was just read. Nothing is known to be durable before
    /// the target has flushed `insert_lsn`, read after the table; the low watermark begins at `purged`, the place up to
    /// which the trail is gone already (zero if not known).
    pub fn new(loaded: Mark, insert_lsn: Lsn, purged: Mark) -> Self {
        Self::with_capacity(loaded, insert_lsn, purged, DEFAULT_CAPACITY)
    }

    /// The same with room for `capacity` entries, at least two.
    pub fn with_capacity(loaded: Mark, insert_lsn: Lsn, purged: Mark, capacity: usize) -> Self {
        let mut pending = VecDeque::new();
        pending.push_back((loaded, insert_lsn));
        Self { high: loaded, low: purged.or_earlier(loaded), pending, capacity: capacity.max(2) }
    }

    /// Everything up to `mark` is committed at the target; `insert_lsn` is the target's, read after that COMMIT
    /// returned.
    pub fn applied(&mut self, mark: Mark, insert_lsn: Lsn) {
        let mark = Mark {
            position: mark.position.max(self.high.position),
            resume_lsn: mark.resume_lsn.max(self.high.resume_lsn),
        };
        self.high = mark;
        if let Some((last, last_insert)) = self.pending.back_mut()
            && *last_insert >= insert_lsn
        {
            // No later than an entry before it: the same flush covers both, at the later of the two.
            *last = mark;
            return;
        }
        if self.pending.len() >= self.capacity {
            self.collapse();
        }
        self.pending.push_back((mark, insert_lsn));
    }

    /// Everything up to `mark` is committed and flushed at the target (`synchronous_commit = on`).
    pub fn applied_durably(&mut self, mark: Mark) {
        self.high = Mark {
            position: mark.position.max(self.high.position),
            resume_lsn: mark.resume_lsn.max(self.high.resume_lsn),
        };
        self.low = self.high;
        self.pending.clear();
    }

    /// The target has flushed up to `flush_lsn`. Returns the low watermark: the trail may be purged before it.
    pub fn flushed(&mut self, flush_lsn: Lsn) -> Mark {
        while let Some(&(mark, insert_lsn)) = self.pending.front() {
            if insert_lsn > flush_lsn {
                break;
            }
            self.low = mark;
            self.pending.pop_front();
        }
        self.low
    }

    /// The connection to the target was lost and made anew; the checkpoint table says `loaded`, and `insert_lsn` was
    /// read after it. What was pending is forgotten: the target may have crashed, or be another server with LSNs of its
    /// own.
    ///
    /// # Errors
    /// [`Error::TargetWentBack`] when the table stands before what the target had flushed. Nothing is changed then.
    pub fn reconnected(&mut self, loaded: Mark, insert_lsn: Lsn) -> Result<(), Error> {
        if loaded.is_before(self.low) {
            return Err(Error::TargetWentBack { found: loaded.resume_lsn.0, known: self.low.resume_lsn.0 });
        }
        self.high = loaded;
        self.pending.clear();
        self.pending.push_back((loaded, insert_lsn));
        Ok(())
    }

    /// Up to where transactions are applied.
    pub fn high(&self) -> Mark {
        self.high
    }

    /// Up to where they are durable at the target.
    pub fn low(&self) -> Mark {
        self.low
    }

    /// Whether something is applied and not known to be durable: then it is worth to ask for the flush LSN.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Halves the queue: of each two neighbours the later stands for both.
    fn collapse(&mut self) {
        let length = self.pending.len();
        let mut index = 0;
        self.pending.retain(|_| {
            index += 1;
            // Counted from the back, so that the newest stays.
            usize::is_multiple_of(length - index, 2)
        });
    }
}

#[cfg(test)]
mod tests;
