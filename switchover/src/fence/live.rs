//! Which site writes, before somebody closes or opens one by hand.

use std::time::Duration;

use irongate_checkpoint::Role;
use irongate_deployment::Configuration;

use super::standing;
use crate::error::Error;
use crate::place::Place;

/// How long another site may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the site of a place is the one that writes its database: as the database says, or, as long as no run has ever
/// changed that, as the flows that are started by themselves do.
///
/// # Errors
/// [`Error::Deployment`] when the database cannot be asked.
pub async fn is_live(configuration: &Configuration, place: &Place) -> Result<bool, Error> {
    let role = Role::load(&place.session).await.map_err(irongate_deployment::Error::from)?;
    Ok(match role {
        Some(role) => role.live == place.site,
        None => configuration.flows.values().any(|flow| {
            flow.database == place.database && flow.from == place.site && !configuration.is_reverse(flow)
        }),
    })
}

/// Refuses to close by hand a site whose applications are at work.
///
/// # Errors
/// [`Error::Live`], [`Error::OnlyOpen`]; [`Error::Deployment`], [`Error::Database`].
pub async fn spare_the_live(configuration: &Configuration, place: &Place) -> Result<(), Error> {
    // Behind a fence that stands there is nobody to be cut off.
    if standing(place).await?.is_some() {
        return Ok(());
    }
    // The only site that is open is where they are, whatever else is said.
    if is_live(configuration, place).await? {
        return Err(Error::Live { end: place.to_string() });
    }
    match open_elsewhere(configuration, place).await {
        None => Err(Error::OnlyOpen { end: place.to_string() }),
        Some(_) => Ok(()),
    }
}

/// Makes sure that no other site of a database is open, as far as fences tell: what comes after [`super::open`] by hand would be
/// two sites that write.
///
/// # Errors
/// [`Error::OtherIsOpen`], also for a site that cannot be asked; [`Error::Deployment`].
pub async fn others_are_closed(configuration: &Configuration, place: &Place) -> Result<(), Error> {
    let role = Role::load(&place.session).await.map_err(irongate_deployment::Error::from)?;
    if let Some(role) = role {
        let reason = match &role.run {
            Some(holder) => format!("run \"{}\" of {} has it in hand", holder.run, holder.holder),
            None if role.live != place.site => format!("site \"{}\" writes it", role.live),
            None => String::new(),
        };
        if !reason.is_empty() {
            return Err(Error::NotByHand { end: place.to_string(), reason });
        }
    }
    match open_elsewhere(configuration, place).await {
        None => Ok(()),
        Some((other, silent)) => {
            let reason = match silent {
                None => "has no fence".to_owned(),
                Some(error) => format!("cannot be asked whether it has a fence: {error}"),
            };
            Err(Error::OtherIsOpen { end: place.to_string(), other, reason })
        }
    }
}

/// Whether what is written at a site is what counts: it is the one that writes, and no run that has it in hand has let the
/// applications in elsewhere already.
///
/// # Errors
/// As [`is_live`].
pub async fn counts(configuration: &Configuration, place: &Place) -> Result<bool, Error> {
    let role = Role::load(&place.session).await.map_err(irongate_deployment::Error::from)?;
    let is_held = role.is_some_and(|role| role.run.is_some());
    let is_live = is_live(configuration, place).await?;
    // A site that does not answer has let nobody in that anybody knows of.
    let elsewhere = open_elsewhere(configuration, place).await;
    let is_open = elsewhere.is_some_and(|(_, silent)| silent.is_none());
    Ok(is_live && !(is_held && is_open))
}

/// Another site of the database that is open, or cannot be asked, and then why.
async fn open_elsewhere(configuration: &Configuration, place: &Place) -> Option<(String, Option<Error>)> {
    let sites = configuration.databases.get(&place.database).into_iter().flat_map(|sites| sites.keys());
    for site in sites.filter(|site| **site != place.site) {
        let asked = async { standing(&Place::connect(configuration, &place.database, site).await?).await };
        let silent = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Some(_))) => continue,
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => {
                let reason = format!("{}.{site} does not answer in {PATIENCE:?}", place.database);
                Some(Error::Lost { reason })
            }
        };
        return Some((format!("{}.{site}", place.database), silent));
    }
    None
}
