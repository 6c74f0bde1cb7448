//! The statements of one difference.

use irongate_postgres::sql::quote_identifier;

use super::Half;
use crate::difference::{Difference, Image, Kind};
use crate::side::Which;
use crate::sql::Sql;
use crate::table::Plan;

/// What makes a row at the side `which` like that of the other side. The kind is as that side sees it.
///
/// A column that is GENERATED ALWAYS AS IDENTITY cannot be set by an update: where one differs the row is taken out and put
/// in again, and the second statement does nothing if the first one has left the row alone.
pub(super) fn of(plan: &Plan, which: Which, kind: Kind, difference: &Difference) -> Vec<String> {
    let sql = Statements { sql: Sql { plan, which }, plan, which };
    let (wanted, hashes, there, found) = match which {
        Which::Target => {
            (&difference.source, difference.target_hashes, difference.target_rows, &difference.target)
        }
        Which::Source => {
            (&difference.target, difference.source_hashes, difference.source_rows, &difference.source)
        }
    };
    if plan.key.is_empty() {
        let hashes =
            if difference.source_rows > 0 { difference.source_hashes } else { difference.target_hashes };
        return match (kind, wanted) {
            (Kind::MissingAtTarget, Some(wanted)) => {
                vec![sql.add_copies(wanted, hashes, there, difference.rows)]
            }
            (Kind::MissingAtTarget, None) => Vec::new(),
            _ => vec![sql.take_copies(hashes, there, difference.rows)],
        };
    }
    let key = super::member(plan, difference).key;
    match (kind, wanted) {
        (Kind::MissingAtSource, _) => vec![sql.delete(&key, hashes)],
        (Kind::MissingAtTarget, Some(wanted)) => vec![sql.insert(&key, wanted)],
        (Kind::Different, Some(wanted)) => {
            let nothing = Image::new();
            let found = found.as_ref().unwrap_or(&nothing);
            let changed: Vec<usize> = (0..plan.columns.len())
                .filter(|place| {
                    let name = &plan.columns[*place].name;
                    found.get(name) != wanted.get(name)
                })
                .collect();
            // The values are the same: the compare saw what this program cannot tell apart.
            if changed.is_empty() {
                return Vec::new();
            }
            if changed.iter().any(|place| plan.columns[*place].always[which as usize]) {
                vec![sql.delete(&key, hashes), sql.insert(&key, wanted)]
            } else {
                vec![sql.update(&key, hashes, wanted, &changed)]
            }
        }
        // Without the values nothing can be written.
        (_, None) => Vec::new(),
    }
}

/// Takes a row out that is what the compare saw, and puts it in again if it was taken out: `number` tells it from all others
/// of the script.
pub(super) fn half(plan: &Plan, which: Which, half: Half, number: usize, difference: &Difference) -> String {
    let sql = Statements { sql: Sql { plan, which }, plan, which };
    let (nothing, key) = (Image::new(), super::member(plan, difference).key);
    let (wanted, hashes) = match which {
        Which::Target => (&difference.source, difference.target_hashes),
        Which::Source => (&difference.target, difference.source_hashes),
    };
    match half {
        Half::Out => format!(
            "WITH gone AS ({} RETURNING 1) \
             SELECT pg_catalog.set_config('irongate.row_{number}', count(*)::text, true) AS taken FROM gone",
            sql.delete(&key, hashes)
        ),
        Half::In => format!(
            "{} AND pg_catalog.current_setting('irongate.row_{number}') = '1'",
            sql.insert(&key, wanted.as_ref().unwrap_or(&nothing))
        ),
    }
}

/// The same where it is known to be what the compare saw: what takes it out, and what puts it in again.
pub(super) fn halves(plan: &Plan, which: Which, difference: &Difference) -> Vec<String> {
    [Kind::MissingAtSource, Kind::MissingAtTarget]
        .into_iter()
        .flat_map(|kind| of(plan, which, kind, difference))
        .collect()
}

/// So many more copies of a row without a key, where nobody else writes.
pub(super) fn put_copies(plan: &Plan, which: Which, wanted: &Image, copies: u64) -> String {
    let sql = Statements { sql: Sql { plan, which }, plan, which };
    format!("{} FROM pg_catalog.generate_series(1, {copies})", sql.values(wanted))
}

/// So many fewer copies of rows without a key, each known by its hashes, where nobody else writes. The table is gone through
/// once for all of them.
pub(super) fn take_all(plan: &Plan, which: Which, rows: &[((i64, i64), u64)]) -> String {
    let sql = Statements { sql: Sql { plan, which }, plan, which };
    let (from, row) = (sql.from(), sql.sql.row());
    let wanted: Vec<String> = rows
        .iter()
        .map(|((first, second), copies)| format!("('{first}'::int8, '{second}'::int8, {copies})"))
        .collect();
    format!(
        "DELETE FROM {from} y USING (
           SELECT r.part, r.place, w.copies, pg_catalog.row_number() OVER (PARTITION BY r.first, r.second) AS number
             FROM (SELECT x.tableoid AS part, x.ctid AS place, pg_catalog.hashtextextended({row}, 0) AS first,
                          pg_catalog.hashtextextended({row}, 1) AS second FROM {from} x) r
             JOIN (VALUES {}) w (first, second, copies) ON w.first = r.first AND w.second = r.second) t
          WHERE y.tableoid = t.part AND y.ctid = t.place AND t.number <= t.copies",
        wanted.join(", ")
    )
}

struct Statements<'a> {
    sql: Sql<'a>,
    plan: &'a Plan,
    which: Which,
}

impl Statements<'_> {
    fn from(&self) -> &str {
        &self.plan.shape(self.which).from
    }

    /// The condition that a row is what the compare saw.
    fn is_as_seen(&self, (first, second): (i64, i64)) -> String {
        let row = self.sql.row();
        format!(
            "pg_catalog.hashtextextended({row}, 0) = '{first}'::int8 AND pg_catalog.hashtextextended({row}, 1) = '{second}'::int8"
        )
    }

    fn value(&self, place: usize, image: &Image) -> String {
        match image.get(&self.plan.columns[place].name) {
            Some(Some(value)) => self.sql.literal(place, value),
            _ => "NULL".to_owned(),
        }
    }

    fn delete(&self, key: &[String], hashes: (i64, i64)) -> String {
        format!(
            "DELETE FROM {} x WHERE {} AND {}",
            self.from(),
            self.sql.is_key(key),
            self.is_as_seen(hashes)
        )
    }

    fn update(&self, key: &[String], hashes: (i64, i64), wanted: &Image, changed: &[usize]) -> String {
        let set = |place: &usize| {
            format!("{} = {}", quote_identifier(&self.plan.columns[*place].name), self.value(*place, wanted))
        };
        format!(
            "UPDATE {} x SET {} WHERE {} AND {}",
            self.from(),
            changed.iter().map(set).collect::<Vec<_>>().join(", "),
            self.sql.is_key(key),
            self.is_as_seen(hashes)
        )
    }

    fn insert(&self, key: &[String], wanted: &Image) -> String {
        format!(
            "{} WHERE NOT EXISTS (SELECT FROM {} x WHERE {})",
            self.values(wanted),
            self.from(),
            self.sql.is_key(key)
        )
    }

    fn values(&self, wanted: &Image) -> String {
        let places = 0..self.plan.columns.len();
        let columns: Vec<_> =
            places.clone().map(|place| quote_identifier(&self.plan.columns[place].name)).collect();
        let values: Vec<_> = places.map(|place| self.value(place, wanted)).collect();
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}",
            self.plan.name(self.which).quoted(),
            columns.join(", "),
            values.join(", ")
        )
    }

    fn count(&self, hashes: (i64, i64)) -> String {
        format!("(SELECT count(*) FROM {} x WHERE {})", self.from(), self.is_as_seen(hashes))
    }

    fn add_copies(&self, wanted: &Image, hashes: (i64, i64), there: u64, copies: u64) -> String {
        let values = self.values(wanted);
        format!(
            "{values} FROM pg_catalog.generate_series(1, {copies}) WHERE {} = {there}",
            self.count(hashes)
        )
    }

    fn take_copies(&self, hashes: (i64, i64), there: u64, copies: u64) -> String {
        let from = self.from();
        format!(
            "DELETE FROM {from} y WHERE (y.tableoid, y.ctid) IN (SELECT x.tableoid, x.ctid FROM {from} x WHERE {} \
             LIMIT {copies}) AND {} = {there}",
            self.is_as_seen(hashes),
            self.count(hashes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Name;
    use crate::row::Print;
    use crate::table::{Column, Shape};

    fn plan(key: Vec<usize>) -> Plan {
        let column = |name: &str, type_name: &str, always| Column {
            name: name.into(),
            types: [type_name.into(), type_name.into()],
            always: [always; 2],
            print: Print::Quoted,
            equality: [None, None],
        };
        let shape = Shape { from: "ONLY \"s\".\"t\"".into(), parts: Vec::new() };
        Plan {
            source: Name::new("s", "t"),
            target: Name::new("s", "t"),
            columns: vec![
                column("id", "integer", false),
                column("v", "text", false),
                column("n", "integer", true),
            ],
            key,
            by_number: true,
            recoded: false,
            filter: None,
            shapes: [shape.clone(), shape],
            estimated_rows: 0,
        }
    }

    fn image(v: Option<&str>, n: &str) -> Image {
        let text = |text: &str| Some(text.to_owned());
        Image::from([("id".into(), text("1")), ("v".into(), v.map(str::to_owned)), ("n".into(), text(n))])
    }

    fn difference(kind: Kind, source: Option<Image>, target: Option<Image>) -> Difference {
        Difference {
            table: Name::new("s", "t"),
            target_table: Name::new("s", "t"),
            kind,
            key: Some(Image::from([("id".to_owned(), Some("1".to_owned()))])),
            rows: 1,
            source_rows: source.is_some().into(),
            target_rows: target.is_some().into(),
            source,
            target,
            source_hashes: (1, 2),
            target_hashes: (3, 4),
        }
    }

    #[test]
    fn only_what_differs_is_set_and_only_in_the_row_that_was_seen() {
        let found = difference(Kind::Different, Some(image(Some("it's"), "7")), Some(image(None, "7")));
        let statements = of(&plan(vec![0]), Which::Target, Kind::Different, &found);
        assert_eq!(
            statements,
            [
                "UPDATE ONLY \"s\".\"t\" x SET \"v\" = CAST('it''s' AS text) WHERE x.\"id\" = CAST('1' AS integer) \
              AND pg_catalog.hashtextextended(pg_catalog.concat_ws('|', ROW(x.\"id\", x.\"v\", x.\"n\")::text) COLLATE \"C\", 0) = '3'::int8 \
              AND pg_catalog.hashtextextended(pg_catalog.concat_ws('|', ROW(x.\"id\", x.\"v\", x.\"n\")::text) COLLATE \"C\", 1) = '4'::int8"
            ]
        );
        // The other way round.
        let statements = of(&plan(vec![0]), Which::Source, Kind::Different, &found);
        assert!(statements[0].contains("SET \"v\" = NULL"), "{statements:?}");
        assert!(statements[0].contains("= '1'::int8"), "{statements:?}");
    }

    #[test]
    fn what_no_update_may_set_is_put_in_anew() {
        let found = difference(Kind::Different, Some(image(None, "8")), Some(image(None, "7")));
        let statements = of(&plan(vec![0]), Which::Target, Kind::Different, &found);
        assert_eq!(statements.len(), 2);
        assert!(statements[0].starts_with("DELETE FROM"), "{statements:?}");
        assert!(
            statements[1].starts_with(
                "INSERT INTO \"s\".\"t\" (\"id\", \"v\", \"n\") OVERRIDING SYSTEM VALUE SELECT "
            ) && statements[1].contains("WHERE NOT EXISTS"),
            "{statements:?}"
        );
    }

    #[test]
    fn rows_without_a_key_are_added_and_taken_by_number() {
        let mut found = difference(Kind::MissingAtTarget, Some(image(None, "8")), None);
        (found.key, found.rows, found.source_rows) = (None, 2, 2);
        let added = of(&plan(vec![]), Which::Target, Kind::MissingAtTarget, &found);
        assert!(added[0].contains("generate_series(1, 2) WHERE (SELECT count(*)"), "{added:?}");
        assert!(added[0].ends_with(" = 0"), "{added:?}");
        let taken = of(&plan(vec![]), Which::Source, Kind::MissingAtSource, &found);
        assert!(taken[0].contains("LIMIT 2) AND") && taken[0].ends_with(" = 2"), "{taken:?}");
    }
}
