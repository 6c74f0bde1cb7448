//! The guard of a site: it learns that another site has taken over, and closes this one.
//!
//! A site that was lost knows nothing of that when it comes back: its own row says that it writes. The other site's row
//! says more, by its later epoch. So long as nobody can ask there, the epoch keeps what this site sends out of the other's
//! trails; as soon as somebody can, this site's database is told, its applications are kept out, and its groups are
//! stopped. Nothing is decided here: the epochs are compared, and only a later one is believed.

mod concern;

use std::time::Duration;

use irongate_checkpoint::{FIRST_EPOCH, Program, Role};
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_manager::Control;
use irongate_manager::supervisor::Word;

use crate::error::Error;
use crate::fence;
use crate::place::Place;
use crate::plan::{Kind, free, prepare, role_of, tell};

pub use concern::concerns;

/// What has a database in hand that is told of another site's taking over and is not closed yet.
pub(crate) const GUARD: &str = "guard";
/// How long a run may have a database in hand: a switchover is over by then.
const LONG: Duration = Duration::from_secs(60);
/// How long a site may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long groups may take to stop.
const STOP: Duration = Duration::from_secs(20);

/// Another site has taken a database over.
#[derive(Clone, PartialEq, Debug)]
pub struct Deposed {
    /// The database and this site.
    pub end: String,
    /// The site that writes it.
    pub live: String,
    /// In which epoch.
    pub epoch: u64,
    /// This site is closed, shown by refused writes; or why it is not.
    pub fenced: Result<(), String>,
    /// Groups of this site that were told to stop, and what came of it; or why they were not.
    pub stopped: Result<Vec<String>, String>,
}

/// What a guard has found of one database.
#[derive(Clone, PartialEq, Debug)]
pub enum Found {
    /// Nobody has taken over.
    InOrder,
    /// The other site cannot be asked; why.
    Silent(String),
    /// Another site has.
    Deposed(Deposed),
    /// Each of two sites says that it writes, in the same epoch; a sentence.
    Split(String),
}

/// Whether a row of another site is to be believed over what is known here.
fn is_later(here: Option<&Role>, there: &Role, site: &str) -> bool {
    // A run that has both sites in hand tells this one itself.
    let runs = |role: &Role| role.run.as_ref().map(|holder| holder.run.clone());
    let same_run = here.and_then(&runs).is_some_and(|run| Some(run) == runs(there));
    there.live != site && there.epoch > here.map_or(FIRST_EPOCH, |role| role.epoch) && !same_run
}

/// Whether neither of two sites gives way. No run begins an epoch that another one may have begun, so somebody has changed a row
/// by hand, or brought a database back from a backup.
fn is_split(here: &Role, there: &Role, site: &str) -> bool {
    here.live == site && there.live != site && here.epoch == there.epoch
}

/// Looks once after every database that one site writes at a time. Those without an administrator's address or without
/// known applications are left out: nobody could close them.
///
/// # Errors
/// [`Error::Database`] and others for this site's own databases; the others' silence is [`Found::Silent`].
///
/// Not cancel-safe in comfort: what was begun is repeated by the next call.
pub async fn look(configuration: &Configuration, site: &str) -> Result<Vec<(String, Found)>, Error> {
    let mut all = Vec::new();
    for database in guarded(configuration, site) {
        all.push((database.to_owned(), look_after(configuration, database, site).await?));
    }
    Ok(all)
}

/// The databases of a site that are looked after.
fn guarded<'a>(configuration: &'a Configuration, site: &str) -> Vec<&'a str> {
    let is_guarded = |database: &&str| {
        let sites = configuration.databases.get(*database);
        let there = sites.is_some_and(|sites| sites.get(site).is_some_and(|address| address.admin.is_some()));
        there && configuration.access.get(*database).is_some_and(|access| !access.roles.is_empty())
    };
    configuration.active_passive().into_iter().filter(is_guarded).collect()
}

async fn look_after(configuration: &Configuration, database: &str, site: &str) -> Result<Found, Error> {
    let here = Place::connect(configuration, database, site).await?;
    let known = role_of(&here).await?;
    let others = configuration.databases.get(database).into_iter().flat_map(|sites| sites.keys());
    let mut silent = Found::InOrder;
    for other in others.filter(|other| *other != site) {
        let asked = async { role_of(&Place::connect(configuration, database, other).await?).await };
        let role = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Some(role))) => role,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => {
                silent = Found::Silent(error.to_string());
                continue;
            }
            Err(_) => {
                silent = Found::Silent(format!("{database}.{other} does not answer in {PATIENCE:?}"));
                continue;
            }
        };
        if is_later(known.as_ref(), &role, site) {
            return depose(configuration, &here, &role).await.map(Found::Deposed);
        }
        if let Some(known) = known.as_ref().filter(|known| is_split(known, &role, site)) {
            return Ok(Found::Split(format!(
                "{here} and {database}.{other} both say in epoch {} that they write: fence the one that is to go (irongate fence \
                 SITE --force), and take over to the other one (irongate failover --to OTHER --accept-loss --force)",
                known.epoch
            )));
        }
        if let Some(run) = known.as_ref().and_then(|known| left_by(known, &role, site)) {
            // One that is just beginning or ending has one site before the other.
            if free(&here, run, LONG).await? {
                tracing::warn!(end = %here, run, "a run that is over had this site in hand still: freed");
            }
        }
    }
    // What an earlier look has begun and not ended. A site that somebody has opened since stays open.
    let began = |role: &Role| role.run.as_ref().is_some_and(|holder| holder.run == GUARD);
    if let Some(role) = known.filter(began) {
        return depose(configuration, &here, &role).await.map(Found::Deposed);
    }
    Ok(silent)
}

/// The reinstatement that has this site in hand and is over: it could not give back what was at a site that was lost. The
/// site that writes says that nobody has it in hand, in the same epoch; a reinstatement takes that one in hand first and gives it back last.
fn left_by<'a>(here: &'a Role, there: &Role, site: &str) -> Option<&'a str> {
    let is_same = (&here.live, here.epoch) == (&there.live, there.epoch) && here.live != site;
    // The other plans hold the site that is to write alone while the other one is lost, or lead back there.
    let holder = here.run.as_ref().filter(|holder| holder.run.starts_with(&format!("{}-", Kind::Reinstate)));
    holder.filter(|_| is_same && there.run.is_none()).map(|holder| holder.run.as_str())
}

async fn depose(configuration: &Configuration, here: &Place, role: &Role) -> Result<Deposed, Error> {
    prepare(here).await?;
    tell(here, &role.live, role.epoch, Some(GUARD)).await?;
    // What the database says now keeps Extract from starting; what runs already is told to stop.
    let fenced =
        fence::close(here, &fence::Close::default()).await.map(drop).map_err(|error| error.to_string());
    if fenced.is_ok() {
        const OVER: &str = "UPDATE irongate.role SET run = NULL, run_since = NULL WHERE run = $1";
        here.session.execute(OVER, &[&GUARD]).await.map_err(here.failed("tell the site its role"))?;
    }
    let out = |flow: &&Flow| flow.database == here.database && flow.from == here.site && flow.at == here.site;
    let flows: Vec<&Flow> = configuration.flows.values().filter(out).collect();
    let mut groups = Vec::new();
    for flow in flows {
        groups.push(group_name(&flow.name, Program::Extract));
        groups.extend(flow.pump.is_some().then(|| group_name(&flow.name, Program::Pump)));
        let feed = flow.feed.as_ref().filter(|feed| feed.at == here.site);
        groups.extend(feed.map(|_| group_name(&flow.name, Program::Feed)));
    }
    let control = Control::of(&configuration.state_directory, &here.site);
    let stopped = match control.order(Word::Stop, &groups, STOP).await {
        Ok(_) => Ok(groups),
        Err(error) => Err(error.to_string()),
    };
    Ok(Deposed { end: here.to_string(), live: role.live.clone(), epoch: role.epoch, fenced, stopped })
}

#[cfg(test)]
mod tests {
    use irongate_checkpoint::RunHolder as Holder;

    use super::*;

    fn role(live: &str, epoch: u64, run: Option<&str>) -> Role {
        let run = run.map(|run| Holder { run: run.into(), holder: "dba@here".into(), since: "now".into() });
        Role { live: live.into(), epoch, next: None, run }
    }

    #[test]
    fn only_a_later_epoch_of_another_site_is_believed() {
        let mine = role("main", 3, None);
        assert!(is_later(Some(&mine), &role("secondary", 4, None), "main"));
        assert!(!is_later(Some(&mine), &role("secondary", 3, None), "main"));
        assert!(!is_later(Some(&mine), &role("main", 4, None), "main"));
        // Never asked for a role before: the first epoch.
        assert!(is_later(None, &role("secondary", 2, None), "main"));
        assert!(!is_later(None, &role("main", 1, None), "main"));
    }

    #[test]
    fn two_sites_that_say_in_one_epoch_that_they_write_are_told() {
        let (main, secondary) = (role("main", 3, None), role("secondary", 3, None));
        assert!(is_split(&main, &secondary, "main") && is_split(&secondary, &main, "secondary"));
        assert!(!is_split(&main, &role("secondary", 4, None), "main"));
        assert!(!is_split(&main, &role("main", 3, None), "main"));
        assert!(!is_split(&secondary, &secondary, "main"));
    }

    #[test]
    fn what_a_run_that_is_over_has_left_behind_is_known_by_the_other_site() {
        let left = |here: &Role, there: &Role| left_by(here, there, "main").map(str::to_owned);
        let held = role("secondary", 4, Some("reinstate-1"));
        assert_eq!(left(&held, &role("secondary", 4, None)).as_deref(), Some("reinstate-1"));
        // It is at work there, or something else is as it was not then.
        for there in
            [role("secondary", 4, Some("reinstate-1")), role("secondary", 5, None), role("main", 4, None)]
        {
            assert_eq!(left(&held, &there), None, "{there:?}");
        }
        for run in [GUARD, "failover-1", "switchover-1"] {
            assert_eq!(left(&role("secondary", 4, Some(run)), &role("secondary", 4, None)), None, "{run}");
        }
        assert_eq!(left(&role("main", 4, Some("switchover-1")), &role("main", 4, None)), None, "it writes");
    }

    #[test]
    fn a_run_that_has_both_sites_in_hand_is_not_disturbed_and_one_of_another_is_no_excuse() {
        let there = role("secondary", 4, Some("switchover-1"));
        assert!(!is_later(Some(&role("main", 3, Some("switchover-1"))), &there, "main"));
        assert!(is_later(Some(&role("main", 3, Some("switchover-0"))), &there, "main"));
        assert!(is_later(Some(&role("main", 3, None)), &there, "main"));
    }
}
