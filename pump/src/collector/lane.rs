//! One flow's trail at the receiving site, and what a record does to it.
//!
//! A lane outlives connections: when the link is cut the writer stays as it is, the unfinished transaction in it, and the
//! next connection goes on there. When the process ends, the trail's own recovery cuts the unfinished transaction off and the
//! pump sends it again. After an error of the trail the writer is dropped, so that the next connection takes the disk's word
//! for what is there, and not memory's.

use std::sync::Arc;

use irongate_trail::{
    Begins, CommitLsn, Item, Lsn, Malformed, Mark, Reader, Relation, Storage, Writer, WriterOptions,
};
use rustc_hash::FxHashMap;

use super::admission::Own;
use crate::wire::{Accepted, Content, Found, Held, Hello, History, Place, Record};

/// Why a record cannot be taken.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The trail cannot be written.
    Trail(irongate_trail::Error),
    /// It cannot stand there.
    Misplaced(Malformed),
    /// The transaction is not what was sent.
    Digest(CommitLsn),
}

impl From<irongate_trail::Error> for Trouble {
    fn from(error: irongate_trail::Error) -> Self {
        Self::Trail(error)
    }
}

fn misplaced<T>(what: &'static str) -> Result<T, Trouble> {
    Err(Trouble::Misplaced(Malformed(what)))
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// It is part of a transaction, or a description.
    Inside,
    /// It ends something that is acknowledged once it is durable.
    Boundary,
}

/// What has been written since the lane was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) transactions: u64,
    pub(crate) inserts: u64,
    pub(crate) updates: u64,
    pub(crate) deletes: u64,
    pub(crate) truncates: u64,
    pub(crate) messages: u64,
}

/// Tables that the pump has described on this connection, each with the checksum of its description.
#[derive(Default, Debug)]
pub(crate) struct Tables(FxHashMap<u32, (Arc<Relation>, u32)>);

/// A transaction that has begun and not ended.
#[derive(Debug)]
struct Open {
    commit: CommitLsn,
    changes: u64,
    content: Content,
}

/// A trail that is open for writing.
#[derive(Debug)]
pub(crate) struct Trail {
    pub(crate) writer: Writer,
    open: Option<Open>,
    /// The last message outside a transaction behind the last commit or progress.
    last_message: Lsn,
    pub(crate) counts: Counts,
}

/// A flow's trail, open or not.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) trail: Option<Trail>,
}

/// Opens the trail, if there is one. Blocks.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    flow: &str,
    file_size: u64,
) -> Result<Option<Trail>, irongate_trail::Error> {
    let listing = irongate_trail::list(&**storage)?;
    // The trail's epoch follows the pump's, so it is opened in its own.
    let epoch = listing.epoch().unwrap_or(1);
    let options = WriterOptions { epoch, file_size, ..WriterOptions::new(flow, Default::default()) };
    let (writer, recovered) = match Writer::open(Arc::clone(storage), options, None) {
        Err(irongate_trail::Error::Missing(_)) => return Ok(None),
        other => other?,
    };
    if recovered.torn > 0 {
        tracing::info!(flow, bytes = recovered.torn, "an unfinished end of the trail was cut off");
    }
    if let Some(promised) = recovered.missing_before {
        tracing::warn!(
            flow, promised = %promised.resume_lsn, found = %recovered.mark.resume_lsn,
            "the disk lost the end of the trail although it had been synced; it is sent again"
        );
    }
    let last_message = last_message(storage, &writer)?;
    Ok(Some(Trail { writer, open: None, last_message, counts: Counts::default() }))
}

/// The last message that stands behind the last commit and progress.
fn last_message(storage: &Arc<dyn Storage>, writer: &Writer) -> Result<Lsn, irongate_trail::Error> {
    let Mark { commit_lsn: commit, resume_lsn: resume, .. } = writer.appended();
    let open = |commit| {
        let begins = Begins::After { lineage: writer.lineage(), commit, resume };
        Reader::open(Arc::clone(storage), begins)
    };
    // From the file of the commit itself: the last one that follows it may hold no message, and one before it some.
    let mut reader = match commit.0.0.checked_sub(1).map(|before| open(CommitLsn(Lsn(before)))) {
        None | Some(Err(irongate_trail::Error::NotInTrail { .. })) => open(commit)?,
        Some(other) => other?,
    };
    let mut last = Lsn::ZERO;
    while let Some(item) = reader.next()? {
        if let Item::Message(message) = item {
            last = last.max(message.lsn);
        }
    }
    Ok(last)
}

/// Makes a new trail that begins as the pump's does. Blocks.
pub(crate) fn create(
    storage: &Arc<dyn Storage>,
    hello: &Hello,
    from: &History,
    file_size: u64,
) -> Result<Trail, irongate_trail::Error> {
    let options = WriterOptions {
        epoch: 1,
        server_version: hello.server_version,
        file_size,
        ..WriterOptions::new(&hello.flow, from.lineage)
    };
    let writer = Writer::create(Arc::clone(storage), options, from.start)?;
    Ok(Trail { writer, open: None, last_message: Lsn::ZERO, counts: Counts::default() })
}

impl Trail {
    /// What the admission of a pump looks at.
    pub(crate) fn own(&self) -> Own {
        let Mark { commit_lsn: commit, resume_lsn: resume, .. } = self.writer.appended();
        Own { lineage: self.writer.lineage(), epoch: self.writer.epoch(), place: Place { commit, resume } }
    }

    /// What the pump is told.
    pub(crate) fn accepted(&self) -> Accepted {
        let Own { lineage, epoch, place } = self.own();
        let held = self.open.as_ref().map(|open| Held {
            commit: open.commit,
            changes: open.changes,
            digest: open.content.value(),
        });
        Accepted { lineage, epoch, place, last_message: self.last_message, held }
    }

    /// Goes on with another history, from its beginning. Durable on return. Blocks.
    pub(crate) fn begin_anew(
        &mut self,
        from: &History,
        server_version: u32,
    ) -> Result<(), irongate_trail::Error> {
        self.rollback()?;
        self.writer.set_server_version(server_version);
        self.writer.begin_lineage(from.lineage, from.start)?;
        self.writer.sync()?;
        self.last_message = Lsn::ZERO;
        Ok(())
    }

    /// Takes back the unfinished transaction, if there is one.
    pub(crate) fn rollback(&mut self) -> Result<(), irongate_trail::Error> {
        self.open = None;
        self.writer.rollback()
    }

    /// Appends a record.
    pub(crate) fn apply(&mut self, tables: &mut Tables, found: &Found<'_>) -> Result<Applied, Trouble> {
        match &found.record {
            Record::Row { relation, operation, tuples } => {
                self.change(tables, std::slice::from_ref(relation), found)?;
                self.writer.row(*relation, *operation, tuples)?;
                match operation {
                    b'I' => self.counts.inserts += 1,
                    b'U' => self.counts.updates += 1,
                    _ => self.counts.deletes += 1,
                }
            }
            Record::Relation(relation) => {
                let described = (Arc::new(relation.clone()), crc32c::crc32c(found.bytes));
                tables.0.insert(relation.id, described);
            }
            Record::Truncate(truncate) => {
                self.change(tables, &truncate.relations, found)?;
                self.writer.truncate(truncate)?;
                self.counts.truncates += 1;
            }
            Record::Message(message) if self.open.is_some() => {
                self.change(tables, &[], found)?;
                self.writer.message(message)?;
                self.counts.messages += 1;
            }
            _ => return self.bracket(found),
        }
        Ok(Applied::Inside)
    }

    /// Counts a change and declares its tables.
    #[inline]
    fn change(&mut self, tables: &Tables, relations: &[u32], found: &Found<'_>) -> Result<(), Trouble> {
        let Some(open) = &mut self.open else { return misplaced("a change outside a transaction") };
        for relation in relations {
            let Some((relation, crc)) = tables.0.get(relation) else {
                return misplaced("a change of a table that was not described");
            };
            if open.content.relation(*crc) {
                self.writer.relation(relation)?;
            }
        }
        open.content.record(found.digested());
        open.changes += 1;
        Ok(())
    }

    /// Takes what begins, ends or stands between transactions.
    fn bracket(&mut self, found: &Found<'_>) -> Result<Applied, Trouble> {
        match &found.record {
            Record::Continue(held) => {
                if self.accepted().held != Some(*held) {
                    return misplaced("an unfinished transaction goes on that is not held here");
                }
                return Ok(Applied::Inside);
            }
            Record::Commit { commit, digest } => {
                let Some(mut open) = self.open.take() else {
                    return misplaced("a commit outside a transaction");
                };
                open.content.record(found.digested());
                let whole = (open.commit, open.changes, open.content.value());
                if whole != (commit.commit_lsn, commit.changes, *digest) {
                    return Err(Trouble::Digest(commit.commit_lsn));
                }
                self.writer.commit(commit)?;
                self.last_message = Lsn::ZERO;
                self.counts.transactions += 1;
                return Ok(Applied::Boundary);
            }
            _ => {}
        }
        if self.open.is_some() {
            // The pump has another transaction at this place than the one that was cut off, or none.
            self.rollback()?;
        }
        let appended = self.writer.appended();
        match &found.record {
            Record::Begin(begin) => {
                if begin.commit_lsn <= appended.commit_lsn {
                    return misplaced("a transaction that is here already");
                }
                self.writer.begin(begin)?;
                let mut content = Content::default();
                content.record(found.digested());
                self.open = Some(Open { commit: begin.commit_lsn, changes: 0, content });
                return Ok(Applied::Inside);
            }
            Record::Progress(progress) => {
                self.writer.progress(progress)?;
                if progress.resume_lsn > appended.resume_lsn {
                    self.last_message = Lsn::ZERO;
                }
            }
            Record::Message(message) if message.transactional => {
                return misplaced("a transactional message outside a transaction");
            }
            Record::Message(message) => {
                self.writer.message(message)?;
                self.last_message = message.lsn;
                self.counts.messages += 1;
            }
            Record::Lineage { lineage, start, .. } => {
                if !lineage.is_promotion_of(&self.writer.lineage()) {
                    return misplaced("a lineage that does not go on from the one before");
                }
                self.writer.begin_lineage(*lineage, *start)?;
                self.last_message = Lsn::ZERO;
            }
            Record::Epoch(epoch) => {
                if *epoch <= self.writer.epoch() {
                    return misplaced("an epoch that is over");
                }
                self.writer.begin_epoch(*epoch)?;
            }
            _ => return misplaced("a record that does not belong there"),
        }
        Ok(Applied::Boundary)
    }
}

#[cfg(test)]
mod tests;
