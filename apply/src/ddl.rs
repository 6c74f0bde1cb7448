//! The DDL channel at the target: changes of structure that the source put into the stream, applied at their place.
//!
//! # Why structure, and a difference of structures
//!
//! A message holds what the source's catalog says of each object after the command ([`structure`]), and what it and its parts
//! were called before. No text of the command is carried: it may hold other statements, or expressions whose values differ
//! from run to run. What is run here is computed: the target's own catalog is asked the same questions, and the
//! [`difference`] is what the statements are made of. So a message that finds its work done does nothing, a target that
//! differed before is brought in line where it was touched, and what the target has for itself (an index for reports, a
//! column of its own) stays, since only what *went* at the source is taken away: what the description of before has and the
//! one of after has not, by the source's OIDs. In the same way something is renamed, and not dropped and made anew, because
//! its OID stayed.
//!
//! # Its place
//!
//! A [`Batch`](crate::Batch) ends with the message. So rows from before it are applied under the old structure, and the rows
//! behind it meet plans and prepared statements made anew. All of it lies in the one target transaction that writes the
//! checkpoint: a change of structure is applied once, or not at all, as rows are. Behind a transaction with a change of
//! structure the target transaction ends, since PostgreSQL lets a new label of an enum be used only then.
//!
//! # Rows that went with it
//!
//! Where a table was rewritten at the source with values that nobody can compute again, its description says that all its
//! rows follow. Then the table is emptied here first; foreign keys are not looked at in replica role. Where the flow has the
//! source not send them (`on_rewrite = "stop"`), this is where Replicat stops.
//!
//! # As whom
//!
//! Replicat is no superuser. Set-up makes its role a member of the roles that own the flow's tables, which lets it alter what
//! they own; what is new is made as its owner. Where that right is lacking, the statement is refused and named with what
//! gives the right.

pub(crate) mod difference;
mod message;
pub(crate) mod offer;
mod other;
pub(crate) mod structure;
mod table;

pub(crate) use message::{Dropped, Message};

/// How changes of structure are applied.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DdlSettings {
    /// Who owns what is made here, instead of the role of the same name as the source's owner.
    pub owner: Option<String>,
}
