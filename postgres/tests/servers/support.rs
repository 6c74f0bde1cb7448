//! Throw-away servers.

pub(crate) mod certificates;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use irongate_postgres::{Endpoint, Session};
use tempfile::TempDir;

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The installed major versions, lowest first.
pub(crate) fn majors() -> Vec<u32> {
    let wanted = std::env::var("IRONGATE_TEST_MAJORS").ok();
    let found: Vec<u32> = (15..=18)
        .filter(|major| match &wanted {
            Some(list) => list.split(',').any(|one| one.trim() == major.to_string()),
            None => binaries(*major).is_some(),
        })
        .collect();
    assert!(!found.is_empty(), "there is no PostgreSQL server on this machine");
    found
}

/// A version for tests that are about the client's side.
pub(crate) fn any_major() -> u32 {
    majors()[0]
}

fn binaries(major: u32) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    [
        variable(&format!("IRONGATE_PG{major}")),
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("{}/postgres/{major}/bin", variable("IRONGATE_CACHE")),
        format!("{}/irongate/postgres/{major}/bin", variable("XDG_CACHE_HOME")),
        format!("{}/.cache/irongate/postgres/{major}/bin", variable("HOME")),
        format!("/var/cache/irongate/postgres/{major}/bin"),
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|dir| dir.join("postgres").is_file())
}

/// The user for servers when this process is root, which they refuse to run as.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user \"postgres\"");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn as_server(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

pub(crate) fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory that the server's user can use.
pub(crate) fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("irongate-postgres-").tempdir().unwrap();
    give_to_server(dir.path());
    dir
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A data directory to copy: `initdb` is slow.
fn template(major: u32) -> PathBuf {
    static TEMPLATES: Mutex<Vec<(u32, TempDir)>> = Mutex::new(Vec::new());
    let mut templates = TEMPLATES.lock().unwrap();
    if !templates.iter().any(|(of, _)| *of == major) {
        let dir = directory();
        let mut initdb = as_server(binaries(major).unwrap().join("initdb"));
        initdb.args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        initdb.arg(dir.path().join("data"));
        run(initdb);
        // Statics are not dropped: somebody else must remove it.
        static CLEANERS: OnceLock<Mutex<Vec<Child>>> = OnceLock::new();
        CLEANERS.get_or_init(Mutex::default).lock().unwrap().push(watchdog(dir.path()));
        templates.push((major, dir));
    }
    templates.iter().find(|(of, _)| *of == major).unwrap().1.path().join("data")
}

/// Ends the server of a directory and removes the directory once its standard input is closed, which happens by
/// itself when this process ends, however it does.
fn watchdog(dir: &Path) -> Child {
    let script = r#"cat >/dev/null
        test -f "$1/data/postmaster.pid" && kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")"
        for i in 1 2 3 4 5 6 7 8 9 10; do test -f "$1/data/postmaster.pid" || break; sleep 0.1; done
        rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("watchdog").arg(dir).stdin(Stdio::piped()).stdout(Stdio::null());
    // Ctrl-C reaches the whole group; this must outlive it.
    command.process_group(0).spawn().unwrap()
}

/// A server with its data, socket and port.
pub(crate) struct Server {
    pub(crate) major: u32,
    pub(crate) port: u16,
    process: Option<Child>,
    watchdog: Child,
    dir: TempDir,
}

/// How it is stopped.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    Fast,
    Immediate,
}

impl Server {
    /// Starts a server with settings and the lines of its pg_hba.conf, before which the superuser has free access by
    /// the socket.
    pub(crate) async fn start(major: u32, settings: &[(&str, &str)], access: &str) -> Self {
        let dir = directory();
        let data = dir.path().join("data");
        let mut copy = as_server("cp");
        copy.arg("-a").arg(template(major)).arg(&data);
        run(copy);
        let server = Self { major, port: free_port(), process: None, watchdog: watchdog(dir.path()), dir };
        server.boot(settings, access).await
    }

    /// A physical copy, as a standby that streams from this server.
    pub(crate) async fn standby(&self) -> Self {
        let dir = directory();
        let data = dir.path().join("data");
        let session = self.admin().await;
        session.query("SELECT pg_catalog.pg_backup_start('standby', true)", &[]).await.unwrap();
        let mut copy = as_server("cp");
        copy.arg("-a").arg(self.data()).arg(&data);
        run(copy);
        let label =
            session.query_one("SELECT labelfile FROM pg_catalog.pg_backup_stop(false)", &[]).await.unwrap();
        for (name, content) in [("backup_label", label.get(0)), ("standby.signal", "")] {
            std::fs::write(data.join(name), content).unwrap();
            give_to_server(&data.join(name));
        }
        std::fs::remove_file(data.join("postmaster.pid")).unwrap();
        let primary = format!("host={} port={} user=postgres", self.dir.path().display(), self.port);
        let server =
            Self { major: self.major, port: free_port(), process: None, watchdog: watchdog(dir.path()), dir };
        server.boot(&[("primary_conninfo", &primary)], "host all all 127.0.0.1/32 trust").await
    }

    async fn boot(mut self, settings: &[(&str, &str)], access: &str) -> Self {
        let mut conf =
            std::fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf")).unwrap();
        let socket = self.dir.path().to_string_lossy().into_owned();
        let port = self.port.to_string();
        let own = [
            ("port", port.as_str()),
            ("unix_socket_directories", &socket),
            ("listen_addresses", "127.0.0.1"),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("wal_level", "logical"),
            ("max_connections", "50"),
        ];
        for (name, value) in own.iter().chain(settings) {
            writeln!(conf, "{name} = '{}'", value.replace('\'', "''")).unwrap();
        }
        self.access(access);
        self.launch().await;
        self
    }

    /// Rewrites pg_hba.conf.
    pub(crate) fn access(&self, lines: &str) {
        let text = format!("local all postgres trust\nlocal replication postgres trust\n{lines}\n");
        std::fs::write(self.data().join("pg_hba.conf"), text).unwrap();
    }

    /// Starts it (again).
    pub(crate) async fn launch(&mut self) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut postgres = as_server(binaries(self.major).unwrap().join("postgres"));
        postgres.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
        self.process = Some(postgres.spawn().unwrap());
        let since = Instant::now();
        while let Err(error) = Session::connect(&self.socket("postgres", "postgres"), "ready?").await {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && since.elapsed() < PATIENCE, "{error}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(&mut self, mode: Stop) {
        self.signal(mode);
        self.wait().await;
    }

    /// Begins to stop it.
    pub(crate) fn signal(&mut self, mode: Stop) {
        let pid = rustix::process::Pid::from_child(self.process.as_ref().unwrap());
        let signal = match mode {
            Stop::Fast => rustix::process::Signal::INT,
            Stop::Immediate => rustix::process::Signal::QUIT,
        };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) {
        let mut process = self.process.take().unwrap();
        let since = Instant::now();
        while process.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < PATIENCE, "the server does not stop\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// An address by TCP.
    pub(crate) fn tcp(&self, role: &str, database: &str, parameters: &str) -> Endpoint {
        self.host("127.0.0.1", role, database, parameters)
    }

    /// An address by TCP and a name.
    pub(crate) fn host(&self, host: &str, role: &str, database: &str, parameters: &str) -> Endpoint {
        Endpoint::parse(&format!("postgresql://{role}@{host}:{}/{database}?{parameters}", self.port)).unwrap()
    }

    /// An address by the socket.
    pub(crate) fn socket(&self, role: &str, database: &str) -> Endpoint {
        let dir = self.dir.path().display();
        Endpoint::parse(&format!("host='{dir}' port={} user={role} dbname={database}", self.port)).unwrap()
    }

    /// A superuser's session.
    pub(crate) async fn admin(&self) -> Session {
        Session::connect(&self.socket("postgres", "postgres"), "admin").await.unwrap()
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, statements: &str) {
        let session = self.admin().await;
        session.batch_execute("SET search_path = public").await.unwrap();
        if let Err(error) = session.batch_execute(statements).await {
            panic!("{}: {statements}", session.explain(error).await);
        }
    }

    /// One value as text.
    pub(crate) async fn ask(&self, question: &str) -> String {
        let messages = self.admin().await.simple_query(question).await.unwrap();
        messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or_default().to_owned())
                }
                _ => None,
            })
            .unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watchdog does the work: the same way whether a test ends well or not.
        drop(self.watchdog.stdin.take());
        if let Some(process) = &mut self.process {
            let _ = process.wait();
        }
        let _ = self.watchdog.wait();
    }
}

/// A file that only its owner can read.
pub(crate) fn private_file(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    set_mode(&path, 0o600);
    path
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
