//! The lost site's slot: what was committed and never trailed. It is peeked into and not advanced.
//!
//! What comes out goes through Extract's own machine, so that what Extract would have left out is left out here: its own
//! origins, Irongate's tables, transactions without a change, and what lies before the place where the trail ends.

use std::pin::pin;

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
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;

use super::intake::{Event, Intake};
use super::problem::Problem;
use crate::error::Error;

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

impl Peek<'_> {
    /// Looks into the slot. `settle` is called with what has come, often enough that it does not grow. Its answer, if there
    /// is one, ends the looking.
    ///
    /// A server that cannot decode any more says so in the middle: `Ok(Err(reason))`, and what came before stands.
    pub(super) async fn run(
        &self,
        session: &Session,
        intake: &mut Intake,
        mut settle: impl AsyncFnMut(&mut Intake) -> Result<(), Error>,
    ) -> Result<Result<(), String>, Error> {
        intake.until = self.until.map(CommitLsn);
        let wanted = Wanted {
            streaming: Streaming::Off,
            binary: false,
            without_origin: self.source.machine.skip_origins == irongate_capture::machine::SkipOrigins::Any,
        };
        let options = options::choose(session.server_version_num(), &self.source.publications, wanted)
            .map_err(Problem::Capture)?;
        let options: String = options
            .iter()
            .map(|(name, value)| format!(", {}, {}", quote_literal(name), quote_literal(value)))
            .collect();
        let sql = format!(
            "SELECT data FROM pg_catalog.pg_logical_slot_peek_binary_changes({}, $1, NULL{options})",
            quote_literal(&self.source.slot)
        );
        let until = self.until.map(|lsn| PgLsn::from(lsn.0));
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&until];
        let failed = |error: tokio_postgres::Error| Problem::Capture(CaptureError::Postgres(error.into()));
        let rows = match session.query_raw(&sql, parameters).await {
            Ok(rows) => rows,
            Err(error) => return Ok(end(error)?),
        };
        let mut rows = pin!(rows);
        let settings = Settings { binary: false, ..self.source.machine.clone() };
        let mut machine = Machine::new(settings, self.from, self.last);
        let mut decoder = Decoder::new(Streaming::Off);
        loop {
            let row = match rows.try_next().await {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => {
                    intake.push(Event::Abandon);
                    settle(intake).await?;
                    return Ok(end(error)?);
                }
            };
            let data: &[u8] = row.try_get(0).map_err(failed)?;
            let message = decoder
                .decode(data)
                .map_err(|source| Problem::Capture(CaptureError::Malformed { lsn: machine.at(), source }))?;
            machine.message(message, intake).map_err(Problem::Capture)?;
            if intake.is_full() {
                settle(intake).await?;
            }
        }
        settle(intake).await?;
        Ok(Ok(()))
    }
}

/// Tells a slot or a log that is gone from everything else.
fn end(error: tokio_postgres::Error) -> Result<Result<(), String>, Problem> {
    let gone =
        [SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, SqlState::UNDEFINED_FILE, SqlState::UNDEFINED_OBJECT];
    match error.code() {
        Some(code) if gone.contains(code) => {
            Ok(Err(format!("the server cannot read it any more: {}", irongate_postgres::Error::from(error))))
        }
        _ => Err(Problem::Capture(CaptureError::Postgres(error.into()))),
    }
}
