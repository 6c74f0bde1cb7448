//! The store on sled 0.34, and its self-healing.
//!
//! A store can be unusable in three ways that need three answers, so they are told apart by order of the checks:
//!
//! 1. *In use.* Our own lock on the sibling file `<directory>.holder` is taken before sled touches a file. Whoever does
//!    not get it never looks at the store, so a store in use cannot be mistaken for a damaged one.
//! 2. *The machine refuses* (permission, read-only, disk full). A probe file is written and synced into the directory
//!    before sled opens it, and again after sled has failed. Where the probe fails the store is left alone.
//! 3. *Damaged.* Only what remains: sled returns an error or panics, or a value cannot be read back. The directory is
//!    renamed aside and a new store made.
//!
//! sled is known to leave an empty `snap.*.generating` behind when it is killed while it opens, and refuses such a
//! store ever after. The store is never the only copy of anything, so nothing is lost by beginning with an empty one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::set_aside::{set_aside, sibling};
use super::{Store, quiet};
use crate::error::{Error, Holder};
use crate::held_file::HeldFile;

/// Memory for sled's page cache, in bytes; sled's own default is 1 GiB.
const CACHE_CAPACITY: u64 = 8 * 1024 * 1024;
/// What the probe writes, in bytes: sled grows its file by segments of 512 KiB and writes a snapshot beside it.
const PROBE_BYTES: usize = 1024 * 1024;
/// How long to wait for sled's own lock. Threads of a store that was closed in this process let go of it a little late.
const SLED_LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Name of sled's threads.
const SLED_THREADS: &str = "sled";

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// Where a damaged store was moved; the store is new and empty then. A store can also be new and empty without
    /// that, on the first start or when it was removed by hand.
    pub set_aside: Option<PathBuf>,
}

/// A [`Store`] in a directory of its own, open in one process at a time.
pub struct SledStore {
    directory: PathBuf,
    // Before the lock, so that it is closed first.
    db: sled::Db,
    _held: HeldFile,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in `directory` for the group `holder`, making it if need be; sets a damaged one aside and makes
    /// a new one, with one warning to the log. Blocks the thread: usually a few milliseconds.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::File`] when the file system refuses: the store is left
    /// alone then. [`Error::Store`] when not even a new store can be opened.
    pub fn open(directory: &Path, holder: &str) -> Result<Opened, Error> {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::file("create directory", parent, e))?;
        }
        let in_use = |holder| Error::InUse { directory: directory.to_owned(), holder };
        let held = HeldFile::take(&sibling(directory, ".holder"), holder)?.map_err(in_use)?;
        let reason = match attempt(directory)? {
            Ok(db) => return Ok(Opened { store: Self::of(directory, db, held), set_aside: None }),
            Err(Refusal::Locked) => return Err(in_use(Holder::default())),
            Err(Refusal::Damaged(reason)) => reason,
        };
        let aside = set_aside(directory)?;
        tracing::warn!(
            store = %directory.display(),
            set_aside = %aside.display(),
            reason,
            "checkpoint store was damaged: it is set aside and made anew from the trail and the databases"
        );
        match attempt(directory)? {
            Ok(db) => Ok(Opened { store: Self::of(directory, db, held), set_aside: Some(aside) }),
            Err(Refusal::Locked) => Err(in_use(Holder::default())),
            Err(Refusal::Damaged(reason)) => Err(Error::Store { directory: directory.to_owned(), reason }),
        }
    }

    /// The store's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn of(directory: &Path, db: sled::Db, held: HeldFile) -> Self {
        Self { directory: directory.to_owned(), db, _held: held }
    }

    fn run<T>(&self, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        match quiet::caught(|| work(&self.db)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(sled::Error::Io(source))) if is_the_machines(&source) => {
                Err(Error::file("use checkpoint store", &self.directory, source))
            }
            Ok(Err(error)) => {
                Err(Error::Store { directory: self.directory.clone(), reason: error.to_string() })
            }
            Err(panic) => Err(Error::Store { directory: self.directory.clone(), reason: panic }),
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.run(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.run(|db| db.insert(key, value).map(drop))
    }

    fn remove(&self, key: &[u8]) -> Result<(), Error> {
        self.run(|db| db.remove(key).map(drop))
    }

    fn flush(&self) -> Result<(), Error> {
        self.run(|db| db.flush().map(drop))
    }
}

/// Why sled does not open a store that the machine would let it open.
enum Refusal {
    /// A process that does not know our lock has it open.
    Locked,
    Damaged(String),
}

/// Opens `directory` with sled and reads every value once.
fn attempt(directory: &Path) -> Result<Result<sled::Db, Refusal>, Error> {
    let begun = Instant::now();
    loop {
        probe(directory)?;
        let opened = quiet::catch(SLED_THREADS, || {
            let db = sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_CAPACITY)
                .flush_every_ms(None)
                .open()?;
            // A page is checked when it is read: better now than in the middle of work. The store is small.
            for name in db.tree_names() {
                for pair in &db.open_tree(name)? {
                    pair?;
                }
            }
            Ok::<_, sled::Error>(db)
        });
        let reason = match opened {
            Ok(Ok(db)) => return Ok(Ok(db)),
            Ok(Err(sled::Error::Io(source))) if source.to_string().contains("could not acquire lock") => {
                if begun.elapsed() < SLED_LOCK_PATIENCE {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                return Ok(Err(Refusal::Locked));
            }
            Ok(Err(sled::Error::Io(source))) if is_the_machines(&source) => {
                return Err(Error::file("open checkpoint store", directory, source));
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic,
        };
        // sled may have stumbled over a disk that has filled up meanwhile.
        probe(directory)?;
        return Ok(Err(Refusal::Damaged(reason)));
    }
}

/// Shows that the directory can be written to, before and after sled tries. Something else in the directory's place is
/// not the machine's refusal: sled will stumble over it.
fn probe(directory: &Path) -> Result<(), Error> {
    match fs::create_dir(directory) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(directory).map_err(|e| Error::file("look at", directory, e))?;
            if !metadata.is_dir() {
                return Ok(());
            }
        }
        Err(e) => return Err(Error::file("create directory", directory, e)),
    }
    for inside in [directory.to_owned(), directory.join("blobs")] {
        may_use_files_of(&inside)?;
    }
    let path = directory.join("probe.tmp");
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).open(&path).and_then(|mut file: File| {
            file.write_all(&vec![0_u8; PROBE_BYTES])?;
            file.sync_all()
        });
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|e| Error::file("write to", directory, e))
}

/// Shows that each file in `directory` may be opened. Files that are no files are left for sled to stumble over.
fn may_use_files_of(directory: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if is_the_machines(&e) => return Err(Error::file("read directory", directory, e)),
        Err(_) => return Ok(()),
    };
    for entry in entries {
        let path = entry.map_err(|e| Error::file("read directory", directory, e))?.path();
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if is_the_machines(&e) => return Err(Error::file("open", &path, e)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether an error tells of the machine and not of the files' content.
fn is_the_machines(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    // EMFILE, ENFILE and EIO have no kind of their own.
    const ERRNOS: [i32; 3] = [24, 23, 5];
    matches!(
        error.kind(),
        K::PermissionDenied | K::ReadOnlyFilesystem | K::StorageFull | K::QuotaExceeded | K::OutOfMemory
    ) || error.raw_os_error().is_some_and(|code| ERRNOS.contains(&code))
}
