//! What a run has done so far, as its journal tells it.
//!
//! Goes by the journal alone, so that a run of any plan and of any release can be told of.

use serde::Serialize;
use serde_json::Value;

use crate::journal::{Entry, Heading, Outcome, What};

/// Nobody writes from its beginning on.
const FENCE: &str = "fence";
/// Applications write again from its end on.
const OPEN: &str = "open";

/// A step in a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// `done`, `undone`, `failed`, or `begun` for one that was cut off.
    pub result: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// When it began, in microseconds since 2000-01-01 00:00 UTC.
    pub at: i64,
    /// What shows it; the reason if it failed.
    pub evidence: Value,
}

/// What a run has done so far.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The run; none for a dry run.
    pub run: Option<String>,
    /// Its plan.
    pub plan: String,
    /// `done`, `aborted`, `unfinished`, or `checked` for a dry run.
    pub result: &'static str,
    /// The site that wrote before.
    pub from: String,
    /// The site that writes now, or is to.
    pub to: String,
    /// The databases.
    pub databases: Vec<String>,
    /// From the closing of one site to the opening of the other.
    pub outage_seconds: Option<f64>,
    /// Transactions that were committed and are not there; none while that cannot be known.
    pub lost_transactions: Option<u64>,
    /// Its steps, in the order in which they were begun last.
    pub steps: Vec<StepReport>,
}

/// Whether a plan takes over from a site that cannot be read, or gives up what it had alone: what that is, it cannot know.
fn loses(plan: &str) -> bool {
    matches!(plan, "failover" | "reinstate")
}

/// What a journal tells.
pub fn report(heading: &Heading, entries: &[Entry]) -> Report {
    let mut steps: Vec<StepReport> = Vec::new();
    let (mut closed, mut opened, mut result) = (None, None, "unfinished");
    for entry in entries {
        match &entry.what {
            What::Step { step } => {
                steps.retain(|known| known.name != *step);
                steps.push(StepReport {
                    name: step.clone(),
                    result: "begun",
                    seconds: 0.0,
                    at: entry.at,
                    evidence: Value::Null,
                });
                if step == FENCE && closed.is_none() {
                    closed = Some(entry.at);
                }
            }
            What::Done { step, seconds, evidence } => {
                if let Some(known) = steps.iter_mut().find(|known| known.name == *step) {
                    (known.result, known.seconds, known.evidence) = ("done", *seconds, evidence.clone());
                }
                if step == OPEN {
                    opened = Some(entry.at);
                }
            }
            What::Failed { step, error, .. } => {
                if let Some(known) = steps.iter_mut().find(|known| known.name == *step) {
                    (known.result, known.evidence) = ("failed", Value::String(error.clone()));
                }
            }
            What::Undone { step, evidence } => {
                if let Some(known) = steps.iter_mut().find(|known| known.name == *step) {
                    (known.result, known.evidence) = ("undone", evidence.clone());
                }
                if step == FENCE {
                    opened = Some(entry.at);
                }
            }
            What::Ended { outcome: Outcome::Done } => result = "done",
            What::Ended { outcome: Outcome::Aborted } => result = "aborted",
            What::Begun(_) | What::Undo { .. } => {}
        }
    }
    let outage = closed.zip(opened).map(|(closed, opened)| (opened - closed) as f64 / 1e6);
    Report {
        run: Some(heading.run.clone()),
        plan: heading.plan.clone(),
        result,
        from: heading.from.clone(),
        to: heading.to.clone(),
        databases: heading.databases.clone(),
        outage_seconds: outage,
        // A run comes to its end only when the other site's log was looked into and held nothing more.
        lost_transactions: (matches!(result, "done" | "aborted") && !loses(&heading.plan)).then_some(0),
        steps,
    }
}
