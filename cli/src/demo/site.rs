//! A site as the demo runs it: a manager, and the groups that it starts.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use irongate_checkpoint::{State, Status, read_status};
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;
use rustix::process::{Pid, Signal, kill_process};

use super::guard::Guard;
use super::process::Process;

/// How long groups may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// A site. Dropped, its manager and its groups are killed.
pub(super) struct Site {
    pub(super) name: &'static str,
    pub(super) configuration: Configuration,
    pub(super) manager: Process,
    /// How often a group of each program was killed, and the most memory that one had resident, in bytes.
    pub(super) groups: Vec<Group>,
    /// Whether what was started stays.
    kept: bool,
}

/// A group of a site that runs in normal mode.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) kills: u32,
    pub(super) peak_memory: u64,
}

impl Site {
    /// A site whose manager does not run yet.
    pub(super) fn new(name: &'static str, file: &Path, guard: &Guard) -> anyhow::Result<Self> {
        let configuration = Configuration::load_at(file, Some(name))?;
        let log = file.with_file_name(format!("{name}-manager.log"));
        let manager = Process::new(name, file, log, guard);
        let runs = |flow: Option<&Flow>| flow.is_none_or(|flow| flow.autostart);
        let groups = configuration.groups(Some(name)).into_iter().filter(|group| runs(group.flow));
        let groups = groups.map(|group| Group { name: group.name, kills: 0, peak_memory: 0 }).collect();
        Ok(Self { name, configuration, manager, groups, kept: false })
    }

    /// What a group says of itself.
    pub(super) fn status(&self, group: &str) -> anyhow::Result<Option<Status>> {
        Ok(read_status(&self.configuration.state_directory, group)?)
    }

    /// Waits until every group runs that should.
    pub(super) async fn runs(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            self.is_well()?;
            let mut waiting = None;
            for group in &self.groups {
                let status = self.status(&group.name)?;
                if status.is_none_or(|status| status.state != State::Running) {
                    waiting = Some(group.name.clone());
                }
            }
            let Some(waiting) = waiting else { return Ok(()) };
            if begin.elapsed() > PATIENCE {
                bail!("{waiting} does not come up: see \"irongate --site {} report {waiting}\"", self.name);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails if the manager has ended by itself, or a group that trying again cannot help.
    pub(super) fn is_well(&mut self) -> anyhow::Result<()> {
        self.manager.is_well()?;
        for place in 0..self.groups.len() {
            let Some(status) = self.status(&self.groups[place].name)? else { continue };
            if status.state.is_live() {
                let peak = peak_memory(status.pid);
                self.groups[place].peak_memory = self.groups[place].peak_memory.max(peak);
            }
            if let Some(failure) = status.error.filter(|it| status.state == State::Abended && !it.transient) {
                bail!("{} has ended: {}", self.groups[place].name, failure.message);
            }
        }
        Ok(())
    }

    /// Kills a group as a crash would; its manager starts it again. One that is not there just now is let be.
    pub(super) fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        let Some(group) = self.groups.get(place) else { return Ok(()) };
        let Some(status) = self.status(&group.name)?.filter(|status| status.state.is_live()) else {
            return Ok(());
        };
        if let Some(pid) = i32::try_from(status.pid).ok().and_then(Pid::from_raw)
            && kill_process(pid, Signal::KILL).is_ok()
        {
            self.groups[place].kills += 1;
        }
        Ok(())
    }

    /// Leaves everything running; the processes are the manager's and the groups'.
    pub(super) fn keep(&mut self) -> Vec<u32> {
        self.kept = true;
        let statuses = self.groups.iter().filter_map(|group| self.status(&group.name).ok().flatten());
        let live: Vec<u32> =
            statuses.filter(|status| status.state.is_live()).map(|status| status.pid).collect();
        self.manager.keep().into_iter().chain(live).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // First who would start the others again.
        let _ = self.manager.kill_silently();
        for group in &self.groups {
            // A process that is just starting has its lock, and soon its status.
            for _ in 0..20 {
                let status = self.status(&group.name).ok().flatten().filter(|status| status.state.is_live());
                let Some(pid) = status.and_then(|it| i32::try_from(it.pid).ok()).and_then(Pid::from_raw)
                else {
                    break;
                };
                let _ = kill_process(pid, Signal::KILL);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The most memory that a process had resident, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
