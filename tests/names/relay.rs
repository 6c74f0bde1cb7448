//! What stands between Irongate and a name server, and does not leave alone what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Changes an answer; it is also given the question.
pub(super) type Tamper = dyn Fn(&[u8], Vec<u8>) -> Vec<u8> + Send + Sync;
/// Does something before a message goes on.
pub(super) type Before = dyn Fn() + Send + Sync;

/// How what goes through is treated.
pub(super) struct Treatment {
    /// Before a message over TCP goes on.
    pub(super) before: Box<Before>,
    /// Answers over TCP.
    pub(super) tcp: Box<Tamper>,
    /// Answers over UDP.
    pub(super) udp: Box<Tamper>,
}

impl Default for Treatment {
    fn default() -> Self {
        let same = || Box::new(|_: &[u8], answer| answer);
        Self { before: Box::new(|| {}), tcp: same(), udp: same() }
    }
}

async fn converse(mut client: TcpStream, to: SocketAddr, treatment: &Treatment) -> std::io::Result<()> {
    let mut question = vec![0; usize::from(client.read_u16().await?)];
    client.read_exact(&mut question).await?;
    tokio::task::block_in_place(|| (treatment.before)());
    let mut server = TcpStream::connect(to).await?;
    server.write_u16(question.len() as u16).await?;
    server.write_all(&question).await?;
    let mut answer = vec![0; usize::from(server.read_u16().await?)];
    server.read_exact(&mut answer).await?;
    let answer = (treatment.tcp)(&question, answer);
    if answer.is_empty() {
        // Lost on its way.
        return Ok(());
    }
    client.write_u16(answer.len() as u16).await?;
    client.write_all(&answer).await
}

/// Stands before a name server, at the port that it returns; as long as the test runs.
pub(super) async fn relay(port: u16, treatment: Treatment) -> u16 {
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let treatment = Arc::new(treatment);
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let own = tcp.local_addr().unwrap().port();
    let for_tcp = Arc::clone(&treatment);
    tokio::spawn(async move {
        while let Ok((client, _)) = tcp.accept().await {
            let _ = converse(client, to, &for_tcp).await;
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let question = buffer[..length].to_vec();
            let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            server.send_to(&question, to).await.unwrap();
            let (length, _) = server.recv_from(&mut buffer).await.unwrap();
            let answer = (treatment.udp)(&question, buffer[..length].to_vec());
            udp.send_to(&answer, client).await.unwrap();
        }
    });
    own
}
