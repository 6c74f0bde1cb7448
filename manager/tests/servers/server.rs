//! A throw-away PostgreSQL server: in a temporary directory, on a unix socket only, gone when the test process is gone,
//! however it ends. Everybody gets in freely.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use irongate_postgres::{Endpoint, Session};

/// A running server. Dropped, it is stopped and removed; so it is when this process dies.
pub(crate) struct Server {
    dir: PathBuf,
    bin: PathBuf,
    /// Waits for the end of its standard input, stops the server and removes the directory.
    guardian: Child,
}

/// `IRONGATE_TEST_MAJORS`, else the oldest and the newest that are installed.
pub(crate) fn majors() -> Vec<u32> {
    let majors: Vec<u32> = match std::env::var("IRONGATE_TEST_MAJORS") {
        Ok(list) => list.split(',').map(|major| major.trim().parse().unwrap()).collect(),
        Err(_) => {
            let found: Vec<u32> = (15..=18).filter(|major| bin_of(*major).is_some()).collect();
            let mut ends: Vec<u32> = found.first().into_iter().chain(found.last()).copied().collect();
            ends.dedup();
            ends
        }
    };
    assert!(!majors.is_empty(), "there is no PostgreSQL on this machine: run scripts/servers");
    majors
}

fn bin_of(major: u32) -> Option<PathBuf> {
    let given = std::env::var_os(format!("IRONGATE_PG{major}")).map(PathBuf::from);
    let cache = std::env::var_os("IRONGATE_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/irongate")))
        .map(|cache| cache.join(format!("postgres/{major}/bin")));
    let usual = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/var/cache/irongate/postgres/{major}/bin"),
    ];
    given.into_iter().chain(usual.map(PathBuf::from)).chain(cache).find(|dir| dir.join("postgres").is_file())
}

/// A server refuses to run as root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("postgres:")).expect("a user \"postgres\"");
    let mut ids = user.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

fn demoted(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C.UTF-8");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

impl Server {
    /// Makes and starts a server with some settings of its own.
    pub(crate) fn start(major: u32, settings: &str) -> Self {
        let bin = bin_of(major).unwrap_or_else(|| panic!("there is no PostgreSQL {major} on this machine"));
        let base =
            if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("irongate-manager-").tempdir_in(base).unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let guardian = demoted(Path::new("/bin/sh"))
            .args(["-c", "trap '' INT TERM HUP; cat >/dev/null; \"$0\" -D \"$1/data\" -m immediate stop; rm -rf \"$1\""])
            .args([bin.join("pg_ctl"), dir.clone()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { dir, bin, guardian };
        let made = demoted(&server.bin.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(server.dir.join("data"))
            .status();
        assert!(made.unwrap().success(), "initdb");
        let path = server.dir.join("data/postgresql.conf");
        let before = fs::read_to_string(&path).unwrap();
        let own = format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nwal_level = logical\nfsync = off\n\
             dynamic_shared_memory_type = mmap\nshared_buffers = 16MB\nautovacuum = off\n{settings}\n",
            server.dir.display()
        );
        fs::write(path, before + &own).unwrap();
        server.up();
        server
    }

    fn pg_ctl(&self) -> Command {
        let mut command = demoted(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.dir.join("data"));
        command
    }

    pub(crate) fn up(&self) {
        let log = self.dir.join("log");
        let started = self.pg_ctl().args(["-w", "-t", "60", "-l"]).arg(&log).arg("start").status();
        assert!(started.unwrap().success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    pub(crate) fn down(&self) {
        assert!(self.pg_ctl().args(["-m", "fast", "-w", "stop"]).status().unwrap().success());
    }

    pub(crate) fn endpoint(&self, role: &str) -> Endpoint {
        let host = self.dir.to_str().unwrap().replace('/', "%2F");
        Endpoint::parse(&format!("postgresql://{role}@{host}:5432/postgres")).unwrap()
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.endpoint("postgres"), "manager's tests").await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}
