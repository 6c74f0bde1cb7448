//! Between two attempts of a process: how long to wait, and the wish that there be no other.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use irongate_trail::Timestamp;

/// Waits before another attempt: longer each time, and not in step with others.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl BackOff {
    /// Waits of `first`, then twice as long each time, up to `longest`; a quarter more at most, by chance.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait this time.
    #[expect(clippy::should_implement_trait, reason = "there is always another, so it is no iterator")]
    pub fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        // The low bits of the clock scatter processes that lost the same peer.
        let scatter = u32::from(Timestamp::now().0.to_le_bytes()[0]);
        wait + wait * scatter / 1024
    }

    /// An attempt has succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("uttered", &self.uttered).finish_non_exhaustive()
    }
}

/// Somebody's wish that we end, asked after in several places and remembered once it was uttered.
pub struct Stop {
    wish: Pin<Box<dyn Future<Output = ()> + Send>>,
    uttered: bool,
}

impl Stop {
    /// The wish that is uttered when `wish` is ready.
    pub fn new(wish: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { wish: Box::pin(wish), uttered: false }
    }

    /// Waits for the wish. Cancel-safe, and ready at once when it was uttered before.
    pub async fn asked(&mut self) {
        if !self.uttered {
            self.wish.as_mut().await;
            self.uttered = true;
        }
    }

    /// Does `work`, unless the wish comes first. Cancel-safe if `work` is.
    pub async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if self.uttered || self.wish.as_mut().poll(context).is_ready() {
                self.uttered = true;
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_over_after_a_success() {
        let mut back_off = BackOff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<u64> = (0..8).map(|_| back_off.next().as_millis() as u64).collect();
        for (wait, least) in waits.iter().zip([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]) {
            assert!((least..=least + least / 4).contains(wait), "{wait} ms for {least} ms");
        }
        back_off.reset();
        assert!(back_off.next() < Duration::from_millis(1_300));
    }
}
