//! Tables: columns, keys, triggers.

mod column;
mod trigger;

use irongate_trail::ReplicaIdentity;
use tokio_postgres::Client;

pub use column::{Column, Generated, Identity};
pub use trigger::{Trigger, TriggerFires};

use super::index::{self, ForeignKey, Index, IndexKind};
use super::unexpected;
use crate::error::Error;

/// What kind of table it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// One that has rows of its own.
    Ordinary,
    /// One whose rows are in its partitions.
    Partitioned,
    /// One whose rows are elsewhere.
    Foreign,
}

/// A table among others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What kind it is.
    pub kind: TableKind,
    /// It is a partition of another table.
    pub is_partition: bool,
    /// Its changes are in the write-ahead log: not so for unlogged tables, which cannot be replicated.
    pub logged: bool,
    /// What its updates and deletes log to identify the row.
    pub replica_identity: ReplicaIdentity,
    /// Rows by the planner's last estimate, if there is one.
    pub estimated_rows: Option<u64>,
    /// Bytes on disk, with indexes and TOAST. Zero for a partitioned table.
    pub bytes: i64,
}

/// All there is to know of a table for replicating it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// What a list of tables says of it.
    pub summary: TableSummary,
    /// Its owner.
    pub owner: String,
    /// Schema and name of the table that it is a partition of.
    pub partition_of: Option<(String, String)>,
    /// Its columns in their order.
    pub columns: Vec<Column>,
    /// Its primary key, unique indexes and exclusion constraints; the primary key first.
    pub indexes: Vec<Index>,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Its triggers, without those that enforce constraints.
    pub triggers: Vec<Trigger>,
    /// Row security policies apply to those who are not its owner.
    pub row_security: bool,
    /// They apply to its owner too.
    pub row_security_forced: bool,
    /// It has rewrite rules for INSERT, UPDATE or DELETE.
    pub rules: bool,
}

impl Table {
    /// The primary key.
    pub fn primary_key(&self) -> Option<&Index> {
        self.indexes.iter().find(|index| index.kind == IndexKind::PrimaryKey)
    }

    /// The column `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that the server logs of an updated or deleted row. Empty if it logs none, and then it refuses to
    /// update or delete published rows. A deferrable primary key counts as none.
    pub fn identity_columns(&self) -> Vec<&str> {
        let of_index = |index: Option<&'_ Index>| -> Vec<String> {
            index
                .filter(|index| index.identifies_rows())
                .map(|index| index.columns.iter().flatten().cloned().collect())
                .unwrap_or_default()
        };
        let names = match self.summary.replica_identity {
            ReplicaIdentity::Nothing => Vec::new(),
            ReplicaIdentity::Default => of_index(self.primary_key()),
            ReplicaIdentity::Index => of_index(self.indexes.iter().find(|index| index.replica_identity)),
            ReplicaIdentity::Full => return self.columns.iter().map(|column| column.name.as_str()).collect(),
        };
        self.columns
            .iter()
            .map(|column| column.name.as_str())
            .filter(|name| names.iter().any(|n| n == name))
            .collect()
    }
}

const SUMMARY: &str = "
    c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.relpersistence, c.relreplident, c.reltuples,
    pg_catalog.pg_total_relation_size(c.oid)";

fn summary(row: &tokio_postgres::Row) -> Result<TableSummary, Error> {
    let letter =
        |column| -> Result<char, Error> { Ok(char::from(row.try_get::<_, i8>(column)?.cast_unsigned())) };
    Ok(TableSummary {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        kind: match letter(3)? {
            'r' => TableKind::Ordinary,
            'p' => TableKind::Partitioned,
            'f' => TableKind::Foreign,
            _ => return Err(unexpected("pg_class.relkind")),
        },
        is_partition: row.try_get(4)?,
        logged: letter(5)? == 'p',
        replica_identity: match letter(6)? {
            'd' => ReplicaIdentity::Default,
            'n' => ReplicaIdentity::Nothing,
            'f' => ReplicaIdentity::Full,
            'i' => ReplicaIdentity::Index,
            _ => return Err(unexpected("pg_class.relreplident")),
        },
        // Never analysed is -1.
        estimated_rows: Some(row.try_get::<_, f32>(7)?).filter(|rows| *rows >= 0.0).map(|rows| rows as u64),
        bytes: row.try_get::<_, Option<i64>>(8)?.unwrap_or(0),
    })
}

/// All tables of the database but the system's own and temporary ones, ordered by schema and name. Partitions and
/// partitioned tables are both among them.
pub async fn tables(client: &Client) -> Result<Vec<TableSummary>, Error> {
    let question = format!(
        "SELECT {SUMMARY}
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
            AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
          ORDER BY n.nspname, c.relname"
    );
    client.query(&question, &[]).await?.iter().map(summary).collect()
}

/// Those of [`tables`] whose `schema.name` fits one of the patterns, in which `*` stands for any run of characters
/// and `?` for one. A pattern without a dot is one of schema `public`.
pub async fn tables_matching(client: &Client, patterns: &[&str]) -> Result<Vec<TableSummary>, Error> {
    let patterns: Vec<(&str, &str)> =
        patterns.iter().map(|pattern| pattern.split_once('.').unwrap_or(("public", pattern))).collect();
    let mut found = tables(client).await?;
    found.retain(|table| {
        patterns.iter().any(|(schema, name)| fits(schema, &table.schema) && fits(name, &table.name))
    });
    Ok(found)
}

/// Whether a text fits a pattern of `*` and `?`.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and how much of the text it has been given.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, given)) => {
                    star = Some((at, given + 1));
                    p = at + 1;
                    t = given + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The table `schema.name`, if there is one.
pub async fn table(client: &Client, schema: &str, name: &str) -> Result<Option<Table>, Error> {
    let oid: Option<u32> = client
        .query_opt(
            "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1::pg_catalog.text AND c.relname = $2::pg_catalog.text
                AND c.relkind IN ('r', 'p', 'f')",
            &[&schema, &name],
        )
        .await?
        .map(|row| row.try_get(0))
        .transpose()?;
    match oid {
        Some(oid) => Ok(described(client, &[oid]).await?.pop()),
        None => Ok(None),
    }
}

/// Tables by their OIDs, ordered by schema and name, with a few questions for all of them together. One that is not
/// there is left out.
///
/// The questions are several statements: in a transaction of isolation level repeatable read they see one state.
pub async fn described(client: &Client, oids: &[u32]) -> Result<Vec<Table>, Error> {
    let question = format!(
        "SELECT {SUMMARY}, pg_catalog.pg_get_userbyid(c.relowner), pn.nspname, pc.relname,
                c.relrowsecurity, c.relforcerowsecurity,
                EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1')
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid AND c.relispartition
           LEFT JOIN pg_catalog.pg_class pc ON pc.oid = h.inhparent
           LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
          WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND c.relkind IN ('r', 'p', 'f')
          ORDER BY n.nspname, c.relname"
    );
    let rows = client.query(&question, &[&oids]).await?;
    let mut columns = column::columns(client, oids).await?;
    let mut indexes = index::indexes(client, oids).await?;
    let mut foreign_keys = index::foreign_keys(client, oids).await?;
    let mut triggers = trigger::triggers(client, oids).await?;
    rows.iter()
        .map(|row| {
            let summary = summary(row)?;
            let oid = summary.oid;
            let parent: (Option<String>, Option<String>) = (row.try_get(10)?, row.try_get(11)?);
            Ok(Table {
                summary,
                owner: row.try_get(9)?,
                partition_of: parent.0.zip(parent.1),
                row_security: row.try_get(12)?,
                row_security_forced: row.try_get(13)?,
                rules: row.try_get(14)?,
                columns: columns.remove(&oid).unwrap_or_default(),
                indexes: indexes.remove(&oid).unwrap_or_default(),
                foreign_keys: foreign_keys.remove(&oid).unwrap_or_default(),
                triggers: triggers.remove(&oid).unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, text) in
            [("*", ""), ("*", "a"), ("a*", "a"), ("*b*d", "abcbd"), ("a?c", "abc"), ("x", "x")]
        {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("?", ""), ("a*c", "ab"), ("", "a"), ("A", "a")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }
}
