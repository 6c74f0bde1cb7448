//! A report as one page that needs nothing else: it loads nothing and runs nothing, and can be filed and printed.
//!
//! Whatever comes from outside (evidence, errors, names) goes through the escaping of the templates.

use irongate_trail::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::timeline::{Bar, Row, Span, Timeline, timeline};
use super::verdict::FAILOVER;
use super::{Report, Try, Window};

mod evidence;

use evidence::{evidence, words};

/// Light and dark, wide and narrow, and A4.
const STYLE: &str = include_str!("html/style.css");
/// The page may use its own styles, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// More databases than that are listed apart.
const FEW: usize = 8;

/// A report as an HTML page.
pub fn html(report: &Report) -> String {
    let run = report.run.as_deref().unwrap_or("dry run");
    let chart = timeline(&report.tries, report.outage);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (run) ": " (report.result) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (heading(report, run))
                (cards(report))
                (advice(report))
                (chart_of(&chart, report))
                (certificate(report))
                (steps(report))
                @if report.databases.len() > FEW {
                    section {
                        h2 { "Databases" }
                        ul.names { @for database in &report.databases { li { (database) } } }
                    }
                }
                footer { "Irongate " (report.release) " · " (run) " · all times in UTC" }
            }
        }
    }
    .into_string()
}

fn heading(report: &Report, run: &str) -> Markup {
    let databases = match report.databases.len() {
        0..=FEW => report.databases.join(", "),
        many => format!("{many}, listed at the end"),
    };
    let took = report.time.and_then(Window::seconds);
    html! {
        header {
            h1 { (words(&report.plan)) " from " (report.from) " to " (report.to) }
            p.verdict.(report.result) { strong { (report.result) } " " span { (report.verdict()) } }
            dl.facts {
                div { dt { "Run" } dd { (run) } }
                div { dt { "Plan" } dd { (report.plan) } }
                div { dt { "Sites" } dd { (report.from) " → " (report.to) } }
                div { dt { "Databases" } dd { (databases) } }
                @if let Some(time) = report.time {
                    div { dt { "Begun" } dd { (self::time(time.begun)) } }
                    div { dt { "Ended" } dd { @match time.ended { Some(ended) => (self::time(ended)), None => "not over" } } }
                }
                @if let Some(took) = took { div { dt { "Took" } dd { (length(took)) } } }
                div { dt { "By" } dd { (report.holder) } }
                div { dt { "Release" } dd { "Irongate " (report.release) } }
            }
        }
    }
}

/// The two figures that are asked for first.
fn cards(report: &Report) -> Markup {
    let outage = match report.outage {
        None => ("none".to_owned(), html! { "applications were not kept out" }),
        Some(Window { begun, ended: None }) => ("lasts".to_owned(), html! { "since " (time(begun)) }),
        Some(window @ Window { begun, ended: Some(ended) }) => (
            window.seconds().map_or_else(String::new, length),
            html! { "from " (time(begun)) " to " (time(ended)) },
        ),
    };
    html! {
        section.cards {
            div.card {
                h2 { "Outage" }
                p.figure { (outage.0) }
                @if report.plan == FAILOVER && report.result == "aborted" {
                    p { "From the closing of the old site to its opening: " (outage.1) ". That it was lost before is not in it." }
                } @else if report.plan == FAILOVER {
                    p { "From the begin of the run to the opening: " (outage.1) ". What came before, from the loss of " (report.from) " on, is not in it." }
                } @else {
                    p { "From the closing of one site to the opening of the other: " (outage.1) "." }
                }
            }
            div.card {
                h2 { "Transactions lost" }
                p.figure { (report.lost()) }
                p { (sentence(&report.loss.because)) }
                @if let Some(estimate) = &report.loss.estimate {
                    h3 { "Estimate" }
                    (evidence(estimate))
                }
            }
        }
    }
}

fn advice(report: &Report) -> Markup {
    html! {
        @if !report.next.is_empty() {
            section.next {
                h2 { "What to do next" }
                ol {
                    @for advice in &report.next {
                        li {
                            (sentence(&advice.what))
                            @if let Some(command) = &advice.command {
                                @if let Some(site) = &advice.site { " At site " strong { (site) } ":" }
                                pre { (command) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn chart_of(chart: &Timeline, report: &Report) -> Markup {
    let Some(time) = report.time.filter(|_| !report.tries.is_empty()) else { return html! {} };
    let ends =
        report.tries.iter().map(|attempt| attempt.ended.unwrap_or(attempt.at)).max().unwrap_or(time.begun);
    html! {
        section.chart {
            h2 { "Time line" }
            @for row in &chart.steps { (row_of(row, chart, report, time.begun)) }
            @if !chart.undone.is_empty() {
                h3 { "Taken back" }
                @for row in &chart.undone { (row_of(row, chart, report, time.begun)) }
            }
            div.axis { span { (self::time(time.begun)) } span { (self::time(ends)) } }
            ul.legend {
                @if let Some(window) = report.outage {
                    li {
                        span.key.outage {}
                        "applications kept out"
                        @match window.seconds() {
                            Some(seconds) => { ": " (length(seconds)) }
                            None => { " since " (self::time(window.begun)) }
                        }
                    }
                }
                @for result in ["done", "undone", "failed", "cut off", "begun"] {
                    @if report.tries.iter().any(|attempt| attempt.result == result) {
                        li { span class={ "key " (class(result)) } {} (meaning(result)) }
                    }
                }
                @for wait in &chart.waits {
                    li {
                        span.key.wait {}
                        "nothing was noted for " (length((wait.to - wait.from) as f64 / 1e6))
                        ", until " (self::time(wait.to))
                    }
                }
                @if !chart.cuts.is_empty() { li { span.key.cut { "//" } "drawn shorter than it was" } }
                li { "Short steps are drawn wider than they were: the figures are beside them." }
            }
        }
    }
}

fn row_of(row: &Row, chart: &Timeline, report: &Report, begun: i64) -> Markup {
    let last = row.bars.last().map(|bar| &report.tries[bar.attempt]);
    let tries = match row.bars.len() {
        0 | 1 => String::new(),
        many => format!(", try {many}"),
    };
    html! {
        div.row {
            span.name { (row.name) }
            // In hundredths of whatever width there is, so that nothing is scaled and letters stay letters.
            svg.track role="img" aria-label=(row.name) {
                @if let Some(outage) = chart.outage { (block("outage", outage)) }
                @for wait in &chart.waits { (block("wait", wait.span)) }
                @for bar in &row.bars { (bar_of(bar, chart, &report.tries[bar.attempt])) }
            }
            @if let Some(last) = last {
                span.when {
                    b { (last.seconds().map_or_else(|| "no end".to_owned(), length)) }
                    " at " (since(begun, last.at)) (tries)
                }
            }
        }
    }
}

fn block(class: &str, span: Span) -> Markup {
    html! { rect class=(class) x=(percent(span.left)) width=(percent(span.width)) y="0" height="100%" {} }
}

fn bar_of(bar: &Bar, chart: &Timeline, attempt: &Try) -> Markup {
    let Span { left, width } = bar.span;
    let told = attempt.seconds().map_or_else(|| "no end".to_owned(), length);
    html! {
        rect class={ "bar " (class(attempt.result)) } x=(percent(left)) width=(percent(width)) y="4" height="14" rx="2" {
            title { (attempt.step) ": " (attempt.result) ", " (told) ", " (moment(attempt.at)) }
        }
        @for cut in chart.cuts.iter().filter(|cut| (left..left + width).contains(*cut)) {
            svg.mark x=(percent(*cut)) y="0" overflow="visible" {
                path d="M-5 20 L-1 2 M1 20 L5 2" {}
            }
        }
    }
}

fn certificate(report: &Report) -> Markup {
    html! {
        @if report.certificate.contains_key("certificates") {
            section.certificate {
                h2 { "Certificate" }
                p { "What shows that everything that had been committed at " (report.from) " was at " (report.to) "." }
                (evidence(&Value::Object(report.certificate.clone())))
            }
        }
    }
}

fn steps(report: &Report) -> Markup {
    html! {
        @if !report.steps.is_empty() {
            section.steps {
                h2 { "Steps" }
                table {
                    thead { tr { th { "Step" } th { "Result" } th { "Begun" } th.number { "Seconds" } th { "Evidence" } } }
                    @for step in &report.steps {
                        tbody {
                            @for attempt in tries_of(report, &step.name) { (attempt_of(attempt)) }
                            @if tries_of(report, &step.name).next().is_none() {
                                tr {
                                    td.name { (step.name) }
                                    td { (badge(step.result)) }
                                    td { (time(step.at)) }
                                    td.number { (format!("{:.3}", step.seconds)) }
                                    td { (evidence(&step.evidence)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn tries_of<'r>(report: &'r Report, step: &'r str) -> impl Iterator<Item = &'r Try> {
    report.tries.iter().filter(move |attempt| attempt.step == step)
}

fn attempt_of(attempt: &Try) -> Markup {
    let seconds = attempt.seconds().map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.3}"));
    html! {
        tr {
            td.name { (attempt.step) @if attempt.back { " (back)" } }
            td { (badge(attempt.result)) }
            td { (time(attempt.at)) }
            td.number { (seconds) }
            td {
                @if let Some(error) = &attempt.error { p.error { (evidence(&Value::String(error.clone()))) } }
                @if let Some(hint) = &attempt.hint { p.hint { "Hint: " (hint) } }
                @if attempt.error.is_none() || !attempt.evidence.is_null() { (evidence(&attempt.evidence)) }
            }
        }
    }
}

fn badge(result: &str) -> Markup {
    html! { span class={ "badge " (class(result)) } { (result) } }
}

/// Results are words of ours.
fn class(result: &str) -> &str {
    match result {
        "cut off" => "cut-off",
        known => known,
    }
}

fn meaning(result: &str) -> &str {
    match result {
        "undone" => "taken back",
        "cut off" => "cut off: its end is not known",
        "begun" => "begun: its end was not noted",
        known => known,
    }
}

fn percent(hundredths: f64) -> String {
    format!("{hundredths:.3}%")
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn time(at: i64) -> Markup {
    html! { time { (moment(at)) } }
}

/// A time beside a bar: how long behind the begin, or the time of day where nobody would reckon.
fn since(begun: i64, at: i64) -> String {
    match (at - begun) as f64 / 1e6 {
        seconds if seconds < 3600.0 => format!("+{}", length(seconds)),
        _ => moment(at).chars().skip(11).take(8).collect(),
    }
}

/// A time for people, to the millisecond.
fn moment(at: i64) -> String {
    let text = Timestamp(at - at.rem_euclid(1000)).to_string();
    let text = text.replacen('T', " ", 1);
    let text = text.strip_suffix('Z').unwrap_or(&text);
    match text.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<3}"),
        None if text.contains(':') => format!("{text}.000"),
        None => text.to_owned(),
    }
}

/// A length of time for people.
fn length(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{s:.3} s"),
        s if s < 60.0 => format!("{s:.2} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s if s < 86_400.0 => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s => format!("{:.0} d {:.0} h", (s / 86_400.0).floor(), (s % 86_400.0 / 3600.0).floor()),
    }
}
