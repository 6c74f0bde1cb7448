//! The three kinds of byte stream to a server, and their halves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::client::TlsStream;

/// A connection to a server.
pub(crate) enum Stream {
    /// In the clear.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is read from.
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// What is written to.
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl Stream {
    /// Whether nobody on the way can read what is sent.
    pub(crate) fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// Another handle on the TCP socket, below TLS if there is TLS; `None` for others, or when the process may open no
    /// more.
    pub(crate) fn tcp_socket(&self) -> Option<OwnedFd> {
        let socket = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return None,
        };
        socket.as_fd().try_clone_to_owned().ok()
    }

    /// Two halves for two tasks. Those of a TLS stream share a lock that is held only while bytes are moved.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

macro_rules! delegate_read {
    ($($type:ident),+) => {$(
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(inner) => Pin::new(inner).poll_read(cx, buf),
                    Self::Unix(inner) => Pin::new(inner).poll_read(cx, buf),
                    Self::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
                }
            }
        }
    )+};
}

macro_rules! delegate_write {
    ($($type:ident),+) => {$(
        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Tcp(inner) => Pin::new(inner).poll_write(cx, buf),
                    Self::Unix(inner) => Pin::new(inner).poll_write(cx, buf),
                    Self::Tls(inner) => Pin::new(inner).poll_write(cx, buf),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(inner) => Pin::new(inner).poll_flush(cx),
                    Self::Unix(inner) => Pin::new(inner).poll_flush(cx),
                    Self::Tls(inner) => Pin::new(inner).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(inner) => Pin::new(inner).poll_shutdown(cx),
                    Self::Unix(inner) => Pin::new(inner).poll_shutdown(cx),
                    Self::Tls(inner) => Pin::new(inner).poll_shutdown(cx),
                }
            }
        }
    )+};
}

delegate_read!(Stream, ReadHalf);
delegate_write!(Stream, WriteHalf);
