//! How far the files of a trail are sound, found out without changing anything: for the writer that opens it again, and
//! for whoever reads a trail that nobody writes.
//!
//! Files are examined from the one that the durable mark stands in, because everything before is vouched for, to the
//! first place that is not whole. What lies behind the mark may be torn in any way: a file may be missing between two
//! others, a later one may be sound while an earlier one is not. Only an unbroken chain counts: each file sealed before
//! the next, each transaction naming the one before it.
//!
//! The mark separates the cases. Behind it nothing was acknowledged, so the first bytes that are not a whole
//! transaction end the trail. Before it a wrong byte is damage, and to end there would lose acknowledged transactions in
//! silence; without a mark every wrong byte counts as damage. One case lies between: bytes before the mark that are
//! simply *gone*, the file being short or its end zero, as a disk leaves it that lied about its syncs. The trail ends
//! there too, and it is said.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Error;
use crate::format::{self, Adopt, CommitRecord, Digest, End, FileHeader, FileKind, Mark, kind, main_name};
use crate::lsn::{CommitLsn, Position};
use crate::reader::main_files;
use crate::records::{self, Records, Step};
use crate::storage::Storage;

/// Bytes that are not what was written, though somebody relies on them.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) reason: String,
}

/// Bytes of one file that nobody has vouched for yet.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) file: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// How far a trail is sound.
#[derive(Debug)]
pub(crate) struct Survey {
    /// What the last file says of itself.
    pub(crate) header: FileHeader,
    /// The place behind the last whole transaction or progress record; its file is the last.
    pub(crate) end: Mark,
    /// Transactions in the last file.
    pub(crate) transactions: u64,
    /// The last file has its end record.
    pub(crate) sealed: bool,
    /// The first file examined.
    pub(crate) first: u64,
    /// Side files that the examined files adopt.
    pub(crate) adopted: HashSet<String>,
    /// What a sync has yet to vouch for.
    pub(crate) pending: Vec<Stretch>,
    /// The first wrong byte that counts.
    pub(crate) damage: Option<Damage>,
}

/// How the reading of a file stopped.
enum Stop {
    /// At its end record.
    Sealed,
    /// Where nothing follows, or only the beginning of a record.
    Early(u64),
    /// Where only zeros follow.
    Zeros,
    /// At a wrong byte.
    Bad(u64, String),
}

/// How far one file is sound.
struct Scan {
    seqno: u64,
    at: Mark,
    transactions: u64,
    adopted: Vec<String>,
    pending: Vec<Stretch>,
}

/// Examines a trail. `known` is its durable mark.
///
/// # Errors
/// [`Error::Missing`], [`Error::Gap`], [`Error::Version`], [`Error::Io`]; [`Error::Damaged`] when the header of the first
/// file to examine cannot be read.
pub(crate) fn survey(storage: &Arc<dyn Storage>, known: Option<&Mark>) -> Result<Survey, Error> {
    let seqnos = main_files(&**storage)?;
    let promised = known.map_or(u64::MAX, |mark| mark.position.seqno);
    let chain = unbroken(&**storage, &seqnos, promised)?;
    let begin = match known {
        Some(mark) => chain.partition_point(|seqno| *seqno < mark.position.seqno).min(chain.len() - 1),
        None => 0,
    };
    let mut survey = match from(storage, &chain[begin..], known)? {
        Some(survey) => survey,
        // The file that the mark stands in is gone but for its name.
        None if begin > 0 => from(storage, &chain[begin - 1..begin], known)?
            .ok_or_else(|| unreadable(&**storage, chain[begin - 1]))?,
        None if known.is_none() && chain == [1] => return Err(Error::Missing(storage.path(""))),
        None => return Err(unreadable(&**storage, chain[begin])),
    };
    // The mark also knows what the last file does not say while it holds no transaction.
    if let Some(known) = known.filter(|known| known.commit_lsn == survey.end.commit_lsn) {
        survey.end.commit_time = known.commit_time;
    }
    Ok(survey)
}

fn unreadable(storage: &dyn Storage, seqno: u64) -> Error {
    let file = storage.path(&main_name(seqno));
    Error::Damaged { file, offset: 0, reason: "the header ends early".to_owned() }
}

/// The files up to the first hole. A hole before the mark is a gap.
fn unbroken<'a>(storage: &dyn Storage, seqnos: &'a [u64], promised: u64) -> Result<&'a [u64], Error> {
    if seqnos.is_empty() {
        return Err(Error::Missing(storage.path("")));
    }
    let Some(hole) = seqnos.windows(2).position(|pair| pair[1] != pair[0] + 1) else { return Ok(seqnos) };
    let (before, after) = (seqnos[hole], seqnos[hole + 1]);
    if before < promised {
        let reason = format!("\"{}\" is followed by \"{}\"", main_name(before), main_name(after));
        return Err(Error::Gap { directory: storage.path(""), reason });
    }
    Ok(&seqnos[..=hole])
}

/// Examines the files `seqnos`, which follow each other. `None` if the header of the first never came to be.
fn from(storage: &Arc<dyn Storage>, seqnos: &[u64], known: Option<&Mark>) -> Result<Option<Survey>, Error> {
    let mut survey: Option<Survey> = None;
    for &seqno in seqnos {
        let is_last = seqnos.last() == Some(&seqno);
        let name = main_name(seqno);
        let opened = Records::open(storage, &name, FileKind::Main, u64::MAX);
        let wrong = match (&opened, &survey) {
            (Ok((_, header)), _) if header.seqno != seqno => "it is another file of the trail".to_owned(),
            (Ok((_, header)), Some(before)) if !continues(header, before) => {
                "it does not follow the file before it".to_owned()
            }
            (Err(Error::Damaged { reason, .. }), _) => reason.clone(),
            _ => String::new(),
        };
        if !wrong.is_empty() {
            // Behind the mark it never was part of the trail; without a mark only a header that is not there is no damage.
            let behind = survey.is_some() && known.is_some();
            let promised = known.filter(|mark| mark.position.seqno == seqno);
            let promised = promised.map(|mark| mark.position.offset);
            let gone = opened.is_err()
                && records::is_blank(&**storage, &name, promised)?
                && (is_last || (survey.is_none() && known.is_some()));
            return match survey {
                survey if behind || gone => Ok(survey),
                Some(survey) => {
                    let damage = Some(Damage { file: name, offset: 0, reason: wrong });
                    Ok(Some(Survey { damage, ..survey }))
                }
                None => Err(Error::Damaged { file: storage.path(&name), offset: 0, reason: wrong }),
            };
        }
        let (records, header) = opened?;
        let length = records.length()?;
        let mut scan = Scan::new(seqno, records.offset(), &header);
        let stop = scan.run(storage, records, known)?;
        let damage = scan.judge(&stop, length, known, is_last);
        let damage = damage.map(|(offset, reason)| Damage { file: name.clone(), offset, reason });

        let from = known.filter(|mark| mark.position.seqno == seqno).map_or(0, |mark| mark.position.offset);
        if from < scan.at.position.offset {
            scan.pending.push(Stretch { file: name, from, to: scan.at.position.offset });
        }
        let next = survey.get_or_insert_with(|| Survey {
            header: header.clone(),
            end: scan.at,
            transactions: 0,
            sealed: false,
            first: seqno,
            adopted: HashSet::new(),
            pending: Vec::new(),
            damage: None,
        });
        (next.header, next.end, next.transactions) = (header, scan.at, scan.transactions);
        next.sealed = matches!(stop, Stop::Sealed);
        next.adopted.extend(scan.adopted);
        next.pending.append(&mut scan.pending);
        next.damage = damage;
        if !next.sealed || next.damage.is_some() {
            break;
        }
    }
    Ok(survey)
}

fn continues(header: &FileHeader, before: &Survey) -> bool {
    let expected =
        if header.lineage == before.header.lineage { before.end.commit_lsn } else { CommitLsn::default() };
    header.previous == expected
}

/// The transaction that is being read: what its records add up to, and its commit.
struct Open {
    digest: Digest,
    commit: CommitLsn,
    sides: Vec<Adopt>,
}

impl Scan {
    fn new(seqno: u64, offset: u64, header: &FileHeader) -> Self {
        let at = Mark {
            position: Position { seqno, offset },
            resume_lsn: header.resume_lsn,
            commit_lsn: header.previous,
            ..Mark::default()
        };
        Self { seqno, at, transactions: 0, adopted: Vec::new(), pending: Vec::new() }
    }

    /// Reads the file up to its last whole transaction.
    fn run(
        &mut self,
        storage: &Arc<dyn Storage>,
        mut records: Records,
        known: Option<&Mark>,
    ) -> Result<Stop, Error> {
        let mut open = None;
        loop {
            let found = match records.next()? {
                Step::Record(found) => found,
                Step::End => return Ok(Stop::Early(records.offset())),
                Step::Short | Step::Bad { .. } if records.ends_in_zeros()? => return Ok(Stop::Zeros),
                Step::Short => return Ok(Stop::Early(records.offset())),
                Step::Bad { offset, reason } => return Ok(Stop::Bad(offset, reason.to_owned())),
            };
            if !kind::is_readable(found.kind) {
                return Err(records.unknown_kind(found.kind));
            }
            let end = Position { seqno: self.seqno, offset: records.offset() };
            // The mark vouches for the side files of what lies before it.
            let vouched = known.is_some_and(|mark| mark.position >= end);
            let record = format::Record { kind: found.kind, crc: found.crc, body: records.body(&found) };
            match self.take(storage, record, &mut open, vouched)? {
                Ok(_) if open.is_some() => {}
                Ok(sealed) => {
                    self.at.position = end;
                    if sealed {
                        return Ok(Stop::Sealed);
                    }
                }
                Err(reason) => return Ok(Stop::Bad(found.offset, reason)),
            }
        }
    }

    /// Whether the place where reading stopped is damage, by what was promised.
    fn judge(&self, stop: &Stop, length: u64, known: Option<&Mark>, is_last: bool) -> Option<(u64, String)> {
        let seqno = self.seqno;
        let Some(mark) = known else {
            return match stop {
                Stop::Bad(offset, reason) => Some((*offset, reason.clone())),
                Stop::Early(offset) if !is_last => Some((*offset, "the file ends early".to_owned())),
                Stop::Zeros if !is_last => {
                    Some((self.at.position.offset, "the file ends in zeros".to_owned()))
                }
                _ => None,
            };
        };
        if self.at.position >= mark.position {
            return None;
        }
        let in_this_file = mark.position.seqno == seqno;
        match stop {
            Stop::Bad(offset, reason) => Some((*offset, reason.clone())),
            // Bytes that are there are not gone: a length, say, is not what was written.
            Stop::Early(offset) if in_this_file && length >= mark.position.offset => {
                Some((*offset, "the record is longer than the file".to_owned()))
            }
            Stop::Sealed if in_this_file => {
                Some((self.at.position.offset, "the file goes on behind its end record".to_owned()))
            }
            _ => None,
        }
    }

    /// Takes in a record; true if it is the last of the file.
    fn take(
        &mut self,
        storage: &Arc<dyn Storage>,
        record: format::Record<'_>,
        open: &mut Option<Open>,
        vouched: bool,
    ) -> Result<Result<bool, String>, Error> {
        if record.kind == kind::COMMIT
            && !vouched
            && let Some(transaction) = open
        {
            for side in &transaction.sides {
                if !is_whole(storage, side)? {
                    return Ok(Err(format!("the side file \"{}\" is not whole", side.file)));
                }
                self.pending.push(Stretch { file: side.file.clone(), from: 0, to: side.bytes });
            }
        }
        Ok(self.fold(record, open))
    }

    fn fold(&mut self, record: format::Record<'_>, open: &mut Option<Open>) -> Result<bool, String> {
        let layout = |error: crate::Malformed| error.to_string();
        match (record.kind, &mut *open) {
            (kind::BEGIN, None) => {
                let begin = format::decode_begin(record.body).map_err(layout)?;
                if begin.previous != self.at.commit_lsn {
                    return Err("the transaction does not follow the one before it".to_owned());
                }
                *open = Some(Open { digest: Digest::default(), commit: begin.commit_lsn, sides: Vec::new() });
            }
            (kind::COMMIT, Some(transaction)) => {
                let CommitRecord { commit, digest } = format::decode(record.body).map_err(layout)?;
                if digest != transaction.digest.0 || commit.commit_lsn != transaction.commit {
                    return Err("the transaction's digest is wrong".to_owned());
                }
                self.adopted.extend(transaction.sides.drain(..).map(|side| side.file));
                self.at.resume_lsn = self.at.resume_lsn.max(commit.end_lsn);
                self.at.commit_lsn = commit.commit_lsn;
                self.at.commit_time = commit.commit_time;
                self.transactions += 1;
                *open = None;
            }
            (kind::BEGIN | kind::PROGRESS | kind::END | kind::SUBTRANSACTION, Some(_)) => {
                return Err("a record that does not belong in a transaction".to_owned());
            }
            (kind, Some(transaction)) => {
                transaction.digest.fold(record.crc);
                if kind == kind::ADOPT {
                    transaction.sides.push(format::decode(record.body).map_err(layout)?);
                }
            }
            (kind::PROGRESS, None) => {
                let progress = format::decode_progress(record.body).map_err(layout)?;
                self.at.resume_lsn = self.at.resume_lsn.max(progress.resume_lsn);
            }
            (kind::END, None) => {
                let end: End = format::decode(record.body).map_err(layout)?;
                if end.previous != self.at.commit_lsn || end.transactions != self.transactions {
                    return Err("the end record is not about this file".to_owned());
                }
                return Ok(true);
            }
            (kind::MESSAGE, None) => {
                if format::decode_message(record.body).map_err(layout)?.transactional {
                    return Err("a transactional message outside a transaction".to_owned());
                }
            }
            (format::KIND_SKIPPABLE.., None) => {}
            (_, None) => return Err("a record outside a transaction".to_owned()),
        }
        Ok(false)
    }
}

/// Whether a side file holds everything its adoption says.
pub(crate) fn is_whole(storage: &Arc<dyn Storage>, adopt: &Adopt) -> Result<bool, Error> {
    let mut records = match Records::open(storage, &adopt.file, FileKind::Side, adopt.bytes) {
        Ok((records, _)) => records,
        Err(Error::Damaged { .. }) => return Ok(false),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (mut digest, mut count) = (Digest::default(), 0);
    while let Step::Record(found) = records.next()? {
        digest.fold(found.crc);
        count += 1;
    }
    Ok(records.offset() == adopt.bytes && count == adopt.records && digest.0 == adopt.digest)
}
