//! What is served, and what is written about it: the page of metrics is well formed, the reference lists all of it, and
//! alert rules and dashboard ask for nothing that is not there.

#![expect(
    clippy::unwrap_used,
    reason = "what is not as expected here fails the test, and the panic says where"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use irongate_checkpoint::{Counters, Program, State};
use irongate_manager::event::Severity;
use irongate_manager::metrics::{METRICS, MetricKind, render};
use irongate_manager::supervisor::Wish;
use irongate_manager::watch::{
    Alarm, AlarmKind, CertificateView, FlowView, Seen, SlotView, StageView, TrailView,
};
use irongate_manager::{GroupInfo, Info};

/// A compare that found two differences, as it lies in the state directory.
fn compared() -> irongate_manager::compare::LastCompare {
    serde_json::from_value(serde_json::json!({
        "flow": "csp", "time": "2026-01-01T00:00:00Z", "at": 0, "age_seconds": 60.0, "seconds": 1.0, "tables": 2,
        "rows": 9, "differences": 2, "unsettled": 0, "problem": null,
    }))
    .unwrap()
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A site of which everything is known.
fn site() -> Info {
    let group = |name: &str, program| GroupInfo {
        name: name.into(),
        flow: "odd \"flow\"\\\n".into(),
        program,
        state: State::Running,
        lag_bytes: Some(5),
        lag_seconds: Some(0.25),
        position: Some("1:77".into()),
        since: Some("2026-01-01T00:00:00Z".into()),
        doing: "carrying rows".into(),
        error: None,
        hint: None,
        pid: Some(7),
        wish: Wish::Run,
        deaths: 0,
        starts: 1,
        held: None,
        next_attempt: None,
        counters: Counters { transactions: 3, rows_inserted: 4, bytes: 99, ..Counters::default() },
        errors_pending: None,
    };
    let stage = StageView { lag_bytes: Some(10), lag_seconds: Some(1.5) };
    let flow = FlowView {
        name: "csp".into(),
        decoded: stage,
        extract: stage,
        pump: stage,
        feed: stage,
        replicat: stage,
        trail: Some(TrailView {
            directory: "/trail/csp".into(),
            files: 4,
            bytes: 1000,
            free_bytes: Some(1 << 40),
            disk_bytes: Some(1 << 41),
        }),
        slot: Some(SlotView {
            name: "irongate_csp".into(),
            exists: true,
            active: true,
            wal_status: Some("reserved".into()),
            retained_bytes: Some(12),
            safe_bytes: Some(-3),
            lost: None,
        }),
        source_silent: None,
        silent_seconds: None,
        quiet_seconds: None,
        errors_pending: Some(97),
        trouble: None,
        heartbeat: None,
        compare: Some(compared()),
    };
    let certificate = CertificateView {
        file: "/certs/main.crt".into(),
        until: Some("2036-01-01T00:00:00Z".into()),
        seconds_left: Some(1e8),
        trouble: None,
    };
    let alarm = Alarm {
        flow: "csp".into(),
        kind: AlarmKind::SlotSafe,
        severity: Severity::Error,
        since: "2026-01-01T00:00:00Z".into(),
        text: "too much".into(),
    };
    Info {
        site: "main".into(),
        pid: 1,
        since: "2026-01-01T00:00:00Z".into(),
        release: "0.1.0".into(),
        shutting_down: false,
        healthy: false,
        complaints: vec!["too much".into()],
        groups: vec![group("csp-extract", Program::Extract), group("csp-replicat", Program::Replicat)],
        seen: Seen { time: None, flows: vec![flow], certificates: vec![certificate], alarms: vec![alarm] },
        unwritten_events: 0,
        failed_hooks: 2,
    }
}

/// Cuts a sample into name, labels and value, by the grammar of the text format.
fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    let is_name = |text: &str| {
        !text.is_empty()
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(is_name(name), "{line}");
    let (mut labels, mut rest) = (Vec::new(), rest);
    loop {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no value of a label: {line}"));
        assert!(is_name(label), "{line}");
        let (mut value, mut letters) = (String::new(), after.char_indices());
        let end = loop {
            match letters.next().unwrap_or_else(|| panic!("no end of a label: {line}")) {
                (_, '\\') => match letters.next().unwrap().1 {
                    'n' => value.push('\n'),
                    letter @ ('\\' | '"') => value.push(letter),
                    other => panic!("\\{other} in {line}"),
                },
                (at, '"') => break at,
                (_, letter) => value.push(letter),
            }
        };
        labels.push((label.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("no value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap())
}

#[test]
fn the_page_is_well_formed_and_whole() {
    let page = render(&site());
    assert!(page.ends_with('\n'));
    let mut families: BTreeMap<String, u32> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap();
        assert_eq!(help, metric.help);
        let kind = if metric.kind == MetricKind::Counter { "counter" } else { "gauge" };
        assert_eq!(lines.next().unwrap(), format!("# TYPE {name} {kind}"));
        assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (found, labels, value) = sample(line);
            assert_eq!(found, name);
            let names: Vec<_> = labels.iter().map(|(label, _)| label.as_str()).collect();
            assert_eq!(names, metric.labels, "{line}");
            assert!(value.is_finite() && series.insert((found, labels)), "{line}");
            *families.entry(name.to_owned()).or_default() += 1;
        }
    }
    let served: Vec<_> = families.into_keys().collect();
    let mut all: Vec<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    all.sort();
    assert_eq!(served, all);
    let odd = series.iter().any(|(_, labels)| labels.iter().any(|(_, value)| value == "odd \"flow\"\\\n"));
    assert!(odd, "a label is read as it was");
}

#[test]
fn the_reference_lists_every_metric_as_it_is_served() {
    let text = document("metrics.md");
    let listed: Vec<_> = text.lines().filter(|line| line.starts_with("| `irongate_")).collect();
    let rows: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let kind = if metric.kind == MetricKind::Counter { "counter" } else { "gauge" };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
        })
        .collect();
    assert_eq!(listed, rows);
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    words.filter(|word| word.starts_with("irongate_")).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_is_there() {
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    for name in ["alerts.yml", "grafana-dashboard.json"] {
        let asked = names(&document(name));
        assert!(asked.len() > 8, "{name} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&document("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
    }
}
