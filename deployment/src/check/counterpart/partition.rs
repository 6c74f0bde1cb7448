//! How tables are cut into partitions, and what inherits from what: a row that is sent by its partition's name must fit
//! there, and one that is sent as its root's must find a partition.

use std::collections::{BTreeMap, BTreeSet};

use irongate_postgres::Error;
use irongate_postgres::catalog::{Table, TableKind};
use tokio_postgres::Client;

use super::Both;
use super::column::plain;
use crate::check::{Findings, sql};
use crate::configuration::{Partitions, TableName};

/// A table and what it is a part of.
#[derive(Clone)]
struct Part {
    parent: TableName,
    /// The bounds of a partition; none of a table that inherits.
    bounds: Option<String>,
    /// By what the parent is cut.
    key: Option<String>,
}

async fn parts(client: &Client) -> Result<BTreeMap<TableName, Part>, Error> {
    const SQL: &str = "
        SELECT n.nspname, c.relname, pn.nspname, pc.relname,
               CASE WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END,
               CASE WHEN c.relispartition THEN pg_catalog.pg_get_partkeydef(pc.oid) END
          FROM pg_catalog.pg_inherits i
          JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f')
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
          JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
         ORDER BY i.inhseqno DESC";
    let one = |row: &tokio_postgres::Row| {
        let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        let parent = TableName { schema: row.try_get(2)?, name: row.try_get(3)? };
        Ok((name, Part { parent, bounds: row.try_get(4)?, key: row.try_get(5)? }))
    };
    client.query(SQL, &[]).await?.iter().map(one).collect()
}

pub(super) async fn compare(
    both: &Both<'_>,
    tables: &BTreeMap<TableName, Table>,
    findings: &mut Findings,
) -> Result<(), Error> {
    let here = parts(&both.source.session).await?;
    let there = parts(&both.target.session).await?;
    if here.is_empty() && there.is_empty() {
        return Ok(());
    }
    for pair in &both.pairs {
        let parent = here.get(&pair.source_name);
        one(both, pair, parent, there.get(&pair.name), tables, findings);
    }
    if both.flow.partitions == Partitions::Root {
        roots(both, &here, &there, findings);
    }
    Ok(())
}

fn one(
    both: &Both<'_>,
    pair: &super::Pair<'_>,
    source: Option<&Part>,
    target: Option<&Part>,
    tables: &BTreeMap<TableName, Table>,
    findings: &mut Findings,
) {
    let (end, object) = (&both.target.end, format!("table {}", pair.name));
    let name = pair.name.quoted();
    match (source, target) {
        (Some(source), None) => {
            let parent = both.flow.target_of(&source.parent);
            if !tables.contains_key(&parent) {
                findings.warning(
                    end,
                    object,
                    format!("it is a part of {parent} at the source, and that does not exist here"),
                    format!("create {parent} as at the source"),
                );
            } else if let Some(bounds) = &source.bounds {
                findings.warning(
                    end,
                    object,
                    format!("it is a partition of {parent} at the source and not here: who reads {parent} misses its rows"),
                    sql([format!("ALTER TABLE {} ATTACH PARTITION {name} {bounds}", parent.quoted())]),
                );
            } else {
                findings.warning(
                    end,
                    object,
                    format!("it inherits from {parent} at the source and not here: who reads {parent} misses its rows"),
                    sql([format!("ALTER TABLE {name} INHERIT {}", parent.quoted())]),
                );
            }
        }
        (Some(Part { bounds: Some(source), .. }), Some(Part { bounds: Some(target), parent, .. }))
            if plain(source) != plain(target) =>
        {
                findings.error(
                    end,
                    object,
                    format!("its bounds are {target} here and {source} at the source: rows that are outside are refused"),
                    sql([
                        format!("ALTER TABLE {} DETACH PARTITION {name}", parent.quoted()),
                        format!("ALTER TABLE {} ATTACH PARTITION {name} {source}", parent.quoted()),
                    ]),
                );
        }
        (None, Some(Part { bounds: Some(bounds), parent, .. })) => findings.warning(
            end,
            object,
            format!("it is a partition of {parent} here ({bounds}) and not at the source: rows that are outside are refused"),
            sql([format!("ALTER TABLE {} DETACH PARTITION {name}", parent.quoted())]),
        ),
        _ => {}
    }
}

/// Rows that come as those of a partitioned table have to find a partition here.
fn roots(
    both: &Both<'_>,
    here: &BTreeMap<TableName, Part>,
    there: &BTreeMap<TableName, Part>,
    findings: &mut Findings,
) {
    for pair in both
        .pairs
        .iter()
        .filter(|pair| [pair.from, pair.to].iter().all(|table| table.summary.kind == TableKind::Partitioned))
    {
        let of = |parts: &BTreeMap<TableName, Part>, root: &TableName| -> BTreeSet<String> {
            let own = parts.values().filter(|part| part.parent == *root);
            own.filter_map(|part| part.bounds.as_deref().map(plain)).collect()
        };
        let target = of(there, &pair.name);
        if target.contains("DEFAULT") {
            continue;
        }
        // Cut by something else, both may have a place for the same rows: nobody can tell by their bounds.
        let key = |parts: &BTreeMap<TableName, Part>, root: &TableName| {
            parts.values().find(|part| part.parent == *root).and_then(|part| part.key.as_deref().map(plain))
        };
        if let (Some(source), Some(target)) = (key(here, &pair.source_name), key(there, &pair.name))
            && source != target
        {
            findings.note(
                &both.target.end,
                format!("table {}", pair.name),
                format!("it is cut by {target} here and by {source} at the source: a row without a place stops Replicat"),
            );
            continue;
        }
        let own = here.iter().filter(|(_, part)| part.parent == pair.source_name);
        for (name, part) in own {
            let Some(bounds) = part.bounds.as_ref().filter(|bounds| !target.contains(&plain(bounds))) else {
                continue;
            };
            let partition = both.flow.target_of(name);
            findings.error(
                &both.target.end,
                format!("table {}", pair.name),
                format!("no partition here is {bounds}, as {name} is at the source: its rows find no place"),
                sql([format!(
                    "CREATE TABLE {} PARTITION OF {} {bounds}",
                    partition.quoted(),
                    pair.name.quoted()
                )]),
            );
        }
    }
}
