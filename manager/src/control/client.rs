//! The other side of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Command, MAX_RESPONSE, Order, Outcome, Reply, Request, Response, VERSION};
use crate::error::Error;
use crate::event::Entry;
use crate::info::Info;
use crate::settings::{Difference, default_socket};
use crate::supervisor::Word;

/// How long a manager may take to answer what needs no waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a program talks to the manager of a site. Each question has a connection of its own.
#[derive(Clone, Debug)]
pub struct Control {
    site: String,
    socket: PathBuf,
    patience: Duration,
}

impl Control {
    /// The manager of a site that has this state directory.
    pub fn of(state_directory: &Path, site: &str) -> Self {
        Self::at(default_socket(state_directory, site), site)
    }

    /// The manager of a site that listens here.
    pub fn at(socket: impl Into<PathBuf>, site: &str) -> Self {
        Self { site: site.to_owned(), socket: socket.into(), patience: PATIENCE }
    }

    /// With another limit than ten seconds for each answer.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether a manager is there; its process id and release.
    ///
    /// # Errors
    /// [`Error::NotRunning`], and as all questions: [`Error::File`] for a socket that may not be opened,
    /// [`Error::Timeout`], [`Error::Conversation`], [`Error::Refused`].
    pub async fn ping(&self) -> Result<(u32, String), Error> {
        match self.ask(Command::Ping, self.patience).await? {
            Reply::Pong { pid, release, .. } => Ok((pid, release)),
            other => Err(self.odd(&other)),
        }
    }

    /// What there is to see.
    ///
    /// # Errors
    /// As [`Control::ping`].
    pub async fn info(&self) -> Result<Info, Error> {
        match self.ask(Command::Info, self.patience).await? {
            Reply::Info(info) => Ok(*info),
            other => Err(self.odd(&other)),
        }
    }

    /// Gives an order to groups and flows (all groups of the site if there is no name), and waits up to `wait` until it
    /// has been followed. An order that has not been followed by then is no error: [`Outcome::done`] says so.
    ///
    /// # Errors
    /// As [`Control::ping`]; [`Error::Refused`] for a name that is not known, and then nothing was done.
    ///
    /// Cancelling does not take the order back.
    pub async fn order(&self, word: Word, names: &[String], wait: Duration) -> Result<Vec<Outcome>, Error> {
        let order = Order { names: names.to_vec(), wait_seconds: wait.as_secs_f64() };
        let command = match word {
            Word::Start => Command::Start(order),
            Word::Stop => Command::Stop(order),
            Word::Restart => Command::Restart(order),
            Word::Kill => Command::Kill(order),
        };
        match self.ask(command, self.patience.saturating_add(wait)).await? {
            Reply::Done { outcomes } => Ok(outcomes),
            other => Err(self.odd(&other)),
        }
    }

    /// The last lines of a group's report.
    ///
    /// # Errors
    /// As [`Control::ping`].
    pub async fn report(&self, group: &str, lines: usize) -> Result<String, Error> {
        match self.ask(Command::Report { group: group.to_owned(), lines }, self.patience).await? {
            Reply::Report { text } => Ok(text),
            other => Err(self.odd(&other)),
        }
    }

    /// Has the settings read again.
    ///
    /// # Errors
    /// As [`Control::ping`]; [`Error::Refused`] for settings that cannot be, and then those before hold.
    pub async fn reload(&self) -> Result<Difference, Error> {
        match self.ask(Command::Reload, self.patience).await? {
            Reply::Reloaded(difference) => Ok(difference),
            other => Err(self.odd(&other)),
        }
    }

    /// The newest events, oldest first; with `follow`, those that come as well.
    ///
    /// # Errors
    /// As [`Control::ping`].
    pub async fn events(&self, count: usize, follow: bool) -> Result<Events, Error> {
        let mut events =
            Events { control: self.clone(), lines: self.connect().await?, follow, is_caught: false };
        self.say(&mut events.lines, Command::Events { count, follow }).await?;
        Ok(events)
    }

    async fn ask(&self, command: Command, limit: Duration) -> Result<Reply, Error> {
        let conversation = async {
            let mut lines = self.connect().await?;
            self.say(&mut lines, command).await?;
            self.hear(&mut lines).await
        };
        match timeout(limit, conversation).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::Timeout { site: self.site.clone(), doing: "answer", limit }),
        }
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, Error> {
        let connected = timeout(self.patience, UnixStream::connect(&self.socket)).await;
        let limit = self.patience;
        let connected = connected.map_err(|_| Error::Timeout {
            site: self.site.clone(),
            doing: "take a connection",
            limit,
        })?;
        match connected {
            Ok(stream) => Ok(BufReader::new(stream)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Err(Error::NotRunning { site: self.site.clone(), socket: self.socket.clone() })
            }
            Err(error) => Err(Error::file("connect to", &self.socket, error)),
        }
    }

    async fn say(&self, lines: &mut BufReader<UnixStream>, command: Command) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })
            .map_err(|error| self.broke(error.to_string()))?;
        line.push(b'\n');
        lines.get_mut().write_all(&line).await.map_err(|error| self.broke(error.to_string()))
    }

    /// The next answer. An error of the manager is ours.
    async fn hear(&self, lines: &mut BufReader<UnixStream>) -> Result<Reply, Error> {
        let mut line = Vec::new();
        let mut limited = lines.take(MAX_RESPONSE as u64);
        limited.read_until(b'\n', &mut line).await.map_err(|error| self.broke(error.to_string()))?;
        if !line.ends_with(b"\n") {
            let reason = if line.len() >= MAX_RESPONSE { "says too much" } else { "ended the conversation" };
            return Err(Error::Conversation { site: self.site.clone(), reason: reason.to_owned() });
        }
        #[derive(serde::Deserialize)]
        struct Header {
            version: u32,
        }
        let odd = |error: serde_json::Error| Error::Conversation {
            site: self.site.clone(),
            reason: format!("answers what cannot be understood: {error}"),
        };
        let header: Header = serde_json::from_slice(&line).map_err(odd)?;
        if header.version != VERSION {
            return Err(Error::Conversation {
                site: self.site.clone(),
                reason: format!("speaks version {}, and this is version {VERSION}", header.version),
            });
        }
        match serde_json::from_slice::<Response>(&line).map_err(odd)?.reply {
            Reply::Error { message, hint, transient } => Err(Error::Refused { message, hint, transient }),
            reply => Ok(reply),
        }
    }

    fn broke(&self, reason: String) -> Error {
        Error::Conversation { site: self.site.clone(), reason: format!("broke the conversation: {reason}") }
    }

    fn odd(&self, _reply: &Reply) -> Error {
        Error::Conversation { site: self.site.clone(), reason: "answers another question".to_owned() }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    control: Control,
    lines: BufReader<UnixStream>,
    follow: bool,
    is_caught: bool,
}

impl Events {
    /// The next event; `None` when those that were wanted have come. Not to be cancelled: what was read of a line would
    /// be lost.
    ///
    /// # Errors
    /// [`Error::Conversation`] when the manager ends; [`Error::Timeout`] while events that are there already do not
    /// come.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if self.is_caught && !self.follow {
                return Ok(None);
            }
            let heard =
                if self.is_caught {
                    self.control.hear(&mut self.lines).await?
                } else {
                    let limit = self.control.patience;
                    let site = self.control.site.clone();
                    timeout(limit, self.control.hear(&mut self.lines))
                        .await
                        .map_err(|_| Error::Timeout { site, doing: "tell its events", limit })??
                };
            match heard {
                Reply::Event(entry) => return Ok(Some(entry)),
                Reply::Caught { missed } => {
                    self.is_caught = true;
                    if missed > 0 {
                        tracing::warn!(missed, "events came faster than they were read");
                    }
                }
                other => return Err(self.control.odd(&other)),
            }
        }
    }
}
