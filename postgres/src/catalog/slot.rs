//! Replication slots.

use irongate_trail::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::error::Error;

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotFacts {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// The database that it decodes; none for a physical slot.
    pub database: Option<String>,
    /// It vanishes with its session.
    pub temporary: bool,
    /// Somebody streams from it.
    pub active: bool,
    /// Who does.
    pub active_pid: Option<i32>,
    /// What was confirmed. It is kept in memory and may go back in a crash.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The oldest write-ahead log that it holds.
    pub restart_lsn: Option<Lsn>,
    /// The oldest transaction whose catalog rows it keeps from vacuum.
    pub catalog_xmin: Option<u32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before it is in danger; none if there is no limit.
    pub safe_wal_size: Option<i64>,
    /// Why it cannot be used any more (servers from 17).
    pub invalidation_reason: Option<String>,
    /// It sends transactions at PREPARE.
    pub two_phase: bool,
    /// It was invalidated by a conflict with recovery (servers from 16).
    pub conflicting: bool,
    /// It is to be synchronised to standbys (servers from 17).
    pub failover: bool,
    /// It is a standby's copy (servers from 17).
    pub synced: bool,
}

impl SlotFacts {
    /// Why nothing can be read from it any more, in the server's words; none while it can.
    pub fn lost(&self) -> Option<&str> {
        if let Some(reason) = &self.invalidation_reason {
            return Some(reason);
        }
        match self.wal_status.as_deref() {
            Some("lost") => Some("wal_removed"),
            _ if self.conflicting => Some("conflict with recovery"),
            _ => None,
        }
    }
}

// What a version does not have is asked for by name in the row's JSON form, where it is simply absent.
const QUESTION: &str = "
    SELECT s.slot_name, s.plugin, s.database, s.temporary, s.active, s.active_pid, s.confirmed_flush_lsn, s.restart_lsn,
           s.catalog_xmin::pg_catalog.text, s.wal_status, s.safe_wal_size,
           pg_catalog.jsonb_extract_path_text(j.slot, 'invalidation_reason'), s.two_phase,
           coalesce(pg_catalog.jsonb_extract_path_text(j.slot, 'conflicting')::pg_catalog.bool, false),
           coalesce(pg_catalog.jsonb_extract_path_text(j.slot, 'failover')::pg_catalog.bool, false),
           coalesce(pg_catalog.jsonb_extract_path_text(j.slot, 'synced')::pg_catalog.bool, false)
      FROM pg_catalog.pg_replication_slots s, LATERAL (SELECT pg_catalog.to_jsonb(s)) j(slot)
     WHERE $1::pg_catalog.text IS NULL OR s.slot_name = $1::pg_catalog.text
     ORDER BY s.slot_name";

/// The slot `name`, if there is one.
pub async fn slot(client: &Client, name: &str) -> Result<Option<SlotFacts>, Error> {
    client.query_opt(QUESTION, &[&Some(name)]).await?.as_ref().map(facts).transpose()
}

/// All slots of the cluster.
pub async fn slots(client: &Client) -> Result<Vec<SlotFacts>, Error> {
    client.query(QUESTION, &[&None::<&str>]).await?.iter().map(facts).collect()
}

fn facts(row: &Row) -> Result<SlotFacts, Error> {
    let lsn = |column| -> Result<Option<Lsn>, Error> {
        Ok(row.try_get::<_, Option<PgLsn>>(column)?.map(|lsn| Lsn(lsn.into())))
    };
    Ok(SlotFacts {
        name: row.try_get(0)?,
        plugin: row.try_get(1)?,
        database: row.try_get(2)?,
        temporary: row.try_get(3)?,
        active: row.try_get(4)?,
        active_pid: row.try_get(5)?,
        confirmed_flush_lsn: lsn(6)?,
        restart_lsn: lsn(7)?,
        catalog_xmin: row.try_get::<_, Option<&str>>(8)?.and_then(|xid| xid.parse().ok()),
        wal_status: row.try_get(9)?,
        safe_wal_size: row.try_get(10)?,
        invalidation_reason: row.try_get(11)?,
        two_phase: row.try_get(12)?,
        conflicting: row.try_get(13)?,
        failover: row.try_get(14)?,
        synced: row.try_get(15)?,
    })
}
