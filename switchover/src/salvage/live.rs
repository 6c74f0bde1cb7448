//! What is at the live site where lost changes belong, asked in batches. Reads only.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use irongate_apply::{Names, TargetTable};
use irongate_postgres::Session;
use irongate_trail::{Relation, ReplicaIdentity};
use tokio_postgres::SimpleQueryMessage;

use super::change::{Cell, Change, Fields, Operation, TableName, There, Verdict};
use super::intake::Raw;
use super::judge::{Expecting, Found, judge};
use super::problem::Problem;
use super::sql::Shape;
use crate::error::Error;

/// So many rows are remembered as touched by a lost change, by eight bytes each; beyond, nothing is said of later ones.
const MOST_REMEMBERED: usize = 4 << 20;

/// A change with the table that it belongs to at the live site.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) change: Change,
    /// Of a truncate, all tables.
    pub(super) shapes: Vec<Arc<Shape>>,
    /// An earlier lost change has the same row; none if that was not remembered.
    follows: Option<bool>,
}

/// The rows that lost changes have touched so far.
#[derive(Debug)]
struct Touched {
    rows: HashSet<u64>,
    emptied: HashSet<TableName>,
    most: usize,
    /// What the transaction in hand has added.
    fresh: (Vec<u64>, Vec<TableName>),
}

impl Touched {
    fn new(most: usize) -> Self {
        Self { rows: HashSet::new(), emptied: HashSet::new(), most, fresh: Default::default() }
    }

    /// Whether an earlier change has touched the row; none if that was not remembered.
    fn touch(&mut self, table: &TableName, row: &Fields) -> Option<bool> {
        let mut hasher = DefaultHasher::new();
        (table, row).hash(&mut hasher);
        let fingerprint = hasher.finish();
        if self.emptied.contains(table) || self.rows.contains(&fingerprint) {
            return Some(true);
        }
        if self.rows.len() >= self.most {
            return None;
        }
        self.rows.insert(fingerprint);
        self.fresh.0.push(fingerprint);
        Some(false)
    }

    /// Whether an earlier change has emptied the table.
    fn empty(&mut self, table: &TableName) -> bool {
        let earlier = !self.emptied.insert(table.clone());
        if !earlier {
            self.fresh.1.push(table.clone());
        }
        earlier
    }

    /// The transaction in hand does not count.
    fn undo(&mut self) {
        let (rows, emptied) = std::mem::take(&mut self.fresh);
        for row in rows {
            self.rows.remove(&row);
        }
        for table in emptied {
            self.emptied.remove(&table);
        }
    }
}

/// The live site.
#[derive(Debug)]
pub(super) struct Live<'a> {
    /// None if it cannot be asked.
    session: Option<&'a Session>,
    end: String,
    /// The transaction id of what was applied last before the sites parted.
    xid: Option<String>,
    names: Names,
    key_columns: HashMap<String, Vec<String>>,
    shapes: HashMap<Arc<Relation>, Arc<Shape>>,
    last: Option<(Arc<Relation>, Arc<Shape>)>,
    touched: Touched,
}

impl<'a> Live<'a> {
    pub(super) fn new(
        session: Option<&'a Session>,
        end: String,
        xid: Option<String>,
        names: Names,
        key_columns: HashMap<String, Vec<String>>,
    ) -> Self {
        Self {
            session,
            end,
            xid,
            names,
            key_columns,
            shapes: HashMap::new(),
            last: None,
            touched: Touched::new(MOST_REMEMBERED),
        }
    }

    pub(super) fn xid(&self) -> Option<&str> {
        self.xid.as_deref()
    }

    async fn shape(&mut self, relation: &Arc<Relation>) -> Result<Arc<Shape>, Error> {
        if let Some((known, shape)) = &self.last
            && Arc::ptr_eq(known, relation)
        {
            return Ok(Arc::clone(shape));
        }
        let shape = match self.shapes.get(relation) {
            Some(shape) => Arc::clone(shape),
            None => {
                let (schema, name) = self.names.target_of(&relation.schema, &relation.name);
                let table = match self.session {
                    Some(session) => {
                        TargetTable::load(session, &schema, &name).await.map_err(Problem::Table)?
                    }
                    None => None,
                };
                let columns: Vec<String> =
                    relation.columns.iter().map(|column| column.name.clone()).collect();
                let given = self.key_columns.get(&format!("{}.{}", relation.schema, relation.name));
                let identity = match (given, relation.replica_identity) {
                    (Some(names), _) => Some(names.clone()),
                    (None, ReplicaIdentity::Full) => None,
                    (None, _) => {
                        let key = relation.columns.iter().filter(|column| column.key);
                        Some(key.map(|column| column.name.clone()).collect())
                    }
                };
                let shape = Arc::new(Shape::new((schema, name), table, identity, &columns));
                self.shapes.insert(Arc::clone(relation), Arc::clone(&shape));
                shape
            }
        };
        self.last = Some((Arc::clone(relation), Arc::clone(&shape)));
        Ok(shape)
    }

    /// Another transaction begins.
    pub(super) fn begin(&mut self) {
        self.touched.fresh = Default::default();
    }

    /// The transaction in hand is not whole.
    pub(super) fn abandon(&mut self) {
        self.touched.undo();
    }

    /// Finds the place of a change at the live site.
    pub(super) async fn place(&mut self, raw: Raw, number: u64) -> Result<Placed, Error> {
        let mut shapes = Vec::new();
        for relation in &raw.relations {
            shapes.push(self.shape(relation).await?);
        }
        let name = |relation: &Arc<Relation>| TableName {
            schema: relation.schema.clone(),
            table: relation.name.clone(),
        };
        let Raw { relations, operation, key, old, new } = raw;
        let truncated = match operation {
            Operation::Truncate => relations.iter().map(name).collect(),
            _ => Vec::new(),
        };
        let wanted = shapes.first().map(|shape| shape.key.clone()).unwrap_or_default();
        // A key comes only where it has changed; otherwise it stands in the new row.
        let source = key.as_ref().or(old.as_ref()).or(new.as_ref());
        let key = source.map(|fields| fields.only(&wanted)).unwrap_or_default();
        let table =
            relations.first().map(name).unwrap_or(TableName { schema: String::new(), table: String::new() });
        let change = Change { number, table, operation, key, old, new, truncated, there: None };
        let follows = self.follows(&change);
        Ok(Placed { change, shapes, follows })
    }

    /// Looks what is there now.
    pub(super) async fn look(&mut self, placed: &mut [Placed]) -> Result<(), Error> {
        let mut questions: Vec<(Arc<Shape>, Vec<String>)> = Vec::new();
        for (index, Placed { change, shapes, .. }) in placed.iter().enumerate() {
            let (Some(shape), false) = (shapes.first(), change.operation == Operation::Truncate) else {
                continue;
            };
            let row = change.old.as_ref().filter(|_| change.operation != Operation::Insert);
            let new_key = change.new_key();
            let asked = [
                shape.look(2 * index, &change.key, row, self.xid()),
                new_key.and_then(|key| shape.look(2 * index + 1, &key, None, self.xid())),
            ];
            for question in asked.into_iter().flatten() {
                match questions.iter_mut().find(|(known, _)| Arc::ptr_eq(known, shape)) {
                    Some((_, questions)) => questions.push(question),
                    None => questions.push((Arc::clone(shape), vec![question])),
                }
            }
        }
        let mut answers: HashMap<usize, (Fields, Option<bool>)> = HashMap::new();
        for (shape, questions) in questions {
            self.ask(&shape, &questions, &mut answers).await?;
        }
        for (index, Placed { change, shapes, follows }) in placed.iter_mut().enumerate() {
            let Some(follows) = follows.filter(|_| self.session.is_some()) else {
                let reason = if self.session.is_some() {
                    "too many rows to look at"
                } else {
                    "the live site was not asked"
                };
                let (verdict, reason) = (Verdict::Unknown, Some(reason.to_owned()));
                change.there = Some(There { verdict, reason, row: None, written_since: None });
                continue;
            };
            if shapes.iter().any(|shape| !shape.is_known()) {
                let reason = Some("the table is not there".to_owned());
                change.there =
                    Some(There { verdict: Verdict::Conflict, reason, row: None, written_since: None });
                continue;
            }
            let (row, written_since) = match change.operation {
                Operation::Truncate => (None, self.written_since(shapes).await?),
                _ => answers.remove(&(2 * index)).map_or((None, None), |(row, since)| (Some(row), since)),
            };
            let in_the_way = answers.remove(&(2 * index + 1)).is_some();
            let expecting = Expecting {
                operation: change.operation,
                has_key: !change.key.0.is_empty(),
                old: change.old.as_ref(),
                new: change.new.as_ref(),
                follows,
            };
            change.there = Some(judge(&expecting, Found { row, written_since, in_the_way }));
        }
        Ok(())
    }

    /// Whether an earlier lost change has the same row.
    fn follows(&mut self, change: &Change) -> Option<bool> {
        let touched = &mut self.touched;
        match change.operation {
            Operation::Truncate => {
                let mut earlier = false;
                for table in change.tables() {
                    earlier |= touched.empty(table);
                }
                Some(earlier)
            }
            _ => {
                let before = if change.key.0.is_empty() {
                    change.old.as_ref().or(change.new.as_ref())
                } else {
                    Some(&change.key)
                };
                let follows = before.map_or(Some(false), |row| touched.touch(&change.table, row));
                let behind = if change.key.0.is_empty() { change.new.clone() } else { change.new_key() };
                if let Some(row) = behind.filter(|_| change.operation == Operation::Update) {
                    touched.touch(&change.table, &row);
                }
                follows
            }
        }
    }

    fn failed(&self, doing: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        let (end, doing) = (self.end.clone(), doing.to_owned());
        move |source| Error::Database { end, doing, source: Box::new(source.into()) }
    }

    async fn written_since(&self, shapes: &[Arc<Shape>]) -> Result<Option<bool>, Error> {
        let (Some(session), Some(xid)) = (self.session, self.xid()) else { return Ok(None) };
        for shape in shapes {
            let failed = || self.failed("look for rows that came since");
            let row = session.query_one(&shape.written_since(xid), &[]).await.map_err(failed())?;
            if row.try_get(0).map_err(failed())? {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    /// Asks about rows of one table.
    async fn ask(
        &self,
        shape: &Shape,
        questions: &[String],
        answers: &mut HashMap<usize, (Fields, Option<bool>)>,
    ) -> Result<(), Error> {
        let Some(session) = self.session else { return Ok(()) };
        let failed = || self.failed("look at rows");
        // By the simple protocol every value comes as its type's own text, as it stands in the trail.
        for message in session.simple_query(&questions.join(" UNION ALL ")).await.map_err(failed())? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let text = |place: usize| row.try_get(place).map_err(failed());
            let Some(number) = text(0)?.and_then(|text| text.parse().ok()) else { continue };
            let since = text(1)?.map(|text| text == "t");
            let mut fields = Vec::new();
            for (place, name) in shape.asked().into_iter().enumerate() {
                let cell = text(place + 2)?.map_or(Cell::Null, |text| Cell::Text(text.to_owned()));
                fields.push((name, cell));
            }
            answers.insert(number, (Fields(fields), since));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_again_and_a_full_memory_says_so() {
        let table = TableName { schema: "s".into(), table: "t".into() };
        let key = |id: &str| Fields(vec![("id".into(), Cell::Text(id.into()))]);
        let mut touched = Touched::new(2);
        assert_eq!(touched.touch(&table, &key("1")), Some(false));
        assert_eq!(touched.touch(&table, &key("1")), Some(true));
        assert_eq!(touched.touch(&table, &key("2")), Some(false));
        assert_eq!(touched.touch(&table, &key("3")), None);
        assert_eq!(touched.touch(&table, &key("2")), Some(true));
        assert!(!touched.empty(&table));
        assert_eq!(touched.touch(&table, &key("4")), Some(true));
        // Nothing of it was whole.
        touched.undo();
        assert_eq!(touched.touch(&table, &key("1")), Some(false));
        assert!(!touched.empty(&table));
    }
}
