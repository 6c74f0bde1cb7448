//! What a person can say about a group, and what is answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Effect, Phase, Supervisor, Wish, notice, stopping};
use crate::event::{Kind, Severity};

/// What a person says about a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word {
    /// It should run.
    Start,
    /// It should end at the next boundary, and not run.
    Stop,
    /// It should end at the next boundary and run again.
    Restart,
    /// It should end at once, and not run.
    Kill,
}

/// What comes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A process is being started.
    Starting,
    /// It runs already.
    AlreadyRunning,
    /// It will run when what holds it back is over.
    Waiting,
    /// Its process was asked to end.
    Stopping,
    /// Its process was asked to end, and the next one follows.
    Restarting,
    /// It does not run anyway, and will not.
    AlreadyStopped,
    /// It had abended, or waited for its next attempt, and is stopped now.
    Stopped,
    /// Its process was ended.
    Killing,
}

/// Why nothing was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such group at this site.
    Unknown,
    /// The manager is ending.
    ShuttingDown,
}

impl Supervisor {
    /// Takes a person's word about a group at `now`. What is wished for is saved by the first effect, before it is
    /// acted upon.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub fn say(&mut self, now: Duration, group: &str, word: Word) -> Result<(Answer, Vec<Effect>), Refusal> {
        if self.shutting_down {
            return Err(Refusal::ShuttingDown);
        }
        if self.groups.get(group).is_none_or(|it| it.removed) {
            return Err(Refusal::Unknown);
        }
        let mut effects = Vec::new();
        let before = self.desired.clone();
        let has_wish = self.wish(group) == Wish::Run;
        let noted = self.desired.groups.entry(group.to_owned()).or_default();
        noted.wish = Some(if matches!(word, Word::Start | Word::Restart) { Wish::Run } else { Wish::Stop });
        let abended = noted.abended.take();
        if self.desired != before {
            effects.push(Effect::Save);
        }
        let limit = now + self.stop_limit;
        let Some(it) = self.groups.get_mut(group) else { return Err(Refusal::Unknown) };
        let answer = match (&mut it.phase, word) {
            (Phase::Running { .. } | Phase::Launching, Word::Start) => Answer::AlreadyRunning,
            (Phase::Stopping { .. }, Word::Start | Word::Restart) => Answer::Restarting,
            (Phase::Off | Phase::BackOff { .. }, Word::Start | Word::Restart) => {
                (it.phase, it.deaths) = (Phase::Off, 0);
                if it.hold.is_some() { Answer::Waiting } else { Answer::Starting }
            }
            (Phase::Launching, Word::Restart) => Answer::Starting,
            (Phase::Running { pid, .. }, Word::Restart) => {
                it.phase = stopping(*pid, limit);
                it.deaths = 0;
                effects.push(Effect::Terminate(group.to_owned()));
                Answer::Restarting
            }
            (Phase::Off | Phase::BackOff { .. }, Word::Stop | Word::Kill) => {
                let is_between = matches!(it.phase, Phase::BackOff { .. });
                it.deaths = 0;
                match &abended {
                    Some(failure) => {
                        let text = format!("stopped; it had abended: {}", failure.message);
                        effects.push(notice(Severity::Info, group, Kind::Stopped, text));
                        Answer::Stopped
                    }
                    None if is_between && has_wish => Answer::Stopped,
                    None => Answer::AlreadyStopped,
                }
            }
            // Settling, or the answer to the launch, does the rest.
            (Phase::Launching | Phase::Running { .. } | Phase::Stopping { .. }, Word::Stop) => {
                Answer::Stopping
            }
            (Phase::Launching, Word::Kill) => Answer::Stopping,
            (Phase::Running { pid, .. } | Phase::Stopping { pid, .. }, Word::Kill) => {
                it.phase = Phase::Stopping { pid: *pid, until: limit, killed: true, overdue: false };
                effects.push(Effect::Kill(group.to_owned()));
                Answer::Killing
            }
        };
        self.settle(now, &mut effects);
        Ok((answer, effects))
    }
}
