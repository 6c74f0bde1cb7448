//! Trails with everything in them, and what is in a trail.

use std::path::Path;
use std::sync::Arc;

use irongate_trail::{
    Begin, Begins, Column, Commit, CommitLsn, Directory, Item, Lineage, Lsn, Message, Old, Progress, Reader,
    Relation, ReplicaIdentity, ResumeLsn, Row, Storage, Timestamp, Truncate, TupleBuilder, Value, Writer,
    WriterOptions,
};

pub(crate) const LINEAGE: Lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };
pub(crate) const START: ResumeLsn = ResumeLsn(Lsn(10));

/// A small generator of numbers (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// The seed of this run: `IRONGATE_TEST_SEED`, else a new one. Printed.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("IRONGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("IRONGATE_TEST_SEED={seed}");
    seed
}

/// A trail that is written as Extract writes it.
pub(crate) struct Source {
    pub(crate) writer: Writer,
    dice: Dice,
    pub(crate) next: u64,
    /// Places used since the last transaction.
    between: u64,
}

pub(crate) fn relation(id: u32, version: u64) -> Arc<Relation> {
    let column = |name: String, key: bool| Column {
        type_name: key.then(|| ("public".to_owned(), "a type".to_owned())),
        type_modifier: if key { -1 } else { 20 },
        type_oid: 25,
        name,
        key,
    };
    let mut columns = vec![column("id".to_owned(), true)];
    columns.extend((0..=version).map(|number| column(format!("value {number}"), false)));
    let identities =
        [ReplicaIdentity::Default, ReplicaIdentity::Full, ReplicaIdentity::Index, ReplicaIdentity::Nothing];
    let replica_identity = identities[version as usize % 4];
    Arc::new(Relation { id, schema: "public".to_owned(), name: format!("t{id}"), replica_identity, columns })
}

impl Source {
    pub(crate) fn create(directory: &Path, seed: u64) -> Self {
        Self::create_with(directory, seed, LINEAGE, START, 20_000)
    }

    pub(crate) fn create_with(
        directory: &Path,
        seed: u64,
        lineage: Lineage,
        start: ResumeLsn,
        file_size: u64,
    ) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(Directory::create(directory).unwrap());
        let options =
            WriterOptions { file_size, server_version: 170_000, ..WriterOptions::new("csp", lineage) };
        let writer = Writer::create(storage, options, start).unwrap();
        Self { writer, dice: Dice(seed), next: start.0.0 / 1000 + 1, between: 0 }
    }

    fn brackets(&mut self) -> (Begin, Commit) {
        let number = self.next;
        self.next += 1;
        self.between = 0;
        let (commit_lsn, commit_time) = (CommitLsn(Lsn(number * 1000)), Timestamp(number as i64));
        let origin = number.is_multiple_of(5).then(|| format!("origin {number}"));
        let begin =
            Begin { xid: number as u32, commit_lsn, commit_time, origin, previous: CommitLsn::default() };
        let end_lsn = ResumeLsn(Lsn(number * 1000 + 100));
        (begin, Commit { commit_lsn, end_lsn, commit_time, changes: 0 })
    }

    fn row(&mut self, relation: &Relation) -> (u8, Vec<u8>) {
        let columns = relation.columns.len();
        let tuple = |dice: &mut Dice| {
            let mut tuple = TupleBuilder::new();
            for _ in 0..columns {
                let text = format!("{:x}", dice.roll()).repeat(dice.below(6) as usize);
                tuple = match dice.below(8) {
                    0 => tuple.value(Value::Null),
                    1 => tuple.value(Value::Unchanged),
                    2 => tuple.value(Value::Binary(text.as_bytes())),
                    _ => tuple.text(&text),
                };
            }
            tuple.as_tuple().as_bytes().to_vec()
        };
        let (one, other) = (tuple(&mut self.dice), tuple(&mut self.dice));
        match self.dice.below(6) {
            0..=2 => (b'I', [b"N", &one[..]].concat()),
            3 => (b'U', [b"N", &one[..]].concat()),
            4 => (b'U', [b"K", &one[..], b"N", &other[..]].concat()),
            _ => (b'D', [b"O", &one[..]].concat()),
        }
    }

    /// A transaction of `changes` changes of every kind.
    pub(crate) fn transaction(&mut self, changes: u64) {
        let (begin, commit) = self.brackets();
        self.writer.begin(&begin).unwrap();
        for _ in 0..changes {
            let relation = relation(16384 + self.dice.below(3) as u32, self.dice.below(2));
            match self.dice.below(20) {
                0 => {
                    let other = relation_of(16400);
                    self.writer.relation(&relation).unwrap();
                    self.writer.relation(&other).unwrap();
                    let truncate = Truncate {
                        relations: vec![relation.id, other.id],
                        cascade: self.dice.below(2) == 0,
                        restart_identity: self.dice.below(2) == 0,
                    };
                    self.writer.truncate(&truncate).unwrap();
                }
                1 => {
                    let content = self.dice.roll().to_be_bytes();
                    let message = Message {
                        transactional: true,
                        lsn: Lsn(self.next),
                        prefix: "inside",
                        content: &content,
                    };
                    self.writer.message(&message).unwrap();
                }
                _ => {
                    let (operation, tuples) = self.row(&relation);
                    self.writer.relation(&relation).unwrap();
                    self.writer.row(relation.id, operation, &tuples).unwrap();
                }
            }
        }
        self.writer.commit(&commit).unwrap();
    }

    /// A transaction streamed before its commit, a third of it rolled back.
    pub(crate) fn streamed(&mut self, changes: u64) {
        let (begin, commit) = self.brackets();
        let xid = begin.xid;
        for change in 0..changes {
            let relation = relation(16500, change % 2);
            let subxid = if change % 3 == 2 { 1_000_000 + xid } else { xid };
            let (operation, tuples) = self.row(&relation);
            self.writer.side_relation(xid, &relation).unwrap();
            self.writer.side_row(xid, subxid, relation.id, operation, &tuples).unwrap();
        }
        self.writer.side_abort(xid, 1_000_000 + xid).unwrap();
        assert!(self.writer.adopt(xid, &begin, &commit).unwrap());
    }

    /// A transaction of `rows` rows of `bytes` bytes that no compression makes shorter.
    pub(crate) fn large(&mut self, rows: u64, bytes: usize) {
        let (begin, commit) = self.brackets();
        let relation = relation_of(16600);
        self.writer.begin(&begin).unwrap();
        self.writer.relation(&relation).unwrap();
        for _ in 0..rows {
            let value: Vec<u8> =
                std::iter::repeat_with(|| self.dice.roll().to_be_bytes()).flatten().take(bytes).collect();
            let tuple = TupleBuilder::new().text("id").value(Value::Binary(&value));
            let tuples = [b"N", tuple.as_tuple().as_bytes()].concat();
            self.writer.row(relation.id, b'I', &tuples).unwrap();
        }
        self.writer.commit(&commit).unwrap();
    }

    /// The next place in the log, behind everything before.
    fn place(&mut self) -> Lsn {
        self.between += 1;
        assert!(self.between < 800, "the log has room for the next transaction");
        Lsn((self.next - 1) * 1000 + 100 + self.between)
    }

    /// What stands between transactions.
    pub(crate) fn progress(&mut self) {
        let resume_lsn = ResumeLsn(self.place());
        self.writer.progress(&Progress { resume_lsn, time: Timestamp(1) }).unwrap();
    }

    pub(crate) fn message(&mut self) {
        let lsn = self.place();
        let message = Message { transactional: false, lsn, prefix: "between", content: b"content" };
        self.writer.message(&message).unwrap();
    }

    /// Some of everything; durable.
    pub(crate) fn write(&mut self, transactions: u64) {
        for _ in 0..transactions {
            match self.dice.below(10) {
                0 => self.progress(),
                1 => {
                    self.message();
                    self.message();
                }
                2 => {
                    let changes = 3 + self.dice.below(60);
                    self.streamed(changes);
                }
                _ => {
                    let changes = self.dice.below(40);
                    self.transaction(changes);
                }
            }
        }
        self.sync();
    }

    pub(crate) fn sync(&mut self) {
        self.writer.sync().unwrap();
    }
}

fn relation_of(id: u32) -> Arc<Relation> {
    relation(id, 0)
}

/// Everything in a trail, in words. Progress that says nothing new is left out: it may be repeated and lost.
pub(crate) fn content(directory: &Path) -> Vec<String> {
    if !directory.exists() {
        return Vec::new();
    }
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory));
    let mut reader = match Reader::open(storage, Begins::First) {
        Err(irongate_trail::Error::Missing(_) | irongate_trail::Error::NotDurable(_)) => return Vec::new(),
        other => other.unwrap(),
    };
    let (mut found, mut reached) = (Vec::new(), ResumeLsn::default());
    while let Some(item) = reader.next().unwrap() {
        let text = match item {
            Item::Progress(progress) if progress.resume_lsn <= reached => continue,
            Item::Progress(progress) => {
                reached = progress.resume_lsn;
                // A writer notes the begin of a lineage by itself, by its own clock; the others are the test's.
                let own = progress.time > Timestamp(1_000_000);
                let time = if own { Timestamp(0) } else { progress.time };
                format!("{:?}", Progress { time, ..progress })
            }
            Item::Row { relation, row } => {
                // In full: a row's own words leave out nothing.
                let old = match row.old() {
                    Some(Old::Key(tuple)) => format!("K{tuple:?}"),
                    Some(Old::Full(tuple)) => format!("O{tuple:?}"),
                    None => String::new(),
                };
                format!("{} {relation:?} {old} {:?}", row.operation() as char, row.new())
            }
            Item::Commit(commit) => {
                reached = reached.max(commit.end_lsn);
                format!("{commit:?}")
            }
            other => format!("{other:?}"),
        };
        found.push(format!("{} {}: {text}", reader.lineage(), reader.epoch()));
    }
    found
}

/// Checks that a row is one, so that a mistake of the generator is not the pump's.
#[test]
fn the_generator_makes_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::create(dir.path(), 1);
    for version in 0..20 {
        let relation = relation(1, version);
        let (operation, tuples) = source.row(&relation);
        Row::decode(operation, &tuples).unwrap();
    }
    source.write(30);
    assert!(content(dir.path()).len() > 100);
}
