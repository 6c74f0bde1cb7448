//! Sockets: looking a name up, connecting, and the options that notice a dead peer.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;
use crate::endpoint::{Host, TcpSettings};
use crate::error::Error;

/// Something to connect to.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The addresses of a host, in the order of the system's resolver.
pub(super) async fn addresses(host: &Host, limit: Option<Duration>) -> Result<Vec<Address>, Error> {
    let unreachable = |source| Error::Unreachable { host: host.to_string(), source };
    if let Some(path) = host.socket_path() {
        return Ok(vec![Address::Unix(path)]);
    }
    let Host::Tcp { name, address, port } = host else { return Ok(Vec::new()) };
    if let Some(address) = address {
        return Ok(vec![Address::Tcp(SocketAddr::new(*address, *port))]);
    }
    let look_up = async {
        let found = tokio::net::lookup_host((name.as_str(), *port)).await.map_err(unreachable)?;
        Ok(found.map(Address::Tcp).collect::<Vec<_>>())
    };
    let found = match limit {
        None => look_up.await?,
        Some(limit) => tokio::time::timeout(limit, look_up)
            .await
            .unwrap_or_else(|_| Err(Error::ConnectTimeout { host: host.to_string(), limit }))?,
    };
    if found.is_empty() {
        return Err(unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(found)
}

/// Connects.
pub(super) async fn open(address: &Address, tcp: &TcpSettings) -> io::Result<Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            if tcp.keepalives {
                let keepalive = TcpKeepalive::new()
                    .with_time(tcp.idle)
                    .with_interval(tcp.interval)
                    .with_retries(tcp.count);
                socket.set_tcp_keepalive(&keepalive)?;
            }
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(tcp.user_timeout)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_notices_a_dead_peer_as_it_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let mut settings = TcpSettings {
            keepalives: true,
            idle: Duration::from_secs(11),
            interval: Duration::from_secs(12),
            count: 13,
            user_timeout: Some(Duration::from_millis(14_000)),
        };
        let Stream::Tcp(stream) = open(&address, &settings).await.unwrap() else { panic!("no TCP socket") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), settings.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), settings.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), settings.count);
        assert_eq!(socket.tcp_user_timeout().unwrap(), settings.user_timeout);
        settings.keepalives = false;
        settings.user_timeout = None;
        let Stream::Tcp(stream) = open(&address, &settings).await.unwrap() else { panic!("no TCP socket") };
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
