//! What must be so before anything is changed. Everything that is not is said at once.
//!
//! A *complaint* refuses the run: it names the thing, what is wrong with it and what mends it. A *note* is evidence: what an
//! operator should have seen before the sites change their roles.
//!
//! Nothing is changed. What is tried is a write that meets no row, as an application's role, and it is rolled back.

mod access;
mod compare;
mod drift;
mod findings;
pub(super) mod groups;
mod servers;
mod sessions;

use irongate_checkpoint::FIRST_EPOCH;
use serde_json::{Value, json};

use super::roles::role_of;
use super::{Run, Unit};
use crate::error::Error;
use crate::{fence, strayed};
use findings::Findings;

impl Run<'_> {
    /// Checks. A run that has begun checks again when it is gone on with before it has locked anything.
    pub(super) async fn precheck(&self) -> Result<Value, Error> {
        let mut findings = Findings::default();
        let infos = self.settled_infos(&mut findings).await;
        for unit in &self.units {
            let from = unit.from()?;
            let mut can_be_asked = true;
            for place in [from, &unit.to] {
                can_be_asked &= servers::can_be_asked(place, &mut findings).await?;
            }
            if !can_be_asked {
                continue;
            }
            self.check_roles(unit, &mut findings).await?;
            self.check_access(unit, &mut findings).await?;
            self.check_groups(unit, &infos, &mut findings);
            self.check_compare(unit, &infos, &mut findings);
            groups::behind_the_trail(self.configuration, unit.pair.into, self.limits.lag, &mut findings)
                .await;
            groups::queue(&unit.to, &unit.pair.into.name, &mut findings).await?;
            groups::half_copied(&unit.to, &unit.pair.into.name, &mut findings).await?;
            for place in [from, &unit.to] {
                let marks = match strayed::found(place).await {
                    Ok(marks) => marks,
                    // What the administrator lacks is complained about below.
                    Err(error) => {
                        findings.note(place, error);
                        Vec::new()
                    }
                };
                for what in marks {
                    findings.complain(
                        place,
                        format!("it may be no copy any more ({what})"),
                        format!(
                            "compare, then irongate fence {} --is-copy; or irongate reinstate it",
                            place.site
                        ),
                    );
                }
                servers::administrator(place, &mut findings).await?;
                servers::collation(place, &mut findings).await?;
            }
            let slot_limit = self.limits.slot;
            sessions::in_the_way(from, sessions::Of::Database, self.limits.writers, &mut findings).await?;
            sessions::in_the_way(&unit.to, sessions::Of::Cluster, slot_limit, &mut findings).await?;
            servers::between(from, &unit.to, &mut findings).await?;
            let alarms = &self.configuration.manager.alarms;
            servers::slot(from, &unit.pair.into.slot, alarms, &mut findings).await?;
            servers::log(&unit.to, &mut findings).await?;
            drift::flows(self.configuration, &unit.pair, &mut findings).await?;
            drift::definitions(&unit.pair, from, &unit.to, &mut findings).await?;
            // The trail of what the new site will write lies where this runs.
            servers::disk(&self.configuration.trail(unit.pair.out_of), alarms, &mut findings);
        }
        let reach = self.check_hooks(&mut findings.complaints).await?;
        let checked: Vec<String> = self.units.iter().map(|unit| unit.to.to_string()).collect();
        let Findings { complaints, notes } = findings;
        if complaints.is_empty() {
            Ok(json!({ "checked": checked, "notes": notes, "reach": reach }))
        } else {
            Err(Error::Refused { complaints })
        }
    }

    /// What a site that takes over would meet, as far as it shows there: nothing that keeps it from taking over, and what
    /// cannot be asked is told as well.
    pub(super) async fn foreseen_at_opening(&self, unit: &Unit<'_>) -> Vec<String> {
        let (to, mut findings) = (&unit.to, Findings::default());
        let asked = async {
            if !servers::can_be_asked(to, &mut findings).await? {
                return Ok(());
            }
            if let Some(kept) = fence::kept(to).await? {
                access::openable(to, &kept, &mut findings).await?;
            }
            servers::administrator(to, &mut findings).await?;
            servers::collation(to, &mut findings).await?;
            groups::queue(to, &unit.pair.into.name, &mut findings).await?;
            sessions::in_the_way(to, sessions::Of::Cluster, self.limits.slot, &mut findings).await?;
            servers::log(to, &mut findings).await
        };
        let asked: Result<(), Error> = asked.await;
        let alarms = &self.configuration.manager.alarms;
        servers::disk(&self.configuration.trail(unit.pair.out_of), alarms, &mut findings);
        let Findings { mut complaints, notes } = findings;
        complaints.extend(asked.err().map(|error| error.to_string()));
        complaints.extend(notes);
        complaints
    }

    async fn check_roles(&self, unit: &Unit<'_>, findings: &mut Findings) -> Result<(), Error> {
        let mut known = Vec::new();
        let from = unit.from()?;
        let first = self.first_live(unit);
        for place in [from, &unit.to] {
            let role = role_of(place).await?;
            if let Some(holder) = role.as_ref().and_then(|role| role.run.as_ref())
                && holder.run != self.heading.run
            {
                findings.complain(
                    place,
                    format!(
                        "it is in the hands of run \"{}\" of {} since {}",
                        holder.run, holder.holder, holder.since
                    ),
                    "go on with that run or take it back where it began",
                );
            }
            let (live, epoch) = role.map_or((first.clone(), FIRST_EPOCH), |role| (role.live, role.epoch));
            if live != self.heading.from {
                findings.complain(
                    place,
                    format!("it says that site \"{live}\" writes, and not \"{}\"", self.heading.from),
                    "irongate runs shows who has changed that",
                );
            }
            known.push(epoch);
        }
        if known.first() != known.last() {
            findings.complain(
                format!("{from} and {}", unit.to),
                "they are in different epochs",
                "compare table irongate.role at both sites; a run that was cut off is gone on with where it began",
            );
        }
        Ok(())
    }
}
