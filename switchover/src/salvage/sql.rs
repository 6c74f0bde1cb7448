//! The SQL of lost changes. Texts only: nothing here sends anything.
//!
//! Every value is a literal, cast to the base type of the column at the live site, without length or precision: the
//! assignment checks those. A row is found by its key, by the operator that the key's index compares by. What else the row
//! must be is part of the condition, so that a statement that does not meet exactly one row has met a conflict: the whole
//! old row, byte by byte (`record_image_eq` compares what equality leaves out, and needs no operator of the type), where it was
//! logged; else that nobody has written the row since the sites parted but this salvage.

use irongate_apply::{TargetColumn, TargetTable};
use irongate_postgres::sql::{qualified, quote_identifier, quote_literal};

use super::change::{Cell, Change, Fields, Operation, TableName};

/// A table at the live site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    schema: String,
    name: String,
    /// What the live site says of it; none if it was not asked.
    table: Option<TargetTable>,
    /// Columns that identify a row.
    pub(super) key: Vec<String>,
}

/// What a statement insists on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Insist<'a> {
    /// That the row is as the change found it. With the transaction id of what was applied last before the sites parted,
    /// by the server's own word.
    Unchanged(Option<&'a str>),
    /// On nothing: what is there is written over.
    Nothing,
}

fn literal(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Null => Some("NULL".to_owned()),
        Cell::Text(text) => Some(quote_literal(text)),
        Cell::Bytes(bytes) | Cell::Binary(_, bytes) => {
            let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
            Some(format!("E'{octal}'"))
        }
        Cell::Unchanged => None,
    }
}

/// A statement that must meet just one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Statement {
    /// A query that it rests on.
    with: Option<String>,
    body: String,
}

impl Statement {
    fn plain(body: String) -> Self {
        Self { with: None, body }
    }

    /// As it is sent by somebody who looks how many rows it has met.
    pub(super) fn sql(&self) -> String {
        match &self.with {
            Some(with) => format!("WITH {with} {}", self.body),
            None => self.body.clone(),
        }
    }

    /// The same, refused by the server unless it meets just one row: for a script that nobody watches.
    pub(super) fn guarded(&self, what: &str) -> String {
        let with = self.with.as_ref().map(|with| format!("{with},\n")).unwrap_or_default();
        // Not a constant, which would be read, and refused, when the statement is planned.
        format!(
            "WITH {with}done AS (\n  {}\n  RETURNING 1)\nSELECT CASE WHEN pg_catalog.count(*) = 1 THEN 'done' ELSE ({} || \
             pg_catalog.count(*))::pg_catalog.int4::pg_catalog.text END AS {} FROM done;",
            self.body,
            quote_literal(&format!("irongate: {what} does not find what it expects; rows: ")),
            quote_identifier(what),
        )
    }
}

/// The condition that a row was written by this salvage, or not at all since the transaction `xid`.
fn untouched(row: &str, xid: &str) -> String {
    format!(
        "(pg_catalog.age({row}.xmin) >= pg_catalog.age({}::pg_catalog.xid) \
         OR {row}.xmin = pg_catalog.pg_current_xact_id()::pg_catalog.xid \
         OR EXISTS (SELECT FROM irongate.salvage AS s WHERE s.by_xid = {row}.xmin))",
        quote_literal(xid)
    )
}

impl Shape {
    /// A table with its key: the columns of the replica identity, or of a unique index at the live site where the identity
    /// is the whole row. `identity` is `None` for the whole row.
    pub(super) fn new(
        (schema, name): (String, String),
        table: Option<TargetTable>,
        identity: Option<Vec<String>>,
        columns: &[String],
    ) -> Self {
        let of_index = |table: &TargetTable| {
            let usable = |place: &usize| {
                let column = &table.columns[*place];
                column.not_null && column.equals.is_some() && columns.contains(&column.name)
            };
            let index = table.unique.iter().find(|index| index.iter().all(usable))?;
            Some(index.iter().map(|place| table.columns[*place].name.clone()).collect())
        };
        let key = identity.or_else(|| table.as_ref().and_then(of_index)).unwrap_or_default();
        Self { schema, name, table, key }
    }

    fn name(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    /// The table as one that rows are looked for in: without those that inherit from it.
    fn existing(&self) -> String {
        let only = self.table.as_ref().is_some_and(|table| !table.partitioned);
        format!("{}{}", if only { "ONLY " } else { "" }, self.name())
    }

    fn column(&self, name: &str) -> Option<&TargetColumn> {
        self.table.as_ref()?.columns.iter().find(|column| column.name == name)
    }

    /// Whether a column can be written.
    fn takes(&self, name: &str) -> bool {
        self.table.is_none() || self.column(name).is_some_and(|column| !column.generated)
    }

    fn value(&self, name: &str, cell: &Cell) -> Option<String> {
        let value = literal(cell)?;
        Some(match self.column(name) {
            Some(column) => format!("{value}::{}", column.cast),
            None => value,
        })
    }

    fn equals(&self, (name, cell): &(String, Cell)) -> String {
        let left = format!("t.{}", quote_identifier(name));
        let Some(value) = self.value(name, cell) else { return "true".to_owned() };
        match (cell, self.column(name)) {
            (Cell::Null, _) => format!("{left} IS NULL"),
            (_, Some(TargetColumn { equals: Some(operator), domain, cast, .. })) => {
                let left = if *domain { format!("{left}::{cast}") } else { left };
                format!("{left} {operator} {value}")
            }
            (_, Some(_)) => format!("{left}::pg_catalog.text = {value}::pg_catalog.text"),
            (_, None) => format!("{left} = {value}"),
        }
    }

    /// The condition that a row has just these values.
    fn is(&self, row: &Fields) -> String {
        let known = || row.0.iter().filter(|(name, cell)| *cell != Cell::Unchanged && self.takes(name));
        if self.table.is_none() {
            let same = |(name, cell): &(String, Cell)| {
                let value = literal(cell)?;
                Some(format!("t.{} IS NOT DISTINCT FROM {value}", quote_identifier(name)))
            };
            let same: Vec<String> = known().filter_map(same).collect();
            return if same.is_empty() { "true".to_owned() } else { same.join(" AND ") };
        }
        let left = known().filter_map(|(name, _)| {
            Some(format!("t.{}::{}", quote_identifier(name), self.column(name)?.cast))
        });
        let right = known().filter_map(|(name, cell)| self.value(name, cell));
        let (left, right): (Vec<_>, Vec<_>) = (left.collect(), right.collect());
        if left.is_empty() {
            return "true".to_owned();
        }
        // As an operator between two ROWs it would be looked up for each pair of their columns.
        format!("pg_catalog.record_image_eq(ROW({}), ROW({}))", left.join(", "), right.join(", "))
    }

    fn by_key(&self, key: &Fields) -> String {
        key.0.iter().map(|field| self.equals(field)).collect::<Vec<_>>().join(" AND ")
    }

    /// The condition that finds one row of several alike.
    fn one_of(&self, row: &Fields) -> String {
        let (place, of) = match &self.table {
            Some(table) if !table.partitioned => ("t.ctid", "t.ctid"),
            _ => ("(t.tableoid, t.ctid)", "t.tableoid, t.ctid"),
        };
        format!("{place} = (SELECT {of} FROM {} AS t WHERE {} LIMIT 1)", self.existing(), self.is(row))
    }

    /// Where the row of a change is; none if nothing tells it from others.
    fn found(&self, change: &Change, insist: Insist<'_>) -> Option<String> {
        if change.key.0.is_empty() {
            return change.old.as_ref().map(|old| self.one_of(old));
        }
        let key = self.by_key(&change.key);
        Some(match (insist, &change.old) {
            (Insist::Unchanged(_), Some(old)) => format!("{key} AND {}", self.is(old)),
            (Insist::Unchanged(Some(xid)), None) => format!("{key} AND {}", untouched("t", xid)),
            _ => key,
        })
    }

    /// The statement that repeats a change of a row at the live site. It must meet just one row, or there is a conflict. None
    /// where what was logged does not suffice: the change must be made by hand.
    pub(super) fn repeat(&self, change: &Change, insist: Insist<'_>) -> Option<Statement> {
        match change.operation {
            Operation::Insert => Some(self.insert(change.new.as_ref()?, insist == Insist::Nothing)),
            Operation::Update => self.update(change, insist),
            Operation::Delete => {
                let found = self.found(change, insist)?;
                Some(Statement::plain(format!("DELETE FROM {} AS t WHERE {found}", self.existing())))
            }
            Operation::Truncate => None,
        }
    }

    /// Puts a row in. Over one that is there, if it must be.
    pub(super) fn insert(&self, new: &Fields, over: bool) -> Statement {
        let written = || {
            let known = new.0.iter().filter(|(name, _)| self.takes(name));
            known.filter_map(|(name, cell)| Some((name, self.value(name, cell)?)))
        };
        let names: Vec<String> = written().map(|(name, _)| quote_identifier(name)).collect();
        let values: Vec<String> = written().map(|(_, value)| value).collect();
        let rest = written().filter(|(name, _)| {
            let fixed = self.column(name).is_some_and(|column| column.identity_always);
            !fixed && !self.key.contains(name)
        });
        let sets: Vec<String> =
            rest.map(|(name, _)| format!("{0} = excluded.{0}", quote_identifier(name))).collect();
        let conflict = if over && !self.key.is_empty() && !sets.is_empty() {
            let key: Vec<String> = self.key.iter().map(|name| quote_identifier(name)).collect();
            format!("({}) DO UPDATE SET {}", key.join(", "), sets.join(", "))
        } else {
            "DO NOTHING".to_owned()
        };
        if names.is_empty() {
            return Statement::plain(format!("INSERT INTO {} DEFAULT VALUES", self.name()));
        }
        Statement::plain(format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT {conflict}",
            self.name(),
            names.join(", "),
            values.join(", ")
        ))
    }

    fn update(&self, change: &Change, insist: Insist<'_>) -> Option<Statement> {
        let new = change.new.as_ref()?;
        let found = self.found(change, insist)?;
        let before = |name: &str| change.old.as_ref().and_then(|old| old.get(name)).or(change.key.get(name));
        let is_fixed = |name: &str| self.column(name).is_some_and(|column| column.identity_always);
        let mut sets = Vec::new();
        let mut replaces = false;
        for (name, cell) in &new.0 {
            let same = before(name) == Some(cell);
            if *cell == Cell::Unchanged || same || !self.takes(name) {
                continue;
            }
            // No UPDATE may set such a column, not even to what it is.
            replaces |= is_fixed(name);
            sets.push((name, self.value(name, cell)?));
        }
        if replaces {
            return Some(self.replace(new, &found));
        }
        if sets.is_empty() {
            // Nothing is different; that the row is there is still to be shown.
            let same = new.0.iter().filter(|(name, _)| self.takes(name) && !is_fixed(name));
            let (name, _) = same.into_iter().next()?;
            let name = quote_identifier(name);
            let update = format!("UPDATE {} AS t SET {name} = t.{name} WHERE {found}", self.existing());
            return Some(Statement::plain(update));
        }
        let sets: Vec<String> =
            sets.iter().map(|(name, value)| format!("{} = {value}", quote_identifier(name))).collect();
        let update = format!("UPDATE {} AS t SET {} WHERE {found}", self.existing(), sets.join(", "));
        Some(Statement::plain(update))
    }

    /// Takes a row out and puts it in again as it is to be; what was not logged is carried over.
    fn replace(&self, new: &Fields, found: &str) -> Statement {
        let written: Vec<&(String, Cell)> = new.0.iter().filter(|(name, _)| self.takes(name)).collect();
        let names: Vec<String> = written.iter().map(|(name, _)| quote_identifier(name)).collect();
        let carried = |(name, cell): &&(String, Cell)| match self.value(name, cell) {
            Some(value) => value,
            None => format!("d.{}", quote_identifier(name)),
        };
        let values: Vec<String> = written.iter().map(carried).collect();
        Statement {
            with: Some(format!("d AS (DELETE FROM {} AS t WHERE {found} RETURNING t.*)", self.existing())),
            body: format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM d",
                self.name(),
                names.join(", "),
                values.join(", ")
            ),
        }
    }

    /// The question for the row that is at the live site under a key, or that is just this row: its number in a batch,
    /// whether it was written since `xid`, and its columns.
    pub(super) fn look(
        &self,
        number: usize,
        key: &Fields,
        row: Option<&Fields>,
        xid: Option<&str>,
    ) -> Option<String> {
        let table = self.table.as_ref()?;
        let condition = match row {
            _ if !key.0.is_empty() => self.by_key(key),
            Some(row) => self.is(row),
            None => return None,
        };
        let since = match xid {
            Some(xid) => {
                format!("pg_catalog.age(t.xmin) < pg_catalog.age({}::pg_catalog.xid)", quote_literal(xid))
            }
            None => "NULL::pg_catalog.bool".to_owned(),
        };
        let columns = table.columns.iter().map(|column| format!(", t.{}", quote_identifier(&column.name)));
        let columns: String = columns.collect();
        Some(format!(
            "(SELECT {number}, {since}{columns} FROM {} AS t WHERE {condition} LIMIT 1)",
            self.existing()
        ))
    }

    /// The names of the columns that [`Shape::look`] asks for.
    pub(super) fn asked(&self) -> Vec<String> {
        self.table.iter().flat_map(|table| &table.columns).map(|column| column.name.clone()).collect()
    }

    /// Whether the live site was asked, and has it.
    pub(super) fn is_known(&self) -> bool {
        self.table.is_some()
    }

    /// The question whether any row was written since the sites parted.
    pub(super) fn written_since(&self, xid: &str) -> String {
        let xid = quote_literal(xid);
        format!(
            "SELECT EXISTS (SELECT FROM {} AS t WHERE pg_catalog.age(t.xmin) < pg_catalog.age({xid}::pg_catalog.xid))",
            self.existing()
        )
    }

    /// The same of rows that are not this salvage's own.
    pub(super) fn written_by_others(&self, xid: &str) -> String {
        format!("EXISTS (SELECT FROM {} AS t WHERE NOT {})", self.existing(), untouched("t", xid))
    }
}

/// Empties tables in one statement. Sequences stay where they are: those of the live site have gone on.
pub(super) fn truncate(shapes: &[&Shape]) -> String {
    let names: Vec<String> = shapes.iter().map(|shape| shape.existing()).collect();
    format!("TRUNCATE TABLE {}", names.join(", "))
}

/// An assertion that nobody has written to these tables since the sites parted but this salvage.
pub(super) fn not_written_by_others(shapes: &[&Shape], xid: &str, what: &str) -> String {
    let written: Vec<String> = shapes.iter().map(|shape| shape.written_by_others(xid)).collect();
    format!(
        "SELECT CASE WHEN {} THEN ({} || pg_catalog.pg_backend_pid())::pg_catalog.int4::pg_catalog.text ELSE 'done' END;\n",
        written.join(" OR "),
        quote_literal(&format!("irongate: {what} finds rows that came since; session ")),
    )
}

/// What the record of a transaction says of one table.
pub(super) struct Recorded<'a> {
    pub(super) run: &'a str,
    pub(super) flow: &'a str,
    /// The lost cluster's.
    pub(super) system_identifier: &'a str,
    pub(super) commit_lsn: &'a str,
    pub(super) xid: u32,
    pub(super) commit_time: &'a str,
    pub(super) table: &'a TableName,
    pub(super) changes: u64,
    pub(super) decision: &'a str,
}

/// The record of a decision, for the transaction that carries it out.
pub(super) fn record(recorded: &Recorded<'_>) -> String {
    let Recorded { run, flow, system_identifier, commit_lsn, commit_time, table, decision, .. } = recorded;
    let texts =
        [*run, flow, system_identifier, commit_lsn, commit_time, &table.schema, &table.table, decision];
    let [run, flow, system, commit, time, schema, table, decision] = texts.map(quote_literal);
    let (xid, changes) = (recorded.xid, recorded.changes);
    format!(
        "INSERT INTO irongate.salvage AS s (run, flow, system_identifier, commit_lsn, xid, commit_time, table_schema, \
         table_name, changes, decision)\n  VALUES ({run}, {flow}, {system}, {commit}, {xid}, {time}, {schema}, {table}, \
         {changes}, {decision})"
    )
}

#[cfg(test)]
mod tests;
