//! Objects as the catalog describes them (`irongate_postgres::catalog`, "structure").

use std::collections::BTreeMap;

use irongate_postgres::sql::{qualified, quote_identifier};
use serde::Deserialize;

/// An object of one of the kinds that the channel carries.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Object {
    Table(Box<Table>),
    View(Box<View>),
    Sequence(Box<Sequence>),
    Type(Box<Type>),
    Function(Box<Function>),
    Schema(Schema),
    Extension(Extension),
}

/// What the catalog said before the command, as far as it was named there.
#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Before {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// By number.
    pub(crate) columns: Option<BTreeMap<String, Named>>,
    /// These by OID.
    pub(crate) constraints: Option<BTreeMap<String, String>>,
    pub(crate) indexes: Option<BTreeMap<String, String>>,
    pub(crate) triggers: Option<BTreeMap<String, String>>,
    /// `pg_trigger.tgenabled`.
    pub(crate) states: Option<BTreeMap<String, String>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) parents: Option<Vec<Name>>,
    /// Publications that a table was in.
    pub(crate) published: Option<Vec<String>>,
    /// A sequence's row of `pg_sequence`.
    pub(crate) relation: Option<Counting>,
}

#[derive(Clone, PartialEq, Default, Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Name {
    pub(crate) schema: String,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }
}

/// A right of another role than the owner; `None` is everybody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub(crate) struct Grant {
    pub(crate) role: Option<String>,
    pub(crate) privilege: String,
    pub(crate) grantable: bool,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) unlogged: bool,
    pub(crate) partition_key: Option<String>,
    pub(crate) parents: Option<Vec<Name>>,
    pub(crate) bound: Option<String>,
    pub(crate) replica_identity: String,
    pub(crate) identity_index: Option<String>,
    pub(crate) options: Option<Vec<String>>,
    pub(crate) comment: Option<String>,
    pub(crate) grants: Option<Vec<Grant>>,
    pub(crate) columns: Vec<Column>,
    pub(crate) constraints: Vec<Constraint>,
    pub(crate) indexes: Vec<Index>,
    pub(crate) triggers: Vec<Trigger>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
    /// All its rows follow.
    #[serde(default)]
    pub(crate) sent: bool,
    /// It has rows that the stream never had.
    #[serde(default)]
    pub(crate) lost: bool,
    /// What kept the source from sending them.
    #[serde(default)]
    pub(crate) withheld: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Column {
    pub(crate) id: i64,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) collation: Option<String>,
    pub(crate) not_null: bool,
    /// Of a generated column its expression.
    pub(crate) default: Option<String>,
    pub(crate) generated: String,
    pub(crate) identity: String,
    pub(crate) storage: String,
    pub(crate) compression: String,
    pub(crate) inherited: bool,
    /// What rows have that are older than the column, as a text.
    pub(crate) missing: Option<String>,
    pub(crate) comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Constraint {
    pub(crate) id: i64,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) sort: String,
    pub(crate) definition: String,
    #[serde(default)]
    pub(crate) comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) definition: String,
    pub(crate) clustered: bool,
    pub(crate) comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Trigger {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) definition: String,
    pub(crate) enabled: String,
    pub(crate) comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct View {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) materialized: bool,
    pub(crate) populated: bool,
    pub(crate) definition: String,
    pub(crate) options: Option<Vec<String>>,
    pub(crate) comment: Option<String>,
    pub(crate) grants: Option<Vec<Grant>>,
    pub(crate) columns: Vec<ViewColumn>,
    pub(crate) indexes: Vec<Index>,
    pub(crate) triggers: Vec<Trigger>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
    /// What it holds was made anew.
    #[serde(default)]
    pub(crate) refresh: bool,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct ViewColumn {
    pub(crate) id: i64,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Sequence {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) start: i64,
    pub(crate) increment: i64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) cache: i64,
    pub(crate) cycle: bool,
    pub(crate) owned_by: Option<OwnedBy>,
    pub(crate) comment: Option<String>,
    pub(crate) grants: Option<Vec<Grant>>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct OwnedBy {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) column: String,
}

/// A row of `pg_sequence`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Counting {
    pub(crate) seqstart: i64,
    pub(crate) seqincrement: i64,
    pub(crate) seqmin: i64,
    pub(crate) seqmax: i64,
    pub(crate) seqcache: i64,
    pub(crate) seqcycle: bool,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Type {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    /// `pg_type.typtype`.
    pub(crate) sort: String,
    pub(crate) comment: Option<String>,
    pub(crate) labels: Option<Vec<Label>>,
    pub(crate) attributes: Option<Vec<Attribute>>,
    pub(crate) base: Option<String>,
    pub(crate) collation: Option<String>,
    pub(crate) not_null: bool,
    pub(crate) default: Option<String>,
    pub(crate) constraints: Vec<Constraint>,
    pub(crate) range: Option<Range>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Label {
    pub(crate) id: i64,
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Attribute {
    pub(crate) id: i64,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_name: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Range {
    pub(crate) subtype: String,
    pub(crate) opclass: Option<String>,
    pub(crate) collation: Option<String>,
    pub(crate) difference: Option<String>,
    pub(crate) multirange: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Function {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) arguments: String,
    pub(crate) procedure: bool,
    pub(crate) definition: String,
    pub(crate) comment: Option<String>,
    pub(crate) grants: Option<Vec<Grant>>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) comment: Option<String>,
    pub(crate) grants: Option<Vec<Grant>>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) schema: String,
    pub(crate) comment: Option<String>,
    #[serde(default)]
    pub(crate) before: Option<Before>,
}

impl Object {
    /// How messages name it.
    pub(crate) fn title(&self) -> String {
        let name = |schema: &str, name: &str| format!("{schema}.{name}");
        match self {
            Self::Table(it) => format!("table \"{}\"", name(&it.schema, &it.name)),
            Self::View(it) => format!("view \"{}\"", name(&it.schema, &it.name)),
            Self::Sequence(it) => format!("sequence \"{}\"", name(&it.schema, &it.name)),
            Self::Type(it) => format!("type \"{}\"", name(&it.schema, &it.name)),
            Self::Function(it) => format!("function \"{}\"", name(&it.schema, &it.name)),
            Self::Schema(it) => format!("schema \"{}\"", it.name),
            Self::Extension(it) => format!("extension \"{}\"", it.name),
        }
    }

    /// Its kind as ALTER and DROP write it, and its name, quoted, under another one.
    pub(crate) fn words(&self, schema: Option<&str>, name: &str) -> String {
        let full = schema.map_or_else(|| quote_identifier(name), |schema| qualified(schema, name));
        match self {
            Self::Table(_) => format!("TABLE {full}"),
            Self::View(it) if it.materialized => format!("MATERIALIZED VIEW {full}"),
            Self::View(_) => format!("VIEW {full}"),
            Self::Sequence(_) => format!("SEQUENCE {full}"),
            Self::Type(it) if it.sort == "d" => format!("DOMAIN {full}"),
            Self::Type(_) => format!("TYPE {full}"),
            Self::Function(it) if it.procedure => format!("PROCEDURE {full}({})", it.arguments),
            Self::Function(it) => format!("FUNCTION {full}({})", it.arguments),
            Self::Schema(_) => format!("SCHEMA {full}"),
            Self::Extension(_) => format!("EXTENSION {full}"),
        }
    }

    pub(crate) fn schema(&self) -> Option<&str> {
        match self {
            Self::Table(it) => Some(&it.schema),
            Self::View(it) => Some(&it.schema),
            Self::Sequence(it) => Some(&it.schema),
            Self::Type(it) => Some(&it.schema),
            Self::Function(it) => Some(&it.schema),
            Self::Schema(_) | Self::Extension(_) => None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Table(it) => &it.name,
            Self::View(it) => &it.name,
            Self::Sequence(it) => &it.name,
            Self::Type(it) => &it.name,
            Self::Function(it) => &it.name,
            Self::Schema(it) => &it.name,
            Self::Extension(it) => &it.name,
        }
    }

    /// Its owner; an extension's does not go with it.
    pub(crate) fn owner(&self) -> Option<&str> {
        match self {
            Self::Table(it) => Some(&it.owner),
            Self::View(it) => Some(&it.owner),
            Self::Sequence(it) => Some(&it.owner),
            Self::Type(it) => Some(&it.owner),
            Self::Function(it) => Some(&it.owner),
            Self::Schema(it) => Some(&it.owner),
            Self::Extension(_) => None,
        }
    }

    /// Gives it another owner.
    pub(crate) fn set_owner(&mut self, owner: &str) {
        match self {
            Self::Table(it) => owner.clone_into(&mut it.owner),
            Self::View(it) => owner.clone_into(&mut it.owner),
            Self::Sequence(it) => owner.clone_into(&mut it.owner),
            Self::Type(it) => owner.clone_into(&mut it.owner),
            Self::Function(it) => owner.clone_into(&mut it.owner),
            Self::Schema(it) => owner.clone_into(&mut it.owner),
            Self::Extension(_) => {}
        }
    }

    pub(crate) fn before(&self) -> Option<&Before> {
        match self {
            Self::Table(it) => it.before.as_ref(),
            Self::View(it) => it.before.as_ref(),
            Self::Sequence(it) => it.before.as_ref(),
            Self::Type(it) => it.before.as_ref(),
            Self::Function(it) => it.before.as_ref(),
            Self::Schema(it) => it.before.as_ref(),
            Self::Extension(it) => it.before.as_ref(),
        }
    }

    pub(crate) fn comment(&self) -> Option<&str> {
        match self {
            Self::Table(it) => it.comment.as_deref(),
            Self::View(it) => it.comment.as_deref(),
            Self::Sequence(it) => it.comment.as_deref(),
            Self::Type(it) => it.comment.as_deref(),
            Self::Function(it) => it.comment.as_deref(),
            Self::Schema(it) => it.comment.as_deref(),
            Self::Extension(it) => it.comment.as_deref(),
        }
    }

    pub(crate) fn grants(&self) -> &[Grant] {
        match self {
            Self::Table(it) => it.grants.as_deref(),
            Self::View(it) => it.grants.as_deref(),
            Self::Sequence(it) => it.grants.as_deref(),
            Self::Function(it) => it.grants.as_deref(),
            Self::Schema(it) => it.grants.as_deref(),
            Self::Type(_) | Self::Extension(_) => None,
        }
        .unwrap_or_default()
    }
}
