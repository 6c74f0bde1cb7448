//! What a check says of a trail, and what a listing shows.

use irongate_trail::{
    Begins, Error, Lineage, MAX_FINDINGS, Mark, Position, Severity, check, list, register_reader,
};

use crate::disk::Disk;
use crate::support::*;

fn three() -> Disk {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    transaction(&mut writer, 1, 4).unwrap();
    streamed(&mut writer, 2, 6).unwrap();
    writer.begin_epoch(2).unwrap();
    transaction(&mut writer, 3, 1).unwrap();
    writer.begin_lineage(Lineage { timeline: 2, ..LINEAGE }, end_lsn(3)).unwrap();
    transaction(&mut writer, 4, 2).unwrap();
    writer.sync().unwrap();
    disk
}

#[test]
fn a_sound_trail_is_reported_file_by_file() {
    let disk = three();
    let storage = disk.storage();
    let mark = irongate_trail::durable(&*storage).unwrap().unwrap();
    register_reader(&*storage, "reader", &mark).unwrap();
    let mut called = Vec::new();
    let report = check(&storage, |file| called.push(file.seqno)).unwrap();
    assert_eq!(called, [1, 2, 3]);
    assert!(report.is_sound() && report.findings.is_empty());
    assert!(!report.is_being_written);
    assert_eq!(report.durable, Some(mark));
    assert_eq!(report.readers.len(), 1);
    assert_eq!(report.transactions(), 4);
    let timelines: Vec<_> =
        report.lineages.iter().map(|(seqno, lineage)| (*seqno, lineage.timeline)).collect();
    assert_eq!(timelines, [(1, 1), (3, 2)]);
    let facts: Vec<_> = report
        .files
        .iter()
        .map(|file| (file.records, file.transactions, file.changes, file.sides, file.sealed))
        .collect();
    // Progress, begin, relation, four rows, commit, begin, adopt, commit, end.
    assert_eq!(facts, [(12, 2, 8, 1, true), (5, 1, 1, 0, true), (6, 1, 2, 0, false)]);
    let of = |number: u64| Some((commit_lsn(number), irongate_trail::Timestamp(number as i64)));
    assert_eq!((report.files[0].first, report.files[0].last), (of(1), of(2)));
    let bytes: u64 = disk
        .storage()
        .list()
        .unwrap()
        .iter()
        .filter(|name| name.ends_with("trail") || name.ends_with("side"))
        .map(|name| disk.content(name).unwrap().len() as u64)
        .sum();
    assert_eq!(report.bytes(), bytes);
}

#[test]
fn a_listing_shows_headers_seals_side_files_readers_and_the_writer() {
    let disk = three();
    let storage = disk.storage();
    let mark = Mark { position: Position { seqno: 2, offset: 150 }, ..Mark::default() };
    register_reader(&*storage, "reader-with_name", &mark).unwrap();
    let listing = list(&*storage).unwrap();
    let facts: Vec<_> = listing
        .files
        .iter()
        .map(|file| {
            let header = file.header.as_ref().unwrap();
            (file.seqno, file.sealed, file.sides, header.epoch, header.lineage.timeline, header.previous)
        })
        .collect();
    let zero = irongate_trail::CommitLsn::default();
    assert_eq!(
        facts,
        [(1, true, 1, 1, 1, zero), (2, true, 0, 2, 1, commit_lsn(2)), (3, false, 0, 2, 2, zero)]
    );
    assert!(listing.files.iter().all(|file| file.bytes == disk.content(&file.name).unwrap().len() as u64));
    assert_eq!(listing.readers, [("reader-with_name".to_owned(), mark)]);
    assert_eq!((listing.open_sides, listing.is_being_written), (0, false));

    let options = irongate_trail::WriterOptions { epoch: 2, ..options() };
    let (mut writer, _) = irongate_trail::Writer::open(disk.storage(), options, None).unwrap();
    writer.side_relation(900, &relation("t")).unwrap();
    let listing = list(&*storage).unwrap();
    assert_eq!((listing.open_sides, listing.is_being_written), (1, true));
    assert!(check(&storage, |_| {}).unwrap().is_being_written);
    assert_eq!(check(&storage, |_| {}).unwrap().findings, [], "it is being streamed at this moment");
    drop(writer);
    let findings = check(&storage, |_| {}).unwrap().findings;
    assert_eq!(findings.len(), 1);
    assert!(findings[0].severity == Severity::Orphan && findings[0].file.starts_with("open-900-"));

    disk.put("000000002.trail", b"IRONGATE");
    assert!(list(&*storage).unwrap().files[1].header.is_none());
    assert!(list(&*Disk::new(1).storage()).unwrap().files.is_empty());
    assert!(matches!(check(&Disk::new(1).storage(), |_| {}), Err(Error::Missing(_))));
}

#[test]
fn all_damage_is_found_at_once_with_the_file_and_the_offset_of_each() {
    let disk = three();
    let storage = disk.storage();
    let mut first = disk.content("000000001.trail").unwrap();
    let side = storage.list().unwrap().into_iter().find(|name| name.ends_with(".side")).unwrap();
    let mut streamed = disk.content(&side).unwrap();
    let mut third = disk.content("000000003.trail").unwrap();
    // Two rows of the first transaction, a row of the streamed one, the last row of all.
    let row = insert("1.0", "some value").len() + 13;
    let at = find_row(&first, b"1.0");
    first[at + 20] ^= 1;
    first[at + 2 * row + 20] ^= 1;
    let in_side = find_row(&streamed, b"2.3");
    streamed[in_side + 20] ^= 1;
    let in_third = find_row(&third, b"4.1");
    third[in_third + 20] ^= 1;
    disk.put("000000001.trail", &first);
    disk.put(&side, &streamed);
    disk.put("000000003.trail", &third);
    let report = check(&storage, |_| {}).unwrap();
    assert!(!report.is_sound());
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.file.as_str(), finding.offset as usize, finding.severity))
        .collect();
    let damaged = Severity::Damaged;
    assert_eq!(
        found,
        [
            ("000000001.trail", at, damaged),
            ("000000001.trail", at + 2 * row, damaged),
            (side.as_str(), in_side, damaged),
            ("000000003.trail", in_third, damaged),
        ]
    );
    // What is sound around it is counted.
    assert_eq!(report.transactions(), 4);
}

/// Where the record starts that inserts the row with this key.
fn find_row(bytes: &[u8], key: &[u8]) -> usize {
    let value = [&(key.len() as u32).to_be_bytes()[..], key].concat();
    let place = bytes.windows(value.len()).position(|window| window == value).unwrap();
    // Frame and kind, relation, kind of tuple, columns, kind of value.
    place - (9 + 4 + 1 + 2 + 1)
}

#[test]
fn a_hole_a_missing_end_and_a_mark_that_promises_too_much_are_found() {
    let damaged = |disk: &Disk, file: &str| {
        let report = check(&disk.storage(), |_| {}).unwrap();
        let finding = report.findings.iter().find(|finding| finding.file == file);
        assert!(
            finding.is_some_and(|finding| finding.severity == Severity::Damaged),
            "{file}: {:?}",
            report.findings
        );
    };
    let disk = three();
    disk.storage().remove("000000002.trail").unwrap();
    damaged(&disk, "000000003.trail");

    let disk = three();
    let content = disk.content("000000002.trail").unwrap();
    disk.put("000000002.trail", &content[..content.len() - 33]);
    damaged(&disk, "000000002.trail");

    let disk = three();
    disk.storage().remove("000000003.trail").unwrap();
    damaged(&disk, "durable");

    // A mark of another trail, between records of this one.
    let disk = three();
    let other = Disk::new(1);
    let mut writer = create(&other.storage());
    transaction(&mut writer, 1, 1).unwrap();
    writer.sync().unwrap();
    disk.put("durable", &other.content("durable").unwrap());
    damaged(&disk, "durable");

    // A file that was put in the place of another.
    let disk = three();
    disk.put("000000002.trail", &disk.content("000000001.trail").unwrap());
    damaged(&disk, "000000002.trail");

    // A reader whose file is gone.
    let disk = three();
    disk.storage().remove("000000001.trail").unwrap();
    let mark = Mark { position: Position { seqno: 1, offset: 150 }, ..Mark::default() };
    register_reader(&*disk.storage(), "late", &mark).unwrap();
    damaged(&disk, "reader-late");
}

#[test]
fn a_torn_end_and_leftovers_are_no_damage() {
    let disk = three();
    let mut content = disk.content("000000003.trail").unwrap();
    let sound = content.len() as u64;
    content.extend_from_slice(&[7; 40]);
    disk.put("000000003.trail", &content);
    disk.put("000000003-99-1.side", b"left over");
    disk.put("000000000-98-1.side", b"left over");
    let report = check(&disk.storage(), |_| {}).unwrap();
    assert!(report.is_sound());
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.severity, finding.file.as_str(), finding.offset))
        .collect();
    assert_eq!(
        found,
        [
            (Severity::Torn, "000000003.trail", sound),
            (Severity::Orphan, "000000000-98-1.side", 0),
            (Severity::Orphan, "000000003-99-1.side", 0),
        ]
    );
    disk.storage().remove("durable").unwrap();
    assert!(check(&disk.storage(), |_| {}).unwrap().findings.iter().any(|finding| finding.file == "durable"));
}

#[test]
fn however_much_is_wrong_the_report_stays_small() {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    transaction(&mut writer, 1, 3000).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let mut content = disk.content("000000001.trail").unwrap();
    let row = insert("1.1000", "some value").len() + 13;
    let mut at = find_row(&content, b"1.1000");
    for _ in 0..1500 {
        content[at + 30] ^= 1;
        // A sound one between, so that the check finds its way.
        at += row;
    }
    disk.put("000000001.trail", &content);
    let report = check(&disk.storage(), |_| {}).unwrap();
    assert!(!report.is_sound());
    assert!(report.findings.len() <= MAX_FINDINGS);
    assert!(open(&disk.storage(), Begins::First).is_ok());
}
