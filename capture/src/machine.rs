//! Extract's decisions: messages in, calls to a [`Sink`] out. No clock, no file, no socket.
//!
//! # States
//!
//! ```text
//! between ──B──▶ open ──C──▶ between        a whole transaction
//! between ──S──▶ block ──E──▶ between       a piece of one in progress; c or A ends it, from between
//! any ──disconnected                        whatever was open is rolled back: the server sends it again
//! ```
//!
//! # Why nothing is lost or repeated
//!
//! * The server sends a transaction if and only if its commit record starts at or after the position asked for. That
//!   position is always [`Positions::durable`], an end of a commit record or a keepalive's, so what comes again starts
//!   after everything that is appended. One that starts before it is a duplicate and is left out.
//! * Commit LSNs rise strictly on one connection and over the trail. One that does not is an error and not a
//!   transaction: a stream that went back would be applied twice, or out of order.
//! * A transaction without a change left (another's origin, tables of our own) is not written, but it has been seen:
//!   `reached` moves over it, and a progress record carries that into the trail.
//! * A keepalive's position says that everything before it has been sent *on this connection*. Messages are handled in
//!   the order in which they came, so at its place in the stream everything before it is in the sink or not for it,
//!   unless a transaction is open: then it is left to the next one. A transaction in progress does not hinder it: its
//!   commit lies later, and then it is sent whole.
//! * The position is confirmed only out of the trail: [`Machine::settle`] writes the progress record, the caller syncs,
//!   [`Machine::synced`] moves `durable`. Records are rate-limited, except when the server asked for an answer: a
//!   stopping primary waits until the client has confirmed all that was sent.
//!
//! # What the caller must do
//!
//! 1. For each connection a new machine, from the sink's own durable place, with START_REPLICATION at that place.
//! 2. Every message of the connection in order, every keepalive at its place among them.
//! 3. [`Machine::settle`] whenever it has handled all that it has read, then flush and sync the sink.
//! 4. [`Machine::synced`] after each sync, with the position that was appended when the sync began; only then tell the
//!    slot, and then [`Machine::confirmed`].
//! 5. [`Machine::disconnected`] when the connection ended or any call failed.

mod chain;
mod relations;
mod settings;
mod streamed;
#[cfg(test)]
mod tests;

use irongate_trail::{Begin, Commit, CommitLsn, Lsn, Progress, Relation, ResumeLsn, Timestamp, Truncate};
use rustc_hash::FxHashMap;

pub use self::chain::Positions;
use self::relations::Relations;
pub use self::settings::{Counts, OWN_SCHEMA, Settings, SkipOrigins, TableCounts};
use self::streamed::Streamed;
use crate::error::Error;
use crate::pgoutput::{Message, Row};
use crate::sink::Sink;

/// The transaction between `B` and `C`.
#[derive(Debug)]
struct Open {
    begin: Begin,
    /// Not wanted, whatever it changes.
    skipped: bool,
    /// Whether the sink has seen its begin.
    begun: bool,
    changes: u64,
}

/// Extract's state on one connection.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    positions: Positions,
    /// Everything before it has been handled on this connection, noted or not.
    reached: ResumeLsn,
    /// Where the connection began: commits before it are in the sink.
    start: ResumeLsn,
    last_commit: CommitLsn,
    relations: Relations,
    open: Option<Open>,
    /// Top-level xid of the block that the stream is in.
    block: Option<u32>,
    streamed: FxHashMap<u32, Streamed>,
    /// The last position that the stream named, for errors.
    at: Lsn,
    /// A progress record is wanted whatever the time.
    urgent: bool,
    /// A message outside a transaction was given to the sink, and nothing yet that keeps it from coming again.
    owed: bool,
    last_progress: Option<Timestamp>,
    counts: Counts,
}

impl Machine {
    /// A machine that goes on after `durable`, up to which the sink has everything, the last transaction in it being
    /// `last_commit` (zero for none).
    pub fn new(settings: Settings, durable: ResumeLsn, last_commit: CommitLsn) -> Self {
        Self {
            settings,
            positions: Positions::new(durable),
            reached: durable,
            start: durable,
            last_commit,
            relations: Relations::default(),
            open: None,
            block: None,
            streamed: FxHashMap::default(),
            at: durable.0,
            urgent: false,
            owed: false,
            last_progress: None,
            counts: Counts::default(),
        }
    }

    /// The frame around the next message carries `lsn`; many carry 0/0.
    #[inline]
    pub fn frame(&mut self, lsn: Lsn) {
        if lsn != Lsn::ZERO {
            self.at = lsn;
            self.positions.receive(lsn);
        }
    }

    /// Handles one message.
    ///
    /// # Errors
    /// The sink's, and [`Error::Protocol`] and its like for a message that cannot stand here.
    #[inline]
    pub fn message(&mut self, message: Message<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        match message {
            Message::Row(row) => self.row(row, sink),
            other => self.control(other, sink),
        }
    }

    fn control(&mut self, message: Message<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        match message {
            Message::Row(row) => self.row(row, sink),
            Message::Begin { commit_lsn, commit_time, xid } => self.begin(commit_lsn, commit_time, xid),
            Message::Commit { commit_lsn, end_lsn, commit_time } => {
                self.commit(Commit { commit_lsn, end_lsn, commit_time, changes: 0 }, sink)
            }
            Message::Origin { name, .. } => self.origin(name),
            Message::Relation { relation, .. } => self.relation(relation),
            Message::Type { oid, schema, name, .. } => {
                self.described().learn_type(oid, schema, name);
                Ok(())
            }
            Message::Truncate { xid, truncate } => self.truncate(xid, truncate, sink),
            Message::Logical { xid, message } => self.logical(xid, message, sink),
            Message::StreamStart { xid, first } => self.stream_start(xid, first, sink),
            Message::StreamStop => {
                self.block.take().map(|_| ()).ok_or_else(|| self.unexpected("stream stop without a start"))
            }
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
                self.stream_commit(xid, Commit { commit_lsn, end_lsn, commit_time, changes: 0 }, sink)
            }
            Message::StreamAbort { xid, subxid, .. } => self.stream_abort(xid, subxid, sink),
            Message::BeginPrepare(_)
            | Message::Prepare(_)
            | Message::CommitPrepared(_)
            | Message::RollbackPrepared { .. }
            | Message::StreamPrepare(_) => Err(Error::TwoPhase),
        }
    }

    /// The server is at `wal_end`, and has sent everything before it on this connection.
    pub fn keepalive(&mut self, wal_end: Lsn, reply_requested: bool) {
        self.positions.receive(wal_end);
        if self.open.is_some() || self.block.is_some() {
            return;
        }
        self.reached = self.reached.max(ResumeLsn(wal_end));
        if reply_requested && wal_end > self.positions.durable.0 {
            self.urgent = true;
        }
    }

    /// Notes how far the stream has come, if there is something to note and it is time. The caller has handled all that
    /// it has read. Returns whether anything appended waits for a sync.
    ///
    /// # Errors
    /// The sink's.
    pub fn settle(&mut self, now: Timestamp, sink: &mut impl Sink) -> Result<bool, Error> {
        if self.open.is_none() {
            if self.urgent || self.owed || self.is_time(now) {
                self.note(now, sink)?;
            }
            self.urgent = false;
        }
        Ok(self.positions.appended > self.positions.durable)
    }

    fn note(&mut self, now: Timestamp, sink: &mut impl Sink) -> Result<(), Error> {
        self.owed = false;
        if self.reached > self.positions.appended {
            sink.progress(&Progress { resume_lsn: self.reached, time: now })?;
            self.positions.append(self.reached)?;
            self.last_progress = Some(now);
        }
        Ok(())
    }

    /// A clock that was set back must not silence the machine.
    fn is_time(&self, now: Timestamp) -> bool {
        let interval = i64::try_from(self.settings.progress_interval.as_micros()).unwrap_or(i64::MAX);
        self.last_progress.is_none_or(|last| now < last || now.0.saturating_sub(last.0) >= interval)
    }

    /// The next [`Machine::settle`] notes the place whatever the time: the process is about to stop.
    pub fn stopping(&mut self) {
        self.urgent = true;
    }

    /// Everything before `durable` survives a power cut now.
    ///
    /// # Errors
    /// [`Error::Positions`] when that cannot be.
    pub fn synced(&mut self, durable: ResumeLsn) -> Result<(), Error> {
        self.positions.sync(durable)
    }

    /// The slot was told `confirmed`.
    ///
    /// # Errors
    /// [`Error::Positions`] when that was too early, or less than before.
    pub fn confirmed(&mut self, confirmed: ResumeLsn) -> Result<(), Error> {
        self.positions.confirm(confirmed)
    }

    /// The connection is gone: what it had begun is forgotten, and the next one's machine gets it again.
    ///
    /// # Errors
    /// The sink's.
    pub fn disconnected(&mut self, now: Timestamp, sink: &mut impl Sink) -> Result<(), Error> {
        self.open = None;
        self.block = None;
        self.streamed.clear();
        sink.rollback()?;
        if self.owed { self.note(now, sink) } else { Ok(()) }
    }

    /// Whether a transaction is begun and not ended: not the moment to stop in an orderly way.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Streamed transactions whose end is not known yet.
    pub fn streamed(&self) -> usize {
        self.streamed.len()
    }

    /// Where it is.
    pub fn positions(&self) -> Positions {
        self.positions
    }

    /// What it did.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Hands out the changes of each table that were counted since the last time.
    pub fn drain_table_counts(&mut self, take: impl FnMut(&Relation, TableCounts)) {
        self.relations.drain_counts(take);
    }

    /// The last position that the stream named.
    pub fn at(&self) -> Lsn {
        self.at
    }

    fn begin(&mut self, commit_lsn: CommitLsn, commit_time: Timestamp, xid: u32) -> Result<(), Error> {
        if self.open.is_some() || self.block.is_some() {
            return Err(self.unexpected("begin inside a transaction"));
        }
        let duplicate = self.is_duplicate(commit_lsn);
        if !duplicate {
            self.check_order(commit_lsn)?;
        }
        let begin = Begin { xid, commit_lsn, commit_time, origin: None, previous: CommitLsn::default() };
        self.open = Some(Open { begin, skipped: duplicate, begun: false, changes: 0 });
        Ok(())
    }

    fn origin(&mut self, name: &str) -> Result<(), Error> {
        let skipped = self.settings.skip_origins.contains(name);
        match (&mut self.open, self.block.and_then(|xid| self.streamed.get_mut(&xid))) {
            (Some(open), _) if !open.begun => {
                open.begin.origin = Some(name.to_owned());
                open.skipped |= skipped;
                Ok(())
            }
            (None, Some(streamed)) if !streamed.stored => {
                streamed.origin = Some(name.to_owned());
                streamed.skipped |= skipped;
                Ok(())
            }
            _ => Err(self.unexpected("origin that is not at the start of a transaction")),
        }
    }

    fn relation(&mut self, relation: Relation) -> Result<(), Error> {
        let captured = self.settings.own_schema || relation.schema != OWN_SCHEMA;
        if self.settings.binary
            && captured
            && let Some(column) =
                relation.columns.iter().find(|column| !crate::binary::is_safe(column.type_oid))
        {
            return Err(Error::NotBinary {
                column: column.name.clone(),
                type_oid: column.type_oid,
                schema: relation.schema,
                table: relation.name,
            });
        }
        self.described().learn(relation, captured);
        Ok(())
    }

    /// The tables that the stream describes at this point.
    fn described(&mut self) -> &mut Relations {
        match self.block.and_then(|xid| self.streamed.get_mut(&xid)) {
            Some(streamed) => &mut streamed.relations,
            None => &mut self.relations,
        }
    }

    #[inline]
    fn row(&mut self, row: Row<'_>, sink: &mut impl Sink) -> Result<(), Error> {
        if let Some(open) = &mut self.open {
            if open.skipped {
                return Ok(());
            }
            let Some(known) = self.relations.get_mut(row.relation) else {
                return Err(self.unknown_relation(row.relation));
            };
            if known.relation.columns.len() != usize::from(row.columns) {
                return Err(self.wrong_columns(row));
            }
            if !known.captured {
                return Ok(());
            }
            open.begin(sink)?;
            if known.declared != Some(open.name()) {
                sink.relation(&known.relation)?;
                known.declared = Some(open.name());
            }
            open.changes += 1;
            known.counts.add(row.operation);
            return sink.row(row.relation, row.operation, row.bytes);
        }
        self.side_row(row, sink)
    }

    fn truncate(
        &mut self,
        subxid: Option<u32>,
        mut truncate: Truncate,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.is_skipped()? {
            return Ok(());
        }
        let unknown = truncate.relations.iter().find(|id| self.described().get_mut(**id).is_none()).copied();
        if let Some(id) = unknown {
            return Err(self.unknown_relation(id));
        }
        truncate.relations.retain(|id| self.described().get_mut(*id).is_some_and(|known| known.captured));
        if truncate.relations.is_empty() {
            return Ok(());
        }
        if let Some(open) = &mut self.open {
            open.begin(sink)?;
            for id in &truncate.relations {
                let Some(known) = self.relations.get_mut(*id) else { continue };
                known.counts.add(b'T');
                if known.declared != Some(open.name()) {
                    sink.relation(&known.relation)?;
                    known.declared = Some(open.name());
                }
            }
            open.changes += 1;
            return sink.truncate(&truncate);
        }
        let (xid, subxid, streamed) = self.side(subxid)?;
        streamed.stored = true;
        for id in &truncate.relations {
            let Some(known) = streamed.relations.get_mut(*id) else { continue };
            known.counts.add(b'T');
            if known.declared.is_none() {
                sink.side_relation(xid, &known.relation)?;
                known.declared = Some(0);
            }
        }
        streamed.count(subxid);
        sink.side_truncate(xid, subxid, &truncate)
    }

    fn logical(
        &mut self,
        subxid: Option<u32>,
        message: irongate_trail::Message<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if !message.transactional {
            return self.message_between(&message, sink);
        }
        if self.is_skipped()? {
            return Ok(());
        }
        self.counts.messages += 1;
        if let Some(open) = &mut self.open {
            open.begin(sink)?;
            open.changes += 1;
            return sink.message(&message);
        }
        let (xid, subxid, streamed) = self.side(subxid)?;
        streamed.stored = true;
        streamed.count(subxid);
        sink.side_message(xid, subxid, &message)
    }

    /// A message that belongs to no transaction stands at its own place in the log. Its LSN is the end of its record,
    /// and a progress record right behind it keeps it from coming again.
    fn message_between(
        &mut self,
        message: &irongate_trail::Message<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Error> {
        if self.open.is_some() || self.block.is_some() {
            return Err(self.unexpected("message outside its place between transactions"));
        }
        if message.lsn <= self.start.0 {
            return Ok(());
        }
        sink.message(message)?;
        self.counts.messages += 1;
        self.positions.receive(message.lsn);
        self.reached = self.reached.max(ResumeLsn(message.lsn));
        self.owed = true;
        Ok(())
    }

    fn commit(&mut self, commit: Commit, sink: &mut impl Sink) -> Result<(), Error> {
        let Some(open) = self.open.take() else {
            return Err(self.unexpected("commit without a begin"));
        };
        if open.begin.commit_lsn != commit.commit_lsn || commit.end_lsn.0 <= commit.commit_lsn.0 {
            let what = format!(
                "commit at {} of a transaction that ends at {}",
                commit.commit_lsn, open.begin.commit_lsn
            );
            return Err(self.unexpected(&what));
        }
        if open.begun {
            let commit = Commit { changes: open.changes, ..commit };
            sink.commit(&commit)?;
            self.captured(&commit)
        } else {
            self.left_out(&commit);
            Ok(())
        }
    }

    fn captured(&mut self, commit: &Commit) -> Result<(), Error> {
        self.counts.transactions += 1;
        self.counts.changes += commit.changes;
        self.counts.commit_time = commit.commit_time;
        self.last_commit = commit.commit_lsn;
        self.positions.receive(commit.end_lsn.0);
        self.reached = self.reached.max(commit.end_lsn);
        self.positions.append(commit.end_lsn)
    }

    /// Seen, and nothing for the sink.
    fn left_out(&mut self, commit: &Commit) {
        if self.is_duplicate(commit.commit_lsn) {
            self.counts.duplicates += 1;
            return;
        }
        self.counts.skipped += 1;
        self.last_commit = commit.commit_lsn;
        self.positions.receive(commit.end_lsn.0);
        self.reached = self.reached.max(commit.end_lsn);
    }

    fn is_duplicate(&self, commit_lsn: CommitLsn) -> bool {
        commit_lsn.0 < self.start.0
    }

    fn check_order(&self, commit_lsn: CommitLsn) -> Result<(), Error> {
        if commit_lsn > self.last_commit && commit_lsn.0 >= self.positions.appended.0 {
            return Ok(());
        }
        Err(self.unexpected(&format!(
            "commit at {commit_lsn} after the one at {}, with everything before {} in the trail",
            self.last_commit, self.positions.appended
        )))
    }

    /// Whether the transaction that the stream is in is not wanted.
    fn is_skipped(&self) -> Result<bool, Error> {
        match (&self.open, self.block.and_then(|xid| self.streamed.get(&xid))) {
            (Some(open), _) => Ok(open.skipped),
            (None, Some(streamed)) => Ok(streamed.skipped),
            (None, None) => Err(self.unexpected("change outside a transaction")),
        }
    }

    #[cold]
    fn unexpected(&self, what: &str) -> Error {
        Error::Protocol { lsn: self.at, what: what.to_owned() }
    }

    #[cold]
    fn unknown_relation(&self, id: u32) -> Error {
        self.unexpected(&format!("change of a table (OID {id}) that was not described"))
    }

    #[cold]
    fn wrong_columns(&self, row: Row<'_>) -> Error {
        self.unexpected(&format!(
            "row of {} columns that is not as its table (OID {}) was described",
            row.columns, row.relation
        ))
    }
}

impl Open {
    /// Begins the transaction in the sink, once there is something in it.
    #[inline]
    fn begin(&mut self, sink: &mut impl Sink) -> Result<(), Error> {
        if !self.begun {
            sink.begin(&self.begin)?;
            self.begun = true;
        }
        Ok(())
    }

    /// What tells it from others.
    #[inline]
    fn name(&self) -> u64 {
        self.begin.commit_lsn.0.0
    }
}
