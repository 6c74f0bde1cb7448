//! One session of a load: changes of rows.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::tables::{Column, Table};
use crate::literal;

/// How many keys of a table a session remembers.
const REMEMBERED: usize = 500;

/// How many rows one statement of a bulk inserts.
const AT_ONCE: u32 = 200;

/// The key of a row that is believed to be there, column by column.
type Key = Vec<String>;

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Done {
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
}

/// A session that changes rows at random.
pub(super) struct Writer<'a> {
    client: &'a Client,
    tables: &'a [Table],
    /// Of each table, keys that this session has seen. Others may have deleted them since, which only makes a statement
    /// hit nothing.
    keys: Vec<VecDeque<Key>>,
    /// Tables and keys that this transaction has added.
    fresh: Vec<(usize, Key)>,
    done: Done,
    session: u32,
    pub(super) random: &'a mut StdRng,
}

impl<'a> Writer<'a> {
    pub(super) fn new(client: &'a Client, tables: &'a [Table], session: u32, random: &'a mut StdRng) -> Self {
        let keys = tables.iter().map(|_| VecDeque::new()).collect();
        Writer { client, tables, keys, fresh: Vec::new(), done: Done::default(), session, random }
    }

    /// The transaction has ended: returns what it did, and forgets the keys of rows that it has not committed.
    pub(super) fn end(&mut self, committed: bool) -> Done {
        if !committed {
            self.undo((Done::default(), 0));
        }
        self.fresh.clear();
        std::mem::take(&mut self.done)
    }

    fn mark(&self) -> (Done, usize) {
        (self.done, self.fresh.len())
    }

    fn undo(&mut self, (done, fresh): (Done, usize)) {
        self.done = done;
        for (place, key) in self.fresh.drain(fresh..) {
            if let Some(known) = self.keys[place].iter().rposition(|known| *known == key) {
                self.keys[place].remove(known);
            }
        }
    }

    /// Learns which rows there are: some of each table. A half of them is left out, so that sessions know different ones.
    pub(super) async fn look_around(&mut self) -> Result<(), Error> {
        for (place, table) in self.tables.iter().enumerate().filter(|(_, table)| !table.key.is_empty()) {
            self.keys[place].clear();
            let key = list(table.key.iter().map(|&column| table.columns[column].quoted.clone()));
            let sample = self.random.random::<u16>();
            let sql = format!(
                "SELECT {key} FROM {} TABLESAMPLE BERNOULLI (50) REPEATABLE ({sample}) LIMIT {REMEMBERED}",
                table.quoted
            );
            self.remember(place, &sql).await?;
        }
        self.fresh.clear();
        Ok(())
    }

    pub(super) async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    /// One statement that changes rows of a table.
    pub(super) async fn change(&mut self) -> Result<(), Error> {
        let written: Vec<_> = (0..self.tables.len()).filter(|&place| self.tables[place].written).collect();
        let table = written[self.random.random_range(0..written.len())];
        match self.random.random_range(0..100) {
            0..40 => self.insert(table, 1).await,
            40..50 => {
                let rows = self.random.random_range(2..30);
                self.insert(table, rows).await
            }
            50..85 => self.update(table).await,
            _ => self.delete(table).await,
        }
    }

    /// Some changes under a savepoint, which is kept, released or rolled back to; now and then with one inside.
    pub(super) async fn savepoint(&mut self) -> Result<(), Error> {
        let before = self.mark();
        self.execute("SAVEPOINT a").await?;
        for _ in 0..self.random.random_range(1..4) {
            if self.random.random_bool(0.3) {
                let before = self.mark();
                self.execute("SAVEPOINT b").await?;
                self.change().await?;
                if self.random.random_bool(0.5) {
                    self.execute("ROLLBACK TO b").await?;
                    self.undo(before);
                }
            } else {
                self.change().await?;
            }
        }
        match self.random.random_range(0..3) {
            0 => self.execute("RELEASE a").await,
            1 => {
                self.execute("ROLLBACK TO a").await?;
                self.undo(before);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Very many rows in one transaction.
    pub(super) async fn bulk(&mut self, rows: u32) -> Result<(), Error> {
        let written: Vec<_> = (0..self.tables.len()).filter(|&place| self.tables[place].written).collect();
        let mut left = rows.max(1);
        while left > 0 {
            let table = written[self.random.random_range(0..written.len())];
            self.insert(table, left.min(AT_ONCE)).await?;
            left -= left.min(AT_ONCE);
        }
        Ok(())
    }

    /// Ends the transaction with `PREPARE TRANSACTION` and what follows it.
    pub(super) async fn end_in_two_phases(&mut self, commit: bool) -> Result<(), Error> {
        let name = literal(&format!("load {} {:x}", self.session, self.random.random::<u64>()));
        self.execute(&format!("PREPARE TRANSACTION {name}")).await?;
        self.execute(&format!("{} PREPARED {name}", if commit { "COMMIT" } else { "ROLLBACK" })).await
    }

    async fn insert(&mut self, place: usize, rows: u32) -> Result<(), Error> {
        let table = &self.tables[place];
        let mut lines = Vec::new();
        for _ in 0..rows {
            let Some(line) = self.new_row(table) else { return Ok(()) };
            lines.push(format!("({})", line.join(", ")));
        }
        let columns = list(table.columns.iter().map(|column| column.quoted.clone()));
        let key = list(table.key.iter().map(|&column| table.columns[column].quoted.clone()));
        let sql = format!(
            "INSERT INTO {} ({columns}) VALUES {}{}{key}",
            table.quoted,
            lines.join(", "),
            if key.is_empty() { "" } else { " RETURNING " }
        );
        self.done.inserted += self.remember(place, &sql).await?;
        Ok(())
    }

    async fn update(&mut self, place: usize) -> Result<(), Error> {
        let table = &self.tables[place];
        let Some((which, known)) = self.some_row(place) else { return Ok(()) };
        let mut changes = Vec::new();
        let mut new_key = None;
        if self.random.random_ratio(1, 30) && table.key.len() == 1 {
            new_key = self.new_key(table);
        }
        if let Some(value) = &new_key {
            changes.push(format!("{} = {}", table.columns[table.key[0]].quoted, literal(value)));
        }
        let free: Vec<_> = (0..table.columns.len())
            .filter(|number| !table.key.contains(number) && !table.columns[*number].references)
            .collect();
        let always = if free.is_empty() { None } else { Some(free[self.random.random_range(0..free.len())]) };
        for number in free {
            // Most columns stay as they are: values stored out of line are then left out of the stream.
            if Some(number) == always || self.random.random_bool(0.2) {
                let column = &table.columns[number];
                if let Some(value) = self.new_value(column) {
                    changes.push(format!("{} = {value}", column.quoted));
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let sql = format!("UPDATE {} SET {} WHERE {which}", table.quoted, changes.join(", "));
        let rows = self.remember(place, &sql).await?;
        self.done.updated += rows;
        if let (Some(known), true) = (known, rows == 0 || new_key.is_some()) {
            self.keys[place].remove(known);
        }
        if let (Some(value), 1..) = (new_key, rows) {
            self.keep(place, vec![value]);
        }
        Ok(())
    }

    async fn delete(&mut self, place: usize) -> Result<(), Error> {
        let Some((which, known)) = self.some_row(place) else { return Ok(()) };
        let sql = format!("DELETE FROM {} WHERE {which}", self.tables[place].quoted);
        self.done.deleted += self.remember(place, &sql).await?;
        if let Some(known) = known {
            self.keys[place].remove(known);
        }
        Ok(())
    }

    fn keep(&mut self, place: usize, key: Key) {
        if self.keys[place].len() == REMEMBERED {
            self.keys[place].pop_front();
        }
        self.fresh.push((place, key.clone()));
        self.keys[place].push_back(key);
    }

    /// The values of a new row, as SQL; `None` when it needs a row of another table and there is none.
    fn new_row(&mut self, table: &Table) -> Option<Vec<String>> {
        let mut values: Vec<_> = table.columns.iter().map(|_| None).collect();
        for parent in &table.parents {
            let known = &self.keys[parent.table];
            let optional = parent.columns.iter().all(|&(column, _)| table.columns[column].nullable);
            if known.is_empty() || (optional && self.random.random_bool(0.2)) {
                if !optional {
                    return None;
                }
                parent.columns.iter().for_each(|&(column, _)| values[column] = Some("NULL".to_owned()));
                continue;
            }
            let key = &known[self.random.random_range(0..known.len())];
            parent.columns.iter().for_each(|&(column, part)| values[column] = Some(literal(&key[part])));
        }
        for (number, column) in table.columns.iter().enumerate() {
            if values[number].is_none() {
                let in_key = table.key.contains(&number);
                values[number] = match &column.of {
                    Some(_) if column.has_default && (in_key || self.random.random_bool(0.2)) => None,
                    Some(of) if in_key => Some(literal(&of.key(self.random))),
                    _ => self.new_value(column),
                };
            }
        }
        Some(values.into_iter().map(|value| value.unwrap_or_else(|| "DEFAULT".to_owned())).collect())
    }

    /// A value as SQL; `None` where only the default will do.
    fn new_value(&mut self, column: &Column) -> Option<String> {
        match &column.of {
            _ if column.only_default => None,
            _ if column.nullable && self.random.random_bool(0.1) => Some("NULL".to_owned()),
            Some(of) => Some(literal(&of.value(self.random))),
            None => None,
        }
    }

    fn new_key(&mut self, table: &Table) -> Option<String> {
        let column = &table.columns[table.key[0]];
        if column.only_default || column.references {
            return None;
        }
        Some(column.of.as_ref()?.key(self.random))
    }

    /// A condition that meets at most one row, and the place of its key among the known ones; `None` where no row is
    /// known or none may be changed.
    fn some_row(&mut self, place: usize) -> Option<(String, Option<usize>)> {
        let table = &self.tables[place];
        if !table.has_identity {
            return None;
        }
        if table.key.is_empty() {
            let skip = self.random.random_range(0..50);
            let quoted = &table.quoted;
            let row = format!("(SELECT tableoid, ctid FROM {quoted} OFFSET {skip} LIMIT 1)");
            return Some((format!("(tableoid, ctid) = {row}"), None));
        }
        let keys = &self.keys[place];
        if keys.is_empty() {
            return None;
        }
        let known = self.random.random_range(0..keys.len());
        let part = |(&column, value): (&usize, &String)| {
            format!("{} = {}", table.columns[column].quoted, literal(value))
        };
        let condition = table.key.iter().zip(&keys[known]).map(part).collect::<Vec<_>>().join(" AND ");
        Some((condition, Some(known)))
    }

    /// Runs a statement that returns keys, and keeps them in mind. Returns how many rows it met.
    async fn remember(&mut self, place: usize, sql: &str) -> Result<u64, Error> {
        let mut rows = 0;
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let key =
                        (0..row.len()).map(|part| row.get(part).unwrap_or_default().to_owned()).collect();
                    let known = &mut self.keys[place];
                    if known.len() == REMEMBERED {
                        known.pop_front();
                    }
                    known.push_back(key);
                }
                SimpleQueryMessage::CommandComplete(met) => rows = met,
                _ => {}
            }
        }
        Ok(rows)
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
