//! Which PostgreSQL servers there are on this machine, and who may run them.

use std::path::{Path, PathBuf};

use crate::tier::Tier;

/// The programs of one major version.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The major version.
    pub major: u32,
    /// The directory that holds `initdb`, `pg_ctl` and `postgres`, and with the distribution's packages also client
    /// programs.
    pub dir: PathBuf,
}

impl Binaries {
    /// Finds the programs of a major version: `IRONGATE_PG15` (16, 17, 18) or the places where `scripts/servers` looks.
    ///
    /// # Panics
    /// When there are none; the message says what to run.
    pub fn of(major: u32) -> Self {
        match Self::find(major) {
            Some(dir) => Binaries { major, dir },
            None => panic!("there is no PostgreSQL {major} on this machine: run scripts/servers"),
        }
    }

    /// The path of one of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn find(major: u32) -> Option<PathBuf> {
        let mut places = Vec::new();
        if let Some(given) = std::env::var_os(format!("IRONGATE_PG{major}")) {
            places.push(PathBuf::from(given));
        }
        places.push(format!("/usr/lib/postgresql/{major}/bin").into());
        places.push(format!("/usr/pgsql-{major}/bin").into());
        let cached = format!("postgres/{major}/bin");
        if let Some(cache) = std::env::var_os("IRONGATE_CACHE") {
            places.push(Path::new(&cache).join(&cached));
        }
        if let Some(cache) = std::env::var_os("XDG_CACHE_HOME") {
            places.push(Path::new(&cache).join("irongate").join(&cached));
        }
        if let Some(home) = std::env::var_os("HOME") {
            places.push(Path::new(&home).join(".cache/irongate").join(&cached));
        }
        places.push(Path::new("/var/cache/irongate").join(&cached));
        places.into_iter().find(|dir| dir.join("postgres").is_file() && dir.join("initdb").is_file())
    }
}

/// The major versions under test.
pub(crate) fn majors() -> Vec<u32> {
    let list = std::env::var("IRONGATE_TEST_MAJORS").unwrap_or_else(|_| "15,18".to_owned());
    let majors: Vec<u32> = list
        .split(',')
        .map(|major| {
            major.trim().parse().unwrap_or_else(|_| {
                panic!("IRONGATE_TEST_MAJORS is \"{list}\", which is no list like \"15,18\"")
            })
        })
        .collect();
    assert!(!majors.is_empty(), "IRONGATE_TEST_MAJORS names no version");
    majors
}

/// The versions that a test takes which lasts long: all in the full tier; in the others one, by the name of the test, so
/// that the tests of a run share the versions among them. A thread without a test's name takes all.
pub fn in_turn<T>(mut all: Vec<T>) -> Vec<T> {
    let thread = std::thread::current();
    let name = thread.name().filter(|name| name.contains("::"));
    if let Some(name) = name.filter(|_| Tier::current() != Tier::Full && !all.is_empty()) {
        let turn = crc32c::crc32c(name.as_bytes()) as usize % all.len();
        all = vec![all.swap_remove(turn)];
    }
    all
}

/// The user that runs servers when this process is root, which a server refuses to be.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).unwrap_or((65534, 65534)))
}
