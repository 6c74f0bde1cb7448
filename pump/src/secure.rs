//! A secure connection between the sites that carries somebody else's words: those of a terminal and a manager.
//!
//! Authority, certificates and what a failed handshake means are the link's. The handshake names another protocol, so that
//! neither takes the other's port for its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::link::{self, Link, Speech, peer_name};
use crate::settings::LinkSettings;

/// A connection whose other side has shown a certificate of the deployment's authority. TLS 1.3.
#[derive(Debug)]
pub struct Secure {
    link: Link,
}

impl Secure {
    /// Connects to `host:port`, where `site` must be.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::ConnectTimeout`]; [`Error::Tls`] for whoever is not `site`, and for a side that
    /// refuses us in its handshake (with TLS 1.3 it may do so only when something is read); [`Error::File`] for our own
    /// certificate and key; [`Error::Setting`].
    ///
    /// Cancel-safe: what was begun is closed.
    pub async fn connect(address: &str, site: &str, settings: &LinkSettings) -> Result<Self, Error> {
        let link = link::connect_to(address, site, settings, Speech::Control).await?;
        Ok(Self { link })
    }

    /// Makes an accepted connection secure. Whose it is must be asked with [`Secure::is_of`].
    ///
    /// # Errors
    /// As [`Secure::connect`]; [`Error::Lost`].
    ///
    /// Cancel-safe: what was begun is closed.
    pub async fn accept(
        socket: TcpStream,
        address: SocketAddr,
        settings: &LinkSettings,
    ) -> Result<Self, Error> {
        let link = link::accept_for(socket, address, settings, Speech::Control).await?;
        Ok(Self { link })
    }

    /// Whether the other side's certificate bears the name of `site`.
    pub fn is_of(&self, site: &str) -> bool {
        self.link.is_of(site)
    }

    /// Where the other side is.
    pub fn address(&self) -> SocketAddr {
        self.link.address()
    }

    /// What an error of reading or writing means, such as that the other side has refused our certificate.
    pub fn explain(site: &str, address: SocketAddr, error: io::Error) -> Error {
        link::tls::stream_error(&peer_name(Some(site), address), error)
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link.stream).poll_shutdown(context)
    }
}
