//! Every row of every table, at both ends.
//!
//! Both sides are read as of one moment at which nobody writes, in the order of their keys, and merged. A row without a
//! key is its own key, and counts as often as it is there. Values are compared by what the server prints for them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use tokio_postgres::Client;

use super::server::Server;

/// A table that was compared; the names are a contract.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub(super) struct Table {
    pub(super) name: String,
    /// Rows at the source.
    pub(super) rows: u64,
    pub(super) differences: u64,
    pub(super) missing_at_target: u64,
    pub(super) missing_at_source: u64,
    pub(super) different: u64,
}

/// What a compare found; the names are a contract.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) flow: String,
    pub(super) tables: Vec<Table>,
    pub(super) differences: u64,
}

impl Comparison {
    /// Rows at the source.
    pub(super) fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// One table.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// Name, and what to select to read it: the key, and a digest of the whole row.
const TABLES: &str = "
SELECT n.nspname || '.' || c.relname,
       pg_catalog.format('SELECT (%s) COLLATE \"C\" AS k, %s AS h FROM %I.%I x ORDER BY 1, 2',
           coalesce((SELECT 'ROW(' || string_agg(pg_catalog.format('x.%I::text', a.attname), ',' ORDER BY k.place) || ')::text'
                       FROM pg_catalog.pg_index i,
                            pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place),
                            pg_catalog.pg_attribute a
                      WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum),
                    row_digest.text),
           row_digest.text, n.nspname, c.relname)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
       LATERAL (SELECT 'md5(ROW(' || string_agg(pg_catalog.format('x.%I::text', a.attname), ',' ORDER BY a.attnum)
                       || ')::text)' AS text
                  FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) row_digest
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY ($1)
 ORDER BY 1";

/// Compares all tables of some schemas in the database `database` of two servers.
pub(super) async fn compare(
    [source, target]: [&Server; 2],
    database: &str,
    schemas: &[&str],
    flow: &str,
) -> anyhow::Result<Comparison> {
    let (source, target) = tokio::try_join!(open(source, database), open(target, database))?;
    let (here, there) = tokio::try_join!(tables(&source, schemas), tables(&target, schemas))?;
    anyhow::ensure!(here.keys().eq(there.keys()), "source and target do not have the same tables");
    let mut found = Comparison { flow: flow.to_owned(), ..Comparison::default() };
    for (name, sql) in here {
        let other = there.get(&name).context("a table is gone")?;
        let (left, right) = tokio::try_join!(rows(&source, &sql), rows(&target, other))
            .with_context(|| format!("cannot read table {name}"))?;
        let table = merged(name, &left, &right);
        found.differences += table.differences;
        found.tables.push(table);
    }
    Ok(found)
}

async fn open(server: &Server, database: &str) -> anyhow::Result<Client> {
    let client = server.client(database).await?;
    client
        .batch_execute(
            "SET search_path = ''; SET timezone = 'UTC'; SET extra_float_digits = 3; SET work_mem = '64MB'; \
             BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )
        .await?;
    Ok(client)
}

async fn tables(client: &Client, schemas: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
    let rows = client.query(TABLES, &[&schemas]).await.context("cannot list the tables")?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

type Row = (String, String);

async fn rows(client: &Client, sql: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
    client.query(sql, &[]).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn merged(name: String, left: &[Row], right: &[Row]) -> Table {
    let mut table = Table { name, rows: left.len() as u64, ..Table::default() };
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // Byte order, which is what collation "C" sorts by.
            (Some((here, _)), Some((there, _))) => here.as_bytes().cmp(there.as_bytes()),
        };
        match order {
            Ordering::Less => {
                table.missing_at_target += 1;
                left.next();
            }
            Ordering::Greater => {
                table.missing_at_source += 1;
                right.next();
            }
            Ordering::Equal => {
                if left.next().map(|row| &row.1) != right.next().map(|row| &row.1) {
                    table.different += 1;
                }
            }
        }
    }
    table.differences = table.missing_at_target + table.missing_at_source + table.different;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(keys: &[(&str, &str)]) -> Vec<Row> {
        keys.iter().map(|(key, digest)| ((*key).to_owned(), (*digest).to_owned())).collect()
    }

    #[test]
    fn missing_additional_and_different_rows_are_told_apart() {
        let left = rows(&[("a", "1"), ("b", "1"), ("c", "1"), ("e", "1")]);
        let right = rows(&[("b", "1"), ("c", "2"), ("d", "1"), ("e", "1")]);
        let table = merged("t".into(), &left, &right);
        let expected = Table {
            name: "t".into(),
            rows: 4,
            differences: 3,
            missing_at_target: 1,
            missing_at_source: 1,
            different: 1,
        };
        assert_eq!(table, expected);
    }

    #[test]
    fn a_row_without_a_key_that_came_twice_is_a_difference() {
        let table = merged("t".into(), &rows(&[("a", "a")]), &rows(&[("a", "a"), ("a", "a")]));
        assert_eq!((table.differences, table.missing_at_source), (1, 1));
    }
}
