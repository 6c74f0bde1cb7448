//! What another release may have written.

use std::sync::Arc;

use irongate_trail::{Begins, Error, Reader, Storage, Writer, check};

use crate::disk::Disk;
use crate::support::*;

const MAIN: &str = "000000001.trail";

/// A trail of one file with two transactions, changed by `change`, and no mark, as offsets may have moved.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Arc<dyn Storage> {
    let disk = Disk::new(1);
    let mut writer = create(&disk.storage());
    transaction(&mut writer, 1, 1).unwrap();
    transaction(&mut writer, 2, 1).unwrap();
    writer.sync().unwrap();
    let mut bytes = disk.content(MAIN).unwrap();
    change(&mut bytes);
    let disk = Disk::new(1);
    disk.put(MAIN, &bytes);
    disk.storage()
}

fn header_length(bytes: &[u8]) -> usize {
    16 + u32::from_be_bytes(bytes[12..16].try_into().unwrap()) as usize + 4
}

/// Puts a token behind the others of the header, as the specification says.
fn add_token(bytes: &mut Vec<u8>, tag: u16, content: &[u8]) {
    let end = header_length(bytes) - 4;
    let token = [&tag.to_be_bytes()[..], &(content.len() as u32).to_be_bytes(), content].concat();
    bytes.splice(end..end, token.iter().copied());
    let length = u32::from_be_bytes(bytes[12..16].try_into().unwrap()) + token.len() as u32;
    bytes[12..16].copy_from_slice(&length.to_be_bytes());
    seal_header(bytes);
}

fn seal_header(bytes: &mut [u8]) {
    let end = header_length(bytes) - 4;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Puts a record at the end of the file.
fn add_record(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let covered = [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind], body].concat();
    bytes.extend_from_slice(&crc32c::crc32c(&covered).to_be_bytes());
    bytes.extend_from_slice(&covered);
}

fn to_the_end(storage: &Arc<dyn Storage>) -> Result<Vec<(u64, u64)>, Error> {
    let mut reader = Reader::open_to_the_end(Arc::clone(storage), Begins::First)?;
    let (seen, result) = read(&mut reader);
    result.map(|()| seen)
}

#[test]
fn an_unknown_header_token_is_skipped_however_long_it_is() {
    for length in [0, 1, 5000, 300_000, 1_000_000] {
        let storage = changed(|bytes| add_token(bytes, 0x7fff, &vec![9; length]));
        assert_eq!(to_the_end(&storage).unwrap(), [(1, 1), (2, 1)]);
        assert!(check(&storage, |_| {}).unwrap().is_sound());
        reopen(&storage).unwrap();
    }
}

#[test]
fn a_header_token_that_must_be_understood_refuses_the_file_by_name() {
    for tag in [0x8000, 0x8001, 0x8002, 0xffff] {
        let storage = changed(|bytes| add_token(bytes, tag, b"x"));
        for error in [to_the_end(&storage).unwrap_err(), reopen(&storage).map(drop).unwrap_err()] {
            assert!(matches!(error, Error::Version { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{tag:#06x}")), "{error}");
            assert!(error.to_string().contains(MAIN) && error.hint().is_some());
        }
        assert!(!check(&storage, |_| {}).unwrap().is_sound());
    }
}

#[test]
fn a_newer_version_is_refused_and_a_damaged_one_is_damage() {
    let newer = changed(|bytes| {
        bytes[9] = 2;
        seal_header(bytes);
    });
    let error = to_the_end(&newer).unwrap_err();
    assert!(matches!(&error, Error::Version { what, .. } if what == "format version 2"), "{error}");
    assert!(matches!(reopen(&newer), Err(Error::Version { .. })));
    let damaged = changed(|bytes| bytes[9] = 2);
    assert!(matches!(to_the_end(&damaged), Err(Error::Damaged { offset: 0, .. })));
}

#[test]
fn a_header_of_impossible_tokens_is_damage() {
    let cut = changed(|bytes| {
        add_token(bytes, 5, b"abc");
        let end = header_length(bytes) - 4;
        // The last token claims more than there is.
        bytes[end - 4] = 200;
        seal_header(bytes);
    });
    assert!(matches!(to_the_end(&cut), Err(Error::Damaged { offset: 0, .. })));
    let without_facts = changed(|bytes| {
        bytes[16..18].copy_from_slice(&7_u16.to_be_bytes());
        seal_header(bytes);
    });
    assert!(matches!(to_the_end(&without_facts), Err(Error::Damaged { offset: 0, .. })));
    let endless = changed(|bytes| bytes[12..16].copy_from_slice(&u32::MAX.to_be_bytes()));
    assert!(matches!(to_the_end(&endless), Err(Error::Damaged { offset: 0, .. })));
}

#[test]
fn a_record_of_an_unknown_kind_is_refused_and_a_skippable_one_is_passed_over() {
    for kind in [0x80, 0xc3, 0xff] {
        let storage = changed(|bytes| add_record(bytes, kind, b"whatever"));
        assert_eq!(to_the_end(&storage).unwrap(), [(1, 1), (2, 1)]);
        assert!(check(&storage, |_| {}).unwrap().is_sound());
        let (mut writer, recovered) = reopen(&storage).unwrap();
        assert_eq!(recovered.torn, 0, "it is kept");
        transaction(&mut writer, 3, 1).unwrap();
        writer.sync().unwrap();
        assert_eq!(numbers(&mut open(&storage, after(0)).unwrap()), [1, 2, 3]);
    }
    for kind in [0, b'Z', b'r', 0x7f] {
        let storage = changed(|bytes| add_record(bytes, kind, b"whatever"));
        for error in [to_the_end(&storage).unwrap_err(), reopen(&storage).map(drop).unwrap_err()] {
            let named = format!("record kind {kind:#04x}");
            assert!(matches!(&error, Error::Version { what, .. } if *what == named), "{error}");
        }
        assert!(!check(&storage, |_| {}).unwrap().is_sound());
    }
}

#[test]
fn a_known_record_where_it_does_not_belong_is_damage() {
    for kind in [b'R', b'I', b'U', b'D', b'T', b'A', b'C', b'S'] {
        let storage = changed(|bytes| add_record(bytes, kind, b""));
        let error = to_the_end(&storage).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{}: {error}", kind as char);
        assert!(!check(&storage, |_| {}).unwrap().is_sound());
        assert!(matches!(reopen(&storage), Err(Error::Damaged { .. })));
    }
}

#[test]
fn a_record_claims_more_memory_than_there_are_bytes_and_gets_none() {
    let storage = changed(|bytes| {
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        bytes.extend_from_slice(b"I...");
    });
    // Nobody vouches for it, so that it is the torn end of the trail.
    assert_eq!(to_the_end(&storage).unwrap(), [(1, 1), (2, 1)]);
    let (_, recovered) = reopen(&storage).unwrap();
    assert_eq!(recovered.torn, 12);
}

#[test]
fn bytes_of_any_kind_never_panic() {
    let mut dice = crate::disk::Dice::new(1);
    for _ in 0..3000 {
        let storage = changed(|bytes| {
            for _ in 0..=dice.below(3) {
                let place = dice.below(bytes.len() as u64) as usize;
                match dice.below(4) {
                    0 => bytes[place] = dice.roll() as u8,
                    1 => bytes.truncate(place.max(20)),
                    2 => bytes.insert(place, dice.roll() as u8),
                    _ => drop(bytes.remove(place)),
                }
            }
            // With a sound checksum it comes further.
            let header = header_length(bytes);
            if dice.once_in(2) && header < bytes.len() {
                seal_header(bytes);
                let mut at = header;
                while at + 9 <= bytes.len() {
                    let length = u32::from_be_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
                    let Some(end) = at.checked_add(8 + length).filter(|end| *end <= bytes.len()) else {
                        break;
                    };
                    let crc = crc32c::crc32c(&bytes[at + 4..end]);
                    bytes[at..at + 4].copy_from_slice(&crc.to_be_bytes());
                    at = end;
                }
            }
        });
        let _ = to_the_end(&storage);
        let _ = check(&storage, |_| {}).unwrap();
        let _ = Writer::open(storage, options(), None);
    }
}
