//! The table of metrics in the documentation is what the programs expose.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests, not their helpers")]

#[path = "support/metrics_table.rs"]
mod metrics_table;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use workloads::{consumer, liveview, publisher};

fn text(register: impl FnOnce(&mut Registry)) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    register(&mut registry);
    encode(&mut text, &registry).unwrap();
    text
}

#[test]
fn the_publishers_metrics_are_those_of_the_documentation() {
    let text = text(|registry| drop(publisher::metrics::Metrics::register(registry).of(&"MSFT".parse().unwrap())));
    metrics_table::agree("stock-publisher", &text);
}

#[test]
fn the_consumers_metrics_are_those_of_the_documentation() {
    let text = text(|registry| drop(consumer::metrics::Metrics::register(registry)));
    metrics_table::agree("stock-consumer", &text);
}

#[test]
fn the_liveviews_metrics_are_those_of_the_documentation() {
    let text = text(|registry| drop(liveview::metrics::Metrics::register(registry)));
    metrics_table::agree("stock-liveview", &text);
}
