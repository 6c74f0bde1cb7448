//! What an operator does with queued changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use irongate_checkpoint::Origin;
use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Item, Lsn, Malformed, Old, Relation, ReplicaIdentity, ResumeLsn, Row,
    Timestamp, TupleBuilder, Value,
};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use tokio_postgres::types::PgLsn;

use crate::batch::Batch;
use crate::error::{Error, RowError};
use crate::policy::CONFLICT;
use crate::settings::ReplicatSettings;
use crate::target::{Connection, connection_for_replay};

/// A queued change. Its images hold row values.
#[derive(Clone, Debug, Serialize)]
pub struct Queued {
    /// Its number in the queue.
    pub id: i64,
    /// Where the source transaction's commit record starts.
    pub commit_lsn: String,
    /// Its number in the transaction, from 1.
    pub ordinal: i64,
    /// The source transaction's id.
    pub xid: i64,
    /// When it was committed at the source.
    pub commit_time: String,
    /// Schema and name at the source.
    pub table: String,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: String,
    /// SQLSTATE, or `missing`.
    pub class: String,
    /// Why it is here, without values.
    pub reason: String,
    /// `queued`, `replayed` or `skipped`.
    pub state: String,
    /// When it came.
    pub queued_at: String,
    /// The row, or its key, as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_row: Option<Json>,
    /// The row as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_row: Option<Json>,
}

const LIST: &str = "SELECT id, commit_lsn::text, ordinal, xid, commit_time::text, table_schema || '.' || table_name, \
     operation, class, reason, state, queued_at::text FROM irongate.error_queue \
     WHERE flow = $1 AND (state = 'queued' OR $2) ORDER BY id";

/// The queue of a flow in order, without images; with `all`, those replayed and skipped too.
///
/// # Errors
/// [`Error::Target`].
pub async fn list(client: &tokio_postgres::Client, flow: &str, all: bool) -> Result<Vec<Queued>, Error> {
    client.query(LIST, &[&flow, &all]).await?.iter().map(|row| queued(row, false)).collect()
}

const SHOW: &str = "SELECT id, commit_lsn::text, ordinal, xid, commit_time::text, table_schema || '.' || table_name, \
     operation, class, reason, state, queued_at::text, old_row::text, new_row::text \
     FROM irongate.error_queue WHERE flow = $1 AND id = $2";

/// One queued change with its images; `None` if there is no such number.
///
/// # Errors
/// [`Error::Target`].
pub async fn show(client: &tokio_postgres::Client, flow: &str, id: i64) -> Result<Option<Queued>, Error> {
    client.query_opt(SHOW, &[&flow, &id]).await?.map(|row| queued(&row, true)).transpose()
}

fn queued(row: &tokio_postgres::Row, images: bool) -> Result<Queued, Error> {
    let image = |column| -> Result<Option<Json>, Error> {
        let text: Option<String> = if images { row.try_get(column)? } else { None };
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    };
    Ok(Queued {
        id: row.try_get(0)?,
        commit_lsn: row.try_get(1)?,
        ordinal: row.try_get(2)?,
        xid: row.try_get(3)?,
        commit_time: row.try_get(4)?,
        table: row.try_get(5)?,
        operation: row.try_get(6)?,
        class: row.try_get(7)?,
        reason: row.try_get(8)?,
        state: row.try_get(9)?,
        queued_at: row.try_get(10)?,
        old_row: image(11)?,
        new_row: image(12)?,
    })
}

/// Marks queued changes as not wanted; all of the flow's without `ids`. Returns how many.
///
/// # Errors
/// [`Error::Target`].
pub async fn skip(client: &tokio_postgres::Client, flow: &str, ids: Option<&[i64]>) -> Result<u64, Error> {
    const SQL: &str = "UPDATE irongate.error_queue SET state = 'skipped', resolved_at = clock_timestamp() \
         WHERE flow = $1 AND state = 'queued' AND ($2::bigint[] IS NULL OR id = ANY ($2))";
    Ok(client.execute(SQL, &[&flow, &ids]).await?)
}

/// Applies queued changes in order, each in a target transaction of its own and marked with the flow's origin, and
/// marks them as replayed; all of the flow's without `ids`. Stops at the first that is refused again, or that waits behind
/// another change of its row. In a table with a rule for conflicts each has its say by its version, as if it came now;
/// what was queued by the rule itself goes over whatever is here. Returns how many were applied.
///
/// # Errors
/// [`Error::Row`] for the change that was refused again, which stays queued; [`Error::Target`].
pub async fn replay(settings: &ReplicatSettings, ids: Option<&[i64]>) -> Result<u64, Error> {
    let mut connection = connection_for_replay(settings, Origin::of_worker(&settings.flow, 1)?).await?;
    let result = replay_on(&mut connection, settings, ids).await;
    let sent = connection.send_back(settings).await;
    // The session ends some time after it is dropped, and until then nobody else could replay.
    let Connection { session, origin, .. } = connection;
    origin.session_reset(session.client()).await?;
    let applied = result?;
    sent.map(|()| applied)
}

async fn replay_on(
    connection: &mut Connection,
    settings: &ReplicatSettings,
    ids: Option<&[i64]>,
) -> Result<u64, Error> {
    const WANTED: &str = "SELECT id, table_schema, table_name, operation, key_columns, old_row::text, new_row::text, \
         commit_lsn, xid, class, \
         (EXTRACT(epoch FROM commit_time) * 1000000)::pg_catalog.int8 - 946684800000000 FROM irongate.error_queue \
         WHERE flow = $1 AND state = 'queued' AND ($2::bigint[] IS NULL OR id = ANY ($2)) ORDER BY id";
    const DONE: &str = "UPDATE irongate.error_queue SET state = 'replayed', resolved_at = clock_timestamp() \
         WHERE id = $1 AND state = 'queued'";
    let mut applied = 0;
    for row in connection.session.query(WANTED, &[&settings.flow, &ids]).await? {
        let id: i64 = row.try_get(0)?;
        let commit_time = Timestamp(row.try_get(10)?);
        let batch = batch_of(&row, commit_time)?;
        let force = row.try_get::<_, &str>(9)? == CONFLICT;
        // A row that is brought here late is nevertheless the version that it is at its source.
        let lsn = ResumeLsn(Lsn(row.try_get::<_, PgLsn>(7)?.into()));
        let transaction = connection.origin.begin()?;
        connection.session.batch_execute("BEGIN").await?;
        match apply_in_turn(connection, &batch, settings, id, force).await {
            Ok(()) => {
                connection.session.execute(DONE, &[&id]).await?;
                transaction.xact_setup(connection.session.client(), lsn, commit_time).await?;
                connection.session.batch_execute("COMMIT").await?;
                transaction.committed();
                applied += 1;
            }
            Err(error) => {
                connection.session.batch_execute("ROLLBACK").await?;
                transaction.rolled_back();
                connection.origin.reset(connection.session.client()).await?;
                return Err(error);
            }
        }
    }
    Ok(applied)
}

/// Applies a queued change, unless one of the same row is in front of it.
async fn apply_in_turn(
    connection: &mut Connection,
    batch: &Batch,
    settings: &ReplicatSettings,
    id: i64,
    force: bool,
) -> Result<(), Error> {
    if !force && connection.is_behind(batch, settings, id).await? {
        let place = batch.place(0);
        let table = batch.relations().first().map(|table| format!("{}.{}", table.schema, table.name));
        return Err(Error::Row {
            operation: "replay",
            table: table.unwrap_or_default(),
            reason: RowError::Behind,
            commit: place.map_or(CommitLsn::default(), |(begin, _)| begin.commit_lsn),
            ordinal: place.map_or(0, |(_, ordinal)| ordinal),
            fix: None,
        });
    }
    connection.apply_single(batch, settings, force).await
}

/// The queued change as a batch of its own.
fn batch_of(row: &tokio_postgres::Row, commit_time: Timestamp) -> Result<Batch, Error> {
    let bad =
        |_| Error::Trail(irongate_trail::Error::Misuse("a queued change whose images are not JSON objects"));
    let image = |column| -> Result<Option<Map<String, Json>>, Error> {
        let text: Option<String> = row.try_get(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(bad)).transpose()
    };
    let (old, new) = (image(5)?, image(6)?);
    let keys: Vec<String> = row.try_get(4)?;
    let operation: String = row.try_get(3)?;
    let names: BTreeSet<&String> = old.iter().chain(new.iter()).flat_map(Map::keys).collect();
    // With the identity FULL every column counts as one of the key.
    let all_key = names.iter().all(|name| keys.contains(name));
    let is_full = all_key || old.as_ref().is_some_and(|old| old.keys().any(|name| !keys.contains(name)));
    let column = |name: &&String| Column {
        name: (*name).clone(),
        key: is_full || keys.contains(name),
        type_oid: 0,
        type_modifier: -1,
        type_name: None,
    };
    let relation = Arc::new(Relation {
        id: 1,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        replica_identity: if is_full { ReplicaIdentity::Full } else { ReplicaIdentity::Default },
        columns: names.iter().map(column).collect(),
    });
    let old = old.as_ref().map(|old| tuple(&names, old, Value::Null)).transpose().map_err(malformed)?;
    let new = new.as_ref().map(|new| tuple(&names, new, Value::Unchanged)).transpose().map_err(malformed)?;
    let old = old.as_ref().map(|old| {
        let tuple = old.as_tuple();
        if is_full { Old::Full(tuple) } else { Old::Key(tuple) }
    });
    let commit_lsn = CommitLsn(Lsn(row.try_get::<_, PgLsn>(7)?.into()));
    let xid = u32::try_from(row.try_get::<_, i64>(8)?).unwrap_or_default();
    let begin = Begin { xid, commit_lsn, commit_time, origin: None, previous: CommitLsn::default() };
    let item = match (operation.as_str(), old, new.as_ref().map(TupleBuilder::as_tuple)) {
        ("insert", _, Some(new)) => Item::Row { relation: &relation, row: Row::Insert { new } },
        ("update", old, Some(new)) => Item::Row { relation: &relation, row: Row::Update { old, new } },
        ("delete", Some(old), _) => Item::Row { relation: &relation, row: Row::Delete { old } },
        _ => Item::Truncate { relations: vec![relation.clone()], cascade: false, restart_identity: false },
    };
    let mut batch = Batch::default();
    batch.take(Item::Begin(begin))?;
    batch.take(item)?;
    batch.take(Item::Commit(Commit {
        commit_lsn,
        end_lsn: ResumeLsn::default(),
        commit_time,
        changes: 1,
    }))?;
    Ok(batch)
}

fn malformed(malformed: Malformed) -> Error {
    Error::Trail(irongate_trail::Error::Misuse(malformed.0))
}

fn tuple(
    names: &BTreeSet<&String>,
    image: &Map<String, Json>,
    absent: Value<'_>,
) -> Result<TupleBuilder, Malformed> {
    names.iter().try_fold(TupleBuilder::new(), |tuple, name| {
        Ok(match image.get(*name) {
            None => tuple.value(absent),
            Some(Json::Null) => tuple.value(Value::Null),
            Some(Json::String(text)) => tuple.text(text),
            Some(Json::Object(binary)) => {
                let digits = binary.get("binary").and_then(Json::as_str).unwrap_or_default();
                let byte =
                    |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
                let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
                tuple.value(Value::Binary(
                    &bytes.ok_or(Malformed("a queued binary value is not hexadecimal"))?,
                ))
            }
            Some(_) => return Err(Malformed("a queued value is neither text nor null")),
        })
    })
}
