//! The later group's early changes before the whole first group, which is as far out of order as they can come.

use std::collections::BTreeMap;

use irongate_trail::{Begin, Commit, CommitLsn, Item, Lsn, ResumeLsn, Timestamp, TupleBuilder};
use proptest::prelude::*;

use super::*;
use crate::compile::tests::{plan, relation};

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert,
    Update,
    Delete,
    /// To another key.
    Move(u32),
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// A batch of what of the history can happen behind what is there, by key.
fn batch(there: &mut BTreeMap<u32, ()>, history: &[(u32, Op)], first: usize) -> Batch {
    let relation = relation();
    let lsn = CommitLsn(Lsn(1));
    let mut batch = Batch::default();
    let (previous, commit_time) = (CommitLsn(Lsn(0)), Timestamp(0));
    batch.take(Item::Begin(Begin { xid: 1, commit_lsn: lsn, commit_time, origin: None, previous })).unwrap();
    for (number, (id, op)) in history.iter().enumerate() {
        let value = (first + number).to_string();
        let tuple = |id: &u32| TupleBuilder::new().text(&value).text(&id.to_string());
        let key = TupleBuilder::new().value(Value::Null).text(&id.to_string());
        let (new, moved);
        let row = match op {
            Op::Insert if there.insert(*id, ()).is_none() => {
                new = tuple(id);
                Row::Insert { new: new.as_tuple() }
            }
            Op::Update if there.contains_key(id) => {
                new = tuple(id);
                Row::Update { old: None, new: new.as_tuple() }
            }
            Op::Delete if there.remove(id).is_some() => Row::Delete { old: Old::Key(key.as_tuple()) },
            Op::Move(to) if there.contains_key(id) && !there.contains_key(to) => {
                there.remove(id);
                there.insert(*to, ());
                moved = tuple(to);
                Row::Update { old: Some(Old::Key(key.as_tuple())), new: moved.as_tuple() }
            }
            _ => continue,
        };
        batch.take(Item::Row { relation: &relation, row }).unwrap();
    }
    let changes = batch.len() as u64;
    batch
        .take(Item::Commit(Commit { commit_lsn: lsn, end_lsn: ResumeLsn(Lsn(2)), commit_time, changes }))
        .unwrap();
    batch
}

/// Does what a statement does; false where the server would refuse it or find nothing.
fn change(table: &mut Table, row: Row<'_>) -> bool {
    let text = |tuple: Tuple<'_>, column: usize| match tuple.values().nth(column) {
        Some(Value::Text(text)) => text.to_vec(),
        _ => Vec::new(),
    };
    let Some(key) = key_tuple(row).map(|tuple| text(tuple, 1)) else { return false };
    match (row, row.new()) {
        (Row::Insert { .. }, Some(new)) => table.insert(key, text(new, 0)).is_none(),
        (Row::Update { .. }, Some(new)) => {
            table.remove(&key).is_some() && table.insert(text(new, 1), text(new, 0)).is_none()
        }
        _ => table.remove(&key).is_some(),
    }
}

fn apply(table: &mut Table, batch: &Batch, takes: impl Fn(usize) -> bool) -> bool {
    (0..batch.len()).filter(|index| takes(*index)).all(|index| match batch.change(index) {
        Change::Row { row, .. } => change(table, row),
        Change::Truncate { .. } => false,
    })
}

fn history(keys: u32) -> impl Strategy<Value = Vec<(u32, Op)>> {
    let op = prop_oneof![
        3 => Just(Op::Insert),
        4 => Just(Op::Update),
        2 => Just(Op::Delete),
        2 => (0..keys).prop_map(Op::Move)
    ];
    prop::collection::vec((0..keys, op), 0..40)
}

proptest! {
    #[test]
    fn early_changes_may_come_before_the_first_group(
        before in history(20), first in history(20), second in history(20), third in history(20),
    ) {
        let mut there = BTreeMap::new();
        let batches = [&before, &first, &second, &third].map(|history| batch(&mut there, history, 0));
        let [before, first, second, third] = &batches;
        let plans = [plan(1)];
        let mut expected = Table::new();
        for batch in &batches {
            prop_assert!(apply(&mut expected, batch, |_| true));
        }
        let mut rows = Rows::default();
        rows.add(first, &plans);
        let late = rows.late(second, &plans);
        rows.add(second, &plans);
        let later = rows.late(third, &plans);
        let mut table = Table::new();
        prop_assert!(apply(&mut table, before, |_| true));
        prop_assert!(apply(&mut table, third, |change| !later[change]));
        prop_assert!(apply(&mut table, second, |change| !late[change]));
        prop_assert!(apply(&mut table, first, |_| true));
        prop_assert!(apply(&mut table, second, |change| late[change]));
        prop_assert!(apply(&mut table, third, |change| later[change]));
        prop_assert_eq!(table, expected);
    }
}

#[test]
fn a_table_whose_rows_are_told_in_two_ways_does_not_go_beside_others() {
    let by_id = plan(1);
    let mut relation = (*relation()).clone();
    // The key has become another: what the target has a unique index on as well.
    relation.columns[0].key = true;
    relation.columns[1].key = false;
    let table = crate::table::TargetTable { unique: vec![vec![1], vec![0]], ..by_id.table.clone() };
    let by_value = Arc::new(Plan::new(&Arc::new(relation), table, None, None).unwrap());
    assert!(by_value.by_set && by_id.by_set);
    // The same value is written in more characters now.
    let mut wider = (*crate::compile::tests::relation()).clone();
    wider.columns[1].type_modifier = 12;
    let wider = [Arc::new(Plan::new(&Arc::new(wider), by_id.table.clone(), None, None).unwrap())];
    // Its labels can be given other names.
    let mut table = by_id.table.clone();
    table.columns[1].type_oid = 20_000;
    let by_enum = [Arc::new(Plan::new(&crate::compile::tests::relation(), table, None, None).unwrap())];
    let (one, other) = ([Arc::clone(&by_id)], [Arc::clone(&by_value)]);
    for (first, later, fits) in [
        (&one[..], vec![&one[..], &one[..]], true),
        (&one, vec![&other], false),
        (&one, vec![&one, &other], false),
        (&one, vec![&wider], false),
        (&[], vec![&by_enum], false),
        (&[by_id.clone(), by_value.clone()], vec![&one], false),
        (&[], vec![&[by_id.clone(), by_value.clone()]], false),
    ] {
        let mut tables = Tables::default();
        tables.of_first(first);
        assert_eq!(later.into_iter().all(|plans| tables.take(plans)), fits);
    }
}

#[test]
fn a_number_that_the_target_gives_itself_keeps_the_order_of_one_session() {
    let known = plan(1);
    let own = |default| {
        let mut table = known.table.clone();
        let mut column = table.columns[0].clone();
        (column.name, column.default) = ("n".to_owned(), default);
        table.columns.push(column);
        Arc::new(Plan::new(&relation(), table, None, None).unwrap())
    };
    assert!(Tables::default().take(&[own(false)]));
    assert!(!Tables::default().take(&[own(true)]));
}

#[test]
fn what_a_late_change_concerns_is_late_and_nothing_else() {
    let mut there = BTreeMap::from([(1, ()), (5, ()), (7, ())]);
    let plans = [plan(1)];
    let mut rows = Rows::default();
    rows.add(&batch(&mut there, &[(1, Op::Update)], 0), &plans);
    let second = [
        (5, Op::Update),
        (1, Op::Move(9)),
        (9, Op::Update),
        (7, Op::Move(1)),
        (7, Op::Insert),
        (5, Op::Delete),
    ];
    let late = rows.late(&batch(&mut there, &second, 9), &plans);
    assert_eq!(late, [false, true, true, true, true, false]);
}
