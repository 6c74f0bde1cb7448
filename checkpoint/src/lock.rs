//! One process a group: the lock that says so.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::held_file::{self, HeldFile};

/// The exclusive right to run a group on this machine, held until dropped or until the process dies, however it dies.
#[derive(Debug)]
pub struct GroupLock {
    group: String,
    state_dir: PathBuf,
    _file: HeldFile,
}

impl GroupLock {
    /// Takes the lock `<state_dir>/<group>.lock`, making the directory if need be. Blocks the thread for at most a
    /// fifth of a second.
    ///
    /// # Errors
    /// [`Error::Held`] naming the holder's process when the group runs already, [`Error::BadName`], [`Error::File`].
    pub fn acquire(state_dir: &Path, group: &str) -> Result<Self, Error> {
        held_file::check_name("group", group)?;
        std::fs::create_dir_all(state_dir).map_err(|e| Error::file("create directory", state_dir, e))?;
        match HeldFile::take(&lock_path(state_dir, group), group)? {
            Ok(file) => Ok(Self { group: group.to_owned(), state_dir: state_dir.to_owned(), _file: file }),
            Err(holder) => Err(Error::Held { group: group.to_owned(), holder }),
        }
    }

    /// Whether some process runs the group now.
    ///
    /// # Errors
    /// [`Error::File`] when the lock file cannot be looked at.
    pub fn is_held(state_dir: &Path, group: &str) -> Result<bool, Error> {
        held_file::check_name("group", group)?;
        held_file::is_held(&lock_path(state_dir, group))
    }

    /// The locked group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The directory of the group's lock and status.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

fn lock_path(state_dir: &Path, group: &str) -> PathBuf {
    state_dir.join(format!("{group}.lock"))
}
