//! Failover: a site takes over from one that is lost.
//!
//! Nothing here needs the lost site. What can be done there is tried and its outcome kept, since a site that is only cut
//! off goes on writing: it is kept out by the epoch, which every trail that comes from it must have reached. That is set
//! before anything else is decided by what has arrived, so that what has arrived is then all there will ever be.

use std::time::{Duration, Instant};

use irongate_checkpoint::{FIRST_EPOCH, Program, State};
use irongate_deployment::groups::group_name;
use irongate_manager::supervisor::Word;
use irongate_trail::{Directory, Timestamp};
use serde_json::{Value, json};

use super::drain::standing;
use super::precheck::groups::tables_half_copied;
use super::roles::role_of;
use super::{Kind, LEFT, Progress, Run, Unit, left};
use crate::engine::Step;
use crate::error::Error;
use crate::fence;
use crate::journal::{Entry, evidence_of};
use crate::place::Place;
use crate::report::FENCE_LOST;

const fn step(name: &'static str) -> Step {
    Step { name, no_return: false }
}

/// In their order.
pub(super) const STEPS: [Step; 10] = [
    step("prechecks"),
    step("lock"),
    step(FENCE_LOST),
    step("seal"),
    step("apply-rest"),
    step("stop-forward"),
    step("divergence"),
    step("reverse-capture"),
    Step { name: super::switchover::OPEN, no_return: true },
    step("roles"),
];

/// How long a site that was lost may take to answer when it is looked for once more, while applications wait.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

impl Run<'_> {
    pub(super) async fn failover_step(
        &mut self,
        name: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        match name {
            FENCE_LOST => self.fence_lost().await,
            "seal" => self.seal().await,
            "apply-rest" => self.apply_rest(progress).await,
            _ => self.divergence().await,
        }
    }

    pub(super) async fn failover_undo(&mut self, name: &str, entries: &[Entry]) -> Result<Value, Error> {
        match name {
            FENCE_LOST => self.reopen_lost(entries).await,
            "apply-rest" => self.stop_as_before().await,
            "seal" => self.unseal().await,
            _ => Ok(Value::Null),
        }
    }

    /// Looks at what is known of the other site, and refuses to take over from one that answers, or without the loss being
    /// accepted.
    pub(super) async fn failover_precheck(&self) -> Result<Value, Error> {
        let mut complaints = Vec::new();
        let (from, to) = (&self.heading.from, &self.heading.to);
        match self.info(to).await {
            Err(error) => complaints.push(format!("the manager of site \"{to}\" cannot be asked: {error}")),
            Ok(info) => {
                // What has arrived could not be applied, and everybody would wait for that in the middle of the run.
                let replicats =
                    self.units.iter().map(|unit| group_name(&unit.pair.into.name, Program::Replicat));
                let replicats: Vec<String> = replicats.collect();
                let is_stuck = |group: &&irongate_manager::info::GroupInfo| {
                    replicats.contains(&group.name) && group.state == State::Abended
                };
                for group in info.groups.iter().filter(is_stuck) {
                    complaints.push(format!(
                        "{} is ABENDED: {}; mend that first (irongate report {}), or what has arrived cannot be applied",
                        group.name, group.doing, group.name
                    ));
                }
            }
        }
        let probes = self.probes().await;
        let answers: Vec<String> =
            probes.iter().filter(|probe| probe.answer.is_ok()).map(|probe| probe.sentence()).collect();
        if !answers.is_empty() && !self.heading.force {
            complaints.push(format!(
                "site \"{from}\" is not lost: {}; a switchover loses nothing (irongate switchover --to {to}), and \
                 --force takes over nevertheless",
                answers.join(", ")
            ));
        }
        let (now, mut databases) = (Timestamp::now(), Vec::new());
        for unit in &self.units {
            self.check_lost_role(unit, &mut complaints).await?;
            if let Err(error) = fence::roles_exist(&unit.to).await {
                complaints.push(error.to_string());
            }
            let arrived = self.arrived(unit).await?;
            if !self.heading.accept_loss {
                let (flow, name) = (&unit.pair.into.name, &unit.to);
                complaints.push(match &arrived {
                    Some(arrived) => format!(
                        "what {} committed after {} is lost with it: nothing of {flow} has come for {:.1} s, about {} \
                         transactions, if the load went on as before; --accept-loss accepts that",
                        unit.pair.into.from,
                        arrived.mark.commit_time,
                        arrived.silence(now),
                        arrived.estimate(now)
                    ),
                    None => format!("nothing of {flow} has ever come to {name}; --accept-loss takes it as it is"),
                });
            }
            databases.push(json!({
                "database": unit.to.to_string(),
                "flow": unit.pair.into.name,
                "arrived": arrived.map(|arrived| arrived.told(now)),
                "fence": fence::standing(&unit.to).await?.map(|fence| fence.since),
            }));
        }
        // A name server that is frozen, or a hook that is not there, does not keep a site from taking over: it is said.
        let mut warnings = Vec::new();
        let reach = self.check_hooks(&mut warnings).await?;
        for unit in &self.units {
            warnings.extend(self.foreseen_at_opening(unit).await);
        }
        if !complaints.is_empty() {
            return Err(Error::Refused { complaints });
        }
        Ok(json!({
            "reach": reach,
            "warnings": warnings,
            "probes": probes.iter().map(super::evidence::Probe::told).collect::<Vec<_>>(),
            "databases": databases,
            "loss_accepted": self.heading.accept_loss,
            "forced": self.heading.force,
        }))
    }

    async fn check_lost_role(&self, unit: &Unit<'_>, complaints: &mut Vec<String>) -> Result<(), Error> {
        let role = role_of(&unit.to).await?;
        let holder = role.as_ref().and_then(|role| role.run.as_ref());
        let is_ours =
            |run: &String| *run == self.heading.run || Some(run) == self.heading.supersedes.as_ref();
        let is_reinstated = |holder: &&irongate_checkpoint::RunHolder| {
            holder.run.starts_with(&format!("{}-", Kind::Reinstate))
                && role.as_ref().is_some_and(|role| role.live == self.heading.from)
        };
        if let Some(holder) = holder.filter(is_reinstated) {
            let to = &self.heading.to;
            complaints.push(format!(
                "{} is being reinstated (run \"{}\" of {} since {}) and is no copy of what \"{}\" has: its rows are of \
                 before, or half carried over. Bring \"{}\" back; irongate open {to} --force lets the applications in with \
                 what there is",
                unit.to, holder.run, holder.holder, holder.since, self.heading.from, self.heading.from
            ));
        } else if let Some(holder) = holder.filter(|holder| !is_ours(&holder.run))
            && !self.may_take_from(role.as_ref()).contains(&holder.run)
        {
            complaints.push(format!(
                "{} is in the hands of run \"{}\" of {} since {}: end it where it began (irongate runs); where that site is lost \
                 with all that it knew of it, --force takes over nevertheless",
                unit.to, holder.run, holder.holder, holder.since
            ));
        }
        if let Some(role) = role.as_ref().filter(|role| role.live == self.heading.from)
            && !self.heading.force
            && let Some(complaint) = self.is_no_copy(unit, role.epoch).await?
        {
            complaints.push(complaint);
        }
        let half = tables_half_copied(&unit.to, &unit.pair.into.name).await?;
        if !half.is_empty() && !self.heading.force {
            complaints.push(format!(
                "{} is no whole copy: a load of flow \"{}\" is not done, and {} have not all rows, or none. Bring \"{}\" back, and \
                 irongate instantiate {} goes on with it; or --force takes over with what there is",
                unit.to,
                unit.pair.into.name,
                half.join(", "),
                self.heading.from,
                unit.pair.into.name
            ));
        }
        let first = &self.first_live(unit);
        let live = role.as_ref().map_or(first, |role| &role.live);
        // Of a run that was cut off behind its step "roles" the site has been told already.
        let is_told = *live == self.heading.to && self.may_be_told(unit, role.as_ref()).await?;
        if *live != self.heading.from && !is_told {
            complaints.push(format!(
                "{} says that site \"{live}\" writes, and not \"{}\"",
                unit.to, self.heading.from
            ));
        }
        Ok(())
    }

    /// A site that has applied nothing of the epoch in which the other one writes has never followed it: it was lost
    /// itself, and was not reinstated.
    async fn is_no_copy(&self, unit: &Unit<'_>, epoch: u64) -> Result<Option<String>, Error> {
        const SQL: &str = "SELECT epoch FROM irongate.checkpoint WHERE flow = $1";
        let failed = || unit.to.failed("ask what was applied");
        let row = unit.to.session.query_opt(SQL, &[&unit.pair.into.name]).await.map_err(failed())?;
        let applied = row.map(|row| row.try_get::<_, i64>(0)).transpose().map_err(failed())?;
        if applied.is_some_and(|applied| applied.unsigned_abs() >= epoch) {
            return Ok(None);
        }
        let from = &self.heading.from;
        Ok(Some(format!(
            "{} is no copy of {}.{from}: nothing that was written there in epoch {epoch} was ever applied here. All of that would \
             be missing, and not only what was written last; bring \"{from}\" back, or --force takes over with what there is",
            unit.to, unit.pair.database
        )))
    }

    /// Tries to close the lost site; that it cannot be reached is what is expected.
    async fn fence_lost(&self) -> Result<Value, Error> {
        let how = fence::Close {
            standby: true,
            writers: self.limits.probe,
            locks: self.limits.locks,
            run: Some(self.heading.run.clone()),
        };
        let mut tried = Vec::new();
        for unit in &self.units {
            let name = format!("{}.{}", unit.pair.database, self.heading.from);
            let is_reached = unit.reached().is_some();
            let outcome = match unit.from() {
                Err(error) => Err(error.to_string()),
                Ok(place) => {
                    match tokio::time::timeout(self.limits.probe * 4, fence::close(place, &how)).await {
                        Ok(Ok(closed)) => Ok(json!(closed)),
                        Ok(Err(error)) => Err(error.to_string()),
                        Err(_) => Err("it did not answer in time".to_owned()),
                    }
                }
            };
            tried.push(match outcome {
                Ok(closed) => json!({ "database": name, "fenced": true, "evidence": closed }),
                // What fails behind the taking away has closed it.
                Err(reason) => {
                    json!({ "database": name, "fenced": false, "reached": is_reached, "reason": reason })
                }
            });
        }
        Ok(json!({ "tried": tried }))
    }

    async fn reopen_lost(&self, entries: &[Entry]) -> Result<Value, Error> {
        let (mut opened, mut silent) = (Vec::new(), Vec::new());
        for unit in &self.units {
            let Some(place) = unit.reached() else {
                silent.push(format!("{}.{}", unit.pair.database, self.heading.from));
                continue;
            };
            let by = fence::standing(place).await?.and_then(|fence| fence.run);
            if by.as_ref() == Some(&self.heading.run) {
                opened.extend(fence::open(place, self.limits.locks).await?);
            }
        }
        let mut evidence = json!({ "opened": opened });
        if !silent.is_empty() && may_be_closed(entries) {
            let pumps = self.units.iter().filter(|unit| unit.pair.into.pump.is_some());
            let start = pumps.map(|unit| {
                format!(", and irongate start {}", group_name(&unit.pair.into.name, Program::Pump))
            });
            evidence[LEFT] = left(
                &format!(
                    "{} does not answer, and is still closed if this run has closed it",
                    silent.join(", ")
                ),
                &format!(
                    "when it answers: irongate health there; if it is closed, irongate open {}{}",
                    self.heading.from,
                    start.collect::<String>()
                ),
            );
        }
        Ok(evidence)
    }

    /// Lets nothing more in of the epoch that is over: the trails that come from the lost site take the next one only.
    async fn seal(&self) -> Result<Value, Error> {
        let mut sealed = Vec::new();
        for unit in &self.units {
            let epoch = self.next_epoch(unit).await?;
            self.set_floor(unit, epoch).await?;
            sealed.push(json!({ "flow": unit.pair.into.name, "epoch": epoch }));
        }
        // What is under way is cut, and let in again only in that epoch.
        self.restart_collector().await?;
        for unit in self.units.iter().filter(|unit| unit.pair.into.at == self.heading.to) {
            let extract = group_name(&unit.pair.into.name, Program::Extract);
            self.order(Word::Stop, &self.heading.to, &[extract]).await?;
        }
        Ok(json!({ "sealed": sealed }))
    }

    async fn unseal(&self) -> Result<Value, Error> {
        for unit in &self.units {
            let epoch = role_of(&unit.to).await?.map_or(FIRST_EPOCH, |role| role.epoch);
            self.set_floor(unit, epoch).await?;
        }
        self.restart_collector().await?;
        // What the earlier run had stopped stays so.
        if self.is_of_earlier("stop-forward")? {
            return Ok(Value::Null);
        }
        for unit in self.units.iter().filter(|unit| unit.pair.into.at == self.heading.to) {
            let extract = group_name(&unit.pair.into.name, Program::Extract);
            self.order(Word::Start, &self.heading.to, &[extract]).await?;
        }
        // Where the other site answers, what was turned away meanwhile is sent again.
        for unit in self.units.iter().filter(|unit| unit.pair.into.pump.is_some()) {
            let pump = group_name(&unit.pair.into.name, Program::Pump);
            if let Err(error) = self.order(Word::Start, &unit.pair.into.at, &[pump]).await {
                tracing::warn!(%error, "the pump of the other site is not started again");
            }
        }
        Ok(Value::Null)
    }

    async fn next_epoch(&self, unit: &Unit<'_>) -> Result<u64, Error> {
        let role = role_of(&unit.to).await?;
        let next = role.and_then(|role| role.next).filter(|(site, _)| *site == self.heading.to);
        next.map(|(_, epoch)| epoch).ok_or_else(|| Error::Roles {
            complaint: format!("{} is not in the hands of this run any more", unit.to),
        })
    }

    async fn set_floor(&self, unit: &Unit<'_>, epoch: u64) -> Result<(), Error> {
        if unit.pair.into.pump.is_none() {
            return Ok(());
        }
        let directory = self.configuration.trail(unit.pair.into);
        let set = tokio::task::spawn_blocking(move || {
            let failed = |error| irongate_trail::Error::Io {
                operation: "create",
                path: directory.clone(),
                source: error,
            };
            let storage = Directory::create(&directory).map_err(failed)?;
            irongate_trail::set_epoch_floor(&storage, epoch)
        });
        let set = set.await.map_err(|error| irongate_deployment::Error::Internal(error.to_string()))?;
        set.map_err(|error| irongate_deployment::Error::from(error).into())
    }

    async fn restart_collector(&self) -> Result<(), Error> {
        let of_flow = |unit: &Unit<'_>| {
            let flow = unit.pair.into;
            // What comes through Kafka has a reader of its own.
            let whose = if flow.is_through_kafka() { &flow.name } else { &self.heading.to };
            flow.pump.is_some().then(|| group_name(whose, Program::Collector))
        };
        let mut collectors: Vec<String> = self.units.iter().filter_map(of_flow).collect();
        collectors.sort();
        collectors.dedup();
        if collectors.is_empty() {
            return Ok(());
        }
        self.order(Word::Stop, &self.heading.to, &collectors).await?;
        self.order(Word::Start, &self.heading.to, &collectors).await
    }

    /// Waits until everything that has come is applied. What has not come whole never will be.
    async fn apply_rest(&self, progress: &mut Progress<'_>) -> Result<Value, Error> {
        let mut applied = Vec::new();
        for unit in &self.units {
            let flow = unit.pair.into;
            let Some(arrived) = self.arrived(unit).await? else {
                applied.push(json!({ "flow": flow.name, "arrived": null }));
                continue;
            };
            let group = group_name(&flow.name, Program::Replicat);
            let site = if flow.pump.is_some() { &flow.to } else { &flow.at };
            if *site == self.heading.to {
                self.order(Word::Start, site, std::slice::from_ref(&group)).await?;
            }
            let (begun, mut told) = (Instant::now(), Instant::now());
            loop {
                let (_, end) = standing(&unit.to, &flow.name).await?;
                // The end of a commit record lies behind its beginning, which is what a mark has.
                if end > arrived.mark.commit_lsn.0 {
                    applied.push(json!({
                        "flow": flow.name,
                        "applied": end.to_string(),
                        "arrived": arrived.told(Timestamp::now()),
                    }));
                    break;
                }
                if let Some(reason) = self.abended(site, &group).await? {
                    return Err(Error::Group { group, site: site.clone(), doing: reason });
                }
                if begun.elapsed() > self.limits.drain {
                    let (end, applied) = (unit.to.to_string(), end.to_string());
                    return Err(Error::NotDrained { end, waited: begun.elapsed(), applied });
                }
                if told.elapsed() > Duration::from_secs(5) {
                    told = Instant::now();
                    progress(
                        "apply-rest",
                        &format!("{} is at {end} of {}", unit.to, arrived.mark.commit_lsn),
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(json!({ "applied": applied }))
    }

    async fn abended(&self, site: &str, group: &str) -> Result<Option<String>, Error> {
        if site != self.heading.to {
            return Ok(None);
        }
        let info = self.info(site).await?;
        let found = info.groups.into_iter().find(|found| found.name == group);
        Ok(found.filter(|found| found.state == State::Abended).map(|found| found.doing))
    }

    /// Notes where the two sites part: what the lost one committed behind it is what salvage looks for.
    async fn divergence(&self) -> Result<Value, Error> {
        let mut points = Vec::new();
        for unit in &self.units {
            const SQL: &str =
                "SELECT system_identifier, timeline, slot_incarnation::text, commit_lsn::text, end_lsn::text,
                    commit_time::text, transactions FROM irongate.checkpoint WHERE flow = $1";
            let failed = || unit.to.failed("read where the sites part");
            let flow = &unit.pair.into.name;
            let row = unit.to.session.query_opt(SQL, &[flow]).await.map_err(failed())?;
            let Some(row) = row else {
                points.push(json!({ "flow": flow, "checkpoint": null }));
                continue;
            };
            let text = |column: usize| row.try_get::<_, String>(column).map_err(failed());
            let number = |column: usize| row.try_get::<_, i64>(column).map_err(failed());
            points.push(json!({
                "flow": flow,
                "system_identifier": text(0)?,
                "timeline": number(1)?,
                "slot_incarnation": text(2)?,
                "commit_lsn": text(3)?,
                "end_lsn": text(4)?,
                "commit_time": text(5)?,
                "transactions": number(6)?,
            }));
        }
        Ok(json!({ "divergence": points }))
    }

    /// The lost site may have come back since it was asked, above all while a run was cut off. Without having been told to
    /// take over from a living site the run stops: what was committed there meanwhile would be lost for nothing.
    pub(super) async fn lost_is_no_writer(&self) -> Result<(), Error> {
        if self.heading.force {
            return Ok(());
        }
        let returned: Vec<String> = self.returned().await.iter().map(ToString::to_string).collect();
        if returned.is_empty() { Ok(()) } else { Err(Error::Returned { places: returned.join(", ") }) }
    }

    /// The places of the lost site that answer now, whether or not they did when the run was begun or gone on with.
    pub(super) async fn lost_that_answer(&self) -> Vec<Place> {
        let ask = |unit: &Unit<'_>| {
            // One that has answered may be slow, and nobody waits for those that have not.
            let is_there = unit.reached().is_some();
            let limit = if is_there { self.limits.probe } else { self.limits.probe.min(AGAIN) };
            let database = unit.pair.database.to_owned();
            async move {
                let place = Place::connect(self.configuration, &database, &self.heading.from);
                tokio::time::timeout(limit, place).await.ok()?.ok()
            }
        };
        futures_util::future::join_all(self.units.iter().map(ask)).await.into_iter().flatten().collect()
    }

    /// Those of them that are not closed, by whomever.
    async fn returned(&self) -> Vec<Place> {
        let mut returned = Vec::new();
        for lost in self.lost_that_answer().await {
            // One that does not answer is lost again.
            let fence = tokio::time::timeout(self.limits.probe, fence::standing(&lost)).await;
            if matches!(fence, Ok(Ok(None))) {
                returned.push(lost);
            }
        }
        returned
    }

    /// Closes the lost site where it has come back. Its own guard does so too, but later. What could not be closed, and why.
    pub(super) async fn close_returned(&self) -> Vec<String> {
        self.close_places(self.returned().await).await
    }

    async fn close_places(&self, places: Vec<Place>) -> Vec<String> {
        let (how, mut open) = (self.how_to_close(), Vec::new());
        for lost in places {
            let closed = tokio::time::timeout(self.limits.probe * 4, fence::close(&lost, &how)).await;
            let why = match closed {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer in time".to_owned(),
            };
            tracing::warn!(site = %lost, why, "the site that is taken over from cannot be closed; its guard does it");
            open.push(format!("{lost}: {why}"));
        }
        open
    }

    /// Lets the applications in with what there is: the sequences are put behind everything that stands in the tables.
    pub(super) async fn open_alone(&self) -> Result<Value, Error> {
        let (mut opened, mut raised) = (Vec::new(), Vec::new());
        let returned = self.returned().await;
        // Behind the first opening there is no way back, and one site is to write.
        if !returned.is_empty() && !self.heading.force && !self.is_turned().await? {
            let places: Vec<String> = returned.iter().map(ToString::to_string).collect();
            return Err(Error::Returned { places: places.join(", ") });
        }
        let open = self.close_places(returned).await;
        for unit in &self.units {
            if fence::standing(&unit.to).await?.is_some() {
                let secured =
                    irongate_deployment::secure_sequences(self.configuration, unit.pair.into).await?;
                raised.push(json!(secured));
            }
            opened.extend(self.open_and_turn(unit).await?);
        }
        // Until then it may get the databases back.
        self.end_superseded()?;
        Ok(json!({ "opened": opened, "sequences": raised, "not_closed": open }))
    }
}

/// Whether the lost site was closed by a run, by what stands of it: most are just lost.
fn may_be_closed(entries: &[Entry]) -> bool {
    let any = |evidence: &Value, list: &str, key: &str| {
        evidence[list].as_array().is_some_and(|all| all.iter().any(|one| one[key] == true))
    };
    match evidence_of(entries, FENCE_LOST) {
        Some(tried) => any(tried, "tried", "fenced") || any(tried, "tried", "reached"),
        None => evidence_of(entries, "prechecks").is_some_and(|checked| any(checked, "probes", "answers")),
    }
}
