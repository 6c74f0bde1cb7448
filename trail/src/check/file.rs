//! One main file.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Before, Check, CheckedFile, Severity};
use crate::change::Row;
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, CommitRecord, Digest, End, FileHeader, FileKind, kind, main_name};
use crate::lsn::{CommitLsn, Position, Timestamp};
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::transaction::Begin;

/// Relations declared so far, by OID.
pub(super) type Declared = FxHashMap<u32, Arc<Relation>>;

/// A transaction under way.
struct Open {
    digest: Digest,
    commit: CommitLsn,
    time: Timestamp,
    changes: u64,
    /// Something in it is wrong, so that it cannot add up.
    broken: bool,
}

/// A main file under way.
struct Walk {
    seqno: u64,
    name: String,
    file: CheckedFile,
    at: Before,
    declared: Declared,
    open: Option<Open>,
    /// A record was passed over: what follows is unknown until the next transaction begins.
    lost: bool,
}

impl Check<'_> {
    /// Checks the main file `seqno` and how it follows the one before.
    pub(super) fn file(&mut self, seqno: u64) -> Result<CheckedFile, Error> {
        let name = main_name(seqno);
        let opened = Records::open(self.storage, &name, FileKind::Main, u64::MAX);
        let mut file = CheckedFile {
            name: name.clone(),
            seqno,
            header: None,
            bytes: 0,
            records: 0,
            transactions: 0,
            changes: 0,
            sides: 0,
            side_bytes: 0,
            sealed: false,
            first: None,
            last: None,
        };
        let (mut records, header) = match opened {
            Ok(opened) => opened,
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => {
                let reason = match error {
                    Error::Damaged { reason, .. } => reason,
                    Error::Version { what, .. } => format!("it has {what}, which this release cannot read"),
                    other => other.to_string(),
                };
                self.wrong(seqno, 0, reason);
                let unknown = |before: Before| Before { seqno, unknown: true, ..before };
                self.before = self.before.map(unknown);
                return Ok(file);
            }
        };
        file.bytes = records.length()?;
        file.header = Some(header.clone());
        self.follows(seqno, &header);
        let at = Before {
            seqno,
            lineage: header.lineage,
            commit: header.previous,
            resume: header.resume_lsn,
            sealed: false,
            unknown: false,
        };
        let (declared, open) = (Declared::default(), None);
        let mut walk = Walk { seqno, name, file, at, declared, open, lost: false };
        self.boundary(&walk, records.offset());
        self.walk(&mut walk, &mut records)?;
        if !walk.file.sealed && seqno != self.last && !walk.lost {
            self.wrong(
                seqno,
                records.offset(),
                "the file ends without an end record, though another follows it",
            );
        }
        walk.at.unknown |= walk.lost;
        walk.at.sealed = walk.file.sealed;
        self.before = Some(walk.at);
        Ok(walk.file)
    }

    fn follows(&mut self, seqno: u64, header: &FileHeader) {
        if header.seqno != seqno {
            self.wrong(seqno, 0, format!("its header says that it is file {}", header.seqno));
        }
        let Some(before) = self.before else { return };
        if before.seqno + 1 != seqno {
            // Where somebody vouched for this file, those before it are missed.
            self.wrong(
                seqno,
                0,
                format!("the file before it is file {}, those between are missing", before.seqno),
            );
            return;
        }
        if before.unknown {
            return;
        }
        let same = header.lineage == before.lineage;
        let expected = if same { before.commit } else { CommitLsn::default() };
        if header.previous != expected {
            let reason =
                format!("it follows commit {}, but the last commit before it is {expected}", header.previous);
            self.wrong(seqno, 0, reason);
        } else if same && header.resume_lsn != before.resume {
            let reason = format!(
                "it resumes at {}, but the file before it ends at {}",
                header.resume_lsn, before.resume
            );
            self.wrong(seqno, 0, reason);
        }
    }

    /// Takes note of a place between two transactions.
    fn boundary(&mut self, walk: &Walk, offset: u64) {
        let place = Position { seqno: walk.seqno, offset };
        self.end = self.end.max(place);
        if self.durable.is_some_and(|mark| mark.position == place) {
            self.at_mark = Some((walk.at.commit, walk.at.resume));
        }
    }

    fn walk(&mut self, walk: &mut Walk, records: &mut Records) -> Result<(), Error> {
        loop {
            let offset = records.offset();
            match records.next()? {
                Step::Record(found) => {
                    walk.file.records += 1;
                    let end = records.offset();
                    let result = self.take(walk, found.kind, found.crc, records.body(&found), &found)?;
                    if let Err(reason) = result {
                        walk.broken();
                        self.wrong(walk.seqno, offset, reason);
                    }
                    if walk.open.is_none() && !walk.lost {
                        self.boundary(walk, end);
                    }
                    if walk.file.sealed {
                        if end < walk.file.bytes && !self.being_written {
                            let reason = "bytes behind the end record, which nobody reads";
                            self.find(Severity::Orphan, &walk.name, end, reason);
                        }
                        return Ok(());
                    }
                }
                Step::End => {
                    if walk.open.is_some() {
                        self.cut_short(walk.seqno, offset, "the file ends within a transaction");
                    }
                    return Ok(());
                }
                Step::Short | Step::Bad { .. } if records.ends_in_zeros()? => {
                    self.cut_short(walk.seqno, offset, "there are only zeros from here to the end");
                    return Ok(());
                }
                Step::Short => {
                    self.cut_short(walk.seqno, offset, "the file ends within a record");
                    return Ok(());
                }
                Step::Bad { offset, reason } => {
                    self.wrong(walk.seqno, offset, reason);
                    walk.broken();
                    walk.lost |= walk.open.is_none();
                    if !records.pass_over()? {
                        walk.lost = true;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The end of a file that is not whole. Without a mark that is the torn end of the trail, if it is the last file.
    fn cut_short(&mut self, seqno: u64, offset: u64, reason: &str) {
        if self.durable.is_none() && seqno == self.last {
            self.find(Severity::Torn, &main_name(seqno), offset, reason);
        } else {
            self.wrong(seqno, offset, reason);
        }
    }

    /// Takes in a sound record; the inner error says why it does not belong there.
    fn take(
        &mut self,
        walk: &mut Walk,
        kind: u8,
        crc: u32,
        body: &[u8],
        found: &Found,
    ) -> Result<Result<(), String>, Error> {
        if !kind::is_readable(kind) {
            return Ok(Err(format!("a record of kind {kind:#04x}, which this release cannot read")));
        }
        let is_commit = kind == kind::COMMIT;
        if let Some(open) = walk.open.as_mut().filter(|_| !is_commit) {
            open.digest.fold(crc);
        }
        if kind == kind::ADOPT && walk.open.is_some() {
            let adopt: Adopt = match format::decode(body) {
                Ok(adopt) => adopt,
                Err(malformed) => return Ok(Err(malformed.to_string())),
            };
            let changes = self.side(walk.seqno, found.offset, &adopt)?;
            walk.file.sides += 1;
            walk.file.side_bytes += adopt.bytes;
            if let Some(open) = &mut walk.open {
                open.changes += changes.unwrap_or_default();
                open.broken |= changes.is_none();
            }
            return Ok(Ok(()));
        }
        Ok(walk.take(kind, body))
    }
}

impl Walk {
    /// Something of the present transaction is wrong.
    fn broken(&mut self) {
        if let Some(open) = &mut self.open {
            open.broken = true;
        }
    }

    fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), String> {
        let layout = |malformed: Malformed| malformed.to_string();
        match (kind, &mut self.open) {
            (kind::BEGIN, open) => {
                let begin = format::decode_begin(body).map_err(layout)?;
                let nested = open.is_some();
                let follows = begin.previous == self.at.commit;
                self.begin(&begin);
                if std::mem::take(&mut self.lost) {
                    return Ok(());
                }
                if nested {
                    return Err("a transaction begins within another".to_owned());
                }
                if !follows {
                    return Err(format!(
                        "commit {} follows {}, but the commit before it is {}",
                        begin.commit_lsn, begin.previous, self.at.commit
                    ));
                }
            }
            (kind::COMMIT, open @ Some(_)) => {
                let Some(open) = open.take() else { return Ok(()) };
                return self.commit(body, &open);
            }
            (kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE, Some(open)) => {
                open.changes += 1;
                check_change(kind, body, &self.declared)?;
            }
            (kind::MESSAGE, open) => {
                let message = format::decode_message(body).map_err(layout)?;
                match open {
                    Some(open) => open.changes += 1,
                    None if message.transactional && !self.lost => {
                        return Err("a transactional message outside a transaction".to_owned());
                    }
                    None => {}
                }
            }
            (kind::RELATION, Some(_)) => {
                let relation = format::decode_relation(body).map_err(layout)?;
                self.declared.insert(relation.id, Arc::new(relation));
            }
            (kind::PROGRESS, None) => {
                let progress = format::decode_progress(body).map_err(layout)?;
                self.at.resume = self.at.resume.max(progress.resume_lsn);
            }
            (kind::END, None) => {
                self.file.sealed = true;
                let end: End = format::decode(body).map_err(layout)?;
                let lost = self.lost || self.at.unknown;
                if !lost && end.previous != self.at.commit {
                    return Err(format!(
                        "the end record says that the last commit is {}, but it is {}",
                        end.previous, self.at.commit
                    ));
                }
                if !lost && end.transactions != self.file.transactions {
                    return Err(format!(
                        "the end record counts {} transactions, but there are {}",
                        end.transactions, self.file.transactions
                    ));
                }
            }
            (format::KIND_SKIPPABLE.., _) => {}
            _ if self.lost => {}
            _ => return Err("a record that does not belong there".to_owned()),
        }
        Ok(())
    }

    fn begin(&mut self, begin: &Begin) {
        self.at.commit = begin.previous;
        self.open = Some(Open {
            digest: Digest::default(),
            commit: begin.commit_lsn,
            time: begin.commit_time,
            changes: 0,
            broken: false,
        });
    }

    fn commit(&mut self, body: &[u8], open: &Open) -> Result<(), String> {
        let CommitRecord { commit, digest } =
            format::decode(body).map_err(|malformed: Malformed| malformed.to_string())?;
        self.at.commit = commit.commit_lsn;
        self.at.resume = self.at.resume.max(commit.end_lsn);
        self.file.transactions += 1;
        self.file.changes += commit.changes;
        self.file.first.get_or_insert((commit.commit_lsn, commit.commit_time));
        self.file.last = Some((commit.commit_lsn, commit.commit_time));
        if open.broken {
            return Ok(());
        }
        if digest != open.digest.0 {
            return Err("the transaction's digest is wrong".to_owned());
        }
        if (commit.commit_lsn, commit.commit_time) != (open.commit, open.time) {
            return Err("the transaction begins as another one than it ends".to_owned());
        }
        if commit.changes != open.changes {
            return Err(format!(
                "the transaction counts {} changes, but there are {}",
                commit.changes, open.changes
            ));
        }
        Ok(())
    }
}

/// Checks a row or a truncate, apart from its checksum.
pub(super) fn check_change(kind: u8, body: &[u8], declared: &Declared) -> Result<(), String> {
    let layout = |malformed: Malformed| malformed.to_string();
    if kind == kind::TRUNCATE {
        let truncate = format::decode_truncate(body).map_err(layout)?;
        return match truncate.relations.iter().all(|relation| declared.contains_key(relation)) {
            true => Ok(()),
            false => Err("a truncate of a table that was not declared".to_owned()),
        };
    }
    let (relation, tuples) = format::decode_row(body).map_err(layout)?;
    let relation = declared.get(&relation).ok_or("a row of a table that was not declared")?;
    let row = Row::decode(kind, tuples).map_err(layout)?;
    let old = row.old().map(crate::Old::tuple);
    if [old, row.new()].into_iter().flatten().any(|tuple| tuple.len() != relation.columns.len()) {
        return Err("a row with another number of columns than its table".to_owned());
    }
    Ok(())
}
