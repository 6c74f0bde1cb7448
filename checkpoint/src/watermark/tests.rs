use proptest::prelude::*;

use super::*;

fn mark(n: u64) -> Mark {
    Mark { position: Position { seqno: 1, offset: n }, resume_lsn: ResumeLsn(Lsn(n)) }
}

fn begun(at: u64, insert: u64) -> Watermarks {
    Watermarks::new(mark(at), Lsn(insert), Mark::default())
}

#[test]
fn nothing_may_be_purged_that_the_target_has_not_flushed() {
    let mut marks = begun(10, 100);
    assert_eq!((marks.high(), marks.low()), (mark(10), Mark::default()));
    marks.applied(mark(11), Lsn(200));
    marks.applied(mark(12), Lsn(300));
    assert_eq!(marks.high(), mark(12));
    assert_eq!(marks.flushed(Lsn(99)), Mark::default());
    assert_eq!(marks.flushed(Lsn(100)), mark(10));
    assert_eq!(marks.flushed(Lsn(299)), mark(11));
    assert!(marks.is_pending());
    assert_eq!(marks.flushed(Lsn(300)), mark(12));
    assert!(!marks.is_pending());
}

#[test]
fn a_synchronous_commit_moves_both_marks_at_once() {
    let mut marks = begun(10, 100);
    marks.applied(mark(11), Lsn(200));
    marks.applied_durably(mark(12));
    assert_eq!((marks.high(), marks.low()), (mark(12), mark(12)));
    assert!(!marks.is_pending());
}

#[test]
fn a_crashed_target_takes_the_high_mark_back_and_never_the_low_one() {
    let mut marks = begun(10, 100);
    marks.applied(mark(11), Lsn(200));
    marks.applied(mark(12), Lsn(300));
    marks.flushed(Lsn(200));
    marks.reconnected(mark(11), Lsn(150)).unwrap();
    assert_eq!((marks.high(), marks.low()), (mark(11), mark(11)));
    // The old entry for 12 must not come true by the new server's LSNs.
    assert_eq!(marks.flushed(Lsn(1000)), mark(11));
    marks.applied(mark(12), Lsn(160));
    assert_eq!(marks.flushed(Lsn(160)), mark(12));
}

#[test]
fn a_target_that_lost_what_it_had_flushed_is_refused() {
    let mut marks = begun(10, 100);
    marks.applied(mark(11), Lsn(200));
    marks.flushed(Lsn(200));
    let error = marks.reconnected(mark(10), Lsn(50)).unwrap_err();
    assert!(matches!(error, Error::TargetWentBack { found: Lsn(10), known: Lsn(11) }), "{error:?}");
    assert!(!error.is_transient() && error.hint().is_some());
    assert_eq!((marks.high(), marks.low()), (mark(11), mark(11)));
}

#[test]
fn a_target_that_does_not_flush_costs_a_bounded_queue_and_no_mark() {
    let mut marks = Watermarks::with_capacity(mark(0), Lsn(0), Mark::default(), 8);
    for n in 1..=100_000 {
        marks.applied(mark(n), Lsn(n * 10));
        assert!(marks.pending.len() <= 8);
    }
    // Collapsed, so late; but never early, and complete in the end.
    assert!(marks.flushed(Lsn(500_000)).resume_lsn.0.0 <= 50_000);
    assert_eq!(marks.flushed(Lsn(1_000_000)), mark(100_000));
}

#[derive(Clone, Debug)]
enum Event {
    Applied { further: u64, written: u64 },
    Durably { further: u64 },
    Flushed { share: f64 },
    Crashed { share: f64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..5_u64, 0..50_u64).prop_map(|(further, written)| Event::Applied { further, written }),
        1 => (0..5_u64).prop_map(|further| Event::Durably { further }),
        4 => (0.0..=1.0).prop_map(|share| Event::Flushed { share }),
        1 => (0.0..=1.0).prop_map(|share| Event::Crashed { share }),
    ]
}

proptest! {
    /// Against a target that knows which commit ended where in its log, and loses at a crash what is not flushed.
    #[test]
    fn the_low_watermark_is_never_ahead_of_what_a_crash_would_leave(
        capacity in 2..20_usize,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (mut insert, mut flush) = (1_u64, 0_u64);
        // (place, end of its commit record), in order.
        let mut commits = vec![(1_u64, 1_u64)];
        let mut marks = Watermarks::with_capacity(mark(1), Lsn(insert), Mark::default(), capacity);
        let left = |commits: &[(u64, u64)], flush: u64| {
            commits.iter().rev().find(|(_, end)| *end <= flush).map_or(0, |(place, _)| *place)
        };
        for event in events {
            let before = marks.low();
            let place = commits.last().map_or(0, |last| last.0);
            match event {
                Event::Applied { further, written } => {
                    insert += written;
                    commits.push((place + further, insert));
                    // Others write too before the insert LSN is read.
                    marks.applied(mark(place + further), Lsn(insert + written % 3));
                    insert += written % 3;
                }
                Event::Durably { further } => {
                    insert += 1;
                    flush = insert;
                    commits.push((place + further, insert));
                    marks.applied_durably(mark(place + further));
                }
                Event::Flushed { share } => {
                    flush = flush.max((insert as f64 * share) as u64);
                    marks.flushed(Lsn(flush));
                }
                Event::Crashed { share } => {
                    flush = flush.max((insert as f64 * share) as u64);
                    let survived = left(&commits, flush);
                    commits.retain(|(_, end)| *end <= flush);
                    if commits.is_empty() {
                        commits.push((survived, flush));
                    }
                    insert = flush;
                    marks.reconnected(mark(survived), Lsn(insert)).unwrap();
                }
            }
            let low = marks.low().resume_lsn.0.0;
            prop_assert!(low <= left(&commits, flush), "low {low}, flushed {flush}, {commits:?}");
            prop_assert!(marks.low().resume_lsn >= before.resume_lsn);
            prop_assert!(marks.low().resume_lsn <= marks.high().resume_lsn);
            prop_assert!(marks.pending.len() <= capacity);
        }
        marks.flushed(Lsn(insert));
        prop_assert_eq!(marks.low(), marks.high());
    }
}
