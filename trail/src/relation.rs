//! A table as the stream describes it at one point: names, columns and which of them identify a row.

use serde::{Deserialize, Serialize};

/// What the source logs to identify an updated or deleted row (`pg_class.relreplident`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing: updates and deletes of a published table are refused by the source.
    Nothing,
    /// The whole old row.
    Full,
    /// A unique index named by `REPLICA IDENTITY USING INDEX`.
    Index,
}

/// One column, at its place in the tuples of its relation.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Name at the source.
    pub name: String,
    /// Whether the column is part of the replica identity.
    pub key: bool,
    /// `pg_type.oid` at the source. Below 16384 it means the same everywhere; above, only [`Column::type_name`] does.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`, -1 for none.
    pub type_modifier: i32,
    /// Schema and name of a type that is not built in, as the stream announced it. For a domain the server sends the
    /// domain's OID and the base type's name.
    pub type_name: Option<(String, String)>,
}

/// A table, or a partition or partition root, whichever the publication shows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Relation {
    /// `pg_class.oid` at the source.
    pub id: u32,
    /// Schema at the source.
    pub schema: String,
    /// Name at the source.
    pub name: String,
    /// What identifies a row.
    pub replica_identity: ReplicaIdentity,
    /// Published columns, in the order of the tuples.
    pub columns: Vec<Column>,
}
