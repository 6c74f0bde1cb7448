//! What a transaction's content adds up to, the same at both ends however often the link was cut between.

use irongate_trail::format::Digest;

/// The running digest of a transaction. See the top of [`crate::wire`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Content {
    digest: Digest,
    /// Checksum of the description folded last.
    relation: Option<u32>,
}

impl Content {
    /// Takes in the description of the table that the next change is about, by the checksum of its record;
    /// true if it is another one than before.
    #[inline]
    pub fn relation(&mut self, crc: u32) -> bool {
        let differs = self.relation != Some(crc);
        if differs {
            self.relation = Some(crc);
            self.digest.fold(crc);
        }
        differs
    }

    /// Takes in a record.
    #[inline]
    pub fn record(&mut self, bytes: &[u8]) {
        self.digest.fold(crc32c::crc32c(bytes));
    }

    /// What it adds up to so far.
    pub fn value(&self) -> u64 {
        self.digest.0
    }
}
