//! TLS between the parts of a pipeline.
//! Rule: one switch for all connections; who wants an authority of their own names its issuer and nothing else.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Why it cannot be switched later.
pub(super) const FIXED: &str = "tls cannot be changed later, for servers and programs would have to change at the same moment: \
                                make a new StockPipeline, let this one's queues run empty (paused: true), then delete it";

/// TLS on every connection to broker and database, those between their members included, and HTTPS beside plain HTTP by NGINX.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.enabled || !has(self.issuerRef)").message("tls.issuerRef needs tls.enabled: true"))]
pub struct Tls {
    /// True encrypts; certificates are renewed without a restart.
    #[serde(default)]
    pub enabled: bool,
    /// An issuer of cert-manager; an authority of the pipeline's own unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
}

/// An issuer of cert-manager, as its Certificates name it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer`, of the same namespace, or `ClusterIssuer`.
    #[serde(default = "issuer")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Group of that kind.
    #[serde(default = "cert_manager")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn issuer() -> String {
    "Issuer".into()
}

fn cert_manager() -> String {
    "cert-manager.io".into()
}
