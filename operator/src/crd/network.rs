//! Who may reach what over the network.
//! Rule: closed unless somebody needs it; what cannot be known from the resource, the user names as Kubernetes' own peers.

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Network policies: each part can be reached by those that need it, and reaches what it needs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// False makes none: every pod of the cluster reaches every part.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who else may use broker and database, beside the pods of this namespace with the label `stockpipeline.io/client-of: <pipeline>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32))]
    #[x_kube(validation = Rule::new(NAMED).message("each of networkPolicy.clientsFrom needs a podSelector, a namespaceSelector or an ipBlock"))]
    pub clients_from: Vec<NetworkPolicyPeer>,
    /// Who may read the metrics of broker, publishers, consumers and liveview: all pods of the namespace `monitoring` unless set.
    #[serde(default = "monitoring")]
    #[schemars(extend("maxItems" = 32))]
    #[x_kube(validation = Rule::new(NAMED).message("each of networkPolicy.metricsFrom needs a podSelector, a namespaceSelector or an ipBlock"))]
    pub metrics_from: Vec<NetworkPolicyPeer>,
}

const NAMED: &str = "self.all(peer, has(peer.podSelector) || has(peer.namespaceSelector) || has(peer.ipBlock))";

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { enabled: yes(), clients_from: Vec::new(), metrics_from: monitoring() }
    }
}

fn yes() -> bool {
    true
}

fn monitoring() -> Vec<NetworkPolicyPeer> {
    let name = ("kubernetes.io/metadata.name".to_owned(), "monitoring".to_owned());
    let namespace = LabelSelector { match_labels: Some([name].into()), match_expressions: None };
    vec![NetworkPolicyPeer { namespace_selector: Some(namespace), ..NetworkPolicyPeer::default() }]
}
