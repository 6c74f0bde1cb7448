//! What the loop does: effects of the supervisor, words of people, events.

use std::collections::VecDeque;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::{Message, Running, Said};
use crate::event::{Entry, Hooked, Kind, Notice, Severity};
use crate::process::{Found, Launched, Process, find, judge, launch};
use crate::supervisor::{Effect, Event, Refusal, Word};
use crate::watch::Told;

/// How often people are told that somebody was turned away.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(60);

impl Running {
    /// Finds what was left running, then starts what should run.
    pub(super) async fn begin(&mut self) {
        let text = format!(
            "the manager of site \"{}\" begins as process {} with {} groups",
            self.settings.site,
            std::process::id(),
            self.settings.groups.len()
        );
        self.record(Notice::new(Severity::Info, Kind::ManagerStarted, text));
        self.find_strays().await;
        self.tell(Event::Tick).await;
    }

    /// Tells the supervisor and does what it says.
    pub(super) async fn tell(&mut self, event: Event) {
        let effects = self.supervisor.handle(self.now(), event);
        self.act(effects).await;
    }

    async fn act(&mut self, effects: Vec<Effect>) {
        let mut effects: VecDeque<_> = effects.into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Save => self.save(),
                Effect::Record(notice) => self.record(notice),
                Effect::Terminate(group) => self.signal(&group, Signal::TERM),
                Effect::Kill(group) => self.signal(&group, Signal::KILL),
                Effect::Spawn(group) => {
                    let event = self.spawn(group).await;
                    effects.extend(self.supervisor.handle(self.now(), event));
                }
            }
        }
    }

    async fn spawn(&mut self, group: String) -> Event {
        let Some(spec) = self.settings.groups.iter().find(|spec| spec.name == group).cloned() else {
            return Event::NotStarted { group, reason: "it is not configured".to_owned() };
        };
        match launch(&self.settings.state_directory, &self.reports, &spec).await {
            Launched::Started(process) => {
                let pid = process.pid;
                *self.starts.entry(group.clone()).or_default() += 1;
                self.keep(&group, process);
                Event::Started { group, pid }
            }
            Launched::Found(process) => {
                let pid = process.pid;
                self.keep(&group, process);
                Event::Found { group, pid }
            }
            Launched::Busy(holder) => Event::Busy { group, holder },
            Launched::Failed(reason) => Event::NotStarted { group, reason },
        }
    }

    /// Waits for a process in a task of its own.
    fn keep(&mut self, group: &str, process: Process) {
        let pid = process.pid;
        // One that was found has begun by an earlier word, which nobody knows: that of now is taken for it.
        self.in_force.insert(group.to_owned(), self.settings.keys.clone());
        match process.handle() {
            Ok(handle) => {
                self.processes.insert(group.to_owned(), (pid, handle));
            }
            Err(error) => tracing::error!(group, pid, %error, "no handle to send signals by"),
        }
        let spec = self.settings.groups.iter().find(|spec| spec.name == group).cloned();
        let (messages, group) = (self.messages.clone(), group.to_owned());
        let (directory, reports) = (self.settings.state_directory.clone(), self.reports.clone());
        tokio::spawn(async move {
            let how = process.ended().await;
            let name = group.clone();
            let judged =
                tokio::task::spawn_blocking(move || judge(&directory, &reports, &name, pid, how)).await;
            if let Ok(mut exit) = judged {
                if let Some(spec) = spec {
                    exit.failure = exit.failure.map(|failure| spec.in_turn(failure));
                }
                let _ = messages.send(Message::Ended { group, pid, exit }).await;
            }
        });
    }

    fn signal(&mut self, group: &str, signal: Signal) {
        let Some((pid, handle)) = self.processes.get(group) else { return };
        tracing::info!(group, pid, ?signal, "signal");
        if let Err(error) = handle.signal(signal) {
            let text = format!("cannot send a signal to process {pid}: {error}");
            self.record(Notice::new(Severity::Error, Kind::Trouble, text).of(group));
        }
    }

    /// Makes durable what people wish. What fails is told once, and tried again.
    pub(super) fn save(&mut self) {
        let path = self.settings.directory().join("desired.json");
        match self.supervisor.desired().save(&path) {
            Ok(()) => {
                if self.unsaved.take().is_some() {
                    let text = "what people wish is saved again";
                    self.record(Notice::new(Severity::Info, Kind::Cleared, text));
                }
            }
            Err(error) => {
                let text = format!(
                    "what people wish cannot be saved, and the next manager would not know it: {error}"
                );
                if self.unsaved.replace(error.to_string()).is_none() {
                    self.record(Notice::new(Severity::Error, Kind::Trouble, text));
                }
            }
        }
    }

    /// Logs an event, and tells the hook and whoever follows.
    pub(super) fn record(&mut self, notice: Notice) {
        let is_for_hook = notice.kind != Kind::HookFailed;
        match notice.severity {
            Severity::Info => tracing::info!(group = notice.group, kind = %notice.kind, "{}", notice.text),
            Severity::Warning => tracing::warn!(group = notice.group, kind = %notice.kind, "{}", notice.text),
            Severity::Error => tracing::error!(group = notice.group, kind = %notice.kind, "{}", notice.text),
        }
        let entry = Entry::now(notice);
        let written = self.log.append(&entry);
        let hook = self.settings.hook.as_ref();
        if let Some(hook) = hook.filter(|hook| is_for_hook && entry.notice.severity >= hook.severity) {
            self.hook.tell(Hooked { hook: hook.clone(), entry: entry.clone() });
        }
        let _ = self.events.send((self.log.count, entry));
        let was_failing = std::mem::replace(&mut self.log_is_failing, written.is_err());
        if let Err(error) = written
            && !was_failing
        {
            // Its own way to the log ends here as well; the hook and those who follow hear it.
            let text = format!("events cannot be written: {error}");
            self.record(Notice::new(Severity::Error, Kind::Trouble, text));
        }
    }

    pub(super) fn hook_failed(&mut self, reason: String) {
        self.failed_hooks += 1;
        self.record(Notice::new(Severity::Warning, Kind::HookFailed, reason));
    }

    /// Takes a message.
    pub(super) async fn take(&mut self, message: Message) {
        match message {
            Message::Say { group, word, by, reply } => {
                let outcome = self.say(&group, word, by).await;
                // Whoever is answered sees what follows from it.
                self.publish();
                let _ = reply.send(outcome);
            }
            Message::Recent { count, reply } => {
                let _ = reply.send((self.log.recent(count), self.log.count));
            }
            Message::Reload { reply } => {
                let _ = reply.send(self.reload().await);
            }
            Message::TurnedAway { reason } => self.turned_away(&reason),
            Message::Tell(notice) => self.record(notice),
            Message::Ended { group, pid, exit } => {
                // Another process may have been found since.
                if self.processes.get(&group).is_some_and(|(known, _)| *known == pid) {
                    self.processes.remove(&group);
                }
                if self.supervisor.groups().get(&group).is_some_and(|it| it.phase.pid() == Some(pid)) {
                    self.tell(Event::Exited { group, exit }).await;
                }
            }
        }
    }

    /// Each is logged; an event of it comes once a minute, or anybody could fill the log of events from afar.
    fn turned_away(&mut self, reason: &str) {
        tracing::warn!(reason, "turned away at the address for other sites");
        let now = Instant::now();
        let more = match &mut self.turned_away {
            Some((told, more)) if now.duration_since(*told) < TURNED_AWAY_EVERY => {
                *more += 1;
                return;
            }
            Some((_, more)) => std::mem::take(more),
            None => 0,
        };
        self.turned_away = Some((now, 0));
        let since = if more > 0 { format!(" ({more} more since the last one told)") } else { String::new() };
        let text = format!("turned away at the address for other sites: {reason}{since}");
        self.record(Notice::new(Severity::Warning, Kind::TurnedAway, text));
    }

    async fn say(&mut self, group: &str, word: Word, by: Option<String>) -> Result<Said, Refusal> {
        let (answer, effects) = self.supervisor.say(self.now(), group, word)?;
        let word = match word {
            Word::Start => "start",
            Word::Stop => "stop",
            Word::Restart => "restart",
            Word::Kill => "kill",
        };
        let by = by.map_or_else(String::new, |site| format!(" from site \"{site}\""));
        self.record(Notice::new(Severity::Info, Kind::Asked, format!("asked to {word}{by}")).of(group));
        self.act(effects).await;
        Ok(Said { answer, unsaved: self.unsaved.clone() })
    }

    /// Takes what the watch says.
    pub(super) async fn hear(&mut self, told: Told) {
        match told {
            Told::Notice(notice) => self.record(notice),
            Told::Hold { group, reason } => self.tell(Event::Hold { group, reason }).await,
            Told::Release { group } => self.tell(Event::Release { group }).await,
        }
    }

    pub(super) async fn shut_down(&mut self) {
        self.shutting_down = true;
        self.systemd.stopping();
        tracing::info!("the manager is asked to end");
        self.tell(Event::Shutdown).await;
    }

    /// What nobody tells: processes that somebody started by hand, reports that are full, wishes that are not saved.
    pub(super) async fn look_after(&mut self) {
        if self.unsaved.is_some() {
            self.save();
        }
        if self.hook.dropped > 0 {
            let text = format!("{} events were not told to the hook, which is too slow", self.hook.dropped);
            self.hook.dropped = 0;
            self.record(Notice::new(Severity::Warning, Kind::HookFailed, text));
        }
        for group in self.processes.keys() {
            if let Err(error) = self.reports.trim(group) {
                tracing::warn!(group, %error, "report");
            }
        }
        self.find_strays().await;
    }

    /// Finds processes of groups that have none by the supervisor's knowledge.
    async fn find_strays(&mut self) {
        let without = |(_, it): &(&String, &crate::supervisor::Supervised)| it.phase.pid().is_none();
        let names: Vec<_> =
            self.supervisor.groups().iter().filter(without).map(|(name, _)| name.clone()).collect();
        for group in names {
            let (directory, name) = (self.settings.state_directory.clone(), group.clone());
            match tokio::task::spawn_blocking(move || find(&directory, &name)).await {
                Ok(Ok(Found::Process(process))) => {
                    let pid = process.pid;
                    self.keep(&group, process);
                    self.tell(Event::Found { group, pid }).await;
                }
                Ok(Ok(Found::Nobody | Found::Other(_))) => {}
                Ok(Err(error)) => tracing::warn!(group, %error, "cannot look for its process"),
                Err(error) => tracing::warn!(group, %error, "cannot look for its process"),
            }
        }
    }
}
