//! A limit on the bytes of all sessions together.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Hands out bytes, so many a second. What was not used is not kept for later, but for a moment's worth.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: Option<u64>,
    /// From when on the next bytes may go.
    free: Mutex<Option<Instant>>,
}

/// So much of what was not used may come at once.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    pub(super) fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.filter(|rate| *rate > 0), free: Mutex::new(None) }
    }

    /// Waits until so many bytes may go. Cancel-safe; the bytes count as gone.
    pub(super) async fn take(&self, bytes: usize) {
        if self.per_second.is_none() {
            return;
        }
        let now = Instant::now();
        let until = self.claim(now, bytes);
        if until > now {
            tokio::time::sleep_until(until).await;
        }
    }

    /// From when on so many bytes may go; those that are asked for next go behind them.
    fn claim(&self, now: Instant, bytes: usize) -> Instant {
        let Some(rate) = self.per_second else { return now };
        let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let from = free.map_or(now, |free| free.max(now.checked_sub(BURST).unwrap_or(now)));
        *free = Some(from + Duration::from_secs_f64(bytes as f64 / rate as f64));
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_at_the_rate_whoever_asks() {
        let rate = Rate::new(Some(1000));
        let begin = Instant::now();
        let after = |from: Instant| from.saturating_duration_since(begin).as_millis();
        assert_eq!(after(rate.claim(begin, 500)), 0);
        assert_eq!(after(rate.claim(begin, 400)), 500);
        assert_eq!(after(rate.claim(begin, 100)), 900);
        // What was not used in a long while is not made up for, but for a moment's worth.
        let later = begin + Duration::from_secs(60);
        assert_eq!(after(rate.claim(later, 1000)), 59_900);
        assert_eq!(after(rate.claim(later, 1)), 60_900);
        assert_eq!(Rate::new(None).claim(begin, usize::MAX), begin);
    }
}
