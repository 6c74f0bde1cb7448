//! The loop over a source and a target that are told what to do.

use std::collections::BTreeSet;

use irongate_checkpoint::Applied;
use irongate_trail::{
    Begin, Column, Commit, Item, Lineage, Lsn, Position, Relation, ReplicaIdentity, ResumeLsn, Timestamp,
    TupleBuilder,
};

use irongate_trail::Row;

use super::*;
use crate::target::{Group, Groups};

/// Transactions of one row each, numbered from 1 by their commit LSNs.
struct Numbers {
    next: u64,
    last: u64,
    /// 0 before the begin of the next, 1 before its row, 2 before its commit.
    within: u8,
    relation: Arc<Relation>,
    tuple: TupleBuilder,
}

impl Source for Numbers {
    fn next(&mut self) -> Result<Option<Item<'_>>, irongate_trail::Error> {
        if self.next > self.last {
            return Ok(None);
        }
        let (n, commit_lsn) = (self.next, CommitLsn(Lsn(self.next)));
        let within = self.within;
        self.within = (within + 1) % 3;
        let commit_time = Timestamp(0);
        Ok(Some(match within {
            0 => Item::Begin(Begin {
                xid: n as u32,
                commit_lsn,
                commit_time,
                origin: None,
                previous: CommitLsn(Lsn(n - 1)),
            }),
            1 => {
                let row = Row::Insert { new: self.tuple.as_tuple() };
                Item::Row { relation: &self.relation, row }
            }
            _ => {
                self.next += 1;
                Item::Commit(Commit { commit_lsn, end_lsn: ResumeLsn(Lsn(n)), commit_time, changes: 1 })
            }
        }))
    }
    fn position(&self) -> Position {
        Position::default()
    }
    fn lineage(&self) -> Lineage {
        Lineage::default()
    }
    fn epoch(&self) -> u64 {
        1
    }
    fn durable(&self) -> irongate_trail::Mark {
        irongate_trail::Mark::default()
    }
    async fn wait(&mut self) -> Result<(), irongate_trail::Error> {
        Ok(())
    }
}

struct UpTo(u64);

impl Open for UpTo {
    type Source = Numbers;

    fn open(&mut self, begins: Begins) -> Result<Numbers, irongate_trail::Error> {
        let Begins::After { commit, .. } = begins else { panic!("{begins:?}") };
        let column =
            Column { name: "id".into(), key: true, type_oid: 23, type_modifier: -1, type_name: None };
        let relation = Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column],
        };
        let tuple = TupleBuilder::new().text("1");
        Ok(Numbers { next: commit.0.0 + 1, last: self.0, within: 0, relation: Arc::new(relation), tuple })
    }
}

/// Refuses groups that hold one of the given transactions, and notes what it applied and how.
#[derive(Default)]
struct Picky {
    bad: BTreeSet<u64>,
    applied: Applied,
    seen: Vec<u64>,
    by_group: u64,
    refusals: u64,
}

impl Target for Picky {
    async fn load(&mut self) -> Result<Applied, Error> {
        Ok(self.applied)
    }

    async fn apply(&mut self, batch: &Batch, mode: Mode, end: Option<&Applied>) -> Result<Outcome, Failure> {
        let numbers =
            (0..batch.len()).filter_map(|at| batch.place(at)).map(|(begin, _)| begin.commit_lsn.0.0);
        let numbers: Vec<u64> = numbers.collect();
        let bad = numbers.iter().filter(|number| self.bad.contains(number)).count() as u64;
        if mode == Mode::Grouped && bad > 0 {
            self.refusals += 1;
            return Err(Failure::Refused(Error::Trail(irongate_trail::Error::Misuse("a bad row"))));
        }
        self.by_group += if mode == Mode::Grouped { numbers.len() as u64 } else { 0 };
        self.seen.extend(numbers);
        self.applied = *end.expect("each batch ends with a transaction");
        Ok(Outcome { ignored: bad, ..Outcome::default() })
    }

    async fn settle(&mut self, applied: Mark) -> Result<Mark, Error> {
        Ok(applied)
    }
}

async fn run(bad: &[u64], changes: usize, transactions: u64) -> Applier<UpTo, Picky> {
    let target = Picky { bad: bad.iter().copied().collect(), ..Picky::default() };
    let grouping = Grouping { changes, ..Grouping::default() };
    let mut applier = Applier::new(UpTo(transactions), target, grouping);
    while applier.step().await.expect("what is refused is applied one by one") == Step::Applied {}
    let seen = &applier.target.seen;
    assert!(seen.iter().copied().eq(1..=transactions), "each once and in order");
    assert_eq!(applier.totals().errors, bad.len() as u64);
    applier
}

#[tokio::test]
async fn of_a_large_group_that_is_refused_a_small_one_is_applied_row_by_row() {
    let applier = run(&[9000], 16_000, 40_000).await;
    assert_eq!(applier.target.refusals, 2, "the large group and the small one");
    assert_eq!(applier.target.by_group, 40_000 - SMALL as u64);
    assert_eq!(applier.totals().refused, 1);
    assert_eq!((applier.small_until, applier.exact_until), (None, None));
}

#[tokio::test]
async fn every_bad_row_of_a_large_group_is_found() {
    let applier = run(&[1, 2, 2000, 2001, 15_999, 16_000, 16_001, 39_999], 16_000, 40_000).await;
    assert!(applier.target.by_group > 25_000, "{}", applier.target.by_group);
}

#[tokio::test]
async fn a_small_group_that_is_refused_is_applied_row_by_row_at_once() {
    let applier = run(&[50], 100, 1000).await;
    assert_eq!((applier.target.refusals, applier.target.by_group), (1, 900));
}

/// Loses its connection with every group, and says that the others are left, or that nobody knows.
struct Away {
    rest_is_left: bool,
}

impl Target for Away {
    async fn load(&mut self) -> Result<Applied, Error> {
        Ok(Applied::default())
    }

    async fn apply(&mut self, _: &Batch, _: Mode, _: Option<&Applied>) -> Result<Outcome, Failure> {
        Err(Failure::Lost(Error::Target(irongate_postgres::Error::Closed(None))))
    }

    fn most_groups(&self) -> usize {
        3
    }

    async fn apply_groups(&mut self, groups: &[Group<'_>]) -> Groups {
        let first = self.apply(groups[0].batch, Mode::Grouped, Some(groups[0].end)).await;
        Groups { first, others: 0, rest_is_left: self.rest_is_left }
    }

    async fn settle(&mut self, applied: Mark) -> Result<Mark, Error> {
        Ok(applied)
    }
}

#[tokio::test]
async fn a_target_that_is_away_is_told_of_also_where_groups_go_beside_others() {
    for rest_is_left in [false, true] {
        let grouping = Grouping { changes: 10, ..Grouping::default() };
        let mut applier = Applier::new(UpTo(1000), Away { rest_is_left }, grouping);
        let mut errors = 0;
        for _ in 0..4 {
            errors += u32::from(applier.step().await.is_err_and(|error| error.is_transient()));
            applier.begin_again();
        }
        assert!(errors >= 3, "{errors} of four, rest_is_left: {rest_is_left}");
    }
}
