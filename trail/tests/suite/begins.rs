//! Where a reader begins, and where it stops.

use irongate_trail::{
    Begins, CommitLsn, Error, Item, Lineage, Lsn, Mark, Position, PurgePolicy, Reader, ResumeLsn, purge,
    register_reader,
};

use crate::disk::Disk;
use crate::support::*;

/// Ten transactions, two a file, in a trail that is purged up to file `first`.
fn ten(first: u64) -> Disk {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    for number in 1..=10 {
        transaction(&mut writer, number, 2).unwrap();
        if number % 2 == 0 {
            writer.rotate().unwrap();
        }
    }
    writer.sync().unwrap();
    let mark = Mark { position: Position { seqno: first, offset: 1 }, ..Mark::default() };
    register_reader(&*storage, "someone", &mark).unwrap();
    let purged = purge(&*storage, &PurgePolicy::default()).unwrap();
    assert_eq!(purged.removed.len() as u64, first - 1);
    disk
}

#[test]
fn a_reader_that_begins_after_any_transaction_gets_all_later_ones_and_no_other() {
    let storage = ten(1).storage();
    for number in 0..=10 {
        let mut reader = open(&storage, after(number)).unwrap();
        assert_eq!(numbers(&mut reader), (number + 1..=10).collect::<Vec<_>>(), "after {number}");
        assert_eq!(reader.previous(), commit_lsn(10));
    }
}

#[test]
fn a_reader_at_the_purge_boundary_goes_on_and_one_before_it_is_told_of_the_gap() {
    // Files 1 and 2, transactions 1 to 4, are gone.
    let storage = ten(3).storage();
    for number in 4..=10 {
        assert_eq!(
            numbers(&mut open(&storage, after(number)).unwrap()),
            (number + 1..=10).collect::<Vec<_>>()
        );
    }
    for number in 0..4 {
        let error = open(&storage, after(number)).unwrap_err();
        assert!(matches!(error, Error::NotInTrail { .. }), "{error}");
    }
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!((reader.header().seqno, reader.previous()), (3, commit_lsn(4)));
    assert_eq!(numbers(&mut reader), [5, 6, 7, 8, 9, 10]);
}

#[test]
fn the_purge_boundary_is_passed_although_the_trail_had_noted_progress_behind_the_readers_last_transaction() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.progress(&progress(ResumeLsn(Lsn(1900)))).unwrap();
    writer.rotate().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    disk.storage().remove("000000001.trail").unwrap();
    assert_eq!(numbers(&mut open(&storage, after(1)).unwrap()), [2]);
}

#[test]
fn messages_behind_the_last_transaction_are_read_from_however_many_files_they_fill() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    for n in 0..20 {
        let lsn = Lsn(end_lsn(1).0.0 + n);
        writer.message(&irongate_trail::Message { lsn, ..message(b"between", false) }).unwrap();
        writer.progress(&progress(ResumeLsn(Lsn(lsn.0 + 1)))).unwrap();
        if n % 3 == 0 {
            writer.rotate().unwrap();
        }
    }
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    let mut reader = open(&storage, after(1)).unwrap();
    let mut seen = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        if let Item::Message(message) = item {
            seen.push(message.lsn.0 - end_lsn(1).0.0);
        }
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_transaction_that_commits_before_the_place_to_resume_at_is_passed_over() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    for number in 1..=4 {
        transaction(&mut writer, number, 1).unwrap();
        writer.message(&message(b"between", false)).unwrap();
        writer.progress(&progress(end_lsn(number))).unwrap();
    }
    writer.sync().unwrap();
    // A target that was loaded from a snapshot at this place has seen no commit of the trail yet.
    let begins = Begins::After { lineage: LINEAGE, commit: CommitLsn::default(), resume: end_lsn(2) };
    let mut reader = open(&storage, begins).unwrap();
    let mut seen = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        match item {
            Item::Begin(begin) => seen.push(begin.commit_lsn.0.0),
            Item::Progress(progress) => seen.push(progress.resume_lsn.0.0),
            Item::Message(message) => panic!("of {} before the place to resume at", message.lsn),
            _ => {}
        }
    }
    assert_eq!(seen, [2100, 3000, 3100, 4000, 4100]);
}

#[test]
fn a_reader_after_a_transaction_that_never_was_is_told_that_it_is_not_in_the_trail() {
    let storage = ten(1).storage();
    let commit = CommitLsn(Lsn(4500));
    let begins = Begins::After { lineage: LINEAGE, commit, resume: ResumeLsn(Lsn(4600)) };
    let (seen, result) = read(&mut open(&storage, begins).unwrap());
    assert!(seen.is_empty());
    assert!(matches!(result, Err(Error::NotInTrail { commit: missed, .. }) if missed == commit));
}

#[test]
fn a_reader_ahead_of_the_mark_waits_until_the_trail_has_come_so_far_again() {
    let disk = ten(1);
    let error = open(&disk.storage(), after(11)).unwrap_err();
    assert!(matches!(error, Error::Behind { .. }) && error.is_transient(), "{error}");
    let (mut writer, _) = reopen(&disk.storage()).unwrap();
    for number in 11..=12 {
        transaction(&mut writer, number, 1).unwrap();
    }
    writer.sync().unwrap();
    assert_eq!(numbers(&mut open(&disk.storage(), after(11)).unwrap()), [12]);
}

#[test]
fn without_a_mark_nothing_is_read_until_a_writer_has_vouched_for_it() {
    let disk = ten(1);
    let storage = disk.storage();
    storage.remove("durable").unwrap();
    for begins in [Begins::First, Begins::File(2), after(3)] {
        let error = open(&storage, begins).unwrap_err();
        assert!(matches!(error, Error::NotDurable(_)) && error.is_transient(), "{error}");
    }
    // A tool may look all the same.
    let mut reader = Reader::open_to_the_end(disk.storage(), Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), (1..=10).collect::<Vec<_>>());
    drop(reopen(&storage).unwrap());
    assert_eq!(numbers(&mut open(&storage, after(3)).unwrap()), (4..=10).collect::<Vec<_>>());
}

#[test]
fn no_trail_and_a_file_that_is_not_there_are_said() {
    let empty = Disk::new(1).storage();
    assert!(matches!(open(&empty, Begins::First), Err(Error::Missing(_))));
    assert!(matches!(reopen(&empty), Err(Error::Missing(_))));
    let storage = ten(3).storage();
    assert!(matches!(open(&storage, Begins::File(1)), Err(Error::Gap { .. })));
    assert!(matches!(open(&storage, Begins::File(99)), Err(Error::NotDurable(_))));
}

#[test]
fn a_last_file_that_is_only_a_header_is_the_end_and_not_damage() {
    let disk = ten(1);
    let storage = disk.storage();
    assert_eq!(numbers(&mut open(&storage, Begins::File(6)).unwrap()), [0; 0]);
    let mut reader = open(&storage, after(10)).unwrap();
    assert_eq!(numbers(&mut reader), [0; 0]);
    let (mut writer, recovered) = reopen(&storage).unwrap();
    assert_eq!((recovered.torn, recovered.missing_before), (0, None));
    transaction(&mut writer, 11, 1).unwrap();
    writer.sync().unwrap();
    assert_eq!(numbers(&mut reader), [11]);
}

#[test]
fn a_transaction_is_not_seen_before_it_is_durable_and_then_whole() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let mut reader = open(&storage, Begins::First).unwrap();
    transaction(&mut writer, 1, 3).unwrap();
    transaction(&mut writer, 2, 3).unwrap();
    writer.flush().unwrap();
    assert_eq!(numbers(&mut reader), [0; 0]);
    let job = writer.sync_job().unwrap().unwrap();
    transaction(&mut writer, 3, 3).unwrap();
    writer.flush().unwrap();
    let mark = job.run().unwrap();
    assert_eq!(numbers(&mut reader), [0; 0], "it is not vouched for before the answer");
    writer.synced(mark).unwrap();
    assert_eq!(numbers(&mut reader), [1, 2]);
    writer.sync().unwrap();
    assert_eq!(numbers(&mut reader), [3]);
}

#[test]
fn a_reader_of_one_slot_stops_where_another_slot_begins_and_goes_on_over_a_promotion() {
    let promoted = Lineage { timeline: 2, ..LINEAGE };
    let recreated = Lineage { slot_incarnation: Lsn(5000), ..promoted };
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.begin_lineage(promoted, end_lsn(1)).unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.begin_lineage(recreated, ResumeLsn(Lsn(5000))).unwrap();
    transaction(&mut writer, 9, 1).unwrap();
    writer.sync().unwrap();

    let mut reader = open(&storage, after(0)).unwrap();
    let (seen, result) = read(&mut reader);
    assert_eq!(seen, [(1, 1), (2, 1)]);
    assert_eq!(reader.lineage(), promoted);
    assert!(matches!(result, Err(Error::Lineage { found, .. }) if *found == recreated));
    // Whoever is told to take up the new one can.
    let begins =
        Begins::After { lineage: recreated, commit: CommitLsn::default(), resume: ResumeLsn(Lsn(5000)) };
    assert_eq!(numbers(&mut open(&storage, begins).unwrap()), [9]);
    let begins = Begins::After { lineage: promoted, commit: commit_lsn(2), resume: end_lsn(2) };
    assert!(
        matches!(read(&mut open(&storage, begins).unwrap()), (seen, Err(Error::Lineage { .. })) if seen.is_empty())
    );
    // A tool reads all.
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [1, 2, 9]);
    let stranger = Lineage { system_identifier: 8, ..LINEAGE };
    let begins = Begins::After { lineage: stranger, commit: commit_lsn(1), resume: end_lsn(1) };
    assert!(matches!(open(&storage, begins), Err(Error::Lineage { .. })));
}

#[test]
fn a_promotion_that_left_a_gap_stops_the_reader() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.begin_lineage(Lineage { timeline: 2, ..LINEAGE }, end_lsn(3)).unwrap();
    writer.sync().unwrap();
    let (seen, result) = read(&mut open(&storage, after(0)).unwrap());
    assert_eq!(seen, [(1, 1)]);
    assert!(matches!(result, Err(Error::Lineage { .. })));
}

#[test]
fn a_trail_that_was_cut_back_under_a_reader_makes_it_begin_again() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    let kept = writer.sync().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), [1, 2]);
    drop(writer);
    // The disk lied: the end is gone though it was synced.
    storage.open("000000001.trail", true).unwrap().truncate(kept.position.offset).unwrap();
    let (mut writer, recovered) = reopen(&storage).unwrap();
    assert_eq!(recovered.mark.commit_lsn, commit_lsn(1));
    assert_eq!(recovered.missing_before.unwrap().commit_lsn, commit_lsn(2));
    let (_, result) = read(&mut reader);
    assert!(matches!(result, Err(ref error @ Error::CutBack { .. }) if error.is_transient()));
    // The source sends it again: the reader passes over what it has had.
    transaction(&mut writer, 2, 1).unwrap();
    transaction(&mut writer, 3, 1).unwrap();
    writer.sync().unwrap();
    assert_eq!(numbers(&mut open(&storage, after(2)).unwrap()), [3]);
}
