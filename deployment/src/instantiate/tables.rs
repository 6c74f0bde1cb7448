//! What is copied where: each published table, its columns by name, into its counterpart at the target.

use std::collections::BTreeMap;

use irongate_postgres::sql::quote_identifier;
use irongate_postgres::{Session, catalog};

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
}

impl Copied {
    fn column_list(&self) -> String {
        self.columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
    }

    /// What the source is asked.
    pub(super) fn copy_out(&self) -> String {
        // Without ONLY the rows of tables that inherit from an ordinary table would come twice.
        let only = if self.partitioned { "" } else { "ONLY " };
        let condition = self.row_filter.as_ref().map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
        let (columns, table) = (self.column_list(), self.source.quoted());
        format!("COPY (SELECT {columns} FROM {only}{table}{condition}) TO STDOUT")
    }

    /// What the target is asked.
    pub(super) fn copy_in(&self) -> String {
        let table = self.target.quoted();
        if self.columns.is_empty() {
            // The grammar has no empty list; a table without columns has none to name.
            return format!("COPY {table} FROM STDIN");
        }
        format!("COPY {table} ({}) FROM STDIN", self.column_list())
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
        match targets.get(&counterpart) {
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
        found.push(Copied {
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
            row_filter: Some("(a > 5)".into()),
            partitioned: false,
            estimated_rows: None,
        };
        assert_eq!(
            table.copy_out(),
            "COPY (SELECT \"a\", \"B \"\"b\"\"\" FROM ONLY \"s\".\"Tab\" WHERE (a > 5)) TO STDOUT"
        );
        assert_eq!(table.copy_in(), "COPY \"x\".\"tab\" (\"a\", \"B \"\"b\"\"\") FROM STDIN");
        let root = Copied { partitioned: true, columns: Vec::new(), row_filter: None, ..table };
        assert_eq!(root.copy_out(), "COPY (SELECT  FROM \"s\".\"Tab\") TO STDOUT");
        assert_eq!(root.copy_in(), "COPY \"x\".\"tab\" FROM STDIN");
    }
}
