//! Changes of tables that both sites write: each is applied, left out or merged as the rule of its table says.
//!
//! What is here is looked at under a lock that lasts to the end of the target transaction, so that the local writers,
//! who go on meanwhile, come either before the decision or after the change. Two things have no row that could be locked:
//!
//! * *A key that is not there.* Who inserts it between the look and our insert lets ours fail on the unique index; then
//!   the change is looked at again. Where nothing is inserted here, that row is a later version than what was decided.
//! * *The source's clock.* A local change that follows ours must have a later commit time than ours has. So Replicat waits
//!   until the target's clock has passed the source's commit time before it looks at anything.
//!
//! Most transactions meet nothing. So the whole transaction is first looked at in one flight, and if no change of it is
//! in conflict it goes the way of all others, in sets.

mod act;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use irongate_checkpoint::{Applied, Origin};
use irongate_trail::{Old, Row, Timestamp, Tuple, TupleBuilder, Value};

use super::flight::sort;
use super::postgres::Connection;
use super::{Failure, Outcome};
use crate::batch::{Batch, Change};
use crate::conflict::canary;
use crate::conflict::decide::{Decision, Found, Incoming, Operation, Writer, decide};
use crate::conflict::record::Local;
use crate::conflict::schema::{DELETED, MOVED};
use crate::conflict::{Base, Bases, Rule};
use crate::error::{Error, RowError};
use crate::parameters;
use crate::settings::ReplicatSettings;
use crate::statement::{Statement, changes_key, key_tuple};
use crate::table::Plan;

pub(super) use act::Resolved;

/// How far the source's clock may be ahead. More is no difference of clocks but a wrong one.
const MOST_AHEAD: i64 = 60_000_000;

/// Why a change was not applied.
pub(super) enum Stop {
    Refused(RowError),
    Failed(Failure),
}

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        let reason = error.as_db_error().map(RowError::server);
        match (sort(error), reason) {
            (Failure::Refused(_), Some(reason)) => Self::Refused(reason),
            (failure, _) => Self::Failed(failure),
        }
    }
}

/// One key that a change is about.
pub(super) struct Piece<'a> {
    pub(super) operation: Operation,
    pub(super) key: Tuple<'a>,
    /// The whole row as the change found it.
    pub(super) full: Option<Tuple<'a>>,
    /// The row as it becomes, as far as it was sent.
    pub(super) image: Option<Tuple<'a>>,
    pub(super) base: Option<Base>,
}

impl<'a> Piece<'a> {
    /// What happens to the key, as a change of its own.
    pub(super) fn as_row(&self) -> Option<Row<'a>> {
        match (self.operation, self.image) {
            (Operation::Delete, _) if self.full.is_some() => Some(Row::Delete { old: Old::Full(self.key) }),
            (Operation::Delete, _) => Some(Row::Delete { old: Old::Key(self.key) }),
            (_, image) => image.map(|new| Row::Insert { new }),
        }
    }
}

/// The new row with what the old one can tell of values that were not sent.
pub(super) fn complete(plan: &Plan, row: Row<'_>) -> Option<TupleBuilder> {
    let new = row.new()?;
    let (old, is_full) = match row.old() {
        Some(Old::Full(old)) => (Some(old), true),
        Some(Old::Key(old)) => (Some(old), false),
        None => (None, false),
    };
    let old: Vec<Value<'_>> = old.into_iter().flat_map(Tuple::values).collect();
    let mut image = TupleBuilder::new();
    for (column, sent) in new.values().enumerate() {
        image = match (sent, old.get(column)) {
            (Value::Unchanged, Some(old)) if is_full || plan.relation.columns[column].key => {
                image.value(*old)
            }
            _ => image.value(sent),
        };
    }
    Some(image)
}

/// The keys that a change is about: a change of the key is a delete and an insert, unless it is only `respelled`.
pub(super) fn pieces<'a>(
    plan: &Plan,
    row: Row<'a>,
    image: Option<Tuple<'a>>,
    bases: Bases,
    respelled: bool,
) -> Vec<Piece<'a>> {
    let base = bases.row;
    let full = match row.old() {
        Some(Old::Full(old)) => Some(old),
        _ => None,
    };
    let piece = |operation, key: Option<Tuple<'a>>, full, image, base| {
        key.map(|key| Piece { operation, key, full, image, base })
    };
    let found = match row {
        Row::Insert { .. } => [piece(Operation::Insert, image, None, image, base), None],
        Row::Delete { old } => [piece(Operation::Delete, Some(old.tuple()), full, None, base), None],
        Row::Update { .. } if changes_key(plan, row) && !respelled => [
            piece(Operation::Delete, key_tuple(row), full, None, base),
            piece(Operation::Insert, image, None, image, bases.new_key),
        ],
        Row::Update { .. } => [piece(Operation::Update, key_tuple(row), full, image, base), None],
    };
    found.into_iter().flatten().collect()
}

/// Values for a statement whose parameters are all of one tuple.
pub(super) fn of_tuple(tuple: Tuple<'_>) -> Row<'_> {
    Row::Delete { old: Old::Full(tuple) }
}

/// Who wrote what a row of an answer describes.
fn writer(row: &tokio_postgres::Row, flow: &str) -> Result<(Writer, Local), tokio_postgres::Error> {
    let (written, origin, own): (Option<i64>, Option<String>, bool) =
        (row.try_get("written")?, row.try_get("origin")?, row.try_get("own")?);
    let at = written.map(Timestamp);
    let writer = match (at, origin.as_deref().map(Origin::flow_of)) {
        (None, _) if own => Writer::There,
        (None, _) => Writer::Unknown,
        (Some(_), Some(Some(name))) if name == flow => Writer::There,
        (Some(at), _) => Writer::Here(at),
    };
    Ok((writer, Local { row: None, at, origin }))
}

fn row_found(row: &tokio_postgres::Row, flow: &str) -> Result<(Found, Local), tokio_postgres::Error> {
    let (mut by, mut local) = writer(row, flow)?;
    if let Some(at) = row.try_get::<_, Option<i64>>("merged")? {
        (by, local.at) = (Writer::Here(Timestamp(at)), Some(Timestamp(at)));
    }
    local.row = row.try_get("image")?;
    Ok((Found::Row(by, row.try_get("same")?), local))
}

impl Connection {
    /// Applies a batch of tables of which some have rules.
    pub(super) async fn apply_resolving(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        end: Option<&Applied>,
    ) -> Result<Outcome, Failure> {
        let plans = self.plans(batch, settings).await?;
        self.start(batch, settings, end.is_none()).await?;
        if self.is_calm(batch, &plans, settings).await? {
            return self.apply_grouped(batch, settings, end).await;
        }
        match self.apply_exact(batch, settings, end).await {
            // What a policy wants is found out again, where it can be done.
            Err(Failure::Queue) => Err(Failure::Refused(Error::Row {
                operation: "transaction",
                table: plans.first().map(|plan| plan.source()).unwrap_or_default(),
                reason: RowError::Missing,
                commit: irongate_trail::CommitLsn::default(),
                ordinal: 0,
                fix: None,
            })),
            other => other,
        }
    }

    /// Begins the target transaction unless it is open; where there are rules, only after the target's clock has passed
    /// the source's commit. Whether it `goes_on` behind the batch, nobody says with what.
    pub(super) async fn start(
        &mut self,
        batch: &Batch,
        settings: &ReplicatSettings,
        goes_on: bool,
    ) -> Result<(), Failure> {
        if !self.begin()? {
            return Ok(());
        }
        let (client, begin) = (self.session.client(), self.begin_sql(batch, goes_on));
        let begin = async { client.batch_execute(&begin).await.map_err(sort) };
        if settings.conflicts.is_none() {
            return begin.await;
        }
        let commit = batch.place(0).map(|(begin, _)| begin.commit_time).unwrap_or_default();
        let ahead = commit.0.saturating_sub(Timestamp::now().0);
        if ahead > MOST_AHEAD {
            return Err(Failure::Lost(Error::ClockAhead { seconds: ahead / 1_000_000 }));
        }
        const WAIT: &str = "SELECT pg_catalog.pg_sleep(greatest(0, ($1::pg_catalog.int8 + 946684800000001) / 1000000.0 \
             - EXTRACT(epoch FROM pg_catalog.clock_timestamp()))::pg_catalog.float8)";
        let wait = async {
            client.execute_typed(WAIT, &[(&commit.0, tokio_postgres::types::Type::INT8)]).await.map_err(sort)
        };
        let (begun, waited) = tokio::join!(biased; begin, wait);
        begun?;
        waited.map(drop)
    }

    /// Whether no change of the batch is in conflict, nor needs anything besides itself. Locks what it finds.
    async fn is_calm(
        &mut self,
        batch: &Batch,
        plans: &[Arc<Plan>],
        settings: &ReplicatSettings,
    ) -> Result<bool, Failure> {
        // A change of a key that the transaction has changed before meets what it made itself.
        let mut seen: HashSet<(usize, Vec<u8>)> = HashSet::new();
        let mut images = Vec::with_capacity(batch.len());
        for change in batch.changes() {
            let Change::Row { relation, row } = change else { return Ok(false) };
            images.push(complete(&plans[relation], row));
        }
        let mut looks = Vec::new();
        for (index, change) in batch.changes().enumerate() {
            let Change::Row { relation, row } = change else { continue };
            let plan = &plans[relation];
            let Some(resolving) = &plan.conflict else { continue };
            let image = images[index].as_ref().map(TupleBuilder::as_tuple);
            if plan.has_spellings() && changes_key(plan, row) {
                return Ok(false);
            }
            for piece in pieces(plan, row, image, batch.bases(index), false) {
                let additive = resolving.terms.additive && piece.operation != Operation::Insert;
                if additive || (resolving.terms.rule.buries() && piece.operation == Operation::Delete) {
                    return Ok(false);
                }
                if !seen.insert((relation, key_bytes(plan, piece.key))) {
                    continue;
                }
                let look = plan.look_for_row(piece.key, piece.full, piece.operation == Operation::Delete);
                let prepared = self.prepare(&look.sql, None).await.map_err(sort)?;
                let tombstone = match piece.operation {
                    Operation::Insert => {
                        let look = plan.look_for_tombstone(piece.key);
                        let prepared = self.prepare(&look.sql, None).await.map_err(sort)?;
                        Some((look, prepared))
                    }
                    _ => None,
                };
                looks.push((plan, piece, (look, prepared), tombstone));
            }
        }
        if looks.is_empty() {
            return Ok(true);
        }
        let canary_is_known = self.prepare(canary::IS_KNOWN, None).await.map_err(sort)?;
        let client = self.session.client();
        let answers = looks.iter().map(|(_, piece, row, tombstone)| async move {
            let look = async |(look, prepared): &(Statement, tokio_postgres::Statement)| {
                query(client, prepared, look, of_tuple(piece.key)).await
            };
            match tombstone {
                None => (look(row).await, Ok(Vec::new())),
                Some(tombstone) => tokio::join!(biased; look(row), look(tombstone)),
            }
        });
        // Behind the looks, so that it speaks of what they found.
        let flow: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&settings.flow];
        let canary = client.query(&canary_is_known, &flow);
        let (answers, canary) = tokio::join!(biased; futures_util::future::join_all(answers), canary);
        canary::judge(&canary.map_err(sort)?, &settings.flow).map_err(sort)?.map_err(Failure::Refused)?;
        let at = batch.place(0).map(|(begin, _)| begin.commit_time).unwrap_or_default();
        for ((plan, piece, ..), (row, tombstone)) in looks.iter().zip(answers) {
            let (row, tombstone) = (row.map_err(sort)?, tombstone.map_err(sort)?);
            let Some(resolving) = &plan.conflict else { continue };
            let found = match (row.first(), tombstone.first()) {
                (Some(row), _) => row_found(row, &settings.flow).map_err(sort)?.0,
                (None, Some(tombstone)) => Found::Gone(writer(tombstone, &settings.flow).map_err(sort)?.0),
                // A row that is missing is none that one could be calm about.
                (None, None) if piece.operation != Operation::Insert => return Ok(false),
                (None, None) => Found::Nothing,
            };
            let incoming = Incoming { operation: piece.operation, at, base: piece.base };
            if decide(&resolving.terms, found, incoming) != Decision::Plain {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stops where something of unknown version was found, and the versions that matter are not known any more.
    async fn doubt(&mut self, found: Found, settings: &ReplicatSettings) -> Result<(), Stop> {
        if !matches!(found, Found::Row(Writer::Unknown, _) | Found::Gone(Writer::Unknown)) {
            return Ok(());
        }
        let prepared = self.prepare(canary::IS_KNOWN, None).await?;
        let answer = self.session.client().query(&prepared, &[&settings.flow]).await?;
        canary::judge(&answer, &settings.flow)?.map_err(|error| Stop::Failed(Failure::Refused(error)))
    }

    /// Whether an update that writes its key differently leaves it equal to what it was.
    async fn respells(&mut self, plan: &Plan, row: Row<'_>, image: Option<Tuple<'_>>) -> Result<bool, Stop> {
        let (Some(new), Some(old), true) = (image, row.old(), plan.has_spellings() && changes_key(plan, row))
        else {
            return Ok(false);
        };
        let row = Row::Update { old: Some(old), new };
        let same = self.ask(&plan.same_key(old.tuple(), new), row).await?;
        Ok(same.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
    }

    /// What is here under a key, locked.
    async fn look(
        &mut self,
        plan: &Plan,
        piece: &Piece<'_>,
        settings: &ReplicatSettings,
    ) -> Result<(Found, Local), Stop> {
        let row = plan.look_for_row(piece.key, piece.full, piece.operation == Operation::Delete);
        let row_answer = self.ask(&row, of_tuple(piece.key)).await?;
        if let Some(found) = row_answer.first() {
            return Ok(row_found(found, &settings.flow)?);
        }
        let tombstone = plan.look_for_tombstone(piece.key);
        let tombstone = self.ask(&tombstone, of_tuple(piece.key)).await?;
        // Deleted and made again by a transaction that we waited for, it is there after all.
        if let Some(found) = self.ask(&row, of_tuple(piece.key)).await?.first() {
            return Ok(row_found(found, &settings.flow)?);
        }
        match tombstone.first() {
            None => Ok((Found::Nothing, Local::default())),
            Some(tombstone) => {
                let (writer, local) = writer(tombstone, &settings.flow)?;
                Ok((Found::Gone(writer), local))
            }
        }
    }

    pub(super) async fn ask(
        &mut self,
        statement: &Statement,
        row: Row<'_>,
    ) -> Result<Vec<tokio_postgres::Row>, Stop> {
        let prepared = self.prepare(&statement.sql, None).await?;
        Ok(query(self.session.client(), &prepared, statement, row).await?)
    }

    pub(super) async fn tell(&mut self, statement: &Statement, row: Row<'_>) -> Result<u64, Stop> {
        let prepared = self.prepare(&statement.sql, None).await?;
        let values = parameters::values(row, &statement.parameters);
        Ok(self.session.client().execute_raw(&prepared, values).await?)
    }
}

/// What every rule needs of the server.
pub(super) async fn prepared_for_conflicts(session: &irongate_postgres::Session) -> Result<(), Error> {
    const SQL: &str = "SELECT pg_catalog.current_setting('track_commit_timestamp'), \
         pg_catalog.to_regclass('irongate.conflict') IS NOT NULL AND \
         pg_catalog.to_regclass('irongate.tombstone') IS NOT NULL AND \
         pg_catalog.to_regclass('irongate.send_back') IS NOT NULL AND \
         pg_catalog.to_regclass('irongate.canary') IS NOT NULL";
    let row = session.query_one(SQL, &[]).await?;
    let (setting, has_tables): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
    let (reason, fix) = match (setting.as_str(), has_tables) {
        ("on", true) => return Ok(()),
        ("on", false) => ("the target has no tables for them", "run \"irongate setup\", then start again"),
        _ => (
            "track_commit_timestamp is off at the target, so that no row says when it was written",
            "ALTER SYSTEM SET track_commit_timestamp = on, then restart the server",
        ),
    };
    let (reason, fix) = (reason.to_owned(), fix.to_owned());
    Err(Error::NotPrepared { reason, fix })
}

impl Connection {
    /// Removes tombstones that are too old to matter, some at a time. Twice the age, because a change that comes from the
    /// other site late must find there what it would have found here.
    pub(super) async fn purge_tombstones(&self, age: Duration) -> Result<(), Error> {
        const SQL: &str = "DELETE FROM irongate.tombstone WHERE ctid = ANY (ARRAY(SELECT b.ctid FROM irongate.tombstone AS b \
             WHERE b.at < pg_catalog.clock_timestamp() - $1 * pg_catalog.make_interval(secs => 2) LIMIT 10000))";
        Ok(self.session.execute(SQL, &[&age.as_secs_f64()]).await.map(drop)?)
    }

    /// Refuses a table whose deletes are not remembered as its rule needs: a delete that nobody remembers comes to life
    /// again.
    pub(super) async fn has_tombstones(&self, plan: &Plan) -> Result<(), Failure> {
        const SQL: &str = "SELECT g.tgargs FROM pg_catalog.pg_trigger AS g \
             JOIN pg_catalog.pg_class AS c ON c.oid = g.tgrelid \
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND g.tgname = ANY ($3) AND g.tgenabled IN ('O', 'A')";
        let Some(resolving) = &plan.conflict else { return Ok(()) };
        if matches!(resolving.terms.rule, Rule::Overwrite) {
            return Ok(());
        }
        let (schema, table) = (&plan.table.schema, &plan.table.name);
        let names = &[DELETED, MOVED][..];
        let triggers = self.session.query(SQL, &[schema, table, &names]).await.map_err(sort)?;
        let mut wanted: Vec<&[u8]> = vec![schema.as_bytes(), table.as_bytes()];
        wanted.extend(plan.key_names().map(str::as_bytes));
        wanted[2..].sort_unstable();
        let mut sound = 0;
        for trigger in &triggers {
            let said: &[u8] = trigger.try_get(0).map_err(sort)?;
            let mut said: Vec<&[u8]> = said.split(|byte| *byte == 0).collect();
            // Each name ends with a zero.
            said.pop();
            if let Some(key) = said.get_mut(2..) {
                key.sort_unstable();
            }
            sound += usize::from(said == wanted);
        }
        if sound == names.len() {
            return Ok(());
        }
        let reason =
            format!("nobody remembers what is deleted from table \"{schema}.{table}\" at the target");
        let fix = "run \"irongate setup\", which makes the trigger, then start again".to_owned();
        Err(Failure::Refused(Error::NotPrepared { reason, fix }))
    }
}

pub(super) async fn query(
    client: &tokio_postgres::Client,
    prepared: &tokio_postgres::Statement,
    statement: &Statement,
    row: Row<'_>,
) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
    use futures_util::TryStreamExt;

    let values = parameters::values(row, &statement.parameters);
    client.query_raw(prepared, values).await?.try_collect().await
}

/// The key's values as they were sent, for telling keys apart.
fn key_bytes(plan: &Plan, key: Tuple<'_>) -> Vec<u8> {
    let values = key.values().zip(&plan.in_key).filter_map(|(value, in_key)| in_key.then_some(value));
    values.fold(TupleBuilder::new(), TupleBuilder::value).as_tuple().as_bytes().to_vec()
}
