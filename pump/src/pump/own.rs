//! What the trail here says of itself.

use std::sync::Arc;

use irongate_trail::format::FileHeader;
use irongate_trail::{Begins, Mark, Reader, Storage};

use crate::error::Error;
use crate::wire::{History, Place};

/// The trail of this site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    /// Stretches that go on from each other, up to the end.
    pub(crate) histories: Vec<History>,
    pub(crate) end: Mark,
    pub(crate) server_version: u32,
}

impl Facts {
    pub(crate) fn place(&self) -> Place {
        Place { commit: self.end.commit_lsn, resume: self.end.resume_lsn }
    }
}

/// Looks at the trail without reading more than the headers. `epoch` is that of the database.
///
/// # Errors
/// Those of [`irongate_trail::list`] and [`Reader::open`]; [`irongate_trail::Error::Epoch`] when another site has taken over
/// since `epoch`.
pub(crate) fn facts(storage: &Arc<dyn Storage>, epoch: u64) -> Result<Facts, Error> {
    let listing = irongate_trail::list(&**storage)?;
    let Some(end) = listing.durable.filter(|_| !listing.files.is_empty()) else {
        let directory = storage.path("");
        Reader::open(Arc::clone(storage), Begins::First)?;
        return Err(irongate_trail::Error::NotDurable(directory).into());
    };
    let mut headers = Vec::new();
    for file in listing.files.into_iter().filter(|file| file.seqno <= end.position.seqno) {
        match file.header {
            Some(header) => headers.push(header),
            None => {
                // Opening it says what is wrong with it, unless purge has come first.
                Reader::open(Arc::clone(storage), Begins::File(file.seqno))?;
            }
        }
    }
    let Some(last) = headers.last() else {
        return Err(irongate_trail::Error::NotDurable(storage.path("")).into());
    };
    if last.epoch > epoch {
        let (directory, found) = (storage.path(""), last.epoch);
        return Err(irongate_trail::Error::Epoch { directory, found, own: epoch }.into());
    }
    let server_version = last.server_version;
    Ok(Facts { histories: histories(&headers), end, server_version })
}

/// Keeps the trail from being purged behind what a group's targets have: registers the group as a reader, from the beginning
/// on if it is a new one. What it has `acknowledged`, here or in an earlier run.
///
/// # Errors
/// Those of [`facts`] and of the register of readers.
pub(crate) fn hold_back(
    storage: &Arc<dyn Storage>,
    group: &str,
    epoch: u64,
    acknowledged: Mark,
) -> Result<Mark, Error> {
    let readers = irongate_trail::readers(&**storage)?;
    match readers.into_iter().find(|(name, _)| name == group) {
        Some((_, mark)) if mark.position >= acknowledged.position => return Ok(mark),
        Some(_) => {}
        None => {
            facts(storage, epoch)?;
            irongate_trail::register_reader(&**storage, group, &Mark::default())?;
        }
    }
    Ok(acknowledged)
}

/// The stretches from the first file on from which every lineage goes on from the one before.
fn histories(headers: &[FileHeader]) -> Vec<History> {
    let mut found: Vec<History> = Vec::new();
    for header in headers {
        let FileHeader { lineage, previous, resume_lsn: start, .. } = *header;
        match found.last() {
            Some(last) if last.lineage == lineage => continue,
            Some(last) if !lineage.is_promotion_of(&last.lineage) => found.clear(),
            _ => {}
        }
        found.push(History { lineage, previous, start });
    }
    found
}

/// What the file says of itself that is read at present.
pub(crate) fn header(storage: &dyn Storage, seqno: u64) -> Result<Option<FileHeader>, Error> {
    let listing = irongate_trail::list(storage)?;
    Ok(listing.files.into_iter().find(|file| file.seqno == seqno).and_then(|file| file.header))
}
