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

/// Frames with any content and right checksums, or nothing would get behind those: kind, flags, a length of two bytes, and
/// so many.
fn framed(mut data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(([kind, flags, high, low], rest)) = data.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        let size = (length as u32).to_be_bytes();
        let header = [&[*kind, *flags & 1, 0, 0], &size[..], &size[..]].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), body).to_be_bytes();
        bytes.extend_from_slice(&[&header[..], &crc, body].concat());
        data = rest;
    }
    bytes
}

fuzz_target!(|data: &[u8]| {
    // The first byte says whether a preface comes first, and in how large pieces everything comes; the second whether the
    // bytes are frames already.
    let Some(([how, is_framed], data)) = data.split_first_chunk::<2>() else { return };
    let made;
    let data = if is_framed & 1 == 1 {
        data
    } else {
        made = framed(data);
        &made
    };
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
