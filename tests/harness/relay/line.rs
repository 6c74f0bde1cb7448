//! One direction of the line: when a packet arrives, if it does. Knows no clock and no device.
//!
//! A packet waits until those before it are on the line, then takes its own time to get onto it, and then the line's
//! delay. Packets stay in order, so what is under way is a queue; where the delay is made shorter, they wait for those
//! before them.

use std::time::{Duration, Instant};

use irongate_tests::network::order::{Count, Shape};

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Line {
    shape: Shape,
    cut: bool,
    /// When the last packet that was taken is on the line.
    free: Option<Instant>,
    count: Count,
}

impl Line {
    pub(crate) fn shape(&mut self, shape: Shape) {
        self.shape = shape;
        self.free = None;
    }

    pub(crate) fn cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    pub(crate) fn count(&self) -> Count {
        self.count
    }

    /// Takes a packet of so many bytes at `now` and says when it arrives; `None` when it never does.
    pub(crate) fn offer(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        if self.cut {
            self.count.lost += 1;
            return None;
        }
        let Some(rate) = self.shape.rate else { return Some(now + self.shape.delay) };
        let rate = rate.max(1) as f64;
        let begin = self.free.map_or(now, |free| free.max(now));
        let waiting = (begin - now).as_secs_f64() * rate;
        if waiting > self.shape.queue as f64 {
            self.count.dropped += 1;
            return None;
        }
        let free = begin + Duration::from_secs_f64(bytes as f64 / rate);
        self.free = Some(free);
        Some(free + self.shape.delay)
    }

    /// A packet is at the end of the line; false when that was cut meanwhile.
    pub(crate) fn arrive(&mut self, bytes: usize) -> bool {
        if self.cut {
            self.count.lost += 1;
            return false;
        }
        self.count.packets += 1;
        self.count.bytes += bytes as u64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_takes_its_turn_its_time_and_the_line_s_delay() {
        let mut line = Line::default();
        let now = Instant::now();
        assert_eq!(line.offer(now, 1500), Some(now));
        line.shape(Shape { delay: 50 * MS, rate: Some(100_000), queue: 2000 });
        assert_eq!(line.offer(now, 1000), Some(now + 60 * MS));
        assert_eq!(line.offer(now, 1000), Some(now + 70 * MS));
        assert_eq!(line.offer(now + 5 * MS, 1000), Some(now + 80 * MS));
        // After a pause the line is free, and has saved nothing up.
        assert_eq!(line.offer(now + 500 * MS, 1000), Some(now + 560 * MS));
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped() {
        let mut line = Line::default();
        line.shape(Shape { delay: MS, rate: Some(1000), queue: 2500 });
        let now = Instant::now();
        let taken = (0..10).filter(|_| line.offer(now, 1000).is_some()).count();
        assert_eq!((taken, line.count().dropped), (3, 7));
    }

    #[test]
    fn a_cut_loses_what_comes_and_what_is_under_way() {
        let mut line = Line::default();
        let now = Instant::now();
        assert!(line.offer(now, 10).is_some());
        line.cut(true);
        assert!(!line.arrive(10));
        assert_eq!(line.offer(now, 10), None);
        line.cut(false);
        assert!(line.offer(now, 10).is_some() && line.arrive(10));
        assert_eq!(line.count(), Count { packets: 1, bytes: 10, dropped: 0, lost: 2 });
    }
}
