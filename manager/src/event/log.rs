//! The event log: one JSON object a line, appended, bounded by rotation.
//!
//! `events.jsonl` is the newest file, `events.jsonl.1` the one before it. A line that a power cut or a full disk has
//! cut off is closed by the next one and skipped by readers. Events that cannot be written are still told to the hook,
//! the log of the process and whoever follows, and the newest stay in memory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Entry;
use crate::error::Error;

/// Events that are kept in memory.
pub(crate) const RECENT: usize = 1000;
/// How much of a file is read for them, in bytes.
const MAX_READ: u64 = 8 << 20;

/// The log. Writes block for as long as the disk takes.
#[derive(Debug)]
pub(crate) struct EventLog {
    path: PathBuf,
    max_bytes: u64,
    max_files: u32,
    file: Option<File>,
    size: u64,
    recent: VecDeque<Entry>,
    /// Events since this log was opened.
    pub(crate) count: u64,
    /// Events that did not reach the file.
    pub(crate) unwritten: u64,
}

impl EventLog {
    /// Opens the log of a directory and reads its newest events. A log that cannot be opened is tried again with each
    /// event.
    pub(crate) fn open(directory: &Path, max_bytes: u64, max_files: u32) -> (Self, Result<(), Error>) {
        let path = directory.join("events.jsonl");
        let recent = read_recent(&path, RECENT).into();
        let mut log =
            Self { path, max_bytes, max_files, file: None, size: 0, recent, count: 0, unwritten: 0 };
        let outcome = log.reopen().map_err(|source| Error::file("open", &log.path, source));
        (log, outcome)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(&self.path)?;
        self.size = file.metadata()?.len();
        if self.size > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                self.size += 1;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Appends an event.
    ///
    /// # Errors
    /// [`Error::File`]. The event is in memory all the same.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(entry.clone());
        self.count += 1;
        self.write(entry).map_err(|source| {
            self.unwritten += 1;
            // The file is looked at anew: the line may be there in part.
            self.file = None;
            Error::file("write", &self.path, source)
        })
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.size > 0 && self.size + line.len() as u64 > self.max_bytes {
            self.file = None;
            rotate(&self.path, self.max_files)?;
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// The newest events, oldest first.
    pub(crate) fn recent(&self, count: usize) -> Vec<Entry> {
        let skip = self.recent.len().saturating_sub(count);
        self.recent.iter().skip(skip).cloned().collect()
    }
}

/// Moves `path` to `path.1`, that to `path.2`, and so on; the last of `keep` goes.
pub(crate) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let ignore_missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if keep == 0 {
        return ignore_missing(fs::remove_file(path));
    }
    for number in (1..keep).rev() {
        ignore_missing(fs::rename(numbered(path, number), numbered(path, number + 1)))?;
    }
    ignore_missing(fs::rename(path, numbered(path, 1)))
}

/// The name of the `number`th file before `path`.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The end of a file, and of nothing that is not a file.
fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_READ)))?;
    let mut bytes = Vec::new();
    file.take(length.min(MAX_READ)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The newest events of the files, as far as they can be read.
fn read_recent(path: &Path, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for file in [numbered(path, 1), path.to_owned()] {
        let Ok(bytes) = read_end(&file) else { continue };
        entries
            .extend(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()));
    }
    let skip = entries.len().saturating_sub(count);
    entries.drain(..skip);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kind, Notice, Severity};

    fn entry(text: &str) -> Entry {
        Entry::now(Notice::new(Severity::Info, Kind::Started, text).of("g"))
    }

    #[test]
    fn the_log_is_bounded_and_the_newest_are_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, opened) = EventLog::open(dir.path(), 1000, 3);
        opened.unwrap();
        for number in 0..200 {
            log.append(&entry(&format!("event {number}"))).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"]);
        for name in names {
            assert!(fs::metadata(dir.path().join(&name)).unwrap().len() <= 1000, "{name}");
        }
        assert_eq!(log.recent(1)[0].notice.text, "event 199");
        let (log, _) = EventLog::open(dir.path(), 1000, 3);
        let recent = log.recent(5);
        assert_eq!(recent.len(), 5);
        assert_eq!(recent[4].notice.text, "event 199");
        assert_eq!(recent[0].notice.text, "event 195");
    }

    #[test]
    fn a_line_that_was_cut_off_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = EventLog::open(dir.path(), 1 << 20, 3);
        log.append(&entry("whole")).unwrap();
        let path = dir.path().join("events.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"time\":\"2026-01-0");
        fs::write(&path, bytes).unwrap();
        let (mut log, _) = EventLog::open(dir.path(), 1 << 20, 3);
        log.append(&entry("after it")).unwrap();
        let (log, _) = EventLog::open(dir.path(), 1 << 20, 3);
        let texts: Vec<_> = log.recent(10).into_iter().map(|entry| entry.notice.text).collect();
        assert_eq!(texts, ["whole", "after it"]);
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_event_is_still_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("events.jsonl")).unwrap();
        let (mut log, _) = EventLog::open(dir.path(), 1 << 20, 3);
        let error = log.append(&entry("unheard")).unwrap_err();
        assert!(error.to_string().contains("events.jsonl"), "{error}");
        assert_eq!((log.unwritten, log.recent(1)[0].notice.text.as_str()), (1, "unheard"));
        fs::remove_file(dir.path().join("events.jsonl")).unwrap();
        log.append(&entry("space is back")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("events.jsonl")).unwrap().lines().count(), 1);
    }
}
