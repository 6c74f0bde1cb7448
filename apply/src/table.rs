//! A table of the target as Replicat needs to know it, and how a source table's columns map onto it.

mod catalog;
mod plan;

pub(crate) use plan::{Key, Plan, Resolving};

/// A table at the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TargetTable {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `pg_class.relkind`: `r` or `p`.
    pub(crate) partitioned: bool,
    pub(crate) columns: Vec<TargetColumn>,
    /// Unique indexes that are checked at once, without predicate or expression: columns by place in `columns`. The
    /// primary key first.
    pub(crate) unique: Vec<Vec<usize>>,
    /// Unique indexes and exclusion constraints of any kind, on the table or on any of its partitions alone.
    pub(crate) constraints: usize,
    /// Triggers that fire in replica role.
    pub(crate) has_triggers: bool,
    /// Rules that act in replica role.
    pub(crate) has_rules: bool,
    pub(crate) row_security: bool,
}

/// A column at the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TargetColumn {
    pub(crate) name: String,
    /// The base type's OID.
    pub(crate) type_oid: u32,
    /// The base type without modifier, as SQL: casting a text to it checks no length, the assignment does.
    pub(crate) cast: String,
    /// A cast from text to the type is a function of the user's, which need not be the type's input.
    pub(crate) cast_is_function: bool,
    /// The column's type is a domain, for which an operator of the base type is not always found.
    pub(crate) domain: bool,
    /// The operator that the type's unique indexes compare by, as SQL; `None` for a type without one.
    pub(crate) equals: Option<String>,
    pub(crate) not_null: bool,
    pub(crate) generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: an update may not set it.
    pub(crate) identity_always: bool,
}
