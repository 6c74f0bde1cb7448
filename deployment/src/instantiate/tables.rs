//! What is copied where: each published table, its columns by name, into its counterpart at the target.

use std::collections::BTreeMap;

use irongate_checkpoint::QualifiedName;
use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Session, catalog};

use super::format;
use super::plan::Extent;
use crate::configuration::{Flow, TableName};
use crate::end::End;
use crate::error::Error;

/// One table to be copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Copied {
    pub(super) source: TableName,
    pub(super) target: TableName,
    /// The same at both sides, in the source's order.
    pub(super) columns: Vec<String>,
    /// The publication's condition on rows.
    pub(super) row_filter: Option<String>,
    /// Its rows are in its partitions.
    pub(super) partitioned: bool,
    pub(super) estimated_rows: Option<u64>,
    /// Every column has the same binary form at both ends.
    pub(super) binary: bool,
    /// The target's rows are in its partitions.
    pub(super) into_partitions: bool,
    /// Rows that are copied into an empty table can be frozen there.
    pub(super) freezable: bool,
    pub(super) extent: Extent,
}

impl Copied {
    fn column_list(&self) -> String {
        self.columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
    }

    /// What the source is asked for; with `range`, for a part of it.
    pub(super) fn copy_out(&self, range: Option<&str>) -> String {
        // Without ONLY the rows of tables that inherit from an ordinary table would come twice.
        let only = if self.partitioned { "" } else { "ONLY " };
        let conditions: Vec<String> =
            [range.map(str::to_owned), self.row_filter.as_ref().map(|filter| format!("({filter})"))]
                .into_iter()
                .flatten()
                .collect();
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        let format = if self.binary { " (FORMAT binary)" } else { "" };
        let (columns, table) = (self.column_list(), self.source.quoted());
        format!("COPY (SELECT {columns} FROM {only}{table}{condition}) TO STDOUT{format}")
    }

    /// What the target is asked; with `freeze`, of a table that the same transaction has emptied.
    pub(super) fn copy_in(&self, freeze: bool) -> String {
        let table = self.target.quoted();
        let options: Vec<&str> = [self.binary.then_some("FORMAT binary"), freeze.then_some("FREEZE")]
            .into_iter()
            .flatten()
            .collect();
        let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
        if self.columns.is_empty() {
            // The grammar has no empty list; a table without columns has none to name.
            return format!("COPY {table} FROM STDIN{options}");
        }
        format!("COPY {table} ({}) FROM STDIN{options}", self.column_list())
    }

    /// The target as a statement names it that empties it alone.
    pub(super) fn target_alone(&self) -> String {
        let only = if self.into_partitions { "" } else { "ONLY " };
        format!("{only}{}", self.target.quoted())
    }

    pub(super) fn source_name(&self) -> QualifiedName {
        (self.source.schema.clone(), self.source.name.clone())
    }

    pub(super) fn target_name(&self) -> QualifiedName {
        (self.target.schema.clone(), self.target.name.clone())
    }
}

/// The tables of the flow's publication and where they go.
pub(super) async fn copied(
    at_source: &Session,
    at_target: &Session,
    flow: &Flow,
    [source, target]: [&End<'_>; 2],
) -> Result<Vec<Copied>, Error> {
    let ask = |error| source.failed("read the publication", error);
    let published =
        catalog::publication_tables(at_source, &[flow.publication.as_str()]).await.map_err(ask)?;
    if published.is_empty() {
        return Err(Error::NothingPublished {
            publication: flow.publication.clone(),
            end: source.to_string(),
        });
    }
    let oids: Vec<u32> = published.iter().map(|table| table.oid).collect();
    let described: BTreeMap<u32, catalog::Table> = catalog::described(at_source, &oids)
        .await
        .map_err(ask)?
        .into_iter()
        .map(|table| (table.summary.oid, table))
        .collect();
    let targets = tables_of(at_target, target).await?;
    let extents = extents(at_source, &oids).await.map_err(ask)?;
    let mut found = Vec::new();
    let mut lacking = Vec::new();
    for published in published {
        let Some(table) = described.get(&published.oid) else { continue };
        let name = TableName::new(&published.schema, &published.name);
        let counterpart = flow.target_of(&name);
        // A generated column is published from 18 on if it is asked for; its value is made anew at the target.
        let columns: Vec<String> = published
            .columns
            .into_iter()
            .filter(|name| table.column(name).is_some_and(catalog::Column::is_writable))
            .collect();
        let there = targets.get(&counterpart);
        match there {
            None => lacking.push(format!("table {counterpart} does not exist")),
            Some(there) => {
                for column in &columns {
                    match there.column(column) {
                        None => lacking.push(format!("table {counterpart} has no column \"{column}\"")),
                        Some(column) if !column.is_writable() => lacking.push(format!(
                            "column \"{}\" of table {counterpart} is generated and cannot be written",
                            column.name
                        )),
                        Some(_) => {}
                    }
                }
            }
        }
        let is_alike = |name: &String| {
            let pair = table.column(name).zip(there.and_then(|there| there.column(name)));
            pair.is_some_and(|(from, to)| format::is_alike(from, to))
        };
        let into_partitions =
            there.is_some_and(|there| there.summary.kind == catalog::TableKind::Partitioned);
        found.push(Copied {
            // A table without columns has no rows in text, and none in binary.
            binary: !columns.is_empty() && columns.iter().all(is_alike),
            into_partitions,
            freezable: there.is_some_and(|there| there.summary.kind == catalog::TableKind::Ordinary),
            extent: extents.get(&published.oid).copied().unwrap_or(Extent {
                blocks: 0,
                bytes: 0,
                by_block: false,
            }),
            source: name,
            target: counterpart,
            columns,
            row_filter: published.row_filter,
            partitioned: table.summary.kind == catalog::TableKind::Partitioned,
            estimated_rows: table.summary.estimated_rows,
        });
    }
    if lacking.is_empty() { Ok(found) } else { Err(Error::TargetTables { end: target.to_string(), lacking }) }
}

/// How large tables are. The rows of a partitioned table are in its partitions.
pub(super) async fn extents(
    session: &Session,
    oids: &[u32],
) -> Result<BTreeMap<u32, Extent>, irongate_postgres::Error> {
    const SQL: &str = "
        SELECT o.oid, coalesce(max(pg_catalog.pg_relation_size(l.oid)), 0)
                      / pg_catalog.current_setting('block_size')::pg_catalog.int8,
               coalesce(sum(pg_catalog.pg_table_size(l.oid)), 0)::pg_catalog.int8,
               coalesce(bool_and(m.amname = 'heap'), false)
          FROM pg_catalog.unnest($1::pg_catalog.oid[]) o(oid)
          LEFT JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) t ON true
          LEFT JOIN pg_catalog.pg_class l ON l.oid = coalesce(t.relid, o.oid) AND l.relkind <> 'p'
          LEFT JOIN pg_catalog.pg_am m ON m.oid = l.relam
         GROUP BY o.oid";
    let mut extents = BTreeMap::new();
    for row in session.query(SQL, &[&oids]).await? {
        let size = |column| row.try_get::<_, i64>(column).map(|size| u64::try_from(size).unwrap_or(0));
        extents
            .insert(row.try_get(0)?, Extent { blocks: size(1)?, bytes: size(2)?, by_block: row.try_get(3)? });
    }
    Ok(extents)
}

async fn tables_of(session: &Session, end: &End<'_>) -> Result<BTreeMap<TableName, catalog::Table>, Error> {
    let ask = |error| end.failed("read the catalog", error);
    let oids: Vec<u32> =
        catalog::tables(session).await.map_err(ask)?.into_iter().map(|table| table.oid).collect();
    let tables = catalog::described(session, &oids).await.map_err(ask)?;
    let named = |table: catalog::Table| (TableName::new(&table.summary.schema, &table.summary.name), table);
    Ok(tables.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_name_and_filters_are_the_publications() {
        let table = Copied {
            source: TableName::new("s", "Tab"),
            target: TableName::new("x", "tab"),
            columns: vec!["a".into(), "B \"b\"".into()],
            row_filter: Some("a > 5 OR a < 2".into()),
            partitioned: false,
            estimated_rows: None,
            binary: false,
            into_partitions: false,
            freezable: true,
            extent: Extent { blocks: 1, bytes: 8192, by_block: true },
        };
        assert_eq!(
            table.copy_out(None),
            "COPY (SELECT \"a\", \"B \"\"b\"\"\" FROM ONLY \"s\".\"Tab\" WHERE (a > 5 OR a < 2)) TO STDOUT"
        );
        assert_eq!(table.copy_in(false), "COPY \"x\".\"tab\" (\"a\", \"B \"\"b\"\"\") FROM STDIN");
        let root = Copied { partitioned: true, columns: Vec::new(), row_filter: None, ..table.clone() };
        assert_eq!(root.copy_out(None), "COPY (SELECT  FROM \"s\".\"Tab\") TO STDOUT");
        assert_eq!(root.copy_in(false), "COPY \"x\".\"tab\" FROM STDIN");
        // A part of it is a part of what the filter leaves.
        let binary = Copied { binary: true, columns: vec!["a".into()], ..table };
        assert_eq!(
            binary.copy_out(Some("ctid >= '(1,0)'")),
            "COPY (SELECT \"a\" FROM ONLY \"s\".\"Tab\" WHERE ctid >= '(1,0)' AND (a > 5 OR a < 2)) TO STDOUT (FORMAT binary)"
        );
        assert_eq!(binary.copy_in(true), "COPY \"x\".\"tab\" (\"a\") FROM STDIN (FORMAT binary, FREEZE)");
    }
}
