//! What a load has to know of the tables it writes.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::values::Type;

/// A table and how to write it.
#[derive(Debug)]
pub(super) struct Table {
    /// "schema.table".
    pub(super) name: String,
    /// Quoted, for statements.
    pub(super) quoted: String,
    pub(super) columns: Vec<Column>,
    /// Places of the primary key's columns in `columns`.
    pub(super) key: Vec<usize>,
    pub(super) parents: Vec<Parent>,
    /// Whether rows of it are written, or only referenced.
    pub(super) written: bool,
    /// Whether it can publish updates and deletes.
    pub(super) has_identity: bool,
}

/// A column that takes values (generated ones do not).
#[derive(Debug)]
pub(super) struct Column {
    pub(super) quoted: String,
    pub(super) of: Option<Type>,
    pub(super) nullable: bool,
    pub(super) has_default: bool,
    /// `GENERATED ALWAYS AS IDENTITY`.
    pub(super) only_default: bool,
    /// Part of a foreign key.
    pub(super) references: bool,
}

/// A foreign key to another table's primary key.
#[derive(Debug)]
pub(super) struct Parent {
    /// The place of the referenced table.
    pub(super) table: usize,
    /// Pairs: place in this table's columns, place in the referenced table's key.
    pub(super) columns: Vec<(usize, usize)>,
}

const TABLES: &str = r"
SELECT c.oid, n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname),
       CASE c.relreplident
            WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
            WHEN 'n' THEN false ELSE true END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'irongate')
 ORDER BY 2";

// Domains are followed down to the type under them (`typbasetype` of a domain over a domain is a domain).
const COLUMNS: &str = r"
WITH RECURSIVE base (id, type, typmod) AS (
    SELECT t.oid, t.oid, t.typtypmod FROM pg_type t
    UNION ALL
    SELECT b.id, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT a.attrelid, a.attnum, quote_ident(a.attname), t.typname::text,
       CASE WHEN a.atttypmod >= 0 THEN a.atttypmod ELSE b.typmod END,
       e.typname::text, ARRAY(SELECT l.enumlabel::text FROM pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder),
       NOT a.attnotnull AND NOT d.typnotnull, a.atthasdef OR a.attidentity <> '' OR d.typdefault IS NOT NULL,
       a.attidentity = 'a'
  FROM pg_attribute a
  JOIN pg_type d ON d.oid = a.atttypid
  JOIN base b ON b.id = a.atttypid
  JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
  LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
 WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attrelid, a.attnum";

const KEYS: &str = r"
SELECT conrelid, conkey, confrelid, confkey, contype::text FROM pg_constraint
 WHERE conrelid = ANY ($1) AND contype IN ('p', 'f') ORDER BY contype DESC, oid";

/// Reads the tables with these names, or all, and those that they reference.
pub(super) async fn read(client: &Client, names: Option<&[String]>) -> Vec<Table> {
    let fail = |error: tokio_postgres::Error| -> ! { panic!("load cannot read the catalog: {error:?}") };
    let found = client.query(TABLES, &[]).await.unwrap_or_else(|error| fail(error));
    let mut oids: Vec<u32> = Vec::new();
    let mut tables = Vec::new();
    for row in &found {
        let name: String = row.get(1);
        oids.push(row.get(0));
        tables.push(Table {
            written: names.is_none_or(|names| names.contains(&name)),
            name,
            quoted: row.get(2),
            columns: Vec::new(),
            key: Vec::new(),
            parents: Vec::new(),
            has_identity: row.get(3),
        });
    }
    for name in names.unwrap_or_default() {
        assert!(tables.iter().any(|table| &table.name == name), "load: there is no table \"{name}\"");
    }
    assert!(tables.iter().any(|table| table.written), "load: there is no table to write");
    let place_of: BTreeMap<u32, usize> = oids.iter().enumerate().map(|(place, &oid)| (oid, place)).collect();

    // Attribute numbers to places in `columns`, which lacks dropped and generated columns.
    let mut places: BTreeMap<(u32, i16), usize> = BTreeMap::new();
    for row in client.query(COLUMNS, &[&oids]).await.unwrap_or_else(|error| fail(error)) {
        let (oid, number): (u32, i16) = (row.get(0), row.get(1));
        let columns = &mut tables[place_of[&oid]].columns;
        places.insert((oid, number), columns.len());
        let (name, typmod, element): (&str, i32, Option<&str>) = (row.get(3), row.get(4), row.get(5));
        columns.push(Column {
            quoted: row.get(2),
            of: Type::known(name, typmod, element, row.get(6)),
            nullable: row.get(7),
            has_default: row.get(8),
            only_default: row.get(9),
            references: false,
        });
    }
    for row in client.query(KEYS, &[&oids]).await.unwrap_or_else(|error| fail(error)) {
        let (oid, numbers): (u32, Vec<i16>) = (row.get(0), row.get(1));
        let here: Vec<_> = numbers.iter().map(|&number| places.get(&(oid, number)).copied()).collect();
        let Some(here) = here.into_iter().collect::<Option<Vec<_>>>() else { continue };
        if row.get::<_, &str>(4) == "p" {
            tables[place_of[&oid]].key = here;
            continue;
        }
        let (parent, there): (u32, Vec<i16>) = (row.get(2), row.get(3));
        // A leaf partition's constraints repeat those of its root.
        let Some(&table) = place_of.get(&parent) else { continue };
        // Primary keys come first, so the parent's is known. One that references other columns is left to luck.
        let in_key =
            |number| tables[table].key.iter().position(|place| places.get(&(parent, number)) == Some(place));
        let Some(there) = there.into_iter().map(in_key).collect::<Option<Vec<_>>>() else { continue };
        for &column in &here {
            tables[place_of[&oid]].columns[column].references = true;
        }
        let columns = here.into_iter().zip(there).collect();
        tables[place_of[&oid]].parents.push(Parent { table, columns });
    }
    for table in tables.iter().filter(|table| table.written) {
        for column in &table.columns {
            assert!(
                column.of.is_some() || column.nullable || column.has_default || column.references,
                "load: no values are known for column {} of \"{}\"",
                column.quoted,
                table.name
            );
        }
    }
    tables
}
