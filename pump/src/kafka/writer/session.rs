//! A writer's hold on a topic: its claim, and what it has written since.
//!
//! Nothing is taken to be there because a broker said so: an acknowledgement gives an offset, and where that does not follow
//! the one before, the records between are read and judged. So a writer that was superseded learns it with its next record,
//! before it lets anything be purged.

use std::collections::VecDeque;
use std::sync::Arc;

use irongate_trail::{Lineage, Mark, Storage};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};

use super::super::client::{Context, configuration, failed, millis};
use super::super::ledger::{Ledger, Verdict};
use super::super::log::{Log, Owner, PARTITION};
use super::super::packer::{Note, Piece};
use super::super::settings::KafkaPumpSettings;
use super::super::unit::{At, Author, HEADER, Header, Kind, Reached, belongs};
use crate::collector::admission::{self, Own};
use crate::error::Error;
use crate::pump::own::{self, Facts};
use crate::wire::{Accepted, Code, Hello, Place, Refused};

/// Records that are looked at first to find the last claim.
const WINDOW: i64 = 256;
/// How often a claim is made when others come in between.
const CLAIMS: usize = 8;

/// A record on its way.
struct Flying {
    delivery: DeliveryFuture,
    header: Header,
    bytes: usize,
    note: Option<Note>,
}

/// A record that is there.
pub(super) struct Landed {
    offset: i64,
    header: Header,
    note: Option<Note>,
}

/// A topic that this writer has claimed.
pub(super) struct Session {
    producer: FutureProducer<Context>,
    context: Context,
    log: Log,
    owner: Owner,
    ledger: Ledger,
    settings: KafkaPumpSettings,
    me: Author,
    /// Offset of the last record of ours that is known to be there.
    last: i64,
    server_version: u32,
    hello: Vec<u8>,
    flying: VecDeque<Flying>,
    flying_bytes: usize,
    /// Records and bytes since the last claim.
    since_claim: (usize, usize),
    pub(super) bytes: u64,
}

impl Session {
    /// Looks where the topic ends, claims it, and says where it goes on.
    pub(super) async fn open(
        settings: &KafkaPumpSettings,
        storage: &Arc<dyn Storage>,
        acknowledged: Mark,
    ) -> Result<Self, Error> {
        let facts = own::facts(storage, settings.epoch)?;
        let context = Context::default();
        let mut config = configuration(&settings.kafka, &settings.group)?;
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("message.timeout.ms", millis(settings.kafka.timeout));
        config.set("linger.ms", "2");
        // One of ours at its longest, and no batch longer than what the topic takes of one record.
        config.set("message.max.bytes", (settings.record_size + 4096).to_string());
        config.set("batch.size", (settings.record_size + 4096).to_string());
        config.set("compression.codec", "none");
        let made = FutureProducer::from_config_and_context(&config, context.clone());
        let producer =
            made.map_err(|error| failed(&settings.kafka, "the client cannot be set up", &error, &context))?;
        let mut log = Log::open(&settings.kafka, &settings.topic, &settings.group)?;
        let owner = Owner::new(&settings.topic, &settings.deployment, &settings.flow);
        let ledger = survey(&mut log, &owner).await?;
        let instance = rand::random();
        let hello = Hello {
            deployment: settings.deployment.clone(),
            flow: settings.flow.clone(),
            site: settings.site.clone(),
            group: settings.group.clone(),
            instance,
            epoch: settings.epoch,
            server_version: facts.server_version,
            end: facts.place(),
            histories: facts.histories.clone(),
        };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        let mut session = Self {
            producer,
            context,
            log,
            owner,
            ledger,
            settings: settings.clone(),
            me: Author { generation: 0, instance },
            last: -1,
            server_version: facts.server_version,
            hello: bytes,
            flying: VecDeque::new(),
            flying_bytes: 0,
            since_claim: (0, 0),
            bytes: 0,
        };
        session.claim().await?;
        session.begin(&hello, &facts, acknowledged).await?;
        Ok(session)
    }

    fn refuse(&self, code: Code, message: String, remedy: &str) -> Error {
        Error::refusing(Refused { code, transient: false, message, remedy: remedy.to_owned() })
    }

    fn check_epoch(&self) -> Result<(), Error> {
        if self.ledger.epoch() <= self.settings.epoch {
            return Ok(());
        }
        let (topic, flow) = (&self.settings.topic, &self.settings.flow);
        let (theirs, ours) = (self.ledger.epoch(), self.settings.epoch);
        Err(self.refuse(
            Code::Epoch,
            format!("topic \"{topic}\" is written in epoch {theirs}, and the trail of flow \"{flow}\" here is of epoch {ours}: another site has taken over since"),
            "the old site must not write any more; salvage what it has alone, and instantiate it anew",
        ))
    }

    fn superseded(&self) -> Error {
        match self.check_epoch() {
            Err(error) => error,
            Ok(()) => self.refuse(
                Code::Busy,
                format!("another pump has taken over topic \"{}\"", self.settings.topic),
                "let one pump write the topic, stop the other, then start this one again: nothing is lost or repeated",
            ),
        }
    }

    /// Claims the topic, and reads up to the claim to see that it counts.
    async fn claim(&mut self) -> Result<(), Error> {
        for _ in 0..CLAIMS {
            self.check_epoch()?;
            self.me.generation = self.ledger.next_generation();
            let header = self.header(Kind::Claim, At::default(), At::default(), 0);
            self.send(header, &[], None)?;
            let offset = self.landed().await?.offset;
            while let Some((offset, bytes)) = self.log.next_before(offset + 1).await? {
                self.owner.judge(&mut self.ledger, offset, &bytes)?;
            }
            self.last = offset;
            if self.ledger.author() == Some(self.me) {
                return Ok(());
            }
        }
        Err(self.superseded())
    }

    /// Says where it goes on, which is where the topic ends, or where the trail here begins.
    async fn begin(&mut self, hello: &Hello, facts: &Facts, acknowledged: Mark) -> Result<(), Error> {
        let before = self.ledger.at().or_else(|| remembered(facts, acknowledged));
        let own = before.map(|at| {
            let Reached { commit, resume, .. } = at.reached;
            // The fence is the claim's; the trail's own epoch may be an earlier one.
            Own { lineage: at.lineage, epoch: self.ledger.trail_epoch(), place: Place { commit, resume } }
        });
        let history = admission::place(hello, own.as_ref()).map_err(|refused| {
            let message =
                format!("topic \"{}\" does not go on from here: {}", self.settings.topic, refused.message);
            Error::refusing(Refused { message, ..refused })
        })?;
        let start =
            At { lineage: history.lineage, reached: Reached { resume: history.start, ..Reached::default() } };
        let after = before.filter(|at| at.lineage == history.lineage).unwrap_or(start);
        let before = self.ledger.at().unwrap_or(after);
        self.say_begin(before, after).await?;
        tracing::info!(
            topic = %self.settings.topic, commit = %after.reached.commit, resume = %after.reached.resume,
            generation = self.me.generation, "the topic goes on"
        );
        Ok(())
    }

    async fn say_begin(&mut self, before: At, after: At) -> Result<(), Error> {
        let header = self.header(Kind::Begin, before, after, self.ledger.trail_epoch());
        let hello = self.hello.clone();
        self.send(header, &hello, None)?;
        let landed = self.landed().await?;
        self.confirm(landed).await?;
        self.since_claim = (0, 0);
        Ok(())
    }

    /// Claims the topic anew, so that its end can be understood without its beginning. Between steps only, with nothing
    /// on its way.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        let Some(at) = self.ledger.at() else { return Ok(()) };
        self.me.generation += 1;
        let header = self.header(Kind::Claim, At::default(), At::default(), 0);
        self.send(header, &[], None)?;
        let landed = self.landed().await?;
        self.confirm(landed).await?;
        self.say_begin(at, at).await
    }

    /// Where the sender goes on.
    pub(super) fn accepted(&self) -> (Accepted, At) {
        let at = self.ledger.at().unwrap_or_default();
        let accepted = Accepted {
            lineage: at.lineage,
            epoch: self.ledger.trail_epoch(),
            place: Place { commit: at.reached.commit, resume: at.reached.resume },
            last_message: at.reached.message,
            held: None,
        };
        (accepted, at)
    }

    fn header(&self, kind: Kind, before: At, after: At, trail_epoch: u64) -> Header {
        Header {
            kind,
            author: self.me,
            epoch: self.settings.epoch,
            trail_epoch,
            belongs: belongs(&self.settings.deployment, &self.settings.flow),
            before,
            after,
            server_version: self.server_version,
        }
    }

    fn failed(&self, error: &KafkaError) -> Error {
        let doing = format!("topic \"{}\" cannot be written", self.settings.topic);
        failed(&self.settings.kafka, &doing, error, &self.context)
    }

    /// Sends a piece on its way.
    pub(super) fn send_piece(&mut self, piece: Piece) -> Result<(), Error> {
        let header = self.header(piece.kind, piece.before, piece.after, piece.trail_epoch);
        self.send(header, &piece.body, piece.note)
    }

    fn send(&mut self, header: Header, body: &[u8], note: Option<Note>) -> Result<(), Error> {
        let bytes = header.encode(body, self.settings.compression);
        let record = FutureRecord::<(), [u8]>::to(&self.settings.topic).partition(PARTITION).payload(&bytes);
        let delivery = self.producer.send_result(record).map_err(|(error, _)| self.failed(&error))?;
        self.since_claim.0 += 1;
        self.since_claim.1 += bytes.len();
        self.flying_bytes += bytes.len();
        self.bytes += bytes.len() as u64;
        self.flying.push_back(Flying { delivery, header, bytes: bytes.len(), note });
        Ok(())
    }

    /// Records and bytes that are on their way.
    pub(super) fn on_the_way(&self) -> (usize, usize) {
        (self.flying.len(), self.flying_bytes)
    }

    /// Records and bytes since the last claim.
    pub(super) fn since_claim(&self) -> (usize, usize) {
        self.since_claim
    }

    /// Waits until the oldest record on its way is there; for ever if there is none. Cancel-safe.
    pub(super) async fn landed(&mut self) -> Result<Landed, Error> {
        let Some(front) = self.flying.front_mut() else { return std::future::pending().await };
        let offset = match (&mut front.delivery).await {
            Ok(Ok(Delivery { offset, .. })) => offset,
            Ok(Err((error, _))) => return Err(self.failed(&error)),
            Err(_) => return Err(self.failed(&KafkaError::Canceled)),
        };
        let Some(Flying { header, bytes, note, .. }) = self.flying.pop_front() else {
            return std::future::pending().await;
        };
        self.flying_bytes -= bytes;
        Ok(Landed { offset, header, note })
    }

    /// Sees to it that what is there counts, and says what that makes whole.
    pub(super) async fn confirm(&mut self, landed: Landed) -> Result<Option<(At, Note)>, Error> {
        let Landed { offset, header, note } = landed;
        if offset <= self.last {
            return Err(Error::Kafka {
                doing: format!("topic \"{}\" was cut back", self.settings.topic),
                reason: format!("a record came to offset {offset} after one at {}", self.last),
                transient: true,
                hint: "what is missing is written again; set unclean.leader.election.enable to false"
                    .to_owned(),
            });
        }
        let verdict = if offset == self.last + 1 {
            self.ledger.pass(&header)
        } else {
            self.read_between(offset, &header).await?
        };
        self.last = offset;
        if verdict != Verdict::Counts {
            return Err(self.superseded());
        }
        Ok(note.map(|note| (header.after, note)))
    }

    /// Somebody else has written before our record: what, decides whether it counts.
    async fn read_between(&mut self, offset: i64, header: &Header) -> Result<Verdict, Error> {
        self.log.seek(self.last + 1)?;
        while let Some((offset, bytes)) = self.log.next_before(offset).await? {
            self.owner.judge(&mut self.ledger, offset, &bytes)?;
        }
        Ok(self.ledger.pass(header))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What is still queued must not leave behind our back.
        self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}

/// Reads as much of the topic's end as is needed to know who writes, and where that has led.
async fn survey(log: &mut Log, owner: &Owner) -> Result<Ledger, Error> {
    let (low, high) = log.ends()?;
    let mut window = WINDOW;
    loop {
        let from = low.max(high.saturating_sub(window));
        let mut ledger = if from == 0 { Ledger::from_beginning() } else { Ledger::from_middle() };
        log.seek(from)?;
        while let Some((offset, bytes)) = log.next_before(high).await? {
            owner.judge(&mut ledger, offset, &bytes)?;
        }
        if from == low || ledger.at().is_some() {
            ledger.settle();
            return Ok(ledger);
        }
        window *= 4;
    }
}

/// Where the topic ended, as far as it acknowledged before it lost everything by age.
fn remembered(facts: &Facts, acknowledged: Mark) -> Option<At> {
    let lineage: Lineage = facts.histories.last()?.lineage;
    let Mark { commit_lsn: commit, resume_lsn: resume, .. } = acknowledged;
    let known = commit.0.0 != 0 || resume.0.0 != 0;
    known.then(|| At { lineage, reached: Reached { commit, resume, ..Reached::default() } })
}

/// What a body may have, so that a record is as long as it may be.
pub(super) fn body_limit(record_size: usize) -> usize {
    record_size - HEADER
}
