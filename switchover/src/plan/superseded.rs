//! A failover that goes on from a run in the middle of which the other site was lost.
//!
//! Until the failover opens its site, the earlier run is only put by. What that one has begun is not the failover's to take
//! back; and where the failover is taken back itself, the earlier run gets the databases back, to be gone on with or taken
//! back in its turn when the site is there again. When the failover opens, the earlier run is over.

use irongate_checkpoint::Role;
use irongate_manager::supervisor::Word;
use serde_json::Value;

use super::roles::is_reserved;
use super::{Run, Unit, role_of};
use crate::error::Error;
use crate::fence;
use crate::journal::{Entry, Heading, Journal, Outcome, What};
use crate::place::Place;

/// Steps that stop a Replicat which the failover starts again.
const STOPPING: [&str; 2] = ["stop-forward", "stop-replicat"];

/// Whether a step was begun and not taken back.
pub(super) fn is_begun(entries: &[Entry], name: &str) -> bool {
    entries.iter().fold(false, |begun, entry| match &entry.what {
        What::Step { step } if step == name => true,
        What::Undone { step, .. } if step == name => false,
        _ => begun,
    })
}

fn is_over(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.what, What::Ended { .. }))
}

impl Run<'_> {
    /// The run that is put by, as long as it is.
    fn put_by(&self) -> Result<Option<(Heading, Vec<Entry>)>, Error> {
        let Some(run) = &self.heading.supersedes else { return Ok(None) };
        let (heading, entries) = Journal::read(&self.configuration.state_directory, run)?;
        Ok((!is_over(&entries)).then_some((heading, entries)))
    }

    /// Whether the run that is put by has begun a step, which is its own to take back.
    pub(super) fn is_of_earlier(&self, step: &str) -> Result<bool, Error> {
        Ok(self.put_by()?.is_some_and(|(_, entries)| is_begun(&entries, step)))
    }

    /// Notes in its journal that the run is over.
    pub(super) fn end_superseded(&self) -> Result<(), Error> {
        let Some(run) = &self.heading.supersedes else { return Ok(()) };
        let mut journal = Journal::open(&self.configuration.state_directory, run)?;
        if !is_over(journal.entries()) {
            journal.note(What::Ended { outcome: Outcome::Superseded })?;
        }
        Journal::forget_rows(&self.configuration.state_directory, run)
    }

    /// Gives a database back to the run that had it before; false if there is none.
    pub(super) async fn give_to_earlier(&self, place: &Place) -> Result<bool, Error> {
        const GIVE: &str = "UPDATE irongate.role SET run = $2, holder = $3, changed = now(),
                 next_live = CASE WHEN live = $4 THEN NULL ELSE next_live END,
                 next_epoch = CASE WHEN live = $4 THEN NULL ELSE next_epoch END
             WHERE run = $1";
        let Some((earlier, entries)) = self.put_by()? else { return Ok(false) };
        if !is_begun(&entries, "lock") {
            return Ok(false);
        }
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&self.heading.run, &earlier.run, &earlier.holder, &self.heading.to];
        let failed = place.failed("give the roles back");
        place.session.execute(GIVE, &values).await.map_err(failed)?;
        Ok(true)
    }

    /// Who may have a database in hand that the failover takes: the run that it goes on from; and where nobody can end the
    /// run that has it, because the other site and what is written there of the run are lost, whichever that is, if it was
    /// said that it may be.
    pub(super) fn may_take_from(&self, role: Option<&Role>) -> Vec<String> {
        let mut runs: Vec<String> = self.heading.supersedes.clone().into_iter().collect();
        if self.heading.force && self.units.iter().all(|unit| unit.reached().is_none()) {
            runs.extend(role.and_then(|role| role.run.as_ref()).map(|holder| holder.run.clone()));
        }
        runs
    }

    /// Whether a database may say already that the site writes which is to write. The run that has it in hand, or had it until
    /// the last of its steps, may have written that; or the other site may have been told otherwise by a run that is lost with
    /// it, or by hand, and is fenced: then it takes a later epoch, and the other one gives way.
    pub(super) async fn may_be_told(&self, unit: &Unit<'_>, role: Option<&Role>) -> Result<bool, Error> {
        if self.heading.supersedes.is_some() {
            return Ok(true);
        }
        if !self.heading.force {
            return Ok(false);
        }
        if let Some(from) = unit.reached() {
            let says = role_of(from).await?.is_some_and(|there| there.live == from.site);
            return Ok(says && fence::standing(from).await?.is_some());
        }
        let holder = role.and_then(|role| role.run.as_ref());
        let is_held = holder.is_some_and(|holder| {
            holder.run != self.heading.run && self.may_take_from(role).contains(&holder.run)
        });
        Ok(is_held || role.is_some() && is_reserved(&unit.to).await?)
    }

    /// Closes the standby again that a drill has opened, and looks whether anybody has written there.
    pub(super) async fn close_drilled(&self) -> Result<(), Error> {
        if !self.is_of_earlier("open-standby")? {
            return Ok(());
        }
        self.close_standby().await?;
        match self.untouched().await {
            // It is marked, and whoever forces it has been told.
            Err(Error::Touched { .. } | Error::Lost { .. }) if self.heading.force => Ok(()),
            other => other.map(drop),
        }
    }

    /// Stops the Replicats again that the earlier run has stopped, and that this one has had apply what had come.
    pub(super) async fn stop_as_before(&self) -> Result<Value, Error> {
        for step in STOPPING {
            if self.is_of_earlier(step)? {
                return self.replicats(Word::Stop).await;
            }
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_is_not_begun() {
        let entry = |what| Entry { at: 0, what };
        let step = || entry(What::Step { step: "lock".into() });
        let undone = || entry(What::Undone { step: "lock".into(), evidence: Value::Null });
        assert!(!is_begun(&[], "lock"));
        assert!(is_begun(&[step()], "lock") && !is_begun(&[step()], "fence"));
        assert!(!is_begun(&[step(), undone()], "lock"));
        assert!(is_begun(&[step(), undone(), step()], "lock"));
    }
}
