//! The brackets around changes: begin and commit, and what is known of each.

use serde::{Deserialize, Serialize};

use crate::lsn::{CommitLsn, ResumeLsn, Timestamp};

/// The start of a transaction. In a trail transactions are whole and in commit order, so its end is known here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Begin {
    /// The transaction's id at the source.
    pub xid: u32,
    /// Where its commit record starts.
    pub commit_lsn: CommitLsn,
    /// When it was committed, by the source's clock.
    pub commit_time: Timestamp,
    /// The replication origin it was applied under at the source, if it is not the source's own.
    pub origin: Option<String>,
    /// The commit before it in this trail, whatever became of the files between: a reader that has another one in hand
    /// stands before a gap. Zero for the first.
    pub previous: CommitLsn,
}

/// The end of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// Where the commit record starts.
    pub commit_lsn: CommitLsn,
    /// Where it ends: the place to begin again after it.
    pub end_lsn: ResumeLsn,
    /// When it was committed, by the source's clock.
    pub commit_time: Timestamp,
    /// Changed rows, truncates and messages in the transaction, without those of aborted sub-transactions.
    pub changes: u64,
}

/// A note that nothing for this trail lies before `resume_lsn` that is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Where Extract begins again.
    pub resume_lsn: ResumeLsn,
    /// When the note was written, by Extract's clock.
    pub time: Timestamp,
}
