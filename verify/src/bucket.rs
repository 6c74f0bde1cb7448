//! Sums over rows, and where they differ.
//!
//! The rows of a table are dealt out to buckets by their keys, alike at both sides. A bucket is known by the number of its
//! rows and by two exact sums of 64 bit hashes with different seeds: 128 bits that do not depend on the order in which
//! rows are met, in how many pieces they are read, and that can be added up piece by piece. A sum, unlike an exclusive
//! or, also tells a row that is there twice from one that is not there.

use std::collections::{BTreeMap, BTreeSet};

/// A bucket's number.
pub(crate) type Bucket = i64;

/// What is known of a bucket's rows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sum {
    pub(crate) rows: u64,
    pub(crate) first: i128,
    pub(crate) second: i128,
    /// Over the versions of the rows; nothing where they have a key.
    pub(crate) versions: i128,
}

impl Sum {
    /// Whether the rows are alike, whichever versions of them.
    fn holds_what(&self, other: &Self) -> bool {
        (self.rows, self.first, self.second) == (other.rows, other.first, other.second)
    }
}

/// All buckets of a table, as one side has them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sums(BTreeMap<Bucket, Sum>);

impl Sums {
    /// Adds what a piece of the table has for a bucket.
    pub(crate) fn add(&mut self, bucket: Bucket, piece: Sum) {
        let sum = self.0.entry(bucket).or_default();
        sum.rows += piece.rows;
        // No table has so many rows that 64 bit numbers overflow 128 bits; nor would it matter.
        sum.first = sum.first.wrapping_add(piece.first);
        sum.second = sum.second.wrapping_add(piece.second);
        sum.versions = sum.versions.wrapping_add(piece.versions);
    }

    fn of(&self, bucket: Bucket) -> Sum {
        self.0.get(&bucket).copied().unwrap_or_default()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.values().map(|sum| sum.rows).sum()
    }

    /// The buckets that are not the same, each with the rows that both sides have there together.
    pub(crate) fn differing(&self, other: &Self) -> Vec<(Bucket, u64)> {
        let buckets: BTreeSet<Bucket> = self.0.keys().chain(other.0.keys()).copied().collect();
        buckets
            .into_iter()
            .map(|bucket| (bucket, self.of(bucket), other.of(bucket)))
            .filter(|(_, here, there)| !here.holds_what(there))
            .map(|(bucket, here, there)| (bucket, here.rows + there.rows))
            .collect()
    }
}

/// The buckets of a table, as both sides have them; the target was read first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct BothSums {
    pub(crate) target: Sums,
    pub(crate) source: Sums,
}

impl BothSums {
    /// Neither side has a row.
    pub(crate) fn are_empty(&self) -> bool {
        self.target.rows() + self.source.rows() == 0
    }

    /// The buckets that are not the same, or that somebody has touched since `before`, each with the rows that both sides
    /// have there together.
    pub(crate) fn not_shown_the_same(&self, before: &Self) -> Vec<(Bucket, u64)> {
        let all = [&self.target, &self.source, &before.target, &before.source];
        let buckets: BTreeSet<Bucket> = all.into_iter().flat_map(|sums| sums.0.keys()).copied().collect();
        let is_shown = |bucket| {
            let (there, here) = (self.target.of(bucket), self.source.of(bucket));
            there.holds_what(&here) && there == before.target.of(bucket) && here == before.source.of(bucket)
        };
        let rows = |bucket| self.target.of(bucket).rows + self.source.of(bucket).rows;
        buckets.into_iter().filter(|bucket| !is_shown(*bucket)).map(|bucket| (bucket, rows(bucket))).collect()
    }
}

/// The first and the last of some keys that are whole numbers.
pub(crate) type Keys = (i64, i64);

/// How a table's rows are dealt out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// By ranges of the same width of the one whole number that is the key: its bits but for the lowest ones. What differs
    /// can be read again by the key's index.
    Range {
        /// How many bits of the key make no difference.
        bits: u32,
    },
    /// By a hash of the key as text, or of the whole row where there is none. It needs no order that both sides would have
    /// to agree on, such as that of a collation; what differs is found by reading all of the table again.
    Hash {
        /// One less than the number of buckets, which is a power of two.
        mask: i64,
    },
}

/// The most buckets of a table: so many sums fit in one answer, and in memory.
const MOST: u64 = 1 << 15;
/// So many rows a bucket should have: what differs is fetched as a bucket.
const ROWS: u64 = 500;

impl Cut {
    /// Ranges for keys from one to another.
    pub(crate) fn range((first, last): Keys, rows: u64) -> Self {
        let buckets = (rows / ROWS).clamp(1, MOST);
        let width = (last.abs_diff(first) / buckets).saturating_add(1);
        let bits = width.checked_next_power_of_two().map_or(u64::BITS, u64::ilog2);
        // So many numbers have no more rows than a bucket should. No shift is as wide as the number.
        Self::Range { bits: bits.clamp(ROWS.ilog2() + 1, i64::BITS - 1) }
    }

    pub(crate) fn hash(rows: u64) -> Self {
        let buckets = (rows / ROWS).clamp(1, MOST).next_power_of_two();
        Self::Hash { mask: (buckets - 1) as i64 }
    }

    /// The keys of a bucket of ranges.
    pub(crate) fn keys(&self, bucket: Bucket) -> Option<Keys> {
        let Self::Range { bits } = *self else { return None };
        let first = bucket << bits;
        Some((first, first | !(-1 << bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(of: &[(Bucket, u64, i128)]) -> Sums {
        let mut sums = Sums::default();
        for (bucket, rows, hash) in of {
            sums.add(*bucket, Sum { rows: *rows, first: *hash, second: -*hash, versions: 0 });
        }
        sums
    }

    #[test]
    fn pieces_add_up_in_any_order_and_only_what_differs_is_named() {
        let here = sums(&[(1, 2, 10), (2, 1, 5), (1, 1, -3), (7, 1, 9)]);
        let there = sums(&[(2, 1, 5), (1, 1, -3), (1, 2, 10), (8, 2, 0)]);
        assert_eq!(here.differing(&there), [(7, 1), (8, 2)]);
        assert_eq!((here.rows(), there.rows()), (5, 6));
        assert_eq!(sums(&[(0, 2, 8)]).differing(&sums(&[(0, 1, 8)])), [(0, 3)], "the same sum of more rows");
    }

    #[test]
    fn a_bucket_that_somebody_touches_is_not_shown_to_be_the_same() {
        let sums = |of: &[(Bucket, u64, i128)]| {
            let mut sums = Sums::default();
            for (bucket, rows, versions) in of {
                sums.add(*bucket, Sum { rows: *rows, first: 5, second: 6, versions: *versions });
            }
            sums
        };
        let both = |target, source| BothSums { target: sums(target), source: sums(source) };
        let before = both(&[(1, 2, 70), (2, 1, 71), (3, 1, 72)], &[(1, 2, 90), (2, 1, 91), (3, 2, 92)]);
        assert_eq!(before.not_shown_the_same(&before), [(3, 3)], "another number");
        let after = both(&[(1, 2, 70), (2, 1, 71), (4, 1, 5)], &[(1, 2, 90), (2, 1, 99), (4, 1, 6)]);
        assert_eq!(after.not_shown_the_same(&before), [(2, 2), (3, 0), (4, 2)]);
        assert!(!after.are_empty() && BothSums::default().are_empty());
    }

    #[test]
    fn every_key_is_in_the_range_of_the_bucket_that_it_is_dealt_to() {
        let cases = [
            (1, 10, 5000),
            (-7, 1000, 2000),
            (0, 0, 0),
            (i64::MAX - 9, i64::MAX, 90_000),
            (0, i64::MAX, 0),
            (i64::MIN, i64::MAX, 0),
            (i64::MIN, i64::MAX, 90_000),
        ];
        for (low, high, rows) in cases {
            let cut = Cut::range((low, high), rows);
            let Cut::Range { bits } = cut else { panic!("{cut:?}") };
            let buckets = (i128::from(high >> bits) - i128::from(low >> bits)) as u64 + 1;
            assert!(buckets <= (rows / ROWS).max(1) + 1, "{cut:?}: {buckets}");
            assert!(bits >= 9, "{cut:?}");
            let middle = ((i128::from(low) + i128::from(high)) / 2) as i64;
            for key in [low, middle, high, low.saturating_sub(5), high.saturating_add(5)] {
                // As the servers do it.
                let (first, last) = cut.keys(key >> bits).unwrap();
                assert!((first..=last).contains(&key), "{cut:?} {key}");
                assert_eq!((first >> bits, last >> bits), (key >> bits, key >> bits), "{cut:?} {key}");
            }
        }
        assert_eq!(Cut::range((1, 5_000_000), 5_000_000), Cut::Range { bits: 9 });
        assert_eq!(Cut::hash(0), Cut::Hash { mask: 0 });
        assert_eq!(Cut::hash(u64::MAX), Cut::Hash { mask: (MOST - 1) as i64 });
        assert_eq!(Cut::hash(1600), Cut::Hash { mask: 3 });
    }
}
