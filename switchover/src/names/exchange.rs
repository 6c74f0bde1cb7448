//! A message to a name server and its answer.
//!
//! Questions go over UDP, and over TCP where the answer does not fit (RFC 7766). An update goes over TCP: UDP would have to
//! repeat it, and a server that has done it already would answer the repetition that its prerequisite does not hold.
//!
//! Where a key is given, an answer counts only if it is signed with it (RFC 8945, 5.3). Over UDP one that is not is passed
//! over, since anybody may have sent it, and the right one may still come. An answer that says that the key is not known, or
//! the signature wrong, cannot be signed; it is believed, as an error: all that it can do is to end the attempt.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Opcode, Rcode, TsigRcode};
use domain::base::name::ParsedName;
use domain::rdata::tsig::{Time48, Tsig};
use domain::tsig::{ClientTransaction, ValidationError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::key::Key;
use super::message::{Answer, Draft, Unsayable};

/// How long an answer over UDP is waited for before the question is repeated.
const REPEAT: Duration = Duration::from_millis(700);

/// What is wrong with a name server, or with its answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing came in time.
    Silent,
    /// It cannot be reached.
    Unreachable(io::Error),
    /// Its name has no address.
    NoAddress(String),
    /// It answers an error.
    Says(String),
    /// It has no authority for the zone.
    Lame,
    /// What it answers is no message, or not one about what was asked.
    Nonsense,
    /// The answer is not signed.
    Unsigned,
    /// The answer is not signed with the key, or was changed on its way.
    Forged,
    /// It does not know the key.
    UnknownKey {
        /// The key's name.
        key: String,
    },
    /// It knows the key with another secret or algorithm.
    WrongSecret {
        /// The key's name.
        key: String,
    },
    /// Its clock is too far from this machine's.
    Clock {
        /// By how many seconds it is ahead; `None` where the answer does not say.
        ahead: Option<i64>,
    },
    /// The message cannot be made: it would be too long.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("it does not answer"),
            Self::Unreachable(error) => write!(f, "it cannot be reached: {error}"),
            Self::NoAddress(reason) => write!(f, "it has no address: {reason}"),
            Self::Says(rcode) => write!(f, "it answers {rcode}"),
            Self::Lame => f.write_str("it does not answer with authority for the zone"),
            Self::Nonsense => f.write_str("its answer cannot be understood"),
            Self::Unsigned => f.write_str("its answer is not signed, and is not believed"),
            Self::Forged => f.write_str(
                "its answer is not signed with the key or was changed on its way, and is not believed",
            ),
            Self::UnknownKey { key } => write!(f, "it does not know key \"{key}\" (BADKEY)"),
            Self::WrongSecret { key } => write!(f, "it knows key \"{key}\" with another secret (BADSIG)"),
            Self::Clock { ahead: Some(ahead) } if *ahead >= 0 => {
                write!(f, "its clock is {ahead} s ahead of this machine's (BADTIME)")
            }
            Self::Clock { ahead: Some(ahead) } => {
                write!(f, "its clock is {} s behind this machine's (BADTIME)", -ahead)
            }
            Self::Clock { ahead: None } => f.write_str("its clock is too far from this machine's (BADTIME)"),
            Self::TooLong => f.write_str("the message would be too long"),
        }
    }
}

impl Fault {
    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Silent | Self::Unreachable(_) | Self::NoAddress(_))
    }

    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Silent | Self::Unreachable(_) => {
                "see that it runs, and that port 53 is open for UDP and TCP"
            }
            Self::NoAddress(_) => "write its address instead of its name",
            Self::Says(_) | Self::Lame => "see that it serves the zone, and answers questions from here",
            Self::Nonsense => "see that a name server listens there",
            Self::Unsigned | Self::Forged => "find out who answers in its place",
            Self::UnknownKey { .. } => "give it the same key, under the same name",
            Self::WrongSecret { .. } => "give it the key file's secret and algorithm",
            Self::Clock { .. } => "set both clocks, by NTP",
            Self::TooLong => "write fewer records, or fewer values",
        })
    }
}

impl From<Unsayable> for Fault {
    fn from(_: Unsayable) -> Self {
        Self::TooLong
    }
}

/// How a message that was sent is told from others.
struct Sent {
    bytes: Vec<u8>,
    question: Message<Vec<u8>>,
    signed: Option<(String, ClientTransaction<Arc<domain::tsig::Key>>)>,
}

fn sign(draft: &Draft, key: Option<&Key>) -> Result<Sent, Fault> {
    let mut draft = draft.clone();
    let question = draft.clone().into_message();
    let signed = match key {
        Some(Key { name, key }) => {
            let transaction = ClientTransaction::request(Arc::clone(key), &mut draft, Time48::now())
                .map_err(|_| Fault::TooLong)?;
            Some((name.clone(), transaction))
        }
        None => None,
    };
    Ok(Sent { bytes: draft.finish(), question, signed })
}

impl Sent {
    /// Whether bytes are an answer to this message.
    fn is_answered_by(&self, bytes: &[u8]) -> Option<Answer> {
        let answer = Message::from_octets(bytes.to_vec()).ok()?;
        let header = answer.header();
        let is_mine = header.qr()
            && header.id() == self.question.header().id()
            && header.opcode() == self.question.header().opcode();
        // An error, and the answer to an update, may come without the question (RFC 2136, 3.8).
        let is_bare = answer.header_counts().qdcount() == 0
            && (header.opcode() == Opcode::UPDATE || header.rcode() != Rcode::NOERROR);
        let is_about = is_bare || answer.question() == self.question.question();
        (is_mine && is_about).then_some(answer)
    }

    /// An answer that may be believed.
    fn believe(&self, mut answer: Answer) -> Result<Answer, Fault> {
        let Some((key, transaction)) = &self.signed else { return Ok(answer) };
        let clock = wrong_clock(&answer);
        match transaction.answer(&mut answer, Time48::now()) {
            Ok(()) => Ok(answer),
            Err(ValidationError::ServerUnsigned) => Err(Fault::Unsigned),
            Err(ValidationError::ServerBadKey) => Err(Fault::UnknownKey { key: key.clone() }),
            Err(ValidationError::ServerBadSig) => Err(Fault::WrongSecret { key: key.clone() }),
            Err(ValidationError::BadTime) => Err(Fault::Clock { ahead: None }),
            Err(_) => Err(clock.unwrap_or(Fault::Forged)),
        }
    }
}

/// An answer that says that the clocks differ. It is signed (RFC 8945, 5.2.3), and `domain` 0.12 computes that signature
/// over another length of the time than servers do, so that it never fits: such an answer is believed as an error, as those
/// that cannot be signed are.
fn wrong_clock(answer: &Answer) -> Option<Fault> {
    let record = answer.get_last_additional::<Tsig<_, ParsedName<_>>>()?;
    let tsig = record.data();
    let is_about_time = answer.header().rcode() == Rcode::NOTAUTH && tsig.error() == TsigRcode::BADTIME;
    let ahead = |server| u64::from(server).cast_signed() - u64::from(tsig.time_signed()).cast_signed();
    is_about_time.then(|| Fault::Clock { ahead: tsig.other_time().map(ahead) })
}

/// Sends a question, again and again until `limit` has passed, and gives its answer.
pub(super) async fn ask(
    server: SocketAddr,
    draft: &Draft,
    key: Option<&Key>,
    limit: Duration,
) -> Result<Answer, Fault> {
    let end = Instant::now() + limit;
    let here = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A port of its own for each question, and only what comes from the server: what a stranger would have to guess.
    let socket = UdpSocket::bind((here, 0)).await.map_err(Fault::Unreachable)?;
    socket.connect(server).await.map_err(Fault::Unreachable)?;
    let mut buffer = vec![0; 65_535];
    let mut unbelieved = None;
    while Instant::now() < end {
        let sent = sign(draft, key)?;
        socket.send(&sent.bytes).await.map_err(Fault::Unreachable)?;
        let until = end.min(Instant::now() + REPEAT);
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            let length = received.map_err(Fault::Unreachable)?;
            let Some(answer) = sent.is_answered_by(&buffer[..length]) else { continue };
            match sent.believe(answer) {
                Ok(answer) if answer.header().tc() => {
                    return tell(server, draft, key, end.saturating_duration_since(Instant::now())).await;
                }
                Ok(answer) => return Ok(answer),
                Err(fault @ (Fault::Unsigned | Fault::Forged)) => unbelieved = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
    }
    Err(unbelieved.unwrap_or(Fault::Silent))
}

/// Sends a message once, over TCP.
pub(super) async fn tell(
    server: SocketAddr,
    draft: &Draft,
    key: Option<&Key>,
    limit: Duration,
) -> Result<Answer, Fault> {
    let conversation = async {
        let sent = sign(draft, key)?;
        let mut stream = TcpStream::connect(server).await.map_err(Fault::Unreachable)?;
        let length = u16::try_from(sent.bytes.len()).map_err(|_| Fault::TooLong)?;
        let framed = [&length.to_be_bytes()[..], &sent.bytes].concat();
        // From here on it may have been heard.
        let heard = async {
            stream.write_all(&framed).await?;
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            Ok(bytes)
        };
        let bytes = heard.await.map_err(|_: io::Error| Fault::Silent)?;
        let answer = sent.is_answered_by(&bytes).ok_or(Fault::Nonsense)?;
        sent.believe(answer)
    };
    timeout(limit, conversation).await.unwrap_or(Err(Fault::Silent))
}
