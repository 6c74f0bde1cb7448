//! Sequences beside the rows that their values are in: one that stands at or before a value that is there gives it again.
//!
//! A column uses a sequence if the sequence belongs to it (serial, identity), or if the column's default names it. A
//! table whose rows were written with values of somebody's own is ahead of its sequence too; that is worth knowing while
//! the source lives. Where it is lost, the rows are all that is left to go by.

use std::collections::BTreeMap;

use irongate_apply::sequence_ahead;
use irongate_postgres::catalog::{self, Counting, Stand};
use irongate_postgres::sql::{qualified, quote_identifier};
use serde::Serialize;
use tokio_postgres::Client;

use crate::configuration::{Configuration, Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;

/// A table that is larger, in pages of 8 kB, is not read from one end to the other for the sake of a preflight.
const LARGE: i32 = 12_800;

/// What columns use which sequences: whose they are, and whose defaults name them. Of a column that is no number nothing
/// can be told.
const USERS: &str = "
    SELECT DISTINCT u.sequence, n.nspname, t.relname, a.attname,
           t.relpages > $1 AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum),
           pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_column_privilege(t.oid, a.attnum, 'SELECT')
      FROM (SELECT objid, refobjid, refobjsubid FROM pg_catalog.pg_depend
             WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND objsubid = 0 AND refobjsubid > 0
               AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND deptype IN ('a', 'i')
             UNION
            SELECT d.refobjid, f.adrelid, f.adnum FROM pg_catalog.pg_depend d
              JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
             WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
               AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) u (sequence, relation, attribute)
      JOIN pg_catalog.pg_class t ON t.oid = u.relation AND t.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = u.attribute AND NOT a.attisdropped
      JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
     WHERE coalesce(nullif(y.typbasetype, 0), y.oid)
           IN ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype, 'int8'::pg_catalog.regtype, 'numeric'::pg_catalog.regtype)
     ORDER BY 1, 2, 3, 4";

/// What was done about the sequences of a site.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Secured {
    /// Sequences that would have given values again, and are beyond the rows now.
    pub raised: Vec<Raised>,
    /// Columns and sequences that could not be looked at.
    pub passed_over: Vec<String>,
}

/// A sequence that was put beyond the rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Raised {
    /// The sequence, as `schema.name`.
    pub sequence: String,
    /// Columns that use it, as `schema.table.column`.
    pub columns: Vec<String>,
    /// Where it stood.
    pub before: i64,
    /// Where it stands now: behind it come values that are in none of the columns.
    pub now: i64,
    /// Why it could not be set, or gives no further value.
    pub trouble: Option<String>,
}

/// A sequence that stands at or before a value of a column that uses it.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub(crate) oid: u32,
    pub(crate) name: TableName,
    pub(crate) may_set: bool,
    /// Tables and columns that use it.
    pub(crate) users: Vec<(TableName, String)>,
    pub(crate) stand: Stand,
    /// The furthest value in the columns.
    pub(crate) reached: i64,
    pub(crate) counting: Counting,
}

impl Behind {
    /// The columns that use it, as `schema.table.column`.
    pub(crate) fn columns(&self) -> Vec<String> {
        self.users.iter().map(|(table, column)| format!("{table}.{column}")).collect()
    }

    /// Where it would have to stand: on the values that it gives, and within its bounds.
    pub(crate) fn beyond(&self) -> Stand {
        let Counting { increment, min, max, .. } = self.counting;
        let (step, from) = (i128::from(increment), i128::from(self.stand.last));
        let distance = (i128::from(self.reached) - from) / step;
        let missed = (i128::from(self.reached) - from) % step != 0;
        let last = from + (distance + i128::from(missed)) * step;
        Stand { last: last.clamp(min.into(), max.into()) as i64, called: true }
    }
}

struct User {
    table: TableName,
    column: String,
    /// It would have to be read from one end to the other.
    is_costly: bool,
    may_read: bool,
}

/// The sequences that give values again which are in the columns that use them. With `quickly`, columns of large tables
/// without an index are passed over; their names come second, with those of what may not be read.
pub(crate) async fn behind(
    client: &Client,
    all: &[catalog::Sequence],
    quickly: bool,
) -> Result<(Vec<Behind>, Vec<String>), irongate_postgres::Error> {
    let mut users: BTreeMap<u32, Vec<User>> = BTreeMap::new();
    for row in client.query(USERS, &[&LARGE]).await? {
        users.entry(row.try_get(0)?).or_default().push(User {
            table: TableName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?),
            column: row.try_get(3)?,
            is_costly: row.try_get(4)?,
            may_read: row.try_get(5)?,
        });
    }
    let (mut reach, mut passed_over) = (Vec::new(), Vec::new());
    for sequence in all {
        let Some(users) = users.get(&sequence.oid) else { continue };
        if !sequence.may_read {
            passed_over.push(format!("{}.{}", sequence.schema, sequence.name));
            continue;
        }
        let (mut reached, mut columns) = (None::<i64>, Vec::new());
        for user in users {
            let name = format!("{}.{}", user.table, user.column);
            if !user.may_read || quickly && user.is_costly {
                passed_over.push(name);
                continue;
            }
            columns.push((user.table.clone(), user.column.clone()));
            let value = furthest(client, sequence.counting, user).await?;
            reached = match (reached, value) {
                (Some(one), Some(other)) if sequence.counting.is_descending() => Some(one.min(other)),
                (Some(one), Some(other)) => Some(one.max(other)),
                (one, other) => one.or(other),
            };
        }
        reach.extend(reached.map(|reached| (sequence, reached, columns)));
    }
    // Behind the rows: what is written meanwhile has taken its values by then.
    let stands = catalog::stands(client, reach.iter().map(|(sequence, ..)| *sequence)).await?;
    let mut found = Vec::new();
    for (sequence, reached, columns) in reach {
        let Some(stand) = stands.get(&sequence.oid) else {
            passed_over.push(format!("{}.{}", sequence.schema, sequence.name));
            continue;
        };
        let next = sequence.counting.next(*stand);
        let is_behind = if sequence.counting.is_descending() {
            next >= i128::from(reached)
        } else {
            next <= i128::from(reached)
        };
        // One that begins again and again gives values twice, as it is meant to.
        if is_behind && !sequence.counting.cycle {
            found.push(Behind {
                oid: sequence.oid,
                name: TableName::new(&sequence.schema, &sequence.name),
                may_set: sequence.may_set,
                users: columns,
                stand: *stand,
                reached,
                counting: sequence.counting,
            });
        }
    }
    Ok((found, passed_over))
}

/// The furthest value of a column that the sequence could give.
async fn furthest(
    client: &Client,
    counting: Counting,
    user: &User,
) -> Result<Option<i64>, irongate_postgres::Error> {
    let column = quote_identifier(&user.column);
    let table = qualified(&user.table.schema, &user.table.name);
    let (most, round) = if counting.is_descending() { ("min", "ceil") } else { ("max", "floor") };
    let Counting { min, max, .. } = counting;
    // Values that it cannot give are somebody else's, and would hide its own.
    let sql = format!(
        "SELECT pg_catalog.{round}(pg_catalog.{most}({column})::pg_catalog.numeric)::pg_catalog.int8
           FROM {table} WHERE {column} BETWEEN '{min}'::pg_catalog.int8 AND '{max}'::pg_catalog.int8"
    );
    Ok(client.query_one(&sql, &[]).await?.try_get(0)?)
}

/// Puts the sequences of a flow's target beyond the values that are in the columns that use them, as its administrator,
/// where the source cannot be asked any more, and the flow's margin further: what the source had given to rows that never
/// came is not given again. Forward only.
///
/// # Errors
/// [`Error::NoAdmin`], [`Error::Database`].
///
/// Not cancel-safe, but it can be called again: what is beyond the rows is left alone.
pub async fn secure_sequences(configuration: &Configuration, flow: &Flow) -> Result<Secured, Error> {
    let target = End::target(configuration, flow)?;
    let session = target.connect(As::Admin, "irongate sequences").await?;
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error: irongate_postgres::Error| target.failed(&doing, error)
    };
    // What a policy would hide must not be taken for not being there.
    session
        .batch_execute("SET row_security = off")
        .await
        .map_err(|error| target.failed("read the rows", error))?;
    let all = catalog::sequences(&session).await.map_err(failed("read the sequences"))?;
    let ours: Vec<catalog::Sequence> =
        all.into_iter().filter(|one| one.schema != irongate_checkpoint::CHECKPOINT_SCHEMA).collect();
    let (behind, passed_over) =
        behind(&session, &ours, false).await.map_err(failed("read the columns of sequences"))?;
    let mut raised = Vec::new();
    for one in behind {
        let beyond = one.beyond();
        let beyond = sequence_ahead(one.counting, beyond, flow.replicat.sequence_margin).unwrap_or(beyond);
        let mut trouble = (one.counting.left(beyond.last) == 0).then(|| "it has no value left".to_owned());
        if one.may_set {
            catalog::set_sequences(&session, &[(one.oid, beyond)]).await.map_err(failed("set a sequence"))?;
        } else {
            trouble = Some("the administrator may not set it".to_owned());
        }
        raised.push(Raised {
            sequence: one.name.to_string(),
            columns: one.columns(),
            before: one.stand.last,
            now: if one.may_set { beyond.last } else { one.stand.last },
            trouble,
        });
    }
    Ok(Secured { raised, passed_over })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beyond(last: i64, increment: i64, reached: i64) -> Stand {
        let (min, max) = if increment > 0 { (1, 1000) } else { (-1000, -1) };
        let counting = Counting { start: 1, increment, min, max, cycle: false };
        Behind {
            oid: 1,
            name: TableName::new("s", "q"),
            may_set: true,
            users: Vec::new(),
            stand: Stand { last, called: true },
            reached,
            counting,
        }
        .beyond()
    }

    #[test]
    fn a_sequence_goes_on_behind_the_furthest_row_with_values_of_its_own() {
        let at = |last| Stand { last, called: true };
        assert_eq!(beyond(1, 1, 42), at(42));
        assert_eq!(beyond(42, 1, 42), at(42), "it was to be given next, and is given");
        assert_eq!(beyond(1, 2, 42), at(43), "odd values stay odd");
        assert_eq!(beyond(2, 2, 42), at(42));
        assert_eq!(beyond(-1, -1, -42), at(-42));
        assert_eq!(beyond(-1, -2, -42), at(-43));
        assert_eq!(beyond(1, 7, 1000), at(1000), "no further than it can go");
        assert_eq!(beyond(-1, -7, -1000), at(-1000));
    }
}
