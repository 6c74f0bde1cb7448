//! Which place in the local trail belongs to what the collector says is durable.
//!
//! Both sides count the boundaries of a connection: the ends of transactions and what stands between them. The pump notes
//! for each where its reader stood behind it. The notes are few, whatever the distance: when there are too many, every
//! other one is forgotten, and what is acknowledged then counts up to the one before.

use std::collections::VecDeque;

use irongate_trail::Position;

/// So many notes are kept.
const NOTES: usize = 4096;

/// The boundaries that were sent and are not durable at the other side.
#[derive(Default, Debug)]
pub(crate) struct Boundaries {
    sent: u64,
    notes: VecDeque<(u64, Position)>,
}

impl Boundaries {
    /// How many were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Nothing was sent yet, and the other side has everything before `position`.
    pub(crate) fn origin(&mut self, position: Position) {
        if self.sent == 0 {
            self.notes.clear();
            self.notes.push_back((0, position));
        }
    }

    /// Another one was sent; the reader stands at `position` behind it.
    pub(crate) fn push(&mut self, position: Position) {
        self.sent += 1;
        if self.notes.len() >= NOTES {
            let mut odd = false;
            self.notes.retain(|_| {
                odd = !odd;
                !odd
            });
        }
        self.notes.push_back((self.sent, position));
    }

    /// The first `count` are durable at the other side: the place in the trail up to which nothing is needed any more, if
    /// that has moved.
    pub(crate) fn acknowledged(&mut self, count: u64) -> Option<Position> {
        let mut reached = None;
        while let Some((_, position)) = self.notes.front().filter(|(number, _)| *number <= count) {
            reached = Some(*position);
            self.notes.pop_front();
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { seqno: 1, offset }
    }

    #[test]
    fn an_acknowledgement_leads_to_the_place_behind_what_it_counts() {
        let mut boundaries = Boundaries::default();
        assert_eq!(boundaries.acknowledged(0), None);
        boundaries.origin(at(5));
        boundaries.origin(at(7));
        for number in 1..=10 {
            boundaries.push(at(number * 100));
        }
        boundaries.origin(at(9999));
        assert_eq!(boundaries.acknowledged(0), Some(at(7)));
        assert_eq!(boundaries.acknowledged(0), None);
        assert_eq!(boundaries.acknowledged(4), Some(at(400)));
        assert_eq!(boundaries.acknowledged(10), Some(at(1000)));
        assert_eq!(boundaries.acknowledged(10), None);
    }

    #[test]
    fn a_million_boundaries_take_little_room_and_never_lead_too_far() {
        let mut boundaries = Boundaries::default();
        for number in 1..=1_000_000 {
            boundaries.push(at(number));
            assert!(boundaries.notes.len() <= NOTES);
        }
        let mut last = 0;
        for count in (0..=1_000_000).step_by(1000) {
            if let Some(position) = boundaries.acknowledged(count) {
                assert!(position.offset <= count && position.offset > last);
                last = position.offset;
            }
        }
        assert_eq!(last, 1_000_000);
    }
}
