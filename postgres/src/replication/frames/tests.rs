use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;

/// A frame that owns its data.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Owned {
    Data(u64, u64, i64, Vec<u8>),
    Keepalive(u64, i64, bool),
    Notice(Option<(String, String)>),
    Done,
}

impl From<Frame<'_>> for Owned {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::XLogData { start, end, time, data } => Self::Data(start.0, end.0, time.0, data.to_vec()),
            Frame::Keepalive { wal_end, time, reply_requested } => {
                Self::Keepalive(wal_end.0, time.0, reply_requested)
            }
            Frame::Notice(notice) => {
                let read = notice.read().map(|read| (read.severity().to_owned(), read.code().to_owned()));
                Self::Notice(read)
            }
            Frame::Done => Self::Done,
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn encoded(frame: &Owned) -> Vec<u8> {
    let mut body = Vec::new();
    match frame {
        Owned::Data(start, end, time, data) => {
            body.push(b'w');
            body.extend_from_slice(&start.to_be_bytes());
            body.extend_from_slice(&end.to_be_bytes());
            body.extend_from_slice(&time.to_be_bytes());
            body.extend_from_slice(data);
        }
        Owned::Keepalive(end, time, reply) => {
            body.push(b'k');
            body.extend_from_slice(&end.to_be_bytes());
            body.extend_from_slice(&time.to_be_bytes());
            body.push((*reply).into());
        }
        Owned::Notice(_) => return message(b'N', b"SWARNUNG\0VWARNING\0C55000\0\0"),
        Owned::Done => return message(b'c', b""),
    }
    message(b'd', &body)
}

fn pair(unread: &[u8]) -> (FrameReader, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (FrameReader::new(ReadHalf::Unix(ours.into_split().0), None, unread), theirs)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn drain(reader: &mut FrameReader, into: &mut Vec<Owned>) -> Result<(), Error> {
    while let Some(frame) = reader.next_frame()? {
        into.push(frame.into());
    }
    Ok(())
}

/// Gives bytes in pieces and takes what comes out.
async fn given_in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<Owned>, Result<(), Error>) {
    let first = cuts.first().copied().unwrap_or(0).min(bytes.len());
    let (mut reader, mut peer) = pair(&bytes[..first]);
    let mut frames = Vec::new();
    let mut result = drain(&mut reader, &mut frames);
    let mut at = first;
    let mut cuts = cuts.iter().skip(1).cycle();
    while at < bytes.len() && result.is_ok() {
        let piece = (*cuts.next().unwrap_or(&bytes.len())).clamp(1, (bytes.len() - at).min(60_000));
        peer.write_all(&bytes[at..at + piece]).await.unwrap();
        at += piece;
        assert!(reader.fill().await.unwrap());
        result = drain(&mut reader, &mut frames);
    }
    drop(peer);
    while result.is_ok() && reader.fill().await.unwrap() {
        result = drain(&mut reader, &mut frames);
    }
    (frames, result)
}

fn frame() -> impl Strategy<Value = Owned> {
    let data = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (1000_usize..400_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ];
    prop_oneof![
        6 => (any::<u64>(), any::<u64>(), any::<i64>(), data).prop_map(|(s, e, t, d)| Owned::Data(s, e, t, d)),
        2 => (any::<u64>(), any::<i64>(), any::<bool>()).prop_map(|(e, t, r)| Owned::Keepalive(e, t, r)),
        1 => Just(Owned::Notice(Some(("WARNING".into(), "55000".into())))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_bytes_give_the_same_frames_however_they_are_cut(
        frames in prop::collection::vec(frame(), 0..40),
        noise in prop::collection::vec(0_usize..40, 0..6),
        cuts in prop::collection::vec(prop_oneof![1_usize..40, 1000_usize..60_000], 1..20),
    ) {
        let mut bytes = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            if noise.contains(&i) {
                bytes.extend(message(b'N', b"SNOTICE\0\0"));
                bytes.extend(message(b'S', b"TimeZone\0UTC\0"));
            }
            bytes.extend(encoded(frame));
        }
        bytes.extend(encoded(&Owned::Done));
        let (mut found, result) = run(given_in_pieces(&bytes, &cuts));
        prop_assert!(result.is_ok());
        prop_assert_eq!(found.pop(), Some(Owned::Done));
        let all = found.len();
        found.retain(|frame| *frame != Owned::Notice(Some(("NOTICE".into(), String::new()))));
        prop_assert_eq!(all - found.len(), (0..frames.len()).filter(|at| noise.contains(at)).count());
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(
        good in prop::collection::vec(frame(), 0..4),
        garbage in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(1_usize..100, 1..5),
    ) {
        let mut bytes: Vec<u8> = good.iter().flat_map(encoded).collect();
        bytes.extend(&garbage);
        let (found, _) = run(given_in_pieces(&bytes, &cuts));
        prop_assert_eq!(&found[..good.len().min(found.len())], &good[..good.len().min(found.len())]);
        prop_assert!(found.len() >= good.len());
    }

    #[test]
    fn a_flipped_byte_is_never_a_panic(
        frames in prop::collection::vec(frame(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cuts in prop::collection::vec(1000_usize..60_000, 1..5),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = run(given_in_pieces(&bytes, &cuts));
    }
}

#[test]
fn an_error_of_the_server_has_its_code_and_ends_the_stream() {
    let mut bytes = encoded(&Owned::Keepalive(1, 2, true));
    bytes.extend(message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"));
    bytes.extend(encoded(&Owned::Keepalive(3, 4, false)));
    let (frames, result) = run(given_in_pieces(&bytes, &[7, 3]));
    assert_eq!(frames, [Owned::Keepalive(1, 2, true)]);
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some("57P01"));
    assert!(error.is_transient());
    run(async {
        let (mut reader, _peer) = pair(&bytes);
        reader.next_frame().unwrap();
        assert!(reader.next_frame().is_err());
        assert!(reader.next_frame().is_err(), "nothing is read behind an error");
    });
}

#[test]
fn malformed_frames_are_refused() {
    for bytes in [
        message(b'd', b""),
        message(b'd', b"w1234567"),
        message(b'd', b"k12345678"),
        message(b'd', b"k1234567812345678"),
        message(b'd', b"x"),
        message(b'D', b"row"),
        b"d\0\0\0\x03".to_vec(),
        b"d\xff\xff\xff\xff".to_vec(),
        b"d\x7f\xff\xff\xff".to_vec(),
        message(b'E', b"C"),
    ] {
        let (frames, result) = run(given_in_pieces(&bytes, &[3]));
        assert!(frames.is_empty() && result.is_err(), "{bytes:?}");
    }
}

#[test]
fn the_end_of_the_connection_is_told_apart_from_the_end_of_the_stream() {
    run(async {
        let (mut reader, peer) = pair(&encoded(&Owned::Done));
        assert_eq!(reader.next_frame().unwrap(), Some(Frame::Done));
        drop(peer);
        assert!(!reader.fill().await.unwrap());
        assert_eq!(reader.next_frame().unwrap(), None);
    });
}

#[test]
fn a_long_frame_is_whole_and_its_memory_goes_again() {
    const LENGTH: usize = 200 << 20;
    run(async {
        let (mut reader, mut peer) = pair(&[]);
        let writer = std::thread::spawn(move || {
            run(async move {
                let mut header = message(b'd', b"w");
                header[1..5].copy_from_slice(&u32::try_from(LENGTH + 4 + 25).unwrap().to_be_bytes());
                header.extend([0; 24]);
                peer.write_all(&header).await.unwrap();
                let block = vec![7; 1 << 20];
                for _ in 0..LENGTH >> 20 {
                    peer.write_all(&block).await.unwrap();
                }
                for _ in 0..3 {
                    peer.write_all(&encoded(&Owned::Keepalive(1, 1, false))).await.unwrap();
                }
                peer
            })
        });
        // The peer's stream belongs to a runtime of its own.
        let mut seen = 0;
        let mut largest = 0;
        while seen < 3 {
            assert!(reader.fill().await.unwrap());
            largest = largest.max(reader.buffer.size());
            while let Some(frame) = reader.next_frame().unwrap() {
                match frame {
                    Frame::XLogData { data, .. } => {
                        assert_eq!(data.len(), LENGTH);
                        assert!(data.iter().all(|byte| *byte == 7));
                    }
                    _ => seen += 1,
                }
            }
        }
        assert!(largest < LENGTH + LENGTH / 2, "{largest}");
        let mut peer = writer.join().unwrap();
        peer.write_all(&encoded(&Owned::Done)).await.unwrap();
        assert!(reader.fill().await.unwrap());
        assert!(reader.buffer.size() <= 1 << 20, "{}", reader.buffer.size());
    });
}

#[test]
fn a_length_that_is_a_lie_costs_no_memory() {
    run(async {
        let (mut reader, mut peer) = pair(&[]);
        peer.write_all(b"d\x3f\xff\xff\xffw").await.unwrap();
        for _ in 0..10 {
            assert!(reader.fill().await.unwrap());
            assert_eq!(reader.next_frame().unwrap(), None);
            peer.write_all(&[0; 1000]).await.unwrap();
        }
        assert!(reader.buffer.size() <= 1 << 20);
    });
}

#[test]
fn a_dropped_fill_loses_nothing() {
    run(async {
        let bytes = encoded(&Owned::Data(1, 2, 3, b"data".to_vec()));
        let (mut reader, mut peer) = pair(&[]);
        for byte in &bytes {
            for _ in 0..3 {
                let _ = tokio::time::timeout(std::time::Duration::ZERO, reader.fill()).await;
            }
            assert_eq!(reader.next_frame().unwrap(), None);
            peer.write_all(&[*byte]).await.unwrap();
        }
        let _ = reader.fill().await.unwrap();
        let frame = reader.next_frame().unwrap().map(Owned::from);
        assert_eq!(frame, Some(Owned::Data(1, 2, 3, b"data".to_vec())));
    });
}
