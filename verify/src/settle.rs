//! What a difference is, and what is only on its way.
//!
//! A round reads a row at the target (*t*), then at the source (*s*), then commits a message at the source, waits until
//! Replicat has applied everything up to it, and reads the row at the target (*T*) and at the source (*S*) once more.
//!
//! "The same version" is the same place in the table and the same inserting transaction; a row that is deleted and inserted
//! again, or updated to what it was, is another version.
//!
//! # Rows that have a key
//!
//! * *T* is *S*: no difference. What the source did to the row between the two looks is on its way, finds the row by its
//!   key, and sets what it changed; whatever else the row holds is the same already. So the two are the same at the place
//!   of the stream that *S* was read at. *T* being *s* would not do: what the source did to the row between *s* and the
//!   message has been applied, or has been lost, and a row that has been left behind by it looks the same.
//! * *s* and *S* are the same version of the same row. So nobody has changed it at the source since before the message, and
//!   everything up to the message is applied: *T* should be *S*. It is not: a difference.
//! * There is no row at the source, neither in *s* nor in *S*, and *t* and *T* are the same version of a row at the target.
//!   It was there before *s* was read, so if it came from the source it had been deleted there by then, before the
//!   message, and that would have been applied. A difference. (Were *T* alone looked at, a row that is inserted and
//!   deleted again between *s* and *S* could be met while it lives at the target.)
//! * Anything else is looked at in another round, whose *t* and *s* are this one's *T* and *S*.
//!
//! Where both sites write, what is on its way in the other direction must have come too: then a message goes each way, and
//! the target's version has to be the same in *t* and *T* as well.
//!
//! # Rows that have none
//!
//! Rows that are known by all they hold are a group of copies, and what is compared is how many there are; a sum over the
//! versions of all copies stands for the version of the group. Numbers say less than contents: where three copies are and
//! two should be, one more insertion at the source makes three of both, and when it has been applied there are four. So
//! numbers that are read at different places of the stream say nothing, be they the same or not, and there is but one
//! thing that does: that **neither side's group was touched**, *t* being the version of *T* and *s* that of *S*.
//!
//! * What the source has is then the same copies at every place from *s* to *S*, the message's among them, but for copies
//!   that came and went in between.
//! * Every copy in *T* was there in *t*, before *s* was read. If it came from one that came and went at the source behind
//!   *s*, it could not have been. If from one that had gone before *s*, its deletion is before the message, and is applied.
//!   So *T* has what it has of copies that the source had at the message and still has, and of copies that are none of the
//!   source's.
//! * Thus both numbers are those at the message, at one place of the stream. The same is the same, and anything else is a
//!   difference.
//!
//! A group that is touched in every round is unsettled, however often its numbers were the same, and so is one that no
//! message has passed.

/// A row, or rows that are alike, as one side has them at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen {
    /// How many there are.
    pub(crate) rows: u64,
    /// Which version.
    pub(crate) version: String,
    /// What they hold.
    pub(crate) hashes: (i64, i64),
    /// How long the text of one is, as far as that was asked.
    pub(crate) bytes: u64,
}

impl Seen {
    pub(crate) fn holds_what(&self, other: &Self) -> bool {
        self.rows == other.rows && (self.rows == 0 || self.hashes == other.hashes)
    }
}

/// What both sides have at one moment; the target is read first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Both {
    pub(crate) target: Seen,
    pub(crate) source: Seen,
}

/// By what rows are known, and who writes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// By a key; only the source is written.
    Key,
    /// By a key; both sides are written.
    KeyAtBoth,
    /// By all they hold; they are counted.
    Count,
}

impl Known {
    pub(crate) fn of(has_key: bool, both_write: bool) -> Self {
        match (has_key, both_write) {
            (false, _) => Self::Count,
            (true, true) => Self::KeyAtBoth,
            (true, false) => Self::Key,
        }
    }
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
pub(crate) fn judge(before: Option<&Both>, after: &Both, known: Known) -> Verdict {
    let is_same = after.target.holds_what(&after.source);
    if is_same && known != Known::Count {
        return Verdict::Same;
    }
    let Some(before) = before else { return Verdict::Again };
    let source_is_still = before.source == after.source;
    let target_is_still = before.target == after.target;
    let must_be_still = known != Known::Key || after.source.rows == 0;
    match source_is_still && (target_is_still || !must_be_still) {
        true if is_same => Verdict::Same,
        true => Verdict::Different,
        false => Verdict::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, hash: i64) -> Seen {
        Seen { rows: 1, version: version.into(), hashes: (hash, -hash), bytes: 0 }
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
            assert_eq!(judge(Some(&now), &now, Known::Key), Verdict::Different);
            assert_eq!(judge(Some(&now), &now, Known::KeyAtBoth), Verdict::Different);
        }
    }

    #[test]
    fn nothing_is_a_difference_at_first_sight() {
        for (target, source) in
            [(seen("t", 1), seen("s", 2)), (nothing(), seen("s", 2)), (seen("t", 1), nothing())]
        {
            assert_eq!(judge(None, &both(target, source), Known::Key), Verdict::Again);
        }
        assert_eq!(judge(None, &both(seen("t", 1), seen("s", 1)), Known::Key), Verdict::Same);
    }

    #[test]
    fn a_row_on_its_way_is_none() {
        let before = both(seen("t1", 1), seen("s2", 2));
        assert_eq!(judge(Some(&before), &both(seen("t2", 2), seen("s2", 2)), Known::Key), Verdict::Same);
        assert_eq!(
            judge(Some(&before), &both(seen("t2", 2), seen("s3", 3)), Known::Key),
            Verdict::Again,
            "what came between may have been lost"
        );
        assert_eq!(judge(Some(&before), &both(seen("t1", 1), seen("s3", 3)), Known::Key), Verdict::Again);
        // Another version of the same content: somebody was there, and what he did may be on its way.
        assert_eq!(judge(Some(&before), &both(seen("t1", 1), seen("s4", 2)), Known::Key), Verdict::Again);
        assert_eq!(
            judge(Some(&both(nothing(), nothing())), &both(nothing(), nothing()), Known::Key),
            Verdict::Same
        );
    }

    #[test]
    fn a_row_that_came_and_went_meanwhile_is_none() {
        // Inserted and deleted between the two looks at the source, met while it lived at the target.
        let met = both(seen("t", 1), nothing());
        assert_eq!(judge(Some(&both(nothing(), nothing())), &met, Known::Key), Verdict::Again);
        assert_eq!(judge(Some(&met), &both(seen("another", 1), nothing()), Known::Key), Verdict::Again);
        assert_eq!(judge(Some(&met), &both(nothing(), nothing()), Known::Key), Verdict::Same);
    }

    #[test]
    fn where_both_write_the_target_must_stand_still_too() {
        let (before, after) = (both(seen("t1", 1), seen("s", 2)), both(seen("t2", 3), seen("s", 2)));
        assert_eq!(judge(Some(&before), &after, Known::Key), Verdict::Different);
        assert_eq!(judge(Some(&before), &after, Known::KeyAtBoth), Verdict::Again);
    }

    #[test]
    fn numbers_of_copies_say_something_only_while_nobody_touches_them() {
        let copies = |version: &str, rows| Seen { rows, ..seen(version, 1) };
        let judged = |before: &Both, after: &Both| judge(Some(before), after, Known::Count);
        let (same, unlike) = (both(copies("t", 2), copies("s", 2)), both(copies("t", 3), copies("s", 2)));
        assert_eq!(judge(None, &same, Known::Count), Verdict::Again, "no message has passed");
        assert_eq!((judged(&same, &same), judged(&unlike, &unlike)), (Verdict::Same, Verdict::Different));
        // One too many at the target, and one more at the source that is on its way.
        let by_chance = both(copies("t", 3), copies("s2", 3));
        assert_eq!(judged(&unlike, &by_chance), Verdict::Again);
        // One too few at the target, and one there that has gone from the source already.
        let came_and_went = both(copies("t2", 2), copies("s", 2));
        assert_eq!(judged(&both(copies("t", 1), copies("s", 2)), &came_and_went), Verdict::Again);
        // The same number, and others of them.
        assert_eq!(judged(&same, &both(copies("t", 2), copies("s2", 2))), Verdict::Again);
        let none = both(nothing(), nothing());
        assert_eq!(judged(&none, &none), Verdict::Same);
    }
}
