//! When to let bytes come together before they are read.
//!
//! A walsender hands every small message to the kernel by itself. A reader that is as quick as it is then wakes up for
//! every few hundred bytes, and both spend more time in the kernel than on the stream. Once that has gone on for a
//! while, a reader that finds nothing pauses before it waits. The pause costs no throughput, because what comes
//! meanwhile fits into the socket's buffer, and a stream that is not at full speed never meets it. (Measured over
//! loopback with a million small rows on two processors: half the reader's processor time or less, and at least a
//! tenth more rows a second.)
//!
//! Not for Unix-domain sockets: the kernel does not join the messages in their buffers and counts some hundred bytes
//! for each, so that few of them fit.

use std::time::{Duration, Instant};

/// The pause; the runtime's timer has no finer step.
const PAUSE: Duration = Duration::from_millis(1);
/// Reads that follow each other within this time belong to one burst.
const BURST: Duration = Duration::from_micros(500);
/// So many small reads in one burst make it worth pausing.
const PATIENCE: u32 = 64;
/// A read of fewer bytes is small.
const SMALL: usize = 32 * 1024;
/// So few bytes in a whole pause are the end of a burst.
const TRICKLE: usize = 2 * 1024;

pub(super) struct Pace {
    allowed: bool,
    last: Option<Instant>,
    /// Small reads since the burst began.
    small: u32,
}

impl Pace {
    pub(super) fn new(allowed: bool) -> Self {
        Self { allowed, last: None, small: 0 }
    }

    /// Pauses if it is worth it, and says whether it has. Cancel-safe.
    pub(super) async fn pause(&mut self) -> bool {
        let worth_it = self.allowed && self.small >= PATIENCE;
        if worth_it {
            tokio::time::sleep(PAUSE).await;
        }
        worth_it
    }

    pub(super) fn after_read(&mut self, bytes: usize, paused: bool) {
        if self.allowed {
            self.step(bytes, paused, Instant::now());
        }
    }

    fn step(&mut self, bytes: usize, paused: bool, now: Instant) {
        let in_burst = self.last.is_some_and(|last| now.duration_since(last) < BURST);
        self.last = Some(now);
        self.small = match (paused, bytes < SMALL) {
            (true, true) if bytes < TRICKLE => 0,
            (true, true) => self.small,
            // It may come together by itself by now: the next small read tells.
            (true, false) => PATIENCE - 1,
            (false, true) if in_burst => (self.small + 1).min(PATIENCE),
            (false, _) => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of (microseconds since the last, bytes, paused) and whether the next read would be paused.
    fn paused_after(steps: impl IntoIterator<Item = (u64, usize, bool)>) -> bool {
        let mut pace = Pace::new(true);
        let mut now = Instant::now();
        for (micros, bytes, paused) in steps {
            now += Duration::from_micros(micros);
            pace.step(bytes, paused, now);
        }
        pace.small >= PATIENCE
    }

    #[test]
    fn only_a_long_burst_of_small_reads_is_paused() {
        let burst = || std::iter::repeat_n((50, 300, false), 100);
        assert!(paused_after(burst()));
        assert!(!paused_after(burst().take(20)));
        // A hundred transactions a second, each of a few reads.
        assert!(!paused_after((0..1000).map(|i| (if i % 4 == 0 { 10_000 } else { 50 }, 300, false))));
        // Reads that are full by themselves.
        assert!(!paused_after(std::iter::repeat_n((50, 200_000, false), 100)));
        // The end of the burst, while pausing.
        assert!(!paused_after(burst().chain([(1100, 60, true)])));
        assert!(paused_after(burst().chain([(1100, 20_000, true)])));
        // So much in a pause that a read without one is tried, and then pauses again.
        assert!(!paused_after(burst().chain([(1100, 50_000, true)])));
        assert!(paused_after(burst().chain([(1100, 50_000, true), (30, 300, false)])));
    }
}
