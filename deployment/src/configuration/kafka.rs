//! A cluster of Apache Kafka, in whose topics the trails of flows lie on their way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use irongate_pump::kafka::{KafkaSettings, Sasl, SaslMechanism};
use serde::Deserialize;
use toml::Spanned;

use super::problem::Problems;
use super::units::{Bytes, Limit, Time, delays};

/// The least that a record may hold, in bytes.
const LEAST_RECORD: u64 = 16 << 10;
/// A record as long as Kafka's brokers take them by default, with room for what surrounds it.
const RECORD: u64 = 900 << 10;
/// The longest, in bytes: several are in memory at once.
const MOST_RECORD: u64 = 64 << 20;
/// The longest name of a topic.
pub(super) const LONGEST_TOPIC: usize = 249;

/// Whether a text can stand in the name of a topic.
pub(super) fn is_topic(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// `[kafka]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KafkaSection {
    brokers: Spanned<Vec<Spanned<String>>>,
    topic_prefix: Option<Spanned<String>>,
    tls: Option<Spanned<bool>>,
    authority: Option<PathBuf>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
    mechanism: Option<Spanned<Mechanism>>,
    replication: Option<Spanned<u16>>,
    min_in_sync: Option<Spanned<u16>>,
    retention: Option<Spanned<Limit<Time>>>,
    record_size: Option<Spanned<Bytes>>,
    timeout: Option<Spanned<Time>>,
    retry_delay: Option<Spanned<Time>>,
    retry_longest_delay: Option<Spanned<Time>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Mechanism {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    #[serde(rename = "plain")]
    Plain,
}

/// A cluster, and what topics in it are like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaOptions {
    /// How to come to it.
    pub client: KafkaSettings,
    /// What stands before a flow's name in the name of its topic.
    pub topic_prefix: String,
    /// Copies of a topic that set-up makes.
    pub replication: u16,
    /// So many of them must have a record before it counts as there.
    pub min_in_sync: u16,
    /// How long records are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// The longest record that is written, in bytes.
    pub record_size: usize,
}

impl KafkaSection {
    pub(super) fn review(
        self,
        deployment: &str,
        directory: &Path,
        problems: &mut Problems<'_>,
    ) -> KafkaOptions {
        if self.brokers.get_ref().is_empty() {
            let remedy = "write brokers = [\"kafka1.example:9092\"]";
            problems.add(self.brokers.span(), "a cluster without brokers", Some(remedy.into()));
        }
        for broker in self.brokers.get_ref() {
            let parts = broker.get_ref().rsplit_once(':');
            let bad = parts.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
                || broker.get_ref().contains([',', '/', ' ']);
            if bad {
                problems.add(
                    broker.span(),
                    format!("\"{}\" is no host with a port", broker.get_ref()),
                    Some("write \"kafka1.example:9092\"".into()),
                );
            }
        }
        let topic_prefix = self.review_prefix(deployment, problems);
        self.review_security(problems);
        let (replication, min_in_sync) = self.review_copies(problems);
        let record_size = self.record_size.as_ref().map_or(RECORD, |size| size.get_ref().0);
        if let Some(size) =
            self.record_size.as_ref().filter(|_| !(LEAST_RECORD..=MOST_RECORD).contains(&record_size))
        {
            problems.add(size.span(), "no size for records", Some("use 16KiB to 64MiB".into()));
        }
        for time in [self.timeout.as_ref()].into_iter().flatten() {
            if time.get_ref().0 < Duration::from_secs(1) {
                problems.add(
                    time.span(),
                    "no broker answers in so short a time",
                    Some("use \"1s\" or more".into()),
                );
            }
        }
        let retention = match &self.retention {
            None => Some(Duration::from_secs(7 * 24 * 60 * 60)),
            Some(limit) => limit.get_ref().0.map(|time| time.0),
        };
        if let Some(limit) =
            self.retention.as_ref().filter(|_| retention.is_some_and(|time| time < Duration::from_secs(3600)))
        {
            let remedy = "use the longest time that a site may be away, such as \"7d\", or \"off\"";
            problems.add(limit.span(), "a topic that keeps nothing", Some(remedy.into()));
        }
        let usual = (Duration::from_secs(1), Duration::from_secs(30));
        let (retry_first, retry_longest) =
            delays(self.retry_delay, self.retry_longest_delay, usual, problems);
        let in_directory = |path: Spanned<PathBuf>| directory.join(path.into_inner());
        let mechanism = match self.mechanism.map(Spanned::into_inner) {
            None | Some(Mechanism::ScramSha256) => SaslMechanism::ScramSha256,
            Some(Mechanism::ScramSha512) => SaslMechanism::ScramSha512,
            Some(Mechanism::Plain) => SaslMechanism::Plain,
        };
        let sasl = self.user.zip(self.password_file).map(|(user, file)| Sasl {
            mechanism,
            user: user.into_inner(),
            password_file: in_directory(file),
        });
        let brokers = self.brokers.into_inner().into_iter().map(Spanned::into_inner).collect();
        let client = KafkaSettings {
            tls: self.tls.is_none_or(Spanned::into_inner),
            authority: self.authority.map(|path| directory.join(path)),
            certificate: self
                .certificate
                .zip(self.key)
                .map(|(one, other)| (in_directory(one), in_directory(other))),
            sasl,
            timeout: self.timeout.map_or(Duration::from_secs(30), |time| time.into_inner().0),
            retry_first,
            retry_longest,
            ..KafkaSettings::new(brokers)
        };
        let record_size = usize::try_from(record_size).unwrap_or(usize::MAX);
        KafkaOptions { client, topic_prefix, replication, min_in_sync, retention, record_size }
    }

    fn review_prefix(&self, deployment: &str, problems: &mut Problems<'_>) -> String {
        let Some(prefix) = &self.topic_prefix else { return format!("irongate.{deployment}.") };
        if !is_topic(prefix.get_ref()) || prefix.get_ref().len() > LONGEST_TOPIC - 64 {
            problems.add(
                prefix.span(),
                format!("\"{}\" cannot stand in the name of a topic", prefix.get_ref()),
                Some("use letters, digits, - . and _".into()),
            );
        }
        prefix.get_ref().clone()
    }

    fn review_security(&self, problems: &mut Problems<'_>) {
        let is_tls = self.tls.as_ref().is_none_or(|tls| *tls.get_ref());
        let mut halves = |one: Option<std::ops::Range<usize>>, other: bool, what: &str| {
            if let Some(span) = one.filter(|_| !other) {
                problems.add(span, format!("one without the other: {what}"), Some(format!("write {what}")));
            }
        };
        halves(self.user.as_ref().map(Spanned::span), self.password_file.is_some(), "user and password_file");
        halves(self.password_file.as_ref().map(Spanned::span), self.user.is_some(), "user and password_file");
        halves(self.certificate.as_ref().map(Spanned::span), self.key.is_some(), "certificate and key");
        halves(self.key.as_ref().map(Spanned::span), self.certificate.is_some(), "certificate and key");
        if let Some(mechanism) =
            self.mechanism.as_ref().filter(|given| *given.get_ref() == Mechanism::Plain && !is_tls)
        {
            problems.add(
                mechanism.span(),
                "the password would travel as it is",
                Some("use TLS, or mechanism = \"scram-sha-256\"".into()),
            );
        }
    }

    fn review_copies(&self, problems: &mut Problems<'_>) -> (u16, u16) {
        let replication = self.replication.as_ref().map_or(3, |copies| *copies.get_ref());
        let usual = if replication > 1 { 2 } else { 1 };
        let in_sync = self.min_in_sync.as_ref().map_or(usual, |copies| *copies.get_ref());
        if replication == 0 || in_sync == 0 || in_sync > replication {
            let at = self.min_in_sync.as_ref().or(self.replication.as_ref());
            problems.add(
                at.map_or(0..0, Spanned::span),
                "min_in_sync must be 1 or more, and not more than replication",
                Some("leave both away for 2 of 3".into()),
            );
        }
        (replication, in_sync)
    }
}
