//! What is sent arrives as it was, by whichever way the two sites meet.

use std::sync::Arc;

use irongate_checkpoint::State;
use irongate_pump::{Meeting, PumpSettings};
use irongate_trail::{Directory, Lineage, Lsn, Position, PurgePolicy, ResumeLsn, purge, readers};

use crate::support::{World, collector, listener, listening_pump, pump, until};
use crate::trail::{LINEAGE, START, Source, content, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_as_it_was_while_it_is_being_written() {
    let (world, seed) = (World::new(), seed());
    let mut source = Source::create(&world.near(), seed);
    source.write(30);
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(PumpSettings { compression: Some(3), ..world.pump_settings(address) });
    world.arrives().await;
    for _ in 0..10 {
        source.write(10);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.arrives().await;
    until("the status follows", || {
        world.pump_status().lag_bytes == Some(0) && world.pump_status().state == State::Running
    })
    .await;
    let stopped = pump.stop().await.unwrap();
    assert_eq!(stopped.acknowledged.commit_lsn, source.writer.durable().commit_lsn);
    assert_eq!(stopped.acknowledged.position.seqno, source.writer.durable().position.seqno);
    let collected = collector.stop().await.unwrap();
    assert_eq!(collected.flows["csp"].commit_lsn, source.writer.durable().commit_lsn);
    assert_eq!(world.pump_status().state, State::Stopped);
    assert_eq!(world.flow_status().state, State::Stopped);
    let counters = (world.pump_status().counters, world.flow_status().counters);
    assert_eq!(counters.0.transactions, counters.1.transactions);
    assert_eq!(counters.0.rows_inserted, counters.1.rows_inserted);
    assert!(counters.0.truncates > 0 && counters.0.truncates == counters.1.truncates);
    assert_eq!(world.flow_status().position, Some(collected.flows["csp"].position));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_can_be_the_one_that_connects() {
    let (world, seed) = (World::new(), seed());
    let mut source = Source::create(&world.near(), seed);
    source.write(30);
    let (listening, address) = listener().await;
    let mut settings = world.collector_settings();
    settings.connect.push(("main".to_owned(), address.to_string()));
    // It begins before the pump is there, and tries again.
    let first = collector(settings.clone(), None);
    let mut meeting = world.pump_settings(address);
    meeting.meeting = Meeting::Listen(address.to_string());
    let pump = listening_pump(meeting, listening);
    world.arrives().await;
    first.stop().await.unwrap();
    source.write(20);
    let second = collector(settings, None);
    world.arrives().await;
    pump.stop().await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_goes_on_over_a_promotion_and_into_another_epoch() {
    let (world, seed) = (World::new(), seed());
    let mut source = Source::create(&world.near(), seed);
    source.write(10);
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(PumpSettings { epoch: 2, ..world.pump_settings(address) });
    world.arrives().await;
    let promoted = Lineage { timeline: 2, ..LINEAGE };
    let start = source.writer.appended().resume_lsn;
    source.writer.begin_lineage(promoted, start).unwrap();
    source.write(10);
    source.writer.begin_epoch(2).unwrap();
    source.write(10);
    world.arrives().await;
    let far = content(&world.far());
    assert!(far.last().unwrap().contains("timeline 2") && far.last().unwrap().contains(" 2: "));
    // Both begin again behind that.
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
    source.write(5);
    let (listening, address) = listener().await;
    let collector = crate::support::collector(world.collector_settings(), Some(listening));
    let pump = crate::support::pump(PumpSettings { epoch: 2, ..world.pump_settings(address) });
    world.arrives().await;
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_removes_what_the_other_site_has_and_nothing_else() {
    let (world, seed) = (World::new(), seed());
    let mut source = Source::create(&world.near(), seed);
    source.write(60);
    let storage = Directory::new(world.near());
    let policy = PurgePolicy::default();
    let (listening, address) = listener().await;
    // The collector is not there yet: the pump's mark holds back everything from its first attempt on.
    let pump = pump(world.pump_settings(address));
    until("the pump's mark is there", || !readers(&storage).unwrap().is_empty()).await;
    assert_eq!(readers(&storage).unwrap()[0].1.position, Position::default());
    assert!(purge(&storage, &policy).unwrap().removed.is_empty());
    let expected = content(&world.near());
    let collector = collector(world.collector_settings(), Some(listening));
    world.arrives().await;
    until("the mark follows", || {
        readers(&storage).unwrap()[0].1.position.seqno == source.writer.durable().position.seqno
    })
    .await;
    assert!(!purge(&storage, &policy).unwrap().removed.is_empty());
    assert_eq!(content(&world.far()), expected);
    source.write(20);
    until("what was written later arrives", || {
        let far = content(&world.far());
        far.last() == content(&world.near()).last() && far.len() > expected.len()
    })
    .await;
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_trail_s_progress_is_carried_and_acknowledged() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.transaction(3);
    source.sync();
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(world.pump_settings(address));
    world.arrives().await;
    source.progress();
    source.sync();
    world.arrives().await;
    let reached = source.writer.durable().resume_lsn;
    assert_eq!(reached, ResumeLsn(Lsn(1101)));
    until("it is acknowledged", || world.pump_status().resume_lsn == Some(reached.0)).await;
    // Each connection says what it must and repeats nothing.
    let before = content(&world.far());
    for _ in 0..3 {
        let again = Arc::new(Directory::new(world.near()));
        let mark = readers(&*again).unwrap()[0].1;
        assert!(mark.position.seqno > 0);
    }
    pump.stop().await.unwrap();
    let pump = crate::support::pump(world.pump_settings(address));
    until("it is connected again", || world.pump_status().state == State::Running).await;
    pump.stop().await.unwrap();
    assert_eq!(content(&world.far()), before);
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_between_transactions_arrive_though_files_end_between_them() {
    let world = World::new();
    let mut source = Source::create_with(&world.near(), 1, LINEAGE, START, 1000);
    source.transaction(1);
    source.sync();
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let first = pump(world.pump_settings(address));
    world.arrives().await;
    first.stop().await.unwrap();
    // Several files that all follow the same commit.
    for _ in 0..100 {
        source.message();
    }
    source.sync();
    assert!(source.writer.durable().position.seqno > 3);
    let second = pump(world.pump_settings(address));
    world.arrives().await;
    second.stop().await.unwrap();
    for _ in 0..100 {
        source.message();
    }
    source.transaction(1);
    source.sync();
    let third = pump(world.pump_settings(address));
    world.arrives().await;
    third.stop().await.unwrap();
    collector.stop().await.unwrap();
}
