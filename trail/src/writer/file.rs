//! The main file that is being written: what is in memory, what the operating system has, and the way back.

use std::sync::Arc;

use super::{Declared, FLUSH_AT};
use crate::error::Error;
use crate::format::{self, End, FileHeader, FileKind, Mark, kind, main_name};
use crate::lsn::Position;
use crate::storage::{File, Storage};

/// The main file that is being written.
#[derive(Debug)]
pub(super) struct Main {
    file: Arc<dyn File>,
    pub(super) seqno: u64,
    /// Bytes appended and not yet written; they belong at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    /// A write that failed may have left bytes up to here.
    touched: u64,
    /// Relations that the file holds, as it holds them.
    pub(super) declared: Declared,
    pub(super) transactions: u64,
    pub(super) sealed: bool,
}

impl Main {
    /// Creates the file `seqno`.
    pub(super) fn begin(storage: &Arc<dyn Storage>, seqno: u64, header: &FileHeader) -> Result<Self, Error> {
        let name = main_name(seqno);
        let file = storage.create(&name).map_err(Error::io("create", storage.path(&name)))?;
        let mut main = Self::at(file, Position { seqno, offset: 0 }, 0, false);
        main.buffer = format::encode_header(FileKind::Main, header);
        Ok(main)
    }

    /// Goes on writing a file at `end`, behind which there is nothing.
    pub(super) fn at(file: Arc<dyn File>, end: Position, transactions: u64, sealed: bool) -> Self {
        Self {
            file,
            seqno: end.seqno,
            buffer: Vec::new(),
            flushed: end.offset,
            touched: end.offset,
            declared: Declared::default(),
            transactions,
            sealed,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    pub(super) fn position(&self) -> Position {
        Position { seqno: self.seqno, offset: self.end() }
    }

    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(super) fn into_file(self) -> Arc<dyn File> {
        self.file
    }

    /// Appends a record in memory; returns its CRC.
    #[inline]
    pub(super) fn append(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> u32 {
        format::append(&mut self.buffer, kind, fill)
    }

    /// Writes what is in memory if it is much. Comes before appending, so that a call that fails has appended nothing.
    #[inline]
    pub(super) fn make_room(&mut self, storage: &dyn Storage) -> Result<(), Error> {
        if self.buffer.len() >= FLUSH_AT { self.flush(storage) } else { Ok(()) }
    }

    pub(super) fn flush(&mut self, storage: &dyn Storage) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.touched = self.touched.max(self.end());
        let written = self.file.write_all_at(&self.buffer, self.flushed);
        written.map_err(Error::io("write", storage.path(&main_name(self.seqno))))?;
        self.flushed = self.end();
        self.buffer.clear();
        self.buffer.shrink_to(2 * FLUSH_AT);
        Ok(())
    }

    /// Takes back everything from `end` on, and whatever a failed write has left behind it.
    pub(super) fn cut(&mut self, storage: &dyn Storage, end: u64) -> Result<(), Error> {
        let keep = end.min(self.flushed);
        if self.touched > keep {
            let cut = self.file.truncate(keep);
            cut.map_err(Error::io("truncate", storage.path(&main_name(self.seqno))))?;
        }
        self.buffer.truncate(end.saturating_sub(self.flushed) as usize);
        (self.flushed, self.touched) = (keep, keep);
        Ok(())
    }

    /// Appends the end record, if it is not there yet, and writes everything.
    pub(super) fn seal(&mut self, storage: &dyn Storage, at: &Mark) -> Result<(), Error> {
        if !self.sealed {
            let end =
                End { transactions: self.transactions, previous: at.commit_lsn, resume_lsn: at.resume_lsn };
            self.append(kind::END, |body| format::encode(&end, body));
            self.sealed = true;
        }
        self.flush(storage)
    }
}
