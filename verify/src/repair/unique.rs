//! Values that are unique beside the key, and may go from row to row in a circle.
//!
//! A row of which such a value differs is taken out and put in again. A table with columns that were not compared would lose
//! them by that: its rows are changed in place, and the server refuses where values go in a circle.

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::sql::quote_literal;

use crate::difference::Difference;
use crate::error::Error;
use crate::flow::Name;
use crate::side::{Scope, Side, Which, field};
use crate::table::Plan;

/// The columns of each table, by its name at the source, whose values no two rows may share.
#[derive(Clone, Default, Debug)]
pub(super) struct Unique(BTreeMap<Name, BTreeSet<String>>);

impl Unique {
    /// Asks the side that is written.
    pub(super) async fn of(
        side: &mut Side,
        which: Which,
        plans: &BTreeMap<Name, Plan>,
    ) -> Result<Self, Error> {
        let mut found = BTreeMap::new();
        for (name, plan) in plans.iter().filter(|(_, plan)| !plan.key.is_empty()) {
            let compared: Vec<_> = plan.columns.iter().map(|column| quote_literal(&column.name)).collect();
            let sql = format!(
                "SELECT a.attname FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = {table}::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
                    AND EXISTS (SELECT FROM pg_catalog.pg_index i
                         WHERE i.indrelid = a.attrelid AND (i.indisunique OR i.indisexclusion)
                           AND (a.attnum = ANY (i.indkey) OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute u
                         WHERE u.attrelid = a.attrelid AND u.attnum > 0 AND NOT u.attisdropped
                           AND u.attgenerated = '' AND u.attname NOT IN ({compared}))",
                table = quote_literal(&plan.name(which).quoted()),
                compared = compared.join(", "),
            );
            let doing = format!("read the unique values of table {}", plan.name(which));
            let rows = side.ask(Scope::Now, &doing, &sql).await?;
            found.insert(name.clone(), rows.iter().map(|row| field(row, 0).to_owned()).collect());
        }
        Ok(Self(found))
    }

    /// Whether a unique value of a row differs, so that it has to be taken out before it is put in again.
    pub(super) fn is_apart(&self, difference: &Difference) -> bool {
        let (Some(source), Some(target)) = (&difference.source, &difference.target) else { return false };
        let columns = self.0.get(&difference.table);
        columns.is_some_and(|columns| columns.iter().any(|name| source.get(name) != target.get(name)))
    }
}
