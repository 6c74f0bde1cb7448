//! The lost site's own trail, read without touching it: what was trailed and never shipped is confirmed, and so gone from
//! the slot. This is the only place that still has it.
//!
//! Files are opened for reading only, and nothing is recovered. What vouches for a transaction is what vouches for it in
//! Replicat: its checksums, its digest, and that it follows the one before. A place that is damaged ends the reading of its
//! file; the next file, which names the commit that it follows and where the source resumes, is sound by itself. What lies
//! between is a hole with two known ends.

use std::path::Path;
use std::sync::Arc;

use irongate_trail::{
    Begins, CommitLsn, Directory, Error as TrailError, Item, Lineage, Listing, Lsn, Reader, ResumeLsn,
    Storage,
};

use super::intake::{Event, Intake, Raw};
use super::problem::Problem;

/// A trail that is looked into.
#[derive(Debug)]
pub(super) struct Trail {
    storage: Arc<dyn Storage>,
    listing: Listing,
}

/// Where reading is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    /// Everything before it is known.
    pub(super) reached: Lsn,
    /// The last transaction that was seen.
    pub(super) last: CommitLsn,
}

/// How a stretch of a trail ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stretch {
    /// With the last whole transaction that there is.
    End,
    /// At a place that is damaged. With the next file that can be read, and where it begins.
    Broken { why: String, next: Option<(u64, Lsn)> },
}

impl Trail {
    /// Looks into a trail; `None` if there is none.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, Problem> {
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
        let listing = match irongate_trail::list(&*storage) {
            Err(TrailError::Missing(_)) => return Ok(None),
            listing => listing?,
        };
        if listing.is_being_written {
            return Err(TrailError::InUse(directory.to_owned()).into());
        }
        Ok((!listing.files.is_empty()).then_some(Self { storage, listing }))
    }

    /// Whose LSNs its end holds.
    pub(super) fn lineage(&self) -> Option<Lineage> {
        self.listing.files.iter().rev().find_map(|file| Some(file.header.as_ref()?.lineage))
    }

    /// The file to begin with so as to find everything from a place on, and where that file begins, if that is behind the
    /// place: what is before was purged, or is lost.
    pub(super) fn begin(&self, from: Lsn) -> Option<(u64, Option<Lsn>)> {
        let starts = self.listing.files.iter().filter_map(|file| Some((file.seqno, file.header.as_ref()?)));
        let before = starts.clone().rfind(|(_, header)| header.resume_lsn.0 <= from);
        match before {
            Some((seqno, _)) => Some((seqno, None)),
            None => starts.clone().next().map(|(seqno, header)| (seqno, Some(header.resume_lsn.0))),
        }
    }

    /// The next file behind `seqno` whose header can be read.
    fn next(&self, seqno: u64) -> Option<(u64, Lsn)> {
        let files = self.listing.files.iter().filter(|file| file.seqno > seqno);
        files.filter_map(|file| Some((file.seqno, file.header.as_ref()?.resume_lsn.0))).next()
    }

    /// Opens the trail at a file.
    pub(super) fn read(&self, seqno: u64) -> Result<Reading<'_>, Stretch> {
        match Reader::open_to_the_end(Arc::clone(&self.storage), Begins::File(seqno)) {
            Ok(reader) => Ok(Reading { trail: self, reader, wanted: false }),
            Err(error) => Err(self.broken(seqno, &error)),
        }
    }

    fn broken(&self, seqno: u64, error: &TrailError) -> Stretch {
        Stretch::Broken { why: error.to_string(), next: self.next(seqno) }
    }
}

/// A trail that is being read.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    trail: &'a Trail,
    reader: Reader,
    wanted: bool,
}

impl Reading<'_> {
    /// Reads on until the intake is full, or to the end. Transactions that were committed before `from` are passed over.
    pub(super) fn advance(&mut self, from: Lsn, at: &mut At, intake: &mut Intake) -> Option<Stretch> {
        while !intake.is_full() {
            let seqno = self.reader.position().seqno;
            match self.reader.next() {
                Ok(Some(item)) => match item {
                    Item::Begin(begin) => {
                        self.wanted = begin.commit_lsn.0 >= from;
                        if self.wanted {
                            intake.push(Event::Begin(begin));
                        }
                    }
                    Item::Row { relation, row } if self.wanted => intake.change(Raw::row(relation, &row)),
                    Item::Truncate { relations, .. } if self.wanted => {
                        intake.change(Raw::truncate(relations))
                    }
                    Item::Commit(commit) => {
                        if self.wanted {
                            intake.push(Event::Commit(commit));
                        }
                        (at.reached, at.last) = (at.reached.max(commit.end_lsn.0), commit.commit_lsn);
                    }
                    Item::Progress(progress) => at.reached = at.reached.max(progress.resume_lsn.0),
                    Item::Row { .. } | Item::Truncate { .. } | Item::Message(_) => {}
                },
                Ok(None) => {
                    // What came before the last file is in those before it.
                    at.reached = at.reached.max(self.reader.header().resume_lsn.0);
                    return Some(Stretch::End);
                }
                Err(error) => {
                    intake.push(Event::Abandon);
                    return Some(self.trail.broken(seqno, &error));
                }
            }
        }
        None
    }

    /// Bytes behind the last whole transaction that are none.
    pub(super) fn torn(&self) -> Option<String> {
        let end = self.reader.position();
        let file = self.trail.listing.files.iter().find(|file| file.seqno == end.seqno)?;
        let bytes = file.bytes.saturating_sub(end.offset);
        (bytes > 0 && !file.sealed).then(|| {
            format!(
                "{bytes} bytes of \"{}\" behind offset {} are no whole transaction",
                file.name, end.offset
            )
        })
    }
}

/// The first place from which a source needs to be read so as to go on behind `at`.
pub(super) fn resume(at: &At) -> ResumeLsn {
    ResumeLsn(at.reached)
}
