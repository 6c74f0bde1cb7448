//! Which group should run, and what is done about it: a state machine without clock, file or process.
//!
//! It is told what has happened (a process began or ended, a person spoke, time passed) and answers with what is to be
//! done. Three things decide whether a group should run:
//!
//! * what a person said last ([`Wish`]), which is saved before it is acted upon; where nobody has said anything, the
//!   configuration's `autostart`;
//! * whether it has abended: its last error cannot be helped by trying again, or it died too often. Only a person's
//!   word takes that back;
//! * whether the watch holds it, such as an Extract whose trail's disk is nearly full.
//!
//! Every event ends in settling, which compares that with the group's phase. Since a process is asked for
//! in one phase only, which is left by asking, there never are two processes of a group. A group that should not run is
//! asked for in no phase, whatever came before.

mod desired;
mod words;

#[cfg(test)]
mod conversation;
#[cfg(test)]
mod random;

use std::collections::BTreeMap;
use std::time::Duration;

use irongate_checkpoint::Failure;

pub use desired::{Desired, DesiredGroup, Wish};
pub use words::{Answer, Refusal, Word};

use crate::event::{Kind, Notice, Severity};
use crate::settings::RestartPolicy;

/// What the machine needs to know of a configured group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRule {
    /// Its name.
    pub name: String,
    /// Whether it runs where no person has said anything.
    pub autostart: bool,
}

/// How a process ended, as the operating system tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It was not our child: only that it is gone is known.
    Unknown,
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit"),
        }
    }
}

/// The end of a process.
#[derive(Clone, PartialEq, Debug)]
pub struct Exit {
    /// What the operating system says.
    pub how: How,
    /// What the process said, or what follows from its exit code; `None` for an orderly end.
    pub failure: Option<Failure>,
}

/// What has happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The process that was asked for is there.
    Started {
        /// The group.
        group: String,
        /// Its process.
        pid: u32,
    },
    /// The process that was asked for could not be made.
    NotStarted {
        /// The group.
        group: String,
        /// Why.
        reason: String,
    },
    /// The process that was asked for was not made, since something else holds the group's lock.
    Busy {
        /// The group.
        group: String,
        /// What holds it, in words.
        holder: String,
    },
    /// A process of the group runs that this manager has not made.
    Found {
        /// The group.
        group: String,
        /// Its process.
        pid: u32,
    },
    /// The group's process is gone.
    Exited {
        /// The group.
        group: String,
        /// How.
        exit: Exit,
    },
    /// The watch wants the group to rest.
    Hold {
        /// The group.
        group: String,
        /// Why, in words.
        reason: String,
    },
    /// The watch has nothing against the group any more.
    Release {
        /// The group.
        group: String,
    },
    /// The configuration has these groups now.
    Reload(Vec<GroupRule>),
    /// Time has passed.
    Tick,
    /// The manager is to end: all groups stop, and what was wished for stays.
    Shutdown,
}

/// What is to be done, in the order of the list.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Make [`Supervisor::desired`] durable.
    Save,
    /// Start a process; the answer is [`Event::Started`], [`Event::Found`], [`Event::Busy`] or [`Event::NotStarted`].
    Spawn(String),
    /// Ask the group's process to end (SIGTERM).
    Terminate(String),
    /// End the group's process (SIGKILL).
    Kill(String),
    /// Tell people.
    Record(Notice),
}

/// Where a group is.
#[derive(Clone, PartialEq, Debug)]
pub enum Phase {
    /// No process, and none is planned.
    Off,
    /// A process was asked for.
    Launching,
    /// A process is there.
    Running {
        /// Its process.
        pid: u32,
        /// Since when, on the machine's clock.
        since: Duration,
    },
    /// The process was asked to end.
    Stopping {
        /// Its process.
        pid: u32,
        /// When patience ends.
        until: Duration,
        /// It was sent SIGKILL.
        killed: bool,
        /// Patience has ended, and that was said.
        overdue: bool,
    },
    /// It died, or could not be started; the next attempt comes.
    BackOff {
        /// When.
        until: Duration,
    },
}

impl Phase {
    /// The process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } | Self::Stopping { pid, .. } => Some(*pid),
            _ => None,
        }
    }
}

/// A group as the machine sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Supervised {
    /// Whether it runs where no person has said anything.
    pub autostart: bool,
    /// Where it is.
    pub phase: Phase,
    /// Times it died in a row.
    pub deaths: u32,
    /// Why the watch holds it.
    pub hold: Option<String>,
    /// What holds its lock, while it cannot be started for that.
    pub busy: Option<String>,
    /// It is no longer configured, and goes when its process has ended.
    pub removed: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Supervisor {
    restart: RestartPolicy,
    stop_limit: Duration,
    groups: BTreeMap<String, Supervised>,
    desired: Desired,
    /// Everything that was left running has been told.
    begun: bool,
    shutting_down: bool,
}

impl Supervisor {
    /// A machine that has not begun: the first [`Event::Tick`] starts what should run. What runs already should have
    /// been told by [`Event::Found`] before.
    pub fn new(
        restart: RestartPolicy,
        stop_limit: Duration,
        rules: Vec<GroupRule>,
        desired: Desired,
    ) -> Self {
        let groups = rules.into_iter().map(|rule| (rule.name, Supervised::new(rule.autostart))).collect();
        Self { restart, stop_limit, groups, desired, begun: false, shutting_down: false }
    }

    /// Takes what has happened at `now` (time since any fixed moment) and says what is to be done.
    ///
    /// An event that cannot be at this moment, such as the exit of a process that is not known, changes nothing.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Started { group, pid } => self.started(now, &group, pid, &mut effects),
            Event::NotStarted { group, reason } => {
                if self.is_launching(&group) {
                    let failure = Failure { message: reason, hint: None, transient: true };
                    self.died(now, &group, "could not be started", Some(failure), &mut effects);
                }
            }
            Event::Busy { group, holder } => self.busy(now, &group, holder, &mut effects),
            Event::Found { group, pid } => self.found(now, &group, pid, &mut effects),
            Event::Exited { group, exit } => self.exited(now, &group, exit, &mut effects),
            Event::Hold { group, reason } => {
                if let Some(it) = self.groups.get_mut(&group)
                    && it.hold.as_ref() != Some(&reason)
                {
                    let is_news = it.hold.is_none();
                    it.hold = Some(reason.clone());
                    if is_news {
                        effects.push(notice(
                            Severity::Error,
                            &group,
                            Kind::Held,
                            format!("held back: {reason}"),
                        ));
                    }
                }
            }
            Event::Release { group } => {
                if let Some(it) = self.groups.get_mut(&group)
                    && it.hold.take().is_some()
                {
                    let text = "no longer held back".to_owned();
                    effects.push(notice(Severity::Info, &group, Kind::Released, text));
                }
            }
            Event::Reload(rules) => self.reload(rules),
            Event::Tick => {
                self.begun = true;
                self.tick(now, &mut effects);
            }
            Event::Shutdown => self.shutting_down = true,
        }
        self.settle(now, &mut effects);
        effects
    }

    /// When [`Event::Tick`] should come at the latest; `None` while nothing waits for time.
    pub fn deadline(&self) -> Option<Duration> {
        let of = |it: &Supervised| match it.phase {
            Phase::BackOff { until } | Phase::Stopping { until, overdue: false, .. } => Some(until),
            _ => None,
        };
        self.groups.values().filter_map(of).min()
    }

    /// The groups by name.
    pub fn groups(&self) -> &BTreeMap<String, Supervised> {
        &self.groups
    }

    /// What a person said last of a group, or what the configuration says.
    pub fn wish(&self, group: &str) -> Wish {
        let configured = self.groups.get(group).is_some_and(|it| it.autostart);
        let said = self.desired.groups.get(group).and_then(|it| it.wish);
        said.unwrap_or(if configured { Wish::Run } else { Wish::Stop })
    }

    /// Why a group will not be tried again, if that is so.
    pub fn abended(&self, group: &str) -> Option<&Failure> {
        self.desired.groups.get(group)?.abended.as_ref()
    }

    /// Whether a process of the group should be there.
    pub fn should_run(&self, group: &str) -> bool {
        let free = |it: &Supervised| it.hold.is_none() && !it.removed;
        !self.shutting_down
            && self.groups.get(group).is_some_and(free)
            && self.wish(group) == Wish::Run
            && self.abended(group).is_none()
    }

    /// Whether the end was asked for and every process is gone.
    pub fn is_finished(&self) -> bool {
        let is_quiet = |it: &Supervised| matches!(it.phase, Phase::Off | Phase::BackOff { .. });
        self.shutting_down && self.groups.values().all(is_quiet)
    }

    /// What people wish, as it is to be saved.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Takes over settings that hold from the next use on.
    pub fn set_limits(&mut self, restart: RestartPolicy, stop_limit: Duration) {
        (self.restart, self.stop_limit) = (restart, stop_limit);
    }

    fn is_launching(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|it| it.phase == Phase::Launching)
    }

    fn started(&mut self, now: Duration, group: &str, pid: u32, effects: &mut Vec<Effect>) {
        if let Some(it) = self.groups.get_mut(group)
            && it.phase == Phase::Launching
        {
            it.phase = Phase::Running { pid, since: now };
            it.busy = None;
            effects.push(notice(Severity::Info, group, Kind::Started, format!("started as process {pid}")));
        }
    }

    fn busy(&mut self, now: Duration, group: &str, holder: String, effects: &mut Vec<Effect>) {
        let pause = self.restart.longest.min(self.restart.first.saturating_mul(2));
        if let Some(it) = self.groups.get_mut(group)
            && it.phase == Phase::Launching
        {
            // No death: whoever holds the lock, such as an initial load, will let go of it.
            it.phase = Phase::BackOff { until: now + pause };
            if it.busy.as_ref() != Some(&holder) {
                let text = format!("not started: its lock is held by {holder}; waiting for it");
                effects.push(notice(Severity::Warning, group, Kind::Waiting, text));
                it.busy = Some(holder);
            }
        }
    }

    fn found(&mut self, now: Duration, group: &str, pid: u32, effects: &mut Vec<Effect>) {
        let Some(it) = self.groups.get_mut(group) else { return };
        if it.phase.pid().is_some() {
            return;
        }
        it.phase = Phase::Running { pid, since: now };
        (it.busy, it.deaths) = (None, 0);
        if self.wish(group) == Wish::Run
            && let Some(noted) = self.desired.groups.get_mut(group)
            && noted.abended.take().is_some()
        {
            // Somebody has mended it and started it by hand.
            effects.push(Effect::Save);
        }
        let (severity, text) = if self.should_run(group) {
            (Severity::Info, format!("found running as process {pid} and taken over"))
        } else {
            (
                Severity::Warning,
                format!("found running as process {pid} although it is to be stopped: ending it"),
            )
        };
        effects.push(notice(severity, group, Kind::Adopted, text));
    }

    fn exited(&mut self, now: Duration, group: &str, exit: Exit, effects: &mut Vec<Effect>) {
        let Some(it) = self.groups.get_mut(group) else { return };
        match it.phase {
            Phase::Stopping { killed, .. } => {
                (it.phase, it.deaths) = (Phase::Off, 0);
                let (severity, text) = match exit.failure {
                    None => (Severity::Info, "stopped".to_owned()),
                    Some(_) if killed => (Severity::Info, "ended by force".to_owned()),
                    Some(failure) => {
                        (Severity::Warning, format!("stopped with an error: {}", failure.message))
                    }
                };
                effects.push(notice(severity, group, Kind::Stopped, text));
            }
            Phase::Running { since, .. } => {
                if now.saturating_sub(since) >= self.restart.reset {
                    it.deaths = 0;
                }
                let said = format!("ended ({})", exit.how);
                self.died(now, group, &said, exit.failure, effects);
            }
            Phase::Off | Phase::Launching | Phase::BackOff { .. } => {}
        }
    }

    /// A process has ended that should be there, or was never made.
    fn died(
        &mut self,
        now: Duration,
        group: &str,
        how: &str,
        failure: Option<Failure>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(it) = self.groups.get_mut(group) else { return };
        it.deaths = it.deaths.saturating_add(1);
        let said = match &failure {
            Some(failure) => format!("{how}: {}", failure.message),
            None => format!("{how} although nobody asked for it"),
        };
        let last = match failure {
            Some(failure) if !failure.transient => Some(failure),
            failure if it.deaths > self.restart.attempts => Some(Failure {
                message: format!("died {} times in a row, the last time it {said}", it.deaths),
                hint: failure.and_then(|failure| failure.hint).or_else(|| {
                    Some(format!("see \"irongate report {group}\", then \"irongate start {group}\""))
                }),
                transient: false,
            }),
            _ => None,
        };
        let Some(failure) = last else {
            let pause = self.restart.pause(it.deaths);
            it.phase = Phase::BackOff { until: now + pause };
            let text = format!(
                "{said}; attempt {} of {} in {:.1} s",
                it.deaths,
                self.restart.attempts,
                pause.as_secs_f64()
            );
            effects.push(notice(Severity::Warning, group, Kind::Died, text));
            return;
        };
        it.phase = Phase::Off;
        let hint = failure.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let text = format!("abended: {}{hint}", failure.message);
        self.desired.groups.entry(group.to_owned()).or_default().abended = Some(failure);
        effects.push(Effect::Save);
        effects.push(notice(Severity::Error, group, Kind::Abended, text));
    }

    fn reload(&mut self, rules: Vec<GroupRule>) {
        for (name, it) in &mut self.groups {
            it.removed = !rules.iter().any(|rule| rule.name == *name);
        }
        for rule in rules {
            let autostart = rule.autostart;
            let it = self.groups.entry(rule.name).or_insert_with(|| Supervised::new(autostart));
            it.autostart = autostart;
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for (group, it) in &mut self.groups {
            match &mut it.phase {
                Phase::BackOff { until } if now >= *until => it.phase = Phase::Off,
                Phase::Stopping { until, killed, overdue, .. } if now >= *until && !*overdue => {
                    *overdue = true;
                    let limit = self.stop_limit.as_secs_f64();
                    let text = if self.shutting_down || it.removed {
                        *killed = true;
                        effects.push(Effect::Kill(group.clone()));
                        format!("did not stop within {limit:.1} s: ended by force")
                    } else {
                        format!("has not stopped within {limit:.1} s; \"irongate kill {group}\" ends it")
                    };
                    effects.push(notice(Severity::Warning, group, Kind::NotStopping, text));
                }
                _ => {}
            }
        }
    }

    /// Brings each group's phase nearer to what it should be.
    fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for group in names {
            let should_run = self.should_run(&group);
            let Some(it) = self.groups.get_mut(&group) else { continue };
            match it.phase {
                Phase::Off if should_run && self.begun => {
                    it.phase = Phase::Launching;
                    effects.push(Effect::Spawn(group));
                }
                Phase::Running { pid, .. } if !should_run => {
                    it.phase = stopping(pid, now + self.stop_limit);
                    effects.push(Effect::Terminate(group));
                }
                Phase::BackOff { .. } if !should_run => (it.phase, it.busy) = (Phase::Off, None),
                _ => {}
            }
        }
        self.groups.retain(|_, it| !(it.removed && it.phase == Phase::Off));
    }
}

impl Supervised {
    fn new(autostart: bool) -> Self {
        Self { autostart, phase: Phase::Off, deaths: 0, hold: None, busy: None, removed: false }
    }
}

fn stopping(pid: u32, until: Duration) -> Phase {
    Phase::Stopping { pid, until, killed: false, overdue: false }
}

fn notice(severity: Severity, group: &str, kind: Kind, text: String) -> Effect {
    Effect::Record(Notice { severity, group: Some(group.to_owned()), kind, text })
}
