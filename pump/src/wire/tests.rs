//! What goes in comes out, and what was damaged does not.

use irongate_trail::{
    Begin, Column, Commit, CommitLsn, Lineage, Lsn, Message, Progress, Relation, ReplicaIdentity, ResumeLsn,
    Row, Timestamp, Truncate, TupleBuilder, Value,
};
use proptest::prelude::*;

use super::*;

fn texts() -> impl Strategy<Value = String> {
    ".{0,20}"
}

fn lineages() -> impl Strategy<Value = Lineage> {
    (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(system_identifier, timeline, lsn)| Lineage {
        system_identifier,
        timeline,
        slot_incarnation: Lsn(lsn),
    })
}

fn places() -> impl Strategy<Value = Place> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(commit, resume)| Place { commit: CommitLsn(Lsn(commit)), resume: ResumeLsn(Lsn(resume)) })
}

prop_compose! {
    fn hellos()(
        names in (texts(), texts(), texts(), texts()),
        instance in any::<u64>(),
        epoch in any::<u64>(),
        server_version in any::<u32>(),
        histories in prop::collection::vec((lineages(), any::<u64>(), any::<u64>()), 0..5),
        end in places(),
    ) -> Hello {
        let history = |(lineage, previous, start): (Lineage, u64, u64)| History {
            lineage,
            previous: CommitLsn(Lsn(previous)),
            start: ResumeLsn(Lsn(start)),
        };
        Hello {
            deployment: names.0,
            flow: names.1,
            site: names.2,
            group: names.3,
            instance,
            epoch,
            server_version,
            histories: histories.into_iter().map(history).collect(),
            end,
        }
    }
}

fn helds() -> impl Strategy<Value = Held> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(commit, changes, digest)| Held {
        commit: CommitLsn(Lsn(commit)),
        changes,
        digest,
    })
}

fn frames() -> impl Strategy<Value = Frame<'static>> {
    let codes = (1_u16..=14).prop_map(|number| {
        let bytes = [&number.to_be_bytes()[..], &[1], &[0; 8]].concat();
        Refused::decode(&bytes).unwrap().code
    });
    prop_oneof![
        hellos().prop_map(Frame::Hello),
        (texts(), texts(), texts()).prop_map(|(deployment, site, group)| Frame::Greeting(Greeting {
            deployment,
            site,
            group
        })),
        (lineages(), any::<u64>(), places(), any::<u64>(), prop::option::of(helds())).prop_map(
            |(lineage, epoch, place, last, held)| Frame::Accepted(Accepted {
                lineage,
                epoch,
                place,
                last_message: Lsn(last),
                held
            })
        ),
        (codes, any::<bool>(), texts(), texts()).prop_map(|(code, transient, message, remedy)| {
            Frame::Refused(Refused { code, transient, message, remedy })
        }),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(|bytes| Frame::Batch(bytes.leak())),
        (any::<u64>(), places(), any::<i64>()).prop_map(|(boundaries, place, time)| Frame::Ack(Ack {
            boundaries,
            place,
            commit_time: Timestamp(time)
        })),
        any::<i64>().prop_map(|time| Frame::Ping { time: Timestamp(time) }),
        (any::<i64>(), any::<i64>())
            .prop_map(|(asked, time)| Frame::Pong { asked: Timestamp(asked), time: Timestamp(time) }),
        texts().prop_map(|text| Frame::Goodbye(text.leak())),
    ]
}

/// Everything that a decoder gives for bytes that arrive in pieces of a size.
fn decoded(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        decoder.space(piece.len()).extend_from_slice(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    let mut again = Vec::new();
                    Encoder::default().append(&frame, &mut again);
                    found.push(again);
                }
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

fn relations() -> impl Strategy<Value = Relation> {
    let column = (texts(), any::<bool>(), any::<u32>(), any::<i32>(), prop::option::of((texts(), texts())));
    let column = column.prop_map(|(name, key, type_oid, type_modifier, type_name)| Column {
        name,
        key,
        type_oid,
        type_modifier,
        type_name,
    });
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    (any::<u32>(), texts(), texts(), identity, prop::collection::vec(column, 0..6)).prop_map(
        |(id, schema, name, replica_identity, columns)| Relation {
            id,
            schema,
            name,
            replica_identity,
            columns,
        },
    )
}

/// Appends one record of a kind that is thrown, and says what must come out.
fn append_some(
    kind: u8,
    number: u64,
    text: &str,
    relation: &Relation,
    into: &mut Vec<u8>,
) -> Record<'static> {
    let lsn = Lsn(number);
    match kind % 10 {
        0 => {
            let lineage = Lineage { system_identifier: number, timeline: 3, slot_incarnation: lsn };
            append_lineage(into, &lineage, ResumeLsn(lsn), 170_000);
            Record::Lineage { lineage, start: ResumeLsn(lsn), server_version: 170_000 }
        }
        1 => {
            append_epoch(into, number);
            Record::Epoch(number)
        }
        2 => {
            append_relation(into, relation);
            Record::Relation(relation.clone())
        }
        3 => {
            let begin = Begin {
                xid: number as u32,
                commit_lsn: CommitLsn(lsn),
                commit_time: Timestamp(-5),
                origin: (number.is_multiple_of(2)).then(|| text.to_owned()),
                previous: CommitLsn::default(),
            };
            append_begin(into, &begin);
            Record::Begin(begin)
        }
        4 => {
            let held = Held { commit: CommitLsn(lsn), changes: number, digest: !number };
            append_continue(into, &held);
            Record::Continue(held)
        }
        5 | 6 => {
            let tuple = TupleBuilder::new().text(text).value(Value::Null).value(Value::Unchanged);
            let tuples =
                [b"O", tuple.as_tuple().as_bytes(), b"N", tuple.as_tuple().as_bytes()].concat().leak();
            append_row(into, relation.id, &Row::decode(b'U', tuples).unwrap());
            Record::Row { relation: relation.id, operation: b'U', tuples }
        }
        7 => {
            let truncate = Truncate {
                relations: vec![relation.id, 1, 2],
                cascade: number.is_multiple_of(2),
                restart_identity: true,
            };
            append_truncate(into, &truncate);
            Record::Truncate(truncate)
        }
        8 => {
            let prefix: &'static str = text.to_owned().leak();
            let message =
                Message { transactional: number.is_multiple_of(2), lsn, prefix, content: b"content" };
            append_message(into, &message);
            Record::Message(message)
        }
        _ if number.is_multiple_of(2) => {
            let commit = Commit {
                commit_lsn: CommitLsn(lsn),
                end_lsn: ResumeLsn(lsn),
                commit_time: Timestamp(7),
                changes: number,
            };
            append_commit(into, &commit, |covered| u64::from(crc32c::crc32c(covered)));
            let digest = u64::from(crc32c::crc32c(&into[into.len() - 40..into.len() - 8]));
            Record::Commit { commit, digest }
        }
        _ => {
            let progress = Progress { resume_lsn: ResumeLsn(lsn), time: Timestamp(8) };
            append_progress(into, &progress);
            Record::Progress(progress)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut(
        sent in prop::collection::vec(frames(), 1..8),
        piece in 1_usize..300,
        level in prop::option::of(1_i32..4),
    ) {
        let mut encoder = Encoder::new(level).unwrap();
        let (mut bytes, mut plain) = (Vec::new(), Vec::new());
        for frame in &sent {
            encoder.append(frame, &mut bytes);
            let mut alone = Vec::new();
            Encoder::default().append(frame, &mut alone);
            plain.push(alone);
        }
        let (found, sound) = decoded(&bytes, piece);
        prop_assert!(sound);
        prop_assert_eq!(found, plain);
    }

    #[test]
    fn a_changed_byte_is_found_and_nothing_behind_it_comes_out(
        sent in prop::collection::vec(frames(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let mut encoder = Encoder::new(Some(1)).unwrap();
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for frame in &sent {
            encoder.append(frame, &mut bytes);
            ends.push(bytes.len());
        }
        let (whole, _) = decoded(&bytes, 4096);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (found, _) = decoded(&bytes, 4096);
        let before = ends.iter().filter(|end| **end <= at).count();
        // A length that has grown makes the decoder wait; it gives nothing that was not sent.
        prop_assert_eq!(&found[..], &whole[..before]);
    }

    #[test]
    fn bytes_from_anywhere_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in any::<u8>()) {
        decoded(&bytes, 7);
        let mut decoder = Decoder::default();
        decoder.space(bytes.len()).extend_from_slice(&bytes);
        let _ = decoder.preface();
        // With a frame and a record around them, so that what is inside is reached.
        let body = [&[kind][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat();
        let mut records = Records::default();
        records.push(&body);
        while let Ok(Some(_)) = records.next() {}
        for kind in *b"HhAXDK?!G" {
            let mut frame = Vec::new();
            Encoder::default().append(&Frame::Batch(&bytes), &mut frame);
            frame[0] = kind;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), &frame[16..]);
            frame[12..16].copy_from_slice(&crc.to_be_bytes());
            decoded(&frame, 64);
        }
    }

    #[test]
    fn records_come_out_as_they_went_in_however_batches_are_cut(
        thrown in prop::collection::vec((any::<u8>(), any::<u64>(), texts()), 1..20),
        relation in relations(),
        piece in 1_usize..200,
    ) {
        let mut bytes = Vec::new();
        let sent: Vec<_> = thrown
            .iter()
            .map(|(kind, number, text)| append_some(*kind, *number, text, &relation, &mut bytes))
            .collect();
        let (mut records, mut found, mut all) = (Records::default(), 0, Vec::new());
        for piece in bytes.chunks(piece) {
            records.push(piece);
            while let Some(next) = records.next().unwrap() {
                prop_assert_eq!(&next.record, &sent[found]);
                all.extend_from_slice(next.bytes);
                found += 1;
            }
        }
        prop_assert_eq!(found, sent.len());
        prop_assert_eq!(records.pending(), 0);
        prop_assert_eq!(all, bytes);
    }

    #[test]
    fn every_cut_of_a_record_waits_for_the_rest(kind in any::<u8>(), number in any::<u64>(), relation in relations()) {
        let mut bytes = Vec::new();
        append_some(kind, number, "text", &relation, &mut bytes);
        for end in 0..bytes.len() {
            let mut records = Records::default();
            records.push(&bytes[..end]);
            prop_assert_eq!(records.next(), Ok(None));
        }
    }
}

#[test]
fn lengths_that_nobody_sends_are_refused_before_they_take_memory() {
    let mut frame = Vec::new();
    Encoder::default().append(&Frame::Batch(b"x"), &mut frame);
    for (at, length) in [(4, MAX_BODY + 1), (8, MAX_BODY + 1), (4, u32::MAX as usize)] {
        let mut long = frame.clone();
        long[at..at + 4].copy_from_slice(&(length as u32).to_be_bytes());
        assert!(!decoded(&long, 64).1, "{length} at {at}");
    }
    let mut records = Records::default();
    records.push(&[b'I', 0xff, 0xff, 0xff, 0xff]);
    assert!(records.next().is_err());
}

#[test]
fn what_unpacks_to_more_than_it_says_is_refused() {
    let mut encoder = Encoder::new(Some(1)).unwrap();
    let mut frame = Vec::new();
    encoder.append(&Frame::Batch(&[0; 100_000]), &mut frame);
    assert!(frame.len() < 1000, "it was compressed");
    for said in [99_999_u32, 100_001, 0] {
        let mut lying = frame.clone();
        lying[8..12].copy_from_slice(&said.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&lying[..12]), &lying[16..]);
        lying[12..16].copy_from_slice(&crc.to_be_bytes());
        assert!(!decoded(&lying, 4096).1, "{said}");
    }
}

#[test]
fn frames_of_later_releases_are_passed_over_and_other_unknown_ones_are_not() {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::default();
    encoder.append(&Frame::Batch(b"later"), &mut bytes);
    bytes[0] = 0x90;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    encoder.append(&Frame::Ping { time: Timestamp(1) }, &mut bytes);
    let (found, sound) = decoded(&bytes, 4096);
    assert!(sound && found.len() == 1 && found[0][0] == b'?');
    bytes[0] = b'z';
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(decoded(&bytes, 4096), (Vec::new(), false));
}

#[test]
fn a_preface_says_who_speaks_and_in_which_version() {
    for role in [Role::Pump, Role::Collector] {
        let mut decoder = Decoder::default();
        for byte in Preface::of(role).encode() {
            assert_eq!(decoder.preface(), Ok(None));
            decoder.space(1).push(byte);
        }
        assert_eq!(decoder.preface(), Ok(Some(Preface { version: VERSION, role })));
    }
    let mut decoder = Decoder::default();
    decoder.space(1).push(b'G');
    assert!(decoder.preface().is_err(), "the first byte is enough");
}

#[test]
fn the_digest_does_not_depend_on_what_was_declared_again() {
    let (mut one, mut other) = (Content::default(), Content::default());
    for content in [&mut one, &mut other] {
        content.record(b"begin");
        assert!(content.relation(1));
        content.record(b"row");
    }
    assert!(!other.relation(1));
    one.record(b"row");
    other.record(b"row");
    assert_eq!(one.value(), other.value());
    assert!(other.relation(2));
    assert_ne!(one.value(), other.value(), "another description is another content");
}
