//! A damaged trail gives what was written, up to the damage, and then an error: never something else, and never less
//! without a word.
#![no_main]

use irongate_fuzz::{Memory, committed, read, recover, sample};
use libfuzzer_sys::fuzz_target;

/// Damages a file as a disk might; the checksums are as they were.
fn damage(memory: &Memory, name: &str, [how, high, low, value]: [u8; 4]) {
    let mut bytes = memory.get(name);
    if bytes.is_empty() {
        return;
    }
    let at = usize::from(u16::from_be_bytes([high, low])) % bytes.len();
    match how % 4 {
        0 => bytes[at] ^= value,
        1 => bytes.truncate(at),
        2 => {
            // A block that was never written.
            let end = (at + usize::from(value)).min(bytes.len());
            bytes[at..end].fill(0);
        }
        _ => {
            // A block that was written to the wrong place.
            let end = (at + 16).min(bytes.len());
            let block = bytes[at..end].to_vec();
            let to = usize::from(value) % (bytes.len() - block.len() + 1);
            bytes[to..to + block.len()].copy_from_slice(&block);
        }
    }
    memory.put(name, bytes);
}

fuzz_target!(|data: &[u8]| {
    let memory = sample();
    let names: Vec<_> = memory.names().into_iter().filter(|name| name.contains('.')).collect();
    for edit in data.chunks_exact(5).take(4) {
        let name = &names[usize::from(edit[0]) % names.len()];
        damage(&memory, name, [edit[1], edit[2], edit[3], edit[4]]);
    }
    for to_the_end in [false, true] {
        let (items, error) = read(&memory, to_the_end);
        assert!(committed().starts_with(&items), "something that was never written was read");
        // Everything in the sample is vouched for by the mark.
        if !to_the_end && error.is_none() {
            assert_eq!(items.len(), committed().len(), "something is missing without a word");
        }
    }
    if let Ok(recovered) = recover(&memory) {
        // It looks at the last files only: damage in an older one is for its reader to find.
        let (items, error) = read(&memory, false);
        assert!(committed().starts_with(&items), "recovery made something that was never written");
        if recovered.missing_before.is_none() && error.is_none() {
            assert_eq!(items.len(), committed().len(), "recovery lost something without a word");
        }
    }
});
