//! The target's tables, their columns and types.

use super::At::{Source, Target};
use super::Mends::{Fix, Sql};
use super::{Fault, fault};
use irongate_deployment::Severity::{Error, Note, Warning};

pub(super) const FAULTS: &[Fault] = &[
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
        ["column \"twice\"", "generated at the source", "GENERATED ALWAYS AS"],
        Fix,
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
        Sql("CREATE TABLE keyless (x int); GRANT ALL ON keyless TO %N_replicat"),
    ),
    fault(
        Target,
        "DROP SEQUENCE a_id_seq CASCADE",
        Warning,
        ["sequence public.a_id_seq", "does not exist", "CREATE SEQUENCE"],
        Fix,
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
        Sql("ALTER TABLE a DISABLE ROW LEVEL SECURITY; ALTER ROLE %N_replicat NOBYPASSRLS"),
    ),
    fault(
        Target,
        "ALTER TABLE b DROP CONSTRAINT b_u_key; ALTER TABLE b ADD CONSTRAINT b_u_key UNIQUE (u) DEFERRABLE",
        Warning,
        ["constraint \"b_u_key\"", "not enforced", "NOT DEFERRABLE"],
        Fix,
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
    )
    .seen(Target),
    // Columns.
    fault(
        Target,
        "ALTER TABLE \"it's \"\"odd\"\" -- \n\\x\" DROP \"v'\"",
        Error,
        ["odd", "does not exist", "ADD COLUMN"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE rich ALTER w TYPE text COLLATE \"default\"",
        Warning,
        [
            "column \"w\" of table public.rich",
            "its collation is that of its type here",
            "COLLATE pg_catalog.\"C\"",
        ],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a DROP twice; ALTER TABLE a ADD twice int GENERATED ALWAYS AS (1 + 2) STORED",
        Warning,
        ["column \"twice\"", "another expression", "1 + 1"],
        Sql("ALTER TABLE a DROP twice; ALTER TABLE a ADD twice int GENERATED ALWAYS AS (1 + 1) STORED"),
    ),
    fault(
        Target,
        "ALTER TABLE rich DROP d; ALTER TABLE rich ADD d text GENERATED ALWAYS AS ('x') VIRTUAL",
        Error,
        ["column \"d\"", "generated here", "DROP COLUMN"],
        Sql("ALTER TABLE rich ALTER d SET DEFAULT 'none'"),
    )
    .since(18),
    fault(
        Target,
        "ALTER TABLE a ALTER n SET DEFAULT 5",
        Note,
        ["column \"n\" of table public.a", "a default here and none at the source", "DROP DEFAULT"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a DROP twice",
        Warning,
        [
            "column \"twice\" of table public.a",
            "is generated at the source",
            "GENERATED ALWAYS AS ((1 + 1)) STORED",
        ],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE rich ALTER d DROP DEFAULT",
        Warning,
        ["column \"d\" of table public.rich", "a default at the source and none here", "SET DEFAULT 'none'"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE rich ALTER d SET DEFAULT 'other'",
        Note,
        ["column \"d\" of table public.rich", "another one here", "SET DEFAULT 'none'"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE a ALTER t DROP NOT NULL",
        Note,
        ["column \"t\" of table public.a", "refuses NULL at the source and not here", "SET NOT NULL"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE b ALTER id SET GENERATED BY DEFAULT",
        Note,
        ["column \"id\" of table public.b", "BY DEFAULT AS IDENTITY here", ""],
        Sql("ALTER TABLE b ALTER id SET GENERATED ALWAYS"),
    ),
    // Types.
    fault(
        Target,
        "ALTER TYPE colour RENAME VALUE 'blue' TO 'navy'",
        Error,
        ["type public.colour", "lacks the value 'blue'", "ADD VALUE 'blue' AFTER 'green'"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TYPE colour RENAME VALUE 'red' TO 'x'; ALTER TYPE colour RENAME VALUE 'green' TO 'red'; ALTER TYPE colour RENAME VALUE 'x' TO 'green'",
        Warning,
        ["type public.colour", "another order", "anew"],
        Sql(
            "ALTER TYPE colour RENAME VALUE 'red' TO 'x'; ALTER TYPE colour RENAME VALUE 'green' TO 'red'; ALTER TYPE colour RENAME VALUE 'x' TO 'green'",
        ),
    ),
    fault(
        Target,
        "ALTER DOMAIN short ADD CONSTRAINT tiny CHECK (length(VALUE) < 5)",
        Warning,
        ["type public.short", "constraint \"tiny\" is not at the source", "DROP CONSTRAINT \"tiny\""],
        Fix,
    ),
    fault(
        Target,
        "ALTER DOMAIN short SET NOT NULL",
        Warning,
        ["type public.short", "refuses NULL here", "DROP NOT NULL"],
        Fix,
    ),
    fault(
        Target,
        "ALTER DOMAIN short DROP CONSTRAINT short_check",
        Note,
        ["type public.short", "lacks the constraint", "ADD CONSTRAINT"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TYPE point3 DROP ATTRIBUTE z",
        Error,
        ["type public.point3", "attributes are others", "ADD ATTRIBUTE \"z\" integer"],
        Fix,
    ),
    fault(
        Target,
        "ALTER TABLE rich DROP r; DROP TYPE span; CREATE TYPE span AS RANGE (subtype = bigint); ALTER TABLE rich ADD r span",
        Error,
        ["type public.span", "range of bigint here and of integer", "anew"],
        Sql(
            "ALTER TABLE rich DROP r; DROP TYPE span; CREATE TYPE span AS RANGE (subtype = int); ALTER TABLE rich ADD r span",
        ),
    ),
];
