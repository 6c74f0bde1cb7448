//! A throw-away PostgreSQL server.

mod standby;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::binaries::{Binaries, in_turn, majors, server_user};
use crate::network::Site;
use crate::settings::Settings;
use crate::tempdir::TempDir;
use crate::template::{as_server, give_to_server, plain_environment};
use crate::tls::Tls;
use crate::watchdog::Watchdog;
use crate::{say, tail, template};
pub use standby::STANDBY_SLOT;

/// How long a server may take to start or stop: crash recovery on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a server is stopped; see `pg_ctl stop --mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Waits for clients to leave.
    Smart,
    /// Ends sessions, lets WAL senders send what is left, writes a checkpoint.
    Fast,
    /// Aborts without a checkpoint: the next start recovers.
    Immediate,
}

/// A PostgreSQL server of its own: data, port, unix socket. Dropped, it ends and its files go.
#[derive(Debug)]
pub struct Server {
    major: u32,
    port: u16,
    host: String,
    site: Option<Site>,
    binaries: Binaries,
    tls: Option<Tls>,
    process: Option<Child>,
    // Dropped before `dir`, by order of declaration: it would remove a directory that a successor may have by then.
    _watchdog: Watchdog,
    dir: TempDir,
}

impl Server {
    /// The major versions under test: `IRONGATE_TEST_MAJORS` ("15,18" when unset).
    pub fn majors() -> Vec<u32> {
        majors()
    }

    /// The versions for a test that lasts long: all in the full tier, otherwise one, which depends on the test's name.
    pub fn majors_in_turn() -> Vec<u32> {
        in_turn(majors())
    }

    /// Pairs (source, target) of the versions under test: each with itself, and lowest and highest both ways.
    pub fn pairs() -> Vec<(u32, u32)> {
        let majors = majors();
        let mut pairs: Vec<_> = majors.iter().map(|&major| (major, major)).collect();
        if let (Some(&low), Some(&high)) = (majors.iter().min(), majors.iter().max())
            && low != high
        {
            pairs.extend([(low, high), (high, low)]);
        }
        pairs
    }

    /// Starts a new server and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not start; the message holds the end of its log.
    pub async fn start(major: u32, settings: &Settings) -> Self {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || Self::start_blocking(major, &settings))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Starts two servers at once: source and target.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub async fn start_two((source, target): (u32, u32), settings: &Settings) -> (Self, Self) {
        tokio::join!(Self::start(source, settings), Self::start(target, settings))
    }

    fn start_blocking(major: u32, settings: &Settings) -> Self {
        let binaries = Binaries::of(major);
        let dir = if settings.on_disk { TempDir::new() } else { TempDir::in_memory() };
        give_to_server(dir.path());
        template::make(&binaries, &dir.path().join("data"));
        let mut own = vec![("unix_socket_directories", dir.path().to_string_lossy().into_owned())];
        let tls = settings.tls.then(|| Tls::make(&dir.path().join("tls")));
        if let Some(tls) = &tls {
            own.push(("ssl", "on".to_owned()));
            own.push(("ssl_cert_file", tls.server_file("server.crt")));
            own.push(("ssl_key_file", tls.server_file("server.key")));
            own.push(("ssl_ca_file", tls.server_file("ca.crt")));
        }
        let watchdog = Watchdog::over_server(dir.path());
        let (host, site) = (settings.host(), settings.site.clone());
        let mut server =
            Server { major, port: 0, host, site, binaries, tls, process: None, _watchdog: watchdog, dir };
        server.write("pg_hba.conf", &settings.hba_file());
        server.write("harness.conf", &settings.conf_file(&own));
        server.append("postgresql.conf", "include 'harness.conf'\n");
        // Another process can take the port between our look and the server's bind.
        for _ in 0..10 {
            server.port = free_port();
            if server.launch().is_ok() {
                return server;
            }
            if !server.log_tail(20).contains("could not bind") {
                break;
            }
        }
        panic!("PostgreSQL {major} does not start");
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The TCP port, on 127.0.0.1 unless the server is at a site of a network.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The programs it runs with.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Its certificates.
    ///
    /// # Panics
    /// When the server was started without [`Settings::tls`].
    pub fn tls(&self) -> &Tls {
        self.tls.as_ref().expect("this server was started without Settings::tls()")
    }

    /// An address by TCP, without a password: the superuser `postgres` needs none.
    pub fn uri(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@{}:{}/{database}", self.host, self.port)
    }

    /// An address by unix socket: no role needs a password there.
    pub fn socket_uri(&self, role: &str, database: &str) -> String {
        let host = self.dir.path().to_string_lossy().replace('/', "%2F");
        format!("postgresql://{role}@{host}:{}/{database}", self.port)
    }

    /// A session as the superuser, by unix socket. It ends when the client is dropped.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn client(&self, database: &str) -> Client {
        self.try_client("postgres", database)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to \"{database}\": {error:?}"))
    }

    /// A session as any role, by unix socket.
    ///
    /// # Errors
    /// What the server says.
    pub async fn try_client(&self, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(self.dir.path())
            .port(self.port)
            .user(role)
            .dbname(database)
            .application_name("irongate-tests")
            // A database that is unwilling to its sessions is so to those that are tested; this one may have to wait for a
            // busy machine.
            .options("-c idle_session_timeout=0")
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Makes a database.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn create_database(&self, name: &str) {
        self.batch(&format!("CREATE DATABASE {name}")).await;
    }

    /// Runs statements as the superuser in the database `postgres`. As in psql's `-c`, they are one transaction unless
    /// they say otherwise.
    ///
    /// # Panics
    /// When one of them fails.
    pub async fn batch(&self, sql: &str) {
        self.batch_in("postgres", sql).await;
    }

    /// Runs statements as the superuser in any database.
    ///
    /// # Panics
    /// When one of them fails.
    pub async fn batch_in(&self, database: &str, sql: &str) {
        self.try_batch_in(database, sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {}", error.as_db_error().map_or("", |e| e.message()), sql));
    }

    /// Runs statements as the superuser.
    ///
    /// # Errors
    /// What the server says to the first that fails.
    pub async fn try_batch_in(&self, database: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.try_client("postgres", database).await?.batch_execute(sql).await
    }

    /// Runs a query as the superuser; every value comes as text.
    ///
    /// # Panics
    /// When it fails.
    pub async fn rows(&self, database: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self
            .client(database)
            .await
            .simple_query(sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {sql}", error.as_db_error().map_or("", |e| e.message())));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    /// The one value of a query's one row, as text; NULL is the empty string.
    ///
    /// # Panics
    /// When there are more or none.
    pub async fn scalar(&self, database: &str, sql: &str) -> String {
        let rows = self.rows(database, sql).await;
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone().unwrap_or_default(),
            _ => panic!("not one value but {} rows: {sql}", rows.len()),
        }
    }

    /// Writes a parameter into the configuration; it counts from the next [`Server::reload`] or start on.
    pub fn configure(&self, name: &str, value: impl ToString) {
        self.append("harness.conf", &format!("{name} = '{}'\n", value.to_string().replace('\'', "''")));
    }

    /// Replaces `pg_hba.conf`, keeping the harness's own way in; it counts from the next reload or start on.
    pub fn replace_hba(&self, settings: &Settings) {
        self.write("pg_hba.conf", &settings.hba_file());
    }

    /// Has the server read its configuration again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Whether the server process is there.
    pub fn is_running(&mut self) -> bool {
        match &mut self.process {
            Some(process) => {
                let running = matches!(process.try_wait(), Ok(None));
                if !running {
                    self.process = None;
                }
                running
            }
            None => false,
        }
    }

    /// The process id of the server's first process.
    ///
    /// # Panics
    /// When the server is stopped.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server is stopped").id()
    }

    /// Stops the server and waits for its end. A stopped one stays as it is.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn stop(&mut self, mode: Mode) {
        if self.process.is_none() {
            return;
        }
        self.signal(match mode {
            Mode::Smart => Signal::TERM,
            Mode::Fast => Signal::INT,
            Mode::Immediate => Signal::QUIT,
        });
        let begin = Instant::now();
        while self.is_running() {
            assert!(begin.elapsed() < PATIENCE, "PostgreSQL {} does not stop ({mode:?})", self.major);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills every process of the server at once, as the end of its machine would (except that the kernel keeps what
    /// was written).
    ///
    /// # Panics
    /// When that fails.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let postmaster = process.id();
        // Stopped first, it makes no more children while they are counted.
        let _ = rustix::process::kill_process(Pid::from_child(&process), Signal::STOP);
        let children = children_of(postmaster);
        process.kill().unwrap_or_else(|error| panic!("cannot kill the server: {error}"));
        for &child in &children {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        let _: Option<ExitStatus> = process.wait().ok();
        // Until they are gone, a new server refuses the shared memory that they hold.
        let begin = Instant::now();
        while children.iter().any(|&child| is_alive(child)) {
            assert!(begin.elapsed() < PATIENCE, "a killed process of PostgreSQL {} stays", self.major);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the stopped or killed server again, on the same port, and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_again(&mut self) {
        assert!(!self.is_running(), "the server runs already");
        let data = self.data();
        let command = self.command();
        let (process, result) = tokio::task::spawn_blocking(move || launch(command, &data))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.process = process;
        if let Err(failure) = result {
            panic!("PostgreSQL {} does not start again: {failure}", self.major);
        }
    }

    /// Stops the server (fast) and starts it again.
    ///
    /// # Panics
    /// As [`Server::stop`] and [`Server::start_again`].
    pub async fn restart(&mut self) {
        self.stop(Mode::Fast).await;
        self.start_again().await;
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.dir.path().join("log"), lines)
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.log_tail(usize::MAX)
    }

    /// A killed server leaves a System V segment, which only a successor on the same data would remove.
    fn remove_shared_memory(&self) {
        let pid_file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let segment = pid_file.lines().nth(6).and_then(|key_and_id| key_and_id.split_whitespace().nth(1));
        if let Some(id) = segment {
            let mut ipcrm = Command::new("ipcrm");
            let _ = as_server(&mut ipcrm).args(["-m", id]).stderr(Stdio::null()).status();
        }
    }

    fn signal(&self, signal: Signal) {
        // A child that has not been waited for keeps its pid, so this reaches no stranger.
        if let Some(process) = &self.process {
            let _ = rustix::process::kill_process(Pid::from_child(process), signal);
        }
    }

    fn command(&self) -> Command {
        let log = self.dir.path().join("log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|error| panic!("cannot open {log:?}: {error}"));
        let mut command = Command::new(self.binaries.program("postgres"));
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        let mut command = match &self.site {
            Some(site) => {
                let mut command = site.enter_as(command.current_dir("/"), server_user());
                plain_environment(&mut command);
                command
            }
            None => {
                as_server(&mut command);
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap_or_else(|error| panic!("cannot use the log twice: {error}")))
            .stderr(log);
        // Ctrl-C is the tests' to handle: they stop the server, in the mode that they want.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }

    fn launch(&mut self) -> Result<(), String> {
        let (process, result) = launch(self.command(), &self.data());
        self.process = process;
        result
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
        give_to_server(&path);
    }

    fn append(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        self.write(name, &(old + text));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_tail(40);
            say(&format!(
                "--- end of the log of PostgreSQL {} on port {}\n{log}\n---",
                self.major, self.port
            ));
        }
        // Nothing of it is needed any more, so nothing has to be written down.
        self.signal(Signal::QUIT);
        let begin = Instant::now();
        while self.is_running() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        self.remove_shared_memory();
    }
}

/// Starts `postgres` and waits for "ready" (of a standby, "standby") in the pid file, where `pg_ctl` looks too.
fn launch(mut command: Command, data: &Path) -> (Option<Child>, Result<(), String>) {
    let mut process = match command.spawn() {
        Ok(process) => process,
        Err(error) => return (None, Err(format!("cannot run {:?}: {error}", command.get_program()))),
    };
    let begin = Instant::now();
    loop {
        if let Ok(Some(status)) = process.try_wait() {
            return (None, Err(status.to_string()));
        }
        let pid_file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<_> = pid_file.lines().map(str::trim).collect();
        // A pid file that a killed server left behind names another process.
        if lines.first() == Some(&process.id().to_string().as_str())
            && lines.get(7).is_some_and(|state| matches!(*state, "ready" | "standby"))
        {
            return (Some(process), Ok(()));
        }
        if begin.elapsed() > PATIENCE {
            return (Some(process), Err(format!("not ready after {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process still holds anything. One that waits to be reaped (which is not ours to do) does not.
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn children_of(parent: u32) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").map(|all| all.flatten().collect()).unwrap_or_else(|_| vec![]);
    let child = |entry: &std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // "pid (name) state ppid …": a name may hold spaces and parentheses.
        let ppid: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        if ppid == parent { Pid::from_raw(pid) } else { None }
    };
    processes.iter().filter_map(child).collect()
}

/// A port that nobody listens on, outside the range from which the kernel takes the ports of outgoing connections: a
/// server that is down for a moment finds it free when it comes back.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(15_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A string as an SQL literal.
pub fn literal(text: &str) -> String {
    // E'' reads the same whatever standard_conforming_strings says.
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}
