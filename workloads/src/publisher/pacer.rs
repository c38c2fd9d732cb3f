//! How many events are due: counted from the start, so that late wake-ups never add up to a drift.
//! Rule: pure; time comes in as the duration since the start.

use std::time::Duration;

/// Longest debt that is made good after a pause; the rest is dropped, for a flood helps nobody.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The pace of one company.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval: f64,
    offset: f64,
    issued: u64,
}

impl Pacer {
    /// One event each `interval_ms`; 0 means as many as are asked for.
    #[must_use]
    pub fn new(interval_ms: f64) -> Self {
        Self { interval: interval_ms / 1000.0, offset: 0.0, issued: 0 }
    }

    /// Takes the events that are due `elapsed` after the start, at most `room`.
    pub fn take(&mut self, elapsed: Duration, room: usize) -> usize {
        if self.interval == 0.0 {
            return room;
        }
        let due = ((elapsed.as_secs_f64() - self.offset) / self.interval) as u64;
        let taken = due.saturating_sub(self.issued).min(room as u64);
        self.issued += taken;
        let debt = elapsed.as_secs_f64() - self.next_at();
        if debt > CATCH_UP.as_secs_f64() {
            self.offset += debt - CATCH_UP.as_secs_f64();
        }
        taken as usize
    }

    /// When the next event is due, since the start; `None` when there is no pace.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        (self.interval > 0.0).then(|| Duration::try_from_secs_f64(self.next_at()).unwrap_or(Duration::MAX))
    }

    fn next_at(&self) -> f64 {
        self.offset + (self.issued + 1) as f64 * self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_events_a_second_stay_a_thousand_however_late_the_wake_ups_are() {
        let mut pacer = Pacer::new(1.0);
        let mut published = 0;
        for step in 1..=40_000_u64 {
            published += pacer.take(Duration::from_micros(step * 1_517), 1000);
        }
        assert_eq!(published, 60_680);
    }

    #[test]
    fn an_event_is_never_early_and_the_next_one_is_foretold() {
        let mut pacer = Pacer::new(2.5);
        assert_eq!(pacer.next(), Some(Duration::from_micros(2_500)));
        assert_eq!(pacer.take(Duration::from_micros(2_499), 10), 0);
        assert_eq!(pacer.take(Duration::from_micros(2_501), 10), 1);
        assert_eq!(pacer.next(), Some(Duration::from_millis(5)));
    }

    #[test]
    fn after_a_long_pause_at_most_a_second_is_made_good() {
        let mut pacer = Pacer::new(1.0);
        let late = Duration::from_secs(60);
        assert_eq!(pacer.take(late, 100), 100);
        let rest: usize = (0..100).map(|_| pacer.take(late, 100)).sum();
        assert!((899..=1001).contains(&(rest)), "{rest}");
    }

    #[test]
    fn without_a_pace_there_is_always_room() {
        let mut pacer = Pacer::new(0.0);
        assert_eq!(pacer.take(Duration::ZERO, 500), 500);
        assert_eq!(pacer.next(), None);
    }
}
