//! Reading ahead in the file of a transaction that is still open, and passing over it in the main files.

use std::sync::Arc;

use irongate_trail::format::Adopt;
use irongate_trail::{
    Begin, Begins, Commit, Item, OpenSide, Presence, Reader, SideReader, Source, Storage, Writer, open_sides,
};

use crate::disk::Disk;
use crate::support::*;

const XID: u32 = 70;

/// Appends rows of about half a kilobyte to the open transaction.
fn stream(writer: &mut Writer, subxid: u32, rows: std::ops::Range<u32>) {
    let (relation, value) = (relation("streamed"), "v".repeat(500));
    for row in rows {
        writer.side_relation(XID, &relation).unwrap();
        writer.side_row(XID, subxid, relation.id, b'I', &insert(&row.to_string(), &value)).unwrap();
    }
}

fn side(storage: &Arc<dyn Storage>) -> OpenSide {
    let mut sides = open_sides(&**storage).unwrap();
    assert_eq!(sides.len(), 1);
    sides.remove(0)
}

fn open(storage: &Arc<dyn Storage>) -> SideReader {
    SideReader::open(Arc::clone(storage), side(storage)).unwrap().expect("there is enough of it")
}

/// Reads on: how many rows came, and the commit if it did.
fn rows(reader: &mut SideReader) -> (u32, Option<Commit>) {
    let mut rows = 0;
    loop {
        match reader.next().unwrap() {
            Some(Item::Begin(begin)) => assert_eq!((begin.xid, rows), (XID, 0)),
            Some(Item::Row { .. }) => rows += 1,
            Some(Item::Commit(commit)) => return (rows, Some(commit)),
            Some(other) => panic!("{other:?}"),
            None => return (rows, None),
        }
    }
}

fn of(number: u64) -> Begin {
    Begin { xid: XID, ..begin(number) }
}

/// Commits the open transaction as the third; how that is written, and the commit.
fn adopted(writer: &mut Writer, storage: &Arc<dyn Storage>) -> (Adopt, Commit) {
    assert!(writer.adopt(XID, &of(3), &commit(3)).unwrap());
    writer.sync().unwrap();
    let mut main = Reader::open(Arc::clone(storage), Begins::First).unwrap();
    main.hold(Some(XID));
    let (before, result) = read(&mut main);
    result.unwrap();
    assert!(before.iter().all(|(number, _)| *number < 3), "{before:?}");
    let adopt = main.held().expect("it is held").clone();
    assert!(main.next().unwrap().is_none(), "and stays so");
    let commit = main.pass().unwrap().expect("its commit");
    (adopt, commit)
}

#[test]
fn rows_come_behind_the_commits_that_were_before_them_and_the_commit_behind_all_rows() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    stream(&mut writer, XID, 0..1500);
    let mut reader = open(&storage);
    assert_eq!(rows(&mut reader), (0, None));
    assert!(reader.waits(), "the first transaction comes before it");
    reader.allow(commit_lsn(1));
    let (first, _) = rows(&mut reader);
    assert!((500..1500).contains(&first), "what is written out: {first}");
    assert!(!reader.waits());

    transaction(&mut writer, 2, 1).unwrap();
    stream(&mut writer, XID + 1, 1500..3000);
    let (second, _) = rows(&mut reader);
    assert_eq!(first + second, 1500, "what was made before the second transaction, and no more");
    assert!(reader.waits());
    assert_eq!(reader.presence().unwrap(), Presence::Open);

    let (adopt, commit) = adopted(&mut writer, &storage);
    assert_eq!(commit.changes, 3000);
    assert_eq!(reader.presence().unwrap(), Presence::Adopted);
    reader.allow(commit_lsn(2));
    reader.expect(adopt, commit);
    assert_eq!(rows(&mut reader), (1500, Some(commit)));
    assert_eq!(rows(&mut reader), (0, None));
    assert_eq!((reader.changes(), reader.unusual()), (3000, None));
}

#[test]
fn a_hold_that_is_taken_back_costs_nothing() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 2).unwrap();
    stream(&mut writer, XID, 0..10);
    assert!(writer.adopt(XID, &of(3), &commit(3)).unwrap());
    // Of that xid too, and not streamed.
    let relation = relation("t");
    writer.begin(&of(4)).unwrap();
    writer.relation(&relation).unwrap();
    writer.row(relation.id, b'I', &insert("1", "x")).unwrap();
    writer.commit(&commit(4)).unwrap();
    transaction(&mut writer, 5, 1).unwrap();
    writer.sync().unwrap();

    let mut main = Reader::open(Arc::clone(&storage), Begins::First).unwrap();
    main.hold(Some(XID));
    assert_eq!(read(&mut main).0, [(1, 2)]);
    assert!(main.held().is_some());
    main.hold(Some(XID + 1));
    assert_eq!(read(&mut main).0, [(3, 10), (4, 1), (5, 1)]);

    let mut main = Reader::open(Arc::clone(&storage), Begins::First).unwrap();
    assert_eq!(main.pass().unwrap(), None, "nothing is held");
    main.hold(Some(XID));
    assert_eq!(read(&mut main).0, [(1, 2)]);
    let position = main.position();
    assert_eq!(main.pass().unwrap().map(|commit| commit.commit_lsn), Some(commit_lsn(3)));
    assert!(main.position() > position);
    assert_eq!(main.previous(), commit_lsn(3));
    assert_eq!(read(&mut main).0, [(4, 1), (5, 1)], "what has no side file is not held");
}

#[test]
fn what_nobody_should_apply_ahead_is_said() {
    type Does = fn(&mut Writer);
    let cases: [(&str, Does); 5] = [
        ("savepoint", |writer| {
            stream(writer, XID + 1, 0..1);
            writer.side_abort(XID, XID + 1).unwrap();
        }),
        ("TRUNCATE", |writer| writer.side_truncate(XID, XID, &truncate(&relation("streamed"))).unwrap()),
        ("message", |writer| writer.side_message(XID, XID, &message(b"word", true)).unwrap()),
        ("structure", |writer| {
            let mut changed = (*relation("streamed")).clone();
            changed.columns.pop();
            writer.side_relation(XID, &Arc::new(changed)).unwrap();
        }),
        ("savepoint", |writer| {
            stream(writer, XID + 2, 0..3);
            writer.side_abort(XID, XID + 2).unwrap();
        }),
    ];
    for (what, does) in cases {
        let disk = Disk::new(1);
        let storage = disk.storage();
        let mut writer = create(&storage);
        stream(&mut writer, XID, 0..1500);
        let mut reader = open(&storage);
        rows(&mut reader);
        assert_eq!(reader.unusual(), None);
        does(&mut writer);
        stream(&mut writer, XID, 1500..1501);
        let (adopt, commit) = adopted(&mut writer, &storage);
        reader.expect(adopt, commit);
        assert_eq!(rows(&mut reader).1, None, "{what}");
        assert!(reader.unusual().is_some_and(|said| said.contains(what)), "{what}: {:?}", reader.unusual());
        // For everybody else nothing has changed.
        let mut main = Reader::open(Arc::clone(&storage), Begins::First).unwrap();
        assert_eq!(numbers(&mut main), [3]);
    }
}

#[test]
fn another_file_than_was_read_is_not_taken_for_it() {
    type Spoils = fn(&mut Adopt, &mut Commit);
    let spoils: [(Spoils, bool); 6] = [
        (|adopt, _| adopt.digest ^= 1, false),
        (|adopt, _| adopt.records += 1, false),
        (|adopt, _| adopt.bytes -= 1, false),
        (|_, commit| commit.changes -= 1, false),
        (|adopt, _| adopt.file = adopt.file.replace("-70-", "-71-"), true),
        (|adopt, _| adopt.aborted.push(9), true),
    ];
    for (number, (spoil, is_said)) in spoils.into_iter().enumerate() {
        let disk = Disk::new(1);
        let storage = disk.storage();
        let mut writer = create(&storage);
        stream(&mut writer, XID, 0..1500);
        let mut reader = open(&storage);
        let (mut adopt, mut commit) = adopted(&mut writer, &storage);
        spoil(&mut adopt, &mut commit);
        reader.expect(adopt, commit);
        let ended = loop {
            match reader.next() {
                Ok(Some(Item::Commit(_))) => panic!("{number}: taken for the same"),
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        assert_eq!((ended, reader.unusual().is_some()), (is_said, is_said), "{number}");
    }
}

#[test]
fn a_file_that_is_gone_or_small_is_nothing_to_read_ahead() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    stream(&mut writer, XID, 0..10);
    assert!(
        SideReader::open(Arc::clone(&storage), side(&storage)).unwrap().is_none(),
        "nothing is there yet"
    );
    stream(&mut writer, XID, 10..600);
    assert!(
        SideReader::open(Arc::clone(&storage), side(&storage)).unwrap().is_none(),
        "no note is there yet"
    );
    stream(&mut writer, XID, 600..1500);
    let reader = open(&storage);
    let known = side(&storage);
    assert_eq!((known.xid, known.bytes > 512 << 10), (XID, true));
    writer.side_drop(XID).unwrap();
    assert_eq!(reader.presence().unwrap(), Presence::Dropped);
    assert!(SideReader::open(Arc::clone(&storage), known).unwrap().is_none());
}
