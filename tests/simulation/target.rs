//! The target: a list of transactions, of which a crash takes the last, and a checkpoint that goes with them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use irongate_apply::{Batch, Change, Error, Failure, Group, Groups, Mode, Outcome, Target};
use irongate_checkpoint::{Applied, Mark};
use irongate_tests::disk::Dice;
use irongate_trail::{CommitLsn, Lineage, Position, ResumeLsn, Value};

/// As if three sessions applied.
const MOST_GROUPS: usize = 3;

/// A database. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Database(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    begins: Applied,
    /// Rows by source transaction, with the checkpoint that was committed with the last of each group.
    groups: Vec<(Vec<Vec<u64>>, Applied)>,
    /// Groups that a crash cannot take.
    flushed: usize,
}

impl Database {
    pub(crate) fn new(lineage: Lineage, start: ResumeLsn) -> Self {
        let position = Position { seqno: 1, offset: 0 };
        let begins = Applied { lineage, end_lsn: start, position, epoch: 1, ..Applied::default() };
        Self(Arc::new(Mutex::new(State { begins, groups: Vec::new(), flushed: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits return before they are flushed: a crash takes some of the last.
    pub(crate) fn crash(&self, dice: &mut Dice) {
        let mut state = self.state();
        let unflushed = (state.groups.len() - state.flushed) as u64;
        let lost = dice.below(unflushed + 1) as usize;
        let kept = state.groups.len() - lost;
        state.groups.truncate(kept);
    }

    /// The database's own writer flushes some more.
    pub(crate) fn flush(&self, dice: &mut Dice) {
        let mut state = self.state();
        let unflushed = (state.groups.len() - state.flushed) as u64;
        state.flushed += dice.below(unflushed + 1) as usize;
    }

    pub(crate) fn transactions(&self) -> Vec<Vec<u64>> {
        self.state().groups.iter().flat_map(|group| group.0.clone()).collect()
    }

    /// Whether what is there is the beginning of what must come.
    pub(crate) fn check(&self, expected: &[Vec<u64>]) {
        let found = self.transactions();
        let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        assert_eq!(same, found.len(), "lost, repeated or out of order after {same} transactions");
    }
}

/// A session with the database that applies.
pub(crate) struct SimTarget {
    database: Database,
    dice: Dice,
    calm: bool,
    /// Rows of the transaction that is open, by source transaction.
    open: Vec<(CommitLsn, Vec<u64>)>,
}

impl SimTarget {
    pub(crate) fn new(database: Database, seed: u64, calm: bool) -> Self {
        Self { database, dice: Dice::new(seed), calm, open: Vec::new() }
    }

    fn fails(&mut self) -> bool {
        !self.calm && self.dice.once_in(25)
    }
}

fn lost() -> Error {
    Error::Target(irongate_postgres::Error::Closed(None))
}

impl Target for SimTarget {
    async fn load(&mut self) -> Result<Applied, Error> {
        self.open.clear();
        if self.fails() {
            return Err(lost());
        }
        let state = self.database.state();
        Ok(state.groups.last().map_or(state.begins, |group| group.1))
    }

    async fn apply(&mut self, batch: &Batch, mode: Mode, end: Option<&Applied>) -> Result<Outcome, Failure> {
        if self.fails() {
            return Err(Failure::Lost(lost()));
        }
        // A group is sometimes refused for no reason that exact mode would find.
        if mode == Mode::Grouped && self.fails() {
            return Err(Failure::Refused(lost()));
        }
        for index in 0..batch.len() {
            let Change::Row { row, .. } = batch.change(index) else { panic!("the source truncates nothing") };
            let Some(Value::Text(number)) = row.new().and_then(|tuple| tuple.values().next()) else {
                panic!("every row has a number")
            };
            let number = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).expect("a number");
            let commit = batch.place(index).expect("a change has a place").0.commit_lsn;
            match self.open.last_mut() {
                Some((open, rows)) if *open == commit => rows.push(number),
                _ => self.open.push((commit, vec![number])),
            }
        }
        if let Some(end) = end {
            if self.fails() {
                return Err(Failure::Lost(lost()));
            }
            let rows = self.open.drain(..).map(|(_, rows)| rows).collect();
            self.database.state().groups.push((rows, *end));
            // Committed, and the answer is lost.
            if self.fails() {
                return Err(Failure::Lost(lost()));
            }
        }
        Ok(Outcome::default())
    }

    fn most_groups(&self) -> usize {
        MOST_GROUPS
    }

    async fn apply_groups(&mut self, groups: &[Group<'_>]) -> Groups {
        let mut done = Groups { first: Ok(Outcome::default()), others: 0, rest_is_left: true };
        // As if the others' tables were not to be divided.
        let tried = if self.dice.once_in(4) { 1 } else { groups.len() };
        for (number, Group { batch, end }) in groups[..tried].iter().enumerate() {
            match (number, self.apply(batch, Mode::Grouped, Some(end)).await) {
                (0, first) if first.is_ok() => {}
                (0, first) => return Groups { first, others: 0, rest_is_left: false },
                (_, Ok(_)) => done.others += 1,
                // Perhaps committed.
                (_, Err(_)) => {
                    done.rest_is_left = false;
                    break;
                }
            }
        }
        done
    }

    async fn settle(&mut self, _: Mark) -> Result<Mark, Error> {
        let state = self.database.state();
        let flushed = state.flushed.checked_sub(1).map_or(state.begins, |last| state.groups[last].1);
        Ok(Mark { position: flushed.position, resume_lsn: flushed.end_lsn })
    }
}
