//! Alarms as conversations: each test says what is seen and what is told.

use super::*;
use crate::watch::CertificateView;
use crate::watch::TrailView;

fn flow() -> FlowWatch {
    FlowWatch {
        name: "csp".into(),
        trail: None,
        extract: Some("csp-extract".into()),
        pump: Some("csp-pump".into()),
        feed: None,
        replicat: None,
        source: None,
        site: None,
        slot: Some("s".into()),
        purge: None,
        target: None,
        expects: None,
        heartbeat: None,
        sequences: None,
        compare: None,
        waits: false,
    }
}

fn thresholds() -> Thresholds {
    Thresholds {
        lag_seconds: Some(Threshold { warning: 10.0, critical: 100.0 }),
        trail_free_bytes: Some(Threshold { warning: 1000.0, critical: 100.0 }),
        patience: 2,
        ..Thresholds::default()
    }
}

fn lag(seconds: Option<f64>) -> FlowView {
    let mut view = FlowView { name: "csp".into(), ..FlowView::default() };
    view.replicat.lag_seconds = seconds;
    view
}

fn free(bytes: u64) -> FlowView {
    let trail = TrailView { free_bytes: Some(bytes), ..TrailView::default() };
    FlowView { trail: Some(trail), ..FlowView::default() }
}

fn told(changes: &[Change]) -> Vec<(Severity, Kind)> {
    let notice = |change: &Change| match change {
        Change::Tell(notice) => Some((notice.severity, notice.kind)),
        _ => None,
    };
    changes.iter().filter_map(notice).collect()
}

#[test]
fn an_alarm_needs_patience_to_rise_and_distance_to_fall() {
    let mut alarms = Alarms::default();
    let mut see = |value| told(&alarms.observe(&flow(), &lag(value), &thresholds()));
    assert_eq!(see(Some(11.0)), []);
    assert_eq!(see(Some(1.0)), []);
    assert_eq!(see(Some(11.0)), [], "not in a row");
    assert_eq!(see(Some(12.0)), [(Severity::Warning, Kind::Alarm)]);
    assert_eq!(see(None), [], "silence is not health");
    assert_eq!(see(Some(9.0)), [], "not better enough");
    assert_eq!(see(Some(500.0)), []);
    assert_eq!(see(Some(500.0)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(Some(90.0)), []);
    assert_eq!(see(Some(50.0)), [(Severity::Warning, Kind::Alarm)], "better, not good");
    assert_eq!(see(Some(7.9)), [(Severity::Info, Kind::Cleared)]);
    assert_eq!(alarms.raised(), []);
}

#[test]
fn a_full_disk_holds_extract_at_once_and_lets_it_go_when_there_is_room() {
    let mut alarms = Alarms::default();
    let mut see = |bytes| alarms.observe(&flow(), &free(bytes), &thresholds());
    assert_eq!(see(100), []);
    let changes = see(99);
    let [Change::Tell(_), Change::Hold { group, reason }] = &changes[..] else { panic!("{changes:?}") };
    assert!(group == "csp-extract" && reason.contains("MiB"), "{reason}");
    assert!(!see(50).iter().any(|change| matches!(change, Change::Hold { .. })), "held once");
    assert!(!see(119).iter().any(|change| matches!(change, Change::Release { .. })));
    assert!(see(120).contains(&Change::Release { group: "csp-extract".into() }));
    assert!(see(99).iter().any(|change| matches!(change, Change::Hold { .. })));
    // A reload that watches no longer lets it go.
    assert_eq!(alarms.forget(|_| true), [Change::Release { group: "csp-extract".into() }]);
    assert_eq!(alarms.raised(), []);
}

#[test]
fn a_slot_in_danger_or_lost_is_an_error_at_once() {
    let slot = |status: &str, lost: Option<&str>| FlowView {
        slot: Some(SlotView {
            name: "s".into(),
            exists: true,
            active: false,
            wal_status: Some(status.into()),
            retained_bytes: Some(5),
            safe_bytes: None,
            lost: lost.map(str::to_owned),
        }),
        ..FlowView::default()
    };
    let mut alarms = Alarms::default();
    let mut see = |view: FlowView| told(&alarms.observe(&flow(), &view, &thresholds()));
    assert_eq!(see(slot("extended", None)), []);
    assert_eq!(see(slot("unreserved", None)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(slot("reserved", None)), [(Severity::Info, Kind::Cleared)]);
    assert_eq!(see(slot("unreserved", None)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(slot("unreserved", None)), []);
    // No graver, and yet something else.
    assert_eq!(see(slot("lost", Some("wal_removed"))), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(slot("lost", Some("wal_removed"))), []);
    let raised = alarms.raised();
    assert!(raised.len() == 1 && raised[0].text.contains("instantiated again"), "{raised:?}");
}

#[test]
fn a_low_limit_is_no_danger_while_little_of_it_is_used() {
    let mut slot = SlotView {
        name: "s".into(),
        exists: true,
        active: true,
        wal_status: Some("reserved".into()),
        retained_bytes: Some(100),
        safe_bytes: None,
        lost: None,
    };
    assert_eq!(safe_bytes(&slot), f64::INFINITY);
    for (safe, expected) in [(100, f64::INFINITY), (99, 99.0), (-5, -5.0)] {
        slot.safe_bytes = Some(safe);
        assert_eq!(safe_bytes(&slot), expected);
    }
}

#[test]
fn a_slot_that_is_lost_is_not_said_to_have_room_again() {
    let slot = |safe_bytes, lost: Option<&str>| FlowView {
        slot: Some(SlotView {
            exists: true,
            name: "s".into(),
            active: false,
            wal_status: None,
            retained_bytes: Some(5000),
            safe_bytes,
            lost: lost.map(str::to_owned),
        }),
        ..FlowView::default()
    };
    let safe = Some(Threshold { warning: 1000.0, critical: 100.0 });
    let thresholds = Thresholds { slot_safe_bytes: safe, patience: 1, ..Thresholds::default() };
    let mut alarms = Alarms::default();
    let mut see = |view: FlowView| told(&alarms.observe(&flow(), &view, &thresholds));
    assert_eq!(see(slot(Some(50), None)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(
        see(slot(None, Some("wal_removed"))),
        [(Severity::Error, Kind::Alarm)],
        "only that it is lost"
    );
    let new = [(Severity::Info, Kind::Cleared), (Severity::Info, Kind::Cleared)];
    assert_eq!(see(slot(None, None)), new, "instantiated again");
    assert_eq!(see(slot(None, Some("there is no such slot"))), [(Severity::Error, Kind::Alarm)]);
    let silent = FlowView { source_silent: Some("no answer".into()), ..FlowView::default() };
    assert!(!see(silent).contains(&(Severity::Info, Kind::Cleared)), "silence is not health");
    // The source was asked, and says that another site writes: none is missed.
    assert!(see(FlowView::default()).contains(&(Severity::Info, Kind::Cleared)));
    assert!(
        !alarms.raised().iter().any(|alarm| format!("{alarm:?}").contains("slot")),
        "{:?}",
        alarms.raised()
    );
}

#[test]
fn a_silent_site_is_a_warning_and_then_an_error() {
    let mut alarms = Alarms::default();
    let mut see = |silent: Option<f64>, quiet: Option<f64>| {
        let view = FlowView {
            source_silent: silent.map(|_| "refused".to_owned()),
            silent_seconds: silent,
            quiet_seconds: quiet,
            ..FlowView::default()
        };
        told(&alarms.observe(&flow(), &view, &thresholds()))
    };
    assert_eq!(see(Some(0.1), None), [], "patience");
    assert_eq!(see(Some(1.0), None), [(Severity::Warning, Kind::Alarm)]);
    assert_eq!(see(Some(10.0), None), []);
    assert_eq!(see(Some(11.0), None), [(Severity::Error, Kind::Alarm)], "health complains");
    assert_eq!(see(None, None), [(Severity::Info, Kind::Cleared)]);
    assert_eq!(see(None, Some(11.0)), []);
    assert_eq!(see(None, Some(12.0)), [(Severity::Warning, Kind::Alarm)]);
    assert_eq!(see(None, None), [(Severity::Info, Kind::Cleared)], "stopped, it expects nothing");
}

#[test]
fn what_waits_in_the_error_queue_is_told_from_the_first_change_on() {
    let mut alarms = Alarms::default();
    let mut see = |errors_pending| {
        let view = FlowView { errors_pending, ..FlowView::default() };
        told(&alarms.observe(&flow(), &view, &Thresholds { patience: 1, ..Thresholds::default() }))
    };
    assert_eq!(see(Some(0)), []);
    assert_eq!(see(Some(1)), [(Severity::Warning, Kind::Alarm)]);
    assert_eq!(see(None), [], "a target that does not answer has not been mended");
    assert_eq!(see(Some(100)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(Some(0)), [(Severity::Info, Kind::Cleared)]);
}

#[test]
fn less_is_worse_where_it_is_about_room() {
    let threshold = Threshold { warning: 1000.0, critical: 100.0 };
    for (value, before, after) in [
        (1001.0, 0, 0),
        (1000.0, 0, 1),
        (1100.0, 1, 1),
        (1201.0, 1, 0),
        (100.0, 0, 2),
        (119.0, 2, 2),
        (121.0, 2, 1),
    ] {
        assert_eq!(grade(value, threshold, Worse::Less, before), after, "{value} after {before}");
    }
}

#[test]
fn a_certificate_is_warned_of_a_month_and_a_week_before_its_end() {
    const DAY: f64 = 86_400.0;
    let view = |file: &str, days: Option<f64>| CertificateView {
        file: file.into(),
        until: None,
        seconds_left: days.map(|days| days * DAY),
        trouble: days.is_none().then(|| "no such file".to_owned()),
    };
    let mut alarms = Alarms::default();
    let mut see = |own: Option<f64>| {
        let views = [view("main.crt", own), view("ca.crt", Some(3650.0))];
        told(&alarms.observe_certificates(&views, &Thresholds::default()))
    };
    assert_eq!(see(Some(31.0)), []);
    assert_eq!(see(Some(29.5)), [(Severity::Warning, Kind::Alarm)]);
    assert_eq!(see(Some(20.0)), [], "told once");
    assert_eq!(see(Some(6.9)), [(Severity::Error, Kind::Alarm)]);
    assert_eq!(see(Some(-1.0)), []);
    assert_eq!(see(Some(3650.0)), [(Severity::Info, Kind::Cleared)]);
    assert_eq!(see(None), [(Severity::Warning, Kind::Alarm)], "nobody knows when it ends");
    let alarm = alarms.raised().remove(0);
    assert!(alarm.flow.is_empty() && alarm.text.contains("no such file"), "{alarm:?}");
}
