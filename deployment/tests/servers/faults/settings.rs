//! Roles, rights, settings and collations.

use super::At::{Source, Target};
use super::Mends::{Fix, Sql};
use super::{Fault, fault};
use irongate_deployment::Severity::{Error, Note, Warning};

pub(super) const FAULTS: &[Fault] = &[

    // Roles and rights.
    fault(
        Source,
        "REVOKE SELECT ON a FROM %N_extract",
        Error,
        ["table public.a", "lacks SELECT", "GRANT SELECT"],
        Fix,
    ),
    fault(
        Source,
        "ALTER ROLE %N_extract NOREPLICATION",
        Error,
        ["%N_extract", "replication", "REPLICATION"],
        Fix,
    ),
    fault(
        Source,
        "REVOKE SELECT ON SEQUENCE a_id_seq FROM %N_extract",
        Error,
        ["a_id_seq", "SELECT", "GRANT"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE TRUNCATE, DELETE ON a, b FROM %N_replicat",
        Error,
        ["public.a, public.b", "DELETE, TRUNCATE", "GRANT"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE EXECUTE ON FUNCTION pg_replication_origin_xact_setup FROM %N_replicat",
        Error,
        ["replication origins", "execute", "GRANT EXECUTE"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE SET ON PARAMETER session_replication_role FROM %N_replicat",
        Error,
        ["session_replication_role", "may not", "GRANT SET"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM %N_replicat",
        Error,
        ["schema \"public\"", "may not use", "GRANT USAGE"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE UPDATE ON irongate.checkpoint FROM %N_replicat",
        Error,
        ["irongate.checkpoint", "read and write", "GRANT"],
        Fix,
    ),
    fault(
        Target,
        "DROP TABLE irongate.error_queue",
        Error,
        ["irongate.error_queue", "does not exist", "CREATE TABLE"],
        Fix,
    ),
    fault(
        Target,
        "ALTER ROLE %N_replicat SET default_transaction_read_only = on",
        Error,
        ["default_transaction_read_only", "could not write", "ALTER ROLE"],
        Fix,
    ),
    // The publication.
    fault(
        Source,
        "ALTER PUBLICATION irongate_test_%N DROP TABLE b",
        Error,
        ["publication", "left out: public.b", "ADD TABLE"],
        Fix,
    ),
    fault(
        Source,
        "ALTER PUBLICATION irongate_test_%N ADD TABLE left_out; ALTER TABLE left_out REPLICA IDENTITY FULL",
        Warning,
        ["publication", "leaves out: public.left_out", "DROP TABLE"],
        Fix,
    ),
    // Limits and settings of roles and databases.
    fault(Target, "DO $$ BEGIN EXECUTE format('ALTER ROLE %N_replicat VALID UNTIL %L', now() + '10 days 1 hour'); END $$", Warning, ["role \"%N_replicat\"", "valid for 10 more days", "VALID UNTIL"], Fix),
    fault(Source, "DO $$ BEGIN EXECUTE format('ALTER ROLE %N_extract VALID UNTIL %L', now() + '10 days 1 hour'); END $$", Warning, ["role \"%N_extract\"", "valid for 10 more days", "VALID UNTIL"], Fix),
    fault(Target, "ALTER ROLE %N_replicat CONNECTION LIMIT 3", Warning, ["role \"%N_replicat\"", "may have 3 connections", "CONNECTION LIMIT -1"], Fix),
    fault(Source, "ALTER DATABASE %N CONNECTION LIMIT 6", Warning, ["database \"%N\"", "takes 6 connections", "CONNECTION LIMIT -1"], Fix),
    fault(Target, "ALTER DATABASE %N SET session_replication_role = replica", Warning, ["session_replication_role", "without triggers and foreign keys", "RESET session_replication_role"], Fix),
    fault(Source, "CREATE ROLE %N_app; ALTER ROLE %N_app IN DATABASE %N SET session_replication_role = replica", Warning, ["session_replication_role", "ROLE \"%N_app\" IN DATABASE", "RESET session_replication_role"], Sql("DROP ROLE %N_app")),
    fault(Source, "ALTER ROLE %N_extract SET idle_in_transaction_session_timeout = '1min'", Warning, ["idle_in_transaction_session_timeout", "snapshot", "= 0"], Fix),
    fault(Source, "ALTER ROLE %N_extract SET idle_session_timeout = '1min'", Warning, ["idle_session_timeout", "ends sessions", "= 0"], Fix),
    fault(Source, "ALTER DATABASE %N SET transaction_timeout = '1h'", Warning, ["transaction_timeout", "ends sessions", "= 0"], Sql("ALTER DATABASE %N RESET transaction_timeout")).since(17),
    fault(Source, "ALTER ROLE %N_extract SET wal_sender_timeout = 0", Warning, ["wal_sender_timeout", "never notices", "'60s'"], Fix),
    fault(Source, "ALTER ROLE %N_extract SET wal_sender_timeout = '2s'", Warning, ["wal_sender_timeout", "2000 ms", "'60s'"], Fix),
    // Settings of the servers.
    fault(Target, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (nobody)'; SELECT pg_reload_conf()", Warning, ["synchronous_standby_names", "each commit waits", "start a standby"], Sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")),
    fault(Source, "ALTER SYSTEM SET idle_replication_slot_timeout = '1h'; SELECT pg_reload_conf()", Warning, ["idle_replication_slot_timeout", "a slot is lost", "= 0"], Sql("ALTER SYSTEM RESET idle_replication_slot_timeout; SELECT pg_reload_conf()")).since(18),
    fault(Source, "ALTER SYSTEM SET logical_decoding_work_mem = '64kB'; SELECT pg_reload_conf()", Note, ["logical_decoding_work_mem", "less than 1 MB", ""], Sql("ALTER SYSTEM RESET logical_decoding_work_mem; SELECT pg_reload_conf()")),
    fault(Target, "ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf()", Note, ["full_page_writes", "half written", ""], Sql("ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf()")),
    fault(Source, "SELECT pg_create_physical_replication_slot('gone'); ALTER SYSTEM SET synchronized_standby_slots = 'gone'; SELECT pg_reload_conf()", Warning, ["slot", "waits for slot \"gone\"", ""], Sql("ALTER SYSTEM RESET synchronized_standby_slots; SELECT pg_reload_conf(); SELECT pg_drop_replication_slot('gone')")).since(17),
    // Collations.
    fault(Source, "UPDATE pg_collation SET collversion = '0' WHERE collname = 'de-x-icu'", Warning, ["collation pg_catalog.\"de-x-icu\"", "its version was 0", "REFRESH VERSION"], Fix),
];
