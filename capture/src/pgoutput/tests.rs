//! The decoder against the encoder, against cuts, and against noise.

use irongate_trail::{
    Column, CommitLsn, Lsn, Relation, ReplicaIdentity, ResumeLsn, Timestamp, Truncate, TupleBuilder,
};
use irongate_trail::{Message as Logical, Value};
use proptest::prelude::*;

use super::{Decoder, Message, Prepared, Row, Streaming};

/// An owned message: proptest's values cannot borrow from each other.
#[derive(Clone, Debug)]
enum Owned {
    Begin(u64, i64, u32),
    Commit(u64, u64, i64),
    Origin(u64, String),
    Relation(Relation),
    Type(u32, String, String),
    Row(u32, u8, u16, Vec<u8>),
    Truncate(Truncate),
    Logical(bool, u64, String, Vec<u8>),
    Prepared(u8, u64, u64, i64, u32, String),
    Rollback(u64, u64, i64, i64, u32, String),
    StreamCommit(u32, u64, u64, i64),
    StreamAbort(u32, u32, Option<(u64, i64)>),
}

impl Owned {
    fn message(&self, xid: Option<u32>) -> Message<'_> {
        match self {
            Owned::Begin(lsn, time, xid) => {
                Message::Begin { commit_lsn: CommitLsn(Lsn(*lsn)), commit_time: Timestamp(*time), xid: *xid }
            }
            Owned::Commit(lsn, end, time) => Message::Commit {
                commit_lsn: CommitLsn(Lsn(*lsn)),
                end_lsn: ResumeLsn(Lsn(*end)),
                commit_time: Timestamp(*time),
            },
            Owned::Origin(lsn, name) => Message::Origin { lsn: Lsn(*lsn), name },
            Owned::Relation(relation) => Message::Relation { xid, relation: relation.clone() },
            Owned::Type(oid, schema, name) => Message::Type { xid, oid: *oid, schema, name },
            Owned::Row(relation, operation, columns, bytes) => Message::Row(Row {
                xid,
                relation: *relation,
                operation: *operation,
                columns: *columns,
                bytes,
            }),
            Owned::Truncate(truncate) => Message::Truncate { xid, truncate: truncate.clone() },
            Owned::Logical(transactional, lsn, prefix, content) => Message::Logical {
                xid,
                message: Logical { transactional: *transactional, lsn: Lsn(*lsn), prefix, content },
            },
            Owned::Prepared(kind, lsn, end, time, xid, gid) => {
                let prepared =
                    Prepared { lsn: Lsn(*lsn), end_lsn: Lsn(*end), time: Timestamp(*time), xid: *xid, gid };
                match kind {
                    0 => Message::BeginPrepare(prepared),
                    1 => Message::Prepare(prepared),
                    2 => Message::CommitPrepared(prepared),
                    _ => Message::StreamPrepare(prepared),
                }
            }
            Owned::Rollback(prepare, rollback, prepare_time, rollback_time, xid, gid) => {
                Message::RollbackPrepared {
                    prepare_end_lsn: Lsn(*prepare),
                    rollback_end_lsn: Lsn(*rollback),
                    prepare_time: Timestamp(*prepare_time),
                    rollback_time: Timestamp(*rollback_time),
                    xid: *xid,
                    gid,
                }
            }
            Owned::StreamCommit(xid, lsn, end, time) => Message::StreamCommit {
                xid: *xid,
                commit_lsn: CommitLsn(Lsn(*lsn)),
                end_lsn: ResumeLsn(Lsn(*end)),
                commit_time: Timestamp(*time),
            },
            Owned::StreamAbort(xid, subxid, abort) => Message::StreamAbort {
                xid: *xid,
                subxid: *subxid,
                abort: abort.map(|(lsn, time)| (Lsn(lsn), Timestamp(time))),
            },
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn relation() -> impl Strategy<Value = Relation> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    let column = (name(), any::<bool>(), any::<u32>(), any::<i32>()).prop_map(
        |(name, key, type_oid, type_modifier)| Column { name, key, type_oid, type_modifier, type_name: None },
    );
    let schema = prop_oneof![Just("pg_catalog".to_owned()), "[^\0]{1,12}"];
    (any::<u32>(), schema, name(), identity, prop::collection::vec(column, 0..5)).prop_map(
        |(id, schema, name, replica_identity, columns)| Relation {
            id,
            schema,
            name,
            replica_identity,
            columns,
        },
    )
}

fn row() -> impl Strategy<Value = Owned> {
    let value = prop_oneof![
        Just((b'n', Vec::new())),
        Just((b'u', Vec::new())),
        (Just(b't'), prop::collection::vec(any::<u8>(), 0..20)),
        (Just(b'b'), prop::collection::vec(any::<u8>(), 0..20)),
    ];
    let values = prop::collection::vec((value.clone(), value), 0..6);
    let kinds = prop_oneof![
        Just((b'I', None, Some(b'N'))),
        Just((b'U', None, Some(b'N'))),
        Just((b'U', Some(b'K'), Some(b'N'))),
        Just((b'U', Some(b'O'), Some(b'N'))),
        Just((b'D', Some(b'K'), None)),
        Just((b'D', Some(b'O'), None)),
    ];
    (any::<u32>(), values, kinds).prop_map(|(relation, values, (operation, old, new))| {
        let mut bytes = Vec::new();
        if let Some(kind) = old {
            bytes.push(kind);
            bytes.extend_from_slice(tuple(values.iter().map(|pair| &pair.0)).as_tuple().as_bytes());
        }
        if let Some(kind) = new {
            bytes.push(kind);
            bytes.extend_from_slice(tuple(values.iter().map(|pair| &pair.1)).as_tuple().as_bytes());
        }
        Owned::Row(relation, operation, values.len() as u16, bytes)
    })
}

fn tuple<'a>(values: impl Iterator<Item = &'a (u8, Vec<u8>)>) -> TupleBuilder {
    values.fold(TupleBuilder::new(), |tuple, (kind, bytes)| {
        tuple.value(match kind {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(bytes),
            _ => Value::Binary(bytes),
        })
    })
}

/// What may stand inside a stream block as well as outside.
fn change() -> impl Strategy<Value = Owned> {
    prop_oneof![
        row(),
        relation().prop_map(Owned::Relation),
        (any::<u32>(), "[^\0]{1,12}", name()).prop_map(|(oid, schema, name)| Owned::Type(oid, schema, name)),
        (prop::collection::vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| Owned::Truncate(Truncate {
                relations,
                cascade,
                restart_identity
            })
        ),
        (any::<bool>(), any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
            |(transactional, lsn, prefix, content)| Owned::Logical(transactional, lsn, prefix, content)
        ),
    ]
}

/// What stands outside only; with or without the fields of `streaming = parallel`.
fn bracket(parallel: bool) -> impl Strategy<Value = Owned> {
    let abort = (any::<u64>(), any::<i64>()).prop_map(move |fields| parallel.then_some(fields));
    prop_oneof![
        (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(lsn, time, xid)| Owned::Begin(lsn, time, xid)),
        (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(lsn, end, time)| Owned::Commit(lsn, end, time)),
        (any::<u64>(), name()).prop_map(|(lsn, name)| Owned::Origin(lsn, name)),
        (0..4u8, any::<u64>(), any::<u64>(), any::<i64>(), any::<u32>(), name())
            .prop_map(|(kind, lsn, end, time, xid, gid)| Owned::Prepared(kind, lsn, end, time, xid, gid)),
        (any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<u32>(), name()).prop_map(
            |(prepare, rollback, prepare_time, rollback_time, xid, gid)| Owned::Rollback(
                prepare,
                rollback,
                prepare_time,
                rollback_time,
                xid,
                gid
            )
        ),
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<i64>())
            .prop_map(|(xid, lsn, end, time)| Owned::StreamCommit(xid, lsn, end, time)),
        (any::<u32>(), any::<u32>(), abort)
            .prop_map(|(xid, subxid, abort)| Owned::StreamAbort(xid, subxid, abort)),
    ]
}

fn streaming(parallel: bool) -> Streaming {
    if parallel { Streaming::Parallel } else { Streaming::On }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn inside_block(streaming: Streaming) -> Decoder {
    let mut decoder = Decoder::new(streaming);
    decoder.decode(&encoded(&Message::StreamStart { xid: 7, first: true })).unwrap();
    decoder
}

/// `message` comes back from its bytes, and from nothing shorter or longer.
fn round_trip(decoder: &Decoder, message: &Message<'_>) {
    let mut bytes = encoded(message);
    assert_eq!(decoder.clone().decode(&bytes).as_ref(), Ok(message));
    for end in 0..bytes.len() {
        assert!(decoder.clone().decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
    }
    bytes.push(0);
    assert!(decoder.clone().decode(&bytes).is_err(), "{message:?} with a stray byte");
}

proptest! {
    #[test]
    fn every_message_comes_back_and_every_cut_is_refused(
        outside in change(), inside in change(), xid in any::<u32>(), parallel in any::<bool>(),
    ) {
        let streaming = streaming(parallel);
        round_trip(&Decoder::new(streaming), &outside.message(None));
        round_trip(&inside_block(streaming), &inside.message(Some(xid)));
    }

    #[test]
    fn every_bracket_comes_back_and_every_cut_is_refused(plain in bracket(false), parallel in bracket(true)) {
        round_trip(&Decoder::new(Streaming::On), &plain.message(None));
        round_trip(&Decoder::new(Streaming::Parallel), &parallel.message(None));
    }

    #[test]
    fn noise_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(b"BCORYIUDTMbPKrSEcAp".to_vec()),
        parallel in any::<bool>(),
    ) {
        let streaming = streaming(parallel);
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let _ = Decoder::new(streaming).decode(&bytes);
        let _ = inside_block(streaming).decode(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics(message in change(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = encoded(&message.message(Some(9)));
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = inside_block(Streaming::On).decode(&bytes);
    }
}

#[test]
fn blocks_open_and_close_and_do_not_nest() {
    let start = encoded(&Message::StreamStart { xid: 7, first: false });
    let stop = encoded(&Message::StreamStop);
    let mut decoder = Decoder::new(Streaming::On);
    assert!(decoder.clone().decode(&stop).is_err());
    decoder.decode(&start).unwrap();
    assert!(decoder.is_inside_block());
    assert!(decoder.clone().decode(&start).is_err());
    decoder.decode(&stop).unwrap();
    assert!(!decoder.is_inside_block());
    assert!(Decoder::new(Streaming::Off).decode(&start).is_err());
}

#[test]
fn brackets_are_refused_inside_a_block() {
    let begin = Message::Begin { commit_lsn: CommitLsn(Lsn(1)), commit_time: Timestamp(2), xid: 3 };
    let abort = Message::StreamAbort { xid: 7, subxid: 7, abort: None };
    for message in [begin, abort] {
        assert!(inside_block(Streaming::On).decode(&encoded(&message)).is_err(), "{message:?}");
    }
}

#[test]
fn the_same_bytes_mean_another_table_inside_a_block() {
    let bytes = encoded(&Message::Row(Row {
        xid: Some(806),
        relation: 16384,
        operation: b'I',
        columns: 0,
        bytes: b"N\0\0",
    }));
    assert_eq!(bytes, b"I\0\0\x03\x26\0\0\x40\0N\0\0");
    assert!(matches!(
        inside_block(Streaming::On).decode(&bytes),
        Ok(Message::Row(Row { xid: Some(806), relation: 16384, .. }))
    ));
    assert!(Decoder::new(Streaming::On).decode(&bytes).is_err());
}

#[test]
fn an_empty_schema_is_the_system_catalogs() {
    let mut decoder = Decoder::new(Streaming::On);
    let message = decoder.decode(b"R\0\0\0\x09\0pg_class\0n\0\0").unwrap();
    assert!(matches!(message, Message::Relation { xid: None, relation } if relation.schema == "pg_catalog"));
}

#[test]
fn an_update_whose_tuples_differ_in_columns_is_refused() {
    let bytes = b"U\0\0\0\x01K\0\x01nN\0\x02nn";
    assert!(Decoder::new(Streaming::On).decode(bytes).is_err());
}

#[test]
fn strings_that_are_not_utf_8_are_refused() {
    assert!(Decoder::new(Streaming::On).decode(b"O\0\0\0\0\0\0\0\x01\xff\0").is_err());
}
