//! Where each table's changes begin to be applied: what Replicat asks of the ledger.

use std::collections::{HashMap, HashSet};

use irongate_trail::{CommitLsn, Lsn, ResumeLsn};
use postgres_types::PgLsn;
use tokio_postgres::Client;

use super::sql;
use crate::error::Error;
use crate::sql::from_pg;

/// The tables of a flow whose changes begin later than its stream.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TableStarts {
    schemas: HashMap<String, HashMap<String, Lsn>>,
    /// Where everything begins that is not named.
    others: Lsn,
    last: Lsn,
    away: Vec<String>,
    /// Tables that are or were copied beside the stream, which has changed their structure in its order all the while.
    again: HashSet<(String, String)>,
}

impl TableStarts {
    /// Asks the target of a flow for those that are ahead of its checkpoint, which says `end`.
    ///
    /// # Errors
    /// [`Error::Sql`].
    ///
    /// Cancel-safe.
    pub async fn load(client: &Client, flow: &str, end: ResumeLsn) -> Result<Self, Error> {
        let fail = |e| Error::sql("ask where the tables begin", e);
        // A target that was set up by an earlier release has no ledger, and then no table begins later.
        if !client
            .query_one(sql::LEDGER_EXISTS, &[])
            .await
            .map_err(fail)?
            .try_get::<_, bool>(0)
            .map_err(fail)?
        {
            return Ok(Self::default());
        }
        let mut starts = Self::default();
        for row in client.query(sql::STARTS, &[&flow]).await.map_err(fail)? {
            let (schema, table): (String, String) =
                (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
            let start = from_pg(row.try_get(2).map_err(fail)?);
            let others = row.try_get::<_, Option<PgLsn>>(4).map_err(fail)?.map(from_pg);
            starts.others_begin(others.unwrap_or_default());
            if row.try_get(5).map_err(fail)? {
                starts.again.insert((schema.clone(), table.clone()));
            }
            if row.try_get(3).map_err(fail)? {
                starts.leave(schema, table);
            } else if start.max(starts.others) > end.0 {
                starts.insert(schema, table, start);
            }
        }
        Ok(starts)
    }

    /// Adds a table.
    pub fn insert(&mut self, schema: impl Into<String>, table: impl Into<String>, start: Lsn) {
        self.schemas.entry(schema.into()).or_default().insert(table.into(), start);
        self.last = self.last.max(start);
    }

    /// Adds a table that is being copied: nothing is applied to it until it is known where it begins.
    pub fn leave(&mut self, schema: impl Into<String>, table: impl Into<String>) {
        let (schema, table) = (schema.into(), table.into());
        self.again.insert((schema.clone(), table.clone()));
        self.away.push(format!("{schema}.{table}"));
        self.insert(schema, table, Lsn(u64::MAX));
    }

    /// Everything else, whatever the stream may say, is applied up to a place: what follows is for the tables that were
    /// copied meanwhile.
    pub fn others_begin(&mut self, start: Lsn) {
        self.others = start;
        self.last = self.last.max(start);
    }

    /// Tables that are being copied, as `schema.table`.
    pub fn away(&self) -> &[String] {
        &self.away
    }

    /// Tables that are brought up to where the others are, behind `end`, as `schema.table`.
    pub fn late(&self, end: ResumeLsn) -> Vec<String> {
        if self.others <= end.0 {
            return Vec::new();
        }
        let names = self.schemas.iter().flat_map(|(schema, tables)| {
            let late = tables.iter().filter(|(_, start)| **start < self.others);
            late.map(move |(table, _)| format!("{schema}.{table}"))
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Whether the table has what a transaction did that was committed there.
    pub fn has(&self, schema: &str, table: &str, commit: CommitLsn) -> bool {
        let named = self.schemas.get(schema).and_then(|tables| tables.get(table));
        commit.0 < *named.unwrap_or(&self.others)
    }

    /// Whether the table has, at the target, the structure that a transaction made that was committed there. What was
    /// copied beside the stream has had its structure changed in the stream's order, also while it got no rows.
    pub fn has_structure(&self, schema: &str, table: &str, commit: CommitLsn) -> bool {
        if self.again.contains(&(schema.to_owned(), table.to_owned())) {
            self.has_the_rest(commit)
        } else {
            self.has(schema, table, commit)
        }
    }

    /// Whether the checkpoint, which says `end`, has gone back for tables that were copied.
    pub fn go_back_from(&self, end: ResumeLsn) -> bool {
        self.others > end.0
    }

    /// Whether all that is no row of a table is done up to there.
    pub fn has_the_rest(&self, commit: CommitLsn) -> bool {
        commit.0 < self.others
    }

    /// Whether a transaction that is still to come, behind `end`, can be in any table's copy.
    pub fn are_ahead_of(&self, end: ResumeLsn) -> bool {
        self.last > end.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_the_copy_if_it_committed_before_the_tables_own_start() {
        let mut starts = TableStarts::default();
        assert!(!starts.are_ahead_of(ResumeLsn(Lsn(0))));
        starts.insert("s", "t", Lsn(100));
        starts.insert("s", "u", Lsn(200));
        for (table, commit, has) in
            [("t", 99, true), ("t", 100, false), ("u", 100, true), ("u", 200, false), ("v", 1, false)]
        {
            assert_eq!(starts.has("s", table, CommitLsn(Lsn(commit))), has, "{table} {commit}");
        }
        assert!(!starts.has("other", "t", CommitLsn(Lsn(1))));
        assert!(starts.are_ahead_of(ResumeLsn(Lsn(199))));
        assert!(!starts.are_ahead_of(ResumeLsn(Lsn(200))));
    }

    #[test]
    fn a_table_that_is_being_copied_gets_nothing_and_then_all_that_the_others_have() {
        let at = |commit| CommitLsn(Lsn(commit));
        let mut copying = TableStarts::default();
        copying.leave("s", "t");
        assert!(copying.has("s", "t", at(u64::MAX - 1)) && !copying.has("s", "u", at(1)));
        assert!(!copying.has_the_rest(at(1)) && copying.are_ahead_of(ResumeLsn(Lsn(u64::MAX - 1))));
        assert_eq!(copying.away(), ["s.t"]);
        // Its structure follows the stream.
        assert!(!copying.has_structure("s", "t", at(5)));
        let mut copied = TableStarts::default();
        copied.insert("s", "t", Lsn(100));
        // Loaded later still, and not copied anew.
        copied.insert("s", "v", Lsn(300));
        copied.others_begin(Lsn(200));
        for (table, commit, has) in
            [("t", 99, true), ("t", 100, false), ("u", 199, true), ("u", 200, false), ("v", 299, true)]
        {
            assert_eq!(copied.has("s", table, at(commit)), has, "{table} {commit}");
        }
        assert!(copied.has_the_rest(at(199)) && !copied.has_the_rest(at(200)));
        assert!(copied.go_back_from(ResumeLsn(Lsn(199))) && !copied.go_back_from(ResumeLsn(Lsn(200))));
        assert_eq!(copied.late(ResumeLsn(Lsn(199))), ["s.t"]);
        assert!(copied.late(ResumeLsn(Lsn(200))).is_empty() && copied.away().is_empty());
    }
}
