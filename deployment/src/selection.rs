//! Which tables of the source belong to a flow, and how a publication names them.
//!
//! A publication names a partitioned table where it can: partitions that are added later are then published by
//! themselves. Only where the configuration leaves some of its partitions out do the others stand there one by one.

use std::collections::{BTreeMap, BTreeSet};

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::catalog::{self, Table, TableKind};
use tokio_postgres::Client;

use crate::configuration::{Flow, Partitions, TableName};

/// The tables of a flow at its source.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// What the publication has to name.
    pub(crate) published: Vec<TableName>,
    /// What rows will come from: partitions, or with [`Partitions::Root`] the partitioned table.
    pub(crate) streamed: Vec<Table>,
    /// The tables that hold the rows, whatever they are sent as.
    pub(crate) leaves: Vec<Table>,
    /// Fits the patterns and cannot be published: its rows are not in the write-ahead log.
    pub(crate) unlogged: Vec<TableName>,
    /// Excluded partitions that are sent all the same, because their root is.
    pub(crate) not_excludable: Vec<TableName>,
}

fn name_of(table: &Table) -> TableName {
    TableName::new(&table.summary.schema, &table.summary.name)
}

impl Selection {
    pub(crate) async fn of(client: &Client, flow: &Flow) -> Result<Self, irongate_postgres::Error> {
        let summaries = catalog::tables(client).await?;
        let oids: Vec<u32> = summaries
            .iter()
            .filter(|table| table.schema != CHECKPOINT_SCHEMA)
            .map(|table| table.oid)
            .collect();
        Ok(Self::among(catalog::described(client, &oids).await?, flow))
    }

    fn among(tables: Vec<Table>, flow: &Flow) -> Self {
        let parents: BTreeMap<TableName, TableName> = tables
            .iter()
            .filter_map(|table| {
                let (schema, name) = table.partition_of.as_ref()?;
                Some((name_of(table), TableName::new(schema, name)))
            })
            .collect();
        let excluded =
            |name: &TableName| flow.exclude.iter().any(|pattern| pattern.matches(&name.schema, &name.name));
        // Partitioned tables that cannot be named as a whole.
        let mut split = BTreeSet::new();
        let mut not_excludable = Vec::new();
        for table in tables.iter().map(name_of).filter(|table| excluded(table)) {
            for ancestor in ancestors(&parents, &table) {
                match flow.partitions {
                    Partitions::Leaf => drop(split.insert(ancestor.clone())),
                    Partitions::Root if flow.includes(&ancestor.schema, &ancestor.name) => {
                        not_excludable.push(table.clone());
                    }
                    Partitions::Root => {}
                }
            }
        }
        not_excludable.sort();
        not_excludable.dedup();
        // Named by a pattern, or a part of what is.
        let wanted = |name: &TableName| {
            let named = |name: &TableName| flow.includes(&name.schema, &name.name);
            named(name) || (!excluded(name) && ancestors(&parents, name).any(named))
        };
        let whole = |name: &TableName| wanted(name) && !split.contains(name);
        let mut selection = Self {
            published: Vec::new(),
            streamed: Vec::new(),
            leaves: Vec::new(),
            unlogged: Vec::new(),
            not_excludable,
        };
        for table in tables {
            let name = name_of(&table);
            let under_published = ancestors(&parents, &name).any(whole);
            if !wanted(&name) && !under_published {
                continue;
            }
            let partitioned = table.summary.kind == TableKind::Partitioned;
            if !partitioned && !table.summary.logged {
                selection.unlogged.push(name);
                continue;
            }
            if whole(&name) && !under_published {
                selection.published.push(name);
            }
            let streamed = match flow.partitions {
                Partitions::Leaf => table.summary.kind == TableKind::Ordinary,
                Partitions::Root => !under_published,
            };
            if streamed {
                selection.streamed.push(table.clone());
            }
            if table.summary.kind == TableKind::Ordinary {
                selection.leaves.push(table);
            }
        }
        selection
    }
}

fn ancestors<'a>(
    parents: &'a BTreeMap<TableName, TableName>,
    name: &TableName,
) -> impl Iterator<Item = &'a TableName> {
    std::iter::successors(parents.get(name), move |name| parents.get(*name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use irongate_postgres::catalog::TableSummary;
    use irongate_trail::ReplicaIdentity;

    use super::*;
    use crate::Configuration;

    fn table(name: &str, partitioned: bool, parent: Option<&str>, logged: bool) -> Table {
        Table {
            summary: TableSummary {
                oid: 0,
                schema: "s".into(),
                name: name.into(),
                kind: if partitioned { TableKind::Partitioned } else { TableKind::Ordinary },
                is_partition: parent.is_some(),
                logged,
                replica_identity: ReplicaIdentity::Default,
                estimated_rows: None,
                bytes: 0,
            },
            owner: String::new(),
            partition_of: parent.map(|parent| ("s".to_owned(), parent.to_owned())),
            columns: Vec::new(),
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
            triggers: Vec::new(),
            row_security: false,
            row_security_forced: false,
            rules: false,
        }
    }

    /// `plain`, `cache` (unlogged), and `p` with the partitions `p1` and `p2`, the latter with `p2a` and `p2b`.
    fn select(lines: &str) -> (String, String, Selection) {
        let text = format!(
            "[deployment]\nname = \"t\"\nstate_directory = \"s\"\n[sites]\na = {{}}\nb = {{}}\n\
             [databases.d]\na = {{ uri = \"postgresql://h/d\" }}\nb = {{ uri = \"postgresql://i/d\" }}\n\
             [flows.f]\ndatabase = \"d\"\nfrom = \"a\"\nto = \"b\"\n{lines}\n"
        );
        let configuration = Configuration::parse(&text, Path::new("/x.toml")).unwrap();
        let tables = vec![
            table("cache", false, None, false),
            table("p", true, None, true),
            table("p1", false, Some("p"), true),
            table("p2", true, Some("p"), true),
            table("p2a", false, Some("p2"), true),
            table("p2b", false, Some("p2"), true),
            table("plain", false, None, true),
        ];
        let selection = Selection::among(tables, configuration.flow("f").unwrap());
        let published: Vec<_> = selection.published.iter().map(|table| table.name.as_str()).collect();
        let streamed: Vec<_> = selection.streamed.iter().map(|table| table.summary.name.as_str()).collect();
        (published.join(" "), streamed.join(" "), selection)
    }

    #[test]
    fn a_partitioned_table_is_named_once_and_streams_as_its_partitions_or_itself() {
        for (lines, published, streamed) in [
            ("tables = [\"s.*\"]", "p plain", "p1 p2a p2b plain"),
            ("tables = [\"s.*\"]\npartitions = \"root\"", "p plain", "p plain"),
            ("tables = [\"s.p\"]", "p", "p1 p2a p2b"),
            ("tables = [\"s.p2\"]", "p2", "p2a p2b"),
            ("tables = [\"s.p2\"]\npartitions = \"root\"", "p2", "p2"),
            ("tables = [\"s.p1\", \"s.p2a\"]", "p1 p2a", "p1 p2a"),
            ("tables = [\"s.*\"]\nexclude = [\"s.p2a\"]", "p1 p2b plain", "p1 p2b plain"),
            ("tables = [\"s.p\"]\nexclude = [\"s.p1\"]", "p2", "p2a p2b"),
            ("tables = [\"s.*\"]\nexclude = [\"s.p*\"]", "", ""),
        ] {
            let selected = select(lines);
            assert_eq!((selected.0.as_str(), selected.1.as_str()), (published, streamed), "{lines}");
        }
    }

    #[test]
    fn what_cannot_be_as_configured_is_noted() {
        assert_eq!(select("tables = [\"s.*\"]").2.unlogged, [TableName::new("s", "cache")]);
        let root = select("tables = [\"s.*\"]\nexclude = [\"s.p2a\"]\npartitions = \"root\"");
        assert_eq!((root.0.as_str(), root.1.as_str()), ("p plain", "p plain"));
        assert_eq!(root.2.not_excludable, [TableName::new("s", "p2a")]);
    }
}
