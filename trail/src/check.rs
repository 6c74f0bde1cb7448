//! The whole integrity check of a trail: every byte of every file, and how the files follow each other. Changes nothing,
//! and can run beside the writer: what lies behind the durable mark is judged leniently, because it is being written.
//!
//! Damage does not end it: a record that is wrong is passed over where a sound one follows, and the next file is
//! checked in any case, so that all that is wrong is found at once.

mod file;
mod side;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, FileHeader, Mark, main_name};
use crate::lsn::{CommitLsn, Lineage, Position, ResumeLsn, Timestamp};
use crate::mark::{self, DURABLE};
use crate::reader::main_files;
use crate::storage::Storage;

/// So many findings are listed; more are counted.
pub const MAX_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Nobody needs it: a file that belongs to nothing any more, bytes that nobody reads.
    Orphan,
    /// Behind what anybody vouched for; the writer cuts it off when it opens the trail.
    Torn,
    /// Something that was vouched for is not there, or is not what was written.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

/// What a main file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedFile {
    /// Its name in the directory.
    pub name: String,
    /// Its number.
    pub seqno: u64,
    /// What it says of itself, if that can be read.
    pub header: Option<FileHeader>,
    /// Its length.
    pub bytes: u64,
    /// Sound records in it.
    pub records: u64,
    /// Whole transactions in it.
    pub transactions: u64,
    /// What they changed: rows, truncates and messages.
    pub changes: u64,
    /// Side files that it adopts.
    pub sides: u64,
    /// Their length together.
    pub side_bytes: u64,
    /// It has its end record.
    pub sealed: bool,
    /// The first commit in it, and when it was, by the source's clock.
    pub first: Option<(CommitLsn, Timestamp)>,
    /// The last one.
    pub last: Option<(CommitLsn, Timestamp)>,
}

/// What a check has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The main files, in order.
    pub files: Vec<CheckedFile>,
    /// What is not as it should be, in the order of files and offsets as far as they have one.
    pub findings: Vec<Finding>,
    /// Findings beyond the [`MAX_FINDINGS`] that are listed.
    pub not_listed: u64,
    /// How far the trail was durable when the check began.
    pub durable: Option<Mark>,
    /// The registered readers and how far they were.
    pub readers: Vec<(String, Mark)>,
    /// The lineages of the trail and the files they begin with.
    pub lineages: Vec<(u64, Lineage)>,
    /// A writer held the trail when the check began.
    pub is_being_written: bool,
}

impl Report {
    /// Whether nothing that was vouched for is missing or wrong.
    pub fn is_sound(&self) -> bool {
        self.not_listed == 0 && self.findings.iter().all(|finding| finding.severity < Severity::Damaged)
    }

    /// Whole transactions in all files.
    pub fn transactions(&self) -> u64 {
        self.files.iter().map(|file| file.transactions).sum()
    }

    /// Bytes of all files, side files too.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes + file.side_bytes).sum()
    }
}

/// How the files before end.
#[derive(Clone, Copy, Debug)]
struct Before {
    seqno: u64,
    lineage: Lineage,
    commit: CommitLsn,
    resume: ResumeLsn,
    sealed: bool,
    /// The end of the file before could not be made out: nothing that follows can be held against it.
    unknown: bool,
}

/// A check under way.
struct Check<'a> {
    storage: &'a Arc<dyn Storage>,
    durable: Option<Mark>,
    being_written: bool,
    last: u64,
    findings: Vec<Finding>,
    not_listed: u64,
    adopted: HashSet<String>,
    before: Option<Before>,
    /// What the trail says at the place of the mark.
    at_mark: Option<(CommitLsn, ResumeLsn)>,
    /// Where it ends.
    end: Position,
}

impl Check<'_> {
    /// Whether somebody relies on what lies at a place. Without a mark everything counts.
    fn is_vouched(&self, seqno: u64, offset: u64) -> bool {
        self.durable.is_none_or(|mark| Position { seqno, offset } < mark.position)
    }

    fn find(&mut self, severity: Severity, file: &str, offset: u64, reason: impl Into<String>) {
        // What is being written at this moment is no finding.
        if severity == Severity::Torn && self.being_written {
            return;
        }
        if self.findings.len() < MAX_FINDINGS {
            let (file, reason) = (file.to_owned(), reason.into());
            self.findings.push(Finding { severity, file, offset, reason });
        } else {
            self.not_listed += 1;
        }
    }

    /// Something wrong at a place of a main file.
    fn wrong(&mut self, seqno: u64, offset: u64, reason: impl Into<String>) {
        let severity = if self.is_vouched(seqno, offset) { Severity::Damaged } else { Severity::Torn };
        self.find(severity, &main_name(seqno), offset, reason);
    }
}

/// Checks a trail. `each` is called after each main file, for whoever shows how far it is.
///
/// # Errors
/// [`Error::Missing`] when there is no trail, [`Error::Io`]. What is wrong with the trail is no error but a finding.
pub fn check(storage: &Arc<dyn Storage>, mut each: impl FnMut(&CheckedFile)) -> Result<Report, Error> {
    let is_being_written = storage.is_locked().map_err(Error::io("lock", storage.path("lock")))?;
    // In this order, so that no reader is before the mark and the mark not behind the files.
    let readers = mark::readers(&**storage)?;
    let durable = mark::durable(&**storage)?;
    let seqnos = main_files(&**storage)?;
    let Some(&last) = seqnos.last() else { return Err(Error::Missing(storage.path(""))) };
    let mut check = Check {
        storage,
        durable,
        being_written: is_being_written,
        last,
        findings: Vec::new(),
        not_listed: 0,
        adopted: HashSet::new(),
        before: None,
        at_mark: None,
        end: Position::default(),
    };
    let (mut files, mut lineages) = (Vec::new(), Vec::new());
    for &seqno in &seqnos {
        let file = match check.file(seqno) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // Purge has come first; what is gone in the middle shows as a hole.
                continue;
            }
            other => other?,
        };
        if let Some(header) = &file.header
            && lineages.last().is_none_or(|(_, lineage)| *lineage != header.lineage)
        {
            lineages.push((seqno, header.lineage));
        }
        each(&file);
        files.push(file);
    }
    check.mark();
    for (name, mark) in &readers {
        check.reader(name, mark, &seqnos);
    }
    check.leftovers(&seqnos)?;
    let Check { findings, not_listed, .. } = check;
    Ok(Report { files, findings, not_listed, durable, readers, lineages, is_being_written })
}

impl Check<'_> {
    /// Compares the mark with what the files say where it stands.
    fn mark(&mut self) {
        let Some(mark) = self.durable else {
            return self.find(
                Severity::Torn,
                DURABLE,
                0,
                "there is no durable mark: nobody vouches for the end of the trail",
            );
        };
        let reason = match self.at_mark {
            Some((commit, resume)) if commit == mark.commit_lsn && resume == mark.resume_lsn => return,
            Some((commit, resume)) => format!(
                "it says that the last commit before {} is {} and that the source resumes at {}, but that is {commit} and {resume}",
                mark.position, mark.commit_lsn, mark.resume_lsn
            ),
            None if mark.position > self.end => {
                format!(
                    "it vouches for everything before {}, but the trail ends at {}",
                    mark.position, self.end
                )
            }
            None => format!("it stands at {}, which is not between two transactions", mark.position),
        };
        // Where the way to the mark is damaged, that has been said.
        let explained = |finding: &Finding| {
            finding.severity == Severity::Damaged
                && format::parse_main_name(&finding.file).is_some_and(|seqno| seqno == mark.position.seqno)
        };
        if !self.findings.iter().any(explained) {
            self.find(Severity::Damaged, DURABLE, 0, reason);
        }
    }

    fn reader(&mut self, name: &str, mark: &Mark, seqnos: &[u64]) {
        let file = mark::reader_name(name);
        let first = seqnos.first().copied().unwrap_or(1);
        if mark.position == Position::default() {
            // At the very beginning, wherever that is.
        } else if mark.position.seqno < first {
            let reason = format!("it stands at {}, but the trail begins with file {first}", mark.position);
            self.find(Severity::Damaged, &file, 0, reason);
        } else if self.durable.is_some_and(|durable| mark.position > durable.position) {
            let reason = format!("it stands at {}, behind the end of the trail", mark.position);
            self.find(Severity::Orphan, &file, 0, reason);
        }
    }

    /// Side files that belong to no transaction.
    fn leftovers(&mut self, seqnos: &[u64]) -> Result<(), Error> {
        let storage = self.storage;
        let mut names = crate::list::names(&**storage)?;
        names.sort_unstable();
        let newest = self.durable.map_or(self.last, |mark| mark.position.seqno);
        for name in names {
            let reason = if format::is_open_side(&name) {
                "a transaction that was being streamed when its writer ended"
            } else if let Some(seqno) = format::adopter(&name) {
                // The writer gives a side file its name before the commit that adopts it.
                if self.adopted.contains(&name) || (self.being_written && seqno >= newest) {
                    continue;
                }
                if seqnos.contains(&seqno) {
                    "no commit adopts it"
                } else {
                    "the file that adopted it is gone"
                }
            } else {
                continue;
            };
            if !(self.being_written && format::is_open_side(&name)) {
                self.find(Severity::Orphan, &name, 0, reason);
            }
        }
        Ok(())
    }
}
