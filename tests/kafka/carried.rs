//! Nothing is killed here: what goes in comes out.

use crate::support::{World, pump, reader, shared, until};
use crate::trail::{Source, content, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_a_trail_can_hold_comes_out_as_it_went_in() {
    let world = World::new(shared().await, "carried").await;
    let mut source = Source::create(&world.near(), seed());
    source.write(100);
    let (near, far) = (pump(world.pump_settings()), reader(world.reader_settings("secondary")));
    world.arrives("secondary").await;
    // Longer than one record of Kafka may be, behind and before short ones; and a row alone that is.
    source.transaction(3);
    source.large(40, 3000);
    source.write(3);
    source.large(2, 70_000);
    source.transaction(5);
    source.sync();
    world.arrives("secondary").await;
    for _ in 0..20 {
        source.write(1);
    }
    world.arrives("secondary").await;
    until("everything is acknowledged", || world.pump_status().lag_bytes == Some(0)).await;
    let stopped = near.stop().await.unwrap();
    assert_eq!(stopped.acknowledged.commit_lsn, source.writer.durable().commit_lsn);
    assert_eq!(far.stop().await.unwrap().commit_lsn, source.writer.durable().commit_lsn);
    world.is_identical("secondary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_go_on_where_they_were_and_a_second_standby_has_the_same() {
    let world = World::new(shared().await, "standbys").await;
    let mut source = Source::create(&world.near(), seed());
    let mut settings = world.pump_settings();
    settings.compression = Some(3);
    for round in 0..5 {
        source.write(15);
        let near = pump(settings.clone());
        let far = reader(world.reader_settings("secondary"));
        if round % 2 == 0 {
            world.arrives("secondary").await;
        }
        near.stop().await.unwrap();
        far.stop().await.unwrap();
        world.is_beginning("secondary");
    }
    source.write(15);
    let near = pump(settings);
    let far = reader(world.reader_settings("secondary"));
    let third = reader(world.reader_settings("third"));
    world.arrives("secondary").await;
    world.arrives("third").await;
    // One that has lost everything but the topic.
    third.stop().await.unwrap();
    std::fs::remove_dir_all(world.dir.path().join("third")).unwrap();
    let third = reader(world.reader_settings("third"));
    world.arrives("third").await;
    third.stop().await.unwrap();
    // And one that has lost its note of the topic only.
    std::fs::remove_file(world.dir.path().join("third/state/csp-reader.topic.json")).unwrap();
    source.write(15);
    let third = reader(world.reader_settings("third"));
    world.arrives("third").await;
    world.arrives("secondary").await;
    assert!(content(&world.near()).len() > 100);
    for running in [far, third] {
        running.stop().await.unwrap();
    }
    near.stop().await.unwrap();
}
