//! `stock-publisher`: publishes trades of its companies and does not forget one until the broker has it.
//! Rule: one connection for all companies; when it is lost, a new one is made for ever and the unconfirmed go out again.

pub mod metrics;
pub mod outbox;
pub mod pacer;
mod patience;
pub mod prices;
pub mod settings;
pub mod speaker;

use std::time::Duration;

use futures::future::try_join_all;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
pub use self::settings::{Args, Settings};
use self::speaker::Speaker;
use crate::broker;
use crate::health::{self, Health, Readiness};
use crate::retry::Retry;

/// Publishes until `stop`, or until every company has the number of events asked for; health and metrics are served on `listener`.
///
/// # Errors
/// None today: everything that fails is tried again.
pub async fn run(settings: Settings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::waiting("connecting to the broker");
    tokio::spawn(health::serve(listener, Health::new(readiness.clone(), registry), stop.clone()));
    let mut speakers: Vec<Speaker> =
        settings.companies.iter().map(|company| Speaker::new(company, &settings, metrics.of(company))).collect();
    let mut retry = Retry::new(&stop, &readiness, &metrics.reconnects);
    while !stop.is_cancelled() {
        let started = Instant::now();
        // A stop while connecting ends the attempt; once events are under way, the speakers themselves end in order.
        let connected = tokio::select! {
            connected = connect(&settings, &mut speakers) => connected,
            () = stop.cancelled() => break,
        };
        let ended = match connected {
            Ok((connection, channels)) => {
                readiness.ready();
                tracing::info!("publishing for {} companies", channels.len());
                session(&connection, channels, &mut speakers, &stop).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { break };
        retry.pause(error, started.elapsed()).await;
    }
    speakers.iter().for_each(Speaker::report);
    let unconfirmed: usize = speakers.iter().map(Speaker::unconfirmed).sum();
    if unconfirmed > 0 {
        tracing::warn!("stopped with {unconfirmed} events that the broker did not confirm; some of them it may have");
    }
    Ok(())
}

async fn connect(
    settings: &Settings,
    speakers: &mut [Speaker],
) -> anyhow::Result<(lapin::Connection, Vec<lapin::Channel>)> {
    let companies: Vec<&str> = settings.companies.iter().map(wire::Symbol::as_str).collect();
    let name: String = format!("stock-publisher {}", companies.join(",")).chars().take(200).collect();
    let connection = broker::connect(&settings.broker, &name).await?;
    let channels = try_join_all(speakers.iter_mut().map(|speaker| speaker.open(&connection))).await?;
    Ok((connection, channels))
}

async fn session(
    connection: &lapin::Connection,
    channels: Vec<lapin::Channel>,
    speakers: &mut [Speaker],
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let speaking = speakers.iter_mut().zip(channels).map(|(speaker, channel)| speaker.speak(connection, channel, stop));
    tokio::select! {
        spoken = try_join_all(speaking) => spoken?,
        error = broker::lost(connection) => return Err(error),
    };
    // Everything is confirmed; a close that fails takes nothing with it.
    // Bounded, for a blocked connection is not even told that it shall close.
    if let Ok(Err(error)) = timeout(Duration::from_secs(1), connection.close(200, "stopped".into())).await {
        tracing::debug!("closing the connection: {error}");
    }
    Ok(())
}
