//! Opening a trail again: what was durable is kept, what was torn is cut, what is damaged is said.
//!
//! What counts is found out by [`crate::survey`], without changing anything. What it found whole behind the mark is then
//! *written once more* before it is synced and vouched for: after a failed sync the system may hold bytes in its cache,
//! as if written, that never reached the disk, and a second sync would say nothing of them.

use std::sync::Arc;

use super::{Main, Writer, WriterOptions, lock};
use crate::error::Error;
use crate::format::{self, Mark, main_name};
use crate::mark::{self, DurableMark};
use crate::reader::main_files;
use crate::storage::{Storage, read_full_at};
use crate::survey::{Stretch, Survey, survey};

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

impl Writer {
    /// Opens a trail for writing. Durable on return is everything that [`Recovered::mark`] says. The flow and the lineage
    /// of `options` are replaced by the trail's own, and the server's version if it is 0; if `expect` is given, the trail must have that lineage. If the
    /// epoch of `options` is later than the trail's, a new file is begun in it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::InUse`], [`Error::Damaged`], [`Error::Gap`], [`Error::Lineage`], [`Error::Epoch`],
    /// [`Error::Version`]: the files are then as they were. [`Error::Io`].
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: WriterOptions,
        expect: Option<crate::Lineage>,
    ) -> Result<(Self, Recovered), Error> {
        let directory = || storage.path("");
        let lock = lock(&*storage)?;
        let known = mark::durable(&*storage)?;
        let survey = survey(&storage, known.as_ref())?;
        if let Some(damage) = survey.damage {
            let file = storage.path(&damage.file);
            return Err(Error::Damaged { file, offset: damage.offset, reason: damage.reason });
        }
        let lineage = survey.header.lineage;
        if let Some(expected) = expect.filter(|expected| *expected != lineage) {
            let (found, expected) = (Box::new(lineage), Box::new(expected));
            return Err(Error::Lineage { directory: directory(), found, expected });
        }
        let (found, own) = (survey.header.epoch, options.epoch);
        if own < found {
            return Err(Error::Epoch { directory: directory(), found, own });
        }
        let missing_before = known.filter(|mark| {
            mark.position > survey.end.position
                && (mark.resume_lsn > survey.end.resume_lsn || mark.commit_lsn > survey.end.commit_lsn)
        });

        // From here on the directory is changed: nothing above has refused it.
        let mark = DurableMark::open(&storage, (options.clock)())?;
        mark.renew()?;
        for stretch in &survey.pending {
            make_durable(&*storage, stretch, known.is_some())?;
        }
        let at = survey.end;
        let name = main_name(at.position.seqno);
        let file = storage.open(&name, true).map_err(Error::io("open", storage.path(&name)))?;
        let length = file.length().map_err(Error::io("read", storage.path(&name)))?;
        let end = at.position.offset;
        let mut torn = length.saturating_sub(end);
        if torn > 0 {
            file.truncate(end).map_err(Error::io("truncate", storage.path(&name)))?;
        }
        // From the last file down, so that what is left has no hole at any time.
        for seqno in main_files(&*storage)?.into_iter().rev().filter(|seqno| *seqno > at.position.seqno) {
            let name = main_name(seqno);
            torn += storage.open(&name, false).and_then(|file| file.length()).unwrap_or(0);
            storage.remove(&name).map_err(Error::io("remove", storage.path(&name)))?;
        }
        let names = crate::list::names(&*storage)?;
        for name in names.iter().filter(|name| is_stale(name, &survey)) {
            storage.remove(name).map_err(Error::io("remove", storage.path(name)))?;
        }

        options.lineage = lineage;
        options.flow.clone_from(&survey.header.flow);
        options.epoch = found;
        if options.server_version == 0 {
            options.server_version = survey.header.server_version;
        }
        let main = Main::at(file, at.position, survey.transactions, survey.sealed);
        let mut writer = Self::with(storage, options, mark, main, at, lock);
        writer.nonce = names.iter().filter_map(|name| format::side_nonce(name)).max().unwrap_or(0);
        // Rewrites the mark too, which may be older than the disk, or newer.
        writer.sync()?;
        writer.mark.sync()?;
        if known.is_none() {
            // Into the other slot too, so that from here on each is sound on the disk while the other one is written.
            writer.mark.publish(&writer.durable)?;
            writer.mark.sync()?;
        }
        if own > found {
            writer.begin_epoch(own)?;
            writer.sync()?;
        }
        let recovered = Recovered { mark: writer.durable, torn, missing_before };
        Ok((writer, recovered))
    }
}

/// Side files that hold nothing of the trail, because no commit adopted them. Those of files that were not examined are
/// left to purge.
fn is_stale(name: &str, survey: &Survey) -> bool {
    format::is_open_side(name)
        || format::adopter(name).is_some_and(|seqno| seqno >= survey.first && !survey.adopted.contains(name))
}

/// Makes durable what nobody has vouched for yet.
fn make_durable(storage: &dyn Storage, stretch: &Stretch, rewrite: bool) -> Result<(), Error> {
    let path = || storage.path(&stretch.file);
    let file = storage.open(&stretch.file, true).map_err(Error::io("open", path()))?;
    let (mut block, mut at) = (vec![0; 256 * 1024], stretch.from);
    while rewrite && at < stretch.to {
        let wanted = (stretch.to - at).min(block.len() as u64) as usize;
        let read = read_full_at(&*file, &mut block[..wanted], at).map_err(Error::io("read", path()))?;
        if read < wanted {
            let reason = "the file became shorter while it was being opened".to_owned();
            return Err(Error::Damaged { file: path(), offset: at, reason });
        }
        file.write_all_at(&block[..read], at).map_err(Error::io("write", path()))?;
        at += read as u64;
    }
    file.sync().map_err(Error::io("sync", path()))
}
