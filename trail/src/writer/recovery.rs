//! Opening a trail again: what was durable is kept, what was torn is cut, what is damaged is said.
//!
//! The durable mark separates the cases. Behind it nothing was acknowledged, so the first bytes that are not a whole
//! transaction end the trail and are cut off. Before it a wrong byte is damage, and cutting would lose acknowledged
//! transactions in silence, so the trail is refused; without a mark every wrong byte counts as damage. One case lies
//! between: bytes before the mark that are simply *gone*, the file being short or its end zero, as a disk leaves it that
//! lied about its syncs. That end is cut and reported; whether the source can still send what is missing is judged by
//! the caller, against the slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Main, Writer, WriterOptions, lock};
use crate::error::Error;
use crate::format::{self, Adopt, CommitRecord, Digest, End, FileHeader, FileKind, Mark, kind, main_name};
use crate::lsn::Position;
use crate::mark::{self, DurableMark};
use crate::records::{Records, Step};
use crate::storage::Storage;

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the trail ends now.
    pub mark: Mark,
    /// Bytes cut off that were no whole transaction.
    pub torn: u64,
    /// The mark had promised more than the disk holds. Transactions between the two may be lost to the trail.
    pub missing_before: Option<Mark>,
}

/// How far one file is sound.
struct Scan {
    header: FileHeader,
    at: Mark,
    transactions: u64,
    sealed: bool,
    adopted: HashSet<String>,
    /// A wrong byte, not merely an early end.
    bad: Option<(u64, String)>,
}

impl Writer {
    /// Opens a trail for writing. Durable on return is everything that [`Recovered::mark`] says. The flow and the lineage
    /// of `options` are replaced by the trail's own; if `expect` is given, the trail must have that lineage.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::InUse`], [`Error::Damaged`], [`Error::Gap`], [`Error::Lineage`],
    /// [`Error::Version`]: the files are then as they were. [`Error::Io`].
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: WriterOptions,
        expect: Option<crate::Lineage>,
    ) -> Result<(Self, Recovered), Error> {
        let lock = lock(&*storage)?;
        let known = mark::durable(&*storage)?;
        let names = storage.list().map_err(Error::io("list", storage.path("")))?;
        let mut seqnos: Vec<u64> = names.iter().filter_map(|name| format::parse_main_name(name)).collect();
        seqnos.sort_unstable();
        if let Some(pair) = seqnos.windows(2).find(|pair| pair[1] != pair[0] + 1) {
            let reason = format!("\"{}\" is followed by \"{}\"", main_name(pair[0]), main_name(pair[1]));
            return Err(Error::Gap { directory: storage.path(""), reason });
        }
        // A file behind the mark whose header never reached the disk holds nothing; the file before it is the last.
        let promised = known.map_or(u64::MAX, |mark| mark.position.seqno);
        let (scan, seqno) = loop {
            let Some(&seqno) = seqnos.last() else { return Err(Error::Missing(storage.path(""))) };
            match scan(&storage, seqno, known.as_ref()) {
                Ok(scan) => break (scan, seqno),
                Err(Error::Damaged { .. }) if seqno > promised && seqnos.len() > 1 => drop(seqnos.pop()),
                Err(error) => return Err(error),
            }
        };
        let lineage = scan.header.lineage;
        if let Some(expected) = expect.filter(|expected| *expected != lineage) {
            let (found, expected) = (Box::new(lineage), Box::new(expected));
            return Err(Error::Lineage { directory: storage.path(""), found, expected });
        }
        if let Some((offset, reason)) = scan.bad
            && known.is_none_or(|mark| Position { seqno, offset } < mark.position)
        {
            return Err(Error::Damaged { file: storage.path(&main_name(seqno)), offset, reason });
        }
        let missing_before = known.filter(|mark| {
            mark.position > scan.at.position
                && (mark.resume_lsn > scan.at.resume_lsn || mark.commit_lsn > scan.at.commit_lsn)
        });

        // From here on the directory is changed: nothing above has refused it.
        for name in names.iter().filter(|name| is_stale(name, seqno, &scan.adopted)) {
            storage.remove(name).map_err(Error::io("remove", storage.path(name)))?;
        }
        options.lineage = lineage;
        options.flow.clone_from(&scan.header.flow);
        let path = || storage.path(&main_name(seqno));
        let file = storage.open(&main_name(seqno), true).map_err(Error::io("open", path()))?;
        let length = file.length().map_err(Error::io("read", path()))?;
        let end = scan.at.position.offset;
        if length > end {
            file.truncate(end).map_err(Error::io("truncate", path()))?;
        }
        let main = Main {
            file,
            seqno,
            buffer: Vec::new(),
            flushed: end,
            declared: HashMap::new(),
            transactions: scan.transactions,
            sealed: scan.sealed,
        };
        let mark = DurableMark::open(&storage)?;
        let mut writer = Self::with(storage, options, mark, main, scan.at, lock);
        // Rewrites the mark too, which may be older than the disk, or newer.
        writer.sync()?;
        let torn = length.saturating_sub(end);
        let recovered = Recovered { mark: writer.durable, torn, missing_before };
        Ok((writer, recovered))
    }
}

/// Files that hold nothing of the trail: main files without a header, side files that no commit adopted, halves of
/// replaced marks.
fn is_stale(name: &str, last: u64, adopted: &HashSet<String>) -> bool {
    format::is_open_side(name)
        || format::parse_main_name(name).is_some_and(|seqno| seqno > last)
        || format::adopter(name).is_some_and(|seqno| seqno >= last && !adopted.contains(name))
        || name.ends_with(".new")
}

/// Reads a file up to its last whole transaction.
fn scan(storage: &Arc<dyn Storage>, seqno: u64, known: Option<&Mark>) -> Result<Scan, Error> {
    let (mut records, header) = Records::open(storage, &main_name(seqno), FileKind::Main, u64::MAX)?;
    let at = Mark {
        position: Position { seqno, offset: records.offset() },
        resume_lsn: header.resume_lsn,
        commit_lsn: header.previous,
        ..Mark::default()
    };
    let mut scan = Scan { header, at, transactions: 0, sealed: false, adopted: HashSet::new(), bad: None };
    let mut open: Option<(Digest, Vec<Adopt>)> = None;
    while !scan.sealed {
        let found = match records.next()? {
            Step::Record(found) => found,
            Step::End | Step::Short => break,
            Step::Bad { offset, reason } => {
                if !records.is_zero_from(offset)? {
                    scan.bad = Some((offset, reason.to_owned()));
                }
                break;
            }
        };
        let end = Position { seqno, offset: records.offset() };
        // A mark vouches for the side files of what lies before it.
        let vouched = known.is_some_and(|mark| mark.position >= end);
        let record = format::Record { kind: found.kind, crc: found.crc, body: records.body(&found) };
        if let Err(reason) = scan.take(storage, record, &mut open, vouched) {
            scan.bad = Some((found.offset, reason));
            break;
        }
        if open.is_none() {
            scan.at.position = end;
        }
    }
    Ok(scan)
}

impl Scan {
    fn take(
        &mut self,
        storage: &Arc<dyn Storage>,
        record: format::Record<'_>,
        open: &mut Option<(Digest, Vec<Adopt>)>,
        vouched: bool,
    ) -> Result<(), String> {
        let layout = |error: crate::Malformed| error.to_string();
        match (record.kind, &mut *open) {
            (kind::BEGIN, None) => {
                format::decode_begin(record.body).map_err(layout)?;
                *open = Some((Digest::default(), Vec::new()));
            }
            (kind::COMMIT, Some((digest, sides))) => {
                let CommitRecord { commit, digest: expected } =
                    format::decode(record.body).map_err(layout)?;
                if expected != digest.0 {
                    return Err("the transaction's digest is wrong".to_owned());
                }
                if let Some(side) = sides.iter().find(|side| !vouched && !is_whole(storage, side)) {
                    return Err(format!("the side file \"{}\" is not whole", side.file));
                }
                self.adopted.extend(sides.drain(..).map(|side| side.file));
                self.at.resume_lsn = self.at.resume_lsn.max(commit.end_lsn);
                self.at.commit_lsn = commit.commit_lsn;
                self.at.commit_time = commit.commit_time;
                self.transactions += 1;
                *open = None;
            }
            (kind, Some((digest, sides))) => {
                digest.fold(record.crc);
                if kind == kind::ADOPT {
                    sides.push(format::decode(record.body).map_err(layout)?);
                }
            }
            (kind::PROGRESS, None) => {
                let progress = format::decode_progress(record.body).map_err(layout)?;
                self.at.resume_lsn = self.at.resume_lsn.max(progress.resume_lsn);
            }
            (kind::END, None) => {
                format::decode::<End>(record.body).map_err(layout)?;
                self.sealed = true;
            }
            (kind::MESSAGE | format::KIND_SKIPPABLE.., None) => {}
            (_, None) => return Err("a record outside a transaction".to_owned()),
        }
        Ok(())
    }
}

/// Whether a side file holds everything its adoption says.
fn is_whole(storage: &Arc<dyn Storage>, adopt: &Adopt) -> bool {
    let Ok((mut records, _)) = Records::open(storage, &adopt.file, FileKind::Side, adopt.bytes) else {
        return false;
    };
    let (mut digest, mut count) = (Digest::default(), 0);
    while let Ok(Step::Record(found)) = records.next() {
        digest.fold(found.crc);
        count += 1;
    }
    records.offset() == adopt.bytes && count == adopt.records && digest.0 == adopt.digest
}
