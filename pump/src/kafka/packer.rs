//! Steps of a trail into records of a topic: bytes in, pieces out. Knows no broker.
//!
//! Small steps go together until they are as long as a record should be. A step that is longer goes alone, in fragments,
//! the first of which leaves before the step has ended: memory is one record, or the longest row.

use std::collections::VecDeque;

use irongate_trail::{CommitLsn, Position, Timestamp};

use super::unit::{At, Kind, Reached};

/// The place in the trail here behind a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    pub(crate) position: Position,
    pub(crate) commit_time: Timestamp,
}

/// What becomes one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    pub(crate) before: At,
    pub(crate) after: At,
    pub(crate) trail_epoch: u64,
    pub(crate) body: Vec<u8>,
    /// Where this ends a step.
    pub(crate) note: Option<Note>,
}

/// Puts pieces together.
#[derive(Debug)]
pub(crate) struct Packer {
    /// Records of the wire that have not left yet.
    pub(crate) batch: Vec<u8>,
    /// So much of it is whole steps, which lead to `at` and `note`.
    whole: usize,
    sent: At,
    at: At,
    note: Option<Note>,
    /// The number of the next fragment of the step under way.
    fragment: Option<u32>,
    /// The commit of the transaction under way.
    commit: Option<CommitLsn>,
    trail_epoch: u64,
    limit: usize,
    pieces: VecDeque<Piece>,
}

/// A table's description, in the wire's words.
const RELATION: u8 = b'R';

impl Packer {
    /// For what comes behind `at`; a record's body has `limit` bytes at most.
    pub(crate) fn new(at: At, trail_epoch: u64, limit: usize) -> Self {
        Self {
            batch: Vec::with_capacity(limit + (limit >> 2)),
            whole: 0,
            sent: at,
            at,
            note: None,
            fragment: None,
            commit: None,
            trail_epoch,
            limit,
            pieces: VecDeque::new(),
        }
    }

    /// Where what was taken in has led.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    /// Whether there is enough for a record.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= self.limit
    }

    /// Whether nothing is kept back: tables have to be described anew for what follows.
    pub(crate) fn is_between(&self) -> bool {
        self.batch.is_empty() && self.fragment.is_none()
    }

    /// A transaction begins.
    pub(crate) fn begin(&mut self, commit: CommitLsn) {
        self.commit = Some(commit);
    }

    /// A step has ended.
    pub(crate) fn boundary(&mut self, at: At, trail_epoch: u64, note: Note) {
        (self.at, self.note, self.commit) = (at, Some(note), None);
        self.trail_epoch = trail_epoch;
        self.whole = self.batch.len();
        if self.fragment.is_some() || self.batch.len() > self.limit {
            self.cut();
        }
    }

    /// Makes pieces of everything that is whole, and of a step that is too long already.
    pub(crate) fn cut(&mut self) {
        if self.whole > 0 {
            self.cut_whole();
        }
        while self.batch.len() >= self.limit {
            let body: Vec<u8> = self.batch.drain(..self.limit).collect();
            let commit = self.commit.unwrap_or(self.sent.reached.commit);
            let reached = Reached { commit, ..Reached::default() };
            self.fragment(body, At { reached, ..self.sent }, None);
        }
    }

    fn cut_whole(&mut self) {
        let rest = self.batch.split_off(self.whole);
        let mut body = std::mem::replace(&mut self.batch, rest);
        self.whole = 0;
        if self.fragment.is_none() && body.len() <= self.limit {
            if !self.batch.is_empty() {
                // What is under way may use tables that were described for what has just left.
                let mut described = descriptions(&body);
                described.append(&mut self.batch);
                self.batch = described;
            }
            let (before, after) = (self.sent, self.at);
            let (trail_epoch, note) = (self.trail_epoch, self.note);
            self.pieces.push_back(Piece { kind: Kind::Whole, before, after, trail_epoch, body, note });
        } else {
            while body.len() > self.limit {
                let rest = body.split_off(self.limit);
                self.fragment(std::mem::replace(&mut body, rest), self.at, None);
            }
            self.fragment(body, self.at, self.note);
            self.fragment = None;
        }
        self.sent = self.at;
    }

    fn fragment(&mut self, body: Vec<u8>, after: At, note: Option<Note>) {
        let number = self.fragment.unwrap_or(0);
        self.fragment = Some(number + 1);
        let kind = Kind::Fragment { number, last: note.is_some() };
        let (before, trail_epoch) = (self.sent, self.trail_epoch);
        self.pieces.push_back(Piece { kind, before, after, trail_epoch, body, note });
    }

    /// The next piece.
    pub(crate) fn pop(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }
}

/// The descriptions of tables among whole records of the wire, in their order: kind, length, body.
fn descriptions(mut bytes: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (record, rest) = bytes.split_at((5 + length).min(bytes.len()));
        if header[0] == RELATION {
            found.extend_from_slice(record);
        }
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use irongate_trail::{Lineage, Lsn, ResumeLsn};

    use super::*;

    fn at(number: u64) -> At {
        let reached = Reached {
            commit: CommitLsn(Lsn(number)),
            resume: ResumeLsn(Lsn(number + 1)),
            message: Lsn::ZERO,
        };
        At { lineage: Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) }, reached }
    }

    fn note(number: u64) -> Note {
        Note { position: Position { seqno: 1, offset: number }, commit_time: Timestamp(number as i64) }
    }

    fn record(kind: u8, length: usize, fill: u8) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.resize(5 + length, fill);
        bytes
    }

    fn all(packer: &mut Packer) -> Vec<Piece> {
        std::iter::from_fn(|| packer.pop()).collect()
    }

    #[test]
    fn small_steps_go_together() {
        let mut packer = Packer::new(at(0), 1, 1000);
        for number in 1..=5 {
            packer.begin(CommitLsn(Lsn(number)));
            packer.batch.extend(record(b'B', 20, 0));
            packer.batch.extend(record(b'C', 20, 0));
            packer.boundary(at(number), 1, note(number));
        }
        assert!(!packer.is_full() && packer.pop().is_none());
        packer.cut();
        assert!(packer.is_between());
        let pieces = all(&mut packer);
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].kind, pieces[0].before, pieces[0].after), (Kind::Whole, at(0), at(5)));
        assert_eq!((pieces[0].body.len(), pieces[0].note), (250, Some(note(5))));
    }

    #[test]
    fn a_long_step_goes_in_fragments_behind_what_was_whole_and_brings_its_tables() {
        let mut packer = Packer::new(at(0), 1, 1000);
        let (table, other) = (record(b'R', 30, 1), record(b'R', 30, 2));
        packer.begin(CommitLsn(Lsn(1)));
        packer.batch.extend([record(b'B', 20, 0), table.clone(), record(b'I', 100, 0)].concat());
        packer.boundary(at(1), 1, note(1));
        packer.begin(CommitLsn(Lsn(2)));
        let mut step = [record(b'B', 20, 0), other, record(b'I', 700, 0)].concat();
        packer.batch.extend_from_slice(&step);
        assert!(!packer.is_full());
        for _ in 0..4 {
            let row = record(b'I', 800, 7);
            packer.batch.extend_from_slice(&row);
            step.extend(row);
            if packer.is_full() {
                packer.cut();
                assert!(!packer.is_between(), "tables stay described within a step");
            }
        }
        let commit = record(b'C', 40, 9);
        packer.batch.extend_from_slice(&commit);
        step.extend(commit);
        packer.boundary(at(2), 1, note(2));
        assert!(packer.is_between());
        let pieces = all(&mut packer);
        assert_eq!((pieces[0].kind, pieces[0].after), (Kind::Whole, at(1)));
        let fragments = &pieces[1..];
        let body: Vec<u8> = fragments.iter().flat_map(|piece| piece.body.clone()).collect();
        assert_eq!(body, [table, step].concat());
        for (number, piece) in fragments.iter().enumerate() {
            let last = number + 1 == fragments.len();
            assert_eq!(piece.kind, Kind::Fragment { number: number as u32, last });
            assert_eq!((piece.before, piece.after.reached.commit), (at(1), CommitLsn(Lsn(2))));
            assert_eq!(piece.note, last.then(|| note(2)));
            assert!(piece.body.len() <= 1000);
        }
        assert_eq!(fragments.last().map(|piece| piece.after), Some(at(2)));
        // What follows is whole again.
        packer.batch.extend(record(b'P', 16, 0));
        packer.boundary(at(3), 1, note(3));
        packer.cut();
        assert_eq!(all(&mut packer).iter().map(|piece| piece.kind).collect::<Vec<_>>(), [Kind::Whole]);
    }

    #[test]
    fn one_record_that_is_longer_than_the_limit_is_cut_too() {
        let mut packer = Packer::new(at(0), 1, 100);
        packer.batch.extend(record(b'M', 1000, 3));
        packer.boundary(at(4), 1, note(4));
        let pieces = all(&mut packer);
        assert_eq!(pieces.len(), 11);
        assert!(pieces.iter().all(|piece| piece.body.len() <= 100 && piece.after == at(4)));
        assert_eq!(pieces[10].kind, Kind::Fragment { number: 10, last: true });
        assert!(packer.is_between());
    }
}
