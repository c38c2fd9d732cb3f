//! Between two sessions of a program: it is not ready, says why, and waits before it begins the next one.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::health::Readiness;

/// What a program needs to go on after a session failed.
pub struct Retry<'a> {
    stop: &'a CancellationToken,
    readiness: &'a Readiness,
    reconnects: &'a Counter,
    backoff: Backoff,
}

impl<'a> Retry<'a> {
    /// `reconnects` counts the failures.
    pub fn new(stop: &'a CancellationToken, readiness: &'a Readiness, reconnects: &'a Counter) -> Self {
        Self { stop, readiness, reconnects, backoff: Backoff::default() }
    }

    /// Waits after a session that failed after `worked`, or until the program shall stop.
    pub async fn pause(&mut self, error: anyhow::Error, worked: Duration) {
        self.backoff.reset_after(worked);
        let pause = self.backoff.next(rand::random());
        tracing::warn!("{error:#}; trying again in {pause:.1?}");
        self.readiness.not_ready(format!("{error:#}"));
        self.reconnects.inc();
        tokio::select! {
            () = sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }
}
