//! One fact at a time is made wrong.

use super::*;

const AT: ResumeLsn = ResumeLsn(Lsn(0x5000));

fn server() -> Server {
    Server { system_identifier: 77, timeline: 1, wal_end: Lsn(0x9000), database: "app".to_owned() }
}

fn slot() -> Slot {
    Slot {
        plugin: Some(PLUGIN.to_owned()),
        database: Some("app".to_owned()),
        confirmed_flush: Some(Lsn(0x4000)),
        restart_lsn: Some(Lsn(0x3000)),
        wal_status: Some("reserved".to_owned()),
        ..Slot::default()
    }
}

fn own() -> Own {
    let lineage = Lineage { system_identifier: 77, timeline: 1, slot_incarnation: Lsn(0x1000) };
    Own { lineage, durable: AT }
}

fn refuse(server: &Server, history: &[(u32, Lsn)], slot: Option<&Slot>, own: &Own) -> Refusal {
    let refusal = check("csp", server, history, slot, own).unwrap_err();
    assert!(refusal.hint().is_some_and(|hint| !hint.is_empty()));
    refusal
}

fn refuse_slot(change: impl FnOnce(&mut Slot)) -> Refusal {
    let mut slot = slot();
    change(&mut slot);
    refuse(&server(), &[], Some(&slot), &own())
}

fn accept(server: &Server, history: &[(u32, Lsn)], slot: &Slot, own: &Own) -> Start {
    check("csp", server, history, Some(slot), own).unwrap()
}

#[test]
fn a_slot_behind_the_trail_starts_at_the_trails_own_place() {
    let start = accept(&server(), &[], &slot(), &own());
    assert_eq!(start, Start { at: AT, lineage: own().lineage, unreserved: false });
    let equal = Slot { confirmed_flush: Some(AT.0), ..slot() };
    assert_eq!(accept(&server(), &[], &equal, &own()).at, AT);
}

#[test]
fn an_empty_trail_starts_where_the_slot_was_created() {
    let own = Own { durable: ResumeLsn::default(), ..own() };
    let fresh = Slot { confirmed_flush: Some(Lsn(0x1000)), ..slot() };
    assert_eq!(accept(&server(), &[], &fresh, &own).at, ResumeLsn(Lsn(0x1000)));
    let advanced = Slot { confirmed_flush: Some(Lsn(0x1001)), ..slot() };
    assert!(matches!(refuse(&server(), &[], Some(&advanced), &own).reason, Reason::Ahead { .. }));
}

#[test]
fn a_slot_ahead_of_the_trail_has_lost_changes() {
    let refusal = refuse_slot(|slot| slot.confirmed_flush = Some(Lsn(0x5001)));
    assert_eq!(refusal.reason, Reason::Ahead { confirmed: Lsn(0x5001), durable: AT });
    assert_eq!(
        refusal.to_string(),
        "replication slot \"csp\" is at 0/5001, ahead of the trail at 0/5000: it was advanced or created again by somebody, and the changes between are lost"
    );
    assert!(refusal.hint().unwrap().contains("instantiate"));
    assert!(!refusal.is_transient());
}

#[test]
fn another_system_is_refused_before_anything_else() {
    let other = Server { system_identifier: 78, timeline: 9, ..server() };
    let refusal = refuse(&other, &[], None, &own());
    assert_eq!(refusal.reason, Reason::OtherSystem { expected: 77, found: 78 });
}

#[test]
fn a_new_timeline_is_accepted_only_on_a_proven_path() {
    let promoted = Server { timeline: 3, ..server() };
    let synced = Slot { synced: true, ..slot() };
    let history = &[(1, Lsn(0x5000)), (2, Lsn(0x6000))];
    let start = accept(&promoted, history, &synced, &own());
    assert_eq!(start.lineage.timeline, 3);
    assert_eq!(start.at, AT);

    let lacks =
        |history: &[(u32, Lsn)], slot: &Slot| match refuse(&promoted, history, Some(slot), &own()).reason {
            Reason::OtherTimeline { expected: 1, found: 3, durable: AT, lacks } => lacks,
            other => panic!("{other:?}"),
        };
    assert_eq!(lacks(&[(2, Lsn(0x6000))], &synced), TimelineProof::NotInHistory);
    assert_eq!(lacks(&[(1, Lsn(0x4fff))], &synced), TimelineProof::LeftAt(Lsn(0x4fff)));
    assert_eq!(lacks(history, &slot()), TimelineProof::NotSynced);
}

#[test]
fn every_case_of_a_failover_is_decided() {
    let synced = || Slot { synced: true, ..slot() };
    let temporary = Slot { temporary: true, ..synced() };
    let invalid = Slot { invalidation_reason: Some("wal_removed".to_owned()), ..synced() };
    let ahead = Slot { confirmed_flush: Some(Lsn(0x5001)), ..synced() };
    let promoted = |timeline| Server { timeline, ..server() };
    let at = |lsn| [(1, Lsn(lsn))];
    // The timeline, its history, the slot; and what is lacking (nothing: it goes on).
    type Case<'a> = (u32, &'a [(u32, Lsn)], Option<Slot>, Option<&'a str>);
    let cases: &[Case<'_>] = &[
        (1, &[], Some(slot()), None),
        (2, &at(0x5000), Some(synced()), None),
        (2, &at(0x8000), Some(synced()), None),
        (3, &[(1, Lsn(0x5000)), (2, Lsn(0x5500))], Some(synced()), None),
        (2, &at(0x4fff), Some(synced()), Some("which the server left earlier, at 0/4FFF")),
        (3, &[(2, Lsn(0x5500))], Some(synced()), Some("which is not in the server's history")),
        (2, &at(0x5000), Some(slot()), Some("was not synchronized before the promotion")),
        (2, &at(0x5000), None, Some("was promoted from timeline 1 to 2 without replication slot")),
        (3, &[(2, Lsn(0x5500))], None, Some("does not exist")),
        (2, &at(0x5000), Some(temporary), Some("is temporary")),
        (2, &at(0x5000), Some(invalid), Some("is lost: wal_removed")),
        (2, &at(0x5000), Some(ahead), Some("ahead of the trail")),
    ];
    for (number, (timeline, history, slot, lacking)) in cases.iter().enumerate() {
        let decided = check("csp", &promoted(*timeline), history, slot.as_ref(), &own());
        match (decided, lacking) {
            (Ok(start), None) => assert_eq!((start.at, start.lineage.timeline), (AT, *timeline)),
            (Err(refusal), Some(lacking)) => {
                assert!(refusal.to_string().contains(lacking), "case {number}: {refusal}");
                assert!(!refusal.is_transient() && refusal.hint().is_some(), "case {number}");
            }
            (decided, _) => panic!("case {number}: {decided:?}"),
        }
    }
}

#[test]
fn an_older_timeline_is_refused() {
    let own = Own { lineage: Lineage { timeline: 2, ..own().lineage }, ..own() };
    let refusal = refuse(&server(), &[], Some(&Slot { synced: true, ..slot() }), &own);
    assert!(matches!(refusal.reason, Reason::OtherTimeline { expected: 2, found: 1, .. }));
}

#[test]
fn a_server_that_was_set_back_is_refused() {
    let behind = Server { wal_end: Lsn(0x4fff), ..server() };
    let refusal = refuse(&behind, &[], Some(&slot()), &own());
    assert_eq!(refusal.reason, Reason::ServerBehind { wal_end: Lsn(0x4fff), durable: AT });
    let level = Server { wal_end: AT.0, ..server() };
    accept(&level, &[], &slot(), &own());
}

#[test]
fn a_slot_that_is_not_there_is_said() {
    let refusal = refuse(&server(), &[], None, &own());
    assert_eq!(refusal.to_string(), "replication slot \"csp\" does not exist");
}

#[test]
fn a_lost_slot_is_recognised_on_every_release() {
    let lost = |why: &str| Reason::Lost { why: why.to_owned() };
    assert_eq!(
        refuse_slot(|slot| slot.wal_status = Some("lost".to_owned())).reason,
        lost("the log it needs was removed")
    );
    assert_eq!(refuse_slot(|slot| slot.conflicting = true).reason, lost("conflict with recovery"));
    assert_eq!(
        refuse_slot(|slot| slot.invalidation_reason = Some("idle_timeout".to_owned())).reason,
        lost("idle_timeout")
    );
    // An invalidated slot shows no positions; it is lost, and not unready.
    let refusal = refuse_slot(|slot| {
        slot.wal_status = Some("lost".to_owned());
        slot.confirmed_flush = None;
    });
    assert!(matches!(refusal.reason, Reason::Lost { .. }));
}

#[test]
fn an_unreserved_slot_starts_with_a_warning() {
    let unreserved = Slot { wal_status: Some("unreserved".to_owned()), ..slot() };
    assert!(accept(&server(), &[], &unreserved, &own()).unreserved);
}

#[test]
fn a_slot_of_another_make_is_refused() {
    assert_eq!(
        refuse_slot(|slot| slot.plugin = Some("test_decoding".to_owned())).reason,
        Reason::OtherPlugin(Some("test_decoding".to_owned()))
    );
    assert_eq!(
        refuse_slot(|slot| slot.plugin = None).to_string(),
        "replication slot \"csp\" is not a logical one"
    );
    assert!(matches!(
        refuse_slot(|slot| slot.database = Some("log".to_owned())).reason,
        Reason::OtherDatabase { .. }
    ));
    assert_eq!(refuse_slot(|slot| slot.two_phase = true).reason, Reason::TwoPhase);
    assert_eq!(refuse_slot(|slot| slot.temporary = true).reason, Reason::Temporary);
}

#[test]
fn a_slot_in_use_or_in_creation_is_worth_another_try() {
    let active = refuse_slot(|slot| slot.active_pid = Some(4711));
    assert_eq!(active.reason, Reason::Active { pid: 4711 });
    assert!(active.is_transient());
    let unready = refuse_slot(|slot| slot.confirmed_flush = None);
    assert_eq!(unready.reason, Reason::Unready);
    assert!(unready.is_transient());
}

#[test]
fn an_active_slot_that_is_ahead_is_not_worth_another_try() {
    let refusal = refuse_slot(|slot| {
        slot.active_pid = Some(4711);
        slot.confirmed_flush = Some(Lsn(0x8000));
    });
    assert!(matches!(refusal.reason, Reason::Ahead { .. }));
    assert!(!refusal.is_transient());
}

#[test]
fn a_trail_from_before_the_slots_creation_has_a_gap() {
    let own = Own { lineage: Lineage { slot_incarnation: Lsn(0x6000), ..own().lineage }, durable: AT };
    let refusal = refuse(&server(), &[], Some(&slot()), &own);
    assert_eq!(refusal.reason, Reason::BeforeSlot { durable: AT, created: Lsn(0x6000) });
}
