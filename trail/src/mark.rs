//! How far the trail is durable, and how far its readers are.

use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, Mark};
use crate::storage::{File, Storage, read_full_at, replace};

/// Name of the file that says how far the trail is durable.
pub(crate) const DURABLE: &str = "durable";
const READER: &str = "reader-";

/// Reads a mark; `None` when there is none or it is not whole.
fn read(storage: &dyn Storage, name: &str) -> Result<Option<Mark>, Error> {
    let file = match storage.open(name, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", storage.path(name))(error)),
    };
    read_from(&*file).map_err(Error::io("read", storage.path(name)))
}

/// Reads a mark that may be written at this moment: a half-written one fails its checksum and is read again.
fn read_from(file: &dyn File) -> io::Result<Option<Mark>> {
    let mut bytes = [0; 128];
    for _ in 0..100 {
        let length = read_full_at(file, &mut bytes, 0)?;
        if let Ok(mark) = format::decode_mark(&bytes[..length]) {
            return Ok(Some(mark));
        }
        std::hint::spin_loop();
    }
    Ok(None)
}

/// How far the trail is durable, by what its writer said last.
///
/// # Errors
/// [`Error::Io`] when the mark cannot be read. A missing or damaged mark is `None`.
pub fn durable(storage: &dyn Storage) -> Result<Option<Mark>, Error> {
    read(storage, DURABLE)
}

/// The writer's hold on the durable mark.
#[derive(Debug)]
pub(crate) struct DurableMark {
    file: Arc<dyn File>,
    storage: Arc<dyn Storage>,
}

impl DurableMark {
    pub(crate) fn open(storage: &Arc<dyn Storage>) -> Result<Self, Error> {
        let file = match storage.open(DURABLE, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(DURABLE),
            other => other,
        };
        let file = file.map_err(Error::io("open", storage.path(DURABLE)))?;
        Ok(Self { file, storage: Arc::clone(storage) })
    }

    pub(crate) fn publish(&self, mark: &Mark) -> Result<(), Error> {
        let bytes = format::encode_mark(mark);
        self.file.write_all_at(&bytes, 0).map_err(Error::io("write", self.storage.path(DURABLE)))
    }
}

/// The reader's hold on the durable mark.
#[derive(Debug)]
pub(crate) struct DurableView {
    file: Option<Arc<dyn File>>,
    storage: Arc<dyn Storage>,
}

impl DurableView {
    pub(crate) fn new(storage: &Arc<dyn Storage>) -> Self {
        Self { file: None, storage: Arc::clone(storage) }
    }

    pub(crate) fn read(&mut self) -> Result<Option<Mark>, Error> {
        if self.file.is_none() {
            self.file = match self.storage.open(DURABLE, false) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io("open", self.storage.path(DURABLE))(error)),
            };
        }
        let Some(file) = &self.file else { return Ok(None) };
        read_from(&**file).map_err(Error::io("read", self.storage.path(DURABLE)))
    }
}

/// Says that the reader `name` needs nothing before `mark` any more. Its veto holds back purge until it is removed.
///
/// # Errors
/// [`Error::Io`].
pub fn register_reader(storage: &dyn Storage, name: &str, mark: &Mark) -> Result<(), Error> {
    let file = reader_file(name)?;
    replace(storage, &file, &format::encode_mark(mark)).map_err(Error::io("write", storage.path(&file)))
}

/// Takes a reader's veto away.
///
/// # Errors
/// [`Error::Io`]. A reader that is not there is no error.
pub fn remove_reader(storage: &dyn Storage, name: &str) -> Result<(), Error> {
    let file = reader_file(name)?;
    match storage.remove(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", storage.path(&file))(error))
        }
        _ => Ok(()),
    }
}

fn reader_file(name: &str) -> Result<String, Error> {
    let sound = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if sound {
        Ok(format!("{READER}{name}"))
    } else {
        Err(Error::Misuse("a reader's name is letters, digits, - and _"))
    }
}

/// The readers of a trail and how far they are. One whose mark cannot be read is at the very beginning: it holds back
/// everything.
///
/// # Errors
/// [`Error::Io`].
pub fn readers(storage: &dyn Storage) -> Result<Vec<(String, Mark)>, Error> {
    let names = storage.list().map_err(Error::io("list", storage.path("")))?;
    let mut readers = Vec::new();
    for name in names {
        if let Some(reader) = name.strip_prefix(READER).filter(|reader| !reader.ends_with(".new")) {
            readers.push((reader.to_owned(), read(storage, &name)?.unwrap_or_default()));
        }
    }
    readers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(readers)
}
