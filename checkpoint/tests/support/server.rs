//! Throw-away PostgreSQL servers for the tests of this crate: in a temporary directory, on a unix socket only, gone when
//! the test process is gone, however it ends.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use irongate_checkpoint::{checkpoint_setup, origin_grants};
use tokio_postgres::{Client, Config, NoTls};

/// The roles' name in the databases of tests; never a superuser.
pub(crate) const ROLE: &str = "Applier \"1\"";

/// A running server. Dropped, it is stopped and removed; so it is when this process dies.
pub(crate) struct Server {
    pub(crate) major: u32,
    dir: PathBuf,
    bin: PathBuf,
    /// Waits for the end of its standard input, stops the server and removes the directory.
    guardian: Child,
}

/// One server for each major version under test, shared by all tests of this process.
pub(crate) fn servers() -> &'static [Server] {
    static SERVERS: OnceLock<Vec<Server>> = OnceLock::new();
    SERVERS.get_or_init(|| majors().into_iter().map(|major| Server::start(major, "")).collect())
}

/// `IRONGATE_TEST_MAJORS`, else every version that is installed.
pub(crate) fn majors() -> Vec<u32> {
    let mut majors: Vec<u32> = match std::env::var("IRONGATE_TEST_MAJORS") {
        Ok(list) => list.split(',').map(|major| major.trim().parse().unwrap()).collect(),
        Err(_) => (15..=18).filter(|major| bin_of(*major).is_some()).collect(),
    };
    majors.sort_unstable();
    assert!(!majors.is_empty(), "there is no PostgreSQL on this machine");
    println!("PostgreSQL {majors:?}");
    majors
}

/// `IRONGATE_PG15` (16, 17, 18), else the places where distributions and `scripts/servers` put them.
fn bin_of(major: u32) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os(format!("IRONGATE_PG{major}")).map(PathBuf::from).into_iter().collect();
    places.push(format!("/usr/lib/postgresql/{major}/bin").into());
    places.push(format!("/usr/pgsql-{major}/bin").into());
    for (variable, below) in
        [("IRONGATE_CACHE", ""), ("XDG_CACHE_HOME", "irongate"), ("HOME", ".cache/irongate")]
    {
        if let Some(cache) = std::env::var_os(variable) {
            places.push(Path::new(&cache).join(below).join(format!("postgres/{major}/bin")));
        }
    }
    places.push(format!("/var/cache/irongate/postgres/{major}/bin").into());
    places.into_iter().find(|dir| dir.join("postgres").is_file())
}

/// The setting that limits origins in use.
pub(crate) fn origins_limit(major: u32) -> &'static str {
    if major >= 18 { "max_active_replication_origins" } else { "max_replication_slots" }
}

/// A server refuses to run as root.
fn demoted(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
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
        let bin = bin_of(major).unwrap_or_else(|| panic!("there is no PostgreSQL {major} on this machine"));
        let dir = tempfile::Builder::new().prefix("irongate-checkpoint-").tempdir().unwrap().keep();
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
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(server.dir.join("data"))
            .status();
        assert!(made.unwrap().success(), "initdb");
        let settings = format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\ntrack_commit_timestamp = on\n\
             log_min_messages = fatal\nfsync = off\nshared_buffers = 16MB\n{} = 50\n{settings}\n",
            server.dir.display(),
            origins_limit(major)
        );
        let path = server.dir.join("data/postgresql.conf");
        let conf = fs::read_to_string(&path).unwrap() + &settings;
        fs::write(path, conf).unwrap();
        server.up();
        server
    }

    /// Starts the server that was made or stopped.
    pub(crate) fn up(&self) {
        let log = self.dir.join("log");
        let started = self.pg_ctl().args(["-w", "-t", "60", "-l"]).arg(&log).arg("start").status();
        assert!(started.unwrap().success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Takes the server away without letting it write anything more.
    pub(crate) fn crash(&self) {
        assert!(self.pg_ctl().args(["-m", "immediate", "stop"]).status().unwrap().success());
    }

    fn pg_ctl(&self) -> Command {
        let mut command = demoted(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.dir.join("data"));
        command
    }

    /// A session.
    pub(crate) async fn connect(&self, user: &str, database: &str, application: &str) -> Client {
        let mut config = Config::new();
        config.host_path(&self.dir).user(user).dbname(database).application_name(application);
        config.connect_timeout(Duration::from_secs(30));
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A database of its own, set up for [`ROLE`] by the very statements that set-up prints, each run twice.
    pub(crate) async fn database(&self) -> Database<'_> {
        // GRANT ... ON PARAMETER touches one row of the cluster, and two at a time fail.
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let database = self.bare_database().await;
        let admin = database.admin().await;
        let _turn = ONE_AT_A_TIME.lock().await;
        for _ in 0..2 {
            for statement in checkpoint_setup(ROLE).iter().chain(&origin_grants(ROLE)) {
                admin.batch_execute(statement).await.unwrap_or_else(|e| panic!("{statement}: {e:?}"));
            }
        }
        database
    }

    /// The same without any set-up.
    pub(crate) async fn bare_database(&self) -> Database<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("d{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = self.connect("postgres", "postgres", "admin").await;
        // Others make the role at the same time; an error because it is there is no failure.
        let role = format!("CREATE ROLE \"{}\" LOGIN", ROLE.replace('"', "\"\""));
        let _ = admin.batch_execute(&role).await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        Database { server: self, name }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// A test's own database.
pub(crate) struct Database<'a> {
    pub(crate) server: &'a Server,
    pub(crate) name: String,
}

impl Database<'_> {
    /// A superuser's session.
    pub(crate) async fn admin(&self) -> Client {
        self.server.connect("postgres", &self.name, "admin").await
    }

    /// A session of [`ROLE`].
    pub(crate) async fn session(&self, application: &str) -> Client {
        self.server.connect(ROLE, &self.name, application).await
    }

    /// A flow's name that no other test uses: origins belong to the whole cluster.
    pub(crate) fn flow(&self) -> String {
        format!("flow_of_{}", self.name)
    }

    /// A table `t(n bigint)` that [`ROLE`] may write to.
    pub(crate) async fn table(&self) {
        let sql = format!("CREATE TABLE t (n bigint); GRANT ALL ON t TO \"{}\"", ROLE.replace('"', "\"\""));
        self.admin().await.batch_execute(&sql).await.unwrap();
    }
}
