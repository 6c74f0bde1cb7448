//! A repair that is run here, safe beside a Replicat at work and beside applications.
//!
//! Each few hundred differences are one transaction, and that is the last round of [`crate::settle`] with a lock in it:
//!
//! 1. the rows are read at the target and at the source;
//! 2. a message is committed at the source, and waited for until Replicat has applied everything up to it;
//! 3. the tables are locked at the side that is written (SHARE ROW EXCLUSIVE: it keeps out whoever writes, and nobody who
//!    reads);
//! 4. the rows are read again at both sides. Only what is still the difference that the compare saw, by the same judgement
//!    and with the same hashes, is repaired;
//! 5. what was written is read back before it is committed. Only what is as the other side has it counts as repaired, and a
//!    row that was touched since 1 counts as unsettled.
//!
//! So for every row that is written: nobody has changed it at the source since before the message, everything up to the
//! message is applied, and Replicat can apply nothing more to it before the repair is committed. Whatever the
//! source does to the row from now on finds the row as the source had it. Nothing is applied twice and nothing of it comes
//! too late.
//!
//! The lock is waited for for less than a second, which is less than the server takes to look for deadlocks: of a Replicat
//! and a repair that wait for each other it is the repair that gives way, and tries again.

use std::time::{Duration, Instant};

use irongate_checkpoint::OriginSession;
use irongate_postgres::Session;

use super::{ORDER, Repair, member, settings, statement};
use crate::confirm::{Waiting, again, found, look};
use crate::difference::{Difference, Kind};
use crate::error::Error;
use crate::flow::Name;
use crate::settle::{Both, Known, Seen, Verdict, judge};
use crate::side::Which;
use crate::sql::Sql;
use crate::table::Plan;

/// So many differences are one transaction.
const BATCH: usize = 300;
/// The same of those that are taken out and put in again: values that go in a circle should go in one transaction.
const BATCH_APART: usize = 5000;
/// How often locks are tried for.
const ATTEMPTS: u32 = 40;
/// How long one attempt waits for a lock.
const LOCK: &str = "700ms";
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// What came of a repair.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Applied {
    /// Rows that are as they should be now.
    pub repaired: u64,
    /// Differences that were not there any more, or other ones, when they were to be repaired.
    pub left_alone: u64,
    /// Differences of which nobody could say whether they are any.
    pub unsettled: u64,
    /// Why not.
    pub unsettled_because: Option<String>,
}

/// The session that writes.
pub(super) struct Hand {
    pub(super) session: Session,
    pub(super) origin: OriginSession,
}

impl Repair<'_> {
    /// Repairs. What is repaired stays so, whatever becomes of the rest.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Rights`], [`Error::Busy`] for tables that stay locked, [`Error::Checkpoint`] for an
    /// origin that cannot be used: another repair of the flow has it, or the role may not.
    ///
    /// Cancel-safe: what is not committed is rolled back.
    pub async fn apply(mut self, tell: &(dyn Fn(&Applied) + Send + Sync)) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if self.plans.is_empty() {
            return Ok(applied);
        }
        let hand = self.hand().await?;
        let waiting = Waiting::new(self.flow, self.options.settle);
        let phases = ORDER.into_iter().flat_map(|kind| match kind {
            Kind::Different => vec![(kind, false), (kind, true)],
            _ => vec![(kind, false)],
        });
        for (kind, apart) in phases {
            let unique = self.unique.clone();
            let belongs = move |difference: &Difference| {
                kind != Kind::Different || unique.is_apart(difference) == apart
            };
            let most = if apart { BATCH_APART } else { BATCH };
            let differences = self.of_kind(kind)?;
            let mut differences = differences.filter(|one| one.as_ref().map_or(true, &belongs)).peekable();
            while differences.peek().is_some() {
                let mut batch = Vec::new();
                let mut table: Option<Name> = None;
                // One table at a time: its lock is all that is held.
                while let Some(next) = differences.next_if(|next| match next {
                    Ok(next) => table.as_ref().is_none_or(|table| *table == next.table),
                    Err(_) => true,
                }) {
                    let next = next?;
                    table = Some(next.table.clone());
                    batch.push(next);
                    if batch.len() >= most {
                        break;
                    }
                }
                let done = self.batch(&hand, &waiting, kind, &batch, &mut applied).await;
                done.map_err(|error| match applied.repaired {
                    0 => error,
                    repaired => Error::Stopped { repaired, source: Box::new(error) },
                })?;
                tell(&applied);
            }
        }
        applied.unsettled_because = waiting.stuck();
        let Hand { session, origin } = hand;
        origin.session_reset(&session).await?;
        Ok(applied)
    }

    pub(super) fn failed(&self, doing: &str, source: impl Into<irongate_postgres::Error>) -> Error {
        let end = self.options.writer.label.clone();
        Error::Database { end, doing: doing.to_owned(), source: Box::new(source.into()) }
    }

    pub(super) async fn hand(&self) -> Result<Hand, Error> {
        let session =
            Session::connect(&self.options.writer.endpoint, "irongate repair").await.map_err(|error| {
                match error.code() {
                    Some("28000" | "28P01") => Error::NoWriter {
                        end: self.options.writer.label.clone(),
                        role: self.options.writer.endpoint.user().to_owned(),
                        source: Box::new(error),
                    },
                    _ => self.failed("connect", error),
                }
            })?;
        let origin = self.origin()?;
        origin.create_if_missing(&session).await?;
        let origin = origin.session_setup(&session).await?;
        Ok(Hand { session, origin })
    }

    async fn batch(
        &mut self,
        hand: &Hand,
        waiting: &Waiting<'_>,
        kind: Kind,
        batch: &[Difference],
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let Some(first) = batch.first() else { return Ok(()) };
        let plan = self.checked(first)?.clone();
        let members: Vec<_> = batch.iter().map(|difference| member(&plan, difference)).collect();
        let mut attempts = 0;
        loop {
            let before = look(&mut self.sides, &plan, &members).await?;
            let until = Instant::now() + self.options.settle;
            if waiting.stuck().is_some() || !waiting.passed(&mut self.sides, until).await? {
                applied.unsettled += batch.len() as u64;
                return Ok(());
            }
            let begin = format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
                settings(LOCK),
                plan.name(self.which()).quoted()
            );
            if let Err(error) = hand.session.batch_execute(&begin).await {
                let error = hand.session.explain(error).await;
                let gave_way = matches!(error.code(), Some("55P03" | "40P01"));
                if error.code() == Some("42501") {
                    return Err(self.no_right(plan.name(self.which())));
                }
                if !gave_way {
                    return Err(self.failed("lock a table for the repair", error));
                }
                attempts += 1;
                self.roll_back(hand).await?;
                if attempts >= ATTEMPTS {
                    let (end, tables) =
                        (self.options.writer.label.clone(), plan.name(self.which()).to_string());
                    return Err(Error::Busy { end, tables, attempts });
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let after = look(&mut self.sides, &plan, &members).await?;
            let written = self.write(hand, kind, batch, &before, &after).await;
            let done = match written {
                Ok(done) => done,
                Err(error) => {
                    self.roll_back(hand).await?;
                    return Err(error);
                }
            };
            hand.session
                .batch_execute("COMMIT")
                .await
                .map_err(|error| self.failed("commit the repair", error))?;
            applied.repaired += done.repaired;
            applied.left_alone += done.left_alone;
            applied.unsettled += done.unsettled;
            return Ok(());
        }
    }

    pub(super) async fn roll_back(&self, hand: &Hand) -> Result<(), Error> {
        let done = hand.session.batch_execute("ROLLBACK").await;
        done.map_err(|error| self.failed("roll back", error))?;
        Ok(hand.origin.reset(&hand.session).await?)
    }

    /// Writes what is still to be written, under the locks, and reads it back. What came of each difference.
    async fn write(
        &self,
        hand: &Hand,
        kind: Kind,
        batch: &[Difference],
        before: &[Both],
        after: &[Both],
    ) -> Result<Applied, Error> {
        let Some(first) = batch.first() else { return Ok(Applied::default()) };
        let plan = self.checked(first)?;
        let known = Known::of(!plan.key.is_empty(), self.flow.reverse.is_some());
        let mut done = Applied::default();
        let mut written: Vec<(&Difference, &Seen)> = Vec::new();
        for ((difference, before), after) in batch.iter().zip(before).zip(after) {
            let as_seen = after.source.rows == difference.source_rows
                && after.target.rows == difference.target_rows
                && (after.source.rows == 0 || after.source.hashes == difference.source_hashes)
                && (after.target.rows == 0 || after.target.hashes == difference.target_hashes);
            match judge(Some(before), after, known) {
                Verdict::Different if as_seen => {
                    let wanted = match self.which() {
                        Which::Target => &after.source,
                        Which::Source => &after.target,
                    };
                    written.push((difference, wanted));
                }
                Verdict::Again => done.unsettled += 1,
                Verdict::Same | Verdict::Different => done.left_alone += 1,
            }
        }
        let all: Vec<_> = written
            .iter()
            .map(|(difference, _)| match kind == Kind::Different && self.unique.is_apart(difference) {
                true => (*difference, statement::halves(plan, self.which(), difference)),
                false => (*difference, statement::of(plan, self.which(), kind, difference)),
            })
            .collect();
        // All of them are taken out before the first is put in again.
        for half in 0..2 {
            for (difference, statements) in &all {
                let Some(statement) = statements.get(half) else { continue };
                hand.session
                    .execute(statement, &[])
                    .await
                    .map_err(|error| self.not_repaired(plan, difference, error.into()))?;
            }
        }
        self.verified(hand, plan, &written).await?;
        done.repaired = written.len() as u64;
        Ok(done)
    }

    /// Reads back what was written, in its own transaction. Fails unless all of it is as the other side has it.
    async fn verified(
        &self,
        hand: &Hand,
        plan: &Plan,
        written: &[(&Difference, &Seen)],
    ) -> Result<(), Error> {
        if written.is_empty() {
            return Ok(());
        }
        let which = self.which();
        let members: Vec<_> = written.iter().map(|(difference, _)| member(plan, difference)).collect();
        let doing = format!("read back rows of table {}", plan.name(which));
        let question = again(Sql { plan, which }, &members);
        let answer =
            hand.session.simple_query(&question).await.map_err(|error| self.failed(&doing, error))?;
        let rows: Vec<_> = answer
            .into_iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect();
        let now = found(plan, &members, &rows).map_err(|error| self.failed(&doing, error))?;
        match now.iter().zip(written).all(|(now, (_, wanted))| now.holds_what(wanted)) {
            true => Ok(()),
            false => Err(Error::NotWritten {
                end: self.options.writer.label.clone(),
                table: plan.name(which).to_string(),
            }),
        }
    }

    fn not_repaired(&self, plan: &Plan, difference: &Difference, error: irongate_postgres::Error) -> Error {
        let name = plan.name(self.which());
        if error.code() == Some("42501") {
            return self.no_right(name);
        }
        let pair = |(name, value): (&String, &Option<String>)| {
            format!("{name}={}", value.as_deref().unwrap_or("NULL"))
        };
        let key = difference.key.as_ref().map(|key| key.iter().map(pair).collect::<Vec<_>>().join(", "));
        let (end, table) = (self.options.writer.label.clone(), name.to_string());
        let key = key.unwrap_or_else(|| "without a key".to_owned());
        Error::Row { end, table, key, source: Box::new(error) }
    }

    pub(super) fn no_right(&self, name: &Name) -> Error {
        let user = self.options.writer.endpoint.user();
        Error::Rights {
            end: self.options.writer.label.clone(),
            role: user.to_owned(),
            doing: "write",
            table: name.to_string(),
            grant: format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}",
                name.quoted(),
                irongate_postgres::sql::quote_identifier(user)
            ),
        }
    }
}
