//! The link is cut and the collector killed, anywhere and again and again: nothing is missing, nothing is there twice.

use crate::relay::{Fault, Relay, Way};
use crate::support::{World, collector, listener, pump, until};
use crate::trail::{Dice, Source, content, seed};

/// So many histories.
const ROUNDS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_anywhere_loses_nothing_and_repeats_nothing() {
    let seed = seed();
    for round in 0..ROUNDS {
        let mut dice = Dice(seed.wrapping_add(round));
        let world = World::new();
        let mut source = Source::create(&world.near(), dice.roll());
        source.write(40);
        source.large(20, 5_000);
        source.write(10);
        let (listening, address) = listener().await;
        let relay = Relay::start(address).await;
        let faults: Vec<Fault> = (0..10)
            .map(|_| match dice.below(4) {
                // The handshake and the answers are short.
                0 => Fault::Cut(Way::Down, dice.below(8_000)),
                _ => Fault::Cut(Way::Up, dice.below(150_000)),
            })
            .collect();
        println!("round {round}: {faults:?}");
        relay.plan(faults);
        let collector = collector(world.collector_settings(), Some(listening));
        let mut settings = world.pump_settings(relay.address);
        settings.compression = (round % 2 == 0).then_some(1);
        let pump = pump(settings);
        for _ in 0..4 {
            source.write(5);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            relay.cut();
        }
        world.arrives().await;
        assert!(relay.connections() > 1, "the link was cut");
        pump.stop().await.unwrap();
        collector.stop().await.unwrap();
        world.is_identical();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_are_killed_anywhere_and_nothing_is_lost_or_repeated() {
    let seed = seed();
    let mut dice = Dice(seed);
    let world = World::new();
    let mut source = Source::create(&world.near(), dice.roll());
    source.write(20);
    for _ in 0..12 {
        source.large(dice.below(60), 20_000);
        source.write(5);
        let (listening, address) = listener().await;
        let collector = collector(world.collector_settings(), Some(listening));
        let mut settings = world.pump_settings(address);
        // So that a kill finds it at work.
        settings.bandwidth = Some(4_000_000);
        let pump = pump(settings);
        tokio::time::sleep(std::time::Duration::from_millis(50 + dice.below(300))).await;
        let (near, far) = (content(&world.near()), content(&world.far()));
        crate::support::is_beginning(&near, &far);
        match dice.below(3) {
            0 => pump.kill().await,
            1 => collector.kill().await,
            _ => {
                collector.kill().await;
                pump.kill().await;
                continue;
            }
        }
        // What is left of the other goes too: its directories are needed.
        tokio::time::sleep(std::time::Duration::from_millis(dice.below(50))).await;
    }
    let (listening, address) = listener().await;
    until("the locks are free", || {
        let locked = |dir: &str, group: &str| {
            irongate_checkpoint::GroupLock::is_held(&world.dir.path().join(dir), group).unwrap()
        };
        !locked("main/state", "csp-pump") && !locked("secondary/state", "collector")
    })
    .await;
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(world.pump_settings(address));
    world.arrives().await;
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_were_changed_or_left_out_on_the_way_are_never_written() {
    let seed = seed();
    let mut dice = Dice(seed);
    let world = World::new();
    let mut source = Source::create(&world.near(), dice.roll());
    source.write(40);
    source.large(50, 4_000);
    let (listening, address) = listener().await;
    let relay = Relay::start(address).await;
    let mut faults = Vec::new();
    for _ in 0..25 {
        // Beyond the handshake, whose failures are another test's.
        let at = 6_000 + dice.below(100_000);
        faults.push(match dice.below(4) {
            0 => Fault::Truncate(Way::Up, at),
            1 => Fault::Alter(Way::Down, 3_500 + dice.below(300)),
            _ => Fault::Alter(Way::Up, at),
        });
    }
    println!("{faults:?}");
    relay.plan(faults);
    let collector = collector(world.collector_settings(), Some(listening));
    let pump = pump(world.pump_settings(relay.address));
    for _ in 0..40 {
        let (near, far) = (content(&world.near()), content(&world.far()));
        crate::support::is_beginning(&near, &far);
        source.write(3);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        relay.cut();
    }
    world.arrives().await;
    assert!(relay.plan_left() < 15, "the faults happened: {} are left", relay.plan_left());
    pump.stop().await.unwrap();
    collector.stop().await.unwrap();
}
