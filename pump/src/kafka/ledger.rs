//! Which records of a topic count. Knows no broker: a fold over headers, in the order in which the topic holds them.
//!
//! A topic of one partition is one order for everybody, so whoever reads the same records decides the same: every reader,
//! and each writer that begins. Three rules are enough, and they need neither Kafka's transactions nor its offsets:
//!
//! 1. A *claim* counts if its generation is later than that of the claim that counted last, and its epoch not earlier than
//!    any that counted. From there on its author writes, and what is still on its way from the one before is passed over.
//! 2. Any other record counts if it is by the author of the last claim that counted, and begins at the very place to which the
//!    records that counted have led. So what counts is one chain: no gap, no repetition, no other order, even where a
//!    record was lost on the way to the broker and those behind it were not.
//! 3. An author writes nothing else before it has read its own claim and found that it counts. Then comes its *begin*, which
//!    says where it goes on, alone: what follows is written when the begin is known to be there.
//!
//! Where a topic is read from its middle, it is not known which claim counts, nor where the chain has led. By rule 3, a
//! claim that is followed by its author's begin counted when it was read, and the begin names the place. So nothing counts
//! until such a pair is found, and the claims between are judged from there on.

use super::unit::{At, Author, Header, Kind};

/// Claims that wait for a sign that they count: each is a start of a pump, and a start that loses writes nothing more.
const MOST_CANDIDATES: usize = 1024;

/// What is decided of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It counts.
    Counts,
    /// It does not, and why.
    Passed(Why),
}

/// Why a record does not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Why {
    /// It is of an epoch that is over.
    Epoch,
    /// Its author was superseded, or its claim came too late.
    Superseded,
    /// It does not go on from what counts: one before it did not arrive.
    Unchained,
    /// It lies before the first claim that is known to count.
    Unknown,
}

/// A step that has arrived in part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Open {
    before: At,
    next: u32,
}

/// What is known from the records so far.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// `None`: read from the middle on, and nothing found yet.
    author: Option<Author>,
    candidates: Vec<(Author, u64)>,
    epoch: u64,
    at: Option<At>,
    open: Option<Open>,
    trail_epoch: u64,
}

impl Ledger {
    /// Of a topic that is read from its very beginning.
    pub(crate) fn from_beginning() -> Self {
        Self { author: Some(Author::default()), ..Self::from_middle() }
    }

    /// Of a topic that is read from somewhere on.
    pub(crate) fn from_middle() -> Self {
        Self { author: None, candidates: Vec::new(), epoch: 0, at: None, open: None, trail_epoch: 1 }
    }

    /// Of a topic that is read from a claim on that is known to count.
    pub(crate) fn from_claim(header: &Header) -> Self {
        Self { author: Some(header.author), epoch: header.epoch, ..Self::from_middle() }
    }

    /// Who writes, if it is known.
    pub(crate) fn author(&self) -> Option<Author> {
        self.author
    }

    /// Where what counts has led, if anything has.
    pub(crate) fn at(&self) -> Option<At> {
        self.at
    }

    /// The latest epoch that counted.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch of the trail's files at that place.
    pub(crate) fn trail_epoch(&self) -> u64 {
        self.trail_epoch
    }

    /// Nothing before was found to count, and nothing before is there any more: what follows is judged without it.
    pub(crate) fn settle(&mut self) {
        let generation = self.next_generation() - 1;
        self.author.get_or_insert(Author { generation, instance: 0 });
    }

    /// Later than every generation that was seen.
    pub(crate) fn next_generation(&self) -> u64 {
        let seen = self.candidates.iter().map(|(author, _)| author.generation).max().unwrap_or(0);
        self.author.map_or(0, |author| author.generation).max(seen) + 1
    }

    /// Takes the next record.
    pub(crate) fn pass(&mut self, header: &Header) -> Verdict {
        match header.kind {
            Kind::Claim => self.claim(header.author, header.epoch),
            _ => self.step(header),
        }
    }

    fn claim(&mut self, author: Author, epoch: u64) -> Verdict {
        let Some(current) = self.author else {
            if self.candidates.len() < MOST_CANDIDATES {
                self.candidates.push((author, epoch));
            }
            return Verdict::Passed(Why::Unknown);
        };
        if epoch < self.epoch {
            return Verdict::Passed(Why::Epoch);
        }
        if author.generation <= current.generation {
            return Verdict::Passed(Why::Superseded);
        }
        (self.author, self.epoch, self.open) = (Some(author), epoch, None);
        Verdict::Counts
    }

    fn step(&mut self, header: &Header) -> Verdict {
        if self.author.is_none() && header.kind == Kind::Begin {
            self.find(header.author);
        }
        let Some(author) = self.author else { return Verdict::Passed(Why::Unknown) };
        if header.epoch < self.epoch {
            return Verdict::Passed(Why::Epoch);
        }
        if header.author != author {
            return Verdict::Passed(Why::Superseded);
        }
        let goes_on = match (header.kind, self.open) {
            (Kind::Fragment { number, .. }, Some(open)) => {
                number == open.next && header.before == open.before
            }
            (_, Some(_)) => false,
            (Kind::Begin, None) => self.at.is_none_or(|at| at == header.before),
            (Kind::Fragment { number, .. }, None) if number != 0 => false,
            (_, None) => self.at == Some(header.before),
        };
        if !goes_on {
            return Verdict::Passed(Why::Unchained);
        }
        self.epoch = header.epoch;
        self.trail_epoch = header.trail_epoch;
        match header.kind {
            Kind::Fragment { number, last: false } => {
                self.at = Some(header.before);
                self.open = Some(Open { before: header.before, next: number + 1 });
            }
            _ => (self.at, self.open) = (Some(header.after), None),
        }
        Verdict::Counts
    }

    /// An author has begun: its claim counted, and those behind it are judged.
    fn find(&mut self, author: Author) {
        let Some(place) = self.candidates.iter().position(|(candidate, _)| *candidate == author) else {
            return;
        };
        let candidates = std::mem::take(&mut self.candidates);
        (self.author, self.epoch) = (Some(author), candidates[place].1);
        for (author, epoch) in &candidates[place + 1..] {
            self.claim(*author, *epoch);
        }
    }
}

#[cfg(test)]
mod tests;
