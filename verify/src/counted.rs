//! Tables without a key: which of their rows have to be looked at.
//!
//! Rows that have no key are counted, and numbers that are the same by chance are as easily met as others
//! ([`crate::settle`]). So, unlike rows that have one, they are not the same because their sums are, but because their sums
//! are and neither side has touched them from before a message until everything up to it was applied. That is asked of the
//! buckets first, which settles all of a table that nobody writes, and of each group of copies in the others then. What is
//! left is settled by rounds.
//!
//! So such a table is read twice. Of one that is empty at both sides nothing has to be shown: what the source had of it has
//! been deleted there, and nothing is at the target that could be left over.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::bucket::{BothSums, Bucket, Cut};
use crate::confirm::{Sides, Waiting};
use crate::error::Error;
use crate::fetch::{self, Portion};
use crate::pace::Pace;
use crate::scan::{self, Groups, Member, Tell};
use crate::settle::{Both, Known, Seen, Verdict, judge};
use crate::side::Which;
use crate::sql::Sql;
use crate::table::Plan;

/// Buckets that have to be looked into.
pub(crate) struct Differing {
    /// Rows at the source.
    pub(crate) rows: u64,
    pub(crate) buckets: Vec<(Bucket, u64)>,
    /// Whether the others are shown to be the same.
    pub(crate) is_shown: bool,
}

/// Rows that have to be looked at.
pub(crate) struct Unlike {
    pub(crate) members: Vec<Member>,
    /// Whether the others are shown to be the same.
    pub(crate) is_shown: bool,
}

/// The buckets of a table that are not shown to be the same. Where nothing comes through, those that are not.
pub(crate) async fn differing(
    sides: &mut Sides,
    plan: &Plan,
    cut: &Cut,
    pace: &Pace,
    waiting: &Waiting<'_>,
    tell: &Tell<'_>,
) -> Result<Differing, Error> {
    let before = sums(sides, plan, cut, pace, tell).await?;
    let rows = before.source.rows();
    if before.are_empty() {
        return Ok(Differing { rows, buckets: Vec::new(), is_shown: true });
    }
    if !has_passed(sides, waiting).await? {
        let buckets = before.source.differing(&before.target);
        return Ok(Differing { rows, buckets, is_shown: false });
    }
    let after = sums(sides, plan, cut, pace, &|_, _| ()).await?;
    Ok(Differing { rows, buckets: after.not_shown_the_same(&before), is_shown: true })
}

/// The rows of a portion that are not shown to be the same. Where nothing comes through, those that are not.
pub(crate) async fn unlike(
    sides: &mut Sides,
    plan: &Plan,
    cut: &Cut,
    portion: &Portion,
    pace: &Pace,
    waiting: &Waiting<'_>,
) -> Result<Unlike, Error> {
    // Rows without a key are dealt out by their hashes.
    let Portion::Buckets(buckets) = portion else {
        let members = fetch::unlike(sides, plan, cut, portion, pace).await?;
        return Ok(Unlike { members, is_shown: false });
    };
    let before = groups(sides, plan, cut, buckets, pace).await?;
    let is_shown = has_passed(sides, waiting).await?;
    let after = if is_shown { Some(groups(sides, plan, cut, buckets, pace).await?) } else { None };
    Ok(Unlike { members: left(&before, after.as_ref()), is_shown })
}

async fn has_passed(sides: &mut Sides, waiting: &Waiting<'_>) -> Result<bool, Error> {
    Ok(waiting.stuck().is_none() && waiting.passed(sides, Instant::now() + waiting.limit).await?)
}

/// The target is read first, as in every round.
async fn sums(
    sides: &mut Sides,
    plan: &Plan,
    cut: &Cut,
    pace: &Pace,
    tell: &Tell<'_>,
) -> Result<BothSums, Error> {
    let (at_source, at_target) = (Sql { plan, which: Which::Source }, Sql { plan, which: Which::Target });
    let target = scan::sums(&mut sides.target, &at_target, cut, pace, &|_, _| ()).await?;
    let source = scan::sums(&mut sides.source, &at_source, cut, pace, tell).await?;
    Ok(BothSums { target, source })
}

/// Groups of copies, as both sides have them.
struct BothGroups {
    target: Groups,
    source: Groups,
}

async fn groups(
    sides: &mut Sides,
    plan: &Plan,
    cut: &Cut,
    buckets: &[Bucket],
    pace: &Pace,
) -> Result<BothGroups, Error> {
    let (at_source, at_target) = (Sql { plan, which: Which::Source }, Sql { plan, which: Which::Target });
    let target = scan::groups(&mut sides.target, &at_target, cut, buckets, pace).await?;
    let source = scan::groups(&mut sides.source, &at_source, cut, buckets, pace).await?;
    Ok(BothGroups { target, source })
}

impl BothGroups {
    fn of(&self, hashes: (i64, i64)) -> Both {
        let seen = |groups: &Groups| match groups.get(&hashes) {
            Some((rows, versions)) => Seen { rows: *rows, version: versions.to_string(), hashes, bytes: 0 },
            None => Seen::default(),
        };
        Both { target: seen(&self.target), source: seen(&self.source) }
    }

    fn hashes(&self) -> impl Iterator<Item = (i64, i64)> {
        self.target.keys().chain(self.source.keys()).copied()
    }
}

/// The groups that are not shown to be the same; without a second look, those that are not at first sight.
fn left(before: &BothGroups, after: Option<&BothGroups>) -> Vec<Member> {
    let all: BTreeSet<_> = before.hashes().chain(after.into_iter().flat_map(BothGroups::hashes)).collect();
    let is_same = |hashes: (i64, i64)| {
        let before = before.of(hashes);
        match after {
            Some(after) => judge(Some(&before), &after.of(hashes), Known::Count) == Verdict::Same,
            None => before.target.holds_what(&before.source),
        }
    };
    let member = |hashes| Member { hashes, key: Vec::new(), rows: 1 };
    all.into_iter().filter(|hashes| !is_same(*hashes)).map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_left_until_nobody_touches_them() {
        let groups = |of: &[(i64, u64, i128)]| -> Groups {
            of.iter().map(|(hash, rows, versions)| ((*hash, *hash), (*rows, *versions))).collect()
        };
        let both = |target, source| BothGroups { target: groups(target), source: groups(source) };
        let left = |before, after| -> Vec<i64> {
            super::left(before, after).into_iter().map(|member| member.hashes.0).collect()
        };
        let before = both(&[(1, 2, 70), (2, 1, 71), (3, 2, 72)], &[(1, 2, 90), (2, 1, 91), (3, 1, 92)]);
        assert_eq!(left(&before, Some(&before)), [3]);
        assert_eq!(left(&before, None), [3], "at first sight");
        // The number of the third is the same by now, because it is being written; so is the second; the fourth is new.
        let after = both(
            &[(1, 2, 70), (2, 1, 71), (3, 2, 72), (4, 1, 73)],
            &[(1, 2, 90), (2, 1, 99), (3, 2, 98), (4, 1, 97)],
        );
        assert_eq!(left(&before, Some(&after)), [2, 3, 4]);
    }
}
