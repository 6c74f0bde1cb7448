//! The managers of the sites, as processes of this same program. What they start is theirs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::guard::Guard;

/// How long a manager may take to stop with its groups.
const PATIENCE: Duration = Duration::from_secs(60);

/// A manager that is run, killed and run again. Dropped, it is killed; what it has started stays.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    site: &'static str,
    configuration: PathBuf,
    log: PathBuf,
    guard: Guard,
    child: Option<Child>,
    /// How often it was killed.
    pub(super) kills: u32,
}

impl Process {
    /// The manager of a site; it does not run yet.
    pub(super) fn new(site: &'static str, configuration: &Path, log: PathBuf, guard: &Guard) -> Self {
        Self {
            name: format!("the manager of {site}"),
            site,
            configuration: configuration.to_owned(),
            log,
            guard: guard.clone(),
            child: None,
            kills: 0,
        }
    }

    /// Starts it.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write \"{}\"", self.log.display()))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&self.configuration).args(["--site", self.site, "manager"]);
        command.env_remove("IRONGATE_SITE").env_remove("IRONGATE_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Ctrl-C is the demo's to handle.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        self.guard.add(child.id());
        self.child = Some(child);
        Ok(())
    }

    /// Fails if it has ended by itself.
    pub(super) fn is_well(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let Some(status) = child.try_wait()? else { return Ok(()) };
        self.guard.remove(child.id());
        self.child = None;
        bail!("{} has ended by itself ({status}):\n{}", self.name, self.last_words())
    }

    /// Kills it, as a crash would, and waits for its end.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.is_well()?;
        self.end(Signal::KILL);
        self.kills += 1;
        Ok(())
    }

    /// The same without a question, for the end of the demo.
    pub(super) fn kill_silently(&mut self) -> Option<ExitStatus> {
        self.end(Signal::KILL)
    }

    fn end(&mut self, signal: Signal) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let _ = kill_process(Pid::from_child(&child), signal);
        self.guard.remove(child.id());
        child.wait().ok()
    }

    /// Asks it to end, and expects that it does so in good order.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.is_well()?;
        let Some(child) = &mut self.child else { return Ok(()) };
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                self.guard.remove(child.id());
                self.child = None;
                if status.success() {
                    return Ok(());
                }
                bail!("{} did not end in good order ({status}):\n{}", self.name, self.last_words());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{} still runs {} s after SIGTERM", self.name, PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Leaves it running when this is dropped; returns its process id.
    pub(super) fn keep(&mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let skip = log.lines().count().saturating_sub(10);
        log.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}
