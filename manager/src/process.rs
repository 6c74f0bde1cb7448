//! The processes of groups: made, found, asked, ended, and waited for.
//!
//! A process is a child of this manager, or was left by another one and found by its lock and status file. Both are
//! held by a pidfd, which always means the same process: a signal never reaches another that got its number. A child
//! has a process group of its own, so that a terminal's Ctrl-C reaches the manager alone, which then stops it in order.
//!
//! Nothing ends with the manager: a manager that is killed leaves its processes working, and the next one finds them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use irongate_checkpoint::{Failure, GroupLock, State, Status, read_status};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::error::Error;
use crate::report::Reports;
use crate::settings::GroupSpec;
use crate::supervisor::{Exit, How};

/// Exit code of the program for a command or configuration that cannot be.
const BAD_USAGE: i32 = 2;
/// Longest piece of a report in an error, in bytes.
const LONGEST_WORD: usize = 300;
/// How often a process is looked for that cannot be waited for.
const POLL: Duration = Duration::from_secs(1);
/// Variables by which systemd knows the manager; its children are not meant.
const NOTIFY: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A process of a group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    handle: OwnedFd,
    child: Option<Child>,
}

/// Who holds a group's lock.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nobody.
    Nobody,
    /// A process of the group.
    Process(Process),
    /// Something else, such as an initial load; in words.
    Other(String),
}

/// What came of the wish to start a group.
#[derive(Debug)]
pub(crate) enum Launched {
    /// It runs now.
    Started(Process),
    /// It ran already.
    Found(Process),
    /// Its lock is held.
    Busy(String),
    /// It cannot be made.
    Failed(String),
}

/// Looks for a process of the group. Blocks the thread for at most a fifth of a second.
pub(crate) fn find(state_directory: &Path, group: &str) -> Result<Found, Error> {
    if !GroupLock::is_held(state_directory, group)? {
        return Ok(Found::Nobody);
    }
    // Whoever is refused is told the holder.
    let holder = match GroupLock::acquire(state_directory, group) {
        Ok(_) => return Ok(Found::Nobody),
        Err(irongate_checkpoint::Error::Held { holder, .. }) => holder,
        Err(error) => return Err(error.into()),
    };
    let status = read_status(state_directory, group)?;
    let is_said =
        |pid: &u32| status.as_ref().is_some_and(|status| status.state.is_live() && status.pid == *pid);
    let Some(pid) = holder.pid.filter(is_said) else { return Ok(Found::Other(holder.to_string())) };
    // The order excludes that a number is used again: the handle is opened first, and then its process must still hold
    // the lock's file open.
    let Some(handle) = open(pid) else { return Ok(Found::Nobody) };
    let is_it = holds(pid, &state_directory.join(format!("{group}.lock")))
        .and_then(|holds| Ok(holds && is_called_for(pid, group)?));
    match is_it {
        Ok(true) => Ok(Found::Process(Process { pid, handle, child: None })),
        Ok(false) => Ok(Found::Other(holder.to_string())),
        Err(error) => Ok(Found::Other(format!("{holder}, which cannot be looked at: {error}"))),
    }
}

/// A handle of a process. The number of a child is its own until it is waited for.
fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Whether a process has the file open.
fn holds(pid: u32, file: &Path) -> io::Result<bool> {
    let wanted = fs::metadata(file)?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let open = entry.and_then(|entry| fs::metadata(entry.path()));
        // Others come and go, and some are no files.
        if open.is_ok_and(|open| (open.dev(), open.ino()) == (wanted.dev(), wanted.ino())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a process was started as the group, by its command line. What does the group's work as a part of its own, such as an
/// initial load that captures meanwhile, is nobody's to end.
fn is_called_for(pid: u32, group: &str) -> io::Result<bool> {
    let line = fs::read(format!("/proc/{pid}/cmdline"))?;
    Ok(line.split(|byte| *byte == 0).any(|word| word == group.as_bytes()))
}

/// Starts a group, unless something holds its lock. Not to be cancelled.
pub(crate) async fn launch(state_directory: &Path, reports: &Reports, spec: &GroupSpec) -> Launched {
    let (directory, group) = (state_directory.to_owned(), spec.name.clone());
    match tokio::task::spawn_blocking(move || find(&directory, &group)).await {
        Ok(Ok(Found::Nobody)) => {}
        Ok(Ok(Found::Process(process))) => return Launched::Found(process),
        Ok(Ok(Found::Other(holder))) => return Launched::Busy(holder),
        Ok(Err(error)) => return Launched::Failed(error.to_string()),
        Err(error) => return Launched::Failed(error.to_string()),
    }
    let program = spec.executable.display();
    let output = reports.begin(&spec.name).and_then(|file| {
        let second = file.try_clone().map_err(|source| Error::file("open", &reports.directory, source))?;
        Ok((file, second))
    });
    let (output, errors) = match output {
        Ok((output, errors)) => (Stdio::from(output), Stdio::from(errors)),
        // Replication goes before its report.
        Err(error) => {
            tracing::warn!(group = spec.name, %error, "no report");
            (Stdio::null(), Stdio::null())
        }
    };
    let mut command = Command::new(&spec.executable);
    command.args(&spec.arguments).stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
    for variable in NOTIFY {
        command.env_remove(variable);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Launched::Failed(format!("cannot run \"{program}\": {error}")),
    };
    match child.id().and_then(|pid| Some((pid, open(pid)?))) {
        Some((pid, handle)) => Launched::Started(Process { pid, handle, child: Some(child) }),
        None => {
            let _ = child.start_kill();
            Launched::Failed(format!("the process of \"{program}\" cannot be watched (pidfd_open)"))
        }
    }
}

impl Process {
    /// A second handle, to send signals by.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        self.handle.try_clone().map(Handle)
    }

    /// Waits for the end. Cancelling forgets the process and does not end it.
    pub(crate) async fn ended(self) -> How {
        let Self { handle, child, pid } = self;
        match child {
            Some(mut child) => match child.wait().await {
                Ok(status) => how(status),
                Err(_) => How::Unknown,
            },
            None => {
                #[allow(
                    deprecated,
                    reason = "its successor is unsafe, for types that exchange their descriptor; an OwnedFd does not"
                )]
                let handle = AsyncFd::with_interest(handle, Interest::READABLE);
                match handle {
                    Ok(handle) => drop(handle.readable().await),
                    Err(error) => {
                        tracing::error!(pid, %error, "cannot wait for a process; asking now and then");
                        while pid_is_there(pid) {
                            tokio::time::sleep(POLL).await;
                        }
                    }
                }
                How::Unknown
            }
        }
    }
}

fn pid_is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn how(status: ExitStatus) -> How {
    match (status.code(), status.signal()) {
        (Some(code), _) => How::Code(code),
        (None, Some(signal)) => How::Signal(signal),
        (None, None) => How::Unknown,
    }
}

/// What signals are sent by.
#[derive(Debug)]
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Sends a signal; a process that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.0.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }
}

/// The end of a process of `group`, from what the system says and what it said itself. Reads its status file.
pub(crate) fn judge(state_directory: &Path, reports: &Reports, group: &str, pid: u32, how: How) -> Exit {
    let said = match read_status(state_directory, group) {
        Ok(status) => status.filter(|status| status.pid == pid),
        Err(error) => {
            tracing::warn!(group, %error, "cannot read a status file");
            None
        }
    };
    let failure = match (how, said) {
        (How::Code(0), _) => None,
        (_, Some(Status { state: State::Stopped, .. })) if how == How::Unknown => None,
        (_, Some(Status { state: State::Abended, error: Some(failure), .. })) => Some(failure),
        // It ended before it could say anything, or without saying it.
        (_, _) => {
            let last = reports.tail(group, 1).unwrap_or_default();
            let last: String = last.trim().chars().take(LONGEST_WORD).collect();
            Some(Failure {
                message: if last.is_empty() {
                    "it said nothing".to_owned()
                } else {
                    format!("it said: {last}")
                },
                hint: Some(format!("see \"irongate report {group}\"")),
                transient: how != How::Code(BAD_USAGE),
            })
        }
    };
    Exit { how, failure }
}

/// The file of the running program.
pub fn current_executable() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::file("find", Path::new("/proc/self/exe"), source))
}
