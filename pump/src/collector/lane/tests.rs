//! What a pump may not say, said.

use irongate_trail::{
    Begin, Column, Commit, Directory, Lineage, Message, Progress, ReplicaIdentity, ResumeLsn, Row, Timestamp,
    TupleBuilder,
};

use super::*;
use crate::wire::{self, Records};

const LINEAGE: Lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };

struct Bench {
    _dir: tempfile::TempDir,
    trail: Trail,
    tables: Tables,
}

fn relation() -> Relation {
    let column =
        Column { name: "id".to_owned(), key: true, type_oid: 25, type_modifier: -1, type_name: None };
    Relation {
        id: 16384,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column],
    }
}

fn begin(commit: u64, into: &mut Vec<u8>) {
    let begin = Begin {
        xid: 7,
        commit_lsn: CommitLsn(Lsn(commit)),
        commit_time: Timestamp(1),
        origin: None,
        previous: CommitLsn::default(),
    };
    wire::append_begin(into, &begin);
}

fn row(text: &str, into: &mut Vec<u8>) {
    let tuple = TupleBuilder::new().text(text);
    wire::append_row(into, 16384, &Row::Insert { new: tuple.as_tuple() });
}

fn commit(number: u64, changes: u64, digest: u64, into: &mut Vec<u8>) {
    let commit = Commit {
        commit_lsn: CommitLsn(Lsn(number)),
        end_lsn: ResumeLsn(Lsn(number + 100)),
        commit_time: Timestamp(1),
        changes,
    };
    wire::append_commit(into, &commit, |_| digest);
}

/// The digest of a transaction of these rows.
fn digest(number: u64, rows: &[&str]) -> u64 {
    let mut content = Content::default();
    let mut bytes = Vec::new();
    begin(number, &mut bytes);
    content.record(&bytes);
    for text in rows {
        bytes.clear();
        wire::append_relation(&mut bytes, &relation());
        content.relation(crc32c::crc32c(&bytes));
        bytes.clear();
        row(text, &mut bytes);
        content.record(&bytes);
    }
    bytes.clear();
    commit(number, rows.len() as u64, 0, &mut bytes);
    content.record(&bytes[5..37]);
    content.value()
}

impl Bench {
    /// A trail that ends with commit 1000, in epoch 2.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Directory::new(dir.path()));
        let options = WriterOptions { epoch: 2, ..WriterOptions::new("csp", LINEAGE) };
        let writer = Writer::create(storage, options, ResumeLsn(Lsn(10))).unwrap();
        let trail = Trail { writer, open: None, last_message: Lsn::ZERO, counts: Counts::default() };
        let mut bench = Self { _dir: dir, trail, tables: Tables::default() };
        let mut bytes = Vec::new();
        begin(1000, &mut bytes);
        wire::append_relation(&mut bytes, &relation());
        row("a", &mut bytes);
        commit(1000, 1, digest(1000, &["a"]), &mut bytes);
        assert_eq!(bench.say(&bytes).unwrap(), 1);
        bench
    }

    /// Applies records; how many boundaries they were.
    fn say(&mut self, bytes: &[u8]) -> Result<u64, Trouble> {
        let (mut records, mut boundaries) = (Records::default(), 0);
        records.push(bytes);
        while let Some(found) = records.next().unwrap() {
            boundaries += u64::from(self.trail.apply(&mut self.tables, &found)? == Applied::Boundary);
        }
        Ok(boundaries)
    }

    /// Says what must not be said; nothing is appended by it.
    fn misplaced(&mut self, what: impl FnOnce(&mut Vec<u8>)) -> String {
        let (mut bytes, before) = (Vec::new(), self.trail.writer.appended());
        what(&mut bytes);
        let trouble = self.say(&bytes).unwrap_err();
        self.trail.rollback().unwrap();
        assert_eq!(self.trail.writer.appended(), before);
        match trouble {
            Trouble::Misplaced(reason) => reason.to_string(),
            Trouble::Digest(commit) => format!("digest of {commit}"),
            Trouble::Trail(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_transaction_that_did_not_arrive_as_it_was_sent_is_not_committed() {
    let mut bench = Bench::new();
    let whole = digest(2000, &["a", "b"]);
    let mut send = |rows: &[&str], changes| {
        bench.misplaced(|bytes| {
            begin(2000, bytes);
            rows.iter().for_each(|text| row(text, bytes));
            commit(2000, changes, whole, bytes);
        })
    };
    // Changed, left out, doubled, in another order, miscounted.
    for (rows, changes) in
        [(&["a", "c"][..], 2), (&["a"], 1), (&["a", "b", "b"], 3), (&["b", "a"], 2), (&["a", "b"], 3)]
    {
        assert_eq!(send(rows, changes), "digest of 0/7D0", "{rows:?}");
    }
    let mut bytes = Vec::new();
    begin(2000, &mut bytes);
    row("a", &mut bytes);
    row("b", &mut bytes);
    commit(2000, 2, whole, &mut bytes);
    assert_eq!(bench.say(&bytes).unwrap(), 1);
}

#[test]
fn a_table_that_was_described_otherwise_is_another_content() {
    let mut bench = Bench::new();
    let found = bench.misplaced(|bytes| {
        let mut other = relation();
        other.columns[0].name = "other".to_owned();
        wire::append_relation(bytes, &other);
        begin(2000, bytes);
        row("a", bytes);
        commit(2000, 1, digest(2000, &["a"]), bytes);
    });
    assert_eq!(found, "digest of 0/7D0");
}

#[test]
fn records_that_cannot_stand_where_they_do_are_refused() {
    let mut bench = Bench::new();
    assert!(bench.misplaced(|bytes| row("a", bytes)).contains("outside a transaction"));
    assert!(bench.misplaced(|bytes| commit(2000, 0, 0, bytes)).contains("outside a transaction"));
    assert!(bench.misplaced(|bytes| begin(1000, bytes)).contains("here already"));
    assert!(bench.misplaced(|bytes| begin(900, bytes)).contains("here already"));
    let unknown = |bytes: &mut Vec<u8>| {
        begin(2000, bytes);
        let tuple = TupleBuilder::new().text("x");
        wire::append_row(bytes, 5, &Row::Insert { new: tuple.as_tuple() });
    };
    assert!(bench.misplaced(unknown).contains("not described"));
    let held = Held { commit: CommitLsn(Lsn(2000)), changes: 1, digest: 1 };
    assert!(bench.misplaced(|bytes| wire::append_continue(bytes, &held)).contains("not held here"));
    let other = Lineage { system_identifier: 8, ..LINEAGE };
    let lineage = |bytes: &mut Vec<u8>| wire::append_lineage(bytes, &other, ResumeLsn(Lsn(2000)), 0);
    assert!(bench.misplaced(lineage).contains("does not go on"));
    assert!(bench.misplaced(|bytes| wire::append_epoch(bytes, 2)).contains("is over"));
    let message = Message { transactional: true, lsn: Lsn(1), prefix: "", content: b"" };
    assert!(bench.misplaced(|bytes| wire::append_message(bytes, &message)).contains("outside"));
}

#[test]
fn what_is_held_of_a_transaction_goes_on_or_is_taken_back_for_another() {
    let mut bench = Bench::new();
    let mut bytes = Vec::new();
    begin(2000, &mut bytes);
    row("a", &mut bytes);
    bench.say(&bytes).unwrap();
    let held = bench.trail.accepted().held.unwrap();
    assert_eq!((held.commit, held.changes), (CommitLsn(Lsn(2000)), 1));
    // Another connection: tables are described anew.
    bench.tables = Tables::default();
    let mut bytes = Vec::new();
    wire::append_continue(&mut bytes, &held);
    wire::append_relation(&mut bytes, &relation());
    row("b", &mut bytes);
    commit(2000, 2, digest(2000, &["a", "b"]), &mut bytes);
    assert_eq!(bench.say(&bytes).unwrap(), 1);
    assert_eq!(bench.trail.accepted().held, None);

    let mut bytes = Vec::new();
    begin(3000, &mut bytes);
    row("a", &mut bytes);
    begin(4000, &mut bytes);
    row("a", &mut bytes);
    commit(4000, 1, digest(4000, &["a"]), &mut bytes);
    begin(5000, &mut bytes);
    wire::append_progress(&mut bytes, &Progress { resume_lsn: ResumeLsn(Lsn(4500)), time: Timestamp(1) });
    assert_eq!(bench.say(&bytes).unwrap(), 2);
    assert_eq!(bench.trail.accepted().held, None);
    assert_eq!(bench.trail.own().place.commit, CommitLsn(Lsn(4000)));
    assert_eq!(bench.trail.own().place.resume, ResumeLsn(Lsn(4500)));
}

#[test]
fn a_trail_that_is_opened_again_knows_its_last_message() {
    let mut bench = Bench::new();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(bench._dir.path()));
    let mut bytes = Vec::new();
    for lsn in [1150, 1160] {
        let message = Message { transactional: false, lsn: Lsn(lsn), prefix: "p", content: b"c" };
        wire::append_message(&mut bytes, &message);
    }
    assert_eq!(bench.say(&bytes).unwrap(), 2);
    assert_eq!(bench.trail.accepted().last_message, Lsn(1160));
    // Into a file that holds nothing yet.
    bench.trail.writer.rotate().unwrap();
    bench.trail.writer.sync().unwrap();
    drop(bench.trail);
    let again = open(&storage, "csp", 1 << 20).unwrap().unwrap();
    assert_eq!(again.accepted().last_message, Lsn(1160));
    assert_eq!(again.writer.epoch(), 2);
}
