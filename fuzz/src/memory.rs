//! A directory in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irongate_trail::{File, Storage};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files in memory. A clone is the same directory; [`Memory::copy`] is another one.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

#[derive(Debug)]
struct InMemory(Bytes);

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// The same content, independent of this one.
    pub fn copy(&self) -> Self {
        let copy = Memory::default();
        for name in self.names() {
            copy.put(&name, self.get(&name));
        }
        copy
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        held(&self.files).keys().cloned().collect()
    }

    /// The content of a file; empty if there is none.
    pub fn get(&self, name: &str) -> Vec<u8> {
        held(&self.files).get(name).map(|bytes| held(bytes).clone()).unwrap_or_default()
    }

    /// Replaces a file.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        held(&self.files).insert(name.to_owned(), Arc::new(Mutex::new(content)));
    }
}

impl Storage for Memory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if held(&self.files).contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.put(name, Vec::new());
        self.open(name, true)
    }

    fn open(&self, name: &str, _writable: bool) -> io::Result<Arc<dyn File>> {
        match held(&self.files).get(name) {
            Some(bytes) => Ok(Arc::new(InMemory(Arc::clone(bytes)))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = held(&self.files);
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        held(&self.files).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn modified(&self, _name: &str) -> io::Result<u64> {
        Ok(0)
    }

    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }
}

impl File for InMemory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = held(&self.0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_all_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = held(&self.0);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = from + written.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[from..end].copy_from_slice(written);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        held(&self.0).resize(length, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(held(&self.0).len() as u64)
    }
}
