//! Bytes that are not what was written, and bytes that are not there.

use std::collections::BTreeMap;

use irongate_trail::{Begins, Error, Item, Reader, check};

use crate::disk::Disk;
use crate::support::*;

/// A small trail of three files with every kind of record, durable as a whole, and what is in its files.
fn small() -> BTreeMap<String, Vec<u8>> {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 2).unwrap();
    streamed(&mut writer, 2, 3).unwrap();
    writer.rotate().unwrap();
    let table = relation("t");
    writer.begin(&begin(3)).unwrap();
    writer.relation(&table).unwrap();
    writer.truncate(&truncate(&table)).unwrap();
    writer.message(&message(b"x", true)).unwrap();
    writer.commit(&commit(3)).unwrap();
    writer.message(&message(b"y", false)).unwrap();
    writer.rotate().unwrap();
    transaction(&mut writer, 4, 1).unwrap();
    writer.progress(&progress(end_lsn(5))).unwrap();
    transaction(&mut writer, 6, 2).unwrap();
    writer.sync().unwrap();
    drop(writer);
    files(&disk)
}

/// All but what is of no worth without its writer: see `early.rs` for damage to that.
fn files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.storage().list().unwrap().into_iter().filter(|name| name != "appended");
    names.map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

fn disk_of(files: &BTreeMap<String, Vec<u8>>) -> Disk {
    let disk = Disk::new(1);
    for (name, content) in files {
        disk.put(name, content);
    }
    disk
}

/// All items in short, up to the end or an error.
fn items(mut reader: Reader) -> (Vec<String>, Result<(), Error>) {
    let mut items = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(Item::Row { relation, row })) => items.push(format!("{} {row:?}", relation.name)),
            Ok(Some(item)) => items.push(format!("{item:?}")),
            Ok(None) => return (items, Ok(())),
            Err(error) => return (items, Err(error)),
        }
    }
}

#[test]
fn a_flipped_byte_at_any_place_is_found_where_it_is_and_nothing_behind_it_is_returned() {
    let sound = small();
    let (all, result) = items(open(&disk_of(&sound).storage(), Begins::First).unwrap());
    result.unwrap();
    let kinds = ["Begin", "Insert", "Truncate", "Message", "Commit", "Progress"];
    assert!(kinds.iter().all(|kind| all.iter().any(|item| item.contains(kind))));
    let mut flipped = 0;
    for (name, content) in sound.iter().filter(|(name, _)| !name.starts_with("durable")) {
        for place in 0..content.len() {
            let mut files = sound.clone();
            files.get_mut(name).unwrap()[place] ^= 1 << (place % 8);
            let disk = disk_of(&files);
            let (seen, result) = match open(&disk.storage(), Begins::First) {
                Ok(reader) => items(reader),
                Err(error) => (Vec::new(), Err(error)),
            };
            let Err(Error::Damaged { file, offset, .. }) = result else {
                panic!("{name}:{place} gave {result:?}")
            };
            assert!(file.ends_with(name), "{name}:{place} was reported in {}", file.display());
            assert!(offset <= place as u64, "{name}:{place} was reported at {offset}");
            assert!(all.starts_with(&seen) && seen.len() < all.len());

            let report = check(&disk.storage(), |_| {}).unwrap();
            assert!(!report.is_sound(), "{name}:{place}");
            let found = report.findings.iter().any(|finding| {
                finding.file == *name && finding.offset <= place as u64 && finding.offset >= offset
            });
            assert!(found, "{name}:{place}: {:?}", report.findings);
            flipped += 1;

            // A writer examines the file that the mark stands in, and leaves everything as it is when that is damaged.
            if name == "000000003.trail" {
                let before = disk.operations();
                let result = reopen(&disk.storage()).map(|(_, recovered)| recovered);
                assert!(matches!(result, Err(Error::Damaged { .. })), "{name}:{place}: {result:?}");
                assert_eq!(disk.operations(), before);
            }
        }
    }
    assert!(flipped > 1500, "{flipped}");
}

#[test]
fn a_flipped_byte_of_the_mark_makes_it_the_one_before_or_none_and_loses_nothing() {
    let sound = small();
    for place in 0..sound["durable"].len() {
        let mut files = sound.clone();
        files.get_mut("durable").unwrap()[place] ^= 0x10;
        let disk = disk_of(&files);
        let (mut writer, recovered) = reopen(&disk.storage()).unwrap();
        assert_eq!(recovered.mark.commit_lsn, commit_lsn(6));
        transaction(&mut writer, 7, 1).unwrap();
        writer.sync().unwrap();
        assert_eq!(numbers(&mut open(&disk.storage(), after(0)).unwrap()), [1, 2, 3, 4, 6, 7]);
    }
}

#[test]
fn a_flipped_byte_behind_the_mark_is_a_torn_end() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    let mark = writer.sync().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    streamed(&mut writer, 3, 4).unwrap();
    writer.flush().unwrap();
    drop(writer);
    disk.kill();
    let sound = files(&disk);
    let main = "000000001.trail";
    let side = sound.keys().find(|name| name.ends_with(".side")).unwrap().clone();
    for (name, from) in [(main, mark.position.offset as usize), (&side, 0)] {
        for place in from..sound[name].len() {
            let mut files = sound.clone();
            files.get_mut(name).unwrap()[place] ^= 1;
            let disk = disk_of(&files);
            let mut reader = Reader::open_to_the_end(disk.storage(), Begins::First).unwrap();
            let left = numbers(&mut reader);
            let (mut writer, recovered) = reopen(&disk.storage()).unwrap();
            assert!(recovered.torn > 0 && recovered.missing_before.is_none());
            assert_eq!(recovered.mark.commit_lsn, commit_lsn(left.len() as u64));
            assert!(left == [1] || left == [1, 2]);
            assert!(left == [1, 2] || name == main);
            for number in left.len() as u64 + 1..=4 {
                transaction(&mut writer, number, 1).unwrap();
            }
            writer.sync().unwrap();
            assert_eq!(numbers(&mut open(&disk.storage(), after(0)).unwrap()), [1, 2, 3, 4]);
            let report = check(&disk.storage(), |_| {}).unwrap();
            assert_eq!(report.findings, []);
        }
    }
}

#[test]
fn an_end_that_is_missing_is_cut_back_to_the_last_whole_transaction_and_said() {
    let sound = small();
    let content = &sound["000000003.trail"];
    for length in 0..content.len() {
        for zeros in [false, true] {
            let mut files = sound.clone();
            let file = files.get_mut("000000003.trail").unwrap();
            file.truncate(length);
            if zeros && length + 8 <= content.len() {
                file.resize(content.len(), 0);
            }
            let disk = disk_of(&files);
            let storage = disk.storage();
            // A reader is told of the damage until the writer has judged it.
            let (_, result) = match open(&storage, after(3)) {
                Ok(mut reader) => read(&mut reader),
                Err(error) => (Vec::new(), Err(error)),
            };
            assert!(matches!(result, Err(Error::Damaged { .. })), "{length}: {result:?}");
            assert!(!check(&storage, |_| {}).unwrap().is_sound());

            let (mut writer, recovered) = reopen(&storage).unwrap();
            let promised = recovered.missing_before.expect("it is said");
            assert_eq!(promised.commit_lsn, commit_lsn(6));
            let kept = recovered.mark.commit_lsn.0.0 / 1000;
            assert!(kept == 3 || kept == 4, "{kept}");
            for number in kept + 1..=7 {
                transaction(&mut writer, number, 1).unwrap();
            }
            writer.sync().unwrap();
            let seen = numbers(&mut open(&storage, after(0)).unwrap());
            assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7], "{length}");
            assert!(check(&storage, |_| {}).unwrap().is_sound());
        }
    }
}

#[test]
fn a_file_torn_before_another_that_is_whole_ends_the_trail() {
    // Neither was synced: the mark stands in the first.
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    transaction(&mut writer, 1, 1).unwrap();
    writer.sync().unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    transaction(&mut writer, 3, 1).unwrap();
    writer.rotate().unwrap();
    transaction(&mut writer, 4, 1).unwrap();
    writer.rotate().unwrap();
    transaction(&mut writer, 5, 1).unwrap();
    writer.flush().unwrap();
    drop(writer);
    disk.kill();
    let whole = files(&disk);
    let mut torn = whole.clone();
    let first = torn.get_mut("000000001.trail").unwrap();
    let length = first.len();
    first.truncate(length - 100);
    let mut missing = whole.clone();
    missing.remove("000000002.trail");
    let mut blank = whole.clone();
    blank.get_mut("000000003.trail").unwrap().clear();
    for (files, last) in [(whole, 5), (torn, 2), (missing, 3), (blank, 4)] {
        let disk = disk_of(&files);
        let mut reader = Reader::open_to_the_end(disk.storage(), Begins::First).unwrap();
        assert_eq!(numbers(&mut reader), (1..=last).collect::<Vec<_>>());
        let (mut writer, recovered) = reopen(&disk.storage()).unwrap();
        assert_eq!(recovered.mark.commit_lsn, commit_lsn(last));
        for number in last + 1..=6 {
            transaction(&mut writer, number, 1).unwrap();
        }
        writer.sync().unwrap();
        assert_eq!(numbers(&mut open(&disk.storage(), Begins::First).unwrap()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(check(&disk.storage(), |_| {}).unwrap().findings, []);
    }
}

#[test]
fn without_a_mark_every_file_is_examined_and_damage_anywhere_refuses_the_trail() {
    let mut sound = small();
    sound.remove("durable");
    reopen(&disk_of(&sound).storage()).unwrap();
    for (name, content) in &sound {
        for place in (0..content.len()).step_by(7) {
            let mut files = sound.clone();
            files.get_mut(name).unwrap()[place] ^= 0x20;
            let disk = disk_of(&files);
            let before = disk.operations();
            match reopen(&disk.storage()) {
                Err(Error::Damaged { .. }) => assert_eq!(disk.operations(), before),
                // A record that is longer than it was, at the very end, cannot be told from one that was cut off.
                Ok((_, recovered)) => {
                    assert!(name == "000000003.trail" && recovered.torn > 0, "{name}:{place}")
                }
                Err(error) => panic!("{name}:{place}: {error}"),
            }
        }
    }
}

#[test]
fn a_missing_file_is_a_gap_and_a_missing_side_file_is_damage() {
    let sound = small();
    let mut files = sound.clone();
    files.remove("000000002.trail");
    let storage = disk_of(&files).storage();
    let (seen, result) = read(&mut open(&storage, Begins::First).unwrap());
    assert_eq!(seen.len(), 2);
    assert!(matches!(result, Err(Error::Gap { .. })));
    assert!(matches!(reopen(&storage), Err(Error::Gap { .. })));
    assert!(!check(&storage, |_| {}).unwrap().is_sound());

    let mut files = sound.clone();
    let side = sound.keys().find(|name| name.ends_with(".side")).unwrap();
    files.remove(side);
    let (seen, result) = read(&mut open(&disk_of(&files).storage(), Begins::First).unwrap());
    assert_eq!(seen.len(), 1);
    assert!(matches!(result, Err(Error::Damaged { file, offset: 0, .. }) if file.ends_with(side)));
}

#[test]
fn a_record_that_is_doubled_left_out_or_moved_is_found_although_it_is_sound_by_itself() {
    let disk = Disk::new(1);
    let storage = disk.storage();
    let mut writer = create(&storage);
    let mut starts = vec![writer.appended().position.offset as usize];
    for number in 1..=3 {
        transaction(&mut writer, number, 3).unwrap();
        starts.push(writer.appended().position.offset as usize);
    }
    writer.sync().unwrap();
    drop(writer);
    let sound = files(&disk);
    let content = &sound["000000001.trail"];
    let row = insert("1.0", "some value").len() + 4 + 9;
    let commit_record = starts[1] - (8 + 1 + 40);
    let (first, second) = (commit_record - 3 * row, commit_record - 2 * row);
    let (a, b) = (&content[first..second], &content[second..second + row]);
    let transaction = &content[starts[1]..starts[2]];
    let variants = [
        [&content[..second], &content[second + row..]].concat(),
        [&content[..second], b, &content[second..]].concat(),
        [&content[..first], b, a, &content[second + row..]].concat(),
        [&content[..starts[1]], &content[starts[2]..]].concat(),
        [&content[..starts[2]], transaction, &content[starts[2]..]].concat(),
    ];
    for (number, variant) in variants.iter().enumerate() {
        let mut files = sound.clone();
        files.insert("000000001.trail".to_owned(), variant.clone());
        // Reading to the end, so that it is not the mark that finds it.
        files.remove("durable");
        let disk = disk_of(&files);
        let (seen, result) = read(&mut Reader::open_to_the_end(disk.storage(), Begins::First).unwrap());
        assert!(
            matches!(result, Err(Error::Damaged { .. } | Error::Gap { .. })),
            "variant {number}: {result:?}"
        );
        assert!(seen.iter().all(|(_, rows)| *rows == 3) && seen.len() < 3);
        assert!(!check(&disk.storage(), |_| {}).unwrap().is_sound());
        assert!(matches!(reopen(&disk.storage()), Err(Error::Damaged { .. })));
    }
}
