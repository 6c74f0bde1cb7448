//! When to let bytes come together before they are read.
//!
//! A walsender hands every small message to the kernel by itself. A reader that is as quick as it is is then woken for
//! every few hundred bytes, and the wakening costs the walsender more time than the message does. Once that has gone on
//! for a while, the socket's low-water mark is raised, so that the kernel wakes the reader for many messages at once;
//! a time limit takes what has come when they are few. It costs no throughput, because what comes meanwhile fits into
//! the socket's buffers, and a stream that is not at full speed never meets it. The more comes together, the better:
//! with a full window the walsender's messages join in its own send queue, where they cost half of what they cost on
//! their way, so that the mark is near what a window usually has.
//!
//! A pause of the reader alone does not help: the runtime's poller is woken whether somebody reads or not.
//!
//! Not for Unix-domain sockets: the kernel has no low-water mark for them.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::low_water::LowWater;

/// So many bytes wake the reader while bytes gather.
const GATHERED: i32 = 1024 * 1024;
/// Longest time that bytes gather.
const PAUSE: Duration = Duration::from_millis(10);
/// Reads that follow each other within this time belong to one burst.
const BURST: Duration = Duration::from_micros(500);
/// So many small reads in one burst make it worth gathering.
const PATIENCE: u32 = 64;
/// A read of fewer bytes is small.
const SMALL: usize = 32 * 1024;
/// So few bytes in a whole pause are the end of a burst.
const TRICKLE: usize = 20 * 1024;

pub(super) struct Pace {
    socket: Option<LowWater>,
    burst: Burst,
    /// Until when bytes gather. Outlives a wait that was given up, so that whoever waits anew does not begin anew.
    until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(socket: Option<LowWater>) -> Self {
        Self { socket, burst: Burst::default(), until: None }
    }

    /// Waits for `read`, which had nothing when it was asked; in a burst only for many bytes or a short time.
    /// Cancel-safe if `read` is.
    pub(super) async fn wait<T>(&mut self, mut read: impl Future<Output = T> + Unpin) -> (T, bool) {
        if self.until.is_none() && self.burst.is_on() && self.mark(GATHERED) {
            self.until = Some(Instant::now() + PAUSE);
        }
        let Some(until) = self.until else { return (read.await, false) };
        if let Ok(done) = timeout_at(until, &mut read).await {
            return (done, true);
        }
        self.mark(1);
        (read.await, true)
    }

    fn mark(&mut self, bytes: i32) -> bool {
        self.socket.as_mut().is_some_and(|socket| socket.set(bytes))
    }

    pub(super) fn after_read(&mut self, bytes: usize, gathered: bool) {
        if self.socket.is_none() {
            return;
        }
        self.until = None;
        self.burst.step(bytes, gathered, Instant::now());
        if !self.burst.is_on() {
            self.mark(1);
        }
    }
}

/// Tells a burst of small reads.
#[derive(Default)]
struct Burst {
    last: Option<Instant>,
    /// Small reads since it began.
    small: u32,
}

impl Burst {
    fn is_on(&self) -> bool {
        self.small >= PATIENCE
    }

    fn step(&mut self, bytes: usize, gathered: bool, now: Instant) {
        let goes_on = self.last.is_some_and(|last| now.duration_since(last) < BURST);
        self.last = Some(now);
        self.small = match (gathered, bytes < SMALL) {
            (true, true) if bytes < TRICKLE => 0,
            (true, _) => self.small,
            (false, true) if goes_on || self.is_on() => (self.small + 1).min(PATIENCE),
            (false, _) if self.is_on() => self.small,
            (false, _) => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of (microseconds since the last, bytes, gathered) and whether the next bytes would gather.
    fn gathers_after(steps: impl IntoIterator<Item = (u64, usize, bool)>) -> bool {
        let mut burst = Burst::default();
        let mut now = Instant::now();
        for (micros, bytes, gathered) in steps {
            now += Duration::from_micros(micros);
            burst.step(bytes, gathered, now);
        }
        burst.is_on()
    }

    #[test]
    fn only_a_long_burst_of_small_reads_gathers() {
        let burst = || std::iter::repeat_n((50, 300, false), 100);
        assert!(gathers_after(burst()));
        assert!(!gathers_after(burst().take(20)));
        // A hundred transactions a second, each of a few reads.
        assert!(!gathers_after((0..1000).map(|i| (if i % 4 == 0 { 10_000 } else { 50 }, 300, false))));
        // Reads that are full by themselves.
        assert!(!gathers_after(std::iter::repeat_n((50, 200_000, false), 100)));
        // The end of the burst, while bytes gather; and its middle.
        assert!(!gathers_after(burst().chain([(10_100, 60, true)])));
        assert!(gathers_after(burst().chain([(10_100, 60_000, true)])));
        assert!(gathers_after(burst().chain([
            (5100, 1_070_000, true),
            (30, 300, false),
            (900, 1_066_000, true)
        ])));
    }
}
