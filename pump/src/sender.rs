//! What the pump sends: items in, records out. Knows no socket and no file.
//!
//! The collector has said where its trail ends ([`Accepted`]). The trail here is opened behind the same place, so the first
//! items may be ones that it has already: progress up to its own, messages up to its last one, and the changes of the
//! transaction that it holds unfinished. Those are passed over, folded into the digest. When as many changes have passed as
//! it has, the digests agree, or what it holds is not what is here and the transaction is sent from its begin.

use std::sync::Arc;

use irongate_trail::{Item, Lineage, Lsn, Relation, ResumeLsn, Truncate};
use rustc_hash::FxHashMap;

use crate::wire::{self, Accepted, Content, Held};

/// A table that was read about.
#[derive(Debug)]
struct Known {
    relation: Arc<Relation>,
    crc: u32,
    /// The collector has it, on this connection.
    sent: bool,
}

/// A transaction that has begun and not ended.
#[derive(Debug, Default)]
struct Open {
    changes: u64,
    content: Content,
    /// What the collector has of it, until that has been passed.
    held: Option<Held>,
}

/// What became of an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fed {
    /// It is part of a transaction.
    Inside,
    /// The collector has it already; it is no part of a transaction.
    Passed,
    /// It ends something that the collector can acknowledge.
    Boundary,
    /// What the collector holds is not what is here: the trail must be read from the place again.
    Again,
}

/// What was sent on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Transactions.
    pub transactions: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Truncates.
    pub truncates: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes on the wire, before encryption.
    pub bytes: u64,
}

impl Sent {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            transactions: self.transactions + other.transactions,
            inserts: self.inserts + other.inserts,
            updates: self.updates + other.updates,
            deletes: self.deletes + other.deletes,
            truncates: self.truncates + other.truncates,
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// One connection's sending state.
#[derive(Debug)]
pub(crate) struct Sender {
    known: FxHashMap<u32, Known>,
    open: Option<Open>,
    held: Option<Held>,
    /// Progress up to here is there already, until something else has been sent.
    progress: Option<ResumeLsn>,
    /// Messages outside transactions up to here are there already, until something else has been sent.
    message: Option<Lsn>,
    lineage: Lineage,
    epoch: u64,
    accepted: Accepted,
    pub(crate) sent: Sent,
}

impl Sender {
    pub(crate) fn new(accepted: &Accepted) -> Self {
        Self {
            known: FxHashMap::default(),
            open: None,
            held: accepted.held,
            progress: Some(accepted.place.resume),
            message: Some(accepted.last_message),
            lineage: accepted.lineage,
            epoch: accepted.epoch,
            accepted: *accepted,
            sent: Sent::default(),
        }
    }

    /// Whether a transaction has been sent in part.
    pub(crate) fn is_within_transaction(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn lineage(&self) -> Lineage {
        self.lineage
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The trail goes on in another lineage. A boundary.
    pub(crate) fn begin_lineage(
        &mut self,
        lineage: Lineage,
        start: ResumeLsn,
        server_version: u32,
        out: &mut Vec<u8>,
    ) {
        wire::append_lineage(out, &lineage, start, server_version);
        self.lineage = lineage;
        self.held = None;
        // The collector's writer notes the start by itself.
        (self.progress, self.message) = (Some(start), None);
    }

    /// The trail goes on in another epoch. A boundary.
    pub(crate) fn begin_epoch(&mut self, epoch: u64, out: &mut Vec<u8>) {
        wire::append_epoch(out, epoch);
        self.epoch = epoch;
        // Whatever is sent instead of the unfinished transaction makes the collector take that back.
        self.held = None;
    }

    /// Begins again at the same place, with nothing that the collector holds. Nothing has been sent yet then: whatever is
    /// new gives up what is held.
    pub(crate) fn again(&mut self) {
        (self.open, self.held) = (None, None);
        (self.progress, self.message) = (Some(self.accepted.place.resume), Some(self.accepted.last_message));
    }

    /// Whoever reads on from here need not have read what was sent before: every table is described anew.
    #[cfg(feature = "kafka")]
    pub(crate) fn forget_tables(&mut self) {
        self.known.clear();
    }

    fn something_new(&mut self) {
        (self.progress, self.message, self.held) = (None, None, None);
    }

    /// Takes the next item of the trail and appends what is to be sent.
    pub(crate) fn feed(&mut self, item: &Item<'_>, out: &mut Vec<u8>) -> Fed {
        let start = out.len();
        match item {
            Item::Begin(begin) => {
                let held = self.held.take().filter(|held| held.commit == begin.commit_lsn);
                self.something_new();
                let mut open = Open { held, ..Open::default() };
                wire::append_begin(out, begin);
                open.content.record(&out[start..]);
                if open.held.is_some() {
                    out.truncate(start);
                }
                self.open = Some(open);
                self.meet(out)
            }
            Item::Row { relation, row } => {
                self.declare(relation, out);
                let begin = out.len();
                wire::append_row(out, relation.id, row);
                match row.operation() {
                    b'I' => self.sent.inserts += 1,
                    b'U' => self.sent.updates += 1,
                    _ => self.sent.deletes += 1,
                }
                self.change(start, begin, out)
            }
            Item::Truncate { relations, cascade, restart_identity } => {
                relations.iter().for_each(|relation| self.declare(relation, out));
                let begin = out.len();
                let truncate = Truncate {
                    relations: relations.iter().map(|relation| relation.id).collect(),
                    cascade: *cascade,
                    restart_identity: *restart_identity,
                };
                wire::append_truncate(out, &truncate);
                self.sent.truncates += 1;
                self.change(start, begin, out)
            }
            Item::Message(message) if self.open.is_some() => {
                wire::append_message(out, message);
                self.sent.messages += 1;
                self.change(start, start, out)
            }
            Item::Message(message) => {
                if self.message.is_some_and(|last| message.lsn <= last) {
                    return Fed::Passed;
                }
                self.something_new();
                wire::append_message(out, message);
                self.sent.messages += 1;
                Fed::Boundary
            }
            Item::Commit(commit) => {
                let Some(open) = self.open.take() else { return Fed::Again };
                if open.held.is_some() {
                    return Fed::Again;
                }
                let mut content = open.content;
                let commit = irongate_trail::Commit { changes: open.changes, ..*commit };
                wire::append_commit(out, &commit, |covered| {
                    content.record(covered);
                    content.value()
                });
                self.sent.transactions += 1;
                Fed::Boundary
            }
            Item::Progress(progress) => {
                if self.progress.is_some_and(|known| progress.resume_lsn <= known) {
                    return Fed::Passed;
                }
                self.something_new();
                wire::append_progress(out, progress);
                Fed::Boundary
            }
        }
    }

    /// Makes sure that the collector knows a table as it is now, and folds the table into the digest.
    #[inline]
    fn declare(&mut self, relation: &Arc<Relation>, out: &mut Vec<u8>) {
        let passes = self.open.as_ref().is_some_and(|open| open.held.is_some());
        let known = self.known.get_mut(&relation.id);
        let crc = match known {
            Some(known) if Arc::ptr_eq(&known.relation, relation) && (known.sent || passes) => known.crc,
            _ => self.describe(relation, passes, out),
        };
        if let Some(open) = &mut self.open {
            open.content.relation(crc);
        }
    }

    #[cold]
    fn describe(&mut self, relation: &Arc<Relation>, passes: bool, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        wire::append_relation(out, relation);
        let crc = crc32c::crc32c(&out[start..]);
        if passes {
            out.truncate(start);
        }
        let known = Known { relation: Arc::clone(relation), crc, sent: !passes };
        self.known.insert(relation.id, known);
        crc
    }

    /// A change of the open transaction lies in `out` from `begin` on, behind what it needed, from `start` on.
    #[inline]
    fn change(&mut self, start: usize, begin: usize, out: &mut Vec<u8>) -> Fed {
        let Some(open) = &mut self.open else { return Fed::Again };
        open.content.record(&out[begin..]);
        open.changes += 1;
        if open.held.is_none() {
            return Fed::Inside;
        }
        out.truncate(start);
        self.meet(out)
    }

    /// Whether the place is reached up to which the collector has the open transaction, and has it as it is here.
    fn meet(&mut self, out: &mut Vec<u8>) -> Fed {
        let Some(open) = &mut self.open else { return Fed::Again };
        match &open.held {
            Some(held) if held.changes == open.changes => {
                if held.digest != open.content.value() {
                    return Fed::Again;
                }
                wire::append_continue(out, held);
                open.held = None;
                Fed::Inside
            }
            _ => Fed::Inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use irongate_trail::{
        Begin, Column, Commit, CommitLsn, Message, Progress, ReplicaIdentity, Row, Timestamp, TupleBuilder,
    };

    use super::*;
    use crate::wire::{Place, Record, Records};

    const LINEAGE: Lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };

    fn accepted(held: Option<Held>) -> Accepted {
        let place = Place { commit: CommitLsn(Lsn(1000)), resume: ResumeLsn(Lsn(1500)) };
        Accepted { lineage: LINEAGE, epoch: 1, place, last_message: Lsn(1600), held }
    }

    fn relation(name: &str) -> Arc<Relation> {
        let column =
            Column { name: "id".to_owned(), key: true, type_oid: 25, type_modifier: -1, type_name: None };
        let replica_identity = ReplicaIdentity::Default;
        Arc::new(Relation {
            id: 16384,
            schema: "public".to_owned(),
            name: name.to_owned(),
            replica_identity,
            columns: vec![column],
        })
    }

    fn begin(commit: u64) -> Item<'static> {
        Item::Begin(Begin {
            xid: 7,
            commit_lsn: CommitLsn(Lsn(commit)),
            commit_time: Timestamp(1),
            origin: None,
            previous: CommitLsn(Lsn(3)),
        })
    }

    fn commit(commit: u64) -> Item<'static> {
        Item::Commit(Commit {
            commit_lsn: CommitLsn(Lsn(commit)),
            end_lsn: ResumeLsn(Lsn(commit + 100)),
            commit_time: Timestamp(1),
            changes: 0,
        })
    }

    fn message(lsn: u64) -> Item<'static> {
        Item::Message(Message { transactional: false, lsn: Lsn(lsn), prefix: "", content: b"" })
    }

    /// Feeds a transaction of rows of two tables; stops where it is told to.
    fn transaction(sender: &mut Sender, out: &mut Vec<u8>, rows: &[&str], ends: bool) -> Fed {
        let (one, other) = (relation("one"), relation("other"));
        let mut fed = sender.feed(&begin(2000), out);
        for (number, text) in rows.iter().enumerate() {
            if fed == Fed::Again {
                return fed;
            }
            let tuple = TupleBuilder::new().text(text);
            let row = Row::Insert { new: tuple.as_tuple() };
            let relation = if number % 2 == 0 { &one } else { &other };
            fed = sender.feed(&Item::Row { relation, row }, out);
        }
        if ends && fed != Fed::Again { sender.feed(&commit(2000), out) } else { fed }
    }

    fn kinds(out: &[u8]) -> String {
        let mut records = Records::default();
        records.push(out);
        let mut kinds = String::new();
        while let Some(found) = records.next().unwrap() {
            kinds.push(char::from(found.bytes[0]));
        }
        kinds
    }

    fn digest(out: &[u8]) -> u64 {
        let mut records = Records::default();
        records.push(out);
        let mut digest = None;
        while let Some(found) = records.next().unwrap() {
            if let Record::Commit { digest: found, .. } = found.record {
                digest = Some(found);
            }
        }
        digest.unwrap()
    }

    #[test]
    fn what_the_collector_has_already_is_passed_over_until_something_is_new() {
        let mut sender = Sender::new(&accepted(None));
        let mut out = Vec::new();
        let mut feed = |item: Item<'_>| sender.feed(&item, &mut out);
        let progress = |lsn| Item::Progress(Progress { resume_lsn: ResumeLsn(Lsn(lsn)), time: Timestamp(1) });
        assert_eq!(feed(progress(1500)), Fed::Passed);
        assert_eq!(feed(message(1600)), Fed::Passed);
        assert_eq!(feed(message(1601)), Fed::Boundary);
        assert_eq!(feed(progress(1700)), Fed::Boundary);
        // From here on everything is as the trail says.
        assert_eq!(feed(progress(1700)), Fed::Boundary);
        assert_eq!(kinds(&out), "MPP");
    }

    #[test]
    fn an_unfinished_transaction_goes_on_behind_what_the_collector_has() {
        let rows = ["a", "b", "c", "d"];
        let mut whole = Vec::new();
        assert_eq!(transaction(&mut Sender::new(&accepted(None)), &mut whole, &rows, true), Fed::Boundary);
        assert_eq!(kinds(&whole), "BRIRIRIRIC");
        for cut in 0..=4 {
            let mut first = Sender::new(&accepted(None));
            let mut out = Vec::new();
            transaction(&mut first, &mut out, &rows[..cut], false);
            let open = first.open.unwrap();
            let held =
                Held { commit: CommitLsn(Lsn(2000)), changes: open.changes, digest: open.content.value() };
            assert_eq!(held.changes, cut as u64);
            let mut second = Sender::new(&accepted(Some(held)));
            let mut out = Vec::new();
            assert_eq!(transaction(&mut second, &mut out, &rows, true), Fed::Boundary);
            assert_eq!(kinds(&out).trim_start_matches('='), &"RIRIRIRIC"[2 * cut..], "cut behind {cut}");
            assert!(kinds(&out).starts_with('='));
            assert_eq!(digest(&out), digest(&whole), "cut behind {cut}");
        }
    }

    #[test]
    fn what_is_sent_before_an_unfinished_transaction_gives_that_up() {
        let held = Held { commit: CommitLsn(Lsn(2000)), changes: 0, digest: 1 };
        let mut sender = Sender::new(&accepted(Some(held)));
        let mut out = Vec::new();
        assert_eq!(sender.feed(&message(1700), &mut out), Fed::Boundary);
        assert_eq!(transaction(&mut sender, &mut out, &["a"], true), Fed::Boundary);
        assert_eq!(kinds(&out), "MBRIC");
        let mut sender = Sender::new(&accepted(Some(held)));
        out.clear();
        sender.begin_epoch(2, &mut out);
        assert_eq!(transaction(&mut sender, &mut out, &["a"], true), Fed::Boundary);
        assert_eq!(kinds(&out), "EBRIC");
    }

    #[test]
    fn what_the_collector_holds_is_not_gone_on_with_when_it_is_something_else() {
        let rows = ["a", "b"];
        let mut first = Sender::new(&accepted(None));
        transaction(&mut first, &mut Vec::new(), &["x", "y"], false);
        let open = first.open.unwrap();
        let held = Held { commit: CommitLsn(Lsn(2000)), changes: 2, digest: open.content.value() };
        // Another content; more changes than there are; another transaction.
        for (held, expected) in [
            (held, Fed::Again),
            (Held { changes: 9, ..held }, Fed::Again),
            (Held { commit: CommitLsn(Lsn(2001)), ..held }, Fed::Boundary),
        ] {
            let mut sender = Sender::new(&accepted(Some(held)));
            let mut out = Vec::new();
            assert_eq!(transaction(&mut sender, &mut out, &rows, true), expected, "{held:?}");
            if expected == Fed::Again {
                assert!(out.is_empty(), "nothing is sent");
                sender.again();
                // What stands before it is read again too, and is there already.
                assert_eq!(sender.feed(&message(1600), &mut out), Fed::Passed);
                assert_eq!(transaction(&mut sender, &mut out, &rows, true), Fed::Boundary);
            }
            assert_eq!(kinds(&out), "BRIRIC");
        }
    }
}
