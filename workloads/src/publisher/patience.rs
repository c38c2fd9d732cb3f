//! How long a session goes on while the broker confirms nothing.
//! Rule: short at first, for a new connection often cures it; ever longer after that, for it may be the broker that needs the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use lapin::Connection;
use tokio::time::{Instant, sleep_until};

/// With events under way, so long without a confirm ends the session: not ready, a new connection, and all of them again. What a new channel sends while
/// its queue has lost one leader and has no other yet is forgotten by the broker and never confirmed (measured on 4.0.5).
const SHORTEST: Duration = Duration::from_secs(3);
/// So long after some sessions that ended so, and at once when the broker says that it takes nothing now: each new connection would only press a few more
/// events upon it.
const LONGEST: Duration = Duration::from_secs(30);

/// How often it has ended, less the sessions since then in which something was confirmed; of all sessions of one company.
pub type Ended = Arc<AtomicU32>;

/// That of one session.
pub struct Patience {
    ended: Ended,
    heard: bool,
    since: Instant,
}

impl Patience {
    /// Begins with the session.
    pub fn new(ended: &Ended) -> Self {
        Self { ended: Arc::clone(ended), heard: false, since: Instant::now() }
    }

    /// Begins again: nothing is under way, or nothing can be confirmed yet.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Begins again: something was confirmed. A broker that is slow by nature gets the time it needs, not a new connection for each burst.
    pub fn heard(&mut self) {
        self.begin();
        if !std::mem::replace(&mut self.heard, true) {
            self.ended.store(self.ended().saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Resolves when it ends, with the reason.
    pub async fn end(&self, connection: &Connection) -> anyhow::Error {
        loop {
            let bound = bound(self.ended(), connection.status().blocked());
            if self.since.elapsed() >= bound {
                self.ended.store(self.ended().saturating_add(1), Ordering::Relaxed);
                return anyhow!(
                    "the broker confirmed nothing for {bound:.1?}: is it short of memory or disk, has the queue a majority"
                );
            }
            sleep_until(self.since + bound).await;
        }
    }

    /// The outcome of `act`, which is given up when the patience ends: a socket takes nothing more when its other side has vanished.
    ///
    /// # Errors
    /// When it ends, or `act` fails.
    pub async fn with<T>(
        &self,
        connection: &Connection,
        act: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            outcome = act => outcome,
            error = self.end(connection) => Err(error),
        }
    }

    fn ended(&self) -> u32 {
        self.ended.load(Ordering::Relaxed)
    }
}

fn bound(ended: u32, blocked: bool) -> Duration {
    if blocked {
        return LONGEST;
    }
    // Half as long again each time; past the tenth it makes no difference.
    SHORTEST.mul_f64(1.5_f64.powi(ended.min(10) as i32)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patience_grows_by_half_from_three_to_thirty_seconds_and_is_long_at_once_with_a_broker_that_says_so() {
        let seconds: Vec<f64> = (0..8).map(|ended| bound(ended, false).as_secs_f64()).collect();
        assert_eq!(seconds, [3.0, 4.5, 6.75, 10.125, 15.1875, 22.78125, 30.0, 30.0]);
        assert_eq!(bound(0, true), LONGEST);
        assert_eq!(bound(u32::MAX, false), LONGEST);
    }

    #[test]
    fn a_session_with_confirms_takes_back_one_that_had_none_and_no_more() {
        let ended = Ended::new(AtomicU32::new(3));
        let mut patience = Patience::new(&ended);
        patience.begin();
        assert_eq!(ended.load(Ordering::Relaxed), 3, "nothing was confirmed yet");
        patience.heard();
        patience.heard();
        assert_eq!(ended.load(Ordering::Relaxed), 2);
        Patience::new(&ended).heard();
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
