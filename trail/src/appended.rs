//! What is appended and not durable yet, for a reader that need not wait for the disk to begin its own work.
//!
//! The file says *how far* and *by which writing*: a number that each opening of the trail for writing takes anew, before
//! it changes a byte; a writing is what a writer does between opening the trail and its end. Within one writing the bytes
//! before such a place never become others. So whoever has read up to it, and then sees the durable mark reach it, *and then*
//! still finds the same number, has read what is durable. If the number is another, or none, a power cut or a new writer may
//! have put other bytes there: what was made of them must not count.
//!
//! Nothing hangs on the file being there, and it is never synced. It is opened by its name each time: one that was removed
//! must not go on speaking to those who have it open.

use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, Told};
use crate::lsn::{Position, Timestamp};
use crate::storage::{File, Storage, read_full_at};

/// Name of the file.
pub(crate) const APPENDED: &str = "appended";

/// What the file says; `None` if there is none, or it is just being written.
pub(crate) fn read(storage: &dyn Storage) -> Option<Told> {
    let file = storage.open(APPENDED, false).ok()?;
    let mut bytes = [0; format::TOLD];
    // Once more if it was read while it was written.
    (0..2).find_map(|_| {
        let length = read_full_at(&*file, &mut bytes, 0).ok()?;
        format::decode_told(&bytes[..length]).ok()
    })
}

/// The writer's hold on the file.
#[derive(Debug)]
pub(crate) struct Appended {
    /// `None` where it cannot be written: then nobody reads what is not durable.
    file: Option<Arc<dyn File>>,
    writing: u64,
}

impl Appended {
    /// Takes the number of a new writing. To be called before anything of the trail is changed. A file that cannot be made,
    /// as on a full disk, is no error.
    ///
    /// # Errors
    /// [`Error::Io`], when what an earlier writer said cannot be taken back.
    pub(crate) fn begin(storage: &dyn Storage, now: Timestamp) -> Result<Self, Error> {
        let last = read(storage).map_or(0, |told| told.writing);
        // A clock, because the number must be another than those of files that were removed.
        let writing = (last + 1).max(now.0.max(0).unsigned_abs());
        let file = match storage.open(APPENDED, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match storage.create(APPENDED) {
                Ok(file) => file,
                Err(_) => return Ok(Self { file: None, writing }),
            },
            other => other.map_err(Error::io("open", storage.path(APPENDED)))?,
        };
        let told = Told { writing, position: Position::default() };
        let is_said = file.write_all_at(&format::encode_told(&told), 0).is_ok();
        if !is_said {
            file.truncate(0).map_err(Error::io("truncate", storage.path(APPENDED)))?;
        }
        Ok(Self { file: is_said.then_some(file), writing })
    }

    /// Says that everything before `position` can be read.
    pub(crate) fn tell(&mut self, position: Position) {
        let told = Told { writing: self.writing, position };
        let fails = |file: &Arc<dyn File>| file.write_all_at(&format::encode_told(&told), 0).is_err();
        if self.file.as_ref().is_some_and(fails) {
            self.take_back();
        }
    }

    /// Takes back what was said, for good: what was on its way to the disk may not get there.
    pub(crate) fn take_back(&mut self) {
        if let Some(file) = self.file.take() {
            // If that fails too, whoever reads early waits a moment for nothing.
            let _ = file.truncate(0);
        }
    }
}
