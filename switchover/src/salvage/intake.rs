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

#[cfg(test)]
mod tests {
    use irongate_capture::machine::{Machine, Settings};
    use irongate_capture::pgoutput::{Message as Sent, Row as SentRow};
    use irongate_trail::{Lsn, ReplicaIdentity, ResumeLsn, Timestamp, TupleBuilder};

    use super::*;

    /// What a transaction does.
    #[derive(Clone, Copy)]
    enum Does {
        Insert(&'static str),
        Speaks,
        Nothing,
    }

    fn relation(schema: &str) -> Relation {
        let id = Column { name: "id".into(), key: true, type_oid: 23, type_modifier: -1, type_name: None };
        let (schema, name, replica_identity) = (schema.to_owned(), "t".to_owned(), ReplicaIdentity::Default);
        Relation { id: schema.len() as u32, schema, name, replica_identity, columns: vec![id] }
    }

    fn send(machine: &mut Machine, intake: &mut Intake, commit: u64, origin: Option<&str>, does: Does) {
        let (commit_lsn, commit_time) = (CommitLsn(Lsn(commit)), Timestamp(0));
        let xid = u32::try_from(commit).unwrap();
        let mut tell = |message: Sent<'_>| machine.message(message, intake).unwrap();
        tell(Sent::Begin { commit_lsn, commit_time, xid });
        if let Some(name) = origin {
            tell(Sent::Origin { lsn: Lsn::ZERO, name });
        }
        match does {
            Does::Insert(schema) => {
                let relation = relation(schema);
                let id = relation.id;
                tell(Sent::Relation { xid: None, relation });
                let tuple = TupleBuilder::new().text("1");
                let bytes = [b"N", tuple.as_tuple().as_bytes()].concat();
                tell(Sent::Row(SentRow {
                    xid: None,
                    relation: id,
                    operation: b'I',
                    columns: 1,
                    bytes: &bytes,
                }));
            }
            Does::Speaks => {
                let (prefix, content) = ("irongate.marker", b"run".as_slice());
                tell(Sent::Logical {
                    xid: None,
                    message: Message { transactional: true, lsn: Lsn(commit), prefix, content },
                });
            }
            Does::Nothing => {}
        }
        tell(Sent::Commit { commit_lsn, end_lsn: ResumeLsn(Lsn(commit + 8)), commit_time });
    }

    /// The transactions that changed something, of those that a slot shows behind `from`.
    fn lost(from: u64, until: Option<u64>, sent: &[(u64, Option<&str>, Does)]) -> Vec<u32> {
        let mut machine = Machine::new(Settings::default(), ResumeLsn(Lsn(from)), CommitLsn::default());
        let mut intake = Intake { until: until.map(|lsn| CommitLsn(Lsn(lsn))), ..Intake::default() };
        for (commit, origin, does) in sent {
            send(&mut machine, &mut intake, *commit, *origin, *does);
        }
        let (mut found, mut open) = (Vec::new(), 0);
        for event in intake.take() {
            match event {
                Event::Begin(begin) => open = begin.xid,
                Event::Change(_) => found.push(open),
                Event::Commit(_) | Event::Abandon => {}
            }
        }
        found
    }

    #[test]
    fn lost_is_what_would_have_been_applied_and_is_not_known_from_the_trail() {
        use Does::{Insert, Nothing, Speaks};
        let sent = [
            (100, None, Insert("public")),
            (200, None, Insert("public")),
            (300, None, Insert("irongate")),
            (400, None, Speaks),
            (500, None, Nothing),
            (600, Some("irongate_css"), Insert("public")),
            (700, None, Insert("public")),
        ];
        assert_eq!(lost(0, None, &sent), [100, 200, 700]);
        // The trail ends behind the first: it does not come a second time.
        assert_eq!(lost(108, None, &sent), [200, 700]);
        assert_eq!(
            lost(200, None, &sent),
            [200, 700],
            "what begins to commit just there is not in the trail"
        );
        assert_eq!(lost(101, Some(700), &sent), [200], "what the next file of the trail has is left to it");
        assert_eq!(lost(708, None, &sent), [0; 0]);
    }

    #[test]
    fn a_whole_old_row_says_what_was_not_sent() {
        let relation = Arc::new(relation("public"));
        let (old, new) = (TupleBuilder::new().text("1"), TupleBuilder::new().value(Value::Unchanged));
        let row = Row::Update { old: Some(Old::Full(old.as_tuple())), new: new.as_tuple() };
        let raw = Raw::row(&relation, &row);
        assert_eq!(raw.new.unwrap().get("id"), Some(&Cell::Text("1".into())));
        let by_key = Row::Update { old: Some(Old::Key(old.as_tuple())), new: new.as_tuple() };
        assert_eq!(Raw::row(&relation, &by_key).new.unwrap().get("id"), Some(&Cell::Unchanged));
    }

    #[test]
    fn a_piece_is_bounded() {
        let relation = Arc::new(relation("public"));
        let large = "x".repeat(MOST_BYTES);
        let new = TupleBuilder::new().text(&large);
        let mut intake = Intake::default();
        intake.change(Raw::row(&relation, &Row::Insert { new: new.as_tuple() }));
        assert!(intake.is_full());
        assert_eq!(intake.take().len(), 1);
        assert!(!intake.is_full());
        for _ in 0..MOST_CHANGES {
            assert!(!intake.is_full());
            intake.change(Raw::truncate(vec![Arc::clone(&relation)]));
        }
        assert!(intake.is_full());
    }
}
