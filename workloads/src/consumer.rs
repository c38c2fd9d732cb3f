//! `stock-consumer`: reads one company's queue, averages each thousand events, stores the window, then acknowledges it.
//! Rule: a failure of either server drops what is held unacknowledged and starts anew, for ever; the broker delivers again,
//! and the marks in the newest window tell what it holds already.

pub mod batch;
pub mod dead_letters;
pub mod identity;
pub mod intake;
pub mod lease;
pub mod marks;
pub mod metrics;
pub mod pipeline;
pub mod ranges;
pub mod session;
pub mod settings;
pub mod settlement;
pub mod store;
pub mod verify;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lease::Lease;
use self::metrics::Metrics;
use self::session::Surroundings;
pub use self::settings::{Args, Settings};
use crate::health::{self, Health, Readiness};
use crate::retry::Retry;

/// Consumes until `stop`; health and metrics are served on `listener`.
///
/// # Errors
/// When the database's options contradict each other; everything that fails later is tried again.
pub async fn run(settings: Settings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::waiting("connecting to the broker and the database");
    tokio::spawn(health::serve(listener, Health::new(readiness.clone(), registry), stop.clone()));
    let windows = settings.database.windows()?;
    let lease = Lease::new(&windows, &settings.company, &settings.writer, settings.pod.as_deref());
    let surroundings = Surroundings {
        settings: &settings,
        windows: &windows,
        lease: &lease,
        metrics: &metrics,
        readiness: &readiness,
    };
    let mut retry = Retry::new(&stop, &readiness, &metrics.reconnects);
    while !stop.is_cancelled() {
        let started = Instant::now();
        let Err(error) = session::run(&surroundings, &stop).await else { break };
        retry.pause(error, started.elapsed()).await;
    }
    Ok(())
}
