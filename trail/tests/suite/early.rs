//! Reading what is appended before it is durable, and telling whether it became so.

use std::sync::Arc;

use std::sync::atomic::{AtomicI64, Ordering};

use irongate_trail::{
    Begins, Directory, Early, Position, Reader, Storage, SyncJob, Timestamp, Writer, WriterOptions, check,
};

use crate::disk::{Disk, Fault};
use crate::support::*;

/// Appends a transaction and tells readers; what is left is to sync it.
fn tell(writer: &mut Writer, number: u64, rows: u64) -> SyncJob {
    transaction(writer, number, rows).unwrap();
    let job = writer.sync_job().unwrap().unwrap();
    writer.tell_early();
    job
}

fn goes(reader: &mut Reader) -> bool {
    reader.go_early(Position::default()).is_some()
}

fn started(disk: &Disk) -> (Arc<dyn Storage>, Writer, Reader) {
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 2).unwrap();
    writer.sync().unwrap();
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), [1]);
    (storage, writer, reader)
}

#[test]
fn what_is_read_early_is_durable_when_its_sync_has_ended() {
    let (storage, mut writer, mut reader) = started(&Disk::new(1));
    assert!(!goes(&mut reader), "everything is durable");
    let job = tell(&mut writer, 2, 3);
    assert_eq!(numbers(&mut reader), [0; 0], "nobody has asked for it");
    assert!(goes(&mut reader));
    assert_eq!(numbers(&mut reader), [2]);
    assert_eq!(reader.early().unwrap(), Early::Pending);
    // What comes behind it is not told before it is durable, and not read.
    transaction(&mut writer, 3, 1).unwrap();
    writer.flush().unwrap();
    writer.tell_early();
    assert_eq!(numbers(&mut reader), [0; 0]);
    let done = job.run().unwrap();
    assert_eq!(reader.early().unwrap(), Early::Pending, "the mark has not moved");
    writer.synced(done).unwrap();
    assert_eq!(reader.early().unwrap(), Early::Durable);
    assert_eq!(reader.early().unwrap(), Early::Durable);
    assert_eq!(numbers(&mut reader), [0; 0]);
    writer.sync().unwrap();
    assert_eq!(numbers(&mut reader), [3]);
    assert_eq!(reader.position(), writer.durable().position);
    assert!(check(&storage, |_| {}).unwrap().is_sound());
}

#[test]
fn what_was_read_early_is_lost_when_the_trail_is_opened_for_writing_again() {
    for cut in [false, true] {
        let disk = Disk::new(2);
        let (storage, mut writer, mut reader) = started(&disk);
        let at = writer.durable().position.offset;
        let job = tell(&mut writer, 2, 3);
        assert!(goes(&mut reader));
        assert_eq!(numbers(&mut reader), [2]);
        drop((job, writer));
        assert_eq!(reader.early().unwrap(), Early::Pending);
        if cut {
            storage.open("000000001.trail", true).unwrap().truncate(at).unwrap();
        }
        let (mut writer, _) = reopen(&storage).unwrap();
        // Whether or not the mark has come to it: others may be the bytes that are there.
        assert_eq!(reader.early().unwrap(), Early::Lost, "cut: {cut}");
        if cut {
            transaction(&mut writer, 3, 20).unwrap();
            writer.sync().unwrap();
            assert_eq!(reader.early().unwrap(), Early::Lost);
        }
    }
}

#[test]
fn nothing_is_told_early_that_needs_another_file_or_is_much_or_comes_behind_another_sync() {
    let (_, mut writer, mut reader) = started(&Disk::new(3));
    // A side file has to be durable, too.
    streamed(&mut writer, 2, 30).unwrap();
    let job = writer.sync_job().unwrap().unwrap();
    writer.tell_early();
    assert!(!goes(&mut reader));
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(numbers(&mut reader), [2]);
    // Much.
    let job = tell(&mut writer, 3, 5000);
    assert!(!goes(&mut reader));
    // Behind another.
    let second = tell(&mut writer, 4, 1);
    assert!(!goes(&mut reader));
    writer.synced(job.run().unwrap()).unwrap();
    writer.synced(second.run().unwrap()).unwrap();
    assert_eq!(numbers(&mut reader), [3, 4]);
    // The next file.
    writer.rotate().unwrap();
    let job = tell(&mut writer, 5, 1);
    assert!(!goes(&mut reader));
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(numbers(&mut reader), [5]);
    let job = tell(&mut writer, 6, 1);
    assert!(goes(&mut reader));
    assert_eq!(numbers(&mut reader), [6]);
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(reader.early().unwrap(), Early::Durable);
}

#[test]
fn a_reader_that_is_behind_reads_what_is_durable_first() {
    let (storage, mut writer, _) = started(&Disk::new(4));
    let mut reader = open(&storage, Begins::First).unwrap();
    let _job = tell(&mut writer, 2, 1);
    assert!(!goes(&mut reader));
    assert_eq!(numbers(&mut reader), [1]);
    assert!(goes(&mut reader));
    assert_eq!(numbers(&mut reader), [2]);
    let mut all = Reader::open_to_the_end(Arc::clone(&storage), Begins::First).unwrap();
    assert!(!goes(&mut all), "it follows nobody");
}

#[test]
fn a_sync_that_fails_makes_nothing_durable() {
    let disk = Disk::new(5);
    let (storage, mut writer, mut reader) = started(&disk);
    let job = tell(&mut writer, 2, 1);
    assert!(goes(&mut reader));
    assert_eq!(numbers(&mut reader), [2]);
    disk.fail_after(0, Fault::Sync);
    job.run().unwrap_err();
    writer.sync_failed();
    assert_eq!(reader.early().unwrap(), Early::Lost, "it will not be");
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), [1]);
    assert!(!goes(&mut reader), "it is not told any more");
    drop(writer);
    let (mut writer, _) = reopen(&storage).unwrap();
    let job = tell(&mut writer, 2, 1);
    assert!(goes(&mut reader));
    assert_eq!(numbers(&mut reader), [2]);
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(reader.early().unwrap(), Early::Durable);
}

#[test]
fn a_place_that_was_given_up_is_not_gone_to_again() {
    let (storage, mut writer, mut reader) = started(&Disk::new(7));
    let _job = tell(&mut writer, 2, 1);
    let place = reader.go_early(Position::default()).unwrap();
    assert_eq!(place, writer.appended().position);
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), [1]);
    assert_eq!(reader.go_early(place), None);
}

#[test]
fn without_room_for_the_file_or_with_a_damaged_one_nothing_is_told_and_nothing_else_is_wrong() {
    let disk = Disk::new(6);
    let (storage, mut writer, mut reader) = started(&disk);
    let job = tell(&mut writer, 2, 1);
    assert!(goes(&mut reader));
    disk.put("appended", b"something else");
    assert_eq!(numbers(&mut reader), [2]);
    assert_eq!(reader.early().unwrap(), Early::Lost, "who wrote it cannot be told any more");
    writer.synced(job.run().unwrap()).unwrap();
    drop(writer);
    storage.remove("appended").unwrap();
    // The first operation that can be full is the making of the file.
    disk.fail_after(0, Fault::Full);
    let (mut writer, _) = reopen(&storage).unwrap();
    assert!(disk.content("appended").is_none());
    let mut reader = open(&storage, Begins::First).unwrap();
    assert_eq!(numbers(&mut reader), [1, 2]);
    let job = tell(&mut writer, 3, 1);
    assert!(!goes(&mut reader));
    writer.synced(job.run().unwrap()).unwrap();
    assert_eq!(numbers(&mut reader), [3]);
}

/// Each call a microsecond later.
fn rising() -> Timestamp {
    static NOW: AtomicI64 = AtomicI64::new(800_000_000_000_000);
    Timestamp(NOW.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn a_writing_is_never_taken_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Directory::new(directory.path()));
    drop(create(&storage));
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        if round % 5 == 4 {
            storage.remove("appended").unwrap();
        }
        let options = WriterOptions { clock: rising, ..options() };
        drop(Writer::open(Arc::clone(&storage), options, Some(LINEAGE)).unwrap());
        let bytes = std::fs::read(directory.path().join("appended")).unwrap();
        assert!(seen.insert(bytes[..8].to_vec()), "round {round}");
    }
}
