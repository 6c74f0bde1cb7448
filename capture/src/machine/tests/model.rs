//! A server with a history, a sink that can lose what it did not sync, and a machine between them that is cut off,
//! killed and restarted at will. Whatever happens, the sink ends with every committed transaction once, in the order of
//! commits, and the server is never told of one that the sink could lose.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use irongate_trail::{Message as Logical, TupleBuilder};
use proptest::prelude::*;

use super::talk::{own_table, table};
use crate::Sink;
use crate::error::Error;
use crate::machine::*;
use crate::pgoutput::{Message, Row};

const OWN_TABLE: u32 = 9;
const THEIRS: &str = "theirs";

/// What happens at the source, each at a place of its own in the log.
#[derive(Clone, Debug)]
enum Event {
    /// A row of transaction, sub-transaction and table.
    Insert(u32, u32, u32),
    RollbackTo(u32, u32),
    Commit(u32),
    Rollback(u32),
    AddColumn(u32),
    Ping,
    Nothing,
}

#[derive(Clone, Debug)]
struct History {
    events: Vec<Event>,
    streamed: BTreeSet<u32>,
    with_origin: BTreeSet<u32>,
}

/// Transactions are numbered 10, 20, …; the sub-transactions of 10 are 11 to 13.
fn history() -> impl Strategy<Value = History> {
    let top = (1..=4_u32).prop_map(|n| n * 10);
    let event = prop_oneof![
        8 => (top.clone(), 0..=3_u32, prop_oneof![4 => 1..=2_u32, 1 => Just(OWN_TABLE)])
            .prop_map(|(xid, sub, table)| Event::Insert(xid, xid + sub, table)),
        1 => (top.clone(), 1..=3_u32).prop_map(|(xid, sub)| Event::RollbackTo(xid, xid + sub)),
        3 => top.clone().prop_map(Event::Commit),
        1 => top.clone().prop_map(Event::Rollback),
        1 => (1..=2_u32).prop_map(Event::AddColumn),
        1 => Just(Event::Ping),
        2 => Just(Event::Nothing),
    ];
    let some = prop::collection::btree_set(0..40_u32, 0..20);
    (prop::collection::vec(event, 1..80), some.clone(), some).prop_map(|(events, streamed, with_origin)| {
        // A number that was used up becomes another transaction.
        let mut generation = BTreeMap::new();
        let mut rename = |xid: u32, ends: bool| {
            let generation = generation.entry(xid / 10).or_insert(0);
            let renamed = *generation * 100 + xid;
            *generation += u32::from(ends);
            renamed
        };
        let events: Vec<_> = events
            .into_iter()
            .map(|event| match event {
                Event::Insert(xid, sub, table) => {
                    let renamed = rename(xid, false);
                    Event::Insert(renamed, renamed + sub - xid, table)
                }
                Event::RollbackTo(xid, sub) => {
                    let renamed = rename(xid, false);
                    Event::RollbackTo(renamed, renamed + sub - xid)
                }
                Event::Commit(xid) => Event::Commit(rename(xid, true)),
                Event::Rollback(xid) => Event::Rollback(rename(xid, true)),
                other => other,
            })
            .collect();
        let tops: BTreeSet<u32> = events
            .iter()
            .filter_map(|event| match event {
                Event::Insert(xid, ..) | Event::Commit(xid) => Some(*xid),
                _ => None,
            })
            .collect();
        let pick = |some: &BTreeSet<u32>| {
            tops.iter()
                .enumerate()
                .filter(|(i, _)| some.contains(&(*i as u32)))
                .map(|(_, xid)| *xid)
                .collect()
        };
        History { events, streamed: pick(&streamed), with_origin: pick(&with_origin) }
    })
}

/// Where event `i` starts and ends in the log.
fn start_of(i: usize) -> u64 {
    0x1000 + i as u64 * 0x20
}

impl History {
    /// What must be in the sink in the end: of each transaction the tables of its rows.
    fn expected(&self) -> Vec<(u32, Vec<(u32, u64)>)> {
        let mut rows: HashMap<u32, Vec<(u32, u32, u64)>> = HashMap::new();
        let mut expected = Vec::new();
        for (i, event) in self.events.iter().enumerate() {
            match event {
                Event::Insert(xid, sub, table) => {
                    rows.entry(*xid).or_default().push((*sub, *table, start_of(i)));
                }
                Event::RollbackTo(xid, sub) => rows.entry(*xid).or_default().retain(|row| row.0 != *sub),
                Event::Rollback(xid) => drop(rows.remove(xid)),
                Event::Commit(xid) => {
                    let kept = rows.remove(xid).unwrap_or_default().into_iter();
                    let kept: Vec<_> =
                        kept.filter(|row| row.1 != OWN_TABLE).map(|row| (row.1, row.2)).collect();
                    if !kept.is_empty() && !self.with_origin.contains(xid) {
                        expected.push((*xid, kept));
                    }
                }
                _ => {}
            }
        }
        expected
    }

    fn pings(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Ping)).count()
    }
}

/// One thing that the server sends.
#[derive(Clone, Debug)]
enum Sent {
    Plain(Message<'static>),
    Row(Option<u32>, u32, u16, u64),
    Keepalive(u64),
}

/// Everything that the server sends to a client that starts at `from`.
fn stream(history: &History, from: u64) -> Vec<Sent> {
    let mut server = Walsender { history, from, ..Walsender::new(history) };
    for (i, event) in history.events.iter().enumerate() {
        server.decode(start_of(i), event);
    }
    server.sent
}

struct Walsender<'a> {
    history: &'a History,
    from: u64,
    columns: HashMap<u32, u16>,
    rows: HashMap<u32, Vec<(u32, u32, u64, u16)>>,
    /// Described, by streamed transaction or 0 for all.
    described: HashSet<(u32, u32, u16)>,
    started: HashSet<u32>,
    sent: Vec<Sent>,
}

impl<'a> Walsender<'a> {
    fn new(history: &'a History) -> Self {
        Self {
            history,
            from: 0,
            columns: HashMap::from([(1, 1), (2, 1), (OWN_TABLE, 1)]),
            rows: HashMap::new(),
            described: HashSet::new(),
            started: HashSet::new(),
            sent: Vec::new(),
        }
    }

    fn say(&mut self, message: Message<'static>) {
        self.sent.push(Sent::Plain(message));
    }

    fn decode(&mut self, lsn: u64, event: &Event) {
        let (is_wanted, end) = (lsn >= self.from, lsn + 0x20);
        match event {
            Event::Insert(xid, sub, table) => {
                self.rows.entry(*xid).or_default().push((*sub, *table, lsn, self.columns[table]));
                if is_wanted && self.history.streamed.contains(xid) {
                    self.send_block(*xid);
                }
            }
            Event::RollbackTo(xid, sub) => {
                self.rows.entry(*xid).or_default().retain(|row| row.0 != *sub);
                if self.started.contains(xid) {
                    self.say(Message::StreamAbort { xid: *xid, subxid: *sub, abort: None });
                }
            }
            Event::Rollback(xid) => {
                self.rows.remove(xid);
                if self.started.remove(xid) {
                    self.say(Message::StreamAbort { xid: *xid, subxid: *xid, abort: None });
                }
            }
            Event::Commit(xid) if is_wanted => self.commit(*xid, lsn, end),
            Event::Commit(xid) => drop(self.rows.remove(xid)),
            Event::AddColumn(table) => *self.columns.entry(*table).or_default() += 1,
            Event::Ping if is_wanted => {
                let message = Logical { transactional: false, lsn: Lsn(end), prefix: "ping", content: b"" };
                self.say(Message::Logical { xid: None, message });
            }
            Event::Nothing if is_wanted => self.sent.push(Sent::Keepalive(end)),
            Event::Ping | Event::Nothing => {}
        }
    }

    fn send_block(&mut self, xid: u32) {
        let rows = self.rows.remove(&xid).unwrap_or_default();
        let first = self.started.insert(xid);
        self.say(Message::StreamStart { xid, first });
        if first && self.history.with_origin.contains(&xid) {
            self.say(Message::Origin { lsn: Lsn::ZERO, name: THEIRS });
        }
        for (sub, table, lsn, columns) in rows {
            self.describe(xid, Some(sub), table, columns);
            self.sent.push(Sent::Row(Some(sub), table, columns, lsn));
        }
        self.say(Message::StreamStop);
    }

    fn commit(&mut self, xid: u32, lsn: u64, end: u64) {
        let (commit_lsn, end_lsn, commit_time) = (CommitLsn(Lsn(lsn)), ResumeLsn(Lsn(end)), Timestamp(1));
        if self.started.contains(&xid) || self.history.streamed.contains(&xid) && self.rows.contains_key(&xid)
        {
            self.send_block(xid);
            self.started.remove(&xid);
            let seen: Vec<_> = self.described.iter().filter(|(owner, ..)| *owner == xid).copied().collect();
            for (_, table, columns) in seen {
                self.described.retain(|known| *known != (0, table, known.2));
                self.described.insert((0, table, columns));
            }
            return self.say(Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time });
        }
        let Some(rows) = self.rows.remove(&xid) else { return };
        self.say(Message::Begin { commit_lsn, commit_time, xid });
        if self.history.with_origin.contains(&xid) {
            self.say(Message::Origin { lsn: Lsn(1), name: THEIRS });
        }
        for (_, table, lsn, columns) in rows {
            self.describe(0, None, table, columns);
            self.sent.push(Sent::Row(None, table, columns, lsn));
        }
        // Sent while the commit's record is being decoded.
        self.sent.push(Sent::Keepalive(lsn));
        self.say(Message::Commit { commit_lsn, end_lsn, commit_time });
    }

    fn describe(&mut self, owner: u32, xid: Option<u32>, id: u32, columns: u16) {
        if self.described.contains(&(owner, id, columns)) {
            return;
        }
        self.described.retain(|known| (known.0, known.1) != (owner, id));
        self.described.insert((owner, id, columns));
        let types = vec![23; usize::from(columns)];
        let relation = if id == OWN_TABLE { own_table(id) } else { table(id, "t", &types) };
        self.say(Message::Relation { xid, relation });
    }
}

type Rows = Vec<(u32, u64)>;

/// A sink in memory, of which a part is durable.
#[derive(Clone, Default, Debug)]
struct Memory {
    committed: Vec<(u32, Rows)>,
    pings: usize,
    resume: ResumeLsn,
    last_commit: CommitLsn,
    open: Option<(u32, Rows)>,
    side: HashMap<u32, Vec<(u32, u32, u64)>>,
    described: HashMap<u32, Arc<Relation>>,
    side_described: HashMap<(u32, u32), Arc<Relation>>,
}

/// The row's own place in the log stands in its first column.
fn place(bytes: &[u8], relation: &Relation) -> u64 {
    let row = irongate_trail::Row::decode(b'I', bytes).unwrap();
    let tuple = row.new().unwrap();
    assert_eq!(tuple.len(), relation.columns.len(), "the row is as its table was described");
    let irongate_trail::Value::Text(text) = tuple.values().next().unwrap() else { panic!("not a text") };
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

impl Sink for Memory {
    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        assert!(self.open.is_none() && begin.commit_lsn > self.last_commit);
        self.described.clear();
        self.open = Some((begin.xid, Vec::new()));
        Ok(())
    }
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error> {
        self.described.insert(relation.id, Arc::clone(relation));
        Ok(())
    }
    fn row(&mut self, relation: u32, _: u8, bytes: &[u8]) -> Result<(), Error> {
        let place = place(bytes, &self.described[&relation]);
        self.open.as_mut().unwrap().1.push((relation, place));
        Ok(())
    }
    fn truncate(&mut self, _: &Truncate) -> Result<(), Error> {
        unreachable!("the model has none")
    }
    fn message(&mut self, _: &Logical<'_>) -> Result<(), Error> {
        self.pings += 1;
        Ok(())
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        let transaction = self.open.take().unwrap();
        assert_eq!(commit.changes, transaction.1.len() as u64);
        self.committed.push(transaction);
        (self.resume, self.last_commit) = (commit.end_lsn, commit.commit_lsn);
        Ok(())
    }
    fn rollback(&mut self) -> Result<(), Error> {
        self.open = None;
        self.side.clear();
        self.side_described.clear();
        Ok(())
    }
    fn progress(&mut self, progress: &Progress) -> Result<(), Error> {
        assert!(self.open.is_none() && progress.resume_lsn > self.resume);
        self.resume = progress.resume_lsn;
        Ok(())
    }
    fn side_relation(&mut self, xid: u32, relation: &Arc<Relation>) -> Result<(), Error> {
        self.side_described.insert((xid, relation.id), Arc::clone(relation));
        Ok(())
    }
    fn side_row(&mut self, xid: u32, subxid: u32, relation: u32, _: u8, bytes: &[u8]) -> Result<(), Error> {
        let place = place(bytes, &self.side_described[&(xid, relation)]);
        self.side.entry(xid).or_default().push((subxid, relation, place));
        Ok(())
    }
    fn side_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        self.side.get_mut(&xid).unwrap().retain(|row| row.0 != subxid);
        Ok(())
    }
    fn side_drop(&mut self, xid: u32) -> Result<(), Error> {
        self.side.remove(&xid).unwrap();
        Ok(())
    }
    fn adopt(&mut self, xid: u32, begin: &Begin, commit: &Commit) -> Result<(), Error> {
        assert!(self.open.is_none() && begin.commit_lsn > self.last_commit);
        let rows: Rows = self.side.remove(&xid).unwrap().into_iter().map(|row| (row.1, row.2)).collect();
        assert_eq!(commit.changes, rows.len() as u64);
        self.committed.push((xid, rows));
        (self.resume, self.last_commit) = (commit.end_lsn, commit.commit_lsn);
        Ok(())
    }
}

/// What befalls the machine after a message.
#[derive(Clone, Copy, Debug)]
enum Fate {
    GoesOn,
    Settles,
    Syncs,
    Tells,
    IsCutOff,
    IsKilled,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::GoesOn),
        4 => Just(Fate::Settles),
        4 => Just(Fate::Syncs),
        3 => Just(Fate::Tells),
        1 => Just(Fate::IsCutOff),
        1 => Just(Fate::IsKilled),
    ]
}

/// Runs the machine until the server has nothing more to send.
fn live(history: &History, fates: &[Fate]) -> (Memory, u64) {
    let begin = ResumeLsn(Lsn(start_of(0)));
    let mut memory = Memory { resume: begin, ..Memory::default() };
    let mut durable = memory.clone();
    let mut confirmed = 0;
    let mut fates = fates.iter().copied();
    let mut clock = 0;
    loop {
        assert!(confirmed <= durable.resume.0.0, "the slot is never ahead of what is durable");
        let mut machine = Machine::new(Settings::default(), memory.resume, memory.last_commit);
        let mut is_over = true;
        for sent in stream(history, memory.resume.0.0) {
            clock += 700_000;
            match sent {
                Sent::Plain(message) => machine.message(message, &mut memory).unwrap(),
                Sent::Row(xid, relation, columns, lsn) => {
                    machine.frame(Lsn(lsn));
                    let tuple =
                        (0..columns).fold(TupleBuilder::new(), |tuple, _| tuple.text(&lsn.to_string()));
                    let bytes = [b"N", tuple.as_tuple().as_bytes()].concat();
                    let row = Row { xid, relation, operation: b'I', columns, bytes: &bytes };
                    machine.message(Message::Row(row), &mut memory).unwrap();
                }
                Sent::Keepalive(wal_end) => machine.keepalive(Lsn(wal_end), wal_end % 3 == 0),
            }
            match fates.next().unwrap_or(Fate::GoesOn) {
                Fate::GoesOn => {}
                Fate::Settles => _ = machine.settle(Timestamp(clock), &mut memory).unwrap(),
                Fate::Syncs => {
                    // What is in the air is not part of what a restart finds.
                    durable = Memory { open: None, side: HashMap::new(), ..memory.clone() };
                    machine.synced(machine.positions().appended).unwrap();
                }
                Fate::Tells => {
                    let told = machine.positions().durable;
                    machine.confirmed(told).unwrap();
                    confirmed = confirmed.max(told.0.0);
                }
                Fate::IsCutOff => {
                    machine.disconnected(Timestamp(clock), &mut memory).unwrap();
                    durable = memory.clone();
                    is_over = false;
                }
                Fate::IsKilled => {
                    memory = durable.clone();
                    is_over = false;
                }
            }
            if !is_over {
                break;
            }
        }
        if is_over {
            machine.stopping();
            machine.settle(Timestamp(clock), &mut memory).unwrap();
            machine.synced(machine.positions().appended).unwrap();
            return (memory, machine.positions().durable.0.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_committed_transaction_arrives_once_whatever_is_cut_off_or_killed(
        history in history(), fates in prop::collection::vec(fate(), 0..150),
    ) {
        let (memory, end) = live(&history, &fates);
        prop_assert_eq!(&memory.committed, &history.expected());
        prop_assert!(memory.open.is_none());
        // A message outside a transaction may come again only when it was not durable.
        prop_assert!(memory.pings >= history.pings());
        prop_assert!(end <= start_of(history.events.len()));
    }
}
