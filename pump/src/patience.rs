//! When to try again, when to end, and how fast to send.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use irongate_trail::Timestamp;

/// Waits before another attempt: longer each time, and not in step with others.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl BackOff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait this time.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        // The low bits of the clock scatter processes that lost the same peer.
        let scatter = u32::from(Timestamp::now().0.to_le_bytes()[0]);
        wait + wait * scatter / 1024
    }

    /// An attempt has succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Somebody's wish that we end, asked after in several places and remembered once it was uttered.
pub(crate) struct Stop {
    wish: Pin<Box<dyn Future<Output = ()> + Send>>,
    uttered: bool,
}

impl Stop {
    pub(crate) fn new(wish: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { wish: Box::pin(wish), uttered: false }
    }

    /// Waits for the wish. Cancel-safe, and ready at once when it was uttered before.
    pub(crate) async fn asked(&mut self) {
        if !self.uttered {
            self.wish.as_mut().await;
            self.uttered = true;
        }
    }

    /// Does `work`, unless the wish comes first.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            done = work => Some(done),
        }
    }
}

/// A bucket that fills with the right to send, so many bytes a second, and holds a tenth of a second's.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: u64,
    /// Below zero after more was sent than was there.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self { rate, tokens: Self::depth_of(rate) as f64, filled: now }
    }

    fn depth_of(rate: u64) -> usize {
        usize::try_from(rate / 10).unwrap_or(usize::MAX).max(100)
    }

    /// The most that should be sent at once.
    pub(crate) fn depth(&self) -> usize {
        Self::depth_of(self.rate)
    }

    /// Takes the right to send `bytes` now; how long to wait before.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let rate = self.rate as f64;
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.filled = now;
        self.tokens = (self.tokens + gained).min(self.depth() as f64) - bytes as f64;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / rate) }
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

    #[test]
    fn a_bucket_lets_pass_what_its_rate_allows_and_no_burst_beyond_a_tenth_of_a_second() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10_000, begin);
        let (mut now, mut sent) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            now += bucket.take(700, now);
            sent += 700;
        }
        assert!((99_000..=103_000).contains(&sent), "{sent} bytes in 10 s at 10000 a second");
        // Idle for an hour: what was not sent then is not made up for.
        now += Duration::from_secs(3600);
        assert_eq!(bucket.take(1000, now), Duration::ZERO);
        assert!(bucket.take(1000, now) >= Duration::from_millis(90));
    }
}
