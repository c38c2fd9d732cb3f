//! What Prometheus is told.
//! Rule: it costs nothing where there is no Prometheus operator.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A PodMonitor for Prometheus, in a cluster that knows the kind (monitoring.coreos.com).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// False makes none.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Further labels of it, as a Prometheus selects by: `release: kube-prometheus-stack`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { enabled: yes(), labels: BTreeMap::new() }
    }
}

fn yes() -> bool {
    true
}
