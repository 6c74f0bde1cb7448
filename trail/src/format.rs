//! The bytes of a trail: this page is the specification, the code below it is tested against golden files.
//!
//! # Files
//!
//! A trail is a directory with
//!
//! ```text
//! 000000001.trail            main files: whole transactions in commit order; numbered from 1 without holes
//! 000000001-734-0.side       adopted side files: <main file that adopts it>-<xid>-<n>
//! open-734-0.side            a transaction that the source has not committed yet; worthless after a restart
//! durable                    how far the trail is durable (see "Mark")
//! appended                   how far bytes are written beyond that (see "Told"); of no worth without its writer
//! reader-<name>              how far a reader has come: its veto against purge (see "Mark")
//! bookmark-<name>            where a reader goes on sooner (see "Bookmark"); of no worth where it is not true
//! lock                       held by the one writer
//! ```
//!
//! All integers are big-endian and unsigned unless said otherwise. "bincode" is the serde encoding of the struct named,
//! by bincode 2 with big-endian, fixed-width integers. Such a struct never changes once released: new content gets a
//! new tag or kind.
//!
//! # Header
//!
//! ```text
//!  0  8  magic  "IRONGATE"
//!  8  2  version, 1; a reader refuses a version that it does not know. This layout of the header is the same in every
//!        version, so that damage can be told from a newer version
//! 10  1  kind of file: 'M' main, 'S' side
//! 11  1  zero
//! 12  4  length of the tokens in bytes
//! 16  …  tokens: tag u16, length u32, bytes
//!  …  4  CRC32C of all of the above
//! ```
//!
//! A token with an unknown tag below 0x8000 is skipped; one from 0x8000 on must be understood, or the file is refused.
//!
//! | tag | content |
//! |---|---|
//! | 1 | [`FileHeader`] in bincode |
//! | 0x8001 | compression of what follows the header: u8 algorithm (1 = zstd, a frame a block) — reserved |
//! | 0x8002 | encryption of what follows the header: u8 algorithm (1 = AES-256-GCM), wrapped data key — reserved |
//!
//! # Records
//!
//! ```text
//!  0  4  CRC32C of the length, the kind and the body
//!  4  4  length of kind and body, 1 … 2³¹
//!  8  1  kind
//!  9  …  body
//! ```
//!
//! | kind | body | in main | in side |
//! |---|---|---|---|
//! | `R` | relation: [`Relation`] in bincode; stands before the first row that uses it in each file | yes | yes |
//! | `B` | begin: [`Begin`] in bincode | yes | – |
//! | `I` `U` `D` | row: relation u32; then `N` tuple, or `K`/`O` tuple and, for `U`, `N` tuple ([`crate::Tuple`]) | yes | yes |
//! | `T` | truncate: u8 flags (1 cascade, 2 restart identity), u32 n, n × u32 relation | yes | yes |
//! | `M` | message: u8 flags (1 transactional), u64 LSN, u32 length, prefix, content | yes | yes |
//! | `A` | adopt: [`Adopt`] in bincode; the rows of the side file stand here | yes | – |
//! | `C` | commit: [`CommitRecord`] in bincode | yes | – |
//! | `P` | progress: [`Progress`] in bincode | yes | – |
//! | `E` | end: [`End`] in bincode; the file is sealed and never changes | yes | – |
//! | `S` | sub-transaction: u32 xid that the following rows belong to | – | yes |
//! | 0x81 | after: u64 commit LSN, the last that was appended to the main file before what follows | – | yes |
//! | 0x82 | aborted: u32 xid of a sub-transaction whose rows do not count, as the adoption says again | – | yes |
//!
//! A side file that was written out before its end has the last two kinds from there on: they are for those who read ahead.
//! What the first "after" says holds for all that stands before it, too.
//!
//! Kinds from 0x80 on may be skipped by a reader that does not know them; any other unknown kind is refused.
//!
//! A main file is: header, then whole transactions and progress records, then the end record. A transaction is `B`,
//! then `R`, `I`, `U`, `D`, `T`, `M`, `A` in any order, then `C`; it does not cross files. A message that is not
//! transactional may also stand between transactions. A reader begins only at the start of a file or between
//! transactions.
//!
//! Every file but the last ends with its end record. [`FileHeader::previous`] of a file is the last commit of the file
//! before it, [`Begin::previous`] that of the transaction before it; where the lineage changes, both begin at zero.
//! The aborted sub-transactions of [`Adopt`] stand in ascending order.
//!
//! The digest of a transaction folds the CRC of each of its records between `B` and `C`, exclusively, in order, by
//! [`Digest`]; the digest of a side file folds all its records. So a record that is missing, doubled or moved is found
//! although every record is sound by itself.
//!
//! # Mark
//!
//! A mark is a [`Mark`] in bincode, then its CRC32C. The file `reader-<name>` holds one. The file `durable` has two slots,
//! at offsets 0 and 512, each with a u64 that counts the marks written so far, then a [`Mark`] in bincode, then the CRC32C
//! of both; they are written in turn, and the sound one with the higher count holds: a mark that is torn leaves the one
//! before it. It is written in place after each sync, and only then is the slot of the source told. It is synced when the
//! trail is opened and with each new file, not each time: after a power cut it may be older than what is durable, never
//! newer. It always stands between transactions. A reader reads up to it; the writer's recovery takes a bad byte before it
//! for damage and one behind it for a torn tail.
//!
//! # Told
//!
//! The file `appended` holds a u64 that each opening for writing takes anew, then a place (u64 sequence number, u64 offset;
//! zeros for none) up to which the operating system has all bytes, then the CRC32C of these numbers. Not every place is told:
//! only one in the file that the durable mark stands in, while little is on its way to the disk.
//!
//! # Bookmark
//!
//! The file `bookmark-<name>` is a reader's own, and holds a [`crate::Bookmark`] in bincode, then its CRC32C.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::change::{Message, Truncate};
use crate::error::Malformed;
use crate::lsn::{CommitLsn, Lineage, Lsn, Position, ResumeLsn, Timestamp};
use crate::relation::Relation;
use crate::transaction::{Begin, Commit, Progress};

/// The first bytes of every file.
pub const MAGIC: [u8; 8] = *b"IRONGATE";
/// The version this release writes, and the newest it reads.
pub const VERSION: u16 = 1;
/// Bytes before the tokens of a header.
pub(crate) const HEADER_START: usize = 16;
/// Tokens of a header that are longer than this are damage.
pub(crate) const MAX_HEADER: usize = 1 << 20;
/// Bytes before a record's kind.
pub(crate) const FRAME: usize = 8;
/// The longest record: the server's largest row is 1 GiB as it sends it, and an update can carry two.
pub const MAX_RECORD: u32 = (1 << 31) + (1 << 20);
/// Token of [`FileHeader`].
const TAG_FILE: u16 = 1;
/// Tokens from here on must be understood.
const TAG_CRITICAL: u16 = 0x8000;
/// Record kinds from here on may be skipped.
pub(crate) const KIND_SKIPPABLE: u8 = 0x80;

/// Kinds of record.
pub(crate) mod kind {
    pub(crate) const RELATION: u8 = b'R';
    pub(crate) const BEGIN: u8 = b'B';
    pub(crate) const INSERT: u8 = b'I';
    pub(crate) const UPDATE: u8 = b'U';
    pub(crate) const DELETE: u8 = b'D';
    pub(crate) const TRUNCATE: u8 = b'T';
    pub(crate) const MESSAGE: u8 = b'M';
    pub(crate) const ADOPT: u8 = b'A';
    pub(crate) const COMMIT: u8 = b'C';
    pub(crate) const PROGRESS: u8 = b'P';
    pub(crate) const END: u8 = b'E';
    pub(crate) const SUBTRANSACTION: u8 = b'S';
    /// For readers that read ahead of the commit; of no meaning once the file is adopted.
    pub(crate) const AFTER: u8 = 0x81;
    /// The same.
    pub(crate) const ABORTED: u8 = 0x82;

    /// Whether this release knows the kind, or may pass over it.
    pub(crate) fn is_readable(kind: u8) -> bool {
        kind >= super::KIND_SKIPPABLE || b"RBIUDTMACPES".contains(&kind)
    }
}

/// Whether a file is the trail itself or a transaction beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// Whole transactions in commit order.
    Main,
    /// The rows of one streamed transaction.
    Side,
}

/// What a file says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileHeader {
    /// The flow.
    pub flow: String,
    /// Whose LSNs stand in it.
    pub lineage: Lineage,
    /// The file's own number; 0 for a side file.
    pub seqno: u64,
    /// The epoch it was written in.
    pub epoch: u64,
    /// When it was begun, by the writer's clock.
    pub created: Timestamp,
    /// Safe restart: Extract can begin here if everything from this file on is lost.
    pub resume_lsn: ResumeLsn,
    /// The last commit before this file.
    pub previous: CommitLsn,
    /// The source's `server_version_num`.
    pub server_version: u32,
    /// The release that wrote it.
    pub release: String,
}

/// The rows of a side file stand where this record does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Adopt {
    /// Name of the side file.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Records in it, those of aborted sub-transactions too.
    pub records: u64,
    /// Digest over them.
    pub digest: u64,
    /// Sub-transactions that were aborted, ascending: their rows do not count.
    pub aborted: Vec<u32>,
}

/// The end of a transaction, and what its records add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The commit.
    pub commit: Commit,
    /// Digest of the records between begin and commit.
    pub digest: u64,
}

/// The seal of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    /// Transactions in the file.
    pub transactions: u64,
    /// The last commit so far.
    pub previous: CommitLsn,
    /// Where Extract begins again after this file.
    pub resume_lsn: ResumeLsn,
}

/// How far somebody is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The place behind the last whole transaction or progress record.
    pub position: Position,
    /// Where Extract begins again.
    pub resume_lsn: ResumeLsn,
    /// The last commit.
    pub commit_lsn: CommitLsn,
    /// When that transaction was committed, by the source's clock.
    pub commit_time: Timestamp,
    /// When the mark was set, by this machine's clock.
    pub set: Timestamp,
}

/// Folds the checksums of records in order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digest(pub u64);

impl Digest {
    /// Takes in the next record's CRC.
    #[inline]
    pub fn fold(&mut self, crc: u32) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(crc)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<{ 1 << 28 }>()
}

pub(crate) fn encode(value: &impl Serialize, into: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, into, configuration())
        .expect("memory takes every byte and the structs have only encodable fields");
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match bincode::serde::decode_from_slice(bytes, configuration()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok(_) => Err(Malformed("record is followed by stray bytes")),
        Err(_) => Err(Malformed("record does not have the layout of its kind")),
    }
}

// Header

pub(crate) fn encode_header(kind: FileKind, header: &FileHeader) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    encode(header, &mut body);
    let mut bytes = Vec::with_capacity(body.len() + 32);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_be_bytes());
    bytes.extend_from_slice(&[if kind == FileKind::Main { b'M' } else { b'S' }, 0]);
    bytes.extend_from_slice(&(body.len() as u32 + 6).to_be_bytes());
    bytes.extend_from_slice(&TAG_FILE.to_be_bytes());
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// The bytes end before the header does.
    Short,
    /// The bytes are not what was written.
    Damaged(Malformed),
    /// A release that this one cannot read has written it.
    Unknown(String),
}

/// The length of the header that `bytes` start with, if so much is there that it can be told.
pub(crate) fn header_length(bytes: &[u8]) -> Option<usize> {
    let start = bytes.first_chunk::<HEADER_START>().filter(|start| start[..8] == MAGIC)?;
    let tokens = u32::from_be_bytes([start[12], start[13], start[14], start[15]]) as usize;
    (tokens <= MAX_HEADER).then_some(HEADER_START + tokens + 4)
}

/// Reads the header at the start of `bytes` and returns it with its length.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(FileKind, FileHeader, usize), HeaderError> {
    let damaged = |reason| HeaderError::Damaged(Malformed(reason));
    let (start, rest) = bytes.split_first_chunk::<HEADER_START>().ok_or(HeaderError::Short)?;
    if start[..8] != MAGIC {
        return Err(damaged("it does not begin like a trail file"));
    }
    let length = u32::from_be_bytes([start[12], start[13], start[14], start[15]]) as usize;
    if length > MAX_HEADER {
        return Err(damaged("the header is too long"));
    }
    let (mut tokens, rest) = rest.split_at_checked(length).ok_or(HeaderError::Short)?;
    let crc = rest.first_chunk::<4>().ok_or(HeaderError::Short)?;
    if crc32c::crc32c(&bytes[..HEADER_START + length]) != u32::from_be_bytes(*crc) {
        return Err(damaged("the header's checksum is wrong"));
    }
    let version = u16::from_be_bytes([start[8], start[9]]);
    if version != VERSION {
        return Err(HeaderError::Unknown(format!("format version {version}")));
    }
    let kind = match start[10] {
        b'M' => FileKind::Main,
        b'S' => FileKind::Side,
        other => return Err(HeaderError::Unknown(format!("file kind {other}"))),
    };
    let mut header = None;
    while let Some((front, rest)) = tokens.split_first_chunk::<6>() {
        let tag = u16::from_be_bytes([front[0], front[1]]);
        let length = u32::from_be_bytes([front[2], front[3], front[4], front[5]]) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or(damaged("a header token ends early"))?;
        match tag {
            TAG_FILE => header = Some(decode::<FileHeader>(body).map_err(HeaderError::Damaged)?),
            TAG_CRITICAL.. => return Err(HeaderError::Unknown(format!("header token {tag:#06x}"))),
            _ => {}
        }
        tokens = rest;
    }
    if !tokens.is_empty() {
        return Err(damaged("a header token ends early"));
    }
    let header = header.ok_or(damaged("the header does not describe the file"))?;
    Ok((kind, header, HEADER_START + length + 4))
}

// Records

/// Appends a record whose body `fill` writes; returns its CRC.
#[inline]
pub(crate) fn append(into: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> u32 {
    let start = into.len();
    into.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind]);
    fill(into);
    let length = (into.len() - start - FRAME) as u32;
    into[start + 4..start + FRAME].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&into[start + 4..]);
    into[start..start + 4].copy_from_slice(&crc.to_be_bytes());
    crc
}

/// A record, not yet understood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
    pub(crate) crc: u32,
}

/// The length of the record at the start of `bytes`, frame included, if so much of it is there.
pub(crate) fn record_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(front) = bytes.first_chunk::<FRAME>() else { return Ok(None) };
    match u32::from_be_bytes([front[4], front[5], front[6], front[7]]) {
        length @ 1..=MAX_RECORD => Ok(Some(length as usize + FRAME)),
        _ => Err(Malformed("the record's length is impossible")),
    }
}

/// Checks a record, of which `bytes` is the whole.
#[inline]
pub(crate) fn check(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let (crc, covered) = bytes.split_first_chunk::<4>().ok_or(Malformed("the record ends early"))?;
    let crc = u32::from_be_bytes(*crc);
    if crc32c::crc32c(covered) != crc {
        return Err(Malformed("the record's checksum is wrong"));
    }
    let (kind, body) =
        covered.get(4..).and_then(<[u8]>::split_first).ok_or(Malformed("the record ends early"))?;
    Ok(Record { kind: *kind, body, crc })
}

#[inline]
pub(crate) fn encode_row(relation: u32, tuples: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&relation.to_be_bytes());
    into.extend_from_slice(tuples);
}

#[inline]
pub(crate) fn decode_row(body: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (relation, tuples) = body.split_first_chunk::<4>().ok_or(Malformed("the row ends early"))?;
    Ok((u32::from_be_bytes(*relation), tuples))
}

pub(crate) fn encode_truncate(truncate: &Truncate, into: &mut Vec<u8>) {
    into.push(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
    into.extend_from_slice(&(truncate.relations.len() as u32).to_be_bytes());
    for relation in &truncate.relations {
        into.extend_from_slice(&relation.to_be_bytes());
    }
}

pub(crate) fn decode_truncate(body: &[u8]) -> Result<Truncate, Malformed> {
    let short = Malformed("the truncate ends early");
    let (front, rest) = body.split_first_chunk::<5>().ok_or(short)?;
    let count = u32::from_be_bytes([front[1], front[2], front[3], front[4]]) as usize;
    let (relations, []) = rest.as_chunks::<4>() else { return Err(short) };
    if relations.len() != count {
        return Err(short);
    }
    Ok(Truncate {
        relations: relations.iter().map(|oid| u32::from_be_bytes(*oid)).collect(),
        cascade: front[0] & 1 != 0,
        restart_identity: front[0] & 2 != 0,
    })
}

pub(crate) fn encode_message(message: &Message<'_>, into: &mut Vec<u8>) {
    into.push(u8::from(message.transactional));
    into.extend_from_slice(&message.lsn.0.to_be_bytes());
    into.extend_from_slice(&(message.prefix.len() as u32).to_be_bytes());
    into.extend_from_slice(message.prefix.as_bytes());
    into.extend_from_slice(message.content);
}

pub(crate) fn decode_message(body: &[u8]) -> Result<Message<'_>, Malformed> {
    let short = Malformed("the message ends early");
    let (flags, rest) = body.split_first().ok_or(short)?;
    let (lsn, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
    let (prefix, content) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(short)?;
    Ok(Message {
        transactional: flags & 1 != 0,
        lsn: Lsn(u64::from_be_bytes(*lsn)),
        prefix: std::str::from_utf8(prefix).map_err(|_| Malformed("the message's prefix is not UTF-8"))?,
        content,
    })
}

pub(crate) fn decode_relation(body: &[u8]) -> Result<Relation, Malformed> {
    decode(body)
}

pub(crate) fn decode_begin(body: &[u8]) -> Result<Begin, Malformed> {
    decode(body)
}

pub(crate) fn decode_progress(body: &[u8]) -> Result<Progress, Malformed> {
    decode(body)
}

// Marks

pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

pub(crate) fn unseal(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("the mark ends early"))?;
    if crc32c::crc32c(body) == u32::from_be_bytes(*crc) {
        Ok(body)
    } else {
        Err(Malformed("the mark's checksum is wrong"))
    }
}

pub(crate) fn encode_mark(mark: &Mark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    encode(mark, &mut bytes);
    seal(bytes)
}

pub(crate) fn decode_mark(bytes: &[u8]) -> Result<Mark, Malformed> {
    decode(unseal(bytes)?)
}

/// Bytes of an end record: the frame, the kind and an [`End`] in bincode.
pub(crate) const END_RECORD: usize = FRAME + 1 + 24;
/// Bytes of a [`Mark`] in bincode.
const MARK: usize = 48;
/// Bytes from one slot of the durable mark to the next: a disk writes so many whole.
const SLOT: usize = 512;
/// What both slots take.
pub(crate) const SLOTS: usize = SLOT + 8 + MARK + 4;

/// The slot to write, by its offset, and what to write there.
pub(crate) fn encode_slot(count: u64, mark: &Mark) -> (u64, Vec<u8>) {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&count.to_be_bytes());
    encode(mark, &mut bytes);
    (count % 2 * SLOT as u64, seal(bytes))
}

/// Reads both slots: the newest sound mark and its count.
pub(crate) fn decode_slots(bytes: &[u8]) -> Option<(u64, Mark)> {
    let slot = |start: usize| {
        let body = unseal(bytes.get(start..start + 8 + MARK + 4)?).ok()?;
        let (count, mark) = body.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*count), decode(mark).ok()?))
    };
    [slot(0), slot(SLOT)].into_iter().flatten().max_by_key(|(count, _)| *count)
}

/// How far a trail can be read before it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    /// Which opening for writing says so.
    pub(crate) writing: u64,
    /// Behind a whole transaction or progress record.
    pub(crate) position: Position,
}

/// Bytes of a sealed [`Told`].
pub(crate) const TOLD: usize = 28;

pub(crate) fn encode_told(told: &Told) -> Vec<u8> {
    let numbers = [told.writing, told.position.seqno, told.position.offset];
    seal(numbers.into_iter().flat_map(u64::to_be_bytes).collect())
}

pub(crate) fn decode_told(bytes: &[u8]) -> Result<Told, Malformed> {
    let early = Malformed("what is told ends early");
    let mut numbers = unseal(bytes)?.chunks_exact(8).filter_map(|bytes| bytes.first_chunk());
    let mut number = || numbers.next().copied().map(u64::from_be_bytes).ok_or(early);
    Ok(Told { writing: number()?, position: Position { seqno: number()?, offset: number()? } })
}

// Names

/// Name of a main file.
pub fn main_name(seqno: u64) -> String {
    format!("{seqno:09}.trail")
}

/// The number in a main file's name.
pub fn parse_main_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".trail")?;
    if digits.len() < 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|seqno| *seqno > 0 && main_name(*seqno) == name)
}

pub(crate) fn open_side_name(xid: u32, nonce: u32) -> String {
    format!("open-{xid}-{nonce}.side")
}

/// The transaction's xid in the name of an open side file.
pub(crate) fn open_side_xid(name: &str) -> Option<u32> {
    let (xid, nonce) = name.strip_prefix("open-")?.strip_suffix(".side")?.split_once('-')?;
    nonce.parse::<u32>().ok()?;
    xid.parse().ok()
}

/// Whether a side file of this name is the open one of that name, adopted.
pub(crate) fn is_adopted_from(adopted: &str, open: &str) -> bool {
    let rest = open.strip_prefix("open");
    rest.and_then(|rest| adopted.strip_suffix(rest)).is_some_and(|seqno| seqno.parse::<u64>().is_ok())
}

pub(crate) fn adopted_side_name(seqno: u64, xid: u32, nonce: u32) -> String {
    format!("{seqno:09}-{xid}-{nonce}.side")
}

/// The counter in the name of a side file, by which two files of the same xid differ.
pub(crate) fn side_nonce(name: &str) -> Option<u32> {
    name.strip_suffix(".side")?.rsplit_once('-')?.1.parse().ok()
}

pub(crate) fn is_open_side(name: &str) -> bool {
    name.starts_with("open-") && name.ends_with(".side")
}

/// The main file that adopts the side file of this name.
pub(crate) fn adopter(name: &str) -> Option<u64> {
    let (seqno, _) = name.strip_suffix(".side")?.split_once('-')?;
    seqno.parse().ok()
}
