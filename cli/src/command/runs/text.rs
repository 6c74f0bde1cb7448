//! A run as lines of text, for terminals of any width.

use irongate_switchover::report::{Report, StepReport, Try, Window};
use irongate_trail::Timestamp;
use serde_json::Value;

use crate::output;

/// From that width on the evidence has a column of its own.
const WIDE: usize = 110;
/// Where the values of the head begin.
const HEAD: usize = 13;
/// More of one piece of evidence is for `--json`.
const MUCH: usize = 600;
/// Nothing is made narrower than that.
const NARROW: usize = 20;

/// The run. The second line begins with what has come of it.
pub(super) fn lines(report: &Report, width: usize) -> Vec<String> {
    let Report { plan, from, to, result, .. } = report;
    let run = report.run.as_deref().unwrap_or("dry run");
    let mut lines = vec![format!("{run}: {plan} from {from} to {to}")];
    let mut head = |name: &str, text: &str| hang(&format!("  {name}"), HEAD, text, width, &mut lines);
    head("result", &format!("{result}: {}", report.verdict()));
    head("databases", &report.databases.join(", "));
    if let Some(Window { begun, ended }) = report.time {
        let (holder, release) = (&report.holder, &report.release);
        head("begun", &format!("{} by {holder}, Irongate {release}", moment(begun)));
        head("ended", &ended.map_or_else(|| "not yet".to_owned(), moment));
        head("outage", &outage(report));
        head("lost", &format!("{}: {}", report.lost(), report.loss.because));
        if let Some(estimate) = &report.loss.estimate {
            head("estimate", &flat(estimate));
        }
    }
    for advice in &report.next {
        let mut text = advice.what.clone();
        if let Some(command) = &advice.command {
            text += &format!(": {command}");
        }
        if let Some(site) = &advice.site {
            text += &format!(" (at site \"{site}\")");
        }
        head("next", &text);
    }
    lines.push(String::new());
    steps(report, width, &mut lines);
    lines
}

fn outage(report: &Report) -> String {
    match report.outage {
        None => "none".to_owned(),
        Some(Window { begun, ended: None }) => format!("since {}", moment(begun)),
        Some(window @ Window { begun, ended: Some(ended) }) => {
            let seconds = window.seconds().unwrap_or_default();
            format!("{seconds:.2} s, from {} to {}", moment(begun), moment(ended))
        }
    }
}

fn steps(report: &Report, width: usize, lines: &mut Vec<String>) {
    let longest = report.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
    let name_width = longest.max(4) + 7;
    let line = |name: &str, result: &str, begun: &str, seconds: &str| {
        format!("{name:<name_width$}  {result:<7}  {begun:<20}  {seconds:>8}")
    };
    let heading = line("STEP", "RESULT", "BEGUN", "SECONDS");
    let (column, is_wide) = (heading.chars().count() + 2, width >= WIDE);
    lines.push(if is_wide { format!("{heading}  EVIDENCE") } else { heading });
    let mut show = |name: &str, result: &str, at: i64, seconds: Option<f64>, told: Vec<String>| {
        let begun = output::short_time(Timestamp(at));
        let seconds = seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"));
        let mut start = line(name, result, &begun, &seconds);
        let column = if is_wide { column } else { 4 };
        let mut told = told.into_iter();
        if is_wide {
            hang(&start, column, &told.next().unwrap_or_default(), width, lines);
        } else {
            start.truncate(start.trim_end().len());
            lines.push(start);
        }
        for text in told {
            hang("", column, &text, width, lines);
        }
    };
    for StepReport { name, result, seconds, at, evidence } in &report.steps {
        let mut is_told = false;
        for attempt in report.tries.iter().filter(|attempt| attempt.step == *name) {
            let name = if attempt.back { format!("{name} (back)") } else { name.clone() };
            show(&name, attempt.result, attempt.at, attempt.seconds(), told(attempt));
            is_told = true;
        }
        if !is_told {
            show(name, result, *at, Some(*seconds), vec![flat(evidence)]);
        }
    }
}

fn told(attempt: &Try) -> Vec<String> {
    let mut told: Vec<String> = attempt.error.iter().cloned().collect();
    told.extend(attempt.hint.iter().map(|hint| format!("hint: {hint}")));
    if attempt.error.is_none() && !attempt.evidence.is_null() {
        told.push(flat(&attempt.evidence));
    }
    told
}

/// A start, and a text from a column on, over as many lines as it needs.
fn hang(start: &str, column: usize, text: &str, width: usize, lines: &mut Vec<String>) {
    let room = width.saturating_sub(column).max(NARROW);
    for (n, part) in wrap(text, room).into_iter().enumerate() {
        let start = if n == 0 { start } else { "" };
        lines.push(format!("{start:<column$}{part}").trim_end().to_owned());
    }
}

/// Cuts at blanks, and within words that are too long; at least one line.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
    for word in text.split_whitespace() {
        // What a terminal would obey is not for it.
        let mut word: Vec<char> = word.chars().filter(|letter| !letter.is_control()).collect();
        if length > 0 && length + 1 + word.len() > room {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while word.len() > room {
            lines.push(word.drain(..room).collect());
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        length += word.len();
        line.extend(word);
    }
    if length > 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A piece of evidence in one line.
fn flat(evidence: &Value) -> String {
    let mut text = String::new();
    write(evidence, false, &mut text);
    if let Some((end, _)) = text.char_indices().nth(MUCH) {
        text.truncate(end);
        text += "… (--json shows all)";
    }
    text
}

fn write(value: &Value, is_inner: bool, text: &mut String) {
    // It is cut anyway.
    if text.len() > MUCH * 4 {
        return;
    }
    let (before, after) = if is_inner { ("(", ")") } else { ("", "") };
    match value {
        Value::Null => text.push('-'),
        Value::String(string) => text.push_str(string),
        Value::Object(object) => {
            text.push_str(before);
            for (n, (name, value)) in object.iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                text.push_str(&name.replace('_', " "));
                text.push_str(": ");
                write(value, true, text);
            }
            text.push_str(after);
        }
        Value::Array(list) if list.is_empty() => text.push_str("none"),
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                write(value, true, text);
            }
        }
        Value::Number(number) => match number.as_f64() {
            Some(value) if number.is_f64() => text.push_str(&format!("{value:.3}")),
            _ => text.push_str(&number.to_string()),
        },
        Value::Bool(value) => text.push_str(if *value { "yes" } else { "no" }),
    }
}

fn moment(at: i64) -> String {
    output::short_time(Timestamp(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_at_blanks_and_long_words_anywhere() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("a\u{1b}[31mb", 20), ["a[31mb"]);
        let mut lines = Vec::new();
        hang("  name", 8, "a b c d", 10, &mut lines);
        assert_eq!(lines, ["  name  a b c d"], "nothing is made narrower than it can be read");
    }

    #[test]
    fn evidence_is_one_line_whatever_it_is() {
        let evidence =
            serde_json::json!({ "closed": [{ "database": "a.main", "n": 1, "seconds": 0.12345 }], "x": [] });
        assert_eq!(flat(&evidence), "closed: (database: a.main, n: 1, seconds: 0.123), x: none");
        let long = serde_json::json!(vec!["x".repeat(100); 1000]);
        assert!(flat(&long).chars().count() < MUCH + 30);
        assert_eq!(flat(&Value::Null), "-");
    }
}
