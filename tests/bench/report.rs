//! Figures, and how they are shown.

use serde_json::{Value, json};

use crate::Options;
use crate::processes;

/// Figures of one kind of work on one major.
#[derive(Debug)]
struct Line {
    major: u32,
    work: String,
    unit: &'static str,
    native: Vec<f64>,
    ours: Vec<f64>,
    /// The ratio is ours to native when more is better, and also when less is: the goal says which.
    goal: &'static str,
    note: String,
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    machine: String,
    commit: String,
    servers: Vec<(u32, String)>,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let commit = if options.synchronous_commit { "on" } else { "off" };
        Self { machine: processes::machine(), commit: commit.to_owned(), servers: vec![], lines: vec![] }
    }

    pub(crate) fn server(&mut self, major: u32, version: &str) {
        self.servers.push((major, version.to_owned()));
    }

    /// Adds a line. `native` is whatever is compared with.
    pub(crate) fn add(
        &mut self,
        major: u32,
        work: &str,
        unit: &'static str,
        (native, ours): (Vec<f64>, Vec<f64>),
        goal: &'static str,
        note: String,
    ) {
        let line = Line { major, work: work.to_owned(), unit, native, ours, goal, note };
        eprintln!("{}", line.text());
        self.lines.push(line);
    }

    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let servers: Vec<Value> = self
                .servers
                .iter()
                .map(|(major, version)| json!({"major": major, "version": version}))
                .collect();
            let lines: Vec<Value> = self.lines.iter().map(Line::json).collect();
            let document = json!({
                "machine": self.machine,
                "target_synchronous_commit": self.commit,
                "servers": servers,
                "figures": lines,
            });
            println!("{document:#}");
            return;
        }
        println!("machine: {}", self.machine);
        println!("target: synchronous_commit = {}", self.commit);
        for (major, version) in &self.servers {
            println!("PostgreSQL {major}: {version}");
        }
        println!(
            "\n{:<5} {:<46} {:>12} {:>12} {:>7}  goal",
            "PG", "work (median)", "native", "irongate", "ratio"
        );
        self.lines.iter().for_each(|line| println!("{}", line.text()));
    }
}

impl Line {
    /// The median of the turns' ratios: the two of a turn run within seconds of each other, and the machine's speed
    /// drifts within minutes.
    fn ratio(&self) -> f64 {
        let turns: Vec<f64> =
            self.ours.iter().zip(&self.native).map(|(ours, native)| ours / native).collect();
        median(&turns)
    }

    fn text(&self) -> String {
        let (native, ours) = (median(&self.native), median(&self.ours));
        let work = format!("{}, {}", self.work, self.unit);
        let digits = if ours < 100.0 { 2 } else { 0 };
        format!(
            "{:<5} {:<46} {native:>12.digits$} {ours:>12.digits$} {:>7.2}  {}{}",
            self.major,
            work,
            self.ratio(),
            self.goal,
            if self.note.is_empty() { String::new() } else { format!("  [{}]", self.note) }
        )
    }

    fn json(&self) -> Value {
        json!({
            "major": self.major, "work": self.work, "unit": self.unit, "goal": self.goal, "note": self.note,
            "native": {"median": median(&self.native), "runs": self.native},
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
