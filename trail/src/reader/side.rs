//! The rows of a streamed transaction, read where its commit adopts them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Interner, truncate};
use crate::change::Row;
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, Digest, FileKind, kind};
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::source::Item;
use crate::storage::Storage;

#[derive(Debug)]
pub(super) struct SideCursor {
    records: Records,
    adopt: Adopt,
    relations: HashMap<u32, Arc<Relation>>,
    digest: Digest,
    count: u64,
    /// The present sub-transaction was aborted.
    aborted: bool,
}

impl SideCursor {
    pub(super) fn open(storage: &Arc<dyn Storage>, adopt: Adopt) -> Result<Self, Error> {
        let (records, _) = Records::open(storage, &adopt.file, FileKind::Side, adopt.bytes)?;
        Ok(Self {
            records,
            adopt,
            relations: HashMap::new(),
            digest: Digest::default(),
            count: 0,
            aborted: false,
        })
    }

    /// The next change that counts, or `None` when the file has been read whole and is what its adoption says.
    #[inline]
    pub(super) fn advance(
        &mut self,
        storage: &Arc<dyn Storage>,
        interner: &mut Interner,
    ) -> Result<Option<Found>, Error> {
        loop {
            let found = match self.records.next()? {
                Step::Record(found) => found,
                Step::End if self.is_whole() => return Ok(None),
                Step::End | Step::Short => {
                    let reason = "it is not what the commit that adopts it says";
                    return Err(self.records.damaged(self.records.offset(), reason));
                }
                Step::Bad { offset, reason } => return Err(self.records.damaged(offset, reason)),
            };
            self.digest.fold(found.crc);
            self.count += 1;
            let damaged = |malformed: Malformed| Error::Damaged {
                file: storage.path(self.records.name()),
                offset: found.offset,
                reason: malformed.0.to_owned(),
            };
            match found.kind {
                kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE => {
                    if !self.aborted {
                        return Ok(Some(found));
                    }
                }
                kind::SUBTRANSACTION => {
                    let xid = self.records.body(&found).try_into().map(u32::from_be_bytes);
                    let xid = xid.map_err(|_| damaged(Malformed("a sub-transaction without an xid")))?;
                    self.aborted = self.adopt.aborted.binary_search(&xid).is_ok();
                }
                kind::RELATION => {
                    let relation = format::decode_relation(self.records.body(&found)).map_err(damaged)?;
                    self.relations.insert(relation.id, interner.intern(relation));
                }
                format::KIND_SKIPPABLE.. => {}
                _ => return Err(damaged(Malformed("a record that does not belong there"))),
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.records.offset() == self.adopt.bytes
            && self.count == self.adopt.records
            && self.digest.0 == self.adopt.digest
    }

    #[inline]
    pub(super) fn item(&self, found: &Found) -> Result<Item<'_>, Error> {
        let damaged = |malformed: Malformed| self.records.damaged(found.offset, malformed.0);
        let body = self.records.body(found);
        match found.kind {
            kind::TRUNCATE => truncate(body, &self.relations).map_err(damaged),
            kind::MESSAGE => format::decode_message(body).map(Item::Message).map_err(damaged),
            kind => {
                let (relation, tuples) = format::decode_row(body).map_err(damaged)?;
                let unknown = || damaged(Malformed("a row of a table that was not declared"));
                let relation = self.relations.get(&relation).ok_or_else(unknown)?;
                let row = Row::decode(kind, tuples).map_err(damaged)?;
                Ok(Item::Row { relation, row })
            }
        }
    }
}
