//! Who is there, where its trail stands, and what the other side answers.

use std::fmt;

use irongate_trail::{CommitLsn, Lineage, Lsn, Malformed, ResumeLsn};

use super::bytes::{Put, Take};

/// The most histories that a hello tells of: a server is promoted a few times in its life.
pub(super) const MAX_HISTORIES: usize = 256;

/// A stretch of a trail that is of one lineage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// Whose LSNs.
    pub lineage: Lineage,
    /// The last commit before it of the same lineage; zero if there is none.
    pub previous: CommitLsn,
    /// Nothing of it lies before.
    pub start: ResumeLsn,
}

/// A place between transactions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Place {
    /// The last commit before it; zero if there is none.
    pub commit: CommitLsn,
    /// Everything before is there.
    pub resume: ResumeLsn,
}

/// What a pump says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The deployment that it belongs to.
    pub deployment: String,
    /// The flow that it carries.
    pub flow: String,
    /// Its site.
    pub site: String,
    /// Its group.
    pub group: String,
    /// A number of its own for each start of the pump: a second connection with the same one replaces the first.
    pub instance: u64,
    /// The epoch of the database.
    pub epoch: u64,
    /// `server_version_num` of the source.
    pub server_version: u32,
    /// What its trail holds, oldest first; each goes on from the one before.
    pub histories: Vec<History>,
    /// Where its trail is durable.
    pub end: Place,
}

/// What a collector says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The deployment that it belongs to.
    pub deployment: String,
    /// Its site.
    pub site: String,
    /// Its group.
    pub group: String,
}

/// An unfinished transaction that the collector still holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its commit.
    pub commit: CommitLsn,
    /// Changes of it that are there.
    pub changes: u64,
    /// What they add up to.
    pub digest: u64,
}

/// Where to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The lineage at the end of the collector's trail.
    pub lineage: Lineage,
    /// Its epoch.
    pub epoch: u64,
    /// Its last whole transaction and progress.
    pub place: Place,
    /// The last message outside a transaction behind that place; zero if there is none.
    pub last_message: Lsn,
    /// What it holds of the transaction that follows.
    pub held: Option<Held>,
}

/// Why a side does not go on. The numbers are part of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
#[non_exhaustive]
pub enum Code {
    /// Of a later version.
    Unknown = 0,
    /// The other side speaks another version.
    Version = 1,
    /// Bytes that are not as they should be.
    Malformed = 2,
    /// Another deployment.
    Deployment = 3,
    /// The flow is not accepted here.
    Flow = 4,
    /// The flow is not accepted from that site, or the certificate is another site's.
    Site = 5,
    /// The trail here is of another source.
    Lineage = 6,
    /// Another site has taken over since.
    Epoch = 7,
    /// Transactions between the two trails are gone.
    Gap = 8,
    /// The trail here goes on where the pump's does not come to.
    Behind = 9,
    /// The trail here has a transaction that the pump's does not have.
    Fork = 10,
    /// Another pump carries the flow.
    Busy = 11,
    /// A transaction did not arrive as it was sent.
    Digest = 12,
    /// The trail here cannot be written.
    Storage = 13,
    /// The side is stopping.
    Stopping = 14,
}

impl Code {
    fn read(number: u16) -> Self {
        const KNOWN: [Code; 14] = [
            Code::Version,
            Code::Malformed,
            Code::Deployment,
            Code::Flow,
            Code::Site,
            Code::Lineage,
            Code::Epoch,
            Code::Gap,
            Code::Behind,
            Code::Fork,
            Code::Busy,
            Code::Digest,
            Code::Storage,
            Code::Stopping,
        ];
        KNOWN.into_iter().find(|code| *code as u16 == number).unwrap_or(Code::Unknown)
    }
}

/// A side's refusal, in words for the other side's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What kind it is.
    pub code: Code,
    /// Whether trying again can help.
    pub transient: bool,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Hello {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for text in [&self.deployment, &self.flow, &self.site, &self.group] {
            into.text(text);
        }
        into.u64(self.instance);
        into.u64(self.epoch);
        into.u32(self.server_version);
        let histories = &self.histories[self.histories.len().saturating_sub(MAX_HISTORIES)..];
        into.u16(histories.len() as u16);
        for history in histories {
            into.lineage(&history.lineage);
            into.u64(history.previous.0.0);
            into.u64(history.start.0.0);
        }
        into.u64(self.end.commit.0.0);
        into.u64(self.end.resume.0.0);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take(bytes);
        let mut hello = Self {
            deployment: take.string()?,
            flow: take.string()?,
            site: take.string()?,
            group: take.string()?,
            instance: take.u64()?,
            epoch: take.u64()?,
            server_version: take.u32()?,
            histories: Vec::new(),
            end: Place::default(),
        };
        let count = take.u16()? as usize;
        if count > MAX_HISTORIES {
            return Err(Malformed("a hello tells of too many histories"));
        }
        for _ in 0..count {
            hello.histories.push(History {
                lineage: take.lineage()?,
                previous: CommitLsn(take.lsn()?),
                start: ResumeLsn(take.lsn()?),
            });
        }
        hello.end = Place { commit: CommitLsn(take.lsn()?), resume: ResumeLsn(take.lsn()?) };
        take.end()?;
        Ok(hello)
    }
}

impl Greeting {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for text in [&self.deployment, &self.site, &self.group] {
            into.text(text);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take(bytes);
        let greeting = Self { deployment: take.string()?, site: take.string()?, group: take.string()? };
        take.end()?;
        Ok(greeting)
    }
}

impl Accepted {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.lineage(&self.lineage);
        into.u64(self.epoch);
        into.u64(self.place.commit.0.0);
        into.u64(self.place.resume.0.0);
        into.u64(self.last_message.0);
        into.u8(u8::from(self.held.is_some()));
        if let Some(held) = &self.held {
            into.u64(held.commit.0.0);
            into.u64(held.changes);
            into.u64(held.digest);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take(bytes);
        let mut accepted = Self {
            lineage: take.lineage()?,
            epoch: take.u64()?,
            place: Place { commit: CommitLsn(take.lsn()?), resume: ResumeLsn(take.lsn()?) },
            last_message: take.lsn()?,
            held: None,
        };
        if take.flag()? {
            let held = Held { commit: CommitLsn(take.lsn()?), changes: take.u64()?, digest: take.u64()? };
            accepted.held = Some(held);
        }
        take.end()?;
        Ok(accepted)
    }
}

impl Refused {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        into.u16(self.code as u16);
        into.u8(u8::from(self.transient));
        into.text(&self.message);
        into.text(&self.remedy);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take(bytes);
        let refused = Self {
            code: Code::read(take.u16()?),
            transient: take.u8()? & 1 != 0,
            message: take.string()?,
            remedy: take.string()?,
        };
        take.end()?;
        Ok(refused)
    }
}
