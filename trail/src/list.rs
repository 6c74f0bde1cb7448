//! What lies in a trail's directory, without reading more than the headers.

use std::io;

use crate::error::Error;
use crate::format::{self, FileHeader, FileKind, Mark, main_name};
use crate::mark;
use crate::reader::main_files;
use crate::records;
use crate::storage::{File, Storage, read_full_at};

/// A main file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedFile {
    /// Its name in the directory.
    pub name: String,
    /// Its number.
    pub seqno: u64,
    /// Its length.
    pub bytes: u64,
    /// What it says of itself; `None` when that cannot be read, see [`crate::check`].
    pub header: Option<FileHeader>,
    /// It ends with its end record and never changes.
    pub sealed: bool,
    /// Side files that it has adopted.
    pub sides: u64,
    /// Their length together.
    pub side_bytes: u64,
}

/// What lies in a trail's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The main files in order.
    pub files: Vec<ListedFile>,
    /// How far the trail is durable.
    pub durable: Option<Mark>,
    /// The registered readers and how far they are.
    pub readers: Vec<(String, Mark)>,
    /// Files of transactions that are being streamed, or were when the writer ended.
    pub open_sides: u64,
    /// A writer holds the trail.
    pub is_being_written: bool,
}

impl Listing {
    /// The epoch of the newest file whose header can be read.
    pub fn epoch(&self) -> Option<u64> {
        self.files.iter().filter_map(|file| Some(file.header.as_ref()?.epoch)).max()
    }
}

/// The names of all files of a trail.
///
/// # Errors
/// [`Error::Missing`], [`Error::Io`].
pub(crate) fn names(storage: &dyn Storage) -> Result<Vec<String>, Error> {
    storage.list().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Missing(storage.path("")),
        _ => Error::io("list", storage.path(""))(error),
    })
}

/// Lists a trail. Can run beside the writer, the readers and purge.
///
/// # Errors
/// [`Error::Io`]. A directory without a trail is an empty listing.
pub fn list(storage: &dyn Storage) -> Result<Listing, Error> {
    let readers = mark::readers(storage)?;
    let durable = mark::durable(storage)?;
    let names = names(storage)?;
    let mut files = Vec::new();
    for seqno in main_files(storage)? {
        let name = main_name(seqno);
        let file = match storage.open(&name, false) {
            // Purge has come first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("open", storage.path(&name)))?,
        };
        let facts = || Ok((file.length()?, is_sealed(&*file)?));
        let (bytes, sealed) = facts().map_err(Error::io("read", storage.path(&name)))?;
        let header = match records::header(storage, &name, FileKind::Main) {
            Err(error @ Error::Io { .. }) => return Err(error),
            other => other.ok(),
        };
        let (mut sides, mut side_bytes) = (0, 0);
        for side in names.iter().filter(|name| format::adopter(name) == Some(seqno)) {
            sides += 1;
            side_bytes += storage.open(side, false).and_then(|file| file.length()).unwrap_or(0);
        }
        files.push(ListedFile { name, seqno, bytes, header, sealed, sides, side_bytes });
    }
    let open_sides = names.iter().filter(|name| format::is_open_side(name)).count() as u64;
    let is_being_written = storage.is_locked().map_err(Error::io("lock", storage.path("lock")))?;
    Ok(Listing { files, durable, readers, open_sides, is_being_written })
}

/// Whether a file ends with an end record, whose length is always the same.
fn is_sealed(file: &dyn File) -> io::Result<bool> {
    let mut bytes = [0; format::END_RECORD];
    let Some(start) = file.length()?.checked_sub(bytes.len() as u64) else { return Ok(false) };
    let read = read_full_at(file, &mut bytes, start)?;
    let is_end = |record: format::Record<'_>| record.kind == format::kind::END;
    Ok(read == bytes.len() && format::check(&bytes).is_ok_and(is_end))
}
