//! The last compare of a flow: whether it is there, young enough, and found nothing.
//!
//! A change of roles does not compare: that takes as long as the tables are large. What is found here is noted, or refuses
//! the run where the configuration says so (`manager.compare_required`).

use irongate_manager::Info;
use irongate_manager::compare::LastCompare;

use super::{Findings, Run, Unit};

impl Run<'_> {
    pub(super) fn check_compare(&self, unit: &Unit<'_>, infos: &[Info], findings: &mut Findings) {
        let options = &self.configuration.manager;
        let flow = &unit.pair.into.name;
        let limit = options.compare_age.map(|age| age.as_secs_f64());
        let Some(fault) = fault(youngest(flow, infos), limit) else { return };
        let object = format!("flow \"{flow}\"");
        if options.compare_required {
            findings.complain(object, fault, format!("irongate compare {flow}, and irongate repair {flow}"));
        } else {
            findings.note(object, fault);
        }
    }
}

/// The last compare that a site knows of.
fn youngest<'i>(flow: &str, infos: &'i [Info]) -> Option<&'i LastCompare> {
    let views = infos.iter().flat_map(|info| &info.seen.flows).filter(|view| view.name == flow);
    let age = |compare: &&LastCompare| compare.age_seconds.unwrap_or(f64::INFINITY);
    views.filter_map(|view| view.compare.as_ref()).min_by(|one, other| age(one).total_cmp(&age(other)))
}

/// What is wrong with a compare; the limit is in seconds.
fn fault(compare: Option<&LastCompare>, limit: Option<f64>) -> Option<String> {
    let Some(compare) = compare else {
        return Some("nobody knows of a compare of all its tables".to_owned());
    };
    let is_old = limit.is_some_and(|limit| compare.age_seconds.is_none_or(|age| age > limit));
    (is_old || !compare.is_clean()).then(|| {
        let old = if is_old { ", which is too long ago" } else { "" };
        format!("{}{old}", compare.sentence())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(age: f64, differences: u64) -> LastCompare {
        let text = serde_json::json!({
            "flow": "csp", "time": "then", "at": 0, "age_seconds": age, "seconds": 1.0, "tables": 2, "rows": 9,
            "differences": differences, "unsettled": 0, "problem": null,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn only_a_clean_and_young_compare_is_none_to_speak_of() {
        assert_eq!(fault(Some(&compare(60.0, 0)), Some(3600.0)), None);
        assert_eq!(fault(Some(&compare(7200.0, 0)), None), None);
        let old = fault(Some(&compare(7200.0, 0)), Some(3600.0)).unwrap();
        assert_eq!(old, "compared 2 h ago: 9 rows of 2 tables, 0 different, which is too long ago");
        assert!(fault(Some(&compare(60.0, 3)), None).unwrap().contains("3 different"));
        assert!(fault(None, None).is_some());
    }

    #[test]
    fn the_youngest_of_both_sites_counts() {
        let infos: Vec<Info> = [30.0, 10.0, 20.0]
            .into_iter()
            .map(|age| {
                let mut info: Info = serde_json::from_value(serde_json::json!({
                    "site": "s", "pid": 1, "since": "", "release": "", "shutting_down": false, "healthy": true,
                    "complaints": [], "groups": [], "unwritten_events": 0, "failed_hooks": 0,
                    "seen": { "time": null, "flows": [], "alarms": [] },
                }))
                .unwrap();
                let view = irongate_manager::watch::FlowView {
                    name: "csp".into(),
                    compare: Some(compare(age, 0)),
                    ..Default::default()
                };
                info.seen.flows.push(view);
                info
            })
            .collect();
        assert_eq!(youngest("csp", &infos).and_then(|compare| compare.age_seconds), Some(10.0));
        assert_eq!(youngest("msp", &infos), None);
    }
}
