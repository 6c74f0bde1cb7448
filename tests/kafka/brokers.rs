//! Brokers that are slow, refuse, or have forgotten.

use std::time::Duration;

use irongate_pump::Error;
use irongate_pump::kafka::{TopicSettings, inspect_topic};
use irongate_pump::wire::Code;
use irongate_tests::{Kafka, KafkaSettings as Cluster};

use crate::support::{World, pump, reader, settings, shared, until};
use crate::trail::{Source, content, seed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_or_another_flow_s_is_refused() {
    let world = World::new(shared().await, "refused").await;
    let mut source = Source::create(&world.near(), seed());
    source.write(5);
    let mut missing = world.pump_settings();
    missing.topic = "irongate.nowhere".to_owned();
    let error = pump(missing).ends().await.unwrap_err();
    assert!(error.to_string().contains("irongate.nowhere"), "{error}");
    assert!(!error.is_transient() && error.hint().unwrap().contains("irongate setup"), "{error:?}");
    let faults = inspect_topic(&world.kafka, &TopicSettings::new("irongate.nowhere")).await.unwrap();
    assert!(faults.len() == 1 && faults[0].fatal && faults[0].reason.contains("not there"), "{faults:?}");

    let (near, far) = (pump(world.pump_settings()), reader(world.reader_settings("secondary")));
    world.arrives("secondary").await;
    near.stop().await.unwrap();
    far.stop().await.unwrap();
    let (mut other, mut others) = (world.pump_settings(), world.reader_settings("third"));
    other.flow = "msp".to_owned();
    others.deployment = "another".to_owned();
    for error in
        [pump(other).ends().await.map(drop).unwrap_err(), reader(others).ends().await.map(drop).unwrap_err()]
    {
        assert_eq!(error.code(), Some(Code::Flow), "{error}");
        assert!(error.hint().unwrap().contains("topic_prefix"), "{error:?}");
    }
    // Whose password cannot be read, or would travel as it is.
    let mut secret = world.pump_settings();
    let sasl = irongate_pump::kafka::Sasl {
        mechanism: irongate_pump::kafka::SaslMechanism::ScramSha512,
        user: "somebody".to_owned(),
        password_file: world.dir.path().join("no-such-file"),
    };
    secret.kafka.sasl = Some(sasl.clone());
    assert!(matches!(pump(secret.clone()).ends().await, Err(Error::File { .. })));
    let mechanism = irongate_pump::kafka::SaslMechanism::Plain;
    secret.kafka.sasl = Some(irongate_pump::kafka::Sasl { mechanism, ..sasl });
    assert!(matches!(pump(secret).ends().await, Err(Error::Setting { .. })));
    world.is_identical("secondary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_or_takes_short_records_only_is_told_of() {
    let kafka = Kafka::start(&Cluster::new().set("message.max.bytes", 50_000)).await;
    let mut settings = settings(&kafka);
    settings.timeout = Duration::from_secs(2);
    let world = World::new(settings, "slow").await;
    let mut source = Source::create(&world.near(), seed());
    source.write(10);
    let (near, far) = (pump(world.pump_settings()), reader(world.reader_settings("secondary")));
    world.arrives("secondary").await;
    kafka.freeze(0);
    source.write(10);
    until("the pump says so", || world.pump_status().doing.contains("trying again")).await;
    until("the reader says so", || world.reader_status("secondary").doing.contains("trying again")).await;
    for status in [world.pump_status(), world.reader_status("secondary")] {
        let error = status.error.unwrap();
        assert!(error.transient && error.message.contains("Kafka at 127.0.0.1"), "{error:?}");
    }
    world.is_beginning("secondary");
    kafka.go_on(0);
    world.arrives("secondary").await;
    near.stop().await.unwrap();

    let mut long = world.pump_settings();
    long.record_size = 100_000;
    let topic = TopicSettings { record_size: 100_000, ..TopicSettings::new(&world.topic) };
    let faults = inspect_topic(&world.kafka, &topic).await.unwrap();
    assert!(faults[0].fatal && faults[0].reason.contains("takes records of 50000 bytes"), "{faults:?}");
    source.large(10, 20_000);
    source.sync();
    let error = pump(long).ends().await.unwrap_err();
    assert!(!error.is_transient() && error.hint().unwrap().contains("max.message.bytes"), "{error:?}");
    // Nothing is lost by that: a pump with shorter records goes on.
    let near = pump(world.pump_settings());
    world.arrives("secondary").await;
    near.stop().await.unwrap();
    far.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_has_forgotten_is_a_gap_for_who_is_behind_and_none_for_who_is_not() {
    let cluster = Cluster::new()
        .set("log.retention.check.interval.ms", 300)
        .set("log.initial.task.delay.ms", 300)
        .set("log.segment.delete.delay.ms", 100);
    let kafka = Kafka::start(&cluster).await;
    let mut world = World { topic: "irongate.forgets".to_owned(), ..World::without_topic(settings(&kafka)) };
    world.kafka.retry_longest = Duration::from_millis(200);
    let topic = TopicSettings {
        replication: 1,
        min_in_sync: 1,
        retention: Some(Duration::from_secs(2)),
        ..TopicSettings::new(&world.topic)
    };
    irongate_pump::kafka::create_topic(&world.kafka, &topic).await.unwrap();
    let mut source = Source::create(&world.near(), seed());
    source.write(20);
    let near = pump(world.pump_settings());
    let (far, third) = (reader(world.reader_settings("secondary")), reader(world.reader_settings("third")));
    world.arrives("secondary").await;
    world.arrives("third").await;
    third.stop().await.unwrap();
    source.write(20);
    world.arrives("secondary").await;
    near.stop().await.unwrap();
    far.stop().await.unwrap();
    // Everything in the topic goes by its age.
    tokio::time::sleep(Duration::from_secs(6)).await;
    source.write(20);
    let near = pump(world.pump_settings());
    let far = reader(world.reader_settings("secondary"));
    world.arrives("secondary").await;
    let before = content(&world.far("third")).len();
    let error = reader(world.reader_settings("third")).ends().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Gap), "{error}");
    assert!(!error.is_transient() && error.hint().unwrap().contains("retention.ms"), "{error:?}");
    assert_eq!(content(&world.far("third")).len(), before);
    // And one that has nothing yet does not begin in the middle.
    let error = reader(world.reader_settings("fourth")).ends().await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Gap), "{error}");
    near.stop().await.unwrap();
    far.stop().await.unwrap();
}
