//! The order in which the rows of a set are given to the server: near that of their keys in the index.
//!
//! Only speed depends on it, so the order of the index is guessed and not asked for: numbers by their length and then by
//! their digits, everything else by its bytes.

use irongate_trail::{Row, Tuple, Value};

use crate::batch::{Batch, Change};
use crate::statement::key_tuple;
use crate::table::Plan;

/// `int8`, `int2`, `int4`, `oid`, `numeric`.
const NUMBERS: [u32; 5] = [20, 21, 23, 26, 1700];

/// More columns of a key seldom tell apart what two did not.
const COLUMNS: usize = 2;

/// By length first where it counts, then by bytes.
type Rank<'a> = (usize, &'a [u8]);

/// Sorts rows of one table by their keys.
pub(super) fn sort(batch: &Batch, plan: &Plan, rows: &mut [u32]) {
    let mut columns = [(0, false); COLUMNS];
    let mut count = 0;
    for (column, _) in plan.in_key.iter().enumerate().filter(|(_, in_key)| **in_key).take(COLUMNS) {
        let kind = plan.columns[column].map(|place| plan.table.columns[place].type_oid);
        columns[count] = (column, kind.is_some_and(|kind| NUMBERS.contains(&kind)));
        count += 1;
    }
    let columns = &columns[..count];
    let ranked = |row: u32| match batch.change(row as usize) {
        Change::Row { row: change, .. } => (rank(change, columns), row),
        Change::Truncate { .. } => (Default::default(), row),
    };
    let mut ranked: Vec<([Rank<'_>; COLUMNS], u32)> = rows.iter().map(|row| ranked(*row)).collect();
    ranked.sort_unstable();
    for (row, (_, ranked)) in rows.iter_mut().zip(ranked) {
        *row = ranked;
    }
}

fn rank<'a>(row: Row<'a>, columns: &[(usize, bool)]) -> [Rank<'a>; COLUMNS] {
    let mut ranks = [Rank::default(); COLUMNS];
    let mut wanted = columns.iter().zip(&mut ranks).peekable();
    for (place, value) in key_tuple(row).into_iter().flat_map(Tuple::values).enumerate() {
        let Some(((column, by_length), rank)) = wanted.peek_mut() else { break };
        if place == *column {
            if let Value::Text(bytes) | Value::Binary(bytes) = value {
                **rank = (if *by_length { bytes.len() } else { 0 }, bytes);
            }
            wanted.next();
        }
    }
    ranks
}
