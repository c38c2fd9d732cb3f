//! The publisher's figures; `docs/metrics.md` is their table.
//! Rule: labels are closed sets; the companies are those of the settings.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::Symbol;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CompanyLabel {
    company: String,
}

/// All figures of a publisher.
#[derive(Clone, Default)]
pub struct Metrics {
    published: Family<CompanyLabel, Counter>,
    confirmed: Family<CompanyLabel, Counter>,
    returned: Family<CompanyLabel, Counter>,
    nacked: Family<CompanyLabel, Counter>,
    resent: Family<CompanyLabel, Counter>,
    unconfirmed: Family<CompanyLabel, Gauge>,
    /// Connections made after the first.
    pub reconnects: Counter,
}

/// The figures of one company.
#[derive(Clone)]
pub struct CompanyMetrics {
    /// Events made.
    pub published: Counter,
    /// Events the broker has.
    pub confirmed: Counter,
    /// Events the broker gave back, for it has no such queue.
    pub returned: Counter,
    /// Events the broker could not take.
    pub nacked: Counter,
    /// Events sent again.
    pub resent: Counter,
    /// Events that wait for their confirm.
    pub unconfirmed: Gauge,
}

impl Metrics {
    /// Makes the figures and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("stock_publisher");
        registry.register("events_published", "Events made and sent for the first time", metrics.published.clone());
        registry.register("events_confirmed", "Events confirmed by the broker", metrics.confirmed.clone());
        registry.register("events_returned", "Events given back, for the queue is not there", metrics.returned.clone());
        registry.register("events_nacked", "Events that the broker could not take", metrics.nacked.clone());
        registry.register("events_resent", "Events sent again with their old sequence number", metrics.resent.clone());
        registry.register("events_unconfirmed", "Events that wait for their confirm", metrics.unconfirmed.clone());
        registry.register("reconnects", "Connections made after the first", metrics.reconnects.clone());
        metrics
    }

    /// The figures of one company; they appear at 0.
    #[must_use]
    pub fn of(&self, company: &Symbol) -> CompanyMetrics {
        let label = CompanyLabel { company: company.to_string() };
        CompanyMetrics {
            published: self.published.get_or_create_owned(&label),
            confirmed: self.confirmed.get_or_create_owned(&label),
            returned: self.returned.get_or_create_owned(&label),
            nacked: self.nacked.get_or_create_owned(&label),
            resent: self.resent.get_or_create_owned(&label),
            unconfirmed: self.unconfirmed.get_or_create_owned(&label),
        }
    }
}
