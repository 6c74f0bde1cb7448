//! A cluster of three brokers whose leader is killed under load: two of them are enough to go on with, one is not, and then
//! the pump says so and loses nothing.

use std::time::Duration;

use irongate_pump::kafka::{TopicSettings, create_topic};
use irongate_tests::{Kafka, KafkaSettings as Cluster, Tier};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::support::{World, pump, reader, settings, until};
use crate::trail::{Dice, Source, content, seed};

/// The broker that leads a topic's only partition, by its number from 0; none while there is no leader.
fn leader(brokers: &[String], topic: &str) -> Option<usize> {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers.join(",")).create().unwrap();
    let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
    let partition = metadata.topics().first()?.partitions().first()?;
    usize::try_from(partition.leader()).ok()?.checked_sub(1)
}

async fn leads(kafka: &Kafka, topic: &str) -> usize {
    for _ in 0..300 {
        let (brokers, topic) = (kafka.brokers(), topic.to_owned());
        let found = tokio::task::spawn_blocking(move || leader(&brokers, &topic)).await.unwrap();
        if let Some(found) = found.filter(|number| kafka.is_running(*number)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody leads {topic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_holds_nothing_up_and_two_hold_up_without_a_loss() {
    let mut dice = Dice(seed());
    // What a broker has acknowledged lies on its disk only now and then, as Kafka is run: the copies are what counts.
    let mut kafka = Kafka::start(&Cluster::new().brokers(3)).await;
    let client = settings(&kafka);
    let topic = TopicSettings { replication: 3, min_in_sync: 2, ..TopicSettings::new("irongate.cluster") };
    assert!(create_topic(&client, &topic).await.unwrap());
    let world = World { topic: topic.name.clone(), ..World::without_topic(client) };
    let mut source = Source::create(&world.near(), dice.roll());
    source.write(20);
    let (pump, reader) = (pump(world.pump_settings()), reader(world.reader_settings("secondary")));
    let mut leaders = Vec::new();
    for round in 0..Tier::pick(1, 1, 30) {
        source.large(dice.below(120), 9000);
        let first = leads(&kafka, &world.topic).await;
        leaders.push(first);
        source.write(10);
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
        kafka.kill(first);
        source.write(30);
        // One is away, and everything goes on.
        world.arrives("secondary").await;
        let mut away = vec![first];
        // The one that is left cannot even say who leads; on a busy machine it takes minutes until two agree again.
        if round % 2 == 1 {
            let second = leads(&kafka, &world.topic).await;
            assert_ne!(first, second);
            kafka.kill(second);
            away.push(second);
            source.write(30);
            until("the pump to say that too few are there", || {
                let status = world.pump_status();
                status.error.is_some_and(|error| error.message.contains("Kafka"))
            })
            .await;
            assert!(content(&world.far("secondary")).len() < content(&world.near()).len());
        }
        tokio::task::block_in_place(|| kafka.start_all_again(&away));
        world.arrives("secondary").await;
        until("it is acknowledged", || {
            world.pump_status().commit_lsn == Some(source.writer.durable().commit_lsn.0)
        })
        .await;
    }
    println!("leaders that were killed: {leaders:?}");
    pump.stop().await.unwrap();
    reader.stop().await.unwrap();
    // Another site that reads it all from the brokers.
    let third = crate::support::reader(world.reader_settings("third"));
    world.arrives("third").await;
    third.stop().await.unwrap();
}
