//! Writing JSON piece by piece: an event is put together once and copied nowhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A string.
pub(super) fn text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    // Written is what stands between characters that JSON wants otherwise (RFC 8259, section 7).
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let c = rest.as_bytes()[at];
        match c {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', c]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            c => out.extend_from_slice(format!("\\u{c:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

/// Bytes, in base64.
pub(super) fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// What is JSON already, or a number.
pub(super) fn raw(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

/// A number with a fraction. What JSON has no number for is a string, as Kafka's `JsonConverter` has it.
pub(super) fn number(number: f64, out: &mut Vec<u8>) {
    if number.is_nan() {
        raw("\"NaN\"", out);
    } else if number.is_infinite() {
        raw(if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }, out);
    } else {
        raw(&format!("{number:?}"), out);
    }
}

/// The name of the next field, with what must stand before it.
pub(super) fn field(name: &str, is_first: bool, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
    text(name, out);
    out.push(b':');
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_string_is_what_it_was_when_somebody_else_reads_it() {
        let all: String = (0..0x300_u32).filter_map(char::from_u32).chain("😀\"".chars()).collect();
        let mut out = Vec::new();
        super::text(&all, &mut out);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), all);
    }

    #[test]
    fn a_number_is_what_it_was_when_somebody_else_reads_it() {
        for number in [0.0, -0.0, 0.1, 1e300, 5e-324, 123_456_789.0, 1e15, -2.5] {
            let mut out = Vec::new();
            super::number(number, &mut out);
            assert_eq!(serde_json::from_slice::<f64>(&out).unwrap().to_bits(), number.to_bits(), "{number}");
        }
    }
}
