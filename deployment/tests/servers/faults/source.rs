//! The source's tables and its publication.

use super::At::{Both, Source};
use super::Mends::{Fix, Sql};
use super::{Fault, fault};
use irongate_deployment::Severity::{Error, Note, Warning};

pub(super) const FAULTS: &[Fault] = &[
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
    fault(Source, "ALTER TABLE b DROP CONSTRAINT b_pkey, ADD PRIMARY KEY (id) DEFERRABLE", Error, ["table public.b", "primary key is deferrable", "REPLICA IDENTITY"], Sql("ALTER TABLE b REPLICA IDENTITY DEFAULT, DROP CONSTRAINT b_pkey, ADD PRIMARY KEY (id)")),
    fault(Source, "ALTER TABLE by_index DROP CONSTRAINT by_index_k_key", Error, ["table public.by_index", "gone or unusable", "REPLICA IDENTITY FULL"], Sql("ALTER TABLE by_index ADD UNIQUE (k); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_k_key")).with_more(),
    fault(Source, "ALTER TABLE \"it's \"\"odd\"\" -- \n\\x\" REPLICA IDENTITY NOTHING", Error, ["odd", "NOTHING", "USING INDEX"], Sql("ALTER TABLE \"it's \"\"odd\"\" -- \n\\x\" REPLICA IDENTITY DEFAULT")),
    fault(Both, "ALTER TABLE b ADD seen int GENERATED ALWAYS AS (a * 2) VIRTUAL; ALTER TABLE b REPLICA IDENTITY FULL", Error, ["table public.b", "virtual columns (seen)", "USING INDEX \"b_pkey\""], Sql("ALTER TABLE b REPLICA IDENTITY DEFAULT; ALTER TABLE b DROP seen")).since(18),
    fault(Both, "ALTER TABLE b ADD g bigint NOT NULL GENERATED ALWAYS AS (a * 2) STORED UNIQUE; ALTER TABLE b REPLICA IDENTITY USING INDEX b_g_key", Error, ["table public.b", "generated columns (g)", "USING INDEX \"b_pkey\""], Sql("ALTER TABLE b REPLICA IDENTITY DEFAULT; ALTER TABLE b DROP g")).with_more(),
    fault(Source, "REVOKE SELECT ON \"it's \"\"odd\"\" -- \n\\x\" FROM %N_extract", Error, ["odd", "lacks SELECT", "GRANT SELECT"], Fix),
    fault(Both, "ALTER TABLE left_out ADD PRIMARY KEY (x); ALTER TABLE b ADD CONSTRAINT leads_out FOREIGN KEY (a) REFERENCES left_out", Warning, ["foreign key \"leads_out\" of table public.b", "points to public.left_out, which is not in the flow", "\"tables\""], Sql("ALTER TABLE b DROP CONSTRAINT leads_out; ALTER TABLE left_out DROP CONSTRAINT left_out_pkey")),
    fault(Both, "ALTER TABLE b ADD named regclass", Warning, ["column \"named\" of table public.b", "its type is regclass", "text"], Sql("ALTER TABLE b DROP named")),
    fault(Source, "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER w FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (x int) SERVER w", Warning, ["foreign table public.far", "rows are elsewhere", "exclude"], Sql("DROP FOREIGN DATA WRAPPER w CASCADE")),
    fault(Source, "CREATE MATERIALIZED VIEW seen AS SELECT 1 AS x", Note, ["materialized views public.seen", "never sent", ""], Sql("DROP MATERIALIZED VIEW seen")),
    // The publication, changed by hand.
    fault(Source, "ALTER PUBLICATION irongate_test_%N DROP TABLE a; ALTER PUBLICATION irongate_test_%N ADD TABLE a (id, t, m)", Warning, ["table public.a", "come to the target empty: n", "ADD TABLE"], Fix),
    fault(Source, "ALTER PUBLICATION irongate_test_%N DROP TABLE a; ALTER PUBLICATION irongate_test_%N ADD TABLE a (t, m, n)", Error, ["table public.a", "application's own UPDATE and DELETE fail", "ADD TABLE"], Fix),
    fault(Source, "ALTER PUBLICATION irongate_test_%N DROP TABLE b; ALTER PUBLICATION irongate_test_%N ADD TABLE b WHERE (id > 5)", Warning, ["table public.b", "do not meet it", "ADD TABLE"], Fix),
    fault(Source, "CREATE PUBLICATION old_flow FOR TABLE a; COMMENT ON PUBLICATION old_flow IS 'made by irongate setup'", Note, ["publication \"old_flow\"", "no flow of the configuration", "DROP PUBLICATION"], Sql("DROP PUBLICATION old_flow")),
];
