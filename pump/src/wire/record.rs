//! Records: what a trail holds, between two sites.

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Lineage, Malformed, Message, Progress, Relation, ReplicaIdentity,
    ResumeLsn, Row, Timestamp, Truncate,
};

use super::MAX_RECORD;
use super::bytes::{Put, Take};
use super::hello::Held;

/// Bytes before a record's body.
const HEADER: usize = 5;
/// Bytes of a commit's body that its digest covers.
const COMMITTED: usize = 32;
/// A buffer that has grown beyond is given back when the long record has passed.
const KEEP: usize = 4 << 20;

/// One step through a trail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// The trail goes on in another lineage.
    Lineage {
        /// Which.
        lineage: Lineage,
        /// From where.
        start: ResumeLsn,
        /// `server_version_num` of the source.
        server_version: u32,
    },
    /// The trail goes on in another epoch.
    Epoch(u64),
    /// A table's description, for what follows on this connection.
    Relation(Relation),
    /// A transaction begins. [`Begin::previous`] does not travel: each trail has its own.
    Begin(Begin),
    /// The unfinished transaction goes on.
    Continue(Held),
    /// A changed row.
    Row {
        /// The table's OID.
        relation: u32,
        /// `I`, `U` or `D`.
        operation: u8,
        /// What [`Row::decode`] reads; it has been checked.
        tuples: &'a [u8],
    },
    /// Emptied tables.
    Truncate(Truncate),
    /// A message.
    Message(Message<'a>),
    /// The transaction ends.
    Commit {
        /// What is known of it.
        commit: Commit,
        /// What its content adds up to.
        digest: u64,
    },
    /// Nothing more before an LSN.
    Progress(Progress),
}

/// A record and its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// What it says.
    pub record: Record<'a>,
    /// All of its bytes, for the digest.
    pub bytes: &'a [u8],
}

impl Found<'_> {
    /// The bytes that the digest takes in: all, but for a commit, which carries the digest itself.
    pub fn digested(&self) -> &[u8] {
        match self.record {
            Record::Commit { .. } => &self.bytes[HEADER..HEADER + COMMITTED],
            _ => self.bytes,
        }
    }
}

/// Puts records together out of batches: one may lie in several.
#[derive(Default, Debug)]
pub struct Records {
    buffer: Vec<u8>,
    start: usize,
}

impl Records {
    /// Takes in a batch.
    pub fn push(&mut self, batch: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() < KEEP {
                self.buffer.shrink_to(KEEP);
            }
        }
        self.buffer.extend_from_slice(batch);
    }

    /// Bytes of a record that has not arrived whole.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next whole record.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no record.
    #[expect(clippy::should_implement_trait, reason = "what it gives lives until the next call")]
    pub fn next(&mut self) -> Result<Option<Found<'_>>, Malformed> {
        let bytes = &self.buffer[self.start..];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > MAX_RECORD {
            return Err(Malformed("a record is too long"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let record = decode(header[0], body)?;
        self.start += HEADER + length;
        Ok(Some(Found { record, bytes: &bytes[..HEADER + length] }))
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut take = Take(body);
    let record = match kind {
        b'L' => Record::Lineage {
            lineage: take.lineage()?,
            start: ResumeLsn(take.lsn()?),
            server_version: take.u32()?,
        },
        b'E' => Record::Epoch(take.u64()?),
        b'R' => Record::Relation(relation(&mut take)?),
        b'B' => Record::Begin(Begin {
            xid: take.u32()?,
            commit_lsn: CommitLsn(take.lsn()?),
            commit_time: Timestamp(take.i64()?),
            origin: if take.flag()? { Some(take.string()?) } else { None },
            previous: CommitLsn::default(),
        }),
        b'=' => Record::Continue(Held {
            commit: CommitLsn(take.lsn()?),
            changes: take.u64()?,
            digest: take.u64()?,
        }),
        b'I' | b'U' | b'D' => {
            let relation = take.u32()?;
            Row::decode(kind, take.0)?;
            return Ok(Record::Row { relation, operation: kind, tuples: take.0 });
        }
        b'T' => {
            let (flags, count) = (take.u8()?, take.u32()? as usize);
            if flags > 3 || take.0.len() != count.saturating_mul(4) {
                return Err(Malformed("a truncate is not as long as it says"));
            }
            let relations = std::iter::from_fn(|| take.u32().ok()).collect();
            Record::Truncate(Truncate {
                relations,
                cascade: flags & 1 != 0,
                restart_identity: flags & 2 != 0,
            })
        }
        b'M' => {
            let (transactional, lsn, prefix) = (take.flag()?, take.lsn()?, take.text()?);
            return Ok(Record::Message(Message { transactional, lsn, prefix, content: take.0 }));
        }
        b'C' => Record::Commit {
            commit: Commit {
                commit_lsn: CommitLsn(take.lsn()?),
                end_lsn: ResumeLsn(take.lsn()?),
                commit_time: Timestamp(take.i64()?),
                changes: take.u64()?,
            },
            digest: take.u64()?,
        },
        b'P' => {
            Record::Progress(Progress { resume_lsn: ResumeLsn(take.lsn()?), time: Timestamp(take.i64()?) })
        }
        _ => return Err(Malformed("a record of an unknown kind")),
    };
    take.end()?;
    Ok(record)
}

const KEY: u8 = 1;
const TYPE_NAME: u8 = 2;

fn relation(take: &mut Take<'_>) -> Result<Relation, Malformed> {
    let id = take.u32()?;
    let replica_identity = match take.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(Malformed("a table has an unknown replica identity")),
    };
    let (schema, name) = (take.string()?, take.string()?);
    let mut columns = Vec::new();
    for _ in 0..take.u16()? {
        let flags = take.u8()?;
        if flags & !(KEY | TYPE_NAME) != 0 {
            return Err(Malformed("a column has flags that are not known"));
        }
        let (type_oid, type_modifier, name) = (take.u32()?, take.i32()?, take.string()?);
        let type_name = if flags & TYPE_NAME != 0 { Some((take.string()?, take.string()?)) } else { None };
        columns.push(Column { name, key: flags & KEY != 0, type_oid, type_modifier, type_name });
    }
    Ok(Relation { id, schema, name, replica_identity, columns })
}

fn append(into: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend_from_slice(&[kind, 0, 0, 0, 0]);
    fill(into);
    let length = (into.len() - start - HEADER) as u32;
    into[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn append_lineage(into: &mut Vec<u8>, lineage: &Lineage, start: ResumeLsn, server_version: u32) {
    append(into, b'L', |body| {
        body.lineage(lineage);
        body.u64(start.0.0);
        body.u32(server_version);
    });
}

pub(crate) fn append_epoch(into: &mut Vec<u8>, epoch: u64) {
    append(into, b'E', |body| body.u64(epoch));
}

pub(crate) fn append_relation(into: &mut Vec<u8>, relation: &Relation) {
    append(into, b'R', |body| {
        body.u32(relation.id);
        body.u8(match relation.replica_identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        });
        body.text(&relation.schema);
        body.text(&relation.name);
        body.u16(relation.columns.len() as u16);
        for column in &relation.columns {
            let named = if column.type_name.is_some() { TYPE_NAME } else { 0 };
            body.u8(if column.key { KEY } else { 0 } | named);
            body.u32(column.type_oid);
            body.extend_from_slice(&column.type_modifier.to_be_bytes());
            body.text(&column.name);
            if let Some((schema, name)) = &column.type_name {
                body.text(schema);
                body.text(name);
            }
        }
    });
}

pub(crate) fn append_begin(into: &mut Vec<u8>, begin: &Begin) {
    append(into, b'B', |body| {
        body.u32(begin.xid);
        body.u64(begin.commit_lsn.0.0);
        body.i64(begin.commit_time.0);
        body.u8(u8::from(begin.origin.is_some()));
        if let Some(origin) = &begin.origin {
            body.text(origin);
        }
    });
}

pub(crate) fn append_continue(into: &mut Vec<u8>, held: &Held) {
    append(into, b'=', |body| {
        body.u64(held.commit.0.0);
        body.u64(held.changes);
        body.u64(held.digest);
    });
}

#[inline]
pub(crate) fn append_row(into: &mut Vec<u8>, relation: u32, row: &Row<'_>) {
    use irongate_trail::Old;
    append(into, row.operation(), |body| {
        body.u32(relation);
        if let Some(old) = row.old() {
            body.u8(if matches!(old, Old::Key(_)) { b'K' } else { b'O' });
            body.extend_from_slice(old.tuple().as_bytes());
        }
        if let Some(new) = row.new() {
            body.u8(b'N');
            body.extend_from_slice(new.as_bytes());
        }
    });
}

pub(crate) fn append_truncate(into: &mut Vec<u8>, truncate: &Truncate) {
    append(into, b'T', |body| {
        body.u8(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
        body.u32(truncate.relations.len() as u32);
        truncate.relations.iter().for_each(|relation| body.u32(*relation));
    });
}

pub(crate) fn append_message(into: &mut Vec<u8>, message: &Message<'_>) {
    append(into, b'M', |body| {
        body.u8(u8::from(message.transactional));
        body.u64(message.lsn.0);
        body.text(message.prefix);
        body.extend_from_slice(message.content);
    });
}

/// Appends a commit. `digest` is asked for what the digest becomes with the part that it covers.
pub(crate) fn append_commit(into: &mut Vec<u8>, commit: &Commit, digest: impl FnOnce(&[u8]) -> u64) {
    append(into, b'C', |body| {
        let start = body.len();
        body.u64(commit.commit_lsn.0.0);
        body.u64(commit.end_lsn.0.0);
        body.i64(commit.commit_time.0);
        body.u64(commit.changes);
        let digest = digest(&body[start..]);
        body.u64(digest);
    });
}

pub(crate) fn append_progress(into: &mut Vec<u8>, progress: &Progress) {
    append(into, b'P', |body| {
        body.u64(progress.resume_lsn.0.0);
        body.i64(progress.time.0);
    });
}
