//! Moving a damaged store out of the way, where somebody can still look at it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// Damaged stores that are kept; older ones are removed.
const KEPT: usize = 3;

/// Renames `directory` to `<directory>.corrupt-<unix seconds>[-n]` and removes all but the newest few of its kind.
/// The caller holds the store's lock, so nobody else chooses a name at the same time.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Behind the newest there is, whatever the clock has done since: the names tell the order. It also makes the name
    // a new one; a rename would silently replace an empty directory.
    let (seconds, n) = match damaged(directory).first() {
        Some(((seconds, n), _)) if *seconds >= now => (*seconds, n.saturating_add(1)),
        _ => (now, 0),
    };
    let number = if n == 0 { String::new() } else { format!("-{n}") };
    let target = sibling(directory, &format!(".corrupt-{seconds}{number}"));
    fs::rename(directory, &target).map_err(|e| Error::file("set aside the damaged store", directory, e))?;
    if let Err(error) = File::open(parent_of(directory)).and_then(|parent| parent.sync_all()) {
        tracing::debug!(%error, "could not sync the directory of the store");
    }
    remove_old(directory);
    Ok(target)
}

/// `directory` with `suffix` added to its last part.
pub(super) fn sibling(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(directory.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes what is more than [`KEPT`]. A failure costs disk space only.
fn remove_old(directory: &Path) {
    for (_, path) in damaged(directory).into_iter().skip(KEPT) {
        let is_directory = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::debug!(%error, path = %path.display(), "could not remove an old damaged store");
        }
    }
}

/// The damaged stores that lie beside `directory`, the newest first.
fn damaged(directory: &Path) -> Vec<((u64, u32), PathBuf)> {
    let Some(name) = directory.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let prefix = format!("{name}.corrupt-");
    let Ok(entries) = fs::read_dir(parent_of(directory)) else { return Vec::new() };
    let mut found: Vec<((u64, u32), PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let file_name = entry.file_name();
            Some((age_key(file_name.to_str()?.strip_prefix(&prefix)?)?, entry.path()))
        })
        .collect();
    found.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
    found
}

fn parent_of(directory: &Path) -> &Path {
    directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Seconds and number of a suffix `<seconds>[-n]`; of nothing else.
fn age_key(suffix: &str) -> Option<(u64, u32)> {
    let (seconds, n) = match suffix.split_once('-') {
        Some((seconds, n)) => (seconds, n.parse().ok()?),
        None => (suffix, 0),
    };
    Some((seconds.parse().ok()?, n))
}
