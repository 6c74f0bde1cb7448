//! The one writer of a trail.
//!
//! Correctness, in one line: `appended ≥ flushed ≥ durable`, where *appended* is what the caller has handed over, *flushed*
//! what the operating system has, *durable* what a power cut leaves. Only the last whole transaction of each counts:
//!
//! * appending writes into memory and, beyond [`FLUSH_AT`], into the file; nobody reads it there, because readers
//!   stop at the durable mark;
//! * [`Writer::sync_job`] collects every file that the appended transactions lie in, side files first; running the
//!   job makes them durable; [`Writer::synced`] then moves the mark, which is what readers and the slot are told;
//! * a transaction that is cut off by a lost connection is taken back ([`Writer::rollback`]);
//! * a call that fails has changed nothing that counts and can be made again: room is made before bytes are appended,
//!   and after a failed write the same bytes are written again at the same place, so a full disk loses nothing;
//! * after a failed *sync* nothing of the cache can be trusted, the writer cuts the trail back to the mark and refuses
//!   further work.
//!
//! The job holds no reference to the writer, so that one thread appends while another syncs.

mod file;
mod recovery;
mod side;
mod sync;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::change::{Message, Truncate};
use crate::error::Error;
use crate::format::{self, Digest, FileHeader, Mark, kind, main_name};
use crate::lsn::{CommitLsn, Lineage, ResumeLsn, Timestamp};
use crate::mark::{self, DurableMark};
use crate::reader::main_files;
use crate::records;
use crate::relation::Relation;
use crate::storage::{File, Storage};
use crate::transaction::{Begin, Commit, Progress};

use file::Main;
pub use recovery::Recovered;
use side::Side;
use sync::Started;
pub use sync::SyncJob;

/// Appended bytes are handed to the operating system when there are so many.
pub const FLUSH_AT: usize = 256 * 1024;
/// The longest row or message that is taken, in bytes, with room for what a record adds.
const MAX_BODY: usize = format::MAX_RECORD as usize - (1 << 10);

/// What a writer needs to know.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// The flow that the trail belongs to.
    pub flow: String,
    /// Whose LSNs it holds.
    pub lineage: Lineage,
    /// The epoch of its database.
    pub epoch: u64,
    /// The source's `server_version_num`.
    pub server_version: u32,
    /// A file is sealed at the first transaction boundary behind so many bytes.
    pub file_size: u64,
    /// The clock for headers and marks.
    pub clock: fn() -> Timestamp,
    /// The release that writes, for people who look at a file later.
    pub release: String,
}

impl WriterOptions {
    /// Options with 64 MiB files.
    pub fn new(flow: impl Into<String>, lineage: Lineage) -> Self {
        Self {
            flow: flow.into(),
            lineage,
            epoch: 1,
            server_version: 0,
            file_size: 64 << 20,
            clock: Timestamp::now,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Relations that a file holds, as it holds them, with the one asked for last at hand.
#[derive(Debug, Default)]
struct Declared {
    relations: FxHashMap<u32, Arc<Relation>>,
    /// An OID is never 0.
    last: u32,
}

impl Declared {
    fn holds(&self, relation: &Arc<Relation>) -> bool {
        let known = self.relations.get(&relation.id);
        known.is_some_and(|known| Arc::ptr_eq(known, relation) || known == relation)
    }

    fn insert(&mut self, relation: &Arc<Relation>) {
        self.relations.insert(relation.id, Arc::clone(relation));
    }

    #[inline]
    fn check(&mut self, relation: u32) -> Result<(), Error> {
        if relation == self.last {
            return Ok(());
        }
        if !self.relations.contains_key(&relation) {
            return Err(Error::Misuse("a row of a relation that was not declared"));
        }
        self.last = relation;
        Ok(())
    }

    fn clear(&mut self) {
        self.relations.clear();
        self.last = 0;
    }
}

/// A transaction that has begun and not ended.
#[derive(Debug)]
struct Open {
    start: u64,
    commit: CommitLsn,
    digest: Digest,
    changes: u64,
}

/// Appends transactions to a trail. See the top of the module for what is durable when.
#[derive(Debug)]
pub struct Writer {
    storage: Arc<dyn Storage>,
    options: WriterOptions,
    mark: DurableMark,
    main: Main,
    open: Option<Open>,
    /// Behind the last whole transaction or progress record.
    appended: Mark,
    durable: Mark,
    /// What readers were told, which is behind when the mark could not be written.
    published: Mark,
    /// Transactions that the source has not committed yet, by their top-level xid.
    sides: FxHashMap<u32, Side>,
    nonce: u32,
    /// Counts the uses of side files, to tell which was used last.
    uses: u64,
    /// Files that hold appended transactions and have not been synced since.
    unsynced: Vec<(String, Arc<dyn File>)>,
    directory_changed: bool,
    /// Jobs that have not been answered, oldest first.
    started: VecDeque<Started>,
    poisoned: bool,
    _lock: LockGuard,
}

struct LockGuard(#[allow(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

fn lock(storage: &dyn Storage) -> Result<LockGuard, Error> {
    match storage.lock() {
        Ok(guard) => Ok(LockGuard(guard)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::InUse(storage.path(""))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing(storage.path(""))),
        Err(error) => Err(Error::io("lock", storage.path("lock"))(error)),
    }
}

impl Writer {
    /// Begins a new trail whose first transaction is the first that commits at or after `start`. Durable on return.
    /// Readers that were registered before stay so, at its beginning. What an earlier call left that did not come to
    /// its end is removed.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is a trail already, [`Error::InUse`], [`Error::Io`].
    pub fn create(
        storage: Arc<dyn Storage>,
        options: WriterOptions,
        start: ResumeLsn,
    ) -> Result<Self, Error> {
        let lock = lock(&*storage)?;
        let seqnos = main_files(&*storage)?;
        let begun = seqnos == [1]
            && mark::durable(&*storage)?.is_none()
            && records::is_blank(&*storage, &main_name(1), None)?;
        if !seqnos.is_empty() && !begun {
            return Err(Error::Exists(storage.path("")));
        }
        let mark = DurableMark::open(&storage, (options.clock)())?;
        mark.clear()?;
        let names = crate::list::names(&*storage)?;
        for name in names {
            let main = format::parse_main_name(&name).is_some();
            if main || format::is_open_side(&name) || format::adopter(&name).is_some() {
                storage.remove(&name).map_err(Error::io("remove", storage.path(&name)))?;
            }
        }
        for (reader, _) in mark::readers(&*storage)? {
            mark::register_reader(&*storage, &reader, &Mark::default())?;
        }
        let at = Mark { resume_lsn: start, ..Mark::default() };
        let main = Main::begin(&storage, 1, &header(&options, 1, &at))?;
        let mut writer = Self::with(storage, options, mark, main, at, lock);
        writer.progress(&Progress { resume_lsn: start, time: (writer.options.clock)() })?;
        writer.sync()?;
        // Into the other slot too, so that from here on each is sound on the disk while the other one is written.
        writer.mark.publish(&writer.durable)?;
        writer.mark.sync()?;
        Ok(writer)
    }

    fn with(
        storage: Arc<dyn Storage>,
        options: WriterOptions,
        mark: DurableMark,
        main: Main,
        at: Mark,
        lock: LockGuard,
    ) -> Self {
        let appended = Mark { position: main.position(), ..at };
        Self {
            storage,
            options,
            mark,
            main,
            open: None,
            appended,
            durable: Mark::default(),
            published: Mark::default(),
            sides: FxHashMap::default(),
            nonce: 0,
            uses: 0,
            unsynced: Vec::new(),
            directory_changed: true,
            started: VecDeque::new(),
            poisoned: false,
            _lock: lock,
        }
    }

    /// Says what the source's `server_version_num` is by now; the headers of later files carry it.
    pub fn set_server_version(&mut self, server_version: u32) {
        self.options.server_version = server_version;
    }

    /// Whose LSNs the trail holds.
    pub fn lineage(&self) -> Lineage {
        self.options.lineage
    }

    /// The epoch that it is written in.
    pub fn epoch(&self) -> u64 {
        self.options.epoch
    }

    /// What has been appended, up to the last whole transaction.
    pub fn appended(&self) -> Mark {
        self.appended
    }

    /// What a power cut leaves.
    pub fn durable(&self) -> Mark {
        self.durable
    }

    fn poisoned(&self) -> Error {
        Error::Poisoned(self.storage.path(""))
    }

    #[inline]
    fn ready(&self, open: bool) -> Result<(), Error> {
        if self.poisoned {
            return Err(self.poisoned());
        }
        match (open, self.open.is_some()) {
            (true, false) => Err(Error::Misuse("a change outside a transaction")),
            (false, true) => Err(Error::Misuse("a record that belongs between transactions inside one")),
            _ => Ok(()),
        }
    }

    /// Begins a transaction. `begin.previous` is filled in here.
    ///
    /// # Errors
    /// [`Error::Io`], when the last file is full and the next cannot be made: nothing has begun then. [`Error::Misuse`].
    pub fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        self.ready(false)?;
        if begin.commit_lsn <= self.appended.commit_lsn {
            return Err(Error::Misuse("a commit LSN that does not rise"));
        }
        self.rotate_if_full()?;
        self.main.make_room(&*self.storage)?;
        self.begin_here(begin);
        Ok(())
    }

    fn begin_here(&mut self, begin: &Begin) {
        let begin = Begin { previous: self.appended.commit_lsn, ..begin.clone() };
        let (start, commit) = (self.main.end(), begin.commit_lsn);
        self.open = Some(Open { start, commit, digest: Digest::default(), changes: 0 });
        self.main.append(kind::BEGIN, |body| format::encode(&begin, body));
    }

    #[inline]
    fn append_change(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.ready(true)?;
        self.main.make_room(&*self.storage)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.digest.fold(self.main.append(kind, fill));
        open.changes += u64::from(kind != kind::RELATION);
        Ok(())
    }

    /// Declares a relation for the rows that follow, unless the file holds it already just so.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Misuse`].
    pub fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        if self.main.declared.holds(relation) {
            return Ok(());
        }
        self.append_change(kind::RELATION, |body| format::encode(&**relation, body))?;
        self.main.declared.insert(relation);
        Ok(())
    }

    /// Appends a changed row. `operation` is `I`, `U` or `D`; `tuples` is what follows the relation's OID in the
    /// server's message, which the caller has checked with [`crate::Row::decode`].
    ///
    /// # Errors
    /// [`Error::Io`], and the row is not appended; [`Error::Misuse`] outside a transaction or with a relation that was
    /// not declared.
    #[inline]
    pub fn row(&mut self, relation: u32, operation: u8, tuples: &[u8]) -> Result<(), Error> {
        self.main.declared.check(relation)?;
        check_row(operation, tuples)?;
        self.append_change(operation, |body| format::encode_row(relation, tuples, body))
    }

    /// Appends a truncate.
    ///
    /// # Errors
    /// [`Error::Io`], and nothing is appended; [`Error::Misuse`] outside a transaction.
    pub fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        truncate.relations.iter().try_for_each(|relation| self.main.declared.check(*relation))?;
        self.append_change(kind::TRUNCATE, |body| format::encode_truncate(truncate, body))
    }

    /// Appends a message, inside a transaction or, if it is not transactional, also between two.
    ///
    /// # Errors
    /// [`Error::Io`], and nothing is appended; [`Error::Misuse`] for a transactional message outside a transaction.
    pub fn message(&mut self, message: &Message<'_>) -> Result<(), Error> {
        check_message(message)?;
        if self.open.is_some() || message.transactional {
            return self.append_change(kind::MESSAGE, |body| format::encode_message(message, body));
        }
        self.append_between(kind::MESSAGE, |body| format::encode_message(message, body))
    }

    /// Notes that nothing for this trail lies before `progress.resume_lsn` that is not in it.
    ///
    /// # Errors
    /// [`Error::Io`], and nothing is appended; [`Error::Misuse`] inside a transaction.
    pub fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        self.append_between(kind::PROGRESS, |body| format::encode(progress, body))?;
        self.appended.resume_lsn = self.appended.resume_lsn.max(progress.resume_lsn);
        Ok(())
    }

    fn append_between(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.ready(false)?;
        self.rotate_if_full()?;
        self.main.make_room(&*self.storage)?;
        self.main.append(kind, fill);
        self.appended.position = self.main.position();
        Ok(())
    }

    /// Ends the transaction. `commit.changes` is filled in here.
    ///
    /// # Errors
    /// [`Error::Misuse`] outside a transaction, or for another commit than the one that was begun.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.ready(true)?;
        if self.open.as_ref().is_some_and(|open| open.commit != commit.commit_lsn) {
            return Err(Error::Misuse("another commit LSN than the transaction began with"));
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        let commit = Commit { changes: open.changes, ..*commit };
        let record = format::CommitRecord { commit, digest: open.digest.0 };
        self.main.append(kind::COMMIT, |body| format::encode(&record, body));
        self.main.transactions += 1;
        self.appended = Mark {
            position: self.main.position(),
            resume_lsn: commit.end_lsn.max(self.appended.resume_lsn),
            commit_lsn: commit.commit_lsn,
            commit_time: commit.commit_time,
            set: self.appended.set,
        };
        Ok(())
    }

    /// Takes back the transaction that has begun and not ended, if there is one, and everything streamed: the source
    /// sends it again after a lost connection.
    ///
    /// # Errors
    /// [`Error::Io`]. It can be called again then, and must be before anything else is appended.
    pub fn rollback(&mut self) -> Result<(), Error> {
        if let Some(open) = &self.open {
            if !self.poisoned {
                self.main.cut(&*self.storage, open.start)?;
            }
            // Relations declared in it go with it; the others are declared once more.
            self.main.declared.clear();
            self.open = None;
        }
        // Forgotten in any case; a file that cannot be removed now is removed when the trail is opened again.
        let dropped: Vec<Side> = self.sides.drain().map(|(_, side)| side).collect();
        let mut result = Ok(());
        for side in dropped {
            result = result.and(side.remove());
        }
        result
    }

    /// Seals the file and begins the next.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside a transaction.
    pub fn rotate(&mut self) -> Result<(), Error> {
        self.rotate_to(self.appended, self.options.clone())
    }

    fn rotate_to(&mut self, at: Mark, options: WriterOptions) -> Result<(), Error> {
        self.ready(false)?;
        self.main.seal(&*self.storage, &self.appended)?;
        let next = self.main.seqno + 1;
        let main = Main::begin(&self.storage, next, &header(&options, next, &at))?;
        let full = std::mem::replace(&mut self.main, main);
        self.unsynced.push((main_name(full.seqno), full.into_file()));
        self.directory_changed = true;
        self.options = options;
        self.appended = Mark { position: self.main.position(), ..at };
        Ok(())
    }

    /// Begins a new file for another lineage, at `start`: a slot that was created anew, where readers of the old lineage
    /// stop, or a server that was promoted, where they go on.
    ///
    /// # Errors
    /// [`Error::Io`], and the trail still is of the old lineage; [`Error::Misuse`] inside a transaction.
    pub fn begin_lineage(&mut self, lineage: Lineage, start: ResumeLsn) -> Result<(), Error> {
        if !self.sides.is_empty() {
            return Err(Error::Misuse("a new lineage while transactions of the old one are being streamed"));
        }
        let at = Mark { resume_lsn: start, set: self.appended.set, ..Mark::default() };
        self.rotate_to(at, WriterOptions { lineage, ..self.options.clone() })?;
        self.progress(&Progress { resume_lsn: start, time: (self.options.clock)() })
    }

    /// Begins a new file in another epoch.
    ///
    /// # Errors
    /// [`Error::Io`], and the trail still is in the old epoch; [`Error::Misuse`] inside a transaction.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<(), Error> {
        self.rotate_to(self.appended, WriterOptions { epoch, ..self.options.clone() })
    }

    fn rotate_if_full(&mut self) -> Result<(), Error> {
        if self.main.end() >= self.options.file_size || self.main.sealed { self.rotate() } else { Ok(()) }
    }

    /// Hands everything appended to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`]. Nothing is lost: a later flush writes the same bytes at the same place.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.poisoned {
            return Err(self.poisoned());
        }
        self.main.flush(&*self.storage)
    }
}

fn header(options: &WriterOptions, seqno: u64, at: &Mark) -> FileHeader {
    FileHeader {
        flow: options.flow.clone(),
        lineage: options.lineage,
        seqno,
        epoch: options.epoch,
        created: (options.clock)(),
        resume_lsn: at.resume_lsn,
        previous: at.commit_lsn,
        server_version: options.server_version,
        release: options.release.clone(),
    }
}

#[inline]
fn check_row(operation: u8, tuples: &[u8]) -> Result<(), Error> {
    if !matches!(operation, kind::INSERT | kind::UPDATE | kind::DELETE) {
        return Err(Error::Misuse("a row that is neither inserted nor updated nor deleted"));
    }
    if tuples.len() > MAX_BODY {
        return Err(Error::Misuse("a row that is longer than the server's longest"));
    }
    Ok(())
}

fn check_message(message: &Message<'_>) -> Result<(), Error> {
    if message.prefix.len() + message.content.len() > MAX_BODY {
        return Err(Error::Misuse("a message that is longer than the server's longest"));
    }
    Ok(())
}
