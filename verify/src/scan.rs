//! Hashing a table in place, a stretch of blocks at a time.
//!
//! Each stretch is one statement that goes through the blocks in their order, once, and answers with the sums of the buckets
//! that its rows belong to. All stretches of a table are read in one snapshot, unless that takes minutes: what moves from
//! blocks ahead to blocks behind just then is met by the next compare. Stretches grow and shrink so that one takes about
//! [`TAKES`], so that the pace can be kept, no statement runs long, and little is lost when a connection is cut.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryRow;

use crate::bucket::{Cut, Keys, Sum, Sums};
use crate::confirm::Sides;
use crate::error::Error;
use crate::pace::Pace;
use crate::side::{Scope, Side, Which, field, number};
use crate::sql::{Blocks, Sql};
use crate::table::{BLOCK, Part, Plan};

/// How long one stretch should take.
const TAKES: Duration = Duration::from_millis(700);
/// The first stretch, in blocks.
const FIRST: u64 = 512;
/// The shortest and the longest.
const LENGTHS: [u64; 2] = [16, 1 << 16];

/// What reading a table tells of its progress: rows and bytes since the last word.
pub(crate) type Tell<'a> = dyn Fn(u64, u64) + Send + Sync + 'a;

/// Goes through a table at one side, with a question about each stretch of it.
async fn each(
    side: &mut Side,
    sql: &Sql<'_>,
    pace: &Pace,
    question: &(dyn Fn(&Part, Option<Blocks>) -> String + Send + Sync),
    take: &mut (dyn FnMut(Vec<SimpleQueryRow>, u64) -> Result<(), irongate_postgres::Error> + Send),
) -> Result<(), Error> {
    let doing = format!("read table {}", sql.plan.name(sql.which));
    let mut length = FIRST;
    for part in &sql.plan.shape(sql.which).parts {
        let mut at = 0;
        loop {
            let Some(end) = part.blocks else {
                let rows = side.ask(Scope::Snapshot, &doing, &question(part, None)).await?;
                take(rows, 0).map_err(|error| side.failed(&doing, error))?;
                break;
            };
            let to = at + length;
            // The last stretch is open: the table may have grown since it was measured.
            let is_last = to >= end;
            let blocks = Blocks { from: at, to: (!is_last).then_some(to) };
            let begun = Instant::now();
            let rows = side.ask(Scope::Snapshot, &doing, &question(part, Some(blocks))).await?;
            let took = begun.elapsed();
            let bytes = (to.min(end) - at) * BLOCK;
            take(rows, bytes).map_err(|error| side.failed(&doing, error))?;
            pace.pay(bytes).await;
            if is_last {
                break;
            }
            at = to;
            length = next_length(length, took);
        }
    }
    side.release().await.map_err(|error| side.failed(&doing, error))
}

fn next_length(length: u64, took: Duration) -> u64 {
    let [least, most] = LENGTHS;
    let next = if took * 2 < TAKES {
        length * 2
    } else if took > TAKES * 2 {
        length / 2
    } else {
        length
    };
    next.clamp(least, most)
}

/// The sums of a table's buckets at one side.
pub(crate) async fn sums(
    side: &mut Side,
    sql: &Sql<'_>,
    cut: &Cut,
    pace: &Pace,
    tell: &Tell<'_>,
) -> Result<Sums, Error> {
    let mut sums = Sums::default();
    let question = |part: &Part, blocks| sql.sums(cut, part, blocks);
    let mut take = |rows: Vec<SimpleQueryRow>, bytes| {
        let mut met = 0;
        for row in &rows {
            let versions = if sql.plan.key.is_empty() { number(row, 4)? } else { 0 };
            let piece =
                Sum { rows: number(row, 1)?, first: number(row, 2)?, second: number(row, 3)?, versions };
            met += piece.rows;
            sums.add(number(row, 0)?, piece);
        }
        tell(met, bytes);
        Ok(())
    };
    each(side, sql, pace, &question, &mut take).await?;
    Ok(sums)
}

/// What a member of a bucket is known by: its key, or nothing but its hashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Member {
    pub(crate) hashes: (i64, i64),
    pub(crate) key: Vec<String>,
    /// How many rows it stands for.
    pub(crate) rows: u64,
}

/// The rows of some buckets, read by going through the whole table again.
pub(crate) async fn members(
    side: &mut Side,
    sql: &Sql<'_>,
    cut: &Cut,
    buckets: &[i64],
    pace: &Pace,
) -> Result<Vec<Member>, Error> {
    let mut found = Vec::new();
    let question = |part: &Part, blocks| sql.members(cut, buckets, part, blocks);
    let keys = sql.plan.key.len();
    let mut take = |rows: Vec<SimpleQueryRow>, _| {
        for row in &rows {
            found.push(member(row, keys)?);
        }
        Ok(())
    };
    each(side, sql, pace, &question, &mut take).await?;
    Ok(found)
}

/// Copies of rows: how many, and a sum over their versions.
pub(crate) type Groups = HashMap<(i64, i64), (u64, i128)>;

/// The rows of some buckets of a table without a key, read by going through the whole table again.
pub(crate) async fn groups(
    side: &mut Side,
    sql: &Sql<'_>,
    cut: &Cut,
    buckets: &[i64],
    pace: &Pace,
) -> Result<Groups, Error> {
    let mut found = Groups::new();
    let question = |part: &Part, blocks| sql.members(cut, buckets, part, blocks);
    let mut take = |rows: Vec<SimpleQueryRow>, _| {
        for row in &rows {
            let (rows, versions) = found.entry((number(row, 0)?, number(row, 1)?)).or_default();
            *rows += number::<u64>(row, 2)?;
            *versions = versions.wrapping_add(number(row, 3)?);
        }
        Ok(())
    };
    each(side, sql, pace, &question, &mut take).await?;
    Ok(found)
}

/// The rows between two keys, read by the key's index.
pub(crate) async fn between(side: &mut Side, sql: &Sql<'_>, keys: Keys) -> Result<Vec<Member>, Error> {
    let doing = format!("read table {}", sql.plan.name(sql.which));
    let rows = side.ask(Scope::Now, &doing, &sql.between(keys)).await?;
    rows.iter()
        .map(|row| member(row, 1))
        .collect::<Result<_, _>>()
        .map_err(|error| side.failed(&doing, error))
}

fn member(row: &SimpleQueryRow, keys: usize) -> Result<Member, irongate_postgres::Error> {
    Ok(Member {
        hashes: (number(row, 0)?, number(row, 1)?),
        key: (0..keys).map(|n| field(row, 2 + n).to_owned()).collect(),
        rows: if keys == 0 { number(row, 2)? } else { 1 },
    })
}

/// The lowest and the highest key of all, or of those between two, at one side.
async fn ends_at(side: &mut Side, sql: &Sql<'_>, between: Option<Keys>) -> Result<Option<Keys>, Error> {
    let doing = format!("read the keys of table {}", sql.plan.name(sql.which));
    let rows = side.ask(Scope::Now, &doing, &sql.ends(between)).await?;
    let Some(row) = rows.first().filter(|row| !field(row, 0).is_empty()) else { return Ok(None) };
    let ends = number(row, 0).and_then(|low| Ok((low, number(row, 1)?)));
    ends.map(Some).map_err(|error| side.failed(&doing, error))
}

/// The lowest and the highest key of all, or of those between two, at both sides together; `None` where neither has a row
/// there.
pub(crate) async fn ends(
    sides: &mut Sides,
    plan: &Plan,
    between: Option<Keys>,
) -> Result<Option<Keys>, Error> {
    let (at_source, at_target) = (Sql { plan, which: Which::Source }, Sql { plan, which: Which::Target });
    let Sides { source, target, .. } = sides;
    let (here, there) =
        tokio::try_join!(ends_at(source, &at_source, between), ends_at(target, &at_target, between))?;
    let both = [here, there].into_iter().flatten();
    Ok(both.reduce(|(low, high), (lower, higher)| (low.min(lower), high.max(higher))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_become_as_long_as_takes_a_while_and_no_longer() {
        let ms = Duration::from_millis;
        assert_eq!(next_length(512, ms(10)), 1024);
        assert_eq!(next_length(512, ms(700)), 512);
        assert_eq!(next_length(512, ms(3000)), 256);
        assert_eq!((next_length(16, ms(9000)), next_length(1 << 16, ms(1))), (16, 1 << 16));
    }
}
