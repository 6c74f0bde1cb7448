//! What the manager shows of its groups: what it knows of their processes, joined with what these say themselves.

use std::path::Path;

use irongate_checkpoint::{Counters, Program, State, Status, read_status};
use serde::{Deserialize, Serialize};

use crate::supervisor::{Phase, Wish};
use crate::watch::{FlowView, Seen};

/// What a manager knows of itself and its groups at one moment, without looking at a file.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Overview {
    pub(crate) site: String,
    pub(crate) since: String,
    pub(crate) shutting_down: bool,
    pub(crate) groups: Vec<GroupOverview>,
    /// Why people's wishes cannot be saved.
    pub(crate) unsaved: Option<String>,
    /// Events that did not reach the disk.
    pub(crate) unwritten_events: u64,
    pub(crate) failed_hooks: u64,
}

/// The same of one group.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct GroupOverview {
    pub(crate) name: String,
    pub(crate) flow: String,
    pub(crate) program: Program,
    pub(crate) wish: Wish,
    pub(crate) phase: Phase,
    pub(crate) deaths: u32,
    pub(crate) starts: u64,
    pub(crate) hold: Option<String>,
    pub(crate) busy: Option<String>,
    pub(crate) abended: Option<irongate_checkpoint::Failure>,
    /// Seconds until the next attempt, counted when this was made.
    pub(crate) next_attempt: Option<f64>,
}

/// A group as it is shown. The names of the fields are a contract with scripts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its flow.
    pub flow: String,
    /// What it is.
    pub program: Program,
    /// Where it is in its life.
    pub state: State,
    /// Bytes it has still to go.
    pub lag_bytes: Option<u64>,
    /// Age of what it does now, in seconds.
    pub lag_seconds: Option<f64>,
    /// Its place in the trail.
    pub position: Option<String>,
    /// Since when it is in this state, in RFC 3339 and UTC.
    pub since: Option<String>,
    /// One sentence of what it is doing.
    pub doing: String,
    /// Why it ended, or what it is trying to get over.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// What a person, or else the configuration, wants of it.
    pub wish: Wish,
    /// Times it died in a row.
    pub deaths: u32,
    /// Processes that this manager has started for it.
    pub starts: u64,
    /// Why the watch holds it.
    pub held: Option<String>,
    /// In how many seconds it is started again, where it has died.
    #[serde(default)]
    pub next_attempt: Option<f64>,
    /// What it has done since it started.
    #[serde(default)]
    pub counters: Counters,
    /// Of a Replicat: changes that wait in its flow's error queue, as far as they are counted.
    #[serde(default)]
    pub errors_pending: Option<u64>,
}

/// What a manager shows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Info {
    /// The site.
    pub site: String,
    /// The manager's process.
    pub pid: u32,
    /// Since when it runs, in RFC 3339 and UTC.
    pub since: String,
    /// Its release.
    pub release: String,
    /// Whether it is ending.
    pub shutting_down: bool,
    /// Whether everything that should run runs, no alarm is an error, and the manager can write what it must.
    pub healthy: bool,
    /// What is wrong, one sentence each; empty if healthy.
    pub complaints: Vec<String>,
    /// Its groups.
    pub groups: Vec<GroupInfo>,
    /// What the watch has seen.
    pub seen: Seen,
    /// Events that did not reach the disk.
    pub unwritten_events: u64,
    /// Runs of the hook that failed.
    pub failed_hooks: u64,
}

/// Joins. Reads the groups' status files: blocks for as long as the disk takes.
pub(crate) fn info(state_directory: &Path, overview: &Overview, seen: &Seen) -> Info {
    let mut complaints = Vec::new();
    let mut groups = Vec::new();
    for group in &overview.groups {
        let status = match read_status(state_directory, &group.name) {
            Ok(status) => status,
            Err(error) => {
                complaints.push(format!("group \"{}\": {error}", group.name));
                None
            }
        };
        let view = seen.flows.iter().find(|view| view.name == group.flow);
        groups.push(shown(group, status, view));
    }
    for group in &groups {
        if group.wish == Wish::Run && !group.state.is_live() {
            let why = group.error.as_ref().or(group.held.as_ref()).unwrap_or(&group.doing);
            complaints.push(format!("group \"{}\" should run and does not: {why}", group.name));
        }
    }
    let grave = seen.alarms.iter().filter(|alarm| alarm.severity == crate::event::Severity::Error);
    complaints.extend(grave.map(|alarm| match alarm.flow.as_str() {
        "" => alarm.text.clone(),
        flow => format!("flow \"{flow}\": {}", alarm.text),
    }));
    complaints.extend(overview.unsaved.iter().map(|why| format!("what people wish cannot be saved: {why}")));
    Info {
        site: overview.site.clone(),
        pid: std::process::id(),
        since: overview.since.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        shutting_down: overview.shutting_down,
        healthy: complaints.is_empty(),
        complaints,
        groups,
        seen: seen.clone(),
        unwritten_events: overview.unwritten_events,
        failed_hooks: overview.failed_hooks,
    }
}

/// How far a group is behind. What it says itself holds while it works; what has ended, or tries to get over an error, has
/// said it of another time, and then it is what the watch measures, or unknown.
fn lag(program: Program, own: Option<&Status>, view: Option<&FlowView>) -> (Option<u64>, Option<f64>) {
    if program == Program::Extract && view.is_some_and(|view| view.source_silent.is_some()) {
        return (None, None);
    }
    if let Some(own) = own.filter(|own| own.state.is_live() && own.error.is_none()) {
        return (own.lag_bytes, own.lag_seconds);
    }
    let stage = view.map(|view| match program {
        Program::Extract => view.extract,
        Program::Pump => view.pump,
        Program::Feed => view.feed,
        Program::Replicat => view.replicat,
        _ => Default::default(),
    });
    stage.map_or((None, None), |stage| (stage.lag_bytes, stage.lag_seconds))
}

fn shown(group: &GroupOverview, status: Option<Status>, view: Option<&FlowView>) -> GroupInfo {
    let pid = group.phase.pid();
    // What an earlier process said of its life says nothing of this one.
    let own = status.as_ref().filter(|status| pid.is_some() && Some(status.pid) == pid);
    let state = match &group.phase {
        Phase::Launching => State::Starting,
        Phase::Running { .. } | Phase::Stopping { .. } => {
            own.map_or(State::Starting, |status| match status.state {
                // It has said so and is about to end: nobody who has it started is to take it for one that runs.
                State::Abended if matches!(group.phase, Phase::Running { .. }) => State::Abended,
                state if state.is_live() => state,
                _ => State::Running,
            })
        }
        Phase::BackOff { .. } if group.busy.is_none() => State::Abended,
        Phase::BackOff { .. } | Phase::Off => {
            if group.abended.is_some() {
                State::Abended
            } else {
                State::Stopped
            }
        }
    };
    let doing = match &group.phase {
        Phase::Launching => "being started".to_owned(),
        Phase::Running { .. } => own.map_or("being started".to_owned(), |status| status.doing.clone()),
        Phase::Stopping { killed: true, .. } => "being killed".to_owned(),
        Phase::Stopping { .. } => match own {
            Some(status) if !status.doing.is_empty() => format!("stopping: {}", status.doing),
            _ => "stopping".to_owned(),
        },
        Phase::BackOff { .. } => match (&group.busy, group.next_attempt) {
            (Some(holder), _) => format!("waiting for its lock, which is held by {holder}"),
            (None, Some(seconds)) => format!("next attempt in {:.0} s", seconds.max(0.0).ceil()),
            (None, None) => "waiting for the next attempt".to_owned(),
        },
        Phase::Off => match (&group.abended, &group.hold) {
            (Some(failure), _) => format!("abended: {}", failure.message),
            (None, Some(reason)) if group.wish == Wish::Run => format!("held back: {reason}"),
            _ => match &status {
                None => "never started".to_owned(),
                Some(status) => match &status.error {
                    // Its own last word, which outlives that it was stopped since.
                    Some(failure) if status.state == State::Abended && failure.message != status.doing => {
                        format!("stopped; it had abended: {}", failure.message)
                    }
                    _ => "stopped".to_owned(),
                },
            },
        },
    };
    let (lag_bytes, lag_seconds) = lag(group.program, own, view);
    let said = status.as_ref().filter(|_| state != State::Stopped).and_then(|status| status.error.clone());
    let failure = group.abended.clone().or(said);
    let (error, hint) = failure.map_or((None, None), |failure| (Some(failure.message), failure.hint));
    GroupInfo {
        name: group.name.clone(),
        flow: group.flow.clone(),
        program: group.program,
        state,
        lag_bytes,
        lag_seconds,
        position: status.as_ref().and_then(|status| status.position).map(|position| position.to_string()),
        since: status.as_ref().map(|status| status.since.to_string()),
        doing,
        error,
        hint,
        pid,
        wish: group.wish,
        deaths: group.deaths,
        starts: group.starts,
        held: group.hold.clone(),
        next_attempt: group.next_attempt,
        errors_pending: view
            .filter(|_| group.program == Program::Replicat)
            .and_then(|view| view.errors_pending),
        counters: status.map(|status| status.counters).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use irongate_checkpoint::Failure;

    use super::*;

    fn group(phase: Phase) -> GroupOverview {
        GroupOverview {
            name: "g".into(),
            flow: "f".into(),
            program: Program::Extract,
            wish: Wish::Run,
            phase,
            deaths: 0,
            starts: 1,
            hold: None,
            busy: None,
            abended: None,
            next_attempt: None,
        }
    }

    fn status(pid: u32, state: State) -> Status {
        Status { pid, state, doing: "reading".into(), ..Status::starting("g", "f", Program::Extract) }
    }

    #[test]
    fn the_state_is_that_of_the_process_and_not_of_its_predecessor() {
        let running = || Phase::Running { pid: 5, since: Duration::ZERO };
        let of = |phase, status| {
            let shown = shown(&group(phase), status, None);
            (shown.state, shown.doing)
        };
        assert_eq!(of(running(), Some(status(5, State::Running))), (State::Running, "reading".into()));
        assert_eq!(of(running(), Some(status(4, State::Abended))), (State::Starting, "being started".into()));
        assert_eq!(of(running(), Some(status(5, State::Abended))), (State::Abended, "reading".into()));
        assert_eq!(of(running(), None), (State::Starting, "being started".into()));
        assert_eq!(of(Phase::Off, None), (State::Stopped, "never started".into()));
        assert_eq!(of(Phase::Off, Some(status(5, State::Running))), (State::Stopped, "stopped".into()));
        let stopping = Phase::Stopping { pid: 5, until: Duration::ZERO, killed: false, overdue: false };
        assert_eq!(
            of(stopping, Some(status(5, State::Running))),
            (State::Running, "stopping: reading".into())
        );
        let mut waiting = group(Phase::BackOff { until: Duration::ZERO });
        waiting.next_attempt = Some(2.3);
        let shown_waiting = shown(&waiting, None, None);
        assert_eq!(
            (shown_waiting.state, shown_waiting.doing.as_str()),
            (State::Abended, "next attempt in 3 s")
        );
    }

    #[test]
    fn what_is_not_known_is_not_shown_as_nothing() {
        let running = || group(Phase::Running { pid: 5, since: Duration::ZERO });
        let mut said = status(5, State::Running);
        (said.lag_bytes, said.lag_seconds) = (Some(0), Some(0.0));
        let mut view = FlowView::default();
        view.extract.lag_bytes = Some(70);
        let lag = |group: &GroupOverview, said: &Status, view: &FlowView| {
            let shown = shown(group, Some(said.clone()), Some(view));
            (shown.lag_bytes, shown.lag_seconds)
        };
        assert_eq!(lag(&running(), &said, &view), (Some(0), Some(0.0)));
        // It ended, or tries to get over something: its word is old, and the watch's is not.
        assert_eq!(lag(&group(Phase::Off), &said, &view), (Some(70), None));
        said.error = Some(Failure { message: "refused".into(), hint: None, transient: true });
        assert_eq!(lag(&running(), &said, &view), (Some(70), None));
        said.error = None;
        view.source_silent = Some("refused".into());
        assert_eq!(lag(&running(), &said, &view), (None, None), "also before Extract has noticed");
    }

    #[test]
    fn what_was_stopped_says_that_it_had_abended() {
        let mut stopped = group(Phase::Off);
        stopped.wish = Wish::Stop;
        let mut last = status(5, State::Abended);
        last.error = Some(Failure { message: "no slot".into(), hint: None, transient: false });
        let shown = shown(&stopped, Some(last), None);
        assert_eq!((shown.state, shown.error), (State::Stopped, None));
        assert_eq!(shown.doing, "stopped; it had abended: no slot");
    }

    #[test]
    fn what_should_run_and_does_not_is_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let mut abended = group(Phase::Off);
        abended.abended =
            Some(Failure { message: "no room".into(), hint: Some("make some".into()), transient: false });
        let mut stopped = group(Phase::Off);
        stopped.wish = Wish::Stop;
        let overview = Overview { groups: vec![abended, stopped], ..Overview::default() };
        let info = info(dir.path(), &overview, &Seen::default());
        assert!(!info.healthy);
        assert_eq!(info.complaints, ["group \"g\" should run and does not: no room"]);
        assert_eq!(info.groups[0].hint.as_deref(), Some("make some"));
    }
}
