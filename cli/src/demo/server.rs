//! A throw-away PostgreSQL server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use super::binaries::{Binaries, server_user};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the port: there is no TCP, so nobody else can have it.
const PORT: u16 = 5432;

/// A server with data and socket in a directory of its own. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Server {
    directory: PathBuf,
    process: Option<Child>,
}

/// A command that the user of the servers runs, with nothing of our environment.
fn as_server(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

impl Server {
    /// Makes a cluster in `directory` and starts it. Blocks.
    pub(super) fn start(binaries: &Binaries, directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir(directory).with_context(|| format!("cannot make \"{}\"", directory.display()))?;
        // Whoever can enter gets in as superuser: the socket asks for no password of it.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        if let Some((uid, gid)) = server_user() {
            std::os::unix::fs::chown(directory, Some(uid), Some(gid))?;
        }
        let data = directory.join("data");
        let output = as_server(&binaries.directory.join("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--no-instructions"])
            .args(["--encoding=UTF8", "--locale=C"])
            .stdin(Stdio::null())
            .output()
            .context("cannot run initdb")?;
        if !output.status.success() {
            bail!("initdb failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        let own = |name: &str, text: &str| -> anyhow::Result<()> {
            let path = data.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write \"{}\"", path.display()))?;
            if let Some((uid, gid)) = server_user() {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
            }
            Ok(())
        };
        own("pg_hba.conf", HBA)?;
        own("postgresql.auto.conf", &format!("{CONF}unix_socket_directories = '{}'\n", directory.display()))?;
        let mut server = Self { directory: directory.to_owned(), process: None };
        server.launch(binaries)?;
        Ok(server)
    }

    fn launch(&mut self, binaries: &Binaries) -> anyhow::Result<()> {
        let data = self.directory.join("data");
        let log = self.directory.join("log");
        let file = fs::File::create(&log).with_context(|| format!("cannot write \"{}\"", log.display()))?;
        let mut command = as_server(&binaries.directory.join("postgres"));
        command.arg("-D").arg(&data).arg("-p").arg(PORT.to_string());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Ctrl-C is the demo's to handle: it stops the servers.
        command.process_group(0);
        let process = self.process.insert(command.spawn().context("cannot run postgres")?);
        let begin = Instant::now();
        loop {
            if let Some(status) = process.try_wait()? {
                self.process = None;
                let log = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(10).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                bail!("the server does not start ({status}): {}", last.join("\n"));
            }
            // Where pg_ctl looks too.
            let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if pid_file.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("the server is not ready after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A connection URI.
    pub(super) fn uri(&self, role: &str, database: &str) -> String {
        let at = if role.is_empty() { "" } else { "@" };
        let host = self.directory.to_string_lossy().replace('/', "%2F");
        format!("postgresql://{role}{at}{host}:{PORT}/{database}")
    }

    /// How a person gets in.
    pub(super) fn psql(&self, database: &str) -> String {
        format!("psql -h {} -U postgres {database}", self.directory.display())
    }

    /// A session as the superuser.
    pub(super) async fn client(&self, database: &str) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.directory)
            .port(PORT)
            .user("postgres")
            .dbname(database)
            .application_name("irongate demo")
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Ends it at once, as a power cut does; it recovers when it starts again.
    pub(super) async fn crash(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
        tokio::task::spawn_blocking(move || process.wait()).await??;
        Ok(())
    }

    /// Starts it again. Blocks.
    pub(super) fn start_again(&mut self, binaries: &Binaries) -> anyhow::Result<()> {
        self.launch(binaries)
    }

    /// Leaves the server running when this is dropped; returns its process id.
    pub(super) fn keep(&mut self) -> Option<u32> {
        self.process.take().map(|process| process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // Nothing of it is needed any more, so nothing has to be written down.
        let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// The superuser needs no password on a socket that only its own user can reach; Irongate's roles do.
const HBA: &str = "\
local all postgres trust
local replication postgres trust
local all app trust
local all all scram-sha-256
local replication all scram-sha-256
";

/// As a server with a live standby has it, but without waiting for the disk: the data is thrown away.
const CONF: &str = "\
listen_addresses = ''
wal_level = logical
max_wal_senders = 10
max_replication_slots = 10
max_prepared_transactions = 20
max_connections = 50
# Small, so that large transactions are streamed before they commit.
logical_decoding_work_mem = 256kB
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
fsync = off
log_line_prefix = '%m [%p] %q%u@%d %a: '
timezone = UTC
lc_messages = C
";
