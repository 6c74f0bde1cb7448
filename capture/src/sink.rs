//! Where Extract puts what it captured: a trail, or whatever an embedder makes of it.

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
/// stream      = { transaction | progress | message | side }
/// transaction = begin { relation | row | truncate | message } ( commit | abandon ) | adopt
/// side        = side_relation | side_row | side_truncate | side_message | side_abort | side_drop
/// ```
///
/// A transaction is begun only when it has something in it. [`Sink::relation`] comes before the first row that uses
/// the relation, and again when the relation has changed. Calls for the side storage of a streamed transaction are
/// keyed by its top-level xid; they stop with one of [`Sink::adopt`] and [`Sink::side_drop`], never both.
///
/// The side calls have defaults that refuse: a sink without side storage must ask for a stream without streamed
/// transactions.
///
/// # Errors
/// Any error ends the stream: after it, the machine must be told of the disconnection before it goes on.
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
    fn relation(&mut self, relation: &Relation) -> Result<(), Error>;

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

    /// Forgets the transaction begun: the connection was lost, the server will send it again.
    ///
    /// # Errors
    /// As the trait says.
    fn abandon(&mut self) -> Result<(), Error>;

    /// Notes a place up to which there is nothing more to come.
    ///
    /// # Errors
    /// As the trait says.
    fn progress(&mut self, progress: &Progress) -> Result<(), Error>;

    /// Describes a table in the side storage of `xid`.
    ///
    /// # Errors
    /// As the trait says.
    fn side_relation(&mut self, _xid: u32, _subxid: u32, _relation: &Relation) -> Result<(), Error> {
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

    /// The sub-transaction's changes do not count. Its relations are described again before they are used again.
    ///
    /// # Errors
    /// As the trait says.
    fn side_abort(&mut self, _xid: u32, _subxid: u32) -> Result<(), Error> {
        Err(Error::NoSideStorage)
    }

    /// Forgets all of a streamed transaction.
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
