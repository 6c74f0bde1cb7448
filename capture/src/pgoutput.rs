//! The messages of `pgoutput`, protocol versions 1 to 4 (PostgreSQL manual, "Logical Replication Message Formats").
//!
//! # Why the parser has a state
//!
//! Two layouts cannot be told from the bytes alone:
//!
//! * Relation, Type, Insert, Update, Delete, Truncate and Message carry an xid in front **only between Stream Start and
//!   Stream Stop**. It is the xid of the sub-transaction, and the protocol version has nothing to do with it.
//! * Stream Abort carries an LSN and a time **only when `streaming = parallel` was asked for**, again whatever the
//!   version.
//!
//! So [`Decoder`] knows whether it is inside a block and what was asked for, and needs to know nothing else. Blocks
//! never nest, and begin, commit and the two-phase messages stand outside of them; bytes that say otherwise are
//! refused, since everything after them would be misread.
//!
//! # What a row costs
//!
//! A row is checked once, by [`irongate_trail::Row::decode`], and handed on as the slice it came in: the trail stores
//! these very bytes. Nothing is allocated for it. Every message must fill its frame: a stray byte means that both
//! sides disagree about the layout, and is refused rather than skipped.
//!
//! [`Message::encode`] stands beside the decoder for tests, simulations and test doubles of a server.

mod codec;
#[cfg(test)]
mod tests;

use irongate_trail::{CommitLsn, Lsn, Malformed, Relation, ResumeLsn, Timestamp, Truncate};

/// What was asked for with the option `streaming` of START_REPLICATION.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Streaming {
    /// Transactions come whole, after their commit.
    Off,
    /// Transactions larger than `logical_decoding_work_mem` come in blocks before their end.
    #[default]
    On,
    /// As [`Streaming::On`], and Stream Abort carries the abort's LSN and time.
    Parallel,
}

/// A changed row, still as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    /// The (sub-)transaction, inside a stream block.
    pub xid: Option<u32>,
    /// OID of the table.
    pub relation: u32,
    /// `I`, `U` or `D`.
    pub operation: u8,
    /// Columns of its tuples: an old and a new one have equally many.
    pub columns: u16,
    /// From the first tuple's kind on, checked: [`irongate_trail::Row::decode`] reads them.
    pub bytes: &'a [u8],
}

/// What the two-phase messages have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepared<'a> {
    /// Where the record of the prepare, or of the commit of a prepared transaction, starts.
    pub lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// When, by the source's clock.
    pub time: Timestamp,
    /// The transaction.
    pub xid: u32,
    /// The name given to `PREPARE TRANSACTION`.
    pub gid: &'a str,
}

/// One message of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// `B`: a whole transaction follows.
    Begin {
        /// Where its commit record starts; the same as in [`Message::Commit`].
        commit_lsn: CommitLsn,
        /// When it was committed.
        commit_time: Timestamp,
        /// The transaction.
        xid: u32,
    },
    /// `C`: the end of the transaction begun with `B`.
    Commit {
        /// Where the commit record starts.
        commit_lsn: CommitLsn,
        /// Where it ends: the place to begin again after it.
        end_lsn: ResumeLsn,
        /// When it was committed.
        commit_time: Timestamp,
    },
    /// `O`: the replication origin of the transaction just begun.
    Origin {
        /// The commit's LSN on the origin; 0/0 in a streamed transaction.
        lsn: Lsn,
        /// The origin's name.
        name: &'a str,
    },
    /// `R`: a table's description, valid from here on. [`irongate_trail::Column::type_name`] is not in it, see
    /// [`Message::Type`].
    Relation {
        /// The (sub-)transaction, inside a stream block.
        xid: Option<u32>,
        /// The table.
        relation: Relation,
    },
    /// `Y`: the name of a type that is not built in. For a domain the OID is the domain's and the name the base type's.
    Type {
        /// The (sub-)transaction, inside a stream block.
        xid: Option<u32>,
        /// OID of the type.
        oid: u32,
        /// Schema of the type.
        schema: &'a str,
        /// Name of the type.
        name: &'a str,
    },
    /// `I`, `U`, `D`: a changed row.
    Row(Row<'a>),
    /// `T`: emptied tables.
    Truncate {
        /// The (sub-)transaction, inside a stream block.
        xid: Option<u32>,
        /// The tables and options.
        truncate: Truncate,
    },
    /// `M`: a logical message.
    Logical {
        /// The (sub-)transaction, inside a stream block.
        xid: Option<u32>,
        /// The message.
        message: irongate_trail::Message<'a>,
    },
    /// `b`: a prepared transaction follows (only from a slot with `two_phase`, as all of the next five).
    BeginPrepare(Prepared<'a>),
    /// `P`: the end of the transaction begun with `b`.
    Prepare(Prepared<'a>),
    /// `K`: a prepared transaction was committed.
    CommitPrepared(Prepared<'a>),
    /// `r`: a prepared transaction was rolled back.
    RollbackPrepared {
        /// Where the prepare's record ended.
        prepare_end_lsn: Lsn,
        /// Where the rollback's record ends.
        rollback_end_lsn: Lsn,
        /// When it was prepared.
        prepare_time: Timestamp,
        /// When it was rolled back.
        rollback_time: Timestamp,
        /// The transaction.
        xid: u32,
        /// The name given to `PREPARE TRANSACTION`.
        gid: &'a str,
    },
    /// `S`: a block of a transaction in progress follows.
    StreamStart {
        /// The top-level transaction.
        xid: u32,
        /// Whether it is the transaction's first block on this connection.
        first: bool,
    },
    /// `E`: the end of a block.
    StreamStop,
    /// `c`: a streamed transaction was committed.
    StreamCommit {
        /// The top-level transaction.
        xid: u32,
        /// Where the commit record starts.
        commit_lsn: CommitLsn,
        /// Where it ends.
        end_lsn: ResumeLsn,
        /// When it was committed.
        commit_time: Timestamp,
    },
    /// `A`: a streamed transaction, or one of its sub-transactions, was aborted.
    StreamAbort {
        /// The top-level transaction.
        xid: u32,
        /// The sub-transaction, or `xid` again when all of it was aborted.
        subxid: u32,
        /// Where and when; with `streaming = parallel` only.
        abort: Option<(Lsn, Timestamp)>,
    },
    /// `p`: a streamed transaction was prepared.
    StreamPrepare(Prepared<'a>),
}

/// Reads the messages of one connection in order.
#[derive(Clone, Debug)]
pub struct Decoder {
    streaming: Streaming,
    inside_block: bool,
}

impl Decoder {
    /// A decoder for the start of a stream that was asked for with `streaming`.
    pub fn new(streaming: Streaming) -> Self {
        Self { streaming, inside_block: false }
    }

    /// Whether the last message was inside a stream block, or opened one.
    pub fn is_inside_block(&self) -> bool {
        self.inside_block
    }

    /// Reads one message, which must fill `data`.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no message, or none that can stand here. The decoder is then of no more use:
    /// what follows cannot be trusted.
    #[inline]
    pub fn decode<'a>(&mut self, data: &'a [u8]) -> Result<Message<'a>, Malformed> {
        codec::decode(self, data)
    }
}
