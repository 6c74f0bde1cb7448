//! A run's figures as a page with charts that needs nothing beside itself.

use std::path::Path;

use anyhow::Context;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::report::{Goal, Line, Report, median};

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; \
     color: #222; background: #fff } table { border-collapse: collapse; width: 100%; font-size: 14px } \
     th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top } \
     td.n { text-align: right; font-variant-numeric: tabular-nums } .met { color: #17703a } .missed { color: #a3341f } \
     svg { width: 100%; height: auto; font: 12px system-ui, sans-serif }";

/// Height of one bar with its room, width of the names, and of the bars.
const ROW: f64 = 22.0;
const NAMES: f64 = 330.0;
const BARS: f64 = 500.0;
/// Ratios from 1/16 to 16 are drawn; others end at the edge.
const DOUBLINGS: f64 = 4.0;

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(report: &Report, path: &Path) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).context("cannot make the page's directory")?;
    }
    std::fs::write(path, page(report).into_string())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn page(report: &Report) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Irongate beside native logical replication" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Irongate beside native logical replication" }
                p {
                    "Written by " code { "scripts/bench" } ". Both ways run on the same servers, in turn, within one run; a \
                     ratio is the median of the turns' ratios, ours to theirs. Machines differ: compare ratios, not seconds."
                }
                ul {
                    li { "machine: " (report.machine) }
                    li { "load average when the run began: " (format!("{:.2}", report.load)) }
                    li { "synchronous_commit of both appliers: " (report.commit) }
                    @for (major, version) in &report.servers { li { "PostgreSQL " (major) ": " (version) } }
                }
                @for (major, _) in &report.servers {
                    h2 { "PostgreSQL " (major) }
                    (chart(report, *major))
                    (table(report, *major))
                }
            }
        }
    }
}

fn of(report: &Report, major: u32) -> impl Iterator<Item = &Line> {
    report.lines.iter().filter(move |line| line.major == major)
}

fn class(line: &Line) -> &'static str {
    match line.goal.is_met(line.ratio()) {
        Some(true) => "met",
        Some(false) => "missed",
        None => "shown",
    }
}

fn table(report: &Report, major: u32) -> Markup {
    html! {
        table {
            tr { th { "work" } th { "unit" } th { "against" } th { "theirs" } th { "ours" } th { "ratio" } th { "goal" } }
            @for line in of(report, major) {
                tr {
                    td { (line.work) @if !line.note.is_empty() { br; small { (line.note) } } }
                    td { (line.unit) }
                    td { (line.against) }
                    td.n { (number(median(&line.native))) }
                    td.n { (number(median(&line.ours))) }
                    td.n { (format!("{:.2}", line.ratio())) }
                    td class=(class(line)) { (line.goal.text(line.ratio())) }
                }
            }
        }
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Where a ratio stands, from the left edge of the bars.
fn place(ratio: f64) -> f64 {
    let doublings = ratio.max(f64::MIN_POSITIVE).log2().clamp(-DOUBLINGS, DOUBLINGS);
    (doublings + DOUBLINGS) / (2.0 * DOUBLINGS) * BARS
}

/// Bars from 1 to each ratio, on a scale of doublings; a stroke where the goal is.
fn chart(report: &Report, major: u32) -> Markup {
    let lines: Vec<&Line> = of(report, major).collect();
    let height = ROW * (lines.len() as f64 + 1.5);
    let one = NAMES + place(1.0);
    html! {
        svg viewBox=(format!("0 0 {} {height}", NAMES + BARS + 60.0)) role="img"
            aria-label=(format!("ratios of Irongate to native on PostgreSQL {major}")) {
            @for ratio in [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
                @let x = NAMES + place(ratio);
                line x1=(x) x2=(x) y1="0" y2=(height - ROW) stroke=(if ratio == 1.0 { "#555" } else { "#ddd" });
                text x=(x) y=(height - ROW / 2.0) text-anchor="middle" { (ratio) "×" }
            }
            @for (row, line) in lines.iter().enumerate() {
                @let y = row as f64 * ROW;
                @let x = NAMES + place(line.ratio());
                @let colour = match class(line) { "met" => "#3f9c63", "missed" => "#cf6a4f", _ => "#8a93a3" };
                text x=(NAMES - 8.0) y=(y + 15.0) text-anchor="end" { (line.work) }
                rect x=(x.min(one)) y=(y + 4.0) width=((x - one).abs().max(1.0)) height=(ROW - 8.0) fill=(colour) {
                    title { (format!("{:.2}", line.ratio())) }
                }
                @if let Goal::AtLeast(goal) | Goal::AtMost(goal) = line.goal {
                    @let at = NAMES + place(goal);
                    line x1=(at) x2=(at) y1=(y + 1.0) y2=(y + ROW - 1.0) stroke="#222" stroke-width="2";
                }
            }
        }
    }
}
