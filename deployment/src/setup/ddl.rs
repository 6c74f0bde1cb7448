//! What the DDL channel of a flow needs: event triggers with their functions at the source, and at the target the right to
//! alter what the application's roles own.

use irongate_capture::ddl::{DDL_TRIGGERS, DdlFlow, ddl_functions, ddl_table, ddl_teardown, ddl_trigger};
use irongate_checkpoint::CHECKPOINT_SCHEMA;
use irongate_postgres::Session;
use irongate_postgres::sql::{quote_identifier, quote_literal};
use tokio_postgres::Client;

use super::{Survey, reading};
use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::rights::Lack;
use crate::statement::Statement;

const WHY: &str = "changes of structure go with the rows of the flow";

fn lack(object: String, reason: impl Into<String>, sql: Vec<String>) -> Lack {
    Lack { object, reason: reason.into(), why: WHY, sql, optional: false }
}

/// What the source is to be told of a flow.
fn wanted(configuration: &Configuration, flow: &Flow) -> Result<Option<DdlFlow>, Error> {
    let Some(ddl) = &flow.ddl else { return Ok(None) };
    let back =
        configuration.flows.values().find(|other| other.database == flow.database && other.to == flow.from);
    let writer = match back {
        Some(other) => Some(End::target(configuration, other)?.own_login().role().to_owned()),
        None => None,
    };
    let tables: Vec<_> = flow.tables.iter().map(|pattern| pattern.regular()).collect();
    let mut schemas: Vec<String> = tables.iter().map(|(schema, _)| schema.clone()).collect();
    schemas.extend(ddl.schemas.iter().map(|schema| crate::configuration::regular_name(schema)));
    schemas.sort();
    schemas.dedup();
    Ok(Some(DdlFlow {
        flow: flow.name.clone(),
        publication: flow.publication.clone(),
        reader: End::source(configuration, flow)?.own_login().role().to_owned(),
        writer,
        tables,
        exclude: flow.exclude.iter().map(|pattern| pattern.regular()).collect(),
        schemas,
        classes: ddl.objects.clone(),
        refuse: ddl.refuse,
        send: ddl.send,
    }))
}

async fn yes(client: &Client, sql: &str) -> Result<bool, irongate_postgres::Error> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

async fn has_table(client: &Client) -> Result<bool, irongate_postgres::Error> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = '{CHECKPOINT_SCHEMA}' AND c.relname = 'ddl_flow')"
    );
    yes(client, &sql).await
}

/// What the source lacks for the flow's channel, or still has of one that the flow does not ask for any more.
pub(crate) async fn lacking_at_source(
    client: &Client,
    configuration: &Configuration,
    flow: &Flow,
) -> Result<Vec<Lack>, Error> {
    let end = End::source(configuration, flow)?;
    let failed = |error| end.failed("look for the DDL channel", error);
    let installed = has_table(client).await.map_err(failed)?;
    let Some(wanted) = wanted(configuration, flow)? else {
        let is_told = format!(
            "SELECT EXISTS (SELECT FROM {CHECKPOINT_SCHEMA}.ddl_flow WHERE flow = {})",
            quote_literal(&flow.name)
        );
        // Who may not read it need not mend it.
        if installed && yes(client, &is_told).await.unwrap_or_default() {
            let sql = forget(flow);
            let reason = "the source still tells of changes of structure, which the flow does not ask for";
            return Ok(vec![lack(format!("DDL channel of flow \"{}\"", flow.name), reason, vec![sql])]);
        }
        return Ok(Vec::new());
    };
    let mut lacks = objects(client, installed).await.map_err(failed)?;
    let is_written = if installed {
        // Only its owner can read the table: for others, that it is there is what can be seen.
        yes(client, &wanted.is_written()).await.or_else(|error| match error.code() {
            Some("42501") => Ok(true),
            _ => Err(failed(error)),
        })?
    } else {
        false
    };
    if !is_written {
        let reason = "the source does not know what goes with it, or knows it otherwise";
        lacks.push(lack(format!("DDL channel of flow \"{}\"", flow.name), reason, vec![wanted.upsert()]));
    }
    let order = |lack: &Lack| lack.object.starts_with("event trigger");
    lacks.sort_by_key(order);
    Ok(lacks)
}

/// Whether what is lacking is all of it.
pub(crate) fn is_not_installed(lacks: &[Lack]) -> bool {
    lacks.iter().any(|lack| lack.object == table())
}

fn table() -> String {
    format!("table {CHECKPOINT_SCHEMA}.ddl_flow")
}

/// Functions and event triggers that are not there as they should be.
async fn objects(client: &Client, installed: bool) -> Result<Vec<Lack>, irongate_postgres::Error> {
    let mut lacks = Vec::new();
    if !installed {
        lacks.push(lack(table(), "it does not exist", ddl_table()));
    }
    const BODY: &str =
        "SELECT p.prosrc FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = $1 AND p.proname = $2";
    for function in ddl_functions() {
        let row = client.query_opt(BODY, &[&CHECKPOINT_SCHEMA, &function.name]).await?;
        let body: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        let reason = match body {
            None => "it does not exist",
            Some(body) if body != function.body => "it is not the one of this version of irongate",
            Some(_) => continue,
        };
        let object = format!("function {CHECKPOINT_SCHEMA}.{}", function.name);
        lacks.push(lack(object, reason, vec![function.create(), function.close()]));
    }
    const TRIGGER: &str = "SELECT e.evtenabled::pg_catalog.text, e.evtevent::pg_catalog.text, p.proname::pg_catalog.text, n.nspname::pg_catalog.text, e.evttags IS NULL
          FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE e.evtname = $1";
    for (name, function, event) in DDL_TRIGGERS {
        let object = format!("event trigger \"{name}\"");
        let make = ddl_trigger(name, function, event);
        let quoted = quote_identifier(name);
        let Some(row) = client.query_opt(TRIGGER, &[&name]).await? else {
            let reason = "it does not exist: changes of structure do not reach the target";
            lacks.push(lack(object, reason, vec![make]));
            continue;
        };
        let (enabled, on): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (calls, schema, all): (String, String, bool) =
            (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        if (on.as_str(), calls.as_str(), schema.as_str(), all) != (event, function, CHECKPOINT_SCHEMA, true) {
            let reason = "it is not the one that set-up makes";
            lacks.push(lack(object, reason, vec![format!("DROP EVENT TRIGGER {quoted}"), make]));
        } else if enabled != "O" {
            let reason = if enabled == "D" {
                "it is disabled: changes of structure do not reach the target"
            } else {
                "it fires in replica role too: what Replicat does would come back"
            };
            lacks.push(lack(object, reason, vec![format!("ALTER EVENT TRIGGER {quoted} ENABLE")]));
        }
    }
    Ok(lacks)
}

/// Roles that own what Replicat is to alter at the target.
fn owners(flow: &Flow, survey: &Survey) -> Vec<String> {
    let named = flow.ddl.as_ref().and_then(|ddl| ddl.owner.clone());
    let mut owners = match named {
        Some(owner) => vec![owner],
        None => survey.selection.leaves.iter().map(|table| table.owner.clone()).collect(),
    };
    owners.sort();
    owners.dedup();
    owners
}

/// What Replicat's role lacks for altering what others own.
pub(crate) async fn lacking_at_target(
    client: &Client,
    flow: &Flow,
    survey: &Survey,
    role: &str,
) -> Result<Vec<Lack>, irongate_postgres::Error> {
    if flow.ddl.is_none() {
        return Ok(Vec::new());
    }
    const OWNER: &str = "SELECT o.rolsuper, coalesce(pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE'), false)
          FROM pg_catalog.pg_roles o LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $2::pg_catalog.text WHERE o.rolname = $1::pg_catalog.text";
    let mut lacks = Vec::new();
    for owner in owners(flow, survey) {
        let object = format!("role \"{owner}\"");
        let quoted = quote_identifier(&owner);
        let grant = format!("GRANT {quoted} TO {}", quote_identifier(role));
        let row = client.query_opt(OWNER, &[&owner, &role]).await?;
        let (is_super, is_member) = match &row {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (false, false),
        };
        match row {
            None => lacks.push(lack(
                object,
                "it owns tables of the flow at the source, and does not exist here",
                vec![format!("CREATE ROLE {quoted}"), grant],
            )),
            // Membership in it would make Replicat a superuser, which nobody gives away by the by.
            Some(_) if is_super && !is_member => lacks.push(Lack {
                optional: true,
                ..lack(
                    object,
                    "it owns tables of the flow and is a superuser: Replicat cannot change their structure; give the tables to another role at both sites, or name one as owner in [flows.NAME.ddl]",
                    Vec::new(),
                )
            }),
            Some(_) if !is_member => {
                let reason = format!("role \"{role}\" is no member of it, and cannot alter what it owns");
                lacks.push(lack(object, reason, vec![grant]));
            }
            Some(_) => {}
        }
    }
    // Where a flow of its own begins in the same database, its publication gets what Replicat makes.
    const PUBLISHES: &str = "SELECT pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE')
          FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
          LEFT JOIN pg_catalog.pg_roles r ON r.rolname = $2::pg_catalog.text
         WHERE n.nspname = $1 AND p.proname = 'ddl_publish'";
    let function = format!("{CHECKPOINT_SCHEMA}.ddl_publish(pg_catalog.oid)");
    let row = client.query_opt(PUBLISHES, &[&CHECKPOINT_SCHEMA, &role]).await?;
    let may: Option<Option<bool>> = row.map(|row| row.try_get(0)).transpose()?;
    if may.is_some_and(|may| may != Some(true)) {
        let reason =
            format!("role \"{role}\" may not call it: what it makes would be in no publication here");
        let grant = format!("GRANT EXECUTE ON FUNCTION {function} TO {}", quote_identifier(role));
        lacks.push(lack(format!("function {function}"), reason, vec![grant]));
    }
    Ok(lacks)
}

/// What set-up would run for the flow's channel.
pub(crate) async fn plan(
    configuration: &Configuration,
    source: &End<'_>,
    target: &End<'_>,
    flow: &Flow,
    survey: &Survey,
) -> Result<Vec<Statement>, Error> {
    let at_source = reading(source).await?;
    let mut statements = Vec::new();
    let mut add = |end: &End<'_>, lacks: Vec<Lack>| {
        for lack in lacks {
            statements.extend(lack.sql.into_iter().map(|sql| Statement::new(end, As::Admin, sql, lack.why)));
        }
    };
    add(source, lacking_at_source(&at_source, configuration, flow).await?);
    if flow.ddl.is_some() {
        let at_target = reading(target).await?;
        let lacks = lacking_at_target(&at_target, flow, survey, target.own_login().role()).await;
        let mut lacks = lacks.map_err(|error| target.failed("look at the roles", error))?;
        // A flow back that is set up in the same run makes the function only then.
        let back = configuration
            .flows
            .values()
            .any(|other| other.database == flow.database && other.from == flow.to && other.ddl.is_some());
        let function = format!("{CHECKPOINT_SCHEMA}.ddl_publish(pg_catalog.oid)");
        let is_there =
            has_table(&at_target).await.map_err(|error| target.failed("look for the DDL channel", error))?;
        if back && !is_there {
            let reverse = configuration.flows.values().find(|other| {
                other.database == flow.database && other.from == flow.to && other.ddl.is_some()
            });
            if let Some(reverse) = reverse {
                add(target, lacking_at_source(&at_target, configuration, reverse).await?);
            }
            let role = quote_identifier(target.own_login().role());
            lacks.push(lack(
                format!("function {function}"),
                "",
                vec![format!("GRANT EXECUTE ON FUNCTION {function} TO {role}")],
            ));
        }
        add(target, lacks);
    }
    Ok(statements)
}

fn forget(flow: &Flow) -> String {
    format!("DELETE FROM {CHECKPOINT_SCHEMA}.ddl_flow WHERE flow = {}", quote_literal(&flow.name))
}

/// What tear-down would run at the flow's source; `remaining` are the flows that stay.
pub(crate) async fn teardown(
    session: &Session,
    source: &End<'_>,
    flow: &Flow,
    remaining: &[&Flow],
) -> Result<Vec<Statement>, Error> {
    let failed = |error| source.failed("look for the DDL channel", error);
    if !has_table(session).await.map_err(failed)? {
        return Ok(Vec::new());
    }
    let shared = remaining
        .iter()
        .any(|other| other.database == flow.database && other.from == flow.from && other.ddl.is_some());
    let mut statements = vec![forget(flow)];
    if !shared {
        statements = ddl_teardown();
        const OTHERS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname !~ '^(ddl_flow|pg_toast)')
                OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname !~ '^ddl_')
              FROM pg_catalog.pg_namespace n WHERE n.nspname = $1";
        let row = session.query_one(OTHERS, &[&CHECKPOINT_SCHEMA]).await;
        let others: bool = row.and_then(|row| row.try_get(0)).map_err(|error| failed(error.into()))?;
        if !others {
            statements.push(format!("DROP SCHEMA {CHECKPOINT_SCHEMA}"));
        }
    }
    let why = "the flow's changes of structure are told to nobody any more";
    Ok(statements.into_iter().map(|sql| Statement::new(source, As::Admin, sql, why)).collect())
}
