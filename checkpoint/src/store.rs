//! The local store: what makes a start quick, and may vanish at any time (it is never the only copy of anything).

pub mod codec;
mod memory;
mod on_sled;
mod quiet;
mod set_aside;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use memory::MemoryStore;
pub use on_sled::{Opened, SledStore};

use crate::error::Error;

/// Keys and values that survive the process once [`flush`](Store::flush)ed.
///
/// All functions block: each is a few microseconds but for `flush`, which waits for the disk.
pub trait Store: Send + Sync {
    /// The value last put under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Sets the value of `key`. Durable only after the next [`flush`](Store::flush).
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Removes `key`; no error if it is not there.
    fn remove(&self, key: &[u8]) -> Result<(), Error>;
    /// Makes durable all that was put before.
    fn flush(&self) -> Result<(), Error>;
}

/// Serde structs in a [`Store`], encoded by [`codec`].
pub trait TypedStore: Store {
    /// Reads the value of `key`.
    ///
    /// # Errors
    /// [`Error::Undecodable`] when the stored bytes are no `T`, and whatever the store fails with.
    fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.get(key.as_bytes())? else { return Ok(None) };
        codec::decode(&bytes)
            .map(Some)
            .map_err(|reason| Error::Undecodable { key: key.to_owned(), reason: reason.to_string() })
    }

    /// Sets the value of `key`. Durable only after the next [`flush`](Store::flush).
    ///
    /// # Errors
    /// [`Error::Undecodable`] when `value` has no encoding, and whatever the store fails with.
    fn write<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let bytes = codec::encode(value)
            .map_err(|reason| Error::Undecodable { key: key.to_owned(), reason: reason.to_string() })?;
        self.put(key.as_bytes(), &bytes)
    }
}

impl<S: Store + ?Sized> TypedStore for S {}
