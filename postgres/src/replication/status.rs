//! What the server is told: how far the stream is received, durable and applied.

use irongate_trail::{Lsn, Timestamp};
use tokio::io::AsyncWriteExt;

use crate::connect::stream::WriteHalf;
use crate::error::Error;

/// The sending half of a stream.
///
/// Cancel-safe: a message of which a part was sent when a call was dropped is completed by the next call.
pub struct StatusWriter {
    to: WriteHalf,
    unsent: Vec<u8>,
}

impl StatusWriter {
    pub(super) fn new(to: WriteHalf) -> Self {
        Self { to, unsent: Vec::with_capacity(64) }
    }

    /// Sends a standby status update. The server gives up what lies before `flushed`: nothing may lie before it that
    /// a power cut here could take. `time` is this machine's clock. With `reply_requested` the server answers with a
    /// keepalive at once.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the server's reason, if it gave one, is at the reader.
    pub async fn send(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        time: Timestamp,
        reply_requested: bool,
    ) -> Result<(), Error> {
        self.unsent.extend_from_slice(&status_update(written, flushed, applied, time, reply_requested));
        self.flush().await
    }

    /// Ends the stream from this side. The server finishes the transaction it is sending, if any, and answers with
    /// [`Frame::Done`](super::Frame::Done).
    pub async fn finish(&mut self) -> Result<(), Error> {
        self.unsent.extend_from_slice(b"c\0\0\0\x04");
        self.flush().await
    }

    /// Ends the session in order: the server logs no broken connection. Nothing can be sent after it.
    pub async fn terminate(&mut self) -> Result<(), Error> {
        self.unsent.extend_from_slice(b"X\0\0\0\x04");
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        while !self.unsent.is_empty() {
            let sent = self.to.write(&self.unsent).await?;
            if sent == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
            }
            self.unsent.drain(..sent);
        }
        self.to.flush().await?;
        Ok(())
    }
}

impl std::fmt::Debug for StatusWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusWriter").field("unsent", &self.unsent.len()).finish_non_exhaustive()
    }
}

/// CopyData with a standby status update.
fn status_update(
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
    time: Timestamp,
    reply_requested: bool,
) -> [u8; 39] {
    let mut message = [0; 39];
    message[0] = b'd';
    message[1..5].copy_from_slice(&38_u32.to_be_bytes());
    message[5] = b'r';
    message[6..14].copy_from_slice(&written.0.to_be_bytes());
    message[14..22].copy_from_slice(&flushed.0.to_be_bytes());
    message[22..30].copy_from_slice(&applied.0.to_be_bytes());
    message[30..38].copy_from_slice(&time.0.to_be_bytes());
    message[38] = reply_requested.into();
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_update_is_laid_out_as_the_manual_says() {
        let message = status_update(Lsn(3), Lsn(2), Lsn(1), Timestamp(-1), true);
        assert_eq!(&message[..6], b"d\0\0\0\x26r");
        assert_eq!(message[13], 3);
        assert_eq!(message[21], 2);
        assert_eq!(message[29], 1);
        assert_eq!(&message[30..38], &[0xff; 8]);
        assert_eq!(message[38], 1);
    }
}
