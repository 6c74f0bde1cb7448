//! What the server says of the slot and of what is published, asked on the replication connection itself: a walsender
//! of a database answers SQL, and so the answers come from the very server that will stream.

use std::fmt::Write as _;
use std::time::Duration;

use irongate_checkpoint::{Origin, ROLE_EXISTS, ROLE_QUERY, Role};
use irongate_postgres::ReplicationConnection;
use irongate_postgres::sql::quote_literal;
use irongate_trail::Lsn;

use crate::binary;
use crate::error::Error;
use crate::positions::Slot;

/// Answers to what must be known before START_REPLICATION.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The slot, if there is one of the name.
    pub(crate) slot: Option<Slot>,
    /// Publications that do not exist.
    pub(crate) missing_publications: Vec<String>,
    /// Publications that were made, or altered in themselves, behind the place up to which the slot keeps the catalogs.
    pub(crate) young_publications: Vec<String>,
    /// Whether every published column may travel in binary.
    pub(crate) binary_safe: bool,
    /// Whether there are origins besides those of Irongate's flows.
    pub(crate) foreign_origins: bool,
    /// Which site writes the database, if that has ever changed.
    pub(crate) role: Option<Role>,
    /// `wal_sender_timeout`; zero is none.
    pub(crate) wal_sender_timeout: Duration,
}

pub(crate) async fn ask(
    connection: &mut ReplicationConnection,
    slot: &str,
    publications: &[String],
) -> Result<Facts, Error> {
    let (missing_publications, young_publications) = ask_publications(connection, slot, publications).await?;
    Ok(Facts {
        slot: ask_slot(connection, slot).await?,
        missing_publications,
        young_publications,
        binary_safe: ask_binary_safe(connection, publications).await?,
        foreign_origins: ask_foreign_origins(connection).await?,
        role: ask_role(connection).await?,
        wal_sender_timeout: ask_timeout(connection).await?,
    })
}

async fn ask_role(connection: &mut ReplicationConnection) -> Result<Option<Role>, Error> {
    let exists = connection.query(ROLE_EXISTS).await?;
    if exists.rows.first().and_then(|row| row.first()?.as_deref()) != Some("t") {
        return Ok(None);
    }
    let found = connection.query(ROLE_QUERY).await?;
    Ok(found.rows.first().map(|row| Role::of_texts(row)).transpose()?)
}

async fn ask_slot(connection: &mut ReplicationConnection, name: &str) -> Result<Option<Slot>, Error> {
    let version = connection.server_version_num();
    // What a release does not have is asked for as a constant.
    let conflicting = if version >= 160_000 { "conflicting" } else { "NULL" };
    let (reason, synced) =
        if version >= 170_000 { ("invalidation_reason", "synced") } else { ("NULL", "false") };
    let rows = connection
        .query(&format!(
            "SELECT plugin, database, active_pid, confirmed_flush_lsn, restart_lsn, wal_status, {reason}, \
             {conflicting}, two_phase, temporary, {synced} \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(name)
        ))
        .await?;
    let Some(row) = rows.rows.first() else { return Ok(None) };
    let text = |column: usize| row.get(column).and_then(Option::as_deref);
    let owned = |column: usize| text(column).map(ToOwned::to_owned);
    let lsn = |column: usize| text(column).and_then(|text| text.parse::<Lsn>().ok());
    let flag = |column: usize| text(column) == Some("t");
    Ok(Some(Slot {
        plugin: owned(0),
        database: owned(1),
        active_pid: text(2).and_then(|pid| pid.parse().ok()),
        confirmed_flush: lsn(3),
        restart_lsn: lsn(4),
        wal_status: owned(5),
        invalidation_reason: owned(6),
        conflicting: flag(7),
        two_phase: flag(8),
        temporary: flag(9),
        synced: flag(10),
    }))
}

async fn ask_publications(
    connection: &mut ReplicationConnection,
    slot: &str,
    publications: &[String],
) -> Result<(Vec<String>, Vec<String>), Error> {
    let found = connection
        .query(&format!(
            "SELECT pubname, EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {} \
             AND pg_catalog.age(p.xmin) <= pg_catalog.age(s.catalog_xmin)) \
             FROM pg_catalog.pg_publication p WHERE pubname IN ({})",
            quote_literal(slot),
            literals(publications)
        ))
        .await?;
    let row = |name: &String| found.rows.iter().find(|row| row.first() == Some(&Some(name.clone())));
    let is_young =
        |name: &String| row(name).is_some_and(|row| row.get(1).and_then(Option::as_deref) == Some("t"));
    let missing = publications.iter().filter(|name| row(name).is_none()).cloned().collect();
    let young = publications.iter().filter(|name| is_young(name)).cloned().collect();
    Ok((missing, young))
}

async fn ask_binary_safe(
    connection: &mut ReplicationConnection,
    publications: &[String],
) -> Result<bool, Error> {
    let rows = connection
        .query(&format!(
            "SELECT DISTINCT a.atttypid FROM pg_catalog.pg_publication_tables t \
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (t.attnames) \
             WHERE t.pubname IN ({})",
            literals(publications)
        ))
        .await?;
    let types = rows.rows.iter().map(|row| row.first().and_then(Option::as_deref));
    let mut oids = types.map(|oid| oid.and_then(|oid| oid.parse::<u32>().ok()));
    Ok(!rows.rows.is_empty() && oids.all(|oid| oid.is_some_and(binary::is_safe)))
}

async fn ask_foreign_origins(connection: &mut ReplicationConnection) -> Result<bool, Error> {
    let rows = connection.query("SELECT roname FROM pg_catalog.pg_replication_origin").await?;
    let mut names = rows.rows.iter().filter_map(|row| row.first()?.as_deref());
    Ok(names.any(|name| Origin::flow_of(name).is_none()))
}

async fn ask_timeout(connection: &mut ReplicationConnection) -> Result<Duration, Error> {
    let rows = connection
        .query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
        .await?;
    let setting = rows.rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
    Ok(Duration::from_millis(setting.and_then(|setting| setting.parse().ok()).unwrap_or_default()))
}

/// `'a', 'b'`; NULL for none, so that `IN` finds nothing.
fn literals(names: &[String]) -> String {
    let mut list = String::new();
    for name in names {
        let _ = write!(list, "{}{}", if list.is_empty() { "" } else { ", " }, quote_literal(name));
    }
    if list.is_empty() { "NULL".to_owned() } else { list }
}
