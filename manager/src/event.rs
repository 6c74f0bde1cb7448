//! What people and programs are told: events, and the log that keeps them.

mod hook;
mod log;

use std::fmt;

use irongate_trail::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use hook::{Hooked, Runner};
pub(crate) use log::{EventLog, RECENT, numbered, rotate};

/// How grave an event is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look at it.
    Warning,
    /// Somebody must do something.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What kind of event it is, for programs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A manager began.
    ManagerStarted,
    /// A manager ended as asked.
    ManagerStopped,
    /// The settings were read again.
    Reloaded,
    /// A person said something.
    Asked,
    /// A group's process began.
    Started,
    /// A process was found running.
    Adopted,
    /// A group waits for its lock.
    Waiting,
    /// A process ended that should be there; it is started again.
    Died,
    /// A group is not tried again.
    Abended,
    /// A process ended as asked.
    Stopped,
    /// A process does not end as asked.
    NotStopping,
    /// A group rests until something is better.
    Held,
    /// A group rests no longer.
    Released,
    /// A value is too much.
    Alarm,
    /// A value is good again.
    Cleared,
    /// Files of a trail were removed.
    Purged,
    /// Somebody at the address for other sites was not let in.
    TurnedAway,
    /// The hook failed.
    HookFailed,
    /// A run had a hook executed here.
    HookRan,
    /// The manager cannot write or read what it should.
    Trouble,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The same word as in JSON.
        self.serialize(f)
    }
}

/// An event before it has a time. Holds no row value and no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// How grave it is.
    pub severity: Severity,
    /// The group that it is about.
    #[serde(default)]
    pub group: Option<String>,
    /// What kind of event it is.
    pub kind: Kind,
    /// What happened, in one sentence.
    pub text: String,
}

impl Notice {
    /// An event that is about no group.
    pub(crate) fn new(severity: Severity, kind: Kind, text: impl Into<String>) -> Self {
        Self { severity, group: None, kind, text: text.into() }
    }

    /// The same about a group.
    pub(crate) fn of(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }
}

/// An event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When, in RFC 3339 and UTC.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub notice: Notice,
}

impl Entry {
    pub(crate) fn now(notice: Notice) -> Self {
        Self { time: Timestamp::now().to_string(), notice }
    }
}
