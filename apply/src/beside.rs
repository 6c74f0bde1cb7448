//! Working side by side: where more than one group of transactions has come together in the trail, the next ones are applied
//! while the first is, each by a session of its own, and committed in the source's order.
//!
//! All that must be shown is that what is committed is what one session would have left. Let A be a group and B one behind
//! it.
//!
//! *In the right order.* B is committed when A's commit has been answered, and only if the checkpoint stands where A has left
//! it. So whoever looks sees the states of the source, and after any failure what is there is a beginning of the stream.
//!
//! *The same rows.* B's changes of rows that A changes too are *late*: they are sent behind A's commit. So is a change of B
//! of a row that a late change concerns. The others, which are sent at once, and the late ones concern different rows, so it
//! makes no difference which of the two come first. A row is told by the text of its key. Within a stream that tells the rows
//! of a table by one key, a row keeps its text until a change of its key, or a delete and an insert, of which both texts are
//! known; so within B nothing is overlooked. (Keys of types whose texts can become others by a change elsewhere, such as
//! labels of an enum, do not go this way.) Two source tables that are one at the target, or a table whose key has become
//! another in between, could tell one row by two keys: those groups do not go beside others. Of what is overlooked between A
//! and B (another spelling of one key after a delete, a unique index besides the key), the server takes care, in one of these
//! ways:
//!
//! * B meets what A has changed and not committed: it waits. Behind A's commit it goes on with the row as A has left it.
//! * A meets what B has changed: it waits, and B, which asks who waits for it, is taken back.
//! * B finds a row as A has not yet made it. Each statement says by its key which rows it changes, with values that depend on
//!   nothing that it reads, and must change as many as it should: an insert finds the key still there, an update or delete
//!   finds no row, and B is taken back.
//!
//! So only tables go by this way whose changes are all told by a unique key, or are nothing but inserts, and of which neither
//! trigger nor rule nor policy watches rows, nor a default of a column that only the target has, such as a number that rises.
//! Foreign keys are not checked in replica role.
//!
//! *Nobody waits for long.* The early statements of a session beside have a limit; when they are done it asks twice a second
//! whether anybody waits for it, until its turn has come to commit. It waits itself for a lock for much less than the time
//! after which the server looks for deadlocks, so it is seldom part of one. Where A is the one that a deadlock ends, it is
//! applied again, and nothing beside it for a while.
//!
//! *Exactly once.* As for work ahead (`crate::ahead`): rows and checkpoint are committed together, the checkpoint only behind
//! the right one, and whoever begins with the target's memory first waits for the end of all sessions beside.
//!
//! What is taken back is read again and applied plainly; that costs time and nothing else.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::HashSet;
use irongate_trail::{Old, Row, Tuple, Value};

use crate::batch::{Batch, Change};
use crate::compile::hash_value;
use crate::statement::{changes_key, key_tuple};
use crate::table::{Key, Plan};

/// What tells the rows of a target table apart: places of its columns, and the source's types with their modifiers, in the
/// order of the source's columns; `None` where that is more than one thing, or a value's text can become another by itself.
type Told = Option<Vec<(usize, u32, i32)>>;

/// Types whose values are names of things, which can be given others: `regproc`, `regclass` and the like.
const NAMES: [u32; 11] = [24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// The first type that is not the server's own: enums, whose labels can be given other names, are behind it.
const FIRST_OWN_TYPE: u32 = 16384;

/// Tables of the target, and what tells their rows apart in the groups that are looked at.
#[derive(Default)]
pub(crate) struct Tables(HashMap<(String, String), Told>);

impl Tables {
    /// Takes note of the tables of the first group, which may be any.
    pub(crate) fn of_first(&mut self, plans: &[Arc<Plan>]) {
        for plan in plans {
            let told = told(plan);
            let known = self.0.entry(name(plan)).or_insert_with(|| told.clone());
            if *known != told {
                *known = None;
            }
        }
    }

    /// Whether a later group of these tables can go beside those before it.
    pub(crate) fn take(&mut self, plans: &[Arc<Plan>]) -> bool {
        plans.iter().all(|plan| {
            let told = told(plan);
            let known = self.0.entry(name(plan)).or_insert_with(|| told.clone());
            is_plain(plan) && known.is_some() && *known == told
        })
    }
}

fn name(plan: &Plan) -> (String, String) {
    (plan.table.schema.clone(), plan.table.name.clone())
}

fn told(plan: &Plan) -> Told {
    let column = |column: usize| {
        let place = plan.columns[column]?;
        let kind = plan.table.columns[place].type_oid;
        let source = &plan.relation.columns[column];
        let is_steady = kind < FIRST_OWN_TYPE && !NAMES.contains(&kind);
        is_steady.then_some((place, source.type_oid, source.type_modifier))
    };
    match &plan.key {
        Key::Columns { .. } => (0..plan.columns.len()).filter(|at| plan.in_key[*at]).map(column).collect(),
        Key::Nothing => Some(Vec::new()),
        Key::WholeRow => None,
    }
}

/// Whether changes of the table can be told apart by their keys, and nobody watches.
fn is_plain(plan: &Plan) -> bool {
    let is_watched = plan.barrier || plan.table.row_security || plan.has_own_defaults();
    // Without a key nothing but inserts can come.
    !is_watched && (plan.key == Key::Nothing || plan.by_set)
}

/// Rows of the target, told by their keys.
#[derive(Default)]
pub(crate) struct Rows {
    keys: HashSet<u64, foldhash::fast::FixedState>,
    hasher: foldhash::fast::FixedState,
}

impl Rows {
    /// Adds the rows that a group changes.
    pub(crate) fn add(&mut self, batch: &Batch, plans: &[Arc<Plan>]) {
        for change in batch.changes() {
            if let Change::Row { relation, row } = change {
                let (before, after) = self.of(&plans[relation], row);
                self.keys.extend(before.into_iter().chain(after));
            }
        }
    }

    /// Which changes of a later group must wait for those whose rows these are: one truth value for each change. The rows of
    /// those are added. The group's tables are taken ([`Tables::take`]), and it has nothing but rows.
    pub(crate) fn late(&mut self, batch: &Batch, plans: &[Arc<Plan>]) -> Vec<bool> {
        let mut late = Vec::with_capacity(batch.len());
        for change in batch.changes() {
            let Change::Row { relation, row } = change else {
                late.push(true);
                continue;
            };
            let (before, after) = self.of(&plans[relation], row);
            let rows = before.into_iter().chain(after);
            let is_late = rows.clone().any(|row| self.keys.contains(&row));
            if is_late {
                rows.for_each(|row| _ = self.keys.insert(row));
            }
            late.push(is_late);
        }
        late
    }

    /// The row that a change is about, and the one that it becomes where that has another key. Nothing where rows are only
    /// added.
    fn of(&self, plan: &Plan, row: Row<'_>) -> (Option<u64>, Option<u64>) {
        if !matches!(plan.key, Key::Columns { .. }) {
            return (None, None);
        }
        let moved = changes_key(plan, row).then(|| self.hash(plan, row.old().map(Old::tuple), row.new()));
        (Some(self.hash(plan, None, key_tuple(row))), moved)
    }

    /// Of the key in a row. A value that was not sent is the one before it.
    fn hash(&self, plan: &Plan, before: Option<Tuple<'_>>, row: Option<Tuple<'_>>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(plan.table.schema.as_bytes());
        hasher.write_u8(0);
        hasher.write(plan.table.name.as_bytes());
        let mut old = before.into_iter().flat_map(Tuple::values);
        for (column, value) in row.into_iter().flat_map(Tuple::values).enumerate() {
            let old = old.next();
            if plan.in_key.get(column) != Some(&true) {
                continue;
            }
            let value = if value == Value::Unchanged { old.unwrap_or(value) } else { value };
            hash_value(&mut hasher, value);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests;
