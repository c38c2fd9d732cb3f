//! When the next frame goes out: the first change after a quiet time at once, then at most one frame each half second.
//! Rule: pure; the clock comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two frames.
pub const BEAT: Duration = Duration::from_millis(500);

/// The rhythm of the frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beat {
    sent: Option<Instant>,
    due: Option<Instant>,
}

impl Beat {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let earliest = self.sent.map_or(now, |sent| (sent + BEAT).max(now));
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
        beat.changed(at(0));
        assert_eq!(beat.due(), Some(at(0)));
        beat.sent(at(0));
        beat.changed(at(100));
        beat.changed(at(400));
        assert_eq!(beat.due(), Some(at(500)), "later changes do not push it back");
        beat.sent(at(501));
        assert_eq!(beat.due(), None);
        beat.changed(at(5000));
        assert_eq!(beat.due(), Some(at(5000)), "after a quiet time at once again");
    }
}
