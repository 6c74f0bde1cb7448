//! Frames: the encoder that makes them and the decoder that takes them out of whatever bytes arrive.

use std::io;

use irongate_trail::{CommitLsn, Malformed, ResumeLsn, Timestamp};
use zstd::bulk::{Compressor, Decompressor};

use super::bytes::{Put, Take};
use super::hello::{Accepted, Greeting, Hello, Place, Refused};
use super::{MAX_BODY, PREFACE, Preface};

/// Bytes before a body.
const HEADER: usize = 16;
/// The body is compressed.
const ZSTD: u8 = 1;
/// Kinds from here on may be passed over.
const SKIPPABLE: u8 = 0x80;
/// Bodies below are not worth the work of compressing.
const WORTH: usize = 128;

/// What is durable at the collector.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ack {
    /// How many boundaries of this connection.
    pub boundaries: u64,
    /// The place that they lead to.
    pub place: Place,
    /// When its last transaction was committed.
    pub commit_time: Timestamp,
}

/// One thing that a side says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A pump introduces itself.
    Hello(Hello),
    /// A collector introduces itself.
    Greeting(Greeting),
    /// The collector takes the flow.
    Accepted(Accepted),
    /// The side does not go on.
    Refused(Refused),
    /// Records.
    Batch(&'a [u8]),
    /// What is durable.
    Ack(Ack),
    /// A sign of life, to be answered.
    Ping {
        /// The sender's clock.
        time: Timestamp,
    },
    /// The answer to a ping.
    Pong {
        /// The time in the ping.
        asked: Timestamp,
        /// The sender's clock.
        time: Timestamp,
    },
    /// The side says nothing more.
    Goodbye(&'a str),
}

impl Frame<'_> {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => b'H',
            Frame::Greeting(_) => b'h',
            Frame::Accepted(_) => b'A',
            Frame::Refused(_) => b'X',
            Frame::Batch(_) => b'D',
            Frame::Ack(_) => b'K',
            Frame::Ping { .. } => b'?',
            Frame::Pong { .. } => b'!',
            Frame::Goodbye(_) => b'G',
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => hello.encode(into),
            Frame::Greeting(greeting) => greeting.encode(into),
            Frame::Accepted(accepted) => accepted.encode(into),
            Frame::Refused(refused) => refused.encode(into),
            Frame::Batch(records) => into.extend_from_slice(records),
            Frame::Ack(ack) => {
                into.u64(ack.boundaries);
                into.u64(ack.place.commit.0.0);
                into.u64(ack.place.resume.0.0);
                into.i64(ack.commit_time.0);
            }
            Frame::Ping { time } => into.i64(time.0),
            Frame::Pong { asked, time } => {
                into.i64(asked.0);
                into.i64(time.0);
            }
            Frame::Goodbye(text) => into.text(text),
        }
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let mut take = Take(body);
    Ok(Some(match kind {
        b'H' => Frame::Hello(Hello::decode(body)?),
        b'h' => Frame::Greeting(Greeting::decode(body)?),
        b'A' => Frame::Accepted(Accepted::decode(body)?),
        b'X' => Frame::Refused(Refused::decode(body)?),
        b'D' => Frame::Batch(body),
        b'K' => {
            let boundaries = take.u64()?;
            let place = Place { commit: CommitLsn(take.lsn()?), resume: ResumeLsn(take.lsn()?) };
            let commit_time = Timestamp(take.i64()?);
            take.end()?;
            Frame::Ack(Ack { boundaries, place, commit_time })
        }
        b'?' => {
            let time = Timestamp(take.i64()?);
            take.end()?;
            Frame::Ping { time }
        }
        b'!' => {
            let (asked, time) = (Timestamp(take.i64()?), Timestamp(take.i64()?));
            take.end()?;
            Frame::Pong { asked, time }
        }
        b'G' => {
            let text = take.text()?;
            take.end()?;
            Frame::Goodbye(text)
        }
        SKIPPABLE.. => return Ok(None),
        _ => return Err(Malformed("a frame of an unknown kind")),
    }))
}

/// Makes frames.
#[derive(Default)]
pub struct Encoder {
    compressor: Option<Compressor<'static>>,
    packed: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("compresses", &self.compressor.is_some()).finish()
    }
}

impl Encoder {
    /// One that compresses batches by a level of zstd, 1 to 22, or not at all.
    ///
    /// # Errors
    /// When the library refuses the level.
    pub fn new(level: Option<i32>) -> io::Result<Self> {
        let compressor = level.map(Compressor::new).transpose()?;
        let packed = if compressor.is_some() { vec![0; MAX_BODY] } else { Vec::new() };
        Ok(Self { compressor, packed })
    }

    /// Appends the frame. A body must not be longer than [`MAX_BODY`]: a longer one is cut into pieces by its sender, and
    /// texts are short.
    pub fn append(&mut self, frame: &Frame<'_>, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&[0; HEADER]);
        frame.encode(into);
        let plain = into.len() - start - HEADER;
        debug_assert!(plain <= MAX_BODY, "the body of a frame is too long");
        let mut flags = 0;
        if let (Frame::Batch(records), Some(compressor)) = (frame, &mut self.compressor)
            && plain >= WORTH
            // What does not become shorter does not fit, and goes as it is.
            && let Ok(length) = compressor.compress_to_buffer(records, &mut self.packed[..plain])
        {
            into.truncate(start + HEADER);
            into.extend_from_slice(&self.packed[..length]);
            flags = ZSTD;
        }
        let sent = into.len() - start - HEADER;
        into[start] = frame.kind();
        into[start + 1] = flags;
        into[start + 4..start + 8].copy_from_slice(&(sent as u32).to_be_bytes());
        into[start + 8..start + 12].copy_from_slice(&(plain as u32).to_be_bytes());
        let crc = crc(&into[start..start + 12], &into[start + HEADER..]);
        into[start + 12..start + 16].copy_from_slice(&crc.to_be_bytes());
    }
}

fn crc(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// Takes frames out of bytes as they arrive. Holds one frame and what was received behind it.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    plain: Vec<u8>,
    decompressor: Option<Decompressor<'static>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("buffered", &(self.buffer.len() - self.start)).finish()
    }
}

impl Decoder {
    /// Where received bytes are appended. What was taken out before makes room for them.
    pub fn space(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= MAX_BODY {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.reserve(bytes);
        &mut self.buffer
    }

    /// Takes the other side's preface, once it is there.
    ///
    /// # Errors
    /// [`Malformed`] as [`Preface::decode`], as soon as the first byte is wrong.
    pub fn preface(&mut self) -> Result<Option<Preface>, Malformed> {
        let bytes = &self.buffer[self.start..];
        let known = bytes.len().min(super::MAGIC.len());
        if bytes[..known] != super::MAGIC[..known] {
            return Err(Malformed("it does not speak this protocol"));
        }
        let Some(front) = bytes.first_chunk::<PREFACE>() else { return Ok(None) };
        let preface = Preface::decode(front)?;
        self.start += PREFACE;
        Ok(Some(preface))
    }

    /// Takes the next frame, once it is there.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no frame. Nothing behind them can be understood.
    #[expect(clippy::should_implement_trait, reason = "what it gives lives until the next call")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        loop {
            let bytes = &self.buffer[self.start..];
            let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
            let number =
                |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (sent, plain) = (number(4) as usize, number(8) as usize);
            if sent > MAX_BODY || plain > MAX_BODY {
                return Err(Malformed("a frame is too long"));
            }
            let Some(body) = rest.get(..sent) else { return Ok(None) };
            if crc(&header[..12], body) != number(12) {
                return Err(Malformed("a frame's checksum is wrong"));
            }
            let (kind, flags) = (header[0], header[1]);
            let from = self.start + HEADER;
            self.start = from + sent;
            if kind >= SKIPPABLE {
                continue;
            }
            let body = match flags {
                0 if sent == plain => from..from + sent,
                ZSTD if kind == b'D' => {
                    self.unpack(from, sent, plain)?;
                    // The frame is known; only records are compressed.
                    return Ok(Some(Frame::Batch(&self.plain)));
                }
                _ => return Err(Malformed("a frame has flags that are not known")),
            };
            return decode(kind, &self.buffer[body]);
        }
    }

    fn unpack(&mut self, from: usize, sent: usize, plain: usize) -> Result<(), Malformed> {
        let wrong = Malformed("a compressed frame cannot be unpacked");
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(|_| wrong)?),
        };
        self.plain.resize(plain, 0);
        match decompressor.decompress_to_buffer(&self.buffer[from..from + sent], &mut self.plain[..]) {
            Ok(length) if length == plain => Ok(()),
            _ => Err(wrong),
        }
    }
}
