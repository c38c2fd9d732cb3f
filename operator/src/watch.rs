//! What the operator knows of the cluster: one label-selected watch per kind, each with its store.
//! Rule: memory follows our own objects, not the cluster's; passes read these stores and not the API server.

use std::fmt::Debug;
use std::hash::Hash;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::crd::StockPipeline;
use crate::discovery::{Optional, optional};
use crate::http_route::HTTPRoute;
use crate::names;
use crate::pod_monitor::PodMonitor;

/// The stores of the kinds we make, and of pods, which tell why something is not ready.
pub struct Stores {
    /// Secrets.
    pub secrets: Store<Secret>,
    /// Config maps.
    pub config_maps: Store<ConfigMap>,
    /// Services.
    pub services: Store<Service>,
    /// Network policies.
    pub network_policies: Store<NetworkPolicy>,
    /// Disruption budgets.
    pub pod_disruption_budgets: Store<PodDisruptionBudget>,
    /// Stateful sets.
    pub stateful_sets: Store<StatefulSet>,
    /// Deployments.
    pub deployments: Store<Deployment>,
    /// Jobs.
    pub jobs: Store<Job>,
    /// Ingresses.
    pub ingresses: Store<Ingress>,
    /// The Gateway API's routes.
    pub http_routes: Optional<HTTPRoute>,
    /// Prometheus' pod monitors.
    pub pod_monitors: Optional<PodMonitor>,
    /// Pods.
    pub pods: Store<Pod>,
    /// The claims of the pods of stateful sets.
    pub claims: Store<PersistentVolumeClaim>,
    /// All of them hold their first full list.
    loaded: OnceCell<()>,
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
        .predicate_filter(predicates::generation, Default::default());
    let controller = Controller::for_stream(trigger, pipelines);

    let (secrets, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (config_maps, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (services, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (network_policies, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (pod_disruption_budgets, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (stateful_sets, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (deployments, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (jobs, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (ingresses, stream) = children(client, namespace, |_| {});
    let controller = controller.owns_stream(stream);
    let (http_routes, stream) = children(client, namespace, |_| {});
    let (http_routes, stream) = optional(client, http_routes, stream);
    let controller = controller.owns_stream(stream);
    let (pod_monitors, stream) = children(client, namespace, |_| {});
    let (pod_monitors, stream) = optional(client, pod_monitors, stream);
    let controller = controller.owns_stream(stream);
    let (pods, stream) = children(client, namespace, only_what_is_read);
    let controller = controller.watches_stream(stream, |pod| instance(&pod));
    let (claims, stream) = children::<PersistentVolumeClaim>(client, namespace, |_| {});
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
        pods,
        claims,
        loaded: OnceCell::new(),
    };
    (controller, stores)
}

/// The pipeline whose label an object carries; its controller is another object of ours.
fn instance<K: Resource>(object: &K) -> Option<ObjectRef<Guarded>> {
    let namespace = object.meta().namespace.as_deref()?;
    Some(ObjectRef::new(object.labels().get(names::INSTANCE)?).within(namespace))
}

/// The objects of a store that belong to a pipeline, by label.
pub fn of_pipeline<K>(store: &Store<K>, namespace: &str, name: &str) -> Vec<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let here = |object: &K| {
        object.namespace().as_deref() == Some(namespace)
            && object.labels().get(names::INSTANCE).is_some_and(|instance| instance == name)
    };
    store.state().iter().filter(|object| here(object.as_ref())).map(|object| object.as_ref().clone()).collect()
}

/// Objects of one answer while a store is filled: it is in memory as text, as values and as objects at once.
const PAGE: u32 = 50;

fn api<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    if namespace.is_empty() { Api::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) }
}

/// Of a pod only its node and its state are read (`pods`, `roll`): the rest is what its Deployment or StatefulSet says, and pods are the most numerous.
fn only_what_is_read(pod: &mut Pod) {
    pod.metadata.annotations = None;
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

fn children<K>(
    client: &Client,
    namespace: &str,
    trim: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
    K::DynamicType: Eq + Hash,
{
    let (reader, writer) = reflector::store();
    let selector = format!("{}={}", names::MANAGED_BY, names::MANAGER);
    let stream = watcher(api::<K>(client, namespace), watcher::Config::default().labels(&selector).page_size(PAGE))
        .default_backoff()
        // Managed fields are half of an object's size and nobody here reads them.
        .modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        })
        .reflect(writer)
        .touched_objects();
    (reader, stream.boxed())
}

impl Stores {
    /// Waits until each store holds the first full list: before that, absence proves nothing.
    ///
    /// All passes wait at one place, for of several that wait for a store it wakes but one (kube-runtime 5.0.0, `DelayedInit`: the receiver of a
    /// oneshot channel has one waker), and each of the others would lose its minute at the start of an operator.
    pub async fn ready(&self) {
        self.loaded.get_or_init(|| self.load()).await;
    }

    async fn load(&self) {
        // A dropped writer means the process is ending; there is nothing left to wait for.
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
            pods,
            claims,
            loaded: _,
        } = self;
        drop(futures::join!(
            secrets.wait_until_ready(),
            config_maps.wait_until_ready(),
            services.wait_until_ready(),
            network_policies.wait_until_ready(),
            pod_disruption_budgets.wait_until_ready(),
            stateful_sets.wait_until_ready(),
            deployments.wait_until_ready(),
            jobs.wait_until_ready(),
            ingresses.wait_until_ready(),
            http_routes.ready(),
            pod_monitors.ready(),
            pods.wait_until_ready(),
            claims.wait_until_ready(),
        ));
    }
}
