use irongate_trail::{CommitLsn, Lineage, Lsn, ResumeLsn};

use super::*;
use crate::kafka::unit::Reached;

fn at(number: u64) -> At {
    let reached =
        Reached { commit: CommitLsn(Lsn(number)), resume: ResumeLsn(Lsn(number + 1)), message: Lsn::ZERO };
    At { lineage: Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) }, reached }
}

fn author(generation: u64, instance: u64) -> Author {
    Author { generation, instance }
}

fn record(kind: Kind, author: Author, epoch: u64, before: u64, after: u64) -> Header {
    let (before, after) = (at(before), at(after));
    Header { kind, author, epoch, trail_epoch: 1, belongs: 0, before, after, server_version: 0 }
}

fn claim(author: Author, epoch: u64) -> Header {
    record(Kind::Claim, author, epoch, 0, 0)
}

fn whole(author: Author, before: u64, after: u64) -> Header {
    record(Kind::Whole, author, 1, before, after)
}

fn begin(author: Author, place: u64) -> Header {
    record(Kind::Begin, author, 1, place, place)
}

fn fragment(author: Author, number: u32, last: bool, before: u64, after: u64) -> Header {
    record(Kind::Fragment { number, last }, author, 1, before, after)
}

const COUNTS: Verdict = Verdict::Counts;
const SUPERSEDED: Verdict = Verdict::Passed(Why::Superseded);
const UNCHAINED: Verdict = Verdict::Passed(Why::Unchained);
const UNKNOWN: Verdict = Verdict::Passed(Why::Unknown);

#[test]
fn who_was_superseded_is_passed_over_and_the_chain_goes_on() {
    let (one, other) = (author(1, 10), author(2, 20));
    let mut ledger = Ledger::from_beginning();
    let mut pass = |header: Header| ledger.pass(&header);
    assert_eq!(pass(whole(one, 0, 1)), SUPERSEDED, "nobody writes without a claim");
    assert_eq!(pass(claim(one, 1)), COUNTS);
    assert_eq!(pass(whole(one, 0, 1)), UNCHAINED, "nobody writes before it has begun");
    assert_eq!(pass(begin(one, 0)), COUNTS);
    assert_eq!(pass(whole(one, 0, 1)), COUNTS);
    assert_eq!(pass(whole(one, 2, 3)), UNCHAINED, "the one from 1 to 2 is not there");
    assert_eq!(pass(whole(one, 1, 2)), COUNTS);
    assert_eq!(pass(claim(other, 1)), COUNTS);
    assert_eq!(pass(whole(one, 2, 3)), SUPERSEDED);
    assert_eq!(pass(whole(other, 2, 3)), COUNTS);
    assert_eq!(pass(claim(author(2, 30), 1)), SUPERSEDED, "of two with the same number the first counts");
    assert_eq!(pass(whole(author(2, 30), 3, 4)), SUPERSEDED);
    assert_eq!(ledger.at(), Some(at(3)));
    assert_eq!(ledger.next_generation(), 3);
}

#[test]
fn an_epoch_that_is_over_does_not_come_back() {
    let (old, new, late) = (author(1, 10), author(2, 20), author(3, 10));
    let mut ledger = Ledger::from_beginning();
    assert_eq!(ledger.pass(&claim(old, 1)), COUNTS);
    assert_eq!(ledger.pass(&claim(new, 4)), COUNTS);
    assert_eq!(ledger.pass(&claim(late, 3)), Verdict::Passed(Why::Epoch));
    assert_eq!(ledger.pass(&record(Kind::Begin, new, 4, 0, 0)), COUNTS);
    assert_eq!(ledger.pass(&record(Kind::Whole, new, 4, 0, 1)), COUNTS);
    assert_eq!(ledger.pass(&record(Kind::Whole, new, 3, 1, 2)), Verdict::Passed(Why::Epoch));
    assert_eq!(ledger.pass(&record(Kind::Whole, new, 5, 1, 2)), COUNTS, "the trail goes on in a later one");
    assert_eq!(ledger.epoch(), 5);
}

#[test]
fn a_step_in_fragments_counts_as_a_whole_or_not_at_all() {
    let (one, other) = (author(1, 10), author(2, 20));
    let mut ledger = Ledger::from_beginning();
    let mut pass = |header: Header| (ledger.pass(&header), ledger.at());
    pass(claim(one, 1));
    pass(begin(one, 0));
    assert_eq!(pass(fragment(one, 1, false, 0, 1)).0, UNCHAINED, "the first is missing");
    assert_eq!(pass(fragment(one, 0, false, 0, 1)), (COUNTS, Some(at(0))));
    assert_eq!(pass(whole(one, 0, 1)).0, UNCHAINED, "in the middle of a step");
    assert_eq!(pass(fragment(one, 2, false, 0, 1)).0, UNCHAINED);
    assert_eq!(pass(fragment(one, 1, false, 0, 1)), (COUNTS, Some(at(0))));
    assert_eq!(pass(claim(other, 1)).0, COUNTS);
    assert_eq!(pass(fragment(other, 2, true, 0, 1)).0, UNCHAINED, "what the one before began is gone");
    assert_eq!(pass(fragment(other, 0, false, 0, 1)).0, COUNTS);
    assert_eq!(pass(fragment(other, 1, true, 0, 1)), (COUNTS, Some(at(1))));
    assert_eq!(pass(whole(other, 1, 2)), (COUNTS, Some(at(2))));
}

#[test]
fn from_the_middle_on_nothing_counts_before_a_claim_is_known_to() {
    let (one, loser, other) = (author(5, 10), author(5, 20), author(6, 30));
    let mut ledger = Ledger::from_middle();
    assert_eq!(ledger.pass(&whole(one, 0, 1)), UNKNOWN);
    assert_eq!(ledger.pass(&claim(one, 1)), UNKNOWN);
    assert_eq!(ledger.pass(&claim(loser, 1)), UNKNOWN);
    let mut lone = ledger.clone();
    assert_eq!(lone.pass(&whole(one, 7, 8)), UNKNOWN, "that says nothing of what came before it");
    assert_eq!(lone.pass(&begin(one, 8)), COUNTS);
    assert_eq!(lone.at(), Some(at(8)));
    // A later claim between: what the earlier author writes behind it shows that both count, and is too late itself.
    assert_eq!(ledger.pass(&claim(other, 1)), UNKNOWN);
    assert_eq!(ledger.next_generation(), 7);
    assert_eq!(ledger.pass(&begin(one, 7)), SUPERSEDED);
    assert_eq!(ledger.author(), Some(other));
    assert_eq!(ledger.pass(&begin(other, 7)), COUNTS);
    assert_eq!(ledger.pass(&whole(other, 7, 8)), COUNTS);
}

/// A small generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A writer as it behaves: it claims, reads up to its claim, and writes on from there, several records on their way at
/// once, of which any may be lost and any may arrive late.
#[derive(Clone)]
struct Writer {
    me: Author,
    /// What is on its way, oldest first.
    sent: Vec<Header>,
    /// Its place, once its claim was found to count.
    at: Option<u64>,
    /// Its claim's place in the topic.
    claimed: Option<usize>,
    /// Its begin is in the topic.
    begun: bool,
}

#[test]
fn whatever_writers_do_to_each_other_what_counts_is_one_chain_and_the_same_for_everybody() {
    for seed in 0..3000 {
        let mut dice = Dice(seed);
        let mut topic: Vec<Header> = Vec::new();
        let mut writers: Vec<Writer> = Vec::new();
        let mut instance = 0;
        for _ in 0..60 {
            match dice.below(10) {
                // Another one starts, whatever the others do.
                0 => {
                    let mut ledger = Ledger::from_beginning();
                    topic.iter().for_each(|header| _ = ledger.pass(header));
                    instance += 1;
                    let me = author(ledger.next_generation(), instance);
                    writers.push(Writer {
                        me,
                        sent: vec![claim(me, 1)],
                        at: None,
                        claimed: None,
                        begun: false,
                    });
                }
                // Something arrives, or is lost.
                1..=5 if !writers.is_empty() => {
                    let number = dice.below(writers.len() as u64) as usize;
                    let writer = &mut writers[number];
                    if writer.sent.is_empty() {
                        continue;
                    }
                    let header = writer.sent.remove(0);
                    if dice.below(8) == 0 {
                        continue;
                    }
                    if header.kind == Kind::Claim {
                        writer.claimed = Some(topic.len());
                    }
                    writer.begun |= header.kind == Kind::Begin;
                    topic.push(header);
                }
                // One that has its claim in the topic reads up to there, or writes.
                _ if !writers.is_empty() => {
                    let number = dice.below(writers.len() as u64) as usize;
                    let writer = &mut writers[number];
                    let Some(claimed) = writer.claimed else { continue };
                    let Some(place) = writer.at else {
                        let mut ledger = Ledger::from_beginning();
                        topic[..=claimed].iter().for_each(|header| _ = ledger.pass(header));
                        if ledger.author() == Some(writer.me) {
                            let place = ledger.at().map_or(0, |at| at.reached.commit.0.0);
                            writer.at = Some(place);
                            writer.sent.push(begin(writer.me, place));
                        }
                        continue;
                    };
                    if !writer.begun {
                        continue;
                    }
                    let count = 1 + dice.below(3) as u32;
                    for number in 0..count {
                        let header = match count {
                            1 => whole(writer.me, place, place + 1),
                            _ => fragment(writer.me, number, number + 1 == count, place, place + 1),
                        };
                        writer.sent.push(header);
                    }
                    writer.at = Some(place + 1);
                }
                _ => {}
            }
        }
        let fold = |mut ledger: Ledger, from: usize| {
            let counts = topic[from..].iter().map(|header| ledger.pass(header) == COUNTS).collect::<Vec<_>>();
            (counts, ledger)
        };
        let (counts, _) = fold(Ledger::from_beginning(), 0);
        // One chain: each step begins where the last one ended.
        let mut place = 0;
        for header in topic.iter().zip(&counts).filter(|(_, counts)| **counts).map(|(header, _)| header) {
            let ends = matches!(header.kind, Kind::Whole | Kind::Fragment { last: true, .. });
            if header.kind != Kind::Claim {
                assert_eq!(header.before, at(place), "seed {seed}");
            }
            if ends {
                place += 1;
            }
        }
        // From anywhere on: what counts there counts from the beginning on, and from the first begin that counts there on,
        // all of it.
        for from in 0..topic.len() {
            let (found, _) = fold(Ledger::from_middle(), from);
            let first = found.iter().position(|counts| *counts).unwrap_or(found.len());
            assert_eq!(found[first..], counts[from + first..], "seed {seed} from {from}");
            // And the first pair of a claim and its begin is enough.
            let pair = (from..topic.len()).find(|&number| {
                let is_claim =
                    |header: &Header| header.kind == Kind::Claim && header.author == topic[number].author;
                let is_begin = topic[number].kind == Kind::Begin && counts[number];
                is_begin && topic[from..number].iter().any(is_claim)
            });
            assert!(pair.is_none_or(|pair| from + first <= pair), "seed {seed} from {from}: found late");
        }
    }
}
