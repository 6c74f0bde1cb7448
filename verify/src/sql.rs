//! The questions that are asked of the two databases.
//!
//! A row is hashed as one text of its compared columns (`row`). The hash is `hashtextextended`, 64 bits with a seed, the
//! function that hash-partitioned tables rely on: its results are the same in every major version (15 to 18 are tried in the
//! tests) on machines of one byte order, and it is three times as fast as `md5`. The text is computed in a subquery with
//! OFFSET 0, which the planner leaves alone: without that a row would be printed once for each seed.

use std::fmt::Write;

use irongate_postgres::sql::{quote_identifier, quote_literal};

use crate::bucket::{Bucket, Cut, Keys};
use crate::row::{self, Value};
use crate::side::Which;
use crate::table::{Part, Plan};

/// Hash of a record's text `r`, for both seeds.
pub(crate) const HASHES: &str = "hashtextextended(r, 0), hashtextextended(r, 1)";
/// What tells a row's version from every other one of the same place.
const VERSION: &str = "x.tableoid::text || ' ' || x.ctid::text || ' ' || x.xmin::text";
/// The seed by which keys are dealt out: another one than those of the sums.
const DEALING: u8 = 2;

/// The questions about one table at one side.
#[derive(Clone, Copy)]
pub(crate) struct Sql<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) which: Which,
}

/// A stretch of blocks; the last one of a part has no end, for what is added meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
}

impl Sql<'_> {
    fn column(&self, place: usize) -> String {
        format!("x.{}", quote_identifier(&self.plan.columns[place].name))
    }

    fn key_columns(&self) -> String {
        let all: Vec<_> = self.plan.key.iter().map(|place| self.column(*place)).collect();
        all.join(", ")
    }

    /// The row as text.
    pub(crate) fn row(&self) -> String {
        let value = |place: usize| {
            let column = &self.plan.columns[place];
            Value { sql: self.column(place), print: column.print }
        };
        row::text(&(0..self.plan.columns.len()).map(value).collect::<Vec<_>>(), self.plan.recoded)
    }

    /// The row's bucket, in a query over the subquery that has the row as `r` and the key's part of it as `k`.
    fn dealt(&self, cut: &Cut) -> (String, String) {
        match *cut {
            Cut::Range { bits } => (format!("{}::int8 >> {bits}", self.key_columns()), "k".to_owned()),
            Cut::Hash { mask } if self.plan.key.is_empty() => {
                ("NULL".to_owned(), format!("(hashtextextended(r, 0) & {mask})"))
            }
            Cut::Hash { mask } => {
                let key = self.key_columns();
                let key = row::hashable(&format!("ROW({key})::text"), self.plan.recoded);
                let place = format!("hashtextextended({key}, {DEALING}) & {mask}");
                (place, "k".to_owned())
            }
        }
    }

    fn filter(&self) -> String {
        self.plan.filter.as_ref().map(|filter| format!(" AND ({filter})")).unwrap_or_default()
    }

    /// Number and sums of each bucket of a stretch of a part; without a key also a sum over the versions.
    pub(crate) fn sums(&self, cut: &Cut, part: &Part, blocks: Option<Blocks>) -> String {
        let (dealt, bucket) = self.dealt(cut);
        let (sum, version) = match self.plan.key.is_empty() {
            true => (", sum(hashtextextended(v, 0))", format!(", {VERSION} AS v")),
            false => ("", String::new()),
        };
        format!(
            "SELECT {bucket}, count(*), sum(hashtextextended(r, 0)), sum(hashtextextended(r, 1)){sum} \
             FROM (SELECT {dealt} AS k, {} AS r{version} FROM {} x WHERE {}{} OFFSET 0) q GROUP BY 1",
            self.row(),
            part.from,
            stretch(blocks),
            self.filter(),
        )
    }

    /// Keys and hashes of the rows of some buckets in a stretch of a part; without a key their number and versions.
    pub(crate) fn members(
        &self,
        cut: &Cut,
        buckets: &[Bucket],
        part: &Part,
        blocks: Option<Blocks>,
    ) -> String {
        let (dealt, bucket) = self.dealt(cut);
        let list: Vec<_> = buckets.iter().map(ToString::to_string).collect();
        let list = list.join(", ");
        let (row, from, stretch, filter) = (self.row(), &part.from, stretch(blocks), self.filter());
        if self.plan.key.is_empty() {
            return format!(
                "SELECT {HASHES}, count(*), sum(hashtextextended(v, 0)) \
                 FROM (SELECT {row} AS r, {VERSION} AS v FROM {from} x WHERE {stretch}{filter} OFFSET 0) q \
                 WHERE {bucket} IN ({list}) GROUP BY 1, 2"
            );
        }
        let keys = self.key_columns();
        let names: Vec<_> = (0..self.plan.key.len()).map(|n| format!("k{n}")).collect();
        let names = names.join(", ");
        format!(
            "SELECT {HASHES}, {names} FROM (SELECT {row} AS r, {keys} FROM {from} x \
             WHERE {stretch}{filter} AND {dealt} IN ({list}) OFFSET 0) q (r, {names})"
        )
    }

    /// Keys and hashes of the rows between two keys.
    pub(crate) fn between(&self, keys: Keys) -> String {
        format!("SELECT {HASHES}, k0 FROM {}", self.range(keys))
    }

    /// Number and sums of the rows between two keys.
    pub(crate) fn tally(&self, keys: Keys) -> String {
        format!(
            "SELECT count(*), coalesce(sum(hashtextextended(r, 0)), 0), coalesce(sum(hashtextextended(r, 1)), 0) FROM {}",
            self.range(keys)
        )
    }

    /// In quotes, because the least of all numbers is none of eight bytes without them.
    fn within(&self, (first, last): Keys) -> String {
        let key = self.key_columns();
        format!("{key} >= '{first}'::int8 AND {key} <= '{last}'::int8")
    }

    fn range(&self, keys: Keys) -> String {
        format!(
            "(SELECT {} AS r, {} AS k0 FROM {} x WHERE {}{} OFFSET 0) q",
            self.row(),
            self.key_columns(),
            self.plan.shape(self.which).from,
            self.within(keys),
            self.filter(),
        )
    }

    /// The lowest and the highest key of all, or of those between two.
    pub(crate) fn ends(&self, keys: Option<Keys>) -> String {
        let key = self.key_columns();
        let from = &self.plan.shape(self.which).from;
        let within = keys.map_or_else(|| "true".to_owned(), |keys| self.within(keys));
        format!("SELECT min({key}), max({key}) FROM {from} x WHERE {within}")
    }

    /// The condition that a row has a key whose values are the columns `c.k0` and so on, or literals.
    fn has_key(&self, value: impl Fn(usize) -> String) -> String {
        let one = |(n, place): (usize, &usize)| {
            let (column, value) = (self.column(*place), value(n));
            match &self.plan.columns[*place].equality[self.which as usize] {
                None => format!("{column} = {value}"),
                // It may take two texts for one, which are two keys here; but only by it the index is used.
                Some(equal) => format!(
                    "{column} {equal} {value} AND pg_catalog.record_image_eq(ROW({column}), ROW({value}))"
                ),
            }
        };
        self.plan.key.iter().enumerate().map(one).collect::<Vec<_>>().join(" AND ")
    }

    /// A value of a column, of the column's base type.
    pub(crate) fn literal(&self, place: usize, value: &str) -> String {
        let type_name = &self.plan.columns[place].types[self.which as usize];
        format!("CAST({} AS {type_name})", quote_literal(value))
    }

    /// The condition that a row has this key.
    pub(crate) fn is_key(&self, key: &[String]) -> String {
        self.has_key(|n| self.literal(self.plan.key[n], &key[n]))
    }

    /// Keys as rows `(n, k0, ...)`.
    fn keys(&self, keys: &[&Vec<String>]) -> String {
        let mut text = String::from("(VALUES ");
        for (n, key) in keys.iter().enumerate() {
            let values: Vec<_> =
                key.iter().zip(&self.plan.key).map(|(value, place)| self.literal(*place, value)).collect();
            let _ = write!(text, "{}({n}, {})", if n > 0 { ", " } else { "" }, values.join(", "));
        }
        let names: Vec<_> = (0..self.plan.key.len()).map(|n| format!("k{n}")).collect();
        let _ = write!(text, ") c (n, {})", names.join(", "));
        text
    }

    /// Which of these keys there are: number in the list, version, hashes and length of the row. With `images`, its values too. The
    /// source's rows must be the flow's; what is at the target is there, whatever the filter says.
    pub(crate) fn find(&self, keys: &[&Vec<String>], images: bool) -> String {
        let filter = if self.which == Which::Source { self.filter() } else { String::new() };
        let (outer, inner) = if images { self.images() } else { Default::default() };
        format!(
            "SELECT c.n, q.v, {HASHES}, octet_length(r){outer} FROM {} CROSS JOIN LATERAL (SELECT {VERSION} AS v, {} AS r{inner} \
             FROM {} x WHERE {}{filter} OFFSET 0) q",
            self.keys(keys),
            self.row(),
            self.plan.shape(self.which).from,
            self.has_key(|n| format!("c.k{n}")),
        )
    }

    /// How many rows have these hashes, a sum over their versions, and how long one is.
    pub(crate) fn count(&self, hashes: &[(i64, i64)]) -> String {
        format!(
            "SELECT {HASHES}, count(*), sum(hashtextextended(v, 0)), max(octet_length(r)) \
             FROM (SELECT {VERSION} AS v, {} AS r FROM {} x WHERE true{} OFFSET 0) q WHERE hashtextextended(r, 0) IN ({}) GROUP BY 1, 2",
            self.row(),
            self.plan.shape(self.which).from,
            self.filter(),
            firsts(hashes),
        )
    }

    /// A row of each of these hashes, with its values.
    pub(crate) fn examples(&self, hashes: &[(i64, i64)]) -> String {
        let (outer, inner) = self.images();
        format!(
            "SELECT DISTINCT ON (h, i) h, i{outer} FROM (SELECT hashtextextended(r, 0) AS h, hashtextextended(r, 1) AS i, q.* \
             FROM (SELECT {} AS r{inner} FROM {} x WHERE true{} OFFSET 0) q) q WHERE h IN ({}) ORDER BY h, i",
            self.row(),
            self.plan.shape(self.which).from,
            self.filter(),
            firsts(hashes),
        )
    }

    fn images(&self) -> (String, String) {
        let (mut outer, mut inner) = (String::new(), String::new());
        for place in 0..self.plan.columns.len() {
            let _ = write!(outer, ", q.c{place}");
            let _ = write!(inner, ", {} AS c{place}", self.column(place));
        }
        (outer, inner)
    }
}

fn firsts(hashes: &[(i64, i64)]) -> String {
    hashes.iter().map(|(first, _)| format!("'{first}'::int8")).collect::<Vec<_>>().join(", ")
}

fn stretch(blocks: Option<Blocks>) -> String {
    match blocks {
        None => "true".to_owned(),
        Some(Blocks { from, to: None }) => format!("x.ctid >= '({from},0)'::tid"),
        Some(Blocks { from, to: Some(to) }) => {
            format!("x.ctid >= '({from},0)'::tid AND x.ctid < '({to},0)'::tid")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Name;
    use crate::row::Print;
    use crate::table::{Column, Shape};

    fn plan() -> Plan {
        let column = |name: &str, type_name: &str| Column {
            name: name.into(),
            types: [type_name.into(), type_name.into()],
            always: [false; 2],
            print: Print::Quoted,
            equality: [None, None],
        };
        let shape = |name: &str| Shape {
            from: format!("ONLY \"s\".\"{name}\""),
            parts: vec![Part { from: format!("ONLY \"s\".\"{name}\""), blocks: Some(9) }],
        };
        Plan {
            source: Name::new("s", "t"),
            target: Name::new("s", "u"),
            columns: vec![column("id", "integer"), column("A \"b\"", "text")],
            key: vec![0],
            by_number: true,
            filter: Some("(id > 5)".into()),
            recoded: false,
            shapes: [shape("t"), shape("u")],
            estimated_rows: 100,
        }
    }

    #[test]
    fn the_two_sides_are_asked_the_same_of_their_own_tables() {
        let plan = plan();
        let sql = |which| Sql { plan: &plan, which };
        let cut = Cut::Range { bits: 9 };
        let blocks = Some(Blocks { from: 4, to: Some(8) });
        assert_eq!(
            sql(Which::Source).sums(&cut, &plan.shapes[0].parts[0], blocks),
            "SELECT k, count(*), sum(hashtextextended(r, 0)), sum(hashtextextended(r, 1)) FROM (SELECT \
             x.\"id\"::int8 >> 9 AS k, pg_catalog.concat_ws('|', ROW(x.\"id\", x.\"A \"\"b\"\"\")::text) COLLATE \"C\" AS r \
             FROM ONLY \"s\".\"t\" x WHERE x.ctid >= '(4,0)'::tid AND x.ctid < '(8,0)'::tid AND ((id > 5)) OFFSET 0) q GROUP BY 1"
        );
        let source = sql(Which::Source).sums(&cut, &plan.shapes[0].parts[0], blocks);
        let target = sql(Which::Target).sums(&cut, &plan.shapes[1].parts[0], blocks);
        assert_eq!(source.replace("\"t\"", "\"u\""), target);
    }

    #[test]
    fn keys_are_literals_of_their_type_whatever_they_hold() {
        let mut plan = plan();
        plan.key = vec![1];
        let sql = Sql { plan: &plan, which: Which::Target };
        let found = sql.find(&[&vec!["it's \\ \"".to_owned()]], false);
        assert!(found.contains("(VALUES (0, CAST(E'it''s \\\\ \"' AS text))) c (n, k0)"), "{found}");
        assert!(
            found.contains("WHERE x.\"A \"\"b\"\"\" = c.k0 OFFSET 0"),
            "no filter at the target: {found}"
        );
        assert_eq!(sql.is_key(&["x".to_owned()]), "x.\"A \"\"b\"\"\" = CAST('x' AS text)");
        plan.columns[1].equality[1] = Some("OPERATOR(public.=)".into());
        let sql = Sql { plan: &plan, which: Which::Target };
        assert_eq!(
            sql.is_key(&["x".to_owned()]),
            "x.\"A \"\"b\"\"\" OPERATOR(public.=) CAST('x' AS text) \
             AND pg_catalog.record_image_eq(ROW(x.\"A \"\"b\"\"\"), ROW(CAST('x' AS text)))"
        );
    }
}
