//! From buckets that differ to rows that differ.

use std::collections::HashMap;

use crate::bucket::{Bucket, Cut, Keys};
use crate::confirm::Sides;
use crate::error::Error;
use crate::pace::Pace;
use crate::scan::{self, Member};
use crate::side::{Scope, Which, number};
use crate::sql::Sql;
use crate::table::Plan;

/// So many rows' keys and hashes are held at once where a table has to be gone through for them.
const MOST_AT_ONCE: u64 = 100_000;
/// A range of keys with more rows is halved, and only halves that differ are fetched.
const MOST_OF_A_RANGE: u64 = 5_000;

/// What is to be fetched of a table in one go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Portion {
    /// The rows between two keys, by the index; at most so many.
    Keys(Keys, u64),
    /// The rows of these buckets, by going through the table.
    Buckets(Vec<Bucket>),
}

/// Deals buckets that differ into portions. Neighbouring ranges become one.
pub(crate) fn portions(cut: &Cut, differing: &[(Bucket, u64)]) -> Vec<Portion> {
    let mut portions: Vec<Portion> = Vec::new();
    let mut held = 0;
    let mut last = None;
    for (bucket, rows) in differing {
        match cut.keys(*bucket) {
            Some(keys) => match portions.last_mut() {
                Some(Portion::Keys((_, end), together))
                    if last.is_some_and(|last: i64| last + 1 == *bucket)
                        && *together + rows <= MOST_OF_A_RANGE =>
                {
                    (*end, *together) = (keys.1, *together + rows);
                }
                _ => portions.push(Portion::Keys(keys, *rows)),
            },
            None => match portions.last_mut() {
                Some(Portion::Buckets(buckets)) if held + rows <= MOST_AT_ONCE => {
                    buckets.push(*bucket);
                    held += rows;
                }
                _ => {
                    portions.push(Portion::Buckets(vec![*bucket]));
                    held = *rows;
                }
            },
        }
        last = Some(*bucket);
    }
    portions
}

/// The rows of a portion that are not the same at both sides.
pub(crate) async fn unlike(
    sides: &mut Sides,
    plan: &Plan,
    cut: &Cut,
    portion: &Portion,
    pace: &Pace,
) -> Result<Vec<Member>, Error> {
    let (at_source, at_target) = (Sql { plan, which: Which::Source }, Sql { plan, which: Which::Target });
    let Sides { source, target, .. } = sides;
    let (here, there) = match portion {
        Portion::Keys(keys, _) => tokio::try_join!(
            scan::between(source, &at_source, *keys),
            scan::between(target, &at_target, *keys),
        )?,
        Portion::Buckets(buckets) => tokio::try_join!(
            scan::members(source, &at_source, cut, buckets, pace),
            scan::members(target, &at_target, cut, buckets, pace),
        )?,
    };
    Ok(difference(here, there, plan.key.is_empty()))
}

/// Halves a range of keys that has too many rows, and leaves out what is the same. The range is that of the keys that there
/// are: of numbers far apart most are none.
pub(crate) async fn halved(sides: &mut Sides, plan: &Plan, portion: Portion) -> Result<Vec<Portion>, Error> {
    let Portion::Keys(keys, _) = portion else { return Ok(vec![portion]) };
    let Some((low, high)) = scan::ends(sides, plan, Some(keys)).await? else { return Ok(Vec::new()) };
    let Some(middle) = middle(low, high) else {
        // One key has one row at either side.
        return Ok(vec![Portion::Keys(keys, 2)]);
    };
    let mut left = Vec::new();
    for half in [(keys.0, middle), (middle + 1, keys.1)] {
        let mut tallies = Vec::new();
        for which in [Which::Source, Which::Target] {
            let sql = Sql { plan, which }.tally(half);
            let doing = format!("read table {}", plan.name(which));
            let side = sides.side(which);
            let answer = side.ask(Scope::Now, &doing, &sql).await?;
            let tally = answer.first().map(|row| -> Result<(u64, i128, i128), irongate_postgres::Error> {
                Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?))
            });
            tallies.push(tally.transpose().map_err(|error| side.failed(&doing, error))?.unwrap_or_default());
        }
        if tallies[0] != tallies[1] {
            left.push(Portion::Keys(half, tallies[0].0 + tallies[1].0));
        }
    }
    Ok(left)
}

/// Whether a portion has to be halved first.
pub(crate) fn is_too_large(portion: &Portion) -> bool {
    matches!(portion, Portion::Keys(_, rows) if *rows > MOST_OF_A_RANGE)
}

/// Where a range of keys is halved; `None` if it is one key.
fn middle(low: i64, high: i64) -> Option<i64> {
    // Two numbers can be further apart than one of them is large.
    let middle = i64::try_from((i128::from(low) + i128::from(high)).div_euclid(2)).ok()?;
    (low < high).then_some(middle)
}

/// What one side has and the other has not, or has otherwise.
fn difference(here: Vec<Member>, there: Vec<Member>, by_hash: bool) -> Vec<Member> {
    if by_hash {
        let mut counts: HashMap<(i64, i64), i128> = HashMap::new();
        for (members, sign) in [(&here, 1), (&there, -1)] {
            for member in members {
                *counts.entry(member.hashes).or_default() += sign * i128::from(member.rows);
            }
        }
        counts.retain(|_, count| *count != 0);
        return counts.into_keys().map(|hashes| Member { hashes, key: Vec::new(), rows: 1 }).collect();
    }
    let mut left: HashMap<Vec<String>, Member> =
        here.into_iter().map(|member| (member.key.clone(), member)).collect();
    let mut unlike = Vec::new();
    for member in there {
        match left.remove(&member.key) {
            Some(same) if same.hashes == member.hashes => {}
            _ => unlike.push(member),
        }
    }
    unlike.extend(left.into_values());
    unlike.sort();
    unlike
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(key: &str, hash: i64, rows: u64) -> Member {
        let key = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
        Member { hashes: (hash, hash), key, rows }
    }

    #[test]
    fn rows_are_matched_by_key_or_counted() {
        let keys = |members: Vec<Member>| {
            let mut keys: Vec<_> = members.into_iter().flat_map(|member| member.key).collect();
            keys.sort();
            keys
        };
        let here = vec![member("a", 1, 1), member("b", 1, 1), member("c", 1, 1)];
        let there = vec![member("d", 1, 1), member("c", 2, 1), member("a", 1, 1)];
        assert_eq!(keys(difference(here, there, false)), ["b", "c", "d"]);
        let here = vec![member("", 1, 2), member("", 2, 1), member("", 1, 1)];
        let there = vec![member("", 1, 3), member("", 2, 2)];
        let unlike = difference(here, there, true);
        assert_eq!(unlike.iter().map(|member| member.hashes.0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn neighbours_are_fetched_together_and_large_ranges_are_halved() {
        let cut = Cut::Range { bits: 3 };
        let differing = [(0, 4), (1, 5), (2, 4995), (5, 9000), (9, 1)];
        let found = portions(&cut, &differing);
        assert_eq!(
            found,
            [
                Portion::Keys((0, 15), 9),
                Portion::Keys((16, 23), 4995),
                Portion::Keys((40, 47), 9000),
                Portion::Keys((72, 79), 1)
            ]
        );
        assert_eq!(found.iter().filter(|portion| is_too_large(portion)).count(), 1);
        assert_eq!((middle(50, 59), middle(5, 5), middle(-4, -3)), (Some(54), None, Some(-4)));
        assert_eq!(middle(i64::MIN, i64::MAX), Some(-1));
        let hashed = portions(&Cut::Hash { mask: 7 }, &[(0, 60_000), (1, 40_000), (5, 1)]);
        assert_eq!(hashed, [Portion::Buckets(vec![0, 1]), Portion::Buckets(vec![5])]);
    }
}
