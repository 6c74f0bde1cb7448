//! What purge removes, and what it never does.

use irongate_trail::{
    Begins, Lsn, Mark, Position, PurgePolicy, ResumeLsn, Severity, Timestamp, check, purge, readers,
    register_reader, remove_reader,
};

use crate::disk::{Disk, Fault};
use crate::support::*;

/// Ten files: in each a plain transaction and a streamed one; the last is open.
fn ten() -> Disk {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    for file in 0..10 {
        disk.set_now(1000 + file * 100);
        transaction(&mut writer, 2 * file + 1, 1).unwrap();
        streamed(&mut writer, 2 * file + 2, 3).unwrap();
        if file < 9 {
            writer.rotate().unwrap();
        }
        writer.sync().unwrap();
    }
    disk
}

fn stands(disk: &Disk, reader: &str, seqno: u64) {
    let number = 2 * (seqno - 1);
    let (commit_lsn, resume_lsn) = (commit_lsn(number), end_lsn(number));
    let mark = Mark { position: Position { seqno, offset: 120 }, commit_lsn, resume_lsn, ..Mark::default() };
    register_reader(&*disk.storage(), reader, &mark).unwrap();
}

fn mains(disk: &Disk) -> Vec<u64> {
    let names = disk.storage().list().unwrap();
    let number = |name: String| name.strip_suffix(".trail").map(|number| number.parse().unwrap());
    names.into_iter().filter_map(number).collect()
}

fn sides(disk: &Disk) -> Vec<u64> {
    let names = disk.storage().list().unwrap();
    let number = |name: String| name.strip_suffix(".side").map(|name| name[..9].parse().unwrap());
    names.into_iter().filter_map(number).collect()
}

const ALL: PurgePolicy = PurgePolicy { min_age_seconds: 0, min_files: 1, clock: noon };

#[test]
fn without_any_reader_nothing_is_removed() {
    let disk = ten();
    let purged = purge(&*disk.storage(), &ALL).unwrap();
    assert_eq!((purged.removed.len(), purged.kept_by), (0, None));
    assert_eq!(mains(&disk).len(), 10);
}

#[test]
fn what_every_reader_has_passed_goes_with_its_side_files_and_the_slowest_reader_is_named() {
    let disk = ten();
    let storage = disk.storage();
    stands(&disk, "fast", 10);
    stands(&disk, "slow", 4);
    let purged = purge(&*storage, &ALL).unwrap();
    assert_eq!((mains(&disk), sides(&disk)), ((4..=10).collect(), (4..=10).collect()));
    assert_eq!(purged.removed.len(), 6);
    assert!(purged.bytes > 1000);
    assert_eq!(purged.kept_by, Some(("slow".to_owned(), Position { seqno: 4, offset: 120 })));
    assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
    assert_eq!(purge(&*storage, &ALL).unwrap().removed.len(), 0);

    remove_reader(&*storage, "slow").unwrap();
    let purged = purge(&*storage, &ALL).unwrap();
    assert_eq!((mains(&disk), purged.kept_by), (vec![10], None));
    assert_eq!(numbers(&mut open(&storage, after(18)).unwrap()), [19, 20]);
}

#[test]
fn a_reader_whose_mark_cannot_be_read_keeps_everything() {
    let disk = ten();
    stands(&disk, "fine", 9);
    disk.put("reader-torn", b"what is this");
    let purged = purge(&*disk.storage(), &ALL).unwrap();
    assert_eq!((mains(&disk).len(), purged.kept_by), (10, Some(("torn".to_owned(), Position::default()))));
}

#[test]
fn a_reader_that_stands_behind_the_end_of_the_trail_keeps_everything() {
    let disk = ten();
    stands(&disk, "fine", 9);
    stands(&disk, "astray", 11);
    let purged = purge(&*disk.storage(), &ALL).unwrap();
    assert_eq!(mains(&disk).len(), 10);
    assert_eq!(purged.kept_by.unwrap().0, "astray");
    let report = check(&disk.storage(), |_| {}).unwrap();
    assert!(report.findings.iter().any(|finding| finding.file == "reader-astray"));
}

/// What a reader lets go of may be all that can make room.
#[test]
fn a_full_disk_does_not_keep_a_reader_from_letting_go() {
    let disk = ten();
    stands(&disk, "slow", 1);
    disk.set_capacity(Some(disk.used()));
    stands(&disk, "slow", 8);
    let storage = disk.storage();
    assert!(!storage.list().unwrap().iter().any(|name| name.ends_with(".new")), "nothing is left over");
    assert_eq!(purge(&*storage, &ALL).unwrap().kept_by.unwrap().1.seqno, 8);
    assert_eq!(mains(&disk)[0], 8);
    // One that is new takes room, and has to wait for it.
    disk.set_capacity(Some(disk.used()));
    let mark = Mark { position: Position { seqno: 9, offset: 120 }, ..Mark::default() };
    assert!(register_reader(&*storage, "new", &mark).unwrap_err().is_disk_full());
    assert_eq!(readers(&*storage).unwrap().len(), 1);
}

#[test]
fn the_policy_keeps_a_number_of_files_and_young_ones() {
    let disk = ten();
    stands(&disk, "reader", 10);
    let keep = |min_files, min_age_seconds, clock| {
        let purged = purge(&*disk.storage(), &PurgePolicy { min_files, min_age_seconds, clock }).unwrap();
        assert_eq!(purged.kept_by, None);
        mains(&disk)[0]
    };
    /// 1000 seconds after the first file was written.
    fn then() -> Timestamp {
        Timestamp((2000 - 946_684_800) * 1_000_000)
    }
    assert_eq!(keep(10, 0, noon), 1);
    assert_eq!(keep(8, 0, noon), 3);
    // File 3 was written last at 1200, file 5 at 1400.
    assert_eq!(keep(1, 801, then), 3);
    assert_eq!(keep(1, 600, then), 6);
    assert_eq!(keep(0, 0, noon), 10);
}

#[test]
fn nothing_is_removed_while_nobody_vouches_for_the_end() {
    let disk = ten();
    stands(&disk, "reader", 10);
    disk.storage().remove("durable").unwrap();
    assert_eq!(purge(&*disk.storage(), &ALL).unwrap().removed.len(), 0);
}

#[test]
fn a_purge_that_is_cut_off_anywhere_leaves_nothing_that_is_taken_for_damage() {
    for cut in [false, true] {
        for moment in 0.. {
            let disk = ten();
            let storage = disk.storage();
            stands(&disk, "reader", 6);
            disk.fail_after(moment, Fault::Crash);
            if purge(&*storage, &ALL).is_ok() {
                assert!(moment > 15, "{moment}");
                break;
            }
            if cut {
                disk.power_cut()
            } else {
                disk.kill()
            }
            let report = check(&storage, |_| {}).unwrap();
            let orphans = report.findings.iter().all(|finding| finding.severity == Severity::Orphan);
            assert!(orphans, "at {moment}: {:?}", report.findings);
            let (mut writer, recovered) = reopen(&storage).unwrap();
            assert_eq!((recovered.missing_before, recovered.torn), (None, 0));
            transaction(&mut writer, 21, 1).unwrap();
            writer.sync().unwrap();
            assert_eq!(readers(&*storage).unwrap().len(), 1);
            assert_eq!(numbers(&mut open(&storage, after(10)).unwrap()), (11..=21).collect::<Vec<_>>());
            open(&storage, Begins::First).unwrap();
            // The next one completes it.
            purge(&*storage, &ALL).unwrap();
            assert_eq!((mains(&disk)[0], sides(&disk)[0]), (6, 6));
            assert_eq!(check(&storage, |_| {}).unwrap().findings, []);
        }
    }
}

#[test]
fn a_reader_that_was_registered_before_the_trail_was_made_stands_at_its_beginning() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mark = Mark { position: Position { seqno: 40, offset: 1 }, ..Mark::default() };
    register_reader(&*storage, "early", &mark).unwrap();
    let mut writer = create(&storage);
    for number in 1..=4 {
        transaction(&mut writer, number, 1).unwrap();
        writer.progress(&progress(ResumeLsn(Lsn(number * 1000 + 500)))).unwrap();
        writer.rotate().unwrap();
    }
    writer.sync().unwrap();
    let purged = purge(&*storage, &ALL).unwrap();
    assert_eq!((purged.removed.len(), purged.kept_by.unwrap().0), (0, "early".to_owned()));
}
