//! What an export says of itself. The manifest is JSON; beside it lies its own digest in the form of `sha256sum`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pack::{self, Sum};
use super::{refused, unusable};
use crate::error::Error;

pub(super) const MANIFEST: &str = "manifest.json";
const SUM: &str = "manifest.sha256";
/// How far an export is that is still being written.
const STATUS: &str = "export.json";
/// The version of the manifest.
pub(super) const FORMAT: u32 = 1;

/// An export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// The export's name.
    pub job: String,
    /// The flow that it is for.
    pub flow: String,
    /// The database, by its name in the configuration.
    pub database: String,
    /// The source's system.
    pub system_identifier: u64,
    /// The source's timeline.
    pub timeline: u32,
    /// Where the flow's slot began.
    pub slot_incarnation: String,
    /// Where the stream goes on.
    pub consistent_point: String,
    /// In which epoch the source was written.
    pub epoch: u64,
    /// The file of the trail in which the stream goes on.
    pub trail_seqno: u64,
    /// The place in it.
    pub trail_offset: u64,
    /// When the snapshot was taken by the source's clock, in microseconds since 2000-01-01 UTC.
    pub taken: i64,
    /// The source's version.
    pub server_version: String,
    /// The tables.
    pub tables: Vec<ManifestTable>,
    /// The sequences.
    pub sequences: Vec<ManifestSequence>,
}

/// A table of an export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestTable {
    /// Its schema at the source.
    pub schema: String,
    /// Its name at the source.
    pub name: String,
    /// Its columns, in the order of the rows.
    pub columns: Vec<String>,
    /// Its files, in their order.
    pub files: Vec<ManifestFile>,
}

/// A file of an export: rows as `COPY ... TO STDOUT` prints them, compressed by zstd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its bytes.
    pub sha256: String,
    /// Its rows.
    pub rows: u64,
    /// The bytes of its rows, before they were compressed.
    pub raw_bytes: u64,
}

/// A sequence of an export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestSequence {
    /// Its schema at the source.
    pub schema: String,
    /// Its name at the source.
    pub name: String,
    /// The column that it belongs to: schema, table, column.
    pub owner: Option<(String, String, String)>,
    /// The value that it stands at.
    pub last: i64,
    /// Whether that was given.
    pub called: bool,
}

/// How far an export is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Its name.
    pub job: String,
    /// The flow.
    pub flow: String,
    /// `running`, `done`, or `cut off`.
    pub state: String,
    /// The process that writes it.
    pub pid: u32,
    /// Files that are there.
    pub files: usize,
    /// Files in all.
    pub files_total: usize,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// How far an export in a directory is.
///
/// # Errors
/// [`Error::Transfer`] for a directory that has none, or whose manifest is damaged; [`Error::Directory`].
pub fn export_status(directory: &Path) -> Result<TransferStatus, Error> {
    if directory.join(MANIFEST).exists() {
        let manifest = load(directory)?;
        let files: Vec<&ManifestFile> = manifest.tables.iter().flat_map(|table| &table.files).collect();
        return Ok(TransferStatus {
            files: files.len(),
            files_total: files.len(),
            rows: files.iter().map(|file| file.rows).sum(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            state: "done".to_owned(),
            pid: 0,
            job: manifest.job,
            flow: manifest.flow,
        });
    }
    let path = directory.join(STATUS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(refused(directory, "there is no export in it"));
        }
        Err(error) => return Err(unusable(&path)(error)),
    };
    let mut status: TransferStatus =
        serde_json::from_slice(&text).map_err(|error| refused(&path, error.to_string()))?;
    let pid = i32::try_from(status.pid).ok().and_then(rustix::process::Pid::from_raw);
    if pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err()) {
        status.state = "cut off".to_owned();
    }
    Ok(status)
}

/// Replaces a file by another text, durably.
fn put(directory: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    let (new, path) = (directory.join(format!("{name}.new")), directory.join(name));
    if new.exists() {
        fs::remove_file(&new)?;
    }
    let mut file = pack::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    fs::File::open(directory)?.sync_all()
}

pub(super) fn tell(directory: &Path, status: &TransferStatus) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(status).map_err(|error| refused(directory, error.to_string()))?;
    put(directory, STATUS, &text).map_err(unusable(&directory.join(STATUS)))
}

/// Writes the manifest, behind everything else.
pub(super) fn save(directory: &Path, manifest: &Manifest) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(manifest).map_err(|error| refused(directory, error.to_string()))?;
    use sha2::Digest;
    let sum = format!("{}  {MANIFEST}\n", pack::hex(&sha2::Sha256::digest(&text)));
    put(directory, SUM, sum.as_bytes()).map_err(unusable(&directory.join(SUM)))?;
    put(directory, MANIFEST, &text).map_err(unusable(&directory.join(MANIFEST)))?;
    // It is not being written any more.
    fs::remove_file(directory.join(STATUS)).map_err(unusable(&directory.join(STATUS)))
}

/// Reads the manifest of an export.
pub(super) fn load(directory: &Path) -> Result<Manifest, Error> {
    let (path, beside) = (directory.join(MANIFEST), directory.join(SUM));
    if !path.exists() {
        let status = directory.join(STATUS).exists();
        let what = if status {
            "it is missing: the export was cut off, or is still being written"
        } else {
            "it is missing"
        };
        return Err(refused(&path, what));
    }
    let told = fs::read_to_string(&beside).map_err(|error| refused(&beside, error.to_string()))?;
    let Sum { sha256, .. } = pack::sum(&path).map_err(unusable(&path))?;
    if told.split_whitespace().next() != Some(sha256.as_str()) {
        return Err(refused(&path, format!("it is damaged: its digest is not the one in {SUM}")));
    }
    let text = fs::read(&path).map_err(unusable(&path))?;
    let format: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| refused(&path, error.to_string()))?;
    if format["format"] != FORMAT {
        return Err(refused(
            &path,
            format!("its format is {}, and this program reads {FORMAT}", format["format"]),
        ));
    }
    serde_json::from_slice(&text).map_err(|error| refused(&path, error.to_string()))
}

/// Looks at every file of an export: all are there, as they were written, and no other. Blocks.
pub(super) fn verify(directory: &Path, manifest: &Manifest) -> Result<(), Error> {
    let files: Vec<&ManifestFile> = manifest.tables.iter().flat_map(|table| &table.files).collect();
    let known: BTreeSet<&str> =
        files.iter().map(|file| file.name.as_str()).chain([MANIFEST, SUM, STATUS]).collect();
    for entry in fs::read_dir(directory).map_err(unusable(directory))? {
        let entry = entry.map_err(unusable(directory))?;
        if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            return Err(refused(&entry.path(), "it does not belong to the export"));
        }
    }
    for file in files {
        let path = directory.join(&file.name);
        // A name leads nowhere else.
        if Path::new(&file.name).components().count() != 1 || !path.is_file() {
            return Err(refused(&path, "it is missing"));
        }
        agree(&path, file, &pack::sum(&path).map_err(unusable(&path))?)?;
    }
    Ok(())
}

/// Whether a file is what the manifest says.
pub(super) fn agree(path: &Path, file: &ManifestFile, found: &Sum) -> Result<(), Error> {
    if found.bytes != file.bytes {
        let reason = format!("it is damaged: it has {} bytes instead of {}", found.bytes, file.bytes);
        return Err(refused(path, reason));
    }
    if found.sha256 != file.sha256 {
        return Err(refused(path, "it is damaged: its digest is not the one in the manifest"));
    }
    Ok(())
}
