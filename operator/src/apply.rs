//! Brings the cluster to the wanted objects: server-side apply and prune, one function for every kind.
//! Rule: an object that already is as wanted is not written, one that belongs to someone else is not touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, EvictParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, TypeMeta};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::children::Children;
use crate::claims;
use crate::compare::contains;
use crate::crd::DeletionPolicy;
use crate::error::Error;
use crate::http_route::HTTPRoute;
use crate::metrics::Metrics;
use crate::names::{self, Part};
use crate::objects::{Objects, fingerprint};
use crate::ownership;
use crate::plan::Plan;
use crate::volumes::{self, Next, Volumes};
use crate::watch::Stores;

/// Objects that need no further look: uid and the resource version at which they were found as wanted, or came back from an apply. The server may
/// keep one in a form of its own however often it is applied: another writer's element in a list is one such case; server-side apply
/// cannot take it away. It counts for what was applied last, which the annotation tells; and it spares most of a pass that finds nothing to do.
pub type Settled = Mutex<HashMap<String, String>>;

/// As many as thousands of pipelines have; forgetting them costs a look at each.
const SETTLED_MAX: usize = 50_000;

/// What runs after an apply, as the server returned it or as the watch has it, and what went wrong.
#[derive(Default)]
pub struct Applied {
    /// The wanted stateful sets.
    pub stateful_sets: Vec<StatefulSet>,
    /// The wanted deployments.
    pub deployments: Vec<Deployment>,
    /// How the volumes of broker and database are.
    pub volumes: BTreeMap<Part, Volumes>,
    /// The wanted Ingress.
    pub ingress: Option<Ingress>,
    /// The wanted route.
    pub http_route: Option<HTTPRoute>,
    /// All failures, in the order of the kinds. One object's failure does not keep the others away.
    pub failures: Vec<Error>,
}

/// Applies all objects and removes ours that are no longer wanted.
pub async fn apply(
    client: &Client,
    stores: &Stores,
    metrics: &Metrics,
    settled: &Settled,
    plan: &Plan,
    objects: Objects,
) -> Applied {
    // Without `..`: a kind that is built and not applied must not compile.
    let Objects {
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
    } = objects;
    let mut target = Target { client, metrics, settled, plan, failures: Vec::new() };
    // Before all else: what fails later may fail for want of room.
    let (stateful_sets, made_anew) = target.grow(stores, stateful_sets).await;
    // What pods mount and look up first, what runs last.
    target.sync(&stores.secrets, secrets).await;
    target.sync(&stores.config_maps, config_maps).await;
    target.sync(&stores.services, services).await;
    target.sync(&stores.network_policies, network_policies).await;
    target.sync(&stores.pod_disruption_budgets, pod_disruption_budgets).await;
    let stateful_sets = target.sync_but(&stores.stateful_sets, stateful_sets, &made_anew).await;
    let stateful_sets = stateful_sets.iter().filter_map(typed).chain(made_anew).collect();
    let deployments = target.sync(&stores.deployments, deployments).await.iter().filter_map(typed).collect();
    target.sync_jobs(&stores.jobs, jobs).await;
    let ingress = target.sync_way_in(&stores.ingresses, ingresses).await;
    let http_route = target.sync_way_in(&stores.http_routes.store, http_routes).await;
    if stores.pod_monitors.is_served() {
        target.sync(&stores.pod_monitors.store, pod_monitors).await;
    }
    if stores.certificates.is_served() {
        target.sync(&stores.certificates.store, certificates).await;
    }
    let claims_and_pods = target.claims_and_pods(stores);
    target.prune_claims(&claims_and_pods).await;
    target.retain(&target.known(&stores.secrets), &claims_and_pods.0).await;
    let volumes = target.look_at_volumes(&claims_and_pods);
    Applied { stateful_sets, deployments, ingress, http_route, volumes, failures: target.failures }
}

/// Has a pod replaced, if the disruption budgets allow it now.
///
/// # Errors
/// The API server refused for another reason.
pub async fn evict(client: &Client, metrics: &Metrics, pod: &Pod) -> Result<(), Error> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let exactly_this = Preconditions { uid: pod.uid(), resource_version: None };
    let parameters = EvictParams {
        delete_options: Some(DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::default() }),
        ..EvictParams::default()
    };
    match api.evict(&name, &parameters).await {
        Ok(_) => {
            tracing::info!(name, namespace, "pod evicted, to be made anew of the newest template");
            metrics.evicted();
            Ok(())
        }
        // A budget that is used up, or a pod that is another one by now: the next pass looks again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 429) => {
            tracing::debug!(name, namespace, reason = status.message, "pod not evicted");
            Ok(())
        }
        Err(error) => Err(Error::kubernetes("evict", Pod::kind(&()), name)(error)),
    }
}

/// Those of one pipeline.
type ClaimsAndPods = (Vec<PersistentVolumeClaim>, Vec<Pod>);

struct Target<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    settled: &'a Settled,
    plan: &'a Plan,
    failures: Vec<Error>,
}

/// A kind as the API server calls it. What is done with objects is the same for all of them, so its code knows no types and is there once.
struct Kind {
    name: String,
    api: Api<DynamicObject>,
}

/// An object as it is to be.
struct Wanted {
    object: DynamicObject,
    /// The value of its annotation [`names::APPLIED`].
    hash: String,
}

impl Wanted {
    fn new<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let mut data = to_value(object);
        let hash = hash_of(&data);
        if let Value::Object(fields) = &mut data {
            fields.retain(|field, _| !["apiVersion", "kind", "metadata"].contains(&field.as_str()));
        }
        let mut object =
            DynamicObject { types: Some(TypeMeta::resource::<K>()), metadata: object.meta().clone(), data };
        object.annotations_mut().insert(names::APPLIED.into(), hash.clone());
        Self { object, hash }
    }

    /// Whether a live object says all of it. Of objects in a list the server does not say the kind.
    fn is_said_by(&self, live: &DynamicObject) -> bool {
        let metadata = contains(&to_value(&live.metadata), &to_value(&self.object.metadata));
        metadata && contains(&live.data, &self.object.data)
    }
}

impl Target<'_> {
    fn kind<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Kind {
        let resource = ApiResource::erase::<K>(&());
        let api = Api::namespaced_with(self.client.clone(), &self.plan.namespace, &resource);
        Kind { name: resource.kind, api }
    }

    /// Brings one kind to what is wanted and returns the wanted objects that exist now.
    async fn sync<K>(&mut self, store: &Children<K>, wanted: Vec<K>) -> Vec<DynamicObject>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        self.sync_but(store, wanted, &[]).await
    }

    /// The same; those `left_alone` are wanted besides, and are as they are.
    async fn sync_but<K>(&mut self, store: &Children<K>, wanted: Vec<K>, left_alone: &[K]) -> Vec<DynamicObject>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize,
    {
        let known = self.known(&store.untyped());
        let wanted: Vec<Wanted> = wanted.iter().map(Wanted::new).collect();
        let left_alone: Vec<String> = left_alone.iter().map(ResourceExt::name_any).collect();
        self.sync_kind(&self.kind::<K>(), known, wanted, &left_alone).await
    }

    async fn sync_kind(
        &mut self,
        kind: &Kind,
        known: Vec<DynamicObject>,
        wanted: Vec<Wanted>,
        left_alone: &[String],
    ) -> Vec<DynamicObject> {
        let names: Vec<String> = wanted.iter().map(|wanted| wanted.object.name_any()).collect();
        let is_wanted = |name: &String| names.contains(name) || left_alone.contains(name);
        let (known, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|live| is_wanted(&live.name_any()));
        let present = self.apply_all(kind, known, wanted).await;
        // Not what merely has our labels, as a copy that a user made.
        let others = others.iter().filter(|live| self.owns(*live)).map(|live| &live.metadata).collect();
        self.prune_all(kind, others).await;
        present
    }

    /// As [`Self::sync`]; what is no longer wanted stays until what is wanted serves in its place.
    async fn sync_way_in<K>(&mut self, store: &Children<K>, wanted: Vec<K>) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
    {
        let mut present = if self.plan.edge_way.serves {
            self.sync(store, wanted).await
        } else {
            let wanted = wanted.iter().map(Wanted::new).collect();
            self.apply_all(&self.kind::<K>(), self.known(&store.untyped()), wanted).await
        };
        typed(&present.pop()?)
    }

    async fn apply_all(&mut self, kind: &Kind, known: Vec<DynamicObject>, wanted: Vec<Wanted>) -> Vec<DynamicObject> {
        let mut known: HashMap<String, DynamicObject> = known.into_iter().map(|live| (live.name_any(), live)).collect();
        let mut present = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let known = known.remove(&wanted.object.name_any());
            match self.apply_one(kind, known.as_ref(), &wanted).await {
                Ok(other) => present.extend(other.or(known)),
                Err(error) => {
                    self.failures.push(error);
                    // A change that was refused leaves what runs as it is.
                    present.extend(known.filter(|live| self.owns(live)));
                }
            }
        }
        present
    }

    /// Lets volumes grow. Returns the sets to be applied, and those that are to be made anew as they were.
    async fn grow(&mut self, stores: &Stores, wanted: Vec<StatefulSet>) -> (Vec<StatefulSet>, Vec<StatefulSet>) {
        let (claims, pods) = self.claims_and_pods(stores);
        let (mut sets, mut made_anew) = (Vec::new(), Vec::new());
        for set in wanted {
            let live = self.known_one(&stores.stateful_sets, &set.name_any()).filter(|live| self.owns(live));
            let owner = &self.plan.owner;
            let (next, refused) =
                volumes::grow(self.client, self.metrics, owner, live.as_ref(), set, (&claims, &pods)).await;
            self.failures.extend(refused);
            match next {
                Next::Apply(set) => sets.push(set),
                Next::Await(live) => made_anew.push(live),
            }
        }
        (sets, made_anew)
    }

    fn look_at_volumes(&mut self, (claims, pods): &ClaimsAndPods) -> BTreeMap<Part, Volumes> {
        let (plan, now) = (self.plan, Timestamp::now());
        let parts = [(Part::Broker, plan.broker_size), (Part::Database, plan.database_size)];
        let volumes =
            BTreeMap::from(parts.map(|(part, size)| {
                (part, volumes::look(&names::part(&plan.name, part), size.pods, claims, pods, now))
            }));
        let stuck = volumes.values().filter_map(|volumes| volumes.stuck.clone());
        self.failures.extend(stuck.map(Error::VolumeCannotGrow));
        self.failures.extend(plan.kept_claim.clone().map(|claim| Error::KeptVolume { claim }));
        volumes
    }

    /// Those of the pipeline, by label: a StatefulSet takes any claim of the right name.
    fn claims_and_pods(&self, stores: &Stores) -> ClaimsAndPods {
        (self.known(&stores.claims), self.known(&stores.pods))
    }

    /// What is known of the pipeline's objects of a kind.
    fn known<K: DeserializeOwned>(&self, store: &Children<K>) -> Vec<K> {
        store.of(&self.plan.namespace, &self.plan.name)
    }

    fn known_one<K: DeserializeOwned>(&self, store: &Children<K>, name: &str) -> Option<K> {
        store.get(&self.plan.namespace, &self.plan.name, name)
    }

    /// A Job cannot be changed: one that is to be another goes first, and comes again in a later pass.
    async fn sync_jobs(&mut self, store: &Children<Job>, wanted: Vec<Job>) {
        let outdated = |job: &Job| {
            let live = self.known_one(store, &job.name_any()).filter(|live| self.owns(live));
            live.is_some_and(|live| !was_applied(&live, job))
        };
        let wanted = wanted.into_iter().filter(|job| !outdated(job)).collect();
        self.sync(store, wanted).await;
    }

    /// Applies what is not as wanted; what exists then, if that is not what is known.
    async fn apply_one(
        &self,
        kind: &Kind,
        known: Option<&DynamicObject>,
        wanted: &Wanted,
    ) -> Result<Option<DynamicObject>, Error> {
        let name = wanted.object.name_any();
        let found = match known {
            Some(_) => None,
            // The store holds labelled objects only: what is not in it may exist all the same.
            None => kind.api.get_opt(&name).await.map_err(Error::kubernetes("get", &kind.name, &name))?,
        };
        if let Some(live) = known.or(found.as_ref()) {
            ownership::check(&kind.name, live, &self.plan.name, &self.plan.owner.uid)?;
            if live.annotations().get(names::APPLIED) == Some(&wanted.hash) {
                if self.is_settled(live) {
                    return Ok(found);
                }
                if wanted.is_said_by(live) {
                    self.settle(live);
                    return Ok(found);
                }
            }
        }
        let parameters = PatchParams::apply(names::MANAGER).force();
        let returned = kind
            .api
            .patch(&name, &parameters, &Patch::Apply(&wanted.object))
            .await
            .map_err(Error::kubernetes("apply", &kind.name, &name))?;
        tracing::info!(kind = kind.name, name, namespace = self.plan.namespace, "applied");
        self.metrics.applied(&kind.name);
        self.settle(&returned);
        Ok(Some(returned))
    }

    fn owns<K: Resource>(&self, object: &K) -> bool {
        ownership::is_owned(object, &self.plan.owner.uid)
    }

    fn is_settled(&self, live: &DynamicObject) -> bool {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        live.uid()
            .and_then(|uid| settled.get(&uid).cloned())
            .is_some_and(|version| live.resource_version() == Some(version))
    }

    fn settle(&self, returned: &DynamicObject) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.len() > SETTLED_MAX {
            settled.clear();
        }
        if let (Some(uid), Some(version)) = (returned.uid(), returned.resource_version()) {
            settled.insert(uid, version);
        }
    }

    /// Makes data go with the pipeline, or stay when it goes. There is no finalizer that could do it later, so it is so at any time.
    async fn retain(&mut self, secrets: &[Secret], claims: &[PersistentVolumeClaim]) {
        let parts = [Part::Broker, Part::Database];
        let credentials = parts.map(|part| names::credentials(&self.plan.name, part));
        for secret in secrets.iter().filter(|secret| credentials.contains(&secret.name_any())) {
            self.retain_one(secret, &self.plan.owner).await;
        }
        let sets = parts.map(|part| names::part(&self.plan.name, part));
        let of_a_set = |claim: &&PersistentVolumeClaim| {
            sets.iter().any(|set| claims::claim_ordinal(set, &claim.name_any()).is_some())
        };
        // Not as its controller, as in the claim template.
        let owner = OwnerReference { controller: None, ..self.plan.owner.clone() };
        for claim in claims.iter().filter(of_a_set) {
            self.retain_one(claim, &owner).await;
        }
    }

    async fn retain_one<K>(&mut self, live: &K, owner: &OwnerReference)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let ours = live.meta().deletion_timestamp.is_none() && ownership::is_ours(live, &self.plan.name, &owner.uid);
        let owners = ownership::owners(live.owner_references(), owner, self.plan.deletion_policy);
        if let Some(owners) = owners.filter(|_| ours) {
            // With the version, what others did to the owners meanwhile is not undone.
            let metadata = json!({"ownerReferences": owners, "resourceVersion": live.resource_version()});
            self.patch_metadata(&self.kind::<K>(), live.meta(), metadata).await;
        }
    }

    /// Removes the volumes of members and nodes that have left.
    async fn prune_claims(&mut self, (claims, pods): &ClaimsAndPods) {
        let kind = self.kind::<PersistentVolumeClaim>();
        let pod_exists = |pod: &str| pods.iter().any(|live| live.name_any() == pod);
        for (part, size) in [(Part::Broker, self.plan.broker_size), (Part::Database, self.plan.database_size)] {
            let set = names::part(&self.plan.name, part);
            let left = claims.iter().filter(|claim| {
                ownership::is_ours(*claim, &self.plan.name, &self.plan.owner.uid)
                    && claims::is_leftover(&set, size, claim, pod_exists)
            });
            // A node that leaves the broker hands over what it holds and is reset, and a claim that never had a volume holds nothing: there is
            // nothing to retain. What was kept once goes with the pipeline at the soonest, whatever it says today.
            let retains = part == Part::Database && self.plan.deletion_policy == DeletionPolicy::Retain;
            let (kept, unwanted): (Vec<_>, Vec<_>) =
                left.partition(|claim| claims::is_kept(claim) || (retains && claims::has_volume(claim)));
            self.keep_all(&kind, kept).await;
            self.prune_all(&kind, unwanted.into_iter().map(|claim| &claim.metadata).collect()).await;
        }
    }

    /// Marks the claims that members left behind.
    async fn keep_all(&mut self, kind: &Kind, left: Vec<&PersistentVolumeClaim>) {
        for claim in left {
            if claims::is_kept(claim) || claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let metadata = json!({"annotations": {names::KEPT: "true"}, "uid": claim.uid()});
            self.patch_metadata(kind, &claim.metadata, metadata).await;
        }
    }

    /// Changes the metadata of an object that is not made by us, or not applied.
    async fn patch_metadata(&mut self, kind: &Kind, live: &ObjectMeta, metadata: Value) {
        let name = live.name.clone().unwrap_or_default();
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let parameters = PatchParams { field_manager: Some(names::MANAGER.into()), ..PatchParams::default() };
        match kind.api.patch(&name, &parameters, &patch).await {
            Ok(_) => {
                tracing::info!(kind = kind.name, name, namespace = self.plan.namespace, "retention marked");
                self.metrics.patched(&kind.name);
            }
            // Gone, another one, or changed meanwhile: the store will tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => self.failures.push(Error::kubernetes("patch", &kind.name, name)(error)),
        }
    }

    /// Removes those that are not going already.
    async fn prune_all(&mut self, kind: &Kind, unwanted: Vec<&ObjectMeta>) {
        for live in unwanted.into_iter().filter(|live| live.deletion_timestamp.is_none()) {
            if let Err(error) = self.prune(kind, live).await {
                self.failures.push(error);
            }
        }
    }

    async fn prune(&self, kind: &Kind, live: &ObjectMeta) -> Result<(), Error> {
        let name = live.name.clone().unwrap_or_default();
        let exactly_this = Preconditions { uid: live.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::background() };
        match kind.api.delete(&name, &parameters).await {
            Ok(_) => {
                tracing::info!(kind = kind.name, name, namespace = self.plan.namespace, "pruned");
                self.metrics.pruned(&kind.name);
                Ok(())
            }
            // Gone already, or replaced by another object of the same name: the store will tell.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(Error::kubernetes("delete", &kind.name, name)(error)),
        }
    }
}

/// Whether a live object is what an earlier pass, of whatever operator, made of exactly this.
pub(crate) fn was_applied<K: Resource + Serialize>(live: &K, wanted: &K) -> bool {
    live.annotations().get(names::APPLIED) == Some(&applied(wanted))
}

/// The value of the annotation [`names::APPLIED`] for an object as it is built.
pub fn applied<K: Serialize>(object: &K) -> String {
    hash_of(&to_value(object))
}

fn hash_of(object: &Value) -> String {
    fingerprint(&object.to_string())
}

/// A Kubernetes type always becomes a JSON object; should one ever not, it compares as different and is applied.
fn to_value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// What the server returned, or a watch has seen, keeps to the schema of its kind.
fn typed<K: DeserializeOwned>(object: &DynamicObject) -> Option<K> {
    let read = serde_json::from_value(to_value(object));
    read.inspect_err(|error| tracing::error!(name = object.name_any(), %error, "not readable")).ok()
}
