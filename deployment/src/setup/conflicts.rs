//! What a flow whose tables are written at both sites needs of its databases: the tables of conflicts at its target, and
//! on the tables themselves the triggers that their rules ask for.
//!
//! Triggers name the key by which Replicat will find rows; it refuses to work with others.

use irongate_apply::{Rule, conflict_objects, conflict_setup, tombstone_triggers, version_triggers};
use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::catalog::{self, Index, IndexKind, Table};
use irongate_trail::ReplicaIdentity;
use tokio_postgres::Client;

use super::{Survey, reading};
use crate::check::identity_index;
use crate::configuration::{Flow, TableName};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::rights::Lack;
use crate::statement::Statement;

const TABLES: [&str; 4] = ["conflict", "tombstone", "send_back", "canary"];

/// A table under a rule.
pub(crate) struct Ruled<'a> {
    pub(crate) source: &'a Table,
    /// Its name at the target.
    pub(crate) target: TableName,
    pub(crate) rule: &'a Rule,
    /// The columns by which Replicat finds rows; `None` where there is no such key.
    pub(crate) key: Option<Vec<String>>,
}

/// The flow's tables that have a rule, with their keys.
pub(crate) fn ruled<'a>(flow: &'a Flow, survey: &'a Survey, targets: &[Table]) -> Vec<Ruled<'a>> {
    let Some(conflicts) = &flow.conflicts else { return Vec::new() };
    let of_table = |source: &'a Table| {
        let name = TableName::new(&source.summary.schema, &source.summary.name);
        let rule = &conflicts.rule_of(&name.schema, &name.name)?.rule;
        let target = flow.target_of(&name);
        let described = targets
            .iter()
            .find(|table| table.summary.schema == target.schema && table.summary.name == target.name);
        let key = flow.key_columns.get(&name).cloned().or_else(|| key(source, described?));
        Some(Ruled { source, target, rule, key })
    };
    survey.selection.streamed.iter().filter_map(of_table).collect()
}

/// The key that Replicat will use: the replica identity's, or of the whole old row what fills the target's first unique
/// index without nulls.
fn key(source: &Table, target: &Table) -> Option<Vec<String>> {
    let names = |index: &Index| -> Option<Vec<String>> {
        Some(index.column_names()?.into_iter().map(str::to_owned).collect())
    };
    if source.summary.replica_identity != ReplicaIdentity::Full {
        return identity_index(source).and_then(names);
    }
    let mut indexes: Vec<&Index> = target.indexes.iter().filter(|index| index.identifies_rows()).collect();
    indexes.sort_by_key(|index| {
        (index.kind != IndexKind::PrimaryKey, !index.replica_identity, index.columns.len())
    });
    indexes.into_iter().filter_map(names).find(|key| {
        key.iter().all(|name| {
            source.column(name).is_some() && target.column(name).is_some_and(|column| column.not_null)
        })
    })
}

/// The descriptions of the flow's tables at its target.
pub(crate) async fn targets(
    client: &Client,
    flow: &Flow,
    survey: &Survey,
) -> Result<Vec<Table>, irongate_postgres::Error> {
    let wanted: Vec<TableName> =
        survey.source_tables().into_iter().map(|(_, name)| flow.target_of(&name)).collect();
    let oids: Vec<u32> = catalog::tables(client)
        .await?
        .into_iter()
        .filter(|table| wanted.iter().any(|name| name.schema == table.schema && name.name == table.name))
        .map(|table| table.oid)
        .collect();
    catalog::described(client, &oids).await
}

/// Whether the tables of conflicts are there and `role` may use them.
pub(crate) async fn tables(client: &Client, role: &str) -> Result<Option<Lack>, irongate_postgres::Error> {
    const SQL: &str = "
        SELECT count(*), coalesce(bool_and(CASE WHEN r.oid IS NULL THEN false
                   ELSE (SELECT bool_and(pg_catalog.has_table_privilege(r.oid, c.oid, p))
                           FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::pg_catalog.text[]) p) END), false)
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $1::pg_catalog.text
         WHERE n.nspname = $2::pg_catalog.text AND c.relname = ANY ($3::pg_catalog.text[])";
    let row = client.query_one(SQL, &[&role, &CHECKPOINT_SCHEMA, &&TABLES[..]]).await?;
    let (count, may): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    let exist = usize::try_from(count).is_ok_and(|count| count == TABLES.len());
    if exist && may {
        return Ok(None);
    }
    Ok(Some(Lack {
        object: format!("tables of conflicts in schema \"{CHECKPOINT_SCHEMA}\""),
        reason: if exist {
            format!("role \"{role}\" may not read and write them")
        } else {
            "they do not exist".to_owned()
        },
        why: "conflicts are recorded, and deleted keys remembered, where both sites write",
        sql: conflict_setup(role),
        optional: false,
    }))
}

/// Triggers that the rules need at the flow's target, and that are not there as they should be.
pub(crate) async fn lacking_at_target(
    client: &Client,
    flow: &Flow,
    ruled: &[Ruled<'_>],
) -> Result<Vec<Lack>, irongate_postgres::Error> {
    let mut lacks = Vec::new();
    for table in ruled.iter().filter(|table| table.rule.needs_tombstones(&flow.to)) {
        let Some(key) = &table.key else { continue };
        let name = &table.target;
        let sql = tombstone_triggers(&name.schema, &name.name, key);
        if has_trigger(client, name, "irongate_deleted", key).await?
            && has_trigger(client, name, "irongate_moved", key).await?
        {
            continue;
        }
        lacks.push(Lack {
            object: format!("table {name}"),
            reason: "nobody remembers which rows are deleted from it here".to_owned(),
            why: "a row that is deleted here must not come to life by an older change of the other site",
            sql,
            optional: false,
        });
    }
    Ok(lacks)
}

/// The same at the flow's source.
pub(crate) async fn lacking_at_source(
    client: &Client,
    flow: &Flow,
    ruled: &[Ruled<'_>],
) -> Result<Vec<Lack>, irongate_postgres::Error> {
    let mut lacks = Vec::new();
    for table in ruled.iter().filter(|table| table.rule.needs_versions(&flow.to)) {
        let Some(key) = &table.key else { continue };
        let name = TableName::new(&table.source.summary.schema, &table.source.summary.name);
        let sql = version_triggers(&name.schema, &name.name, key);
        if has_trigger(client, &name, "~irongate_version", key).await? {
            continue;
        }
        lacks.push(Lack {
            object: format!("table {name}"),
            reason: "its changes do not say which version they replace".to_owned(),
            why: "the other site keeps its own version only against changes that were made in ignorance of it",
            sql,
            optional: false,
        });
    }
    Ok(lacks)
}

/// Whether the functions of the triggers are there.
async fn has_functions(client: &Client) -> Result<bool, irongate_postgres::Error> {
    const SQL: &str = "SELECT count(*) = 2 FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = $1 AND p.proname IN ('remember_deleted', 'tell_version')";
    Ok(client.query_one(SQL, &[&CHECKPOINT_SCHEMA]).await?.try_get(0)?)
}

/// What set-up would run for the flow's conflicts.
pub(crate) async fn plan(
    source: &End<'_>,
    target: &End<'_>,
    flow: &Flow,
    survey: &Survey,
) -> Result<Vec<Statement>, Error> {
    if flow.conflicts.is_none() {
        return Ok(Vec::new());
    }
    let (at_source, at_target) = (reading(source).await?, reading(target).await?);
    let ask_source = |error| source.failed("read the catalog", error);
    let ask_target = |error| target.failed("read the catalog", error);
    let targets = targets(&at_target, flow, survey).await.map_err(ask_target)?;
    let ruled = ruled(flow, survey, &targets);
    let mut statements = Vec::new();
    let mut add = |end: &End<'_>, lacks: Vec<Lack>| {
        for lack in lacks {
            let given = lack.sql.into_iter().map(|sql| Statement::new(end, As::Admin, sql, lack.why));
            statements.extend(given);
        }
    };
    let role = target.own_login().role();
    add(target, tables(&at_target, role).await.map_err(ask_target)?.into_iter().collect());
    add(target, lacking_at_target(&at_target, flow, &ruled).await.map_err(ask_target)?);
    let mut versions = lacking_at_source(&at_source, flow, &ruled).await.map_err(ask_source)?;
    if let Some(first) = versions.first_mut()
        && !has_functions(&at_source).await.map_err(ask_source)?
    {
        // The reverse flow gives its role the rights to them.
        first.sql.splice(0..0, conflict_objects());
    }
    add(source, versions);
    Ok(statements)
}

/// Whether a trigger of a table is there, with the table's name and this key as its arguments.
async fn has_trigger(
    client: &Client,
    table: &TableName,
    trigger: &str,
    key: &[String],
) -> Result<bool, irongate_postgres::Error> {
    const SQL: &str = "SELECT g.tgargs FROM pg_catalog.pg_trigger g
          JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND g.tgname = $3 AND g.tgenabled IN ('O', 'A')";
    let Some(row) = client.query_opt(SQL, &[&table.schema, &table.name, &trigger]).await? else {
        return Ok(false);
    };
    let said: Vec<u8> = row.try_get(0)?;
    let mut wanted = Vec::new();
    for name in [&table.schema, &table.name].into_iter().chain(key) {
        wanted.extend_from_slice(name.as_bytes());
        wanted.push(0);
    }
    Ok(said == wanted)
}
