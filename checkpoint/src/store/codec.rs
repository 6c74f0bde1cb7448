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
