//! Whatever comes over the link, in whatever pieces, the decoder gives frames or an error; what it gives can be sent again
//! and is the same; and it holds no more than it was given and one frame.
#![no_main]

use irongate_pump::wire::{Decoder, Encoder, Frame};
use libfuzzer_sys::fuzz_target;

/// A frame as it is made anew from what was understood of it.
fn again(frame: &Frame<'_>) -> String {
    let mut bytes = Vec::new();
    Encoder::default().append(frame, &mut bytes);
    let mut decoder = Decoder::default();
    decoder.space(bytes.len()).extend_from_slice(&bytes);
    let decoded = decoder.next().expect("what was encoded can be decoded").expect("it is a whole frame");
    format!("{decoded:?}")
}

fuzz_target!(|data: &[u8]| {
    // The first byte says whether a preface comes first, and in how large pieces everything comes.
    let Some((how, data)) = data.split_first() else { return };
    let mut decoder = Decoder::default();
    let mut wants_preface = how & 1 == 1;
    for piece in data.chunks(usize::from(how >> 1).max(1) * 7) {
        decoder.space(piece.len()).extend_from_slice(piece);
        if wants_preface {
            match decoder.preface() {
                Ok(Some(preface)) => {
                    let _ = preface.encode();
                    wants_preface = false;
                }
                Ok(None) => continue,
                Err(error) => return drop(error.to_string()),
            }
        }
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    let text = format!("{frame:?}");
                    assert_eq!(again(&frame), text);
                }
                Ok(None) => break,
                Err(error) => return drop(error.to_string()),
            }
        }
    }
});
