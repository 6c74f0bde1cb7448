//! Stopping before a streamed transaction whose rows somebody has read ahead.
//!
//! The reader stops between its begin and the record that adopts its file, and keeps the place of the latter in its buffer.
//! So a hold that is taken back costs nothing, and the transaction is then read as any other.

use super::{Advance, Reader};
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, kind};
use crate::records::Found;
use crate::source::Item;
use crate::transaction::{Begin, Commit};

/// What is to be held, and what is.
#[derive(Debug, Default)]
pub(super) struct Hold {
    xid: Option<u32>,
    held: Option<(Begin, Adopt)>,
    /// A record that was read and not looked at.
    next: Option<Found>,
}

impl Hold {
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn is_for(&self, begin: &Begin) -> bool {
        self.xid == Some(begin.xid)
    }

    /// The begin of what is held, if it need not be held any more.
    pub(super) fn release(&mut self) -> Option<Advance> {
        let (begin, _) = self.held.take_if(|(begin, _)| self.xid != Some(begin.xid))?;
        Some(Advance::Item(Item::Begin(begin)))
    }

    #[inline]
    pub(super) fn take(&mut self) -> Option<Found> {
        self.next.take()
    }
}

impl Reader {
    /// Stops before the transaction of this xid, if it was streamed before its commit; `None` holds nothing.
    pub fn hold(&mut self, xid: Option<u32>) {
        self.hold.xid = xid;
    }

    /// How the rows of the transaction are adopted that is held.
    pub fn held(&self) -> Option<&Adopt> {
        self.hold.held.as_ref().map(|(_, adopt)| adopt)
    }

    /// Passes over the transaction that is held and returns its commit; `None` if there is none or it has rows in the
    /// main file too, and then the reader must be opened anew. Its side file is not looked at.
    ///
    /// # Errors
    /// As for [`Reader::next`].
    pub fn pass(&mut self) -> Result<Option<Commit>, Error> {
        if self.hold.held.take().is_none() {
            return Ok(None);
        }
        self.hold.next = None;
        while let Some(found) = self.step()? {
            match found.kind {
                kind::COMMIT => {
                    return Ok(match self.bracket(&found)? {
                        Advance::Item(Item::Commit(commit)) => Some(commit),
                        _ => None,
                    });
                }
                format::KIND_SKIPPABLE.. => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Holds the transaction that has begun, if a side file has its rows.
    pub(super) fn hold_before(&mut self, begin: Begin) -> Result<Option<Advance>, Error> {
        if let Some(found) = self.step()? {
            if found.kind == kind::ADOPT {
                let adopt = format::decode(self.main.body(&found));
                let adopt = adopt.map_err(|Malformed(reason)| self.main.damaged(found.offset, reason))?;
                (self.hold.held, self.hold.next) = (Some((begin, adopt)), Some(found));
                return Ok(None);
            }
            self.hold.next = Some(found);
        }
        Ok(Some(Advance::Item(Item::Begin(begin))))
    }
}
