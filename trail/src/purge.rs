//! Removing what every reader has passed, and no more.
//!
//! A file goes when each registered reader's mark lies in a later one. The last durable file always stays, and so does
//! everything while no reader is registered: a trail that nobody has read yet is not a trail that nobody needs.
//!
//! Order makes every crash harmless: main files go from the first on, each durably gone before the next, so that there
//! never is a hole; the side files of one go after it, so that no file that is still there misses any. Side files whose
//! main file is gone already are orphans, which nobody reads and the next purge removes.

use std::io;

use crate::error::Error;
use crate::format::{self, main_name};
use crate::lsn::{Position, Timestamp};
use crate::mark;
use crate::reader::main_files;
use crate::storage::Storage;

/// What is kept although every reader has passed it.
#[derive(Clone, Copy, Debug)]
pub struct PurgePolicy {
    /// A file stays for so many seconds after it was last written.
    pub min_age_seconds: u64,
    /// So many files stay at least, the last one counted.
    pub min_files: usize,
    /// The clock that ages are counted by; files bear the time of their storage.
    pub clock: fn() -> Timestamp,
}

impl Default for PurgePolicy {
    /// Keeps nothing that every reader has passed, but the last file.
    fn default() -> Self {
        Self { min_age_seconds: 0, min_files: 1, clock: Timestamp::now }
    }
}

/// What a purge has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    /// Names of the files that are gone, side files too.
    pub removed: Vec<String>,
    /// Their length together.
    pub bytes: u64,
    /// The reader that keeps the first file that is left, and where it stands; `None` when the policy keeps it, or when
    /// there is no reader at all.
    pub kept_by: Option<(String, Position)>,
}

/// Removes what every registered reader has passed. Can run beside the writer and the readers, and beside itself.
///
/// # Errors
/// [`Error::Io`]: what was removed before stays removed.
pub fn purge(storage: &dyn Storage, policy: &PurgePolicy) -> Result<Purged, Error> {
    let mut purged = Purged::default();
    let readers = mark::readers(storage)?;
    let Some((name, slowest)) = readers.iter().min_by_key(|(_, mark)| mark.position) else {
        return Ok(purged);
    };
    // Without a mark nobody vouches for what follows.
    let Some(durable) = mark::durable(storage)? else { return Ok(purged) };
    // A reader that stands behind the end was registered for another trail, or the trail was cut back: its mark says
    // nothing of what it has passed.
    let astray = readers.iter().find(|(_, mark)| mark.position > durable.position);
    let seqnos = main_files(storage)?;
    let now = (policy.clock)().unix_micros() / 1_000_000;
    let mut left = seqnos.len();
    let mut first = seqnos.first().copied().unwrap_or(1);
    for seqno in seqnos {
        first = seqno;
        let file = main_name(seqno);
        if seqno >= durable.position.seqno || left <= policy.min_files.max(1) {
            break;
        }
        let modified = match storage.modified(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("read", storage.path(&file)))?,
        };
        if now.saturating_sub_unsigned(policy.min_age_seconds) < i64::try_from(modified).unwrap_or(i64::MAX) {
            break;
        }
        if let Some((name, mark)) = astray {
            purged.kept_by = Some((name.clone(), mark.position));
            break;
        }
        if slowest.position.seqno <= seqno {
            purged.kept_by = Some((name.clone(), slowest.position));
            break;
        }
        if purged.removed.is_empty() {
            // A power cut must not bring back a reader's older mark when the files are gone that it needs.
            storage.sync_directory().map_err(Error::io("sync", storage.path("")))?;
        }
        purged.remove(storage, file)?;
        storage.sync_directory().map_err(Error::io("sync", storage.path("")))?;
        left -= 1;
    }
    let mut names = crate::list::names(storage)?;
    names.retain(|name| format::adopter(name).is_some_and(|seqno| seqno < first));
    if !names.is_empty() {
        // Also for a main file that an earlier purge removed and had no time to make sure of.
        storage.sync_directory().map_err(Error::io("sync", storage.path("")))?;
    }
    names.into_iter().try_for_each(|name| purged.remove(storage, name))?;
    Ok(purged)
}

impl Purged {
    fn remove(&mut self, storage: &dyn Storage, name: String) -> Result<(), Error> {
        let bytes = storage.open(&name, false).and_then(|file| file.length()).unwrap_or(0);
        match storage.remove(&name) {
            Ok(()) => {
                self.bytes += bytes;
                self.removed.push(name);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", storage.path(&name))(error)),
        }
    }
}
