//! What the source commits: the same transaction for the same number, however often it is sent.

use std::sync::Arc;

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Item, Lsn, Message, Relation, ReplicaIdentity, ResumeLsn, Row,
    Timestamp, Truncate, TupleBuilder, Value,
};

use crate::disk::Dice;

/// One change of a transaction, as it comes out of a trail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Row { relation: Arc<Relation>, operation: u8, tuples: Vec<u8> },
    Truncate(Arc<Relation>),
    Message(Vec<u8>),
}

/// A change and the sub-transaction it was made in, which may have been rolled back.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) subxid: u32,
    pub(crate) change: Change,
}

/// A transaction of the source.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) begin: Begin,
    pub(crate) commit: Commit,
    pub(crate) streamed: bool,
    pub(crate) made: Vec<Made>,
    pub(crate) aborted: Vec<u32>,
}

impl Transaction {
    /// What counts of it.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let counts = |made: &&Made| !self.aborted.contains(&made.subxid);
        self.made.iter().filter(counts).map(|made| made.change.clone()).collect()
    }

    pub(crate) fn number(commit: CommitLsn) -> u64 {
        commit.0.0 / 1000
    }
}

/// A table, which has one column more in each version.
pub(crate) fn relation(id: u32, version: u64) -> Arc<Relation> {
    let column = |number: u64| Column {
        name: format!("c{number}"),
        key: number == 0,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    Arc::new(Relation {
        id,
        schema: "public".to_owned(),
        name: format!("t{id}"),
        replica_identity: ReplicaIdentity::Default,
        columns: (0..=version).map(column).collect(),
    })
}

/// The transaction `number`, from 1.
pub(crate) fn transaction(seed: u64, number: u64) -> Transaction {
    let mut dice = Dice::new(seed ^ number.wrapping_mul(0x1234_5678_9abc_def1));
    let (commit_lsn, end_lsn) = (CommitLsn(Lsn(number * 1000)), ResumeLsn(Lsn(number * 1000 + 100)));
    let xid = number as u32 * 100;
    let streamed = dice.once_in(3);
    let subs = if streamed { dice.below(4) as u32 } else { 0 };
    let version = number / 7 % 3;
    let long = dice.once_in(40);
    let mut made = Vec::new();
    for place in 0..dice.below(if streamed { 20 } else { 6 }) {
        let relation = relation(1000 + dice.below(3) as u32, version);
        let length = if long { dice.below(120_000) } else { dice.below(900) } as usize;
        let text = format!("{number}.{place}.").repeat(length / 8 + 1);
        let new = TupleBuilder::new().text(&text);
        let new = (0..version).fold(new, |tuple, _| tuple.value(Value::Null));
        let tuple = |kind: &[u8]| [kind, new.as_tuple().as_bytes()].concat();
        let change = match dice.below(12) {
            0 => Change::Truncate(relation),
            1 => Change::Message(text.into_bytes()),
            2..=3 => Change::Row { relation, operation: b'D', tuples: tuple(b"K") },
            4..=5 => {
                let tuples = [tuple(b"O"), tuple(b"N")].concat();
                Change::Row { relation, operation: b'U', tuples }
            }
            _ => Change::Row { relation, operation: b'I', tuples: tuple(b"N") },
        };
        made.push(Made { subxid: xid + dice.below(u64::from(subs) + 1) as u32, change });
    }
    // One at the top level at least, so that the transaction does not come to nothing.
    let change = Change::Message(format!("last of {number}").into_bytes());
    made.push(Made { subxid: xid, change });
    let aborted = (1..=subs).filter(|_| dice.once_in(3)).map(|sub| xid + sub).collect();
    let commit_time = Timestamp(number as i64);
    let begin = Begin { xid, commit_lsn, commit_time, origin: None, previous: CommitLsn::default() };
    let commit = Commit { commit_lsn, end_lsn, commit_time, changes: 0 };
    Transaction { begin, commit, streamed, made, aborted }
}

pub(crate) fn message(content: &[u8]) -> Message<'_> {
    Message { transactional: true, lsn: Lsn(1), prefix: "test", content }
}

pub(crate) fn truncate(relation: &Relation) -> Truncate {
    Truncate { relations: vec![relation.id], cascade: false, restart_identity: true }
}

/// A change as a reader returned it.
pub(crate) fn read(item: &Item<'_>) -> Option<Change> {
    match item {
        Item::Row { relation, row } => {
            let mut tuples = Vec::new();
            if let Some(old) = row.old() {
                let full = matches!(old, irongate_trail::Old::Full(_));
                tuples.push(if full { b'O' } else { b'K' });
                tuples.extend_from_slice(old.tuple().as_bytes());
            }
            if let Row::Insert { new } | Row::Update { new, .. } = row {
                tuples.push(b'N');
                tuples.extend_from_slice(new.as_bytes());
            }
            Some(Change::Row { relation: Arc::clone(relation), operation: row.operation(), tuples })
        }
        Item::Truncate { relations, .. } => Some(Change::Truncate(Arc::clone(&relations[0]))),
        Item::Message(message) => Some(Change::Message(message.content.to_vec())),
        Item::Begin(_) | Item::Commit(_) | Item::Progress(_) => None,
    }
}
