//! The beginning of the flow, and others who are at work.

use super::At::{Both, Source, Target};
use super::Mends::Sql;
use super::{Fault, fault};
use irongate_deployment::Severity::{Error, Note, Warning};

pub(super) const FAULTS: &[Fault] = &[
    // The beginning of the flow.
    fault(
        Target,
        "CREATE TABLE kept AS TABLE irongate.checkpoint; DELETE FROM irongate.checkpoint",
        Error,
        ["checkpoint of flow", "never brought", "irongate instantiate"],
        Sql("INSERT INTO irongate.checkpoint TABLE kept; DROP TABLE kept"),
    ),
    fault(
        Target,
        "UPDATE irongate.checkpoint SET slot_incarnation = '0/1'",
        Error,
        ["checkpoint of flow", "and the trail to", "irongate instantiate"],
        Sql("UPDATE irongate.checkpoint SET slot_incarnation = end_lsn"),
    ),
    // Others.
    fault(
        Source,
        "CREATE SUBSCRIPTION sub_%N CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false); ALTER SUBSCRIPTION sub_%N ENABLE",
        Warning,
        ["subscription", "leaves out everything", "skip_origins"],
        Sql("ALTER SUBSCRIPTION sub_%N DISABLE"),
    ),
    fault(Source, "BEGIN; CREATE TABLE left_out_too (x int); PREPARE TRANSACTION '%N later'", Note, ["prepared transactions \"%N later\"", "would wait for them", ""], Sql("ROLLBACK PREPARED '%N later'")),
    fault(Target, "CREATE SUBSCRIPTION also_%N CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false); INSERT INTO pg_subscription_rel SELECT oid, 'a'::regclass, 'r', '0/1' FROM pg_subscription WHERE subname = 'also_%N'; ALTER SUBSCRIPTION also_%N ENABLE", Warning, ["subscription \"also_%N\"", "the flow writes too: public.a", "DISABLE"], Sql("ALTER SUBSCRIPTION also_%N DISABLE; ALTER SUBSCRIPTION also_%N SET (slot_name = NONE); DROP SUBSCRIPTION also_%N")),
    fault(Both, "CREATE SCHEMA IF NOT EXISTS irongate; CREATE TABLE irongate.role (live text, epoch bigint, next_live text, next_epoch bigint, run text, holder text, run_since timestamptz); INSERT INTO irongate.role SELECT CASE WHEN to_regclass('irongate.checkpoint') IS NULL THEN 'a' ELSE 'b' END, CASE WHEN to_regclass('irongate.checkpoint') IS NULL THEN 1 ELSE 2 END; GRANT USAGE ON SCHEMA irongate TO PUBLIC; GRANT SELECT ON irongate.role TO PUBLIC", Error, ["table irongate.role", "site \"b\" writes in epoch 2", "irongate reinstate a"], Sql("DROP TABLE irongate.role")).seen(Target),
];
