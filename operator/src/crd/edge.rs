//! `spec.edge`: how the page is reached from outside.
//! Rule: what ends up in a configuration file is of a form that cannot mean anything else there.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Template, defaults};

/// How the page is reached.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'Gateway' || has(self.gateway)")
        .message("edge.mode Gateway needs edge.gateway.parentRef: the Gateway the route is attached to"),
    validation = Rule::new("!has(self.tls) || self.mode == 'Nginx'")
        .message("edge.tls is NGINX's, of edge.mode Nginx: an Ingress has edge.ingress.tls, a Gateway its listeners' certificates"),
    validation = Rule::new("!has(self.tls) || self.service.type != 'NodePort' || has(self.service.httpsNodePort)")
        .message("edge.tls with service.type NodePort needs service.httpsNodePort: plain requests are sent there"),
)]
pub struct Edge {
    /// `Nginx`: an NGINX of the pipeline's own. `Ingress`: an Ingress for the cluster's controller. `Gateway`: an HTTPRoute on a
    /// Gateway. `None`: the Service alone. When it changes, what served before serves until the new way does; but
    /// HTTPS by a certificate of yours (`edge.tls`) ends with the change, for the other modes have theirs elsewhere.
    #[serde(default)]
    pub mode: EdgeMode,
    /// NGINX pods; 0 serves nothing.
    #[serde(default = "defaults::web_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// The Service `<name>-edge`, port 80, of every mode: it leads to NGINX, and to the page itself where there is none.
    #[serde(default)]
    pub service: EdgeService,
    /// The Ingress of mode Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<EdgeIngress>,
    /// The HTTPRoute of mode Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<EdgeGateway>,
    /// HTTPS by NGINX, on port 443 of the Service; plain requests are sent there. Without it and with `tls.enabled` there is HTTPS beside plain
    /// HTTP, with a certificate of the pipeline's own authority or issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EdgeTls>,
    /// What one client may do; NGINX answers 429 to what goes beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<EdgeLimits>,
    /// Addresses or networks (CIDR) of proxies in front of NGINX: the client's address is what they say in `X-Forwarded-For`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new("self.all(proxy, isIP(proxy) || isCIDR(proxy))")
        .message("edge.trustedProxies are IP addresses or networks, for example 10.0.0.0/8"))]
    pub trusted_proxies: Vec<String>,
    /// Whether NGINX logs each request, as JSON.
    #[serde(default)]
    pub access_log: bool,
    /// How NGINX's pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            mode: EdgeMode::default(),
            replicas: defaults::web_replicas(),
            service: EdgeService::default(),
            ingress: None,
            gateway: None,
            tls: None,
            limits: None,
            trusted_proxies: Vec::new(),
            access_log: false,
            template: Template::default(),
        }
    }
}

/// What is in front of the page.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgeMode {
    /// An NGINX of the pipeline's own; the default.
    #[default]
    Nginx,
    /// An Ingress, served by the cluster's controller.
    Ingress,
    /// An HTTPRoute of the Gateway API.
    Gateway,
    /// Nothing: the Service alone.
    None,
}

/// The Service of the edge; its port is 80, with `edge.tls` or `tls.enabled` also 443.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
        .message("service.nodePort needs service.type NodePort or LoadBalancer"),
    validation = Rule::new("!has(self.httpsNodePort) || self.type != 'ClusterIP'")
        .message("service.httpsNodePort needs service.type NodePort or LoadBalancer"),
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("service.externalTrafficPolicy needs service.type NodePort or LoadBalancer"),
)]
pub struct EdgeService {
    /// Type of the Service.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Port on every node, for the types NodePort and LoadBalancer; the cluster chooses one unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// The same for HTTPS. With `edge.tls` and type NodePort plain requests are sent there, else to port 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub https_node_port: Option<i32>,
    /// `Local` keeps the client's address, and only nodes with a pod of the edge serve; Kubernetes' own default is `Cluster`, where
    /// all clients of a node look alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Inside the cluster only; the default.
    #[default]
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// Through the cloud's load balancer.
    LoadBalancer,
}

/// Which pods a node sends outside traffic to.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of the cluster.
    Cluster,
    /// Its own.
    Local,
}

/// An Ingress.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EdgeIngress {
    /// Class of the controller that is to serve it; the cluster's default unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub class_name: Option<String>,
    /// Host name it is for; every name unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub host: Option<String>,
    /// HTTPS by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<IngressTls>,
    /// Annotations; they replace the operator's, which F5's NGINX controller reads for WebSockets and event streams.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An HTTPRoute.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EdgeGateway {
    /// The Gateway it is attached to.
    pub parent_ref: GatewayRef,
    /// Host names it is for; all of the Gateway's unless set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub hostnames: Vec<String>,
}

/// A Gateway.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the pipeline's unless set. Its listeners have to allow routes of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The name of one of its listeners; all of them unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// A certificate of the user's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    /// Secret of type kubernetes.io/tls, with `tls.crt` and `tls.key`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// NGINX's certificate: the user's, or one of the pipeline's own authority or issuer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.secretName) || !has(self.hostnames)")
    .message("edge.tls.hostnames is for the certificate that is made without edge.tls.secretName: one of your own has its names in it"))]
pub struct EdgeTls {
    /// Secret of type kubernetes.io/tls, with `tls.crt` and `tls.key`. A new content is taken over without a restart. Without it, with
    /// `tls.enabled`, the certificate is of the pipeline's own authority or issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// What else than the Service that certificate is for: names or addresses by which browsers reach the page.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new("self.all(name, isIP(name) || name.matches('^([*][.])?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'))")
        .message("edge.tls.hostnames are host names in small letters or IP addresses, for example prices.example.com"))]
    pub hostnames: Vec<String>,
}

/// Without a certificate of the user's there has to be an authority that issues one.
pub(super) fn certificate_is_somebodys() -> Rule {
    Rule::new("!has(self.spec.edge.tls) || has(self.spec.edge.tls.secretName) || self.spec.tls.enabled").message(
        "edge.tls needs edge.tls.secretName, a Secret with your certificate, or tls.enabled: true, which makes one under the pipeline's own authority",
    )
}

/// What one client, by its address, may do; each NGINX counts for itself, and each pod of the edge has two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.burst) || has(self.requestsPerSecond)")
    .message("limits.burst needs limits.requestsPerSecond"))]
pub struct EdgeLimits {
    /// Requests per second; no limit unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub requests_per_second: Option<i32>,
    /// Requests above that rate that pass at once; as many as `requestsPerSecond` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<i32>,
    /// Open requests and sockets at a time; no limit unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub connections: Option<i32>,
}
