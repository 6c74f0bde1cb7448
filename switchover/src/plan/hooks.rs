//! Steps that reach beyond the databases: applications, jobs, names, people.

use std::time::{Duration, Instant};

use irongate_deployment::configuration::HookName;
use irongate_manager::Control;
use irongate_manager::hook::{Context, HookReport, HookResult};
use serde_json::{Value, json};

use super::{Kind, Progress, Run, by, role_of};
use crate::engine::Step;
use crate::error::Error;
use crate::hook::{self, Failure, Hooked, NOTIFY, POINT_NAME, QUIET_LOST, Side};
use crate::journal::Entry;
use crate::names::{self, Move};

/// Whether what fails is noted and does not stop the run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    Needed,
    Best,
}

/// How much longer than its limit a hook that is at work already is waited for.
const BUSY: Duration = Duration::from_secs(5);

fn is_busy(asked: &Result<Option<HookReport>, Error>) -> bool {
    let Err(Error::Manager { source, .. }) = asked else { return false };
    matches!(&**source, irongate_manager::Error::Refused { transient: true, .. })
}

impl Run<'_> {
    /// The steps of this run, as far as its journal has decided which.
    pub(super) fn steps(&self, entries: &[Entry]) -> Vec<Step> {
        match self.kind {
            Kind::Reinstate => by::steps(self.all_steps(), by::chosen(&self.heading, entries), entries),
            _ => self.all_steps(),
        }
    }

    /// All steps that a run of its plan may have.
    pub(super) fn all_steps(&self) -> Vec<Step> {
        self.steps_of(self.kind)
    }

    fn steps_of(&self, kind: Kind) -> Vec<Step> {
        hook::steps(kind, |step| {
            let is_there = |hooked: Hooked| {
                let hooks = hooked.hooks.iter();
                hooks.into_iter().any(|hook| self.sites(hooked.side).iter().any(|site| self.has(site, *hook)))
            };
            let is_name =
                step == POINT_NAME && names::is_configured(self.configuration, &self.heading.databases);
            is_name || hook::of_step(step).is_some_and(is_there)
        })
    }

    fn has(&self, site: &str, hook: HookName) -> bool {
        self.configuration.hooks.get(site).is_some_and(|hooks| hooks.contains_key(&hook))
    }

    fn sites(&self, side: Side) -> Vec<&str> {
        match side {
            Side::From => vec![&self.heading.from],
            Side::To => vec![&self.heading.to],
            Side::Both => vec![&self.heading.to, &self.heading.from],
        }
    }

    /// Does a step of hooks and names; `None` for a step that is none.
    pub(super) async fn hook_step(
        &self,
        step: &str,
        progress: &mut Progress<'_>,
    ) -> Option<Result<Value, Error>> {
        let hooked = hook::of_step(step)?;
        Some(self.do_hooks(step, hooked, progress).await)
    }

    async fn do_hooks(
        &self,
        step: &str,
        hooked: Hooked,
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        let mut evidence = json!({});
        let databases = &self.heading.databases;
        if step == POINT_NAME && names::is_configured(self.configuration, databases) {
            let way = Move { from: Some(&self.heading.from), to: &self.heading.to, databases };
            evidence["zones"] = json!(names::point(self.configuration, &way).await?);
        }
        let mut reports = Vec::new();
        for site in self.sites(hooked.side) {
            let is_lost = self.kind == Kind::Failover && *site == self.heading.from;
            let effort =
                if is_lost || [NOTIFY, QUIET_LOST].contains(&step) { Effort::Best } else { Effort::Needed };
            for hook in hooked.hooks.iter().filter(|hook| self.has(site, **hook)) {
                let report = self.run_hook(site, *hook, step, false, effort, progress).await?;
                let is_silent = report["silent"] == true;
                reports.push(report);
                // A site that is not there is not asked again and again while nobody can work.
                if is_silent {
                    break;
                }
            }
        }
        evidence["hooks"] = Value::Array(reports);
        Ok(evidence)
    }

    /// Takes such a step back; `None` for a step that is none.
    pub(super) async fn hook_undo(
        &self,
        step: &str,
        progress: &mut Progress<'_>,
    ) -> Option<Result<Value, Error>> {
        let hooked = hook::of_step(step)?;
        // At a site that comes back nothing is to act, whatever becomes of the run.
        if self.kind == Kind::Reinstate {
            return Some(Ok(Value::Null));
        }
        let effort = if step == QUIET_LOST { Effort::Best } else { Effort::Needed };
        let mut reports = Vec::new();
        for site in self.sites(hooked.side) {
            for hook in hooked.back.iter().filter(|hook| self.has(site, **hook)) {
                match self.run_hook(site, *hook, step, true, effort, progress).await {
                    Ok(report) => reports.push(report),
                    Err(error) => return Some(Err(error)),
                }
            }
        }
        Some(Ok(json!({ "hooks": reports })))
    }

    /// Where the names lead once a run was taken back. No plan moves them before its point of no return; somebody else may
    /// have done it meanwhile, by hand or by a hook of his own. That is said, and left to him: it is not the run's doing.
    pub(super) async fn names_left(&self, progress: &mut Progress<'_>) -> Value {
        let databases = &self.heading.databases;
        if !names::is_configured(self.configuration, databases) {
            return Value::Null;
        }
        let live = self.live().await;
        let zones = match names::show(self.configuration, databases).await {
            Ok(zones) => zones,
            Err(error) => return json!({ "names": { "site": live, "unknown": error.to_string() } }),
        };
        let astray = names::not_at(&zones, &live);
        for sentence in &astray {
            progress("lock", sentence);
        }
        json!({ "names": { "site": live, "astray": astray } })
    }

    /// The site that writes: as the database says, which an earlier run may have turned already.
    async fn live(&self) -> String {
        let by_plan = match self.kind {
            Kind::Reinstate => &self.heading.to,
            _ => &self.heading.from,
        };
        let role = match self.units.first() {
            Some(unit) => role_of(&unit.to).await.ok().flatten(),
            None => None,
        };
        role.map_or_else(|| by_plan.clone(), |role| role.live)
    }

    /// The manager of a site; one that may be lost has little time.
    fn hook_runner(&self, site: &str) -> Result<Control, Error> {
        let control = self.manager(site)?;
        let is_lost = self.kind == Kind::Failover && site == self.heading.from;
        Ok(if is_lost { control.with_patience(self.limits.probe) } else { control })
    }

    fn context(&self, step: &str, back: bool) -> Context {
        let heading = &self.heading;
        Context {
            run: heading.run.clone(),
            plan: heading.plan.clone(),
            step: step.to_owned(),
            from: heading.from.clone(),
            to: heading.to.clone(),
            databases: heading.databases.clone(),
            holder: heading.holder.clone(),
            back,
        }
    }

    /// Has the site that is to write ask from elsewhere whether the other one is lost: what is seen from there, or why
    /// nothing is; `None` where it has no such hook.
    pub(super) async fn asked_elsewhere(&self) -> Option<Result<String, String>> {
        let site = &self.heading.to;
        if !self.has(site, HookName::Probe) {
            return None;
        }
        let asked = match self.manager(site) {
            Ok(control) => control.run_hook(HookName::Probe, self.context("prechecks", false)).await,
            Err(error) => return Some(Err(error.to_string())),
        };
        Some(match asked {
            Ok(Some(report)) if report.result == HookResult::Done => {
                Ok(report.last_line().unwrap_or("sees it").to_owned())
            }
            Ok(Some(report)) => Err(Failure::Failed { report: Box::new(report) }.to_string()),
            Ok(None) => Err(Failure::Missing { hook: HookName::Probe, site: site.clone() }.to_string()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Has a hook run by the manager of its site. What it printed is told, and is evidence.
    async fn run_hook(
        &self,
        site: &str,
        hook: HookName,
        step: &str,
        back: bool,
        effort: Effort,
        progress: &mut Progress<'_>,
    ) -> Result<Value, Error> {
        let context = self.context(step, back);
        progress(step, &format!("hook \"{hook}\" at site \"{site}\""));
        let failed = |source| Error::Manager { site: site.to_owned(), source: Box::new(source) };
        let limit = self.configuration.hooks.get(site).and_then(|hooks| hooks.get(&hook));
        let limit = limit.map_or(Duration::ZERO, |options| options.time_limit);
        let begun = Instant::now();
        let asked = loop {
            let asked = match self.hook_runner(site) {
                Ok(control) => control.run_hook(hook, context.clone()).await.map_err(failed),
                Err(error) => Err(error),
            };
            // One that an earlier attempt has left at work ends by its own limit.
            if !is_busy(&asked) || begun.elapsed() > limit + BUSY {
                break asked;
            }
            tokio::time::sleep(BUSY / 10).await;
        };
        let is_silent = asked.as_ref().is_err_and(Error::is_transient);
        let outcome = match asked {
            Ok(Some(report)) if report.result == HookResult::Done => return Ok(json!(report)),
            Ok(Some(report)) => Error::from(Failure::Failed { report: Box::new(report) }),
            Ok(None) => Error::from(Failure::Missing { hook, site: site.to_owned() }),
            Err(error) => error,
        };
        match effort {
            Effort::Needed => Err(outcome),
            Effort::Best => {
                progress(step, &outcome.to_string());
                Ok(json!({
                    "hook": hook,
                    "site": site,
                    "result": "not-done",
                    "reason": outcome.to_string(),
                    "silent": is_silent,
                    "printed": outcome.evidence(),
                }))
            }
        }
    }

    /// What is wrong with hooks and names, in sentences, and what was looked at. Nothing is run and nothing changed.
    pub(super) async fn check_hooks(&self, complaints: &mut Vec<String>) -> Result<Value, Error> {
        // A drill runs none of them, and finds out whether they could be run.
        let steps = if self.kind == Kind::Drill { self.steps_of(Kind::Switchover) } else { self.all_steps() };
        let mut evidence = json!({});
        let mut hooks = Vec::new();
        for site in [&self.heading.from, &self.heading.to] {
            let wanted: Vec<HookName> = steps
                .iter()
                .filter_map(|step| hook::of_step(step.name))
                .filter(|hooked| self.sites(hooked.side).contains(&site.as_str()))
                .flat_map(|hooked| hooked.hooks.iter().chain(hooked.back).copied())
                .filter(|hook| self.has(site, *hook))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let states = match self.hook_runner(site) {
                Ok(control) => control.hooks().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match states {
                Ok(states) => {
                    for hook in wanted {
                        let problem = match states.iter().find(|state| state.hook == hook) {
                            None => Some(Failure::Missing { hook, site: site.clone() }.to_string()),
                            Some(state) => state.problem.as_ref().map(|problem| {
                                format!(
                                    "hook \"{hook}\" of site \"{site}\", {}, cannot be run: {problem}",
                                    state.path
                                )
                            }),
                        };
                        complaints.extend(problem);
                        hooks.push(json!({ "hook": hook, "site": site }));
                    }
                }
                Err(reason) => {
                    complaints.push(format!("the hooks of site \"{site}\" cannot be asked for: {reason}"))
                }
            }
        }
        evidence["hooks"] = Value::Array(hooks);
        if steps.iter().any(|step| step.name == POINT_NAME)
            && names::is_configured(self.configuration, &self.heading.databases)
        {
            let way = Move {
                from: Some(&self.heading.from),
                to: &self.heading.to,
                databases: &self.heading.databases,
            };
            let checked = names::check(self.configuration, &way, complaints).await?;
            evidence["zones"] = json!(checked);
        }
        Ok(evidence)
    }
}
