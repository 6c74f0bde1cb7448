//! The SQL of the ledger.

use irongate_postgres::sql::quote_identifier;

use crate::sql::claimant;
use crate::table::CHECKPOINT_SCHEMA;

/// The ledger's tables, in Irongate's schema.
pub const LOAD_TABLES: [&str; 3] = ["load", "load_table", "load_chunk"];

/// The table, in Irongate's schema, of what a load has made and is to make of the structure. It is made by the first
/// load that copies the structure too.
pub const LOAD_SCHEMA: &str = "load_schema";

/// The statements that make the ledger and let `role` use it; to be run by the schema's owner. They can be run again.
pub fn load_setup(role: &str) -> Vec<String> {
    let role = quote_identifier(role);
    let schema = CHECKPOINT_SCHEMA;
    let tables = LOAD_TABLES.map(|table| format!("{schema}.{table}")).join(", ");
    vec![
        format!("CREATE SCHEMA IF NOT EXISTS {schema}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.load (\n\
             \x20   flow text PRIMARY KEY,\n\
             \x20   job text NOT NULL,\n\
             \x20   system_identifier text NOT NULL,\n\
             \x20   timeline bigint NOT NULL,\n\
             \x20   slot_incarnation pg_lsn NOT NULL,\n\
             \x20   consistent_point pg_lsn NOT NULL,\n\
             \x20   trail_seqno bigint NOT NULL,\n\
             \x20   trail_offset bigint NOT NULL,\n\
             \x20   epoch bigint NOT NULL,\n\
             \x20   snapshot text NOT NULL,\n\
             \x20   snapshot_lsn pg_lsn NOT NULL,\n\
             \x20   snapshot_time timestamptz NOT NULL,\n\
             \x20   keeper_pid integer NOT NULL,\n\
             \x20   keeper_start text NOT NULL,\n\
             \x20   started_at timestamptz NOT NULL DEFAULT clock_timestamp(),\n\
             \x20   done_at timestamptz,\n\
             \x20   beside boolean NOT NULL DEFAULT false,\n\
             \x20   others_lsn pg_lsn\n\
             )"
        ),
        // Of a release that had Replicat wait while single tables were copied.
        format!(
            "ALTER TABLE {schema}.load ADD COLUMN IF NOT EXISTS beside boolean NOT NULL DEFAULT false, \
             ADD COLUMN IF NOT EXISTS others_lsn pg_lsn"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.load_table (\n\
             \x20   flow text,\n\
             \x20   source_schema text,\n\
             \x20   source_table text,\n\
             \x20   target_schema text NOT NULL,\n\
             \x20   target_table text NOT NULL,\n\
             \x20   generation integer NOT NULL,\n\
             \x20   start_lsn pg_lsn NOT NULL,\n\
             \x20   chunks integer NOT NULL,\n\
             \x20   chunk_blocks bigint NOT NULL,\n\
             \x20   chunks_done integer NOT NULL DEFAULT 0,\n\
             \x20   rows bigint NOT NULL DEFAULT 0,\n\
             \x20   bytes bigint NOT NULL DEFAULT 0,\n\
             \x20   size bigint NOT NULL,\n\
             \x20   again boolean NOT NULL DEFAULT false,\n\
             \x20   PRIMARY KEY (flow, source_schema, source_table)\n\
             )"
        ),
        format!(
            "ALTER TABLE {schema}.load_table ADD COLUMN IF NOT EXISTS again boolean NOT NULL DEFAULT false"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.load_chunk (\n\
             \x20   flow text,\n\
             \x20   source_schema text,\n\
             \x20   source_table text,\n\
             \x20   generation integer,\n\
             \x20   chunk integer,\n\
             \x20   rows bigint NOT NULL,\n\
             \x20   bytes bigint NOT NULL,\n\
             \x20   copied_at timestamptz NOT NULL DEFAULT clock_timestamp(),\n\
             \x20   PRIMARY KEY (flow, source_schema, source_table, generation, chunk)\n\
             )"
        ),
        format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}"),
    ]
}

/// The statements that take the ledger away.
pub fn load_teardown() -> Vec<String> {
    let all = LOAD_TABLES.iter().chain([&LOAD_SCHEMA]);
    all.map(|table| format!("DROP TABLE IF EXISTS {CHECKPOINT_SCHEMA}.{table}")).collect()
}

/// The key of the advisory lock of a flow's load: not that of its checkpoint, which Replicat may hold while it waits.
macro_rules! claim_key {
    () => {
        "hashtextextended('irongate load of flow ' || $1::text, 0)"
    };
}

/// The same of a load for which Replicat is to make way for a moment.
macro_rules! way_key {
    () => {
        "hashtextextended('irongate way for a load of flow ' || $1::text, 0)"
    };
}

pub(super) const CLAIM: &str =
    concat!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.", claim_key!(), ")");
pub(super) const CLAIMANT: &str = claimant!(claim_key!());
pub(super) const ASK_FOR_WAY: &str =
    concat!("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.", way_key!(), ")");
pub(super) const NEED_NO_WAY: &str =
    concat!("SELECT pg_catalog.pg_advisory_unlock(pg_catalog.", way_key!(), ")");
pub(super) const WANTS_WAY: &str = claimant!(way_key!());

pub(super) const JOB: &str = "SELECT job, system_identifier, timeline, slot_incarnation, consistent_point, trail_seqno, \
     trail_offset, epoch, snapshot, snapshot_lsn, snapshot_time, keeper_pid, keeper_start, done_at IS NOT NULL AS done, beside, \
     others_lsn \
     FROM irongate.load WHERE flow = $1";

pub(super) const TABLES: &str = "SELECT source_schema, source_table, target_schema, target_table, generation, start_lsn, \
     chunks, chunk_blocks, chunks_done, rows, bytes, size, again FROM irongate.load_table WHERE flow = $1 ORDER BY 1, 2";

pub(super) const CHUNKS: &str = "SELECT source_schema, source_table, chunk FROM irongate.load_chunk \
     JOIN irongate.load_table USING (flow, source_schema, source_table, generation) WHERE flow = $1";

pub(super) const FORGET: [&str; 3] = [
    "DELETE FROM irongate.load_chunk WHERE flow = $1",
    "DELETE FROM irongate.load_table WHERE flow = $1",
    "DELETE FROM irongate.load WHERE flow = $1",
];

pub(super) const BEGIN: &str = "INSERT INTO irongate.load (flow, job, system_identifier, timeline, slot_incarnation, \
     consistent_point, trail_seqno, trail_offset, epoch, snapshot, snapshot_lsn, snapshot_time, keeper_pid, keeper_start, beside, \
     others_lsn) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

pub(super) const SNAPSHOT: &str = "UPDATE irongate.load SET snapshot = $2, snapshot_lsn = $3, snapshot_time = $4, \
     keeper_pid = $5, keeper_start = $6 WHERE flow = $1";

pub(super) const PLAN: &str = "INSERT INTO irongate.load_table (flow, source_schema, source_table, target_schema, \
     target_table, generation, start_lsn, chunks, chunk_blocks, size, again) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
     ON CONFLICT (flow, source_schema, source_table) DO UPDATE SET target_schema = excluded.target_schema, \
     target_table = excluded.target_table, generation = excluded.generation, start_lsn = excluded.start_lsn, \
     chunks = excluded.chunks, chunk_blocks = excluded.chunk_blocks, size = excluded.size, again = excluded.again, chunks_done = 0, \
     rows = 0, bytes = 0";

pub(super) const PRESENT: &str = "UPDATE irongate.load_table t SET chunks_done = t.chunks \
     FROM unnest($2::text[], $3::text[]) AS p (schema_name, table_name) \
     WHERE t.flow = $1 AND t.source_schema = p.schema_name AND t.source_table = p.table_name";

pub(super) const LEAVE_OUT: &str =
    "DELETE FROM irongate.load_table WHERE flow = $1 AND source_schema = $2 AND source_table = $3";

pub(super) const MARK: &str = "UPDATE irongate.load_table SET flow = flow \
     WHERE flow = $1 AND source_schema = $2 AND source_table = $3";

/// A copy that was begun anew has another generation; then nothing is updated, and the division refuses the chunk.
pub(super) const COPIED: &str = "WITH noted AS (UPDATE irongate.load_table SET chunks_done = chunks_done + 1, \
     rows = rows + $6, bytes = bytes + $7 \
     WHERE flow = $1 AND source_schema = $2 AND source_table = $3 AND generation = $4 RETURNING 1), \
     present AS (SELECT 1 / count(*)::int AS one FROM noted) \
     INSERT INTO irongate.load_chunk (flow, source_schema, source_table, generation, chunk, rows, bytes) \
     SELECT $1, $2, $3, $4, $5 * one, $6, $7 FROM present";

/// What was not copied anew is applied up to there.
pub(super) const OTHERS: &str = "UPDATE irongate.load_table SET start_lsn = greatest(start_lsn, $2) \
     WHERE flow = $1 AND NOT again AND $2::pg_catalog.pg_lsn IS NOT NULL";

/// The flow goes on from an earlier place, by somebody's wish: what is behind that is to be applied again.
pub(super) const REWIND: [&str; 2] = [
    "UPDATE irongate.load_table SET start_lsn = least(start_lsn, $2) WHERE flow = $1 AND NOT again",
    "UPDATE irongate.load SET others_lsn = least(others_lsn, $2) WHERE flow = $1",
];

/// An unfinished table divides by zero: the transaction cannot commit.
pub(super) const FINISH: &str = "UPDATE irongate.load SET done_at = clock_timestamp(), others_lsn = greatest(others_lsn, $2) \
     WHERE flow = $1 AND 1 = 1 / (CASE WHEN EXISTS (SELECT FROM irongate.load_table t \
     WHERE t.flow = $1 AND t.chunks_done < t.chunks) THEN 0 ELSE 1 END)";

/// By names in a document, as below.
pub(super) const HALF_COPIED: &str = "SELECT t.target_schema, t.target_table \
     FROM irongate.load l JOIN irongate.load_table t ON t.flow = l.flow \
     WHERE l.flow = $1 AND l.done_at IS NULL \
     AND CASE WHEN EXISTS (SELECT FROM irongate.checkpoint c WHERE c.flow = l.flow) \
     THEN coalesce((pg_catalog.to_jsonb(t) ->> 'again')::pg_catalog.bool, false) ELSE t.chunks_done < t.chunks END \
     ORDER BY 1, 2";

pub(super) const LEDGER_EXISTS: &str = "SELECT pg_catalog.to_regclass('irongate.load_table') IS NOT NULL";

/// By names in a document, since a ledger of an earlier release has not all of them.
pub(super) const STARTS: &str = "SELECT t.source_schema, t.source_table, t.start_lsn, \
     coalesce((pg_catalog.to_jsonb(t) ->> 'again')::pg_catalog.bool, false) AND l.done_at IS NULL AS away, \
     (pg_catalog.to_jsonb(l) ->> 'others_lsn')::pg_catalog.pg_lsn AS others, \
     coalesce((pg_catalog.to_jsonb(t) ->> 'again')::pg_catalog.bool, false) AS again \
     FROM irongate.load l JOIN irongate.checkpoint c ON c.flow = l.flow JOIN irongate.load_table t ON t.flow = l.flow \
     WHERE l.flow = $1 AND l.system_identifier = c.system_identifier AND l.slot_incarnation = c.slot_incarnation \
     AND (l.done_at IS NOT NULL OR coalesce((pg_catalog.to_jsonb(l) ->> 'beside')::pg_catalog.bool, false))";
