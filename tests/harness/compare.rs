//! A full compare of two databases, row by row and value by value, in memory that does not grow with them.
//!
//! Both sides are read in the order of their keys (as text, collation "C", so that both sort alike) and merged. A value
//! is compared by what PostgreSQL prints for it under settings that are the same on both sides.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::{Pin, pin};

use futures_util::StreamExt;
use tokio_postgres::{Client, NoTls, Row, RowStream};

/// How many differences are collected; a broken test has as many as there are rows.
const MOST: usize = 200;

/// For how many differing rows of a table the differing columns are looked up.
const EXPLAINED: usize = 20;

/// Which tables to compare. Partitioned tables are compared through their root.
#[derive(Clone, Debug)]
pub enum Tables {
    /// Every permanent table outside the system's schemas and Irongate's own.
    All,
    /// Pairs of "schema.table" at the source and at the target.
    Pairs(Vec<(String, String)>),
}

impl Tables {
    /// Tables that have the same name on both sides.
    pub fn named(names: &[&str]) -> Self {
        Tables::Pairs(names.iter().map(|&name| (name.to_owned(), name.to_owned())).collect())
    }
}

/// What is not the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The table is only at the source.
    TableMissingAtTarget,
    /// The table is only at the target.
    TableMissingAtSource,
    /// The column is only at the source.
    ColumnMissingAtTarget(String),
    /// The column is only at the target.
    ColumnMissingAtSource(String),
    /// The row is only at the source.
    MissingAtTarget,
    /// The row is only at the target.
    MissingAtSource,
    /// The row differs in these columns (none are named when there are too many rows to look at each).
    Different(Vec<String>),
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The table, by its name at the source if it is there.
    pub table: String,
    /// The key as PostgreSQL prints a row of it; a hash of the row where the table has no key; empty for a whole table.
    pub key: String,
    /// What is wrong with it.
    pub kind: Kind,
}

/// What a compare found.
#[derive(Clone, Default, Debug)]
pub struct Comparison {
    /// How many rows each table has at the source.
    pub rows: BTreeMap<String, u64>,
    /// What is not the same; at most a few hundred.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// Rows at the source, over all tables.
    pub fn total_rows(&self) -> u64 {
        self.rows.values().sum()
    }

    /// Goes on only if both sides are the same.
    ///
    /// # Panics
    /// With the list of differences, if there are any; also if there was no table to compare.
    pub fn assert_same(&self) {
        assert!(!self.rows.is_empty() || !self.differences.is_empty(), "there is no table to compare");
        assert!(self.differences.is_empty(), "source and target differ:\n{self}");
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Difference { table, key, kind } in &self.differences {
            writeln!(f, "{table} {key}: {kind:?}")?;
        }
        write!(f, "{} tables, {} rows", self.rows.len(), self.total_rows())
    }
}

/// Compares two databases, each as of one snapshot, read by a role that may read everything.
///
/// # Panics
/// When a database cannot be read.
pub async fn compare(source: &str, target: &str, tables: &Tables) -> Comparison {
    let (source, target) = tokio::join!(Side::open("source", source), Side::open("target", target));
    let mut found = Comparison::default();
    let pairs = match tables {
        Tables::Pairs(pairs) => pairs.clone(),
        Tables::All => {
            let names: std::collections::BTreeSet<_> =
                source.relations.keys().chain(target.relations.keys()).cloned().collect();
            names.into_iter().map(|name| (name.clone(), name)).collect()
        }
    };
    for (at_source, at_target) in pairs {
        let kind = match (source.relations.get(&at_source), target.relations.get(&at_target)) {
            (Some(left), Some(right)) => {
                table(&mut found, &source, left, &target, right).await;
                continue;
            }
            (Some(_), None) => Kind::TableMissingAtTarget,
            (None, Some(_)) => Kind::TableMissingAtSource,
            (None, None) => panic!("there is no table \"{at_source}\""),
        };
        found.differences.push(Difference { table: at_source, key: String::new(), kind });
    }
    found
}

#[derive(Debug)]
struct Relation {
    name: String,
    /// Quoted, with `ONLY` where children are tables of their own.
    from: String,
    columns: Vec<String>,
    key: Vec<String>,
}

struct Side {
    name: &'static str,
    client: Client,
    relations: BTreeMap<String, Relation>,
}

const RELATIONS: &str = r"
SELECT n.nspname || '.' || c.relname,
       CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || format('%I.%I', n.nspname, c.relname),
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text
               FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, place), pg_attribute a
              WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum
              ORDER BY k.place)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'irongate')";

impl Side {
    async fn open(name: &'static str, uri: &str) -> Self {
        let fail = |error: tokio_postgres::Error| -> ! { panic!("cannot read the {name}: {error:?}") };
        let (client, connection) =
            tokio_postgres::connect(uri, NoTls).await.unwrap_or_else(|error| fail(error));
        tokio::spawn(connection);
        client
            .batch_execute(
                "SET application_name = 'irongate-tests compare'; SET search_path = ''; SET timezone = 'UTC';
                 SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex';
                 SET extra_float_digits = 3; SET xmloption = 'content'; SET lc_monetary = 'C';
                 SET row_security = off; SET work_mem = '64MB'; SET statement_timeout = 0;
                 BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            )
            .await
            .unwrap_or_else(|error| fail(error));
        let rows = client.query(RELATIONS, &[]).await.unwrap_or_else(|error| fail(error));
        let relation = |row: Row| {
            let name: String = row.get(0);
            (name.clone(), Relation { name, from: row.get(1), columns: row.get(2), key: row.get(3) })
        };
        Side { name, client, relations: rows.into_iter().map(relation).collect() }
    }

    fn fail(&self, relation: &Relation, error: &tokio_postgres::Error) -> ! {
        panic!("cannot read \"{}\" of the {}: {error:?}", relation.name, self.name)
    }

    async fn read(&self, relation: &Relation, key: &str, hash: &str) -> RowStream {
        let sql = format!("SELECT {key} AS k, {hash} AS h FROM {} x ORDER BY 1, 2", relation.from);
        let none: [&str; 0] = [];
        match self.client.query_raw(&sql, none).await {
            Ok(stream) => stream,
            Err(error) => self.fail(relation, &error),
        }
    }

    async fn next(&self, relation: &Relation, mut rows: Pin<&mut RowStream>) -> Option<(String, String)> {
        match rows.next().await? {
            Ok(row) => Some((row.get(0), row.get(1))),
            Err(error) => self.fail(relation, &error),
        }
    }

    /// Hashes of single columns of one row, to name those that differ.
    async fn columns(
        &self,
        relation: &Relation,
        key: &str,
        value: &str,
        names: &[&String],
    ) -> Vec<Option<String>> {
        let hashes: Vec<_> = names.iter().map(|name| hash(&format!("x.{}::text", quote(name)))).collect();
        let sql = format!("SELECT ARRAY[{}] FROM {} x WHERE {key} = $1", hashes.join(", "), relation.from);
        match self.client.query(&sql, &[&value]).await {
            Ok(rows) => rows.first().map(|row| row.get(0)).unwrap_or_default(),
            Err(error) => self.fail(relation, &error),
        }
    }
}

async fn table(found: &mut Comparison, source: &Side, left: &Relation, target: &Side, right: &Relation) {
    let mut add = |key: &str, kind| {
        if found.differences.len() < MOST {
            found.differences.push(Difference { table: left.name.clone(), key: key.to_owned(), kind });
        }
    };
    for name in left.columns.iter().filter(|name| !right.columns.contains(name)) {
        add("", Kind::ColumnMissingAtTarget(name.clone()));
    }
    for name in right.columns.iter().filter(|name| !left.columns.contains(name)) {
        add("", Kind::ColumnMissingAtSource(name.clone()));
    }
    let common: Vec<_> = left.columns.iter().filter(|name| right.columns.contains(name)).collect();
    let whole = hash(&row_of(&common));
    let keyed = !left.key.is_empty() && left.key.iter().all(|name| right.columns.contains(name));
    let key = if keyed { row_of(&left.key.iter().collect::<Vec<_>>()) } else { whole.clone() };
    let key = format!(r#"({key}) COLLATE "C""#);

    let (rows_left, rows_right) =
        tokio::join!(source.read(left, &key, &whole), target.read(right, &key, &whole));
    let (mut rows_left, mut rows_right) = (pin!(rows_left), pin!(rows_right));
    let mut here = source.next(left, rows_left.as_mut()).await;
    let mut there = target.next(right, rows_right.as_mut()).await;
    let (mut count, mut differing) = (0, Vec::new());
    loop {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (&here, &there) {
            (None, None) => break,
            (Some(_), None) => Less,
            (None, Some(_)) => Greater,
            // Byte order, which is what collation "C" sorts by.
            (Some((a, _)), Some((b, _))) => a.as_bytes().cmp(b.as_bytes()),
        };
        match (order, &here, &there) {
            (Less, Some((key, _)), _) => add(key, Kind::MissingAtTarget),
            (Greater, _, Some((key, _))) => add(key, Kind::MissingAtSource),
            (Equal, Some((key, a)), Some((_, b))) if a != b => differing.push(key.clone()),
            _ => {}
        }
        if order != Greater {
            count += 1;
            here = source.next(left, rows_left.as_mut()).await;
        }
        if order != Less {
            there = target.next(right, rows_right.as_mut()).await;
        }
        differing.truncate(MOST);
    }
    for (place, value) in differing.iter().enumerate() {
        let mut columns = Vec::new();
        if place < EXPLAINED {
            let a = source.columns(left, &key, value, &common).await;
            let b = target.columns(right, &key, value, &common).await;
            columns.extend(
                common
                    .iter()
                    .zip(a.iter().zip(&b))
                    .filter(|(_, (a, b))| a != b)
                    .map(|(name, _)| name.to_string()),
            );
        }
        add(value, Kind::Different(columns));
    }
    found.rows.insert(left.name.clone(), count);
}

/// A row's text: it tells NULL from an empty string, and one column's end from the next one's begin.
fn row_of(columns: &[&String]) -> String {
    let values: Vec<_> = columns.iter().map(|name| format!("x.{}::text", quote(name))).collect();
    format!("ROW({})::text", values.join(", "))
}

/// Hashed in one encoding, whatever those of the databases are.
fn hash(text: &str) -> String {
    format!("md5(convert_to({text}, 'UTF8'))")
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
