//! Triggers.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::catalog::{ask_about, by_table, unexpected};
use crate::error::Error;

/// When a trigger fires, by the session's `session_replication_role` (`pg_trigger.tgenabled`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TriggerFires {
    /// For all but Replicat's changes: roles origin and local.
    InOrigin,
    /// Never.
    Disabled,
    /// Only for Replicat's changes.
    InReplica,
    /// Always.
    Always,
}

/// A trigger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub fires: TriggerFires,
    /// Schema and name of its function.
    pub function: (String, String),
}

pub(super) async fn triggers(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, Vec<Trigger>>, Error> {
    let rows = ask_about(
        client,
        "SELECT t.tgrelid, t.tgname, t.tgenabled, n.nspname, p.proname
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
           JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
          WHERE t.tgrelid = ANY ($1::pg_catalog.oid[]) AND NOT t.tgisinternal
          ORDER BY t.tgrelid, t.tgname",
        tables,
    )
    .await?;
    by_table(rows.iter().map(|row| {
        let fires = match row.try_get::<_, i8>(2)?.cast_unsigned() {
            b'O' => TriggerFires::InOrigin,
            b'D' => TriggerFires::Disabled,
            b'R' => TriggerFires::InReplica,
            b'A' => TriggerFires::Always,
            _ => return Err(unexpected("pg_trigger.tgenabled")),
        };
        let trigger = Trigger { name: row.try_get(1)?, fires, function: (row.try_get(3)?, row.try_get(4)?) };
        Ok((row.try_get(0)?, trigger))
    }))
}
