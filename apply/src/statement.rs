//! The SQL of changes. Texts only: nothing here sends anything.
//!
//! Two forms: by row, with a parameter for each value in the value's text form and of the column's own type; and by set,
//! with an array for each column, one element a row: of whole numbers, or of texts, cast to the column's base type. The cast
//! names no length or precision: the assignment to the column checks those, and refuses what an explicit cast would cut off.

mod conflict;
mod held;

use irongate_postgres::sql::{qualified, quote_identifier, quote_literal};
use irongate_trail::{Column, Old, Row, Tuple, Value};
use tokio_postgres::types::Type;

use crate::table::{Key, Plan, TargetColumn};

pub(crate) use conflict::touch;

/// Where a parameter's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parameter {
    /// From the row that identifies, else from the new row.
    pub(crate) key: bool,
    /// Place in the tuple.
    pub(crate) column: usize,
    /// What it is in the array of a set.
    pub(crate) element: Element,
}

impl Parameter {
    /// Of the new row.
    pub(crate) fn new(column: usize) -> Self {
        Self { key: false, column, element: Element::Text }
    }

    /// Of the row that identifies.
    pub(crate) fn key(column: usize) -> Self {
        Self { key: true, ..Self::new(column) }
    }
}

/// What the arrays of a set consist of: texts, or where source and target have the same kind of whole number, these, which
/// the server need not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Element {
    Text,
    Int2,
    Int4,
    Int8,
}

impl Element {
    pub(crate) fn type_of(self) -> Type {
        match self {
            Self::Text => Type::TEXT,
            Self::Int2 => Type::INT2,
            Self::Int4 => Type::INT4,
            Self::Int8 => Type::INT8,
        }
    }

    pub(crate) fn array(self) -> Type {
        match self {
            Self::Text => Type::TEXT_ARRAY,
            Self::Int2 => Type::INT2_ARRAY,
            Self::Int4 => Type::INT4_ARRAY,
            Self::Int8 => Type::INT8_ARRAY,
        }
    }
}

/// A statement with what fills it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<Parameter>,
}

impl Statement {
    /// The same change, refused by the server unless it meets just `expected` rows, an expression: for a commit that is
    /// sent before the answers have come.
    pub(crate) fn guarded(mut self, expected: &str) -> Self {
        let Self { sql, .. } = &self;
        let (with, from) = if sql.starts_with("SELECT") {
            (String::new(), format!("({sql})"))
        } else {
            (format!("WITH g AS ({sql} RETURNING 1) "), "g".to_owned())
        };
        // Not a constant, which would be read, and refused, when the statement is planned.
        let text = "'irongate: rows that this change meets: ' || pg_catalog.count(*)";
        self.sql = format!(
            "{with}SELECT CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) {expected} THEN 0 \
             ELSE ({text})::pg_catalog.int4 END FROM {from} AS g"
        );
        self
    }
}

/// What an update writes: places of source columns, in order.
pub(crate) type Written = Vec<usize>;

/// The tuple that identifies the row of an update or delete.
#[inline]
pub(crate) fn key_tuple(row: Row<'_>) -> Option<Tuple<'_>> {
    row.old().map(Old::tuple).or(row.new())
}

/// Whether an update moves its row to another key.
pub(crate) fn changes_key(plan: &Plan, row: Row<'_>) -> bool {
    let Row::Update { old: Some(old), new } = row else { return false };
    let moved = |(column, (old, new)): (usize, (Value<'_>, Value<'_>))| {
        plan.in_key[column] && new != Value::Unchanged && old != new
    };
    old.tuple().values().zip(new.values()).enumerate().any(moved)
}

/// What an update writes, given whether it changes the key.
pub(crate) fn written(plan: &Plan, new: Tuple<'_>, key_changed: bool) -> Written {
    let writes = |(column, value): (usize, Value<'_>)| {
        let target = plan.columns[column].map(|place| &plan.table.columns[place])?;
        let wanted =
            value != Value::Unchanged && !target.identity_always && (key_changed || !plan.in_key[column]);
        wanted.then_some(column)
    };
    new.values().take(plan.columns.len()).enumerate().filter_map(writes).collect()
}

/// Whether the update cannot be an UPDATE: it changes an identity column that may only be inserted.
pub(crate) fn needs_replace(plan: &Plan, row: Row<'_>) -> bool {
    if plan.replaces {
        return true;
    }
    let Row::Update { old: Some(old), new } = row else { return false };
    let moved = |(column, (old, new)): (usize, (Value<'_>, Value<'_>))| {
        let place = plan.columns.get(column).copied().flatten();
        place.is_some_and(|place| plan.table.columns[place].identity_always)
            && plan.in_key[column]
            && new != Value::Unchanged
            && old != new
    };
    old.tuple().values().zip(new.values()).enumerate().any(moved)
}

impl Plan {
    fn target(&self) -> String {
        qualified(&self.table.schema, &self.table.name)
    }

    /// The table as one that rows are looked for in: without those that inherit from it, which have rows of their own.
    fn existing(&self) -> String {
        format!("{}{}", if self.table.partitioned { "" } else { "ONLY " }, self.target())
    }

    fn column(&self, source: usize) -> Option<&TargetColumn> {
        self.columns[source].map(|place| &self.table.columns[place])
    }

    fn name(&self, source: usize) -> String {
        self.column(source).map_or_else(String::new, |column| quote_identifier(&column.name))
    }

    /// Source columns that are written by an insert.
    pub(crate) fn inserted(&self) -> Vec<usize> {
        (0..self.columns.len()).filter(|column| self.columns[*column].is_some()).collect()
    }

    fn key_columns(&self) -> &[usize] {
        match &self.key {
            Key::Columns { columns, .. } => columns,
            _ => &[],
        }
    }

    fn names(&self, columns: &[usize]) -> String {
        list(columns, |column| self.name(*column))
    }

    /// The parameter of a set.
    fn element(&self, parameter: Parameter) -> Parameter {
        let is_same = self.foreign[parameter.column].is_none() && self.columns[parameter.column].is_some();
        let element = match self.relation.columns[parameter.column].type_oid {
            20 if is_same => Element::Int8,
            21 if is_same => Element::Int2,
            23 if is_same => Element::Int4,
            _ => Element::Text,
        };
        Parameter { element, ..parameter }
    }

    fn elements(&self, parameters: impl IntoIterator<Item = Parameter>) -> Vec<Parameter> {
        parameters.into_iter().map(|parameter| self.element(parameter)).collect()
    }

    /// `unnest($1::pg_catalog.text[], …) AS s(c0, …)`. The types stand in it because a statement is known by its text.
    fn unnest(parameters: &[Parameter]) -> String {
        // Unqualified, because only so the parser takes several arrays; the session's search path is empty, so the name
        // is the catalog's.
        let (mut arrays, mut names) = (Vec::new(), Vec::new());
        for (n, parameter) in parameters.iter().enumerate() {
            arrays.push(format!("${}::pg_catalog.{}[]", n + 1, parameter.element.type_of().name()));
            names.push(format!("c{n}"));
        }
        format!("unnest({}) AS s({})", arrays.join(", "), names.join(", "))
    }

    fn cast(&self, source: usize, parameter: usize) -> String {
        let cast = self.column(source).map_or("pg_catalog.text", |column| column.cast.as_str());
        format!("s.c{parameter}::{cast}")
    }

    /// Equality of a column with an expression.
    fn equals(&self, source: usize, left: &str, right: &str) -> String {
        let Some(column) = self.column(source) else { return "false".to_owned() };
        match column.equals.as_deref() {
            // An index sees through a domain.
            Some(operator) if column.domain => format!("{left}::{} {operator} {right}", column.cast),
            Some(operator) => format!("{left} {operator} {right}"),
            None => {
                format!("{left}::pg_catalog.text OPERATOR(pg_catalog.=) {right}::pg_catalog.text")
            }
        }
    }

    /// The parameter of one value. A value in binary must be read as what it is, and goes by its text to a column of
    /// another type.
    fn parameter(&self, source: usize, number: usize, value: Option<&Value<'_>>) -> String {
        match (value, &self.foreign[source], self.column(source)) {
            (Some(Value::Binary(_)), Some(foreign), Some(column)) => {
                format!("${number}::{foreign}::pg_catalog.text::{}", column.cast)
            }
            _ => format!("${number}"),
        }
    }

    /// `COPY … FROM STDIN`.
    pub(crate) fn copy(&self) -> Statement {
        let inserted = self.inserted();
        let sql = format!("COPY {} ({}) FROM STDIN", self.target(), self.names(&inserted));
        Statement { sql, parameters: from_new(&inserted) }
    }

    /// Inserts many rows.
    pub(crate) fn insert_set(&self) -> Statement {
        let inserted = self.inserted();
        let parameters = self.elements(from_new(&inserted));
        let values: Vec<String> =
            inserted.iter().enumerate().map(|(parameter, column)| self.cast(*column, parameter)).collect();
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            self.target(),
            self.names(&inserted),
            values.join(", "),
            Self::unnest(&parameters)
        );
        Statement { sql, parameters }
    }

    /// Inserts one row.
    pub(crate) fn insert_row(&self, row: Row<'_>) -> Statement {
        let inserted = self.inserted();
        if inserted.is_empty() {
            return Statement {
                sql: format!("INSERT INTO {} DEFAULT VALUES", self.target()),
                parameters: vec![],
            };
        }
        let new: Vec<Value<'_>> = row.new().into_iter().flat_map(Tuple::values).collect();
        let values: Vec<String> = (1..)
            .zip(&inserted)
            .map(|(number, column)| self.parameter(*column, number, new.get(*column)))
            .collect();
        let values = values.join(", ");
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({values})",
            self.target(),
            self.names(&inserted)
        );
        Statement { sql, parameters: from_new(&inserted) }
    }

    /// Updates many rows by key. Without anything to write it only counts them.
    pub(crate) fn update_set(&self, written: &[usize]) -> Statement {
        let key = self.key_columns().iter().copied().map(Parameter::key);
        let parameters = self.elements(from_new(written).into_iter().chain(key));
        let keys: Vec<String> = self
            .key_columns()
            .iter()
            .enumerate()
            .map(|(n, column)| {
                let left = format!("t.{}", self.name(*column));
                self.equals(*column, &left, &self.cast(*column, written.len() + n))
            })
            .collect();
        let (target, unnest, keys) = (self.existing(), Self::unnest(&parameters), keys.join(" AND "));
        let sql = if written.is_empty() {
            format!("SELECT 1 FROM {unnest} JOIN {target} AS t ON {keys}")
        } else {
            let sets: Vec<String> = written
                .iter()
                .enumerate()
                .map(|(n, column)| format!("{} = {}", self.name(*column), self.cast(*column, n)))
                .collect();
            format!("UPDATE {target} AS t SET {} FROM {unnest} WHERE {keys}", sets.join(", "))
        };
        Statement { sql, parameters }
    }

    /// Deletes many rows by key.
    pub(crate) fn delete_set(&self) -> Statement {
        let parameters = self.elements(self.key_columns().iter().copied().map(Parameter::key));
        let keys: Vec<String> = parameters
            .iter()
            .enumerate()
            .map(|(n, parameter)| {
                let left = format!("t.{}", self.name(parameter.column));
                self.equals(parameter.column, &left, &self.cast(parameter.column, n))
            })
            .collect();
        let unnest = Self::unnest(&parameters);
        let sql = format!("DELETE FROM {} AS t USING {unnest} WHERE {}", self.existing(), keys.join(" AND "));
        Statement { sql, parameters }
    }

    /// The condition that finds one old row, its parameters numbered after those in `parameters`.
    fn find(&self, old: Tuple<'_>, parameters: &mut Vec<Parameter>) -> String {
        let mut conditions = Vec::new();
        let all: Vec<usize>;
        let columns = match &self.key {
            Key::Columns { columns, .. } => columns.as_slice(),
            _ => {
                all = self.inserted();
                &all
            }
        };
        let values: Vec<Value<'_>> = old.values().collect();
        for &column in columns {
            let left = format!("t.{}", self.name(column));
            if values.get(column) == Some(&Value::Null) {
                conditions.push(format!("{left} IS NULL"));
            } else {
                parameters.push(Parameter::key(column));
                // Of the column's type and not of the operator's, which need not read the same text.
                let cast = self.column(column).map_or("pg_catalog.text", |column| column.cast.as_str());
                let right = self.parameter(column, parameters.len(), values.get(column));
                let right = format!("{right}::{cast}");
                conditions.push(self.equals(column, &left, &right));
            }
        }
        let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let target = self.existing();
        match (&self.key, self.table.partitioned) {
            (Key::Columns { .. }, _) => conditions,
            (_, false) => format!("t.ctid = (SELECT t.ctid FROM {target} AS t WHERE {conditions} LIMIT 1)"),
            (_, true) => format!(
                "(t.tableoid, t.ctid) = (SELECT t.tableoid, t.ctid FROM {target} AS t WHERE {conditions} LIMIT 1)"
            ),
        }
    }

    /// Updates one row. Without anything to write it only counts it.
    pub(crate) fn update_row(&self, row: Row<'_>, written: &[usize]) -> Option<Statement> {
        let mut parameters = from_new(written);
        let new: Vec<Value<'_>> = row.new()?.values().collect();
        let sets: Vec<String> = written
            .iter()
            .enumerate()
            .map(|(n, column)| {
                let value = self.parameter(*column, n + 1, new.get(*column));
                format!("{} = {value}", self.name(*column))
            })
            .collect();
        let found = self.find(key_tuple(row)?, &mut parameters);
        let target = self.existing();
        let sql = if sets.is_empty() {
            format!("SELECT 1 FROM {target} AS t WHERE {found}")
        } else {
            format!("UPDATE {target} AS t SET {} WHERE {found}", sets.join(", "))
        };
        Some(Statement { sql, parameters })
    }

    /// Deletes one row.
    pub(crate) fn delete_row(&self, row: Row<'_>) -> Option<Statement> {
        let mut parameters = Vec::new();
        let found = self.find(key_tuple(row)?, &mut parameters);
        Some(Statement { sql: format!("DELETE FROM {} AS t WHERE {found}", self.existing()), parameters })
    }

    /// Takes a row out and puts it in again as it is now, in one statement. Values that were not sent are carried over.
    pub(crate) fn replace_row(&self, row: Row<'_>) -> Option<Statement> {
        let values: Vec<Value<'_>> = row.new()?.values().collect();
        let inserted = self.inserted();
        let mut parameters = Vec::new();
        let mut carried = Vec::new();
        for &column in &inserted {
            if values.get(column) == Some(&Value::Unchanged) {
                carried.push(format!("d.{}", self.name(column)));
            } else {
                parameters.push(Parameter::new(column));
                carried.push(self.parameter(column, parameters.len(), values.get(column)));
            }
        }
        let found = self.find(key_tuple(row)?, &mut parameters);
        let (existing, target, names) = (self.existing(), self.target(), self.names(&inserted));
        let sql = format!(
            "WITH d AS (DELETE FROM {existing} AS t WHERE {found} RETURNING t.*) \
             INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {} FROM d",
            carried.join(", ")
        );
        Some(Statement { sql, parameters })
    }
}

/// Empties tables in one statement. A partitioned table's name stands for its partitions; any other is emptied alone,
/// since the source names every table that it emptied.
///
/// Only an owner may have TRUNCATE restart sequences, while a right to write them is enough to set them; so that is done
/// beside. It is not taken back by a rollback, but then the transaction is applied again.
pub(crate) fn truncate<'a>(plans: impl Iterator<Item = &'a Plan>, restart_identity: bool) -> String {
    let mut names: Vec<(String, String)> = plans.map(|plan| (plan.existing(), plan.target())).collect();
    names.sort_unstable();
    names.dedup();
    let truncate = format!("TRUNCATE TABLE {}", list(&names, |(existing, _)| existing.clone()));
    if !restart_identity {
        return truncate;
    }
    let tables = list(&names, |(_, target)| format!("{}::pg_catalog.regclass", quote_literal(target)));
    let body = format!(
        "BEGIN {truncate}; \
         PERFORM pg_catalog.setval(s.seqrelid, s.seqstart, false) FROM pg_catalog.pg_sequence s \
         JOIN pg_catalog.pg_depend d ON d.objid = s.seqrelid AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
         WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') \
         AND d.refobjid IN (SELECT t FROM pg_catalog.unnest(ARRAY[{tables}]) t \
         UNION SELECT p.relid FROM pg_catalog.unnest(ARRAY[{tables}]) t, pg_catalog.pg_partition_tree(t) p); END"
    );
    format!("DO LANGUAGE plpgsql {}", quote_literal(&body))
}

/// Empties tables row by row, for where TRUNCATE is refused because of tables that refer to them. Sequences stay: they
/// were set by the copies that came later than this.
pub(crate) fn empty<'a>(plans: impl Iterator<Item = &'a Plan>) -> String {
    let mut names: Vec<String> = plans.map(Plan::existing).collect();
    names.sort_unstable();
    names.dedup();
    let deletes = names.iter().enumerate().map(|(at, name)| format!("d{at} AS (DELETE FROM {name})"));
    format!("WITH {} SELECT 1", deletes.collect::<Vec<_>>().join(", "))
}

fn from_new(columns: &[usize]) -> Vec<Parameter> {
    columns.iter().copied().map(Parameter::new).collect()
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A column's type as SQL, as far as the stream tells it.
pub(crate) fn type_name(column: &Column) -> String {
    if let Some((schema, name)) = &column.type_name {
        return qualified(schema, name);
    }
    let Some(known) = tokio_postgres::types::Type::from_oid(column.type_oid) else {
        return format!("/* type with OID {} at the source */", column.type_oid);
    };
    let element = match known.kind() {
        tokio_postgres::types::Kind::Array(element) => Some(element.name().to_owned()),
        _ => None,
    };
    let base = element.as_deref().unwrap_or(known.name());
    let modifier = modifier(base, column.type_modifier);
    let array = if element.is_some() { "[]" } else { "" };
    format!("pg_catalog.{}{modifier}{array}", quote_identifier(base))
}

/// Length or precision of the types that commonly have one (`atttypmod`, as their `typmodout` functions read it).
fn modifier(base: &str, modifier: i32) -> String {
    match base {
        _ if modifier < 0 => String::new(),
        "varchar" | "bpchar" => format!("({})", modifier - 4),
        "numeric" => {
            let packed = modifier - 4;
            format!("({},{})", packed >> 16 & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024)
        }
        // Which fields it has, and how many digits the seconds have unless it is all.
        "interval" => match (modifier >> 16 & 0x7fff, modifier & 0xffff) {
            (fields, 0xffff) => format!("({fields})"),
            (fields, digits) => format!("({fields},{digits})"),
        },
        "bit" | "varbit" | "time" | "timetz" | "timestamp" | "timestamptz" => format!("({modifier})"),
        _ => String::new(),
    }
}
