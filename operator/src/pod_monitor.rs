//! The Prometheus operator's PodMonitor, as far as we write it (monitoring.coreos.com/v1).
//! Rule: whatever the server has of it can be read: what we do not know is left out, what is missing is empty.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Which pods Prometheus reads, and how.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    plural = "podmonitors",
    namespaced,
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMonitorSpec {
    /// The pods.
    pub selector: LabelSelector,
    /// What is read of each.
    pub pod_metrics_endpoints: Vec<Endpoint>,
}

/// A page of metrics.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Name of the port; pods without it are passed over.
    pub port: String,
    /// Path of the page.
    pub path: String,
    /// A label of the page itself goes before one of the pod.
    pub honor_labels: bool,
    /// Which labels the pod gives.
    pub relabelings: Vec<Relabeling>,
}

/// A label of the figures, from what is known of their pod.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Relabeling {
    /// From these.
    pub source_labels: Vec<String>,
    /// To this.
    pub target_label: String,
}
