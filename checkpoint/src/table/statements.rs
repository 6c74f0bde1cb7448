//! The SQL of the checkpoint table.

use irongate_postgres::sql::quote_identifier;

use crate::sql::claimant;

/// The schema of everything that Irongate keeps in a database.
pub const CHECKPOINT_SCHEMA: &str = "irongate";

/// The statements that make the checkpoint table and let `role` use it; to be run by the schema's owner. They can be
/// run again.
///
/// The table has a handful of rows and each is updated by every target transaction. With a low fill factor and no index
/// on anything that changes, each update finds room on its own page, makes no index entry, and the next reader prunes
/// the page (PostgreSQL manual, "Heap-Only Tuples"). Autovacuum by absolute numbers, since a share of a handful of
/// rows says nothing.
pub fn checkpoint_setup(role: &str) -> Vec<String> {
    let role = quote_identifier(role);
    vec![
        format!("CREATE SCHEMA IF NOT EXISTS {CHECKPOINT_SCHEMA}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {CHECKPOINT_SCHEMA}.checkpoint (\n\
             \x20   flow text PRIMARY KEY,\n\
             \x20   system_identifier text NOT NULL,\n\
             \x20   timeline bigint NOT NULL,\n\
             \x20   slot_incarnation pg_lsn NOT NULL,\n\
             \x20   commit_lsn pg_lsn NOT NULL,\n\
             \x20   end_lsn pg_lsn NOT NULL,\n\
             \x20   commit_time timestamptz NOT NULL,\n\
             \x20   trail_seqno bigint NOT NULL,\n\
             \x20   trail_offset bigint NOT NULL,\n\
             \x20   epoch bigint NOT NULL,\n\
             \x20   transactions bigint NOT NULL,\n\
             \x20   marker text,\n\
             \x20   applied_at timestamptz NOT NULL DEFAULT clock_timestamp()\n\
             ) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0,\n\
             \x20   autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 1000000)"
        ),
        format!("GRANT USAGE ON SCHEMA {CHECKPOINT_SCHEMA} TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {CHECKPOINT_SCHEMA}.checkpoint TO {role}"),
    ]
}

/// The statements that take the checkpoint table away. The schema stays: other things may lie in it.
pub fn checkpoint_teardown() -> Vec<String> {
    vec![format!("DROP TABLE IF EXISTS {CHECKPOINT_SCHEMA}.checkpoint")]
}

/// The key of the advisory lock of a flow. The namespace is one number of 64 bits that all users of advisory locks in
/// the database share, so the text that is hashed says whose it is.
macro_rules! claim_key {
    () => {
        "hashtextextended('irongate checkpoint of flow ' || $1::text, 0)"
    };
}

/// The same of the session that works ahead for the flow.
macro_rules! ahead_key {
    () => {
        "hashtextextended('irongate work ahead of flow ' || $1::text, 0)"
    };
}

/// The same of the sessions that work beside it, which share it.
macro_rules! beside_key {
    () => {
        "hashtextextended('irongate work beside of flow ' || $1::text, 0)"
    };
}

pub(super) const CLAIM: &str =
    concat!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.", claim_key!(), ")");
pub(super) const CLAIM_AHEAD: &str =
    concat!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.", ahead_key!(), ")");
pub(super) const CLAIM_BESIDE: &str =
    concat!("SELECT pg_catalog.pg_try_advisory_lock_shared(pg_catalog.", beside_key!(), ")");
pub(super) const RELEASE: &str =
    concat!("SELECT pg_catalog.pg_advisory_unlock(pg_catalog.", claim_key!(), ")");
pub(super) const CLAIMANT: &str = claimant!(claim_key!());
pub(super) const AHEAD_CLAIMANT: &str = claimant!(ahead_key!());
pub(super) const BESIDE_CLAIMANT: &str = claimant!(beside_key!());

pub(super) const LOAD: &str = "SELECT system_identifier, timeline, slot_incarnation, commit_lsn, end_lsn, commit_time, \
     trail_seqno, trail_offset, epoch, transactions FROM irongate.checkpoint WHERE flow = $1";
pub(super) const MARKER: &str = "SELECT marker FROM irongate.checkpoint WHERE flow = $1";
pub(super) const REMOVE: &str = "DELETE FROM irongate.checkpoint WHERE flow IN ($1, $1 || ' (aside)')";
/// No flow has such a name.
pub(super) const KEEP: &str = "INSERT INTO irongate.checkpoint (flow, system_identifier, timeline, slot_incarnation, \
     commit_lsn, end_lsn, commit_time, trail_seqno, trail_offset, epoch, transactions, marker, applied_at) \
     SELECT flow || ' (aside)', system_identifier, timeline, slot_incarnation, commit_lsn, end_lsn, commit_time, \
     trail_seqno, trail_offset, epoch, transactions, marker, applied_at FROM irongate.checkpoint WHERE flow = $1";
pub(super) const GO_BACK: &str = "UPDATE irongate.checkpoint c SET commit_lsn = k.commit_lsn, end_lsn = k.end_lsn, \
     commit_time = k.commit_time, trail_seqno = k.trail_seqno, trail_offset = k.trail_offset, \
     transactions = k.transactions, marker = k.marker, applied_at = clock_timestamp() \
     FROM irongate.checkpoint k WHERE c.flow = $1 AND k.flow = $1 || ' (aside)' \
     AND c.system_identifier = k.system_identifier AND c.timeline = k.timeline \
     AND c.slot_incarnation = k.slot_incarnation AND c.epoch = k.epoch AND c.end_lsn >= k.end_lsn";
pub(super) const FORGET_KEPT: &str = "DELETE FROM irongate.checkpoint WHERE flow = $1 || ' (aside)'";

/// Columns and parameters of a whole row.
macro_rules! insert {
    () => {
        "INSERT INTO irongate.checkpoint AS c (flow, system_identifier, timeline, slot_incarnation, commit_lsn, \
         end_lsn, commit_time, trail_seqno, trail_offset, epoch, transactions, marker) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    };
}

pub(super) const INITIALISE: &str = concat!(insert!(), " ON CONFLICT (flow) DO NOTHING");

/// A row that may not be replaced gets a null commit LSN, which the table refuses: the transaction cannot commit.
pub(super) const SAVE: &str = concat!(
    insert!(),
    " ON CONFLICT (flow) DO UPDATE SET timeline = excluded.timeline, \
     commit_lsn = CASE WHEN c.system_identifier = excluded.system_identifier \
     AND c.slot_incarnation = excluded.slot_incarnation AND c.timeline <= excluded.timeline \
     AND c.commit_lsn <= excluded.commit_lsn AND c.end_lsn <= excluded.end_lsn AND c.epoch <= excluded.epoch \
     THEN excluded.commit_lsn END, \
     end_lsn = excluded.end_lsn, commit_time = excluded.commit_time, trail_seqno = excluded.trail_seqno, \
     trail_offset = excluded.trail_offset, epoch = excluded.epoch, transactions = excluded.transactions, \
     marker = coalesce(excluded.marker, c.marker), applied_at = clock_timestamp()"
);

/// An update that finds no row to replace divides by zero: the transaction cannot commit.
pub(super) const SAVE_AFTER: &str = "WITH saved AS (UPDATE irongate.checkpoint SET timeline = $3, commit_lsn = $5, \
     end_lsn = $6, commit_time = $7, trail_seqno = $8, trail_offset = $9, epoch = $10, transactions = $11, \
     marker = coalesce($12, marker), applied_at = clock_timestamp() \
     WHERE flow = $1 AND system_identifier = $2 AND timeline <= $3 AND slot_incarnation = $4 AND commit_lsn = $13 \
     AND commit_lsn <= $5 AND end_lsn <= $6 AND epoch <= $10 RETURNING 1) SELECT 1 / count(*) FROM saved";
