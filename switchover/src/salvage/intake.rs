//! What is read of lost transactions, in small pieces, whichever source it comes from.
//!
//! A piece is a bounded number of changes and bytes: what has been read is written out before more is read, and the size of
//! a transaction costs no memory.

use std::sync::Arc;

use irongate_capture::{Error as CaptureError, Sink};
use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Message, Old, Progress, Relation, Row, Truncate, Tuple, Value,
};
use rustc_hash::FxHashMap;

use super::change::{Cell, Fields, Operation};

/// A piece is settled when it holds so many changes,
const MOST_CHANGES: usize = 64;
/// or so many bytes.
const MOST_BYTES: usize = 1 << 20;

/// A changed row as it was read, or emptied tables.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// The table; of a truncate all of them.
    pub(super) relations: Vec<Arc<Relation>>,
    pub(super) operation: Operation,
    /// The columns of the replica identity before the change.
    pub(super) key: Option<Fields>,
    /// The whole row before the change.
    pub(super) old: Option<Fields>,
    pub(super) new: Option<Fields>,
}

impl Raw {
    pub(super) fn row(relation: &Arc<Relation>, row: &Row<'_>) -> Self {
        let (key, old) = match row.old() {
            None => (None, None),
            Some(Old::Key(tuple)) => (Some(fields(relation, tuple, |column| column.key)), None),
            Some(Old::Full(tuple)) => (None, Some(fields(relation, tuple, |_| true))),
        };
        let mut new = row.new().map(|tuple| fields(relation, tuple, |_| true));
        // What a whole old row says of a value that did not change need not be left open.
        if let (Some(old), Some(new)) = (&old, &mut new) {
            for ((_, new), (_, old)) in new.0.iter_mut().zip(&old.0) {
                if *new == Cell::Unchanged {
                    new.clone_from(old);
                }
            }
        }
        let operation = match row {
            Row::Insert { .. } => Operation::Insert,
            Row::Update { .. } => Operation::Update,
            Row::Delete { .. } => Operation::Delete,
        };
        Self { relations: vec![Arc::clone(relation)], operation, key, old, new }
    }

    pub(super) fn truncate(relations: Vec<Arc<Relation>>) -> Self {
        Self { relations, operation: Operation::Truncate, key: None, old: None, new: None }
    }

    fn weight(&self) -> usize {
        [&self.key, &self.old, &self.new].into_iter().flatten().map(Fields::weight).sum()
    }
}

fn fields(relation: &Relation, tuple: Tuple<'_>, wanted: impl Fn(&Column) -> bool) -> Fields {
    let fields = relation.columns.iter().zip(tuple.values()).filter(|(column, _)| wanted(column));
    let cell = |(column, value): (&Column, Value<'_>)| {
        let cell = match value {
            Value::Binary(bytes) => Cell::Binary(column.type_oid, bytes.to_vec()),
            value => Cell::of(value),
        };
        (column.name.clone(), cell)
    };
    Fields(fields.map(cell).collect())
}

/// A step through lost transactions.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A transaction begins. It counts only with its commit.
    Begin(Begin),
    /// It changes something.
    Change(Raw),
    /// It ends.
    Commit(Commit),
    /// It does not come to its end here.
    Abandon,
}

/// Events that have been read and not yet written out.
#[derive(Default, Debug)]
pub(super) struct Intake {
    pub(super) events: Vec<Event>,
    weight: usize,
    changes: usize,
    relations: FxHashMap<u32, Arc<Relation>>,
    /// Transactions from this commit on are not wanted.
    pub(super) until: Option<CommitLsn>,
    unwanted: bool,
}

impl Intake {
    pub(super) fn push(&mut self, event: Event) {
        if let Event::Change(raw) = &event {
            self.weight += raw.weight();
            self.changes += 1;
        }
        self.events.push(event);
    }

    /// Changes of tables of our own are nobody's loss.
    pub(super) fn change(&mut self, mut raw: Raw) {
        raw.relations.retain(|relation| relation.schema != CHECKPOINT_SCHEMA);
        if !raw.relations.is_empty() {
            self.push(Event::Change(raw));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.changes >= MOST_CHANGES || self.weight >= MOST_BYTES || self.events.len() >= 8 * MOST_CHANGES
    }

    /// Hands out what there is.
    pub(super) fn take(&mut self) -> Vec<Event> {
        (self.weight, self.changes) = (0, 0);
        std::mem::take(&mut self.events)
    }

    fn relation_of(&self, id: u32) -> Result<Arc<Relation>, CaptureError> {
        self.relations.get(&id).cloned().ok_or_else(|| malformed("a row of a table that was not described"))
    }
}

fn malformed(what: &'static str) -> CaptureError {
    CaptureError::Malformed { lsn: irongate_trail::Lsn::ZERO, source: irongate_trail::Malformed(what) }
}

/// Takes what a slot holds, as Extract's machine passes it on: what Extract would have left out is left out.
impl Sink for Intake {
    fn begin(&mut self, begin: &Begin) -> Result<(), CaptureError> {
        self.unwanted = self.until.is_some_and(|until| begin.commit_lsn >= until);
        if !self.unwanted {
            self.push(Event::Begin(begin.clone()));
        }
        Ok(())
    }

    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), CaptureError> {
        self.relations.insert(relation.id, Arc::clone(relation));
        Ok(())
    }

    fn row(&mut self, relation: u32, operation: u8, bytes: &[u8]) -> Result<(), CaptureError> {
        if !self.unwanted {
            let relation = self.relation_of(relation)?;
            let row = Row::decode(operation, bytes).map_err(|error| malformed(error.0))?;
            self.change(Raw::row(&relation, &row));
        }
        Ok(())
    }

    fn truncate(&mut self, truncate: &Truncate) -> Result<(), CaptureError> {
        if !self.unwanted {
            let relations = truncate.relations.iter().map(|id| self.relation_of(*id));
            self.change(Raw::truncate(relations.collect::<Result<_, _>>()?));
        }
        Ok(())
    }

    fn message(&mut self, _: &Message<'_>) -> Result<(), CaptureError> {
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), CaptureError> {
        if !self.unwanted {
            self.push(Event::Commit(*commit));
        }
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), CaptureError> {
        self.push(Event::Abandon);
        Ok(())
    }

    fn progress(&mut self, _: &Progress) -> Result<(), CaptureError> {
        Ok(())
    }
}
