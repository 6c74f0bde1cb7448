//! Groups: the forward set runs and is up to date, the reverse set is stopped, and nothing waits for a person.

use std::time::{Duration, Instant};

use irongate_checkpoint::{LoadLedger, Program, State};
use irongate_deployment::Configuration;
use irongate_deployment::configuration::Flow;
use irongate_deployment::groups::group_name;
use irongate_manager::event::Severity;
use irongate_manager::watch::AlarmKind;
use irongate_manager::{GroupInfo, Info};

use super::findings::listed;
use super::{Findings, Run, Unit};
use crate::error::Error;
use crate::fence;
use crate::place::Place;

/// How long a group that has just been started may take to say how far it is behind.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked again.
const LOOK: Duration = Duration::from_millis(200);

/// The groups of a flow: their programs and names.
fn of_flow(flow: &Flow) -> impl Iterator<Item = (Program, String)> + use<'_> {
    let pump = flow.pump.is_some().then_some(Program::Pump);
    let programs = [Some(Program::Extract), pump, Some(Program::Replicat)];
    programs.into_iter().flatten().map(|program| (program, group_name(&flow.name, program)))
}

fn find<'i>(infos: &'i [Info], name: &str) -> Option<&'i GroupInfo> {
    infos.iter().flat_map(|info| &info.groups).find(|group| group.name == name)
}

/// A group that may say in a moment what it has not said yet.
fn is_settling(group: &GroupInfo) -> bool {
    match group.state {
        State::Starting => true,
        State::Running => group.lag_seconds.is_none(),
        _ => false,
    }
}

impl Run<'_> {
    /// What the managers of both sites say, once the forward groups have found themselves.
    pub(super) async fn settled_infos(&self, findings: &mut Findings) -> Vec<Info> {
        let begun = Instant::now();
        let names: Vec<String> =
            self.units.iter().flat_map(|unit| of_flow(unit.pair.into).map(|(_, name)| name)).collect();
        loop {
            let (mut infos, mut silent) = (Vec::new(), Vec::new());
            for site in [&self.heading.from, &self.heading.to] {
                match self.info(site).await {
                    Ok(info) => infos.push(info),
                    Err(error) => silent.push((site, error)),
                }
            }
            let settling = names.iter().filter_map(|name| find(&infos, name)).any(is_settling);
            if settling && begun.elapsed() < PATIENCE {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            for (site, error) in silent {
                let remedy = error.hint().unwrap_or_else(|| format!("irongate --site {site} manager"));
                findings.complain(
                    format!("manager of site \"{site}\""),
                    format!("it cannot be asked: {error}"),
                    remedy,
                );
            }
            return infos;
        }
    }

    pub(super) fn check_groups(&self, unit: &Unit<'_>, infos: &[Info], findings: &mut Findings) {
        let (into, out_of) = (unit.pair.into, unit.pair.out_of);
        for (_, name) in of_flow(into) {
            forward(&name, find(infos, &name), self.limits.lag, findings);
        }
        for (_, name) in of_flow(out_of) {
            reverse(&name, find(infos, &name), findings);
        }
        for alarm in infos.iter().flat_map(|info| &info.seen.alarms) {
            let flow = [into, out_of].into_iter().find(|flow| flow.name == alarm.flow);
            // Slots come and go with a change of roles, and an alarm is as old as its watch: they are looked at themselves.
            let of_slot =
                matches!(alarm.kind, AlarmKind::SlotRetained | AlarmKind::SlotSafe | AlarmKind::SlotState);
            // What a compare has found is looked at with its age.
            if alarm.kind == AlarmKind::Differences {
                continue;
            }
            let grave = alarm.severity == Severity::Error && !of_slot;
            match flow {
                Some(flow) if grave && flow.name == into.name => findings.complain(
                    format!("flow \"{}\"", flow.name),
                    format!("{}, since {}", alarm.text, alarm.since),
                    format!("irongate lag {}; the alarm goes by itself when it is over", flow.name),
                ),
                Some(flow) => findings.note(
                    format!("flow \"{}\"", flow.name),
                    format!("{}, since {}", alarm.text, alarm.since),
                ),
                None if alarm.flow.is_empty() => {
                    findings.note("site", format!("{}, since {}", alarm.text, alarm.since))
                }
                None => {}
            }
        }
    }
}

/// How far Replicat is behind the trail, measured: one that waits for a lock says nothing new of itself.
pub(super) async fn behind_the_trail(
    configuration: &Configuration,
    flow: &Flow,
    limit: Duration,
    findings: &mut Findings,
) {
    let object = format!("flow \"{}\"", flow.name);
    let begun = Instant::now();
    loop {
        // Where the trail does not lie here, only Replicat itself can tell.
        let lag = match irongate_deployment::lag(configuration, flow).await {
            Ok(lag) => lag.replicat.lag_seconds.unwrap_or(0.0),
            Err(error) => {
                let remedy = error.hint().unwrap_or_else(|| format!("irongate trail check {}", flow.name));
                findings.complain(
                    object,
                    format!("how far it is behind cannot be measured: {error}"),
                    remedy,
                );
                return;
            }
        };
        if lag <= limit.as_secs_f64() {
            return;
        }
        // What has come a moment ago, after a long silence, looks old until it is applied.
        if begun.elapsed() > PATIENCE {
            let reason =
                format!("the target is {lag:.0} s behind its trail, and {} s are allowed", limit.as_secs());
            let remedy = format!(
                "irongate info {} shows what it waits for",
                group_name(&flow.name, Program::Replicat)
            );
            findings.complain(object, reason, remedy);
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A group that must run.
fn forward(name: &str, group: Option<&GroupInfo>, limit: Duration, findings: &mut Findings) {
    let object = format!("group \"{name}\"");
    let Some(group) = group else {
        findings.complain(
            object,
            "no manager knows it",
            "have the manager of its site read the configuration again: irongate reload",
        );
        return;
    };
    if group.state != State::Running {
        let why = group.error.as_ref().or(group.held.as_ref()).unwrap_or(&group.doing);
        let remedy =
            group.hint.clone().unwrap_or_else(|| format!("irongate start {name}; irongate report {name}"));
        findings.complain(object, format!("it is {}: {why}", group.state), remedy);
        return;
    }
    match group.lag_seconds {
        None => findings.complain(
            object,
            "it runs, and how far it is behind is not known",
            format!("irongate info {name} shows what it does"),
        ),
        Some(lag) if lag > limit.as_secs_f64() => findings.complain(
            object,
            format!("it is {lag:.0} s behind, and {} s are allowed", limit.as_secs()),
            "wait until it has caught up, or allow more with --max-lag",
        ),
        Some(_) => {}
    }
}

/// A group that must not run.
fn reverse(name: &str, group: Option<&GroupInfo>, findings: &mut Findings) {
    let object = format!("group \"{name}\"");
    match group {
        Some(group) if group.state.is_live() => {
            findings.complain(
                object,
                "it runs, and the reverse set must be stopped",
                format!("irongate stop {name}"),
            );
        }
        Some(group) if group.state == State::Abended => {
            let why = group.error.as_ref().unwrap_or(&group.doing);
            findings.note(object, format!("it was started, and has abended: {why}"));
        }
        Some(_) => {}
        None => findings.complain(
            object,
            "no manager knows it",
            "have the manager of its site read the configuration again: irongate reload",
        ),
    }
}

/// Changes that Replicat could not apply and that wait for a person.
pub(super) async fn queue(place: &Place, flow: &str, findings: &mut Findings) -> Result<(), Error> {
    const QUEUED: &str = "SELECT count(*) FROM irongate.error_queue WHERE flow = $1 AND state = 'queued'";
    let failed = || place.failed("look into the error queue");
    let row = match place.session.query_one(QUEUED, &[&flow]).await {
        Err(error) if fence::is_missing(&error) => {
            findings.complain(
                place,
                "table irongate.error_queue does not exist",
                format!("irongate setup {flow}"),
            );
            return Ok(());
        }
        row => row.map_err(failed())?,
    };
    let queued: i64 = row.try_get(0).map_err(failed())?;
    if queued > 0 {
        findings.complain(
            place,
            format!("{queued} changes of flow \"{flow}\" wait in the error queue"),
            format!("irongate errors list {flow}; then replay or skip them"),
        );
    }
    Ok(())
}

/// Tables that are not whole, because a load copies them.
pub(super) async fn half_copied(place: &Place, flow: &str, findings: &mut Findings) -> Result<(), Error> {
    let tables = tables_half_copied(place, flow).await?;
    if !tables.is_empty() {
        findings.complain(
            place,
            format!("a load of flow \"{flow}\" is not done; not whole are {}", listed(&tables)),
            format!("irongate instantiate {flow} goes on with it"),
        );
    }
    Ok(())
}

/// The same by their names.
pub(in crate::plan) async fn tables_half_copied(place: &Place, flow: &str) -> Result<Vec<String>, Error> {
    let tables = LoadLedger::new(flow).half_copied(&place.session).await;
    let tables = tables.map_err(|error| Error::Deployment(error.into()))?;
    Ok(tables.into_iter().map(|(schema, name)| format!("{schema}.{name}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(state: State, lag: Option<f64>) -> GroupInfo {
        let json = serde_json::json!({
            "name": "f-replicat", "flow": "f", "program": "replicat", "state": state, "lag_bytes": null, "lag_seconds": lag,
            "position": null, "since": null, "doing": "applying", "error": null, "hint": null, "pid": null, "wish": "run",
            "deaths": 0, "starts": 1, "held": null
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_lag_that_nobody_knows_is_none_that_is_small() {
        let says = |group: Option<GroupInfo>| {
            let mut findings = Findings::default();
            forward("f-replicat", group.as_ref(), Duration::from_secs(30), &mut findings);
            findings.complaints.join("")
        };
        assert_eq!(says(Some(group(State::Running, Some(1.0)))), "");
        assert!(says(Some(group(State::Running, Some(31.0)))).contains("31 s behind"));
        assert!(says(Some(group(State::Running, None))).contains("not known"));
        assert!(says(Some(group(State::Abended, Some(0.0)))).contains("it is ABENDED"));
        assert!(says(None).contains("no manager"));
        assert!(is_settling(&group(State::Running, None)) && !is_settling(&group(State::Stopped, None)));
    }

    #[test]
    fn the_reverse_set_is_stopped() {
        let says = |group: Option<GroupInfo>| {
            let mut findings = Findings::default();
            reverse("f-replicat", group.as_ref(), &mut findings);
            (findings.complaints.len(), findings.notes.len())
        };
        assert_eq!(says(Some(group(State::Stopped, None))), (0, 0));
        assert_eq!(says(Some(group(State::Running, None))), (1, 0));
        assert_eq!(says(Some(group(State::Starting, None))), (1, 0));
        assert_eq!(says(Some(group(State::Abended, None))), (0, 1));
        assert_eq!(says(None), (1, 0));
    }
}
