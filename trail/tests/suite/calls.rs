//! Calls that fail, and calls out of order.

use std::sync::Arc;

use irongate_trail::{
    Begins, Directory, Error, FLUSH_AT, Lineage, Lsn, ResumeLsn, Storage, Writer, WriterOptions, check,
    durable,
};

use crate::disk::{Disk, Fault};
use crate::support::*;

/// Makes a call until it succeeds; the disk is full once at most.
fn insist<T>(mut call: impl FnMut() -> Result<T, Error>) -> T {
    match call() {
        Ok(done) => done,
        Err(error) => {
            assert!(error.is_disk_full() && error.is_transient(), "{error}");
            assert!(error.hint().unwrap().contains("nothing is lost"));
            call().unwrap()
        }
    }
}

/// Every kind of call, each made again if it fails for lack of room.
fn everything(storage: &Arc<dyn Storage>, writer: &mut Writer) {
    let table = relation("table");
    let long = "x".repeat(FLUSH_AT * 2 / 3);
    let mut number = 0;
    for round in 0..3 {
        number += 1;
        insist(|| writer.begin(&begin(number)));
        for row in 0..4 {
            insist(|| writer.relation(&table));
            insist(|| writer.row(table.id, b'I', &insert(&format!("{round}.{row}"), &long)));
        }
        insist(|| writer.message(&message(long.as_bytes(), true)));
        insist(|| writer.truncate(&truncate(&table)));
        insist(|| writer.commit(&commit(number)));
        insist(|| writer.message(&message(b"between", false)));
        insist(|| writer.progress(&progress(end_lsn(number))));

        let xid = 500 + round;
        insist(|| writer.side_relation(xid, &table));
        for row in 0..4 {
            insist(|| writer.side_row(xid, xid + row % 2, table.id, b'I', &insert("1", &long)));
        }
        insist(|| writer.side_truncate(xid, xid, &truncate(&table)));
        insist(|| writer.side_message(xid, xid, &message(b"inside", true)));
        insist(|| writer.side_relation(9, &table));
        insist(|| writer.side_drop(9));
        number += 1;
        assert!(insist(|| writer.adopt(xid, &begin(number), &commit(number))));

        insist(|| writer.begin(&begin(number + 50)));
        insist(|| writer.relation(&table));
        for _ in 0..4 {
            insist(|| writer.row(table.id, b'I', &insert("taken back", &long)));
        }
        insist(|| writer.rollback());
        insist(|| writer.sync());
        match round {
            0 => insist(|| writer.rotate()),
            1 => insist(|| writer.begin_epoch(2)),
            _ => insist(|| writer.begin_lineage(Lineage { timeline: 2, ..LINEAGE }, end_lsn(number))),
        }
    }
    insist(|| writer.sync());
    let mut reader = open(storage, Begins::First).unwrap();
    let (seen, result) = read(&mut reader);
    result.unwrap();
    assert_eq!(seen, [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]);
    assert_eq!((reader.epoch(), reader.lineage().timeline), (2, 2));
}

#[test]
fn a_disk_that_is_full_at_any_moment_doubles_and_loses_nothing_when_the_call_is_made_again() {
    let mut failed = 0;
    for moment in 0.. {
        let disk = Disk::new(moment);
        let storage = disk.storage();
        let mut writer = create(&storage);
        let begun = disk.operations();
        disk.fail_after(moment, Fault::Full);
        everything(&storage, &mut writer);
        if disk.operations() - begun <= moment {
            break;
        }
        failed += 1;
        drop(writer);
        let (_, recovered) = reopen_later(&storage).unwrap();
        assert_eq!(recovered.missing_before, None);
    }
    assert!(failed > 40, "{failed} operations");
}

#[test]
fn what_a_failed_write_left_behind_a_transaction_that_is_taken_back_is_gone() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let storage = disk.storage();
        let mut writer = create(&storage);
        let table = relation("t");
        writer.begin(&begin(1)).unwrap();
        writer.relation(&table).unwrap();
        for row in 0..100 {
            writer.row(table.id, b'I', &insert(&row.to_string(), "taken back")).unwrap();
        }
        disk.fail_after(0, Fault::Full);
        assert!(writer.flush().unwrap_err().is_disk_full());
        writer.rollback().unwrap();
        transaction(&mut writer, 1, 1).unwrap();
        writer.rotate().unwrap();
        writer.sync().unwrap();
        drop(writer);
        assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
        assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [1]);
    }
}

#[test]
fn a_transaction_of_any_size_takes_memory_for_its_last_part_only() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let table = relation("t");
    let row = insert("1", &"x".repeat(1000));
    writer.begin(&begin(1)).unwrap();
    writer.relation(&table).unwrap();
    for count in 0..4000_u64 {
        writer.row(table.id, b'I', &row).unwrap();
        writer.side_relation(5, &table).unwrap();
        writer.side_row(5, 5, table.id, b'I', &row).unwrap();
        let appended = 2 * count * row.len() as u64;
        assert!(disk.used() + 3 * FLUSH_AT as u64 > appended);
    }
    assert!(disk.used() > 7_000_000);
    writer.rollback().unwrap();
    assert!(disk.used() < 2000, "nothing of it is left");
}

fn reopen_later(storage: &Arc<dyn Storage>) -> Result<(Writer, irongate_trail::Recovered), Error> {
    Writer::open(Arc::clone(storage), WriterOptions { epoch: 2, ..options() }, None)
}

#[test]
fn a_trail_can_be_made_again_wherever_its_making_was_cut_off() {
    for cut in [false, true] {
        for moment in 0.. {
            let disk = Disk::new(moment);
            let storage = disk.storage();
            disk.fail_after(moment, Fault::Crash);
            let created = Writer::create(Arc::clone(&storage), options(), START);
            if created.is_ok() {
                assert!(moment > 5);
                break;
            }
            drop(created);
            if cut {
                disk.power_cut()
            } else {
                disk.kill()
            }
            let mut writer = match reopen(&storage) {
                Ok((writer, _)) => writer,
                Err(Error::Missing(_)) => create(&storage),
                Err(error) => panic!("at {moment}: {error}"),
            };
            transaction(&mut writer, 1, 1).unwrap();
            writer.sync().unwrap();
            assert_eq!(numbers(&mut open(&storage, after(0)).unwrap()), [1]);
        }
    }
}

#[test]
fn a_new_trail_takes_nothing_over_from_one_that_was_removed_by_hand() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    for number in 1..=3 {
        streamed(&mut writer, number, 5).unwrap();
    }
    writer.side_relation(77, &relation("t")).unwrap();
    let mark = writer.sync().unwrap();
    irongate_trail::register_reader(&*storage, "reader", &mark).unwrap();
    drop(writer);
    assert!(matches!(Writer::create(disk.storage(), options(), START), Err(Error::Exists(_))));
    storage.remove("000000001.trail").unwrap();
    let writer = create(&storage);
    assert_eq!(durable(&*storage).unwrap().unwrap(), writer.durable());
    assert!(storage.list().unwrap().iter().all(|name| !name.ends_with(".side")));
    let readers = irongate_trail::readers(&*storage).unwrap();
    assert_eq!(readers, [("reader".to_owned(), irongate_trail::Mark::default())]);
}

#[test]
fn there_is_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let real: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    assert!(!real.is_locked().unwrap());
    for storage in [real, Disk::new(1).storage()] {
        let writer = create(&storage);
        let refused = reopen(&storage).unwrap_err();
        assert!(matches!(refused, Error::InUse(_)) && refused.is_transient(), "{refused}");
        // To ask does not take it away.
        assert!(storage.is_locked().unwrap() && storage.is_locked().unwrap());
        drop(writer);
        assert!(!storage.is_locked().unwrap());
        reopen(&storage).unwrap();
    }
}

#[test]
fn a_transaction_id_that_comes_again_after_a_restart_does_not_take_the_side_file_of_the_first() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let table = relation("t");
    drop(create(&storage));
    for number in 1..=3 {
        let (mut writer, _) = reopen(&storage).unwrap();
        writer.side_relation(7, &table).unwrap();
        for row in 0..number {
            writer.side_row(7, 7, table.id, b'I', &insert(&row.to_string(), &number.to_string())).unwrap();
        }
        writer.adopt(7, &begin(number), &commit(number)).unwrap();
        writer.sync().unwrap();
    }
    let (seen, result) = read(&mut open(&storage, Begins::First).unwrap());
    result.unwrap();
    assert_eq!(seen, [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn a_writer_of_an_earlier_epoch_or_another_lineage_is_refused_and_changes_nothing() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.begin_epoch(3).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let before = disk.operations();
    let refused = reopen(&storage).unwrap_err();
    assert!(matches!(refused, Error::Epoch { found: 3, own: 1, .. }), "{refused}");
    let epoch = |epoch| WriterOptions { epoch, ..options() };
    let other = Lineage { timeline: 9, ..LINEAGE };
    let refused = Writer::open(disk.storage(), epoch(3), Some(other)).unwrap_err();
    assert!(matches!(refused, Error::Lineage { .. }), "{refused}");
    assert_eq!(disk.operations(), before);
    // A later one begins a file of its own.
    let (mut writer, _) = Writer::open(disk.storage(), epoch(5), Some(LINEAGE)).unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    let mut reader = open(&storage, after(1)).unwrap();
    assert_eq!(numbers(&mut reader), [2]);
    assert_eq!(reader.epoch(), 5);
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again_before_it_is_vouched_for() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let storage = disk.storage();
        let mut writer = create(&storage);
        transaction(&mut writer, 1, 1).unwrap();
        writer.sync().unwrap();
        streamed(&mut writer, 2, 50).unwrap();
        writer.rotate().unwrap();
        transaction(&mut writer, 3, 50).unwrap();
        disk.fail_after(0, Fault::Sync);
        let job = writer.sync_job().unwrap().unwrap();
        job.run().unwrap_err();
        // The process ends before it can do anything about it.
        drop((writer, job));
        disk.kill();
        let (writer, recovered) = reopen(&storage).unwrap();
        assert_eq!(recovered.mark.commit_lsn, commit_lsn(3));
        drop(writer);
        disk.power_cut();
        let (_, recovered) = reopen(&storage).unwrap();
        assert_eq!(recovered.mark.commit_lsn, commit_lsn(3), "seed {seed}");
        assert_eq!(numbers(&mut open(&storage, after(0)).unwrap()), [1, 2, 3]);
    }
}

#[test]
fn after_a_failed_sync_the_writer_is_closed_and_the_trail_ends_at_the_mark() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    let mark = writer.sync().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.rotate().unwrap();
    transaction(&mut writer, 3, 1).unwrap();
    disk.fail_after(0, Fault::Sync);
    writer.sync().unwrap_err();
    let closed = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Poisoned(_))));
    closed(writer.sync().map(drop));
    closed(writer.begin(&begin(4)));
    closed(writer.side_relation(4, &relation("t")));
    closed(writer.synced(writer.appended()));
    writer.rollback().unwrap();
    assert_eq!(writer.durable(), mark);
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [1]);
    drop(writer);
    let (mut writer, recovered) = reopen(&storage).unwrap();
    assert_eq!((recovered.mark.position, recovered.torn), (mark.position, 0));
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [1, 2]);
}

#[test]
fn a_job_that_was_lost_is_made_good_by_the_next() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    streamed(&mut writer, 1, 400).unwrap();
    writer.rotate().unwrap();
    drop(writer.sync_job().unwrap().unwrap());
    transaction(&mut writer, 2, 1).unwrap();
    let job = writer.sync_job().unwrap().unwrap();
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(writer.durable().commit_lsn, commit_lsn(2));
    drop(writer);
    disk.power_cut();
    reopen(&storage).unwrap();
    assert_eq!(numbers(&mut open(&storage, after(0)).unwrap()), [1, 2]);
}

#[test]
fn the_mark_does_not_move_over_a_job_that_is_not_done() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let before = writer.durable();
    transaction(&mut writer, 1, 1).unwrap();
    let first = writer.sync_job().unwrap().unwrap();
    assert!(writer.sync_job().unwrap().is_none(), "the first job covers everything");
    assert!(matches!(writer.sync(), Err(Error::Misuse(_))));
    transaction(&mut writer, 2, 1).unwrap();
    let second = writer.sync_job().unwrap().unwrap();
    let done = second.run().unwrap();
    assert!(matches!(writer.synced(done), Err(Error::Misuse(_))));
    assert_eq!(writer.durable(), before);
    assert!(matches!(writer.synced(writer.appended()), Err(Error::Misuse(_))));
    writer.synced(first.run().unwrap()).unwrap();
    writer.synced(done).unwrap();
    assert_eq!(writer.durable(), done);
    // The answer of a job that was overtaken says nothing new.
    writer.synced(before).unwrap();
    assert_eq!(writer.durable(), done);
}

#[test]
fn a_job_that_failed_closes_the_writer_whatever_a_later_one_says() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let before = writer.durable();
    transaction(&mut writer, 1, 1).unwrap();
    let first = writer.sync_job().unwrap().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    let second = writer.sync_job().unwrap().unwrap();
    disk.fail_after(0, Fault::Sync);
    first.run().unwrap_err();
    let done = second.run().unwrap();
    assert!(matches!(writer.synced(done), Err(Error::Poisoned(_))));
    assert_eq!(writer.durable(), before);
    assert_eq!(durable(&*storage).unwrap().unwrap(), before);
}

#[test]
fn a_mark_that_could_not_be_written_is_written_with_the_next_sync_though_nothing_else_is_new() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    let done = writer.sync_job().unwrap().unwrap().run().unwrap();
    disk.fail_after(0, Fault::Full);
    assert!(writer.synced(done).unwrap_err().is_disk_full());
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [0; 0]);
    assert_eq!(writer.sync().unwrap(), done);
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [1]);
}

#[test]
fn more_streamed_transactions_than_files_may_be_open_are_kept_apart() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let table = relation("t");
    for round in 0..20 {
        for number in 1..=100_u64 {
            let xid = number as u32;
            writer.side_relation(xid, &table).unwrap();
            writer
                .side_row(xid, xid, table.id, b'I', &insert(&round.to_string(), &number.to_string()))
                .unwrap();
        }
    }
    for number in 1..=100 {
        if number % 10 == 0 {
            writer.side_drop(number as u32).unwrap();
        } else {
            writer.adopt(number as u32, &begin(number), &commit(number)).unwrap();
        }
    }
    writer.sync().unwrap();
    drop(writer);
    disk.power_cut();
    reopen(&storage).unwrap();
    let (seen, result) = read(&mut open(&storage, Begins::First).unwrap());
    result.unwrap();
    let expected: Vec<_> = (1..=100).filter(|number| number % 10 != 0).map(|number| (number, 20)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_streamed_transaction_of_which_nothing_counts_is_not_committed() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let table = relation("t");
    writer.side_relation(5, &table).unwrap();
    writer.side_row(5, 6, table.id, b'I', &insert("1", "x")).unwrap();
    writer.side_abort(5, 6).unwrap();
    assert!(!writer.adopt(5, &begin(1), &commit(1)).unwrap());
    assert!(!writer.adopt(77, &begin(1), &commit(1)).unwrap());
    writer.sync().unwrap();
    assert_eq!(numbers(&mut open(&storage, Begins::First).unwrap()), [0; 0]);
    assert!(storage.list().unwrap().iter().all(|name| !name.ends_with(".side")));
}

#[test]
fn calls_out_of_order_are_refused_and_change_nothing() {
    let disk = Disk::new(3);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let table = relation("t");
    let row = insert("1", "x");
    fn refused<T>(result: Result<T, Error>) {
        assert!(matches!(result, Err(Error::Misuse(_))));
    }
    refused(writer.row(table.id, b'I', &row));
    refused(writer.relation(&table));
    refused(writer.row(table.id, b'I', &row));
    refused(writer.commit(&commit(1)));
    refused(writer.message(&message(b"x", true)));
    refused(writer.side_row(3, 3, table.id, b'I', &row));
    refused(writer.side_abort(3, 3));
    writer.side_relation(3, &table).unwrap();
    writer.side_row(3, 3, table.id, b'I', &row).unwrap();
    refused(writer.begin_lineage(Lineage { timeline: 2, ..LINEAGE }, ResumeLsn(Lsn(2000))));
    refused(writer.adopt(3, &begin(1), &commit(2)));
    writer.begin(&begin(1)).unwrap();
    refused(writer.begin(&begin(2)));
    refused(writer.progress(&progress(end_lsn(1))));
    refused(writer.rotate());
    refused(writer.adopt(3, &begin(2), &commit(2)));
    refused(writer.row(table.id, b'I', &row));
    writer.relation(&table).unwrap();
    refused(writer.row(table.id, b'X', &row));
    refused(writer.truncate(&truncate(&relation("other name"))));
    writer.row(table.id, b'I', &row).unwrap();
    refused(writer.commit(&commit(2)));
    writer.commit(&commit(1)).unwrap();
    refused(writer.begin(&begin(1)));
    refused(writer.adopt(3, &begin(1), &commit(1)));
    assert!(writer.adopt(3, &begin(2), &commit(2)).unwrap());
    writer.sync().unwrap();
    let (seen, result) = read(&mut open(&storage, Begins::First).unwrap());
    result.unwrap();
    assert_eq!(seen, [(1, 1), (2, 1)]);
}
