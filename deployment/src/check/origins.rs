//! Who else writes into the source under a replication origin: what he writes is left out, or must be (loops).

use irongate_checkpoint::Origin;
use irongate_postgres::Error;

use super::{Findings, Side};
use crate::configuration::{Configuration, Flow, SkipOrigins};

pub(super) async fn source(
    side: &Side<'_>,
    configuration: &Configuration,
    flow: &Flow,
    findings: &mut Findings,
) {
    if let Err(error) = examine(side, configuration, flow, findings).await {
        findings.unanswered(&side.end, "replication origins", &error);
    }
}

async fn examine(
    side: &Side<'_>,
    configuration: &Configuration,
    flow: &Flow,
    findings: &mut Findings,
) -> Result<(), Error> {
    // The flows that write where this one reads.
    let into_here = configuration
        .flows
        .values()
        .filter(|other| other.database == flow.database && other.to == flow.from && other.name != flow.name);
    let own: Vec<String> = into_here.filter_map(|other| Origin::name_for(&other.name).ok()).collect();
    let subscriptions: Vec<String> = names(
        side,
        "SELECT s.subname::pg_catalog.text FROM pg_catalog.pg_subscription s
           JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
          WHERE d.datname = current_database() AND s.subenabled ORDER BY 1",
    )
    .await?;
    match &flow.extract.skip_origins {
        SkipOrigins::Any => {
            for name in subscriptions {
                findings.warning(
                    &side.end,
                    format!("subscription \"{name}\""),
                    "what it brings here has an origin, and this flow leaves out everything that has one",
                    format!(
                        "set skip_origins = {own:?} in [flows.{}.extract], if these rows are to go on",
                        flow.name
                    ),
                );
            }
            // Origins belong to the cluster: whether these write into this database, nobody can tell.
            let strangers: Vec<String> =
                names(side, "SELECT roname FROM pg_catalog.pg_replication_origin ORDER BY 1")
                    .await?
                    .into_iter()
                    .filter(|name| {
                        !own.contains(name) && !name.starts_with("pg_") && !is_configured(configuration, name)
                    })
                    .collect();
            for name in strangers {
                findings.note(
                    &side.end,
                    format!("replication origin \"{name}\""),
                    "if anything is written into this database under it, this flow leaves that out",
                );
            }
        }
        SkipOrigins::Named(skipped) => {
            for name in own.iter().filter(|name| !skipped.contains(*name)) {
                findings.error(
                    &side.end,
                    format!("replication origin \"{name}\""),
                    "a flow of this deployment writes under it into this database, and this flow would send that back",
                    format!("add \"{name}\" to skip_origins in [flows.{}.extract]", flow.name),
                );
            }
        }
    }
    Ok(())
}

fn is_configured(configuration: &Configuration, origin: &str) -> bool {
    Origin::flow_of(origin).is_some_and(|flow| configuration.flows.contains_key(flow))
}

async fn names(side: &Side<'_>, sql: &str) -> Result<Vec<String>, Error> {
    side.session.query(sql, &[]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
