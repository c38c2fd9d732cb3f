//! The liveview's figures.
//! Rule: labels are closed sets; companies are none, for they come from the data.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How a page listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket.
    Websocket,
    /// Server-sent events.
    Events,
}

impl Transport {
    fn label(self) -> TransportLabel {
        let transport = match self {
            Self::Websocket => "websocket",
            Self::Events => "events",
        };
        TransportLabel { transport }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabel {
    transport: &'static str,
}

/// All figures of a liveview.
#[derive(Clone, Default)]
pub struct Metrics {
    clients: Family<TransportLabel, Gauge>,
    frames: Family<TransportLabel, Counter>,
    /// Readers that found no place.
    pub refused: Counter,
    /// Companies shown.
    pub companies: Gauge,
    /// Changes heard from the database.
    pub changes: Counter,
    /// Times the feed had to start anew.
    pub reconnects: Counter,
    contact: Arc<Mutex<Option<Instant>>>,
}

impl Metrics {
    /// Makes the figures and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for transport in [Transport::Websocket, Transport::Events] {
            drop(metrics.clients.get_or_create_owned(&transport.label()));
            drop(metrics.frames.get_or_create_owned(&transport.label()));
        }
        let registry = registry.sub_registry_with_prefix("stock_liveview");
        registry.register("clients", "Pages that listen now", metrics.clients.clone());
        registry.register("frames", "Frames sent to pages", metrics.frames.clone());
        registry.register("refused", "Pages that found all places taken", metrics.refused.clone());
        registry.register("companies", "Companies shown", metrics.companies.clone());
        registry.register("changes", "Changes heard from the database", metrics.changes.clone());
        registry.register("reconnects", "Times the feed of the database had to start anew", metrics.reconnects.clone());
        metrics
    }

    /// Counts a page as long as the answer lives.
    #[must_use]
    pub fn client(&self, transport: Transport) -> Client {
        let label = transport.label();
        let client = Client {
            clients: self.clients.get_or_create_owned(&label),
            frames: self.frames.get_or_create_owned(&label),
        };
        client.clients.inc();
        client
    }

    /// The database has answered.
    pub fn contact(&self) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago the database answered; `None` if it never did.
    #[must_use]
    pub fn since_contact(&self) -> Option<Duration> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).map(|contact| contact.elapsed())
    }
}

/// One listening page.
pub struct Client {
    clients: Gauge,
    frames: Counter,
}

impl Client {
    /// Counts a frame.
    pub fn frame(&self) {
        self.frames.inc();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.dec();
    }
}
