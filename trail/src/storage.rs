//! Where a trail's files lie. The boundary is narrow so that tests can put a disturbed disk in its place: one flat
//! directory, positioned reads and writes, explicit syncs.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;

/// An open file of a trail.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// As the system gives them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. After an error any part of them may have been written.
    ///
    /// # Errors
    /// As the system gives them.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes durable what was written, and the length.
    ///
    /// # Errors
    /// As the system gives them. After one it is unknown what is durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file to `length` bytes.
    ///
    /// # Errors
    /// As the system gives them.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// As the system gives them.
    fn length(&self) -> io::Result<u64>;
}

/// A directory of files.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Creates an empty file for reading and writing; the name must be free.
    ///
    /// # Errors
    /// As the system gives them.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file, for writing too if asked.
    ///
    /// # Errors
    /// As the system gives them.
    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn File>>;
    /// Names of all files, in no order.
    ///
    /// # Errors
    /// As the system gives them.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file a new name, atomically.
    ///
    /// # Errors
    /// As the system gives them.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the system gives them.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// As the system gives them.
    fn sync_directory(&self) -> io::Result<()>;
    /// Takes the one right to write this trail, until the returned guard is dropped or the process ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another holds it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// Whether somebody holds the lock at this moment.
    ///
    /// # Errors
    /// As the system gives them.
    fn is_locked(&self) -> io::Result<bool> {
        match self.lock() {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }
    /// When the file was last changed, in seconds since 1970.
    ///
    /// # Errors
    /// As the system gives them.
    fn modified(&self, name: &str) -> io::Result<u64>;
    /// The path that people know the file by.
    fn path(&self, name: &str) -> PathBuf;
}

/// A directory of the local file system.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, which must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Creates the directory and its parents, readable by its owner only: trails hold row values.
    ///
    /// # Errors
    /// As the system gives them.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = path.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

const LOCK: &str = "lock";

impl Storage for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(writable).open(self.path.join(name))?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(self.path.join(LOCK))?;
        // Whoever only asks whether it is held holds it himself for a moment.
        for _ in 0..4 {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(5)),
                other => return other.map(|()| Box::new(file) as _).map_err(io::Error::from),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn is_locked(&self) -> io::Result<bool> {
        // Opened for reading only, so that it can be asked of a directory that may not be written to.
        let file = match fs::File::open(self.path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            other => other.map(|()| false).map_err(io::Error::from),
        }
    }

    fn modified(&self, name: &str) -> io::Result<u64> {
        let modified = fs::metadata(self.path.join(name))?.modified()?;
        Ok(modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Reads as much as there is, up to `buffer.len()` bytes.
pub(crate) fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the next content of a file is written before it takes the name.
pub(crate) fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Replaces a small file as a whole: a reader sees the old content or the new one.
pub(crate) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = new_name(name);
    match storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create(&temporary)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    storage.rename(&temporary, name)
}
