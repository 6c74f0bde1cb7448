//! Reports: what the processes of a group print, in a file of its own.
//!
//! A process writes to the file itself, not through a pipe of the manager: so it goes on printing when the manager is
//! killed. For that its file cannot be exchanged while it runs. A file that is full is therefore copied and then cut to
//! nothing, which works as both write at its end; what a process prints in the instant between the last copied byte and
//! the cut is lost. At a start the full file is simply renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use irongate_trail::Timestamp;

use crate::error::Error;
use crate::event::{numbered, rotate};

/// The end of a report that is given at once, in bytes.
const MAX_TAIL: u64 = 1 << 20;

/// Where the reports of a site's groups lie, and how long they may be.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    pub(crate) directory: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
}

impl Reports {
    pub(crate) fn path(&self, group: &str) -> PathBuf {
        self.directory.join(format!("{group}.log"))
    }

    /// Makes the directory and opens a group's report for a process that is about to start.
    pub(crate) fn begin(&self, group: &str) -> Result<File, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| Error::file("create directory", &self.directory, source))?;
        let path = self.path(group);
        let begin = || {
            if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= self.max_bytes) {
                rotate(&path, self.max_files)?;
            }
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            // A report that cannot be written is no reason not to run.
            let _ = writeln!(file, "{} the manager starts group \"{group}\"", Timestamp::now());
            Ok(file)
        };
        begin().map_err(|source| Error::file("open", &path, source))
    }

    /// Cuts a report that is full, while its process may be writing.
    pub(crate) fn trim(&self, group: &str) -> Result<(), Error> {
        let path = self.path(group);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() >= self.max_bytes => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("read", &path, error));
            }
            _ => return Ok(()),
        }
        let trim = || {
            let copy = numbered(&path, 0);
            let mut from = OpenOptions::new().read(true).write(true).open(&path)?;
            let mut to =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&copy)?;
            io::copy(&mut from, &mut to)?;
            if self.max_files > 0 {
                rotate_copies(&path, self.max_files)?;
            } else {
                fs::remove_file(&copy)?;
            }
            // Once more what has come meanwhile.
            io::copy(&mut from, &mut to)?;
            from.set_len(0)
        };
        trim().map_err(|source| Error::file("rotate", &path, source))
    }

    /// The last lines of a group's report; empty if it has none.
    pub(crate) fn tail(&self, group: &str, lines: usize) -> Result<String, Error> {
        let path = self.path(group);
        let read = || {
            let mut file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL)))?;
            let mut bytes = Vec::new();
            file.take(MAX_TAIL).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| Error::file("read", &path, source))?;
        let text = String::from_utf8_lossy(&bytes);
        let skip = text.lines().count().saturating_sub(lines);
        Ok(text.lines().skip(skip).map(|line| format!("{line}\n")).collect())
    }
}

/// Makes `path.0` `path.1`, that `path.2`, and so on.
fn rotate_copies(path: &Path, keep: u32) -> io::Result<()> {
    for number in (0..keep).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_while_its_process_writes_and_nothing_grows_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Reports { directory: dir.path().join("report"), max_bytes: 1000, max_files: 2 };
        assert_eq!(reports.tail("g", 5).unwrap(), "");
        reports.trim("g").unwrap();
        let mut file = reports.begin("g").unwrap();
        for number in 0..300 {
            writeln!(file, "line {number}").unwrap();
            reports.trim("g").unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&reports.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["g.log", "g.log.1", "g.log.2"]);
        let all: String = ["g.log.2", "g.log.1", "g.log"]
            .map(|name| fs::read_to_string(reports.directory.join(name)).unwrap())
            .concat();
        // Nobody wrote in between, so what is left has no gap and no hole.
        let numbers: Vec<u32> =
            all.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers.ends_with(&[299]), "{all}");
        assert!(!all.contains('\0') && all.len() <= 3100);
        assert_eq!(reports.tail("g", 1).unwrap(), "line 299\n");
    }

    #[test]
    fn a_start_renames_what_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Reports { directory: dir.path().to_owned(), max_bytes: 100, max_files: 2 };
        fs::write(reports.path("g"), "x".repeat(100)).unwrap();
        reports.begin("g").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("g.log.1")).unwrap().len(), 100);
        assert!(reports.tail("g", 9).unwrap().contains("the manager starts group \"g\""));
    }
}
