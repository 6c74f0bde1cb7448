//! Structure: what the catalog says of a table, a type, a view and the like, as one JSON document each.
//!
//! The questions are the same for a function that is installed at a source and for a session at a target, so that the two
//! descriptions can be laid side by side. Each takes the object's OID as `$1` and gives one `jsonb`, or no row. Names are
//! qualified in every definition as long as `search_path` is empty ([`STRUCTURE_SETTINGS`]), which the caller sees to.
//!
//! What a description leaves out follows from something else in it: the indexes of constraints, what a partition has from
//! its parent, the sequence of an identity column, the array type of a type. `NOT NULL` is a column's and not a
//! constraint's, whose name only 18 and later know.

/// The prefix of the messages by which a source tells of changes of its structure.
pub const DDL_PREFIX: &str = "irongate.ddl";

/// Settings under which definitions are printed alike everywhere, as name and value.
pub const STRUCTURE_SETTINGS: [(&str, &str); 7] = [
    ("search_path", "''"),
    ("quote_all_identifiers", "off"),
    ("datestyle", "'ISO, MDY'"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("timezone", "'UTC'"),
];

/// A table, partitioned or not: its columns, constraints, indexes and triggers are part of it.
pub const TABLE_STRUCTURE: &str = include_str!("structure/table.sql");
/// A view or materialized view.
pub const VIEW_STRUCTURE: &str = include_str!("structure/view.sql");
/// A sequence that is not an identity column's.
pub const SEQUENCE_STRUCTURE: &str = include_str!("structure/sequence.sql");
/// An enum, domain, composite or range type.
pub const TYPE_STRUCTURE: &str = include_str!("structure/type.sql");
/// A function or procedure.
pub const FUNCTION_STRUCTURE: &str = include_str!("structure/function.sql");
/// A schema.
pub const SCHEMA_STRUCTURE: &str = include_str!("structure/schema.sql");
/// An extension.
pub const EXTENSION_STRUCTURE: &str = include_str!("structure/extension.sql");
