//! Whether somebody has been at a row since the sites parted. Decides only.
//!
//! What is asked is: would the change find at the live site what it found at the lost one? Where the whole old row was
//! logged (`REPLICA IDENTITY FULL`) it is compared. Where only a key was, the live site itself tells: what it wrote behind
//! the last transaction that it had applied carries a later transaction id (`xmin`), and a row that carries an earlier one is
//! as both sites had it. Of a row that an earlier lost change has made or moved nothing can be said: that change is not there.

use super::change::{Fields, Operation, There, Verdict};

/// What is known of the place where a change belongs.
pub(super) struct Found {
    /// The row.
    pub(super) row: Option<Fields>,
    /// It was written since the sites parted.
    pub(super) written_since: Option<bool>,
    /// A row stands under the key that the change would move the row to.
    pub(super) in_the_way: bool,
}

/// What a change expects.
pub(super) struct Expecting<'a> {
    pub(super) operation: Operation,
    pub(super) has_key: bool,
    pub(super) old: Option<&'a Fields>,
    pub(super) new: Option<&'a Fields>,
    /// An earlier lost change has the same row.
    pub(super) follows: bool,
}

/// Compares.
pub(super) fn judge(expecting: &Expecting<'_>, found: Found) -> There {
    let (verdict, reason) = verdict(expecting, &found);
    let Found { row, written_since, .. } = found;
    There { verdict, reason: reason.map(str::to_owned), row, written_since }
}

fn verdict(expecting: &Expecting<'_>, found: &Found) -> (Verdict, Option<&'static str>) {
    let conflict = |reason| (Verdict::Conflict, Some(reason));
    let &Expecting { operation, has_key, old, new, follows } = expecting;
    if follows {
        return (Verdict::Follows, None);
    }
    let is = |wanted: Option<&Fields>, row: &Fields| wanted.is_some_and(|wanted| wanted.is_in(row));
    match (operation, &found.row) {
        (Operation::Truncate, _) => match found.written_since {
            Some(true) => conflict("rows were written there since"),
            Some(false) => (Verdict::Expected, None),
            None => (Verdict::Unknown, Some("it cannot be told whether rows were written there since")),
        },
        // Without a key any number of equal rows may stand beside each other.
        (Operation::Insert, None) => (Verdict::Expected, None),
        (Operation::Insert, _) if !has_key => (Verdict::Expected, None),
        (Operation::Insert, Some(row)) if is(new, row) => (Verdict::Same, None),
        (Operation::Insert, Some(_)) => conflict("another row with this key is there"),
        (Operation::Delete, None) => (Verdict::Same, None),
        (Operation::Update, None) => conflict("the row is not there any more"),
        (_, Some(row)) => {
            if operation == Operation::Update && is(new, row) && !found.in_the_way {
                return (Verdict::Same, None);
            }
            if found.in_the_way {
                return conflict("another row with the new key is there");
            }
            match (old, found.written_since) {
                (Some(old), _) if old.is_in(row) => (Verdict::Expected, None),
                (Some(_), _) | (None, Some(true)) => conflict("the row was changed there since"),
                (None, Some(false)) => (Verdict::Expected, None),
                (None, None) => (
                    Verdict::Unknown,
                    Some(
                        "the old values were not logged, and it cannot be told whether the row was changed there",
                    ),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::Cell;
    use super::*;

    fn row(values: &[&str]) -> Fields {
        let names = ["id", "name", "more"];
        let fields = names.iter().zip(values).map(|(name, value)| {
            let cell = match *value {
                "?" => Cell::Unchanged,
                "-" => Cell::Null,
                text => Cell::Text(text.to_owned()),
            };
            ((*name).to_owned(), cell)
        });
        Fields(fields.collect())
    }

    fn found(values: Option<&[&str]>, written_since: Option<bool>) -> Found {
        Found { row: values.map(row), written_since, in_the_way: false }
    }

    fn verdict_of(operation: Operation, old: Option<&[&str]>, new: Option<&[&str]>, found: Found) -> Verdict {
        let (old, new) = (old.map(row), new.map(row));
        let expecting =
            Expecting { operation, has_key: true, old: old.as_ref(), new: new.as_ref(), follows: false };
        judge(&expecting, found).verdict
    }

    #[test]
    fn an_insert_wants_nobody_under_its_key() {
        use Operation::Insert;
        let new: Option<&[&str]> = Some(&["1", "a", "-"]);
        assert_eq!(verdict_of(Insert, None, new, found(None, None)), Verdict::Expected);
        assert_eq!(verdict_of(Insert, None, new, found(Some(&["1", "a", "-"]), Some(true))), Verdict::Same);
        assert_eq!(
            verdict_of(Insert, None, new, found(Some(&["1", "b", "-"]), Some(true))),
            Verdict::Conflict
        );
    }

    #[test]
    fn an_update_by_key_goes_by_who_wrote_the_row_last() {
        use Operation::Update;
        let new: Option<&[&str]> = Some(&["1", "b", "?"]);
        let there: Option<&[&str]> = Some(&["1", "a", "toast"]);
        assert_eq!(verdict_of(Update, None, new, found(there, Some(false))), Verdict::Expected);
        assert_eq!(verdict_of(Update, None, new, found(there, Some(true))), Verdict::Conflict);
        assert_eq!(verdict_of(Update, None, new, found(there, None)), Verdict::Unknown);
        assert_eq!(verdict_of(Update, None, new, found(None, None)), Verdict::Conflict);
        assert_eq!(verdict_of(Update, None, new, found(Some(&["1", "b", "x"]), Some(true))), Verdict::Same);
        let moved = Found { in_the_way: true, ..found(there, Some(false)) };
        assert_eq!(verdict_of(Update, None, new, moved), Verdict::Conflict);
    }

    #[test]
    fn a_whole_old_row_is_compared() {
        use Operation::{Delete, Update};
        let (old, new): (Option<&[&str]>, Option<&[&str]>) = (Some(&["1", "a", "-"]), Some(&["1", "b", "-"]));
        assert_eq!(
            verdict_of(Update, old, new, found(Some(&["1", "a", "-"]), Some(true))),
            Verdict::Expected
        );
        assert_eq!(
            verdict_of(Update, old, new, found(Some(&["1", "c", "-"]), Some(false))),
            Verdict::Conflict
        );
        assert_eq!(verdict_of(Delete, old, None, found(Some(&["1", "a", "-"]), None)), Verdict::Expected);
        assert_eq!(verdict_of(Delete, old, None, found(Some(&["1", "c", "-"]), None)), Verdict::Conflict);
        assert_eq!(verdict_of(Delete, old, None, found(None, None)), Verdict::Same);
    }

    #[test]
    fn behind_an_earlier_lost_change_nothing_is_said() {
        let expecting =
            Expecting { operation: Operation::Update, has_key: true, old: None, new: None, follows: true };
        assert_eq!(judge(&expecting, found(None, None)).verdict, Verdict::Follows);
    }

    #[test]
    fn a_truncate_minds_rows_that_came_since() {
        use Operation::Truncate;
        assert_eq!(verdict_of(Truncate, None, None, found(None, Some(true))), Verdict::Conflict);
        assert_eq!(verdict_of(Truncate, None, None, found(None, Some(false))), Verdict::Expected);
    }
}
