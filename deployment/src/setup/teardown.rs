//! Tear-down: everything that set-up and the initial load have made is taken away again, the slot first, because it
//! holds the server's log, and the roles last, because everything else is done in their name.

mod others;

use irongate_checkpoint::{CHECKPOINT_SCHEMA, LOAD_TABLES, Origin, checkpoint_teardown, load_teardown};
use irongate_postgres::sql::{quote_identifier, quote_literal};
use irongate_postgres::{Session, catalog};

use super::run::Sessions;
use super::{Event, Progress, blocking, ddl, lock_groups, publication, reading, refuse_foreign, rights};
use crate::configuration::{Address, Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::statement::Statement;

/// What tear-down would run for some flows, in its order; nothing is changed. What stays because others use it is told
/// as a note.
///
/// # Errors
/// [`Error::Database`] when a server cannot be asked; [`Error::Slot`] for a slot that is in use.
pub async fn teardown_plan(
    configuration: &Configuration,
    flows: &[&Flow],
    progress: &mut Progress<'_>,
) -> Result<Vec<Statement>, Error> {
    let (mut early, mut late) = (Vec::new(), Vec::new());
    let mut remaining: Vec<&Flow> = Vec::new();
    for other in configuration.flows.values() {
        if !flows.iter().any(|gone| gone.name == other.name) && is_set_up(configuration, other).await {
            remaining.push(other);
        }
    }
    for flow in flows {
        let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
        early.extend(at_source(&source, flow, &remaining).await?);
        early.extend(at_target(&target, flow).await?);
        for end in [source, target] {
            late.extend(of_database(configuration, &end, &remaining).await?);
        }
    }
    for (end, role, users) in others::roles_in_use(configuration, flows).await? {
        // Rights in the cluster, such as that to set a parameter, go with DROP OWNED in any of its databases.
        let of_role = [drop_owned(role), drop_role(role)];
        let is_meant = |statement: &Statement| {
            of_role.contains(&statement.sql)
                && configuration
                    .address(&statement.database, &statement.site)
                    .is_ok_and(|address| address.same_cluster(end.address))
        };
        if late.iter().any(is_meant) {
            late.retain(|statement| !is_meant(statement));
            progress(Event::Note(format!(
                "role \"{role}\" at \"{end}\" and its rights stay: {} of another deployment needs it",
                users.join(", ")
            )));
        }
    }
    // A role is dropped after all that its name stands for, in every database of its server.
    late.sort_by_key(|statement: &Statement| statement.sql.starts_with("DROP ROLE"));
    early.extend(late);
    let mut plan: Vec<Statement> = Vec::new();
    for statement in early {
        let dropped_before = statement.sql.starts_with("DROP ROLE")
            && plan
                .iter()
                .any(|other| other.sql == statement.sql && same_cluster(configuration, other, &statement));
        if !plan.contains(&statement) && !dropped_before {
            plan.push(statement);
        }
    }
    Ok(plan)
}

/// Whether a flow has something that only set-up makes. One whose source cannot be asked is taken for one that has.
async fn is_set_up(configuration: &Configuration, flow: &Flow) -> bool {
    let ask = async {
        let source = End::source(configuration, flow)?;
        let session = reading(&source).await?;
        let failed = |error| source.failed("read the catalog", error);
        let publication = catalog::publication(&session, &flow.publication).await.map_err(failed)?;
        let slot = catalog::slot(&session, &flow.slot).await.map_err(failed)?;
        Ok::<bool, Error>(publication.is_some() || slot.is_some())
    };
    ask.await.unwrap_or(true)
}

fn same_cluster(configuration: &Configuration, one: &Statement, other: &Statement) -> bool {
    let address =
        |statement: &Statement| configuration.address(&statement.database, &statement.site).cloned();
    match (address(one), address(other)) {
        (Ok(one), Ok(other)) => Address::same_cluster(&one, &other),
        _ => false,
    }
}

/// Tears some flows down: their server objects, then their trails and status files. Refuses while one of their groups
/// runs.
///
/// # Errors
/// [`Error::Checkpoint`] when a group runs; otherwise as [`teardown_plan`], [`Error::NoAdmin`], [`Error::Directory`].
///
/// Not cancel-safe, but safe to repeat.
pub async fn teardown(
    configuration: &Configuration,
    flows: &[&Flow],
    progress: &mut Progress<'_>,
) -> Result<Vec<Statement>, Error> {
    let locks: Vec<_> =
        flows.iter().map(|flow| lock_groups(configuration, flow)).collect::<Result<_, _>>()?;
    let plan = teardown_plan(configuration, flows, progress).await?;
    let mut sessions = Sessions::new(configuration);
    for statement in &plan {
        progress(Event::Statement(statement));
        // The session of a role keeps the role from being dropped only by what it owns; still, end it before.
        if statement.sql.starts_with("DROP ROLE") {
            sessions.close_own();
        }
        sessions.run(statement).await?;
    }
    for flow in flows {
        let trail = configuration.trail(flow);
        let groups = configuration.select_groups(std::slice::from_ref(&flow.name), None)?;
        let mut stale: Vec<_> = groups
            .iter()
            .map(|group| configuration.state_directory.join(format!("{}.status.json", group.name)))
            .collect();
        let stores = groups.iter().map(|group| configuration.store(group)).collect::<Vec<_>>();
        stale.extend(stores);
        stale.push(trail.clone());
        if trail.exists() {
            progress(Event::Note(format!("removing the trail in \"{}\"", trail.display())));
        }
        blocking(move || stale.into_iter().try_for_each(remove)).await??;
    }
    drop(locks);
    Ok(plan)
}

/// Removes a file or a directory with all that is in it.
fn remove(path: std::path::PathBuf) -> Result<(), Error> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Directory { path, source })
        }
        _ => Ok(()),
    }
}

async fn at_source(source: &End<'_>, flow: &Flow, remaining: &[&Flow]) -> Result<Vec<Statement>, Error> {
    let session = reading(source).await?;
    let ask = |error| source.failed("read the catalog", error);
    let mut plan = ddl::teardown(&session, source, flow, remaining).await?;
    let keeper = quote_literal(&crate::instantiate::keeper::application(flow));
    let is_keeper = format!("application_name = {keeper} AND datname = current_database()");
    let question =
        format!("SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE $1 <> '' AND {is_keeper})");
    if exists(&session, source, &question, &flow.name).await? {
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE {is_keeper}"
        );
        plan.push(Statement::new(source, As::Extract, sql, "a snapshot that is kept holds back vacuum"));
    }
    if let Some(slot) = catalog::slot(&session, &flow.slot).await.map_err(ask)? {
        refuse_foreign(source, flow, &slot)?;
        let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&flow.slot));
        plan.push(Statement::new(
            source,
            As::Extract,
            sql,
            "a slot that nobody reads keeps the log for ever",
        ));
    }
    if publication::is_ours(&session, &flow.publication).await.map_err(ask)? {
        let sql = format!("DROP PUBLICATION {}", quote_identifier(&flow.publication));
        plan.push(Statement::new(source, As::Admin, sql, "nobody reads it any more"));
    }
    Ok(plan)
}

async fn exists(session: &Session, end: &End<'_>, sql: &str, name: &str) -> Result<bool, Error> {
    let answer = async { session.query_one(sql, &[&name]).await?.try_get(0) };
    answer.await.map_err(|error: tokio_postgres::Error| end.failed("read the catalog", error))
}

async fn has_table(session: &Session, end: &End<'_>, name: &str) -> Result<bool, Error> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = '{CHECKPOINT_SCHEMA}' AND c.relname = $1::pg_catalog.text)"
    );
    exists(session, end, &sql, name).await
}

async fn at_target(target: &End<'_>, flow: &Flow) -> Result<Vec<Statement>, Error> {
    let session = reading(target).await?;
    let mut plan = Vec::new();
    for table in ["checkpoint", "error_queue"].into_iter().chain(LOAD_TABLES) {
        if has_table(&session, target, table).await? {
            let sql =
                format!("DELETE FROM {CHECKPOINT_SCHEMA}.{table} WHERE flow = {}", quote_literal(&flow.name));
            plan.push(Statement::new(target, As::Replicat, sql, "the flow is no more"));
        }
    }
    let origin = Origin::name_for(&flow.name)?;
    const ORIGIN: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1::pg_catalog.text)";
    if exists(&session, target, ORIGIN, &origin).await? {
        let sql = format!("SELECT pg_catalog.pg_replication_origin_drop({})", quote_literal(&origin));
        plan.push(Statement::new(target, As::Replicat, sql, "nobody writes under this mark any more"));
    }
    let workers = crate::instantiate::origins(&session, flow).await;
    for worker in workers.map_err(|error| target.failed("read the catalog", error))? {
        let sql = format!("SELECT pg_catalog.pg_replication_origin_drop({})", quote_literal(&worker));
        plan.push(Statement::new(target, As::Replicat, sql, "nobody writes under this mark any more"));
    }
    Ok(plan)
}

/// What goes when no flow is left that needs it: our schema in a database, and the roles that set-up has made.
async fn of_database(
    configuration: &Configuration,
    end: &End<'_>,
    remaining: &[&Flow],
) -> Result<Vec<Statement>, Error> {
    let mut ends = Vec::new();
    for flow in remaining {
        ends.push(End::source(configuration, flow)?);
        ends.push(End::target(configuration, flow)?);
    }
    let session = reading(end).await?;
    let mut plan = Vec::new();
    let shared = |other: &&End<'_>| {
        other.site == end.site && other.database == end.database && other.own() == As::Replicat
    };
    if end.own() == As::Replicat && !ends.iter().any(|other| shared(&other)) {
        let is_shared = !others::flows_here(configuration, &session, end).await?.is_empty();
        let mut drops = Vec::new();
        for table in ["conflict", "checkpoint", "error_queue", "load"] {
            if has_table(&session, end, table).await? {
                drops.extend(match table {
                    "conflict" => irongate_apply::conflict_teardown(),
                    "checkpoint" => checkpoint_teardown(),
                    "load" => load_teardown(),
                    _ => irongate_apply::error_queue_teardown(),
                });
            }
        }
        const SCHEMA: &str =
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::pg_catalog.text)";
        if exists(&session, end, SCHEMA, CHECKPOINT_SCHEMA).await? {
            drops.push(format!("DROP SCHEMA {CHECKPOINT_SCHEMA}"));
        }
        if is_shared {
            drops.clear();
        }
        let why = "no flow ends in this database any more";
        plan.extend(drops.into_iter().map(|sql| Statement::new(end, As::Admin, sql, why)));
    }
    let role = end.own_login().role();
    let used =
        ends.iter().any(|other| other.address.same_cluster(end.address) && other.own_login().role() == role);
    let ours =
        rights::is_ours(&session, role).await.map_err(|error| end.failed("look for the role", error))?;
    if ours && !used {
        let why = "no flow logs in as this role any more";
        plan.push(Statement::new(end, As::Admin, drop_owned(role), why));
        plan.push(Statement::new(end, As::Admin, drop_role(role), why));
    }
    Ok(plan)
}

fn drop_owned(role: &str) -> String {
    format!("DROP OWNED BY {}", quote_identifier(role))
}

fn drop_role(role: &str) -> String {
    format!("DROP ROLE {}", quote_identifier(role))
}
