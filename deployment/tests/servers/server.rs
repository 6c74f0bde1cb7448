//! Throw-away PostgreSQL servers for the tests of this crate: in a temporary directory, on a unix socket only, gone when
//! the test process is gone, however it ends. The superuser gets in freely, everybody else with a password.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A running server. Dropped, it is stopped and removed; so it is when this process dies.
pub(crate) struct Server {
    pub(crate) major: u32,
    dir: PathBuf,
    bin: PathBuf,
    /// Waits for the end of its standard input, stops the server and removes the directory.
    guardian: Child,
}

/// The servers that the tests of this process share, by major version: one to be captured, one to be written.
pub(crate) fn pairs() -> &'static [(Server, Server)] {
    static PAIRS: OnceLock<Vec<(Server, Server)>> = OnceLock::new();
    let pair = |major| (Server::start(major, ""), Server::start(major, ""));
    PAIRS.get_or_init(|| majors().into_iter().map(pair).collect())
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

/// The versions for a test that lasts long: all in the full tier, otherwise one, by the name of the test.
pub(crate) fn majors_in_turn() -> Vec<u32> {
    let mut majors = majors();
    let thread = std::thread::current();
    let name = thread.name().filter(|name| name.contains("::"));
    if let Some(name) = name.filter(|_| std::env::var("IRONGATE_TEST_TIER").as_deref() != Ok("full")) {
        let turn = name.bytes().map(usize::from).sum::<usize>() % majors.len();
        majors = vec![majors[turn]];
    }
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
fn demoted(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).env("LC_ALL", "C.UTF-8");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("postgres:")).expect("a user \"postgres\"");
    let mut ids = user.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((ids.next().unwrap(), ids.next().unwrap()))
}

impl Server {
    /// Makes and starts a server with some settings of its own.
    pub(crate) fn start(major: u32, settings: &str) -> Self {
        Self::start_with(major, settings, &["--encoding=UTF8", "--locale=C.UTF-8"])
    }

    /// The same, with arguments for initdb.
    pub(crate) fn start_with(major: u32, settings: &str, initdb: &[&str]) -> Self {
        let bin = bin_of(major).unwrap_or_else(|| panic!("there is no PostgreSQL {major} on this machine"));
        let base =
            if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("irongate-deployment-").tempdir_in(base).unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let mut guardian = Command::new("/bin/sh");
        guardian
            .args(["-c", "trap '' INT TERM HUP; cat >/dev/null; \"$0\" -D \"$1/data\" -m immediate stop; rm -rf \"$1\""])
            .args([bin.join("pg_ctl"), dir.clone()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        if let Some((uid, gid)) = server_user() {
            guardian.uid(uid).gid(gid);
        }
        let guardian = guardian.spawn().unwrap();
        let server = Self { major, dir, bin, guardian };
        let made = demoted(&server.bin.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"])
            .arg(server.dir.join("data"))
            .args(initdb)
            .status();
        assert!(made.unwrap().success(), "initdb");
        let settings = format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nwal_level = logical\nmax_wal_senders = 50\n\
             max_replication_slots = 100\nmax_connections = 200\nmax_prepared_transactions = 10\ntrack_commit_timestamp = on\nfsync = off\n\
             dynamic_shared_memory_type = mmap\n\
             log_statement = all\nshared_buffers = 16MB\nlc_messages = 'C'\n{settings}\n",
            server.dir.display()
        );
        server.append("postgresql.conf", &settings);
        if major >= 18 {
            server.append("postgresql.conf", "max_active_replication_origins = 100\n");
        }
        let hba = "local all postgres trust\nlocal all all scram-sha-256\n";
        fs::write(server.dir.join("data/pg_hba.conf"), hba).unwrap();
        server.up();
        server
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.dir.join("data").join(file);
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, old + text).unwrap();
    }

    fn up(&self) {
        let log = self.dir.join("log");
        let started = self.pg_ctl().args(["-w", "-t", "60", "-l"]).arg(&log).arg("start").status();
        assert!(started.unwrap().success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Changes a setting, with a restart.
    pub(crate) fn set(&self, setting: &str) {
        self.append("postgresql.conf", &format!("\n{setting}\n"));
        assert!(self.pg_ctl().args(["-m", "fast", "-w", "stop"]).status().unwrap().success());
        self.up();
    }

    /// Everything that the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn pg_ctl(&self) -> Command {
        let mut command = demoted(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.dir.join("data"));
        command
    }

    /// An address, without a role.
    pub(crate) fn uri(&self, database: &str) -> String {
        format!("host={} dbname={database}", self.dir.display())
    }

    /// A superuser's session.
    pub(crate) async fn admin(&self, database: &str) -> Client {
        let mut config = Config::new();
        config.host_path(&self.dir).user("postgres").dbname(database).application_name("test");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs statements as the superuser.
    pub(crate) async fn batch(&self, database: &str, sql: &str) {
        let result = self.admin(database).await.batch_execute(sql).await;
        result.unwrap_or_else(|error| {
            panic!("{:?}: {sql}", error.as_db_error().map(|e| e.message().to_owned()))
        });
    }

    /// Runs a script as psql does, statement by statement, as the superuser; it ends with the first error.
    pub(crate) async fn psql(&self, database: &str, script: &str) {
        let is_reload = script.contains("pg_reload_conf");
        let loaded = "SELECT pg_conf_load_time()";
        let before = if is_reload { self.ask("postgres", loaded).await } else { String::new() };
        let mut command = Command::new(self.psql_program());
        command
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(&self.dir)
            .args(["-d", database]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        let done = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        assert!(done.status.success(), "{}\n{script}", String::from_utf8_lossy(&done.stderr));
        while is_reload && self.ask("postgres", loaded).await == before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Not every installation of a server brings a client; one of another version does as well.
    fn psql_program(&self) -> PathBuf {
        let beside = (15..=18).filter_map(bin_of).map(|bin| bin.join("psql"));
        let own = self.bin.join("psql");
        [own].into_iter().chain(beside).find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("psql"))
    }

    /// All values of a query as the superuser, as text: columns by "|", rows by lines.
    pub(crate) async fn ask(&self, database: &str, sql: &str) -> String {
        let messages = self.admin(database).await.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        let mut lines = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let values: Vec<_> = (0..row.len()).map(|column| row.get(column).unwrap_or("null")).collect();
                lines.push(values.join("|"));
            }
        }
        lines.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}
