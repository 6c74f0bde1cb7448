//! How programs talk to a manager: JSON lines over a unix socket, or from another site over TLS.
//!
//! Each line is one JSON object with the version of this protocol. A client sends one [`Request`] and reads
//! [`Response`]s: one, or for events one each until it goes away. A manager of another version answers an error that
//! names both. The socket and its directory are for the owner of the manager only; whoever can open it may do anything
//! that the manager can.
//!
//! From another site the same is said over TLS 1.3, with the authority and the certificates of the pumps: each side shows
//! its site's certificate, and the request names its [`Caller`]. The manager believes a caller what its certificate says;
//! settings say whether other sites may give orders or only look. The address is the manager's own and not the
//! collector's: who is stopped can then still be started from afar, and a site to which no flow comes has a manager too.

mod client;
mod remote;
mod server;

use irongate_checkpoint::Status;
use irongate_deployment::configuration::HookName;
use serde::{Deserialize, Serialize};

pub use client::{Control, Events};
pub(crate) use remote::RemoteServer;
pub(crate) use server::Server;

use crate::event::{Entry, Severity};
use crate::hook::{Context, HookReport, HookState};
use crate::info::Info;
use crate::settings::Difference;
use crate::supervisor::Answer;

/// The protocol that this release speaks.
pub const VERSION: u32 = 1;
/// Longest request, in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// Longest response, in bytes.
const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// A question or an order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The protocol's version.
    pub version: u32,
    /// Who asks; needed of another site only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// What is wanted.
    #[serde(flatten)]
    pub command: Command,
}

/// Who asks, and whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// The deployment that both belong to.
    pub deployment: String,
    /// The site that asks: its certificate bears this name.
    pub site: String,
    /// The site that is asked.
    pub to: String,
}

/// What is wanted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Whether somebody is there.
    Ping,
    /// What there is to see.
    Info,
    /// Groups and flows should run.
    Start(Order),
    /// Groups and flows should stop.
    Stop(Order),
    /// Groups and flows should stop and run again.
    Restart(Order),
    /// Groups and flows should end at once.
    Kill(Order),
    /// Events.
    Events {
        /// So many of the newest.
        count: usize,
        /// And those that come.
        #[serde(default)]
        follow: bool,
    },
    /// The end of a group's report.
    Report {
        /// The group.
        group: String,
        /// So many lines.
        lines: usize,
    },
    /// What groups have done, by table.
    Stats {
        /// Groups and flows; all groups of the site if empty.
        names: Vec<String>,
    },
    /// Reading the settings again.
    Reload,
    /// Which hooks of runs there are, and whether they could be run.
    Hooks,
    /// Running one of them: that which is configured there under this name.
    Hook {
        /// The hook.
        hook: HookName,
        /// What it is told.
        context: Context,
    },
}

impl Command {
    /// Whether it only looks.
    pub fn is_question(&self) -> bool {
        match self {
            Self::Ping
            | Self::Info
            | Self::Events { .. }
            | Self::Report { .. }
            | Self::Stats { .. }
            | Self::Hooks => true,
            Self::Start(_)
            | Self::Stop(_)
            | Self::Restart(_)
            | Self::Kill(_)
            | Self::Reload
            | Self::Hook { .. } => false,
        }
    }
}

/// An order to groups.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// Groups and flows; all groups of the site if empty.
    pub names: Vec<String>,
    /// How long to wait until the order has been followed, in seconds; 0 answers at once.
    #[serde(default)]
    pub wait_seconds: f64,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Response {
    /// The protocol's version.
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Command::Ping`].
    Pong {
        /// The manager's site.
        site: String,
        /// Its process.
        pid: u32,
        /// Its release.
        release: String,
    },
    /// To [`Command::Info`].
    Info(Box<Info>),
    /// To orders.
    Done {
        /// What came of it, by group.
        outcomes: Vec<Outcome>,
    },
    /// To [`Command::Events`], one for each.
    Event(Entry),
    /// To [`Command::Events`], after those that were there already.
    Caught {
        /// Events that were missed because they came faster than they were read.
        missed: u64,
    },
    /// To [`Command::Report`].
    Report {
        /// The lines.
        text: String,
    },
    /// To [`Command::Stats`].
    Stats {
        /// What each group says of itself.
        statuses: Vec<Status>,
    },
    /// To [`Command::Reload`].
    Reloaded(Difference),
    /// To [`Command::Hooks`].
    Hooks {
        /// Those that are configured.
        hooks: Vec<HookState>,
    },
    /// To [`Command::Hook`], when it has ended.
    Hooked(HookReport),
    /// It was not done.
    Error {
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whether trying again can help.
        transient: bool,
    },
}

/// What came of an order to a group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The group.
    pub group: String,
    /// What was begun.
    pub answer: Answer,
    /// Whether it has come to that: it runs, or it has ended. `false` if it was not waited for, or not long enough.
    pub done: bool,
    /// What it is doing, or why it is not done.
    pub doing: String,
    /// The least that a person should make of it.
    pub severity: Severity,
    /// Why the next manager would not know of the order.
    pub unsaved: Option<String>,
}
