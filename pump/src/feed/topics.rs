//! The feed's topics: one a table, made when its first event comes, and the feed's own.

use std::collections::HashSet;
use std::sync::Arc;

use rdkafka::admin::ResourceSpecifier;

use super::event::Event;
use super::settings::FeedSettings;
use crate::error::Error;
use crate::kafka::client::{Context, ask, failed, metadata, millis};
use crate::kafka::topic::{admin, copies, make, options};
use crate::kafka::{Fault, KafkaSettings};

/// Topics at which is looked in one request.
const AT_ONCE: usize = 100;

/// The topics that are known to be there.
#[derive(Default)]
pub(super) struct Topics {
    known: HashSet<Arc<str>>,
}

impl Topics {
    pub(super) fn has(&self, event: &Event) -> bool {
        self.known.contains(&event.topic)
    }

    /// Sees to it that an event's topic is there.
    pub(super) async fn ensure(&mut self, settings: &FeedSettings, event: &Event) -> Result<(), Error> {
        let name = Arc::clone(&event.topic);
        if !is_there(&settings.kafka, &name).await? {
            let topics = &settings.topics;
            if !topics.create {
                return Err(Error::Topic {
                    topic: name.to_string(),
                    reason: "is not there".to_owned(),
                    remedy: "make it, or let the feed do so: create_topics = true".to_owned(),
                });
            }
            let retention = topics.retention.map_or_else(|| "-1".to_owned(), millis);
            let (min_in_sync, size) =
                (topics.min_in_sync.to_string(), (settings.event_size + 1024).to_string());
            let compact = topics.compact && event.of_table;
            let set = [
                ("cleanup.policy", if compact { "compact" } else { "delete" }),
                ("retention.ms", retention.as_str()),
                ("retention.bytes", "-1"),
                ("min.insync.replicas", min_in_sync.as_str()),
                ("unclean.leader.election.enable", "false"),
                ("max.message.bytes", size.as_str()),
            ];
            let partitions = if event.of_table { topics.partitions } else { 1 };
            if make(&settings.kafka, &name, partitions, topics.replication, &set).await? {
                tracing::info!(topic = %name, partitions, "a topic was made");
            }
        }
        self.known.insert(name);
        Ok(())
    }
}

async fn is_there(kafka: &KafkaSettings, topic: &Arc<str>) -> Result<bool, Error> {
    let (kafka, topic) = (kafka.clone(), Arc::clone(topic));
    let asked =
        tokio::task::spawn_blocking(move || metadata(&kafka, &topic, "cannot be looked at")).await??;
    Ok(asked.topics().first().is_some_and(|topic| topic.error().is_none()))
}

/// Looks at the settings of the feed's topics that are there, and says what an operator should know of them, by topic.
///
/// # Errors
/// [`Error::Kafka`], [`Error::File`].
pub async fn inspect_topics(settings: &FeedSettings) -> Result<Vec<(String, Fault)>, Error> {
    let kafka = settings.kafka.clone();
    let asked =
        tokio::task::spawn_blocking(move || ask(&kafka, None, "the topics cannot be looked at")).await??;
    let (own, heartbeats) =
        (format!("{}.", settings.shape.prefix), format!("__debezium-heartbeat.{}", settings.shape.prefix));
    let is_own = |name: &str| name.starts_with(&own) || name == heartbeats;
    let found: Vec<_> = asked.topics().iter().filter(|topic| is_own(topic.name())).collect();
    let context = Context::default();
    let admin = admin(&settings.kafka, &context)?;
    let mut faults = Vec::new();
    for some in found.chunks(AT_ONCE) {
        let resources: Vec<_> = some.iter().map(|topic| ResourceSpecifier::Topic(topic.name())).collect();
        let described = admin.describe_configs(&resources, &options(&settings.kafka)).await;
        let failed = |error| failed(&settings.kafka, "the topics cannot be looked at", &error, &context);
        for (topic, described) in some.iter().zip(described.map_err(failed)?) {
            let described = described.map_err(|code| failed(rdkafka::error::KafkaError::AdminOp(code)))?;
            let value = |name: &str| described.get(name).and_then(|entry| entry.value.clone());
            let replicas = topic.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or(0);
            let judged = judge(settings, replicas, value);
            faults.extend(judged.into_iter().map(|fault| (topic.name().to_owned(), fault)));
        }
    }
    Ok(faults)
}

/// What is wrong with a topic: decided from what it says of itself.
fn judge(settings: &FeedSettings, replicas: usize, value: impl Fn(&str) -> Option<String>) -> Vec<Fault> {
    let number = |name: &str| value(name).and_then(|value| value.parse::<i64>().ok());
    let mut faults = Vec::new();
    if let Some(most) = number("max.message.bytes").filter(|most| *most < settings.event_size as i64 + 200) {
        faults.push(Fault {
            fatal: true,
            reason: format!(
                "takes events of {most} bytes, and the feed writes up to {}",
                settings.event_size
            ),
            remedy: "raise its max.message.bytes, or lower event_size of the feed".to_owned(),
        });
    }
    faults.extend(copies(replicas, value, "event", "feed"));
    faults
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::feed::{FeedTopics, Shape};

    #[test]
    fn a_topic_as_it_should_be_has_no_faults_and_every_doubt_is_told() {
        let topics = FeedTopics {
            create: true,
            partitions: 1,
            replication: 3,
            min_in_sync: 2,
            retention: None,
            compact: false,
        };
        let settings = FeedSettings {
            group: "csp-feed".to_owned(),
            flow: "csp".to_owned(),
            kafka: KafkaSettings::new(vec!["k:9092".to_owned()]),
            shape: Shape::new("shop", "db"),
            topics,
            event_size: 1_000_000,
            heartbeat: None,
            trail: PathBuf::new(),
            state_directory: PathBuf::new(),
        };
        let sound = [
            ("max.message.bytes", "1048588"),
            ("unclean.leader.election.enable", "false"),
            ("min.insync.replicas", "2"),
        ];
        let judged = |replicas, values: &[(&str, &str)]| {
            let value = |name: &str| {
                let given = values.iter().chain(&sound).find(|(given, _)| *given == name);
                given.map(|(_, value)| (*value).to_owned())
            };
            judge(&settings, replicas, value)
        };
        assert_eq!(judged(3, &[]), []);
        for (replicas, name, value, fatal, says) in [
            (3, "max.message.bytes", "500000", true, "500000 bytes"),
            (3, "unclean.leader.election.enable", "true", false, "lacks events"),
            (1, "", "", false, "one copy"),
            (3, "min.insync.replicas", "1", false, "one broker has it"),
            (3, "min.insync.replicas", "3", false, "all of its 3 copies"),
        ] {
            let found = judged(replicas, &[(name, value)]);
            let [fault] = &found[..] else { panic!("{name}={value}: {found:?}") };
            assert!(
                fault.fatal == fatal && fault.reason.contains(says) && !fault.remedy.is_empty(),
                "{fault:?}"
            );
        }
    }
}
