//! A feed: a flow's changes as events for others, in Kafka.

use std::collections::BTreeSet;
use std::time::Duration;

use irongate_pump::feed::Numerics;
use serde::Deserialize;
use toml::Spanned;

use super::flow::Context;
use super::kafka::{LONGEST_TOPIC, is_topic};
use super::problem::Problems;
use super::table::TableName;
use super::units::{Bytes, Limit, Time};

/// The least that an event may be allowed, in bytes, and the most: several are in memory at once.
const LEAST_EVENT: u64 = 16 << 10;
const MOST_EVENT: u64 = 64 << 20;
/// As long as Kafka's brokers take a record by default, with room for what surrounds it.
const EVENT: u64 = 1000 << 10;
/// Room for schema and table in the name of a topic: 63 characters each, dots, and what the heartbeats' begins with.
const ROOM: usize = 150;

/// `[flows.NAME.feed]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FeedSection {
    at: Option<Spanned<String>>,
    topic_prefix: Option<Spanned<String>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    numerics: Option<NumericsValue>,
    schemas: Option<bool>,
    transactions: Option<bool>,
    tombstones: Option<bool>,
    truncates: Option<bool>,
    messages: Option<bool>,
    heartbeat: Option<Spanned<Limit<Time>>>,
    create_topics: Option<bool>,
    partitions: Option<Spanned<u16>>,
    compact: Option<bool>,
    retention: Option<Spanned<Limit<Time>>>,
    event_size: Option<Spanned<Bytes>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum NumericsValue {
    Precise,
    String,
    Double,
}

/// How a flow's changes are told to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedOptions {
    /// The site that runs it: one that has the flow's trail.
    pub at: String,
    /// What stands before schema and table in the names of topics.
    pub topic_prefix: String,
    /// Tables that are left out.
    pub exclude: BTreeSet<TableName>,
    /// What becomes of decimal numbers.
    pub numerics: Numerics,
    /// Whether each event brings its schema.
    pub schemas: bool,
    /// Whether transactions are told.
    pub transactions: bool,
    /// Whether a delete is followed by a tombstone.
    pub tombstones: bool,
    /// Whether TRUNCATE is told.
    pub truncates: bool,
    /// Whether logical messages are told.
    pub messages: bool,
    /// How often there is a sign of life.
    pub heartbeat: Option<Duration>,
    /// Whether topics are made that are not there.
    pub create_topics: bool,
    /// Partitions of a table's topic.
    pub partitions: u16,
    /// Whether tables' topics are compacted.
    pub compact: bool,
    /// How long events are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// The longest event, in bytes.
    pub event_size: usize,
}

/// What a feed must fit to: its flow.
pub(super) struct Surroundings<'a> {
    context: &'a Context<'a>,
    database: &'a str,
    /// The sites that have the trail, that of Extract first.
    sites: &'a [&'a str],
    is_binary: bool,
}

impl<'a> Surroundings<'a> {
    pub(super) fn new(
        context: &'a Context<'a>,
        database: &'a str,
        sites: &'a [&'a str],
        is_binary: bool,
    ) -> Self {
        Self { context, database, sites, is_binary }
    }
}

impl FeedSection {
    pub(super) fn review(
        section: Spanned<Self>,
        around: &Surroundings<'_>,
        problems: &mut Problems<'_>,
    ) -> FeedOptions {
        let span = section.span();
        let this = section.into_inner();
        if !around.context.has_kafka {
            let remedy = "add [kafka] with brokers = [\"host:9092\"]";
            problems.add(span.clone(), "a feed needs a cluster of Kafka", Some(remedy.into()));
        }
        if around.is_binary {
            problems.add(
                span,
                "a feed cannot read values that Extract takes in binary",
                Some("take away binary = true from the flow's extract".into()),
            );
        }
        if let Some(at) = this.at.as_ref().filter(|at| !around.sites.contains(&at.get_ref().as_str())) {
            problems.add(
                at.span(),
                format!("site \"{}\" does not have the flow's trail", at.get_ref()),
                Some(format!("it is at: {}", around.sites.join(", "))),
            );
        }
        if let Some(prefix) = &this.topic_prefix
            && (!is_topic(prefix.get_ref())
                || prefix.get_ref().is_empty()
                || prefix.get_ref().len() > LONGEST_TOPIC - ROOM)
        {
            problems.add(
                prefix.span(),
                format!("\"{}\" cannot begin the name of a topic", prefix.get_ref()),
                Some(format!("use letters, digits, - . and _, {} characters at most", LONGEST_TOPIC - ROOM)),
            );
        }
        let mut exclude = BTreeSet::new();
        for table in &this.exclude {
            match TableName::parse(table.get_ref()) {
                Ok(name) => drop(exclude.insert(name)),
                Err(reason) => problems.add(table.span(), reason, Some("write \"schema.table\"".into())),
            }
        }
        if let Some(partitions) = this.partitions.as_ref().filter(|partitions| *partitions.get_ref() == 0) {
            problems.add(partitions.span(), "a topic without partitions", Some("use 1 or more".into()));
        }
        let limit = |limit: &Option<Spanned<Limit<Time>>>, default: Option<Duration>| match limit {
            Some(limit) => limit.get_ref().0.map(|time| time.0),
            None => default,
        };
        let heartbeat = limit(&this.heartbeat, None);
        if let Some(given) =
            this.heartbeat.as_ref().filter(|_| heartbeat.is_some_and(|t| t < Duration::from_secs(1)))
        {
            problems.add(
                given.span(),
                "a heartbeat that comes too often",
                Some("use \"1s\" or more, or \"off\"".into()),
            );
        }
        let retention = limit(&this.retention, Some(Duration::from_secs(7 * 24 * 60 * 60)));
        if let Some(given) =
            this.retention.as_ref().filter(|_| retention.is_some_and(|t| t < Duration::from_secs(3600)))
        {
            let remedy = "use the longest time that a consumer may be away, such as \"7d\", or \"off\"";
            problems.add(given.span(), "a topic that keeps nothing", Some(remedy.into()));
        }
        let event_size = this.event_size.as_ref().map_or(EVENT, |size| size.get_ref().0);
        if let Some(given) =
            this.event_size.as_ref().filter(|_| !(LEAST_EVENT..=MOST_EVENT).contains(&event_size))
        {
            problems.add(given.span(), "no size for events", Some("use 16KiB to 64MiB".into()));
        }
        let at = this.at.map_or_else(
            || around.sites.first().copied().unwrap_or_default().to_owned(),
            Spanned::into_inner,
        );
        FeedOptions {
            at,
            topic_prefix: this.topic_prefix.map_or_else(
                || format!("{}.{}", around.context.deployment, around.database),
                Spanned::into_inner,
            ),
            exclude,
            numerics: match this.numerics {
                None | Some(NumericsValue::Precise) => Numerics::Precise,
                Some(NumericsValue::String) => Numerics::String,
                Some(NumericsValue::Double) => Numerics::Double,
            },
            schemas: this.schemas.unwrap_or(false),
            transactions: this.transactions.unwrap_or(false),
            tombstones: this.tombstones.unwrap_or(true),
            truncates: this.truncates.unwrap_or(false),
            messages: this.messages.unwrap_or(false),
            heartbeat,
            create_topics: this.create_topics.unwrap_or(true),
            partitions: this.partitions.map_or(1, Spanned::into_inner),
            compact: this.compact.unwrap_or(false),
            retention,
            event_size: usize::try_from(event_size).unwrap_or(usize::MAX),
        }
    }
}
