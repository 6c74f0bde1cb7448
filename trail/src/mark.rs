//! How far the trail is durable, and how far its readers are.

use std::io;
use std::sync::Arc;

use crate::appended::Appended;
use crate::error::Error;
use crate::format::{self, Mark};
use crate::lsn::Timestamp;
use crate::storage::{File, Storage, new_name, read_full_at, replace};

/// Name of the file that says how far the trail is durable.
pub(crate) const DURABLE: &str = "durable";
const READER: &str = "reader-";

fn open(storage: &dyn Storage, name: &str) -> Result<Option<Arc<dyn File>>, Error> {
    match storage.open(name, false) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", storage.path(name))(error)),
    }
}

/// Reads a reader's mark; `None` when there is none or it is not whole.
fn read(storage: &dyn Storage, name: &str) -> Result<Option<Mark>, Error> {
    let Some(file) = open(storage, name)? else { return Ok(None) };
    let mut bytes = [0; 128];
    let length = read_full_at(&*file, &mut bytes, 0).map_err(Error::io("read", storage.path(name)))?;
    Ok(format::decode_mark(&bytes[..length]).ok())
}

/// Reads the durable mark and its count. While one slot is being written the other one is sound.
fn read_slots(storage: &dyn Storage, file: &dyn File) -> Result<Option<(u64, Mark)>, Error> {
    // Just as many as there are, so that one call reads them all.
    let mut bytes = [0; format::SLOTS];
    let length = read_full_at(file, &mut bytes, 0).map_err(Error::io("read", storage.path(DURABLE)))?;
    Ok(format::decode_slots(&bytes[..length]))
}

/// How far the trail is durable, by what its writer said last.
///
/// # Errors
/// [`Error::Io`] when the mark cannot be read. A missing or damaged mark is `None`.
pub fn durable(storage: &dyn Storage) -> Result<Option<Mark>, Error> {
    let Some(file) = open(storage, DURABLE)? else { return Ok(None) };
    Ok(read_slots(storage, &*file)?.map(|(_, mark)| mark))
}

/// The writer's hold on the durable mark, and on what readers are told before it moves.
#[derive(Debug)]
pub(crate) struct DurableMark {
    pub(crate) appended: Appended,
    file: Arc<dyn File>,
    storage: Arc<dyn Storage>,
    count: u64,
    /// The last write failed.
    torn: bool,
}

impl DurableMark {
    /// Begins a writing. To be called before anything of the trail is changed.
    pub(crate) fn open(storage: &Arc<dyn Storage>, now: Timestamp) -> Result<Self, Error> {
        let appended = Appended::begin(&**storage, now)?;
        let file = match storage.open(DURABLE, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(DURABLE),
            other => other,
        };
        let file = file.map_err(Error::io("open", storage.path(DURABLE)))?;
        let count = read_slots(&**storage, &*file)?.map_or(0, |(count, _)| count);
        Ok(Self { appended, file, storage: Arc::clone(storage), count, torn: false })
    }

    /// Takes back what a trail that is no longer there had promised, for those too that hold the file open.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        self.file.truncate(0).map_err(Error::io("truncate", self.storage.path(DURABLE)))
    }

    /// The file, to be synced.
    pub(crate) fn target(&self) -> (String, Arc<dyn File>) {
        (DURABLE.to_owned(), Arc::clone(&self.file))
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync().map_err(Error::io("sync", self.storage.path(DURABLE)))
    }

    /// Writes the mark that holds once more, at its own place, and makes it durable: a sync that failed earlier may have
    /// left it in the system's cache only.
    pub(crate) fn renew(&self) -> Result<(), Error> {
        if let Some((count, mark)) = read_slots(&*self.storage, &*self.file)? {
            let (offset, bytes) = format::encode_slot(count, &mark);
            self.file.write_all_at(&bytes, offset).map_err(Error::io("write", self.storage.path(DURABLE)))?;
            self.sync()?;
        }
        Ok(())
    }

    /// Writes the mark. After an error the one before it still holds, and the same slot is written next.
    pub(crate) fn publish(&mut self, mark: &Mark) -> Result<(), Error> {
        let (offset, bytes) = format::encode_slot(self.count + 1, mark);
        let torn = std::mem::replace(&mut self.torn, true);
        self.file.write_all_at(&bytes, offset).map_err(Error::io("write", self.storage.path(DURABLE)))?;
        if torn {
            // Half of a mark may have reached the disk. The other slot stays as it is until this one is sound there too.
            self.sync()?;
        }
        (self.count, self.torn) = (self.count + 1, false);
        Ok(())
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
            self.file = open(&*self.storage, DURABLE)?;
        }
        let Some(file) = &self.file else { return Ok(None) };
        Ok(read_slots(&*self.storage, &**file)?.map(|(_, mark)| mark))
    }
}

/// Says that the reader `name` needs nothing before `mark` any more. Its veto holds back purge until it is removed. The
/// first time that is durable on return; later a power cut may bring back an earlier mark, which holds back more.
///
/// Works on a full disk, too, once the reader is registered: what it lets go of may be all that can make room.
///
/// # Errors
/// [`Error::Io`]; [`Error::Misuse`] for a name of other characters than letters, digits, `-` and `_`.
pub fn register_reader(storage: &dyn Storage, name: &str, mark: &Mark) -> Result<(), Error> {
    let file = reader_file(name)?;
    let is_new = open(storage, &file)?.is_none();
    let bytes = format::encode_mark(mark);
    let written = match replace(storage, &file, &bytes) {
        // There is no room for a new file, but the old one has its own. One that a power cut leaves half written cannot be
        // read, and holds back everything until it is written again.
        Err(error) if is_full(&error) && !is_new => {
            let _ = storage.remove(&new_name(&file));
            storage.open(&file, true).and_then(|old| old.write_all_at(&bytes, 0))
        }
        other => other,
    };
    written.map_err(Error::io("write", storage.path(&file)))?;
    if is_new {
        storage.sync_directory().map_err(Error::io("sync", storage.path("")))?;
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

/// Name of the file that holds a reader's mark.
pub(crate) fn reader_name(name: &str) -> String {
    format!("{READER}{name}")
}

/// Whether a reader can be called so.
pub(crate) fn is_readers_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

fn reader_file(name: &str) -> Result<String, Error> {
    if is_readers_name(name) {
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
    let names = crate::list::names(storage)?;
    let mut readers = Vec::new();
    for name in names {
        if let Some(reader) = name.strip_prefix(READER).filter(|reader| !reader.ends_with(".new")) {
            readers.push((reader.to_owned(), read(storage, &name)?.unwrap_or_default()));
        }
    }
    readers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(readers)
}
