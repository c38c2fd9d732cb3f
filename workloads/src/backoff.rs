//! How long to wait before the next attempt: fast at first, then doubling up to a bound, never two processes in step.
//! Rule: pure; the random number comes in as an argument.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Counts the failures in a row.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure; `random` is uniform in 0..1 and takes up to half of the pause away.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
    }

    /// Forgets the failures after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Forgets the failures when what failed had worked for a while. A connection that dies at once is no success.
    pub fn reset_after(&mut self, worked: Duration) {
        if worked > 2 * LONGEST {
            self.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_five_seconds_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(1.0).as_millis(), 2500);
        backoff.reset_after(Duration::from_secs(1));
        assert_eq!(backoff.next(0.0).as_millis(), 5000);
        backoff.reset_after(Duration::from_secs(11));
        assert_eq!(backoff.next(0.0).as_millis(), 100);
    }
}
