//! Reads whole transactions back, in order, as far as they are durable.
//!
//! What it vouches for, at each [`Item::Commit`]: every record of the transaction is undamaged (its CRC), none is missing,
//! doubled or moved (the digest), the transaction follows the one before it (`previous`), and nothing of it can be
//! taken back by a power cut (the durable mark). A row of an aborted sub-transaction is never returned.
//!
//! It can be asked to read on before that (`early.rs`); then whoever asks vouches that nothing comes of it too early.
//!
//! No file is opened before the mark has come to it, so that what is read is never a file that the writer's recovery
//! removes and makes anew. Memory is one read-ahead buffer a file and the descriptions of tables, whatever the size of a
//! transaction.

mod ahead;
mod begin;
mod bookmark;
mod early;
mod hold;
mod side;

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::change::Row;
use crate::error::{Error, Malformed};
use crate::format::{self, Adopt, CommitRecord, Digest, End, FileHeader, Mark, Told, kind};
use crate::lsn::{CommitLsn, Lineage, Position, ResumeLsn};
use crate::mark::DurableView;
use crate::records::{Found, Records, Step};
use crate::relation::Relation;
use crate::source::Item;
use crate::storage::Storage;
pub use ahead::{OpenSide, Presence, SideReader, open_sides};
pub(crate) use begin::main_files;
pub use bookmark::Bookmark;
use bookmark::Passed;
pub use early::Early;
use hold::Hold;
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

/// A record that is no item, for whoever looks at the files themselves.
#[derive(Debug)]
pub(crate) enum Note {
    Relation(Arc<Relation>),
    Adopt(Adopt),
    End(End),
    /// Passed over: of a kind that need not be understood.
    Unknown(u8),
    /// Of a transaction that is not wanted, or of no interest.
    Passed,
}

/// One step: an item, by where its bytes are, or something else.
enum Advance {
    Main(Found),
    Side(Found),
    Item(Item<'static>),
    Note(Note),
}

/// An item or a note.
pub(crate) enum Entry<'a> {
    Item(Item<'a>),
    Note(Note),
}

/// An entry and where it was found.
pub(crate) struct Seen<'a> {
    pub(crate) entry: Entry<'a>,
    pub(crate) file: &'a str,
    pub(crate) offset: u64,
    pub(crate) subtransaction: Option<u32>,
    pub(crate) header: &'a FileHeader,
    pub(crate) in_transaction: bool,
}

/// Reads a trail from a place on. Not woken by itself: see [`crate::Follower`].
#[derive(Debug)]
pub struct Reader {
    storage: Arc<dyn Storage>,
    /// Where the durable mark is looked up; `None` when the trail is read as it was when it was opened.
    view: Option<DurableView>,
    mark: Mark,
    main: Records,
    header: FileHeader,
    sealed: bool,
    relations: FxHashMap<u32, Arc<Relation>>,
    interner: Interner,
    open: Option<Open>,
    side: Option<SideCursor>,
    passed: Passed,
    hold: Hold,
    /// How far it reads beyond the durable mark.
    early: Option<Told>,
    /// The last commit that was passed or, before the first, that must precede it.
    previous: CommitLsn,
    skip_to: CommitLsn,
    resume: ResumeLsn,
    /// It reads one lineage only, and what goes on from it without a gap.
    bound: bool,
    /// Where the source resumes behind the file that has ended.
    ended_at: ResumeLsn,
    position: Position,
    /// Where the record that was returned last starts.
    place: u64,
}

impl Reader {
    /// The place behind the last commit, progress record or file end that was passed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The file that the item returned last lies in, and where in it, in bytes: to name the place to people.
    pub fn at(&self) -> (&str, u64) {
        match &self.side {
            Some(side) => side.place(),
            None => (self.main.name(), self.place),
        }
    }

    /// The sub-transaction that the row returned last belongs to, if its transaction was streamed.
    pub fn subtransaction(&self) -> Option<u32> {
        self.side.as_ref().and_then(SideCursor::subtransaction)
    }

    /// The last commit that was passed.
    pub fn previous(&self) -> CommitLsn {
        self.previous
    }

    /// Where the trail is, as people know it.
    pub fn directory(&self) -> std::path::PathBuf {
        self.storage.path("")
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

    /// The next item, or `None` when nothing more is durable, or may be read [early](Reader::go_early).
    ///
    /// # Errors
    /// [`Error::Damaged`] with file and offset; [`Error::Gap`]; [`Error::NotInTrail`] when the transaction to begin after
    /// turns out to be missing; [`Error::Lineage`] where the lineage ends that the reader was opened for, unless the next
    /// one [goes on from it](Lineage::is_promotion_of);
    /// [`Error::CutBack`]; [`Error::Version`]; [`Error::Io`]. After an error the reader is of no use.
    #[expect(clippy::should_implement_trait, reason = "an item lives until the next call")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        loop {
            match self.advance()? {
                Some(Advance::Main(found)) => return self.main_item(&found).map(Some),
                Some(Advance::Side(found)) => return self.side_item(&found).map(Some),
                Some(Advance::Item(item)) => return Ok(Some(item)),
                Some(Advance::Note(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`Reader::next`], with what is no item too, and where it is.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Seen<'_>>, Error> {
        let entry = match self.advance()? {
            Some(Advance::Main(found)) => Entry::Item(self.main_item(&found)?),
            Some(Advance::Side(found)) => Entry::Item(self.side_item(&found)?),
            Some(Advance::Item(item)) => Entry::Item(item),
            Some(Advance::Note(note)) => Entry::Note(note),
            None => return Ok(None),
        };
        // The record that adopts a side file still lies in the main file.
        let in_main = matches!(entry, Entry::Note(Note::Adopt(_)));
        let (file, offset) = if in_main { (self.main.name(), self.place) } else { self.at() };
        Ok(Some(Seen {
            file,
            offset,
            subtransaction: if in_main { None } else { self.subtransaction() },
            header: &self.header,
            in_transaction: self.open.is_some(),
            entry,
        }))
    }

    #[inline]
    fn advance(&mut self) -> Result<Option<Advance>, Error> {
        if let Some(side) = &mut self.side {
            match side.advance(&mut self.interner)? {
                side::Advance::Item(found) => return Ok(Some(Advance::Side(found))),
                side::Advance::Note(note) => return Ok(Some(Advance::Note(note))),
                side::Advance::End => self.side = None,
            }
        }
        if self.hold.is_held() {
            return Ok(self.hold.release());
        }
        let found = match self.hold.take() {
            Some(found) => found,
            None => match self.step()? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        self.place = found.offset;
        match (found.kind, &self.open) {
            (kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE, Some(open)) => {
                Ok(Some(if open.skipped { Advance::Note(Note::Passed) } else { Advance::Main(found) }))
            }
            (kind::MESSAGE, None) => self.message_between(found).map(Some),
            _ => match self.bracket(&found)? {
                Advance::Item(Item::Begin(begin)) if self.hold.is_for(&begin) => self.hold_before(begin),
                advance => Ok(Some(advance)),
            },
        }
    }

    fn damaged(&self, found: &Found) -> impl Fn(Malformed) -> Error + '_ {
        let offset = found.offset;
        move |malformed| self.main.damaged(offset, malformed.0)
    }

    #[inline]
    fn main_item(&self, found: &Found) -> Result<Item<'_>, Error> {
        item(found.kind, self.main.body(found), &self.relations).map_err(self.damaged(found))
    }

    #[inline]
    fn side_item(&self, found: &Found) -> Result<Item<'_>, Error> {
        let Some(side) = &self.side else { return Err(Error::Misuse("no side file is open")) };
        side.item(found)
    }

    /// A message between transactions: not wanted before the place to begin at.
    fn message_between(&self, found: Found) -> Result<Advance, Error> {
        let message = format::decode_message(self.main.body(&found)).map_err(self.damaged(&found))?;
        if message.transactional {
            let reason = Malformed("a transactional message outside a transaction");
            return Err(self.damaged(&found)(reason));
        }
        let wanted = self.previous >= self.skip_to && message.lsn >= self.resume.0;
        Ok(if wanted { Advance::Main(found) } else { Advance::Note(Note::Passed) })
    }

    /// The next sound record of the main files, its digest folded in, or `None` at the durable mark.
    #[inline]
    fn step(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if self.sealed {
                if !self.is_followed() {
                    self.look()?;
                }
                if !self.is_followed() {
                    return Ok(None);
                }
                self.next_file(self.header.seqno + 1)?;
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
                // Nothing is read beyond the mark, so that whatever is wrong is damage.
                Step::Bad { offset, reason } => return Err(self.main.damaged(offset, reason)),
                Step::End | Step::Short => {
                    let at = self.reached();
                    if at < self.mark.position {
                        return Err(self.main.damaged(at.offset, "the file ends early"));
                    }
                    if !self.look()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The place up to which the present file was read.
    fn reached(&self) -> Position {
        Position { seqno: self.header.seqno, offset: self.main.offset() }
    }

    /// Whether the next file may be read.
    fn is_followed(&self) -> bool {
        self.mark.position.seqno > self.header.seqno
    }

    /// Looks whether more has become durable; true if so.
    fn look(&mut self) -> Result<bool, Error> {
        if self.early.is_some() {
            return Ok(false);
        }
        let Some(view) = &mut self.view else { return Ok(false) };
        let Some(mark) = view.read()? else { return Ok(false) };
        let read = self.reached();
        if mark.position < read {
            let (directory, now) = (self.storage.path(""), mark.position);
            return Err(Error::CutBack { directory, read, now });
        }
        if mark.position == self.mark.position {
            return Ok(false);
        }
        self.mark = mark;
        self.main.extend(begin::limit(&mark, self.header.seqno));
        Ok(true)
    }

    fn next_file(&mut self, seqno: u64) -> Result<(), Error> {
        let (main, header) = begin::open_main(&self.storage, seqno, &self.mark)?;
        let continues = header.lineage == self.header.lineage;
        let goes_on =
            || header.lineage.is_promotion_of(&self.header.lineage) && header.resume_lsn <= self.ended_at;
        if !continues && self.bound && !goes_on() {
            let (found, expected) = (Box::new(header.lineage), Box::new(self.header.lineage));
            return Err(Error::Lineage { directory: self.storage.path(""), found, expected });
        }
        if !continues && self.previous < self.skip_to {
            let directory = self.storage.path("");
            return Err(Error::NotInTrail { directory, commit: self.skip_to });
        }
        let expected = if continues { self.previous } else { CommitLsn::default() };
        if header.previous != expected {
            let reason = format!(
                "file {seqno} follows commit {}, but the last commit before it is {expected}",
                header.previous
            );
            return Err(Error::Gap { directory: self.storage.path(""), reason });
        }
        self.position = Position { seqno, offset: main.offset() };
        self.previous = header.previous;
        (self.main, self.header, self.sealed) = (main, header, false);
        self.relations.clear();
        self.passed = Passed::default();
        if !continues {
            (self.skip_to, self.resume) = (CommitLsn::default(), ResumeLsn::default());
        }
        Ok(())
    }

    /// Records that are not changes.
    fn bracket(&mut self, found: &Found) -> Result<Advance, Error> {
        let offset = found.offset;
        let body = self.main.body(found);
        let damaged = |malformed: Malformed| self.main.damaged(offset, malformed.0);
        Ok(match (found.kind, &mut self.open) {
            (kind::RELATION, Some(_)) => {
                let relation = self.interner.intern(format::decode_relation(body).map_err(damaged)?);
                self.relations.insert(relation.id, Arc::clone(&relation));
                self.passed.relation(offset);
                Advance::Note(Note::Relation(relation))
            }
            (kind::BEGIN, None) => {
                let begin = format::decode_begin(body).map_err(damaged)?;
                if begin.previous != self.previous {
                    let reason = format!(
                        "commit {} follows {}, but the commit before it is {}",
                        begin.commit_lsn, begin.previous, self.previous
                    );
                    return Err(Error::Gap { directory: self.storage.path(""), reason });
                }
                // A transaction that commits before the place to begin at is not wanted either.
                let (commit, resume) = (begin.commit_lsn, self.resume.0);
                let skipped = commit <= self.skip_to || commit.0 < resume;
                if !skipped && begin.previous < self.skip_to {
                    let directory = self.storage.path("");
                    return Err(Error::NotInTrail { directory, commit: self.skip_to });
                }
                self.open = Some(Open { digest: Digest::default(), commit, skipped });
                if skipped { Advance::Note(Note::Passed) } else { Advance::Item(Item::Begin(begin)) }
            }
            (kind::COMMIT, Some(open)) => {
                let record: CommitRecord = format::decode(body).map_err(damaged)?;
                if record.digest != open.digest.0 || record.commit.commit_lsn != open.commit {
                    return Err(self.main.damaged(offset, "the transaction's digest is wrong"));
                }
                let skipped = open.skipped;
                self.open = None;
                self.passed.commit(record.commit.commit_lsn, found, self.main.offset());
                self.previous = record.commit.commit_lsn;
                self.position.offset = self.main.offset();
                if skipped { Advance::Note(Note::Passed) } else { Advance::Item(Item::Commit(record.commit)) }
            }
            (kind::ADOPT, Some(open)) => {
                let adopt: Adopt = format::decode(body).map_err(damaged)?;
                if open.skipped {
                    Advance::Note(Note::Passed)
                } else {
                    self.side = Some(SideCursor::open(&self.storage, adopt.clone())?);
                    Advance::Note(Note::Adopt(adopt))
                }
            }
            (kind::PROGRESS, None) => {
                let progress = format::decode_progress(body).map_err(damaged)?;
                self.position.offset = self.main.offset();
                if self.previous >= self.skip_to && progress.resume_lsn >= self.resume {
                    Advance::Item(Item::Progress(progress))
                } else {
                    Advance::Note(Note::Passed)
                }
            }
            (kind::END, None) => {
                let end = format::decode::<End>(body).map_err(damaged)?;
                if end.previous != self.previous {
                    return Err(self.main.damaged(offset, "the end record is not about this file"));
                }
                (self.sealed, self.ended_at) = (true, end.resume_lsn);
                self.position.offset = self.main.offset();
                Advance::Note(Note::End(end))
            }
            (kind @ format::KIND_SKIPPABLE.., _) => Advance::Note(Note::Unknown(kind)),
            (kind, _) if kind::is_readable(kind) => {
                return Err(self.main.damaged(offset, "a record that does not belong there"));
            }
            (kind, _) => return Err(self.main.unknown_kind(kind)),
        })
    }
}

/// Reads a change.
#[inline]
fn item<'a>(
    kind: u8,
    body: &'a [u8],
    relations: &'a FxHashMap<u32, Arc<Relation>>,
) -> Result<Item<'a>, Malformed> {
    match kind {
        kind::TRUNCATE => {
            let truncate = format::decode_truncate(body)?;
            let unknown = Malformed("a truncate of a table that was not declared");
            let known = |oid: &u32| relations.get(oid).cloned().ok_or(unknown);
            Ok(Item::Truncate {
                relations: truncate.relations.iter().map(known).collect::<Result<_, _>>()?,
                cascade: truncate.cascade,
                restart_identity: truncate.restart_identity,
            })
        }
        kind::MESSAGE => format::decode_message(body).map(Item::Message),
        kind => {
            let (relation, tuples) = format::decode_row(body)?;
            let relation =
                relations.get(&relation).ok_or(Malformed("a row of a table that was not declared"))?;
            Ok(Item::Row { relation, row: Row::decode(kind, tuples)? })
        }
    }
}
