//! A reader that is opened near a bookmark reads what one reads that begins at the file's start, whatever the bookmark says.

use std::sync::Arc;

use irongate_trail::{Begins, Bookmark, Error, Reader, Relation, Storage};

use crate::disk::{Dice, Disk};
use crate::support::*;

const MANY: u64 = 60;

/// Two files of transactions of three tables. One table gets another description now and then, also within a transaction.
fn two_files() -> Disk {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    let changed = |number: u64| {
        let mut changed = Relation::clone(&relation("changed"));
        changed.columns[1].name = format!("called in {}", number / 7);
        Arc::new(changed)
    };
    for number in 1..=MANY {
        if number % 10 == 5 {
            streamed(&mut writer, number, 30).unwrap();
            continue;
        }
        writer.begin(&begin(number)).unwrap();
        for row in 0..12 {
            let relation = match (number + row) % 3 {
                0 => relation("t"),
                1 => relation("another"),
                _ => changed(number + row),
            };
            writer.relation(&relation).unwrap();
            let row = insert(&format!("{number}.{row}"), &"some value ".repeat(number as usize % 5));
            writer.row(relation.id, b'I', &row).unwrap();
        }
        writer.commit(&commit(number)).unwrap();
        if number % 4 == 0 {
            writer.message(&message(b"between", false)).unwrap();
        }
        if number == MANY / 2 {
            writer.rotate().unwrap();
        }
    }
    writer.sync().unwrap();
    disk
}

/// All that is left to a reader, word by word.
fn rest(reader: Result<Reader, Error>) -> Result<Vec<String>, String> {
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut items = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(item)) => items.push(format!("{item:?}")),
            Ok(None) => return Ok(items),
            Err(error) => return Err(format!("{error} after {items:?}")),
        }
    }
}

/// What readers say of their places on their way through the trail.
fn bookmarks(storage: &Arc<dyn Storage>) -> Vec<Bookmark> {
    let mut reader = open(storage, Begins::First).unwrap();
    let mut bookmarks: Vec<Bookmark> = Vec::new();
    while reader.next().unwrap().is_some() {
        for number in [MANY / 4, reader.previous().0.0 / 1000] {
            let bookmark = reader.bookmark(commit_lsn(number));
            bookmarks.extend(bookmark.filter(|bookmark| !bookmarks.contains(bookmark)));
        }
    }
    bookmarks
}

fn near(storage: &Arc<dyn Storage>, begins: Begins, near: &Bookmark) -> Result<Vec<String>, String> {
    rest(Reader::open_near(Arc::clone(storage), begins, Some(near)))
}

#[test]
fn every_bookmark_leads_to_the_same_wherever_one_begins() {
    let storage = two_files().storage();
    let bookmarks = bookmarks(&storage);
    assert!(bookmarks.len() > 15, "{}", bookmarks.len());
    for number in (0..=MANY).step_by(4) {
        let plain = rest(open(&storage, after(number)));
        assert!(plain.as_ref().is_ok_and(|items| items.len() as u64 >= (MANY - number) * 12));
        for bookmark in &bookmarks {
            assert_eq!(near(&storage, after(number), bookmark), plain, "after {number}, {bookmark:?}");
        }
    }
    // It is of no use where one does not begin after a transaction.
    let all = rest(open(&storage, Begins::First));
    assert!(bookmarks.iter().all(|bookmark| near(&storage, Begins::First, bookmark) == all));
}

#[test]
fn what_lies_before_a_bookmark_is_not_read() {
    let disk = two_files();
    let storage = disk.storage();
    let reader = {
        let mut reader = open(&storage, after(MANY / 2 - 2)).unwrap();
        while reader.previous() < commit_lsn(MANY / 2 - 1) {
            reader.next().unwrap();
        }
        reader
    };
    let bookmark = reader.bookmark(commit_lsn(MANY / 2 - 2)).unwrap();
    let begins = after(MANY / 2 - 2);
    let plain = rest(open(&storage, begins));
    let name = reader.at().0.to_owned();
    let mut bytes = disk.content(&name).unwrap();
    // A row of the first file's middle.
    let at = bytes.windows(4).position(|window| window == b"9.10").unwrap();
    bytes[at] ^= 1;
    disk.put(&name, &bytes);
    assert!(rest(open(&storage, begins)).unwrap_err().contains("damaged"));
    assert_eq!(near(&storage, begins, &bookmark), plain);
}

#[test]
fn a_bookmark_of_something_else_is_passed_over() {
    let disk = two_files();
    let storage = disk.storage();
    let bookmarks = bookmarks(&storage);
    let mut dice = Dice::new(11);
    // Files of which a byte is another, or that are shorter: the same is read, or the same is wrong; or, where the wrong
    // byte is one that the bookmark spares its reader, what was there before is read.
    let sound: Vec<_> = (0..=MANY).map(|number| rest(open(&storage, after(number)))).collect();
    let name = open(&storage, Begins::First).unwrap().at().0.to_owned();
    let content = disk.content(&name).unwrap();
    for _ in 0..300 {
        let mut bytes = content.clone();
        let at = dice.below(bytes.len() as u64) as usize;
        if dice.once_in(4) {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 1 << dice.below(8)
        }
        disk.put(&name, &bytes);
        let number = dice.below(MANY / 2);
        let bookmark = &bookmarks[dice.below(bookmarks.len() as u64) as usize];
        let (plain, near) = (rest(open(&storage, after(number))), near(&storage, after(number), bookmark));
        assert!(near == plain || near == sound[number as usize], "after {number}, byte {at}, {bookmark:?}");
    }
    disk.put(&name, &content);
    // A trail that was made anew, with the same transactions in files of the same names.
    let other = Disk::new(2);
    let mut writer = create(&other.storage());
    for number in 1..=MANY {
        transaction(&mut writer, number, 1 + number % 30).unwrap();
    }
    writer.sync().unwrap();
    for number in 0..MANY {
        let plain = rest(open(&other.storage(), after(number)));
        assert!(bookmarks.iter().all(|bookmark| near(&other.storage(), after(number), bookmark) == plain));
    }
}

#[test]
fn a_bookmark_is_kept_or_it_is_not() {
    let disk = two_files();
    let storage = disk.storage();
    let bookmarks = bookmarks(&storage);
    assert_eq!(Bookmark::kept(&*storage, "replicat"), None);
    for bookmark in bookmarks.iter().rev().chain(&bookmarks) {
        bookmark.keep(&*storage, "replicat");
        assert_eq!(Bookmark::kept(&*storage, "replicat").as_ref(), Some(bookmark));
    }
    assert_eq!(Bookmark::kept(&*storage, "another"), None);
    let bytes = disk.content("bookmark-replicat").unwrap();
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        disk.put("bookmark-replicat", &wrong);
        assert_eq!(Bookmark::kept(&*storage, "replicat"), None, "byte {at}");
        disk.put("bookmark-replicat", &bytes[..at]);
        assert_eq!(Bookmark::kept(&*storage, "replicat"), None, "cut off at {at}");
    }
    // On a disk that is full nothing is kept, and nobody is kept from anything.
    disk.set_capacity(Some(disk.used()));
    bookmarks[0].keep(&*storage, "another");
    assert_eq!(Bookmark::kept(&*storage, "another"), None);
    bookmarks[0].keep(&*storage, "../etc");
}
