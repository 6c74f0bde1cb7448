//! A pair of tables: what is compared of them, and by what their rows are known.
//!
//! Rows are known by a key that is unique, checked at once and never NULL *at both sides*: the primary key before the
//! replica identity before any other. Where only one side has such a key (or it can be deferred, which replica role does
//! not enforce), a key may be there twice; then a row is known by all its values and counts as often as it is there.

use std::collections::BTreeMap;

use irongate_checkpoint::LoadLedger;
use irongate_postgres::catalog::{self, Identity, TableKind};
use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Endpoint, Session};

use crate::error::Error;
use crate::flow::{End, Flow, Name};
use crate::row::Print;
use crate::side::Which;

/// A column that is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its base type as SQL, at the source and at the target.
    pub(crate) types: [String; 2],
    /// No update may set it, at the source and at the target.
    pub(crate) always: [bool; 2],
    pub(crate) print: Print,
    /// What an index looks for a value of it by, at the source and at the target, where that is an extension's.
    pub(crate) equality: [Option<String>; 2],
}

/// A table as one side reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// What follows FROM, to find single rows by their keys.
    pub(crate) from: String,
    /// What it consists of: itself, or its partitions.
    pub(crate) parts: Vec<Part>,
}

/// A piece of a table that has rows of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// What follows FROM.
    pub(crate) from: String,
    /// Its length in blocks; `None` for what can only be read as a whole.
    pub(crate) blocks: Option<u64>,
}

/// What is compared with what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) source: Name,
    pub(crate) target: Name,
    pub(crate) columns: Vec<Column>,
    /// Places of the key among the columns; empty where rows are known by all they hold.
    pub(crate) key: Vec<usize>,
    /// The key is one whole number.
    pub(crate) by_number: bool,
    /// The publication's condition on rows.
    pub(crate) filter: Option<String>,
    /// The databases have different encodings, so that the same text has other bytes.
    pub(crate) recoded: bool,
    pub(crate) shapes: [Shape; 2],
    pub(crate) estimated_rows: u64,
}

impl Plan {
    pub(crate) fn shape(&self, which: Which) -> &Shape {
        &self.shapes[which as usize]
    }

    pub(crate) fn name(&self, which: Which) -> &Name {
        match which {
            Which::Source => &self.source,
            Which::Target => &self.target,
        }
    }

    /// Bytes of the larger side, by its length in blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.shapes.iter().map(|shape| shape.blocks() * BLOCK).max().unwrap_or(0)
    }

    /// The same tables, whatever has become of their lengths.
    pub(crate) fn is_still(&self, other: &Self) -> bool {
        (&self.columns, &self.key, &self.filter) == (&other.columns, &other.key, &other.filter)
    }
}

/// Bytes of a block, unless the server was built otherwise: for progress and pace, which need not be exact.
pub(crate) const BLOCK: u64 = 8192;
/// Rows in a block of a table that was never analysed.
const ROWS_IN_A_BLOCK: u64 = 50;
/// `int8`, `int2`, `int4`.
const NUMBERS: [u32; 3] = [20, 21, 23];

impl Shape {
    pub(crate) fn blocks(&self) -> u64 {
        self.parts.iter().filter_map(|part| part.blocks).sum()
    }
}

/// A table of the flow, or why it cannot be compared.
pub(crate) type Planned = (Name, Result<Plan, Error>);

/// The tables of a flow, ordered by name.
pub(crate) async fn plans(
    flow: &Flow,
    source: &Session,
    target: &Session,
    wanted: &(dyn Fn(&Name) -> bool + Send + Sync),
) -> Result<Vec<Planned>, Error> {
    let at_source = |error| failed(&flow.source, "read the publication", error);
    let at_target = |error| failed(&flow.target, "read the catalog", error);
    let published =
        catalog::publication_tables(source, &[flow.publication.as_str()]).await.map_err(at_source)?;
    if published.is_empty() {
        let (end, publication) = (flow.source.label.clone(), flow.publication.clone());
        return Err(Error::NothingPublished { end, publication });
    }
    let published: Vec<_> =
        published.into_iter().filter(|table| wanted(&Name::new(&table.schema, &table.name))).collect();
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let sources = by_name(catalog::described(source, &oids).await.map_err(at_source)?);
    let mut there = catalog::tables(target).await.map_err(at_target)?;
    let counterparts: Vec<Name> =
        published.iter().map(|table| (flow.target_of)(&Name::new(&table.schema, &table.name))).collect();
    there.retain(|table| counterparts.contains(&Name::new(&table.schema, &table.name)));
    let target_oids: Vec<u32> = there.iter().map(|table| table.oid).collect();
    let targets = by_name(catalog::described(target, &target_oids).await.map_err(at_target)?);
    let source_parts = parts(source, &oids).await.map_err(at_source)?;
    let target_parts = parts(target, &target_oids).await.map_err(at_target)?;
    let recoded = encoding(source).await.map_err(at_source)? != encoding(target).await.map_err(at_target)?;
    let copied = LoadLedger::new(&flow.name).half_copied(target).await?;
    let copied: Vec<Name> = copied.into_iter().map(|(schema, name)| Name::new(schema, name)).collect();
    let planned = published.into_iter().zip(counterparts).map(|(published, counterpart)| {
        let name = Name::new(&published.schema, &published.name);
        if copied.contains(&counterpart) {
            return (name.clone(), Err(Error::Copied { table: name.to_string(), flow: flow.name.clone() }));
        }
        let plan = Pair {
            flow,
            source: sources.get(&name),
            target: targets.get(&counterpart),
            parts: [&source_parts, &target_parts],
            names: [&name, &counterpart],
            recoded,
        }
        .plan(&published);
        (name.clone(), plan)
    });
    Ok(planned.collect())
}

async fn encoding(session: &Session) -> Result<String, irongate_postgres::Error> {
    Ok(session
        .query_one("SELECT pg_catalog.getdatabaseencoding()::pg_catalog.text", &[])
        .await?
        .try_get(0)?)
}

fn failed(end: &End, doing: &str, source: irongate_postgres::Error) -> Error {
    Error::Database { end: end.label.clone(), doing: doing.to_owned(), source: Box::new(source) }
}

fn by_name(tables: Vec<catalog::Table>) -> BTreeMap<Name, catalog::Table> {
    tables.into_iter().map(|table| (Name::new(&table.summary.schema, &table.summary.name), table)).collect()
}

/// What a role sees of a table.
#[derive(Default, Debug)]
struct Seen {
    may_read: bool,
    parts: Vec<Part>,
    all_readable: bool,
}

/// Every table's own rights and parts.
async fn parts(session: &Session, oids: &[u32]) -> Result<BTreeMap<u32, Seen>, irongate_postgres::Error> {
    const SQL: &str = "
        SELECT r.oid, n.nspname, c.relname, c.relkind::text, c.oid = r.oid,
               pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8,
               pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
          FROM pg_catalog.unnest($1::pg_catalog.oid[]) r (oid),
               LATERAL (SELECT r.oid UNION
                        SELECT p.relid FROM pg_catalog.pg_partition_tree(r.oid) p WHERE p.isleaf) p (oid),
               pg_catalog.pg_class c, pg_catalog.pg_namespace n
         WHERE c.oid = p.oid AND n.oid = c.relnamespace
         ORDER BY r.oid, n.nspname, c.relname";
    let mut found: BTreeMap<u32, Seen> = BTreeMap::new();
    for row in session.query(SQL, &[&oids]).await? {
        let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let (kind, is_itself, readable): (String, bool, bool) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(6)?);
        let blocks: Option<i64> = row.try_get(5)?;
        let seen =
            found.entry(row.try_get(0)?).or_insert_with(|| Seen { all_readable: true, ..Seen::default() });
        if is_itself {
            seen.may_read = readable;
        }
        if kind != "p" {
            seen.all_readable &= readable;
            let blocks = blocks.filter(|_| kind == "r").and_then(|blocks| u64::try_from(blocks).ok());
            // Without ONLY the rows of tables that inherit from it would be its own.
            let from = format!("ONLY {}", Name::new(schema, name).quoted());
            seen.parts.push(Part { from, blocks });
        }
    }
    Ok(found)
}

/// Two tables that belong together.
struct Pair<'a> {
    flow: &'a Flow,
    source: Option<&'a catalog::Table>,
    target: Option<&'a catalog::Table>,
    parts: [&'a BTreeMap<u32, Seen>; 2],
    names: [&'a Name; 2],
    recoded: bool,
}

impl Pair<'_> {
    fn plan(&self, published: &catalog::PublishedTable) -> Result<Plan, Error> {
        let missing = |end: &End, what: String| Error::Missing { end: end.label.clone(), what };
        let [name, counterpart] = self.names;
        let source = self
            .source
            .ok_or_else(|| missing(&self.flow.source, format!("table {name} does not exist any more")))?;
        let target = self
            .target
            .ok_or_else(|| missing(&self.flow.target, format!("table {counterpart} does not exist")))?;
        let mut columns = Vec::new();
        for name in &published.columns {
            let Some(here) = source.column(name) else { continue };
            let Some(there) = target.column(name) else {
                let what = format!("table {counterpart} has no column \"{name}\"");
                return Err(missing(&self.flow.target, what));
            };
            if here.is_writable() && there.is_writable() {
                columns.push(Column {
                    name: name.clone(),
                    types: [here.base_type_name.clone(), there.base_type_name.clone()],
                    always: [here, there].map(|column| column.identity == Identity::Always),
                    print: Print::of([here, there]),
                    equality: [here.equality.clone(), there.equality.clone()],
                });
            }
        }
        let key = key(source, target, &columns);
        let number = |table: &catalog::Table, name: &str| {
            table.column(name).is_some_and(|column| NUMBERS.contains(&column.base_type_oid))
        };
        let by_number = matches!(key[..], [one] if number(source, &columns[one].name) && number(target, &columns[one].name));
        let shapes = [
            self.shape(Which::Source, source, &self.flow.source)?,
            self.shape(Which::Target, target, &self.flow.target)?,
        ];
        let guessed = shapes.iter().map(Shape::blocks).max().unwrap_or(0) * ROWS_IN_A_BLOCK;
        let estimated_rows = source.summary.estimated_rows.filter(|rows| *rows > 0).unwrap_or(guessed);
        Ok(Plan {
            source: name.clone(),
            target: counterpart.clone(),
            columns,
            key,
            by_number,
            filter: published.row_filter.clone(),
            recoded: self.recoded,
            shapes,
            estimated_rows,
        })
    }

    fn shape(&self, which: Which, table: &catalog::Table, end: &End) -> Result<Shape, Error> {
        let name = self.names[which as usize];
        let nothing = Seen::default();
        let seen = self.parts[which as usize].get(&table.summary.oid).unwrap_or(&nothing);
        if !seen.may_read {
            return Err(no_right(&end.endpoint, &end.label, name));
        }
        let only = if table.summary.kind == TableKind::Partitioned { "" } else { "ONLY " };
        let from = format!("{only}{}", name.quoted());
        // Partitions that the role may not read by themselves are read through their root, in one piece.
        let parts = if seen.all_readable {
            seen.parts.clone()
        } else {
            vec![Part { from: from.clone(), blocks: None }]
        };
        Ok(Shape { from, parts })
    }
}

fn no_right(endpoint: &Endpoint, end: &str, name: &Name) -> Error {
    let (role, schema) = (quote_identifier(endpoint.user()), quote_identifier(&name.schema));
    Error::Rights {
        end: end.to_owned(),
        role: endpoint.user().to_owned(),
        doing: "read",
        table: name.to_string(),
        grant: format!(
            "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {} TO {role}",
            name.quoted()
        ),
    }
}

/// The places of the key's columns.
fn key(source: &catalog::Table, target: &catalog::Table, columns: &[Column]) -> Vec<usize> {
    let keys = |table: &catalog::Table| -> Vec<(bool, Vec<String>)> {
        let names = |index: &catalog::Index| -> Option<Vec<String>> {
            let mut names: Vec<String> = index.columns.iter().cloned().collect::<Option<_>>()?;
            let never_null = |name: &String| table.column(name).is_some_and(|column| column.not_null);
            names.iter().all(never_null).then(|| {
                names.sort();
                names
            })
        };
        let found = table.indexes.iter().filter(|index| index.identifies_rows());
        let mut found: Vec<_> =
            found.filter_map(|index| Some((index.replica_identity, names(index)?))).collect();
        // The primary key comes first by itself, unless another index is chosen.
        found.sort_by_key(|(chosen, _)| !chosen);
        found
    };
    let theirs = keys(target);
    let places = |names: &Vec<String>| -> Option<Vec<usize>> {
        names.iter().map(|name| columns.iter().position(|column| column.name == *name)).collect()
    };
    keys(source)
        .iter()
        .filter(|(_, names)| theirs.iter().any(|(_, other)| other == names))
        .find_map(|(_, names)| places(names))
        .map(|mut places| {
            places.sort_unstable();
            places
        })
        .unwrap_or_default()
}
