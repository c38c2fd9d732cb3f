//! `stock-liveview`: shows the newest average of each company on a page, over WebSocket, server-sent events and JSON.
//! Rule: one reader follows the database; all pages share one frame.

pub mod api;
pub mod attendance;
pub mod beat;
pub mod board;
pub mod cursor;
pub mod events;
pub mod feed;
pub mod files;
pub mod metrics;
pub mod news;
pub mod page;
pub mod reader;
pub mod routes;
pub mod settings;
pub mod socket;
pub mod text;
pub mod upgrade;
pub mod windows;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::middleware::map_response_with_state;
use axum::serve::ListenerExt;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::api::Library;
use self::feed::Feed;
use self::metrics::Metrics;
use self::reader::Readers;
use self::routes::Service;
pub use self::settings::{Args, Settings};
use crate::health::{Health, Readiness};

/// Bound of the goodbyes after the grace.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Serves until `stop`, then a short grace, then says goodbye to the pages.
///
/// # Errors
/// When the database's options contradict each other; everything that fails later is tried again.
pub async fn run(settings: Settings, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::waiting("reading the database for the first time");
    let windows = settings.database.windows()?;
    let (news, latest) = watch::channel(None);
    let (whole_frames, wholes) = watch::channel(None);
    let (attendance, unattended) = watch::channel(attendance::Unattended::new());
    let (closing, open) = (CancellationToken::new(), TaskTracker::new());
    let behind = Arc::<AtomicBool>::default();
    let feed = Feed {
        windows: windows.clone(),
        pod: settings.pod,
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        unattended,
        news,
        wholes: whole_frames,
        behind: behind.clone(),
        readers: open.clone(),
    };
    let feeding = tokio::spawn(feed.run());
    let looking = tokio::spawn(attendance::look(windows.clone(), attendance));
    let files = files::raise_limit();
    let places = files::readers(settings.max_readers, files);
    if places < settings.max_readers {
        tracing::warn!(
            "this process may open {} files, so it takes {places} readers and not {}",
            files.unwrap_or_default(),
            settings.max_readers
        );
    }
    let readers = Readers {
        latest: latest.clone(),
        wholes,
        behind,
        places: Arc::new(Semaphore::new(places)),
        closing: closing.clone(),
        spread: settings.spread,
        open: open.clone(),
        metrics,
    };
    let service = Service { readers, latest, library: Library::new(windows) };
    let app = routes::router(service).merge(Health::new(readiness.clone(), registry).router());
    let app = app.layer(map_response_with_state(readiness.clone(), routes::last_answers));
    if let Ok(address) = listener.local_addr() {
        tracing::info!("serving on http://{address}");
    }
    // A frame does not wait until the page has confirmed the one before (Nagle's algorithm).
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    let serving = axum::serve(listener, app).with_graceful_shutdown(closing.clone().cancelled_owned());
    let stopping = async {
        stop.cancelled().await;
        // Balancers hear of it first and send nobody new; who is here is still served.
        readiness.stopping();
        sleep(settings.grace).await;
        closing.cancel();
        open.close();
        if timeout(settings.spread + LAST_ANSWERS, open.wait()).await.is_err() {
            tracing::info!("{} pages did not say goodbye", open.len());
        }
        feeding.abort();
        looking.abort();
    };
    tokio::select! {
        served = async { tokio::join!(async { serving.await }, stopping).0 } => served?,
        () = async { closing.cancelled().await; sleep(settings.spread + 2 * LAST_ANSWERS).await } => tracing::info!("some requests had no end"),
    }
    Ok(())
}
