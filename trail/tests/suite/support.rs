//! Small trails and what is in them.

use std::sync::Arc;

use irongate_trail::{
    Begin, Begins, Column, Commit, CommitLsn, Error, Item, Lineage, Lsn, Message, Progress, Reader, Relation,
    ReplicaIdentity, ResumeLsn, Storage, Timestamp, Truncate, TupleBuilder, Writer, WriterOptions,
};

pub(crate) const LINEAGE: Lineage = Lineage { system_identifier: 7, timeline: 1, slot_incarnation: Lsn(5) };
pub(crate) const START: ResumeLsn = ResumeLsn(Lsn(10));

/// A clock that stands still, so that the same calls write the same bytes.
pub(crate) fn noon() -> Timestamp {
    Timestamp(800_000_000_000_000)
}

pub(crate) fn options() -> WriterOptions {
    WriterOptions {
        clock: noon,
        server_version: 180_000,
        release: "0.1.0".to_owned(),
        ..WriterOptions::new("flow", LINEAGE)
    }
}

pub(crate) fn create(storage: &Arc<dyn Storage>) -> Writer {
    Writer::create(Arc::clone(storage), options(), START).unwrap()
}

pub(crate) fn commit_lsn(number: u64) -> CommitLsn {
    CommitLsn(Lsn(number * 1000))
}

pub(crate) fn end_lsn(number: u64) -> ResumeLsn {
    ResumeLsn(Lsn(number * 1000 + 100))
}

pub(crate) fn begin(number: u64) -> Begin {
    Begin {
        xid: number as u32,
        commit_lsn: commit_lsn(number),
        commit_time: Timestamp(number as i64),
        origin: None,
        previous: CommitLsn::default(),
    }
}

pub(crate) fn commit(number: u64) -> Commit {
    Commit {
        commit_lsn: commit_lsn(number),
        end_lsn: end_lsn(number),
        commit_time: Timestamp(number as i64),
        changes: 0,
    }
}

pub(crate) fn relation(name: &str) -> Arc<Relation> {
    let column = |name: &str, key| Column {
        name: name.to_owned(),
        key,
        type_oid: 25,
        type_modifier: -1,
        type_name: None,
    };
    Arc::new(Relation {
        id: 16384 + name.len() as u32,
        schema: "public".to_owned(),
        name: name.to_owned(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("id", true), column("value", false)],
    })
}

pub(crate) fn insert(id: &str, value: &str) -> Vec<u8> {
    [b"N", TupleBuilder::new().text(id).text(value).as_tuple().as_bytes()].concat()
}

/// Appends a transaction of `rows` rows.
pub(crate) fn transaction(writer: &mut Writer, number: u64, rows: u64) -> Result<(), Error> {
    let relation = relation("t");
    writer.begin(&begin(number))?;
    for row in 0..rows {
        writer.relation(&relation)?;
        writer.row(relation.id, b'I', &insert(&format!("{number}.{row}"), "some value"))?;
    }
    writer.commit(&commit(number))
}

/// Streams a transaction of `rows` rows, a third of them in a sub-transaction that is rolled back, and commits it.
pub(crate) fn streamed(writer: &mut Writer, number: u64, rows: u64) -> Result<(), Error> {
    let (relation, xid) = (relation("streamed"), number as u32);
    for row in 0..rows {
        let subxid = if row % 3 == 2 { 100_000 + xid } else { xid };
        writer.side_relation(xid, &relation)?;
        writer.side_row(xid, subxid, relation.id, b'I', &insert(&format!("{number}.{row}"), "streamed"))?;
    }
    writer.side_abort(xid, 100_000 + xid)?;
    assert!(writer.adopt(xid, &begin(number), &commit(number))?);
    Ok(())
}

pub(crate) fn progress(resume_lsn: ResumeLsn) -> Progress {
    Progress { resume_lsn, time: noon() }
}

pub(crate) fn message(content: &[u8], transactional: bool) -> Message<'_> {
    Message { transactional, lsn: Lsn(77), prefix: "test", content }
}

pub(crate) fn truncate(relation: &Relation) -> Truncate {
    Truncate { relations: vec![relation.id], cascade: true, restart_identity: false }
}

/// Numbers of the transactions that a reader returns, and the rows of each, to the end or to an error.
pub(crate) fn read(reader: &mut Reader) -> (Vec<(u64, u64)>, Result<(), Error>) {
    let (mut whole, mut rows) = (Vec::new(), 0);
    loop {
        match reader.next() {
            Ok(Some(Item::Begin(_))) => rows = 0,
            Ok(Some(Item::Commit(commit))) => whole.push((commit.commit_lsn.0.0 / 1000, rows)),
            Ok(Some(Item::Progress(_))) => {}
            Ok(Some(_)) => rows += 1,
            Ok(None) => return (whole, Ok(())),
            Err(error) => return (whole, Err(error)),
        }
    }
}

/// Numbers of all transactions that a reader returns.
pub(crate) fn numbers(reader: &mut Reader) -> Vec<u64> {
    let (whole, result) = read(reader);
    result.unwrap();
    whole.into_iter().map(|(number, _)| number).collect()
}

pub(crate) fn after(number: u64) -> Begins {
    let (commit, resume) =
        if number == 0 { (CommitLsn::default(), START) } else { (commit_lsn(number), end_lsn(number)) };
    Begins::After { lineage: LINEAGE, commit, resume }
}

pub(crate) fn open(storage: &Arc<dyn Storage>, begins: Begins) -> Result<Reader, Error> {
    Reader::open(Arc::clone(storage), begins)
}

pub(crate) fn reopen(storage: &Arc<dyn Storage>) -> Result<(Writer, irongate_trail::Recovered), Error> {
    Writer::open(Arc::clone(storage), options(), None)
}
