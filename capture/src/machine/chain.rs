//! The chain of positions, and the proof that nothing is confirmed too early.
//!
//! ```text
//! received ≥ appended ≥ durable ≥ confirmed
//! ```
//!
//! `received` may run ahead of `appended` by what is in the air: an open transaction, rows nobody wants, a keepalive
//! that is not noted yet. `appended` may run ahead of `durable` by what one sync takes. `durable` may run ahead of
//! `confirmed` by the feedback's rhythm. No link ever goes back while a connection lasts: a move that would break the
//! chain is an error, and the slot is told nothing more.

use irongate_trail::{Lsn, ResumeLsn};

use crate::error::Error;

/// Where an Extract is, as places to begin again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// The highest position that the server has named.
    pub received: Lsn,
    /// Everything before it is in the sink or is not for it.
    pub appended: ResumeLsn,
    /// Everything before it survives a power cut.
    pub durable: ResumeLsn,
    /// The slot was told that nothing before it is needed any more.
    pub confirmed: ResumeLsn,
}

impl Positions {
    /// At the start everything before `durable` has gone all the way, but for the slot, which may not have heard it.
    pub(super) fn new(durable: ResumeLsn) -> Self {
        Self { received: durable.0, appended: durable, durable, confirmed: ResumeLsn::default() }
    }

    /// The server has named `lsn`. Frames that only describe carry 0/0, and nothing lowers anything.
    #[inline]
    pub(super) fn receive(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    pub(super) fn append(&mut self, to: ResumeLsn) -> Result<(), Error> {
        if to < self.appended || to.0 > self.received {
            return Err(self.broken("append", to));
        }
        self.appended = to;
        Ok(())
    }

    pub(super) fn sync(&mut self, to: ResumeLsn) -> Result<(), Error> {
        if to < self.durable || to > self.appended {
            return Err(self.broken("sync", to));
        }
        self.durable = to;
        Ok(())
    }

    pub(super) fn confirm(&mut self, to: ResumeLsn) -> Result<(), Error> {
        if to < self.confirmed || to > self.durable {
            return Err(self.broken("confirm", to));
        }
        self.confirmed = to;
        Ok(())
    }

    fn broken(&self, step: &str, to: ResumeLsn) -> Error {
        Error::Positions(format!(
            "cannot {step} {to} with received {}, appended {}, durable {}, confirmed {}",
            self.received, self.appended, self.durable, self.confirmed
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> ResumeLsn {
        ResumeLsn(Lsn(lsn))
    }

    #[test]
    fn no_link_of_the_chain_overtakes_another_or_goes_back() {
        let mut chain = Positions::new(at(100));
        chain.receive(Lsn(200));
        chain.receive(Lsn(0));
        assert_eq!(chain.received, Lsn(200));
        assert!(chain.append(at(201)).is_err());
        chain.append(at(200)).unwrap();
        assert!(chain.append(at(199)).is_err());
        assert!(chain.sync(at(201)).is_err());
        chain.sync(at(150)).unwrap();
        assert!(chain.sync(at(149)).is_err());
        assert!(chain.confirm(at(151)).is_err());
        chain.confirm(at(150)).unwrap();
        assert!(chain.confirm(at(149)).is_err());
    }
}
