//! Pipelines as a user writes them.
//! Rule: light ones start on two busy cores in seconds; only what a test is about differs.

use anyhow::Result;
use serde_json::{Value, json};

/// The pipeline of the README's quick start.
///
/// # Errors
/// The example is not YAML.
pub fn minimal() -> Result<Value> {
    Ok(serde_saphyr::from_str(include_str!("../../examples/minimal.yaml"))?)
}

/// One pod of everything, a window every half second.
pub fn light(name: &str, symbols: &[&str]) -> Value {
    json!({
        "apiVersion": "stockpipeline.io/v1alpha1",
        "kind": "StockPipeline",
        "metadata": {"name": name},
        "spec": {
            "companies": companies(symbols),
            "publisher": {"rate": 200},
            "consumer": {"batchSize": 100},
            "broker": {"replicas": 1, "storage": {"size": "1Gi"}},
            "database": {"replicas": 1, "storage": {"size": "1Gi"}},
            "liveview": {"replicas": 1},
            "edge": {"replicas": 1},
        },
    })
}

/// The list of companies of these symbols.
pub fn companies(symbols: &[&str]) -> Value {
    symbols.iter().map(|symbol| json!({"symbol": symbol})).collect()
}
