//! What the operator knows of the cluster: one label-selected watch per kind, each with its store.
//! Rule: memory follows our own objects, not the cluster's; passes read these stores and not the API server.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cert_manager::Certificate;
use crate::children::{Children, children};
use crate::crd::StockPipeline;
use crate::discovery::{Optional, optional};
use crate::http_route::HTTPRoute;
use crate::names;
use crate::pod_monitor::PodMonitor;

/// The stores of the kinds we make, and of pods, which tell why something is not ready.
pub struct Stores {
    /// Secrets.
    pub secrets: Children<Secret>,
    /// Config maps.
    pub config_maps: Children<ConfigMap>,
    /// Services.
    pub services: Children<Service>,
    /// Network policies.
    pub network_policies: Children<NetworkPolicy>,
    /// Disruption budgets.
    pub pod_disruption_budgets: Children<PodDisruptionBudget>,
    /// Stateful sets.
    pub stateful_sets: Children<StatefulSet>,
    /// Deployments.
    pub deployments: Children<Deployment>,
    /// Jobs.
    pub jobs: Children<Job>,
    /// Ingresses.
    pub ingresses: Children<Ingress>,
    /// The Gateway API's routes.
    pub http_routes: Optional<HTTPRoute>,
    /// Prometheus' pod monitors.
    pub pod_monitors: Optional<PodMonitor>,
    /// cert-manager's certificates.
    pub certificates: Optional<Certificate>,
    /// Pods.
    pub pods: Children<Pod>,
    /// The claims of the pods of stateful sets.
    pub claims: Children<PersistentVolumeClaim>,
}

/// The watched type: one malformed resource is one error, not a dead watch.
pub type Guarded = DeserializeGuard<StockPipeline>;

/// Builds the controller and the stores its streams fill. An empty `namespace` watches all.
pub fn controller(client: &Client, namespace: &str) -> (Controller<Guarded>, Stores) {
    // A status of our own making must not start a pass: only changes of the spec, and deletion, do.
    let (pipelines, writer) = reflector::store();
    let trigger = watcher(api::<Guarded>(client, namespace), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(|pipeline| pipeline.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(wish), Default::default());
    let controller = Controller::for_stream(trigger, pipelines);

    // By label: those that cert-manager keeps have no owner of ours.
    let (secrets, stream) = watched::<Secret>(client, namespace, |_| {});
    let controller = controller.watches_stream(stream, |secret| instance(&secret));
    let (config_maps, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (services, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (network_policies, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (pod_disruption_budgets, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (stateful_sets, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (deployments, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (jobs, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (ingresses, stream) = watched(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (http_routes, stream) = watched(client, namespace, |_| {});
    let (http_routes, stream) = optional(client, http_routes, stream);
    let controller = controller.owns_stream(stream);
    let (pod_monitors, stream) = watched(client, namespace, |_| {});
    let (pod_monitors, stream) = optional(client, pod_monitors, stream);
    let controller = controller.owns_stream(stream);
    let (certificates, stream) = watched(client, namespace, |_| {});
    let (certificates, stream) = optional(client, certificates, stream);
    let controller = controller.owns_stream(stream);
    let (pods, stream) = watched(client, namespace, only_what_is_read);
    let controller = controller.watches_stream(stream, |pod| instance(&pod));
    let (claims, stream) = watched::<PersistentVolumeClaim>(client, namespace, |_| {});
    let controller = controller.watches_stream(stream, |claim| instance(&claim));
    let stores = Stores {
        secrets,
        config_maps,
        services,
        network_policies,
        pod_disruption_budgets,
        stateful_sets,
        deployments,
        jobs,
        ingresses,
        http_routes,
        pod_monitors,
        certificates,
        pods,
        claims,
    };
    (controller, stores)
}

/// The pipeline whose label an object carries; its controller is another object of ours.
fn instance<K: Resource>(object: &K) -> Option<ObjectRef<Guarded>> {
    let namespace = object.meta().namespace.as_deref()?;
    Some(ObjectRef::new(names::pipeline_of(object)?).within(namespace))
}

/// Objects of one answer while a store is filled: it is in memory as text, as values and as objects at once, and its connection keeps a buffer of its size.
const PAGE: u32 = 20;

fn api<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    if namespace.is_empty() { Api::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) }
}

/// A wish for other credentials is no change of the spec.
fn wish(pipeline: &Guarded) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    pipeline.annotations().get(names::ROTATE_CREDENTIALS).hash(&mut hasher);
    Some(hasher.finish())
}

/// Of a pod only its node, its state and whose logins it has are read (`pods`, `roll`, `rotation`): the rest is what its Deployment or StatefulSet says, and pods are the most numerous.
fn only_what_is_read(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == names::BROKER_ADDRESS || name == names::DATABASE_ADDRESS);
    }
    pod.metadata.annotations.take_if(|annotations| annotations.is_empty());
    let node_name = pod.spec.take().and_then(|spec| spec.node_name);
    pod.spec = Some(PodSpec { node_name, ..PodSpec::default() });
    if let Some(status) = &mut pod.status {
        (status.host_ips, status.pod_ips, status.resource_claim_statuses) = (None, None, None);
        let containers = [&mut status.container_statuses, &mut status.init_container_statuses];
        for container in containers.into_iter().flatten().flatten() {
            (container.allocated_resources, container.resources, container.volume_mounts) = (None, None, None);
        }
    }
}

fn watched<K>(
    client: &Client,
    namespace: &str,
    trim: fn(&mut K),
) -> (Children<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (known, mut writer) = children();
    let selector = format!("{}={}", names::MANAGED_BY, names::MANAGER);
    let stream = watcher(api::<K>(client, namespace), watcher::Config::default().labels(&selector).page_size(PAGE))
        .default_backoff()
        // Managed fields are half of an object's size and nobody here reads them.
        .modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        })
        .inspect_ok(move |event| writer.see(event))
        .touched_objects();
    (known, stream.boxed())
}

impl Stores {
    /// Waits until each store holds the first full list: before that, absence proves nothing.
    pub async fn ready(&self) {
        let Self {
            secrets,
            config_maps,
            services,
            network_policies,
            pod_disruption_budgets,
            stateful_sets,
            deployments,
            jobs,
            ingresses,
            http_routes,
            pod_monitors,
            certificates,
            pods,
            claims,
        } = self;
        futures::join!(
            secrets.listed(),
            config_maps.listed(),
            services.listed(),
            network_policies.listed(),
            pod_disruption_budgets.listed(),
            stateful_sets.listed(),
            deployments.listed(),
            jobs.listed(),
            ingresses.listed(),
            http_routes.ready(),
            pod_monitors.ready(),
            certificates.ready(),
            pods.listed(),
            claims.listed(),
        );
    }
}
