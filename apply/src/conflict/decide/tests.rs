use super::*;

const OLD: Timestamp = Timestamp(10);
const NOW: Timestamp = Timestamp(20);
const LATE: Timestamp = Timestamp(30);

fn terms(rule: Rule) -> Terms {
    Terms { rule, tie_to_incoming: false, additive: false, tombstone_age: Duration::from_secs(1) }
}

fn change(operation: Operation, base: Option<Base>) -> Incoming {
    Incoming { operation, at: NOW, base }
}

fn conflict(kind: Kind, resolution: Resolution) -> Decision {
    Decision::Conflict(kind, resolution)
}

#[test]
fn every_kind_under_every_rule() {
    use Decision::Plain;
    use Operation::{Delete, Insert, Update};
    use Resolution::{Incoming, Local, Queued, SentBack};
    let here = Writer::Here;
    let row = |at| Found::Row(here(at), None);
    let same = |at| Found::Row(here(at), Some(true));
    let differs = |at| Found::Row(here(at), Some(false));
    let gone = |at| Found::Gone(here(at));
    let own = Some(Base::Own);
    let seen = |at| Some(Base::Seen(at));
    // Found, change, base; then what latest, keep, overwrite and queue make of it.
    let latest = |kind, resolution| conflict(kind, resolution);
    let cases = [
        (Found::Nothing, Insert, None, [Plain; 4]),
        (Found::Row(Writer::There, None), Update, None, [Plain; 4]),
        (Found::Row(Writer::Unknown, None), Delete, None, [Plain; 4]),
        (Found::Gone(Writer::There), Insert, None, [Plain; 4]),
        // Made in knowledge of what is here.
        (row(OLD), Update, seen(OLD), [Plain; 4]),
        (row(OLD), Delete, seen(OLD), [Plain; 4]),
        (gone(OLD), Insert, seen(OLD), [Plain; 4]),
        (same(OLD), Update, None, [Plain; 4]),
        // The instantiated copy of a row has a later time than the row.
        (row(OLD), Update, seen(NOW), [Plain; 4]),
        // In ignorance of it.
        (
            row(OLD),
            Update,
            own,
            [Incoming, Local, Incoming, Queued].map(|resolution| conflict(Kind::UpdateOrigin, resolution)),
        ),
        (
            differs(OLD),
            Update,
            own,
            [Incoming, Local, Incoming, Queued].map(|resolution| conflict(Kind::UpdateDiffers, resolution)),
        ),
        (
            row(LATE),
            Update,
            seen(OLD),
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::UpdateOrigin, resolution)),
        ),
        (
            differs(LATE),
            Delete,
            own,
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::DeleteDiffers, resolution)),
        ),
        (
            row(LATE),
            Delete,
            own,
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::DeleteOrigin, resolution)),
        ),
        (
            row(OLD),
            Insert,
            None,
            [Incoming, Local, Incoming, Queued].map(|resolution| conflict(Kind::InsertExists, resolution)),
        ),
        (
            row(LATE),
            Insert,
            None,
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::InsertExists, resolution)),
        ),
        (
            gone(OLD),
            Update,
            own,
            [Incoming, Local, Incoming, Queued].map(|resolution| conflict(Kind::UpdateMissing, resolution)),
        ),
        (
            gone(LATE),
            Update,
            own,
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::UpdateMissing, resolution)),
        ),
        (
            gone(LATE),
            Delete,
            own,
            [Local, Local, Incoming, Queued].map(|resolution| conflict(Kind::DeleteMissing, resolution)),
        ),
        (
            Found::Nothing,
            Update,
            own,
            [Incoming, Incoming, Incoming, Queued]
                .map(|resolution| conflict(Kind::UpdateMissing, resolution)),
        ),
        (
            gone(OLD),
            Insert,
            own,
            [Plain, latest(Kind::InsertDeleted, SentBack), Plain, latest(Kind::InsertDeleted, Queued)],
        ),
        (
            gone(LATE),
            Insert,
            own,
            [
                latest(Kind::InsertDeleted, Local),
                latest(Kind::InsertDeleted, SentBack),
                Plain,
                latest(Kind::InsertDeleted, Queued),
            ],
        ),
    ];
    for (found, operation, base, expected) in cases {
        let rules = [Rule::Latest, Rule::Keep, Rule::Overwrite, Rule::Queue];
        for (rule, expected) in rules.into_iter().zip(expected) {
            let decided = decide(&terms(rule.clone()), found, change(operation, base));
            assert_eq!(decided, expected, "{rule:?} {operation:?} {base:?} on {found:?}");
        }
    }
}

#[test]
fn a_row_with_the_values_that_the_change_found_is_kept_if_it_is_later_all_the_same() {
    // x became y and x again, here, later than the change that found x.
    let found = Found::Row(Writer::Here(LATE), Some(true));
    let decided = decide(&terms(Rule::Latest), found, change(Operation::Update, None));
    assert_eq!(decided, conflict(Kind::UpdateOrigin, Resolution::Local));
    // Only the version that it says tells that it did not know.
    let decided = decide(&terms(Rule::Keep), found, change(Operation::Update, Some(Base::Seen(OLD))));
    assert_eq!(decided, conflict(Kind::UpdateOrigin, Resolution::Local));
}

#[test]
fn of_two_versions_of_a_key_both_sites_prefer_the_same() {
    use Operation::{Delete, Insert, Update};
    // Site a has done `one`, site b `other`; each meets the other's.
    let state = |operation, at| match operation {
        Delete => Found::Gone(Writer::Here(at)),
        _ => Found::Row(Writer::Here(at), None),
    };
    let wins = |decision| matches!(decision, Decision::Plain | Decision::Conflict(_, Resolution::Incoming));
    for one in [Insert, Update, Delete] {
        for other in [Insert, Update, Delete] {
            for (at_a, at_b) in [(OLD, NOW), (NOW, OLD), (NOW, NOW)] {
                let at_site = |tie| Terms { tie_to_incoming: tie, ..terms(Rule::Latest) };
                let to_a = Incoming { operation: other, at: at_b, base: None };
                let to_b = Incoming { operation: one, at: at_a, base: None };
                let b_wins_at_a = wins(decide(&at_site(false), state(one, at_a), to_a));
                let a_wins_at_b = wins(decide(&at_site(true), state(other, at_b), to_b));
                assert_ne!(b_wins_at_a, a_wins_at_b, "{one:?} at {at_a}, {other:?} at {at_b}");
            }
        }
    }
}

#[test]
fn a_tombstone_is_forgotten_when_the_change_is_much_later() {
    let late = Incoming { operation: Operation::Insert, at: Timestamp(2_000_000), base: None };
    assert_eq!(decide(&terms(Rule::Keep), Found::Gone(Writer::Here(OLD)), late), Decision::Plain);
}

#[test]
fn where_differences_are_added_a_delete_wins_at_either_site() {
    let additive = |rule| Terms { additive: true, ..terms(rule) };
    for rule in [Rule::Latest, Rule::Keep, Rule::Overwrite] {
        let row = Found::Row(Writer::Here(LATE), None);
        let decided = decide(&additive(rule.clone()), row, change(Operation::Delete, Some(Base::Own)));
        assert_eq!(decided, conflict(Kind::DeleteOrigin, Resolution::Incoming), "{rule:?}");
        let gone = Found::Gone(Writer::Here(OLD));
        let decided = decide(&additive(rule.clone()), gone, change(Operation::Update, Some(Base::Own)));
        assert_eq!(decided, conflict(Kind::UpdateMissing, Resolution::Local), "{rule:?}");
    }
}
