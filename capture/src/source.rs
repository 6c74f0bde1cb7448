//! The way into a stream: connect, ask, check, start.

use std::time::Duration;

use irongate_postgres::{Endpoint, ReplicationConnection};
use irongate_trail::{CommitLsn, Lineage, ResumeLsn};

use crate::error::Error;
use crate::facts;
use crate::feedback::{Feedback, Pace};
use crate::machine::{self, Machine};
use crate::options::{self, Wanted};
use crate::pgoutput::{Decoder, Streaming};
use crate::positions::{self, Own, Server, Start};
use crate::run::Stream;

/// Which stream to read, and how.
#[derive(Clone, Debug)]
pub struct Source {
    /// The database, with a role that may replicate.
    pub endpoint: Endpoint,
    /// The name by which the server's views, and `synchronous_standby_names`, know the connection.
    pub application_name: String,
    /// The slot: logical, `pgoutput`, without `two_phase`.
    pub slot: String,
    /// The site of the database, where one site writes it at a time: Extract asks the database whether it is this one's
    /// turn. `None` asks nothing.
    pub site: Option<String>,
    /// What is published.
    pub publications: Vec<String>,
    /// Whether transactions in progress may come before their end, where that leaves no doubt of their origin
    /// ([`options::Chosen::streaming`]). A sink without side storage needs [`Streaming::Off`].
    pub streaming: Streaming,
    /// Values in binary, as long as every published column has a type of [`crate::binary::is_safe`].
    pub binary: bool,
    /// Filter, and rhythm of progress records. [`machine::Settings::binary`] is set by what was negotiated.
    pub machine: machine::Settings,
    /// Shortest time between two statuses that nobody asked for. Zero for a synchronous standby, whose every commit
    /// waits for one.
    pub status_interval: Duration,
    /// After so long without a byte the server counts as gone; but never before twice its `wal_sender_timeout`, because
    /// while it decodes a large transaction it may not look for questions sooner.
    pub silence: Duration,
}

impl Source {
    /// A source with usual settings: transactions in progress, values as text, nothing that has an origin.
    pub fn new(endpoint: Endpoint, slot: impl Into<String>, publications: Vec<String>) -> Self {
        let slot = slot.into();
        Self {
            endpoint,
            application_name: format!("irongate {slot}"),
            slot,
            site: None,
            publications,
            streaming: Streaming::On,
            binary: false,
            machine: machine::Settings::default(),
            status_interval: Duration::from_millis(100),
            silence: Duration::from_secs(60),
        }
    }

    /// Connects and asks what must be known before the start. Cancel-safe in that a dropped call leaves nothing but a
    /// closed connection.
    ///
    /// # Errors
    /// [`Error::Postgres`], [`Error::NoPublication`].
    pub(crate) async fn connect(&self) -> Result<Connected, Error> {
        self.ask(self.reach().await?).await
    }

    /// The first half of that: the server is there, and lets us in.
    ///
    /// # Errors
    /// [`Error::Postgres`].
    pub(crate) async fn reach(&self) -> Result<ReplicationConnection, Error> {
        Ok(ReplicationConnection::connect(&self.endpoint, &self.application_name).await?)
    }

    /// The second half. What is asked is judged by where the trail is, and so is not asked before that is known.
    ///
    /// # Errors
    /// As for [`Source::connect`].
    pub(crate) async fn ask(&self, mut connection: ReplicationConnection) -> Result<Connected, Error> {
        let identity = connection.identify_system().await?;
        let server = Server {
            system_identifier: identity.system_identifier,
            timeline: identity.timeline,
            wal_end: identity.wal_position,
            database: identity.database.unwrap_or_default(),
        };
        let facts = facts::ask(&mut connection, &self.slot, &self.publications).await?;
        Ok(Connected { connection, server, facts })
    }
}

/// A connection that is not streaming yet.
#[derive(Debug)]
pub(crate) struct Connected {
    connection: ReplicationConnection,
    pub(crate) server: Server,
    pub(crate) facts: facts::Facts,
}

impl Connected {
    /// `server_version_num`.
    pub(crate) fn version(&self) -> u32 {
        self.connection.server_version_num()
    }

    /// The lineage that a reader without a record of its own takes for granted.
    pub(crate) fn lineage(&self) -> Lineage {
        Lineage {
            system_identifier: self.server.system_identifier,
            timeline: self.server.timeline,
            slot_incarnation: irongate_trail::Lsn::ZERO,
        }
    }

    /// Whether the stream may begin, and where.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NoPublication`], [`Error::Postgres`].
    pub(crate) async fn check(&mut self, source: &Source, own: &Own) -> Result<Start, Error> {
        // Before the slot is looked for: a site that is not live any more has none, and that is not what is wrong.
        self.epoch(source)?;
        let history = if self.server.timeline == own.lineage.timeline {
            Vec::new()
        } else {
            self.connection.timeline_history(self.server.timeline).await?
        };
        let start = positions::check(&source.slot, &self.server, &history, self.facts.slot.as_ref(), own)?;
        if let Some(name) = self.facts.missing_publications.first() {
            return Err(Error::NoPublication { name: name.clone() });
        }
        // Up to 17 the server then fails. From 18 on it leaves out, with a warning in its own log, what was changed while
        // the publication was not there. An altered option looks the same, so this cannot be a refusal.
        for publication in &self.facts.young_publications {
            tracing::warn!(
                publication,
                slot = source.slot,
                "the publication was made or altered after the slot's place; if it was made again, changes before that are left out by the server: compare"
            );
        }
        Ok(start)
    }

    /// The epoch in which the database is written here, if it says so.
    ///
    /// # Errors
    /// [`Error::NotLive`] when it is another site's turn.
    pub(crate) fn epoch(&self, source: &Source) -> Result<Option<u64>, Error> {
        let (Some(role), Some(site)) = (&self.facts.role, &source.site) else { return Ok(None) };
        let refused = || Error::NotLive { site: site.clone(), live: role.live.clone(), epoch: role.epoch };
        role.admits(site).ok_or_else(refused).map(Some)
    }

    /// Starts the stream at `at`, the sink's last commit being `last_commit`.
    ///
    /// # Errors
    /// [`Error::Postgres`], [`Error::Version`].
    pub(crate) async fn start(
        self,
        source: &Source,
        at: ResumeLsn,
        last_commit: CommitLsn,
    ) -> Result<Stream, Error> {
        let binary = source.binary && self.facts.binary_safe;
        let wanted = Wanted {
            streaming: source.streaming,
            binary,
            skip_origins: &source.machine.skip_origins,
            foreign_origins: self.facts.foreign_origins,
        };
        let version = self.version();
        let chosen = options::choose(version, &source.publications, wanted)?;
        let options: Vec<(&str, &str)> =
            chosen.options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let host = self.connection.host().to_owned();
        let (reader, writer) = self.connection.start_logical(&source.slot, at.0, &options).await?.split();
        let in_progress = chosen.streaming != Streaming::Off;
        tracing::info!(host, version, slot = source.slot, start = %at, binary, in_progress, "streaming");
        let settings = machine::Settings { binary, ..source.machine.clone() };
        let pace = Pace::new(self.facts.wal_sender_timeout, source.status_interval);
        Ok(Stream {
            reader,
            decoder: Decoder::new(chosen.streaming),
            machine: Machine::new(settings, at, last_commit),
            feedback: Feedback::start(writer, at, pace),
            silence: source.silence.max(self.facts.wal_sender_timeout * 2),
        })
    }
}
