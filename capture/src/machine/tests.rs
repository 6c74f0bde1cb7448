//! Conversations: what the stream says, and what the sink is told.

mod model;
mod talk;

use std::collections::BTreeSet;

use irongate_trail::Truncate;

use self::talk::{START, Talk, begin, commit, logical, own_table, stream_commit, table};
use super::*;
use crate::pgoutput::Message;

#[test]
fn a_whole_transaction_arrives_in_order_and_moves_the_place_to_its_end() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).insert(1, 1).commit();
    assert_eq!(
        talk.told(),
        ["begin 7 at 0/2000", "relation public.t(c0:23)", "I 1", "I 1", "commit to 0/2030 with 2"]
    );
    let positions = talk.machine.positions();
    assert_eq!((positions.appended, positions.durable), (ResumeLsn(Lsn(0x2030)), ResumeLsn(Lsn(START))));
    assert!(talk.settle(), "what is appended waits for a sync");
    assert!(!talk.sync().settle());
    assert!(talk.told().is_empty(), "nothing is left to note");
}

#[test]
fn a_repeated_description_is_no_change_and_a_changed_one_is_declared_when_a_row_needs_it() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000)
        .relation(table(1, "t", &[23]))
        .insert(1, 1)
        .relation(table(1, "t", &[23]))
        .insert(1, 1);
    talk.relation(table(1, "t", &[23, 25])).commit().told();
    talk.begin(8, 0x2100).relation(table(2, "other", &[23])).insert(1, 2).insert(1, 2).commit();
    assert_eq!(
        talk.told(),
        ["begin 8 at 0/2100", "relation public.t(c0:23 c1:25)", "I 1", "I 1", "commit to 0/2130 with 2"]
    );
}

#[test]
fn a_types_name_is_joined_to_the_columns_that_have_it() {
    let mut talk = Talk::default();
    talk.say(Message::Type { xid: None, oid: 16500, schema: "public", name: "mood" });
    talk.begin(7, 0x2000).relation(table(1, "t", &[23, 16500])).insert(1, 2);
    assert_eq!(talk.told()[1], "relation public.t(c0:23 c1:16500mood)");
    talk.say(Message::Type { xid: None, oid: 16500, schema: "public", name: "temper" });
    talk.relation(table(1, "t", &[23, 16500])).insert(1, 2);
    assert_eq!(talk.told()[0], "relation public.t(c0:23 c1:16500temper)", "a renamed type is a change");
}

#[test]
fn a_transaction_under_a_skipped_origin_moves_the_place_and_leaves_nothing() {
    let mut talk = Talk::new(Settings {
        skip_origins: SkipOrigins::Named(BTreeSet::from(["irongate_csp".to_owned()])),
        ..Settings::default()
    });
    talk.begin(7, 0x2000).origin("irongate_csp").relation(table(1, "t", &[23])).insert(1, 1);
    talk.say(Message::Truncate {
        xid: None,
        truncate: Truncate { relations: vec![1], cascade: false, restart_identity: false },
    });
    talk.say(Message::Logical { xid: None, message: logical(true, 0x1ff0, "p") }).commit();
    assert!(talk.told().is_empty());
    assert!(talk.settle());
    assert_eq!(talk.told(), ["progress to 0/2030"]);
    talk.begin(8, 0x2100).origin("another").insert(1, 1).commit();
    assert_eq!(talk.told()[..2], ["begin 8 at 0/2100 from another", "relation public.t(c0:23)"]);
    assert_eq!(talk.machine.counts().skipped, 1);
}

#[test]
fn any_origin_is_skipped_when_so_configured() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).origin("whoever").relation(table(1, "t", &[23])).insert(1, 1).commit();
    assert!(talk.told().is_empty());
}

#[test]
fn an_origin_behind_a_change_is_refused() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1);
    assert!(matches!(
        talk.try_say(Message::Origin { lsn: Lsn::ZERO, name: "x" }),
        Err(Error::Protocol { .. })
    ));
}

#[test]
fn our_own_tables_are_not_data_unless_asked_for() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(own_table(9)).insert(9, 1).commit();
    assert!(talk.told().is_empty());
    talk.begin(8, 0x2100).relation(table(1, "t", &[23])).say(Message::Truncate {
        xid: None,
        truncate: Truncate { relations: vec![9, 1], cascade: true, restart_identity: false },
    });
    assert_eq!(talk.commit().told()[2], "truncate [1]");

    let mut talk = Talk::new(Settings { own_schema: true, ..Settings::default() });
    talk.begin(7, 0x2000).relation(own_table(9)).insert(9, 1).commit();
    assert_eq!(talk.told().len(), 4);
}

#[test]
fn streamed_transactions_interleave_and_keep_their_subtransactions_apart() {
    let mut talk = Talk::default();
    talk.start(10, true).relation(table(1, "t", &[23])).sub_insert(10, 1).sub_insert(11, 1).stop();
    talk.start(20, true).relation(table(1, "t", &[23])).sub_insert(20, 1).stop();
    talk.begin(30, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).commit();
    talk.start(10, false).sub_insert(12, 1).stop();
    talk.abort(10, 11).stream_commit(20, 0x2100).stream_commit(10, 0x2200);
    assert_eq!(
        talk.told(),
        [
            "side 10 relation public.t(c0:23)",
            "side 10/10 I 1",
            "side 10/11 I 1",
            "side 20 relation public.t(c0:23)",
            "side 20/20 I 1",
            "begin 30 at 0/2000",
            "relation public.t(c0:23)",
            "I 1",
            "commit to 0/2030 with 1",
            "side 10/12 I 1",
            "side 10/11 abort",
            "adopt 20 at 0/2100 to 0/2130 with 1",
            "adopt 10 at 0/2200 to 0/2230 with 2",
        ]
    );
    assert_eq!(talk.machine.streamed(), 0);
}

#[test]
fn a_description_made_in_an_aborted_subtransaction_stays() {
    let mut talk = Talk::default();
    talk.start(10, true).relation(table(1, "t", &[23])).sub_insert(11, 1).stop();
    talk.abort(10, 11).start(10, false).sub_insert(10, 1).stop().stream_commit(10, 0x2000);
    assert_eq!(
        talk.told(),
        [
            "side 10 relation public.t(c0:23)",
            "side 10/11 I 1",
            "side 10/11 abort",
            "side 10/10 I 1",
            "adopt 10 at 0/2000 to 0/2030 with 1"
        ]
    );
}

#[test]
fn what_a_streamed_transaction_saw_of_a_table_is_for_all_only_after_its_commit() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).commit();
    talk.start(10, true).relation(table(1, "t", &[23, 25])).try_insert(Some(10), 1, 2).unwrap();
    talk.stop().begin(8, 0x2100).insert(1, 1).commit();
    talk.stream_commit(10, 0x2200).told();
    talk.begin(9, 0x2300);
    assert!(talk.try_insert(None, 1, 1).is_err(), "the old description is gone");
    talk.insert(1, 2).commit();
    assert_eq!(talk.told()[1], "relation public.t(c0:23 c1:25)");

    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).commit();
    talk.start(10, true).relation(table(1, "t", &[23, 25])).stop().abort(10, 10);
    talk.begin(9, 0x2300).insert(1, 1).commit();
}

#[test]
fn an_aborted_streamed_transaction_leaves_nothing() {
    let mut talk = Talk::default();
    talk.start(10, true).relation(table(1, "t", &[23])).sub_insert(10, 1).stop().abort(10, 10);
    assert_eq!(talk.told().last().unwrap(), "side 10 drop");
    assert!(!talk.settle(), "an abort alone moves nothing");
    assert!(talk.try_say(stream_commit(10, 0x2000)).is_err(), "it cannot be committed any more");
}

#[test]
fn a_streamed_transaction_without_a_change_left_is_dropped_and_moves_the_place() {
    let mut talk = Talk::default();
    talk.start(10, true).relation(table(1, "t", &[23])).sub_insert(11, 1).stop();
    talk.abort(10, 11).stream_commit(10, 0x2000).told();
    assert!(talk.settle());
    assert_eq!(talk.told(), ["progress to 0/2030"]);
}

#[test]
fn a_streamed_transaction_under_a_skipped_origin_is_never_stored() {
    let mut talk = Talk::default();
    talk.start(10, true).origin("irongate_csp").relation(table(1, "t", &[23])).sub_insert(10, 1).stop();
    talk.start(10, false).sub_insert(11, 1).stop().abort(10, 11).stream_commit(10, 0x2000);
    assert!(talk.told().is_empty());
}

#[test]
fn a_lost_connection_rolls_back_what_was_in_the_air_and_the_next_goes_on_from_the_trails_place() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).commit();
    talk.start(10, true).relation(table(1, "t", &[23])).sub_insert(10, 1).stop();
    talk.begin(8, 0x2100).insert(1, 1).told();
    talk.reconnect(0x2000);
    assert_eq!(talk.told(), ["rollback"]);
    assert_eq!(talk.machine.positions().appended, ResumeLsn(Lsn(0x2030)));
    talk.begin(8, 0x2100);
    assert!(talk.try_insert(None, 1, 1).is_err(), "a new connection describes everything anew");
    talk.relation(table(1, "t", &[23])).insert(1, 1).commit();
    assert_eq!(
        talk.told(),
        ["begin 8 at 0/2100", "relation public.t(c0:23)", "I 1", "commit to 0/2130 with 1"],
    );
    assert!(talk.try_say(stream_commit(10, 0x2200)).is_err(), "what was streamed starts over");
}

#[test]
fn a_transaction_that_is_in_the_trail_is_left_out() {
    let mut talk = Talk::default();
    talk.begin(7, START - 0x30).relation(table(1, "t", &[23])).insert(1, 1).commit();
    talk.start(10, true)
        .relation(table(1, "t", &[23]))
        .sub_insert(10, 1)
        .stop()
        .stream_commit(10, START - 0x10);
    assert_eq!(talk.told().last().unwrap(), "side 10 drop");
    assert_eq!(talk.machine.counts().duplicates, 2);
    talk.begin(8, START).insert(1, 1).commit();
    assert_eq!(talk.machine.counts().transactions, 1, "one that starts where the trail ends is new");
}

#[test]
fn commits_that_do_not_rise_are_an_error() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).commit();
    for lsn in [0x2000, 0x1f00, 0x2010] {
        assert!(matches!(talk.try_say(begin(8, lsn)), Err(Error::Protocol { .. })), "{lsn:x}");
    }
    talk.start(10, true).stop();
    assert!(talk.try_say(stream_commit(10, 0x1f00)).is_err());
}

#[test]
fn a_commit_must_match_its_begin_and_end_after_it_starts() {
    for (lsn, end) in [(0x2001, 0x2030), (0x2000, 0x2000), (0x2000, 0x1000)] {
        let mut talk = Talk::default();
        talk.begin(7, 0x2000);
        assert!(talk.try_say(commit(lsn, end)).is_err(), "{lsn:x} {end:x}");
    }
}

#[test]
fn an_idle_stream_notes_its_place_no_more_often_than_asked() {
    let mut talk = Talk::default();
    assert!(talk.keepalive(0x3000, false).settle());
    assert_eq!(talk.told(), ["progress to 0/3000"]);
    talk.sync().seconds += 9;
    assert!(!talk.keepalive(0x4000, false).settle());
    assert!(talk.told().is_empty());
    talk.seconds += 1;
    assert!(talk.settle());
    assert_eq!(talk.told(), ["progress to 0/4000"]);
    talk.sync().seconds -= 5000;
    assert!(talk.keepalive(0x5000, false).settle(), "a clock that was set back does not silence it");
}

#[test]
fn a_server_that_waits_for_an_answer_gets_its_position_noted_at_once() {
    let mut talk = Talk::default();
    talk.keepalive(0x3000, false).settle();
    talk.sync().told();
    assert!(talk.keepalive(0x3100, true).settle());
    assert_eq!(talk.told(), ["progress to 0/3100"]);
    assert!(!talk.sync().keepalive(0x3100, true).settle(), "what is durable needs no second note");
    assert!(talk.told().is_empty());
}

#[test]
fn a_keepalive_inside_a_transaction_moves_nothing() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1).told();
    assert!(!talk.keepalive(0x9000, true).settle());
    talk.commit();
    assert!(talk.settle());
    assert!(!talk.told().iter().any(|line| line.starts_with("progress")));
    talk.sync().start(10, true);
    assert!(!talk.keepalive(0x9000, true).settle());
    talk.stop();
    assert!(talk.keepalive(0x9000, true).settle(), "a transaction in progress holds up nothing");
}

#[test]
fn frames_without_a_position_lower_nothing() {
    let mut talk = Talk::default();
    talk.machine.frame(Lsn(0x5000));
    talk.machine.frame(Lsn::ZERO);
    talk.keepalive(0, true).settle();
    assert_eq!(talk.machine.positions().received, Lsn(0x5000));
    assert_eq!(talk.machine.positions().appended, ResumeLsn(Lsn(START)));
    assert_eq!(talk.machine.at(), Lsn(0x5000));
}

#[test]
fn a_message_outside_a_transaction_is_noted_so_that_it_does_not_come_twice() {
    let mut talk = Talk::default();
    talk.say(Message::Logical { xid: None, message: logical(false, 0x1800, "ping") });
    assert!(talk.settle());
    assert_eq!(talk.told(), ["message ping", "progress to 0/1800"]);
    talk.say(Message::Logical { xid: None, message: logical(false, 0x1900, "ping") }).reconnect(0);
    assert_eq!(talk.told(), ["message ping", "rollback", "progress to 0/1900"]);
    talk.say(Message::Logical { xid: None, message: logical(false, 0x1900, "ping") });
    assert!(talk.told().is_empty());
}

#[test]
fn a_message_in_a_transaction_is_one_of_its_changes() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).say(Message::Logical { xid: None, message: logical(true, 0x1f00, "p") }).commit();
    assert_eq!(talk.told(), ["begin 7 at 0/2000", "message p", "commit to 0/2030 with 1"]);
    talk.start(10, true).say(Message::Logical { xid: Some(11), message: logical(true, 0x1f00, "p") });
    talk.say(Message::Relation { xid: Some(10), relation: table(1, "t", &[23]) });
    talk.say(Message::Truncate {
        xid: Some(10),
        truncate: Truncate { relations: vec![1], cascade: false, restart_identity: false },
    });
    talk.stop().stream_commit(10, 0x2100);
    assert_eq!(
        talk.told(),
        [
            "side 10/11 message p",
            "side 10 relation public.t(c0:23)",
            "side 10/10 truncate [1]",
            "adopt 10 at 0/2100 to 0/2130 with 2"
        ]
    );
}

#[test]
fn changes_that_belong_nowhere_are_refused() {
    assert!(Talk::default().try_insert(None, 1, 1).is_err(), "outside a transaction");
    let mut talk = Talk::default();
    talk.begin(7, 0x2000);
    assert!(talk.try_insert(None, 1, 1).is_err(), "of a table that was not described");
    talk.relation(table(1, "t", &[23]));
    assert!(talk.try_insert(None, 1, 2).is_err(), "with a column too many");
    assert!(talk.try_say(begin(8, 0x3000)).is_err(), "a begin inside a transaction");
    assert!(
        talk.try_say(Message::StreamStart { xid: 9, first: true }).is_err(),
        "a block inside a transaction"
    );
    let mut talk = Talk::default();
    assert!(talk.try_say(Message::StreamStart { xid: 9, first: false }).is_err(), "a later block alone");
    assert!(talk.try_say(commit(0x2000, 0x2030)).is_err(), "a commit alone");
    assert!(talk.try_say(stream_commit(9, 0x2000)).is_err(), "a stream commit alone");
}

#[test]
fn two_phase_messages_are_refused_with_a_remedy() {
    let prepared =
        crate::pgoutput::Prepared { lsn: Lsn(1), end_lsn: Lsn(2), time: Timestamp(0), xid: 7, gid: "g" };
    let error = Talk::default().try_say(Message::BeginPrepare(prepared)).unwrap_err();
    assert!(matches!(error, Error::TwoPhase));
    assert!(error.hint().unwrap().contains("irongate setup"));
}

#[test]
fn a_type_that_cannot_travel_in_binary_is_found_when_its_table_is_described() {
    let mut talk = Talk::new(Settings { binary: true, ..Settings::default() });
    talk.begin(7, 0x2000).relation(table(1, "t", &[23, 25]));
    let array = Message::Relation { xid: None, relation: table(2, "u", &[23, 1007]) };
    assert!(matches!(talk.try_say(array), Err(Error::NotBinary { type_oid: 1007, .. })));
}

#[test]
fn the_sinks_error_passes_through_and_the_transaction_can_be_rolled_back() {
    let mut talk = Talk::default();
    talk.begin(7, 0x2000).relation(table(1, "t", &[23])).insert(1, 1);
    talk.sink.fail = true;
    assert!(matches!(talk.try_say(commit(0x2000, 0x2030)), Err(Error::Sink(_))));
    assert_eq!(talk.machine.positions().appended, ResumeLsn(Lsn(START)));
    talk.sink.fail = false;
    talk.told();
    assert_eq!(talk.disconnect().told(), ["rollback"]);
}

#[test]
fn stopping_notes_the_place_whatever_the_time() {
    let mut talk = Talk::default();
    talk.keepalive(0x3000, false).settle();
    talk.sync().keepalive(0x4000, false).settle();
    talk.told();
    talk.machine.stopping();
    assert!(talk.settle());
    assert_eq!(talk.told(), ["progress to 0/4000"]);
}
