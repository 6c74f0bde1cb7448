//! Transactions streamed before their commit: one file for each top-level xid, adopted by the commit record, dropped by
//! an abort. In memory is only what tells sub-transactions apart, and a buffer for each of the [`MAX_OPEN_SIDES`] that
//! were used last.
//!
//! A reader may read ahead in the file of a transaction that is still open. What it reads there counts only once the file
//! is adopted, but it must be able to tell what comes before what: a row may rest on any transaction that was committed
//! before it was made. So wherever a transaction was appended to the main file since the record before, a note says which
//! ([`kind::AFTER`]). The notes are exact whenever the two files are written out, each at its own time. A file gets the
//! first once it is written out, so that small ones, in which nobody reads ahead, have none: commits rise, and what the
//! first note says holds for all that stands before it, too.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Declared, FLUSH_AT, Writer, check_message, check_row, header};
use crate::change::{Message, Truncate};
use crate::error::Error;
use crate::format::{self, Adopt, Digest, FileKind, kind};
use crate::lsn::CommitLsn;
use crate::relation::Relation;
use crate::storage::{File, Storage};
use crate::transaction::{Begin, Commit};

/// So many side files are held open; the others are closed and opened again when their transaction goes on.
const MAX_OPEN_SIDES: usize = 32;

/// A transaction that the source has not committed yet.
#[derive(Debug)]
pub(super) struct Side {
    file: Option<Arc<dyn File>>,
    storage: Arc<dyn Storage>,
    name: String,
    xid: u32,
    nonce: u32,
    used: u64,
    buffer: Vec<u8>,
    flushed: u64,
    synced: u64,
    declared: Declared,
    /// Whose rows follow, none are before the first, and how many of them there have been since.
    current: Option<u32>,
    current_changes: u64,
    digest: Digest,
    records: u64,
    /// Changes by sub-transaction, so that those of an aborted one can be taken off.
    changes: FxHashMap<u32, u64>,
    aborted: Vec<u32>,
    /// The commit that the last note says.
    after: Option<CommitLsn>,
}

impl Side {
    /// Notes what was committed before the record to come. No harm is done if that then is not appended.
    #[inline]
    fn note(&mut self, commit: CommitLsn) {
        if self.after != Some(commit) && self.flushed > 0 {
            self.after = Some(commit);
            self.record(kind::AFTER, |body| body.extend_from_slice(&commit.0.0.to_be_bytes()));
        }
    }

    #[inline]
    fn record(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.digest.fold(format::append(&mut self.buffer, kind, fill));
        self.records += 1;
    }

    /// Writes what is in memory if it is much. Comes before appending, so that a call that fails has appended nothing.
    #[inline]
    fn make_room(&mut self) -> Result<(), Error> {
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    #[inline]
    fn change(&mut self, xid: u32, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.make_room()?;
        if self.current != Some(xid) {
            self.settle();
            self.current = Some(xid);
            self.record(kind::SUBTRANSACTION, |body| body.extend_from_slice(&xid.to_be_bytes()));
        }
        self.current_changes += 1;
        self.record(kind, fill);
        Ok(())
    }

    /// Books the changes counted since the sub-transaction last changed.
    fn settle(&mut self) {
        if let Some(current) = self.current
            && self.current_changes > 0
        {
            *self.changes.entry(current).or_default() += std::mem::take(&mut self.current_changes);
        }
    }

    fn file(&mut self) -> Result<Arc<dyn File>, Error> {
        if self.file.is_none() {
            let opened = self.storage.open(&self.name, true);
            self.file = Some(opened.map_err(Error::io("open", self.storage.path(&self.name)))?);
        }
        self.file.clone().ok_or(Error::Misuse("a side file that is not open"))
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file()?.write_all_at(&self.buffer, self.flushed);
        written.map_err(Error::io("write", self.storage.path(&self.name)))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(2 * FLUSH_AT);
        Ok(())
    }

    /// Bytes written and not yet synced.
    pub(super) fn unsynced(&self) -> u64 {
        self.flushed - self.synced
    }

    /// The file, to be synced, if it is open.
    pub(super) fn sync_target(&mut self) -> Option<(String, Arc<dyn File>)> {
        let file = self.file.clone()?;
        self.synced = self.flushed;
        Some((self.name.clone(), file))
    }

    pub(super) fn remove(self) -> Result<(), Error> {
        match self.storage.remove(&self.name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.storage.path(&self.name))(error))
            }
            _ => Ok(()),
        }
    }
}

impl Writer {
    #[inline]
    fn side(&mut self, xid: u32) -> Result<&mut Side, Error> {
        if self.poisoned {
            return Err(self.poisoned());
        }
        self.uses += 1;
        let after = self.appended.commit_lsn;
        // Asked twice, because a borrow that is returned cannot be given up for the other branch.
        if self.sides.get(&xid).is_none_or(|side| side.file.is_none()) {
            self.open_side(xid)?;
        }
        let side = self.sides.get_mut(&xid).ok_or(Error::Misuse("a side file that is not there"))?;
        side.used = self.uses;
        side.note(after);
        Ok(side)
    }

    #[cold]
    fn open_side(&mut self, xid: u32) -> Result<(), Error> {
        self.close_longest_unused()?;
        if let Some(side) = self.sides.get_mut(&xid) {
            return side.file().map(drop);
        }
        let nonce = self.nonce.wrapping_add(1);
        let name = format::open_side_name(xid, nonce);
        let file = self.storage.create(&name).map_err(Error::io("create", self.storage.path(&name)))?;
        self.nonce = nonce;
        let side = Side {
            file: Some(file),
            storage: Arc::clone(&self.storage),
            name,
            xid,
            nonce,
            used: self.uses,
            buffer: format::encode_header(FileKind::Side, &header(&self.options, 0, &self.appended)),
            flushed: 0,
            synced: 0,
            declared: Declared::default(),
            current: None,
            current_changes: 0,
            digest: Digest::default(),
            records: 0,
            changes: FxHashMap::default(),
            aborted: Vec::new(),
            after: None,
        };
        self.sides.insert(xid, side);
        Ok(())
    }

    fn close_longest_unused(&mut self) -> Result<(), Error> {
        let open = self.sides.values().filter(|side| side.file.is_some()).count();
        if open < MAX_OPEN_SIDES {
            return Ok(());
        }
        let oldest = self.sides.values_mut().filter(|side| side.file.is_some()).min_by_key(|side| side.used);
        if let Some(side) = oldest {
            side.flush()?;
            side.buffer = Vec::new();
            // A failed write-back must not be forgotten with the last open file: the next sync job holds on to it.
            if side.unsynced() > 0 {
                self.unsynced.extend(side.sync_target());
            }
            side.file = None;
        }
        Ok(())
    }

    /// Declares a relation for the rows of the streamed transaction `xid` that follow.
    ///
    /// # Errors
    /// [`Error::Io`], and nothing is appended; so it is with the other calls for streamed transactions.
    pub fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        let side = self.side(xid)?;
        if side.declared.holds(relation) {
            return Ok(());
        }
        side.make_room()?;
        side.record(kind::RELATION, |body| format::encode(&**relation, body));
        side.declared.insert(relation);
        Ok(())
    }

    /// Appends a row of the sub-transaction `subxid` (the same as `xid` at top level) to the streamed transaction.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] with a relation that was not declared.
    #[inline]
    pub fn side_row(
        &mut self,
        xid: u32,
        subxid: u32,
        relation: u32,
        operation: u8,
        tuples: &[u8],
    ) -> Result<(), Error> {
        check_row(operation, tuples)?;
        let side = self.side(xid)?;
        side.declared.check(relation)?;
        side.change(subxid, operation, |body| format::encode_row(relation, tuples, body))
    }

    /// Appends a truncate to the streamed transaction.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] with a relation that was not declared.
    pub fn side_truncate(&mut self, xid: u32, subxid: u32, truncate: &Truncate) -> Result<(), Error> {
        let side = self.side(xid)?;
        truncate.relations.iter().try_for_each(|relation| side.declared.check(*relation))?;
        side.change(subxid, kind::TRUNCATE, |body| format::encode_truncate(truncate, body))
    }

    /// Appends a message to the streamed transaction.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn side_message(&mut self, xid: u32, subxid: u32, message: &Message<'_>) -> Result<(), Error> {
        check_message(message)?;
        self.side(xid)?.change(subxid, kind::MESSAGE, |body| format::encode_message(message, body))
    }

    /// Aborts a sub-transaction of the streamed transaction: its rows do not count.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] for the top-level transaction itself, which [`Writer::side_drop`] aborts.
    pub fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        if xid == subxid {
            return Err(Error::Misuse("an abort of a sub-transaction that is the top level"));
        }
        if let Some(side) = self.sides.get_mut(&xid) {
            side.make_room()?;
            side.settle();
            if side.changes.remove(&subxid).is_some() && !side.aborted.contains(&subxid) {
                side.aborted.push(subxid);
                if side.flushed > 0 {
                    side.record(kind::ABORTED, |body| body.extend_from_slice(&subxid.to_be_bytes()));
                }
            }
        }
        Ok(())
    }

    /// Drops a streamed transaction: it was aborted, or the server begins it again.
    ///
    /// # Errors
    /// [`Error::Io`]: it is dropped all the same, and its file is removed when the trail is opened again. A transaction
    /// that is not there is no error.
    pub fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        self.sides.remove(&xid).map_or(Ok(()), Side::remove)
    }

    /// Commits a streamed transaction: it takes its place in the order of commits. False if nothing of it counts, so
    /// that nothing was written.
    ///
    /// # Errors
    /// [`Error::Io`], and nothing is committed; [`Error::Misuse`] inside another transaction.
    pub fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<bool, Error> {
        self.ready(false)?;
        if begin.commit_lsn <= self.appended.commit_lsn || begin.commit_lsn != commit.commit_lsn {
            return Err(Error::Misuse("a commit LSN that does not rise"));
        }
        let Some(side) = self.sides.get_mut(&xid) else { return Ok(false) };
        side.settle();
        let changes: u64 = side.changes.values().sum();
        if changes == 0 {
            self.side_drop(xid)?;
            return Ok(false);
        }
        // Everything that can fail comes before the first byte is appended.
        side.flush()?;
        let file = side.file()?;
        self.rotate_if_full()?;
        self.main.make_room(&*self.storage)?;
        let Some(side) = self.sides.get(&xid) else { return Ok(false) };
        let name = format::adopted_side_name(self.main.seqno, side.xid, side.nonce);
        self.storage.rename(&side.name, &name).map_err(Error::io("rename", self.storage.path(&side.name)))?;
        let Some(mut side) = self.sides.remove(&xid) else { return Ok(false) };
        self.unsynced.push((name.clone(), file));
        self.directory_changed = true;

        side.aborted.sort_unstable();
        let adopt = Adopt {
            file: name,
            bytes: side.flushed,
            records: side.records,
            digest: side.digest.0,
            aborted: side.aborted,
        };
        self.begin_here(begin);
        let crc = self.main.append(kind::ADOPT, |body| format::encode(&adopt, body));
        if let Some(open) = &mut self.open {
            open.digest.fold(crc);
            open.changes = changes;
        }
        self.commit(commit)?;
        Ok(true)
    }
}
