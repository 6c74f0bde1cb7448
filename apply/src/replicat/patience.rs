//! When a faster way that has failed is tried again: ever more rarely while it goes on failing.

/// After a failure the plain way is gone so often; each time twice as often, up to the most.
const REST: u32 = 8;
const LONGEST_REST: u32 = 1024;

/// When not to try again yet.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Patience {
    left: u32,
    last: u32,
}

impl Patience {
    pub(super) fn failed(&mut self) {
        self.last = (self.last * 2).clamp(REST, LONGEST_REST);
        self.left = self.last;
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether it is time; asked each time it would be gone.
    pub(super) fn is_over(&mut self) -> bool {
        let is_over = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_over
    }
}
