//! The table of metrics in the documentation is what the operator exposes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

#[path = "../../workloads/tests/support/metrics_table.rs"]
mod metrics_table;

use std::time::Duration;

#[test]
fn the_operators_metrics_are_those_of_the_documentation() {
    let metrics = operator::metrics::Metrics::default();
    metrics.pass("ok", Duration::from_millis(5));
    metrics.applied("Secret");
    metrics.leading(true);
    metrics.pipelines(1, 0);
    metrics_table::agree("stockpipeline-operator", &metrics.text());
}
