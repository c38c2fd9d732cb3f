//! Everything a pipeline consists of, built from its plan; pure.
//! Rule: building cannot fail, and a kind nobody applies does not compile (see `apply`).

mod broker;
mod certificates;
mod consumers;
mod database;
mod edge;
mod liveview;
mod monitoring;
mod network;
mod pod;
mod publisher;
mod workload;

use std::collections::BTreeMap;

pub use broker::says_formed;
pub(crate) use broker::{MAX_FRAME_BYTES, amqp};
pub(crate) use certificates::trusted_file;
pub use database::Form as DatabaseForm;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, Secret, Service, ServicePort,
    ServiceSpec, Toleration, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};

use crate::cert_manager::Certificate;
use crate::crd::{DeletionPolicy, Storage};
use crate::http_route::HTTPRoute;
use crate::names::{self, Part};
use crate::plan::Plan;
use crate::pod_monitor::PodMonitor;

/// The containers of the servers that have a disk.
pub const SERVERS: [&str; 2] = [broker::SERVER, database::SERVER];

/// The children of a pipeline, by kind.
#[derive(Debug, Default)]
pub struct Objects {
    /// Generated credentials and what is derived from them.
    pub secrets: Vec<Secret>,
    /// Configuration files.
    pub config_maps: Vec<ConfigMap>,
    /// Names and addresses.
    pub services: Vec<Service>,
    /// Who reaches which part.
    pub network_policies: Vec<NetworkPolicy>,
    /// How many pods of a part an eviction may take.
    pub pod_disruption_budgets: Vec<PodDisruptionBudget>,
    /// Broker and database.
    pub stateful_sets: Vec<StatefulSet>,
    /// Everything else that runs.
    pub deployments: Vec<Deployment>,
    /// What runs once.
    pub jobs: Vec<Job>,
    /// The page by way of an ingress controller.
    pub ingresses: Vec<Ingress>,
    /// The page by way of a Gateway.
    pub http_routes: Vec<HTTPRoute>,
    /// What Prometheus is told.
    pub pod_monitors: Vec<PodMonitor>,
    /// What cert-manager is to issue.
    pub certificates: Vec<Certificate>,
}

/// Builds all children.
pub fn build(plan: &Plan) -> Objects {
    let mut objects = Objects::default();
    certificates::build(plan, &mut objects);
    broker::build(plan, &mut objects);
    database::build(plan, &mut objects);
    publisher::build(plan, &mut objects);
    consumers::build(plan, &mut objects);
    liveview::build(plan, &mut objects);
    edge::build(plan, &mut objects);
    network::build(plan, &mut objects);
    monitoring::build(plan, &mut objects);
    objects
}

/// Metadata of a child.
fn metadata(plan: &Plan, name: String, selector: &BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(plan.namespace.clone()),
        labels: Some(names::labels(selector)),
        owner_references: Some(vec![plan.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// [`metadata`] of credentials, which stay with the data they lock.
fn credentials_metadata(plan: &Plan, of: Part, selector: &BTreeMap<String, String>) -> ObjectMeta {
    let retained = plan.deletion_policy == DeletionPolicy::Retain;
    let metadata = metadata(plan, names::credentials(&plan.name, of), selector);
    ObjectMeta { owner_references: metadata.owner_references.filter(|_| !retained), ..metadata }
}

/// [`metadata`] with the symbol as written.
fn company_metadata(plan: &Plan, name: String, selector: &BTreeMap<String, String>, symbol: &str) -> ObjectMeta {
    ObjectMeta {
        annotations: Some(BTreeMap::from([(names::SYMBOL.into(), symbol.into())])),
        ..metadata(plan, name, selector)
    }
}

fn label_selector(selector: &BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(selector.clone()), match_expressions: None }
}

/// How long a pod without a volume stays on a node that is lost; a node that only restarts its kubelet is back earlier.
const LOST_NODE_SECONDS: i64 = 20;

/// How a Deployment replaces its pods.
enum Replace {
    /// The old pod ends before the new one starts: two would be two sources of the same trades.
    OldFirst,
    /// The new pod serves before the old one ends.
    NewFirst,
}

fn deployment(
    metadata: ObjectMeta,
    selector: &BTreeMap<String, String>,
    replicas: i32,
    replace: Replace,
    mut template: PodTemplateSpec,
) -> Deployment {
    if let Some(spec) = &mut template.spec {
        leave_lost_nodes(spec.tolerations.get_or_insert_default());
    }
    let strategy = match replace {
        Replace::OldFirst => DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None },
        Replace::NewFirst => DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        },
    };
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(3),
            selector: label_selector(selector),
            strategy: Some(strategy),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Pods without a volume come back elsewhere soon after their node was lost: Kubernetes would wait five minutes more once it has noticed
/// (Kubernetes, "Taint based Evictions"). What the user says of the same taint holds.
fn leave_lost_nodes(tolerations: &mut Vec<Toleration>) {
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        // Without a key it is of every taint.
        if tolerations.iter().all(|toleration| toleration.key.as_deref().is_some_and(|key| key != taint)) {
            tolerations.push(Toleration {
                key: Some(taint.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(LOST_NODE_SECONDS),
                ..Toleration::default()
            });
        }
    }
}

/// A Service without an address of its own that names every pod of a StatefulSet, ready or not: they must find
/// each other before they can become ready.
fn peers_service(metadata: ObjectMeta, selector: &BTreeMap<String, String>, ports: &[(&str, u16)]) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".into()),
        publish_not_ready_addresses: Some(true),
        selector: Some(selector.clone()),
        ports: Some(ports.iter().map(|(name, port)| service_port(name, *port, name)).collect()),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), status: None }
}

fn service_port(name: &str, port: u16, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: i32::from(port),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(target.into())),
        ..ServicePort::default()
    }
}

/// Of one pod at a time; of none while `may_lose_one` says that the part would not go on without it. Kubernetes itself counts ready pods
/// only, and a member that has not caught up is ready long before it can stand in for another.
fn disruption_budget(
    metadata: ObjectMeta,
    selector: &BTreeMap<String, String>,
    may_lose_one: bool,
) -> PodDisruptionBudget {
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(i32::from(may_lose_one))),
        selector: Some(label_selector(selector)),
        // A pod that never became ready protects nobody and must not hold up a drain.
        unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
        ..PodDisruptionBudgetSpec::default()
    };
    PodDisruptionBudget { metadata, spec: Some(spec), status: None }
}

/// Whether a budget lets a pod be evicted.
pub fn allows_a_disruption(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().and_then(|spec| spec.max_unavailable.as_ref()) != Some(&IntOrString::Int(0))
}

/// The StatefulSet of broker or database.
fn stateful_set(
    plan: &Plan,
    part: Part,
    service: String,
    replicas: i32,
    storage: &Storage,
    template: PodTemplateSpec,
) -> StatefulSet {
    let selector = names::selector(&plan.name, part);
    let retain = || Some("Retain".to_owned());
    StatefulSet {
        metadata: metadata(plan, names::part(&plan.name, part), &selector),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(service),
            selector: label_selector(&selector),
            // All at once: after a full stop no single broker node can form a majority, and database members need no order.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                // The operator replaces them, see `crate::roll`.
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            // The volumes belong to the pipeline (see `volume_claim`) and outlive a StatefulSet that somebody deletes.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: retain(),
                when_scaled: retain(),
            }),
            revision_history_limit: Some(3),
            template,
            volume_claim_templates: Some(vec![volume_claim(plan, &selector, storage)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// The claim of each pod. Its owner is the pipeline, so that the data goes with the resource and with nothing less.
fn volume_claim(plan: &Plan, selector: &BTreeMap<String, String>, storage: &Storage) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".into()),
            labels: Some(names::labels(selector)),
            // Not as its controller, for that is the StatefulSet's to be.
            owner_references: Some(vec![OwnerReference { controller: None, ..plan.owner.clone() }]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".into(), Quantity(storage.size.clone()))])),
                limits: None,
            }),
            storage_class_name: storage.class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The first 16 hexadecimal digits of a text's SHA-256.
pub fn fingerprint(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
