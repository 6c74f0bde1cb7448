//! The bytes between pump and collector: this page is the specification, the code below it is tested against it. Nothing
//! here knows a socket.
//!
//! # The link
//!
//! One TCP connection carries one flow. Either side may open it; inside there is TLS 1.3 with a certificate of each side.
//! All integers are big-endian and unsigned unless said otherwise; a *text* is a u32 length and so many bytes of UTF-8; a
//! *lineage* is system identifier u64, timeline u32, slot incarnation u64; a *time* is an i64 of microseconds since
//! 2000-01-01 UTC.
//!
//! Each side begins with a preface, whose layout is the same in every version:
//!
//! ```text
//!  0  8  magic "IGLINK\r\n"
//!  8  2  version, 1
//! 10  1  who speaks: 'P' the pump, 'C' the collector
//! 11  1  zero
//! ```
//!
//! Then come frames:
//!
//! ```text
//!  0  1  kind
//!  1  1  flags: 1 = the body is one zstd frame
//!  2  2  zero
//!  4  4  length of the body as it is sent, at most 2²⁰
//!  8  4  length of the body uncompressed, at most 2²⁰
//! 12  4  CRC32C of the twelve bytes above and of the body as it is sent
//! 16  …  body
//! ```
//!
//! | kind | from | body |
//! |---|---|---|
//! | `H` | pump | hello: texts deployment, flow, site, group; u64 instance; u64 epoch; u32 server version; u16 n, n × (lineage, u64 previous commit, u64 start): the histories in its trail that go on from each other; u64 commit and u64 resume LSN at its durable end |
//! | `h` | collector | hello: texts deployment, site, group |
//! | `A` | collector | accepted: lineage, u64 epoch, u64 commit, u64 resume, u64 last message: where to go on; u8 1 and u64 commit, u64 changes, u64 digest of the unfinished transaction that it still holds, or u8 0 |
//! | `X` | both | refused: u16 code, u8 flags (1 = trying again can help), texts message and remedy; then the link is closed. The same in every version |
//! | `D` | pump | records, see below; a record may go on in the next `D` |
//! | `K` | collector | durable there: u64 number of boundaries of this connection, u64 commit, u64 resume, time of the commit |
//! | `?` | both | ping: time of the sender |
//! | `!` | both | pong: time of the ping, time of the sender |
//! | `G` | both | goodbye, nothing more is sent: text |
//!
//! Kinds from 0x80 on are passed over by whoever does not know them.
//!
//! # Records
//!
//! u8 kind, u32 length of the body, body. Kinds and what they mean are as in the trail (see [`irongate_trail::format`]):
//!
//! | kind | body | boundary |
//! |---|---|---|
//! | `L` | lineage, u64 start, u32 server version: from here on the trail is of this lineage | yes |
//! | `E` | u64: from here on the trail is of this epoch | yes |
//! | `R` | relation: u32 OID, u8 identity `d` `n` `f` `i`, texts schema and name, u16 n, n × (u8 flags: 1 key, 2 type name; u32 type, i32 modifier, text name, texts schema and name of the type); stands before the first row that uses it on this connection | – |
//! | `B` | begin: u32 xid, u64 commit, time, u8 1 and text origin, or u8 0 | – |
//! | `=` | the unfinished transaction goes on: u64 commit, u64 changes, u64 digest | – |
//! | `I` `U` `D` | u32 relation; then `N` tuple, or `K`/`O` tuple and, for `U`, `N` tuple | – |
//! | `T` | truncate: u8 flags (1 cascade, 2 restart identity), u32 n, n × u32 relation | – |
//! | `M` | message: u8 flags (1 transactional), u64 LSN, text prefix, content | outside a transaction |
//! | `C` | commit: u64 commit, u64 end, time, u64 changes, u64 digest | yes |
//! | `P` | progress: u64 resume, time | yes |
//!
//! # Integrity from end to end
//!
//! The digest of a transaction folds ([`irongate_trail::format::Digest`]) the CRC32C of the record `B`, then for each change
//! the CRC of the record `R` of its table where that differs from the one folded last, and of the change's own record,
//! then that of the first 32 bytes of the commit's body. Whoever commits has computed it anew from what arrived. It does
//! not depend on how often the link was cut or what was declared again after that.

mod bytes;
mod digest;
mod frame;
mod hello;
mod record;
#[cfg(test)]
mod tests;

#[cfg(feature = "kafka")]
pub(crate) use bytes::{Put, Take};
pub use digest::Content;
pub use frame::{Ack, Decoder, Encoder, Frame};
pub use hello::{Accepted, Code, Greeting, Held, Hello, History, Place, Refused};
pub use record::{Found, Record, Records};
pub(crate) use record::{
    append_begin, append_commit, append_continue, append_epoch, append_lineage, append_message,
    append_progress, append_relation, append_row, append_truncate,
};

use irongate_trail::Malformed;

/// The first bytes of each side.
pub const MAGIC: [u8; 8] = *b"IGLINK\r\n";
/// The version that this release speaks, and the only one.
pub const VERSION: u16 = 1;
/// Bytes of a preface.
pub const PREFACE: usize = 12;
/// The longest body of a frame, compressed or not.
pub const MAX_BODY: usize = 1 << 20;
/// A batch is sent when it is so long: small enough to be read and checked at once, and that a ping does not wait long
/// behind it; large enough that the frame costs nothing.
pub const BATCH: usize = 256 << 10;
/// The longest record: what the trail takes, and what the link adds.
pub const MAX_RECORD: usize = irongate_trail::format::MAX_RECORD as usize + 64;

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Sends a trail.
    Pump,
    /// Receives it.
    Collector,
}

/// The first bytes of a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preface {
    /// The version that it speaks.
    pub version: u16,
    /// Who it is.
    pub role: Role,
}

impl Preface {
    /// What this release says of itself.
    pub fn of(role: Role) -> Self {
        Self { version: VERSION, role }
    }

    /// Its bytes.
    pub fn encode(self) -> [u8; PREFACE] {
        let mut bytes = [0; PREFACE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_be_bytes());
        bytes[10] = if self.role == Role::Pump { b'P' } else { b'C' };
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no preface of any version.
    pub fn decode(bytes: &[u8; PREFACE]) -> Result<Self, Malformed> {
        if bytes[..8] != MAGIC {
            return Err(Malformed("it does not speak this protocol"));
        }
        let role = match bytes[10] {
            b'P' => Role::Pump,
            b'C' => Role::Collector,
            _ => return Err(Malformed("it is neither a pump nor a collector")),
        };
        Ok(Self { version: u16::from_be_bytes([bytes[8], bytes[9]]), role })
    }
}
