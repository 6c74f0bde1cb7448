//! What the preflight says of fences, before anybody needs one: whether the administrator can close and open each site, and
//! whether somebody would write behind any fence.

use irongate_deployment::configuration::Flow;
use irongate_deployment::{Configuration, Finding, Severity};

use crate::error::Error;
use crate::fence;
use crate::place::Place;

/// Looks at every site of the flows' databases that one site writes at a time and whose applications' roles are
/// configured. Each finding is a warning: replication works without fences. Nothing is changed.
///
/// Cancel-safe.
pub async fn check(configuration: &Configuration, flows: &[&Flow]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for database in configuration.active_passive() {
        let is_meant = flows.iter().any(|flow| flow.database == database);
        let Some(sites) = configuration.databases.get(database) else { continue };
        if !is_meant || !configuration.access.contains_key(database) {
            continue;
        }
        for site in sites.keys() {
            let object = format!("{database}.{site}: fence");
            let warning = |reason: String, fix: Option<String>| {
                Finding::new(Severity::Warning, object.clone(), reason, fix)
            };
            match foreseen(configuration, database, site).await {
                Ok(found) => findings.extend(found.into_iter().map(|leak| match leak.split_once(": ") {
                    Some((reason, fix)) => warning(reason.to_owned(), Some(fix.to_owned())),
                    None => warning(leak, None),
                })),
                Err(error) => findings.push(warning(error.to_string(), error.hint())),
            }
        }
    }
    findings
}

async fn foreseen(configuration: &Configuration, database: &str, site: &str) -> Result<Vec<String>, Error> {
    let place = Place::connect(configuration, database, site).await?;
    fence::roles_exist(&place).await?;
    fence::foreseen(&place).await
}
