//! The rows of a streamed transaction, read where its commit adopts them.

use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Interner, Note};
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, Digest, FileKind, kind};
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::source::Item;
use crate::storage::Storage;

/// One step through a side file.
pub(super) enum Advance {
    Item(Found),
    Note(Note),
    /// It has been read whole and is what its adoption says.
    End,
}

#[derive(Debug)]
pub(super) struct SideCursor {
    records: Records,
    adopt: Adopt,
    relations: FxHashMap<u32, Arc<Relation>>,
    digest: Digest,
    count: u64,
    /// Whose rows follow.
    current: Option<u32>,
    /// The present sub-transaction was aborted.
    aborted: bool,
    place: u64,
}

impl SideCursor {
    pub(super) fn open(storage: &Arc<dyn Storage>, adopt: Adopt) -> Result<Self, Error> {
        let opened = Records::open(storage, &adopt.file, FileKind::Side, adopt.bytes);
        let (records, _) = match opened {
            Err(Error::Io { source, path, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let reason = "the file of a streamed transaction is not there".to_owned();
                return Err(Error::Damaged { file: path, offset: 0, reason });
            }
            other => other?,
        };
        Ok(Self {
            place: 0,
            records,
            adopt,
            relations: FxHashMap::default(),
            digest: Digest::default(),
            count: 0,
            current: None,
            aborted: false,
        })
    }

    /// The file and the start of the record that was passed last.
    pub(super) fn place(&self) -> (&str, u64) {
        (self.records.name(), self.place)
    }

    pub(super) fn subtransaction(&self) -> Option<u32> {
        self.current
    }

    /// The next record.
    #[inline]
    pub(super) fn advance(&mut self, interner: &mut Interner) -> Result<Advance, Error> {
        let found = match self.records.next()? {
            Step::Record(found) => found,
            Step::End if self.is_whole() => return Ok(Advance::End),
            Step::End | Step::Short => {
                let reason = "it is not what the commit that adopts it says";
                return Err(self.records.damaged(self.records.offset(), reason));
            }
            Step::Bad { offset, reason } => return Err(self.records.damaged(offset, reason)),
        };
        self.digest.fold(found.crc);
        self.count += 1;
        self.place = found.offset;
        match found.kind {
            kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE => {
                Ok(if self.aborted { Advance::Note(Note::Passed) } else { Advance::Item(found) })
            }
            _ => self.describe(&found, interner).map(Advance::Note),
        }
    }

    fn describe(&mut self, found: &Found, interner: &mut Interner) -> Result<Note, Error> {
        let body = self.records.body(found);
        let damaged = |malformed: Malformed| self.records.damaged(found.offset, malformed.0);
        Ok(match found.kind {
            kind::SUBTRANSACTION => {
                let xid = body.try_into().map(u32::from_be_bytes);
                let xid = xid.map_err(|_| damaged(Malformed("a sub-transaction without an xid")))?;
                self.aborted = self.adopt.aborted.binary_search(&xid).is_ok();
                self.current = Some(xid);
                Note::Passed
            }
            kind::RELATION => {
                let relation = interner.intern(format::decode_relation(body).map_err(damaged)?);
                self.relations.insert(relation.id, Arc::clone(&relation));
                Note::Relation(relation)
            }
            // Said for those who read ahead; the adoption says all that counts.
            kind::AFTER | kind::ABORTED => Note::Passed,
            kind @ format::KIND_SKIPPABLE.. => Note::Unknown(kind),
            kind if kind::is_readable(kind) => {
                return Err(damaged(Malformed("a record that does not belong there")));
            }
            kind => return Err(self.records.unknown_kind(kind)),
        })
    }

    fn is_whole(&self) -> bool {
        self.records.offset() == self.adopt.bytes
            && self.count == self.adopt.records
            && self.digest.0 == self.adopt.digest
    }

    #[inline]
    pub(super) fn item(&self, found: &Found) -> Result<Item<'_>, Error> {
        super::item(found.kind, self.records.body(found), &self.relations)
            .map_err(|malformed| self.records.damaged(found.offset, malformed.0))
    }
}
