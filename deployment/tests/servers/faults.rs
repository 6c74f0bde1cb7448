//! Faults that the preflight has to find, each with what it has to say and what mends it.

use irongate_deployment::Severity;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum At {
    Source,
    Target,
}

pub(crate) enum Mends {
    /// The finding's own fix, run as the administrator.
    Fix,
    /// Something else; the fix is a sentence, or would mend it in another way.
    Sql(&'static str),
}

pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) inject: &'static str,
    pub(crate) severity: Severity,
    /// Parts of object, reason and fix.
    pub(crate) object: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) fix: &'static str,
    pub(crate) mends: Mends,
}

const fn fault(
    at: At,
    inject: &'static str,
    severity: Severity,
    [object, reason, fix]: [&'static str; 3],
    mends: Mends,
) -> Fault {
    Fault { at, inject, severity, object, reason, fix, mends }
}

use At::{Source, Target};
use Mends::{Fix, Sql};
use Severity::{Error, Warning};

/// `NAME` is the world's name.
pub(crate) const FAULTS: &[Fault] = &[
    // Roles and rights.
    fault(
        Source,
        "REVOKE SELECT ON a FROM NAME_extract",
        Error,
        ["table public.a", "lacks SELECT", "GRANT SELECT"],
        Fix,
    ),
    fault(
        Source,
        "ALTER ROLE NAME_extract NOREPLICATION",
        Error,
        ["NAME_extract", "replication", "REPLICATION"],
        Fix,
    ),
    fault(
        Source,
        "REVOKE SELECT ON SEQUENCE a_id_seq FROM NAME_extract",
        Error,
        ["a_id_seq", "SELECT", "GRANT"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE TRUNCATE, DELETE ON a, b FROM NAME_replicat",
        Error,
        ["public.a, public.b", "DELETE, TRUNCATE", "GRANT"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE EXECUTE ON FUNCTION pg_replication_origin_xact_setup FROM NAME_replicat",
        Error,
        ["replication origins", "execute", "GRANT EXECUTE"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE SET ON PARAMETER session_replication_role FROM NAME_replicat",
        Error,
        ["session_replication_role", "may not", "GRANT SET"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM NAME_replicat",
        Error,
        ["schema \"public\"", "may not use", "GRANT USAGE"],
        Fix,
    ),
    fault(
        Target,
        "REVOKE UPDATE ON irongate.checkpoint FROM NAME_replicat",
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
        "ALTER ROLE NAME_replicat SET default_transaction_read_only = on",
        Error,
        ["default_transaction_read_only", "could not write", "ALTER ROLE"],
        Fix,
    ),
    // The publication.
    fault(
        Source,
        "ALTER PUBLICATION irongate_test_NAME DROP TABLE b",
        Error,
        ["publication", "left out: public.b", "ADD TABLE"],
        Fix,
    ),
    fault(
        Source,
        "ALTER PUBLICATION irongate_test_NAME ADD TABLE left_out; ALTER TABLE left_out REPLICA IDENTITY FULL",
        Warning,
        ["publication", "leaves out: public.left_out", "DROP TABLE"],
        Fix,
    ),
    // Tables of the source.
    fault(
        Source,
        "ALTER TABLE by_index REPLICA IDENTITY NOTHING",
        Error,
        ["by_index", "NOTHING", "USING INDEX \"by_index_k_key\""],
        Fix,
    ),
    fault(
        Source,
        "ALTER TABLE keyless REPLICA IDENTITY DEFAULT",
        Error,
        ["keyless", "no primary key", "FULL"],
        Fix,
    ),
    fault(
        Source,
        "ALTER TABLE p1 REPLICA IDENTITY NOTHING",
        Error,
        ["public.p1", "UPDATE and DELETE on it fail", "REPLICA IDENTITY"],
        Sql("ALTER TABLE p1 REPLICA IDENTITY DEFAULT"),
    ),
    fault(
        Source,
        "SELECT lo_create(4711)",
        Warning,
        ["large objects", "never in the stream", "bytea"],
        Sql("SELECT lo_unlink(4711)"),
    ),
    fault(
        Source,
        "CREATE UNLOGGED TABLE cache (id int PRIMARY KEY)",
        Warning,
        ["public.cache", "unlogged", "SET LOGGED"],
        Sql("DROP TABLE cache"),
    ),
    // Tables of the target.
    fault(
        Target,
        "ALTER TABLE by_index DROP v",
        Error,
        ["column \"v\"", "does not exist", "ADD COLUMN \"v\" text"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a ALTER n TYPE int",
        Warning,
        ["column \"n\"", "integer here and numeric(8,2)", "TYPE numeric(8,2)"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE b ADD more int NOT NULL",
        Error,
        ["column \"more\"", "no row can be inserted", "DROP NOT NULL"],
        Sql("ALTER TABLE b DROP more"),
    ),
    fault(
        Target,
        "ALTER TABLE b ALTER u SET NOT NULL",
        Warning,
        ["column \"u\"", "refuses NULL", "DROP NOT NULL"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a ALTER twice DROP EXPRESSION",
        Error,
        ["column \"twice\"", "generated at the source", "generated"],
        Sql("ALTER TABLE a DROP twice; ALTER TABLE a ADD twice int GENERATED ALWAYS AS (1 + 1) STORED"),
    ),
    fault(
        Target,
        "ALTER TABLE by_index DROP v; ALTER TABLE by_index ADD v text GENERATED ALWAYS AS ('x') STORED",
        Error,
        ["column \"v\"", "generated here", "DROP EXPRESSION"],
        Fix,
    ),
    fault(
        Target,
        "DROP TABLE keyless",
        Error,
        ["public.keyless", "does not exist", "pg_dump"],
        Sql("CREATE TABLE keyless (x int); GRANT ALL ON keyless TO NAME_replicat"),
    ),
    fault(
        Target,
        "DROP SEQUENCE a_id_seq CASCADE",
        Warning,
        ["sequence public.a_id_seq", "does not exist", "CREATE SEQUENCE"],
        Sql("CREATE SEQUENCE a_id_seq; GRANT ALL ON a_id_seq TO NAME_replicat"),
    ),
    fault(
        Target,
        "ALTER TABLE a ENABLE ALWAYS TRIGGER quiet",
        Warning,
        ["trigger \"quiet\"", "fires for Replicat", "ENABLE TRIGGER"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a ENABLE REPLICA TRIGGER quiet",
        Warning,
        ["trigger \"quiet\"", "ENABLE REPLICA", "ENABLE TRIGGER"],
        Fix,
    ),
    fault(
        Target,
        "CREATE RULE r AS ON DELETE TO a DO ALSO NOTHING; ALTER TABLE a ENABLE ALWAYS RULE r",
        Warning,
        ["rule \"r\"", "acts", "ENABLE RULE"],
        Sql("DROP RULE r ON a"),
    ),
    fault(
        Target,
        "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
        Error,
        ["table public.a", "row security", "BYPASSRLS"],
        Sql("ALTER TABLE a DISABLE ROW LEVEL SECURITY"),
    ),
    fault(
        Target,
        "ALTER TABLE b DROP CONSTRAINT b_u_key; ALTER TABLE b ADD CONSTRAINT b_u_key UNIQUE (u) DEFERRABLE",
        Warning,
        ["constraint \"b_u_key\"", "not enforced", "NOT DEFERRABLE"],
        Sql("ALTER TABLE b DROP CONSTRAINT b_u_key; ALTER TABLE b ADD CONSTRAINT b_u_key UNIQUE (u)"),
    ),
    fault(
        Target,
        "CREATE UNIQUE INDEX extra ON a (t)",
        Warning,
        ["unique index \"extra\"", "refused here", "drop it"],
        Sql("DROP INDEX extra"),
    ),
    fault(
        Target,
        "ALTER TABLE by_index DROP CONSTRAINT by_index_k_key",
        Warning,
        ["by_index", "takes a scan", "CREATE UNIQUE INDEX"],
        Fix,
    ),
    fault(Target, "ALTER TABLE keyless SET UNLOGGED", Warning, ["keyless", "crash", "SET LOGGED"], Fix),
    fault(
        Source,
        "ALTER TYPE mood ADD VALUE 'new'",
        Error,
        ["type public.mood", "lacks the value 'new'", "ADD VALUE 'new'"],
        Fix,
    ),
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
        "CREATE SUBSCRIPTION sub_NAME CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
        Warning,
        ["subscription", "leaves out everything", "skip_origins"],
        Sql("ALTER SUBSCRIPTION sub_NAME DISABLE"),
    ),
];
