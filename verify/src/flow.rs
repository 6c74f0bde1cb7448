//! What is compared: the two ends of a flow.

use std::fmt;
use std::sync::Arc;

use irongate_postgres::Endpoint;
use irongate_postgres::sql::qualified;
use serde::{Deserialize, Serialize};

/// A table by schema and name, as the catalog has them. In JSON and in messages it is `schema.name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl Name {
    /// A name of its parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// `"schema"."name"`, for SQL.
    pub fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// One end of a flow.
#[derive(Clone, Debug)]
pub struct End {
    /// What it is called in messages, such as `conf.main`.
    pub label: String,
    /// Where it is. A role that may read the flow's tables is enough for a compare; at the target it has to see the
    /// checkpoint table.
    pub endpoint: Endpoint,
}

/// A flow, as far as a compare of its ends goes.
#[derive(Clone)]
pub struct Flow {
    /// Its name: that of its row in the target's checkpoint table.
    pub name: String,
    /// Its publication at the source.
    pub publication: String,
    /// The database that is captured.
    pub source: End,
    /// The database that is written.
    pub target: End,
    /// The flow that carries the other way at the same time, where both sites write: what is on its way in it is no
    /// difference either. Its name, and its target as whoever may see the checkpoint table there.
    pub reverse: Option<(String, End)>,
    /// What a table of the source is called at the target.
    pub target_of: Arc<dyn Fn(&Name) -> Name + Send + Sync>,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("name", &self.name)
            .field("source", &self.source)
            .field("target", &self.target)
            .field("reverse", &self.reverse)
            .finish_non_exhaustive()
    }
}
