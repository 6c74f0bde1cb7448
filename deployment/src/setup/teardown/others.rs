//! Who else uses what set-up has made: other deployments share the roles of a cluster, and a database.
//!
//! PostgreSQL refuses to drop a role that objects of another database depend on, but only after DROP OWNED has taken
//! its rights in the whole cluster. So it is asked before.

use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::Session;

use crate::configuration::{Configuration, Flow};
use crate::end::End;
use crate::error::Error;
use crate::setup::{reading, rights};

/// Roles of the flows that others need as well, each with an end at their cluster and with who needs it, in words.
pub(super) async fn roles_in_use<'a>(
    configuration: &'a Configuration,
    flows: &[&'a Flow],
) -> Result<Vec<(End<'a>, &'a str, Vec<String>)>, Error> {
    let mut ends = Vec::new();
    for flow in flows {
        ends.extend([End::source(configuration, flow)?, End::target(configuration, flow)?]);
    }
    let mut used = Vec::new();
    for end in &ends {
        let role = end.own_login().role();
        let ours: Vec<&str> = ends
            .iter()
            .filter(|other| other.address.same_cluster(end.address))
            .map(|other| other.address.database())
            .collect();
        let session = reading(end).await?;
        let mut users = databases(&session, end, role, &ours).await?;
        users.extend(flows_here(configuration, &session, end).await?);
        if !users.is_empty() {
            used.push((*end, role, users));
        }
    }
    Ok(used)
}

/// Other databases of the cluster in which something depends on the role.
async fn databases(
    session: &Session,
    end: &End<'_>,
    role: &str,
    ours: &[&str],
) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT DISTINCT d.datname::pg_catalog.text
          FROM pg_catalog.pg_shdepend s
          JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
          JOIN pg_catalog.pg_database d ON d.oid = s.dbid
         WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
           AND r.rolname = $1::pg_catalog.text AND d.datname <> ALL ($2::pg_catalog.text[])
         ORDER BY 1";
    let names = names(session, SQL, &[&role, &ours]).await;
    let names = names.map_err(|error| end.failed("ask who depends on the role", error))?;
    Ok(names.into_iter().map(|name| format!("database \"{name}\"")).collect())
}

/// Flows in this database that are of another configuration than this.
pub(super) async fn flows_here(
    configuration: &Configuration,
    session: &Session,
    end: &End<'_>,
) -> Result<Vec<String>, Error> {
    let ask = |error| end.failed("ask who else uses the database", error);
    const PUBLICATIONS: &str = "SELECT p.pubname::pg_catalog.text FROM pg_catalog.pg_publication p
         WHERE pg_catalog.obj_description(p.oid, 'pg_publication') = $1 ORDER BY 1";
    let publications = names(session, PUBLICATIONS, &[&rights::MADE_BY_SETUP]).await.map_err(ask)?;
    let is_foreign = |name: &String| !configuration.flows.values().any(|flow| flow.publication == *name);
    let mut found: Vec<String> = publications
        .into_iter()
        .filter(is_foreign)
        .map(|name| format!("publication \"{name}\" in database \"{}\"", end.address.database()))
        .collect();
    if super::has_table(session, end, "checkpoint").await? && may_read(session).await.map_err(ask)? {
        let sql = format!("SELECT flow FROM {CHECKPOINT_SCHEMA}.checkpoint ORDER BY 1");
        let flows = names(session, &sql, &[]).await.map_err(ask)?;
        let is_foreign = |name: &String| !configuration.flows.contains_key(name);
        let foreign = flows.into_iter().filter(is_foreign);
        found.extend(
            foreign.map(|flow| format!("flow \"{flow}\" in database \"{}\"", end.address.database())),
        );
    }
    Ok(found)
}

/// Extract's role may not, and is asked only where there is no administrator.
async fn may_read(session: &Session) -> Result<bool, tokio_postgres::Error> {
    let sql = format!(
        "SELECT CASE WHEN pg_catalog.has_schema_privilege('{CHECKPOINT_SCHEMA}', 'USAGE')
            THEN pg_catalog.has_table_privilege('{CHECKPOINT_SCHEMA}.checkpoint', 'SELECT') ELSE false END"
    );
    session.query_one(&sql, &[]).await?.try_get(0)
}

async fn names(
    session: &Session,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<String>, tokio_postgres::Error> {
    session.query(sql, parameters).await?.iter().map(|row| row.try_get(0)).collect()
}
