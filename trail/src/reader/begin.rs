//! Where reading begins.

use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Begins, Bookmark, Hold, Interner, Passed, Reader};
use crate::error::Error;
use crate::format::{self, FileHeader, FileKind, Mark, main_name};
use crate::lsn::{CommitLsn, Lineage, Position, ResumeLsn};
use crate::mark::{self, DurableView};
use crate::records::{self, Records};
use crate::storage::Storage;
use crate::survey::survey;

impl Reader {
    /// Opens a trail to follow it as far as it is durable.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::NotDurable`] as long as nobody vouches for what is there; [`Error::Behind`] as long as
    /// the place to begin at is not durable again; [`Error::NotInTrail`] or [`Error::Lineage`] when it is not there;
    /// [`Error::Gap`], [`Error::Damaged`],
    /// [`Error::Version`], [`Error::Io`].
    pub fn open(storage: Arc<dyn Storage>, begins: Begins) -> Result<Self, Error> {
        Self::open_near(storage, begins, None)
    }

    /// The same, sooner: from a place that an earlier reader has passed, where that helps to begin after a transaction.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_near(
        storage: Arc<dyn Storage>,
        begins: Begins,
        near: Option<&Bookmark>,
    ) -> Result<Self, Error> {
        let mut view = DurableView::new(&storage);
        match view.read()? {
            Some(mark) => {
                let mut reader = Self::with(storage, begins, mark, Some(view))?;
                if let (Some(near), Begins::After { .. }) = (near, begins) {
                    reader.go_near(near)?;
                }
                Ok(reader)
            }
            None if main_files(&*storage)?.is_empty() => Err(Error::Missing(storage.path(""))),
            None => Err(Error::NotDurable(storage.path(""))),
        }
    }

    /// Opens a trail to read all there is at this moment, though no writer may have vouched for it: for tools, and for a
    /// lost site's trail. The reader ends with the last whole transaction; a torn tail is not an error.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_to_the_end(storage: Arc<dyn Storage>, begins: Begins) -> Result<Self, Error> {
        let known = mark::durable(&*storage)?;
        let survey = survey(&storage, known.as_ref())?;
        // What was promised and is not there is damage, found where it is missed.
        let promised = known.filter(|mark| mark.position > survey.end.position);
        let mark = match survey.damage {
            // Without a mark everything counts: the reader stops at the place that is wrong.
            Some(damage) if promised.is_none() => {
                let seqno = format::parse_main_name(&damage.file).unwrap_or(survey.end.position.seqno);
                let position = Position { seqno, offset: u64::MAX };
                Mark { position, ..survey.end }
            }
            _ => promised.unwrap_or(survey.end),
        };
        Self::with(storage, begins, mark, None)
    }

    fn with(
        storage: Arc<dyn Storage>,
        begins: Begins,
        mark: Mark,
        view: Option<DurableView>,
    ) -> Result<Self, Error> {
        let seqnos = main_files(&*storage)?;
        let Some(&first) = seqnos.first() else { return Err(Error::Missing(storage.path(""))) };
        let (seqno, skip_to, resume) = match begins {
            Begins::First => (first, CommitLsn::default(), ResumeLsn::default()),
            Begins::File(seqno) => (seqno, CommitLsn::default(), ResumeLsn::default()),
            Begins::After { lineage, commit, resume } => {
                (find(&storage, &seqnos, &mark, lineage, commit, resume)?, commit, resume)
            }
        };
        if seqno > mark.position.seqno {
            return Err(Error::NotDurable(storage.path("")));
        }
        let (main, header) = open_main(&storage, seqno, &mark)?;
        Ok(Self {
            position: Position { seqno, offset: main.offset() },
            previous: header.previous,
            place: 0,
            storage,
            view,
            mark,
            main,
            header,
            sealed: false,
            relations: FxHashMap::default(),
            interner: Interner::default(),
            open: None,
            side: None,
            passed: Passed::default(),
            hold: Hold::default(),
            early: None,
            skip_to,
            resume,
            ended_at: ResumeLsn::default(),
            bound: matches!(begins, Begins::After { .. }),
        })
    }
}

/// Opens a main file that should be there.
pub(super) fn open_main(
    storage: &Arc<dyn Storage>,
    seqno: u64,
    mark: &Mark,
) -> Result<(Records, FileHeader), Error> {
    let name = main_name(seqno);
    match Records::open(storage, &name, FileKind::Main, limit(mark, seqno)) {
        Ok((main, header)) if header.seqno != seqno => {
            Err(main.damaged(0, "it is another file of the trail"))
        }
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Error::Gap { directory: storage.path(""), reason: format!("\"{name}\" is not there") })
        }
        other => other,
    }
}

/// Numbers of the main files, in order.
pub(crate) fn main_files(storage: &dyn Storage) -> Result<Vec<u64>, Error> {
    let names = match crate::list::names(storage) {
        Err(Error::Missing(_)) => return Ok(Vec::new()),
        names => names?,
    };
    let mut seqnos: Vec<u64> = names.iter().filter_map(|name| format::parse_main_name(name)).collect();
    seqnos.sort_unstable();
    Ok(seqnos)
}

/// How far a file may be read.
pub(super) fn limit(mark: &Mark, seqno: u64) -> u64 {
    match mark.position.seqno.cmp(&seqno) {
        std::cmp::Ordering::Greater => u64::MAX,
        std::cmp::Ordering::Equal => mark.position.offset,
        std::cmp::Ordering::Less => 0,
    }
}

/// The file to begin with so as to find everything after `commit` and from `resume` on: the last one before which there
/// is nothing of that. Files that follow the commit and begin behind `resume` hold messages that stand between; of
/// these, earlier ones are gone only when every reader has passed them.
fn find(
    storage: &Arc<dyn Storage>,
    seqnos: &[u64],
    mark: &Mark,
    lineage: Lineage,
    commit: CommitLsn,
    resume: ResumeLsn,
) -> Result<u64, Error> {
    let (mut other, mut same, mut following) = (None, false, None);
    for &seqno in seqnos.iter().rev().filter(|seqno| **seqno <= mark.position.seqno) {
        let header = records::header(&**storage, &main_name(seqno), FileKind::Main)?;
        if header.lineage != lineage {
            other = Some(header.lineage);
            continue;
        }
        same = true;
        if seqno == mark.position.seqno && commit > mark.commit_lsn {
            // What the reader stands behind is there, or comes again; until then purge may take what lies before it.
            let (directory, durable) = (storage.path(""), mark.commit_lsn);
            return Err(Error::Behind { directory, commit, durable });
        }
        if header.previous <= commit && header.resume_lsn <= resume {
            return Ok(seqno);
        }
        if header.previous == commit && commit != CommitLsn::default() {
            following = Some(seqno);
        }
    }
    if let Some(seqno) = following {
        return Ok(seqno);
    }
    let directory = storage.path("");
    match other {
        Some(found) if !same => {
            Err(Error::Lineage { directory, found: Box::new(found), expected: Box::new(lineage) })
        }
        None if !same => Err(Error::NotDurable(directory)),
        _ => Err(Error::NotInTrail { directory, commit }),
    }
}
