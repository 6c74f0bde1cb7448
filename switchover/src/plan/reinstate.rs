//! Reinstatement: a site that was lost, or was cut off and taken over, becomes a standby again.
//!
//! It is closed first, and shown to be. What it had committed and never sent is salvage's, and must have been decided
//! before. Then it is made what the site that writes is at a snapshot, where that one's stream goes on: by carrying over only
//! what differs ([`super::repair`] argues how), or by emptying its tables and filling them again. Which of both is decided in
//! [`super::by`].

use irongate_checkpoint::Program;
use irongate_deployment::groups::group_name;
use irongate_deployment::{Event, Instantiate, Severity};
use irongate_manager::supervisor::Word;
use irongate_trail::Lsn;
use serde_json::{Value, json};

use super::by::{By, COMPARE, COPY, REPAIR, STOP_GROUPS};
use super::peek::{self, Shown};
use super::roles::role_of;
use super::{LEFT, Progress, Run, Unit, left};
use crate::engine::Step;
use crate::error::Error;
use crate::{fence, salvage, strayed};

const fn step(name: &'static str) -> Step {
    Step { name, no_return: false }
}

/// In their order. From the repair or the copy on the rows that the site had alone are gone; a run does one of them.
pub(super) const STEPS: [Step; 9] = [
    step("prechecks"),
    step("lock"),
    step("fence"),
    step("nothing-new"),
    step(STOP_GROUPS),
    step(COMPARE),
    Step { name: REPAIR, no_return: true },
    Step { name: COPY, no_return: true },
    step("follow"),
];

impl Run<'_> {
    pub(super) async fn reinstate_step(
        &mut self,
        name: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        match name {
            "nothing-new" => self.nothing_new().await,
            STOP_GROUPS => self.stop_groups().await,
            COMPARE => self.compare_lost(progress).await,
            REPAIR => self.repair_lost(progress).await,
            _ => self.copy(progress).await,
        }
    }

    pub(super) async fn reinstate_precheck(&self) -> Result<Value, Error> {
        let mut complaints = Vec::new();
        let (back, live) = (&self.heading.from, &self.heading.to);
        let nobody = self.nobody()?;
        for site in [back, live] {
            if let Err(error) = self.info(site).await {
                complaints.push(format!("the manager of site \"{site}\" cannot be asked: {error}"));
            }
        }
        for unit in &self.units {
            match role_of(&unit.to).await? {
                Some(role) if role.live == *live => {
                    if let Some(holder) = role.run.filter(|holder| holder.run != self.heading.run) {
                        complaints.push(format!(
                            "{} is in the hands of run \"{}\" of {} since {}",
                            unit.to, holder.run, holder.holder, holder.since
                        ));
                    }
                }
                Some(role) => complaints.push(format!("{} says that site \"{}\" writes", unit.to, role.live)),
                None => {
                    complaints.push(format!("{} was never taken over: nothing is to be reinstated", unit.to))
                }
            }
            if fence::standing(&unit.to).await?.is_some() {
                complaints.push(format!("{} is closed: the site that writes is to be open", unit.to));
            }
            let from = unit.from()?;
            // What is held in an epoch that is over is told so.
            let epoch = role_of(&unit.to).await?.map_or(0, |role| role.epoch);
            let held = role_of(from).await?.filter(|role| role.epoch >= epoch);
            if let Some(holder) = held.and_then(|role| role.run)
                && holder.run != self.heading.run
                && !nobody.contains(&holder.run)
            {
                complaints.push(format!(
                    "{from} is in the hands of run \"{}\" of {} since {}: irongate runs {0} at the site where it began says how it \
                     goes on or back; where it is over, or its journal is gone, irongate runs --forget {0}",
                    holder.run, holder.holder, holder.since
                ));
            }
            if let Err(error) = fence::roles_exist(from).await {
                complaints.push(error.to_string());
            }
        }
        let (mut salvaged, mut lost) = (Vec::new(), Vec::new());
        for unit in &self.units {
            let signed = self.salvaged(unit).await?;
            lost.push(signed.as_ref().map(|signed| signed.transactions));
            match signed {
                Some(signed) => salvaged.push(json!(signed)),
                None if self.heading.accept_loss => {}
                None => complaints.push(format!(
                    "what {back} committed to {} and never sent would be gone, and nobody has signed for that: at {back}, \
                     irongate salvage {back} lists it, and --apply carries out what was decided; --accept-loss gives it up",
                    unit.pair.database
                )),
            }
        }
        for unit in &self.units {
            complaints.extend(self.holds_no_rows(unit).await?);
        }
        let reach = self.check_hooks(&mut complaints).await?;
        let choice = self.choice(&lost, &mut complaints).await?;
        if !complaints.is_empty() {
            return Err(Error::Refused { complaints });
        }
        let checked: Vec<_> = self.units.iter().map(|unit| unit.to.to_string()).collect();
        let loss_accepted = self.heading.accept_loss;
        let mut evidence = json!({
            "checked": checked, "salvaged": salvaged, "loss_accepted": loss_accepted, "reach": reach,
        });
        if let (Some(evidence), Value::Object(choice)) = (evidence.as_object_mut(), choice) {
            evidence.extend(choice);
        }
        Ok(evidence)
    }

    /// What in the structure of the site that comes back keeps it from holding the rows of the other one: a copy would fail
    /// of it as a repair would, and behind the point of no return.
    async fn holds_no_rows(&self, unit: &Unit<'_>) -> Result<Vec<String>, Error> {
        const STRUCTURE: [&str; 3] = ["table ", "column ", "type "];
        let back = format!("{}: ", unit.from()?);
        let findings = irongate_deployment::check(self.configuration, &[unit.pair.out_of]).await?;
        let here = findings.into_iter().filter(|finding| {
            let object = finding.object.strip_prefix(&back).unwrap_or_default();
            // Its row of roles is this plan's to write.
            !object.starts_with("table irongate.")
                && finding.severity == Severity::Error
                && STRUCTURE.iter().any(|kind| object.starts_with(kind))
        });
        let complaint = |finding: irongate_deployment::Finding| {
            let fix = finding.fix.unwrap_or_else(|| "see to it".to_owned()).replace('\n', " ");
            format!("{}: {} ({fix})", finding.object, finding.reason)
        };
        Ok(here.map(complaint).collect())
    }

    /// How the site is to be made a copy, by what was asked for and by what can be told before anything is compared. What
    /// stands against a repair that was asked for is a complaint.
    async fn choice(&self, lost: &[Option<u64>], complaints: &mut Vec<String>) -> Result<Value, Error> {
        if self.heading.by == By::Copy {
            return Ok(json!({ "by": By::Copy, "because": "as was asked for" }));
        }
        let mut estimates = Vec::new();
        for (unit, lost) in self.units.iter().zip(lost) {
            estimates.push(self.estimate(unit, *lost).await?);
        }
        let advised: Vec<(By, String)> = estimates.iter().map(|estimate| estimate.recommended()).collect();
        let against = advised.iter().find(|(by, _)| *by == By::Copy);
        let (by, because) = match (self.heading.by, against) {
            (By::Either, Some((_, because))) => (By::Copy, because.clone()),
            (_, Some((_, because))) => {
                let hinder = estimates.iter().flat_map(|estimate| &estimate.not_comparable);
                complaints.extend(hinder.map(|reason| {
                    format!("{} cannot be repaired: {reason}; --by copy copies it anew", self.heading.from)
                }));
                (By::Repair, format!("as was asked for, although --by copy may cost less: {because}"))
            }
            (_, None) => {
                let all: Vec<String> = advised.into_iter().map(|(_, because)| because).collect();
                (By::Repair, all.join("; "))
            }
        };
        Ok(json!({ "by": by, "because": because, "estimates": estimates }))
    }

    /// What was signed for of the transactions behind the place where the sites have parted.
    async fn salvaged(&self, unit: &Unit<'_>) -> Result<Option<salvage::SignedOff>, Error> {
        let flow = &unit.pair.into.name;
        match salvage::divergence(&unit.to, flow).await? {
            Some(divergence) => salvage::signed_off(&unit.to, flow, divergence.applied.end_lsn.0).await,
            None => Ok(None),
        }
    }

    /// Behind the fence: the site has committed nothing since somebody looked into what it had alone.
    pub(super) async fn nothing_new(&self) -> Result<Value, Error> {
        if self.heading.accept_loss {
            return Ok(json!({ "loss_accepted": true }));
        }
        let mut looked = Vec::new();
        for unit in &self.units {
            let (place, flow) = (unit.from()?, unit.pair.into);
            let unsalvaged = |what: &str| Error::Unsalvaged { end: place.to_string(), what: what.to_owned() };
            let signed = self.salvaged(unit).await?.ok_or_else(|| unsalvaged("nobody has signed for it"))?;
            let known = signed.looked_up_to.as_ref().and_then(|lsn| lsn.parse::<Lsn>().ok());
            let known = known.ok_or_else(|| unsalvaged("its server was not there to be looked into"))?;
            match peek::behind(place, flow, known).await? {
                Shown::Transactions { count: 0, is_confirmed_further: false } => {}
                Shown::Transactions { count: 0, .. } => {
                    return Err(unsalvaged("Extract has gone on since the salvage"));
                }
                Shown::Transactions { count, .. } => {
                    return Err(unsalvaged(&format!(
                        "{count} transactions were committed since the salvage"
                    )));
                }
                // That it is gone was signed for; or there is nothing left of what it would show.
                Shown::NoSlot | Shown::Lost if signed.incomplete || self.was_made_copy => {}
                Shown::NoSlot | Shown::Lost => {
                    return Err(unsalvaged("the slot that would show what was committed since is gone"));
                }
            }
            looked
                .push(json!({ "database": place.to_string(), "salvage": signed.run, "new_transactions": 0 }));
        }
        Ok(json!({ "looked": looked }))
    }

    /// Stops everything that reads or writes the flows of both directions, at both sites.
    async fn stop_groups(&self) -> Result<Value, Error> {
        let mut stopped = Vec::new();
        for unit in &self.units {
            for flow in [unit.pair.into, unit.pair.out_of] {
                for (site, groups) in self.where_they_run(flow) {
                    self.order(Word::Stop, site, &groups).await?;
                    stopped.extend(groups);
                }
            }
        }
        Ok(json!({ "groups": stopped }))
    }

    /// Has the site that writes captured again, as before. Where that cannot be, as with a slot that was lost meanwhile, the
    /// run is taken back all the same: nobody is helped by databases that stay in its hands.
    pub(super) async fn start_reverse(&self) -> Result<Value, Error> {
        let (mut started, mut not) = (Vec::new(), Vec::new());
        for unit in &self.units {
            let extract = group_name(&unit.pair.out_of.name, Program::Extract);
            match self.order(Word::Start, &unit.pair.out_of.at, std::slice::from_ref(&extract)).await {
                Ok(()) => started.push(extract),
                Err(error) => not.push(error.to_string()),
            }
        }
        let mut evidence = json!({ "groups": started });
        if !not.is_empty() {
            evidence[LEFT] = left(
                &format!("what site \"{}\" writes is not captured: {}", self.heading.to, not.join("; ")),
                &format!(
                    "irongate reinstate {} makes the slot and the trail anew; or irongate report GROUP, and start it",
                    self.heading.from
                ),
            );
        }
        Ok(evidence)
    }

    /// Makes the tables of the site that comes back a copy of those of the site that writes.
    async fn copy(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        self.close().await?;
        self.nothing_new().await?;
        let mut copied = Vec::new();
        for unit in &self.units {
            let flow = unit.pair.out_of;
            let is_begun = self.since(unit)?.is_some_and(|since| since.by == By::Copy);
            let restart = is_begun
                && match self.unwritten(unit).await {
                    Ok(()) => self.was_made_copy,
                    Err(error @ Error::Written { .. }) => {
                        progress(COPY, &format!("{error}: copying from the beginning"));
                        true
                    }
                    Err(error) => return Err(error),
                };
            if !is_begun || restart {
                self.begin_reading(unit, By::Copy).await?;
            }
            // One that was cut off behind the copy and before its note may have been started by somebody since.
            self.order(Word::Stop, &self.heading.to, &[group_name(&flow.name, Program::Extract)]).await?;
            let options = Instantiate {
                truncate: true,
                restart,
                slot_limit: self.limits.slot,
                ..Instantiate::default()
            };
            let mut tell = |event: Event<'_>| match event {
                Event::Waiting(blockers) => {
                    for blocker in blockers {
                        progress("copy", &format!("the slot waits for {blocker}"));
                    }
                }
                Event::Note(note) => progress("copy", &note),
                _ => {}
            };
            let done =
                irongate_deployment::instantiate(self.configuration, flow, &options, &mut tell).await?;
            self.unopened(unit).await?;
            copied.push(json!({
                "flow": flow.name,
                "tables": done.tables,
                "rows": done.rows,
                "bytes": done.bytes,
                "sequences": done.sequences,
                "from": done.consistent_point.to_string(),
            }));
        }
        Ok(json!({ "copied": copied }))
    }

    /// The site is a copy: takes its marks away, what was kept of its rows, and the slots of the flow that led from it.
    /// Which these were. Behind the note that the repair or the copy is done: before it the slots show what was lost.
    pub(super) async fn is_copy_again(&self) -> Result<Vec<String>, Error> {
        self.close().await?;
        for unit in &self.units {
            // Behind a repair the log is short enough to be looked through; nothing is noted where all this was done before.
            match self.since(unit)? {
                Some(since) if since.by != By::Copy => self.unwritten(unit).await?,
                _ => self.unopened(unit).await?,
            }
        }
        for unit in &self.units {
            strayed::clear(unit.from()?).await?;
        }
        self.forget_found()?;
        let mut slots = Vec::new();
        for unit in &self.units {
            if self.drop_slot(unit.from()?, &unit.pair.into.slot).await? {
                slots.push(unit.pair.into.slot.clone());
            }
        }
        Ok(slots)
    }
}

impl Unit<'_> {
    /// The places that a run of two sites has in hand.
    pub(super) fn both(&self) -> Result<[&crate::place::Place; 2], Error> {
        Ok([self.from()?, &self.to])
    }
}
