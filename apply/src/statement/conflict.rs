//! The SQL of conflicts: what is here under a key, and what is written of a change that won or lost in part.

use irongate_postgres::sql::{quote_identifier, quote_literal};
use irongate_trail::{Row, Tuple, Value};

use super::{Parameter, Statement, list};
use crate::table::{Plan, TargetColumn};

/// Commit time of a transaction in microseconds since 2000-01-01.
fn micros(xmin: &str) -> String {
    format!(
        "(EXTRACT(epoch FROM (pg_catalog.pg_xact_commit_timestamp_origin({xmin})).\"timestamp\") \
         OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 OPERATOR(pg_catalog.-) 946684800000000"
    )
}

/// When, under which origin, and whether by the present transaction: a row of that one has no commit time yet, and its
/// transaction id is not older.
fn version(xmin: &str) -> String {
    format!(
        "{} AS written, (SELECT o.roname FROM pg_catalog.pg_replication_origin AS o WHERE o.roident \
         OPERATOR(pg_catalog.=) (pg_catalog.pg_xact_commit_timestamp_origin({xmin})).roident) AS origin, \
         pg_catalog.age({xmin}) OPERATOR(pg_catalog.<=) \
         pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.xid) AS own",
        micros(xmin)
    )
}

impl Plan {
    pub(super) fn key_value(
        &self,
        column: usize,
        values: &[Value<'_>],
        parameters: &mut Vec<Parameter>,
    ) -> String {
        parameters.push(Parameter::key(column));
        let cast = self.column(column).map_or("pg_catalog.text", |column| column.cast.as_str());
        format!("{}::{cast}", self.parameter(column, parameters.len(), values.get(column)))
    }

    /// The names of the key's columns at the target.
    pub(crate) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key_columns().iter().filter_map(|column| self.column(*column)).map(|column| column.name.as_str())
    }

    /// The key of a tuple as the tombstones have it.
    fn key_json(&self, key: Tuple<'_>, parameters: &mut Vec<Parameter>) -> String {
        let values: Vec<Value<'_>> = key.values().collect();
        let pairs: Vec<String> = self
            .key_columns()
            .iter()
            .map(|&column| {
                let name = self.column(column).map_or("", |column| column.name.as_str());
                format!("{}, {}", quote_literal(name), self.key_value(column, &values, parameters))
            })
            .collect();
        format!("pg_catalog.jsonb_build_object({})", pairs.join(", "))
    }

    /// Locks the row under a key, so far as a delete or an update would, and describes it: its version, whether it has the values of `full`, itself as JSON, and its
    /// version by a mark if a change was merged into it.
    pub(crate) fn look_for_row(&self, key: Tuple<'_>, full: Option<Tuple<'_>>, deletes: bool) -> Statement {
        let mut parameters = Vec::new();
        let found = self.find(key, &mut parameters);
        let merged = if self.is_additive() {
            let key = self.key_json(key, &mut parameters);
            format!(
                "(SELECT b.merged_at FROM irongate.tombstone AS b WHERE {} AND b.key OPERATOR(pg_catalog.=) {key} \
                 AND b.merged_xid OPERATOR(pg_catalog.=) t.xmin::pg_catalog.text)",
                self.is_buried()
            )
        } else {
            "NULL::pg_catalog.int8".to_owned()
        };
        let same = match full {
            None => "NULL::pg_catalog.bool".to_owned(),
            Some(full) => self.same(full, &mut parameters),
        };
        let sql = format!(
            "SELECT {}, {same} AS same, pg_catalog.to_json(t)::pg_catalog.text AS image, {merged} AS merged \
             FROM {} AS t WHERE {found} FOR {} OF t",
            version("t.xmin"),
            self.existing(),
            if deletes { "UPDATE" } else { "NO KEY UPDATE" }
        );
        Statement { sql, parameters }
    }

    /// Whether a row has the values of a tuple, by their texts, since not every type can be compared.
    fn same(&self, tuple: Tuple<'_>, parameters: &mut Vec<Parameter>) -> String {
        let values: Vec<Value<'_>> = tuple.values().collect();
        let differs = |column: usize| {
            let left = format!("t.{}::pg_catalog.text", self.name(column));
            if values.get(column) == Some(&Value::Null) {
                return format!("{left} IS NOT NULL");
            }
            let right = self.key_value(column, &values, parameters);
            format!("{left} IS DISTINCT FROM {right}::pg_catalog.text")
        };
        let differences: Vec<String> = self.inserted().into_iter().map(differs).collect();
        if differences.is_empty() { "true".to_owned() } else { format!("NOT ({})", differences.join(" OR ")) }
    }

    fn is_buried(&self) -> String {
        format!(
            "b.table_schema OPERATOR(pg_catalog.=) {} AND b.table_name OPERATOR(pg_catalog.=) {}",
            quote_literal(&self.table.schema),
            quote_literal(&self.table.name)
        )
    }

    /// Locks and describes the tombstone under a key.
    pub(crate) fn look_for_tombstone(&self, key: Tuple<'_>) -> Statement {
        let mut parameters = Vec::new();
        let found = self.is_of(key, &mut parameters);
        let sql = format!(
            "SELECT {} FROM irongate.tombstone AS b WHERE {} AND {found} \
             AND b.merged_xid IS NULL ORDER BY b.at DESC FOR UPDATE OF b",
            version("b.xmin"),
            self.is_buried()
        );
        Statement { sql, parameters }
    }

    /// Whether two keys are equal. For an update with the new row.
    pub(crate) fn same_key(&self, old: Tuple<'_>, new: Tuple<'_>) -> Statement {
        let old: Vec<Value<'_>> = old.values().collect();
        let new: Vec<Value<'_>> = new.values().collect();
        let mut parameters = Vec::new();
        let same = |&column: &usize| {
            let before = self.key_value(column, &old, &mut parameters);
            parameters.push(Parameter::new(column));
            let cast = self.column(column).map_or("pg_catalog.text", |column| column.cast.as_str());
            let after = self.parameter(column, parameters.len(), new.get(column));
            self.equals(column, &format!("{before}{}", self.collation(column)), &format!("{after}::{cast}"))
        };
        let same: Vec<String> = self.key_columns().iter().map(same).collect();
        Statement { sql: format!("SELECT coalesce({}, false)", same.join(" AND ")), parameters }
    }

    /// Whether equal keys can be written differently.
    pub(crate) fn has_spellings(&self) -> bool {
        self.key_columns()
            .iter()
            .any(|column| self.column(*column).is_some_and(|column| column.has_spellings))
    }

    /// The condition that finds the tombstone of a key. JSON knows equal numbers; other values that can be written
    /// differently are compared as what they are.
    fn is_of(&self, key: Tuple<'_>, parameters: &mut Vec<Parameter>) -> String {
        const NUMBERS: [u32; 3] = [700, 701, 1700];
        let is_odd = |column: &TargetColumn| column.has_spellings && !NUMBERS.contains(&column.type_oid);
        if !self.key_columns().iter().any(|column| self.column(*column).is_some_and(is_odd)) {
            return format!("b.key OPERATOR(pg_catalog.=) {}", self.key_json(key, parameters));
        }
        let values: Vec<Value<'_>> = key.values().collect();
        let equal = |&column: &usize| {
            let (name, cast) = self.column(column).map_or(("", ""), |column| (&column.name, &column.cast));
            let left = format!("(b.key OPERATOR(pg_catalog.->>) {})::{cast}", quote_literal(name));
            let right = self.key_value(column, &values, parameters);
            self.equals(column, &format!("{left}{}", self.collation(column)), &right)
        };
        self.key_columns().iter().map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// The key as JSON, for the record.
    pub(crate) fn key_text(&self, key: Tuple<'_>) -> Statement {
        let mut parameters = Vec::new();
        let key = self.key_json(key, &mut parameters);
        Statement { sql: format!("SELECT {key}::pg_catalog.text"), parameters }
    }

    /// Remembers a key that is deleted here.
    pub(crate) fn bury(&self, key: Tuple<'_>) -> Statement {
        let mut parameters = Vec::new();
        let key = self.key_json(key, &mut parameters);
        let sql = format!(
            "INSERT INTO irongate.tombstone (table_schema, table_name, key) VALUES ({}, {}, {key}) \
             ON CONFLICT (table_schema, table_name, key) \
             DO UPDATE SET merged_xid = NULL, merged_at = NULL, at = pg_catalog.clock_timestamp()",
            quote_literal(&self.table.schema),
            quote_literal(&self.table.name)
        );
        Statement { sql, parameters }
    }

    /// Marks the row under a key, just written here, with another version than its transaction's.
    pub(crate) fn mark_merged(&self, key: Tuple<'_>, micros: i64) -> Statement {
        let mut parameters = Vec::new();
        let found = self.find(key, &mut parameters);
        let json = self.key_json(key, &mut parameters);
        let sql = format!(
            "INSERT INTO irongate.tombstone (table_schema, table_name, key, merged_xid, merged_at) \
             SELECT {}, {}, {json}, t.xmin::pg_catalog.text, {micros} FROM {} AS t WHERE {found} \
             ON CONFLICT (table_schema, table_name, key) DO UPDATE SET merged_xid = excluded.merged_xid, \
             merged_at = excluded.merged_at, at = pg_catalog.clock_timestamp()",
            quote_literal(&self.table.schema),
            quote_literal(&self.table.name),
            self.existing()
        );
        Statement { sql, parameters }
    }

    /// Orders the row under a key to be sent back.
    pub(crate) fn send_back(&self, flow: &str, key: Tuple<'_>) -> Statement {
        let mut parameters = Vec::new();
        let key = self.key_json(key, &mut parameters);
        let sql = format!(
            "INSERT INTO irongate.send_back (flow, table_schema, table_name, key) VALUES ({}, {}, {}, {key})",
            quote_literal(flow),
            quote_literal(&self.table.schema),
            quote_literal(&self.table.name)
        );
        Statement { sql, parameters }
    }

    /// Updates one row by key: `written` columns get the new values, `added` ones the difference to the old values, as far
    /// as there is one.
    pub(crate) fn merge_row(&self, row: Row<'_>, written: &[usize], added: &[usize]) -> Option<Statement> {
        let (new, old) = (row.new()?, row.old()?.tuple());
        let new_values: Vec<Value<'_>> = new.values().collect();
        let old_values: Vec<Value<'_>> = old.values().collect();
        let mut parameters = Vec::new();
        let mut sets = Vec::new();
        for &column in written {
            parameters.push(Parameter::new(column));
            let value = self.parameter(column, parameters.len(), new_values.get(column));
            sets.push(format!("{} = {value}", self.name(column)));
        }
        for &column in added {
            let Some(cast) = self.column(column).map(|column| column.cast.clone()) else { continue };
            parameters.push(Parameter::new(column));
            let to = self.parameter(column, parameters.len(), new_values.get(column));
            parameters.push(Parameter::key(column));
            let from = self.parameter(column, parameters.len(), old_values.get(column));
            let name = self.name(column);
            // The difference first: the sum of two values may be out of the type's range where the result is not.
            sets.push(format!("{name} = t.{name} + ({to}::{cast} - {from}::{cast})"));
        }
        if sets.is_empty() {
            return None;
        }
        let found = self.find(old, &mut parameters);
        let sql = format!("UPDATE {} AS t SET {} WHERE {found}", self.existing(), list(&sets, Clone::clone));
        Some(Statement { sql, parameters })
    }
}

/// Sends a row of this site out as it is: an update that changes nothing, by a session without an origin.
pub(crate) fn touch(schema: &str, table: &str, columns: &[String]) -> String {
    let name = irongate_postgres::sql::qualified(schema, table);
    let set = list(columns, |column| format!("{0} = t.{0}", quote_identifier(column)));
    let by = columns.iter().map(|column| format!("t.{0} = r.{0}", quote_identifier(column)));
    let by = by.collect::<Vec<_>>().join(" AND ");
    format!(
        "UPDATE {name} AS t SET {set} FROM pg_catalog.jsonb_populate_record(NULL::{name}, $1::pg_catalog.text::pg_catalog.jsonb) AS r WHERE {by}"
    )
}
