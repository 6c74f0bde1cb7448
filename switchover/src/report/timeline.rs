//! Where on a chart each attempt of a run lies. Decides only.
//!
//! A step may take a hundredth of a second, the next one a minute, and a day may pass before a run is gone on with. So
//! the axis is cut into the pieces between one note and the next, and each piece is as wide as it is long, within limits:
//! none in which something was done is too narrow to be seen, none takes more than its share, and a wait takes little.
//! Pieces that are drawn shorter than the others are told of, so that they can be marked as cut.

use super::{Try, Window};

/// A piece in which something was done is at least so wide, in hundredths of the chart.
const NARROW: f64 = 1.2;
/// And at most so wide; among few pieces a tenth is left to each of the others.
const WIDE: f64 = 30.0;
const OTHERS: f64 = 10.0;
/// The same of a wait.
const WAIT: f64 = 2.5;
const LONG_WAIT: f64 = 5.0;
/// Waits together, however many there are.
const WAITS: f64 = 40.0;
/// From then on it is a wait when nothing is done, in microseconds.
const PAUSE: i64 = 1_000_000;
/// What is drawn of an attempt whose end is not known, in microseconds.
const STUB: i64 = 100_000;

/// A chart, in hundredths of its width.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Timeline {
    /// Steps, in the order in which they were begun first.
    pub(super) steps: Vec<Row>,
    /// Steps that were taken back, likewise.
    pub(super) undone: Vec<Row>,
    /// When nothing was done.
    pub(super) waits: Vec<Wait>,
    /// While applications were kept out.
    pub(super) outage: Option<Span>,
    /// Where something that was done is drawn shorter than the rest.
    pub(super) cuts: Vec<f64>,
}

/// The attempts at a step.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) bars: Vec<Bar>,
}

/// An attempt.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Bar {
    pub(super) span: Span,
    /// Its place among the run's.
    pub(super) attempt: usize,
}

/// A wait.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Wait {
    pub(super) span: Span,
    /// In microseconds since 2000-01-01 00:00 UTC.
    pub(super) from: i64,
    pub(super) to: i64,
}

/// From and how wide.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Span {
    pub(super) left: f64,
    pub(super) width: f64,
}

/// A piece of the axis.
struct Piece {
    from: i64,
    to: i64,
    busy: bool,
    wait: bool,
    width: f64,
}

/// Lays out the attempts.
pub(super) fn timeline(tries: &[Try], outage: Option<Window>) -> Timeline {
    let ends = drawn_ends(tries);
    let mut pieces = pieces(tries, &ends);
    widen(&mut pieces);
    let place = |at: i64| {
        let mut left = 0.0;
        for piece in &pieces {
            if at <= piece.from {
                break;
            }
            let part = (at.min(piece.to) - piece.from) as f64 / (piece.to - piece.from) as f64;
            left += piece.width * part;
        }
        left
    };
    let span = |from: i64, to: i64| Span { left: place(from), width: place(to) - place(from) };
    let row = |name: &str, back: bool| Row {
        name: name.to_owned(),
        bars: (0..tries.len())
            .filter(|n| tries[*n].step == name && tries[*n].back == back)
            .map(|n| Bar { span: span(tries[n].at, ends[n]), attempt: n })
            .collect(),
    };
    let rows = |back: bool| {
        let mut names: Vec<&str> = Vec::new();
        for attempt in tries.iter().filter(|attempt| attempt.back == back) {
            if !names.contains(&attempt.step.as_str()) {
                names.push(&attempt.step);
            }
        }
        names.into_iter().map(|name| row(name, back)).collect::<Vec<_>>()
    };
    let waits = pieces.iter().filter(|piece| piece.wait);
    Timeline {
        steps: rows(false),
        undone: rows(true),
        waits: waits
            .map(|piece| Wait {
                span: span(piece.from, piece.to),
                from: noted(tries, &ends, piece.from),
                to: piece.to,
            })
            .collect(),
        outage: outage.map(|outage| span(outage.begun, outage.ended.unwrap_or(i64::MAX))),
        cuts: cuts(&pieces).map(|piece| place(piece.from) + piece.width / 2.0).collect(),
    }
}

/// Until when each attempt is drawn. Of one that was cut off only the beginning is known.
fn drawn_ends(tries: &[Try]) -> Vec<i64> {
    let end = |n: usize| {
        let Try { at, ended, .. } = tries[n];
        let following = tries.get(n + 1).map_or(i64::MAX, |next| next.at);
        // A clock that was set back must not turn a bar round.
        ended.unwrap_or_else(|| at + STUB.min((following.saturating_sub(at)) / 2)).max(at + 1)
    };
    (0..tries.len()).map(end).collect()
}

/// When the last thing was noted before a piece: of an attempt that was cut off, its beginning.
fn noted(tries: &[Try], ends: &[i64], from: i64) -> i64 {
    let cut_off = (0..tries.len()).find(|n| ends[*n] == from && tries[*n].ended.is_none());
    cut_off.map_or(from, |n| tries[n].at)
}

fn pieces(tries: &[Try], ends: &[i64]) -> Vec<Piece> {
    let mut points: Vec<i64> = tries.iter().map(|attempt| attempt.at).chain(ends.iter().copied()).collect();
    points.sort_unstable();
    points.dedup();
    let was_broken_off = |until: i64| {
        let ended = (0..tries.len()).find(|n| ends[*n] == until);
        ended.is_some_and(|n| matches!(tries[n].result, "failed" | "cut off"))
    };
    let piece = |(from, to): (i64, i64)| {
        let busy = (0..tries.len()).any(|n| tries[n].at <= from && to <= ends[n]);
        let wait = !busy && (to - from >= PAUSE || was_broken_off(from));
        Piece { from, to, busy, wait, width: 0.0 }
    };
    points.iter().copied().zip(points.iter().copied().skip(1)).map(piece).collect()
}

/// Gives every piece its width: in proportion to its length, within limits, and a hundred together.
fn widen(pieces: &mut [Piece]) {
    let waits = pieces.iter().filter(|piece| piece.wait).count().max(1) as f64;
    let others = pieces.iter().filter(|piece| piece.busy).count().saturating_sub(1) as f64;
    let wide = (100.0 - OTHERS * others).max(WIDE);
    let width = |piece: &Piece, scale: f64| {
        let natural = (piece.to - piece.from) as f64 * scale;
        match (piece.busy, piece.wait) {
            (true, _) => natural.clamp(NARROW, wide),
            (_, true) => natural.clamp(WAIT.min(WAITS / waits), LONG_WAIT.min(WAITS / waits)),
            _ => natural.min(NARROW),
        }
    };
    let total = |scale: f64| pieces.iter().map(|piece| width(piece, scale)).sum::<f64>();
    // The width grows with the scale: halving finds it. A scale of a hundred a microsecond is more than any.
    let (mut low, mut high) = (0.0_f64, 100.0_f64);
    for _ in 0..80 {
        let middle = low.midpoint(high);
        if total(middle) < 100.0 { low = middle } else { high = middle }
    }
    let all = total(high).max(f64::MIN_POSITIVE);
    let widths: Vec<f64> = pieces.iter().map(|piece| width(piece, high) * 100.0 / all).collect();
    for (piece, width) in pieces.iter_mut().zip(widths) {
        piece.width = width;
    }
}

/// Pieces that are drawn much shorter than others that are not drawn longer than they are.
fn cuts(pieces: &[Piece]) -> impl Iterator<Item = &Piece> {
    let density = |piece: &Piece| piece.width / (piece.to - piece.from) as f64;
    let narrowest = pieces.iter().filter(|piece| piece.busy).map(|piece| piece.width).fold(100.0, f64::min);
    let drawn_true = pieces.iter().filter(|piece| piece.busy && piece.width > narrowest * 1.01);
    let densest = drawn_true.map(density).fold(0.0, f64::max);
    pieces
        .iter()
        .filter(move |piece| piece.busy && density(piece) < densest / 1.5 && piece.width > narrowest * 1.01)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(step: &str, back: bool, at: f64, seconds: Option<f64>, result: &'static str) -> Try {
        let at = (at * 1e6) as i64;
        Try {
            step: step.into(),
            back,
            result,
            at,
            ended: seconds.map(|seconds| at + (seconds * 1e6) as i64),
            evidence: serde_json::Value::Null,
            error: None,
            hint: None,
        }
    }

    fn done(step: &str, at: f64, seconds: f64) -> Try {
        attempt(step, false, at, Some(seconds), "done")
    }

    fn sound(chart: &Timeline) {
        for bar in chart.steps.iter().chain(&chart.undone).flat_map(|row| &row.bars) {
            assert!(bar.span.width > 0.05 && bar.span.left > -0.01, "{chart:?}");
            assert!(bar.span.left + bar.span.width < 100.01, "{chart:?}");
        }
    }

    #[test]
    fn a_short_step_is_seen_beside_a_long_one() {
        let chart = timeline(&[done("a", 0.0, 0.01), done("b", 0.01, 60.0), done("c", 60.02, 0.5)], None);
        sound(&chart);
        let widths: Vec<f64> = chart.steps.iter().map(|row| row.bars[0].span.width).collect();
        assert!(widths[0] > 1.0 && widths[1] > widths[2] && widths[2] > widths[0], "{widths:?}");
        assert_eq!(chart.cuts.len(), 1, "the minute is cut: {chart:?}");
        assert!(chart.waits.is_empty());
    }

    #[test]
    fn equal_steps_are_equally_wide_and_nothing_is_cut() {
        let tries: Vec<Try> = (0..5).map(|n| done(&n.to_string(), f64::from(n), 1.0)).collect();
        let chart = timeline(&tries, None);
        sound(&chart);
        assert!(chart.steps.iter().all(|row| (row.bars[0].span.width - 20.0).abs() < 0.1), "{chart:?}");
        assert!(chart.cuts.is_empty());
    }

    #[test]
    fn a_day_of_waiting_takes_little_and_the_attempts_share_a_row() {
        let day = 86_400.0;
        let tries = [
            done("a", 0.0, 1.0),
            attempt("b", false, 1.0, None, "cut off"),
            attempt("b", false, day, Some(0.3), "failed"),
            attempt("b", false, 2.0 * day, Some(2.0), "done"),
        ];
        let outage = Window { begun: 1_000_000, ended: None };
        let chart = timeline(&tries, Some(outage));
        sound(&chart);
        assert_eq!((chart.steps.len(), chart.steps[1].bars.len(), chart.waits.len()), (2, 3, 2));
        assert!(chart.waits.iter().all(|wait| wait.span.width < 9.0), "{chart:?}");
        let outage = chart.outage.unwrap();
        assert!((outage.left + outage.width - 100.0).abs() < 0.01, "it lasts: {outage:?}");
        assert!((outage.left - chart.steps[1].bars[0].span.left).abs() < 0.01);
    }

    #[test]
    fn many_attempts_and_a_clock_that_was_set_back_stay_on_the_chart() {
        let many: Vec<Try> =
            (0..400).map(|n| attempt("a", false, f64::from(n) * 3600.0, Some(0.01), "failed")).collect();
        sound(&timeline(&many, None));
        let back = [done("a", 10.0, 1.0), done("b", 5.0, -2.0), attempt("a", true, 6.0, None, "begun")];
        let chart = timeline(&back, None);
        sound(&chart);
        assert_eq!(chart.undone.len(), 1);
        assert!(timeline(&[], None).steps.is_empty());
    }
}
