//! The least epoch that a trail still takes.
//!
//! A site that takes over raises it in the trails that come from the site that was lost: whatever that one sends when it
//! comes back is of an epoch that is over, and is refused before a byte of it is written. It lies beside the trail
//! because whoever writes the trail must not depend on a database to know.

use std::io;

use crate::error::Error;
use crate::storage::{Storage, read_full_at, replace};

/// Name of the file.
const FLOOR: &str = "epoch-floor";

/// The least epoch that this trail takes; `None` if nobody has said.
///
/// # Errors
/// [`Error::Io`]; also for a file that does not hold a number: to take what it was meant to keep out is no choice.
pub fn epoch_floor(storage: &dyn Storage) -> Result<Option<u64>, Error> {
    let failed = || Error::io("read", storage.path(FLOOR));
    let file = match storage.open(FLOOR, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed())?,
    };
    let mut bytes = [0; 32];
    let length = read_full_at(&*file, &mut bytes, 0).map_err(failed())?;
    let number = std::str::from_utf8(&bytes[..length]).ok().and_then(|text| text.trim_end().parse().ok());
    let bad = || failed()(io::Error::new(io::ErrorKind::InvalidData, "it does not hold an epoch"));
    number.map(Some).ok_or_else(bad)
}

/// Says which is the least epoch that this trail takes. Durable on return. Takes effect when its collector starts.
///
/// # Errors
/// [`Error::Io`].
pub fn set_epoch_floor(storage: &dyn Storage, epoch: u64) -> Result<(), Error> {
    let written = replace(storage, FLOOR, format!("{epoch}\n").as_bytes());
    written.and_then(|()| storage.sync_directory()).map_err(Error::io("write", storage.path(FLOOR)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Directory;

    #[test]
    fn the_least_epoch_is_what_was_said_last_and_a_spoilt_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Directory::create(dir.path()).unwrap();
        assert_eq!(epoch_floor(&storage).unwrap(), None);
        set_epoch_floor(&storage, 7).unwrap();
        set_epoch_floor(&storage, 12).unwrap();
        assert_eq!(epoch_floor(&storage).unwrap(), Some(12));
        std::fs::write(dir.path().join(FLOOR), "a few").unwrap();
        let error = epoch_floor(&storage).unwrap_err().to_string();
        assert!(error.contains(FLOOR) && error.contains("does not hold an epoch"), "{error}");
    }
}
