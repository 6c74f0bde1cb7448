//! Processes of the `irongate` binary.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::tempdir::TempDir;
use crate::watchdog::Watchdog;
use crate::{say, tail};

/// A running process whose output goes to files. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    // Called off as soon as the process has been waited for: its pid may be a stranger's from then on.
    watchdog: Option<Watchdog>,
    output: TempDir,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}\n{}", self.stdout, self.stderr))
    }

    /// Itself, if the exit code is 0.
    ///
    /// # Panics
    /// With its output, if it is not.
    #[must_use]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}:\n{}{}", self.status, self.stdout, self.stderr);
        self
    }
}

impl Process {
    /// The path of the `irongate` binary: `IRONGATE_BIN`, or else the one that cargo builds into this test's target
    /// directory, brought up to date once a test process.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn binary() -> &'static Path {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        BINARY.get_or_init(|| match std::env::var_os("IRONGATE_BIN") {
            Some(given) => given.into(),
            None => build(),
        })
    }

    /// The `irongate` binary with arguments, in directory `dir`, with nothing of the environment that could change what
    /// it does.
    pub fn command<S: AsRef<OsStr>>(dir: &Path, arguments: &[S]) -> Command {
        let mut command = Command::new(Self::binary());
        command.args(arguments).current_dir(dir);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PG") || name_text.starts_with("IRONGATE_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Starts `irongate` with these arguments in directory `dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn irongate<S: AsRef<OsStr>>(dir: &Path, arguments: &[S]) -> Self {
        Self::spawn(Self::command(dir, arguments))
    }

    /// Runs `irongate` to its end.
    ///
    /// # Panics
    /// When that takes longer than `timeout`.
    pub async fn run<S: AsRef<OsStr>>(dir: &Path, arguments: &[S], timeout: Duration) -> Finished {
        Self::irongate(dir, arguments).finish(timeout).await
    }

    /// Starts any command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        let output = TempDir::new();
        let file = |name: &str| {
            let path = output.path().join(name);
            std::fs::File::create(&path).unwrap_or_else(|error| panic!("cannot make {path:?}: {error}"))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program()));
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{program} {}", arguments.join(" "));
        let watchdog = Some(Watchdog::over_process(child.id()));
        Process { name, child, ended: None, watchdog, output }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        tail(&self.output.path().join("stdout"), usize::MAX)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        tail(&self.output.path().join("stderr"), usize::MAX)
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
            self.watchdog = None;
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        // A pid that was waited for may belong to somebody else.
        if self.poll().is_none() {
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that takes longer than `timeout`; the end of its output is printed.
    pub async fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.poll() {
                return status;
            }
            assert!(begin.elapsed() < timeout, "\"{}\" still runs after {timeout:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for its end and returns what it wrote.
    ///
    /// # Panics
    /// When that takes longer than `timeout`.
    pub async fn finish(mut self, timeout: Duration) -> Finished {
        let status = self.wait(timeout).await;
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// The most memory it ever had resident, in bytes; `None` once it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
            if self.ended.is_some() {
                self.watchdog = None;
            }
        }
        self.ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ended = match self.poll() {
                Some(status) => status.to_string(),
                None => "running".to_owned(),
            };
            say(&format!("--- end of the output of \"{}\" ({ended})", self.name));
            for name in ["stdout", "stderr"] {
                say(&tail(&self.output.path().join(name), 40));
            }
            say("---");
        }
        self.kill();
    }
}

fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("this test has no path: {error}"));
    // target/debug/deps/test → target/debug
    let profile_dir = test.ancestors().nth(2).expect("a test lies two directories below its profile");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "irongate", "--bin", "irongate", "--features", "kafka"]);
    if profile_dir.ends_with("release") {
        cargo.arg("--release");
    }
    // What cargo tells a test of its package would look to build scripts as a change of theirs, and half of the libraries
    // would be compiled anew, each time.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_")
            || name == "CARGO_MANIFEST_DIR"
            || name == "CARGO_MANIFEST_PATH"
        {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let status = cargo.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "the irongate binary does not build");
    profile_dir.join("irongate")
}
