//! A limit on how much is read in a second, shared by everything that reads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The limit. Work is done first and paid for afterwards, so that a piece may be larger than a second's share.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_a_second: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_a_second: Option<u64>) -> Self {
        Self { bytes_a_second, free_at: Mutex::new(None) }
    }

    /// Waits until so many bytes are paid for. Cancel-safe: what was booked stays booked.
    pub(crate) async fn pay(&self, bytes: u64) {
        if let Some(until) = self.book(bytes, Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn book(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.bytes_a_second?.max(1);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = free_at.filter(|at| *at > now).unwrap_or(now);
        let until = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *free_at = Some(until);
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_read_side_by_side_is_paid_one_after_the_other() {
        let (pace, now) = (Pace::new(Some(1000)), Instant::now());
        assert_eq!(pace.book(500, now), Some(now + Duration::from_millis(500)));
        assert_eq!(pace.book(1000, now), Some(now + Duration::from_millis(1500)));
        let later = now + Duration::from_secs(9);
        assert_eq!(
            pace.book(100, later),
            Some(later + Duration::from_millis(100)),
            "a pause saves nothing up"
        );
        assert_eq!(Pace::new(None).book(1 << 40, now), None);
    }
}
