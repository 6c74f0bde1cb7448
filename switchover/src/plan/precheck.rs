//! What must be so before anything is changed. Everything that is not is said at once.

use irongate_checkpoint::{FIRST_EPOCH, Program, State};
use irongate_deployment::groups::group_name;
use irongate_manager::Info;
use serde_json::{Value, json};

use super::roles::role_of;
use super::{Run, Unit};
use crate::error::Error;
use crate::fence;

impl Run<'_> {
    /// Checks. A run that has begun checks again when it is gone on with before it has locked anything.
    pub(super) async fn precheck(&self) -> Result<Value, Error> {
        let mut complaints = Vec::new();
        let (from, to) = (&self.heading.from, &self.heading.to);
        let mut infos = Vec::new();
        for site in [from, to] {
            match self.info(site).await {
                Ok(info) => infos.push(info),
                Err(error) => {
                    complaints.push(format!("the manager of site \"{site}\" cannot be asked: {error}"))
                }
            }
        }
        for unit in &self.units {
            self.check_roles(unit, &mut complaints).await?;
            self.check_access(unit, &mut complaints).await?;
            self.check_groups(unit, &infos, &mut complaints);
            self.check_queue(unit, &mut complaints).await?;
        }
        if complaints.is_empty() {
            Ok(json!({ "checked": self.units.iter().map(|unit| unit.to.to_string()).collect::<Vec<_>>() }))
        } else {
            Err(Error::Refused { complaints })
        }
    }

    async fn check_roles(&self, unit: &Unit<'_>, complaints: &mut Vec<String>) -> Result<(), Error> {
        let mut known = Vec::new();
        let first = self.first_live(unit);
        for place in [unit.from()?, &unit.to] {
            let role = role_of(place).await?;
            if let Some(holder) = role.as_ref().and_then(|role| role.run.as_ref())
                && holder.run != self.heading.run
            {
                complaints.push(format!(
                    "{place} is in the hands of run \"{}\" of {} since {}",
                    holder.run, holder.holder, holder.since
                ));
            }
            let (live, epoch) = role.map_or((first.clone(), FIRST_EPOCH), |role| (role.live, role.epoch));
            if live != self.heading.from {
                complaints.push(format!(
                    "{place} says that site \"{live}\" writes, and not \"{}\"",
                    self.heading.from
                ));
            }
            known.push(epoch);
        }
        if known.first() != known.last() {
            complaints.push(format!("{} and {} are in different epochs", unit.from()?, unit.to));
        }
        Ok(())
    }

    async fn check_access(&self, unit: &Unit<'_>, complaints: &mut Vec<String>) -> Result<(), Error> {
        let (at_from, at_to) = (fence::standing(unit.from()?).await?, fence::standing(&unit.to).await?);
        if let Some(fence) = at_from.filter(|fence| fence.run.as_ref() != Some(&self.heading.run)) {
            complaints.push(format!("{} is closed since {}: nobody writes there", unit.from()?, fence.since));
        }
        if at_to.is_none() {
            let site = &self.heading.to;
            complaints.push(format!("{} is open, and a standby must not be: irongate fence {site}", unit.to));
        }
        let mut rest = fence::Saved::read(&unit.to, false).await?;
        if unit.to.keep_login {
            rest.logins.clear();
        }
        if at_to.is_some() && !rest.is_empty() {
            let (site, count) = (&self.heading.to, rest.rights.len() + rest.logins.len());
            complaints.push(format!(
                "{} has {count} rights that came behind its fence: irongate fence {site} takes them too",
                unit.to
            ));
        }
        for place in [unit.from()?, &unit.to] {
            if let Err(error) = fence::roles_exist(place).await {
                complaints.push(error.to_string());
            }
            const PREPARED: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 5";
            let failed = || place.failed("look for prepared transactions");
            for row in place.session.query(PREPARED, &[]).await.map_err(failed())? {
                let gid: String = row.try_get(0).map_err(failed())?;
                complaints.push(format!(
                    "prepared transaction \"{gid}\" is open at {place}: commit it or roll it back"
                ));
            }
        }
        Ok(())
    }

    fn check_groups(&self, unit: &Unit<'_>, infos: &[Info], complaints: &mut Vec<String>) {
        let (into, out_of) = (unit.pair.into, unit.pair.out_of);
        let find = |name: &str| infos.iter().flat_map(|info| &info.groups).find(|group| group.name == name);
        let programs = |flow: &irongate_deployment::configuration::Flow| {
            let mut programs = vec![Program::Extract, Program::Replicat];
            programs.extend(flow.pump.is_some().then_some(Program::Pump));
            programs
        };
        for program in programs(into) {
            let name = group_name(&into.name, program);
            match find(&name) {
                Some(group) if group.state == State::Running => {
                    let lag = group.lag_seconds.unwrap_or(0.0);
                    if lag > self.limits.lag.as_secs_f64() {
                        complaints.push(format!("{name} is {lag:.0} s behind"));
                    }
                }
                Some(group) => complaints.push(format!("{name} is {}: {}", group.state, group.doing)),
                None => complaints.push(format!("no manager knows {name}")),
            }
        }
        for program in programs(out_of) {
            let name = group_name(&out_of.name, program);
            match find(&name) {
                Some(group) if group.state.is_live() => {
                    complaints.push(format!("{name} runs, and the reverse set must be stopped"));
                }
                Some(_) => {}
                None => complaints.push(format!("no manager knows {name}")),
            }
        }
    }

    async fn check_queue(&self, unit: &Unit<'_>, complaints: &mut Vec<String>) -> Result<(), Error> {
        const QUEUED: &str = "SELECT count(*) FROM irongate.error_queue WHERE flow = $1";
        let failed = || unit.to.failed("look into the error queue");
        let row = unit.to.session.query_one(QUEUED, &[&unit.pair.into.name]).await.map_err(failed())?;
        let queued: i64 = row.try_get(0).map_err(failed())?;
        if queued > 0 {
            complaints.push(format!("{queued} changes of {} wait in the error queue", unit.pair.into.name));
        }
        Ok(())
    }
}
