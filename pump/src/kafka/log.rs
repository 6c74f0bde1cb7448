//! Reading a topic from any place on.

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Rd};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Context, configuration, failed, metadata, millis};
use super::ledger::{Ledger, Verdict};
use super::settings::KafkaSettings;
use super::unit::{Foreign, Header, Packed, belongs};
use crate::error::Error;
use crate::wire::{Code, Refused};

/// The only partition.
pub(crate) const PARTITION: i32 = 0;

/// A topic that is read.
pub(crate) struct Log {
    consumer: StreamConsumer<Context>,
    context: Context,
    settings: KafkaSettings,
    topic: String,
    /// Offset of the next record.
    next: i64,
}

/// What came next.
pub(crate) enum Read {
    /// A record: its offset and its bytes.
    Record(i64, Vec<u8>),
    /// There is no more at present.
    End,
}

impl Log {
    /// Opens a topic, which must be there and have one partition. Nothing is read before [`Log::seek`].
    pub(crate) fn open(settings: &KafkaSettings, topic: &str, name: &str) -> Result<Self, Error> {
        let context = Context::default();
        let mut config = configuration(settings, name)?;
        // Nobody shares the work, nothing is committed: the group is a name that the library wants.
        config.set("group.id", format!("irongate-{name}"));
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", millis(Duration::from_millis(100)));
        config.set("fetch.error.backoff.ms", "100");
        // What waits in memory to be read.
        config.set("queued.max.messages.kbytes", "16384");
        let made = StreamConsumer::from_config_and_context(&config, context.clone());
        let consumer =
            made.map_err(|error| failed(settings, "the client cannot be set up", &error, &context))?;
        let log = Self { consumer, context, settings: settings.clone(), topic: topic.to_owned(), next: 0 };
        log.check()?;
        Ok(log)
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> Error {
        failed(&self.settings, &format!("topic \"{}\" {doing}", self.topic), error, &self.context)
    }

    fn check(&self) -> Result<(), Error> {
        let asked = || metadata(&self.settings, &self.topic, "cannot be looked at");
        let metadata = tokio::task::block_in_place(asked)?;
        let topic = metadata.topics().first();
        if let Some(error) = topic.and_then(|topic| topic.error()) {
            return Err(self.failed("cannot be used", &KafkaError::MetadataFetch(error.into())));
        }
        match topic.map_or(0, |topic| topic.partitions().len()) {
            1 => Ok(()),
            partitions => Err(Error::Topic {
                topic: self.topic.clone(),
                reason: format!("has {partitions} partitions: only one keeps the order of transactions"),
                remedy: "remove it when nobody needs what is in it, and let \"irongate setup\" make it anew"
                    .to_owned(),
            }),
        }
    }

    /// The offsets of the first record that is there, and behind the last.
    pub(crate) fn ends(&self) -> Result<(i64, i64), Error> {
        let asked = tokio::task::block_in_place(|| {
            self.consumer.fetch_watermarks(&self.topic, PARTITION, self.settings.timeout)
        });
        asked.map_err(|error| self.failed("does not say where it ends", &error))
    }

    /// Goes on at an offset.
    pub(crate) fn seek(&mut self, offset: i64) -> Result<(), Error> {
        let mut place = TopicPartitionList::new();
        let set = place.add_partition_offset(&self.topic, PARTITION, Offset::Offset(offset));
        set.and_then(|()| self.consumer.assign(&place))
            .map_err(|error| self.failed("cannot be read", &error))?;
        self.next = offset;
        Ok(())
    }

    /// The next record, or that there is none at present; waits for one of both. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Read, Error> {
        loop {
            // A broker that does not answer any more says nothing: so it is asked.
            let read = tokio::time::timeout(self.settings.timeout, self.consumer.recv()).await;
            match read {
                Err(_) => drop(self.ends()?),
                Ok(Ok(message)) => {
                    let offset = message.offset();
                    if offset < self.next {
                        // Of a fetch before the last seek.
                        continue;
                    }
                    let bytes = message.payload().unwrap_or_default().to_vec();
                    drop(message);
                    self.next = offset + 1;
                    return Ok(Read::Record(offset, bytes));
                }
                Ok(Err(KafkaError::PartitionEOF(_))) => return Ok(Read::End),
                Ok(Err(KafkaError::MessageConsumption(Rd::OffsetOutOfRange | Rd::AutoOffsetReset))) => {
                    return Err(Error::Kafka {
                        doing: format!("topic \"{}\" cannot be read on", self.topic),
                        reason: format!("it has no record at offset {} (any more)", self.next),
                        transient: true,
                        hint: "it is looked for by its place; if that is gone too, it is said".to_owned(),
                    });
                }
                Ok(Err(error)) => return Err(self.failed("cannot be read", &error)),
            }
        }
    }

    /// The next record before an offset that is known to be there, or `None` behind the last one before it.
    pub(crate) async fn next_before(&mut self, end: i64) -> Result<Option<(i64, Vec<u8>)>, Error> {
        while self.next < end {
            match self.next().await? {
                Read::Record(offset, bytes) if offset < end => return Ok(Some((offset, bytes))),
                // It was taken away while we read: what is behind is read again by whoever needs it.
                Read::Record(..) => return Ok(None),
                // The end as this broker knew it a moment ago.
                Read::End => {}
            }
        }
        Ok(None)
    }
}

/// Whose a topic's records are.
pub(crate) struct Owner {
    pub(crate) topic: String,
    pub(crate) flow: String,
    belongs: u32,
}

impl Owner {
    pub(crate) fn new(topic: &str, deployment: &str, flow: &str) -> Self {
        Self { topic: topic.to_owned(), flow: flow.to_owned(), belongs: belongs(deployment, flow) }
    }

    /// Reads a record and has it judged. `None` for one that is nobody's of us.
    pub(crate) fn judge<'a>(
        &self,
        ledger: &mut Ledger,
        offset: i64,
        bytes: &'a [u8],
    ) -> Result<Option<(Header, Packed<'a>, Verdict)>, Error> {
        match Header::decode(bytes) {
            Ok((header, packed)) if header.belongs == self.belongs => {
                let verdict = ledger.pass(&header);
                Ok(Some((header, packed, verdict)))
            }
            Ok(_) => Err(Error::refusing(Refused {
                code: Code::Flow,
                transient: false,
                message: format!("topic \"{}\" is not of flow \"{}\" of this deployment", self.topic, self.flow),
                remedy: "give each flow of each deployment a topic of its own: topic_prefix in [kafka]".to_owned(),
            })),
            Err(Foreign::NotOurs) => {
                tracing::warn!(topic = self.topic, offset, "a record of somebody else's is passed over");
                Ok(None)
            }
            Err(Foreign::Version(version)) => Err(Error::Topic {
                topic: self.topic.clone(),
                reason: format!("has a record of version {version} at offset {offset}, which this release cannot read"),
                remedy: "run the release that wrote it, or a newer one".to_owned(),
            }),
            Err(Foreign::Damaged(what)) => Err(Error::Topic {
                topic: self.topic.clone(),
                reason: format!("has a damaged record at offset {offset}: {what}"),
                remedy: "look after the brokers' disks; then let the topic be made anew and the flow be instantiated again"
                    .to_owned(),
            }),
        }
    }
}
