//! The server that sends: a history of transactions, some of them streamed before their end, with sub-transactions that
//! roll back; and a slot.

use std::collections::HashSet;

use irongate_capture::pgoutput::{Message, Row};
use irongate_tests::disk::Dice;
use irongate_trail::{Column, CommitLsn, Lsn, Relation, ReplicaIdentity, ResumeLsn, Timestamp, TupleBuilder};

/// Bytes between two records of the log.
const RECORD: u64 = 0x20;

/// One thing that the server sends.
pub(crate) enum Sent {
    Data(Lsn, Vec<u8>),
    Keepalive(Lsn),
}

/// A transaction of the source.
#[derive(Clone, Debug)]
struct Transaction {
    xid: u32,
    /// Sub-transaction and number of each row; the number is written nowhere else.
    rows: Vec<(u32, u64)>,
    rolled_back: HashSet<u32>,
    aborted: bool,
    streamed: bool,
    /// Where its last record, commit or abort, starts.
    end: u64,
}

/// A source with a slot.
pub(crate) struct Server {
    history: Vec<Transaction>,
    pub(crate) confirmed: Lsn,
    /// What a crash of the source cannot take from the slot.
    saved: Lsn,
}

impl Server {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let (mut number, mut at) = (0, 0x1000);
        let count = 5 + dice.below(60) as u32;
        let mut transaction = |index: u32| {
            let xid = 100 + index * 10;
            let streamed = dice.once_in(4);
            let rows = if streamed { 1 + dice.below(40) } else { dice.below(8) };
            let rows: Vec<_> = (0..rows)
                .map(|_| {
                    number += 1;
                    (xid + dice.below(3) as u32, number)
                })
                .collect();
            let rolled_back = (1..3).filter(|_| dice.once_in(4)).map(|sub| xid + sub).collect();
            at += RECORD * (2 + rows.len() as u64 + dice.below(4));
            Transaction { xid, rows, rolled_back, aborted: dice.once_in(8), streamed, end: at }
        };
        let history = (0..count).map(&mut transaction).collect();
        Self { history, confirmed: Lsn(0x1000), saved: Lsn(0x1000) }
    }

    pub(crate) fn start(&self) -> Lsn {
        Lsn(0x1000)
    }

    /// The numbers of the rows of each transaction that must arrive, in order.
    pub(crate) fn expected(&self) -> Vec<Vec<u64>> {
        let kept = |transaction: &Transaction| -> Vec<u64> {
            let rows = transaction.rows.iter().filter(|row| !transaction.rolled_back.contains(&row.0));
            rows.map(|row| row.1).collect()
        };
        let committed = self.history.iter().filter(|transaction| !transaction.aborted);
        committed.map(kept).filter(|rows| !rows.is_empty()).collect()
    }

    /// The slot is told a position. It does not go back.
    pub(crate) fn confirm(&mut self, lsn: Lsn) {
        self.confirmed = self.confirmed.max(lsn);
    }

    /// A crash: the slot is where it was saved last.
    pub(crate) fn forget(&mut self, dice: &mut Dice) {
        if dice.once_in(2) {
            self.saved = self.confirmed;
        }
        self.confirmed = self.saved;
    }

    /// What a client that starts at `from` is sent: never what was confirmed.
    pub(crate) fn stream(&self, from: Lsn) -> Vec<Sent> {
        let from = from.max(self.confirmed).0;
        let mut sent = Vec::new();
        let mut described = false;
        for (index, transaction) in self.history.iter().enumerate() {
            if transaction.end < from {
                continue;
            }
            if transaction.streamed {
                self.streamed(transaction, index, &mut sent);
            } else if !transaction.aborted {
                whole(transaction, &mut described, &mut sent);
            }
            sent.push(Sent::Keepalive(Lsn(transaction.end + RECORD)));
        }
        sent
    }

    /// A streamed transaction in two blocks, with a smaller one in between where one follows.
    fn streamed(&self, transaction: &Transaction, index: usize, sent: &mut Vec<Sent>) {
        let Transaction { xid, end, .. } = *transaction;
        let half = transaction.rows.len() / 2;
        let mut described = false;
        for (first, rows) in [(true, &transaction.rows[..half]), (false, &transaction.rows[half..])] {
            if rows.is_empty() && !first {
                continue;
            }
            put(sent, 0, &Message::StreamStart { xid, first });
            for (sub, number) in rows {
                if !described {
                    put(sent, 0, &Message::Relation { xid: Some(*sub), relation: relation() });
                    described = true;
                }
                row(sent, Some(*sub), *number);
            }
            put(sent, 0, &Message::StreamStop);
            // Something unrelated passes by: the position of an unfinished transaction must not be taken for progress.
            if first && index.is_multiple_of(3) {
                sent.push(Sent::Keepalive(Lsn(transaction.end - RECORD)));
            }
        }
        for sub in &transaction.rolled_back {
            if transaction.rows.iter().any(|row| row.0 == *sub) {
                put(sent, 0, &Message::StreamAbort { xid, subxid: *sub, abort: None });
            }
        }
        if transaction.aborted {
            put(sent, end, &Message::StreamAbort { xid, subxid: xid, abort: None });
        } else {
            let (commit_lsn, end_lsn) = (CommitLsn(Lsn(end)), ResumeLsn(Lsn(end + RECORD)));
            put(sent, end, &Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time: Timestamp(1) });
        }
    }
}

fn whole(transaction: &Transaction, described: &mut bool, sent: &mut Vec<Sent>) {
    let Transaction { xid, end, .. } = *transaction;
    let (commit_lsn, end_lsn) = (CommitLsn(Lsn(end)), ResumeLsn(Lsn(end + RECORD)));
    put(sent, end, &Message::Begin { commit_lsn, commit_time: Timestamp(1), xid });
    for (sub, number) in &transaction.rows {
        if transaction.rolled_back.contains(sub) {
            continue;
        }
        if !*described {
            put(sent, 0, &Message::Relation { xid: None, relation: relation() });
            *described = true;
        }
        row(sent, None, *number);
    }
    put(sent, end, &Message::Commit { commit_lsn, end_lsn, commit_time: Timestamp(1) });
}

fn put(sent: &mut Vec<Sent>, lsn: u64, message: &Message<'_>) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    sent.push(Sent::Data(Lsn(lsn), bytes));
}

fn row(sent: &mut Vec<Sent>, xid: Option<u32>, number: u64) {
    let tuple = TupleBuilder::new().text(&number.to_string()).text("some more to fill the files");
    let bytes = [b"N", tuple.as_tuple().as_bytes()].concat();
    put(sent, 0, &Message::Row(Row { xid, relation: 1, operation: b'I', columns: 2, bytes: &bytes }));
}

fn relation() -> Relation {
    let column = |name: &str, key| Column {
        name: name.to_owned(),
        key,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    Relation {
        id: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("n", true), column("filler", false)],
    }
}
