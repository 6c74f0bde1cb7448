//! The link: a TCP connection with TLS 1.3 on it, opened by either side, and the frames that go over it.
//!
//! Whoever opens the TCP connection is TLS's client; who is pump and who collector is said inside. Both sides show a
//! certificate that the common authority has signed, and each looks for the other site's name in it.

pub(crate) mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use irongate_trail::Timestamp;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

use crate::error::{Error, TlsReason};
use crate::settings::LinkSettings;
use crate::wire::{Accepted, Ack, Code, Decoder, Encoder, Frame, Preface, Refused, Role, VERSION};

/// Room for what is received at once.
const RECEIVE: usize = 256 << 10;
/// How long the other side may take to read why it is refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is spoken on a link, agreed upon in its handshake: so that a pump that is led to a manager's port, or a terminal to
/// a collector's, learns it from the handshake and not from bytes that make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Speech {
    /// A pump speaks with a collector.
    Trail,
    /// A terminal speaks with a manager.
    Control,
}

/// A secure link, before a word was said.
pub(crate) struct Link {
    pub(crate) stream: TlsStream<TcpStream>,
    address: SocketAddr,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The receiving half.
pub(crate) struct Receiving {
    half: ReadHalf<TlsStream<TcpStream>>,
    pub(crate) decoder: Decoder,
    /// The other side, for messages.
    pub(crate) peer: String,
    silence: Duration,
    /// Bytes received, before decryption is counted.
    pub(crate) bytes: u64,
}

/// The sending half.
pub(crate) struct Sending {
    half: WriteHalf<TlsStream<TcpStream>>,
    peer: String,
}

/// Connects to `host:port` and makes the link secure; the other side must be `site`.
pub(crate) async fn connect(address: &str, site: &str, settings: &LinkSettings) -> Result<Link, Error> {
    connect_to(address, site, settings, Speech::Trail).await
}

/// As [`connect`], for what is spoken there.
pub(crate) async fn connect_to(
    address: &str,
    site: &str,
    settings: &LinkSettings,
    speech: Speech,
) -> Result<Link, Error> {
    let config = tls::client(&settings.credentials, speech)?;
    let name = ServerName::try_from(site.to_owned())
        .map_err(|error| Error::Setting { setting: "site", reason: error.to_string() })?;
    let opening = async {
        let unreachable = |source| Error::Unreachable { address: address.to_owned(), source };
        let (socket, to) = dial(address).await.map_err(unreachable)?;
        prepare(&socket, settings).map_err(unreachable)?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, socket)
            .await
            .map_err(|error| tls::handshake_error(&peer_name(Some(site), to), site, error))?;
        Ok(Link { stream: stream.into(), address: to })
    };
    let limit = settings.connect_limit;
    timeout(limit, opening)
        .await
        .unwrap_or_else(|_| Err(Error::ConnectTimeout { peer: address.to_owned(), limit }))
}

/// Tries each address of a name in turn.
async fn dial(address: &str) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await? {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on `address:port`.
pub(crate) async fn listen(address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address: address.to_owned(), source })
}

/// Makes a connection secure that was accepted. Whose it is must be asked with [`Link::is_of`].
pub(crate) async fn accept(
    socket: TcpStream,
    address: SocketAddr,
    settings: &LinkSettings,
) -> Result<Link, Error> {
    accept_for(socket, address, settings, Speech::Trail).await
}

/// As [`accept`], for what is spoken here.
pub(crate) async fn accept_for(
    socket: TcpStream,
    address: SocketAddr,
    settings: &LinkSettings,
    speech: Speech,
) -> Result<Link, Error> {
    let config = tls::server(&settings.credentials, speech)?;
    let peer = peer_name(None, address);
    prepare(&socket, settings).map_err(Error::lost(&peer))?;
    let opening = tokio_rustls::TlsAcceptor::from(config).accept(socket).into_fallible();
    match timeout(settings.connect_limit, opening).await {
        Ok(Ok(stream)) => Ok(Link { stream: stream.into(), address }),
        Ok(Err((error, mut socket))) => {
            // Whoever is refused has sent on already. A socket that is closed with bytes unread takes the alert back that
            // says why.
            let _ = socket.shutdown().await;
            let _ = timeout(FAREWELL, drain(&mut socket)).await;
            Err(tls::handshake_error(&peer, "", error))
        }
        Err(_) => Err(Error::ConnectTimeout { peer, limit: settings.connect_limit }),
    }
}

async fn drain(from: &mut (impl AsyncReadExt + Unpin)) {
    const ENOUGH: usize = 1 << 20;
    let (mut bytes, mut read) = ([0; 4096], 0);
    while read < ENOUGH {
        match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read += count,
        }
    }
}

fn prepare(socket: &TcpStream, settings: &LinkSettings) -> io::Result<()> {
    // Acknowledgements are small, and nobody gains by waiting for more of them.
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    if let Some(bytes) = settings.socket_buffer {
        socket.set_send_buffer_size(bytes)?;
        socket.set_recv_buffer_size(bytes)?;
    }
    // The link has signs of life of its own; this clears away what is left when a process hangs.
    // The kernel counts in whole seconds.
    let seconds = |time: Duration| time.max(Duration::from_secs(1));
    let keepalive =
        TcpKeepalive::new().with_time(seconds(settings.silence)).with_interval(seconds(settings.ping_every));
    socket.set_tcp_keepalive(&keepalive)
}

/// How a side is called in messages.
pub(crate) fn peer_name(site: Option<&str>, address: SocketAddr) -> String {
    match site {
        Some(site) => format!("site \"{site}\" at {address}"),
        None => format!("whoever is at {address}"),
    }
}

impl Link {
    /// Where the other side is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn certificate(&self) -> Option<&CertificateDer<'static>> {
        let (_, session) = self.stream.get_ref();
        session.peer_certificates()?.first()
    }

    /// Whether the other side's certificate bears the name of `site`.
    pub(crate) fn is_of(&self, site: &str) -> bool {
        let Ok(name) = ServerName::try_from(site) else { return false };
        let Some(certificate) = self.certificate() else { return false };
        ParsedCertificate::try_from(certificate)
            .and_then(|parsed| rustls::client::verify_server_name(&parsed, &name))
            .is_ok()
    }

    /// As [`Link::is_of`], as an error.
    pub(crate) fn must_be_of(&self, site: &str) -> Result<(), Error> {
        if self.is_of(site) {
            return Ok(());
        }
        let peer = peer_name(None, self.address);
        Err(Error::Tls { peer, reason: TlsReason::WrongName(site.to_owned()) })
    }

    /// Two halves that are used at once. `peer` is how the other side is called from now on.
    pub(crate) fn split(self, peer: &str, settings: &LinkSettings) -> (Receiving, Sending) {
        let (read, write) = tokio::io::split(self.stream);
        let receiving = Receiving {
            half: read,
            decoder: Decoder::default(),
            peer: peer.to_owned(),
            silence: settings.silence,
            bytes: 0,
        };
        (receiving, Sending { half: write, peer: peer.to_owned() })
    }
}

impl Receiving {
    /// Receives more. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Lost`] also at the end of the stream, [`Error::Silent`], [`Error::Tls`] for an alert that arrives behind
    /// the handshake: with TLS 1.3 the server looks at the client's certificate only then.
    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        let space = self.decoder.space(RECEIVE);
        match timeout(self.silence, self.half.read_buf(space)).await {
            Ok(Ok(0)) => {
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed it");
                Err(Error::lost(&self.peer)(source))
            }
            Ok(Ok(count)) => {
                self.bytes += count as u64;
                Ok(())
            }
            Ok(Err(error)) => Err(tls::stream_error(&self.peer, error)),
            Err(_) => Err(Error::Silent { peer: self.peer.clone(), limit: self.silence }),
        }
    }

    /// Waits for the other side's preface and checks that it can be talked to.
    pub(crate) async fn preface(&mut self, expected: Role, until: Instant) -> Result<(), Error> {
        let peer = self.peer.clone();
        let reading = async {
            loop {
                match self.decoder.preface().map_err(Error::malformed(&peer))? {
                    Some(preface) => return Ok(preface),
                    None => self.fill().await?,
                }
            }
        };
        let limit = until.saturating_duration_since(Instant::now());
        let preface = timeout_at(until, reading)
            .await
            .unwrap_or_else(|_| Err(Error::ConnectTimeout { peer: peer.clone(), limit }))?;
        check_preface(preface, expected, &peer)
    }
}

fn check_preface(preface: Preface, expected: Role, peer: &str) -> Result<(), Error> {
    if preface.version != VERSION {
        return Err(Error::refusing(Refused {
            code: Code::Version,
            transient: false,
            message: format!(
                "{peer} speaks version {} of the protocol, this side version {VERSION}",
                preface.version
            ),
            remedy: "run releases of Irongate at both sites that speak the same version".to_owned(),
        }));
    }
    if preface.role != expected {
        let is = |role| if role == Role::Pump { "pump" } else { "collector" };
        return Err(Error::refusing(Refused {
            code: Code::Malformed,
            transient: false,
            message: format!("{peer} is a {}, not a {}", is(preface.role), is(expected)),
            remedy: "a pump meets a collector: look at the addresses of both".to_owned(),
        }));
    }
    Ok(())
}

impl Sending {
    /// Sends bytes and hands them to the network. Not cancel-safe: a frame may be sent in part.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.half.write_all(bytes).await.map_err(Error::lost(&self.peer))?;
        self.half.flush().await.map_err(Error::lost(&self.peer))
    }

    /// Sends one frame, uncompressed.
    pub(crate) async fn frame(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(256);
        Encoder::default().append(frame, &mut bytes);
        self.send(&bytes).await
    }

    /// Introduces this side.
    pub(crate) async fn introduce(&mut self, role: Role, hello: &Frame<'_>) -> Result<(), Error> {
        let mut bytes = Preface::of(role).encode().to_vec();
        Encoder::default().append(hello, &mut bytes);
        self.send(&bytes).await
    }

    /// Says nothing more.
    pub(crate) async fn close(&mut self) {
        let _ = timeout(FAREWELL, self.half.shutdown()).await;
    }
}

/// Tells the other side why it is refused, and gives it the time to read that.
pub(crate) async fn refuse(sending: &mut Sending, receiving: &mut Receiving, refused: &Refused) {
    let telling = async {
        sending.frame(&Frame::Refused(refused.clone())).await?;
        sending.close().await;
        drain(&mut receiving.half).await;
        Ok::<_, Error>(())
    };
    let _ = timeout(2 * FAREWELL, telling).await;
}

/// What a side has to say that is not data: the latest of each kind, so that it takes no room however slowly it is read.
#[derive(Default, Debug)]
pub(crate) struct Outbox {
    inner: std::sync::Mutex<Waiting>,
    filled: tokio::sync::Notify,
}

#[derive(Default, Debug)]
struct Waiting {
    accepted: Option<Accepted>,
    ack: Option<Ack>,
    pong: Option<Timestamp>,
    goodbye: Option<&'static str>,
    /// Nothing follows.
    closed: bool,
}

impl Outbox {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.filled.notify_one();
    }

    /// The answer to a hello.
    pub(crate) fn accepted(&self, accepted: Accepted) {
        self.change(|waiting| waiting.accepted = Some(accepted));
    }

    /// What is durable.
    pub(crate) fn ack(&self, ack: Ack) {
        self.change(|waiting| waiting.ack = Some(ack));
    }

    /// The answer to a ping of that time.
    pub(crate) fn pong(&self, asked: Timestamp) {
        self.change(|waiting| waiting.pong = Some(asked));
    }

    /// The end, behind everything else.
    pub(crate) fn goodbye(&self, reason: &'static str) {
        self.change(|waiting| {
            waiting.goodbye = Some(reason);
            waiting.closed = true;
        });
    }

    /// Nothing follows what waits.
    pub(crate) fn close(&self) {
        self.change(|waiting| waiting.closed = true);
    }

    /// Appends what waits; true when it was the last.
    pub(crate) fn take(&self, into: &mut Vec<u8>) -> bool {
        let mut waiting = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut encoder = Encoder::default();
        if let Some(accepted) = waiting.accepted.take() {
            encoder.append(&Frame::Accepted(accepted), into);
        }
        if let Some(ack) = waiting.ack.take() {
            encoder.append(&Frame::Ack(ack), into);
        }
        if let Some(asked) = waiting.pong.take() {
            encoder.append(&Frame::Pong { asked, time: Timestamp::now() }, into);
        }
        if let Some(reason) = waiting.goodbye.take() {
            encoder.append(&Frame::Goodbye(reason), into);
        }
        waiting.closed
    }

    /// Waits until there may be something. Cancel-safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// Whether certificates and key can be used.
pub(crate) fn check(settings: &LinkSettings) -> Result<(), Error> {
    tls::client(&settings.credentials, Speech::Trail)?;
    tls::server(&settings.credentials, Speech::Trail).map(drop)
}
