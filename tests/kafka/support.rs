//! Two sites, or three, and a broker between them.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use irongate_checkpoint::{Program, Status, read_status};
use irongate_pump::kafka::{
    KafkaPump, KafkaPumpSettings, KafkaReader, KafkaReaderSettings, KafkaSettings, TopicSettings,
    create_topic,
};
use irongate_pump::{Error, Stopped};
use irongate_tests::{Kafka, KafkaSettings as Cluster, TempDir};
use irongate_trail::Mark;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

use crate::trail;

/// Directories of the sites, and a topic of their own in a cluster.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) kafka: KafkaSettings,
    pub(crate) topic: String,
}

/// The broker that tests share which do nothing to it. It lives as long as the process.
pub(crate) async fn shared() -> KafkaSettings {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let kafka = SHARED.get_or_init(async || Kafka::start(&Cluster::new()).await).await;
    settings(kafka)
}

/// How a test's clients come to a cluster: with little patience.
pub(crate) fn settings(kafka: &Kafka) -> KafkaSettings {
    KafkaSettings {
        timeout: Duration::from_secs(5),
        retry_first: Duration::from_millis(50),
        retry_longest: Duration::from_millis(500),
        ..KafkaSettings::new(kafka.brokers())
    }
}

/// Something that runs until it is asked to stop.
pub(crate) struct Running<T> {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<T, Error>>,
}

impl<T: Send + 'static> Running<T> {
    fn start<F>(run: impl FnOnce(Box<dyn Future<Output = ()> + Send + Unpin>) -> F) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (stop, asked) = oneshot::channel();
        let asked = Box::new(Box::pin(async move {
            let _ = asked.await;
        }));
        Self { stop, task: tokio::spawn(run(asked)) }
    }

    pub(crate) async fn stop(self) -> Result<T, Error> {
        let _ = self.stop.send(());
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it stops").unwrap()
    }

    /// How it ends by itself.
    pub(crate) async fn ends(self) -> Result<T, Error> {
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("it ends").unwrap()
    }

    /// Ends it as a killed process ends: wherever it is.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) fn pump(settings: KafkaPumpSettings) -> Running<Stopped> {
    Running::start(|asked| KafkaPump::new(settings).run(asked))
}

pub(crate) fn reader(settings: KafkaReaderSettings) -> Running<Mark> {
    Running::start(|asked| KafkaReader::new(settings).run(asked))
}

impl World {
    pub(crate) async fn new(kafka: KafkaSettings, name: &str) -> Self {
        let topic = format!("irongate.{name}");
        let made = TopicSettings { replication: 1, min_in_sync: 1, ..TopicSettings::new(&topic) };
        assert!(create_topic(&kafka, &made).await.unwrap(), "it was not there");
        assert!(!create_topic(&kafka, &made).await.unwrap(), "it is there already");
        Self { dir: TempDir::new(), kafka, topic }
    }

    /// The same, with a topic of the caller's.
    pub(crate) fn without_topic(kafka: KafkaSettings) -> Self {
        Self { dir: TempDir::new(), kafka, topic: String::new() }
    }

    pub(crate) fn near(&self) -> PathBuf {
        self.dir.path().join("main/trail/csp")
    }

    pub(crate) fn far(&self, site: &str) -> PathBuf {
        self.dir.path().join(site).join("trail/csp")
    }

    pub(crate) fn pump_settings(&self) -> KafkaPumpSettings {
        Self::settings_of(self.dir.path(), &self.kafka, &self.topic).0
    }

    pub(crate) fn reader_settings(&self, site: &str) -> KafkaReaderSettings {
        let settings = Self::settings_of(self.dir.path(), &self.kafka, &self.topic).1;
        let state_directory = self.dir.path().join(site).join("state");
        KafkaReaderSettings { trail: self.far(site), state_directory, ..settings }
    }

    /// What pump and reader need to know, the reader at the second site.
    pub(crate) fn settings_of(
        dir: &Path,
        kafka: &KafkaSettings,
        topic: &str,
    ) -> (KafkaPumpSettings, KafkaReaderSettings) {
        let pump = KafkaPumpSettings {
            group: "csp-pump".to_owned(),
            deployment: "shop".to_owned(),
            flow: "csp".to_owned(),
            site: "main".to_owned(),
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            record_size: 20_000,
            trail: dir.join("main/trail/csp"),
            state_directory: dir.join("main/state"),
            epoch: 1,
            compression: None,
        };
        let reader = KafkaReaderSettings {
            group: "csp-reader".to_owned(),
            deployment: "shop".to_owned(),
            flow: "csp".to_owned(),
            from: "main".to_owned(),
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            trail: dir.join("secondary/trail/csp"),
            state_directory: dir.join("secondary/state"),
            epoch: 1,
            file_size: 30_000,
            keep_free: None,
        };
        (pump, reader)
    }

    pub(crate) fn pump_status(&self) -> Status {
        let status = read_status(&self.dir.path().join("main/state"), "csp-pump").unwrap();
        status.unwrap_or_else(|| Status::starting("csp-pump", "csp", Program::Pump))
    }

    pub(crate) fn reader_status(&self, site: &str) -> Status {
        let status = read_status(&self.dir.path().join(site).join("state"), "csp-reader").unwrap();
        status.unwrap_or_else(|| Status::starting("csp-reader", "csp", Program::Collector))
    }

    /// Waits until a site has everything, and compares.
    pub(crate) async fn arrives(&self, site: &str) {
        let expected = trail::content(&self.near());
        let begin = Instant::now();
        loop {
            let far = self.far(site);
            if far.join("durable").exists() && trail::content(&far).len() >= expected.len() {
                break;
            }
            let late = begin.elapsed() > Duration::from_secs(60);
            assert!(
                !late,
                "it does not arrive at {site}: {:?} {:?}",
                self.pump_status(),
                self.reader_status(site)
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.is_identical(site);
    }

    pub(crate) fn is_identical(&self, site: &str) {
        let (near, far) = (trail::content(&self.near()), trail::content(&self.far(site)));
        self.is_beginning(site);
        assert_eq!(far.len(), near.len());
    }

    /// Checks that what is at a site is what is here, from the beginning.
    pub(crate) fn is_beginning(&self, site: &str) {
        let (near, far) = (trail::content(&self.near()), trail::content(&self.far(site)));
        for (number, far) in far.iter().enumerate() {
            assert_eq!(Some(far), near.get(number), "item {number}");
        }
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
