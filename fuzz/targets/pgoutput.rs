//! Whatever a server sends, the decoder returns an error or a message, and never panics or reads beyond.
#![no_main]

use irongate_capture::pgoutput::{Decoder, Message, Streaming};
use irongate_trail::Row;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((streaming, mut data)) = data.split_first() else { return };
    let streaming = [Streaming::Off, Streaming::On, Streaming::Parallel][usize::from(streaming % 3)];
    let mut decoder = Decoder::new(streaming);
    // A stream of frames: a length of two bytes, then so many.
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        let Ok(message) = decoder.decode(frame) else { return };
        let _ = format!("{message:?}");
        if let Message::Row(row) = &message {
            let decoded =
                Row::decode(row.operation, row.bytes).expect("it was checked when the message was read");
            irongate_fuzz::look_at_row(decoded);
        }
        data = rest;
    }
});
