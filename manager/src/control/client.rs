//! The other side: of the socket, or of another site's address.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_checkpoint::Status;
use irongate_deployment::configuration::HookName;
use irongate_pump::{LinkSettings, Secure};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Caller, Command, MAX_RESPONSE, Order, Outcome, Reply, Request, Response, VERSION};
use crate::error::Error;
use crate::event::Entry;
use crate::hook::{Context, HookReport, HookState};
use crate::info::Info;
use crate::settings::{Difference, default_socket};
use crate::supervisor::Word;

/// How long a manager may take to answer what needs no waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a program talks to the manager of a site. Each question has a connection of its own.
#[derive(Clone, Debug)]
pub struct Control {
    site: String,
    way: Way,
    patience: Duration,
}

/// How the manager is reached.
#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    Link { address: String, link: Box<LinkSettings>, caller: Caller },
}

/// What both ways are made of.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A conversation.
struct Lines {
    stream: BufReader<Box<dyn Stream>>,
    /// Of another site's manager.
    address: Option<SocketAddr>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Control {
    /// The manager of a site that has this state directory.
    pub fn of(state_directory: &Path, site: &str) -> Self {
        Self::at(default_socket(state_directory, site), site)
    }

    /// The manager of a site that listens here.
    pub fn at(socket: impl Into<PathBuf>, site: &str) -> Self {
        Self { site: site.to_owned(), way: Way::Socket(socket.into()), patience: PATIENCE }
    }

    /// The manager of another site, at `host:port`, with this site's certificate.
    pub fn from_afar(address: impl Into<String>, link: LinkSettings, caller: Caller) -> Self {
        let site = caller.to.clone();
        Self {
            site,
            way: Way::Link { address: address.into(), link: Box::new(link), caller },
            patience: PATIENCE,
        }
    }

    /// The manager's site.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// With another limit than ten seconds for each answer.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether a manager is there; its process id and release.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or [`Error::Link`] where another site's manager cannot be reached or does not take this
    /// site's certificate; and as all questions: [`Error::File`] for a socket that may not be opened,
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

    /// What groups and flows have done (all groups of the site if there is no name), as their status files say it.
    ///
    /// # Errors
    /// As [`Control::ping`]; [`Error::Refused`] for a name that is not known.
    pub async fn stats(&self, names: &[String]) -> Result<Vec<Status>, Error> {
        match self.ask(Command::Stats { names: names.to_vec() }, self.patience).await? {
            Reply::Stats { statuses } => Ok(statuses),
            other => Err(self.odd(&other)),
        }
    }

    /// The hooks of runs that are configured there, and whether they could be run.
    ///
    /// # Errors
    /// As [`Control::ping`].
    pub async fn hooks(&self) -> Result<Vec<HookState>, Error> {
        match self.ask(Command::Hooks, self.patience).await? {
            Reply::Hooks { hooks } => Ok(hooks),
            other => Err(self.odd(&other)),
        }
    }

    /// Has a hook run to its end there, at most for as long as is configured there. One that fails is no error: its report
    /// says so. None is configured: `None`.
    ///
    /// # Errors
    /// As [`Control::ping`]; [`Error::Refused`] for one that runs already.
    ///
    /// Cancelling does not end the hook.
    pub async fn run_hook(&self, hook: HookName, context: Context) -> Result<Option<HookReport>, Error> {
        let hooks = self.hooks().await?;
        let Some(state) = hooks.into_iter().find(|state| state.hook == hook) else { return Ok(None) };
        let limit = Duration::try_from_secs_f64(state.limit_seconds).unwrap_or(Duration::MAX);
        match self.ask(Command::Hook { hook, context }, self.patience.saturating_add(limit)).await? {
            Reply::Hooked(report) => Ok(Some(report)),
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

    async fn connect(&self) -> Result<Lines, Error> {
        let limit = self.patience;
        let connected = timeout(limit, async {
            match &self.way {
                Way::Socket(socket) => self.open(socket).await,
                Way::Link { address, link, caller } => {
                    let secure = Secure::connect(address, &caller.to, link).await?;
                    let address = Some(secure.address());
                    Ok(Lines { stream: BufReader::new(Box::new(secure)), address })
                }
            }
        });
        let late = |_| Error::Timeout { site: self.site.clone(), doing: "take a connection", limit };
        connected.await.map_err(late)?
    }

    async fn open(&self, socket: &Path) -> Result<Lines, Error> {
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Lines { stream: BufReader::new(Box::new(stream)), address: None }),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Err(Error::NotRunning { site: self.site.clone(), socket: socket.to_owned() })
            }
            Err(error) => Err(Error::file("connect to", socket, error)),
        }
    }

    async fn say(&self, lines: &mut Lines, command: Command) -> Result<(), Error> {
        let caller = match &self.way {
            Way::Socket(_) => None,
            Way::Link { caller, .. } => Some(caller.clone()),
        };
        let mut line = serde_json::to_vec(&Request { version: VERSION, caller, command })
            .map_err(|error| self.broke(lines, io::Error::from(error)))?;
        line.push(b'\n');
        let said = async {
            lines.stream.write_all(&line).await?;
            lines.stream.flush().await
        };
        said.await.map_err(|error| self.broke(lines, error))
    }

    /// The next answer. An error of the manager is ours.
    async fn hear(&self, lines: &mut Lines) -> Result<Reply, Error> {
        let mut line = Vec::new();
        let mut limited = (&mut lines.stream).take(MAX_RESPONSE as u64);
        let read = limited.read_until(b'\n', &mut line).await;
        read.map_err(|error| self.broke(lines, error))?;
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

    fn broke(&self, lines: &Lines, error: io::Error) -> Error {
        match lines.address {
            // With TLS 1.3 the other side looks at our certificate behind the handshake.
            Some(address) => Error::Link(Secure::explain(&self.site, address, error)),
            None => Error::Conversation {
                site: self.site.clone(),
                reason: format!("broke the conversation: {error}"),
            },
        }
    }

    fn odd(&self, _reply: &Reply) -> Error {
        Error::Conversation { site: self.site.clone(), reason: "answers another question".to_owned() }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    control: Control,
    lines: Lines,
    follow: bool,
    is_caught: bool,
}

impl Events {
    /// The next one of those that were there when they were asked for; `None` when they have come.
    ///
    /// # Errors
    /// As [`Events::next`].
    pub async fn next_known(&mut self) -> Result<Option<Entry>, Error> {
        while !self.is_caught {
            if let Some(entry) = self.step().await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

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
            if let Some(entry) = self.step().await? {
                return Ok(Some(entry));
            }
        }
    }

    /// Hears one line; `None` for one that is no event.
    async fn step(&mut self) -> Result<Option<Entry>, Error> {
        let heard = if self.is_caught {
            self.control.hear(&mut self.lines).await?
        } else {
            let limit = self.control.patience;
            let site = self.control.site.clone();
            timeout(limit, self.control.hear(&mut self.lines)).await.map_err(|_| Error::Timeout {
                site,
                doing: "tell its events",
                limit,
            })??
        };
        match heard {
            Reply::Event(entry) => Ok(Some(entry)),
            Reply::Caught { missed } => {
                self.is_caught = true;
                if missed > 0 {
                    tracing::warn!(missed, "events came faster than they were read");
                }
                Ok(None)
            }
            other => Err(self.control.odd(&other)),
        }
    }
}
