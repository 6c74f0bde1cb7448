//! What a compare found, in numbers. The names of the fields are a contract with scripts.

use serde::{Deserialize, Serialize};

/// A table that was compared.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Its name at the source.
    pub name: String,
    /// Its name at the target.
    #[serde(default)]
    pub target: String,
    /// Its rows at the source.
    pub rows: u64,
    /// Confirmed differences: the sum of the next three.
    pub differences: u64,
    /// Rows that only the source has.
    pub missing_at_target: u64,
    /// Rows that only the target has.
    pub missing_at_source: u64,
    /// Rows that both have, with other values.
    pub different: u64,
    /// Rows that were not the same and of which nobody can say yet whether they will be.
    #[serde(default)]
    pub unsettled: u64,
    /// Not all of its differences were looked for: there are too many.
    #[serde(default)]
    pub truncated: bool,
    /// Why it could not be compared.
    #[serde(default)]
    pub problem: Option<String>,
    /// What to do about that.
    #[serde(default)]
    pub hint: Option<String>,
}

/// What a compare found.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The flow.
    pub flow: String,
    /// Its tables, ordered by name.
    pub tables: Vec<Table>,
    /// Confirmed differences, over all tables.
    pub differences: u64,
    /// Rows of which nobody can say yet.
    #[serde(default)]
    pub unsettled: u64,
    /// Why what is unsettled could not be settled, if there is one reason for it.
    #[serde(default)]
    pub unsettled_because: Option<String>,
    /// Whether all tables of the flow were looked at.
    #[serde(default)]
    pub complete: bool,
    /// When it began, in RFC 3339 and UTC.
    #[serde(default)]
    pub started: String,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
}

impl Comparison {
    /// Rows at the source, over all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Tables that could not be compared.
    pub fn failed(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(|table| table.problem.is_some())
    }

    /// Everything was compared and everything is the same.
    pub fn is_clean(&self) -> bool {
        self.differences == 0 && self.unsettled == 0 && self.failed().next().is_none()
    }

    /// One table, by its name at the source.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}
