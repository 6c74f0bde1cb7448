//! A small trail with everything in it: several files, streamed transactions with aborted parts, every kind of record.

use std::sync::{Arc, LazyLock};

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Error, Lineage, Lsn, Message, Progress, Relation, ReplicaIdentity,
    ResumeLsn, Timestamp, Truncate, TupleBuilder, Value, Writer, WriterOptions,
};

use crate::{Memory, read};

static SAMPLE: LazyLock<Memory> = LazyLock::new(|| {
    let memory = Memory::default();
    write(&memory).unwrap_or_else(|error| panic!("the sample cannot be written: {error}"));
    memory
});

static COMMITTED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let (items, error) = read(&SAMPLE, false);
    assert!(error.is_none() && items.len() > 50, "the sample cannot be read: {error:?}");
    items
});

/// A copy of the sample.
pub fn sample() -> Memory {
    SAMPLE.copy()
}

/// What a reader gets out of the undamaged sample.
pub fn committed() -> &'static [String] {
    &COMMITTED
}

pub(crate) fn options() -> WriterOptions {
    let lineage =
        Lineage { system_identifier: 7_000_000_000_000_000_000, timeline: 1, slot_incarnation: Lsn(0x100) };
    WriterOptions {
        file_size: 1500,
        clock: || Timestamp(800_000_000_000_000),
        ..WriterOptions::new("sample", lineage)
    }
}

fn relation(id: u32, columns: usize) -> Arc<Relation> {
    let column = |number: usize| Column {
        name: format!("column {number}"),
        key: number == 0,
        type_oid: 25,
        type_modifier: -1,
        type_name: (number == 1).then(|| ("public".to_owned(), "colour".to_owned())),
    };
    Arc::new(Relation {
        id,
        schema: "public".to_owned(),
        name: format!("table {id}"),
        replica_identity: if id % 2 == 0 { ReplicaIdentity::Default } else { ReplicaIdentity::Full },
        columns: (0..columns).map(column).collect(),
    })
}

fn write(memory: &Memory) -> Result<(), Error> {
    let mut writer = Writer::create(Arc::new(memory.clone()), options(), ResumeLsn(Lsn(0x100)))?;
    let tables = [relation(1, 3), relation(2, 2)];
    let new = TupleBuilder::new().text("1").value(Value::Null).value(Value::Unchanged);
    let binary = TupleBuilder::new().value(Value::Binary(&[1, 2, 3])).text("");
    let tuple = |kind: u8, tuple: &TupleBuilder| [&[kind], tuple.as_tuple().as_bytes()].concat();
    for number in 1..=12_u64 {
        let lsn = 0x1000 * number;
        let (commit_lsn, end_lsn, commit_time) =
            (CommitLsn(Lsn(lsn)), ResumeLsn(Lsn(lsn + 0x30)), Timestamp(lsn as i64));
        let origin = (number % 5 == 0).then(|| "elsewhere".to_owned());
        let xid = number as u32;
        let begin = Begin { xid, commit_lsn, commit_time, origin, previous: CommitLsn(Lsn(0)) };
        let commit = Commit { commit_lsn, end_lsn, commit_time, changes: 0 };
        let message =
            |transactional| Message { transactional, lsn: Lsn(lsn), prefix: "note", content: b"content" };
        let truncate = Truncate { relations: vec![1, 2], cascade: true, restart_identity: number % 2 == 0 };
        if number % 3 == 0 {
            for subxid in [xid, xid + 100, xid + 200] {
                for table in &tables {
                    writer.side_relation(xid, table)?;
                }
                writer.side_row(xid, subxid, 1, b'I', &tuple(b'N', &new))?;
                writer.side_row(
                    xid,
                    subxid,
                    2,
                    b'U',
                    &[tuple(b'K', &binary), tuple(b'N', &binary)].concat(),
                )?;
                writer.side_message(xid, subxid, &message(true))?;
                writer.side_truncate(xid, subxid, &truncate)?;
            }
            writer.side_abort(xid, xid + 100)?;
            writer.adopt(xid, &begin, &commit)?;
        } else {
            writer.begin(&begin)?;
            tables.iter().try_for_each(|table| writer.relation(table))?;
            writer.row(1, b'I', &tuple(b'N', &new))?;
            writer.row(1, b'U', &[tuple(b'O', &new), tuple(b'N', &new)].concat())?;
            writer.row(2, b'D', &tuple(b'K', &binary))?;
            writer.message(&message(true))?;
            writer.truncate(&truncate)?;
            writer.commit(&commit)?;
        }
        if number % 4 == 0 {
            writer.message(&message(false))?;
            writer.progress(&Progress { resume_lsn: ResumeLsn(Lsn(lsn + 0x100)), time: Timestamp(1) })?;
        }
        if number % 2 == 0 {
            writer.sync()?;
        }
    }
    Ok(())
}
