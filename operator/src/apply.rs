//! Brings the cluster to the wanted objects: server-side apply and prune, one generic function for every kind.
//! Rule: an object that already is as wanted is not written, one that belongs to someone else is not touched.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compare::contains;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::names;
use crate::objects::{Objects, fingerprint};
use crate::plan::Plan;
use crate::watch::Stores;

/// Applies all objects and removes ours that are no longer wanted. One object's failure does not keep the others away.
///
/// # Errors
/// All failures, in the order of the kinds.
pub async fn apply(
    client: &Client,
    stores: &Stores,
    metrics: &Metrics,
    plan: &Plan,
    objects: Objects,
) -> Result<(), Vec<Error>> {
    // Without `..`: a kind that is built and not applied must not compile.
    let Objects { secrets, config_maps, services, pod_disruption_budgets, stateful_sets, deployments } = objects;
    let mut target = Target { client, metrics, plan, failures: Vec::new() };
    // What pods mount and look up first, what runs last.
    target.sync(&stores.secrets, secrets).await;
    target.sync(&stores.config_maps, config_maps).await;
    target.sync(&stores.services, services).await;
    target.sync(&stores.pod_disruption_budgets, pod_disruption_budgets).await;
    target.sync(&stores.stateful_sets, stateful_sets).await;
    target.sync(&stores.deployments, deployments).await;
    if target.failures.is_empty() { Ok(()) } else { Err(target.failures) }
}

struct Target<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    plan: &'a Plan,
    failures: Vec<Error>,
}

impl Target<'_> {
    async fn sync<K>(&mut self, store: &Store<K>, wanted: Vec<K>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.plan.namespace);
        let names: Vec<String> = wanted.iter().map(ResourceExt::name_any).collect();
        for object in wanted {
            if let Err(error) = self.apply_one(&api, store, object).await {
                self.failures.push(error);
            }
        }
        for live in store.state() {
            let gone = live.meta().deletion_timestamp.is_some() || names.contains(&live.name_any());
            if gone || live.namespace().as_deref() != Some(&self.plan.namespace) || !self.owns(live.as_ref()) {
                continue;
            }
            if let Err(error) = self.prune(&api, live.as_ref()).await {
                self.failures.push(error);
            }
        }
    }

    async fn apply_one<K>(&self, api: &Api<K>, store: &Store<K>, mut object: K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let (kind, name) = (K::kind(&()).to_string(), object.name_any());
        let hash = fingerprint(&to_value(&object).to_string());
        object.annotations_mut().insert(names::APPLIED.into(), hash);
        let known = store.get(&ObjectRef::new(&name).within(&self.plan.namespace));
        let live = match known {
            Some(live) => Some(live.as_ref().clone()),
            // The store holds labelled objects only: what is not in it may exist all the same.
            None => api.get_opt(&name).await.map_err(Error::kubernetes("get", &kind, &name))?,
        };
        if let Some(live) = &live {
            if live.meta().deletion_timestamp.is_some() {
                return Err(Error::Leaving { kind, name });
            }
            if !self.owns(live) {
                return Err(if was_a_namesakes(live, &self.plan.name) {
                    Error::Leaving { kind, name }
                } else {
                    Error::Foreign { kind, name }
                });
            }
            if contains(&to_value(live), &to_value(&object)) {
                return Ok(());
            }
        }
        let parameters = PatchParams::apply(names::MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .map_err(Error::kubernetes("apply", &kind, &name))?;
        tracing::info!(kind, name, namespace = self.plan.namespace, "applied");
        self.metrics.applied(&kind);
        Ok(())
    }

    async fn prune<K>(&self, api: &Api<K>, live: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (kind, name) = (K::kind(&()).to_string(), live.name_any());
        let exactly_this = Preconditions { uid: live.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::background() };
        match api.delete(&name, &parameters).await {
            Ok(_) => {
                tracing::info!(kind, name, namespace = self.plan.namespace, "pruned");
                self.metrics.pruned(&kind);
                Ok(())
            }
            // Gone already, or replaced by another object of the same name: the store will tell.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(Error::kubernetes("delete", kind, name)(error)),
        }
    }

    /// Labels alone are no proof of ownership.
    fn owns<K: Resource>(&self, object: &K) -> bool {
        object.owner_references().iter().any(|owner| owner.uid == self.plan.owner.uid)
    }
}

/// True for a child of a deleted pipeline of the same name: garbage collection is about to take it.
fn was_a_namesakes<K: Resource>(object: &K, pipeline: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.kind == "StockPipeline" && owner.name == pipeline)
}

/// A Kubernetes type always becomes a JSON object; should one ever not, it compares as different and is applied.
fn to_value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
