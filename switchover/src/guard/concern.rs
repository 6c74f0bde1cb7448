//! What is not as it should be with the roles of a site: a run that nobody ends, a standby that lets applications in, a
//! site that writes and lets nobody in. The manager tells it as an alarm, so that `health` says it in the morning.

use irongate_checkpoint::Role;
use irongate_deployment::Configuration;
use irongate_manager::event::Severity;
use irongate_manager::watch::Concern;

use super::{GUARD, LONG};
use crate::error::Error;
use crate::fence;
use crate::place::Place;
use crate::plan::role_of;
use crate::strayed;

/// What is known of one database of a site.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The database and the site.
    end: String,
    site: String,
    /// The site that writes by the configuration, as long as the database says nothing.
    configured: Option<String>,
    role: Option<Role>,
    /// How long a run has it in hand, in seconds.
    held: f64,
    is_closed: bool,
    strayed: usize,
}

/// What is not as it should be with the databases of a site that one site writes at a time. A database that cannot be
/// asked is left out: that is an alarm of its own.
pub async fn concerns(configuration: &Configuration, site: &str) -> Vec<Concern> {
    let mut all = Vec::new();
    for database in super::guarded(configuration, site) {
        match known(configuration, database, site).await {
            Ok(known) => all.extend(judge(&known)),
            Err(error) => tracing::debug!(%error, "cannot look at the role of {database}.{site}"),
        }
    }
    all
}

async fn known(configuration: &Configuration, database: &str, site: &str) -> Result<Known, Error> {
    const HELD: &str = "SELECT coalesce(extract(epoch FROM now() - run_since), 0)::float8 FROM irongate.role";
    let place = Place::connect(configuration, database, site).await?;
    let role = role_of(&place).await?;
    let held = match role.as_ref().and_then(|role| role.run.as_ref()) {
        None => 0.0,
        Some(_) => {
            let failed = || place.failed("ask how long a run lasts");
            place.session.query_one(HELD, &[]).await.and_then(|row| row.try_get(0)).map_err(failed())?
        }
    };
    let forward = configuration.flows.values().find(|flow| flow.database == database && flow.autostart);
    Ok(Known {
        end: place.to_string(),
        site: site.to_owned(),
        configured: forward.map(|flow| flow.from.clone()),
        role,
        held,
        is_closed: fence::standing(&place).await?.is_some(),
        strayed: strayed::found(&place).await?.len(),
    })
}

fn judge(known: &Known) -> Vec<Concern> {
    let Known { end, site, .. } = known;
    let mut all = Vec::new();
    let mut add = |severity, text| all.push(Concern { severity, text });
    let run = known.role.as_ref().and_then(|role| role.run.as_ref());
    // A run begins at the site that is to write.
    let home = known.role.as_ref().and_then(|role| role.next.as_ref()).map(|(site, _)| site);
    match run {
        // Told and not closed yet: the guard goes on with it.
        Some(run) if run.run == GUARD => add(
            Severity::Error,
            format!(
                "{end}: another site has taken over, and this one cannot be closed; see this manager's log"
            ),
        ),
        // What is open or closed meanwhile is the run's own business.
        Some(run) if known.held >= LONG.as_secs_f64() => add(
            Severity::Error,
            format!(
                "{end}: run {} of {} is not over since {}: look at it{} (irongate runs {0}), and go on with --resume or \
                 take it back with --abort; where its journal is gone, or it is over there, irongate runs --forget {0}",
                run.run,
                run.holder,
                run.since,
                home.map(|site| format!(" at site \"{site}\", where it began")).unwrap_or_default()
            ),
        ),
        Some(_) => {}
        None => {
            let live = known.role.as_ref().map(|role| &role.live).or(known.configured.as_ref());
            let writes = live.is_none_or(|live| live == site);
            match (writes, known.is_closed) {
                (true, true) => add(
                    Severity::Error,
                    format!("{end} writes, and is closed to its applications; irongate open {site} opens it"),
                ),
                (false, false) => {
                    // Before the first change of roles nobody may have closed it yet.
                    let severity = if known.role.is_some() { Severity::Error } else { Severity::Warning };
                    let live = live.map_or("another site", String::as_str);
                    let text = format!(
                        "{end} is open to its applications, and {live} writes; irongate fence {site} closes it (--force where no site is open otherwise)"
                    );
                    add(severity, text);
                }
                (true, false) | (false, true) => {}
            }
        }
    }
    if known.strayed > 0 && run.is_none() {
        let text = format!(
            "{end} was open while another site wrote, and may be no copy any more; compare, and say so with irongate \
             fence {site} --is-copy, or reinstate it"
        );
        add(Severity::Error, text);
    }
    all
}

#[cfg(test)]
mod tests {
    use irongate_checkpoint::RunHolder as Holder;

    use super::*;

    fn site(live: Option<&str>, run: Option<&str>, is_closed: bool) -> Known {
        let holder = |run: &str| Holder { run: run.into(), holder: "dba@here".into(), since: "now".into() };
        let role = live.map(|live| Role { live: live.into(), epoch: 2, next: None, run: run.map(holder) });
        Known {
            end: "config.main".into(),
            site: "main".into(),
            configured: Some("main".into()),
            role,
            is_closed,
            ..Known::default()
        }
    }

    #[test]
    fn a_site_that_writes_is_open_and_a_standby_is_closed() {
        let worst = |known: &Known| judge(known).first().map(|concern| concern.severity);
        assert_eq!(worst(&site(Some("main"), None, false)), None);
        assert_eq!(worst(&site(Some("main"), None, true)), Some(Severity::Error));
        assert_eq!(worst(&site(Some("secondary"), None, true)), None);
        assert_eq!(worst(&site(Some("secondary"), None, false)), Some(Severity::Error));
        assert_eq!(worst(&site(None, None, false)), None);
        let standby = Known { configured: Some("secondary".into()), ..site(None, None, false) };
        assert_eq!(worst(&standby), Some(Severity::Warning));
        let strayed = Known { strayed: 2, ..site(Some("secondary"), None, true) };
        assert_eq!(worst(&strayed), Some(Severity::Error));
    }

    #[test]
    fn a_run_is_left_in_peace_for_a_minute() {
        let young = site(Some("main"), Some("switchover-1"), true);
        assert_eq!(judge(&young), []);
        let old = Known { held: 61.0, strayed: 1, ..young };
        let [concern] = &judge(&old)[..] else { panic!("one") };
        assert!(concern.text.contains("irongate runs switchover-1"), "{}", concern.text);
        assert_eq!(judge(&site(Some("secondary"), Some(GUARD), false)).len(), 1);
    }
}
