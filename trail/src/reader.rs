//! Reads whole transactions back, in order, as far as they are durable.
//!
//! What it vouches for, at each [`Item::Commit`]: every record of the transaction is undamaged (its CRC), none is missing,
//! doubled or moved (the digest), the transaction follows the one before it (`previous`), and nothing of it can be
//! taken back by a power cut (the durable mark). A row of an aborted sub-transaction is never returned.
//!
//! Memory is one read-ahead buffer a file and the descriptions of tables, whatever the size of a transaction.

mod side;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::change::Row;
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, CommitRecord, Digest, End, FileHeader, FileKind, Mark, kind, main_name};
use crate::lsn::{CommitLsn, Lineage, Position, ResumeLsn};
use crate::mark::DurableView;
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::source::Item;
use crate::storage::Storage;
use side::SideCursor;

/// Where reading begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begins {
    /// With the first file there is.
    First,
    /// With the given file.
    File(u64),
    /// After a transaction of a lineage: with the first that is committed later.
    After {
        /// Whose positions these are.
        lineage: Lineage,
        /// The last transaction that is not wanted; zero if there is none.
        commit: CommitLsn,
        /// Nothing before is wanted.
        resume: ResumeLsn,
    },
}

/// Descriptions of tables, each content once, so that a consumer may know one by its address.
#[derive(Debug, Default)]
struct Interner(HashSet<Arc<Relation>>);

impl Interner {
    fn intern(&mut self, relation: Relation) -> Arc<Relation> {
        if let Some(known) = self.0.get(&relation) {
            return Arc::clone(known);
        }
        let relation = Arc::new(relation);
        self.0.insert(Arc::clone(&relation));
        relation
    }
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    digest: Digest,
    commit: CommitLsn,
    /// It is not wanted: passed over without being returned.
    skipped: bool,
}

/// Reads a trail from a place on. Not woken by itself: see [`crate::Follower`].
#[derive(Debug)]
pub struct Reader {
    storage: Arc<dyn Storage>,
    view: DurableView,
    /// Reads to the end of the files, whatever the mark says.
    to_the_end: bool,
    mark: Mark,
    main: Records,
    header: FileHeader,
    sealed: bool,
    relations: HashMap<u32, Arc<Relation>>,
    interner: Interner,
    open: Option<Open>,
    side: Option<SideCursor>,
    /// The last commit that was passed or, before the first, that must precede it.
    previous: CommitLsn,
    skip_to: CommitLsn,
    position: Position,
}

impl Reader {
    /// Opens a trail to follow it as far as it is durable.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::NotInTrail`] when the place to begin at is not there; [`Error::Damaged`],
    /// [`Error::Version`], [`Error::Io`].
    pub fn open(storage: Arc<dyn Storage>, begins: Begins) -> Result<Self, Error> {
        Self::with(storage, begins, false)
    }

    /// Opens a trail to read all there is, though no writer may have vouched for it: for tools, and for a lost site's
    /// trail. The reader ends with the last whole transaction; a torn tail is not an error.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_to_the_end(storage: Arc<dyn Storage>, begins: Begins) -> Result<Self, Error> {
        Self::with(storage, begins, true)
    }

    fn with(storage: Arc<dyn Storage>, begins: Begins, to_the_end: bool) -> Result<Self, Error> {
        let seqnos = main_files(&*storage)?;
        let Some(&first) = seqnos.first() else { return Err(Error::Missing(storage.path(""))) };
        let mut view = DurableView::new(&storage);
        let mark = view.read()?.unwrap_or_default();
        let (seqno, skip_to) = match begins {
            Begins::First => (first, CommitLsn::default()),
            Begins::File(seqno) => (seqno, CommitLsn::default()),
            Begins::After { lineage, commit, resume } => {
                (find(&storage, &seqnos, &mark, to_the_end, lineage, commit, resume)?, commit)
            }
        };
        let limit = limit(&mark, seqno, to_the_end);
        let (main, header) = Records::open(&storage, &main_name(seqno), FileKind::Main, limit)?;
        let reader = Self {
            position: Position { seqno, offset: main.offset() },
            previous: header.previous,
            storage,
            view,
            to_the_end,
            mark,
            main,
            header,
            sealed: false,
            relations: HashMap::new(),
            interner: Interner::default(),
            open: None,
            side: None,
            skip_to,
        };
        reader.check_header(seqno)?;
        Ok(reader)
    }

    fn check_header(&self, seqno: u64) -> Result<(), Error> {
        if self.header.seqno == seqno {
            Ok(())
        } else {
            Err(self.main.damaged(0, "it is another file of the trail"))
        }
    }

    /// The place behind the last commit, progress record or file end that was passed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last commit that was passed.
    pub fn previous(&self) -> CommitLsn {
        self.previous
    }

    /// Whose LSNs the present file holds.
    pub fn lineage(&self) -> Lineage {
        self.header.lineage
    }

    /// The epoch that the present file was written in.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// What the present file says of itself.
    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// How far the trail was durable when the reader last looked.
    pub fn durable(&self) -> Mark {
        self.mark
    }

    /// The next item, or `None` when nothing more is durable.
    ///
    /// # Errors
    /// [`Error::Damaged`] with file and offset; [`Error::Gap`]; [`Error::NotInTrail`] when the transaction to begin after
    /// turns out to be missing; [`Error::Io`].
    #[inline]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        loop {
            if let Some(side) = &mut self.side {
                match side.advance(&self.storage, &mut self.interner)? {
                    Some(found) => return self.side_item(&found).map(Some),
                    None => self.side = None,
                }
                continue;
            }
            let Some(found) = self.step()? else { return Ok(None) };
            match found.kind {
                kind::INSERT | kind::UPDATE | kind::DELETE if self.is_wanted() => {
                    return self.row(&found).map(Some);
                }
                kind::TRUNCATE | kind::MESSAGE if self.is_wanted() => {
                    return self.change(&found).map(Some);
                }
                kind => {
                    if let Some(item) = self.bracket(kind, &found)? {
                        return Ok(Some(item));
                    }
                }
            }
        }
    }

    #[inline]
    fn is_wanted(&self) -> bool {
        self.open.as_ref().is_none_or(|open| !open.skipped)
    }

    fn item_damaged(&self, found: &Found) -> impl Fn(Malformed) -> Error + '_ {
        let offset = found.offset;
        move |malformed| self.main.damaged(offset, malformed.0)
    }

    #[inline]
    fn row(&self, found: &Found) -> Result<Item<'_>, Error> {
        let damaged = self.item_damaged(found);
        if self.open.is_none() {
            return Err(damaged(Malformed("a row outside a transaction")));
        }
        let (relation, tuples) = format::decode_row(self.main.body(found)).map_err(&damaged)?;
        let unknown = || damaged(Malformed("a row of a table that was not declared"));
        let relation = self.relations.get(&relation).ok_or_else(unknown)?;
        let row = Row::decode(found.kind, tuples).map_err(&damaged)?;
        Ok(Item::Row { relation, row })
    }

    fn change(&self, found: &Found) -> Result<Item<'_>, Error> {
        let damaged = self.item_damaged(found);
        if found.kind == kind::MESSAGE {
            return format::decode_message(self.main.body(found)).map(Item::Message).map_err(damaged);
        }
        truncate(self.main.body(found), &self.relations).map_err(damaged)
    }

    fn side_item(&self, found: &Found) -> Result<Item<'_>, Error> {
        let Some(side) = &self.side else { return Err(Error::Misuse("no side file is open")) };
        side.item(found)
    }

    /// The next sound record of the main files, its digest folded in, or `None` at the durable mark.
    #[inline]
    fn step(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if self.sealed {
                if !self.is_followed()? && !self.look()? {
                    return Ok(None);
                }
                if self.is_followed()? {
                    self.next_file(self.header.seqno + 1)?;
                }
                continue;
            }
            match self.main.next()? {
                Step::Record(found) => {
                    if let Some(open) = &mut self.open
                        && found.kind != kind::COMMIT
                    {
                        open.digest.fold(found.crc);
                    }
                    return Ok(Some(found));
                }
                Step::Bad { offset, reason } => {
                    let torn = self.to_the_end && !self.is_vouched(offset) && !self.is_followed()?;
                    return if torn { Ok(None) } else { Err(self.main.damaged(offset, reason)) };
                }
                Step::End | Step::Short => {
                    let offset = self.main.offset();
                    if self.is_vouched(offset) || self.is_followed()? {
                        return Err(self.main.damaged(offset, "the file ends early"));
                    }
                    if !self.look()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether the mark promises bytes at `offset` of the present file.
    fn is_vouched(&self, offset: u64) -> bool {
        Position { seqno: self.header.seqno, offset } < self.mark.position
    }

    /// Whether a later file may be read.
    fn is_followed(&self) -> Result<bool, Error> {
        if !self.to_the_end {
            return Ok(self.mark.position.seqno > self.header.seqno);
        }
        let names = self.storage.list().map_err(Error::io("list", self.storage.path("")))?;
        Ok(names.contains(&main_name(self.header.seqno + 1)))
    }

    /// Looks whether more has become durable; true if so.
    fn look(&mut self) -> Result<bool, Error> {
        let Some(mark) = self.view.read()? else { return Ok(false) };
        if mark.position <= self.mark.position {
            return Ok(false);
        }
        self.mark = mark;
        self.main.extend(limit(&mark, self.header.seqno, self.to_the_end));
        Ok(true)
    }

    fn next_file(&mut self, seqno: u64) -> Result<(), Error> {
        let limit = limit(&self.mark, seqno, self.to_the_end);
        let (main, header) = Records::open(&self.storage, &main_name(seqno), FileKind::Main, limit)?;
        let gap = |reason| Error::Gap { directory: self.storage.path(""), reason };
        let continues = header.lineage == self.header.lineage;
        if continues && header.previous != self.previous {
            let reason = format!(
                "file {seqno} follows commit {}, but the file before it ends with commit {}",
                header.previous, self.previous
            );
            return Err(gap(reason));
        }
        self.position = Position { seqno, offset: main.offset() };
        self.previous = header.previous;
        if !continues {
            self.skip_to = CommitLsn::default();
        }
        (self.main, self.header, self.sealed) = (main, header, false);
        self.relations.clear();
        self.check_header(seqno)
    }

    /// Records that are not changes. Some are of no interest to a caller.
    fn bracket(&mut self, kind: u8, found: &Found) -> Result<Option<Item<'static>>, Error> {
        let offset = found.offset;
        let body = self.main.body(found);
        match (kind, &mut self.open) {
            (kind::RELATION, Some(_)) => {
                let relation = format::decode_relation(body).map_err(|e| self.main.damaged(offset, e.0))?;
                self.relations.insert(relation.id, self.interner.intern(relation));
            }
            (kind::BEGIN, None) => {
                let begin = format::decode_begin(body).map_err(|e| self.main.damaged(offset, e.0))?;
                if begin.previous != self.previous {
                    let reason = format!(
                        "commit {} follows {}, but the commit before it is {}",
                        begin.commit_lsn, begin.previous, self.previous
                    );
                    return Err(Error::Gap { directory: self.storage.path(""), reason });
                }
                let skipped = begin.commit_lsn <= self.skip_to;
                if !skipped && begin.previous < self.skip_to {
                    let directory = self.storage.path("");
                    return Err(Error::NotInTrail { directory, commit: self.skip_to });
                }
                self.open = Some(Open { digest: Digest::default(), commit: begin.commit_lsn, skipped });
                return Ok(if skipped { None } else { Some(Item::Begin(begin)) });
            }
            (kind::COMMIT, Some(open)) => {
                let record: CommitRecord =
                    format::decode(body).map_err(|e| self.main.damaged(offset, e.0))?;
                if record.digest != open.digest.0 || record.commit.commit_lsn != open.commit {
                    return Err(self.main.damaged(offset, "the transaction's digest is wrong"));
                }
                let skipped = open.skipped;
                self.open = None;
                self.previous = record.commit.commit_lsn;
                self.position.offset = self.main.offset();
                return Ok(if skipped { None } else { Some(Item::Commit(record.commit)) });
            }
            (kind::ADOPT, Some(open)) => {
                let adopt: Adopt = format::decode(body).map_err(|e| self.main.damaged(offset, e.0))?;
                if !open.skipped {
                    self.side = Some(SideCursor::open(&self.storage, adopt)?);
                }
            }
            (kind::PROGRESS, None) => {
                let progress = format::decode_progress(body).map_err(|e| self.main.damaged(offset, e.0))?;
                self.position.offset = self.main.offset();
                return Ok(Some(Item::Progress(progress)));
            }
            (kind::END, None) => {
                format::decode::<End>(body).map_err(|e| self.main.damaged(offset, e.0))?;
                self.sealed = true;
                self.position.offset = self.main.offset();
            }
            (kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE, Some(_)) => {}
            (format::KIND_SKIPPABLE.., _) => {}
            _ => return Err(self.main.damaged(offset, "a record that does not belong there")),
        }
        Ok(None)
    }
}

/// Numbers of the main files, in order.
pub(crate) fn main_files(storage: &dyn Storage) -> Result<Vec<u64>, Error> {
    let names = storage.list().map_err(Error::io("list", storage.path("")))?;
    let mut seqnos: Vec<u64> = names.iter().filter_map(|name| format::parse_main_name(name)).collect();
    seqnos.sort_unstable();
    Ok(seqnos)
}

/// How far a file may be read.
fn limit(mark: &Mark, seqno: u64, to_the_end: bool) -> u64 {
    match mark.position.seqno.cmp(&seqno) {
        _ if to_the_end => u64::MAX,
        std::cmp::Ordering::Greater => u64::MAX,
        std::cmp::Ordering::Equal => mark.position.offset,
        std::cmp::Ordering::Less => 0,
    }
}

/// The file to begin with so as to find everything after `commit`.
fn find(
    storage: &Arc<dyn Storage>,
    seqnos: &[u64],
    mark: &Mark,
    to_the_end: bool,
    lineage: Lineage,
    commit: CommitLsn,
    resume: ResumeLsn,
) -> Result<u64, Error> {
    let mut other = None;
    for &seqno in seqnos.iter().rev().filter(|seqno| to_the_end || **seqno <= mark.position.seqno) {
        let (_, header) = Records::open(storage, &main_name(seqno), FileKind::Main, u64::MAX)?;
        if header.lineage != lineage {
            other = Some(header.lineage);
        } else if header.previous <= commit && header.resume_lsn <= resume {
            return Ok(seqno);
        }
    }
    let directory = storage.path("");
    Err(match other {
        Some(found) if seqnos.len() == 1 || commit == CommitLsn::default() => {
            Error::Lineage { directory, found: Box::new(found), expected: Box::new(lineage) }
        }
        _ => Error::NotInTrail { directory, commit },
    })
}

fn truncate<'a>(body: &[u8], relations: &HashMap<u32, Arc<Relation>>) -> Result<Item<'a>, Malformed> {
    let truncate = format::decode_truncate(body)?;
    let known = |oid: &u32| {
        relations.get(oid).cloned().ok_or(Malformed("a truncate of a table that was not declared"))
    };
    Ok(Item::Truncate {
        relations: truncate.relations.iter().map(known).collect::<Result<_, _>>()?,
        cascade: truncate.cascade,
        restart_identity: truncate.restart_identity,
    })
}
