//! The lost site's slot: what was committed and never trailed. It is peeked into and not advanced.
//!
//! What comes out goes through Extract's own machine, so that what Extract would have left out is left out here: its own
//! origins, Irongate's tables, transactions without a change, and what lies before the place where the trail ends.

use std::pin::Pin;

use futures_util::TryStreamExt;
use irongate_capture::machine::{Machine, Settings};
use irongate_capture::options::{self, Wanted};
use irongate_capture::pgoutput::{Decoder, Streaming};
use irongate_capture::positions::PLUGIN;
use irongate_capture::{Error as CaptureError, Source};
use irongate_postgres::Session;
use irongate_postgres::catalog::{self, ServerFacts, SlotFacts};
use irongate_postgres::sql::quote_literal;
use irongate_trail::{CommitLsn, Lsn, ResumeLsn};
use tokio_postgres::RowStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, ToSql};

use super::intake::{Event, Intake};
use super::problem::Problem;

/// What the lost site's server says.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) server: ServerFacts,
    pub(super) slot: Option<SlotFacts>,
    /// How far its log goes.
    pub(super) end: Lsn,
}

/// Asks. As the role of Extract, which may look at slots.
pub(super) async fn facts(session: &Session, slot: &str) -> Result<Facts, irongate_postgres::Error> {
    Ok(Facts {
        server: catalog::server_facts(session).await?,
        slot: catalog::slot(session, slot).await?,
        end: catalog::current_wal_flush_lsn(session).await?,
    })
}

impl Facts {
    /// Why nothing can be read from the slot, if that is so; else from where on it has everything.
    pub(super) fn readable_from(&self, name: &str) -> Result<Lsn, String> {
        let Some(slot) = &self.slot else { return Err(format!("slot \"{name}\" is not there any more")) };
        if let Some(lost) = slot.lost() {
            return Err(format!("slot \"{name}\" was invalidated ({lost})"));
        }
        let fits = slot.plugin.as_deref() == Some(PLUGIN)
            && slot.database.as_deref() == Some(&self.server.database)
            && !slot.two_phase
            && !slot.temporary;
        if !fits {
            return Err(format!("slot \"{name}\" is not the one that Extract read"));
        }
        slot.confirmed_flush_lsn.ok_or_else(|| format!("slot \"{name}\" was never ready"))
    }
}

/// What is asked of the slot.
pub(super) struct Peek<'a> {
    pub(super) source: &'a Source,
    /// Everything before it is known.
    pub(super) from: ResumeLsn,
    /// The last transaction that was seen.
    pub(super) last: CommitLsn,
    /// Transactions from here on are known too.
    pub(super) until: Option<Lsn>,
}

/// A slot that is being looked into.
pub(super) struct Looking {
    rows: Pin<Box<RowStream>>,
    machine: Machine,
    decoder: Decoder,
}

/// How the looking ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// With the last transaction that there is.
    Everything,
    /// The server cannot decode any more, and says why. What came before stands.
    UpTo(String),
}

impl Peek<'_> {
    /// Begins to look into the slot. A server that cannot decode at all is no error: `Err` in the result says why.
    pub(super) async fn begin(
        &self,
        session: &Session,
        intake: &mut Intake,
    ) -> Result<Result<Looking, Seen>, Problem> {
        intake.until = self.until.map(CommitLsn);
        let wanted = Wanted {
            streaming: Streaming::Off,
            binary: false,
            skip_origins: &self.source.machine.skip_origins,
            foreign_origins: false,
        };
        let options = options::choose(session.server_version_num(), &self.source.publications, wanted)?;
        let options: String = options
            .options
            .iter()
            .map(|(name, value)| format!(", {}, {}", quote_literal(name), quote_literal(value)))
            .collect();
        let sql = format!(
            "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, $1, NULL{options})",
            quote_literal(&self.source.slot)
        );
        let until = self.until.map(|lsn| PgLsn::from(lsn.0));
        let parameters: [&(dyn ToSql + Sync); 1] = [&until];
        let rows = match session.query_raw(&sql, parameters).await {
            Ok(rows) => Box::pin(rows),
            Err(error) => return end(error).map(Err),
        };
        let settings = Settings { binary: false, ..self.source.machine.clone() };
        let machine = Machine::new(settings, self.from, self.last);
        Ok(Ok(Looking { rows, machine, decoder: Decoder::new(Streaming::Off) }))
    }
}

impl Looking {
    /// Looks on until the intake is full, or to the end.
    pub(super) async fn advance(&mut self, intake: &mut Intake) -> Result<Option<Seen>, Problem> {
        while !intake.is_full() {
            let row = match self.rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(Some(Seen::Everything)),
                Err(error) => {
                    intake.push(Event::Abandon);
                    return end(error).map(Some);
                }
            };
            let data: &[u8] = row.try_get(0).map_err(|error| CaptureError::Postgres(error.into()))?;
            let lsn = self.machine.at();
            let message =
                self.decoder.decode(data).map_err(|source| CaptureError::Malformed { lsn, source })?;
            self.machine.message(message, intake)?;
        }
        Ok(None)
    }
}

/// Tells a slot or a log that is gone from everything else.
fn end(error: tokio_postgres::Error) -> Result<Seen, Problem> {
    let gone =
        [SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, SqlState::UNDEFINED_FILE, SqlState::UNDEFINED_OBJECT];
    match error.code() {
        Some(code) if gone.contains(code) => {
            let error = irongate_postgres::Error::from(error);
            Ok(Seen::UpTo(format!("the server cannot read it any more: {error}")))
        }
        _ => Err(Problem::Capture(CaptureError::Postgres(error.into()))),
    }
}
