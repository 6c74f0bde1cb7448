//! Records whose checksums are right and whose content is not: what stands behind the checksum does not trust it.
#![no_main]

use irongate_fuzz::{Memory, read, recover, sample};
use libfuzzer_sys::fuzz_target;

/// Cuts a file into its header and its records (kind and body).
fn records(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let number =
        |at: usize| u32::from_be_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]) as usize;
    let mut at = 16 + number(12) + 4;
    let header = file[..at].to_vec();
    let mut records = Vec::new();
    while at + 8 < file.len() {
        let length = number(at + 4);
        records.push(file[at + 8..at + 8 + length].to_vec());
        at += 8 + length;
    }
    (header, records)
}

fn frame(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u32).to_be_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), record).to_be_bytes();
    [&crc, &length, record].concat()
}

fn edit(memory: &Memory, name: &str, edits: &[[u8; 4]]) {
    let (header, mut records) = records(&memory.get(name));
    for &[which, how, place, value] in edits {
        if records.is_empty() {
            break;
        }
        let which = usize::from(which) % records.len();
        let other = usize::from(value) % records.len();
        let record = &mut records[which];
        match how % 7 {
            0 | 1 => {
                let at = usize::from(place) % record.len();
                record[at] ^= value;
            }
            2 => record.truncate(1 + usize::from(place) % record.len()),
            3 => record.extend(std::iter::repeat_n(value, usize::from(place))),
            4 => {
                let moved = records.remove(which);
                records.insert(other.min(records.len()), moved);
            }
            5 => {
                let copy = records[other].clone();
                records.insert(which, copy);
            }
            _ => drop(records.remove(which)),
        }
    }
    let frames = records.iter().filter(|record| !record.is_empty()).flat_map(|record| frame(record));
    memory.put(name, header.into_iter().chain(frames).collect());
}

fuzz_target!(|data: &[u8]| {
    let memory = sample();
    let names: Vec<_> = memory.names().into_iter().filter(|name| name.contains('.')).collect();
    let Some((mark, data)) = data.split_first() else { return };
    for chunk in data.chunks_exact(1 + 8).take(4) {
        let name = &names[usize::from(chunk[0]) % names.len()];
        let edits: Vec<[u8; 4]> =
            chunk[1..].chunks_exact(4).map(|edit| [edit[0], edit[1], edit[2], edit[3]]).collect();
        edit(&memory, name, &edits);
    }
    if mark % 4 == 0 {
        memory.put("durable", Vec::new());
    }
    read(&memory, mark % 2 == 0);
    let _ = recover(&memory);
    read(&memory, false);
});
