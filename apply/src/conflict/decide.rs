//! The decision about one change of one key: what is found here, what comes, which rule; out comes what to do.
//!
//! No clock and no database. That both sites come to the same end rests on two properties, which the tests try:
//!
//! * [`Rule::Latest`] asks nothing but the two versions, and of two versions both sites prefer the same;
//! * under [`Rule::Keep`] a change is taken only if it was made in knowledge of what is here, or if nothing of this
//!   site's own is here. Whoever overwrites at the other site can rely on that: what he loses by it was refused here.

use std::time::Duration;

use irongate_trail::Timestamp;

use super::{Base, Kind, Rule};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Insert,
    Update,
    Delete,
}

/// Who wrote what is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writer {
    /// This site, at this time of its own.
    Here(Timestamp),
    /// The flow in question.
    There,
    /// Nobody knows any more: it is older than the server's memory of commit times.
    Unknown,
}

/// What is here under the key of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// Neither a row nor a tombstone.
    Nothing,
    /// A tombstone.
    Gone(Writer),
    /// A row; and whether it has the values that the change found at its source, if it says them.
    Row(Writer, Option<bool>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Incoming {
    pub(crate) operation: Operation,
    pub(crate) at: Timestamp,
    pub(crate) base: Option<Base>,
}

/// What the decision depends on besides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Terms {
    /// As it works here ([`Rule::at`]).
    pub(crate) rule: Rule,
    /// The other site wins where two commits have the same time.
    pub(crate) tie_to_incoming: bool,
    /// Differences are added in some column. A row that was deleted at one site is deleted then: sums cannot be made out
    /// of it.
    pub(crate) additive: bool,
    /// A tombstone that was this old when the change was made says nothing.
    pub(crate) tombstone_age: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// No conflict: the change is applied.
    Plain,
    /// Something to be recorded.
    Conflict(Kind, Resolution),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resolution {
    /// What comes is applied.
    Incoming,
    /// The same, and this site sends the row out as its own, so that the other one has it whatever crossed it.
    SentBack,
    /// What is here stays.
    Local,
    /// What is here stays, and what comes goes into the error queue.
    Queued,
}

fn kind(operation: Operation, found: Found) -> Kind {
    match (operation, found) {
        (Operation::Insert, Found::Row(..)) => Kind::InsertExists,
        (Operation::Insert, _) => Kind::InsertDeleted,
        (Operation::Update, Found::Row(_, Some(false))) => Kind::UpdateDiffers,
        (Operation::Update, Found::Row(..)) => Kind::UpdateOrigin,
        (Operation::Update, _) => Kind::UpdateMissing,
        (Operation::Delete, Found::Row(_, Some(false))) => Kind::DeleteDiffers,
        (Operation::Delete, Found::Row(..)) => Kind::DeleteOrigin,
        (Operation::Delete, _) => Kind::DeleteMissing,
    }
}

/// When this site wrote what is here, if it did.
fn written_here(found: Found) -> Option<Timestamp> {
    match found {
        Found::Gone(Writer::Here(at)) | Found::Row(Writer::Here(at), _) => Some(at),
        _ => None,
    }
}

pub(crate) fn decide(terms: &Terms, found: Found, incoming: Incoming) -> Decision {
    let found = match found {
        Found::Gone(Writer::Here(at)) if is_forgotten(terms, at, incoming.at) => Found::Nothing,
        other => other,
    };
    let exists = matches!(found, Found::Row(..));
    // The change was made in knowledge of what is here.
    let known = match (written_here(found), incoming.base) {
        (None, _) => true,
        (Some(at), Some(Base::Seen(seen))) => seen >= at,
        (Some(_), Some(Base::Own)) => false,
        (Some(_), None) => matches!(found, Found::Row(_, Some(true))),
    };
    let newer =
        written_here(found).is_none_or(|at| incoming.at > at || (incoming.at == at && terms.tie_to_incoming));
    let is_conflict = match (incoming.operation, exists) {
        (Operation::Insert, exists) => exists || !known,
        (_, true) => !known,
        (_, false) => true,
    };
    let kind = kind(incoming.operation, found);
    if terms.additive && exists && incoming.operation == Operation::Delete {
        return if known { Decision::Plain } else { Decision::Conflict(kind, Resolution::Incoming) };
    }
    if terms.additive && !exists && incoming.operation == Operation::Update {
        return Decision::Conflict(kind, Resolution::Local);
    }
    match terms.rule {
        // A key that is used again is no conflict, as long as the order is clear.
        Rule::Latest | Rule::Overwrite
            if (terms.rule == Rule::Overwrite || newer)
                && (!is_conflict || (incoming.operation == Operation::Insert && !exists)) =>
        {
            Decision::Plain
        }
        Rule::Latest if !newer => Decision::Conflict(kind, Resolution::Local),
        _ if !is_conflict => Decision::Plain,
        Rule::Latest | Rule::Overwrite => Decision::Conflict(kind, Resolution::Incoming),
        Rule::Queue => Decision::Conflict(kind, Resolution::Queued),
        // The delete here may have passed the insert on its way, or not: then nobody would undo the insert there.
        _ if kind == Kind::InsertDeleted => Decision::Conflict(kind, Resolution::SentBack),
        _ if known => Decision::Conflict(kind, Resolution::Incoming),
        _ => Decision::Conflict(kind, Resolution::Local),
    }
}

fn is_forgotten(terms: &Terms, buried: Timestamp, at: Timestamp) -> bool {
    let age = i64::try_from(terms.tombstone_age.as_micros()).unwrap_or(i64::MAX);
    at.0.saturating_sub(buried.0) > age
}

#[cfg(test)]
mod tests;
