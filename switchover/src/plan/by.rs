//! How a site that comes back is made a copy: by repair or by a fresh copy. Decides only.
//!
//! A repair reads all rows at both sites and carries the few that differ; a copy carries all of them. Below
//! [`FEW`] rows, and below one row in [`SHARE`], a repair costs less; above [`MOST`] rows what it has found would fill the
//! disk before the first of them is carried. What is not asked for is decided twice: before the run by what was written
//! since the sites parted, which is no less than what can differ if nothing else went wrong; and then by the compare itself.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Step;
use crate::journal::{Entry, Heading, What};

/// So many rows are always repaired.
const FEW: u64 = 10_000;
/// One row in so many may differ.
const SHARE: u64 = 5;
/// More rows than these are never repaired, unless that is asked for.
pub(super) const MOST: u64 = 1_000_000;

/// The step behind which nobody writes the tables of the site that comes back.
pub(super) const STOP_GROUPS: &str = "stop-groups";
/// The step that finds what differs.
pub(super) const COMPARE: &str = "compare";
/// The step that puts it right.
pub(super) const REPAIR: &str = "repair";
/// The step that copies everything.
pub(super) const COPY: &str = "copy";

/// How a site that comes back is made a copy.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Whichever costs less, by how much differs.
    Either,
    /// Only what differs is carried over.
    Repair,
    /// Everything is copied anew. A journal that does not say is of a release that knew nothing else.
    #[default]
    Copy,
}

impl By {
    /// For a journal: what need not be said.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    pub(crate) fn is_copy(&self) -> bool {
        *self == Self::Copy
    }

    fn of(evidence: &Value) -> Option<Self> {
        match evidence["by"].as_str() {
            Some(REPAIR) => Some(Self::Repair),
            Some(COPY) => Some(Self::Copy),
            _ => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Either => "either",
            Self::Repair => REPAIR,
            Self::Copy => COPY,
        })
    }
}

/// How many of these rows may differ.
fn limit(rows: u64) -> u64 {
    (rows / SHARE).clamp(FEW, MOST)
}

/// What is recommended where so many rows differ, and why.
pub(super) fn recommended(differing: u64, rows: u64) -> (By, String) {
    let limit = limit(rows);
    if differing > limit {
        let because = format!(
            "{differing} of {rows} rows differ, and above {limit} a fresh copy costs less than a repair"
        );
        (By::Copy, because)
    } else {
        (By::Repair, format!("{differing} of {rows} rows differ: they alone are carried over"))
    }
}

/// Whether a step makes the site a copy.
pub(super) fn makes_copy(step: &str) -> bool {
    [REPAIR, COPY].contains(&step)
}

/// Whether such a step has come to its end.
pub(super) fn was_made_copy(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(&entry.what, What::Done { step, .. } if makes_copy(step)))
}

/// Whether the site follows again.
pub(super) fn follows(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(&entry.what, What::Done { step, .. } if step == "follow"))
}

/// The entries that count: where somebody has asked for another way, or for the same once more, everything that makes
/// the site a copy is due again.
pub(super) fn counting(entries: &[Entry]) -> Vec<Entry> {
    let asked = entries.iter().rposition(|entry| matches!(entry.what, What::Chosen { .. }));
    let is_due = |step: &str| step == STOP_GROUPS || step == COMPARE || makes_copy(step);
    let counts = |(number, entry): &(usize, &Entry)| {
        asked.is_none_or(|asked| *number > asked)
            || !matches!(&entry.what, What::Done { step, .. } if is_due(step))
    };
    entries.iter().enumerate().filter(counts).map(|(_, entry)| entry.clone()).collect()
}

/// How it goes on, by what was asked for, what was found, and what was asked for since.
pub(super) fn chosen(heading: &Heading, entries: &[Entry]) -> By {
    entries.iter().fold(heading.by, |by, entry| match &entry.what {
        What::Chosen { by } => *by,
        What::Done { step, evidence, .. }
            if by == By::Either && step == "prechecks" && evidence["by"] == COPY =>
        {
            By::Copy
        }
        // The compare has the last word, but for somebody who has asked.
        What::Done { step, evidence, .. } if by == By::Either && step == COMPARE => {
            By::of(evidence).unwrap_or(by)
        }
        _ => by,
    })
}

/// The steps that are still to be done, and those that were.
pub(super) fn steps(mut all: Vec<Step>, by: By, entries: &[Entry]) -> Vec<Step> {
    let entries = counting(entries);
    let is_done = |name: &str| {
        entries.iter().any(|entry| matches!(&entry.what, What::Done { step, .. } if step == name))
    };
    all.retain(|step| match step.name {
        COMPARE | REPAIR => by != By::Copy || is_done(step.name),
        COPY => by == By::Copy || is_done(step.name),
        _ => true,
    });
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Kind;

    fn heading(by: By) -> Heading {
        let text = json!({ "run": "reinstate-1", "plan": "reinstate", "from": "main", "to": "secondary",
            "databases": ["config"], "holder": "dba@host", "release": "0.1.0" });
        Heading { by, ..serde_json::from_value(text).unwrap() }
    }

    fn left(by: By, what: &[What]) -> Vec<&'static str> {
        let entries: Vec<Entry> = what.iter().map(|what| Entry { at: 0, what: what.clone() }).collect();
        let by = chosen(&heading(by), &entries);
        let steps = steps(Kind::Reinstate.steps().to_vec(), by, &entries);
        steps
            .into_iter()
            .map(|step| step.name)
            .filter(|name| [COMPARE, REPAIR, COPY].contains(name))
            .collect()
    }

    fn done(step: &str, by: &str) -> What {
        What::Done { step: step.into(), seconds: 0.0, evidence: json!({ "by": by }) }
    }

    #[test]
    fn a_difference_is_small_absolutely_or_beside_what_there_is() {
        for (differing, rows, by) in [
            (0, 0, By::Repair),
            (FEW, 10, By::Repair),
            (FEW + 1, 10, By::Copy),
            (200_000, 1_000_000, By::Repair),
            (200_001, 1_000_000, By::Copy),
            (MOST, 1 << 40, By::Repair),
            (MOST + 1, 1 << 40, By::Copy),
        ] {
            let (recommended, because) = recommended(differing, rows);
            assert_eq!(recommended, by, "{because}");
            assert!(because.starts_with(&format!("{differing} of {rows} rows")), "{because}");
        }
    }

    #[test]
    fn a_run_does_what_was_asked_for_or_else_what_was_found() {
        assert_eq!(left(By::Copy, &[]), [COPY]);
        assert_eq!(left(By::Repair, &[]), [COMPARE, REPAIR]);
        assert_eq!(left(By::Either, &[]), [COMPARE, REPAIR]);
        assert_eq!(left(By::Either, &[done("prechecks", COPY)]), [COPY]);
        assert_eq!(left(By::Either, &[done("prechecks", REPAIR)]), [COMPARE, REPAIR]);
        assert_eq!(left(By::Either, &[done(COMPARE, COPY)]), [COMPARE, COPY]);
        assert_eq!(left(By::Repair, &[done(COMPARE, COPY)]), [COMPARE, REPAIR], "it was asked for");
        // Somebody thinks otherwise when he goes on with it.
        assert_eq!(left(By::Repair, &[What::Chosen { by: By::Copy }]), [COPY]);
        let twice = [done(COMPARE, COPY), What::Chosen { by: By::Repair }];
        assert_eq!(left(By::Either, &twice), [COMPARE, REPAIR]);
    }

    #[test]
    fn who_asks_once_more_has_it_done_once_more() {
        let next = |what: &[What]| {
            let entries: Vec<Entry> = what.iter().map(|what| Entry { at: 0, what: what.clone() }).collect();
            let by = chosen(&heading(By::Repair), &entries);
            let steps = steps(Kind::Reinstate.steps().to_vec(), by, &entries);
            match crate::engine::next(&steps, &counting(&entries), crate::engine::Way::Forward) {
                crate::engine::Next::Do(place) => steps[place].name,
                other => panic!("{other:?}"),
            }
        };
        let mut what: Vec<What> = ["prechecks", "lock", "fence", "nothing-new", STOP_GROUPS, COMPARE, REPAIR]
            .map(|step| done(step, ""))
            .into();
        assert_eq!(next(&what), "follow");
        what.push(What::Chosen { by: By::Repair });
        assert_eq!(next(&what), STOP_GROUPS);
        what.extend([done(STOP_GROUPS, ""), done(COMPARE, "")]);
        assert_eq!(next(&what), REPAIR);
        what.push(What::Chosen { by: By::Copy });
        what.push(done(STOP_GROUPS, ""));
        assert_eq!(next(&what), COPY);
        what.push(done(COPY, ""));
        assert_eq!(next(&what), "follow");
    }

    #[test]
    fn the_journal_of_a_release_that_could_only_copy_is_gone_on_with_by_a_copy() {
        let heading = heading(By::Copy);
        let text = serde_json::to_string(&heading).unwrap();
        assert!(!text.contains("\"by\""), "{text}");
        assert_eq!(serde_json::from_str::<Heading>(&text).unwrap(), heading);
    }
}
