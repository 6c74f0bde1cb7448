//! What a run has done so far, as its journal tells it.
//!
//! Goes by the journal alone, so that a run of any plan and of any release can be told of. What a plan has to say besides
//! its steps it says by names in its evidence: `certificates`, `markers`, `sequences` and `digests` make the certificate,
//! and what has `arrived` of each of the `databases` says what a failover may have cost.

mod html;
#[cfg(test)]
mod tests;
mod timeline;
mod verdict;

use irongate_trail::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::engine::Step;
use crate::journal::{Entry, Heading, Outcome, What};
use crate::plan::Kind;
pub use html::html;
pub(crate) use verdict::command;
pub use verdict::{Advice, Loss};

/// Nobody writes from its beginning on.
const FENCE: &str = "fence";
/// A failover's: the site that is lost, if it can be reached nevertheless.
pub(crate) const FENCE_LOST: &str = "fence-lost";
/// Applications write again from its end on.
const OPEN: &str = "open";
/// What a certificate is made of.
const CERTIFIED: [&str; 5] = ["markers", "certificates", "sequences", "counts", "digests"];

/// A step in a report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// `done`, `undone`, `failed`, or `begun` for one that was cut off.
    pub result: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// When it began, in microseconds since 2000-01-01 00:00 UTC; as RFC 3339 in JSON.
    #[serde(serialize_with = "as_time")]
    pub at: i64,
    /// What shows it; the reason if it failed.
    pub evidence: Value,
}

/// One attempt at a step, or at taking it back.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Try {
    /// The step.
    pub step: String,
    /// It was to be taken back.
    pub back: bool,
    /// `done`, `undone`, `failed`, `cut off`, or `begun` for one whose end is not noted and behind which nothing is.
    pub result: &'static str,
    /// When it began, in microseconds since 2000-01-01 00:00 UTC; as RFC 3339 in JSON.
    #[serde(serialize_with = "as_time")]
    pub at: i64,
    /// When it ended, likewise; none if that was not noted.
    #[serde(serialize_with = "as_time_if_any")]
    pub ended: Option<i64>,
    /// What shows it.
    pub evidence: Value,
    /// Why it failed.
    pub error: Option<String>,
    /// What was to be done then.
    pub hint: Option<String>,
}

/// A stretch of time, in microseconds since 2000-01-01 00:00 UTC; as RFC 3339 in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Window {
    /// Its begin.
    #[serde(serialize_with = "as_time")]
    pub begun: i64,
    /// Its end; none while it lasts.
    #[serde(serialize_with = "as_time_if_any")]
    pub ended: Option<i64>,
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
    /// Who began it, and where.
    pub holder: String,
    /// The release of Irongate that began it.
    pub release: String,
    /// From its beginning to its last entry; without an end as long as it is not over. None for a dry run.
    pub time: Option<Window>,
    /// From the closing of one site to the opening of the other.
    pub outage_seconds: Option<f64>,
    /// The same as times: without an end while applications are kept out.
    pub outage: Option<Window>,
    /// Transactions that were committed and are not there; none while that cannot be known.
    pub lost_transactions: Option<u64>,
    /// How that is known, or why it cannot be.
    pub loss: Loss,
    /// What shows that everything has come: markers, positions, sequences, counts, digests.
    pub certificate: Map<String, Value>,
    /// What is to be done now.
    pub next: Vec<Advice>,
    /// Its steps, in the order in which they were begun last.
    pub steps: Vec<StepReport>,
    /// Every attempt at a step, in their order.
    pub tries: Vec<Try>,
}

impl Try {
    /// How long it took, as far as that is known.
    pub fn seconds(&self) -> Option<f64> {
        self.ended.map(|ended| (ended - self.at) as f64 / 1e6)
    }

    /// Whether it has taken a step back.
    fn took_back(&self, step: &str) -> bool {
        self.back && self.step == step && self.result == "undone"
    }

    fn end(&mut self, at: i64, result: &'static str) {
        (self.ended, self.result) = (Some(at), result);
    }
}

impl Window {
    /// Its length, if it has an end.
    pub fn seconds(self) -> Option<f64> {
        self.ended.map(|ended| (ended - self.begun) as f64 / 1e6)
    }
}

/// When each database of a step was closed or opened.
fn moments<'a>(evidence: &'a Value, what: &str) -> impl Iterator<Item = i64> + 'a {
    evidence[what].as_array().into_iter().flatten().filter_map(|one| one["at"].as_i64())
}

/// What a journal tells.
pub fn report(heading: &Heading, entries: &[Entry]) -> Report {
    let tries = tries(entries);
    // What has no journal was a look.
    let mut result = if entries.is_empty() { "checked" } else { "unfinished" };
    let (is_failover, is_reinstate) = (heading.plan == verdict::FAILOVER, heading.plan == verdict::REINSTATE);
    let (mut outage, mut certificate, mut fences) = (None::<Window>, Map::new(), 0);
    if let (true, Some(first)) = (is_failover, entries.first()) {
        // The site was lost before, and nobody knows when.
        outage = Some(Window { begun: first.at, ended: None });
    }
    for entry in entries {
        match &entry.what {
            What::Step { step } if step == FENCE && !is_reinstate => {
                fences += 1;
                outage.get_or_insert(Window { begun: entry.at, ended: None });
            }
            What::Done { step, evidence, .. } => {
                certify(evidence, &mut certificate);
                match &mut outage {
                    // What is looked at before anything is taken keeps nobody from writing. Of a fence that was begun
                    // more than once it is not known what the first time took.
                    Some(outage) if step == FENCE && fences == 1 => {
                        outage.begun = moments(evidence, "closed").min().unwrap_or(outage.begun);
                    }
                    Some(outage) if step == OPEN => {
                        outage.ended = Some(moments(evidence, "opened").max().unwrap_or(entry.at));
                    }
                    _ => {}
                }
            }
            What::Undone { step, .. } if step == FENCE => {
                if let Some(outage) = &mut outage {
                    outage.ended = Some(entry.at);
                }
            }
            What::Ended { outcome: Outcome::Done } => result = "done",
            What::Ended { outcome: Outcome::Aborted } => result = "aborted",
            What::Ended { outcome: Outcome::Superseded } => result = "superseded",
            What::Ended { outcome: Outcome::Overtaken } => result = "overtaken",
            What::Accepted => drop(certificate.insert("loss_accepted".to_owned(), true.into())),
            _ => {}
        }
    }
    if is_failover && (result == "aborted" || tries.iter().any(|attempt| attempt.took_back(FENCE_LOST))) {
        outage = kept_out(&tries);
    }
    let time = entries
        .first()
        .zip(entries.last())
        .map(|(first, last)| Window { begun: first.at, ended: (result != "unfinished").then_some(last.at) });
    let (lost_transactions, loss) = verdict::loss(heading, result, &certificate, &tries);
    Report {
        run: Some(heading.run.clone()),
        plan: heading.plan.clone(),
        result,
        from: heading.from.clone(),
        to: heading.to.clone(),
        databases: heading.databases.clone(),
        holder: heading.holder.clone(),
        release: heading.release.clone(),
        time,
        outage_seconds: outage.and_then(Window::seconds),
        outage,
        lost_transactions,
        loss,
        certificate,
        next: verdict::advice(heading, result, &tries),
        steps: steps(entries, &tries),
        tries,
    }
}

/// While a failover that was taken back had closed the site that writes. That it was not to be reached before is not the
/// run's doing, and when that ended is not known.
fn kept_out(tries: &[Try]) -> Option<Window> {
    let of =
        |back: bool| tries.iter().filter(move |attempt| attempt.step == FENCE_LOST && attempt.back == back);
    let closed = of(false).flat_map(|attempt| {
        let tried = attempt.evidence["tried"].as_array().into_iter().flatten();
        tried
            .filter(|one| one["fenced"] == true)
            .map(|one| one["evidence"]["at"].as_i64().unwrap_or(attempt.at))
    });
    let undone = tries.iter().rev().find(|attempt| attempt.took_back(FENCE_LOST));
    let is_opened = |attempt: &&Try| attempt.evidence["opened"].as_array().is_some_and(|all| !all.is_empty());
    let opened = undone.filter(is_opened);
    // What was cut off may have closed it without a note; that there was something to open shows it.
    let begun = closed.min().or_else(|| opened.and(of(false).next()).map(|attempt| attempt.at))?;
    let ended = match (opened, undone) {
        (Some(opened), _) => moments(&opened.evidence, "opened").max().or(opened.ended),
        // An attempt before that was broken off has opened it.
        (None, Some(undone)) if of(true).count() > 1 => undone.ended,
        // It could not be reached, and is closed still.
        _ => None,
    };
    Some(Window { begun, ended })
}

/// Whether a step is one from whose beginning on there is no way back.
fn is_no_return(heading: &Heading, step: &str) -> bool {
    match Kind::of(&heading.plan) {
        Some(kind) => kind.steps().iter().any(|Step { name, no_return }| *name == step && *no_return),
        None => step == OPEN,
    }
}

/// Every attempt. One that ends without a note was cut off by whatever was begun behind it.
fn tries(entries: &[Entry]) -> Vec<Try> {
    let mut tries: Vec<Try> = Vec::new();
    for entry in entries {
        let last = tries.last_mut().filter(|last| last.ended.is_none());
        match &entry.what {
            What::Step { step } | What::Undo { step } => {
                if let Some(last) = last {
                    last.result = "cut off";
                }
                tries.push(Try {
                    step: step.clone(),
                    back: matches!(entry.what, What::Undo { .. }),
                    result: "begun",
                    at: entry.at,
                    ended: None,
                    evidence: Value::Null,
                    error: None,
                    hint: None,
                });
            }
            What::Done { evidence, .. } => {
                if let Some(last) = last {
                    last.end(entry.at, "done");
                    last.evidence = evidence.clone();
                }
            }
            What::Undone { evidence, .. } => {
                if let Some(last) = last {
                    last.end(entry.at, "undone");
                    last.evidence = evidence.clone();
                }
            }
            What::Failed { error, hint, evidence, .. } => {
                if let Some(last) = last {
                    last.end(entry.at, "failed");
                    (last.error, last.hint) = (Some(error.clone()), hint.clone());
                    last.evidence = evidence.clone();
                }
            }
            What::Begun(_) | What::Ended { .. } | What::Chosen { .. } | What::Accepted => {}
        }
    }
    tries
}

/// What has become of each step.
fn steps(entries: &[Entry], tries: &[Try]) -> Vec<StepReport> {
    let mut steps: Vec<StepReport> = Vec::new();
    for attempt in tries {
        let place = steps.iter().position(|known| known.name == attempt.step);
        // Taken back it keeps its place, and what it took.
        let mut step = match place {
            Some(place) if attempt.back => steps.remove(place),
            _ => StepReport {
                name: attempt.step.clone(),
                result: "begun",
                seconds: 0.0,
                at: attempt.at,
                evidence: Value::Null,
            },
        };
        let is_over = attempt.ended.is_some();
        if is_over {
            step.result = attempt.result;
            step.evidence = attempt.error.clone().map_or_else(|| attempt.evidence.clone(), Value::String);
        }
        match place {
            Some(place) if attempt.back => steps.insert(place, step),
            _ => {
                steps.retain(|known| known.name != attempt.step);
                steps.push(step);
            }
        }
    }
    // The clock of a run may be set while it lasts; what was measured may not.
    for entry in entries {
        if let What::Done { step, seconds, .. } = &entry.what
            && let Some(known) = steps.iter_mut().find(|known| known.name == *step)
        {
            known.seconds = *seconds;
        }
    }
    steps
}

fn certify(evidence: &Value, certificate: &mut Map<String, Value>) {
    for name in CERTIFIED {
        if let Some(found) = evidence.get(name) {
            certificate.insert(name.to_owned(), found.clone());
        }
    }
}

fn as_time<S: Serializer>(at: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Timestamp(*at))
}

fn as_time_if_any<S: Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_time(at, serializer),
        None => serializer.serialize_none(),
    }
}
