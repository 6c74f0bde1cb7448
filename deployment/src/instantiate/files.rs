//! The initial load through files: an export under the slot's snapshot, carried by whatever means, and its import.
//!
//! An export begins slot and trail as a load does, so that the stream goes on exactly where its rows end. The manifest is
//! written last, with the size and SHA-256 of every file: a directory without one is no export. An import looks at every
//! file before it writes anything, and once more as it copies it. Each file is one chunk of the load's ledger: copied and
//! noted in one transaction, so that an import that was cut off goes on, and the flow's checkpoint is made by the
//! transaction that ends the ledger.

mod export;
mod import;
mod manifest;
mod pack;

use std::path::Path;

pub use export::{Export, Exported, export};
pub use import::{Import, import};
pub use manifest::{Manifest, ManifestFile, ManifestSequence, ManifestTable, TransferStatus, export_status};

use crate::error::Error;

fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Transfer { path: path.to_owned(), reason: reason.into() }
}

fn unusable(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Directory { path: path.clone(), source }
}
