//! The operator's own figures.
//! Rule: labels are closed sets; a pipeline's name is never one, for their number has no bound.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The operator's registry and what is counted in it.
pub struct Metrics {
    registry: Registry,
    passes: Family<PassLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    pass_seconds: Histogram,
    writes: Family<WriteLabels, Counter>,
    leading: Gauge,
    pipelines: Family<ReadyLabels, Gauge<f64, AtomicU64>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    /// `ok` or the reason of the first error.
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadyLabels {
    ready: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stockpipeline_operator");
        let passes = Family::default();
        registry.register("reconciliations", "Passes over a pipeline, by result", passes.clone());
        let errors = Family::default();
        registry.register("errors", "What went wrong in passes, by reason", errors.clone());
        let pass_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 12));
        registry.register_with_unit(
            "reconciliation_duration",
            "Duration of a pass",
            Unit::Seconds,
            pass_seconds.clone(),
        );
        let writes = Family::default();
        registry.register("writes", "Writes to the API server, by verb and kind", writes.clone());
        let leading = Gauge::default();
        registry.register("leading", "1 while this replica holds the lease", leading.clone());
        let pipelines = Family::default();
        registry.register("pipelines", "Pipelines, by readiness", pipelines.clone());
        Self { registry, passes, errors, pass_seconds, writes, leading, pipelines }
    }
}

impl Metrics {
    /// Counts a pass; `result` is `ok` or a reason from a closed set.
    pub fn pass(&self, result: &'static str, took: Duration) {
        self.passes.get_or_create(&PassLabels { result }).inc();
        self.pass_seconds.observe(took.as_secs_f64());
    }

    /// Counts one thing that went wrong; `reason` is from a closed set.
    pub fn error(&self, reason: &'static str) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Counts an object that was applied.
    pub fn applied(&self, kind: &str) {
        self.write("apply", kind);
    }

    /// Counts an object that was pruned.
    pub fn pruned(&self, kind: &str) {
        self.write("delete", kind);
    }

    /// Counts an object of somebody else's making that was changed.
    pub fn patched(&self, kind: &str) {
        self.write("patch", kind);
    }

    /// Counts an object that was taken away from what it owns.
    pub fn orphaned(&self, kind: &str) {
        self.write("orphan", kind);
    }

    /// A pod was evicted.
    pub fn evicted(&self) {
        self.write("evict", "Pod");
    }

    /// Counts a written status.
    pub fn status_written(&self) {
        self.write("status", "StockPipeline");
    }

    fn write(&self, verb: &'static str, kind: &str) {
        self.writes.get_or_create(&WriteLabels { verb, kind: kind.into() }).inc();
    }

    /// Says whether this replica leads.
    pub fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// Says how many pipelines are ready and how many are not.
    pub fn pipelines(&self, ready: usize, unready: usize) {
        for (label, count) in [("true", ready), ("false", unready)] {
            self.pipelines.get_or_create(&ReadyLabels { ready: label }).set(count as f64);
        }
    }

    /// The OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail; an empty page would show that it did.
        if text::encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}
