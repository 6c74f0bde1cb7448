//! Frees databases of a run that nobody can end any more: the site where it began, and its journal with it, is gone.
//!
//! A run holds the databases of both sites by their rows of roles, and is ended where its journal lies. Without the journal
//! nobody knows how far it came: so nothing is taken back here, and nothing is gone on with.

use irongate_deployment::Configuration;
use irongate_manager::Control;
use serde::Serialize;

use crate::error::Error;
use crate::fence;
use crate::guard::GUARD;
use crate::journal::{Journal, What};
use crate::place::Place;
use crate::plan::{free_of_forgotten, role_of};
use crate::report::command;

/// A database as a run has left it that was forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Freed {
    /// The database and its site.
    pub database: String,
    /// The site that writes, by what the database says.
    pub live: String,
    /// In which epoch.
    pub epoch: u64,
    /// The site that the run was to let write, and may have let write already.
    pub next_live: Option<String>,
    /// Whether its applications are kept out.
    pub is_closed: bool,
}

/// Frees every database that the run has in hand, at all sites that answer. Those that do not answer are named.
///
/// # Errors
/// [`Error::Open`] where the run's journal is here and the run is not over; [`Error::JournalElsewhere`] where it lies at a site whose
/// manager answers; [`Error::NotHeld`] where no database is in its hands; [`Error::Journal`], [`Error::Database`].
pub async fn forget(configuration: &Configuration, run: &str) -> Result<(Vec<Freed>, Vec<String>), Error> {
    let state = &configuration.state_directory;
    if Journal::runs(state)?.iter().any(|known| known == run) {
        let (heading, entries) = Journal::read(state, run)?;
        if !entries.iter().any(|entry| matches!(entry.what, What::Ended { .. })) {
            return Err(Error::Open { run: run.to_owned(), command: command(&heading) });
        }
    }
    if run == GUARD {
        return Err(Error::NotHeld { run: run.to_owned(), silent: String::new() });
    }
    let (mut held, mut silent) = (Vec::new(), Vec::new());
    for database in configuration.active_passive() {
        for site in configuration.databases.get(database).into_iter().flat_map(|sites| sites.keys()) {
            let place = match Place::connect(configuration, database, site).await {
                Ok(place) => place,
                Err(error) => {
                    silent.push(format!("{database}.{site}: {error}"));
                    continue;
                }
            };
            let Some(role) = role_of(&place).await? else { continue };
            if role.run.as_ref().is_some_and(|holder| holder.run == run) {
                held.push((place, role));
            }
        }
    }
    if held.is_empty() {
        return Err(Error::NotHeld { run: run.to_owned(), silent: silent.join("; ") });
    }
    // A run's journal lies at the site that is to write when it is over.
    for (_, role) in &held {
        let home = role.next.as_ref().map_or(&role.live, |(next, _)| next);
        if Some(home) != configuration.site.as_ref()
            && let Ok(control) =
                Control::between(configuration, configuration.site.as_deref().unwrap_or_default(), home)
            && control.ping().await.is_ok()
        {
            return Err(Error::JournalElsewhere { run: run.to_owned(), site: home.clone() });
        }
    }
    let mut freed = Vec::new();
    for (place, role) in held {
        if free_of_forgotten(&place, run).await? {
            freed.push(Freed {
                database: place.to_string(),
                live: role.live,
                epoch: role.epoch,
                next_live: role.next.map(|(site, _)| site),
                is_closed: fence::standing(&place).await?.is_some(),
            });
        }
    }
    Ok((freed, silent))
}
