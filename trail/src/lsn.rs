//! Positions. One type for each meaning, so that the compiler refuses a commit LSN where an end LSN is meant.
//!
//! The server sends a transaction again if and only if its commit record *starts* at or after the point it is
//! asked to start from. The place to begin again after a transaction is therefore its end LSN ([`ResumeLsn`]),
//! never its commit LSN.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in a server's write-ahead log (PostgreSQL manual, "pg_lsn Type").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position. The server never writes a record at it.
    pub const ZERO: Self = Self(0);

    /// Bytes from `earlier` to `self`, zero if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an LSN of the form 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| match part.len() {
            1..=8 if part.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(part, 16).ok(),
            _ => None,
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// Where a transaction's commit record starts. Commit LSNs rise strictly along a slot's stream, so within one
/// [`Lineage`] a commit LSN names a transaction and orders it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct CommitLsn(pub Lsn);

impl fmt::Display for CommitLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The first byte that is not needed any more by the process that holds it: the end of the last transaction's commit
/// record, or a later position up to which the server has nothing more to send.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct ResumeLsn(pub Lsn);

impl fmt::Display for ResumeLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Whose LSNs these are. Positions of different lineages must never be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Lineage {
    /// `IDENTIFY_SYSTEM`'s system identifier, made by initdb.
    pub system_identifier: u64,
    /// The timeline the stream was read on.
    pub timeline: u32,
    /// The LSN at which Irongate created the slot. PostgreSQL has no such thing: a slot that is dropped and created
    /// again keeps its name, and only this tells the two apart.
    pub slot_incarnation: Lsn,
}

impl Lineage {
    /// Whether the same slot went on here after the server of `earlier` was replaced by a promoted standby of its own. Its
    /// LSNs go on where those ended. Anything else is another history.
    pub fn is_promotion_of(&self, earlier: &Self) -> bool {
        self.system_identifier == earlier.system_identifier
            && self.slot_incarnation == earlier.slot_incarnation
            && self.timeline > earlier.timeline
    }

    /// Whether this is a later slot of the same cluster: the flow was instantiated again. Nothing goes on from before; only
    /// whoever was loaded from the later one's snapshot can begin with it.
    pub fn is_anew_after(&self, earlier: &Self) -> bool {
        self.system_identifier == earlier.system_identifier
            && self.slot_incarnation > earlier.slot_incarnation
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "system {}, timeline {}, slot created at {}",
            self.system_identifier, self.timeline, self.slot_incarnation
        )
    }
}

/// A place in a trail: the file's sequence number and the byte offset in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Position {
    /// Sequence number of the file, from 1.
    pub seqno: u64,
    /// Byte offset from the start of the file.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:09}:{}", self.seqno, self.offset)
    }
}

/// Microseconds since 2000-01-01 00:00:00 UTC, as the server's protocol counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Seconds from 1970-01-01 to 2000-01-01.
    const EPOCH_SECONDS: i64 = 946_684_800;

    /// The present time of this machine's clock.
    pub fn now() -> Self {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        Self(i64::try_from(since_1970).unwrap_or(i64::MAX) - Self::EPOCH_SECONDS * 1_000_000)
    }

    /// Microseconds since 1970-01-01 UTC.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(Self::EPOCH_SECONDS * 1_000_000)
    }
}

impl fmt::Display for Timestamp {
    /// As RFC 3339 in UTC, to the microsecond where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.unix_micros()) {
            Ok(time) => fmt::Display::fmt(&time, f),
            Err(_) => write!(f, "{} microseconds", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_prints_and_parses_like_the_servers_own() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/1"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in ["", "/", "1", "1/", "/1", "1/2/3", "G/0", "123456789/0", "+1/0", " 1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
