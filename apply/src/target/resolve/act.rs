//! What is done with one change of a table with a rule, and what is written down of it.

use std::sync::Arc;

use irongate_postgres::Session;
use irongate_trail::{Old, Row, Timestamp, Tuple, TupleBuilder, Value};
use serde_json::Value as Json;

use super::{Piece, Stop, complete, of_tuple, pieces};
use crate::batch::{Batch, Change};
use crate::conflict::decide::{Decision, Found, Incoming, Operation, Resolution, Writer, decide};
use crate::conflict::record::{self, Local, Verdict};
use crate::conflict::{ColumnRule, Kind};
use crate::error::{Error, RowError};
use crate::error_queue;
use crate::settings::ReplicatSettings;
use crate::statement::{needs_replace, touch, written};
use crate::table::{Plan, Resolving};
use crate::target::postgres::Connection;

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::target) struct Resolved {
    pub(in crate::target) conflicts: u64,
    pub(in crate::target) queued: u64,
}

/// Where the values of the columns come from, where both sites have the row.
struct Columns {
    written: Vec<usize>,
    added: Vec<usize>,
    /// Neither of the two rows as it is.
    merged: bool,
}

impl Connection {
    /// Applies one change as its table's rule says. With `force` as if it met no conflict, and without a record.
    pub(in crate::target) async fn resolve(
        &mut self,
        batch: &Batch,
        index: usize,
        plan: &Arc<Plan>,
        settings: &ReplicatSettings,
        force: bool,
    ) -> Result<Resolved, Stop> {
        let (Change::Row { row, .. }, Some(resolving)) = (batch.change(index), &plan.conflict) else {
            return Ok(Resolved::default());
        };
        let at = batch.place(index).map(|(begin, _)| begin.commit_time).unwrap_or_default();
        let image = complete(plan, row);
        let image = image.as_ref().map(TupleBuilder::as_tuple);
        let respelled = self.respells(plan, row, image).await?;
        let mut found = Vec::new();
        for piece in pieces(plan, row, image, batch.bases(index), respelled) {
            let (here, local) = self.look(plan, &piece, settings).await?;
            self.doubt(here, settings).await?;
            let incoming = Incoming { operation: piece.operation, at, base: piece.base };
            let decision = if force { Decision::Plain } else { decide(&resolving.terms, here, incoming) };
            found.push((piece, here, local, decision));
        }
        let mut resolved = Resolved::default();
        let calm = |decision: &Decision| *decision == Decision::Plain;
        if found.len() > 1
            && !resolving.terms.additive
            && !resolving.terms.rule.buries()
            && found.iter().all(|(.., decision)| calm(decision))
            && found.iter().all(|(piece, here, ..)| {
                (piece.operation == Operation::Delete) == matches!(here, Found::Row(..))
            })
        {
            // Columns that only the target has stay with the row.
            self.move_row(plan, row, image).await?;
            return Ok(resolved);
        }
        let is_moved = found.len() > 1;
        for (piece, here, local, decision) in &found {
            if let Decision::Conflict(kind, Resolution::Queued) = decision {
                let row = if is_moved { piece.as_row() } else { Some(row) };
                self.queue(batch, index, plan, row, *kind, settings).await?;
                resolved.queued += 1;
            }
            let merged = self.act(plan, resolving, piece, *here, *decision, settings).await?;
            if let Decision::Conflict(kind, resolution) = decision {
                let what = if merged { "merged" } else { resolution.name() };
                self.record(batch, index, plan, piece, settings, (*kind, what), local).await?;
                resolved.conflicts += 1;
            }
        }
        Ok(resolved)
    }

    /// Puts what is about one key into the error queue: of a change of the key the other one may go its own way.
    async fn queue(
        &mut self,
        batch: &Batch,
        index: usize,
        plan: &Plan,
        row: Option<Row<'_>>,
        kind: Kind,
        settings: &ReplicatSettings,
    ) -> Result<(), Stop> {
        let (Some(row), Some(place)) = (row, batch.place(index)) else { return Ok(()) };
        let (client, reason) = (self.session.client(), RowError::Conflict(kind));
        error_queue::put_row(client, &settings.flow, &plan.relation, place, row, &reason, false).await?;
        Ok(())
    }

    async fn move_row(&mut self, plan: &Plan, row: Row<'_>, image: Option<Tuple<'_>>) -> Result<(), Stop> {
        let (Some(new), Some(old)) = (image, row.old()) else { return Ok(()) };
        let row = Row::Update { old: Some(old), new };
        let statement = if needs_replace(plan, row) {
            plan.replace_row(row)
        } else {
            plan.update_row(row, &written(plan, new, true))
        };
        match statement {
            Some(statement) => one(self.tell(&statement, row).await?),
            None => Ok(()),
        }
    }

    /// Does with one key what was decided. True if the row that comes of it is neither side's.
    async fn act(
        &mut self,
        plan: &Plan,
        resolving: &Resolving,
        piece: &Piece<'_>,
        here: Found,
        decision: Decision,
        settings: &ReplicatSettings,
    ) -> Result<bool, Stop> {
        let incoming_wins =
            !matches!(decision, Decision::Conflict(_, Resolution::Local | Resolution::Queued));
        let exists = matches!(here, Found::Row(..));
        let merged = match (piece.operation, piece.image) {
            (Operation::Delete, _) if incoming_wins => {
                if exists {
                    let row = of_tuple(piece.key);
                    let Some(delete) = plan.delete_row(row) else { return Ok(false) };
                    one(self.tell(&delete, row).await?)?;
                }
                if resolving.terms.rule.buries() {
                    self.tell(&plan.bury(piece.key), of_tuple(piece.key)).await?;
                }
                false
            }
            (Operation::Insert | Operation::Update, Some(image))
                if exists && !matches!(decision, Decision::Conflict(_, Resolution::Queued)) =>
            {
                let told = matches!(decision, Decision::Conflict(..));
                let columns = columns(plan, resolving, piece, image, (incoming_wins, told))?;
                self.merge(plan, piece, image, here, incoming_wins, &columns).await?;
                columns.merged
            }
            (Operation::Insert | Operation::Update, Some(image)) if incoming_wins => {
                if image.values().any(|value| value == Value::Unchanged) {
                    return Err(Stop::Refused(RowError::Incomplete));
                }
                let row = Row::Insert { new: image };
                one(self.tell(&plan.insert_row(row), row).await?)?;
                false
            }
            _ => false,
        };
        if matches!(decision, Decision::Conflict(_, Resolution::SentBack)) {
            let order = plan.send_back(&settings.flow, piece.key);
            self.tell(&order, of_tuple(piece.key)).await?;
            self.owes = true;
        }
        Ok(merged)
    }

    /// Writes those columns of a row that the change is to set.
    async fn merge(
        &mut self,
        plan: &Plan,
        piece: &Piece<'_>,
        image: Tuple<'_>,
        here: Found,
        incoming_wins: bool,
        columns: &Columns,
    ) -> Result<(), Stop> {
        let row = Row::Update { old: Some(Old::Full(piece.key)), new: image };
        let statement = if incoming_wins && plan.replaces && !columns.merged {
            plan.replace_row(row)
        } else {
            plan.merge_row(row, &columns.written, &columns.added)
        };
        let Some(statement) = statement else { return Ok(()) };
        one(self.tell(&statement, row).await?)?;
        // The row was written by the source's transaction, and still is this site's version.
        if let (false, Found::Row(Writer::Here(Timestamp(at)), _)) = (incoming_wins, here) {
            self.tell(&plan.mark_merged(piece.key, at), of_tuple(piece.key)).await?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a record has many parts")]
    async fn record(
        &mut self,
        batch: &Batch,
        index: usize,
        plan: &Plan,
        piece: &Piece<'_>,
        settings: &ReplicatSettings,
        (kind, decision): (Kind, &str),
        local: &Local,
    ) -> Result<(), Stop> {
        let key = self.ask(&plan.key_text(piece.key), of_tuple(piece.key)).await?;
        let key: String = key.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        let verdict = Verdict {
            flow: &settings.flow,
            origin: settings.conflicts.as_ref().map_or("", |conflicts| &conflicts.there),
            kind,
            rule: plan.conflict.as_ref().map_or("", |resolving| resolving.name),
            decision,
            key: &key,
            local,
        };
        tracing::debug!(table = %plan.source(), %kind, decision, "conflict");
        Ok(record::put(self.session.client(), batch, index, &verdict).await?)
    }

    /// Sends out what was promised to be sent back, in a session without an origin. What is still owed after a failure is
    /// sent when the target is loaded the next time.
    pub(crate) async fn send_back(&mut self, settings: &ReplicatSettings) -> Result<(), Error> {
        const TAKE: &str = "DELETE FROM irongate.send_back WHERE flow = $1 \
             RETURNING table_schema, table_name, key::pg_catalog.text";
        if !self.owes {
            return Ok(());
        }
        let application = format!("irongate {} sends back", settings.group);
        let session = Session::connect(&settings.target, &application).await?;
        session.batch_execute("SET session_replication_role = replica; BEGIN").await?;
        for row in session.query(TAKE, &[&settings.flow]).await? {
            let (schema, table, key): (String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let columns = match serde_json::from_str(&key) {
                Ok(Json::Object(object)) => object.keys().cloned().collect::<Vec<_>>(),
                _ => continue,
            };
            session.execute(&touch(&schema, &table, &columns), &[&key]).await?;
        }
        session.batch_execute("COMMIT").await?;
        self.owes = false;
        Ok(())
    }
}

fn one(rows: u64) -> Result<(), Stop> {
    match rows {
        1 => Ok(()),
        0 => Err(Stop::Refused(RowError::Missing)),
        rows => Err(Stop::Refused(RowError::Ambiguous(rows))),
    }
}

/// Which columns of a row that both sites have take their value from the change.
fn columns(
    plan: &Plan,
    resolving: &Resolving,
    piece: &Piece<'_>,
    image: Tuple<'_>,
    (incoming_wins, told): (bool, bool),
) -> Result<Columns, Stop> {
    let mut columns = Columns { written: Vec::new(), added: Vec::new(), merged: false };
    let new: Vec<Value<'_>> = image.values().collect();
    let old: Option<Vec<Value<'_>>> = piece.full.map(|old| old.values().collect());
    // Who wins the row has also said how its key is written.
    for column in written(plan, image, incoming_wins && plan.has_spellings()) {
        let rule = resolving.columns.get(column).copied().flatten();
        match rule {
            Some(ColumnRule::Difference) if piece.operation == Operation::Update => {
                let Some(old) = &old else { return Err(Stop::Refused(RowError::Incomplete)) };
                let (from, to) = (old.get(column), new.get(column));
                if from == to {
                    continue;
                }
                // Whoever won, the two sites would differ by what the other one has added.
                if from == Some(&Value::Null) || to == Some(&Value::Null) {
                    return Err(Stop::Refused(RowError::NoDifference));
                }
                columns.added.push(column);
                columns.merged |= told;
            }
            Some(ColumnRule::Keep) if told => columns.merged |= incoming_wins,
            Some(ColumnRule::Overwrite) if told && !incoming_wins => {
                columns.written.push(column);
                columns.merged = true;
            }
            _ if incoming_wins => columns.written.push(column),
            _ => {}
        }
    }
    Ok(columns)
}
