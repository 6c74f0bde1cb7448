//! Whatever lies in a trail's directory, reading and recovery return an error or come to an end.
#![no_main]

use irongate_fuzz::{Memory, read, recover};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first byte says how the rest is shared between the first file, the second, and the durable mark.
    let Some((split, data)) = data.split_first() else { return };
    let (first, rest) = data.split_at(data.len() * usize::from(split & 15) / 15);
    let (second, mark) = rest.split_at(rest.len() * usize::from(split >> 4) / 15);
    let memory = Memory::default();
    memory.put("000000001.trail", first.to_vec());
    for (name, bytes) in [("000000002.trail", second), ("durable", mark)] {
        if !bytes.is_empty() {
            memory.put(name, bytes.to_vec());
        }
    }
    read(&memory, true);
    read(&memory, false);
    let _ = recover(&memory);
});
