//! Reads the rows of a streamed transaction ahead of its commit, from the side file that is still being written.
//!
//! What is read so may never count: the source can roll the transaction back, Extract can begin it anew, a power cut can
//! take the bytes. Whoever uses it holds it back until the commit has come, durable, in the main file, and then calls
//! [`SideReader::expect`]. [`Item::Commit`] is returned only after that, and only if the file is the one that was
//! adopted and every record of it, as it was *read here*, adds up to the length, the count and the digest that the
//! adoption says.
//!
//! *What comes before.* A row may rest on every transaction that was committed at the source before the row was made: it
//! may change a row that such a one has inserted. The source sends that one's commit before the row, and the writer notes
//! in the side file which commit was the last before the records that follow. Nothing behind such a note is returned
//! before the reader has been [told](SideReader::allow) that the commit is applied; what stands before the first note waits
//! for that of the first. What is committed later and stands
//! before this transaction in the trail cannot concern the same rows, which it holds locked until it ends; except those
//! of a sub-transaction that was rolled back, which is one of the [unusual](SideReader::unusual) things.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Interner;
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, Digest, FileHeader, FileKind, Mark, kind};
use crate::lsn::{CommitLsn, Lineage, Lsn, Position};
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::source::{Item, Source};
use crate::storage::Storage;
use crate::transaction::{Begin, Commit};

/// How often a file that grows is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A transaction that is being streamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSide {
    /// The name of its file.
    pub name: String,
    /// Its xid at the source.
    pub xid: u32,
    /// Bytes in the file by now.
    pub bytes: u64,
}

/// The transactions that are being streamed into a trail, or were when its writer was lost, in no order.
///
/// # Errors
/// [`Error::Missing`], [`Error::Io`].
pub fn open_sides(storage: &dyn Storage) -> Result<Vec<OpenSide>, Error> {
    let mut sides = Vec::new();
    for name in crate::list::names(storage)? {
        let Some(xid) = format::open_side_xid(&name) else { continue };
        match storage.open(&name, false).and_then(|file| file.length()) {
            Ok(bytes) => sides.push(OpenSide { name, xid, bytes }),
            // It was adopted or dropped just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("open", storage.path(&name))(error)),
        }
    }
    Ok(sides)
}

/// What has become of the file that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// The transaction is still open, as far as anybody has said.
    Open,
    /// Its commit has adopted the file.
    Adopted,
    /// The file is gone: the transaction was rolled back, or Extract has lost its connection.
    Dropped,
}

/// Reads one open side file.
#[derive(Debug)]
pub struct SideReader {
    storage: Arc<dyn Storage>,
    side: OpenSide,
    header: FileHeader,
    records: Records,
    interner: Interner,
    relations: FxHashMap<u32, Arc<Relation>>,
    digest: Digest,
    count: u64,
    changes: u64,
    /// The commit that must be applied before what follows.
    after: CommitLsn,
    applied: CommitLsn,
    expected: Option<(Adopt, Commit)>,
    begun: bool,
    ended: bool,
    unusual: Option<&'static str>,
}

impl SideReader {
    /// Opens the file; `None` if it is there no more, or not so much of it that anything could be read ahead.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`], [`Error::Io`].
    pub fn open(storage: Arc<dyn Storage>, side: OpenSide) -> Result<Option<Self>, Error> {
        if side.bytes < format::HEADER_START as u64 {
            return Ok(None);
        }
        let open = || match Records::open(&storage, &side.name, FileKind::Side, u64::MAX) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        };
        let (Some((mut looking, _)), Some((records, header))) = (open()?, open()?) else { return Ok(None) };
        let Some(after) = first_note(&mut looking)? else { return Ok(None) };
        Ok(Some(Self {
            storage,
            side,
            header,
            records,
            interner: Interner::default(),
            relations: FxHashMap::default(),
            digest: Digest::default(),
            count: 0,
            changes: 0,
            after,
            applied: CommitLsn::default(),
            expected: None,
            begun: false,
            ended: false,
            unusual: None,
        }))
    }

    /// The xid of the transaction.
    pub fn xid(&self) -> u32 {
        self.side.xid
    }

    /// Changes that were returned.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes of the file that were read.
    pub fn bytes(&self) -> u64 {
        self.records.offset()
    }

    /// Everything up to this commit is applied.
    pub fn allow(&mut self, applied: CommitLsn) {
        self.applied = self.applied.max(applied);
    }

    /// Whether there is more, which has to wait for a commit before it.
    pub fn waits(&self) -> bool {
        self.after > self.applied
    }

    /// What is in the transaction that nobody should apply ahead, if anything is. Nothing is returned from there on.
    pub fn unusual(&self) -> Option<&'static str> {
        self.unusual
    }

    /// What has become of the file.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    pub fn presence(&self) -> Result<Presence, Error> {
        // One listing may miss a file that is being renamed, under both its names: so the later name is looked for later.
        let is_there = |is: &dyn Fn(&str) -> bool| {
            crate::list::names(&*self.storage).map(|names| names.iter().any(|name| is(name)))
        };
        Ok(if is_there(&|name| name == self.side.name)? {
            Presence::Open
        } else if is_there(&|name| format::is_adopted_from(name, &self.side.name))? {
            Presence::Adopted
        } else {
            Presence::Dropped
        })
    }

    /// The commit has come. What is left is read up to where the adoption says that it ends.
    pub fn expect(&mut self, adopt: Adopt, commit: Commit) {
        if !format::is_adopted_from(&adopt.file, &self.side.name) {
            self.unusual = Some("its commit has adopted another file");
        } else if !adopt.aborted.is_empty() {
            self.unusual = Some("a part of it was rolled back to a savepoint");
        }
        self.expected = Some((adopt, commit));
    }

    /// The next change that is not an item: what it says is noted.
    fn describe(&mut self, found: &Found) -> Result<(), Error> {
        let body = self.records.body(found);
        let damaged = |reason: &'static str| self.records.damaged(found.offset, reason);
        match found.kind {
            kind::AFTER => self.after = note(body).map_err(|Malformed(reason)| damaged(reason))?,
            kind::ABORTED => self.unusual = Some("a part of it was rolled back to a savepoint"),
            kind::RELATION => {
                let relation = format::decode_relation(body).map_err(|Malformed(reason)| damaged(reason))?;
                let relation = self.interner.intern(relation);
                if self.relations.insert(relation.id, relation).is_some() {
                    self.unusual = Some("it has changed a table's structure");
                }
            }
            kind::TRUNCATE => self.unusual = Some("it has a TRUNCATE"),
            kind::MESSAGE => self.unusual = Some("it has a logical message"),
            kind::SUBTRANSACTION | format::KIND_SKIPPABLE.. => {}
            kind if kind::is_readable(kind) => return Err(damaged("a record that does not belong there")),
            kind => return Err(self.records.unknown_kind(kind)),
        }
        Ok(())
    }

    /// The next row, by where it lies.
    fn row(&mut self) -> Result<Option<Found>, Error> {
        loop {
            let at = self.records.offset();
            let ends_at = self.expected.as_ref().map(|(adopt, _)| adopt.bytes);
            if self.unusual.is_some() || self.waits() || ends_at.is_some_and(|end| at >= end) {
                return Ok(None);
            }
            let found = match self.records.next()? {
                Step::Record(found) => found,
                Step::End | Step::Short if ends_at.is_none() => return Ok(None),
                Step::End | Step::Short => {
                    return Err(self.records.damaged(at, "it is not what the commit that adopts it says"));
                }
                Step::Bad { offset, reason } => return Err(self.records.damaged(offset, reason)),
            };
            self.digest.fold(found.crc);
            self.count += 1;
            if matches!(found.kind, kind::INSERT | kind::UPDATE | kind::DELETE) {
                self.changes += 1;
                return Ok(Some(found));
            }
            self.describe(&found)?;
        }
    }

    /// The commit, if everything before it was read and is what the adoption says.
    fn end(&mut self) -> Result<Option<Commit>, Error> {
        let at = self.records.offset();
        let Some((adopt, commit)) = &self.expected else { return Ok(None) };
        if self.unusual.is_some() || at < adopt.bytes {
            return Ok(None);
        }
        let is_whole = at == adopt.bytes && self.count == adopt.records && self.digest.0 == adopt.digest;
        if !is_whole || self.changes != commit.changes {
            return Err(self.records.damaged(at, "it is not what the commit that adopts it says"));
        }
        self.ended = true;
        Ok(Some(*commit))
    }
}

fn note(body: &[u8]) -> Result<CommitLsn, Malformed> {
    let lsn = body.try_into().map(u64::from_be_bytes).map_err(|_| Malformed("a note without a commit"))?;
    Ok(CommitLsn(Lsn(lsn)))
}

/// What the first note of a file says, if one is there.
fn first_note(records: &mut Records) -> Result<Option<CommitLsn>, Error> {
    loop {
        match records.next()? {
            Step::Record(found) if found.kind == kind::AFTER => {
                let damaged = |Malformed(reason)| records.damaged(found.offset, reason);
                return note(records.body(&found)).map(Some).map_err(damaged);
            }
            Step::Record(_) => {}
            Step::End | Step::Short => return Ok(None),
            Step::Bad { offset, reason } => return Err(records.damaged(offset, reason)),
        }
    }
}

impl Source for SideReader {
    fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        if self.ended {
            return Ok(None);
        }
        if !self.begun {
            self.begun = true;
            // When and where it commits is not known yet.
            return Ok(Some(Item::Begin(Begin {
                xid: self.side.xid,
                commit_lsn: CommitLsn::default(),
                commit_time: Default::default(),
                origin: None,
                previous: CommitLsn::default(),
            })));
        }
        let Some(found) = self.row()? else { return Ok(self.end()?.map(Item::Commit)) };
        let item = super::item(found.kind, self.records.body(&found), &self.relations);
        item.map(Some).map_err(|Malformed(reason)| self.records.damaged(found.offset, reason))
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn lineage(&self) -> Lineage {
        self.header.lineage
    }

    fn epoch(&self) -> u64 {
        self.header.epoch
    }

    fn place(&self) -> std::path::PathBuf {
        self.storage.path(&self.side.name)
    }

    fn durable(&self) -> Mark {
        Mark::default()
    }

    async fn wait(&mut self) -> Result<(), Error> {
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}
