//! Transactions streamed before their commit: one file for each top-level xid, adopted by the commit record, dropped by
//! an abort. In memory is only what tells sub-transactions apart.

use std::collections::HashMap;
use std::sync::Arc;

use super::{FLUSH_AT, Writer};
use crate::change::{Message, Truncate};
use crate::error::Error;
use crate::format::{self, Adopt, Digest, FileKind, kind};
use crate::relation::Relation;
use crate::storage::{File, Storage};
use crate::transaction::{Begin, Commit};

/// A transaction that the source has not committed yet.
#[derive(Debug)]
pub(super) struct Side {
    file: Arc<dyn File>,
    storage: Arc<dyn Storage>,
    name: String,
    xid: u32,
    nonce: u32,
    buffer: Vec<u8>,
    flushed: u64,
    synced: u64,
    declared: HashMap<u32, Arc<Relation>>,
    /// Whose rows follow; none are before the first.
    current: Option<u32>,
    digest: Digest,
    records: u64,
    /// Changes by sub-transaction, so that those of an aborted one can be taken off.
    changes: HashMap<u32, u64>,
    aborted: Vec<u32>,
}

impl Side {
    fn record(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.digest.fold(format::append(&mut self.buffer, kind, fill));
        self.records += 1;
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    fn change(&mut self, xid: u32, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        if self.current != Some(xid) {
            self.current = Some(xid);
            self.record(kind::SUBTRANSACTION, |body| body.extend_from_slice(&xid.to_be_bytes()))?;
        }
        *self.changes.entry(xid).or_default() += 1;
        self.record(kind, fill)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let path = || self.storage.path(&self.name);
        self.file.write_all_at(&self.buffer, self.flushed).map_err(Error::io("write", path()))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(2 * FLUSH_AT);
        Ok(())
    }

    /// Bytes written and not yet synced.
    pub(super) fn unsynced(&self) -> u64 {
        self.flushed - self.synced
    }

    pub(super) fn sync_target(&mut self) -> (String, Arc<dyn File>) {
        self.synced = self.flushed;
        (self.name.clone(), Arc::clone(&self.file))
    }
}

impl Writer {
    fn side(&mut self, xid: u32) -> Result<&mut Side, Error> {
        if self.poisoned {
            return Err(Error::Poisoned(self.storage.path("")));
        }
        if !self.sides.contains_key(&xid) {
            self.nonce += 1;
            let name = format::open_side_name(xid, self.nonce);
            let file = self.storage.create(&name).map_err(Error::io("create", self.storage.path(&name)))?;
            let header = Self::header(&self.options, 0, &self.appended);
            let side = Side {
                file,
                storage: Arc::clone(&self.storage),
                name,
                xid,
                nonce: self.nonce,
                buffer: format::encode_header(FileKind::Side, &header),
                flushed: 0,
                synced: 0,
                declared: HashMap::new(),
                current: None,
                digest: Digest::default(),
                records: 0,
                changes: HashMap::new(),
                aborted: Vec::new(),
            };
            self.sides.insert(xid, side);
        }
        self.sides.get_mut(&xid).ok_or(Error::Misuse("a streamed transaction that was not begun"))
    }

    /// Declares a relation for the rows of the streamed transaction `xid` that follow.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        let side = self.side(xid)?;
        if let Some(known) = side.declared.get(&relation.id)
            && (Arc::ptr_eq(known, relation) || known == relation)
        {
            return Ok(());
        }
        side.declared.insert(relation.id, Arc::clone(relation));
        side.record(kind::RELATION, |body| format::encode(&**relation, body))
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
        let side = self.side(xid)?;
        if !side.declared.contains_key(&relation) {
            return Err(Error::Misuse("a row of a relation that was not declared"));
        }
        side.change(subxid, operation, |body| format::encode_row(relation, tuples, body))
    }

    /// Appends a truncate to the streamed transaction.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] with a relation that was not declared.
    pub fn side_truncate(&mut self, xid: u32, subxid: u32, truncate: &Truncate) -> Result<(), Error> {
        let side = self.side(xid)?;
        if truncate.relations.iter().any(|relation| !side.declared.contains_key(relation)) {
            return Err(Error::Misuse("a truncate of a relation that was not declared"));
        }
        side.change(subxid, kind::TRUNCATE, |body| format::encode_truncate(truncate, body))
    }

    /// Appends a message to the streamed transaction.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn side_message(&mut self, xid: u32, subxid: u32, message: &Message<'_>) -> Result<(), Error> {
        self.side(xid)?.change(subxid, kind::MESSAGE, |body| format::encode_message(message, body))
    }

    /// Aborts a sub-transaction of the streamed transaction: its rows do not count.
    ///
    /// # Errors
    /// [`Error::Misuse`] for the top-level transaction itself, which [`Writer::side_drop`] aborts.
    pub fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        if xid == subxid {
            return Err(Error::Misuse("an abort of a sub-transaction that is the top level"));
        }
        if let Some(side) = self.sides.get_mut(&xid)
            && side.changes.remove(&subxid).is_some()
        {
            side.aborted.push(subxid);
        }
        Ok(())
    }

    /// Drops a streamed transaction: it was aborted, or the server begins it again.
    ///
    /// # Errors
    /// [`Error::Io`]. A transaction that is not there is no error.
    pub fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        let Some(side) = self.sides.remove(&xid) else { return Ok(()) };
        self.storage.remove(&side.name).map_err(Error::io("remove", self.storage.path(&side.name)))
    }

    /// Commits a streamed transaction: it takes its place in the order of commits. False if nothing of it counts, so
    /// that nothing was written.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside another transaction.
    pub fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<bool, Error> {
        self.ready(false)?;
        let Some(side) = self.sides.get_mut(&xid) else { return Ok(false) };
        let changes: u64 = side.changes.values().sum();
        if changes == 0 {
            self.side_drop(xid)?;
            return Ok(false);
        }
        side.flush()?;
        self.begin(begin)?;
        let Some(mut side) = self.sides.remove(&xid) else { return Ok(false) };
        let name = format::adopted_side_name(self.main.seqno, side.xid, side.nonce);
        self.storage.rename(&side.name, &name).map_err(Error::io("rename", self.storage.path(&side.name)))?;
        side.aborted.sort_unstable();
        let adopt = Adopt {
            file: name.clone(),
            bytes: side.flushed,
            records: side.records,
            digest: side.digest.0,
            aborted: side.aborted,
        };
        self.append_change(kind::ADOPT, |body| format::encode(&adopt, body))?;
        if let Some(open) = &mut self.open {
            open.changes = changes;
        }
        self.unsynced.push((name, side.file));
        self.directory_changed = true;
        self.commit(commit)?;
        Ok(true)
    }
}
