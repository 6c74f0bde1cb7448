//! What a record of a topic does to the trail here.
//!
//! Only records that count come here, so they are one chain. Each says from where to where it leads; the trail says where it
//! is. Before it: a gap, and the reader stops. Behind it: passed over. In its middle, as a kill may leave it: what is not
//! there yet is appended. The transactions' digests are checked as over the link.

use std::cmp::Ordering;
use std::sync::Arc;

use irongate_trail::{Lsn, Mark, Storage};

use super::super::settings::KafkaReaderSettings;
use super::super::unit::{At, Header, Kind, Packed, Reached};
use crate::collector::admission;
use crate::collector::lane::{self, Counts, Tables, Trail, Trouble};
use crate::error::Error;
use crate::settings::AcceptedFlow;
use crate::wire::{Code, Found, Hello, Record, Records, Refused};

/// What to do with a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The trail has it, or must not have it.
    Had,
    /// The trail has none of it, or its beginning.
    Append,
}

/// What of a step the trail has already.
#[derive(Clone, Copy, Debug)]
struct Skip {
    /// Where the trail was.
    reached: Reached,
    /// Within a transaction that is there.
    inside: bool,
}

/// A trail that is made of a topic.
pub(super) struct Lane {
    settings: KafkaReaderSettings,
    storage: Arc<dyn Storage>,
    trail: Option<Trail>,
    tables: Tables,
    records: Records,
    /// The step under way, if it came in fragments so far.
    step: Option<Step>,
    skip: Option<Skip>,
    /// Read from the topic's beginning, through histories that came before the trail's.
    seeking: bool,
    fenced: u64,
}

impl Lane {
    /// Opens the trail, if there is one. Blocks.
    pub(super) fn open(settings: &KafkaReaderSettings, storage: &Arc<dyn Storage>) -> Result<Self, Error> {
        let trail = lane::open(storage, &settings.flow, settings.file_size)?;
        let (settings, storage) = (settings.clone(), Arc::clone(storage));
        let seeking = trail.is_some();
        let (tables, records) = (Tables::default(), Records::default());
        Ok(Self { settings, storage, trail, tables, records, step: None, skip: None, seeking, fenced: 0 })
    }

    pub(super) fn durable(&self) -> Option<Mark> {
        self.trail.as_ref().map(|trail| trail.writer.durable())
    }

    pub(super) fn counts(&self) -> Counts {
        self.trail.as_ref().map(|trail| trail.counts).unwrap_or_default()
    }

    pub(super) fn is_seeking(&self) -> bool {
        self.seeking
    }

    /// Steps that were passed over because their epoch is over at this site.
    pub(super) fn fenced(&self) -> u64 {
        self.fenced
    }

    /// Makes durable what was appended. Blocks.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        if let Some(trail) = &mut self.trail {
            trail.writer.sync()?;
        }
        Ok(())
    }

    fn at(&self) -> Option<At> {
        let accepted = self.trail.as_ref()?.accepted();
        let reached = Reached {
            commit: accepted.place.commit,
            resume: accepted.place.resume,
            message: accepted.last_message,
        };
        Some(At { lineage: accepted.lineage, reached })
    }

    fn refuse(&self, code: Code, message: String, remedy: &str) -> Error {
        Error::refusing(Refused { code, transient: false, message, remedy: remedy.to_owned() })
    }

    fn gap(&self, before: &At) -> Error {
        let topic = &self.settings.topic;
        let own = self.at().map_or_else(
            || "and there is no trail here yet".to_owned(),
            |at| {
                format!("and the trail here ends at {}, with commit {}", at.reached.resume, at.reached.commit)
            },
        );
        self.refuse(
            Code::Gap,
            format!(
                "gap: topic \"{topic}\" goes on at {}, after commit {}, {own}",
                before.reached.resume, before.reached.commit
            ),
            "what lay between is gone from the topic: raise its retention.ms, then instantiate the flow again",
        )
    }

    /// Everything that is there at present was read.
    pub(super) fn ended(&self, topic: &str) -> Result<(), Error> {
        let Some(at) = self.at().filter(|_| self.seeking) else { return Ok(()) };
        let lineage = at.lineage;
        Err(Error::refusing(Refused {
            code: Code::Lineage,
            // An empty topic may be one whose pump has yet to begin.
            transient: true,
            message: format!("topic \"{topic}\" holds nothing of the history of the trail here ({lineage})"),
            remedy: "start the pump; if it runs, look at the topic's name, or instantiate the flow again"
                .to_owned(),
        }))
    }

    /// Takes a record that counts. Blocks.
    pub(super) fn take(&mut self, header: &Header, packed: &Packed<'_>) -> Result<(), Error> {
        match header.kind {
            Kind::Claim => self.forget(),
            Kind::Begin => self.begin(header, packed),
            Kind::Whole => {
                self.step = None;
                let step = self.judge(header)?;
                self.append(step, packed)?;
                self.end()
            }
            Kind::Fragment { number, last } => {
                let step = match self.step {
                    Some(step) if number > 0 => step,
                    _ => self.judge(header)?,
                };
                self.step = Some(step);
                self.append(step, packed)?;
                if last { self.end() } else { Ok(()) }
            }
        }
    }

    /// What was begun is begun anew, if at all.
    fn forget(&mut self) -> Result<(), Error> {
        (self.step, self.skip) = (None, None);
        (self.tables, self.records) = (Tables::default(), Records::default());
        if let Some(trail) = &mut self.trail {
            trail.rollback()?;
        }
        Ok(())
    }

    /// A step has ended: the next one describes its tables itself.
    fn end(&mut self) -> Result<(), Error> {
        if self.records.pending() > 0 {
            return Err(self.malformed("a step that ends within a record"));
        }
        (self.step, self.skip) = (None, None);
        self.tables = Tables::default();
        Ok(())
    }

    fn malformed(&self, what: impl std::fmt::Display) -> Error {
        Error::Topic {
            topic: self.settings.topic.clone(),
            reason: format!("holds what cannot be: {what}"),
            remedy: "look after the brokers and their disks; then let the topic be made anew and the flow be instantiated again"
                .to_owned(),
        }
    }

    /// A pump begins: where the trail here begins, or goes on with another history.
    fn begin(&mut self, header: &Header, packed: &Packed<'_>) -> Result<(), Error> {
        self.forget()?;
        let own = self.at();
        if let Some(own) = own
            && own.lineage == header.after.lineage
        {
            self.seeking = false;
            return if header.before.lineage == own.lineage && own.reached < header.before.reached {
                Err(self.gap(&header.before))
            } else {
                Ok(())
            };
        }
        if self.seeking {
            return Ok(());
        }
        let body = packed.open().map_err(|what| self.malformed(what))?;
        let hello = Hello::decode(&body).map_err(|what| self.malformed(what))?;
        let accepted = AcceptedFlow {
            flow: self.settings.flow.clone(),
            from: self.settings.from.clone(),
            epoch: self.settings.epoch,
        };
        admission::who(&hello, &self.settings.deployment, std::slice::from_ref(&accepted), |_| true)
            .map_err(Error::refusing)?;
        if header.after.reached.commit.0 != Lsn::ZERO {
            return Err(self.gap(&header.after));
        }
        let from = admission::place(&hello, self.trail.as_ref().map(Trail::own).as_ref())
            .map_err(Error::refusing)?;
        let (version, size) = (hello.server_version, self.settings.file_size);
        match &mut self.trail {
            None => {
                self.trail = Some(lane::create(&self.storage, &hello, &from, size)?);
                tracing::info!(flow = %self.settings.flow, start = %from.start, "trail created");
            }
            Some(trail) => {
                trail.begin_anew(&from, version)?;
                tracing::info!(flow = %self.settings.flow, lineage = %from.lineage, "instantiated again");
            }
        }
        let Some(trail) = &mut self.trail else { return Ok(()) };
        if header.trail_epoch > trail.writer.epoch() {
            trail.writer.begin_epoch(header.trail_epoch)?;
        }
        Ok(())
    }

    /// Whether a step is to be appended.
    fn judge(&mut self, header: &Header) -> Result<Step, Error> {
        let (before, after) = (&header.before, &header.after);
        let Some(own) = self.at() else { return Err(self.gap(before)) };
        if header.epoch < self.settings.epoch {
            // What the trail has of it, it has; what it does not have must not come any more.
            self.fenced += 1;
            return Ok(Step::Had);
        }
        let step = if own.lineage == before.lineage {
            match (own.reached.cmp(&before.reached), after.lineage == own.lineage) {
                (Ordering::Less, _) => return Err(self.gap(before)),
                (Ordering::Equal, _) => Step::Append,
                (Ordering::Greater, true) if own.reached >= after.reached => Step::Had,
                (Ordering::Greater, true) => Step::Append,
                (Ordering::Greater, false) => {
                    return Err(self.refuse(
                        Code::Fork,
                        format!(
                            "topic \"{}\" leaves the history of the trail here before commit {}, which the trail has",
                            self.settings.topic, own.reached.commit
                        ),
                        "the two sites do not have the same history: compare the databases, then instantiate the flow again",
                    ));
                }
            }
        } else if own.lineage == after.lineage || self.seeking {
            Step::Had
        } else {
            return Err(self.refuse(
                Code::Lineage,
                format!(
                    "topic \"{}\" is of another history ({}) than the trail here ({})",
                    self.settings.topic, before.lineage, own.lineage
                ),
                "point the reader at the topic of the flow's own source, or instantiate the flow again",
            ));
        };
        if own.lineage == after.lineage || own.lineage == before.lineage {
            self.seeking = false;
        }
        self.skip = Some(Skip { reached: own.reached, inside: false });
        Ok(step)
    }

    fn append(&mut self, step: Step, packed: &Packed<'_>) -> Result<(), Error> {
        if step == Step::Had {
            return Ok(());
        }
        let body = packed.open().map_err(|what| self.malformed(what))?;
        self.records.push(&body);
        let mut records = std::mem::take(&mut self.records);
        let appended = self.append_all(&mut records);
        self.records = records;
        appended
    }

    fn append_all(&mut self, records: &mut Records) -> Result<(), Error> {
        while let Some(found) = records.next().map_err(|what| self.malformed(what))? {
            let Some(trail) = &mut self.trail else { return Ok(()) };
            if self.skip.as_mut().is_some_and(|skip| skip.has(&found, trail)) {
                continue;
            }
            if !matches!(found.record, Record::Relation(_)) {
                self.skip = None;
            }
            match trail.apply(&mut self.tables, &found) {
                Ok(_) => {}
                Err(Trouble::Trail(error)) => return Err(error.into()),
                Err(Trouble::Misplaced(what)) => return Err(self.malformed(what)),
                Err(Trouble::Digest(commit)) => {
                    return Err(
                        self.malformed(format!("the transaction of commit {commit} is not what was written"))
                    );
                }
            }
        }
        Ok(())
    }
}

impl Skip {
    /// Whether the trail has what a record says.
    fn has(&mut self, found: &Found<'_>, trail: &Trail) -> bool {
        let Reached { commit, resume, message } = self.reached;
        match &found.record {
            Record::Relation(_) => false,
            Record::Begin(begin) => {
                self.inside = begin.commit_lsn <= commit;
                self.inside
            }
            Record::Commit { .. } => std::mem::take(&mut self.inside),
            _ if self.inside => true,
            Record::Progress(progress) => progress.resume_lsn <= resume,
            Record::Message(found) => found.lsn <= message || found.lsn < resume.0,
            Record::Epoch(epoch) => *epoch <= trail.writer.epoch(),
            _ => false,
        }
    }
}
