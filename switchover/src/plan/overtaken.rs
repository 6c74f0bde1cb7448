//! Whether a run that is gone on with, or taken back, still has the databases that it had.
//!
//! A run gives the databases back in its last steps, before that stands in its journal. Cut off just there, it is not over by
//! its journal, while others may have changed the roles since: what it would close then is the site that writes, and the
//! slot that it would drop is the one that is read. So before anything is done the sites are asked whose they are, and in
//! which epoch; the one that a lost site was is not, whose guard tells it.

use irongate_checkpoint::Role;
use irongate_deployment::Configuration;
use serde_json::Value;

use super::{Kind, Limits, Run, Unit, role_of};
use crate::engine::Way;
use crate::error::Error;
use crate::journal::{Entry, Journal, Outcome, What, evidence_of};
use crate::place::Place;

/// What others have done with a database of a run.
pub(super) struct Others {
    /// A sentence.
    pub(super) what: String,
    /// They have it in hand, and may give it back.
    pub(super) are_at_it: bool,
}

/// What the run has noted in its step "lock".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Locked {
    /// The epoch that it is to begin, or has found where it begins none.
    epoch: u64,
    /// The one before it, where it begins one.
    before: Option<u64>,
}

fn locked(entries: &[Entry], database: &str) -> Option<Locked> {
    let evidence = evidence_of(entries, "lock")?;
    // A run has the same epoch at both of its sites, and may have noted one of them.
    let is_of = |locked: &&Value| {
        let name = locked["database"].as_str().and_then(|name| name.rsplit_once('.'));
        name.is_some_and(|(name, _)| name == database)
    };
    let of_database = evidence["locked"].as_array()?.iter().find(is_of)?;
    if let Some(epoch) = of_database["next_epoch"].as_u64() {
        let before = of_database["epoch_before"].as_u64().or(epoch.checked_sub(1));
        return Some(Locked { epoch, before });
    }
    of_database["epoch"].as_u64().map(|epoch| Locked { epoch, before: None })
}

/// Whether a row of roles is what the run has left there.
fn is_left(role: &Role, (run, to): (&str, &str), locked: Locked, way: Way) -> bool {
    if let Some(holder) = &role.run {
        return holder.run == run;
    }
    // Given back: behind the change of roles, where nothing is taken back any more; or while it was taken back before it.
    let is_behind = role.epoch == locked.epoch && role.live == to;
    is_behind || (way == Way::Back && Some(role.epoch) == locked.before)
}

/// Whether others have had the databases since of a run of this site that has not come to its end; it is noted, if it is to be.
pub(super) async fn is_overtaken(
    configuration: &Configuration,
    limits: &Limits,
    run: &str,
    is_noted: bool,
) -> Result<bool, Error> {
    let state = &configuration.state_directory;
    let (heading, entries) = Journal::read(state, run)?;
    let Some(kind) = Kind::of(&heading.plan) else { return Ok(false) };
    let mut units = Vec::new();
    for database in &heading.databases {
        let to = Place::connect(configuration, database, &heading.to).await?;
        // What this site says is enough: a run that has it still may go on, and looks at the other one then.
        let from = Err("not asked".to_owned());
        units.push(Unit { pair: configuration.pair(database, &heading.to)?, from, to });
    }
    let run = Run { configuration, kind, heading, limits, units, was_made_copy: false };
    let Some(Others { what, .. }) = run.overtaken(&entries, Way::Forward).await? else { return Ok(false) };
    // Somebody has to take it back, or to free what it has.
    if run.has_in_hand().await? {
        return Ok(false);
    }
    if is_noted {
        let mut journal = Journal::open(state, &run.heading.run)?;
        let run_name = &run.heading.run;
        tracing::warn!(run_name, what, "a run that was cut off is over: others have had its databases since");
        run.note_overtaken(&mut journal)?;
    }
    Ok(true)
}

impl Run<'_> {
    /// Whether it has one of the databases in hand that it is to open.
    pub(super) async fn has_in_hand(&self) -> Result<bool, Error> {
        let run = &self.heading.run;
        self.any_says(|role| role.run.as_ref().is_some_and(|holder| holder.run == *run)).await
    }

    pub(super) fn note_overtaken(&self, journal: &mut Journal) -> Result<(), Error> {
        Journal::forget_rows(&self.configuration.state_directory, &self.heading.run)?;
        journal.note(What::Ended { outcome: Outcome::Overtaken })
    }

    /// What says that others have had the databases since; nothing where they are as the run has left them.
    pub(super) async fn overtaken(&self, entries: &[Entry], way: Way) -> Result<Option<Others>, Error> {
        // A drill changes no roles, whichever way it goes. One that is being taken back goes no other way.
        let is_back = entries.iter().any(|entry| matches!(entry.what, What::Undo { .. }));
        let way = if self.kind == Kind::Drill || is_back { Way::Back } else { way };
        let mut asked = Vec::new();
        for unit in &self.units {
            // Before it had them there is nothing to be overtaken in: the lock looks for itself.
            let Some(locked) = locked(entries, unit.pair.database) else { continue };
            asked.push((&unit.to, locked));
            // Of the others the site that is lost, or comes back, is told by its own guard.
            if matches!(self.kind, Kind::Switchover | Kind::Switchback | Kind::Drill) {
                asked.extend(unit.reached().map(|from| (from, locked)));
            }
        }
        let heading = &self.heading;
        let names = (heading.run.as_str(), heading.to.as_str());
        for (place, locked) in asked {
            match role_of(place).await? {
                Some(role) if is_left(&role, names, locked, way) => {}
                // Taken back, and given to the run that had it before, which is not noted yet.
                Some(role)
                    if way == Way::Back
                        && heading.supersedes.is_some()
                        && role.run.as_ref().map(|holder| &holder.run) == heading.supersedes.as_ref() => {}
                Some(role) => {
                    let holder = role.run.map(|holder| format!(", in the hands of run \"{}\"", holder.run));
                    let are_at_it = holder.is_some();
                    let what = format!(
                        "{place} says that site \"{}\" writes in epoch {}{}",
                        role.live,
                        role.epoch,
                        holder.unwrap_or_default()
                    );
                    return Ok(Some(Others { what, are_at_it }));
                }
                None => {
                    let what = format!("{place} has no roles any more");
                    return Ok(Some(Others { what, are_at_it: false }));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use irongate_checkpoint::RunHolder;
    use serde_json::json;

    use super::*;

    fn role(live: &str, epoch: u64, run: Option<&str>) -> Role {
        let run =
            run.map(|run| RunHolder { run: run.into(), holder: "dba@here".into(), since: "now".into() });
        Role { live: live.into(), epoch, next: None, run }
    }

    #[test]
    fn a_run_knows_what_it_has_left() {
        let names = ("switchover-1", "secondary");
        let left = |role: &Role, is_next: bool, way| {
            is_left(role, names, Locked { epoch: 3, before: is_next.then_some(2) }, way)
        };
        let ours = role("main", 2, Some("switchover-1"));
        assert!(left(&ours, true, Way::Forward) && left(&ours, true, Way::Back));
        // Cut off between giving back and its note.
        assert!(left(&role("secondary", 3, None), true, Way::Forward));
        assert!(left(&role("main", 2, None), true, Way::Back));
        assert!(!left(&role("main", 2, None), true, Way::Forward));
        // Somebody wants it taken back although it is behind its point of no return: it is not over for that.
        assert!(left(&role("secondary", 3, None), true, Way::Back));
        // A reinstatement changes no epoch.
        assert!(left(&role("secondary", 3, None), false, Way::Forward));
        assert!(left(&role("secondary", 3, None), false, Way::Back));
    }

    #[test]
    fn what_others_have_changed_since_is_seen() {
        let names = ("switchover-1", "secondary");
        for role in
            [role("main", 4, None), role("secondary", 5, None), role("secondary", 3, Some("switchover-2"))]
        {
            for (before, way) in
                [(Some(2), Way::Forward), (Some(2), Way::Back), (None, Way::Forward), (None, Way::Back)]
            {
                assert!(!is_left(&role, names, Locked { epoch: 3, before }, way), "{role:?} {way:?}");
            }
        }
    }

    #[test]
    fn the_note_of_the_lock_says_the_epoch() {
        let done =
            |evidence| [Entry { at: 0, what: What::Done { step: "lock".into(), seconds: 0.0, evidence } }];
        let next = json!({ "locked": [{ "database": "log.main", "next_epoch": 7 }, { "database": "config.secondary", "next_epoch": 8 }] });
        assert_eq!(locked(&done(next), "config"), Some(Locked { epoch: 8, before: Some(7) }));
        let later = json!({ "locked": [{ "database": "config.main", "epoch_before": 5, "next_epoch": 7 }] });
        assert_eq!(locked(&done(later), "config"), Some(Locked { epoch: 7, before: Some(5) }));
        let held = json!({ "locked": [{ "database": "config.main", "epoch": 7 }] });
        assert_eq!(locked(&done(held), "config"), Some(Locked { epoch: 7, before: None }));
        assert_eq!(locked(&[], "config"), None);
    }
}
