//! The StockPipeline resource: data, defaults and the rules the API server itself can judge.
//! Rule: a field exists when a user would miss it; what the schema refuses, it refuses with a sentence.

mod edge;
mod external;
mod monitoring;
mod network;
mod status;
mod storage;
mod template;
mod tls;

pub use edge::{
    Edge, EdgeGateway, EdgeIngress, EdgeLimits, EdgeMode, EdgeService, EdgeTls, GatewayRef, IngressTls, ServiceType,
    TrafficPolicy,
};
pub use external::{ExternalBroker, ExternalDatabase};
pub use monitoring::Monitoring;
pub use network::NetworkPolicy;
pub use status::{CompanyStatus, PartStatus, Parts, ScaleStatus, StockPipelineStatus};
pub use storage::Storage;
pub use template::Template;
pub use tls::{IssuerReference, Tls};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::{CustomResourceExt, Duration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A whole pipeline: synthetic trades of the named companies, through RabbitMQ, averaged into MongoDB, shown live behind NGINX.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "stockpipeline.io",
    version = "v1alpha1",
    kind = "StockPipeline",
    shortname = "spl",
    namespaced,
    status = "StockPipelineStatus",
    // The one part whose load is its visitors'. The path is always there: the schema's defaults fill it.
    scale(
        spec_replicas_path = ".spec.liveview.replicas",
        status_replicas_path = ".status.scale.replicas",
        label_selector_path = ".status.scale.selector"
    ),
    derive = "PartialEq",
    doc = "One resource describes a whole pipeline: publishers, RabbitMQ, consumers, MongoDB, the live page and its NGINX edge.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')")
        .message("metadata.name must be 1 to 40 lower-case letters, digits or -, start with a letter and end with a letter or digit: every child is named after it"),
    validation = storage::never_shrinks("broker"),
    validation = storage::never_shrinks("database"),
    validation = edge::certificate_is_somebodys(),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Companies", type_ = "integer", json_path = ".status.companyCount"),
    printcolumn(name = "Flowing", type_ = "integer", json_path = ".status.flowingCount"),
    printcolumn(name = "Broker", type_ = "string", json_path = ".status.parts.broker.ready", priority = "1"),
    printcolumn(name = "Database", type_ = "string", json_path = ".status.parts.database.ready", priority = "1"),
    printcolumn(name = "Publishers", type_ = "string", json_path = ".status.parts.publishers.ready", priority = "1"),
    printcolumn(name = "Consumers", type_ = "string", json_path = ".status.parts.consumers.ready", priority = "1"),
    printcolumn(name = "Liveview", type_ = "string", json_path = ".status.parts.liveview.ready", priority = "1"),
    printcolumn(name = "Edge", type_ = "string", json_path = ".status.parts.edge.ready", priority = "1"),
    printcolumn(name = "Last Window", type_ = "date", json_path = ".status.lastWindowAt", priority = "1"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StockPipelineSpec {
    /// The companies to trade. Each gets a queue, a publisher and a consumer of its own; adding or removing one leaves the others alone.
    #[schemars(length(max = 500))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["symbol".to_string()]),
        validation = Rule::new("size(self) > 0").message("name at least one company, for example companies: [{symbol: MSFT}]")
    )]
    pub companies: Vec<Company>,

    /// True stops the publishers and drains the queues: consumers go on until every event is in a stored window, the last ones short.
    #[serde(default)]
    pub paused: bool,

    /// What becomes of the volumes and credentials of broker and database when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// The programs that make the synthetic trades.
    #[serde(default)]
    pub publisher: Publisher,

    /// The programs that turn events into average prices.
    #[serde(default)]
    pub consumer: Consumer,

    /// RabbitMQ.
    #[serde(default)]
    pub broker: Broker,

    /// The MongoDB replica set.
    #[serde(default)]
    pub database: Database,

    /// The web programs that show the averages live.
    #[serde(default)]
    pub liveview: Liveview,

    /// How the page is reached: by an NGINX of its own, an Ingress or a Gateway.
    #[serde(default)]
    pub edge: Edge,

    /// TLS between the parts.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message(tls::FIXED))]
    pub tls: Tls,

    /// Who reaches which part over the network.
    #[serde(default)]
    pub network_policy: NetworkPolicy,

    /// What Prometheus is told.
    #[serde(default)]
    pub monitoring: Monitoring,
}

impl StockPipelineSpec {
    /// Consumers of a company.
    pub fn consumers_of(&self, company: &Company) -> i32 {
        company.consumers.unwrap_or(self.consumer.replicas)
    }

    /// Events in a window of a company.
    pub fn batch_size_of(&self, company: &Company) -> i32 {
        company.batch_size.unwrap_or(self.consumer.batch_size)
    }
}

/// One traded company.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Company {
    /// Ticker symbol, exactly as its queue is named: `MSFT`, `BRK.B`, `^GSPC`, `0700.HK`.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9^][A-Za-z0-9.^=_-]{0,63}$')")
        .message("a symbol is 1 to 64 letters, digits or . ^ = _ - and starts with a letter, a digit or ^, for example BRK.B"))]
    pub symbol: String,

    /// Events per second of this company; `publisher.rate` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub rate: Option<i32>,

    /// Consumers of this company; `consumer.replicas` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub consumers: Option<i32>,

    /// Events averaged into one stored window of this company; `consumer.batchSize` unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30_000))]
    pub batch_size: Option<i32>,

    /// What becomes of its events when the company is taken out of the list.
    #[serde(default)]
    pub on_remove: OnRemove,

    /// Range of this company's synthetic prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

impl Company {
    /// A company of which nothing but the symbol is said.
    pub fn named(symbol: &str) -> Self {
        Self {
            symbol: symbol.to_owned(),
            rate: None,
            consumers: None,
            batch_size: None,
            on_remove: OnRemove::default(),
            price: None,
        }
    }
}

/// What becomes of the data of a deleted pipeline.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It goes with the resource; the default.
    #[default]
    Delete,
    /// It stays, and a pipeline of the same name in the same namespace takes it up again.
    Retain,
}

/// What becomes of a removed company's events. Its stored windows stay in any case.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemove {
    /// The publisher stops at once, the consumer goes on until every event is in a stored window; then the empty queue goes; the default.
    #[default]
    Drain,
    /// The queue goes at once, with the events and the dead letters in it.
    Delete,
    /// The queue stays as it is, for other programs or until the company comes back.
    Retain,
}

/// A range of prices.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.min >= 0.0 && self.min < self.max && self.max <= 1000000000.0")
    .message("price needs 0 <= min < max <= 1000000000"))]
pub struct Price {
    /// Lowest price, inclusive.
    #[serde(default = "defaults::price_min")]
    pub min: f64,
    /// Highest price, exclusive.
    #[serde(default = "defaults::price_max")]
    pub max: f64,
}

/// The programs that make the synthetic trades.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Publisher {
    /// False runs no publisher: other programs feed the queues.
    #[serde(default = "defaults::yes")]
    pub enabled: bool,
    /// Events per second of each company that does not say its own.
    #[serde(default = "defaults::rate")]
    #[schemars(range(min = 1, max = 100_000))]
    pub rate: i32,
    /// Seed of the prices: the same seed and symbol give the same prices. Random unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub seed: Option<i64>,
    /// How its pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

/// The programs that turn events into average prices.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Consumers of each company that does not say its own. One works, the others stand by and take over within seconds.
    #[serde(default = "defaults::consumer_replicas")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: i32,
    /// Events averaged into one stored window.
    #[serde(default = "defaults::batch_size")]
    #[schemars(range(max = 30_000))]
    #[x_kube(validation = Rule::new("self >= 1").message("batchSize must be at least 1: a window of no events has no average"))]
    pub batch_size: i32,
    /// Time after its first event at which a window is stored although it holds fewer events than `batchSize`, for example 30s.
    /// Unless set a window holds exactly `batchSize` events, however long that takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s')")
        .message("flushAfter must be a duration of at least 1s, for example 30s or 1m30s"))]
    pub flush_after: Option<Duration>,
    /// How its pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

/// RabbitMQ.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.external) == has(oldSelf.external)").message(
        "broker.external cannot be set or taken away later, for the messages lie where they are: make a new StockPipeline, let this one's queues run empty, then delete it"
    ),
    validation = Rule::new(format!(
        "!has(self.external) || (self.replicas == {} && self.storage.size == '{}' && !has(self.storage.class) && !has(self.template))",
        defaults::broker_replicas(), defaults::broker_storage().size
    ))
    .message("broker.external excludes broker.replicas, storage and template: nothing of the broker is made")
)]
pub struct Broker {
    /// A broker that somebody else runs: none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalBroker>,
    /// Nodes: 1, 3 or 5. Each queue has a replica on every node; a node leaves only when those that remain hold all messages.
    #[serde(default = "defaults::broker_replicas")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5]").message("broker.replicas must be 1, 3 or 5: an even number of nodes survives no more failures than one less")
    )]
    pub replicas: i32,
    /// Type of the companies' queues. Quorum queues are replicated and survive the loss of a node.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("broker.queueType cannot be changed: a queue keeps the type it was made with"))]
    pub queue_type: QueueType,
    /// The volume of each node.
    #[serde(default = "defaults::broker_storage")]
    pub storage: Storage,
    /// How its pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

/// Type of a queue.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated by Raft; the default.
    #[default]
    Quorum,
    /// On one node only.
    Classic,
}

impl From<QueueType> for wire::queue::QueueType {
    fn from(queue_type: QueueType) -> Self {
        match queue_type {
            QueueType::Quorum => Self::Quorum,
            QueueType::Classic => Self::Classic,
        }
    }
}

/// The MongoDB replica set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.external) == has(oldSelf.external)").message(
        "database.external cannot be set or taken away later, for the windows lie where they are: make a new StockPipeline, and copy them with mongodump and mongorestore"
    ),
    validation = Rule::new(format!(
        "!has(self.external) || (self.replicas == {} && self.electionTimeoutMilliseconds == {} && self.storage.size == '{}' && !has(self.storage.class) && !has(self.template))",
        defaults::database_replicas(), defaults::election_timeout(), defaults::database_storage().size
    ))
    .message("database.external excludes database.replicas, electionTimeoutMilliseconds, storage and template: nothing of the database is made")
)]
pub struct Database {
    /// A database that somebody else runs: none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalDatabase>,
    /// Members: 1, 3, 5 or 7. They join and leave one at a time; the volume of a member that has left goes with it.
    #[serde(default = "defaults::database_replicas")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5, 7]").message("database.replicas must be 1, 3, 5 or 7: an even number of voters survives no more failures than one less, and a replica set has at most 7")
    )]
    pub replicas: i32,
    /// Milliseconds without a primary's heartbeat until the others elect a new one. 2000 keeps the gap without writes after a
    /// lost primary near 3 s (the server's own default of 10000: 11 s); raise it on a network that pauses longer than that.
    #[serde(default = "defaults::election_timeout")]
    #[schemars(range(min = 1000, max = 60_000))]
    pub election_timeout_milliseconds: i32,
    /// The volume of each member.
    #[serde(default = "defaults::database_storage")]
    pub storage: Storage,
    /// How its pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

/// The web programs that show the averages live.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Liveview {
    /// Pods; 0 shows nothing.
    #[serde(default = "defaults::web_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// How its pods run.
    #[serde(default, skip_serializing_if = "Template::is_empty")]
    pub template: Template,
}

/// Defaults of the resource, each said once.
mod defaults {
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn rate() -> i32 {
        500
    }
    pub(super) fn consumer_replicas() -> i32 {
        1
    }
    pub(super) fn batch_size() -> i32 {
        wire::env::default::BATCH_SIZE.cast_signed()
    }
    pub(super) fn price_min() -> f64 {
        wire::env::default::PRICE_MIN
    }
    pub(super) fn price_max() -> f64 {
        wire::env::default::PRICE_MAX
    }
    pub(super) fn broker_replicas() -> i32 {
        1
    }
    pub(super) fn database_replicas() -> i32 {
        3
    }
    pub(super) fn web_replicas() -> i32 {
        2
    }
    pub(super) fn election_timeout() -> i32 {
        2000
    }
    pub(super) fn broker_storage() -> super::Storage {
        super::Storage { size: "4Gi".into(), class: None }
    }
    pub(super) fn database_storage() -> super::Storage {
        super::Storage { size: "10Gi".into(), class: None }
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self { enabled: defaults::yes(), rate: defaults::rate(), seed: None, template: Template::default() }
    }
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            replicas: defaults::consumer_replicas(),
            batch_size: defaults::batch_size(),
            flush_after: None,
            template: Template::default(),
        }
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            external: None,
            replicas: defaults::broker_replicas(),
            queue_type: QueueType::default(),
            storage: defaults::broker_storage(),
            template: Template::default(),
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            external: None,
            replicas: defaults::database_replicas(),
            election_timeout_milliseconds: defaults::election_timeout(),
            storage: defaults::database_storage(),
            template: Template::default(),
        }
    }
}

impl Default for Liveview {
    fn default() -> Self {
        Self { replicas: defaults::web_replicas(), template: Template::default() }
    }
}

impl Default for Price {
    fn default() -> Self {
        Self { min: defaults::price_min(), max: defaults::price_max() }
    }
}

/// The definition as the cluster gets it.
///
/// Descriptions inside Kubernetes' own types are left out: they are most of the document's size and `kubectl explain pod.spec` has them.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = StockPipeline::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
            template::strip_foreign_descriptions(schema);
        }
    }
    definition
}

/// [`definition`] as YAML, the way `crds/` and the chart hold it.
///
/// # Errors
/// The definition cannot be written as YAML, which would be a defect of this program.
pub fn yaml() -> anyhow::Result<String> {
    Ok(format!(
        "# Generated by `stockpipeline-operator crd`; change operator/src/crd and run `make crd`.\n{}",
        serde_saphyr::to_string(&definition())?
    ))
}
