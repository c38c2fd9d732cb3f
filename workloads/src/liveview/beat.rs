//! When the next frame goes out: the first change after a quiet time at once, the next ones no sooner than a while after it.
//! Rule: pure; the clock comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two whole frames: the contract with clients that exist.
pub const BEAT: Duration = Duration::from_millis(500);
/// Shortest time between two frames of what changed: nobody sees that a price was kept back for so long.
pub const STEP: Duration = Duration::from_millis(50);
/// With many readers it is longer, so that a pod sends at most 20 000 frames a second, at about 20 µs each.
const STEP_OF_EACH: Duration = Duration::from_micros(50);

/// Shortest time between two frames of what changed, with so many readers.
#[must_use]
pub fn step(readers: usize) -> Duration {
    STEP_OF_EACH.saturating_mul(u32::try_from(readers).unwrap_or(u32::MAX)).clamp(STEP, BEAT)
}

/// The rhythm of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beat {
    sent: Option<Instant>,
    due: Option<Instant>,
}

impl Beat {
    /// Something changed, and frames are at least `apart`.
    pub fn changed(&mut self, now: Instant, apart: Duration) {
        let earliest = self.sent.map_or(now, |sent| (sent + apart).max(now));
        self.due.get_or_insert(earliest);
    }

    /// When a frame is due; `None` while nothing changed.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A frame went out.
    pub fn sent(&mut self, now: Instant) {
        *self = Self { sent: Some(now), due: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_goes_out_at_once_and_the_next_ones_wait_for_the_beat() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut beat = Beat::default();
        assert_eq!(beat.due(), None);
        beat.changed(at(0), BEAT);
        assert_eq!(beat.due(), Some(at(0)));
        beat.sent(at(0));
        beat.changed(at(100), BEAT);
        beat.changed(at(400), BEAT);
        assert_eq!(beat.due(), Some(at(500)), "later changes do not push it back");
        beat.sent(at(501));
        assert_eq!(beat.due(), None);
        beat.changed(at(5000), BEAT);
        assert_eq!(beat.due(), Some(at(5000)), "after a quiet time at once again");
    }

    #[test]
    fn steps_are_short_until_readers_are_many_and_never_longer_than_the_beat() {
        let steps = [0, 1_000, 4_000, 10_000, usize::MAX].map(step);
        assert_eq!(steps, [50, 50, 200, 500, 500].map(Duration::from_millis));
    }
}
