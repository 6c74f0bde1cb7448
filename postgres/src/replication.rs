//! The replication connection: a walsender session of a database (PostgreSQL manual, "Streaming Replication
//! Protocol" and "Logical Streaming Replication Protocol").

mod buffer;
mod frames;
mod low_water;
mod pace;
mod status;

use std::fmt::Write as _;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use irongate_trail::Lsn;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

pub use frames::{Frame, FrameReader, Notice};
pub use status::StatusWriter;

use crate::connect::wire::Wire;
use crate::connect::{self, Kind};
use crate::endpoint::Endpoint;
use crate::error::{Error, ServerError};
use crate::session::{Canceller, version_num};
use crate::sql::quote_identifier;

/// The output plugin: the one that every server has and allows.
pub const OUTPUT_PLUGIN: &str = "pgoutput";

/// The first version with slots that follow a failover.
const FAILOVER_SLOTS: u32 = 17;

/// A walsender session, connected to a database, that is not streaming.
///
/// Not cancel-safe: a call that was not awaited to its end leaves the connection in the middle of an answer, and it
/// must be dropped.
pub struct ReplicationConnection {
    wire: Wire,
    host: String,
    server_version: String,
    server_version_num: u32,
    process_id: i32,
    canceller: Canceller,
}

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SystemIdentity {
    /// The cluster's identifier, made by initdb; the same in all copies of the cluster.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// The end of what is flushed to the write-ahead log.
    pub wal_position: Lsn,
    /// The database that the connection is for.
    pub database: Option<String>,
}

/// What becomes of the snapshot of a slot that is being created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotOption {
    /// It is exported, to be imported by other sessions with `SET TRANSACTION SNAPSHOT`. It lives until the next
    /// command on this connection, or its end.
    Export,
    /// It is thrown away.
    #[default]
    Nothing,
}

/// How a slot is created. Never with `two_phase`: prepared transactions then arrive whole, at COMMIT PREPARED.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotOptions {
    /// It vanishes with this connection.
    pub temporary: bool,
    /// What becomes of its snapshot.
    pub snapshot: SnapshotOption,
    /// It is to be synchronised to standbys (servers from 17).
    pub failover: bool,
}

/// A slot that was created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedSlot {
    /// Transactions that commit before it are in the snapshot, those after it in the stream.
    pub consistent_point: Lsn,
    /// The exported snapshot's name.
    pub snapshot_name: Option<String>,
}

/// Rows in text form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextRows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows; NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
}

impl TextRows {
    fn value(&self, row: usize, column: usize) -> Result<Option<&str>, Error> {
        self.rows
            .get(row)
            .and_then(|row| row.get(column))
            .map(Option::as_deref)
            .ok_or_else(|| Error::protocol("an answer with too few rows or columns"))
    }

    fn parsed<T: std::str::FromStr>(&self, row: usize, column: usize) -> Result<T, Error> {
        self.value(row, column)?
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::protocol("an answer whose value is not of the expected form"))
    }
}

impl ReplicationConnection {
    /// Connects. `application_name` is how the server's views show the session, and what
    /// `synchronous_standby_names` can name, unless the address gives another.
    pub async fn connect(endpoint: &Endpoint, application_name: &str) -> Result<Self, Error> {
        let connection = connect::connect(endpoint, application_name, Kind::LogicalReplication).await?;
        let server_version = connection.parameters.get("server_version").cloned().unwrap_or_default();
        Ok(Self {
            server_version_num: version_num(&server_version)?,
            server_version,
            wire: connection.wire,
            host: connection.host,
            process_id: connection.process_id,
            canceller: Canceller::new(connection.route, connection.process_id, connection.secret_key),
        })
    }

    /// The server that answered, as `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The server's version as it prints it.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The server's version as a number, such as 150018.
    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// The walsender's process id, as `pg_stat_replication` shows it.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// What cancels the command that this connection is running, from anywhere. Creating a slot may wait for long, and
    /// a walsender that waits does not notice that its client has gone.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Who the server is and where it stands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_identifier: rows.parsed(0, 0)?,
            timeline: rows.parsed(0, 1)?,
            wal_position: rows.parsed(0, 2)?,
            database: rows.value(0, 3)?.map(ToOwned::to_owned),
        })
    }

    /// The timelines that `timeline` descends from, each with the position at which it was left; oldest first. The
    /// first timeline descends from none.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<(u32, Lsn)>, Error> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        parse_history(rows.value(0, 1)?.unwrap_or_default())
    }

    /// Creates a logical slot. Waits until every transaction that is writing at this moment has ended, prepared ones
    /// included; [`catalog::writers`](crate::catalog::writers) names them. To give up, use the
    /// [canceller](Self::canceller) and let the call come to its end: the slot is then not there.
    pub async fn create_logical_slot(
        &mut self,
        name: &str,
        options: SlotOptions,
    ) -> Result<CreatedSlot, Error> {
        if options.failover && self.server_version_num < FAILOVER_SLOTS * 10_000 {
            return Err(Error::Version {
                what: "a slot that is synchronised to standbys",
                needed: FAILOVER_SLOTS,
                version_num: self.server_version_num,
            });
        }
        let mut command = format!("CREATE_REPLICATION_SLOT {}", quote_identifier(name));
        if options.temporary {
            command.push_str(" TEMPORARY");
        }
        let snapshot = match options.snapshot {
            SnapshotOption::Export => "export",
            SnapshotOption::Nothing => "nothing",
        };
        let _ = write!(command, " LOGICAL {} (SNAPSHOT '{snapshot}'", quote_identifier(OUTPUT_PLUGIN));
        if options.failover {
            command.push_str(", FAILOVER true");
        }
        command.push(')');
        let rows = self.query(&command).await?;
        Ok(CreatedSlot {
            consistent_point: rows.parsed(0, 1)?,
            snapshot_name: rows.value(0, 2)?.map(ToOwned::to_owned),
        })
    }

    /// Drops a slot; with `wait`, waits until nobody uses it any more, else a slot in use is an error (SQLSTATE
    /// 55006).
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<(), Error> {
        let wait = if wait { " WAIT" } else { "" };
        self.query(&format!("DROP_REPLICATION_SLOT {}{wait}", quote_identifier(name))).await?;
        Ok(())
    }

    /// Runs a replication command or SQL by the simple protocol. Of several result sets the last one's rows are
    /// returned.
    pub async fn query(&mut self, command: &str) -> Result<TextRows, Error> {
        self.send_query(command).await?;
        let mut rows = TextRows::default();
        let mut failure = None;
        loop {
            match self.wire.receive().await? {
                Message::RowDescription(body) => {
                    rows.columns =
                        body.fields().map(|field| Ok(field.name().to_owned())).collect().map_err(bad)?;
                    rows.rows.clear();
                }
                Message::DataRow(body) => {
                    let buffer = body.buffer();
                    let text = |range: Option<std::ops::Range<usize>>| {
                        Ok(range
                            .and_then(|range| buffer.get(range))
                            .map(|value| String::from_utf8_lossy(value).into_owned()))
                    };
                    rows.rows.push(body.ranges().map(text).collect().map_err(bad)?);
                }
                Message::ErrorResponse(body) => failure = Some(ServerError::from_fields(body.fields())),
                Message::ReadyForQuery(_) => return failure.map_or(Ok(rows), |error| Err(error.into())),
                Message::CommandComplete(_) | Message::EmptyQueryResponse | Message::ParameterStatus(_) => {}
                _ => return Err(Error::protocol("an answer that does not belong to a query")),
            }
            // After a fatal error nothing more comes but the end.
            if failure.as_ref().is_some_and(|error| matches!(error.severity(), "FATAL" | "PANIC")) {
                return Err(failure.take().map_or(Error::Closed(None), Into::into));
            }
        }
    }

    async fn send_query(&mut self, command: &str) -> Result<(), Error> {
        let mut buf = BytesMut::new();
        frontend::query(command, &mut buf).map_err(|_| Error::protocol("a command with a NUL character"))?;
        self.wire.send(&buf).await
    }

    /// Starts streaming a slot from `start`, or from what the slot has confirmed if that is later. `options` are the
    /// output plugin's.
    ///
    /// What the server does with `start`: an older position than the slot's confirmed one is moved forward silently,
    /// a newer one skips what lies between. The caller compares before.
    pub async fn start_logical(
        mut self,
        slot: &str,
        start: Lsn,
        options: &[(&str, &str)],
    ) -> Result<CopyBoth, Error> {
        let mut command = format!("START_REPLICATION SLOT {} LOGICAL {start}", quote_identifier(slot));
        for (i, (name, value)) in options.iter().enumerate() {
            let lead = if i == 0 { " (" } else { ", " };
            let _ = write!(command, "{lead}{} {}", quote_identifier(name), quote_value(value));
        }
        if !options.is_empty() {
            command.push(')');
        }
        self.send_query(&command).await?;
        loop {
            match self.receive_start().await? {
                Some(Start::Streaming) => break,
                Some(Start::Failed(error)) => return Err(Error::Server(error)),
                None => {}
            }
        }
        let socket = self.wire.stream.tcp_socket();
        let (read, write) = self.wire.stream.split();
        Ok(CopyBoth {
            reader: FrameReader::new(read, socket, &self.wire.unread),
            writer: StatusWriter::new(write),
        })
    }

    /// postgres-protocol knows no CopyBothResponse, so the answer to START_REPLICATION is looked at before it is
    /// parsed.
    async fn receive_start(&mut self) -> Result<Option<Start>, Error> {
        const COPY_BOTH_RESPONSE: u8 = b'W';
        while self.wire.unread.len() < 5 {
            self.wire.fill().await?;
        }
        if self.wire.unread[0] == COPY_BOTH_RESPONSE {
            let length = u32::from_be_bytes([
                self.wire.unread[1],
                self.wire.unread[2],
                self.wire.unread[3],
                self.wire.unread[4],
            ]) as usize;
            // The format, and one format for each of some columns.
            if !(7..=1024).contains(&length) {
                return Err(Error::protocol("a CopyBothResponse of impossible length"));
            }
            while self.wire.unread.len() < length + 1 {
                self.wire.fill().await?;
            }
            let _ = self.wire.unread.split_to(length + 1);
            return Ok(Some(Start::Streaming));
        }
        match self.wire.receive().await? {
            Message::ErrorResponse(body) => {
                Ok(Some(Start::Failed(Box::new(ServerError::from_fields(body.fields())))))
            }
            Message::ParameterStatus(_) => Ok(None),
            _ => Err(Error::protocol("no CopyBothResponse to START_REPLICATION")),
        }
    }
}

impl std::fmt::Debug for ReplicationConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationConnection")
            .field("host", &self.host)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

enum Start {
    Streaming,
    Failed(Box<ServerError>),
}

fn bad(error: std::io::Error) -> Error {
    Error::protocol(error.to_string())
}

/// A value of a replication command, whose grammar knows doubled quotes and no escapes.
fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// The value of pgoutput's option `publication_names`: identifiers, separated by commas.
pub fn publication_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_identifier).collect::<Vec<_>>().join(",")
}

/// The lines of a history file: timeline, switch point, reason.
fn parse_history(content: &str) -> Result<Vec<(u32, Lsn)>, Error> {
    let malformed = || Error::protocol("a timeline history that is not of the expected form");
    content
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
            let switch = words.next().and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
            Ok((timeline, switch))
        })
        .collect()
}

/// A stream of changes: what comes in and what goes out, for two tasks.
pub struct CopyBoth {
    reader: FrameReader,
    writer: StatusWriter,
}

impl CopyBoth {
    /// The two directions. The connection ends when both are dropped.
    pub fn split(self) -> (FrameReader, StatusWriter) {
        (self.reader, self.writer)
    }
}

impl std::fmt::Debug for CopyBoth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyBoth").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_gives_every_switch() {
        let content = "# comment\n1\t0/3000148\tno recovery target specified\n\n2\t1/A000000\tbefore \"x\"\n";
        assert_eq!(parse_history(content).unwrap(), [(1, Lsn(0x300_0148)), (2, Lsn(0x1_0A00_0000))]);
        for bad in ["1", "x\t0/1", "1\tx"] {
            assert!(parse_history(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_in_commands_are_quoted() {
        assert_eq!(publication_names(["a", "B\"c"]), "\"a\",\"B\"\"c\"");
        assert_eq!(quote_value("it's \\"), "'it''s \\'");
    }
}
