//! The records of one file, one after the other, out of a read-ahead buffer: no allocation and no copy for a record.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, FRAME, FileHeader, FileKind, HeaderError, MAX_HEADER, Record};
use crate::storage::{File, Storage, read_full_at};

/// Bytes read ahead. A larger record is read whole and its memory given back afterwards.
const READ_AHEAD: usize = 256 * 1024;

/// A sound record, by where its body lies in the buffer until the next step.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Where in the file it starts.
    pub(crate) offset: u64,
    pub(crate) kind: u8,
    pub(crate) crc: u32,
    body: Range<usize>,
}

/// What stands at a place of a file.
#[derive(Debug)]
pub(crate) enum Step {
    /// A sound record.
    Record(Found),
    /// Nothing more before the limit.
    End,
    /// The bytes before the limit end within a record.
    Short,
    /// The bytes are not what was written.
    Bad {
        /// Where.
        offset: u64,
        /// Why.
        reason: &'static str,
    },
}

/// Walks through one file.
#[derive(Debug)]
pub(crate) struct Records {
    file: Arc<dyn File>,
    storage: Arc<dyn Storage>,
    name: String,
    buffer: Vec<u8>,
    /// The unread bytes in the buffer, and where in the file they start.
    start: usize,
    end: usize,
    offset: u64,
    /// Nothing is read from here on.
    limit: u64,
}

impl Records {
    /// Opens a file and reads its header. `limit` bounds what is read; `u64::MAX` reads to the end.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        name: &str,
        expected: FileKind,
        limit: u64,
    ) -> Result<(Self, FileHeader), Error> {
        let path = || storage.path(name);
        let file = storage.open(name, false).map_err(Error::io("open", path()))?;
        let mut records = Self {
            file,
            storage: Arc::clone(storage),
            name: name.to_owned(),
            buffer: vec![0; READ_AHEAD],
            start: 0,
            end: 0,
            offset: 0,
            limit,
        };
        records.fill(FRAME)?;
        let damaged = |reason: &str| Error::Damaged { file: path(), offset: 0, reason: reason.to_owned() };
        let (kind, header, length) = loop {
            match format::decode_header(&records.buffer[..records.end]) {
                Ok(found) => break found,
                Err(HeaderError::Short)
                    if records.end < MAX_HEADER + 64 && records.fill(records.end + 1)? => {}
                Err(HeaderError::Short) => return Err(damaged("the header ends early")),
                Err(HeaderError::Damaged(reason)) => return Err(damaged(reason.0)),
                Err(HeaderError::Unknown(what)) => return Err(Error::Version { file: path(), what }),
            }
        };
        if kind != expected {
            return Err(damaged("it is not of the kind that its name says"));
        }
        records.start = length;
        records.offset = length as u64;
        Ok((records, header))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the next record starts.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Allows reading up to `limit`.
    pub(crate) fn extend(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// An error at a place of this file.
    pub(crate) fn damaged(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::Damaged { file: self.storage.path(&self.name), offset, reason: reason.into() }
    }

    /// Makes at least `wanted` unread bytes available; false if the file or the limit ends before.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        if self.end - self.start >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if wanted > self.buffer.len() {
            // Room is made for bytes that are really there, so that a damaged length cannot exhaust memory.
            let length = self.file.length().map_err(Error::io("read", self.storage.path(&self.name)))?;
            if length.min(self.limit).saturating_sub(self.offset) < wanted as u64 {
                return Ok(false);
            }
            self.buffer.resize(wanted, 0);
        } else if self.buffer.len() > READ_AHEAD && self.end <= READ_AHEAD && wanted <= READ_AHEAD {
            self.buffer.truncate(READ_AHEAD);
            self.buffer.shrink_to_fit();
        }
        let from = self.offset + self.end as u64;
        let allowed = self.limit.saturating_sub(from).min((self.buffer.len() - self.end) as u64) as usize;
        let read = read_full_at(&*self.file, &mut self.buffer[self.end..self.end + allowed], from)
            .map_err(Error::io("read", self.storage.path(&self.name)))?;
        self.end += read;
        Ok(self.end >= wanted)
    }

    /// The next record. After anything but a record the place does not change.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Step, Error> {
        let offset = self.offset;
        if !self.fill(FRAME + 1)? {
            return Ok(if self.end == self.start { Step::End } else { Step::Short });
        }
        let length = match format::record_length(&self.buffer[self.start..self.end]) {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(Step::Short),
            Err(reason) => return Ok(Step::Bad { offset, reason: reason.0 }),
        };
        if !self.fill(length)? {
            return Ok(Step::Short);
        }
        match format::check(&self.buffer[self.start..self.start + length]) {
            Ok(Record { kind, crc, .. }) => {
                let body = self.start + FRAME + 1..self.start + length;
                self.start += length;
                self.offset += length as u64;
                Ok(Step::Record(Found { offset, kind, crc, body }))
            }
            Err(reason) => Ok(Step::Bad { offset, reason: reason.0 }),
        }
    }

    /// The body of the record found last.
    #[inline]
    pub(crate) fn body(&self, found: &Found) -> &[u8] {
        &self.buffer[found.body.clone()]
    }

    /// Whether every byte from `offset` to the end of the file is zero: blocks that were allocated and never written.
    pub(crate) fn is_zero_from(&self, mut offset: u64) -> Result<bool, Error> {
        let mut block = vec![0; 64 * 1024];
        loop {
            let read = read_full_at(&*self.file, &mut block, offset)
                .map_err(Error::io("read", self.storage.path(&self.name)))?;
            if block[..read].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            if read < block.len() {
                return Ok(true);
            }
            offset += read as u64;
        }
    }
}
