//! The table of conflicts: what met what, and what was made of it, written by the same target transaction.
//!
//! Images are JSON objects: of what came, column and text value; of what was here, as the server makes JSON of a row.

use irongate_trail::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::Kind;
use super::decide::Resolution;
use crate::batch::{Batch, Change};
use crate::error::Error;
use crate::error_queue::image;

impl Resolution {
    /// As the table of conflicts has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::SentBack => "incoming, sent back",
            Self::Local => "local",
            Self::Queued => "queued",
        }
    }
}

/// What was found here, for the record.
#[derive(Clone, Default, Debug)]
pub(crate) struct Local {
    pub(crate) row: Option<String>,
    pub(crate) at: Option<Timestamp>,
    pub(crate) origin: Option<String>,
}

/// What is recorded besides the change itself.
pub(crate) struct Verdict<'a> {
    pub(crate) flow: &'a str,
    pub(crate) origin: &'a str,
    pub(crate) kind: Kind,
    pub(crate) rule: &'a str,
    pub(crate) decision: &'a str,
    pub(crate) key: &'a str,
    pub(crate) local: &'a Local,
}

const PUT: &str = "INSERT INTO irongate.conflict (flow, table_schema, table_name, key, kind, rule, decision, origin, \
     commit_lsn, ordinal, xid, commit_time, incoming_old, incoming_new, local_row, local_time, local_origin) \
     VALUES ($1, $2, $3, $4::text::json, $5, $6, $7, $8, $9, $10, $11, \
     timestamptz '2000-01-01 00:00:00+00' + $12::bigint * interval '1 microsecond', \
     $13::text::json, $14::text::json, $15::text::json, \
     timestamptz '2000-01-01 00:00:00+00' + $16::bigint * interval '1 microsecond', $17)";

/// Records the conflict of a change of a batch.
pub(crate) async fn put(
    client: &Client,
    batch: &Batch,
    index: usize,
    verdict: &Verdict<'_>,
) -> Result<(), tokio_postgres::Error> {
    let (Some((begin, ordinal)), Change::Row { relation, row }) = (batch.place(index), batch.change(index))
    else {
        return Ok(());
    };
    let table = &batch.relations()[relation];
    let old = row.old().map(|old| image(table, old.tuple(), matches!(old, irongate_trail::Old::Key(_))));
    let new = row.new().map(|new| image(table, new, false));
    client
        .execute(
            PUT,
            &[
                &verdict.flow,
                &table.schema,
                &table.name,
                &verdict.key,
                &verdict.kind.name(),
                &verdict.rule,
                &verdict.decision,
                &verdict.origin,
                &PgLsn::from(begin.commit_lsn.0.0),
                &i64::try_from(ordinal).unwrap_or(i64::MAX),
                &i64::from(begin.xid),
                &begin.commit_time.0,
                &old.as_ref().map(Json::to_string),
                &new.as_ref().map(Json::to_string),
                &verdict.local.row,
                &verdict.local.at.map(|at| at.0),
                &verdict.local.origin,
            ],
        )
        .await
        .map(drop)
}

/// A recorded conflict. Its images hold row values.
#[derive(Clone, Debug, Serialize)]
pub struct Conflict {
    /// Its number.
    pub id: i64,
    /// Schema and name at the source.
    pub table: String,
    /// The key as JSON.
    pub key: Json,
    /// What kind ([`Kind::name`]).
    pub kind: String,
    /// The rule ([`super::Rule::name`]).
    pub rule: String,
    /// `incoming`, `local`, `merged`, `queued` or `incoming, sent back`.
    pub decision: String,
    /// The site that the change comes from.
    pub origin: String,
    /// Where the source transaction's commit record starts.
    pub commit_lsn: String,
    /// The change's number in the transaction, from 1.
    pub ordinal: i64,
    /// When it was committed at the source.
    pub commit_time: String,
    /// When what was here was written, if that is known.
    pub local_time: Option<String>,
    /// The replication origin under which it was written; none if by the site itself.
    pub local_origin: Option<String>,
    /// When it was found.
    pub found_at: String,
    /// What comes: the row, or its key, as it was at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming_old: Option<Json>,
    /// What comes: the row as it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming_new: Option<Json>,
    /// The row as it was here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_row: Option<Json>,
}

const COLUMNS: &str = "id, table_schema || '.' || table_name, key::text, kind, rule, decision, origin, \
     commit_lsn::text, ordinal, commit_time::text, local_time::text, local_origin, found_at::text";

/// The newest conflicts of a flow, the newest last, without images.
///
/// # Errors
/// [`Error::Target`].
pub async fn conflicts(client: &Client, flow: &str, most: i64) -> Result<Vec<Conflict>, Error> {
    let sql = format!(
        "SELECT * FROM (SELECT {COLUMNS} FROM irongate.conflict WHERE flow = $1 ORDER BY id DESC LIMIT $2) c \
         ORDER BY id"
    );
    client.query(&sql, &[&flow, &most]).await?.iter().map(|row| read(row, false)).collect()
}

/// One conflict with its images; `None` if there is no such number.
///
/// # Errors
/// [`Error::Target`].
pub async fn conflict(client: &Client, flow: &str, id: i64) -> Result<Option<Conflict>, Error> {
    let sql = format!(
        "SELECT {COLUMNS}, incoming_old::text, incoming_new::text, local_row::text \
         FROM irongate.conflict WHERE flow = $1 AND id = $2"
    );
    client.query_opt(&sql, &[&flow, &id]).await?.map(|row| read(&row, true)).transpose()
}

/// Removes what was recorded of a flow's conflicts longer ago than so many seconds. Returns how many.
///
/// # Errors
/// [`Error::Target`].
pub async fn purge_conflicts(client: &Client, flow: &str, older_than_seconds: f64) -> Result<u64, Error> {
    const SQL: &str = "DELETE FROM irongate.conflict \
         WHERE flow = $1 AND found_at <= clock_timestamp() - $2 * interval '1 second'";
    Ok(client.execute(SQL, &[&flow, &older_than_seconds]).await?)
}

fn read(row: &tokio_postgres::Row, images: bool) -> Result<Conflict, Error> {
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let image = |column| -> Result<Option<Json>, Error> {
        if images { Ok(json(row.try_get(column)?)) } else { Ok(None) }
    };
    Ok(Conflict {
        id: row.try_get(0)?,
        table: row.try_get(1)?,
        key: json(row.try_get(2)?).unwrap_or_default(),
        kind: row.try_get(3)?,
        rule: row.try_get(4)?,
        decision: row.try_get(5)?,
        origin: row.try_get(6)?,
        commit_lsn: row.try_get(7)?,
        ordinal: row.try_get(8)?,
        commit_time: row.try_get(9)?,
        local_time: row.try_get(10)?,
        local_origin: row.try_get(11)?,
        found_at: row.try_get(12)?,
        incoming_old: image(13)?,
        incoming_new: image(14)?,
        local_row: image(15)?,
    })
}
