//! The preflight: what would keep a flow from running, or make it run wrongly, found before it does.
//!
//! Each finding names the object, says why it matters and what mends it, as a statement where there is one. An *error*
//! keeps a flow from working or loses something; a *warning* is sound only if somebody means it; a *note* is good to
//! know. A pair of databases that is sound gets no error and no warning.
//!
//! Nothing is changed. Questions are asked as the flow's own roles, which proves that they get in; where they do not,
//! the administrator is asked instead, so that one missing password does not hide everything else.

mod conflicts;
mod counterpart;
mod ddl;
mod disk;
mod encoding;
mod extension;
mod finding;
mod identity;
mod kafka;
mod link;
mod origins;
mod others;
mod passfile;
mod programs;
mod publication;
mod roles;
mod script;
mod sequences;
mod server;
mod settings;
mod slot;
mod standby;
mod tables;

use std::fmt;

use irongate_checkpoint::Role;
use irongate_postgres::Session;
use irongate_postgres::catalog::{self, ServerFacts};

use crate::configuration::{Configuration, Flow};
use crate::end::{As, End};
use crate::error::Error;
use crate::setup::Survey;
pub use finding::{Finding, LACKING, Severity, mending};
use finding::{Findings, Fix, choice, sql};
pub(crate) use identity::identity_index;
pub use script::mending_script;

/// The name under which the preflight's sessions are shown.
const APPLICATION: &str = "irongate check";

/// One end of a flow as the preflight reaches it.
struct Side<'a> {
    end: End<'a>,
    session: Session,
    facts: ServerFacts,
    /// The session is that of the flow's own role.
    is_own: bool,
}

/// Looks at both databases of each flow, at the certificates of the link where one needs them, and at what runs need of
/// this machine: hooks and keys.
///
/// # Errors
/// [`Error::Unknown`] for a flow that is not of the configuration. Whatever goes wrong at a server is a finding.
pub async fn check(configuration: &Configuration, flows: &[&Flow]) -> Result<Vec<Finding>, Error> {
    let mut findings = Findings::default();
    link::certificates(configuration, flows, &mut findings);
    kafka::topics(configuration, flows, &mut findings).await;
    programs::here(configuration, &mut findings);
    passfile::of_flows(configuration, flows, &mut findings);
    for flow in flows {
        disk::trail(configuration, flow, &mut findings);
        let (source, target) = (End::source(configuration, flow)?, End::target(configuration, flow)?);
        let source = reach(source, &mut findings).await;
        let target = reach(target, &mut findings).await;
        if let Some(side) = &source {
            server::source(side, flow, &mut findings).await;
            settings::of(side, &mut findings).await;
        }
        if let Some(side) = &target {
            server::target(side, flow, &mut findings).await;
            settings::of(side, &mut findings).await;
            extension::versions(side, None, &mut findings).await;
            let admin = others::administrator(side, None, &mut findings).await;
            others::transactions(side, admin.as_ref(), &mut findings).await;
        }
        let Some(source) = source else { continue };
        let survey = match Survey::of(&source.session, flow).await {
            Ok(survey) => survey,
            Err(error) => {
                findings.unanswered(&source.end, "tables", &error);
                continue;
            }
        };
        of_source(&source, configuration, flow, &survey, &mut findings).await;
        if is_its_turn(&source, configuration, flow).await {
            slot::source(&source, target.as_ref(), configuration, flow, &mut findings).await;
        } else {
            slot::of_another_turn(&source, flow, &mut findings).await;
        }
        ddl::pair(&source, target.as_ref(), configuration, flow, &survey, &mut findings).await;
        if let Some(target) = &target {
            others::pair(&source, target, flow, &mut findings).await;
            roles::target(target, flow, &survey, &mut findings).await;
            counterpart::target(&source, target, flow, &survey, &mut findings).await;
            encoding::pair(&source, target, &mut findings);
            extension::pair(&source, target, &mut findings).await;
            others::subscriptions(target, flow, &survey, &mut findings).await;
            if flow.conflicts.is_none() {
                settings::clocks(&source, target, &mut findings).await;
            }
            conflicts::pair(&source, target, configuration, flow, &survey, &mut findings).await;
        }
    }
    findings.0.sort_by_key(|finding| finding.severity);
    Ok(findings.0)
}

async fn of_source(
    source: &Side<'_>,
    configuration: &Configuration,
    flow: &Flow,
    survey: &Survey,
    findings: &mut Findings,
) {
    tables::source(source, flow, survey, findings).await;
    roles::source(source, survey, findings).await;
    sequences::source(source, flow, findings).await;
    publication::source(source, flow, survey, findings).await;
    origins::source(source, configuration, flow, findings).await;
    extension::versions(source, Some(survey), findings).await;
    others::slots(source, configuration, findings).await;
    others::leftovers(source, configuration, flow, findings).await;
    let admin = others::administrator(source, Some(survey), findings).await;
    others::transactions(source, admin.as_ref(), findings).await;
}

/// Whether the flow's source is the site that writes: as the database says it, or, as long as no run has ever changed that,
/// by which flow is started by itself. Until its turn comes a flow has no slot, no trail and no checkpoint.
async fn is_its_turn(source: &Side<'_>, configuration: &Configuration, flow: &Flow) -> bool {
    match Role::load(&source.session).await {
        Ok(Some(role)) => role.admits(&flow.from).is_some(),
        Ok(None) | Err(_) => !configuration.is_reverse(flow),
    }
}

/// Opens a session at an end, as the flow's own role if that is possible.
async fn reach<'a>(end: End<'a>, findings: &mut Findings) -> Option<Side<'a>> {
    let (session, is_own) = match end.connect(end.own(), APPLICATION).await {
        Ok(session) => (session, true),
        Err(refusal) => {
            let admin = match end.address.admin {
                Some(_) => end.connect(As::Admin, APPLICATION).await.ok(),
                None => None,
            };
            let role = end.own_login().role();
            // A role that is missing is said as such, with what makes it.
            let known = match &admin {
                Some(admin) => !matches!(catalog::role_facts(admin, Some(role)).await, Ok(None)),
                None => true,
            };
            if known {
                let fix = refusal.hint().map(Fix::Words);
                findings.add(Severity::Error, &end, format!("role \"{role}\""), refusal.to_string(), fix);
            }
            (admin?, false)
        }
    };
    // A lock that somebody holds for long, or a server that is in trouble, must not hold up the preflight for ever.
    const BOUNDS: &str =
        "SET lock_timeout = '5s'; SET statement_timeout = '60s'; SET default_transaction_read_only = on";
    if let Err(error) = session.batch_execute(BOUNDS).await {
        findings.unanswered(&end, "server", &error.into());
        return None;
    }
    match catalog::server_facts(&session).await {
        Ok(facts) => Some(Side { end, session, facts, is_own }),
        Err(error) => {
            findings.unanswered(&end, "server", &error);
            None
        }
    }
}

/// Names in a row, shortened where there are many.
fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
