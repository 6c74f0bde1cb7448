//! The server itself.

use irongate_trail::Lsn;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::error::Error;

/// What a server is and how it is set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerFacts {
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// The version as the server prints it.
    pub version: String,
    /// The cluster's identifier, made by initdb.
    pub system_identifier: u64,
    /// The timeline that is written, or in recovery the one that was last replayed.
    pub timeline: u32,
    /// Whether the server is a standby.
    pub in_recovery: bool,
    /// `replica` or `logical` (or `minimal`).
    pub wal_level: String,
    /// Limit of walsenders.
    pub max_wal_senders: u32,
    /// Limit of slots, and up to version 17 of replication origins.
    pub max_replication_slots: u32,
    /// Limit of replication origins that are in use: from 18 a setting of its own.
    pub max_replication_origins: u32,
    /// Milliseconds after which a walsender gives up a silent client; zero is never.
    pub wal_sender_timeout_millis: u64,
    /// Megabytes of write-ahead log that slots may hold; -1 is no limit.
    pub max_slot_wal_keep_size_mb: i64,
    /// Limit of prepared transactions; zero means that there are none.
    pub max_prepared_transactions: u32,
    /// Whether commit timestamps and origins are kept.
    pub track_commit_timestamp: bool,
    /// The database's name.
    pub database: String,
    /// The database's encoding.
    pub encoding: String,
    /// The database's collation.
    pub lc_collate: String,
    /// The database's character classification.
    pub lc_ctype: String,
    /// The server's currency format, in which values of type `money` are printed.
    pub lc_monetary: String,
}

/// Reads [`ServerFacts`]. Needs no privilege.
pub async fn server_facts(client: &Client) -> Result<ServerFacts, Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
                    pg_catalog.current_setting('server_version'),
                    s.system_identifier,
                    CASE WHEN pg_catalog.pg_is_in_recovery() THEN
                        coalesce(nullif(r.min_recovery_end_timeline, 0), c.timeline_id)
                    ELSE
                        ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))
                            ::pg_catalog.bit(32)::pg_catalog.int4
                    END,
                    pg_catalog.pg_is_in_recovery(),
                    pg_catalog.current_setting('wal_level'),
                    pg_catalog.current_setting('max_wal_senders')::pg_catalog.int4,
                    pg_catalog.current_setting('max_replication_slots')::pg_catalog.int4,
                    coalesce(pg_catalog.current_setting('max_active_replication_origins', true),
                             pg_catalog.current_setting('max_replication_slots'))::pg_catalog.int4,
                    (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'),
                    (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings
                      WHERE name = 'max_slot_wal_keep_size'),
                    pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int4,
                    pg_catalog.current_setting('track_commit_timestamp')::pg_catalog.bool,
                    d.datname, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
                    pg_catalog.current_setting('lc_monetary')
               FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c,
                    pg_catalog.pg_control_recovery() r, pg_catalog.pg_database d
              WHERE d.datname = pg_catalog.current_database()",
            &[],
        )
        .await?;
    Ok(ServerFacts {
        version_num: row.try_get::<_, i32>(0)?.cast_unsigned(),
        version: row.try_get(1)?,
        // bigint shows the upper half of the identifiers as negative numbers.
        system_identifier: row.try_get::<_, i64>(2)?.cast_unsigned(),
        timeline: row.try_get::<_, i32>(3)?.cast_unsigned(),
        in_recovery: row.try_get(4)?,
        wal_level: row.try_get(5)?,
        max_wal_senders: row.try_get::<_, i32>(6)?.cast_unsigned(),
        max_replication_slots: row.try_get::<_, i32>(7)?.cast_unsigned(),
        max_replication_origins: row.try_get::<_, i32>(8)?.cast_unsigned(),
        wal_sender_timeout_millis: row.try_get::<_, i64>(9)?.max(0).cast_unsigned(),
        max_slot_wal_keep_size_mb: row.try_get(10)?,
        max_prepared_transactions: row.try_get::<_, i32>(11)?.cast_unsigned(),
        track_commit_timestamp: row.try_get(12)?,
        database: row.try_get(13)?,
        encoding: row.try_get(14)?,
        lc_collate: row.try_get(15)?,
        lc_ctype: row.try_get(16)?,
        lc_monetary: row.try_get(17)?,
    })
}

/// What tells a database from every other at one moment, by whatever address it was reached.
///
/// A copy of a cluster's files has its system identifier and the numbers of its databases; it was not started in the same
/// microsecond.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseIdentity {
    /// Of the cluster and of all its copies.
    pub system_identifier: u64,
    /// When its server was started, in seconds since 1970 with six places.
    pub started: String,
    /// The database's number in its cluster.
    pub database: u32,
}

/// Reads [`DatabaseIdentity`]. Needs no privilege.
pub async fn database_identity(client: &Client) -> Result<DatabaseIdentity, Error> {
    // EXTRACT of a time with its zone does not depend on the session's settings, as its text does.
    const SQL: &str = "SELECT s.system_identifier,
                EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time())::pg_catalog.text,
                d.oid
           FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d
          WHERE d.datname = pg_catalog.current_database()";
    let row = client.query_one(SQL, &[]).await?;
    Ok(DatabaseIdentity {
        system_identifier: row.try_get::<_, i64>(0)?.cast_unsigned(),
        started: row.try_get(1)?,
        database: row.try_get(2)?,
    })
}

/// A role's attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleFacts {
    /// Its name.
    pub name: String,
    /// May do anything.
    pub superuser: bool,
    /// May open replication connections and use slots.
    pub replication: bool,
    /// Row security does not apply to it.
    pub bypass_rls: bool,
    /// May create roles.
    pub create_role: bool,
    /// May create databases.
    pub create_db: bool,
    /// May log in.
    pub login: bool,
    /// Limit of its connections; -1 is none.
    pub connection_limit: i32,
}

/// Attributes of the role `name`, or of the session's own role; `None` if there is no such role.
pub async fn role_facts(client: &Client, name: Option<&str>) -> Result<Option<RoleFacts>, Error> {
    let row = client
        .query_opt(
            "SELECT rolname, rolsuper, rolreplication, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin,
                    rolconnlimit
               FROM pg_catalog.pg_roles WHERE rolname = coalesce($1::pg_catalog.text, current_user)",
            &[&name],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(RoleFacts {
        name: row.try_get(0)?,
        superuser: row.try_get(1)?,
        replication: row.try_get(2)?,
        bypass_rls: row.try_get(3)?,
        create_role: row.try_get(4)?,
        create_db: row.try_get(5)?,
        login: row.try_get(6)?,
        connection_limit: row.try_get(7)?,
    }))
}

/// A setting as this session has it; `None` if the server does not know it.
pub async fn setting(client: &Client, name: &str) -> Result<Option<String>, Error> {
    Ok(client
        .query_one("SELECT pg_catalog.current_setting($1::pg_catalog.text, true)", &[&name])
        .await?
        .try_get(0)?)
}

/// How far the write-ahead log is written; on a standby, replayed.
pub async fn current_wal_lsn(client: &Client) -> Result<Lsn, Error> {
    wal_lsn(client, "pg_catalog.pg_current_wal_lsn()").await
}

/// How far the write-ahead log is flushed to disk; on a standby, replayed.
pub async fn current_wal_flush_lsn(client: &Client) -> Result<Lsn, Error> {
    wal_lsn(client, "pg_catalog.pg_current_wal_flush_lsn()").await
}

async fn wal_lsn(client: &Client, of_primary: &str) -> Result<Lsn, Error> {
    let question = format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE {of_primary} END"
    );
    let lsn: Option<PgLsn> = client.query_one(&question, &[]).await?.try_get(0)?;
    Ok(lsn.map(|lsn| Lsn(lsn.into())).unwrap_or_default())
}
