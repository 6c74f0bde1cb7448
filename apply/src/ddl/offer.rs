//! The statement that mends a table at the target, from what the stream tells of the source's.
//!
//! The stream tells names, types and the columns of the replica identity; it tells no default, no constraint and no index,
//! and of a domain only the type below it. So what is offered lets the rows in; what else the source's table has is for
//! `irongate check` to name. A statement is offered only where it is the one that fits: a column that stands where another
//! one of its type stood can be that one under a new name or a new one in place of one that was dropped, and then both are
//! named, because either would be wrong in the other's place without a word.

use irongate_postgres::sql::{qualified, quote_identifier};
use irongate_trail::{Column, Relation, ReplicaIdentity};

use crate::error::RowError;
use crate::statement::type_name;
use crate::table::{TargetColumn, TargetTable};

/// What makes a table that the target does not have, and lets `role` write it.
pub(crate) fn create_table(
    relation: &Relation,
    schema: &str,
    name: &str,
    has_schema: bool,
    role: &str,
) -> String {
    let mut elements: Vec<String> = relation
        .columns
        .iter()
        .map(|column| format!("{} {}", quote_identifier(&column.name), type_name(column)))
        .collect();
    let identified = matches!(relation.replica_identity, ReplicaIdentity::Default | ReplicaIdentity::Index);
    let key: Vec<String> =
        relation.columns.iter().filter(|c| c.key).map(|c| quote_identifier(&c.name)).collect();
    if identified && !key.is_empty() {
        elements.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let (table, role) = (qualified(schema, name), quote_identifier(role));
    let mut statements = Vec::new();
    if !has_schema {
        let schema = quote_identifier(schema);
        statements.push(format!("CREATE SCHEMA {schema}"));
        statements.push(format!("GRANT USAGE ON SCHEMA {schema} TO {role}"));
    }
    statements.push(format!("CREATE TABLE {table} ({})", elements.join(", ")));
    statements.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {table} TO {role}"));
    statements.join("; ")
}

/// What mends columns that the target does not have, and where that is not certain, what else it could be.
pub(crate) fn columns(
    relation: &Relation,
    table: &TargetTable,
    missing: &[&Column],
) -> (String, Option<String>) {
    let target = qualified(&table.schema, &table.name);
    let add =
        |column: &&Column| format!("ADD COLUMN {} {}", quote_identifier(&column.name), type_name(column));
    let adds = |columns: &[&Column]| {
        let adds: Vec<String> = columns.iter().map(add).collect();
        format!("ALTER TABLE {target} {}", adds.join(", "))
    };
    let [column] = missing else { return (adds(missing), None) };
    let Some((old, certain)) = former(relation, table, column) else { return (adds(missing), None) };
    let (from, to) = (quote_identifier(&old.name), quote_identifier(&column.name));
    let rename = format!("ALTER TABLE {target} RENAME COLUMN {from} TO {to}");
    (rename, (!certain).then(|| adds(missing)))
}

/// The column of the target that stands where the source's stands, if it is of its type and the source has none of its name;
/// and whether the source's can be nothing else under a new name: a column that was added stands last.
fn former<'a>(
    relation: &Relation,
    table: &'a TargetTable,
    column: &Column,
) -> Option<(&'a TargetColumn, bool)> {
    let known = |name: &str| relation.columns.iter().any(|column| column.name == name);
    let mut extra = table.columns.iter().enumerate().filter(|(_, c)| !c.generated && !known(&c.name));
    let (at, old) = extra.next()?;
    if extra.next().is_some() || differs(column, old) {
        return None;
    }
    let written: Vec<&str> =
        table.columns.iter().filter(|c| !c.generated).map(|column| column.name.as_str()).collect();
    let at = table.columns[..at].iter().filter(|column| !column.generated).count();
    let place = relation.columns.iter().position(|other| other.name == column.name)?;
    let same = written.len() == relation.columns.len()
        && at == place
        && written
            .iter()
            .zip(&relation.columns)
            .enumerate()
            .all(|(n, (ours, theirs))| n == at || *ours == theirs.name);
    same.then_some((old, place + 1 < relation.columns.len()))
}

/// Whether a column at the target is of another type than the source's, as far as the stream tells that.
fn differs(source: &Column, target: &TargetColumn) -> bool {
    let is_built_in = tokio_postgres::types::Type::from_oid(source.type_oid).is_some();
    is_built_in
        && !target.domain
        && (source.type_oid != target.type_oid || source.type_modifier != target.type_modifier)
}

/// What mends a table of which a row was refused, where that follows from how the two differ.
pub(crate) fn refused(relation: &Relation, table: &TargetTable, reason: &RowError) -> Option<String> {
    let target = qualified(&table.schema, &table.name);
    let actions: Vec<String> = match reason.class() {
        class if class.starts_with("22") => relation
            .columns
            .iter()
            .filter_map(|source| {
                let ours = table.columns.iter().find(|column| column.name == source.name)?;
                let name = quote_identifier(&source.name);
                differs(source, ours).then(|| format!("ALTER COLUMN {name} TYPE {}", type_name(source)))
            })
            .collect(),
        "23502" => table
            .columns
            .iter()
            .filter(|ours| ours.not_null && !relation.columns.iter().any(|column| column.name == ours.name))
            .map(|ours| format!("DROP COLUMN {}", quote_identifier(&ours.name)))
            .collect(),
        _ => Vec::new(),
    };
    (!actions.is_empty()).then(|| format!("ALTER TABLE {target} {}", actions.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_oid: u32, key: bool) -> Column {
        Column { name: name.to_owned(), key, type_oid, type_modifier: -1, type_name: None }
    }

    fn relation(columns: Vec<Column>) -> Relation {
        Relation {
            id: 1,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns,
        }
    }

    fn target(columns: &[(&str, u32)]) -> TargetTable {
        let columns = columns.iter().map(|(name, type_oid)| TargetColumn {
            collation: None,
            has_spellings: false,
            name: (*name).to_owned(),
            type_oid: *type_oid,
            type_modifier: -1,
            cast: String::new(),
            cast_is_function: false,
            domain: false,
            equals: None,
            not_null: false,
            generated: false,
            default: false,
            identity_always: false,
        });
        TargetTable {
            schema: "s".to_owned(),
            name: "t".to_owned(),
            partitioned: false,
            columns: columns.collect(),
            unique: Vec::new(),
            constraints: 0,
            has_triggers: false,
            has_rules: false,
            row_security: false,
        }
    }

    #[test]
    fn a_table_is_offered_with_its_key_and_the_right_to_write_it() {
        let relation = relation(vec![column("id", 23, true), column("b", 25, false)]);
        assert_eq!(
            create_table(&relation, "s", "t", true, "replicat"),
            "CREATE TABLE \"s\".\"t\" (\"id\" pg_catalog.\"int4\", \"b\" pg_catalog.\"text\", PRIMARY KEY (\"id\")); \
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON \"s\".\"t\" TO \"replicat\""
        );
        assert!(
            create_table(&relation, "s", "t", false, "r").starts_with("CREATE SCHEMA \"s\"; GRANT USAGE")
        );
    }

    #[test]
    fn a_column_between_others_can_only_have_a_new_name_and_the_last_one_can_be_new() {
        let source = relation(vec![column("id", 23, true), column("new", 25, false), column("c", 23, false)]);
        let missing = [&source.columns[1]];
        let (fix, other) = columns(&source, &target(&[("id", 23), ("old", 25), ("c", 23)]), &missing);
        assert_eq!((fix.as_str(), other), ("ALTER TABLE \"s\".\"t\" RENAME COLUMN \"old\" TO \"new\"", None));
        // Of another type it is another column.
        let (fix, other) = columns(&source, &target(&[("id", 23), ("old", 23), ("c", 23)]), &missing);
        assert_eq!(
            (fix.as_str(), other),
            ("ALTER TABLE \"s\".\"t\" ADD COLUMN \"new\" pg_catalog.\"text\"", None)
        );
        let source = relation(vec![column("id", 23, true), column("new", 25, false)]);
        let missing = [&source.columns[1]];
        let (fix, other) = columns(&source, &target(&[("id", 23), ("old", 25)]), &missing);
        assert!(fix.contains("RENAME") && other.is_some_and(|other| other.contains("ADD COLUMN")));
        let (fix, other) = columns(&source, &target(&[("id", 23)]), &missing);
        assert!(fix.contains("ADD COLUMN") && other.is_none());
    }

    #[test]
    fn a_refused_value_names_the_type_that_it_needs() {
        let source = relation(vec![column("id", 23, true), column("n", 20, false)]);
        let refusal = |code: &str| RowError::Server { code: code.to_owned(), message: String::new() };
        let fix = refused(&source, &target(&[("id", 23), ("n", 23)]), &refusal("22003"));
        assert_eq!(
            fix.as_deref(),
            Some("ALTER TABLE \"s\".\"t\" ALTER COLUMN \"n\" TYPE pg_catalog.\"int8\"")
        );
        assert_eq!(refused(&source, &target(&[("id", 23), ("n", 20)]), &refusal("22003")), None);
        assert_eq!(refused(&source, &target(&[("id", 23), ("n", 23)]), &refusal("23505")), None);
        let mut strict = target(&[("id", 23), ("n", 20), ("gone", 25)]);
        strict.columns[2].not_null = true;
        let fix = refused(&source, &strict, &refusal("23502"));
        assert_eq!(fix.as_deref(), Some("ALTER TABLE \"s\".\"t\" DROP COLUMN \"gone\""));
    }
}
