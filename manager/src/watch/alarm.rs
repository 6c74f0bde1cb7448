//! What is too much: thresholds with patience and hysteresis, without clock or file.
//!
//! A value is graded each time it is seen. A worse grade is believed when it was seen `patience` times in a row, a
//! better one when the value is a fifth better than the threshold that it has left. A value that is not known leaves
//! its alarm as it is: silence is not health.

mod site;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use irongate_trail::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::site::Concern;
use super::{FlowView, SlotView};
use crate::event::{Kind, Notice, Severity};
use crate::settings::{FlowWatch, Threshold, Thresholds};

/// How much better than its threshold a value must be before an alarm ends.
const BETTER: f64 = 0.2;

/// What can be too much.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AlarmKind {
    /// Bytes from the source's log to the trail.
    ExtractLagBytes,
    /// Seconds from the source's log to the trail.
    ExtractLagSeconds,
    /// Bytes from the trail here to that of the other site.
    PumpLagBytes,
    /// Seconds from the trail here to that of the other site.
    PumpLagSeconds,
    /// Bytes from the trail to what a feed has told.
    FeedLagBytes,
    /// Seconds from the trail to what a feed has told.
    FeedLagSeconds,
    /// Bytes from the trail to the target.
    ReplicatLagBytes,
    /// Seconds from the trail to the target.
    ReplicatLagSeconds,
    /// Bytes that the slot keeps at the source.
    SlotRetained,
    /// Bytes until the slot is lost.
    SlotSafe,
    /// The slot is in danger or lost.
    SlotState,
    /// Free bytes of the trail's disk.
    TrailDisk,
    /// The source does not answer.
    SourceSilent,
    /// Nothing comes from the other site.
    OtherSiteQuiet,
    /// Changes wait in the error queue.
    ErrorQueue,
    /// A certificate of this site ends soon, has ended, or cannot be read.
    Certificate,
    /// Files of ours cannot be read.
    Files,
    /// Who writes and who is closed is not as it should be.
    Roles,
    /// The last compare of the whole flow found differences, or could not look at everything.
    Differences,
}

/// Something that is too much.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alarm {
    /// The flow; empty for what is about the whole site.
    pub flow: String,
    /// What.
    pub kind: AlarmKind,
    /// How grave.
    pub severity: Severity,
    /// Since when, in RFC 3339 and UTC.
    pub since: String,
    /// What was seen, in one sentence.
    pub text: String,
}

/// What follows from what was seen.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Change {
    Tell(Notice),
    Hold { group: String, reason: String },
    Release { group: String },
}

/// 0 is good, 1 a warning, 2 an error.
type Grade = u8;

#[derive(Clone, Debug, Default)]
struct State {
    grade: Grade,
    /// A worse grade, and how often in a row it was seen.
    worse: (Grade, u32),
    since: String,
    text: String,
}

/// The alarms of a site.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms {
    states: BTreeMap<(String, AlarmKind), State>,
    /// Groups that are held, by flow.
    held: BTreeMap<String, String>,
}

/// Which way is worse.
#[derive(Clone, Copy)]
enum Worse {
    More,
    Less,
}

/// The grade of a value whose grade was `before`.
fn grade(value: f64, threshold: Threshold, worse: Worse, before: Grade) -> Grade {
    // Less is worse: the same with the signs turned.
    let (value, sign) = match worse {
        Worse::More => (value, 1.0),
        Worse::Less => (-value, -1.0),
    };
    let is_past = |limit: f64, is_raised: bool| {
        let slack = if is_raised { limit.abs() * BETTER } else { 0.0 };
        value >= limit * sign - slack
    };
    if is_past(threshold.critical, before >= 2) {
        2
    } else {
        u8::from(is_past(threshold.warning, before >= 1))
    }
}

impl Alarms {
    /// Takes a look at a flow.
    pub(crate) fn observe(
        &mut self,
        flow: &FlowWatch,
        view: &FlowView,
        thresholds: &Thresholds,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let patience = thresholds.patience;
        let mut value = |kind, value: Option<f64>, threshold: Option<Threshold>, worse, text: &str| {
            let before = self.grade(&flow.name, kind);
            // Without a threshold nothing is too much; without a value nothing is known.
            let new = match (value, threshold) {
                (_, None) => Some(0),
                (None, Some(_)) => None,
                (Some(value), Some(threshold)) => Some(grade(value, threshold, worse, before)),
            };
            let text = format!("{text} {}", shown(kind, value.unwrap_or_default()));
            self.set(&flow.name, kind, new, patience, &text, &mut changes);
        };
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        let (extract, pump, replicat) = (&view.extract, &view.pump, &view.replicat);
        use AlarmKind::*;
        use Worse::*;
        value(
            ExtractLagBytes,
            bytes(extract.lag_bytes),
            thresholds.lag_bytes,
            More,
            "the trail is behind by",
        );
        value(ExtractLagSeconds, extract.lag_seconds, thresholds.lag_seconds, More, "the trail is behind by");
        let text = "the trail of the other site is behind by";
        value(PumpLagBytes, bytes(pump.lag_bytes), thresholds.lag_bytes, More, text);
        value(PumpLagSeconds, pump.lag_seconds, thresholds.lag_seconds, More, text);
        let text = "its feed is behind by";
        value(FeedLagBytes, bytes(view.feed.lag_bytes), thresholds.lag_bytes, More, text);
        value(FeedLagSeconds, view.feed.lag_seconds, thresholds.lag_seconds, More, text);
        value(
            ReplicatLagBytes,
            bytes(replicat.lag_bytes),
            thresholds.lag_bytes,
            More,
            "the target is behind by",
        );
        value(
            ReplicatLagSeconds,
            replicat.lag_seconds,
            thresholds.lag_seconds,
            More,
            "the target is behind by",
        );
        let slot = view.slot.as_ref();
        // A flow that waits for its day, or whose source does not write, where that was asked: its slot is gone, and with it
        // what was wrong with it. That one which should be there is missing is told of as a slot.
        let is_without = flow.slot.is_some() && slot.is_none() && view.source_silent.is_none();
        let (retained, safe) = if is_without {
            (Some(0.0), Some(f64::INFINITY))
        } else {
            // A slot that is lost has no room any more, which is not to say that it has room again.
            let safe = slot.filter(|slot| slot.lost.is_none()).map(safe_bytes);
            (bytes(slot.and_then(|slot| slot.retained_bytes)), safe)
        };
        value(SlotRetained, retained, thresholds.slot_retained_bytes, More, "its slot keeps log of");
        value(SlotSafe, safe, thresholds.slot_safe_bytes, Less, "its slot is lost after");
        let text = "the other site sends nothing, not even heartbeats, for";
        // What does not run expects nothing.
        let quiet = Some(view.quiet_seconds.unwrap_or(0.0));
        value(OtherSiteQuiet, quiet, thresholds.lag_seconds, More, text);
        let pending = bytes(view.errors_pending);
        value(ErrorQueue, pending, thresholds.errors_pending, More, "in its error queue wait");
        let free = bytes(view.trail.as_ref().and_then(|trail| trail.free_bytes));
        value(TrailDisk, free, thresholds.trail_free_bytes, Less, "the disk of its trail has room for");
        let (state, text) = if is_without { (Some(0), String::new()) } else { slot_state(view) };
        self.set(&flow.name, SlotState, state, 1, &text, &mut changes);
        let silent = view.source_silent.as_ref();
        let text = format!("the source does not answer: {}", silent.map_or("", String::as_str));
        // How far the trail is behind is not known then; it is behind by this silence at least.
        let limit = thresholds.lag_seconds.map_or(0.0, |threshold| threshold.warning);
        let grade = match (silent, view.silent_seconds) {
            (None, _) => 0,
            (Some(_), Some(seconds)) if seconds >= limit => 2,
            (Some(_), _) => 1,
        };
        self.set(&flow.name, SourceSilent, Some(grade), patience, &text, &mut changes);
        let trouble = view.trouble.as_ref();
        let text = trouble.cloned().unwrap_or_default();
        self.set(&flow.name, Files, Some(u8::from(trouble.is_some())), patience, &text, &mut changes);
        let (state, text) = differences(view);
        self.set(&flow.name, Differences, Some(state), 1, &text, &mut changes);
        self.hold(flow, free, thresholds.trail_free_bytes, &mut changes);
        changes
    }

    /// What is too much at the moment.
    pub(crate) fn raised(&self) -> Vec<Alarm> {
        let alarm = |((flow, kind), state): (&(String, AlarmKind), &State)| Alarm {
            flow: flow.clone(),
            kind: *kind,
            severity: severity(state.grade),
            since: state.since.clone(),
            text: state.text.clone(),
        };
        self.states.iter().filter(|(_, state)| state.grade > 0).map(alarm).collect()
    }

    /// Forgets flows that are no longer watched.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&str) -> bool) -> Vec<Change> {
        self.states.retain(|(flow, _), _| !is_gone(flow));
        let gone: Vec<_> = self.held.keys().filter(|flow| is_gone(flow)).cloned().collect();
        let release = |flow| self.held.remove(&flow).map(|group| Change::Release { group });
        gone.into_iter().filter_map(release).collect()
    }

    fn grade(&self, flow: &str, kind: AlarmKind) -> Grade {
        self.states.get(&(flow.to_owned(), kind)).map_or(0, |state| state.grade)
    }

    fn set(
        &mut self,
        flow: &str,
        kind: AlarmKind,
        new: Option<Grade>,
        patience: u32,
        text: &str,
        changes: &mut Vec<Change>,
    ) {
        let Some(new) = new else { return };
        let state = self.states.entry((flow.to_owned(), kind)).or_default();
        let before = state.grade;
        if new > before {
            let times = if state.worse.0 == new { state.worse.1 + 1 } else { 1 };
            state.worse = (new, times);
            if times < patience {
                return;
            }
        }
        state.worse = (0, 0);
        state.grade = new;
        // What is said of a slot's state, or of roles, has no number in it, and a compare is rare: other words are news,
        // though they are no graver.
        let is_told = matches!(kind, AlarmKind::SlotState | AlarmKind::Roles | AlarmKind::Differences);
        let is_news = new != before || is_told && new > 0 && state.text != text;
        if new > 0 {
            text.clone_into(&mut state.text);
        }
        if !is_news {
            return;
        }
        if before == 0 {
            state.since = Timestamp::now().to_string();
        }
        let about = if flow.is_empty() { String::new() } else { format!("flow \"{flow}\": ") };
        let notice = if new > 0 {
            Notice::new(severity(new), Kind::Alarm, format!("{about}{text}"))
        } else {
            Notice::new(Severity::Info, Kind::Cleared, format!("{about}no longer: {}", state.text))
        };
        changes.push(Change::Tell(notice));
    }

    /// Extract rests before its disk is full. There is no patience in this: a disk fills quickly.
    fn hold(
        &mut self,
        flow: &FlowWatch,
        free: Option<f64>,
        threshold: Option<Threshold>,
        changes: &mut Vec<Change>,
    ) {
        let (Some(group), Some(free)) = (&flow.extract, free) else { return };
        let limit = threshold.map_or(f64::NEG_INFINITY, |threshold| threshold.critical);
        if free < limit {
            if self.held.insert(flow.name.clone(), group.clone()).is_none() {
                let reason = format!(
                    "the disk of its trail has room for {} only; it starts again when there are {}",
                    shown(AlarmKind::TrailDisk, free),
                    shown(AlarmKind::TrailDisk, limit * (1.0 + BETTER))
                );
                changes.push(Change::Hold { group: group.clone(), reason });
            }
        } else if free >= limit * (1.0 + BETTER)
            && let Some(group) = self.held.remove(&flow.name)
        {
            changes.push(Change::Release { group });
        }
    }
}

/// What the last compare found. A flow that was never compared is no alarm.
fn differences(view: &FlowView) -> (Grade, String) {
    let Some(compare) = &view.compare else { return (0, String::new()) };
    if compare.differences > 0 {
        let tables: Vec<_> = compare.different_tables.keys().map(String::as_str).take(3).collect();
        let text = format!(
            "{} rows of the target are not those of the source ({}), as of {}; irongate compare {} shows them",
            compare.differences,
            tables.join(", "),
            compare.time,
            view.name
        );
        return (2, text);
    }
    match &compare.problem {
        Some(problem) => (1, format!("it could not be compared: {problem}")),
        None => (0, String::new()),
    }
}

fn severity(grade: Grade) -> Severity {
    match grade {
        0 => Severity::Info,
        1 => Severity::Warning,
        _ => Severity::Error,
    }
}

/// How far a slot is from being lost. Far, while less than half of the limit is used up, or where there is no limit.
fn safe_bytes(slot: &SlotView) -> f64 {
    let Some(safe) = slot.safe_bytes else { return f64::INFINITY };
    let is_far = slot.retained_bytes.is_some_and(|kept| i128::from(kept) <= i128::from(safe));
    if is_far { f64::INFINITY } else { safe as f64 }
}

fn slot_state(view: &FlowView) -> (Option<Grade>, String) {
    let Some(slot) = &view.slot else { return (None, String::new()) };
    match (&slot.lost, slot.wal_status.as_deref()) {
        (Some(reason), _) => (
            Some(2),
            format!("slot \"{}\" is lost ({reason}): the flow must be instantiated again", slot.name),
        ),
        (None, Some("unreserved")) => {
            (Some(2), format!("slot \"{}\" keeps more log than it may and is about to be lost", slot.name))
        }
        _ => (Some(0), String::new()),
    }
}

fn shown(kind: AlarmKind, value: f64) -> String {
    match kind {
        AlarmKind::ExtractLagSeconds
        | AlarmKind::PumpLagSeconds
        | AlarmKind::FeedLagSeconds
        | AlarmKind::ReplicatLagSeconds
        | AlarmKind::OtherSiteQuiet => format!("{value:.1} s"),
        AlarmKind::ErrorQueue => format!("{value} changes: \"irongate errors list\" shows them"),
        _ => format!("{:.1} MiB", value / f64::from(1 << 20)),
    }
}
