//! How fast to send.

use std::time::{Duration, Instant};

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
