//! Each refusal has its own words and a remedy, and nothing is written.

use std::sync::Arc;

use irongate_checkpoint::State;
use irongate_pump::wire::Code;
use irongate_pump::{AcceptedFlow, Collector, Error, PumpSettings};
use irongate_trail::{Lineage, Lsn, PurgePolicy, ResumeLsn, purge, register_reader};

use crate::support::{World, collector, listener, pump, run_collector, until};
use crate::trail::{LINEAGE, START, Source, content};

/// Runs a pump that is refused for good, and checks what it says.
async fn refused(world: &World, settings: PumpSettings, code: Code, words: &[&str]) {
    let before = content(&world.far());
    let error = pump(settings).ends().await.unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "no \"{word}\" in: {error}");
    }
    assert!(!error.is_transient() && error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
    assert_eq!(content(&world.far()), before, "nothing is written");
    let status = world.pump_status();
    assert_eq!(status.state, State::Abended);
    assert_eq!(status.error.unwrap().message, error.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_there_is_told_so() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(10);
    let (listening, address) = listener().await;
    let mut settings = world.collector_settings();
    settings.flows[0].epoch = 3;
    settings.flows.push(AcceptedFlow { flow: "css".to_owned(), from: "elsewhere".to_owned(), epoch: 1 });
    let running = collector(settings, Some(listening));
    let own = PumpSettings { epoch: 3, ..world.pump_settings(address) };
    let other = |change: fn(&mut PumpSettings)| {
        let mut settings = own.clone();
        change(&mut settings);
        settings
    };
    let shop = other(|settings| settings.deployment = "library".to_owned());
    refused(&world, shop, Code::Deployment, &["\"shop\"", "\"library\""]).await;
    let flow = other(|settings| settings.flow = "msp".to_owned());
    refused(&world, flow, Code::Flow, &["flow \"msp\" is not known"]).await;
    let site = other(|settings| settings.flow = "css".to_owned());
    refused(&world, site, Code::Site, &["comes from site \"elsewhere\""]).await;
    let impostor = other(|settings| settings.site = "elsewhere".to_owned());
    refused(&world, impostor, Code::Site, &["wrong name", "\"elsewhere\""]).await;
    let old = other(|settings| settings.epoch = 2);
    refused(&world, old, Code::Epoch, &["epoch 2", "epoch 3"]).await;
    assert!(!world.far().join("000000001.trail").exists());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_of_another_history_is_told_apart_from_a_gap_and_a_fork() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.transaction(5);
    source.transaction(5);
    source.sync();
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    let settings = world.pump_settings(address);
    let first = pump(settings.clone());
    world.arrives().await;
    first.stop().await.unwrap();
    drop(source);

    let another = |lineage: Lineage, start: ResumeLsn, name: &str| {
        let trail = world.dir.path().join(name);
        let source = Source::create_with(&trail, 2, lineage, start, 2_000);
        (PumpSettings { trail, ..settings.clone() }, source)
    };
    let (cluster, mut source) = another(Lineage { system_identifier: 8, ..LINEAGE }, START, "cluster");
    source.write(3);
    refused(&world, cluster, Code::Lineage, &["another database cluster", "system 8"]).await;
    let (slot, mut source) = another(Lineage { slot_incarnation: Lsn(4), ..LINEAGE }, START, "slot");
    source.write(3);
    refused(&world, slot, Code::Lineage, &["another history", "slot created at 0/4"]).await;
    let (gap, mut source) = another(LINEAGE, ResumeLsn(Lsn(5_000)), "gap");
    source.transaction(3);
    source.sync();
    refused(&world, gap, Code::Gap, &["gap"]).await;
    // Commit 2000 is there and here is none of that place, but a later one.
    let (fork, mut source) = another(LINEAGE, START, "fork");
    source.transaction(3);
    source.next = 3;
    source.transaction(3);
    source.sync();
    refused(&world, fork, Code::Fork, &["commit 0/7D0", "is not in the trail"]).await;

    // One that ends before may only be late.
    let (behind, mut source) = another(LINEAGE, START, "behind");
    source.transaction(5);
    source.sync();
    let late = pump(behind);
    until("it says so", || {
        world.pump_status().error.is_some_and(|error| error.message.contains("0/7D0") && error.transient)
    })
    .await;
    assert!(!late.has_ended());
    late.stop().await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_epoch_than_the_trail_s_is_refused_also_after_a_restart() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.transaction(5);
    source.writer.begin_epoch(4).unwrap();
    source.transaction(5);
    source.sync();
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    // The trail here is of a later epoch than the pump is told.
    let error = pump(world.pump_settings(address)).ends().await.unwrap_err();
    assert!(matches!(error, Error::Trail(irongate_trail::Error::Epoch { found: 4, own: 1, .. })), "{error}");
    let first = pump(PumpSettings { epoch: 4, ..world.pump_settings(address) });
    world.arrives().await;
    first.stop().await.unwrap();
    running.stop().await.unwrap();
    // The old primary's trail, which never heard of epoch 4.
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    let trail = world.dir.path().join("old");
    let mut old = Source::create(&trail, 1);
    old.transaction(5);
    old.transaction(5);
    old.transaction(5);
    old.sync();
    let settings = PumpSettings { epoch: 3, trail: trail.clone(), ..world.pump_settings(address) };
    refused(&world, settings, Code::Epoch, &["epoch 3", "epoch 4"]).await;
    // Though it claims to be of the present epoch, what it would send is not.
    let settings = PumpSettings { epoch: 4, trail, ..world.pump_settings(address) };
    refused(&world, settings, Code::Epoch, &["epoch 1", "epoch 4"]).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_whose_trail_was_purged_before_the_first_connection_is_a_gap() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(60);
    let storage = irongate_trail::Directory::new(world.near());
    register_reader(&storage, "somebody", &source.writer.durable()).unwrap();
    assert!(!purge(&storage, &PurgePolicy::default()).unwrap().removed.is_empty());
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    refused(&world, world.pump_settings(address), Code::Gap, &["has yet to begin here"]).await;
    assert!(!world.far().join("000000001.trail").exists());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pump_of_a_flow_is_told_who_the_first_is() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(10);
    let (listening, address) = listener().await;
    let running = collector(world.collector_settings(), Some(listening));
    let first = pump(world.pump_settings(address));
    world.arrives().await;
    let second = pump(PumpSettings { group: "impatient".to_owned(), ..world.pump_settings(address) });
    let state = world.dir.path().join("main/state");
    until("it is told", || {
        let status = irongate_checkpoint::read_status(&state, "impatient").unwrap();
        status.and_then(|status| status.error).is_some_and(|error| {
            error.message.contains("pump \"csp-pump\" of site \"main\" at 127.0.0.1") && error.transient
        })
    })
    .await;
    // When the first is gone, the second goes on.
    first.stop().await.unwrap();
    source.write(10);
    world.arrives().await;
    second.stop().await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_collector_is_told_and_waited_out() {
    let world = World::new();
    let mut source = Source::create(&world.near(), 1);
    source.write(20);
    let (listening, address) = listener().await;
    let disk = crate::full::Narrow::new(world.dir.path().join("secondary/trail"));
    disk.allow(20_000);
    let storage = Arc::clone(&disk);
    let running = run_collector(
        Collector::new(world.collector_settings())
            .with_listener(listening)
            .with_storage(move |flow| storage.open(flow)),
    );
    let carrying = pump(world.pump_settings(address));
    source.write(60);
    until("the pump says why", || {
        world.pump_status().error.is_some_and(|error| {
            error.message.contains("refuses: could not write")
                && error.transient
                && error.hint.is_some_and(|hint| hint.contains("at the collector's site: free space"))
        })
    })
    .await;
    assert!(content(&world.near()).starts_with(&content(&world.far())));
    until("the flow's status says so too", || world.flow_status().error.is_some()).await;
    disk.allow(u64::MAX);
    world.arrives().await;
    until("nothing is wrong any more", || world.pump_status().error.is_none()).await;
    carrying.stop().await.unwrap();
    running.stop().await.unwrap();
    world.is_identical();
}
