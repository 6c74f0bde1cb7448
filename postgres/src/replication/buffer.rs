//! The bytes that were received and not yet handed out: one contiguous buffer, so that a frame can be borrowed from
//! it whole, without a copy of its own.
//!
//! The buffer doubles while a message does not fit and grows only as bytes arrive, so that a length which is a lie
//! costs nothing. It goes back to its first size once the long message is done with.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::pace::Pace;

/// The usual size: what one read takes at most. A walsender's own buffer is far smaller; this gives the kernel's.
const USUAL: usize = 256 * 1024;
/// Less room than this behind the unread bytes, and they are moved to the front first.
const LEAST_ROOM: usize = 64 * 1024;
/// A buffer up to this size is kept when it is no longer needed: messages of some size come in numbers.
const KEPT: usize = 1024 * 1024;

pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new(unread: &[u8]) -> Self {
        let mut bytes = vec![0; USUAL.max(unread.len() * 2)];
        bytes[..unread.len()].copy_from_slice(unread);
        Self { bytes, start: 0, end: unread.len() }
    }

    /// What is unread.
    #[inline]
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes `length` unread bytes out. There must be as many.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> &[u8] {
        let start = self.start;
        self.start = (start + length).min(self.end);
        &self.bytes[start..self.start]
    }

    /// Reads more bytes behind the unread ones, of which `wanted` are known to be needed in all. Zero is the end of
    /// the stream. Cancel-safe: either bytes were read and are here, or nothing happened.
    pub(super) async fn fill(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        wanted: usize,
        pace: &mut Pace,
    ) -> std::io::Result<usize> {
        self.make_room(wanted);
        let room = &mut self.bytes[self.end..];
        let mut read = pin!(from.read(room));
        let there = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
        let (read, gathered) = match there {
            Poll::Ready(read) => (read, false),
            Poll::Pending => pace.wait(read).await,
        };
        let read = read?;
        pace.after_read(read, gathered);
        self.end += read;
        Ok(read)
    }

    fn make_room(&mut self, wanted: usize) {
        let unread = self.end - self.start;
        if self.bytes.len() > KEPT && wanted <= USUAL && unread <= USUAL / 2 {
            let mut bytes = vec![0; USUAL];
            bytes[..unread].copy_from_slice(self.unread());
            *self = Self { bytes, start: 0, end: unread };
            return;
        }
        if unread == 0 {
            (self.start, self.end) = (0, 0);
        } else if self.bytes.len() - self.end < LEAST_ROOM && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        if self.end == self.bytes.len() {
            let size = (self.bytes.len() * 2).min(wanted.max(self.bytes.len() + LEAST_ROOM));
            self.bytes.resize(size, 0);
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }
}
