//! Waiting for a condition.
//! Rule: never for seconds; and who waits in vain says what was seen last.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Pause between two looks; short beside everything that is waited for.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks until `look` succeeds and gives what it found; its error says what it saw instead.
///
/// # Errors
/// The deadline passed; the message has the description and the last look's error.
pub async fn wait_until<T>(
    description: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = match look().await {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        if start.elapsed() >= deadline {
            return Err(anyhow!("waited {} s until {description}; seen last: {seen:#}", deadline.as_secs()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
