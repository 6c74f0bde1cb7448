//! What a pump to Kafka and a reader of it need to know.

use std::path::PathBuf;
use std::time::Duration;

/// How a client proves who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sasl {
    /// The way.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub user: String,
    /// The file that holds the password, and nothing else but white space at its end. Read anew for each attempt.
    pub password_file: PathBuf,
}

/// The ways to prove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
    /// The password itself: only over TLS.
    Plain,
}

impl SaslMechanism {
    /// Its name, as Kafka has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
        }
    }
}

/// A Kafka cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaSettings {
    /// `host:port` of some of its brokers.
    pub brokers: Vec<String>,
    /// Whether the connection is TLS. The broker's certificate and name are checked then.
    pub tls: bool,
    /// The certificates of the authorities that are trusted (PEM); `None`: the system's.
    pub authority: Option<PathBuf>,
    /// The client's own certificate and key (PEM), where the brokers ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Who the client is, where the brokers ask.
    pub sasl: Option<Sasl>,
    /// After so long without an answer the brokers count as away.
    pub timeout: Duration,
    /// First pause before another attempt.
    pub retry_first: Duration,
    /// Longest pause before another attempt.
    pub retry_longest: Duration,
}

impl KafkaSettings {
    /// Without TLS; 30 s until the brokers count as away, pauses of 1 to 30 s.
    pub fn new(brokers: Vec<String>) -> Self {
        Self {
            brokers,
            tls: false,
            authority: None,
            certificate: None,
            sasl: None,
            timeout: Duration::from_secs(30),
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(30),
        }
    }

    /// The brokers, for messages.
    #[cfg(feature = "kafka")]
    pub(crate) fn place(&self) -> String {
        self.brokers.join(", ")
    }
}

/// A topic that is to be made or looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSettings {
    /// Its name.
    pub name: String,
    /// Copies of it.
    pub replication: u16,
    /// So many of them must have a record before it counts as there.
    pub min_in_sync: u16,
    /// How long records are kept; `None` for ever.
    pub retention: Option<Duration>,
    /// The longest record that is written, in bytes.
    pub record_size: usize,
}

impl TopicSettings {
    /// Three copies of which two must be there, a week, records of at most 900 kB.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            replication: 3,
            min_in_sync: 2,
            retention: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            record_size: 900_000,
        }
    }
}

/// Something about a topic that an operator should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whether a trail cannot be carried through it.
    pub fatal: bool,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// One pump that writes into a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaPumpSettings {
    /// The group's name: of its lock, of its status, and of its mark in the trail.
    pub group: String,
    /// The deployment.
    pub deployment: String,
    /// The flow that the trail belongs to.
    pub flow: String,
    /// This site.
    pub site: String,
    /// The cluster.
    pub kafka: KafkaSettings,
    /// The topic's name.
    pub topic: String,
    /// The longest record that is written, in bytes.
    pub record_size: usize,
    /// The trail's directory.
    pub trail: PathBuf,
    /// Directory of the lock and the status.
    pub state_directory: PathBuf,
    /// The epoch of the database. A trail of a later one is not carried.
    pub epoch: u64,
    /// Level of zstd, 1 to 22; `None` sends records as they are.
    pub compression: Option<i32>,
}

/// One reader that makes a trail of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaReaderSettings {
    /// The group's name: of its lock and of its status.
    pub group: String,
    /// The deployment.
    pub deployment: String,
    /// The flow, whose trail the topic holds.
    pub flow: String,
    /// The site that it comes from.
    pub from: String,
    /// The cluster.
    pub kafka: KafkaSettings,
    /// The topic's name.
    pub topic: String,
    /// Directory of the trail that is made.
    pub trail: PathBuf,
    /// Directory of the lock, the status, and the note of where the topic was read to.
    pub state_directory: PathBuf,
    /// The epoch of the database, as known here: what is of an older one is not taken.
    pub epoch: u64,
    /// Size of a trail file in bytes.
    pub file_size: u64,
    /// While the disk of the trail has fewer free bytes than this, nothing more is taken; `None` fills the disk.
    pub keep_free: Option<u64>,
}
