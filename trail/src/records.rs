//! The records of one file, one after the other, out of a read-ahead buffer: no allocation and no copy for a record.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, FRAME, FileHeader, FileKind, HeaderError, Record};
use crate::storage::{File, Storage, read_full_at};

/// Bytes read ahead. A larger record is read whole and its memory given back afterwards.
const READ_AHEAD: usize = 256 * 1024;

/// Bytes that a disk writes together or not at all.
const BLOCK: u64 = 512;

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
    /// Opens a file and reads its header. `limit` bounds what is read of its records; `u64::MAX` reads to the end.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        name: &str,
        expected: FileKind,
        limit: u64,
    ) -> Result<(Self, FileHeader), Error> {
        let file = open_file(&**storage, name)?;
        let (header, length) = header_of(&**storage, name, &*file, expected)?;
        // A small file, as most side files of a bulk of small transactions are, does not need all of it.
        let there = file.length().map_err(Error::io("read", storage.path(name)))?.min(limit);
        let records = Self {
            file,
            storage: Arc::clone(storage),
            name: name.to_owned(),
            buffer: vec![0; READ_AHEAD.min(there as usize)],
            start: 0,
            end: 0,
            offset: length,
            limit,
        };
        Ok((records, header))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the next record starts.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the file.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        self.file.length().map_err(Error::io("read", self.storage.path(&self.name)))
    }

    /// Up to where may be read.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Allows reading up to `limit`.
    pub(crate) fn extend(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// An error at a place of this file.
    pub(crate) fn damaged(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::Damaged { file: self.storage.path(&self.name), offset, reason: reason.into() }
    }

    /// The error for a record that must be understood and is not known.
    pub(crate) fn unknown_kind(&self, kind: u8) -> Error {
        Error::Version { file: self.storage.path(&self.name), what: format!("record kind {kind:#04x}") }
    }

    /// Makes at least `wanted` unread bytes available; false if the file or the limit ends before.
    fn fill(&mut self, wanted: usize) -> Result<bool, Error> {
        if self.end - self.start >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < READ_AHEAD && self.length()? > self.offset + self.buffer.len() as u64 {
            self.buffer.resize(READ_AHEAD, 0);
        }
        if wanted > self.buffer.len() {
            // Room is made for bytes that are really there, so that a damaged length cannot exhaust memory.
            if self.length()?.min(self.limit).saturating_sub(self.offset) < wanted as u64 {
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

    /// Whether the record that starts at the present place, and is not sound, was never written to its end: from within it
    /// on the file holds zeros only, blocks that were allocated and not filled.
    pub(crate) fn ends_in_zeros(&mut self) -> Result<bool, Error> {
        let claimed = match format::record_length(&self.buffer[self.start..self.end]) {
            Ok(Some(length)) => length as u64,
            _ => FRAME as u64,
        };
        let length = self.length()?;
        let zeros =
            zeros_from(&*self.file, self.offset).map_err(Error::io("read", self.storage.path(&self.name)))?;
        // A record that is whole may end with a zero or two, one that is cut off does not begin a block behind them.
        let block = length.saturating_sub(1) / BLOCK * BLOCK;
        let is_much = length - zeros >= 8 || zeros <= block.max(self.offset);
        Ok(zeros < length && zeros < self.offset + claimed && is_much)
    }

    /// Passes over a record that is not sound, by the length it claims, if a sound one stands behind it.
    pub(crate) fn pass_over(&mut self) -> Result<bool, Error> {
        let from = self.offset;
        let claimed = match format::record_length(&self.buffer[self.start..self.end]) {
            Ok(Some(length)) if self.fill(length)? => length as u64,
            _ => return Ok(false),
        };
        self.seek(from + claimed);
        let sound = matches!(self.next()?, Step::Record(_) | Step::End);
        self.seek(if sound { from + claimed } else { from });
        Ok(sound)
    }

    /// Goes to a place where a record should start.
    pub(crate) fn seek(&mut self, offset: u64) {
        let first = self.offset - self.start as u64;
        match usize::try_from(offset.wrapping_sub(first)) {
            // It has been read.
            Ok(start) if offset >= first && start <= self.end => self.start = start,
            _ => (self.start, self.end) = (0, 0),
        }
        self.offset = offset;
    }
}

fn open_file(storage: &dyn Storage, name: &str) -> Result<Arc<dyn File>, Error> {
    storage.open(name, false).map_err(Error::io("open", storage.path(name)))
}

/// Where the zeros begin that a file ends with, at `offset` at the earliest.
fn zeros_from(file: &dyn File, mut offset: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 * 1024];
    let mut zeros = offset;
    loop {
        let read = read_full_at(file, &mut block, offset)?;
        if let Some(last) = block[..read].iter().rposition(|byte| *byte != 0) {
            zeros = offset + last as u64 + 1;
        }
        offset += read as u64;
        if read < block.len() {
            return Ok(zeros);
        }
    }
}

fn header_of(
    storage: &dyn Storage,
    name: &str,
    file: &dyn File,
    expected: FileKind,
) -> Result<(FileHeader, u64), Error> {
    let path = || storage.path(name);
    let damaged = |reason: &str| Error::Damaged { file: path(), offset: 0, reason: reason.to_owned() };
    let mut bytes = vec![0; 4096];
    let read = read_full_at(file, &mut bytes, 0).map_err(Error::io("read", path()))?;
    bytes.truncate(read);
    if let Some(length) = format::header_length(&bytes).filter(|length| *length > read) {
        bytes.resize(length, 0);
        let read = read_full_at(file, &mut bytes, 0).map_err(Error::io("read", path()))?;
        bytes.truncate(read);
    }
    match format::decode_header(&bytes) {
        Ok((kind, header, length)) if kind == expected => Ok((header, length as u64)),
        Ok(_) => Err(damaged("it is not of the kind that its name says")),
        Err(HeaderError::Short) => Err(damaged("the header ends early")),
        Err(HeaderError::Damaged(reason)) => Err(damaged(reason.0)),
        Err(HeaderError::Unknown(what)) => Err(Error::Version { file: path(), what }),
    }
}

/// What a file says of itself.
pub(crate) fn header(storage: &dyn Storage, name: &str, expected: FileKind) -> Result<FileHeader, Error> {
    Ok(header_of(storage, name, &*open_file(storage, name)?, expected)?.0)
}

/// Whether the header of a file never came to be: the file ends within it, or holds nothing but zeros from within it on.
/// `promised` is how long somebody has vouched that the file is.
pub(crate) fn is_blank(storage: &dyn Storage, name: &str, promised: Option<u64>) -> Result<bool, Error> {
    let file = open_file(storage, name)?;
    let mut bytes = [0; format::HEADER_START];
    let mut blank = || {
        let (read, length) = (read_full_at(&*file, &mut bytes, 0)?, file.length()?);
        let wanted = format::header_length(&bytes[..read]).unwrap_or(bytes.len()) as u64;
        if length < wanted {
            // Or the length that it claims is not what was written.
            return Ok(length < promised.unwrap_or(BLOCK));
        }
        Ok(zeros_from(&*file, 0)? < wanted)
    };
    blank().map_err(Error::io("read", storage.path(name)))
}
