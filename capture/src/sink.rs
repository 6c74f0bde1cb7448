//! Where Extract puts what it captured: a trail, or whatever an embedder makes of it.

use std::sync::Arc;

use irongate_trail::{Begin, Commit, Message, Progress, Relation, Truncate};

use crate::error::Error;

/// Takes what Extract captured, in the order in which it was committed.
///
/// A call has *appended* when it returns; it need not be durable. Whoever owns the sink tells the
/// [`Machine`](crate::machine::Machine) with [`synced`](crate::machine::Machine::synced) once it is, and only then is
/// the slot told.
///
/// The order of calls, as a grammar:
///
/// ```text
/// stream      = { transaction | progress | message | side } [ rollback ]
/// transaction = begin { relation | row | truncate | message } commit | adopt
/// side        = side_relation | side_row | side_truncate | side_message | side_abort | side_drop
/// ```
///
/// A transaction is begun only when it has something in it. [`Sink::relation`] comes before the first row that uses
/// the relation in each transaction, and again when the relation has changed in it; an unchanged one is mostly the
/// same `Arc`. Calls for the side storage of a streamed transaction are keyed by its top-level xid and end with one of
/// [`Sink::adopt`] and [`Sink::side_drop`]. [`Sink::rollback`] forgets the transaction begun and all side storage: the
/// connection was lost, and the server sends them again.
///
/// The side calls have defaults that refuse: a sink without side storage must ask for a stream without streamed
/// transactions.
///
/// # Errors
/// Any error ends the stream. What was not committed before it is taken back with [`Sink::rollback`].
pub trait Sink {
    /// Begins a transaction. [`Begin::previous`] is left for the sink to fill.
    ///
    /// # Errors
    /// As the trait says; so do all other calls.
    fn begin(&mut self, begin: &Begin) -> Result<(), Error>;

    /// Describes a table, in the transaction begun.
    ///
    /// # Errors
    /// As the trait says.
    fn relation(&mut self, relation: &Arc<Relation>) -> Result<(), Error>;

    /// A changed row, in the transaction begun. `bytes` were checked with [`irongate_trail::Row::decode`].
    ///
    /// # Errors
    /// As the trait says.
    fn row(&mut self, relation: u32, operation: u8, bytes: &[u8]) -> Result<(), Error>;

    /// Emptied tables, in the transaction begun.
    ///
    /// # Errors
    /// As the trait says.
    fn truncate(&mut self, truncate: &Truncate) -> Result<(), Error>;

    /// A logical message: a transactional one in the transaction begun, another one between transactions.
    ///
    /// # Errors
    /// As the trait says.
    fn message(&mut self, message: &Message<'_>) -> Result<(), Error>;

    /// Ends the transaction begun.
    ///
    /// # Errors
    /// As the trait says.
    fn commit(&mut self, commit: &Commit) -> Result<(), Error>;

    /// Forgets the transaction begun, if there is one, and everything streamed.
    ///
    /// # Errors
    /// As the trait says.
    fn rollback(&mut self) -> Result<(), Error>;

    /// Notes a place up to which there is nothing more to come.
    ///
    /// # Errors
    /// As the trait says.
    fn progress(&mut self, progress: &Progress) -> Result<(), Error>;

    /// Makes durable everything that was appended. May block. The default is for a sink whose every call is durable
    /// when it returns, or that need not survive a power cut.
    ///
    /// # Errors
    /// As the trait says.
    fn sync(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Describes a table in the side storage of `xid`. A description belongs to no sub-transaction: it stays when the one
    /// that it came with is aborted.
    ///
    /// # Errors
    /// As the trait says.
    fn side_relation(&mut self, _xid: u32, _relation: &Arc<Relation>) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// A changed row of the sub-transaction `subxid` (or of `xid` itself) of `xid`.
    ///
    /// # Errors
    /// As the trait says.
    fn side_row(
        &mut self,
        _xid: u32,
        _subxid: u32,
        _relation: u32,
        _operation: u8,
        _bytes: &[u8],
    ) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// Emptied tables, as [`Sink::side_row`].
    ///
    /// # Errors
    /// As the trait says.
    fn side_truncate(&mut self, _xid: u32, _subxid: u32, _truncate: &Truncate) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// A transactional logical message, as [`Sink::side_row`].
    ///
    /// # Errors
    /// As the trait says.
    fn side_message(&mut self, _xid: u32, _subxid: u32, _message: &Message<'_>) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// The sub-transaction's changes do not count.
    ///
    /// # Errors
    /// As the trait says.
    fn side_abort(&mut self, _xid: u32, _subxid: u32) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// Forgets all of a streamed transaction: it was aborted, or nothing of it counts.
    ///
    /// # Errors
    /// As the trait says.
    fn side_drop(&mut self, _xid: u32) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// The streamed transaction was committed: what lies in its side storage is a transaction now.
    ///
    /// # Errors
    /// As the trait says.
    fn adopt(&mut self, _xid: u32, _begin: &Begin, _commit: &Commit) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }
}
