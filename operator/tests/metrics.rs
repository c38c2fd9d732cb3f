//! The table of metrics in the documentation is what the operator exposes.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

#[path = "../../workloads/tests/support/metrics_table.rs"]
mod metrics_table;

use std::time::Duration;

#[test]
fn the_operators_metrics_are_those_of_the_documentation() {
    let metrics = operator::metrics::Metrics::default();
    metrics.pass("ok", Duration::from_millis(5));
    metrics.error("Forbidden");
    metrics.applied("Secret");
    metrics.leading(true);
    metrics.pipelines(1, 0);
    metrics_table::agree("stockpipeline-operator", &metrics.text());
}

/// An alert on a figure that nobody exposes never fires, and a panel of one stays empty.
#[test]
fn alerts_and_dashboard_ask_only_for_metrics_that_exist() {
    let file = |path: &str| std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let documented = file("docs/metrics.md");
    for path in ["charts/stockpipeline/files/alerts.yaml", "charts/stockpipeline/files/dashboard.json"] {
        let text = file(path);
        let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
        let metrics = words.filter(|word| word.starts_with("stock_") || word.starts_with("stockpipeline_operator_"));
        let metrics: std::collections::BTreeSet<&str> = metrics.map(|word| word.trim_end_matches("_bucket")).collect();
        assert!(metrics.len() > 8, "{path}: {metrics:?}");
        for metric in metrics {
            assert!(documented.contains(&format!("`{metric}`")), "{path} asks for {metric}");
        }
    }
}
