//! Where reading may begin within a file, so that whoever opens a trail again need not read a file from its start to where
//! he was.
//!
//! A file cannot be entered anywhere: the tables that its rows are of are described before. So a bookmark says where these
//! descriptions stand, and behind which commit reading goes on. It is a hint: what it says is looked up in the file, and
//! where anything is not as it says the file is read from its start, as without it. So it is kept without a sync, and nothing
//! is said where it cannot be. (A file is written in one way only; one that a disk has cut off behind a lie, and that went on
//! otherwise, has another commit there, or the same at another place.)

use serde::{Deserialize, Serialize};

use super::Reader;
use crate::error::Error;
use crate::format::{self, CommitRecord, FileHeader, kind};
use crate::lsn::CommitLsn;
use crate::mark::is_readers_name;
use crate::records::{Found, Step};
use crate::storage::{Storage, read_full_at};

/// Name of the file that a reader's bookmark is kept in, without the reader's name.
const KEPT: &str = "bookmark-";

/// A longer file is not a bookmark: so many tables are not described in one file of a trail.
const MOST_BYTES: usize = 8 << 20;

/// So many commits are kept in mind of a file; then every second one is forgotten.
const MOST: usize = 128;
/// Bytes between two of them, at first.
const APART: u64 = 1 << 10;

/// A commit of a file, and what one must know to read on behind it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bookmark {
    header: FileHeader,
    commit: CommitLsn,
    /// Where its record starts and ends, and what stands there: with that, the digest of the transaction.
    from: u64,
    to: u64,
    crc: u32,
    /// Where the descriptions of tables before it start, in order.
    relations: Vec<u64>,
}

impl Bookmark {
    /// Keeps it beside the trail, for the reader `name` of the next process.
    pub fn keep(&self, storage: &dyn Storage, name: &str) {
        if !is_readers_name(name) {
            return;
        }
        let mut bytes = Vec::new();
        format::encode(self, &mut bytes);
        let bytes = format::seal(bytes);
        let file = format!("{KEPT}{name}");
        let _ = storage.open(&file, true).or_else(|_| storage.create(&file)).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            file.truncate(bytes.len() as u64)
        });
    }

    /// What the reader `name` has kept last, if that can be read.
    pub fn kept(storage: &dyn Storage, name: &str) -> Option<Self> {
        let file = storage.open(&format!("{KEPT}{name}"), false).ok()?;
        let mut bytes = vec![0; usize::try_from(file.length().ok()?).ok()?.min(MOST_BYTES)];
        let length = read_full_at(&*file, &mut bytes, 0).ok()?;
        format::decode(format::unseal(&bytes[..length]).ok()?).ok()
    }
}

#[derive(Debug)]
struct Noted {
    commit: CommitLsn,
    from: u64,
    to: u64,
    crc: u32,
    relations: usize,
}

/// What has been passed in the present file.
#[derive(Debug)]
pub(super) struct Passed {
    relations: Vec<u64>,
    commits: Vec<Noted>,
    apart: u64,
}

impl Default for Passed {
    fn default() -> Self {
        Self { relations: Vec::new(), commits: Vec::new(), apart: APART }
    }
}

impl Passed {
    pub(super) fn relation(&mut self, offset: u64) {
        self.relations.push(offset);
    }

    #[inline]
    pub(super) fn commit(&mut self, commit: CommitLsn, found: &Found, to: u64) {
        if to - self.commits.last().map_or(0, |last| last.to) >= self.apart {
            self.note(commit, (found.offset, to), found.crc);
        }
    }

    fn note(&mut self, commit: CommitLsn, (from, to): (u64, u64), crc: u32) {
        self.commits.push(Noted { commit, from, to, crc, relations: self.relations.len() });
        if self.commits.len() >= MOST {
            let mut is_kept = false;
            self.commits.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.apart *= 2;
        }
    }
}

impl Reader {
    /// A place in the present file, not behind `commit`, for [`Reader::open_near`].
    pub fn bookmark(&self, commit: CommitLsn) -> Option<Bookmark> {
        let Passed { relations, commits, .. } = &self.passed;
        let noted = commits[..commits.partition_point(|noted| noted.commit <= commit)].last()?;
        let relations = relations.get(..noted.relations)?.to_vec();
        let Noted { commit, from, to, crc, .. } = *noted;
        Some(Bookmark { header: self.header.clone(), commit, from, to, crc, relations })
    }

    /// Goes on behind the bookmark, if it is of this file and the file is as it says. Otherwise stays at the file's start.
    pub(super) fn go_near(&mut self, near: &Bookmark) -> Result<(), Error> {
        if near.header != self.header || near.commit > self.skip_to || near.to > self.main.limit() {
            return Ok(());
        }
        let start = self.main.offset();
        if self.follows(near)? {
            self.previous = near.commit;
            self.position.offset = near.to;
            self.passed.note(near.commit, (near.from, near.to), near.crc);
        } else {
            self.relations.clear();
            self.passed = Passed::default();
            self.main.seek(start);
        }
        Ok(())
    }

    /// Reads what the bookmark points at; ends behind its commit. False if something else stands there.
    fn follows(&mut self, near: &Bookmark) -> Result<bool, Error> {
        for &offset in &near.relations {
            let Some(found) = self.record_at(offset, kind::RELATION)? else { return Ok(false) };
            let Ok(relation) = format::decode_relation(self.main.body(&found)) else { return Ok(false) };
            let relation = self.interner.intern(relation);
            self.relations.insert(relation.id, relation);
            self.passed.relation(offset);
        }
        let Some(found) = self.record_at(near.from, kind::COMMIT)? else { return Ok(false) };
        let record = format::decode::<CommitRecord>(self.main.body(&found));
        let is_its = record.is_ok_and(|record| record.commit.commit_lsn == near.commit);
        Ok(is_its && found.crc == near.crc && self.main.offset() == near.to)
    }

    fn record_at(&mut self, offset: u64, kind: u8) -> Result<Option<Found>, Error> {
        self.main.seek(offset);
        Ok(match self.main.next()? {
            Step::Record(found) if found.kind == kind => Some(found),
            _ => None,
        })
    }
}
