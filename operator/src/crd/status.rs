//! What the operator says back.
//! Rule: an unknown figure is absent, never 0.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OnRemove;

/// What the operator saw and did last.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StockPipelineStatus {
    /// Generation of the spec this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Progressing`, `Degraded`, one condition per part, and `Paused` and `CredentialsRotated` while that is wished.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of companies in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub company_count: Option<i32>,
    /// How many companies flow, as far as is known: those that wait for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flowing_count: Option<i32>,
    /// Ready and wanted pods of each part.
    #[serde(default)]
    pub parts: Parts,
    /// The live page's pods, as `kubectl scale` and a HorizontalPodAutoscaler see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStatus>,
    /// What is known of each company. Its figures are refreshed at most every 30 s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["symbol"]))]
    pub companies: Vec<CompanyStatus>,
    /// When the newest window of any company was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_window_at: Option<Time>,
    /// When the figures of `companies` were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures_at: Option<Time>,
    /// The database's primary member, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_primary: Option<String>,
}

/// The six parts of a pipeline.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    /// RabbitMQ nodes.
    #[serde(default)]
    pub broker: PartStatus,
    /// MongoDB members.
    #[serde(default)]
    pub database: PartStatus,
    /// Publishers, one per company.
    #[serde(default)]
    pub publishers: PartStatus,
    /// Consumers of all companies, those that stand by included.
    #[serde(default)]
    pub consumers: PartStatus,
    /// Liveview pods.
    #[serde(default)]
    pub liveview: PartStatus,
    /// NGINX pods.
    #[serde(default)]
    pub edge: PartStatus,
}

/// Ready and wanted pods of a part.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PartStatus {
    /// `ready/wanted`; absent while unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Size asked of its volumes, the largest where they differ; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub volume_size: Option<String>,
}

/// What the scale subresource shows.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScaleStatus {
    /// Pods of the live page that exist.
    #[serde(default)]
    pub replicas: i32,
    /// What selects them, as text.
    #[serde(default)]
    pub selector: String,
}

/// What is known of one company.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CompanyStatus {
    /// Its symbol.
    pub symbol: String,
    /// Name its publisher and consumer carry: `<pipeline>-consumer-<slug>`.
    pub slug: String,
    /// Set of a company that was taken out of the spec and is not yet gone: what becomes of its events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<OnRemove>,
    /// Events that are in no stored window yet, exactly; known while paused or leaving, once nobody adds to them or takes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<i64>,
    /// Why its events do not flow, and what to do; absent while they flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Events in the queue that no consumer holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<i64>,
    /// Events a consumer holds and has not acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unacked: Option<i64>,
    /// Windows stored so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<i64>,
    /// Average price of the newest window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_price: Option<f64>,
    /// When the newest window was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_window_at: Option<Time>,
}
