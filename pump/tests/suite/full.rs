//! A directory on a disk that has room for so many bytes, and that can be slow.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use irongate_trail::{Directory, File, Storage};

/// The disk.
#[derive(Debug)]
pub(crate) struct Narrow {
    base: PathBuf,
    /// The longest that a file may become.
    room: Arc<AtomicU64>,
    /// No sync comes to its end.
    slow: Arc<AtomicBool>,
}

#[derive(Debug)]
struct NarrowDirectory {
    inner: Directory,
    room: Arc<AtomicU64>,
    /// No sync comes to its end.
    slow: Arc<AtomicBool>,
}

#[derive(Debug)]
struct NarrowFile {
    inner: Arc<dyn File>,
    room: Arc<AtomicU64>,
    /// No sync comes to its end.
    slow: Arc<AtomicBool>,
}

impl Narrow {
    pub(crate) fn new(base: PathBuf) -> Arc<Self> {
        Arc::new(Self { base, room: Arc::new(AtomicU64::new(u64::MAX)), slow: Arc::default() })
    }

    /// Lets each file become so long.
    pub(crate) fn allow(&self, bytes: u64) {
        self.room.store(bytes, Ordering::SeqCst);
    }

    /// Lets no sync come to its end, until it is taken back.
    pub(crate) fn be_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::SeqCst);
    }

    pub(crate) fn open(&self, flow: &str) -> io::Result<Arc<dyn Storage>> {
        let inner = Directory::create(self.base.join(flow))?;
        Ok(Arc::new(NarrowDirectory { inner, room: Arc::clone(&self.room), slow: Arc::clone(&self.slow) }))
    }
}

impl NarrowDirectory {
    fn narrow(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(NarrowFile { inner, room: Arc::clone(&self.room), slow: Arc::clone(&self.slow) })
    }
}

impl Storage for NarrowDirectory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(name).map(|file| self.narrow(file))
    }

    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn File>> {
        self.inner.open(name, writable).map(|file| self.narrow(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock()
    }

    fn modified(&self, name: &str) -> io::Result<u64> {
        self.inner.modified(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }
}

impl File for NarrowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let room = self.room.load(Ordering::SeqCst).saturating_sub(offset);
        if (bytes.len() as u64) <= room {
            return self.inner.write_all_at(bytes, offset);
        }
        // As a real one: in the middle of it.
        self.inner.write_all_at(&bytes[..room as usize], offset)?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }

    fn sync(&self) -> io::Result<()> {
        while self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.inner.sync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.inner.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}
