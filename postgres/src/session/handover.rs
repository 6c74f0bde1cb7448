//! Handing an open connection to `tokio-postgres`.
//!
//! `tokio-postgres` makes its client only by starting a session itself, with fewer ways of TLS and authentication
//! and without the checks that [`connect`](crate::connect) makes. So the session is started here, and the client is
//! given a stream that swallows its start-up message and answers with what the server has already said. From then on
//! it is the plain stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connect::Connection;
use crate::connect::stream::Stream;
use crate::error::Error;

/// The server's side of a start-up that has succeeded.
pub(super) fn replay(connection: &Connection) -> Result<BytesMut, Error> {
    let mut buf = BytesMut::new();
    buf.put_slice(b"R\0\0\0\x08\0\0\0\0");
    for (name, value) in &connection.parameters {
        let length = u32::try_from(4 + name.len() + 1 + value.len() + 1)
            .map_err(|_| Error::protocol("a parameter that is too long"))?;
        buf.put_u8(b'S');
        buf.put_u32(length);
        for text in [name, value] {
            buf.put_slice(text.as_bytes());
            buf.put_u8(0);
        }
    }
    buf.put_slice(b"K\0\0\0\x0c");
    buf.put_i32(connection.process_id);
    buf.put_i32(connection.secret_key);
    buf.put_slice(b"Z\0\0\0\x05I");
    Ok(buf)
}

/// A stream whose first packet outward is swallowed and whose first bytes inward are given.
pub(super) struct Handover {
    stream: Stream,
    replay: Bytes,
    swallow: Swallow,
}

/// How much of the start-up message is still to come: its length leads it.
enum Swallow {
    Length { seen: usize, value: usize },
    Rest(usize),
    Nothing,
}

impl Handover {
    /// `unread` is what the server has said behind `replay`.
    pub(super) fn new(stream: Stream, mut replay: BytesMut, unread: &[u8]) -> Self {
        replay.put_slice(unread);
        Self { stream, replay: replay.freeze(), swallow: Swallow::Length { seen: 0, value: 0 } }
    }
}

impl Swallow {
    /// How many of these bytes belong to the start-up message.
    fn take(&mut self, buf: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            match self {
                Self::Length { seen: 4, value } => *self = Self::Rest(value.saturating_sub(4)),
                Self::Length { seen, value } => {
                    let Some(byte) = buf.get(taken) else { return taken };
                    *value = *value << 8 | usize::from(*byte);
                    *seen += 1;
                    taken += 1;
                }
                Self::Rest(0) => *self = Self::Nothing,
                Self::Rest(left) => {
                    let part = (*left).min(buf.len() - taken);
                    if part == 0 {
                        return taken;
                    }
                    *left -= part;
                    taken += part;
                }
                Self::Nothing => return taken,
            }
        }
    }
}

impl AsyncRead for Handover {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.has_remaining() {
            let length = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Handover {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.swallow.take(buf) {
            0 => Pin::new(&mut self.stream).poll_write(cx, buf),
            // Reported by itself: the rest may not be writable yet, and this must not be given again.
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_first_packet_is_swallowed_however_it_is_cut() {
        let packet = [0, 0, 0, 9, 1, 2, 3, 4, 5, b'Q', b'x'];
        for cut in 1..packet.len() {
            for second in cut..packet.len() {
                let mut swallow = Swallow::Length { seen: 0, value: 0 };
                let mut passed = Vec::new();
                for part in [&packet[..cut], &packet[cut..second], &packet[second..]] {
                    passed.extend_from_slice(&part[swallow.take(part)..]);
                }
                assert_eq!(passed, b"Qx", "{cut} {second}");
            }
        }
    }
}
