//! The consumer's figures; `docs/metrics.md` is their table.
//! Rule: labels are closed sets; a process serves one company, so the company is no label but the pod's.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use wire::queue::Reason;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// All figures of a consumer.
#[derive(Clone)]
pub struct Metrics {
    /// Messages taken from the queue.
    pub received: Counter,
    /// Events put into a window.
    pub counted: Counter,
    /// Events that a window had already.
    pub skipped: Counter,
    /// Events in stored windows.
    pub stored: Counter,
    /// Windows stored.
    pub windows: Counter,
    /// Inserts whose outcome nobody told and that were found to be stored.
    pub settled: Counter,
    /// Events of the window that is being filled.
    pub window_events: Gauge,
    /// Seconds from the first event of a window to its last one, by their publication.
    pub window_duration: Histogram,
    /// Seconds from the start of an insert to the majority's answer.
    pub insert_duration: Histogram,
    /// Ranges of sequence numbers that the marks hold.
    pub marks_ranges: Gauge,
    /// Sources that the marks hold.
    pub marks_sources: Gauge,
    /// Seconds from the publication of the event taken last to its taking.
    pub lag: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// 1 while this consumer works, 0 while it stands by.
    pub active: Gauge,
    /// Sessions begun after the first.
    pub reconnects: Counter,
    /// Sessions that ended at a message that cannot be read.
    pub unreadable: Counter,
    dead_lettered: BTreeMap<&'static str, Counter>,
}

impl Metrics {
    /// Makes the figures and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let dead_lettered = Family::<ReasonLabel, Counter>::default();
        let metrics = Self {
            received: Counter::default(),
            counted: Counter::default(),
            skipped: Counter::default(),
            stored: Counter::default(),
            windows: Counter::default(),
            settled: Counter::default(),
            window_events: Gauge::default(),
            // From a backlog's millisecond to the hours of a company that hardly trades.
            window_duration: Histogram::new(exponential_buckets(0.01, 4.0, 12)),
            insert_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            marks_ranges: Gauge::default(),
            marks_sources: Gauge::default(),
            lag: Gauge::default(),
            active: Gauge::default(),
            reconnects: Counter::default(),
            unreadable: Counter::default(),
            dead_lettered: Reason::ALL
                .map(|reason| {
                    (reason.as_str(), dead_lettered.get_or_create_owned(&ReasonLabel { reason: reason.as_str() }))
                })
                .into(),
        };
        let registry = registry.sub_registry_with_prefix("stock_consumer");
        registry.register("events_received", "Messages taken from the queue", metrics.received.clone());
        registry.register("events_counted", "Events put into a window", metrics.counted.clone());
        registry.register("events_skipped", "Events that a window had already", metrics.skipped.clone());
        registry.register("events_stored", "Events in stored windows", metrics.stored.clone());
        registry.register("windows", "Windows stored", metrics.windows.clone());
        registry.register("settled", "Inserts without an outcome, found to be stored", metrics.settled.clone());
        registry.register("window_events", "Events in the window that is being filled", metrics.window_events.clone());
        registry.register_with_unit(
            "window_duration",
            "Time from a window's first event to its last one, by their publication",
            Unit::Seconds,
            metrics.window_duration.clone(),
        );
        registry.register_with_unit(
            "insert_duration",
            "Time from an insert to the majority's answer",
            Unit::Seconds,
            metrics.insert_duration.clone(),
        );
        registry.register("marks_ranges", "Ranges of numbers that tell what is stored", metrics.marks_ranges.clone());
        registry.register("marks_sources", "Sources whose numbers are remembered", metrics.marks_sources.clone());
        registry.register_with_unit(
            "lag",
            "Age of the event taken last, from its publication",
            Unit::Seconds,
            metrics.lag.clone(),
        );
        registry.register("active", "1 while this consumer works, 0 while it stands by", metrics.active.clone());
        registry.register("dead_lettered", "Messages moved to the dead-letter queue", dead_lettered);
        registry.register("reconnects", "Sessions begun after the first", metrics.reconnects.clone());
        let unreadable = "Sessions that ended at a message that cannot be read";
        registry.register("unreadable", unreadable, metrics.unreadable.clone());
        metrics
    }

    /// Counts a dead letter.
    pub fn dead_lettered(&self, reason: Reason) {
        if let Some(counter) = self.dead_lettered.get(reason.as_str()) {
            counter.inc();
        }
    }
}
