//! The one encoding of stored structs: bincode 2 with a fixed configuration.
//!
//! The form is ours, the crate only writes it: integers little-endian at their full width, lengths and enum variants
//! as such integers (`u64`, `u32`), no field names. It describes nothing, so a released struct never changes; new
//! content gets a new key. A value that is longer than its struct is refused as well as one that is shorter.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest value that is decoded, in bytes: what a damaged length can make the decoder allocate.
pub const MAX_VALUE: usize = 16 * 1024 * 1024;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_VALUE>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_VALUE>();

/// Bytes that are no such value, or a value that has no such bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(String);

/// The bytes of `value`.
///
/// # Errors
/// A type that serde cannot write without field names, or a value longer than [`MAX_VALUE`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, CONFIG).map_err(|e| CodecError(e.to_string()))
}

/// The value of `bytes`, all of them.
///
/// # Errors
/// Bytes that are no `T`, or more than one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|e| CodecError(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError(format!("{} bytes left over", bytes.len() - used)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use irongate_trail::{Lineage, Lsn, Position};
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Value {
        lineage: Lineage,
        position: Option<Position>,
        note: String,
    }

    fn value() -> Value {
        Value {
            lineage: Lineage {
                system_identifier: 0x0102_0304_0506_0708,
                timeline: 3,
                slot_incarnation: Lsn(9),
            },
            position: Some(Position { seqno: 1, offset: 2 }),
            note: "ä".to_owned(),
        }
    }

    const BYTES: [u8; 47] = [
        8, 7, 6, 5, 4, 3, 2, 1, // system identifier
        3, 0, 0, 0, // timeline
        9, 0, 0, 0, 0, 0, 0, 0, // slot incarnation
        1, // there is a position
        1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, // sequence number, offset
        2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa4, // length, text
    ];

    #[test]
    fn the_bytes_of_a_value_are_those_of_every_released_version() {
        assert_eq!(encode(&value()).unwrap(), BYTES);
        assert_eq!(decode::<Value>(&BYTES).unwrap(), value());
    }

    #[test]
    fn a_value_too_short_too_long_or_damaged_is_an_error() {
        for end in 0..BYTES.len() {
            assert!(decode::<Value>(&BYTES[..end]).is_err(), "{end}");
        }
        let mut longer = BYTES.to_vec();
        longer.push(0);
        assert!(decode::<Value>(&longer).unwrap_err().to_string().contains("1 bytes left over"));
        let mut huge = BYTES;
        huge[37..45].fill(0xff);
        assert!(decode::<Value>(&huge).is_err());
        let mut neither = BYTES;
        neither[20] = 7;
        assert!(decode::<Value>(&neither).is_err());
    }
}
