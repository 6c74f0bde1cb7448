//! Figures, and how they are shown.

use serde_json::{Value, json};

use crate::Options;
use crate::processes::{self, Used};

/// What the ratio of ours to what we are compared with should be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// None: the figure is only shown.
    Shown,
}

impl Goal {
    /// Whether a ratio is as it should be; `None` without a goal.
    pub(crate) fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(ratio >= least),
            Self::AtMost(most) => Some(ratio <= most),
            Self::Shown => None,
        }
    }

    /// With the verdict, if there is one.
    pub(crate) fn text(self, ratio: f64) -> String {
        let goal = match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::Shown => return "–".to_owned(),
        };
        let verdict = if self.is_met(ratio) == Some(true) { "met" } else { "missed" };
        format!("{goal} {verdict}")
    }
}

/// Figures of one kind of work on one major.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) major: u32,
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    /// Of what we are compared with.
    pub(crate) native: Vec<f64>,
    pub(crate) ours: Vec<f64>,
    pub(crate) goal: Goal,
    /// What we are compared with.
    pub(crate) against: String,
    pub(crate) note: String,
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) commit: String,
    pub(crate) servers: Vec<(u32, String)>,
    pub(crate) lines: Vec<Line>,
    /// The most memory of an Extract and of a Replicat, in MiB.
    peaks: (f64, f64),
    /// The most processes that wanted to run at once beside each other, as the kernel's load average of a minute says.
    pub(crate) load: f64,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let commit = if options.synchronous_commit { "on" } else { "off" };
        Self {
            machine: processes::machine(),
            commit: commit.to_owned(),
            servers: vec![],
            lines: vec![],
            peaks: (0.0, 0.0),
            load: processes::load(),
        }
    }

    pub(crate) fn server(&mut self, major: u32, version: &str) {
        self.servers.push((major, version.to_owned()));
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("{}", line.text());
        self.lines.push(line);
    }

    /// Notes what an Extract and a Replicat have used.
    pub(crate) fn peak(&mut self, extract: Used, replicat: Used) {
        self.peaks = (self.peaks.0.max(extract.memory), self.peaks.1.max(replicat.memory));
    }

    /// Adds the most memory that a process of ours has had since the last call, in whatever work.
    pub(crate) fn memory(&mut self, major: u32) {
        let (extract, replicat) = std::mem::take(&mut self.peaks);
        for (name, peak) in [("Extract", extract), ("Replicat", replicat)] {
            if peak > 0.0 {
                let line =
                    Line::new(major, &format!("most memory of {name}"), "MiB", (vec![128.0], vec![peak]));
                self.add(line.against("the limit").goal(Goal::AtMost(1.0)));
            }
        }
    }

    /// As one JSON document.
    pub(crate) fn document(&self) -> Value {
        let servers: Vec<Value> =
            self.servers.iter().map(|(major, version)| json!({"major": major, "version": version})).collect();
        let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
        json!({
            "machine": self.machine,
            "load_at_start": self.load,
            "target_synchronous_commit": self.commit,
            "servers": servers,
            "figures": lines,
        })
    }

    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{:#}", self.document());
            return;
        }
        println!("machine: {}", self.machine);
        println!("load average at the start: {:.2}", self.load);
        println!("target: synchronous_commit = {}", self.commit);
        for (major, version) in &self.servers {
            println!("PostgreSQL {major}: {version}");
        }
        println!(
            "\n{:<5} {:<52} {:>12} {:>12} {:>7}  goal",
            "PG", "work (median)", "native", "irongate", "ratio"
        );
        self.lines.iter().for_each(|line| println!("{}", line.text()));
    }
}

impl Line {
    /// `native` is whatever is compared with: native replication, unless said otherwise.
    pub(crate) fn new(
        major: u32,
        work: &str,
        unit: &'static str,
        (native, ours): (Vec<f64>, Vec<f64>),
    ) -> Self {
        let (against, note) = ("native".to_owned(), String::new());
        Self { major, work: work.to_owned(), unit, native, ours, goal: Goal::Shown, against, note }
    }

    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }

    pub(crate) fn against(self, against: impl Into<String>) -> Self {
        Self { against: against.into(), ..self }
    }

    pub(crate) fn note(self, note: String) -> Self {
        Self { note, ..self }
    }

    /// The median of the turns' ratios: the two of a turn run within seconds of each other, and the machine's speed
    /// drifts within minutes.
    pub(crate) fn ratio(&self) -> f64 {
        let turns: Vec<f64> =
            self.ours.iter().zip(&self.native).map(|(ours, native)| ours / native).collect();
        median(&turns)
    }

    fn text(&self) -> String {
        let (native, ours) = (median(&self.native), median(&self.ours));
        let work = format!("{}, {}", self.work, self.unit);
        let digits = if ours < 100.0 { 2 } else { 0 };
        let against =
            if self.against == "native" { String::new() } else { format!("  against {}", self.against) };
        let note = if self.note.is_empty() { String::new() } else { format!("  [{}]", self.note) };
        format!(
            "{:<5} {work:<52} {native:>12.digits$} {ours:>12.digits$} {:>7.2}  {}{against}{note}",
            self.major,
            self.ratio(),
            self.goal.text(self.ratio()),
        )
    }

    fn json(&self) -> Value {
        json!({
            "major": self.major, "work": self.work, "unit": self.unit, "note": self.note,
            "goal": self.goal.text(self.ratio()), "met": self.goal.is_met(self.ratio()),
            "against": {"what": self.against, "median": median(&self.native), "runs": self.native},
            "irongate": {"median": median(&self.ours), "runs": self.ours},
            "ratio": self.ratio(),
        })
    }
}
/// The middle value; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The value below which a share of them lies.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
