//! A table of the target as Replicat needs to know it, and how a source table's columns map onto it.

mod catalog;
mod plan;

pub(crate) use plan::{Key, Plan, Resolving};

/// A table at the target, as far as changes of its rows depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_class.relkind`: `r` or `p`.
    pub partitioned: bool,
    /// Its columns, in order.
    pub columns: Vec<TargetColumn>,
    /// Unique indexes that are checked at once, without predicate or expression: columns by place in `columns`. The
    /// primary key first.
    pub unique: Vec<Vec<usize>>,
    /// Unique indexes and exclusion constraints of any kind, on the table or on any of its partitions alone.
    pub constraints: usize,
    /// Triggers that fire in replica role.
    pub has_triggers: bool,
    /// Rules that act in replica role.
    pub has_rules: bool,
    /// Row security policies apply.
    pub row_security: bool,
}

/// A column at the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetColumn {
    /// Its name.
    pub name: String,
    /// The base type's OID.
    pub type_oid: u32,
    /// Length, precision or the like of its type (`pg_attribute.atttypmod`), -1 for none.
    pub type_modifier: i32,
    /// The base type without modifier, as SQL: casting a text to it checks no length, the assignment does.
    pub cast: String,
    /// A cast from text to the type is a function of the user's, which need not be the type's input.
    pub cast_is_function: bool,
    /// The column's type is a domain, for which an operator of the base type is not always found.
    pub domain: bool,
    /// The operator that the type's unique indexes compare by, as SQL; `None` for a type without one.
    pub equals: Option<String>,
    /// The collation, as SQL, where it takes different texts for one.
    pub collation: Option<String>,
    /// Values that are equal to the index can be written differently.
    pub has_spellings: bool,
    /// It takes no NULL.
    pub not_null: bool,
    /// Its value comes from an expression, and nobody may write it.
    pub generated: bool,
    /// It or its type has a default, or it is an identity.
    pub default: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: an update may not set it.
    pub identity_always: bool,
}
