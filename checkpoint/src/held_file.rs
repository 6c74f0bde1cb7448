//! A file whose advisory lock means "in use", and whose content says by whom.
//!
//! The kernel releases the lock when the process dies, however it dies, so a free lock proves that there is no holder.
//! The file is never removed: a removed lock file could be locked by one process and created anew by the next. The
//! lock belongs to the open file description, so a second taker in the same process is refused as well; the descriptor
//! is close-on-exec and does not outlive the process in a child.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Holder};

/// A probe ([`is_held`]) takes a shared lock for microseconds. A taker therefore tries again for a while before it
/// believes that there is a holder.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// Longest content that is read back.
const MAX_CONTENT: u64 = 1024;

/// An exclusively locked file.
#[derive(Debug)]
pub(crate) struct HeldFile {
    _file: File,
}

impl HeldFile {
    /// Takes the lock and writes who has it. `Ok(Err(holder))` when somebody else has it.
    pub(crate) fn take(path: &Path, name: &str) -> Result<Result<Self, Holder>, Error> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::file("open lock file", path, e))?;
        for attempt in 1.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if attempt < ATTEMPTS => thread::sleep(PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(read_holder(&file))),
                Err(e) => return Err(Error::file("lock", path, e.into())),
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{} {name}\n", std::process::id()).as_bytes()));
        written.map_err(|e| Error::file("write lock file", path, e))?;
        Ok(Ok(Self { _file: file }))
    }
}

/// Whether some process holds the lock of `path` now. A file that does not exist is not held.
pub(crate) fn is_held(path: &Path) -> Result<bool, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::file("open lock file", path, e)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(Error::file("lock", path, e.into())),
    }
}

fn read_holder(file: &File) -> Holder {
    let mut text = String::new();
    if file.take(MAX_CONTENT).read_to_string(&mut text).is_err() {
        return Holder::default();
    }
    let (pid, name) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
    Holder { pid: pid.parse().ok(), name: Some(name.to_owned()).filter(|name| !name.is_empty()) }
}

/// Whether `name` can be part of a file's name here.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    let bad = |reason| Err(Error::BadName { what, name: name.escape_default().to_string(), reason });
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > 128 {
        return bad("it is longer than 128 bytes");
    }
    if name.starts_with('.') {
        return bad("it begins with a dot");
    }
    if name.chars().any(|c| c == '/' || c == '\\' || c.is_control()) {
        return bad("it holds a slash or a control character");
    }
    Ok(())
}
