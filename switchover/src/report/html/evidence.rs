//! Evidence for people: names and values, nested as they were written down, whatever they are.

use maud::{Markup, html};
use serde_json::{Map, Value};

/// Deeper than that it is shown as JSON.
const DEEP: usize = 6;
/// Longer texts are cut: the journal has them whole.
const LONG: usize = 4000;
/// Longer lists can be folded.
const MANY: usize = 20;

/// What tells one of a list from the next.
const NAMES: [&str; 6] = ["database", "flow", "site", "group", "name", "asked"];

/// A piece of evidence.
pub(super) fn evidence(value: &Value) -> Markup {
    nested(value, 0)
}

fn nested(value: &Value, depth: usize) -> Markup {
    match value {
        Value::Null => html! { span.none { "–" } },
        Value::Bool(value) => html! { (if *value { "yes" } else { "no" }) },
        Value::Number(number) => html! { (figure(number)) },
        Value::String(string) => text(string),
        Value::Array(list) if list.is_empty() => html! { span.none { "none" } },
        Value::Object(object) if object.is_empty() => html! { span.none { "nothing" } },
        _ if depth >= DEEP => text(&value.to_string()),
        Value::Array(list) => items(list, depth),
        Value::Object(object) => pairs(object, depth),
    }
}

fn pairs(object: &Map<String, Value>, depth: usize) -> Markup {
    html! {
        dl.pairs {
            @for (name, value) in ordered(object) {
                // What holds more goes below its name: beside it every level would be narrower than the last.
                div.deep[holds_more(value)] { dt { (words(name)) } dd { (nested(value, depth + 1)) } }
            }
        }
    }
}

/// What it is about comes first.
fn ordered(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<_> = object.iter().collect();
    pairs.sort_by_key(|(name, _)| !NAMES.contains(&name.as_str()));
    pairs
}

fn holds_more(value: &Value) -> bool {
    match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(list) => list.iter().any(holds_more) || list.len() > 1,
        _ => false,
    }
}

fn items(list: &[Value], depth: usize) -> Markup {
    let item = |item: &Value| match item {
        Value::Object(object) if !object.values().any(holds_more) => line(object, depth + 1),
        item => nested(item, depth + 1),
    };
    let all = html! { ul.items { @for value in list { li { (item(value)) } } } };
    match list {
        [one] => nested(one, depth + 1),
        _ if list.len() > MANY => html! { details open { summary { (list.len()) " of them" } (all) } },
        _ => all,
    }
}

/// One of many, in a line.
fn line(object: &Map<String, Value>, depth: usize) -> Markup {
    html! {
        dl.line {
            @for (name, value) in ordered(object) { div { dt { (words(name)) } " " dd { (nested(value, depth + 1)) } } }
        }
    }
}

fn text(text: &str) -> Markup {
    match text.char_indices().nth(LONG) {
        None => html! { (text) },
        Some((end, _)) => html! {
            (text[..end]) "… "
            span.none { "(" (text[end..].chars().count()) " more characters are in the journal)" }
        },
    }
}

/// Seconds and the like to the thousandth.
fn figure(number: &serde_json::Number) -> String {
    match (number.is_f64(), number.as_f64()) {
        (true, Some(value)) if value.abs() >= 0.001 && value.abs() < 1e9 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => number.to_string(),
    }
}

/// A name of the journal as it is said.
pub(super) fn words(name: &str) -> String {
    let name = name.replace(['_', '-'], " ").replace("lsn", "LSN");
    let mut letters = name.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}
