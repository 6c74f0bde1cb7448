//! Hooks in a run: which step has which hook run, at which site, and what takes it back. Decides only.
//!
//! A step is there only where something is configured for it. Each hook is run by the manager of its site, from that site's
//! own configuration ([`irongate_manager::hook`]).

use irongate_deployment::configuration::HookName;
use irongate_manager::hook::{HookReport, HookResult};
use serde_json::{Value, json};

use crate::engine::Step;
use crate::plan::Kind;

/// Stops what acts at the site that may be lost, as far as it answers.
pub(crate) const QUIET_LOST: &str = "quiet-lost";
/// Points names, in the DNS and by hook.
pub(crate) const POINT_NAME: &str = "point-name";
/// Tells people.
pub(crate) const NOTIFY: &str = "notify";

/// Where a hook of a step runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// At the site that wrote.
    From,
    /// At the site that is to write.
    To,
    /// At both, first at the one that is to write.
    Both,
}

/// A step's hooks, in their order, where they run, and which ones take them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hooked {
    pub(crate) hooks: &'static [HookName],
    pub(crate) side: Side,
    pub(crate) back: &'static [HookName],
}

/// The hooks of a step.
pub(crate) fn of_step(step: &str) -> Option<Hooked> {
    use HookName::*;
    let hooked = |hooks, side, back| Some(Hooked { hooks, side, back });
    match step {
        "stop-applications" => hooked(&[StopApplications], Side::From, &[StartApplications]),
        "disable-jobs" => hooked(&[DisableJobs], Side::From, &[EnableJobs]),
        "fence-hook" => hooked(&[Fence], Side::From, &[Open]),
        QUIET_LOST => hooked(
            &[StopApplications, DisableJobs, Fence],
            Side::From,
            &[Open, EnableJobs, StartApplications],
        ),
        "open-hook" => hooked(&[Open], Side::To, &[]),
        "start-applications" => hooked(&[StartApplications], Side::To, &[]),
        "enable-jobs" => hooked(&[EnableJobs], Side::To, &[]),
        POINT_NAME => hooked(&[PointName], Side::Both, &[]),
        "push-name" => hooked(&[PushName], Side::Both, &[]),
        NOTIFY => hooked(&[Notify], Side::Both, &[]),
        _ => None,
    }
}

/// The steps with hooks behind a step of a plan.
fn behind(kind: Kind, step: &str) -> &'static [&'static str] {
    const CLOSE: &[&str] = &["stop-applications", "disable-jobs", "fence-hook"];
    const OPEN: &[&str] = &["open-hook", "start-applications", "enable-jobs", POINT_NAME, "push-name"];
    const OPEN_AND_TELL: &[&str] =
        &["open-hook", "start-applications", "enable-jobs", POINT_NAME, "push-name", NOTIFY];
    match (kind, step) {
        (Kind::Switchover | Kind::Switchback, "reverse-capture") => CLOSE,
        (Kind::Switchover | Kind::Switchback, "roles") => OPEN,
        (Kind::Switchover | Kind::Switchback | Kind::Reinstate, "follow") => &[NOTIFY],
        (Kind::Failover, "lock") => &[QUIET_LOST],
        (Kind::Failover, "roles") => OPEN_AND_TELL,
        // What starts by itself at a site that comes back must not act.
        (Kind::Reinstate, "lock") => CLOSE,
        _ => &[],
    }
}

/// The steps of a plan with those for which something is configured.
pub(crate) fn steps(kind: Kind, is_configured: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for &step in kind.steps() {
        steps.push(step);
        let more = behind(kind, step.name).iter().filter(|name| is_configured(name));
        steps.extend(more.map(|name| Step { name, no_return: false }));
    }
    steps
}

/// Why a hook did not do what it is for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It ended badly, or its time was over.
    #[error("hook \"{}\" of site \"{}\" {}{}", report.hook, report.site, how(&report.result), last_line(report))]
    Failed {
        /// How.
        report: Box<HookReport>,
    },
    /// The manager of its site does not have it.
    #[error("the manager of site \"{site}\" has no hook \"{hook}\"")]
    Missing {
        /// The hook.
        hook: HookName,
        /// The site.
        site: String,
    },
}

fn how(result: &HookResult) -> String {
    match result {
        HookResult::Done => "is done".to_owned(),
        HookResult::Failed(how) => format!("failed: {how}"),
        HookResult::Killed => "was killed: its time was over".to_owned(),
    }
}

fn last_line(report: &HookReport) -> String {
    report.last_line().map_or_else(String::new, |line| format!(": {line}"))
}

impl Failure {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Failed { report } => {
                let HookReport { hook, site, path, .. } = &**report;
                format!(
                    "mend what {path} says at site \"{site}\"; hook \"{hook}\" is run again from its beginning"
                )
            }
            Self::Missing { hook, site } => {
                format!(
                    "write [hooks.{site}.{hook}] into the file of that site too, and irongate reload there"
                )
            }
        })
    }

    /// What it printed.
    pub(crate) fn evidence(&self) -> Value {
        match self {
            Self::Failed { report } => json!({ "hooks": [report] }),
            Self::Missing { .. } => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: Kind, configured: &[&str]) -> Vec<&'static str> {
        steps(kind, |name| configured.contains(&name)).into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn only_what_is_configured_is_a_step_and_at_its_place() {
        for kind in [Kind::Switchover, Kind::Failover, Kind::Reinstate, Kind::Drill] {
            assert_eq!(steps(kind, |_| false), kind.steps());
        }
        let all = steps(Kind::Switchover, |_| true);
        let place = |name: &str| all.iter().position(|step| step.name == name).unwrap();
        let order = [
            "reverse-capture",
            "stop-applications",
            "disable-jobs",
            "fence-hook",
            "fence",
            "open",
            "roles",
            "open-hook",
            "start-applications",
            "enable-jobs",
            "point-name",
            "push-name",
            "follow",
            "notify",
        ];
        assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{all:?}");
        assert_eq!(names(Kind::Failover, &["notify", "quiet-lost"])[2], "quiet-lost");
        assert_eq!(names(Kind::Drill, &["notify"]).len(), Kind::Drill.steps().len());
        // Whatever is behind the point of no return has nothing that takes it back.
        let no_return = all.iter().position(|step| step.no_return).unwrap();
        for (place, step) in all.iter().enumerate() {
            if let Some(hooked) = of_step(step.name) {
                assert_eq!(hooked.back.is_empty(), place > no_return, "{}", step.name);
            }
        }
    }
}
