//! Sequences: what they are, how they count, whose they are, and where they stand.
//!
//! Where a sequence stands is no part of any snapshot: it is read from the sequence itself, as its `last_value` and
//! `is_called` (manual, `CREATE SEQUENCE`, notes). `pg_sequences` shows no value of one that was not called, which may
//! nevertheless have been set.

use std::collections::HashMap;
use std::fmt::Write;

use tokio_postgres::Client;

use crate::error::Error;
use crate::sql::qualified;

/// Sequences that are asked for in one statement.
const AT_A_TIME: usize = 200;

/// A sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequence {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Schema, table and column that it belongs to, as serial and identity columns have one.
    pub owner: Option<(String, String, String)>,
    /// How it counts.
    pub counting: Counting,
    /// Whether the session's role may read where it stands.
    pub may_read: bool,
    /// Whether it may set it.
    pub may_set: bool,
}

/// How a sequence counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counting {
    /// Where it begins.
    pub start: i64,
    /// From one value to the next; less than zero for one that counts down.
    pub increment: i64,
    /// The least value.
    pub min: i64,
    /// The greatest.
    pub max: i64,
    /// Whether it begins again behind its last one.
    pub cycle: bool,
}

/// Where a sequence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand {
    /// The value that was given last, or the one to be given next.
    pub last: i64,
    /// It was given.
    pub called: bool,
}

impl Counting {
    /// The next value, were there no bounds.
    pub fn next(self, stand: Stand) -> i128 {
        i128::from(stand.last) + if stand.called { i128::from(self.increment) } else { 0 }
    }

    /// Whether it counts down.
    pub fn is_descending(self) -> bool {
        self.increment < 0
    }

    /// How many more values it can give behind `last`.
    pub fn left(self, last: i64) -> u64 {
        let end = if self.is_descending() { self.min } else { self.max };
        let room = (i128::from(end) - i128::from(last)).unsigned_abs();
        u64::try_from(room / u128::from(self.increment.unsigned_abs().max(1))).unwrap_or(u64::MAX)
    }
}

/// All lasting sequences of the database that are not the server's own, by name.
///
/// # Errors
/// [`Error`].
///
/// Cancel-safe.
pub async fn sequences(client: &Client) -> Result<Vec<Sequence>, Error> {
    let rows = client
        .query(
            "SELECT c.oid, n.nspname, c.relname, tn.nspname, t.relname, a.attname,
                    s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle,
                    u.usable AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT'),
                    u.usable AND pg_catalog.has_sequence_privilege(c.oid, 'UPDATE')
               FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              CROSS JOIN LATERAL (SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE')) u (usable)
               LEFT JOIN pg_catalog.pg_depend d
                 ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0
                AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjsubid > 0
                AND d.deptype IN ('a', 'i')
               LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
               LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE c.relkind = 'S' AND c.relpersistence <> 't'
              ORDER BY n.nspname, c.relname",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let owner: (Option<String>, Option<String>, Option<String>) =
                (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
            Ok(Sequence {
                oid: row.try_get(0)?,
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
                owner: match owner {
                    (Some(schema), Some(table), Some(column)) => Some((schema, table, column)),
                    _ => None,
                },
                counting: Counting {
                    start: row.try_get(6)?,
                    increment: row.try_get(7)?,
                    min: row.try_get(8)?,
                    max: row.try_get(9)?,
                    cycle: row.try_get(10)?,
                },
                may_read: row.try_get(11)?,
                may_set: row.try_get(12)?,
            })
        })
        .collect()
}

/// Where these sequences stand, by their OIDs; all must be readable.
///
/// # Errors
/// [`Error`], also where one is not there any more: then the whole question was in vain.
///
/// Cancel-safe.
pub async fn stands<'s>(
    client: &Client,
    sequences: impl IntoIterator<Item = &'s Sequence>,
) -> Result<HashMap<u32, Stand>, Error> {
    let all: Vec<&Sequence> = sequences.into_iter().collect();
    let mut stands = HashMap::with_capacity(all.len());
    let mut sql = String::new();
    for some in all.chunks(AT_A_TIME) {
        sql.clear();
        for (number, sequence) in some.iter().enumerate() {
            let before = if number == 0 { "" } else { " UNION ALL " };
            let (oid, name) = (sequence.oid, qualified(&sequence.schema, &sequence.name));
            // Writing to a text does not fail.
            let _ = write!(sql, "{before}SELECT {oid}::pg_catalog.oid, last_value, is_called FROM {name}");
        }
        for row in client.query(&sql, &[]).await? {
            stands.insert(row.try_get(0)?, Stand { last: row.try_get(1)?, called: row.try_get(2)? });
        }
    }
    Ok(stands)
}

/// Sets sequences, by their OIDs. That is not taken back by a rollback.
///
/// # Errors
/// [`Error`]; some may have been set.
pub async fn set(client: &Client, stands: &[(u32, Stand)]) -> Result<(), Error> {
    const SQL: &str = "SELECT pg_catalog.setval(oid::pg_catalog.regclass, last, called)
         FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.int8[]),
                         pg_catalog.unnest($3::pg_catalog.bool[])) s (oid, last, called)";
    let oids: Vec<u32> = stands.iter().map(|(oid, _)| *oid).collect();
    let lasts: Vec<i64> = stands.iter().map(|(_, stand)| stand.last).collect();
    let called: Vec<bool> = stands.iter().map(|(_, stand)| stand.called).collect();
    client.query(SQL, &[&oids, &lasts, &called]).await.map(drop)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_sequence_is_counted_up_and_down_to_the_edges() {
        let up = Counting { start: 1, increment: 3, min: 1, max: 10, cycle: false };
        assert_eq!((up.left(1), up.left(8), up.left(10)), (3, 0, 0));
        let down = Counting { start: -1, increment: -2, min: i64::MIN, max: -1, cycle: false };
        assert_eq!(down.left(-1), (1 << 62) - 1);
        let whole = Counting { start: 0, increment: 1, min: i64::MIN, max: i64::MAX, cycle: false };
        assert_eq!(whole.left(i64::MIN), u64::MAX);
        let least = Counting { increment: i64::MIN, ..whole };
        assert_eq!(least.left(i64::MAX), 1);
        assert_eq!(whole.next(Stand { last: i64::MAX, called: true }), i128::from(i64::MAX) + 1);
        assert_eq!(whole.next(Stand { last: 7, called: false }), 7);
    }
}
