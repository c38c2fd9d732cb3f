//! What the operator knows of the cluster: one label-selected watch per kind, each with its store.
//! Rule: memory follows our own objects, not the cluster's; passes read these stores and not the API server.

use std::hash::{DefaultHasher, Hash, Hasher};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use kube::core::{ApiResource, DeserializeGuard};
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;

use crate::cert_manager::Certificate;
use crate::children::{Children, Writer, children};
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

/// The changes of one kind.
pub struct Watch {
    /// Which.
    pub kind: ApiResource,
    /// What changed, when its store knows it.
    pub stream: BoxStream<'static, Result<DynamicObject, watcher::Error>>,
}

/// The watched type: one malformed resource is one error, not a dead watch.
pub type Guarded = DeserializeGuard<StockPipeline>;

/// Builds the controller and the stores its streams fill. An empty `namespace` watches all.
pub fn controller(client: &Client, namespace: &str) -> (Controller<Guarded>, Stores) {
    // A status of our own making must not start a pass: only changes of the spec, and deletion, do.
    let (pipelines, writer) = reflector::store();
    let api = match namespace {
        "" => Api::<Guarded>::all(client.clone()),
        _ => Api::namespaced(client.clone(), namespace),
    };
    let trigger = watcher(api, watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(|pipeline| pipeline.managed_fields_mut().clear())
        .inspect_err(|error| tracing::warn!(kind = "StockPipeline", %error, "not watched, to be tried again"))
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(wish), Default::default());
    let controller = Controller::for_stream(trigger, pipelines);

    // By label: those that cert-manager keeps have no owner of ours.
    let (secrets, controller) = by_label(controller, watched(client, namespace, |_| {}));
    let (config_maps, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (services, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (network_policies, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (pod_disruption_budgets, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (stateful_sets, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (deployments, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (jobs, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (ingresses, controller) = by_owner(controller, watched(client, namespace, |_| {}));
    let (http_routes, controller) = by_owner(controller, optional(client, watched(client, namespace, |_| {})));
    let (pod_monitors, controller) = by_owner(controller, optional(client, watched(client, namespace, |_| {})));
    let (certificates, controller) = by_owner(controller, optional(client, watched(client, namespace, |_| {})));
    let (pods, controller) = by_label(controller, watched(client, namespace, only_what_is_read));
    let (claims, controller) = by_label(controller, watched(client, namespace, |_| {}));
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
fn instance(object: &DynamicObject) -> Option<ObjectRef<Guarded>> {
    let namespace = object.metadata.namespace.as_deref()?;
    Some(ObjectRef::new(names::pipeline_of(object)?).within(namespace))
}

/// Objects of one answer while a store is filled: all of it is in memory as text and as objects at once.
const PAGE: u32 = 20;

/// A wish for other credentials is no change of the spec.
fn wish(pipeline: &Guarded) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    pipeline.annotations().get(names::ROTATE_CREDENTIALS).hash(&mut hasher);
    Some(hasher.finish())
}

/// Of a pod only its node, its state and whose logins it has are read (`pods`, `roll`, `rotation`): the rest is what its Deployment or StatefulSet says, and pods are the most numerous.
fn only_what_is_read(pod: &mut DynamicObject) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == names::BROKER_ADDRESS || name == names::DATABASE_ADDRESS);
    }
    pod.metadata.annotations.take_if(|annotations| annotations.is_empty());
    if let Some(Value::Object(spec)) = pod.data.get_mut("spec") {
        spec.retain(|field, _| field == "nodeName");
    }
    let Some(Value::Object(status)) = pod.data.get_mut("status") else { return };
    status.retain(|field, _| !["hostIPs", "podIPs", "resourceClaimStatuses"].contains(&field.as_str()));
    for containers in ["containerStatuses", "initContainerStatuses"] {
        for container in status.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            container.retain(|field, _| !["allocatedResources", "resources", "volumeMounts"].contains(&field.as_str()));
        }
    }
}

fn watched<K>(client: &Client, namespace: &str, trim: fn(&mut DynamicObject)) -> (Children<K>, Watch)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let (known, writer) = children();
    (known, watch(client, namespace, ApiResource::erase::<K>(&()), trim, writer))
}

fn watch(
    client: &Client,
    namespace: &str,
    kind: ApiResource,
    trim: fn(&mut DynamicObject),
    mut writer: Writer,
) -> Watch {
    let client = client.clone();
    let api: Api<DynamicObject> = match namespace {
        "" => Api::all_with(client, &kind),
        _ => Api::namespaced_with(client, namespace, &kind),
    };
    let name = kind.kind.clone();
    let selector = format!("{}={}", names::MANAGED_BY, names::MANAGER);
    let stream = watcher(api, watcher::Config::default().labels(&selector).page_size(PAGE))
        .default_backoff()
        // Managed fields are half of an object's size and nobody here reads them.
        .modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        })
        .inspect_ok(move |event| writer.see(event))
        .inspect_err(move |error| tracing::warn!(kind = name, %error, "not watched, to be tried again"))
        .touched_objects();
    Watch { kind, stream: stream.boxed() }
}

/// Lets the changes of a kind start a pass of the pipeline that an object's label names; gives back the kind's store.
fn by_label<S>(controller: Controller<Guarded>, (store, watch): (S, Watch)) -> (S, Controller<Guarded>) {
    (store, controller.watches_stream_with(watch.stream, |object| instance(&object), watch.kind))
}

/// The same, of the pipeline that owns an object.
fn by_owner<S>(controller: Controller<Guarded>, (store, watch): (S, Watch)) -> (S, Controller<Guarded>) {
    (store, controller.owns_stream_with(watch.stream, watch.kind))
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
