//! What a difference is, and what is only on its way.
//!
//! A round reads a row at the target (*t*), then at the source (*s*), then commits a message at the source, waits until
//! Replicat has applied everything up to it, and reads the row at the target (*T*) and at the source (*S*) once more.
//!
//! * *T* is *s* or *S*: the target has what the source had; no difference.
//! * *s* and *S* are the same version of the same row. So nobody has changed it at the source since before the message, and
//!   everything up to the message is applied: *T* should be *S*. It is not: a difference.
//! * There is no row at the source, neither in *s* nor in *S*, and *t* and *T* are the same version of a row at the target.
//!   It was there before *s* was read, so if it came from the source it had been deleted there by then, before the
//!   message, and that would have been applied. A difference. (Were *T* alone looked at, a row that is inserted and
//!   deleted again between *s* and *S* could be met while it lives at the target.)
//! * Anything else is looked at in another round, whose *t* and *s* are this one's *T* and *S*.
//!
//! "The same version" is the same place in the table and the same inserting transaction; a row that is deleted and inserted
//! again, or updated to what it was, is another version. Where a row is known by all it holds, there can be several
//! alike: their number is compared, and a sum over all their versions stands for the version.
//!
//! Where both sites write, what is on its way in the other direction must have come too: then a message goes each way, and
//! the target's version has to be the same in *t* and *T* as well.

/// A row, or rows that are alike, as one side has them at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen {
    /// How many there are.
    pub(crate) rows: u64,
    /// Which version.
    pub(crate) version: String,
    /// What they hold.
    pub(crate) hashes: (i64, i64),
}

impl Seen {
    fn holds_what(&self, other: &Self) -> bool {
        self.rows == other.rows && (self.rows == 0 || self.hashes == other.hashes)
    }
}

/// What both sides have at one moment; the target is read first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Both {
    pub(crate) target: Seen,
    pub(crate) source: Seen,
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Both sides have the same.
    Same,
    /// They have not, and nothing is on its way that would change it.
    Different,
    /// Nobody can say yet.
    Again,
}

/// Judges a round; `before` is `None` for rows that are looked at for the first time, which no message has passed yet.
pub(crate) fn judge(before: Option<&Both>, after: &Both, both_write: bool) -> Verdict {
    if after.target.holds_what(&after.source) {
        return Verdict::Same;
    }
    let Some(before) = before else { return Verdict::Again };
    if !both_write && after.target.holds_what(&before.source) {
        return Verdict::Same;
    }
    let source_is_still = before.source == after.source;
    let target_is_still = before.target == after.target;
    let must_be_still = both_write || after.source.rows == 0;
    if source_is_still && (target_is_still || !must_be_still) { Verdict::Different } else { Verdict::Again }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, hash: i64) -> Seen {
        Seen { rows: 1, version: version.into(), hashes: (hash, -hash) }
    }

    fn nothing() -> Seen {
        Seen::default()
    }

    fn both(target: Seen, source: Seen) -> Both {
        Both { target, source }
    }

    #[test]
    fn a_row_that_nobody_touches_and_is_not_the_same_is_a_difference() {
        for (target, source) in
            [(seen("t", 1), seen("s", 2)), (nothing(), seen("s", 2)), (seen("t", 1), nothing())]
        {
            let now = both(target, source);
            assert_eq!(judge(Some(&now), &now, false), Verdict::Different);
            assert_eq!(judge(Some(&now), &now, true), Verdict::Different);
        }
    }

    #[test]
    fn nothing_is_a_difference_at_first_sight() {
        for (target, source) in
            [(seen("t", 1), seen("s", 2)), (nothing(), seen("s", 2)), (seen("t", 1), nothing())]
        {
            assert_eq!(judge(None, &both(target, source), false), Verdict::Again);
        }
        assert_eq!(judge(None, &both(seen("t", 1), seen("s", 1)), false), Verdict::Same);
    }

    #[test]
    fn a_row_on_its_way_is_none() {
        let before = both(seen("t1", 1), seen("s2", 2));
        assert_eq!(judge(Some(&before), &both(seen("t2", 2), seen("s2", 2)), false), Verdict::Same);
        assert_eq!(
            judge(Some(&before), &both(seen("t2", 2), seen("s3", 3)), false),
            Verdict::Same,
            "one behind"
        );
        assert_eq!(judge(Some(&before), &both(seen("t1", 1), seen("s3", 3)), false), Verdict::Again);
        // Another version of the same content: somebody was there, and what he did may be on its way.
        assert_eq!(judge(Some(&before), &both(seen("t1", 1), seen("s4", 2)), false), Verdict::Again);
        assert_eq!(
            judge(Some(&both(nothing(), nothing())), &both(nothing(), nothing()), false),
            Verdict::Same
        );
    }

    #[test]
    fn a_row_that_came_and_went_meanwhile_is_none() {
        // Inserted and deleted between the two looks at the source, met while it lived at the target.
        let met = both(seen("t", 1), nothing());
        assert_eq!(judge(Some(&both(nothing(), nothing())), &met, false), Verdict::Again);
        assert_eq!(judge(Some(&met), &both(seen("another", 1), nothing()), false), Verdict::Again);
        assert_eq!(judge(Some(&met), &both(nothing(), nothing()), false), Verdict::Same);
    }

    #[test]
    fn where_both_write_the_target_must_stand_still_too() {
        let (before, after) = (both(seen("t1", 1), seen("s", 2)), both(seen("t2", 3), seen("s", 2)));
        assert_eq!(judge(Some(&before), &after, false), Verdict::Different);
        assert_eq!(judge(Some(&before), &after, true), Verdict::Again);
    }

    #[test]
    fn rows_that_are_alike_count() {
        let twice = Seen { rows: 2, ..seen("s", 1) };
        let now = both(seen("t", 1), twice);
        assert_eq!(judge(Some(&now), &now, false), Verdict::Different);
    }
}
