//! Reading what is appended before it is durable. [`crate::appended`] argues why what comes of it can be told from what a
//! power cut took back.
//!
//! Only within the file that the durable mark stands in: the next one may be removed and made anew by the writer's recovery.

use super::Reader;
use crate::appended;
use crate::error::Error;
use crate::format::Told;
use crate::lsn::Position;

/// What has become of what was read early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Early {
    /// It is durable, as it was read.
    Durable,
    /// Not yet.
    Pending,
    /// There is no telling whether what was read is what will be durable. The reader is of no use.
    Lost,
}

impl Reader {
    /// Where everything durable has been read, and the writer has appended a little more: allows [`Reader::next`] to return
    /// that, too, and says up to where it goes. From then on nothing else is returned until [`Reader::early`] says that it is
    /// durable. Not up to a place that is not behind `beyond`.
    pub fn go_early(&mut self, beyond: Position) -> Option<Position> {
        if self.early.is_some() || self.view.is_none() || self.sealed || self.hold.is_held() {
            return self.early.map(|told| told.position);
        }
        let told = appended::read(&*self.storage)?;
        let (durable, position) = (self.mark.position, told.position);
        if self.reached() != durable || position.seqno != durable.seqno || position <= durable.max(beyond) {
            return None;
        }
        self.main.extend(position.offset);
        self.early = Some(told);
        Some(position)
    }

    /// What has become of what was read early; durable if nothing was.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn early(&mut self) -> Result<Early, Error> {
        let (Some(Told { writing, position }), Some(view)) = (self.early, &mut self.view) else {
            return Ok(Early::Durable);
        };
        // The mark first: whoever writes the trail anew takes another number before he moves it.
        let mark = view.read()?;
        if appended::read(&*self.storage).is_none_or(|told| told.writing != writing) {
            return Ok(Early::Lost);
        }
        match mark.filter(|mark| mark.position >= position) {
            Some(_) => {
                self.early = None;
                // The mark is taken note of where it is looked for next.
                Ok(Early::Durable)
            }
            None => Ok(Early::Pending),
        }
    }
}
