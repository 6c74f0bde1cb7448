//! What a feed needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::kafka::KafkaSettings;

/// What becomes of `numeric` and `money` (Debezium's `decimal.handling.mode`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Numerics {
    /// The unscaled number's bytes, exactly. NaN and infinity cannot be told so, and stop the feed.
    #[default]
    Precise,
    /// A string, as the server prints it.
    String,
    /// A number of double precision.
    Double,
}

/// What the events look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// What stands before schema and table in the name of a topic; also the source's name in the events.
    pub prefix: String,
    /// The database's name in the events.
    pub database: String,
    /// What becomes of decimal numbers.
    pub numerics: Numerics,
    /// Whether each event brings its schema (`schemas.enable` of Kafka's `JsonConverter`).
    pub schemas: bool,
    /// Whether transactions are told: the block in each event, and the topic of their begins and ends.
    pub transactions: bool,
    /// Whether a delete is followed by a tombstone, by which a compacted topic forgets the key.
    pub tombstones: bool,
    /// Whether TRUNCATE is told.
    pub truncates: bool,
    /// Whether logical messages are told.
    pub messages: bool,
    /// Tables that are left out, as `(schema, table)`.
    pub exclude: BTreeSet<(String, String)>,
    /// Columns that are a table's key where its replica identity is not to be used, by `(schema, table)`.
    pub key_columns: BTreeMap<(String, String), Vec<String>>,
}

impl Shape {
    /// As Debezium does without settings.
    pub fn new(prefix: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            database: database.into(),
            numerics: Numerics::Precise,
            schemas: false,
            transactions: false,
            tombstones: true,
            truncates: false,
            messages: false,
            exclude: BTreeSet::new(),
            key_columns: BTreeMap::new(),
        }
    }
}

/// Topics that the feed makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedTopics {
    /// Whether it makes those that are not there; otherwise it stops at the first.
    pub create: bool,
    /// Partitions of a table's topic.
    pub partitions: u16,
    /// Copies of each.
    pub replication: u16,
    /// So many of them must have an event before it counts as there.
    pub min_in_sync: u16,
    /// How long events are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// Whether a table's topic is compacted: the last event of a key is kept for ever.
    pub compact: bool,
}

/// One feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedSettings {
    /// The group's name: of its lock, of its status, and of its mark in the trail.
    pub group: String,
    /// The flow that the trail belongs to.
    pub flow: String,
    /// The cluster.
    pub kafka: KafkaSettings,
    /// What the events look like.
    pub shape: Shape,
    /// The topics.
    pub topics: FeedTopics,
    /// The longest event that is written, in bytes, with its key.
    pub event_size: usize,
    /// A sign of life is written so often; `None` for none.
    pub heartbeat: Option<Duration>,
    /// The trail's directory.
    pub trail: PathBuf,
    /// Directory of the lock and the status.
    pub state_directory: PathBuf,
}
