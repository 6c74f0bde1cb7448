//! Which PostgreSQL servers there are on this machine, and who may run them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::failure::End;

/// The major versions that Irongate is tested with.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// The programs of one version.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    /// The directory that holds `initdb` and `postgres`.
    pub(super) directory: PathBuf,
    /// As the server prints it, such as `15.18`.
    pub(super) version: String,
    major: u32,
}

impl Binaries {
    /// The directory that `IRONGATE_PG_BIN` names, or else the newest version in the places where packages and
    /// `scripts/servers` put them.
    pub(super) fn find() -> anyhow::Result<Self> {
        if let Some(given) = std::env::var_os("IRONGATE_PG_BIN").filter(|given| !given.is_empty()) {
            let directory = PathBuf::from(given);
            return Self::at(&directory).with_context(|| {
                format!("IRONGATE_PG_BIN is \"{}\", which holds no server that runs", directory.display())
            });
        }
        let found = places().into_iter().filter_map(|directory| Self::at(&directory).ok());
        found.filter(|binaries| MAJORS.contains(&binaries.major)).max_by_key(|binaries| binaries.major).ok_or_else(
            || {
                End::usage(
                    format!("there is no PostgreSQL server {} to {} on this machine", MAJORS.start(), MAJORS.end()),
                    "scripts/demo finds or installs one; or install the package postgresql; or set IRONGATE_PG_BIN \
                     to a directory with initdb and postgres",
                )
            },
        )
    }

    fn at(directory: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(directory.join("initdb").is_file(), "there is no initdb");
        // One that does not start (a library is missing, another machine's cache) is no server.
        let output = Command::new(directory.join("postgres")).arg("--version").output()?;
        anyhow::ensure!(output.status.success(), "postgres --version failed ({})", output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-1)"
        let version = text.split(") ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let version = version.context("postgres --version says something unknown")?.to_owned();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        let major = digits.parse().context("postgres --version says something unknown")?;
        Ok(Self { directory: directory.to_owned(), version, major })
    }
}

fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = MAJORS
        .filter_map(|major| std::env::var_os(format!("IRONGATE_PG{major}")))
        .map(PathBuf::from)
        .collect();
    let cache = |name: &str, below: &str| std::env::var_os(name).map(|dir| Path::new(&dir).join(below));
    let mut roots = vec![PathBuf::from("/usr/lib/postgresql"), "/usr/local/lib/postgresql".into()];
    roots.extend(cache("IRONGATE_CACHE", "postgres"));
    roots.extend(cache("XDG_CACHE_HOME", "irongate/postgres"));
    roots.extend(cache("HOME", ".cache/irongate/postgres"));
    roots.push("/var/cache/irongate/postgres".into());
    places.extend(roots.iter().flat_map(|root| MAJORS.map(|major| root.join(format!("{major}/bin")))));
    places.extend(MAJORS.map(|major| PathBuf::from(format!("/usr/pgsql-{major}/bin"))));
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places.push("/usr/local/pgsql/bin".into());
    places
}

/// The user that runs the servers when this process is root, which a server refuses to be.
pub(super) fn server_user() -> Option<(u32, u32)> {
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
