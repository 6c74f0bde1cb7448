//! Talking to Kafka: a client's configuration, and what its errors mean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Rd};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{FutureProducer, Producer};
use rdkafka::{ClientContext, consumer::ConsumerContext};

use super::settings::{KafkaSettings, SaslMechanism};
use crate::error::Error;

/// What the library says of itself goes to our log, and its last complaint stays at hand: "timed out" alone says little.
#[derive(Clone, Default, Debug)]
pub(crate) struct Context {
    complaint: Arc<Mutex<Option<(Rd, String)>>>,
}

impl Context {
    fn complain(&self, code: Rd, reason: &str) {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        // That all are down follows from what was said of each, and says less.
        if complaint.is_none() || code != Rd::AllBrokersDown {
            *complaint = Some((code, reason.to_owned()));
        }
    }

    /// What it complained about last, since the last call.
    pub(crate) fn complaint(&self) -> Option<(Rd, String)> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(facility, message, "librdkafka");
            }
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        if let Some(code) = error.rdkafka_error_code() {
            self.complain(code, reason);
        }
    }
}

impl ConsumerContext for Context {}

/// A client's configuration, without what is a producer's or a consumer's.
///
/// # Errors
/// [`Error::File`] for a password that cannot be read.
pub(crate) fn configuration(settings: &KafkaSettings, name: &str) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", settings.brokers.join(","));
    config.set("client.id", format!("irongate-{name}"));
    config.set("allow.auto.create.topics", "false");
    config.set("socket.keepalive.enable", "true");
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("socket.timeout.ms", millis(settings.timeout.max(Duration::from_secs(1))));
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set(
        "security.protocol",
        match (settings.tls, settings.sasl.is_some()) {
            (false, false) => "PLAINTEXT",
            (true, false) => "SSL",
            (false, true) => "SASL_PLAINTEXT",
            (true, true) => "SASL_SSL",
        },
    );
    if settings.tls {
        config.set("enable.ssl.certificate.verification", "true");
        config.set("ssl.endpoint.identification.algorithm", "https");
        if let Some(authority) = &settings.authority {
            config.set("ssl.ca.location", authority.to_string_lossy());
        }
        if let Some((certificate, key)) = &settings.certificate {
            config.set("ssl.certificate.location", certificate.to_string_lossy());
            config.set("ssl.key.location", key.to_string_lossy());
        }
    }
    if let Some(sasl) = &settings.sasl {
        if sasl.mechanism == SaslMechanism::Plain && !settings.tls {
            let reason = "the mechanism PLAIN would send the password as it is: use TLS, or SCRAM".to_owned();
            return Err(Error::Setting { setting: "the security of Kafka", reason });
        }
        let password = std::fs::read_to_string(&sasl.password_file)
            .map_err(|error| Error::File { path: sasl.password_file.clone(), reason: error.to_string() })?;
        config.set("sasl.mechanism", sasl.mechanism.name());
        config.set("sasl.username", &sasl.user);
        config.set("sasl.password", password.trim_end());
    }
    Ok(config)
}

/// What the brokers say of a topic. Blocks.
///
/// Asked by a producer, which alone hears in the background why brokers cannot be reached: a certificate that is not trusted, a
/// password that is wrong. The others would say that it took too long.
pub(crate) fn metadata(settings: &KafkaSettings, topic: &str, doing: &str) -> Result<Metadata, Error> {
    ask(settings, Some(topic), &format!("topic \"{topic}\" {doing}"))
}

/// What the brokers say of one topic, or of all. Blocks.
pub(crate) fn ask(settings: &KafkaSettings, topic: Option<&str>, doing: &str) -> Result<Metadata, Error> {
    let context = Context::default();
    let config = configuration(settings, "look")?;
    let made: Result<FutureProducer<Context>, _> =
        FutureProducer::from_config_and_context(&config, context.clone());
    let producer = made.map_err(|error| failed(settings, "the client cannot be set up", &error, &context))?;
    producer
        .client()
        .fetch_metadata(topic, settings.timeout)
        .map_err(|error| failed(settings, doing, &error, &context))
}

pub(crate) fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// What an error of the library means to us. `doing` says what was tried.
pub(crate) fn failed(settings: &KafkaSettings, doing: &str, error: &KafkaError, context: &Context) -> Error {
    let code = error.rdkafka_error_code();
    let complaint = context.complaint();
    // Behind a time limit stands what kept it from answering.
    let told = match (code, complaint) {
        (
            Some(
                Rd::OperationTimedOut | Rd::MessageTimedOut | Rd::BrokerTransportFailure | Rd::AllBrokersDown,
            ),
            Some(told),
        ) => Some(told),
        _ => None,
    };
    let (code, reason) = match told {
        Some((code, reason)) => (Some(code), reason),
        None => (code, code.map_or_else(|| error.to_string(), |code| code.to_string())),
    };
    let (transient, hint) = meaning(code);
    Error::Kafka {
        doing: format!("Kafka at {}: {doing}", settings.place()),
        reason,
        transient,
        hint: hint.to_owned(),
    }
}

/// Whether trying again can help, and what else does.
fn meaning(code: Option<Rd>) -> (bool, &'static str) {
    match code {
        Some(Rd::Authentication | Rd::SaslAuthenticationFailed) => {
            (false, "look at the user's name and the password's file in [kafka], and at the user in Kafka")
        }
        Some(Rd::SSL) => (
            true,
            "is [kafka] authority the certificate of who signed the brokers', do their names match, and do they speak TLS at this port?",
        ),
        Some(
            Rd::TopicAuthorizationFailed | Rd::ClusterAuthorizationFailed | Rd::GroupAuthorizationFailed,
        ) => (
            false,
            "the user needs the rights to describe, read and write the topic (and to create it, for \"irongate setup\")",
        ),
        Some(Rd::UnknownTopic | Rd::UnknownTopicOrPartition) => {
            (false, "\"irongate setup\" makes the topic; is its name right?")
        }
        // The topic is there: a broker that has just come back may not know yet who leads it.
        Some(Rd::UnknownPartition) => {
            (true, "no broker says yet who leads the topic: if that stays so, are all of them running?")
        }
        Some(Rd::MessageSizeTooLarge | Rd::InvalidMessageSize) => {
            (false, "raise max.message.bytes of the topic, or lower record_size in [kafka]")
        }
        Some(Rd::NotEnoughReplicas | Rd::NotEnoughReplicasAfterAppend) => (
            true,
            "fewer brokers have the topic than its min.insync.replicas: start the others; nothing is lost meanwhile",
        ),
        Some(Rd::InvalidConfig | Rd::InvalidArgument | Rd::PolicyViolation) => (false, "look at [kafka]"),
        _ => (
            true,
            "are the brokers running, and do their addresses (also advertised.listeners) lead to them from here?",
        ),
    }
}
