//! Events on their way to the brokers.

use std::collections::VecDeque;
use std::time::Duration;

use irongate_trail::Mark;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Rd};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::time::Instant;

use super::event::Event;
use super::settings::FeedSettings;
use crate::error::Error;
use crate::kafka::client::{Context, configuration, failed, millis};

/// Events on their way at most.
const MOST_EVENTS: usize = 8192;
/// Bytes on their way at most.
const MOST_BYTES: usize = 16 << 20;
/// What a record has beside key, value and header, at most, in bytes.
const AROUND: usize = 512;

/// Something that comes in its turn.
enum Waiting {
    Event {
        delivery: DeliveryFuture,
        bytes: usize,
        topic: std::sync::Arc<str>,
    },
    /// Everything before has been told: so far the trail is not needed any more.
    Boundary(Mark),
}

/// The producer and what it has not acknowledged.
pub(super) struct Producer {
    producer: FutureProducer<Context>,
    context: Context,
    settings: FeedSettings,
    waiting: VecDeque<Waiting>,
    events: usize,
    on_the_way: usize,
    /// When something was acknowledged last, or began to wait.
    heard: Instant,
    pub(super) bytes: u64,
    /// The last mark up to which everything is acknowledged.
    pub(super) reached: Option<Mark>,
}

impl Producer {
    pub(super) fn open(settings: &FeedSettings) -> Result<Self, Error> {
        let context = Context::default();
        let mut config = configuration(&settings.kafka, &settings.group)?;
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        // An event is never given up: one that came later would be there without it.
        config.set("message.timeout.ms", "0");
        config.set("request.timeout.ms", millis(settings.kafka.timeout.max(Duration::from_secs(1))));
        config.set("linger.ms", "5");
        // As Java's clients choose partitions, so that others find a key where they would put it.
        config.set("partitioner", "murmur2_random");
        config.set("message.max.bytes", (settings.event_size + AROUND).to_string());
        config.set("batch.size", (settings.event_size + AROUND).min(1_000_000).to_string());
        let made = FutureProducer::from_config_and_context(&config, context.clone());
        let producer =
            made.map_err(|error| failed(&settings.kafka, "the client cannot be set up", &error, &context))?;
        Ok(Self {
            producer,
            context,
            settings: settings.clone(),
            waiting: VecDeque::new(),
            events: 0,
            on_the_way: 0,
            heard: Instant::now(),
            bytes: 0,
            reached: None,
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.events < MOST_EVENTS && self.on_the_way < MOST_BYTES
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends an event on its way.
    pub(super) fn send(&mut self, event: &Event) -> Result<(), Error> {
        let length = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let header = event.header.as_ref().map_or(0, |(name, key)| name.len() + key.len());
        let bytes = length(&event.key) + length(&event.value) + header;
        let limit = self.settings.event_size;
        if bytes > limit {
            let reason = format!("an event of {bytes} bytes is longer than event_size, {limit}");
            return Err(self.too_long(&event.topic, reason));
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&event.topic);
        match &event.key {
            Some(key) => record = record.key(key),
            None => record = record.partition(0),
        }
        if let Some(value) = &event.value {
            record = record.payload(value);
        }
        if let Some((key, value)) = &event.header {
            record = record.headers(OwnedHeaders::new().insert(Header { key, value: Some(value) }));
        }
        let delivery = self.producer.send_result(record);
        let delivery = delivery.map_err(|(error, _)| self.failed(&event.topic, &error))?;
        if self.events == 0 {
            self.heard = Instant::now();
        }
        self.events += 1;
        self.on_the_way += bytes;
        self.bytes += bytes as u64;
        self.waiting.push_back(Waiting::Event { delivery, bytes, topic: event.topic.clone() });
        Ok(())
    }

    /// Everything up to here has been sent.
    pub(super) fn boundary(&mut self, mark: Mark) {
        match self.waiting.back_mut() {
            None => self.reached = Some(mark),
            Some(Waiting::Boundary(last)) => *last = mark,
            Some(Waiting::Event { .. }) => self.waiting.push_back(Waiting::Boundary(mark)),
        }
    }

    /// Waits until the oldest event on its way is there; for ever if there is none. Cancel-safe.
    pub(super) async fn landed(&mut self) -> Result<(), Error> {
        let Some(Waiting::Event { delivery, .. }) = self.waiting.front_mut() else {
            return std::future::pending().await;
        };
        let outcome = delivery.await;
        let Some(Waiting::Event { bytes, topic, .. }) = self.waiting.pop_front() else { return Ok(()) };
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err((error, _))) => return Err(self.failed(&topic, &error)),
            Err(_) => return Err(self.failed(&topic, &KafkaError::Canceled)),
        }
        self.events -= 1;
        self.on_the_way -= bytes;
        self.heard = Instant::now();
        while let Some(Waiting::Boundary(mark)) = self.waiting.front() {
            self.reached = Some(*mark);
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Why nothing is acknowledged, when that has been so for longer than the time limit.
    pub(super) fn trouble(&self) -> Option<Error> {
        let silent = self.events > 0 && self.heard.elapsed() > self.settings.kafka.timeout;
        silent.then(|| {
            let doing = format!("{} events are not acknowledged", self.events);
            failed(
                &self.settings.kafka,
                &doing,
                &KafkaError::MessageProduction(Rd::OperationTimedOut),
                &self.context,
            )
        })
    }

    fn too_long(&self, topic: &str, reason: String) -> Error {
        Error::Topic {
            topic: topic.to_owned(),
            reason: format!("cannot take a change: {reason}"),
            remedy: "raise event_size of the feed and max.message.bytes of the topic, or leave the table out with \"exclude\""
                .to_owned(),
        }
    }

    fn failed(&self, topic: &str, error: &KafkaError) -> Error {
        if error.rdkafka_error_code() == Some(Rd::MessageSizeTooLarge) {
            return self.too_long(topic, "it is longer than the broker takes".to_owned());
        }
        let doing = format!("topic \"{topic}\" cannot be written");
        let failed = failed(&self.settings.kafka, &doing, error, &self.context);
        match (error.rdkafka_error_code(), failed) {
            // The next attempt makes it again, or says that it is not there.
            (
                Some(Rd::UnknownTopic | Rd::UnknownTopicOrPartition | Rd::UnknownPartition),
                Error::Kafka { doing, reason, hint, .. },
            ) => Error::Kafka { doing, reason, transient: true, hint },
            (_, failed) => failed,
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // What is still queued must not leave behind our back.
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}
