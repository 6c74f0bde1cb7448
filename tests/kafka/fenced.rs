//! Two pumps on one topic.

use irongate_pump::wire::Code;

use crate::support::{World, pump, reader, shared, until};
use crate::trail::{Source, content, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_that_another_one_has_taken_over_from_stops_and_nothing_is_twice() {
    let world = World::new(shared().await, "taken-over").await;
    let mut source = Source::create(&world.near(), seed());
    source.write(30);
    let first = pump(world.pump_settings());
    let far = reader(world.reader_settings("secondary"));
    world.arrives("secondary").await;
    // The same group on another machine, as after a restore.
    let mut settings = world.pump_settings();
    settings.state_directory = world.dir.path().join("main/other-state");
    let second = pump(settings);
    // One that has nothing to write notices nothing, and may have written all there is before the other one came.
    let mut ended = std::pin::pin!(first.ends());
    let error = loop {
        source.write(3);
        tokio::select! {
            ended = &mut ended => break ended.unwrap_err(),
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
        }
    };
    assert_eq!(error.code(), Some(Code::Busy), "{error}");
    assert!(!error.is_transient() && error.hint().unwrap().contains("stop the other"), "{error:?}");
    source.write(30);
    world.arrives("secondary").await;
    second.stop().await.unwrap();
    far.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pump_of_an_epoch_that_is_over_is_refused_and_what_it_still_writes_does_not_count() {
    let world = World::new(shared().await, "epochs").await;
    let seed = seed();
    // Two sites with one history up to here.
    let old_trail = world.dir.path().join("old/trail/csp");
    let (mut old, mut new) = (Source::create(&old_trail, seed), Source::create(&world.near(), seed));
    old.write(20);
    new.write(20);
    let mut old_settings = world.pump_settings();
    (old_settings.trail, old_settings.state_directory) = (old_trail, world.dir.path().join("old/state"));
    let running = pump(old_settings.clone());
    let far = reader(world.reader_settings("secondary"));
    world.arrives("secondary").await;
    // The other site takes over.
    new.writer.begin_epoch(2).unwrap();
    new.write(20);
    let mut settings = world.pump_settings();
    settings.epoch = 2;
    let present = pump(settings);
    world.arrives("secondary").await;
    let before = content(&world.far("secondary")).len();
    old.large(3, 50_000);
    old.write(20);
    let error = running.ends().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Epoch), "{error}");
    let error = pump(old_settings).ends().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Epoch), "{error}");
    assert!(!error.is_transient() && error.hint().unwrap().contains("salvage"), "{error:?}");
    until("the reader says what it passes over", || {
        world.reader_status("secondary").doing.contains("an epoch that is over")
    })
    .await;
    assert_eq!(content(&world.far("secondary")).len(), before);
    new.write(20);
    world.arrives("secondary").await;
    far.kill().await;
    // A site that knows of the present epoch takes nothing of the one before, whoever writes it.
    let mut later = world.reader_settings("secondary");
    later.epoch = 3;
    let far = reader(later);
    new.write(5);
    until("the reader says that it takes nothing", || {
        world.reader_status("secondary").doing.contains("an epoch that is over")
    })
    .await;
    assert!(content(&world.far("secondary")).len() < content(&world.near()).len());
    world.is_beginning("secondary");
    far.stop().await.unwrap();
    present.stop().await.unwrap();
}
