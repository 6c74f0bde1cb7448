//! Broker, pump and reader are killed anywhere, and nothing is lost, repeated or in another order.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use irongate_pump::kafka::{KafkaPump, KafkaReader, KafkaSettings};
use irongate_tests::{Kafka, KafkaSettings as Cluster, Tier};

use crate::support::{World, settings, until};
use crate::trail::{Dice, Source, content, seed};

const ORDER: &str = "IRONGATE_ORDER";

/// The other process: a pump or a reader; does nothing unless it was started by the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the other process of a test"]
async fn another_process() {
    let Some(order) = std::env::var(ORDER).ok() else { return };
    let [role, directory, brokers, topic, size] = order.split('|').collect::<Vec<_>>()[..] else { return };
    let kafka = KafkaSettings {
        timeout: Duration::from_secs(5),
        retry_first: Duration::from_millis(50),
        retry_longest: Duration::from_millis(500),
        ..KafkaSettings::new(vec![brokers.to_owned()])
    };
    let (mut pump, mut reader) = World::settings_of(Path::new(directory), &kafka, topic);
    pump.record_size = size.parse().unwrap();
    if pump.record_size > 100_000 {
        reader.file_size = 64 << 20;
    }
    match role {
        "pump" => drop(KafkaPump::new(pump).run(std::future::pending()).await.unwrap()),
        _ => drop(KafkaReader::new(reader).run(std::future::pending()).await.unwrap()),
    }
}

fn start(world: &World, role: &str, record_size: usize) -> Child {
    let order = format!(
        "{role}|{}|{}|{}|{record_size}",
        world.dir.path().display(),
        world.kafka.brokers.join(","),
        world.topic
    );
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed::another_process", "--ignored", "--nocapture"]);
    command.env(ORDER, order).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap()
}

/// A process that ends with the test.
pub(crate) struct Other<'a> {
    world: &'a World,
    role: &'static str,
    record_size: usize,
    child: Child,
}

impl<'a> Other<'a> {
    fn start(world: &'a World, role: &'static str) -> Self {
        Self::start_with(world, role, 20_000)
    }

    pub(crate) fn start_with(world: &'a World, role: &'static str, record_size: usize) -> Self {
        Self { world, role, record_size, child: start(world, role, record_size) }
    }

    /// The most that it has ever had in memory, in bytes.
    pub(crate) fn peak_memory(&mut self) -> u64 {
        assert!(matches!(self.child.try_wait(), Ok(None)), "the {} has ended by itself", self.role);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn kill_and_start_again(&mut self) {
        assert!(matches!(self.child.try_wait(), Ok(None)), "the {} has ended by itself", self.role);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = start(self.world, self.role, self.record_size);
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_and_wherever_the_trail_that_comes_out_is_the_one_that_went_in() {
    let mut dice = Dice(seed());
    // Every acknowledged record is on the disk: the kill of a broker is then that of its machine.
    let cluster = Cluster::new().set("log.flush.interval.messages", 1);
    let mut kafka = Kafka::start(&cluster).await;
    let world = World::new(settings(&kafka), "killed").await;
    let mut source = Source::create(&world.near(), dice.roll());
    source.write(20);
    let (mut pump, mut reader) = (Other::start(&world, "pump"), Other::start(&world, "reader"));
    let rounds = Tier::pick(3, 5, 100);
    for round in 0..rounds {
        // Before it is written: afterwards it may have arrived already.
        let before = content(&world.far("secondary")).len();
        source.large(dice.below(120), 9000);
        source.write(10);
        if round % 2 == 0 {
            until("something has arrived", || content(&world.far("secondary")).len() > before).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        match (round + dice.below(2)) % 4 {
            0 => {
                kafka.kill(0);
                tokio::time::sleep(Duration::from_millis(dice.below(1000))).await;
                if dice.below(2) == 0 {
                    pump.kill_and_start_again();
                }
                tokio::task::block_in_place(|| kafka.start_again(0));
            }
            1 => pump.kill_and_start_again(),
            2 => reader.kill_and_start_again(),
            _ => {
                pump.kill_and_start_again();
                reader.kill_and_start_again();
            }
        }
        world.is_beginning("secondary");
    }
    world.arrives("secondary").await;
    // A second standby reads the same from the topic alone, with everything in it that did not count.
    let third = crate::support::reader(world.reader_settings("third"));
    world.arrives("third").await;
    third.stop().await.unwrap();
}
