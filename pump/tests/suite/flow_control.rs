//! Slow readers, narrow lines, and peers that say nothing.

use std::time::{Duration, Instant};

use irongate_pump::PumpSettings;

use crate::relay::Relay;
use crate::support::{World, collector, listener, pump, until};
use crate::trail::Source;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_is_held_back_by_a_peer_that_does_not_read() {
    let world = World::new();
    let mut source =
        Source::create_with(&world.near(), 1, crate::trail::LINEAGE, crate::trail::START, 1 << 20);
    for _ in 0..10 {
        source.large(100, 60_000);
    }
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let collector = collector(world.collector_settings(), Some(listening));
    let mut settings = world.pump_settings(relay.address);
    // Small, so that what lies in them, and in the relay's own, is no large part of the trail.
    settings.link.socket_buffer = Some(100_000);
    settings.link.silence = Duration::from_secs(20);
    let running = pump(settings);
    until("it has begun", || relay.up() > 1_000_000).await;
    relay.stall(true);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let sent = world.pump_status().counters.bytes;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(world.pump_status().counters.bytes, sent, "nothing is read on");
    assert!(sent < relay.up() + 20_000_000, "{sent} bytes, and {} passed", relay.up());
    relay.stall(false);
    world.arrives().await;
    running.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_bandwidth_is_kept_and_used() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.large(30, 100_000);
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let collector = collector(world.collector_settings(), Some(listening));
    let begin = Instant::now();
    let running = pump(PumpSettings { bandwidth: Some(1_500_000), ..world.pump_settings(relay.address) });
    world.arrives().await;
    let took = begin.elapsed().as_secs_f64();
    // 3 MB at 1.5 MB a second, of which a tenth of a second is free at the begin.
    assert!((1.8..4.0).contains(&took), "{took} s");
    running.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_says_nothing_is_given_up_and_an_idle_one_is_not() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(10);
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let mut settings = world.collector_settings();
    settings.link.silence = Duration::from_millis(1500);
    let collector = collector(settings, Some(listening));
    let mut settings = world.pump_settings(relay.address);
    settings.link.silence = Duration::from_millis(1500);
    let running = pump(settings);
    world.arrives().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.connections(), 1, "an idle link lives on");
    until("the distance is known", || world.pump_status().doing.contains("round trip")).await;
    relay.stall(true);
    until("it is noticed", || {
        world.pump_status().error.is_some_and(|error| {
            error.message.contains("silent for 1 s") || error.message.contains("has not answered")
        })
    })
    .await;
    relay.stall(false);
    source.write(10);
    world.arrives().await;
    running.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_socket_can_carry_at_once_goes_in_pieces_compressed_or_not() {
    for compression in [None, Some(1)] {
        let world = World::new();
        let mut source = Source::create(&world.near(), 1);
        source.large(2, 9_000_000);
        source.sync();
        let (listening, address) = listener().await;
        let collector = collector(world.collector_settings(), Some(listening));
        let running = pump(PumpSettings { compression, ..world.pump_settings(address) });
        world.arrives().await;
        running.stop().await.unwrap();
        collector.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_durable_there_is_not_acknowledged_and_not_purged_here() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(10);
    let (listening, address) = listener().await;
    let disk = crate::full::Narrow::new(world.dir.path().join("secondary/trail"));
    let storage = std::sync::Arc::clone(&disk);
    let collector = crate::support::run_collector(
        irongate_pump::Collector::new(world.collector_settings())
            .with_listener(listening)
            .with_storage(move |flow| storage.open(flow)),
    );
    let running = pump(world.pump_settings(address));
    world.arrives().await;
    let near = irongate_trail::Directory::new(world.near());
    let mark = || irongate_trail::readers(&near).unwrap()[0].1;
    let first = source.writer.durable().commit_lsn;
    until("the first part is acknowledged", || mark().commit_lsn == first).await;
    let before = crate::trail::content(&world.far()).len();
    disk.be_slow(true);
    source.write(60);
    let transactions = world.pump_status().counters.transactions;
    until("the rest is sent", || world.pump_status().counters.transactions > transactions + 20).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(mark().commit_lsn, first);
    assert_eq!(world.pump_status().commit_lsn, Some(first.0));
    assert_eq!(crate::trail::content(&world.far()).len(), before, "nobody reads it there either");
    disk.be_slow(false);
    world.arrives().await;
    until("the rest is acknowledged", || mark().commit_lsn == source.writer.durable().commit_lsn).await;
    running.stop().await.unwrap();
    collector.stop().await.unwrap();
}
