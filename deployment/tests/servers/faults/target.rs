//! What belongs to the target's tables.

use super::At::Target;
use super::Mends::{Fix, Sql};
use super::{Fault, fault};
use irongate_deployment::Severity::{Error, Note, Warning};

pub(super) const FAULTS: &[Fault] = &[
    // Keys and constraints.
    fault(Target, "ALTER TABLE b DROP CONSTRAINT b_u_key", Warning, ["key \"b_u_key\" of table public.b", "nothing keeps duplicates out", "CREATE UNIQUE INDEX"], Sql("DROP INDEX b_u_idx; ALTER TABLE b ADD CONSTRAINT b_u_key UNIQUE (u)")),
    fault(Target, "ALTER TABLE b DROP CONSTRAINT b_pkey", Warning, ["table public.b", "takes a scan", "ADD PRIMARY KEY"], Fix),
    fault(Target, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'b_u_key'::regclass", Warning, ["index \"b_u_key\" of table public.b", "it is invalid", "REINDEX INDEX"], Fix),
    fault(Target, "ALTER TABLE b DROP CONSTRAINT b_a_fkey", Warning, ["foreign key \"b_a_fkey\" of table public.b", "nothing keeps applications", "ADD CONSTRAINT"], Fix),
    fault(Target, "ALTER TABLE b DROP CONSTRAINT b_a_fkey; ALTER TABLE b ADD CONSTRAINT b_a_fkey FOREIGN KEY (a) REFERENCES a NOT VALID", Note, ["foreign key \"b_a_fkey\" of table public.b", "NOT VALID here", "VALIDATE CONSTRAINT"], Fix),
    fault(Target, "ALTER TABLE b ADD CONSTRAINT tight CHECK (u < 100)", Warning, ["check constraint \"tight\" of table public.b", "refused here", "DROP CONSTRAINT \"tight\""], Fix),
    fault(Target, "ALTER TABLE rich DROP CONSTRAINT rich_k_check", Note, ["check constraint \"rich_k_check\" of table public.rich", "not here", "ADD CONSTRAINT"], Fix),
    fault(Target, "ALTER TABLE b DISABLE TRIGGER ALL", Warning, ["foreign keys of table public.b", "are disabled", "ENABLE TRIGGER ALL"], Fix),
    fault(Target, "UPDATE pg_trigger SET tgenabled = 'A' WHERE tgrelid = 'b'::regclass AND tgisinternal", Error, ["foreign keys of table public.b", "fire for Replicat", "ENABLE TRIGGER ALL"], Fix),
    fault(Target, "REVOKE EXECUTE ON FUNCTION folded(text) FROM PUBLIC", Error, ["function public.folded(text)", "may not execute it", "GRANT EXECUTE"], Fix),
    // Partitions, inheritance, row security.
    fault(Target, "ALTER TABLE p DETACH PARTITION p1", Warning, ["table public.p1", "partition of public.p at the source and not here", "ATTACH PARTITION"], Fix),
    fault(Target, "ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (5)", Error, ["table public.p1", "its bounds are", "ATTACH PARTITION"], Fix),
    fault(Target, "ALTER TABLE child NO INHERIT mother", Warning, ["table public.child", "inherits from public.mother at the source", "INHERIT"], Fix),
    fault(Target, "ALTER TABLE guarded DISABLE ROW LEVEL SECURITY", Warning, ["table public.guarded", "on at the source and off here", "ENABLE ROW LEVEL SECURITY"], Fix),
    fault(Target, "DROP POLICY mine ON guarded", Warning, ["policy \"mine\" of table public.guarded", "not here", "create it"], Sql("CREATE POLICY mine ON guarded USING (true)")),
    // Sequences, triggers, extensions.
    fault(Target, "ALTER SEQUENCE a_id_seq INCREMENT 7", Warning, ["sequence public.a_id_seq", "by 7 here and by 1", "INCREMENT BY 1"], Fix),
    fault(Target, "ALTER SEQUENCE a_id_seq MAXVALUE 100", Warning, ["sequence public.a_id_seq", "not every value can be set", "MAXVALUE 2147483647"], Fix),
    fault(Target, "ALTER SEQUENCE a_id_seq CYCLE", Warning, ["sequence public.a_id_seq", "begins again", "NO CYCLE"], Fix),
    fault(Target, "ALTER SEQUENCE a_id_seq OWNED BY NONE", Note, ["sequence public.a_id_seq", "belongs to no column", "OWNED BY"], Fix),
    fault(Target, "DROP TRIGGER quiet ON a", Warning, ["trigger \"quiet\" of table public.a", "miss it", "create it"], Sql("CREATE TRIGGER quiet BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION nothing()")),
    fault(Target, "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER et ON ddl_command_end WHEN TAG IN ('DROP VIEW') EXECUTE FUNCTION et(); ALTER EVENT TRIGGER et ENABLE ALWAYS", Warning, ["event trigger \"et\"", "what Replicat does", "ALTER EVENT TRIGGER"], Sql("DROP EVENT TRIGGER et; DROP FUNCTION et")),
    fault(Target, "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER et ON login EXECUTE FUNCTION et()", Warning, ["event trigger \"et\"", "locked out", "DISABLE"], Sql("DROP EVENT TRIGGER et; DROP FUNCTION et")).since(17),
    fault(Target, "DROP EXTENSION citext", Warning, ["extension \"citext\"", "not here", "CREATE EXTENSION"], Fix),
    fault(Target, "DROP EXTENSION citext; CREATE EXTENSION citext VERSION '1.4'", Note, ["extension \"citext\"", "1.4 here", ""], Sql("ALTER EXTENSION citext UPDATE")),
];
