//! What people wish of the groups: the part of the supervisor's state that outlives everything.
//!
//! One small JSON file, replaced as a whole and synced with its directory before anything is done about it. A file that
//! cannot be understood stops the manager: guessing could start what a person stopped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use irongate_checkpoint::Failure;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The layout that this version reads and writes.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Whether a person wants a group to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// It should run.
    Run,
    /// It should not.
    Stop,
}

/// What is noted of a group.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct DesiredGroup {
    /// What a person said last; `None` if nobody has, and the configuration decides.
    #[serde(default)]
    pub wish: Option<Wish>,
    /// Why it is not tried again.
    #[serde(default)]
    pub abended: Option<Failure>,
}

/// What is noted of all groups of a site, also of those that are not configured at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Desired {
    /// Layout of the file.
    pub version: u32,
    /// The groups of which something is noted.
    pub groups: BTreeMap<String, DesiredGroup>,
}

impl Default for Desired {
    fn default() -> Self {
        Self { version: VERSION, groups: BTreeMap::new() }
    }
}

impl Desired {
    /// Reads the file; without one nobody has said anything.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Unreadable`] for a file that is damaged or of another version.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::Unreadable { path: path.to_owned(), reason };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|source| Error::file("open", path, source))?,
        };
        let length = file.metadata().map_err(|source| Error::file("read", path, source))?.len();
        if length > MAX_FILE {
            return Err(unreadable("it is too long".to_owned()));
        }
        let bytes = fs::read(path).map_err(|source| Error::file("read", path, source))?;
        let desired: Self = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if desired.version != VERSION {
            let reason = format!("it has version {}, and this is version {VERSION}", desired.version);
            return Err(unreadable(reason));
        }
        Ok(desired)
    }

    /// Makes it durable. After an error the file is the one before or this one.
    ///
    /// # Errors
    /// [`Error::File`], such as a full disk.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let new = path.with_extension("json.new");
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::file("write", path, io::Error::other(error)))?;
        text.push(b'\n');
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|source| Error::file("write", &new, source))?;
        fs::rename(&new, path).map_err(|source| Error::file("replace", path, source))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let sync = || File::open(directory)?.sync_all();
        sync().map_err(|source| Error::file("sync", directory, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_nothing_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        assert_eq!(Desired::load(&path).unwrap(), Desired::default());
        let mut desired = Desired::default();
        let failure = Failure { message: "m".into(), hint: Some("h".into()), transient: false };
        let noted = DesiredGroup { wish: Some(Wish::Stop), abended: Some(failure) };
        desired.groups.insert("css-extract".into(), noted);
        desired.save(&path).unwrap();
        desired.save(&path).unwrap();
        assert_eq!(Desired::load(&path).unwrap(), desired);
        for (text, reason) in [
            ("{\"version\": 2, \"groups\": {}}", "version 2"),
            ("{\"version\": 1, \"gro", "EOF"),
            ("", "EOF"),
            ("{\"version\": 1, \"groups\": {\"g\": {\"wish\": \"perhaps\"}}}", "perhaps"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Desired::load(&path).unwrap_err();
            assert!(matches!(error, Error::Unreadable { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn a_full_disk_leaves_the_file_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        Desired::default().save(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("desired.json.new")).unwrap();
        let mut desired = Desired::default();
        desired.groups.insert("g".into(), DesiredGroup { wish: Some(Wish::Stop), abended: None });
        let error = desired.save(&path).unwrap_err();
        assert!(error.to_string().contains("desired.json.new") && error.is_transient(), "{error}");
        assert_eq!(Desired::load(&path).unwrap(), Desired::default());
    }
}
