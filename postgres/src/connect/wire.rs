//! Messages on a stream, before a connection is handed to whoever drives it.

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::Stream;
use crate::error::{Error, ServerError};

/// The longest message read while it is not yet known who is speaking. No message of start-up and authentication
/// comes near it.
const LONGEST_BEFORE_READY: usize = 64 * 1024;
/// The longest message a server can build (`MaxAllocSize`).
const LONGEST: usize = 0x3fff_ffff;

/// A stream and the bytes of it that are read and not yet understood.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    pub(crate) unread: BytesMut,
    longest: usize,
}

impl Wire {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, unread: BytesMut::with_capacity(8 * 1024), longest: LONGEST_BEFORE_READY }
    }

    /// From now on the other side is known, and its answers may be long.
    pub(crate) fn trust(&mut self) {
        self.longest = LONGEST;
    }

    /// Sends messages.
    pub(crate) async fn send(&mut self, messages: &[u8]) -> Result<(), Error> {
        self.stream.write_all(messages).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message. Notices are left out, and told to the log without their text, which could hold row values.
    ///
    /// Cancel-safe: bytes that were read stay.
    pub(crate) async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(header) =
                Header::parse(&self.unread).map_err(|error| Error::protocol(error.to_string()))?
            {
                let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
                if length > self.longest {
                    return Err(Error::protocol(format!("a message of {length} bytes")));
                }
                let parsed =
                    Message::parse(&mut self.unread).map_err(|error| Error::protocol(error.to_string()))?;
                match parsed {
                    Some(Message::NoticeResponse(body)) => {
                        let notice = ServerError::from_fields(body.fields());
                        tracing::debug!(
                            severity = notice.severity(),
                            code = notice.code(),
                            "notice from the server"
                        );
                        continue;
                    }
                    Some(message) => return Ok(message),
                    None => {}
                }
            }
            self.fill().await?;
        }
    }

    /// Reads what has come, and at least one byte. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        match self.stream.read_buf(&mut self.unread).await {
            Ok(0) => Err(Error::Closed(None)),
            Ok(_) => Ok(()),
            // How TLS calls an end without its own farewell.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Error::Closed(None)),
            Err(error) => Err(error.into()),
        }
    }
}
