//! The DDL channel at the source: what is installed there, so that changes of structure stand in the stream.
//!
//! Event triggers write a message into the log (`pg_logical_emit_message`, transactional) behind every command that
//! changes structure. It lies at the command's place among the rows of its transaction and is rolled back with it, also to
//! a savepoint. It holds no text of a command, which may do other things as well, or the same thing twice: it holds what the
//! catalog says of the objects afterwards ([`irongate_postgres::catalog`], the same questions that Replicat asks of the
//! target), and what they were called before.
//!
//! # How before is known
//!
//! The trigger functions are `STABLE`. Such a function asks its questions under the snapshot of the statement that called
//! it, and the command ran under that one, so plain reads of a catalog give what it held before the command. Functions like
//! `pg_get_indexdef`, and everything `VOLATILE` that they call, see what the command has made. So nothing has to be kept
//! between commands that could go stale while a trigger is switched off. A third event trigger notes which files are rewritten by
//! an expression, of which no catalog tells; the note names the file of before, and so fits one command only.
//!
//! # Rows that no row of the stream would bring
//!
//! * The rows of CREATE TABLE AS and SELECT INTO are written before the table can be in a publication.
//! * ALTER COLUMN TYPE ... USING, a column with a volatile default or an identity: the table is rewritten, no row is
//!   logged, and neither the expression nor its values are in the catalog.
//! * A table that comes into the flow by a new name or schema, by ALTER TABLE ... SET LOGGED, by ATTACH PARTITION.
//!
//! There the function takes the rows out of the table while it is in no publication of ours, writes the message, which says
//! that all rows follow, and puts them in again, published. It does so in replica role: no foreign key and no ordinary
//! trigger notices. That is one more rewrite, in the transaction that holds the table's lock already. A table with a rule or
//! trigger that fires in replica role too is not touched, since such a one could keep rows from coming back; its Replicat
//! stops at the message. Rows are counted both ways, and a difference takes all of it back. A flow with
//! `on_rewrite = "stop"` does without, and its Replicat stops at the message instead (but for new tables, whose rows always
//! follow).
//!
//! # What it does to applications
//!
//! A command of which the function cannot make a message goes through nevertheless, and the message says so: Replicat stops
//! there, and nothing is lost silently. A flow with `on_error = "refuse"` has the command refused instead. The functions
//! work as their owner, who is the administrator that installed them, with an empty search path; nobody else may call them.
//! They do not fire in replica role, so what Replicat does to a database is no command of its own.

use irongate_postgres::catalog::{
    EXTENSION_STRUCTURE, FUNCTION_STRUCTURE, SCHEMA_STRUCTURE, SEQUENCE_STRUCTURE, STRUCTURE_SETTINGS,
    TABLE_STRUCTURE, TYPE_STRUCTURE, VIEW_STRUCTURE,
};
use irongate_postgres::sql::{quote_identifier, quote_literal};

use crate::machine::OWN_SCHEMA;

/// The event triggers, by name, with the function and the event of each.
pub const DDL_TRIGGERS: [(&str, &str, &str); 3] = [
    ("irongate_ddl", "ddl_end", "ddl_command_end"),
    ("irongate_drop", "ddl_drop", "sql_drop"),
    ("irongate_rewrite", "ddl_rewrite", "table_rewrite"),
];

/// What of a database's structure goes with a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DdlFlow {
    /// The flow.
    pub flow: String,
    /// Its publication, to which new tables are added.
    pub publication: String,
    /// A role that may read new tables.
    pub reader: String,
    /// A role that may write new tables, where a flow ends in the same database.
    pub writer: Option<String>,
    /// Its tables: regular expressions of schema and name.
    pub tables: Vec<(String, String)>,
    /// Which of these are left out.
    pub exclude: Vec<(String, String)>,
    /// Schemas whose other objects go along, as regular expressions.
    pub schemas: Vec<String>,
    /// Classes of objects, in the plural.
    pub classes: Vec<String>,
    /// A command that cannot be described is refused.
    pub refuse: bool,
    /// Rows are sent again where they were rewritten.
    pub send: bool,
}

/// A function that is installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DdlFunction {
    /// Its name in our schema.
    pub name: &'static str,
    /// Its body, as `pg_proc.prosrc` has it.
    pub body: String,
    head: String,
}

fn settings(more: &[(&str, &str)]) -> String {
    let all = STRUCTURE_SETTINGS.iter().chain(more);
    all.map(|(name, value)| format!(" SET {name} = {value}")).collect()
}

fn function(name: &'static str, signature: &str, options: &str, body: impl Into<String>) -> DdlFunction {
    let head = format!("{OWN_SCHEMA}.{name}({signature}) {options}");
    DdlFunction { name, body: format!("\n{}", body.into()), head }
}

/// The functions, in the order in which they are made.
pub fn ddl_functions() -> Vec<DdlFunction> {
    let sql = "RETURNS pg_catalog.jsonb LANGUAGE sql";
    let describe = |name, body: &str| function(name, "object pg_catalog.oid", sql, body);
    let definer = format!("SECURITY DEFINER{}", settings(&[]));
    let replica = format!("SECURITY DEFINER{}", settings(&[("session_replication_role", "replica")]));
    let volatile = format!("{sql} VOLATILE");
    let stable = format!("{sql} STABLE");
    vec![
        describe("ddl_table", TABLE_STRUCTURE),
        describe("ddl_view", VIEW_STRUCTURE),
        describe("ddl_sequence", SEQUENCE_STRUCTURE),
        describe("ddl_type", TYPE_STRUCTURE),
        describe("ddl_function", FUNCTION_STRUCTURE),
        describe("ddl_schema", SCHEMA_STRUCTURE),
        describe("ddl_extension", EXTENSION_STRUCTURE),
        function(
            "ddl_describe",
            "kind pg_catalog.text, object pg_catalog.oid",
            "RETURNS pg_catalog.jsonb LANGUAGE plpgsql",
            include_str!("ddl/describe.sql"),
        ),
        function(
            "ddl_files",
            "object pg_catalog.oid",
            &volatile,
            "SELECT pg_catalog.to_jsonb(pg_catalog.array_agg(c.relfilenode ORDER BY c.relfilenode)) FROM (\n\
             WITH RECURSIVE t(id) AS (SELECT object UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent = t.id)\n\
             SELECT f.relfilenode FROM t JOIN pg_catalog.pg_class f ON f.oid = t.id) c\n",
        ),
        function(
            "ddl_includes",
            &format!("f {OWN_SCHEMA}.ddl_flow, schema pg_catalog.text, name pg_catalog.text"),
            "RETURNS pg_catalog.bool LANGUAGE sql",
            include_str!("ddl/includes.sql"),
        ),
        function(
            "ddl_published",
            "publication pg_catalog.name, object pg_catalog.oid",
            "RETURNS pg_catalog.oid LANGUAGE sql",
            "SELECT r.prrelid FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid\n\
             WHERE p.pubname = publication AND (r.prrelid = object\n\
             OR r.prrelid IN (SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors(object::pg_catalog.regclass) a))\n\
             LIMIT 1\n",
        ),
        function(
            "ddl_only",
            "object pg_catalog.oid",
            "RETURNS pg_catalog.text LANGUAGE sql",
            "SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END || object::pg_catalog.regclass::pg_catalog.text\n\
             FROM pg_catalog.pg_class c WHERE c.oid = object\n",
        ),
        function(
            "ddl_written",
            "object pg_catalog.oid",
            "RETURNS pg_catalog.text LANGUAGE sql",
            "SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a\n\
             WHERE a.attrelid = object AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''\n",
        ),
        function(
            "ddl_watcher",
            "object pg_catalog.oid",
            "RETURNS pg_catalog.text LANGUAGE sql",
            include_str!("ddl/watcher.sql"),
        ),
        function(
            "ddl_before",
            "kind pg_catalog.text, object pg_catalog.oid",
            &stable,
            include_str!("ddl/before.sql"),
        ),
        function("ddl_items", "", &volatile, include_str!("ddl/items.sql")),
        function(
            "ddl_rights_before",
            "",
            "RETURNS TABLE (key pg_catalog.text, rights pg_catalog.text) LANGUAGE sql STABLE",
            include_str!("ddl/rights.sql"),
        ),
        function(
            "ddl_rights",
            "",
            "RETURNS TABLE (key pg_catalog.text, rights pg_catalog.text) LANGUAGE sql VOLATILE",
            include_str!("ddl/rights.sql"),
        ),
        function(
            "ddl_regranted",
            "before pg_catalog.jsonb",
            &volatile,
            format!(
                "SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', pg_catalog.split_part(r.key, ' ', 1),\n\
                 'object', pg_catalog.split_part(r.key, ' ', 2)::pg_catalog.oid)), '[]')\n\
                 FROM {OWN_SCHEMA}.ddl_rights() r WHERE r.rights IS DISTINCT FROM before ->> r.key\n"
            ),
        ),
        function(
            "ddl_identify",
            "object pg_catalog.oid",
            &format!("RETURNS pg_catalog.void LANGUAGE plpgsql {replica}"),
            include_str!("ddl/identify.sql"),
        ),
        function(
            "ddl_grant",
            "rights pg_catalog.text, object pg_catalog.oid, grantee pg_catalog.name",
            &format!("RETURNS pg_catalog.void LANGUAGE plpgsql {replica}"),
            include_str!("ddl/grant.sql"),
        ),
        function(
            "ddl_publish",
            "object pg_catalog.oid",
            &format!("RETURNS pg_catalog.void LANGUAGE plpgsql {replica}"),
            include_str!("ddl/publish.sql"),
        ),
        function(
            "ddl_emit",
            "tag pg_catalog.text, items pg_catalog.jsonb, dropped pg_catalog.jsonb, with_rows pg_catalog.bool",
            &format!("RETURNS pg_catalog.void LANGUAGE plpgsql {replica}"),
            include_str!("ddl/emit.sql"),
        ),
        function(
            "ddl_failed",
            "tag pg_catalog.text, reason pg_catalog.text",
            &format!("RETURNS pg_catalog.void LANGUAGE plpgsql {definer}"),
            include_str!("ddl/failed.sql"),
        ),
        function(
            "ddl_end",
            "",
            &format!("RETURNS event_trigger LANGUAGE plpgsql STABLE {definer}"),
            include_str!("ddl/end.sql"),
        ),
        function(
            "ddl_drop",
            "",
            &format!("RETURNS event_trigger LANGUAGE plpgsql STABLE {definer}"),
            include_str!("ddl/drop.sql"),
        ),
        function(
            "ddl_rewrite",
            "",
            &format!("RETURNS event_trigger LANGUAGE plpgsql {definer}"),
            include_str!("ddl/rewrite.sql"),
        ),
    ]
}

impl DdlFunction {
    /// The statement that makes it, or makes it anew.
    pub fn create(&self) -> String {
        format!("CREATE OR REPLACE FUNCTION {} AS $irongate${}$irongate$", self.head, self.body)
    }

    /// The statement that lets nobody call it but its owner.
    pub fn close(&self) -> String {
        format!("REVOKE ALL ON FUNCTION {} FROM PUBLIC", self.signature())
    }

    fn signature(&self) -> &str {
        self.head.find(')').map_or(self.head.as_str(), |end| &self.head[..=end])
    }
}

/// The table that says what goes with each flow; every function that needs it names it.
pub fn ddl_table() -> Vec<String> {
    vec![
        format!("CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {OWN_SCHEMA}.ddl_flow (flow text PRIMARY KEY, publication name NOT NULL, reader name NOT NULL, writer name, \
             table_schemas text[] NOT NULL, table_names text[] NOT NULL, exclude_schemas text[] NOT NULL, exclude_names text[] NOT NULL, \
             schemas text[] NOT NULL, classes text[] NOT NULL, on_error text NOT NULL, on_rewrite text NOT NULL)"
        ),
    ]
}

/// The statement that makes an event trigger.
pub fn ddl_trigger(name: &str, function: &str, event: &str) -> String {
    format!(
        "CREATE EVENT TRIGGER {} ON {event} EXECUTE FUNCTION {OWN_SCHEMA}.{function}()",
        quote_identifier(name)
    )
}

/// What takes the event triggers and all that is with them out of a database.
pub fn ddl_teardown() -> Vec<String> {
    let triggers = DDL_TRIGGERS.iter();
    let mut statements: Vec<String> = triggers
        .map(|(name, _, _)| format!("DROP EVENT TRIGGER IF EXISTS {}", quote_identifier(name)))
        .collect();
    let functions = ddl_functions();
    statements.extend(
        functions
            .iter()
            .rev()
            .map(|function| format!("DROP FUNCTION IF EXISTS {}", function.signature_types())),
    );
    statements.push(format!("DROP TABLE IF EXISTS {OWN_SCHEMA}.ddl_flow"));
    statements
}

impl DdlFunction {
    /// Name and argument types.
    fn signature_types(&self) -> String {
        let signature = self.signature();
        let Some((name, arguments)) = signature.trim_end_matches(')').split_once('(') else {
            return signature.to_owned();
        };
        let types: Vec<&str> = arguments
            .split(", ")
            .filter_map(|argument| argument.split_once(' ').map(|(_, kind)| kind))
            .collect();
        format!("{name}({})", types.join(", "))
    }
}

impl DdlFlow {
    /// The flow's row, as it is to be.
    pub fn values(&self) -> Vec<String> {
        let list = |values: Vec<&str>| {
            let quoted: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
            format!("ARRAY[{}]::text[]", quoted.join(", "))
        };
        let both = |pairs: &[(String, String)]| {
            [
                list(pairs.iter().map(|(schema, _)| schema.as_str()).collect()),
                list(pairs.iter().map(|(_, name)| name.as_str()).collect()),
            ]
        };
        let [table_schemas, table_names] = both(&self.tables);
        let [exclude_schemas, exclude_names] = both(&self.exclude);
        let strings = |values: &[String]| list(values.iter().map(String::as_str).collect());
        vec![
            quote_literal(&self.flow),
            quote_literal(&self.publication),
            quote_literal(&self.reader),
            self.writer.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal),
            table_schemas,
            table_names,
            exclude_schemas,
            exclude_names,
            strings(&self.schemas),
            strings(&self.classes),
            quote_literal(if self.refuse { "refuse" } else { "stop" }),
            quote_literal(if self.send { "send" } else { "stop" }),
        ]
    }

    /// The statement that writes the flow's row.
    pub fn upsert(&self) -> String {
        const COLUMNS: &str = "publication, reader, writer, table_schemas, table_names, exclude_schemas, exclude_names, schemas, classes, on_error, on_rewrite";
        let set: Vec<String> =
            COLUMNS.split(", ").map(|column| format!("{column} = excluded.{column}")).collect();
        format!(
            "INSERT INTO {OWN_SCHEMA}.ddl_flow (flow, {COLUMNS}) VALUES ({}) ON CONFLICT (flow) DO UPDATE SET {}",
            self.values().join(", "),
            set.join(", ")
        )
    }

    /// A question that is true when the flow's row is as it is to be.
    pub fn is_written(&self) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM {OWN_SCHEMA}.ddl_flow f WHERE f IS NOT DISTINCT FROM ROW({})::{OWN_SCHEMA}.ddl_flow)",
            self.values().join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_taken_away_by_its_whole_signature() {
        let teardown = ddl_teardown().join("\n");
        assert!(
            teardown.contains("DROP FUNCTION IF EXISTS irongate.ddl_emit(pg_catalog.text, pg_catalog.jsonb, pg_catalog.jsonb, pg_catalog.bool)"),
            "{teardown}"
        );
        assert!(
            teardown.contains("irongate.ddl_items()")
                && teardown
                    .contains("irongate.ddl_includes(irongate.ddl_flow, pg_catalog.text, pg_catalog.text)")
        );
        let functions = ddl_functions();
        assert_eq!(teardown.matches("DROP FUNCTION").count(), functions.len());
        assert!(functions.iter().all(|function| !function.body.contains("$irongate$")));
    }
}
