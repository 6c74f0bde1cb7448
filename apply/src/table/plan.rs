//! How the rows of one source table, as the stream describes it at one point, reach their table at the target.

use std::collections::HashMap;
use std::sync::Arc;

use irongate_postgres::sql::qualified;
use irongate_trail::{Relation, ReplicaIdentity};

use super::TargetTable;
use crate::conflict::decide::Terms;
use crate::conflict::{ColumnRule, Conflicts};
use crate::error::Error;

/// What finds the row of an update or delete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// The given source columns, which a unique index of the target covers or not.
    Columns {
        /// Places in the source's tuples.
        columns: Vec<usize>,
        /// A unique index of the target has just these, so that at most one row fits.
        unique: bool,
    },
    /// The whole old row; the first of several alike.
    WholeRow,
    /// Nothing: the source sends no updates and deletes.
    Nothing,
}

/// How conflicts in a table are resolved.
#[derive(Debug)]
pub(crate) struct Resolving {
    /// The rule as it is configured.
    pub(crate) name: &'static str,
    pub(crate) terms: Terms,
    /// What becomes of each source column, where that is not the row's rule.
    pub(crate) columns: Vec<Option<ColumnRule>>,
}

/// A source table's way to the target.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) relation: Arc<Relation>,
    pub(crate) table: TargetTable,
    /// For each source column its place at the target; `None` for one that is not written.
    pub(crate) columns: Vec<Option<usize>>,
    /// For each source column the source's type, as SQL, where it is another than the target's: a value in binary says
    /// something else there, or nothing.
    pub(crate) foreign: Vec<Option<String>>,
    pub(crate) key: Key,
    /// Whether each source column belongs to the key.
    pub(crate) in_key: Vec<bool>,
    /// Several inserted rows may go in one statement.
    pub(crate) inserts_by_set: bool,
    /// Several updated or deleted rows may go in one statement.
    pub(crate) by_set: bool,
    /// An update must take the row out and put it in again: it has an identity column outside the key, which no update
    /// may set and of which nobody can say whether it changed.
    pub(crate) replaces: bool,
    /// Statements must keep the order of the rows: a unique index besides the key could object to another one.
    pub(crate) ordered: bool,
    /// Triggers or rules see each row: nothing of the batch may pass it.
    pub(crate) barrier: bool,
    /// Both sites write the table.
    pub(crate) conflict: Option<Resolving>,
}

impl Plan {
    /// Maps `relation` onto `table`.
    ///
    /// # Errors
    /// [`Error::MissingColumns`], with the statement that would mend it; [`Error::KeyColumn`].
    pub(crate) fn new(
        relation: &Arc<Relation>,
        table: TargetTable,
        key_columns: Option<&Vec<String>>,
        conflicts: Option<&Conflicts>,
    ) -> Result<Self, Error> {
        let places: HashMap<&str, usize> =
            table.columns.iter().enumerate().map(|(place, column)| (column.name.as_str(), place)).collect();
        let place = |name: &str| places.get(name).copied();
        let missing: Vec<_> = relation.columns.iter().filter(|c| place(&c.name).is_none()).collect();
        if !missing.is_empty() {
            return Err(Error::missing_columns(relation, &table, &missing));
        }
        let columns: Vec<Option<usize>> = relation
            .columns
            .iter()
            .map(|column| place(&column.name).filter(|place| !table.columns[*place].generated))
            .collect();
        let foreign = relation.columns.iter().zip(&columns).map(|(column, place)| {
            let known = tokio_postgres::types::Type::from_oid(column.type_oid)?;
            let differs = table.columns[(*place)?].type_oid != column.type_oid;
            differs.then(|| qualified("pg_catalog", known.name()))
        });
        let foreign = foreign.collect();
        let key = key_of(relation, &table, key_columns, &columns)?;
        let in_key = match &key {
            Key::Columns { columns: key, .. } => {
                (0..columns.len()).map(|column| key.contains(&column)).collect()
            }
            _ => vec![false; columns.len()],
        };
        let written = || columns.iter().flatten().map(|place| &table.columns[*place]);
        let barrier = table.has_triggers || table.has_rules;
        let inserts_by_set = !barrier && written().all(|column| !column.cast_is_function);
        let by_set = inserts_by_set && matches!(key, Key::Columns { unique: true, .. });
        let ordered = table.constraints > usize::from(by_set);
        let is_hidden = |column: usize| {
            !in_key[column] && columns[column].is_some_and(|place| table.columns[place].identity_always)
        };
        let replaces = (0..columns.len()).any(is_hidden);
        let conflict = conflicts
            .map(|conflicts| resolving(relation, &table, &key, &in_key, conflicts))
            .transpose()?
            .flatten();
        Ok(Self {
            relation: Arc::clone(relation),
            table,
            columns,
            foreign,
            key,
            in_key,
            inserts_by_set,
            by_set,
            replaces,
            ordered,
            barrier,
            conflict,
        })
    }

    /// Whether a column that only the target has gets a value of the target's making when a row comes.
    pub(crate) fn has_own_defaults(&self) -> bool {
        let is_own = |place: usize| !self.columns.contains(&Some(place));
        let mut columns = self.table.columns.iter().enumerate();
        columns.any(|(place, column)| column.default && !column.generated && is_own(place))
    }

    /// Whether differences are added in some column.
    pub(crate) fn is_additive(&self) -> bool {
        self.conflict.as_ref().is_some_and(|resolving| resolving.terms.additive)
    }

    /// The source's name of the table.
    pub(crate) fn source(&self) -> String {
        format!("{}.{}", self.relation.schema, self.relation.name)
    }
}

fn resolving(
    relation: &Relation,
    table: &TargetTable,
    key: &Key,
    in_key: &[bool],
    conflicts: &Conflicts,
) -> Result<Option<Resolving>, Error> {
    let Some(rule) = conflicts.rule_of(&relation.schema, &relation.name) else { return Ok(None) };
    let refused = |reason: String| Err(Error::Rule { table: table_name(relation), reason });
    if !matches!(key, Key::Columns { unique: true, .. }) {
        return refused("no unique key of the target tells its rows apart".to_owned());
    }
    for (name, rule) in &rule.columns {
        match relation.columns.iter().position(|column| column.name == *name) {
            None => return refused(format!("it has no column \"{name}\"")),
            Some(column) if in_key[column] => {
                return refused(format!("column \"{name}\" belongs to the key"));
            }
            Some(_)
                if *rule == ColumnRule::Difference && relation.replica_identity != ReplicaIdentity::Full =>
            {
                return refused(format!(
                    "differences of column \"{name}\" need the old values, and its replica identity is not FULL"
                ));
            }
            Some(_) if *rule == ColumnRule::Difference && takes_null(table, name) => {
                return refused(format!(
                    "differences of column \"{name}\" are added, and it takes NULL, to which nothing can be added"
                ));
            }
            Some(_) => {}
        }
    }
    let columns = relation.columns.iter().map(|column| rule.columns.get(&column.name).copied()).collect();
    let terms = Terms {
        rule: rule.rule.at(&conflicts.here),
        tie_to_incoming: conflicts.there < conflicts.here,
        additive: rule.columns.values().any(|rule| *rule == ColumnRule::Difference),
        tombstone_age: conflicts.tombstone_age,
    };
    Ok(Some(Resolving { name: rule.rule.name(), terms, columns }))
}

fn takes_null(table: &TargetTable, column: &str) -> bool {
    table.columns.iter().any(|known| known.name == column && !known.not_null)
}

fn key_of(
    relation: &Relation,
    table: &TargetTable,
    key_columns: Option<&Vec<String>>,
    columns: &[Option<usize>],
) -> Result<Key, Error> {
    let full = relation.replica_identity == ReplicaIdentity::Full;
    let source_place = |name: &str| relation.columns.iter().position(|column| column.name == name);
    let is_unique = |key: &[usize]| {
        let mut at: Vec<usize> = key.iter().filter_map(|column| columns[*column]).collect();
        at.sort_unstable();
        let same = |index: &Vec<usize>| {
            let mut index = index.clone();
            index.sort_unstable();
            index == at
        };
        table.unique.iter().any(same)
    };
    let usable = |key: &[usize]| {
        key.iter().all(|c| columns[*c].is_some_and(|place| table.columns[place].equals.is_some()))
    };
    if let Some(names) = key_columns {
        let mut key = Vec::new();
        for name in names {
            match source_place(name) {
                Some(place) if full || relation.columns[place].key => key.push(place),
                _ => return Err(Error::KeyColumn { table: table_name(relation), column: name.clone() }),
            }
        }
        let unique = is_unique(&key);
        return Ok(Key::Columns { columns: key, unique });
    }
    if full {
        // Any unique index of the target will do, if the old row can fill it and has no null in it: the primary key.
        let at_source = |index: &Vec<usize>| {
            let places = index.iter().map(|at| columns.iter().position(|place| *place == Some(*at)));
            places.collect::<Option<Vec<usize>>>()
        };
        let never_null = |index: &&Vec<usize>| index.iter().all(|place| table.columns[*place].not_null);
        let primary = table.unique.iter().filter(never_null).find_map(at_source).filter(|key| usable(key));
        return Ok(primary.map_or(Key::WholeRow, |key| Key::Columns { columns: key, unique: true }));
    }
    let key: Vec<usize> = (0..relation.columns.len()).filter(|place| relation.columns[*place].key).collect();
    if key.is_empty() {
        return Ok(Key::Nothing);
    }
    let unique = is_unique(&key) && usable(&key);
    Ok(Key::Columns { columns: key, unique })
}

fn table_name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}
