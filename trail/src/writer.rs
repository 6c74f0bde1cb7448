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
//! * after a failed write the same bytes are written again at the same place by the next flush, so a full disk loses
//!   nothing; after a failed *sync* nothing of the cache can be trusted, the writer cuts the file back to the mark and
//!   refuses further work.
//!
//! The job holds no reference to the writer, so that one thread appends while another syncs.

mod recovery;
mod side;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::change::{Message, Truncate};
use crate::error::Error;
use crate::format::{self, Digest, End, FileHeader, FileKind, Mark, kind, main_name};
use crate::lsn::{CommitLsn, Lineage, Position, ResumeLsn, Timestamp};
use crate::mark::DurableMark;
use crate::relation::Relation;
use crate::storage::{File, Storage};
use crate::transaction::{Begin, Commit, Progress};

pub use recovery::Recovered;
use side::Side;

/// Appended bytes are handed to the operating system when there are so many.
pub const FLUSH_AT: usize = 256 * 1024;
/// A side file is synced along, before its transaction commits, when it has grown by so many bytes.
const SIDE_SYNC_AT: u64 = 8 << 20;

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
        }
    }
}

/// The main file that is being written.
#[derive(Debug)]
struct Main {
    file: Arc<dyn File>,
    seqno: u64,
    /// Bytes appended and not yet written; they belong at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    /// Relations that the file holds, as it holds them.
    declared: HashMap<u32, Arc<Relation>>,
    transactions: u64,
    sealed: bool,
}

impl Main {
    fn end(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn position(&self) -> Position {
        Position { seqno: self.seqno, offset: self.end() }
    }
}

/// A transaction that has begun and not ended.
#[derive(Debug)]
struct Open {
    start: u64,
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
    /// Transactions that the source has not committed yet, by their top-level xid.
    sides: HashMap<u32, Side>,
    nonce: u32,
    /// Files that hold appended transactions and have not been synced since.
    unsynced: Vec<(String, Arc<dyn File>)>,
    directory_changed: bool,
    poisoned: bool,
    _lock: LockGuard,
}

struct LockGuard(#[allow(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// Files to be synced, and what is durable then. Runs on any thread.
#[derive(Debug)]
pub struct SyncJob {
    files: Vec<(String, Arc<dyn File>)>,
    directory: bool,
    storage: Arc<dyn Storage>,
    then: Mark,
}

impl SyncJob {
    /// Syncs. Blocks for as long as the disk takes. Hand the answer to [`Writer::synced`] or, if it is an error, call
    /// [`Writer::sync_failed`].
    ///
    /// # Errors
    /// [`Error::Io`], after which it is unknown what is durable.
    pub fn run(&self) -> Result<Mark, Error> {
        for (name, file) in &self.files {
            file.sync().map_err(Error::io("sync", self.storage.path(name)))?;
        }
        if self.directory {
            self.storage.sync_directory().map_err(Error::io("sync", self.storage.path("")))?;
        }
        Ok(self.then)
    }
}

fn lock(storage: &dyn Storage) -> Result<LockGuard, Error> {
    match storage.lock() {
        Ok(guard) => Ok(LockGuard(guard)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::InUse(storage.path(""))),
        Err(error) => Err(Error::io("lock", storage.path("lock"))(error)),
    }
}

impl Writer {
    /// Begins a new trail whose first transaction is the first that commits at or after `start`. Durable on return.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is a trail already, [`Error::InUse`], [`Error::Io`].
    pub fn create(
        storage: Arc<dyn Storage>,
        options: WriterOptions,
        start: ResumeLsn,
    ) -> Result<Self, Error> {
        let lock = lock(&*storage)?;
        let names = storage.list().map_err(Error::io("list", storage.path("")))?;
        if names.iter().any(|name| format::parse_main_name(name).is_some()) {
            return Err(Error::Exists(storage.path("")));
        }
        let mark = DurableMark::open(&storage)?;
        let at = Mark { resume_lsn: start, ..Mark::default() };
        let main = Self::begin_file(&storage, &options, 1, &at)?;
        let mut writer = Self::with(storage, options, mark, main, at, lock);
        writer.progress(&Progress { resume_lsn: start, time: (writer.options.clock)() })?;
        writer.sync()?;
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
            sides: HashMap::new(),
            nonce: 0,
            unsynced: Vec::new(),
            directory_changed: true,
            poisoned: false,
            _lock: lock,
        }
    }

    fn begin_file(
        storage: &Arc<dyn Storage>,
        options: &WriterOptions,
        seqno: u64,
        at: &Mark,
    ) -> Result<Main, Error> {
        let name = main_name(seqno);
        let file = storage.create(&name).map_err(Error::io("create", storage.path(&name)))?;
        let buffer = format::encode_header(FileKind::Main, &Self::header(options, seqno, at));
        Ok(Main { file, seqno, buffer, flushed: 0, declared: HashMap::new(), transactions: 0, sealed: false })
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
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whose LSNs the trail holds.
    pub fn lineage(&self) -> Lineage {
        self.options.lineage
    }

    /// What has been appended, up to the last whole transaction.
    pub fn appended(&self) -> Mark {
        self.appended
    }

    /// What a power cut leaves.
    pub fn durable(&self) -> Mark {
        self.durable
    }

    fn ready(&self, open: bool) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::Poisoned(self.storage.path("")));
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
    /// [`Error::Io`], when the last file is full and the next cannot be made; [`Error::Misuse`].
    pub fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        self.ready(false)?;
        if begin.commit_lsn <= self.appended.commit_lsn {
            return Err(Error::Misuse("a commit LSN that does not rise"));
        }
        self.rotate_if_full()?;
        let begin = Begin { previous: self.appended.commit_lsn, ..begin.clone() };
        self.open = Some(Open { start: self.main.end(), digest: Digest::default(), changes: 0 });
        format::append(&mut self.main.buffer, kind::BEGIN, |body| format::encode(&begin, body));
        Ok(())
    }

    fn append_change(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.ready(true)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.digest.fold(format::append(&mut self.main.buffer, kind, fill));
        open.changes += u64::from(kind != kind::RELATION);
        if self.main.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Declares a relation for the rows that follow, unless the file holds it already just so.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Misuse`].
    pub fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        if let Some(known) = self.main.declared.get(&relation.id)
            && (Arc::ptr_eq(known, relation) || known == relation)
        {
            return Ok(());
        }
        self.main.declared.insert(relation.id, Arc::clone(relation));
        self.append_change(kind::RELATION, |body| format::encode(&**relation, body))
    }

    /// Appends a changed row. `operation` is `I`, `U` or `D`; `tuples` is what follows the relation's OID in the
    /// server's message, which the caller has checked with [`crate::Row::decode`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] outside a transaction or with a relation that was not declared.
    #[inline]
    pub fn row(&mut self, relation: u32, operation: u8, tuples: &[u8]) -> Result<(), Error> {
        if !self.main.declared.contains_key(&relation) {
            return Err(Error::Misuse("a row of a relation that was not declared"));
        }
        self.append_change(operation, |body| format::encode_row(relation, tuples, body))
    }

    /// Appends a truncate.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] outside a transaction.
    pub fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error> {
        if truncate.relations.iter().any(|relation| !self.main.declared.contains_key(relation)) {
            return Err(Error::Misuse("a truncate of a relation that was not declared"));
        }
        self.append_change(kind::TRUNCATE, |body| format::encode_truncate(truncate, body))
    }

    /// Appends a message, inside a transaction or, if it is not transactional, also between two.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] for a transactional message outside a transaction.
    pub fn message(&mut self, message: &Message<'_>) -> Result<(), Error> {
        if self.open.is_some() || message.transactional {
            return self.append_change(kind::MESSAGE, |body| format::encode_message(message, body));
        }
        self.ready(false)?;
        self.rotate_if_full()?;
        format::append(&mut self.main.buffer, kind::MESSAGE, |body| format::encode_message(message, body));
        self.appended.position = self.main.position();
        Ok(())
    }

    /// Ends the transaction. `commit.changes` is filled in here.
    ///
    /// # Errors
    /// [`Error::Misuse`] outside a transaction.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.ready(true)?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let commit = Commit { changes: open.changes, ..*commit };
        let record = format::CommitRecord { commit, digest: open.digest.0 };
        format::append(&mut self.main.buffer, kind::COMMIT, |body| format::encode(&record, body));
        self.main.transactions += 1;
        self.appended = Mark {
            position: self.main.position(),
            resume_lsn: commit.end_lsn.max(self.appended.resume_lsn),
            commit_lsn: commit.commit_lsn,
            commit_time: commit.commit_time,
            set: self.appended.set,
        };
        if self.main.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Takes back the transaction that has begun and not ended, if there is one, and everything streamed: the source
    /// sends it again after a lost connection.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rollback(&mut self) -> Result<(), Error> {
        if let Some(open) = self.open.take() {
            // Relations declared in it go with it; the others are declared once more.
            self.main.declared.clear();
            self.cut(open.start)?;
        }
        let dropped: Vec<u32> = self.sides.keys().copied().collect();
        dropped.into_iter().try_for_each(|xid| self.side_drop(xid))
    }

    fn cut(&mut self, end: u64) -> Result<(), Error> {
        if let Some(keep) = end.checked_sub(self.main.flushed) {
            self.main.buffer.truncate(keep as usize);
            return Ok(());
        }
        self.main.buffer.clear();
        let path = || self.storage.path(&main_name(self.main.seqno));
        self.main.file.truncate(end).map_err(Error::io("truncate", path()))?;
        self.main.flushed = end;
        Ok(())
    }

    /// Notes that nothing for this trail lies before `progress.resume_lsn` that is not in it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside a transaction.
    pub fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        self.ready(false)?;
        self.rotate_if_full()?;
        format::append(&mut self.main.buffer, kind::PROGRESS, |body| format::encode(progress, body));
        self.appended.position = self.main.position();
        self.appended.resume_lsn = self.appended.resume_lsn.max(progress.resume_lsn);
        Ok(())
    }

    /// Seals the file and begins the next.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside a transaction.
    pub fn rotate(&mut self) -> Result<(), Error> {
        self.ready(false)?;
        self.seal()?;
        let next = self.main.seqno + 1;
        let main = Self::begin_file(&self.storage, &self.options, next, &self.appended)?;
        let full = std::mem::replace(&mut self.main, main);
        self.unsynced.push((main_name(full.seqno), full.file));
        self.directory_changed = true;
        self.appended.position = self.main.position();
        Ok(())
    }

    /// Begins a new file for a slot that was created anew, at `start`. Readers of the old lineage stop here.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside a transaction.
    pub fn begin_lineage(&mut self, lineage: Lineage, start: ResumeLsn) -> Result<(), Error> {
        self.ready(false)?;
        self.seal()?;
        self.options.lineage = lineage;
        self.appended.resume_lsn = start;
        self.appended.commit_lsn = CommitLsn::default();
        self.appended.commit_time = Timestamp::default();
        self.rotate()?;
        self.progress(&Progress { resume_lsn: start, time: (self.options.clock)() })
    }

    /// Begins a new file in another epoch.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Misuse`] inside a transaction.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<(), Error> {
        self.options.epoch = epoch;
        self.rotate()
    }

    fn rotate_if_full(&mut self) -> Result<(), Error> {
        if self.main.end() >= self.options.file_size || self.main.sealed { self.rotate() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<(), Error> {
        if !self.main.sealed {
            let end = End {
                transactions: self.main.transactions,
                previous: self.appended.commit_lsn,
                resume_lsn: self.appended.resume_lsn,
            };
            format::append(&mut self.main.buffer, kind::END, |body| format::encode(&end, body));
            self.main.sealed = true;
        }
        self.flush()
    }

    /// Hands everything appended to the operating system.
    ///
    /// # Errors
    /// [`Error::Io`]. Nothing is lost: a later flush writes the same bytes at the same place.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::Poisoned(self.storage.path("")));
        }
        let main = &mut self.main;
        if main.buffer.is_empty() {
            return Ok(());
        }
        let path = || self.storage.path(&main_name(main.seqno));
        main.file.write_all_at(&main.buffer, main.flushed).map_err(Error::io("write", path()))?;
        main.flushed += main.buffer.len() as u64;
        main.buffer.clear();
        main.buffer.shrink_to(2 * FLUSH_AT);
        Ok(())
    }

    /// Flushes, and returns what must be synced to make every appended transaction durable; `None` when all is.
    ///
    /// # Errors
    /// [`Error::Io`] as for [`Writer::flush`].
    pub fn sync_job(&mut self) -> Result<Option<SyncJob>, Error> {
        self.flush()?;
        let mut files = Vec::new();
        for side in self.sides.values_mut() {
            if side.unsynced() >= SIDE_SYNC_AT {
                files.push(side.sync_target());
            }
        }
        if self.appended.position == self.durable.position && files.is_empty() {
            return Ok(None);
        }
        files.append(&mut self.unsynced);
        files.push((main_name(self.main.seqno), Arc::clone(&self.main.file)));
        let then = Mark { set: (self.options.clock)(), ..self.appended };
        let directory = std::mem::take(&mut self.directory_changed);
        Ok(Some(SyncJob { files, directory, storage: Arc::clone(&self.storage), then }))
    }

    /// Takes a finished job's answer: moves the mark that readers see. Jobs must be answered in their order.
    ///
    /// # Errors
    /// [`Error::Io`], when the mark cannot be written; it is written again with the next.
    pub fn synced(&mut self, mark: Mark) -> Result<(), Error> {
        self.durable = mark;
        self.mark.publish(&mark)
    }

    /// Takes note that a job failed: cuts back to the mark, as far as the disk allows, and refuses further work.
    pub fn sync_failed(&mut self) {
        self.poisoned = true;
        if self.durable.position.seqno == self.main.seqno {
            // The error that matters has been reported already; recovery judges what is left.
            let _ = self.main.file.truncate(self.durable.position.offset);
        }
    }

    /// Makes everything appended durable, here and now.
    ///
    /// # Errors
    /// [`Error::Io`]. After a failed sync the writer is closed for further work.
    pub fn sync(&mut self) -> Result<Mark, Error> {
        if let Some(job) = self.sync_job()? {
            match job.run() {
                Ok(mark) => self.synced(mark)?,
                Err(error) => {
                    self.sync_failed();
                    return Err(error);
                }
            }
        }
        Ok(self.durable)
    }
}
