//! Directories that go with the test.

use std::path::Path;

use crate::say;

/// A new directory with a short path, so that a unix socket in it stays below the limit of 107 bytes. It is removed
/// when this is dropped, unless `IRONGATE_TEST_KEEP` is set; then its path is printed.
#[derive(Debug)]
pub struct TempDir {
    dir: Option<tempfile::TempDir>,
}

impl TempDir {
    /// Makes a directory that every user may enter: a server that may not run as root has its files in it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let base = std::env::var_os("IRONGATE_TEST_TMP").unwrap_or_else(|| "/tmp".into());
        Self::new_in(base.as_ref())
    }

    /// Makes one in memory if there is plenty of it, because a new server is a thousand small files.
    pub(crate) fn in_memory() -> Self {
        if std::env::var_os("IRONGATE_TEST_TMP").is_none() && memory_is_plenty() {
            Self::new_in(Path::new(SHM))
        } else {
            Self::new()
        }
    }

    fn new_in(base: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ig-")
            .rand_bytes(6)
            .tempdir_in(base)
            .unwrap_or_else(|error| panic!("cannot make a directory in {base:?}: {error}"));
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open)
            .unwrap_or_else(|error| panic!("cannot open {:?} to other users: {error}", dir.path()));
        TempDir { dir: Some(dir) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("the directory is there until drop").path()
    }
}

impl Default for TempDir {
    fn default() -> Self {
        TempDir::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("IRONGATE_TEST_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            say(&format!("kept {}", dir.keep().display()));
        }
    }
}

const SHM: &str = "/dev/shm";

fn memory_is_plenty() -> bool {
    const PLENTY: u64 = 6 << 30;
    let in_shm = rustix::fs::statvfs(SHM).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .unwrap_or(0);
    in_shm > PLENTY && available * 1024 > PLENTY
}
