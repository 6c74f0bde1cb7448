//! Slow readers, narrow lines, and peers that say nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use irongate_checkpoint::read_status;
use irongate_pump::{Collector, PumpSettings};

use crate::relay::Relay;
use crate::support::{World, collector, listener, pump, run_collector, until};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_holds_before_its_disk_is_full_and_goes_on_alone() {
    let world = World::new();
    let mut source =
        Source::create_with(&world.near(), 1, crate::trail::LINEAGE, crate::trail::START, 1 << 20);
    source.write(20);
    let free = Arc::new(AtomicU64::new(10_000_000));
    let (listening, address) = listener().await;
    let mut settings = world.collector_settings();
    settings.keep_free = Some(1_000_000);
    settings.link.ping_every = Duration::from_millis(300);
    settings.link.silence = Duration::from_millis(1500);
    let theirs = Arc::clone(&free);
    let holding = run_collector(
        Collector::new(settings)
            .with_listener(listening)
            .with_free_bytes(move |_| Ok(theirs.load(Ordering::SeqCst))),
    );
    let mut settings = world.pump_settings(address);
    settings.link.ping_every = Duration::from_millis(300);
    settings.link.silence = Duration::from_millis(1500);
    let running = pump(settings);
    world.arrives().await;
    let begun = world.flow_status().since;
    free.store(999_999, Ordering::SeqCst);
    until("it says that it holds", || {
        let failure = world.flow_status().error;
        failure.is_some_and(|failure| failure.message.contains("MiB free") && failure.transient)
    })
    .await;
    let before = crate::trail::content(&world.far()).len();
    for _ in 0..20 {
        source.large(20, 60_000);
    }
    source.sync();
    // Longer than the silence after which a side counts as gone: the connection is kept.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(crate::trail::content(&world.far()).len() <= before + 40, "what was in hand, and no more");
    assert!(world.pump_status().error.is_none(), "{:?}", world.pump_status());
    assert!(world.pump_status().lag_bytes > Some(0), "nothing is acknowledged that was not taken");
    let collector = read_status(&world.dir.path().join("secondary/state"), "collector").unwrap().unwrap();
    assert!(collector.error.is_some(), "the group says it too: {collector:?}");
    // Not a fifth above the limit yet.
    free.store(1_100_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(world.flow_status().error.is_some());
    free.store(1_200_000, Ordering::SeqCst);
    world.arrives().await;
    until("it says so", || world.flow_status().error.is_none()).await;
    assert_eq!(world.flow_status().since, begun, "the flow has not been opened anew");
    running.stop().await.unwrap();
    holding.stop().await.unwrap();
}
