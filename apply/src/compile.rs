//! From changes in source order to as few statements as keep their meaning.
//!
//! Rows of one table that were changed in the same way are gathered into a set, which one statement applies. What must
//! hold: the rows are in the end what they would be had each change been applied in its turn. Three rules keep it so.
//!
//! 1. *Same row.* Two changes of the same key never stand in sets that could be applied in the wrong order: the second
//!    goes into a set behind that of the first, of its kind, or begins one. So the sets of a table are as many as one
//!    row has changes, and not as many as there are rows that were changed twice. One exception costs nothing: an update
//!    that carries the whole new row simply takes the place of the insert or update before it.
//! 2. *Same table, other constraint.* Where a unique index besides the key could object to an order, sets are closed
//!    whenever the kind of change changes or a row comes again, so that the statements keep the source's order.
//! 3. *Somebody watches.* A table with triggers or rules that act is changed row by row, with everything before it
//!    applied before and everything behind it after.
//!
//! Rows of a set have different keys, so that any order of them gives the same. Where rule 2 does not ask for the source's,
//! updated and deleted rows stand in the order of their keys: the server then finds them in neighbouring pages.
//!
//! Foreign keys need no rule: they are not checked in replica role. Keys are compared by their bytes. Two spellings of
//! what the index takes for one key can therefore meet in one set; then fewer rows are changed than the set has, or the
//! index objects, and the caller falls back to the exact order. So the rules decide speed, and the row counts decide
//! correctness.

mod place;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;
use irongate_trail::{Row, Tuple, Value};

use crate::batch::{Batch, Change};
use crate::statement::{Written, changes_key, key_tuple, written};
use crate::table::{Key, Plan};

/// What a set does to its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SetKind {
    Insert,
    Update(Written),
    Delete,
}

/// One statement to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Rows, by index into the batch, of the table with this plan.
    Set { plan: usize, kind: SetKind, rows: Vec<u32> },
    /// One change, by itself.
    Alone(u32),
}

#[derive(Clone, Copy)]
struct Seen {
    hash: u64,
    row: u32,
    set: u32,
    at: u32,
}

/// A table's sets that are still open.
struct Open {
    plan: usize,
    sets: Vec<(SetKind, Vec<u32>)>,
    keys: HashTable<Seen>,
}

/// Compiles a batch; `plans` has one for each of the batch's relations.
pub(crate) fn compile(batch: &Batch, plans: &[Arc<Plan>]) -> Vec<Step> {
    compile_some(batch, plans, |_| true)
}

/// Compiles those changes of a batch that are taken, by index.
pub(crate) fn compile_some(batch: &Batch, plans: &[Arc<Plan>], takes: impl Fn(usize) -> bool) -> Vec<Step> {
    Compiler::new(batch, plans).run(takes)
}

struct Compiler<'a> {
    batch: &'a Batch,
    plans: &'a [Arc<Plan>],
    /// For each plan the first plan with the same table at the target.
    tables: Vec<usize>,
    /// What an update of a whole row writes, by plan.
    whole: Vec<Written>,
    open: Vec<Option<Open>>,
    steps: Vec<Step>,
    hasher: foldhash::fast::FixedState,
}

impl<'a> Compiler<'a> {
    fn new(batch: &'a Batch, plans: &'a [Arc<Plan>]) -> Self {
        let same = |a: &Plan, b: &Plan| a.table.schema == b.table.schema && a.table.name == b.table.name;
        let tables = plans.iter().map(|plan| plans.iter().position(|other| same(plan, other)).unwrap_or(0));
        let whole = plans.iter().map(|plan| {
            let writes = |column: &usize| {
                !plan.in_key[*column]
                    && plan.columns[*column].is_some_and(|place| !plan.table.columns[place].identity_always)
            };
            (0..plan.columns.len()).filter(writes).collect()
        });
        Self {
            batch,
            plans,
            tables: tables.collect(),
            whole: whole.collect(),
            open: (0..plans.len()).map(|_| None).collect(),
            steps: Vec::new(),
            hasher: foldhash::fast::FixedState::with_seed(0),
        }
    }

    fn run(mut self, takes: impl Fn(usize) -> bool) -> Vec<Step> {
        for index in (0..self.batch.len()).filter(|index| takes(*index)) {
            match self.batch.change(index) {
                Change::Row { relation, row } => self.row(index as u32, relation, row),
                Change::Truncate { .. } => {
                    self.close_all();
                    self.steps.push(Step::Alone(index as u32));
                }
            }
        }
        self.close_all();
        self.steps
    }

    fn row(&mut self, index: u32, plan_index: usize, row: Row<'a>) {
        let plan = &self.plans[plan_index];
        let table = self.tables[plan_index];
        if plan.barrier {
            self.close_all();
            self.steps.push(Step::Alone(index));
            return;
        }
        // A change of the stream's description of the table, or another source table with the same target.
        if self.open[table].as_ref().is_some_and(|open| open.plan != plan_index) {
            self.close(table);
        }
        let Some((kind, is_whole)) = self.kind(plan_index, row) else {
            self.close(table);
            self.steps.push(Step::Alone(index));
            return;
        };
        let plan = &self.plans[plan_index];
        let keyed = plan.by_set;
        let hash = if keyed { self.hash(plan, row) } else { 0 };
        if keyed
            && let Some(open) = &mut self.open[table]
            && let Some(seen) = open
                .keys
                .find_mut(hash, |seen| seen.hash == hash && same_key(plan, self.batch, seen.row, row))
        {
            let (before, rows) = &mut open.sets[seen.set as usize];
            let takes_place = is_whole
                && matches!(&kind, SetKind::Update(_))
                && (*before == SetKind::Insert || *before == kind);
            if takes_place {
                rows[seen.at as usize] = index;
                seen.row = index;
                return;
            }
            if plan.ordered {
                self.close(table);
            } else {
                (seen.set, seen.at) = push(&mut open.sets, seen.set as usize + 1, kind, index);
                seen.row = index;
                return;
            }
        }
        if plan.ordered
            && self.open[table].as_ref().is_some_and(|open| open.sets.last().is_some_and(|set| set.0 != kind))
        {
            self.close(table);
        }
        let open = self.open[table].get_or_insert_with(|| Open {
            plan: plan_index,
            sets: Vec::new(),
            keys: HashTable::new(),
        });
        let (set, at) = push(&mut open.sets, 0, kind, index);
        if keyed {
            open.keys.insert_unique(hash, Seen { hash, row: index, set, at }, |seen| seen.hash);
        }
    }

    /// The set that a row belongs in, and whether it carries the whole new row; `None` for one that goes alone.
    fn kind(&self, plan_index: usize, row: Row<'_>) -> Option<(SetKind, bool)> {
        let plan = &self.plans[plan_index];
        let is_text = |tuple: Tuple<'_>| !tuple.values().any(|value| matches!(value, Value::Binary(_)));
        match row {
            Row::Insert { new } => {
                let wanted = plan.inserts_by_set && !plan.columns.is_empty() && is_text(new);
                (wanted && !self.whole_is_empty(plan_index)).then_some((SetKind::Insert, true))
            }
            Row::Update { new, old } => {
                if !plan.by_set || plan.replaces || changes_key(plan, row) {
                    return None;
                }
                if !is_text(new) || old.is_some_and(|old| !is_text(old.tuple())) {
                    return None;
                }
                if new.values().any(|value| value == Value::Unchanged) {
                    return Some((SetKind::Update(written(plan, new, false)), false));
                }
                Some((SetKind::Update(self.whole[plan_index].clone()), true))
            }
            Row::Delete { old } => (plan.by_set && is_text(old.tuple())).then_some((SetKind::Delete, false)),
        }
    }

    /// Whether a row of the table has nothing to insert at all.
    fn whole_is_empty(&self, plan_index: usize) -> bool {
        self.plans[plan_index].columns.iter().all(Option::is_none)
    }

    fn hash(&self, plan: &Plan, row: Row<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for value in key_values(plan, row) {
            hash_value(&mut hasher, value);
        }
        hasher.finish()
    }

    fn close(&mut self, table: usize) {
        if let Some(open) = self.open[table].take() {
            let plan = open.plan;
            for (kind, mut rows) in open.sets {
                if kind != SetKind::Insert && !self.plans[plan].ordered {
                    place::sort(self.batch, &self.plans[plan], &mut rows);
                }
                self.steps.push(Step::Set { plan, kind, rows });
            }
        }
    }

    fn close_all(&mut self) {
        (0..self.open.len()).for_each(|table| self.close(table));
    }
}

/// Puts a row into the first set of its kind from `from` on: which, and where in it.
fn push(sets: &mut Vec<(SetKind, Vec<u32>)>, from: usize, kind: SetKind, row: u32) -> (u32, u32) {
    let set = match sets.iter().skip(from).position(|(known, _)| *known == kind) {
        Some(set) => from + set,
        None => {
            sets.push((kind, Vec::new()));
            sets.len() - 1
        }
    };
    let rows = &mut sets[set].1;
    rows.push(row);
    (set as u32, (rows.len() - 1) as u32)
}

/// Adds a value of a key to its hash.
pub(crate) fn hash_value(hasher: &mut impl Hasher, value: Value<'_>) {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
        Value::Null | Value::Unchanged => hasher.write_u8(0),
    }
}

fn key_values<'a>(plan: &'a Plan, row: Row<'a>) -> impl Iterator<Item = Value<'a>> {
    let tuple = key_tuple(row);
    let values = tuple.into_iter().flat_map(Tuple::values);
    // The places rise, so one pass finds them all.
    values.zip(&plan.in_key).filter_map(|(value, in_key)| in_key.then_some(value))
}

fn same_key(plan: &Plan, batch: &Batch, seen: u32, row: Row<'_>) -> bool {
    debug_assert!(matches!(plan.key, Key::Columns { .. }));
    match batch.change(seen as usize) {
        Change::Row { row: other, .. } => key_values(plan, other).eq(key_values(plan, row)),
        Change::Truncate { .. } => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
