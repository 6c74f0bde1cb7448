//! Topics: making one, and looking at one.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Rd};

use rdkafka::metadata::Metadata;

use super::client::{Context, configuration, failed, metadata};
use super::settings::{Fault, KafkaSettings, TopicSettings};
use crate::error::Error;

type Admin = AdminClient<Context>;

pub(crate) fn admin(kafka: &KafkaSettings, context: &Context) -> Result<Admin, Error> {
    let config = configuration(kafka, "admin")?;
    Admin::from_config_and_context(&config, context.clone())
        .map_err(|error| failed(kafka, "the client cannot be set up", &error, context))
}

pub(crate) fn options(kafka: &KafkaSettings) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(kafka.timeout)).operation_timeout(Some(kafka.timeout))
}

async fn look(kafka: &KafkaSettings, topic: &str, doing: &'static str) -> Result<Metadata, Error> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || metadata(&kafka, &topic, doing)).await?
}

/// Makes a topic with one partition; false if it is there already, and then it is left as it is.
///
/// # Errors
/// [`Error::Kafka`], [`Error::File`].
pub async fn create_topic(kafka: &KafkaSettings, topic: &TopicSettings) -> Result<bool, Error> {
    // Where no broker can be reached, this says why.
    look(kafka, &topic.name, "cannot be made").await?;
    let retention = topic.retention.map_or_else(|| "-1".to_owned(), super::client::millis);
    let min_in_sync = topic.min_in_sync.to_string();
    let set = [
        ("cleanup.policy", "delete"),
        ("retention.ms", retention.as_str()),
        ("retention.bytes", "-1"),
        ("min.insync.replicas", min_in_sync.as_str()),
        ("unclean.leader.election.enable", "false"),
    ];
    make(kafka, &topic.name, 1, topic.replication, &set).await
}

/// Makes a topic with these settings; false if it is there already.
pub(crate) async fn make(
    kafka: &KafkaSettings,
    name: &str,
    partitions: u16,
    replication: u16,
    set: &[(&str, &str)],
) -> Result<bool, Error> {
    let context = Context::default();
    let admin = admin(kafka, &context)?;
    let doing = format!("topic \"{name}\" cannot be made");
    let new = NewTopic::new(name, i32::from(partitions), TopicReplication::Fixed(i32::from(replication)));
    let new = set.iter().fold(new, |new, (name, value)| new.set(name, value));
    let made = admin.create_topics([&new], &options(kafka)).await;
    let code = match made {
        Ok(results) => match results.into_iter().next() {
            Some(Err((_, code))) => code,
            _ => return Ok(true),
        },
        Err(error) => return Err(failed(kafka, &doing, &error, &context)),
    };
    match code {
        Rd::TopicAlreadyExists => Ok(false),
        Rd::InvalidReplicationFactor => Err(Error::Kafka {
            doing: format!("Kafka at {}: {doing}", kafka.place()),
            reason: format!("it has fewer than {replication} brokers"),
            transient: false,
            hint: "set replication in [kafka] to the number of brokers at most".to_owned(),
        }),
        code => Err(failed(kafka, &doing, &KafkaError::AdminOp(code), &context)),
    }
}

/// Looks at a topic's settings, and says what an operator should know of them, the worst first.
///
/// # Errors
/// [`Error::Kafka`], [`Error::File`]; a topic that is not there is a [`Fault`].
pub async fn inspect_topic(kafka: &KafkaSettings, topic: &TopicSettings) -> Result<Vec<Fault>, Error> {
    let context = Context::default();
    let admin = admin(kafka, &context)?;
    let doing = format!("topic \"{}\" cannot be looked at", topic.name);
    let metadata = look(kafka, &topic.name, "cannot be looked at").await?;
    let found = metadata.topics().first().filter(|found| found.error().is_none());
    let Some(found) = found else {
        let fault = Fault {
            fatal: true,
            reason: "is not there".to_owned(),
            remedy: "\"irongate setup\" makes it".to_owned(),
        };
        return Ok(vec![fault]);
    };
    let (partitions, replicas) = (
        found.partitions().len(),
        found.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or(0),
    );
    let results = admin
        .describe_configs([&ResourceSpecifier::Topic(&topic.name)], &options(kafka))
        .await
        .map_err(|error| failed(kafka, &doing, &error, &context))?;
    let resource = match results.into_iter().next() {
        Some(Ok(resource)) => resource,
        Some(Err(code)) => return Err(failed(kafka, &doing, &KafkaError::AdminOp(code), &context)),
        None => return Ok(Vec::new()),
    };
    let value = |name: &str| resource.get(name).and_then(|entry| entry.value.clone());
    Ok(judge(topic, partitions, replicas, value))
}

/// What is wrong with a topic: decided from what it says of itself.
fn judge(
    topic: &TopicSettings,
    partitions: usize,
    replicas: usize,
    value: impl Fn(&str) -> Option<String>,
) -> Vec<Fault> {
    let number = |name: &str| value(name).and_then(|value| value.parse::<i64>().ok());
    let mut faults = Vec::new();
    let mut fault = |fatal, reason: String, remedy: &str| {
        faults.push(Fault { fatal, reason, remedy: remedy.to_owned() });
    };
    if partitions != 1 {
        fault(
            true,
            format!("has {partitions} partitions: only one keeps the order of transactions"),
            "remove it when nobody needs what is in it, and let \"irongate setup\" make it anew",
        );
    }
    if value("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        fault(
            true,
            "is compacted: records without keys cannot be, and others would vanish".to_owned(),
            "set its cleanup.policy to delete",
        );
    }
    if let Some(most) = number("max.message.bytes").filter(|most| *most < topic.record_size as i64 + 200) {
        fault(
            true,
            format!("takes records of {most} bytes, and the pump writes up to {}", topic.record_size),
            "raise its max.message.bytes, or lower record_size in [kafka]",
        );
    }
    faults.extend(copies(replicas, &value, "record", "flow"));
    let mut fault = |fatal, reason: String, remedy: &str| {
        faults.push(Fault { fatal, reason, remedy: remedy.to_owned() });
    };
    if let Some(bytes) = number("retention.bytes").filter(|bytes| *bytes >= 0) {
        fault(
            false,
            format!(
                "keeps {bytes} bytes at most (retention.bytes): a reader that is further behind stops at a gap"
            ),
            "set its retention.bytes to -1, and retention.ms to the longest time that a site may be away",
        );
    }
    let kept =
        number("retention.ms").filter(|kept| *kept >= 0).map(|kept| Duration::from_millis(kept as u64));
    if let Some(kept) = kept.filter(|kept| topic.retention.is_none_or(|wanted| *kept < wanted)) {
        fault(
            false,
            format!("keeps records for {} hours, less than [kafka] asks for", kept.as_secs() / 3600),
            "raise its retention.ms, or lower retention in [kafka]: a reader that was away for longer stops at a gap",
        );
    }
    faults.sort_by_key(|fault| !fault.fatal);
    faults
}

/// What lets a topic lose what was acknowledged, or stops its writer when one broker is away. `unit` is what is written there,
/// and `stops` what would stop.
pub(crate) fn copies(
    replicas: usize,
    value: impl Fn(&str) -> Option<String>,
    unit: &str,
    stops: &str,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |reason: String, remedy: &str| {
        faults.push(Fault { fatal: false, reason, remedy: remedy.to_owned() });
    };
    if value("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        fault(
            format!(
                "lets a broker lead that lacks {unit}s (unclean.leader.election.enable): acknowledged ones can be lost"
            ),
            "set it to false",
        );
    }
    let in_sync = value("min.insync.replicas").and_then(|value| value.parse::<i64>().ok()).unwrap_or(1);
    if replicas < 2 {
        fault(
            "has one copy: what its broker loses is lost".to_owned(),
            "give it three copies, with min.insync.replicas 2",
        );
    } else if in_sync < 2 {
        fault(
            "counts what is written as there when one broker has it (min.insync.replicas 1)".to_owned(),
            "set its min.insync.replicas to 2",
        );
    } else if in_sync >= replicas as i64 {
        fault(
            format!(
                "needs all of its {replicas} copies to be written (min.insync.replicas {in_sync}): one broker away stops the {stops}"
            ),
            "give it one copy more than min.insync.replicas",
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(partitions: usize, replicas: usize, values: &[(&str, &str)]) -> Vec<(bool, String)> {
        let sound = [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "1048588"),
            ("unclean.leader.election.enable", "false"),
            ("min.insync.replicas", "2"),
            ("retention.bytes", "-1"),
            ("retention.ms", "604800000"),
        ];
        let value = |name: &str| {
            let given = values.iter().chain(&sound).find(|(given, _)| *given == name);
            given.map(|(_, value)| (*value).to_owned())
        };
        let faults = judge(&TopicSettings::new("t"), partitions, replicas, value);
        assert!(faults.iter().all(|fault| !fault.remedy.is_empty()));
        faults.into_iter().map(|fault| (fault.fatal, fault.reason)).collect()
    }

    #[test]
    fn a_topic_as_it_should_be_has_no_faults_and_every_doubt_is_told() {
        assert_eq!(judged(1, 3, &[]), []);
        let one = |partitions, replicas, name, value, fatal, says: &str| {
            let found = judged(partitions, replicas, &[(name, value)]);
            let [(is_fatal, reason)] = &found[..] else { panic!("{name}={value}: {found:?}") };
            assert!(*is_fatal == fatal && reason.contains(says), "{found:?}");
        };
        one(2, 3, "", "", true, "2 partitions");
        one(1, 3, "cleanup.policy", "compact,delete", true, "compacted");
        one(1, 3, "max.message.bytes", "500000", true, "500000 bytes");
        one(1, 3, "unclean.leader.election.enable", "true", false, "lacks records");
        one(1, 1, "", "", false, "one copy");
        one(1, 3, "min.insync.replicas", "1", false, "one broker has it");
        one(1, 3, "min.insync.replicas", "3", false, "all of its 3 copies");
        one(1, 3, "retention.bytes", "1000000", false, "1000000 bytes");
        one(1, 3, "retention.ms", "7200000", false, "2 hours");
        assert_eq!(judged(1, 3, &[("retention.ms", "-1")]), []);
        let both = judged(1, 1, &[("cleanup.policy", "compact")]);
        assert!(both.len() == 2 && both[0].0 && !both[1].0, "the worst first: {both:?}");
    }
}
