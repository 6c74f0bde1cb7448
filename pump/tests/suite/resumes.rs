//! In the middle of a transaction.

use std::time::Duration;

use irongate_trail::{Lineage, Lsn, ResumeLsn};

use crate::relay::{Fault, Relay, Way};
use crate::support::{World, collector, listener, pump, until};
use crate::trail::{LINEAGE, Source, content};

const ROWS: u64 = 200;
const ROW: usize = 50_000;
const ALL: u64 = ROWS * ROW as u64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_goes_on_where_the_link_was_cut() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.transaction(5);
    source.large(ROWS, ROW);
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    // After each of these bytes of one connection, nine tenths of the transaction in all.
    relay.plan([
        Fault::Cut(Way::Up, ALL * 3 / 10),
        Fault::Cut(Way::Up, ALL * 3 / 10),
        Fault::Cut(Way::Up, ALL * 3 / 10),
    ]);
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(world.pump_settings(relay.address));
    world.arrives().await;
    let sent = relay.up();
    // What was under way at a cut is sent again: a batch and a socket's buffer each time, and never a third of it all.
    assert!(sent < ALL * 13 / 10, "{sent} bytes for {ALL}");
    assert_eq!(relay.connections(), 4);
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
    world.is_identical();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_that_was_killed_goes_on_in_the_middle_too() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.large(ROWS, ROW);
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let collector = collector(world.collector_settings(), Some(listening));
    let mut settings = world.pump_settings(relay.address);
    settings.bandwidth = Some(ALL);
    let first = pump(settings.clone());
    until("half is sent", || relay.up() > ALL / 2).await;
    first.kill().await;
    settings.bandwidth = None;
    let second = pump(settings);
    world.arrives().await;
    let sent = relay.up();
    assert!(sent < ALL * 12 / 10, "{sent} bytes for {ALL}");
    second.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_was_restarted_is_sent_the_whole_transaction_again() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.transaction(5);
    source.large(ROWS, ROW);
    source.transaction(5);
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let first = collector(world.collector_settings(), Some(listening));
    let mut settings = world.pump_settings(relay.address);
    settings.bandwidth = Some(ALL);
    let pump = pump(settings);
    until("half is sent", || relay.up() > ALL / 2).await;
    first.kill().await;
    let begun = content(&world.far());
    assert!(!begun.is_empty() && content(&world.near()).starts_with(&begun));
    let listening = loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listening) => break listening,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let second = collector(world.collector_settings(), Some(listening));
    world.arrives().await;
    assert!(relay.up() > ALL * 14 / 10, "it was sent again");
    pump.stop().await.unwrap();
    second.stop().await.unwrap();
    world.is_identical();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_takes_over_from_its_own_connection_that_the_collector_still_believes_in() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.large(ROWS, ROW);
    source.sync();
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    relay.plan([Fault::Mute(Way::Up, ALL / 2)]);
    let mut settings = world.collector_settings();
    settings.link.silence = Duration::from_secs(300);
    let collector = collector(settings, Some(listening));
    let mut settings = world.pump_settings(relay.address);
    settings.link.silence = Duration::from_millis(1500);
    let running = pump(settings);
    // Far sooner than the collector would give the first connection up.
    world.arrives().await;
    assert_eq!(relay.connections(), 2);
    assert!(relay.up() < ALL * 12 / 10, "and it has gone on in the middle");
    running.stop().await.unwrap();
    collector.stop().await.unwrap();
}

/// From a later slot, with the pump running or not, and with transactions left of the history before or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_that_was_instantiated_again_goes_on_behind_what_is_there() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(10);
    let (listening, address) = listener().await;
    let collector = collector(world.collector_settings(), Some(listening));
    let mut running = Some(pump(world.pump_settings(address)));
    world.arrives().await;
    for round in 1..=4 {
        if round % 2 == 0 {
            running.take().unwrap().stop().await.unwrap();
            // What the pump has not carried of the old history nobody can use any more.
            source.write(3);
        }
        let before = content(&world.far());
        let lineage = Lineage { slot_incarnation: Lsn(5 + round), ..LINEAGE };
        source.writer.begin_lineage(lineage, ResumeLsn(Lsn(source.next * 1000))).unwrap();
        source.next += 1;
        source.write(5);
        let running = running.get_or_insert_with(|| pump(world.pump_settings(address)));
        let name = lineage.to_string();
        let new = || {
            let of_lineage = |items: Vec<String>| -> Vec<String> {
                items.into_iter().filter(|item| item.starts_with(&name)).collect()
            };
            [world.near(), world.far()].map(|trail| of_lineage(content(&trail)))
        };
        until("it arrives", || new()[0] == new()[1]).await;
        assert!(new()[0].len() > 5 && !running.has_ended());
        assert!(content(&world.far()).starts_with(&before), "what was there stays");
    }
    running.unwrap().stop().await.unwrap();
    collector.stop().await.unwrap();
}
