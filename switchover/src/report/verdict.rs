//! What a run comes to, in words: what is lost and how that is known, and what is to be done now.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Report, Try, Window, is_no_return};
use crate::journal::Heading;

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
    let known = |because: &str| (Some(0), Loss { because: because.to_owned(), estimate: None });
    let unknown = |because: String| (None, Loss { because, estimate: None });
    let (from, to) = (&heading.from, &heading.to);
    if heading.plan == FAILOVER {
        let estimate = tries.iter().rev().find_map(|attempt| estimate(&attempt.evidence));
        let because = format!(
            "site \"{from}\" was lost, and what it had committed and never sent can be read there only: once it can be \
             read again, irongate salvage {from} lists exactly what is missing"
        );
        return (None, Loss { because, estimate });
    }
    match result {
        "checked" => unknown("nothing was done".to_owned()),
        "aborted" => known("everything was taken back, and nothing was opened"),
        "done" if certificate.contains_key("certificates") => known(&format!(
            "the marker that was written behind the fence of \"{from}\" has been applied at \"{to}\", and nothing came \
             behind it"
        )),
        "done" if heading.plan == REINSTATE => {
            unknown(format!("what \"{from}\" had committed alone was given up, salvaged or not"))
        }
        "done" => unknown("this plan does not drain, and so has no marker that would prove it".to_owned()),
        _ => unknown("the run is not over: what came is looked into before it ends".to_owned()),
    }
}

/// What has arrived of each database, and what may have been lost behind it.
fn estimate(evidence: &Value) -> Option<Value> {
    let told = |database: &Value| {
        let mut told = database.get("arrived")?.as_object()?.clone();
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
            if goes_back || !tries.iter().any(|attempt| is_no_return(heading, &attempt.step)) {
                let what = if goes_back { "take back the rest of it" } else { "or take it back" };
                advice.push(at(to, what, format!("{words} --abort {run}")));
            }
            advice
        }
        ("done", REINSTATE) => {
            vec![at(from, "when it is time to return", "irongate switchback".to_owned())]
        }
        ("done", FAILOVER) => vec![
            at(
                to,
                "when the lost site can be read again, list what it never sent",
                format!("irongate salvage {from}"),
            ),
            at(to, "then make it the standby", format!("irongate reinstate {from}")),
        ],
        _ => Vec::new(),
    }
}

/// The command of a plan, without what is to become of it.
fn command(heading: &Heading) -> String {
    let Heading { plan, from, to, .. } = heading;
    match plan.as_str() {
        "switchover" | FAILOVER => format!("irongate {plan} --to {to}"),
        REINSTATE => format!("irongate reinstate {from}"),
        _ => format!("irongate {plan}"),
    }
}

impl Report {
    /// How many transactions were lost, in words.
    pub fn lost(&self) -> String {
        match self.lost_transactions {
            Some(lost) => lost.to_string(),
            None if self.result == "unfinished" && self.plan != FAILOVER => "not known yet".to_owned(),
            None => "cannot be known".to_owned(),
        }
    }

    /// What has come of the run, in a sentence.
    pub fn verdict(&self) -> String {
        let Self { plan, from, to, .. } = self;
        match (self.result, plan.as_str()) {
            ("done", "switchover" | "switchback" | FAILOVER) => {
                format!("site \"{to}\" writes, and no longer \"{from}\"")
            }
            ("done", REINSTATE) => format!("site \"{from}\" is a standby again"),
            ("done", "drill") => format!("site \"{to}\" could write, and everything was put back"),
            ("done", _) => "every step is done".to_owned(),
            ("aborted", _) => "every step that was begun was taken back".to_owned(),
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
