//! The SQL of order in the error queue: whether a change of a key waits there.
//!
//! Keys are compared as their index compares them, not by how they are written. Two kinds of value cannot be compared here:
//! one that the queue has in binary, and one that was not sent. They count as equal: a change that is queued without need
//! is late, one that passes another is wrong.

use irongate_postgres::sql::quote_literal;
use irongate_trail::{Tuple, Value};

use super::{Parameter, Statement};
use crate::policy::CONFLICT;
use crate::table::{Key, Plan};

impl Plan {
    /// Asks whether a change of the row that `tuple` tells is in the queue, before the change `before` if that is given:
    /// its number, and whether it is there with its whole transaction. Changes that were queued as conflicts are not
    /// meant, since versions put those in order.
    pub(crate) fn held(&self, flow: &str, tuple: Tuple<'_>, before: Option<i64>) -> Statement {
        let columns = match &self.key {
            Key::Columns { columns, .. } => columns.clone(),
            Key::WholeRow => self.inserted(),
            Key::Nothing => Vec::new(),
        };
        let mut parameters = Vec::new();
        let values: Vec<Value<'_>> = tuple.values().collect();
        let mut images = [Vec::new(), Vec::new()];
        for column in columns {
            let value = values.get(column).copied().unwrap_or(Value::Unchanged);
            let right = match value {
                Value::Unchanged => continue,
                Value::Null => None,
                _ => Some(self.key_value(column, &values, &mut parameters)),
            };
            let name = quote_literal(&self.relation.columns[column].name);
            let old = format!("pg_catalog.json_extract_path(q.old_row, {name})");
            let new = format!("coalesce(pg_catalog.json_extract_path(q.new_row, {name}), {old})");
            for (conditions, image) in images.iter_mut().zip([old, new]) {
                conditions.push(self.is_in_image(column, &image, right.as_deref()));
            }
        }
        let [old, new] =
            images.map(
                |conditions| {
                    if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") }
                },
            );
        let matches = match &self.key {
            Key::Nothing => "false".to_owned(),
            _ => format!("q.old_row IS NOT NULL AND {old} OR q.new_row IS NOT NULL AND {new}"),
        };
        let sql = self.queued(
            flow,
            before,
            &format!("(q.operation OPERATOR(pg_catalog.=) 'truncate' OR {matches})"),
        );
        Statement { sql, parameters }
    }

    /// Asks the same of any row of the table.
    pub(crate) fn held_at_all(&self, flow: &str, before: Option<i64>) -> Statement {
        Statement { sql: self.queued(flow, before, "true"), parameters: Vec::<Parameter>::new() }
    }

    fn queued(&self, flow: &str, before: Option<i64>, condition: &str) -> String {
        let before = before.map(|id| format!(" AND q.id OPERATOR(pg_catalog.<) {id}")).unwrap_or_default();
        format!(
            "SELECT q.id, q.whole_transaction FROM irongate.error_queue AS q \
             WHERE q.flow OPERATOR(pg_catalog.=) {} AND q.state OPERATOR(pg_catalog.=) 'queued' \
             AND q.table_schema OPERATOR(pg_catalog.=) {} AND q.table_name OPERATOR(pg_catalog.=) {} \
             AND q.class OPERATOR(pg_catalog.<>) {}{before} AND {condition} ORDER BY q.whole_transaction DESC, q.id LIMIT 1",
            quote_literal(flow),
            quote_literal(&self.relation.schema),
            quote_literal(&self.relation.name),
            quote_literal(CONFLICT),
        )
    }

    /// Whether a queued image has a value in a column; `None` for NULL.
    fn is_in_image(&self, column: usize, image: &str, value: Option<&str>) -> String {
        let text = format!("({image} OPERATOR(pg_catalog.#>>) '{{}}')");
        let unknown =
            format!("{image} IS NULL OR pg_catalog.json_typeof({image}) OPERATOR(pg_catalog.=) 'object'");
        match value {
            None => format!("CASE WHEN {unknown} THEN true ELSE {text} IS NULL END"),
            Some(value) => {
                let cast = self.column(column).map_or("pg_catalog.text", |column| column.cast.as_str());
                let equal = self.equals(column, &format!("{text}::{cast}{}", self.collation(column)), value);
                format!("CASE WHEN {unknown} THEN true WHEN {text} IS NULL THEN false ELSE {equal} END")
            }
        }
    }

    /// What an expression must be followed by to be compared as the column is, where that takes different texts for one.
    pub(super) fn collation(&self, column: usize) -> String {
        let collation = self.column(column).and_then(|column| column.collation.as_deref());
        collation.map(|name| format!(" COLLATE {name}")).unwrap_or_default()
    }
}
