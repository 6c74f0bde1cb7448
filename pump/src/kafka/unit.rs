//! One record of a topic: a header that says where it belongs, and what it carries. See the top of [`crate::kafka`].

use irongate_trail::{CommitLsn, Lineage, Lsn, Malformed, ResumeLsn};

use crate::wire::{Put, Take};

/// The first bytes of a record.
pub(crate) const MAGIC: [u8; 8] = *b"IGKAFKA\n";
/// The version that this release writes, and the only one that it reads.
pub(crate) const VERSION: u16 = 1;
/// Bytes before the body.
pub(crate) const HEADER: usize = 152;
/// The longest body, uncompressed: what the longest record of Kafka could hold.
const MAX_BODY: usize = 1 << 30;

const COMPRESSED: u8 = 1;
const LAST: u8 = 2;

/// A place between transactions, exact to the last message outside of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Reached {
    /// The last commit; zero if there is none.
    pub(crate) commit: CommitLsn,
    /// Everything before is there.
    pub(crate) resume: ResumeLsn,
    /// The last message outside a transaction behind that; zero if there is none.
    pub(crate) message: Lsn,
}

/// A place, and whose.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct At {
    pub(crate) lineage: Lineage,
    pub(crate) reached: Reached,
}

/// Who writes: a number that grows from claim to claim, and the one who took it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Author {
    pub(crate) generation: u64,
    pub(crate) instance: u64,
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// From here on the author writes, and nobody before.
    Claim,
    /// The author begins: the topic goes on from `before` at `after`, which is another place only where the topic is new or
    /// a new history begins. The body is a hello.
    Begin,
    /// Whole steps of the trail.
    Whole,
    /// A piece of a step that is too long for one record.
    Fragment {
        /// Its number, from 0 on.
        number: u32,
        /// There is no further one: the step has `number + 1` fragments.
        last: bool,
    },
}

/// What a record says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) author: Author,
    /// Of the author's database: what fences.
    pub(crate) epoch: u64,
    /// Of the trail behind the record: what its files say.
    pub(crate) trail_epoch: u64,
    /// Checksum of the names of deployment and flow.
    pub(crate) belongs: u32,
    pub(crate) before: At,
    /// Behind the record; of a fragment that is not the last, only the commit is known.
    pub(crate) after: At,
    pub(crate) server_version: u32,
}

/// A checksum of the names that a topic belongs to.
pub(crate) fn belongs(deployment: &str, flow: &str) -> u32 {
    crc32c::crc32c(format!("{deployment}\0{flow}").as_bytes())
}

/// Why a record cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Foreign {
    /// Not one of ours at all.
    NotOurs,
    /// Of a release that came later.
    Version(u16),
    /// Damaged.
    Damaged(Malformed),
}

fn put_at(into: &mut Vec<u8>, at: &At) {
    into.lineage(&at.lineage);
    into.u64(at.reached.commit.0.0);
    into.u64(at.reached.resume.0.0);
    into.u64(at.reached.message.0);
}

fn take_at(take: &mut Take<'_>) -> Result<At, Malformed> {
    let lineage = take.lineage()?;
    let reached =
        Reached { commit: CommitLsn(take.lsn()?), resume: ResumeLsn(take.lsn()?), message: take.lsn()? };
    Ok(At { lineage, reached })
}

impl Header {
    /// The bytes of a record. `level` is that of zstd; a body that it does not make shorter travels as it is.
    pub(crate) fn encode(&self, body: &[u8], level: Option<i32>) -> Vec<u8> {
        let packed = level
            .filter(|_| body.len() > 64)
            .and_then(|level| zstd::bulk::compress(body, level).ok())
            .filter(|packed| packed.len() < body.len());
        let sent = packed.as_deref().unwrap_or(body);
        let mut bytes = Vec::with_capacity(HEADER + sent.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.u16(VERSION);
        let (kind, number, last) = match self.kind {
            Kind::Claim => (b'T', 0, false),
            Kind::Begin => (b'A', 0, false),
            Kind::Whole => (b'W', 0, false),
            Kind::Fragment { number, last } => (b'F', number, last),
        };
        bytes.u8(kind);
        bytes.u8(if packed.is_some() { COMPRESSED } else { 0 } | if last { LAST } else { 0 });
        bytes.u64(self.epoch);
        bytes.u64(self.trail_epoch);
        bytes.u64(self.author.generation);
        bytes.u64(self.author.instance);
        bytes.u32(self.belongs);
        bytes.u32(self.server_version);
        bytes.u32(number);
        put_at(&mut bytes, &self.before);
        put_at(&mut bytes, &self.after);
        bytes.u32(body.len() as u32);
        debug_assert_eq!(bytes.len() + 4, HEADER, "the layout at the top of the module");
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), sent);
        bytes.u32(crc);
        bytes.extend_from_slice(sent);
        bytes
    }

    /// Reads a record; returns its body as it travels.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, Packed<'_>), Foreign> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else { return Err(Foreign::NotOurs) };
        let mut take = Take(rest);
        let version = take.u16().map_err(Foreign::Damaged)?;
        if version != VERSION {
            return Err(Foreign::Version(version));
        }
        Self::decode_rest(bytes, take).map_err(Foreign::Damaged)
    }

    fn decode_rest<'a>(bytes: &'a [u8], mut take: Take<'a>) -> Result<(Self, Packed<'a>), Malformed> {
        let (kind, flags) = (take.u8()?, take.u8()?);
        let (epoch, trail_epoch) = (take.u64()?, take.u64()?);
        let author = Author { generation: take.u64()?, instance: take.u64()? };
        let (belongs, server_version, number) = (take.u32()?, take.u32()?, take.u32()?);
        let (before, after) = (take_at(&mut take)?, take_at(&mut take)?);
        let (length, crc) = (take.u32()? as usize, take.u32()?);
        let sent = take.0;
        if crc != crc32c::crc32c_append(crc32c::crc32c(&bytes[..HEADER - 4]), sent) {
            return Err(Malformed("its checksum is wrong"));
        }
        if length > MAX_BODY || flags & !(COMPRESSED | LAST) != 0 {
            return Err(Malformed("its header says what cannot be"));
        }
        let kind = match kind {
            b'T' => Kind::Claim,
            b'A' => Kind::Begin,
            b'W' => Kind::Whole,
            b'F' => Kind::Fragment { number, last: flags & LAST != 0 },
            _ => return Err(Malformed("it is of an unknown kind")),
        };
        let header = Self { kind, author, epoch, trail_epoch, belongs, before, after, server_version };
        Ok((header, Packed { sent, length, compressed: flags & COMPRESSED != 0 }))
    }
}

/// A body as it travels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    sent: &'a [u8],
    length: usize,
    compressed: bool,
}

impl Packed<'_> {
    /// The body.
    pub(crate) fn open(&self) -> Result<Vec<u8>, Malformed> {
        let body = if self.compressed {
            zstd::bulk::decompress(self.sent, self.length)
                .map_err(|_| Malformed("its body cannot be decompressed"))?
        } else {
            self.sent.to_vec()
        };
        if body.len() == self.length {
            Ok(body)
        } else {
            Err(Malformed("its body is not as long as it says"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: Kind) -> Header {
        let lineage = Lineage { system_identifier: 7, timeline: 2, slot_incarnation: Lsn(5) };
        let at = |number: u64| At {
            lineage,
            reached: Reached {
                commit: CommitLsn(Lsn(number)),
                resume: ResumeLsn(Lsn(number + 1)),
                message: Lsn(number + 2),
            },
        };
        Header {
            kind,
            author: Author { generation: 3, instance: 4 },
            epoch: 5,
            trail_epoch: 4,
            belongs: belongs("shop", "csp"),
            before: at(10),
            after: at(20),
            server_version: 170_000,
        }
    }

    #[test]
    fn a_record_comes_out_as_it_went_in() {
        let kinds = [
            Kind::Claim,
            Kind::Begin,
            Kind::Whole,
            Kind::Fragment { number: 0, last: false },
            Kind::Fragment { number: 70_000, last: true },
        ];
        let long = b"compressible ".repeat(1000);
        for (kind, body) in kinds.into_iter().flat_map(|kind| [(kind, &b""[..]), (kind, &long)]) {
            for level in [None, Some(3)] {
                let bytes = header(kind).encode(body, level);
                assert!(level.is_none() || body.is_empty() || bytes.len() < body.len());
                let (found, packed) = Header::decode(&bytes).unwrap();
                assert_eq!((found, &packed.open().unwrap()[..]), (header(kind), body));
            }
        }
    }

    #[test]
    fn whatever_is_changed_is_found() {
        let bytes = header(Kind::Whole).encode(b"a body of some bytes", None);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x40;
            let expected = match place {
                0..8 => Foreign::NotOurs,
                8..10 => Foreign::Version(u16::from_be_bytes([changed[8], changed[9]])),
                _ => Foreign::Damaged(Malformed("its checksum is wrong")),
            };
            assert_eq!(Header::decode(&changed).unwrap_err(), expected, "byte {place}");
        }
        for length in 10..bytes.len() {
            assert!(matches!(Header::decode(&bytes[..length]), Err(Foreign::Damaged(_))), "{length} bytes");
        }
    }
}
