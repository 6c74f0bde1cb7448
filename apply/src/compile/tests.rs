//! Sets beside the same changes one after the other, over random histories of one table.

use std::collections::{BTreeMap, HashSet};

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Item, Lsn, Old, Relation, ReplicaIdentity, ResumeLsn, Timestamp,
    TupleBuilder,
};
use proptest::prelude::*;

use super::*;
use crate::table::{TargetColumn, TargetTable};

/// What happens to a key next; what cannot happen to it is left out of the history.
#[derive(Clone, Copy, Debug)]
enum Op {
    Insert,
    Update,
    /// Its value was too long to be sent.
    UpdateKept,
    Delete,
}

pub(crate) fn relation() -> Arc<Relation> {
    let column = |name: &str, key, type_oid| Column {
        name: name.into(),
        key,
        type_oid,
        type_modifier: -1,
        type_name: None,
    };
    Arc::new(Relation {
        id: 1,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![column("v", false, 25), column("id", true, 23)],
    })
}

/// With so many unique indexes, the primary key among them.
pub(crate) fn plan(constraints: usize) -> Arc<Plan> {
    let column = |name: &str, type_oid| TargetColumn {
        name: name.into(),
        type_oid,
        type_modifier: -1,
        cast: "text".into(),
        cast_is_function: false,
        domain: false,
        equals: Some("OPERATOR(pg_catalog.=)".into()),
        collation: None,
        has_spellings: false,
        not_null: true,
        generated: false,
        default: false,
        identity_always: false,
    };
    let table = TargetTable {
        schema: "public".into(),
        name: "t".into(),
        partitioned: false,
        columns: vec![column("v", 25), column("id", 23)],
        unique: vec![vec![1]],
        constraints,
        has_triggers: false,
        has_rules: false,
        row_security: false,
    };
    Arc::new(Plan::new(&relation(), table, None, None).unwrap())
}

/// A batch of what of the history can happen.
fn batch(history: &[(u32, Op)]) -> Batch {
    let relation = relation();
    let lsn = CommitLsn(Lsn(1));
    let mut batch = Batch::default();
    let begin = Begin {
        xid: 1,
        commit_lsn: lsn,
        commit_time: Timestamp(0),
        origin: None,
        previous: CommitLsn(Lsn(0)),
    };
    batch.take(Item::Begin(begin)).unwrap();
    let mut there = HashSet::new();
    for (number, (id, op)) in history.iter().enumerate() {
        let (id, value) = (id.to_string(), number.to_string());
        let whole = TupleBuilder::new().text(&value).text(&id);
        let kept = TupleBuilder::new().value(Value::Unchanged).text(&id);
        let key = TupleBuilder::new().value(Value::Null).text(&id);
        let row = match op {
            Op::Insert if there.insert(id.clone()) => Row::Insert { new: whole.as_tuple() },
            Op::Update if there.contains(&id) => Row::Update { old: None, new: whole.as_tuple() },
            Op::UpdateKept if there.contains(&id) => Row::Update { old: None, new: kept.as_tuple() },
            Op::Delete if there.remove(&id) => Row::Delete { old: Old::Key(key.as_tuple()) },
            _ => continue,
        };
        batch.take(Item::Row { relation: &relation, row }).unwrap();
    }
    let commit = Commit {
        commit_lsn: lsn,
        end_lsn: ResumeLsn(Lsn(2)),
        commit_time: Timestamp(0),
        changes: batch.len() as u64,
    };
    batch.take(Item::Commit(commit)).unwrap();
    batch
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// Does with a row what its statement does; false where the server would refuse it or find nothing. An update that has
/// taken the place of an insert is inserted.
fn change(table: &mut Table, batch: &Batch, row: u32, kind: Option<&SetKind>) -> bool {
    let Change::Row { row, .. } = batch.change(row as usize) else { return false };
    let text = |tuple: Tuple<'_>, column: usize| match tuple.values().nth(column) {
        Some(Value::Text(text)) => Some(text.to_vec()),
        _ => None,
    };
    let Some(key) = key_tuple(row).and_then(|tuple| text(tuple, 1)) else { return false };
    let value = row.new().and_then(|tuple| text(tuple, 0));
    let inserts = kind.map_or(matches!(row, Row::Insert { .. }), |kind| *kind == SetKind::Insert);
    match row {
        Row::Delete { .. } => table.remove(&key).is_some(),
        _ if inserts => value.is_some_and(|value| table.insert(key, value).is_none()),
        _ => match (table.get_mut(&key), value) {
            (Some(there), Some(value)) => {
                *there = value;
                true
            }
            (there, _) => there.is_some(),
        },
    }
}

fn compare(history: &[(u32, Op)], constraints: usize) -> Result<usize, TestCaseError> {
    let batch = batch(history);
    let (mut plain, mut by_sets) = (Table::new(), Table::new());
    for row in 0..batch.len() as u32 {
        prop_assert!(change(&mut plain, &batch, row, None));
    }
    let steps = compile(&batch, &[plan(constraints)]);
    for step in &steps {
        match step {
            Step::Alone(row) => prop_assert!(change(&mut by_sets, &batch, *row, None)),
            Step::Set { rows, kind, .. } => {
                let keys: HashSet<Vec<u8>> = rows
                    .iter()
                    .filter_map(|row| match batch.change(*row as usize) {
                        Change::Row { row, .. } => key_tuple(row).map(|tuple| tuple.as_bytes().to_vec()),
                        Change::Truncate { .. } => None,
                    })
                    .collect();
                prop_assert_eq!(keys.len(), rows.len(), "a key twice in one statement");
                for row in rows {
                    prop_assert!(
                        change(&mut by_sets, &batch, *row, Some(kind)),
                        "row {} in {:?}",
                        row,
                        steps
                    );
                }
            }
        }
    }
    prop_assert_eq!(plain, by_sets);
    Ok(steps.len())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => Just(Op::Insert), 3 => Just(Op::Update), 1 => Just(Op::UpdateKept), 2 => Just(Op::Delete)]
}

proptest! {
    #[test]
    fn sets_leave_what_single_changes_leave(
        history in prop::collection::vec((0_u32..12, op()), 0..200),
        constraints in 1_usize..3,
    ) {
        compare(&history, constraints)?;
    }
}

#[test]
fn the_sets_of_a_table_are_no_more_than_the_changes_of_one_row() {
    // Each of a thousand rows comes, goes and comes again, one after the other.
    let history: Vec<(u32, Op)> =
        (0..1000).flat_map(|id| [Op::Insert, Op::Delete, Op::Insert].map(|op| (id, op))).collect();
    assert_eq!(compare(&history, 1).unwrap(), 3);
}

#[test]
fn updated_rows_stand_in_the_order_of_their_keys_unless_another_index_could_object() {
    let ids = [30, 4, 111, 7, 5];
    let inserts = ids.iter().map(|id| (*id, Op::Insert));
    let updates = ids.iter().map(|id| (*id, Op::UpdateKept));
    let batch = batch(&inserts.chain(updates).collect::<Vec<_>>());
    let last = |constraints| match compile(&batch, &[plan(constraints)]).pop() {
        Some(Step::Set { rows, .. }) => rows,
        other => panic!("{other:?}"),
    };
    assert_eq!(last(1), [6, 9, 8, 5, 7]);
    assert_eq!(last(2), [5, 6, 7, 8, 9]);
}
