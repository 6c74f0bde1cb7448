//! Frames of the stream, read without a copy.
//!
//! A frame is borrowed from the receive buffer; asking for the next one ends the loan. Reading ([`FrameReader::fill`])
//! and parsing ([`FrameReader::next_frame`]) are apart, so that a burst of frames costs one system call and no `await`.
//!
//! Malformed bytes give an error; after one, the reader gives no more frames: where a message ends is no longer known.

use std::os::fd::OwnedFd;

use irongate_trail::{Lsn, Timestamp};
use postgres_protocol::message::backend::Message;

use super::buffer::Buffer;
use super::low_water::LowWater;
use super::pace::Pace;
use crate::connect::stream::ReadHalf;
use crate::error::{Error, ServerError};

/// Type and length of a message.
const HEADER: usize = 5;
/// The longest message that a server can build (`MaxAllocSize`), and a few bytes for its own frame.
const LONGEST: usize = 0x3fff_ffff + 1024;

/// One frame of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    XLogData {
        /// Where it belongs. Zero for messages that have no place of their own; not unique to a message.
        start: Lsn,
        /// For logical streams the same as `start`.
        end: Lsn,
        /// The server's clock when it was sent.
        time: Timestamp,
        /// The message.
        data: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// Everything relevant before it has been sent on this connection.
        wal_end: Lsn,
        /// The server's clock when it was sent.
        time: Timestamp,
        /// The server will cut the connection if it does not get a status soon.
        reply_requested: bool,
    },
    /// The server has something to say. What it says holds for the frames behind it.
    Notice(Notice<'a>),
    /// The server has ended the stream in order: it is shutting down and has sent everything, or it answers our own
    /// wish to finish. Given once.
    Done,
}

/// A notice that came with the stream, not yet read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Notice<'a>(&'a [u8]);

impl Notice<'_> {
    /// What it says; `None` if it cannot be understood.
    pub fn read(&self) -> Option<ServerError> {
        match Message::parse(&mut self.0.into()) {
            Ok(Some(Message::NoticeResponse(body))) => Some(ServerError::from_fields(body.fields())),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Notice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notice")
    }
}

/// The receiving half of a stream.
pub struct FrameReader {
    from: ReadHalf,
    buffer: Buffer,
    /// Bytes that the message at the front of the buffer is known to need.
    wanted: usize,
    pace: Pace,
    done: bool,
    broken: bool,
}

impl FrameReader {
    /// `socket` is the TCP socket below, if there is one.
    pub(super) fn new(from: ReadHalf, socket: Option<OwnedFd>, unread: &[u8]) -> Self {
        let pace = Pace::new(socket.map(LowWater::new));
        Self { from, buffer: Buffer::new(unread), wanted: 0, pace, done: false, broken: false }
    }

    /// Waits for more bytes; `false` is the end of the connection. An end before [`Frame::Done`] is one that the
    /// server did not mean: it crashed, or the network broke.
    ///
    /// While a walsender sends at full speed by TCP, waits up to two milliseconds for more to come together.
    ///
    /// Cancel-safe: nothing that was read is lost.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub async fn fill(&mut self) -> Result<bool, Error> {
        match self.buffer.fill(&mut self.from, self.wanted, &mut self.pace).await {
            Ok(read) => Ok(read > 0),
            // How TLS calls an end without its own farewell, which a crashed server does not send.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole frame that was received, or `None` if there is none yet: then [`fill`](Self::fill).
    ///
    /// # Errors
    ///
    /// [`Error::Server`] if the server reports one: 57P01 for a shutdown or a terminated walsender, 55000 for a slot
    /// that was invalidated, and so on. [`Error::Protocol`] for bytes that make no sense.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        if self.broken {
            return Err(Error::protocol("the stream was given up before"));
        }
        let length = match self.skip_to_frame() {
            Ok(None) => return Ok(None),
            Ok(Some(length)) => length,
            Err(error) => {
                self.broken = true;
                return Err(error);
            }
        };
        let message = self.buffer.take(length);
        match parse(message) {
            Ok(frame) => Ok(Some(frame)),
            Err(what) => {
                self.broken = true;
                Err(Error::protocol(what))
            }
        }
    }

    /// Passes over messages that are no frames; the length of the frame then at the front, if it is whole.
    fn skip_to_frame(&mut self) -> Result<Option<usize>, Error> {
        loop {
            let unread = self.buffer.unread();
            let Some((header, _)) = unread.split_first_chunk::<HEADER>() else {
                self.wanted = HEADER;
                return Ok(None);
            };
            let [tag, length @ ..] = *header;
            // The length counts itself and not the type.
            let length = u32::from_be_bytes(length) as usize;
            if !(4..=LONGEST).contains(&length) {
                return Err(Error::protocol("a message of impossible length"));
            }
            let whole = length + 1;
            if unread.len() < whole {
                self.wanted = whole;
                return Ok(None);
            }
            self.wanted = 0;
            match tag {
                b'd' | b'N' => return Ok(Some(whole)),
                // CopyDone; and CommandComplete, which alone is what a walsender says that goes down with its server.
                b'c' | b'C' if !self.done => {
                    self.done = true;
                    return Ok(Some(whole));
                }
                b'E' => {
                    let message = self.buffer.take(whole);
                    return Err(server_error(message));
                }
                // ParameterStatus, ReadyForQuery, and the CommandComplete behind a CopyDone.
                b'S' | b'Z' | b'c' | b'C' => {
                    self.buffer.take(whole);
                }
                _ => return Err(Error::protocol("a message that does not belong into a stream")),
            }
        }
    }
}

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameReader").field("unread", &self.buffer.unread().len()).finish_non_exhaustive()
    }
}

/// A whole message that can be a frame.
#[inline]
fn parse(message: &[u8]) -> Result<Frame<'_>, &'static str> {
    let (tag, body) = match message {
        [tag, _, _, _, _, body @ ..] => (*tag, body),
        _ => return Err("a message that is too short"),
    };
    match tag {
        b'd' => {}
        b'N' => return Ok(Frame::Notice(Notice(message))),
        _ => return Ok(Frame::Done),
    }
    match body.split_first() {
        Some((b'w', rest)) => {
            let (start, rest) = take_u64(rest).ok_or("a WAL data frame that is too short")?;
            let (end, rest) = take_u64(rest).ok_or("a WAL data frame that is too short")?;
            let (time, data) = take_u64(rest).ok_or("a WAL data frame that is too short")?;
            Ok(Frame::XLogData {
                start: Lsn(start),
                end: Lsn(end),
                time: Timestamp(time.cast_signed()),
                data,
            })
        }
        Some((b'k', rest)) => {
            let (wal_end, rest) = take_u64(rest).ok_or("a keepalive frame that is too short")?;
            let (time, rest) = take_u64(rest).ok_or("a keepalive frame that is too short")?;
            let reply = rest.first().ok_or("a keepalive frame that is too short")?;
            Ok(Frame::Keepalive {
                wal_end: Lsn(wal_end),
                time: Timestamp(time.cast_signed()),
                reply_requested: *reply != 0,
            })
        }
        Some(_) => Err("a frame of a kind that is not known"),
        None => Err("an empty frame"),
    }
}

#[inline]
fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// The error of an ErrorResponse.
fn server_error(message: &[u8]) -> Error {
    match Message::parse(&mut message.into()) {
        Ok(Some(Message::ErrorResponse(body))) => ServerError::from_fields(body.fields()).into(),
        _ => Error::protocol("an error report that cannot be read"),
    }
}

#[cfg(test)]
mod tests;
