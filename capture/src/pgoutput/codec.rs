//! Bytes to messages and back. The arms of `decode` and `encode` stand in the same order, so that a difference between
//! the two is seen by eye.

use irongate_trail::{
    Column, CommitLsn, Lsn, Malformed, Relation, ReplicaIdentity, ResumeLsn, Timestamp, Truncate,
};

use super::{Decoder, Message, Prepared, Row, Streaming};

const TRANSACTIONAL: u8 = 1;
const CASCADE: u8 = 1;
const RESTART_IDENTITY: u8 = 2;
const KEY_COLUMN: u8 = 1;

/// A built-in table's schema is sent as an empty string.
const SYSTEM_SCHEMA: &str = "pg_catalog";

#[inline]
pub(super) fn decode<'a>(decoder: &mut Decoder, data: &'a [u8]) -> Result<Message<'a>, Malformed> {
    let mut input = Input(data);
    let kind = input.u8()?;
    // Rows first: they are nearly all there is.
    if matches!(kind, b'I' | b'U' | b'D') {
        let xid = block_xid(decoder, &mut input)?;
        let relation = input.u32()?;
        let columns = row_columns(kind, input.0)?;
        return Ok(Message::Row(Row { xid, relation, operation: kind, columns, bytes: input.0 }));
    }
    let message = control(decoder, kind, &mut input)?;
    if !input.0.is_empty() {
        return Err(Malformed("message is followed by stray bytes"));
    }
    Ok(message)
}

/// Checks a row and counts the columns of its tuples.
#[inline]
fn row_columns(operation: u8, bytes: &[u8]) -> Result<u16, Malformed> {
    let row = irongate_trail::Row::decode(operation, bytes)?;
    let old = row.old().map(|old| old.tuple().len());
    let new = row.new().map(irongate_trail::Tuple::len);
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        return Err(Malformed("old and new row differ in their number of columns"));
    }
    u16::try_from(old.or(new).unwrap_or_default()).map_err(|_| Malformed("row with too many columns"))
}

/// Inside a block an xid stands in front.
#[inline]
fn block_xid(decoder: &Decoder, input: &mut Input<'_>) -> Result<Option<u32>, Malformed> {
    if decoder.inside_block { input.u32().map(Some) } else { Ok(None) }
}

fn control<'a>(decoder: &mut Decoder, kind: u8, input: &mut Input<'a>) -> Result<Message<'a>, Malformed> {
    let may_be_inside = matches!(kind, b'O' | b'R' | b'Y' | b'T' | b'M' | b'E');
    if decoder.inside_block && !may_be_inside {
        return Err(Malformed("message that cannot stand inside a stream block"));
    }
    let message = match kind {
        b'B' => Message::Begin {
            commit_lsn: CommitLsn(input.lsn()?),
            commit_time: input.time()?,
            xid: input.u32()?,
        },
        b'C' => {
            input.no_flags()?;
            Message::Commit {
                commit_lsn: CommitLsn(input.lsn()?),
                end_lsn: ResumeLsn(input.lsn()?),
                commit_time: input.time()?,
            }
        }
        b'O' => Message::Origin { lsn: input.lsn()?, name: input.text()? },
        b'R' => Message::Relation { xid: block_xid(decoder, input)?, relation: relation(input)? },
        b'Y' => Message::Type {
            xid: block_xid(decoder, input)?,
            oid: input.u32()?,
            schema: schema(input.text()?),
            name: input.text()?,
        },
        b'T' => Message::Truncate { xid: block_xid(decoder, input)?, truncate: truncate(input)? },
        b'M' => Message::Logical { xid: block_xid(decoder, input)?, message: logical(input)? },
        b'b' => Message::BeginPrepare(prepared(input)?),
        b'P' => {
            input.no_flags()?;
            Message::Prepare(prepared(input)?)
        }
        b'K' => {
            input.no_flags()?;
            Message::CommitPrepared(prepared(input)?)
        }
        b'r' => {
            input.no_flags()?;
            Message::RollbackPrepared {
                prepare_end_lsn: input.lsn()?,
                rollback_end_lsn: input.lsn()?,
                prepare_time: input.time()?,
                rollback_time: input.time()?,
                xid: input.u32()?,
                gid: input.text()?,
            }
        }
        b'S' => {
            if decoder.streaming == Streaming::Off {
                return Err(Malformed("stream block although streaming was not asked for"));
            }
            let xid = input.u32()?;
            let first = match input.u8()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed("stream start is neither the first nor a later one")),
            };
            decoder.inside_block = true;
            Message::StreamStart { xid, first }
        }
        b'E' => {
            if !decoder.inside_block {
                return Err(Malformed("stream stop without a stream start"));
            }
            decoder.inside_block = false;
            Message::StreamStop
        }
        b'c' => {
            let xid = input.u32()?;
            input.no_flags()?;
            Message::StreamCommit {
                xid,
                commit_lsn: CommitLsn(input.lsn()?),
                end_lsn: ResumeLsn(input.lsn()?),
                commit_time: input.time()?,
            }
        }
        b'A' => Message::StreamAbort {
            xid: input.u32()?,
            subxid: input.u32()?,
            abort: match decoder.streaming {
                Streaming::Parallel => Some((input.lsn()?, input.time()?)),
                Streaming::On | Streaming::Off => None,
            },
        },
        b'p' => {
            input.no_flags()?;
            Message::StreamPrepare(prepared(input)?)
        }
        _ => return Err(Malformed("unknown kind of message")),
    };
    Ok(message)
}

fn relation(input: &mut Input<'_>) -> Result<Relation, Malformed> {
    let id = input.u32()?;
    let schema = schema(input.text()?).to_owned();
    let name = input.text()?.to_owned();
    let replica_identity = match input.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(Malformed("unknown replica identity")),
    };
    let count = usize::from(input.u16()?);
    // A column takes at least ten bytes, so a wrong count cannot make this allocate more than the frame's own size.
    let mut columns = Vec::with_capacity(count.min(input.0.len() / 10));
    for _ in 0..count {
        let flags = input.u8()?;
        if flags & !KEY_COLUMN != 0 {
            return Err(Malformed("unknown flags of a column"));
        }
        columns.push(Column {
            key: flags & KEY_COLUMN != 0,
            name: input.text()?.to_owned(),
            type_oid: input.u32()?,
            type_modifier: input.u32()?.cast_signed(),
            type_name: None,
        });
    }
    Ok(Relation { id, schema, name, replica_identity, columns })
}

fn truncate(input: &mut Input<'_>) -> Result<Truncate, Malformed> {
    let count = input.u32()? as usize;
    let flags = input.u8()?;
    if flags & !(CASCADE | RESTART_IDENTITY) != 0 {
        return Err(Malformed("unknown flags of a truncate"));
    }
    let (oids, stray) = std::mem::take(&mut input.0).as_chunks::<4>();
    if oids.len() != count || !stray.is_empty() {
        return Err(Malformed("truncate with another number of tables than announced"));
    }
    Ok(Truncate {
        relations: oids.iter().map(|oid| u32::from_be_bytes(*oid)).collect(),
        cascade: flags & CASCADE != 0,
        restart_identity: flags & RESTART_IDENTITY != 0,
    })
}

fn logical<'a>(input: &mut Input<'a>) -> Result<irongate_trail::Message<'a>, Malformed> {
    let flags = input.u8()?;
    if flags & !TRANSACTIONAL != 0 {
        return Err(Malformed("unknown flags of a logical message"));
    }
    let (lsn, prefix) = (input.lsn()?, input.text()?);
    let length = input.u32()? as usize;
    let content = input.bytes(length)?;
    Ok(irongate_trail::Message { transactional: flags & TRANSACTIONAL != 0, lsn, prefix, content })
}

fn prepared<'a>(input: &mut Input<'a>) -> Result<Prepared<'a>, Malformed> {
    Ok(Prepared {
        lsn: input.lsn()?,
        end_lsn: input.lsn()?,
        time: input.time()?,
        xid: input.u32()?,
        gid: input.text()?,
    })
}

fn schema(sent: &str) -> &str {
    if sent.is_empty() { SYSTEM_SCHEMA } else { sent }
}

impl Message<'_> {
    /// Appends the message's bytes to `out`, as a server would send them: with an xid where the message has one.
    ///
    /// # Panics
    /// With more than 65,535 columns, or a logical message of 4 GiB or more, which no server can send.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Row(row) => {
                out.push(row.operation);
                put_xid(out, row.xid);
                put_u32(out, row.relation);
                out.extend_from_slice(row.bytes);
            }
            Message::Begin { commit_lsn, commit_time, xid } => {
                out.push(b'B');
                put_u64(out, commit_lsn.0.0);
                put_time(out, *commit_time);
                put_u32(out, *xid);
            }
            Message::Commit { commit_lsn, end_lsn, commit_time } => {
                out.extend_from_slice(b"C\0");
                put_u64(out, commit_lsn.0.0);
                put_u64(out, end_lsn.0.0);
                put_time(out, *commit_time);
            }
            Message::Origin { lsn, name } => {
                out.push(b'O');
                put_u64(out, lsn.0);
                put_text(out, name);
            }
            Message::Relation { xid, relation } => {
                out.push(b'R');
                put_xid(out, *xid);
                put_relation(out, relation);
            }
            Message::Type { xid, oid, schema, name } => {
                out.push(b'Y');
                put_xid(out, *xid);
                put_u32(out, *oid);
                put_schema(out, schema);
                put_text(out, name);
            }
            Message::Truncate { xid, truncate } => {
                out.push(b'T');
                put_xid(out, *xid);
                put_u32(out, u32::try_from(truncate.relations.len()).expect("tables have 32-bit OIDs"));
                out.push(
                    if truncate.cascade { CASCADE } else { 0 }
                        | if truncate.restart_identity { RESTART_IDENTITY } else { 0 },
                );
                truncate.relations.iter().for_each(|oid| put_u32(out, *oid));
            }
            Message::Logical { xid, message } => {
                out.push(b'M');
                put_xid(out, *xid);
                out.push(if message.transactional { TRANSACTIONAL } else { 0 });
                put_u64(out, message.lsn.0);
                put_text(out, message.prefix);
                put_u32(out, u32::try_from(message.content.len()).expect("a message is under 4 GiB"));
                out.extend_from_slice(message.content);
            }
            Message::BeginPrepare(prepared) => {
                out.push(b'b');
                put_prepared(out, prepared);
            }
            Message::Prepare(prepared) => {
                out.extend_from_slice(b"P\0");
                put_prepared(out, prepared);
            }
            Message::CommitPrepared(prepared) => {
                out.extend_from_slice(b"K\0");
                put_prepared(out, prepared);
            }
            Message::RollbackPrepared {
                prepare_end_lsn,
                rollback_end_lsn,
                prepare_time,
                rollback_time,
                xid,
                gid,
            } => {
                out.extend_from_slice(b"r\0");
                put_u64(out, prepare_end_lsn.0);
                put_u64(out, rollback_end_lsn.0);
                put_time(out, *prepare_time);
                put_time(out, *rollback_time);
                put_u32(out, *xid);
                put_text(out, gid);
            }
            Message::StreamStart { xid, first } => {
                out.push(b'S');
                put_u32(out, *xid);
                out.push(u8::from(*first));
            }
            Message::StreamStop => out.push(b'E'),
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time } => {
                out.push(b'c');
                put_u32(out, *xid);
                out.push(0);
                put_u64(out, commit_lsn.0.0);
                put_u64(out, end_lsn.0.0);
                put_time(out, *commit_time);
            }
            Message::StreamAbort { xid, subxid, abort } => {
                out.push(b'A');
                put_u32(out, *xid);
                put_u32(out, *subxid);
                if let Some((lsn, time)) = abort {
                    put_u64(out, lsn.0);
                    put_time(out, *time);
                }
            }
            Message::StreamPrepare(prepared) => {
                out.extend_from_slice(b"p\0");
                put_prepared(out, prepared);
            }
        }
    }
}

fn put_relation(out: &mut Vec<u8>, relation: &Relation) {
    put_u32(out, relation.id);
    put_schema(out, &relation.schema);
    put_text(out, &relation.name);
    out.push(match relation.replica_identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    let count = u16::try_from(relation.columns.len()).expect("a table has at most 1,600 columns");
    out.extend_from_slice(&count.to_be_bytes());
    for column in &relation.columns {
        out.push(if column.key { KEY_COLUMN } else { 0 });
        put_text(out, &column.name);
        put_u32(out, column.type_oid);
        put_u32(out, column.type_modifier.cast_unsigned());
    }
}

fn put_prepared(out: &mut Vec<u8>, prepared: &Prepared<'_>) {
    put_u64(out, prepared.lsn.0);
    put_u64(out, prepared.end_lsn.0);
    put_time(out, prepared.time);
    put_u32(out, prepared.xid);
    put_text(out, prepared.gid);
}

fn put_schema(out: &mut Vec<u8>, schema: &str) {
    put_text(out, if schema == SYSTEM_SCHEMA { "" } else { schema });
}

fn put_xid(out: &mut Vec<u8>, xid: Option<u32>) {
    xid.into_iter().for_each(|xid| put_u32(out, xid));
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    out.extend_from_slice(&time.0.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// What is left of a message.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("message ends early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("message ends early"))?;
        self.0 = rest;
        Ok(head)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, Malformed> {
        self.array().map(u64::from_be_bytes).map(Lsn)
    }

    fn time(&mut self) -> Result<Timestamp, Malformed> {
        self.array().map(i64::from_be_bytes).map(Timestamp)
    }

    /// Flags that the protocol keeps for later.
    fn no_flags(&mut self) -> Result<(), Malformed> {
        if self.u8()? == 0 { Ok(()) } else { Err(Malformed("unknown flags of a message")) }
    }

    /// A string ended by a zero byte, in UTF-8, which the connection asked for.
    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed("string without an end"))?;
        let text = self.bytes(end)?;
        self.u8()?;
        std::str::from_utf8(text).map_err(|_| Malformed("string that is not UTF-8"))
    }
}
