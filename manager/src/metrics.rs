//! What is served at `/metrics`, in Prometheus' text format (version 0.0.4).
//!
//! Every metric stands in [`METRICS`] with its kind, its labels and its meaning; `docs/metrics.md` lists the same, which
//! a test compares. Units are seconds and bytes. A value that is not known is not served.

use std::fmt::Write;

use irongate_checkpoint::State;

use crate::event::Severity;
use crate::info::{GroupInfo, Info};
use crate::supervisor::Wish;
use crate::watch::FlowView;

/// Whether a metric goes up only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Up and down.
    Gauge,
    /// Up, and back to zero when its process starts again.
    Counter,
}

/// A metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it goes up only.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, help }
}

const GROUP: &[&str] = &["site", "flow", "group", "program"];
const FLOW: &[&str] = &["site", "flow"];
const STAGE: &[&str] = &["site", "flow", "stage"];
const SLOT: &[&str] = &["site", "flow", "slot"];
const CERTIFICATE: &[&str] = &["site", "certificate"];

/// All metrics, in the order in which they are served.
pub const METRICS: &[Metric] = &[
    gauge("irongate_manager_info", &["site", "release"], "Always 1; says which release manages the site."),
    gauge(
        "irongate_healthy",
        &["site"],
        "1 if everything that should run runs, no alarm is an error and the manager can write what it must; else 0.",
    ),
    gauge("irongate_alarms", &["site", "severity"], "Alarms that are raised at the moment."),
    counter(
        "irongate_manager_unwritten_events_total",
        &["site"],
        "Events that could not be written to the event log.",
    ),
    counter("irongate_manager_failed_hooks_total", &["site"], "Runs of the notify hook that failed."),
    gauge(
        "irongate_group_state",
        &["site", "flow", "group", "program", "state"],
        "1 for the state that the group is in, 0 for the others: STARTING, RUNNING, STOPPED, ABENDED.",
    ),
    gauge("irongate_group_desired", GROUP, "1 if the group should run, 0 if it should be stopped."),
    gauge(
        "irongate_group_held",
        GROUP,
        "1 while the manager keeps the group from running, as for a full disk; else 0.",
    ),
    gauge("irongate_group_deaths", GROUP, "How often in a row the group's process died."),
    counter("irongate_group_starts_total", GROUP, "Processes that the manager has started for the group."),
    gauge("irongate_group_lag_bytes", GROUP, "Bytes that the group's process says it has still to go."),
    gauge("irongate_group_lag_seconds", GROUP, "Age of what the group's process says it does now."),
    counter(
        "irongate_group_transactions_total",
        GROUP,
        "Source transactions since the group's process started.",
    ),
    counter(
        "irongate_group_rows_total",
        &["site", "flow", "group", "program", "operation"],
        "Rows inserted, updated and deleted since the group's process started.",
    ),
    counter(
        "irongate_group_errors_total",
        GROUP,
        "Changes that went to the error queue since the group's process started.",
    ),
    counter(
        "irongate_group_conflicts_total",
        GROUP,
        "Changes that were in conflict with what was at the target since the group's process started.",
    ),
    counter(
        "irongate_group_trail_bytes_total",
        GROUP,
        "Bytes of the trail written or read since the group's process started.",
    ),
    gauge(
        "irongate_flow_lag_bytes",
        STAGE,
        "Bytes of the source's log between a stage and the one before it, measured by the manager.",
    ),
    gauge(
        "irongate_flow_lag_seconds",
        STAGE,
        "How long the oldest of what is still to go has been waiting at a stage, measured by the manager.",
    ),
    gauge(
        "irongate_flow_errors_pending",
        FLOW,
        "Changes that wait in the flow's error queue, counted up to 10000; served where its Replicat runs.",
    ),
    gauge("irongate_source_up", FLOW, "1 if the source answered at the last look, else 0."),
    gauge("irongate_slot_active", SLOT, "1 if somebody streams from the slot, else 0."),
    gauge("irongate_slot_lost", SLOT, "1 if nothing can be read from the slot any more, else 0."),
    gauge("irongate_slot_retained_bytes", SLOT, "Log that the slot keeps at the source."),
    gauge(
        "irongate_slot_safe_bytes",
        SLOT,
        "Log that may still be written before the slot is lost; not served where the server has no limit.",
    ),
    gauge(
        "irongate_flow_compare_age_seconds",
        FLOW,
        "How long ago the last compare of the whole flow began.",
    ),
    gauge("irongate_flow_compare_seconds", FLOW, "How long the last compare of the whole flow took."),
    gauge(
        "irongate_flow_compare_rows",
        FLOW,
        "Rows of the source that the last compare of the whole flow read.",
    ),
    gauge(
        "irongate_flow_compare_differences",
        FLOW,
        "Confirmed differences that the last compare of the whole flow found.",
    ),
    gauge(
        "irongate_flow_compare_complete",
        FLOW,
        "1 if the last compare of the whole flow looked at every table and settled every row, else 0.",
    ),
    gauge("irongate_trail_bytes", FLOW, "Length of the trail's files at this site."),
    gauge("irongate_trail_files", FLOW, "Files in the trail's directory at this site."),
    gauge("irongate_trail_disk_free_bytes", FLOW, "Free bytes of the trail's disk."),
    gauge("irongate_trail_disk_bytes", FLOW, "Size of the trail's disk."),
    gauge(
        "irongate_certificate_expiry_seconds",
        CERTIFICATE,
        "What is left of a certificate's time; less than nothing behind its end.",
    ),
];

/// A page in the making: samples by metric.
struct Page {
    samples: Vec<String>,
}

impl Page {
    fn add(&mut self, name: &str, labels: &[&str], value: f64) {
        let Some(place) = METRICS.iter().position(|metric| metric.name == name) else { return };
        let Some(lines) = self.samples.get_mut(place) else { return };
        lines.push_str(name);
        for (number, (label, text)) in METRICS[place].labels.iter().zip(labels).enumerate() {
            lines.push_str(if number == 0 { "{" } else { "," });
            let _ = write!(lines, "{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(lines, "}} {value}");
    }

    fn maybe(&mut self, name: &str, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, labels, value);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The page.
pub fn render(info: &Info) -> String {
    let mut page = Page { samples: vec![String::new(); METRICS.len()] };
    let site = info.site.as_str();
    page.add("irongate_manager_info", &[site, &info.release], 1.0);
    page.add("irongate_healthy", &[site], truth(info.healthy));
    for severity in [Severity::Warning, Severity::Error] {
        let count = info.seen.alarms.iter().filter(|alarm| alarm.severity == severity).count();
        page.add("irongate_alarms", &[site, &severity.to_string()], count as f64);
    }
    page.add("irongate_manager_unwritten_events_total", &[site], info.unwritten_events as f64);
    page.add("irongate_manager_failed_hooks_total", &[site], info.failed_hooks as f64);
    for group in &info.groups {
        add_group(&mut page, site, group);
    }
    for flow in &info.seen.flows {
        add_flow(&mut page, site, flow);
    }
    for certificate in &info.seen.certificates {
        let file = certificate.file.file_name().unwrap_or_default().to_string_lossy();
        page.maybe("irongate_certificate_expiry_seconds", &[site, &file], certificate.seconds_left);
    }
    let mut text = String::new();
    for (metric, samples) in METRICS.iter().zip(page.samples) {
        if !samples.is_empty() {
            let kind = match metric.kind {
                MetricKind::Gauge => "gauge",
                MetricKind::Counter => "counter",
            };
            let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
            text.push_str(&samples);
        }
    }
    text
}

fn add_group(page: &mut Page, site: &str, group: &GroupInfo) {
    let program = group.program.to_string();
    let labels = [site, &group.flow, &group.name, &program];
    for state in [State::Starting, State::Running, State::Stopped, State::Abended] {
        let name = state.to_string();
        let labels = [site, &group.flow, &group.name, &program, &name];
        page.add("irongate_group_state", &labels, truth(group.state == state));
    }
    page.add("irongate_group_desired", &labels, truth(group.wish == Wish::Run));
    page.add("irongate_group_held", &labels, truth(group.held.is_some()));
    page.add("irongate_group_deaths", &labels, f64::from(group.deaths));
    page.add("irongate_group_starts_total", &labels, group.starts as f64);
    page.maybe("irongate_group_lag_bytes", &labels, group.lag_bytes.map(|bytes| bytes as f64));
    page.maybe("irongate_group_lag_seconds", &labels, group.lag_seconds);
    let counters = &group.counters;
    page.add("irongate_group_transactions_total", &labels, counters.transactions as f64);
    let rows = [
        ("insert", counters.rows_inserted),
        ("update", counters.rows_updated),
        ("delete", counters.rows_deleted),
    ];
    for (operation, count) in rows {
        let labels = [site, &group.flow, &group.name, &program, operation];
        page.add("irongate_group_rows_total", &labels, count as f64);
    }
    page.add("irongate_group_errors_total", &labels, counters.errors as f64);
    page.add("irongate_group_conflicts_total", &labels, counters.conflicts as f64);
    page.add("irongate_group_trail_bytes_total", &labels, counters.bytes as f64);
}

fn add_flow(page: &mut Page, site: &str, flow: &FlowView) {
    let stages = [
        ("decoded", &flow.decoded),
        ("extract", &flow.extract),
        ("pump", &flow.pump),
        ("feed", &flow.feed),
        ("replicat", &flow.replicat),
    ];
    for (stage, lag) in stages {
        let labels = [site, &flow.name, stage];
        page.maybe("irongate_flow_lag_bytes", &labels, lag.lag_bytes.map(|bytes| bytes as f64));
        page.maybe("irongate_flow_lag_seconds", &labels, lag.lag_seconds);
    }
    let labels = [site, flow.name.as_str()];
    page.maybe("irongate_flow_errors_pending", &labels, flow.errors_pending.map(|count| count as f64));
    if flow.slot.is_some() || flow.source_silent.is_some() {
        page.add("irongate_source_up", &labels, truth(flow.source_silent.is_none()));
    }
    if let Some(slot) = &flow.slot {
        let labels = [site, &flow.name, &slot.name];
        page.add("irongate_slot_active", &labels, truth(slot.active));
        page.add("irongate_slot_lost", &labels, truth(slot.lost.is_some()));
        page.maybe("irongate_slot_retained_bytes", &labels, slot.retained_bytes.map(|bytes| bytes as f64));
        page.maybe("irongate_slot_safe_bytes", &labels, slot.safe_bytes.map(|bytes| bytes as f64));
    }
    if let Some(compare) = &flow.compare {
        page.maybe("irongate_flow_compare_age_seconds", &labels, compare.age_seconds);
        page.add("irongate_flow_compare_seconds", &labels, compare.seconds);
        page.add("irongate_flow_compare_rows", &labels, compare.rows as f64);
        page.add("irongate_flow_compare_differences", &labels, compare.differences as f64);
        let is_whole = compare.problem.is_none() && compare.unsettled == 0;
        page.add("irongate_flow_compare_complete", &labels, truth(is_whole));
    }
    if let Some(trail) = &flow.trail {
        page.add("irongate_trail_bytes", &labels, trail.bytes as f64);
        page.add("irongate_trail_files", &labels, trail.files as f64);
        page.maybe("irongate_trail_disk_free_bytes", &labels, trail.free_bytes.map(|bytes| bytes as f64));
        page.maybe("irongate_trail_disk_bytes", &labels, trail.disk_bytes.map(|bytes| bytes as f64));
    }
}
