//! From an [`Endpoint`] to a connection that is ready for its first command: the one way both kinds of session go.
//!
//! Hosts are tried in their order (each address of each host), every attempt within `connect_timeout`. What another
//! host cannot mend (a wrong password, a certificate not to be trusted) ends the search at once, as in libpq.

mod auth;
mod socket;
mod startup;
pub(crate) mod stream;
mod tls;
mod verify;
pub(crate) mod wire;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

pub(crate) use startup::Parameters;

use crate::endpoint::{Endpoint, Host, SslMode, TargetSessionAttrs};
use crate::error::Error;
use socket::Address;
use stream::Stream;
use wire::Wire;

/// What kind of backend is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An ordinary one.
    Sql,
    /// A walsender that is connected to a database.
    LogicalReplication,
}

/// A connection that is ready for its first command.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) parameters: Parameters,
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
    pub(crate) host: String,
    pub(crate) route: Route,
}

/// How a connection was reached, so that a cancel request can go the same way.
#[derive(Clone)]
pub(crate) struct Route {
    endpoint: Arc<Endpoint>,
    host: Host,
    address: Address,
    encrypted: bool,
    tls: Arc<tls::Client>,
}

/// Connects to the first host that will do.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    application_name: &str,
    kind: Kind,
) -> Result<Connection, Error> {
    let endpoint = Arc::new(endpoint.clone());
    let tls = Arc::new(tls::Client::new(&endpoint).await?);
    let application_name = endpoint.application_name.clone().unwrap_or_else(|| application_name.to_owned());
    // "prefer-standby" is two searches: for a standby, then for anything.
    let searches: &[TargetSessionAttrs] = match endpoint.target {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        ref one => std::slice::from_ref(one),
    };
    let mut hosts = endpoint.hosts.clone();
    if endpoint.shuffle {
        let random = RandomState::new();
        hosts.sort_by_cached_key(|host| random.hash_one(host.to_string()));
    }
    let mut failures = Vec::new();
    for &target in searches {
        failures.clear();
        for host in &hosts {
            let addresses = match socket::addresses(host, endpoint.connect_timeout).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    failures.push(error);
                    continue;
                }
            };
            for address in addresses {
                let attempt = Attempt {
                    endpoint: &endpoint,
                    host,
                    address: &address,
                    tls: &tls,
                    application_name: &application_name,
                    kind,
                    target,
                };
                match attempt.within_limit().await {
                    Ok(connection) => return Ok(connection),
                    Err(error) if error.is_transient() => failures.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    match failures.pop() {
        Some(only) if failures.is_empty() => Err(only),
        Some(last) => {
            failures.push(last);
            Err(Error::NoHost(failures))
        }
        None => Err(Error::invalid("it names no host")),
    }
}

/// One try at one address.
struct Attempt<'a> {
    endpoint: &'a Arc<Endpoint>,
    host: &'a Host,
    address: &'a Address,
    tls: &'a Arc<tls::Client>,
    application_name: &'a str,
    kind: Kind,
    target: TargetSessionAttrs,
}

/// Whether TLS is used on a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

impl Attempt<'_> {
    async fn within_limit(&self) -> Result<Connection, Error> {
        match self.endpoint.connect_timeout {
            None => self.connect().await,
            Some(limit) => tokio::time::timeout(limit, self.connect())
                .await
                .unwrap_or_else(|_| Err(Error::ConnectTimeout { host: self.host.to_string(), limit })),
        }
    }

    /// An error of the open stream, with the host's name.
    fn named(&self, error: Error) -> Error {
        let host = self.host.to_string();
        match error {
            // A server looks at our certificate after the handshake, and tells what it thinks as an alert.
            Error::Io(source) if tls::is_of_tls(&source) => tls::handshake_error(self.host, source),
            Error::Io(source) => Error::Unreachable { host, source },
            Error::Closed(None) => Error::Unreachable {
                host,
                source: std::io::Error::new(
                    std::io::ErrorKind::ConnectionAborted,
                    "the server closed the connection without a word",
                ),
            },
            error => error,
        }
    }

    /// The modes that may be with and without TLS are two attempts where the first fails for a reason that has to do
    /// with TLS: the handshake, or an access rule that tells encrypted from unencrypted connections.
    async fn connect(&self) -> Result<Connection, Error> {
        let (first, second) = match self.endpoint.tls.mode {
            _ if matches!(self.host, Host::Unix { .. }) => (Encryption::Never, None),
            SslMode::Disable => (Encryption::Never, None),
            SslMode::Allow => (Encryption::Never, Some(Encryption::Always)),
            SslMode::Prefer => (Encryption::IfOffered, Some(Encryption::Never)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Always, None),
        };
        match (self.connect_with(first).await, second) {
            (Err(error), Some(second)) if may_depend_on_tls(&error) => {
                tracing::debug!(host = %self.host, %error, "trying again, with TLS if it was without, else without");
                self.connect_with(second).await
            }
            (result, _) => result,
        }
    }

    async fn connect_with(&self, encryption: Encryption) -> Result<Connection, Error> {
        self.start(encryption).await.map_err(|error| self.named(error))
    }

    async fn start(&self, encryption: Encryption) -> Result<Connection, Error> {
        let stream = open(self.endpoint, self.host, self.address, self.tls, encryption).await?;
        let encrypted = matches!(stream, Stream::Tls(_));
        let mut wire = Wire::new(stream);
        let started =
            startup::start(&mut wire, self.endpoint, self.host, self.application_name, self.kind).await?;
        startup::check_target(&mut wire, &started.parameters, self.target, self.host).await?;
        tracing::debug!(host = %self.host, process_id = started.process_id, encrypted, "connected");
        Ok(Connection {
            wire,
            parameters: started.parameters,
            process_id: started.process_id,
            secret_key: started.secret_key,
            host: self.host.to_string(),
            route: Route {
                endpoint: Arc::clone(self.endpoint),
                host: self.host.clone(),
                address: self.address.clone(),
                encrypted,
                tls: Arc::clone(self.tls),
            },
        })
    }
}

fn may_depend_on_tls(error: &Error) -> bool {
    match error {
        Error::Tls { .. } => true,
        // "no pg_hba.conf entry for ..., no encryption" and the like.
        Error::Refused { server, .. } => server.code() == "28000",
        _ => false,
    }
}

/// A socket to an address, encrypted as asked.
async fn open(
    endpoint: &Endpoint,
    host: &Host,
    address: &Address,
    tls: &tls::Client,
    encryption: Encryption,
) -> Result<Stream, Error> {
    let socket = socket::open(address, &endpoint.tcp)
        .await
        .map_err(|source| Error::Unreachable { host: host.to_string(), source })?;
    match (socket, encryption) {
        (Stream::Tcp(socket), Encryption::IfOffered) => tls.negotiate(socket, host, true).await,
        (Stream::Tcp(socket), Encryption::Always) => tls.negotiate(socket, host, false).await,
        (stream, _) => Ok(stream),
    }
}

impl Route {
    /// Asks the server to cancel what a backend is doing, over a connection of its own. That it was sent does not
    /// mean that there was anything to cancel.
    pub(crate) async fn cancel(&self, process_id: i32, secret_key: i32) -> Result<(), Error> {
        let send = async {
            let encryption = if self.encrypted { Encryption::Always } else { Encryption::Never };
            let mut stream = open(&self.endpoint, &self.host, &self.address, &self.tls, encryption).await?;
            let mut request = BytesMut::new();
            frontend::cancel_request(process_id, secret_key, &mut request);
            stream.write_all(&request).await?;
            stream.flush().await?;
            // The server says nothing and closes; waiting for it means that it has seen the request. How it closes
            // does not matter.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1]).await;
            Ok(())
        };
        match self.endpoint.connect_timeout {
            None => send.await,
            Some(limit) => tokio::time::timeout(limit, send)
                .await
                .unwrap_or_else(|_| Err(Error::ConnectTimeout { host: self.host.to_string(), limit })),
        }
    }
}
