//! A table, as its events show it: its topic, its key, and what becomes of its columns.

use std::sync::Arc;

use irongate_trail::{Old, Relation, ReplicaIdentity, Tuple, Value};

use super::json;
use super::kind::Kind;
use super::settings::Shape;
use super::value::{self, Unfit};
use crate::error::Error;

/// What every event says of where it comes from.
pub(super) const SOURCE_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},{"type":"string","optional":false,"field":"connector"},{"type":"string","optional":false,"field":"name"},{"type":"int64","optional":false,"field":"ts_ms"},{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false","field":"snapshot"},{"type":"string","optional":false,"field":"db"},{"type":"string","optional":true,"field":"sequence"},{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"},{"type":"string","optional":false,"field":"schema"},{"type":"string","optional":false,"field":"table"},{"type":"int64","optional":true,"field":"txId"},{"type":"int64","optional":true,"field":"lsn"},{"type":"int64","optional":true,"field":"xmin"},{"type":"string","optional":true,"field":"origin"},{"type":"int64","optional":true,"field":"origin_lsn"}],"optional":false,"name":"io.debezium.connector.postgresql.Source","version":1,"field":"source"}"#;
/// What an event says of its transaction.
pub(super) const BLOCK_SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":false,"field":"total_order"},{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"name":"event.block","version":1,"field":"transaction"}"#;
const REST_SCHEMA: &str = r#"{"type":"string","optional":false,"field":"op"},{"type":"int64","optional":true,"field":"ts_ms"},{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"}"#;

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) relation: Arc<Relation>,
    /// `schema.table`, as transactions count it.
    pub(super) name: String,
    pub(super) topic: Arc<str>,
    kinds: Vec<Kind>,
    /// The key's columns by their places, in its order; empty where nothing identifies a row.
    key: Vec<usize>,
    /// The schemas of key and value, as JSON; empty where none travel.
    pub(super) key_schema: Vec<u8>,
    pub(super) value_schema: Vec<u8>,
}

/// A name as it can stand in a topic's: other characters than Kafka takes become `_`, as Debezium has it.
pub(super) fn topic_name(prefix: &str, schema: &str, table: &str) -> String {
    let sound = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{prefix}.{schema}.{table}").chars().map(sound).collect()
}

impl Table {
    /// # Errors
    /// [`Error::Event`] for a key that the trail does not have of every row.
    pub(super) fn new(relation: &Arc<Relation>, shape: &Shape) -> Result<Self, Error> {
        let Relation { schema, name, columns, .. } = &**relation;
        let mut table = Self {
            relation: Arc::clone(relation),
            name: format!("{schema}.{name}"),
            topic: topic_name(&shape.prefix, schema, name).into(),
            kinds: columns.iter().map(|column| Kind::of(column, shape.numerics)).collect(),
            key: Vec::new(),
            key_schema: Vec::new(),
            value_schema: Vec::new(),
        };
        let identity = relation.replica_identity;
        match shape.key_columns.get(&(schema.clone(), name.clone())) {
            Some(wanted) => {
                for key in wanted {
                    let place = columns.iter().position(|column| column.name == *key);
                    let known =
                        place.filter(|place| identity == ReplicaIdentity::Nothing || columns[*place].key);
                    let Some(place) = known else {
                        let reason = format!("its key column \"{key}\" is not part of its replica identity");
                        let remedy = "set REPLICA IDENTITY FULL for the table, or take it out of key_columns";
                        return Err(table.unfit(reason, remedy));
                    };
                    table.key.push(place);
                }
            }
            // The whole row is no key.
            None if identity == ReplicaIdentity::Full => {}
            None => {
                let places = columns.iter().enumerate().filter(|(_, column)| column.key);
                table.key = places.map(|(place, _)| place).collect();
            }
        }
        if shape.schemas {
            table.describe();
        }
        Ok(table)
    }

    pub(super) fn unfit(&self, reason: String, remedy: &str) -> Error {
        Error::Event { table: self.name.clone(), reason, remedy: remedy.to_owned() }
    }

    pub(super) fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    fn describe(&mut self) {
        let columns = &self.relation.columns;
        let qualified = |what: &str, out: &mut Vec<u8>| {
            json::raw(",\"name\":", out);
            json::text(&format!("{}.{what}", self.topic), out);
        };
        let mut out = b"{\"type\":\"struct\",\"fields\":[".to_vec();
        for (number, place) in self.key.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            self.kinds[*place].write_schema(Some(&columns[*place].name), false, &mut out);
        }
        json::raw("],\"optional\":false", &mut out);
        qualified("Key", &mut out);
        out.push(b'}');
        let key_schema = out;
        let mut row = b"{\"type\":\"struct\",\"fields\":[".to_vec();
        for (place, column) in columns.iter().enumerate() {
            if place > 0 {
                row.push(b',');
            }
            self.kinds[place].write_schema(Some(&column.name), !self.key.contains(&place), &mut row);
        }
        json::raw("],\"optional\":true", &mut row);
        qualified("Value", &mut row);
        let mut out = b"{\"type\":\"struct\",\"fields\":[".to_vec();
        for which in ["before", "after"] {
            out.extend_from_slice(&row);
            json::raw(&format!(",\"field\":\"{which}\"}},"), &mut out);
        }
        json::raw(&format!("{SOURCE_SCHEMA},{BLOCK_SCHEMA},{REST_SCHEMA}],\"optional\":false"), &mut out);
        qualified("Envelope", &mut out);
        json::raw(",\"version\":2}", &mut out);
        (self.key_schema, self.value_schema) = (key_schema, out);
    }

    fn refused(&self, place: usize, unfit: Unfit) -> Error {
        let column = &self.relation.columns[place].name;
        self.unfit(format!("its column \"{column}\" {}", unfit.reason()), unfit.remedy())
    }

    fn write_value(&self, place: usize, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        match value {
            Value::Null => json::raw("null", out),
            Value::Unchanged => value::write_unavailable(&self.kinds[place], out),
            Value::Text(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| self.refused(place, Unfit::Malformed))?;
                value::write(&self.kinds[place], text, out).map_err(|unfit| self.refused(place, unfit))?;
            }
            Value::Binary(_) => {
                let reason = "its values are in the trail in binary".to_owned();
                return Err(self.unfit(
                    reason,
                    "set binary = false for the flow's Extract, and load the consumers anew",
                ));
            }
        }
        Ok(())
    }

    fn values<'t>(&self, tuple: Tuple<'t>) -> Result<Vec<Value<'t>>, Error> {
        let values: Vec<_> = tuple.values().collect();
        if values.len() == self.kinds.len() {
            return Ok(values);
        }
        let reason = format!("a row of {} columns where it has {}", values.len(), self.kinds.len());
        Err(self.unfit(reason, "the trail is damaged: \"irongate trail check\" says where"))
    }

    /// Writes a row; what it does not have is taken from `old`, where that has it.
    pub(super) fn write_row(
        &self,
        tuple: Tuple<'_>,
        old: Option<Old<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let values = self.values(tuple)?;
        let is_full = matches!(old, Some(Old::Full(_)));
        let old = old.map(|old| self.values(old.tuple())).transpose()?;
        out.push(b'{');
        for (place, column) in self.relation.columns.iter().enumerate() {
            json::field(&column.name, place == 0, out);
            // Of an old key nothing but the key is there: the rest are no NULLs.
            let old = old.as_deref().filter(|_| is_full || column.key);
            self.write_value(place, or_old(&values, old, place), out)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// Writes the key of a row.
    pub(super) fn write_key(
        &self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let values = self.values(tuple)?;
        let old = old.map(|old| self.values(old)).transpose()?;
        out.push(b'{');
        for (number, place) in self.key.iter().enumerate() {
            json::field(&self.relation.columns[*place].name, number == 0, out);
            self.write_value(*place, or_old(&values, old.as_deref(), *place), out)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// Whether an update made another row of it.
    pub(super) fn is_key_changed(&self, old: Tuple<'_>, new: Tuple<'_>) -> Result<bool, Error> {
        let (old, new) = (self.values(old)?, self.values(new)?);
        Ok(self.key.iter().any(|place| new[*place] != Value::Unchanged && old[*place] != new[*place]))
    }
}

fn or_old<'t>(values: &[Value<'t>], old: Option<&[Value<'t>]>, place: usize) -> Value<'t> {
    match (values[place], old) {
        (Value::Unchanged, Some(old)) => old[place],
        (value, _) => value,
    }
}
