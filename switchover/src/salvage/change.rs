//! A lost change, as it is written down and read back.

use std::fmt;

use irongate_trail::Value;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One column's value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Cell {
    /// SQL NULL.
    Null,
    /// The type's text.
    Text(String),
    /// A text that is not UTF-8, as a database of encoding `SQL_ASCII` may hold it.
    Bytes(Vec<u8>),
    /// A TOASTed value that the change did not touch, and that was not logged.
    Unchanged,
    /// The binary form of a built-in type, by its OID. Made into text before anything is done with it.
    #[doc(hidden)]
    Binary(u32, Vec<u8>),
}

impl Cell {
    /// Of a value in text form.
    pub(super) fn of(value: Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Unchanged => Self::Unchanged,
            Value::Text(bytes) | Value::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => Self::Bytes(bytes.to_vec()),
            },
        }
    }

    /// How much memory it takes, in bytes.
    fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Unchanged => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) | Self::Binary(_, bytes) => bytes.len(),
        }
    }
}

/// Columns and their values, in the table's order. As JSON an object: text is a string, NULL is null, what was not logged
/// is `{"unchanged": true}`, and what is not UTF-8 `{"bytes": "…"}` in hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Fields(pub Vec<(String, Cell)>);

impl Fields {
    /// The value of a column.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, cell)| cell)
    }

    /// These columns of it.
    pub(super) fn only(&self, names: &[String]) -> Self {
        Self(names.iter().filter_map(|name| Some((name.clone(), self.get(name)?.clone()))).collect())
    }

    /// Whether every value that is known here is the same there.
    pub(super) fn is_in(&self, there: &Self) -> bool {
        self.0.iter().all(|(name, cell)| *cell == Cell::Unchanged || there.get(name) == Some(cell))
    }

    pub(super) fn weight(&self) -> usize {
        self.0.iter().map(|(name, cell)| name.len() + cell.weight()).sum()
    }
}

const UNCHANGED: &str = "unchanged";
const BYTES: &str = "bytes";

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Unchanged => serializer.collect_map([(UNCHANGED, true)]),
            Self::Bytes(bytes) | Self::Binary(_, bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                serializer.collect_map([(BYTES, hex)])
            }
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Cell;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, null, or an object that says \"unchanged\" or \"bytes\"")
            }

            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Null)
            }

            fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
                Ok(Cell::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Cell, E> {
                Ok(Cell::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
                let cell = match map.next_key::<String>()?.as_deref() {
                    Some(UNCHANGED) => map.next_value::<bool>().map(|_| Cell::Unchanged)?,
                    Some(BYTES) => {
                        let hex: String = map.next_value()?;
                        let digits =
                            |at| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
                        let bytes = (0..hex.len()).step_by(2).map(digits).collect::<Option<Vec<u8>>>();
                        Cell::Bytes(bytes.ok_or_else(|| A::Error::custom("bytes that are not hexadecimal"))?)
                    }
                    _ => return Err(A::Error::custom("an object that is no value")),
                };
                match map.next_key::<String>()? {
                    None => Ok(cell),
                    Some(_) => Err(A::Error::custom("an object that is no value")),
                }
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, cell) in &self.0 {
            map.serialize_entry(name, cell)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What happened to a row, or to tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row that is gone.
    Delete,
    /// Emptied tables.
    Truncate,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        })
    }
}

/// A table by schema and name, at the lost site.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// What the live site has where a lost change belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What the change expects.
    Expected,
    /// What the change would make of it.
    Same,
    /// Something else: somebody has been there since.
    Conflict,
    /// An earlier lost change of the same row, or of the whole table, comes before: what is there now says nothing.
    Follows,
    /// It cannot be told.
    Unknown,
}

/// What the live site has under the key of a lost change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct There {
    /// How that fits the change.
    pub verdict: Verdict,
    /// Why, where it does not fit or cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The row; none if there is none, or if it was not asked.
    pub row: Option<Fields>,
    /// It was written there since the sites parted; none if that cannot be told.
    pub written_since: Option<bool>,
}

/// A lost change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Its number among the changes of its transaction, from 1.
    pub number: u64,
    /// The table; of a truncate the first one.
    #[serde(flatten)]
    pub table: TableName,
    /// What happened.
    pub operation: Operation,
    /// The columns that identify the row at the live site, as they were before the change. Empty for a table without a key.
    pub key: Fields,
    /// The whole row before the change, where the replica identity logs it.
    pub old: Option<Fields>,
    /// The row behind the change.
    pub new: Option<Fields>,
    /// All tables that a truncate emptied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<TableName>,
    /// What is at the live site now.
    #[serde(skip_deserializing)]
    pub there: Option<There>,
}

impl Change {
    /// The tables that it changes.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        let one = self.truncated.is_empty().then_some(&self.table);
        one.into_iter().chain(&self.truncated)
    }

    /// The key behind the change, if the change moves the row to another one.
    pub(super) fn new_key(&self) -> Option<Fields> {
        if self.operation != Operation::Update || self.key.0.is_empty() {
            return None;
        }
        let new = self.new.as_ref()?;
        let moved = |(name, cell): &(String, Cell)| {
            new.get(name).is_some_and(|new| *new != Cell::Unchanged && new != cell)
        };
        self.key.0.iter().any(moved).then(|| {
            let now = |(name, cell): &(String, Cell)| {
                let new = new.get(name).filter(|new| **new != Cell::Unchanged);
                (name.clone(), new.unwrap_or(cell).clone())
            };
            Fields(self.key.0.iter().map(now).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, Cell)]) -> Fields {
        Fields(of.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
    }

    #[test]
    fn a_change_is_read_back_as_it_was_written() {
        let change = Change {
            number: 3,
            table: TableName { schema: "public".into(), table: "Odd \"name\"".into() },
            operation: Operation::Update,
            key: fields(&[("b", Cell::Text("1".into())), ("a", Cell::Text("é".into()))]),
            old: None,
            new: Some(fields(&[
                ("z", Cell::Null),
                ("b", Cell::Text("2".into())),
                ("toast", Cell::Unchanged),
                ("raw", Cell::Bytes(vec![0, 255])),
            ])),
            truncated: Vec::new(),
            there: None,
        };
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
        assert_eq!(
            change.new_key().unwrap(),
            fields(&[("b", Cell::Text("2".into())), ("a", Cell::Text("é".into()))])
        );
        for wrong in
            ["{\"bytes\": \"0\"}", "{\"bytes\": \"zz\"}", "{}", "7", "{\"unchanged\": true, \"a\": 1}"]
        {
            assert!(serde_json::from_str::<Cell>(wrong).is_err(), "{wrong}");
        }
    }
}
