//! What a run comes to, in words: what is lost and how that is known, and what is to be done now.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Report, Try, Window, is_no_return};
use crate::journal::Heading;
use crate::plan::{LEFT, UNOPENED};

/// The plan for a site that is lost.
pub(super) const FAILOVER: &str = "failover";
/// The plan for a site that was lost and is back.
pub(super) const REINSTATE: &str = "reinstate";

/// How it is known what was lost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Loss {
    /// A sentence.
    pub because: String,
    /// What the plan has estimated, if it cannot be known.
    pub estimate: Option<Value>,
    /// What was salvaged before, and signed for.
    pub salvaged: Option<Value>,
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Advice {
    /// What for.
    pub what: String,
    /// What is to be typed, where.
    pub command: Option<String>,
    /// The site to type it at.
    pub site: Option<String>,
}

/// Transactions lost, and how that is known.
pub(super) fn loss(
    heading: &Heading,
    result: &str,
    certificate: &Map<String, Value>,
    tries: &[Try],
) -> (Option<u64>, Loss) {
    let plain = |because: String| Loss { because, estimate: None, salvaged: None };
    let known = |because: &str| (Some(0), plain(because.to_owned()));
    let unknown = |because: String| (None, plain(because));
    let (from, to) = (&heading.from, &heading.to);
    if heading.plan == FAILOVER && result == "aborted" {
        return known(&format!(
            "everything was taken back, and nothing was opened: what site \"{from}\" has committed was not given up"
        ));
    }
    if heading.plan == FAILOVER {
        let estimate = tries.iter().rev().find_map(|attempt| estimate(&attempt.evidence));
        let because = format!(
            "site \"{from}\" was lost, and what it had committed and never sent can be read there only: once it can be \
             read again, irongate salvage {from} lists exactly what is missing"
        );
        return (None, Loss { because, estimate, salvaged: None });
    }
    match result {
        "checked" => unknown("nothing was done".to_owned()),
        "superseded" => unknown(
            "a site was lost in the middle of it: the failover that goes on from it tells of that".to_owned(),
        ),
        "overtaken" => {
            unknown("others have changed the roles of the sites since: their runs tell of that".to_owned())
        }
        "aborted" => known("everything was taken back, and nothing was opened"),
        "done" if certificate.contains_key("certificates") => known(&format!(
            "the marker that was written behind the fence of \"{from}\" has been applied at \"{to}\", and nothing came \
             behind it"
        )),
        "done" if heading.plan == REINSTATE => (None, given_up(heading, tries)),
        "done" => unknown("this plan does not drain, and so has no marker that would prove it".to_owned()),
        _ => unknown("the run is not over: what came is looked into before it ends".to_owned()),
    }
}

/// What has become of the transactions that the reinstated site had alone, as the checks have found it.
fn given_up(heading: &Heading, tries: &[Try]) -> Loss {
    let from = &heading.from;
    let checked = tries.iter().rev().find_map(|attempt| attempt.evidence.get("salvaged")?.as_array());
    let salvaged = checked.filter(|salvaged| !salvaged.is_empty());
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or("unknown").to_owned();
    let told = |one: &Value| {
        let (run, by, at) = (text(one, "run"), text(one, "by"), text(one, "at"));
        let count = match one["transactions"].as_u64() {
            Some(1) => "1 transaction".to_owned(),
            count => format!("{} transactions", count.unwrap_or(0)),
        };
        let more = if one["incomplete"] == true { ", and maybe more that cannot be known" } else { "" };
        format!("{count} by salvage \"{run}\", signed off by {by}, carried out {at}{more}")
    };
    let because = match salvaged {
        Some(salvaged) => {
            let all: Vec<String> = salvaged.iter().map(told).collect();
            let is_partly = heading.accept_loss && salvaged.len() < heading.databases.len();
            let rest = if is_partly { "; what was not salvaged was given up, as was accepted" } else { "" };
            format!("what \"{from}\" had committed alone was decided on: {}{rest}", all.join("; "))
        }
        None if heading.accept_loss => {
            format!("what \"{from}\" had committed alone was given up, as was accepted")
        }
        None => {
            format!("what \"{from}\" had committed alone was salvaged before; its journal does not say more")
        }
    };
    Loss { because, estimate: None, salvaged: salvaged.map(|all| Value::Array(all.clone())) }
}

/// What has arrived of each database, and what may have been lost behind it.
fn estimate(evidence: &Value) -> Option<Value> {
    /// What earlier journals call it, and what it is: beyond what went before, the load may have grown.
    const RENAMED: (&str, &str) = ("estimated_lost_transactions_at_most", "estimated_lost_transactions");
    let told = |database: &Value| {
        let mut told = database.get("arrived")?.as_object()?.clone();
        if let Some(lost) = told.remove(RENAMED.0) {
            told.insert(RENAMED.1.to_owned(), lost);
        }
        told.insert("database".to_owned(), database.get("database")?.clone());
        Some(Value::Object(told))
    };
    let told: Vec<Value> = evidence.get("databases")?.as_array()?.iter().filter_map(told).collect();
    (!told.is_empty()).then_some(Value::Array(told))
}

/// What is to be done now.
pub(super) fn advice(heading: &Heading, result: &str, tries: &[Try]) -> Vec<Advice> {
    let Heading { plan, from, to, run, .. } = heading;
    let at = |site: &str, what: &str, command: String| Advice {
        what: what.to_owned(),
        command: Some(command),
        site: Some(site.to_owned()),
    };
    match (result, plan.as_str()) {
        ("unfinished", _) => {
            let last = tries.last();
            let mut advice = Vec::new();
            if let Some(hint) = last.and_then(|last| last.hint.clone()) {
                advice.push(Advice { what: hint, command: None, site: None });
            }
            let words = command(heading);
            let goes_back = tries.iter().any(|attempt| attempt.back);
            if !goes_back {
                advice.push(at(to, "go on with it", format!("{words} --resume {run}")));
            }
            let is_behind =
                |attempt: &Try| is_no_return(heading, &attempt.step) && attempt.evidence[UNOPENED] != true;
            if goes_back || !tries.iter().any(is_behind) {
                let what = if goes_back { "take back the rest of it" } else { "or take it back" };
                advice.push(at(to, what, format!("{words} --abort {run}")));
            }
            advice
        }
        ("aborted", _) => {
            let left = tries.iter().rev().find_map(|attempt| attempt.evidence.get("names"));
            let astray = left.and_then(|left| left["astray"].as_array()).filter(|astray| !astray.is_empty());
            let Some(astray) = astray else { return Vec::new() };
            let live = left.and_then(|left| left["site"].as_str()).unwrap_or(from);
            let said: Vec<&str> = astray.iter().filter_map(Value::as_str).collect();
            let what = format!(
                "names do not lead to the site that writes, which this run did not change: {}",
                said.join("; ")
            );
            vec![at(live, &what, format!("irongate name point --to {live}"))]
        }
        ("done", REINSTATE) => {
            // Whichever site is the one of normal mode: this leads there, or is not needed.
            vec![at(from, "when it is time to return", format!("irongate switchover --to {from}"))]
        }
        ("done", FAILOVER) => vec![
            // What it never sent lies in its own trail and log.
            at(
                from,
                "when the lost site can be read again, list there what it never sent",
                format!("irongate salvage {from}"),
            ),
            at(to, "then make it the standby", format!("irongate reinstate {from}")),
        ],
        _ => Vec::new(),
    }
}

/// The command of a plan, without what is to become of it.
pub(crate) fn command(heading: &Heading) -> String {
    let Heading { plan, from, to, .. } = heading;
    match plan.as_str() {
        "switchover" | FAILOVER => format!("irongate {plan} --to {to}"),
        REINSTATE => format!("irongate reinstate {from}"),
        "drill" => format!("irongate switchover --to {to} --drill"),
        _ => format!("irongate {plan}"),
    }
}

impl Report {
    /// What could not be done or taken back at a run's end, and what helps.
    pub(crate) fn left(&self) -> Option<(String, String)> {
        let mut all: Vec<[&str; 2]> = Vec::new();
        for left in self.tries.iter().filter_map(|attempt| attempt.evidence.get(LEFT)) {
            let told = ["what", "remedy"].map(|key| left[key].as_str().unwrap_or_default());
            if !all.contains(&told) {
                all.push(told);
            }
        }
        let joined = |place: usize| all.iter().map(|told| told[place]).collect::<Vec<_>>().join("; ");
        (!all.is_empty()).then(|| (joined(0), joined(1)))
    }

    /// How many transactions were lost, in words.
    pub fn lost(&self) -> String {
        match self.lost_transactions {
            Some(lost) => lost.to_string(),
            None if self.result == "unfinished" && self.plan != FAILOVER => "not known yet".to_owned(),
            None if self.loss.salvaged.is_some() => "as was signed for".to_owned(),
            None => "cannot be known".to_owned(),
        }
    }

    /// What has come of the run, in a sentence.
    pub fn verdict(&self) -> String {
        let Self { plan, from, to, .. } = self;
        match (self.result, plan.as_str()) {
            ("done", "switchover" | "switchback" | FAILOVER) => match self.left() {
                None => format!("site \"{to}\" writes, and no longer \"{from}\""),
                Some((what, remedy)) => format!("site \"{to}\" writes, but {what} ({remedy})"),
            },
            ("done", REINSTATE) => {
                let repaired = self.steps.iter().find_map(|step| step.evidence["righted"].as_array());
                let how = repaired.map(|all| {
                    let rows: u64 = all.iter().filter_map(|one| one["rows"].as_u64()).sum();
                    format!(", by repair: {rows} rows were put right")
                });
                format!("site \"{from}\" is a standby again{}", how.unwrap_or_default())
            }
            ("done", "drill") => format!("site \"{to}\" could write, and everything was put back"),
            ("done", _) => "every step is done".to_owned(),
            ("aborted", _) => match self.left() {
                None => "every step that was begun was taken back".to_owned(),
                Some((what, remedy)) => format!("what was begun was taken back, but {what} ({remedy})"),
            },
            ("overtaken", _) => {
                "others have changed the roles of the sites since it was cut off: nothing more was done of it"
                    .to_owned()
            }
            ("superseded", _) => {
                "a site was lost in the middle of it, and a failover goes on from it".to_owned()
            }
            ("checked", _) => "nothing stands against it, and nothing was changed".to_owned(),
            _ => self.standing(),
        }
    }

    /// Where an unfinished run stands.
    fn standing(&self) -> String {
        let Some(last) = self.tries.last() else { return "nothing was begun yet".to_owned() };
        let step = &last.step;
        let mut text = match (last.result, last.back) {
            ("done", _) => format!("step \"{step}\" is done, and the next one was not begun yet"),
            ("undone", _) => format!("step \"{step}\" was taken back, and what came before it was not yet"),
            ("failed", false) => format!("step \"{step}\" has failed"),
            ("failed", true) => format!("step \"{step}\" could not be taken back"),
            (_, false) => format!("step \"{step}\" is being done, or was cut off"),
            (_, true) => format!("step \"{step}\" is being taken back, or that was cut off"),
        };
        if let Some(error) = &last.error {
            text = format!("{text}: {error}");
        }
        if matches!(self.outage, Some(Window { ended: None, .. })) {
            text += "; applications are kept out";
        }
        text
    }
}
