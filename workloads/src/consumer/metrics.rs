//! The consumer's figures.
//! Rule: labels are closed sets; a process serves one company, so the company is no label but the pod's.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use wire::queue::Reason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// All figures of a consumer.
#[derive(Clone)]
pub struct Metrics {
    /// Events taken from the queue, also those taken again after a lost connection.
    pub events: Counter,
    /// Windows stored.
    pub windows: Counter,
    /// Events stored and acknowledged.
    pub stored: Counter,
    /// Events of the window that is being filled.
    pub pending: Gauge,
    /// Seconds from the start of an insert to the majority's answer.
    pub insert_seconds: Histogram,
    /// Connections made after the first.
    pub reconnects: Counter,
    dead_lettered: BTreeMap<&'static str, Counter>,
}

impl Metrics {
    /// Makes the figures and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let dead_lettered = Family::<ReasonLabel, Counter>::default();
        let metrics = Self {
            events: Counter::default(),
            windows: Counter::default(),
            stored: Counter::default(),
            pending: Gauge::default(),
            insert_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconnects: Counter::default(),
            dead_lettered: Reason::ALL
                .map(|reason| {
                    (reason.as_str(), dead_lettered.get_or_create_owned(&ReasonLabel { reason: reason.as_str() }))
                })
                .into(),
        };
        let registry = registry.sub_registry_with_prefix("stock_consumer");
        registry.register("events", "Events taken from the queue, redelivered ones included", metrics.events.clone());
        registry.register("windows", "Windows stored", metrics.windows.clone());
        registry.register("events_stored", "Events in the windows stored", metrics.stored.clone());
        registry.register("window_events", "Events in the window that is being filled", metrics.pending.clone());
        registry.register(
            "insert_seconds",
            "Time from an insert to the majority's answer",
            metrics.insert_seconds.clone(),
        );
        registry.register("dead_lettered", "Messages moved to the dead-letter queue", dead_lettered);
        registry.register("reconnects", "Connections made after the first", metrics.reconnects.clone());
        metrics
    }

    /// Counts a dead letter.
    pub fn dead_lettered(&self, reason: Reason) {
        if let Some(counter) = self.dead_lettered.get(reason.as_str()) {
            counter.inc();
        }
    }
}
