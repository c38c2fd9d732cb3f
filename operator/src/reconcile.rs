//! The driver: read → plan → objects → apply → observe → status, and the error policy.
//! Rule: a pass is whole, short and never waits; the same world twice writes nothing the second time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};

use crate::apply;
use crate::crd::{StockPipeline, StockPipelineStatus};
use crate::error::{Error, Retry};
use crate::metrics::Metrics;
use crate::names;
use crate::objects;
use crate::observe;
use crate::plan::{Images, Plan};
use crate::read::{self, Credentials};
use crate::status::{self, Seen};
use crate::watch::{Guarded, Stores};

/// Pause between passes while something is under way.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// Pause between passes when all is well. Changes in the cluster are watched; this is for what happens inside broker and database.
const SETTLED: Duration = Duration::from_secs(10);

/// What every pass needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The broker's management interface.
    pub http: reqwest::Client,
    /// What is known of the cluster.
    pub stores: Stores,
    /// All pipelines.
    pub pipelines: Store<Guarded>,
    /// Where events go.
    pub recorder: Recorder,
    /// Default images.
    pub images: Images,
    /// The operator's own figures.
    pub metrics: Arc<Metrics>,
    /// What earlier passes of this process knew, by uid.
    pub memory: Mutex<HashMap<String, Memory>>,
}

/// What a pass leaves for the next one. Losing it costs nothing but a read.
#[derive(Clone, Default)]
pub struct Memory {
    credentials: Option<Credentials>,
    /// The status as written; the watch may still show an older one, from which the same events would follow again.
    status: Option<StockPipelineStatus>,
}

/// One pass over one pipeline.
///
/// # Errors
/// The first failure, for the error policy; the status has told of it by then.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let began = Instant::now();
    let result = pass(&object, &context).await;
    let label = result.as_ref().map_or_else(Error::reason, |_| "ok");
    context.metrics.pass(label, began.elapsed());
    result
}

async fn pass(object: &Guarded, context: &Context) -> Result<Action, Error> {
    let pipeline = object.0.as_ref().map_err(|invalid| Error::Unreadable(invalid.error.clone()))?;
    if pipeline.metadata.deletion_timestamp.is_some() {
        // Garbage collection is at work; building against it would only make it longer.
        return Ok(Action::await_change());
    }
    let memory = context.recall(pipeline);
    let mut pipeline = pipeline.clone();
    if memory.status.is_some() {
        pipeline.status = memory.status;
    }
    let now = Timestamp::now();
    let mut seen = Seen::default();
    match plan(&pipeline, memory.credentials.as_ref(), context).await {
        Ok(plan) => {
            context.remember(&pipeline, |memory| memory.credentials = Some(plan.credentials.clone()));
            let objects = objects::build(&plan);
            if let Err(errors) = apply::apply(&context.client, &context.stores, &context.metrics, &plan, objects).await
            {
                seen.errors = errors;
            }
            observe::systems(&context.http, &plan, status::figures_due(pipeline.status.as_ref(), now), &mut seen).await;
        }
        Err(error) => seen.errors.push(error),
    }
    context.look_around(&pipeline, &mut seen);
    let status = status::of(&pipeline, &seen, now);
    let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let reported = report(&pipeline, status, context).await;
    for error in &seen.errors {
        tracing::warn!(pipeline = pipeline.name_any(), namespace = pipeline.namespace(), %error, "not done");
    }
    // The first failure decides when the next try is; an error text never leaves through a success.
    match (seen.errors.into_iter().next(), reported) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(())) => Ok(Action::requeue(if ready { SETTLED } else { UNDER_WAY })),
    }
}

async fn plan(pipeline: &StockPipeline, remembered: Option<&Credentials>, context: &Context) -> Result<Plan, Error> {
    let credentials = read::credentials(&context.client, &context.stores.secrets, pipeline, remembered).await?;
    Plan::new(pipeline, &context.images, credentials)
}

/// Writes status and events, if they are news.
async fn report(pipeline: &StockPipeline, status: StockPipelineStatus, context: &Context) -> Result<(), Error> {
    let old = pipeline.status.as_ref();
    if !status::changed(old, &status) {
        return Ok(());
    }
    let (name, kind) = (pipeline.name_any(), StockPipeline::kind(&()));
    let api: Api<StockPipeline> = Api::namespaced(context.client.clone(), &pipeline.namespace().unwrap_or_default());
    let patch = serde_json::json!({
        "apiVersion": StockPipeline::api_version(&()),
        "kind": kind,
        // With the uid, the status of a deleted pipeline cannot land on a new one of the same name.
        "metadata": {"name": name, "uid": pipeline.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(names::MANAGER).force();
    api.patch_status(&name, &parameters, &Patch::Apply(&patch)).await.map_err(Error::kubernetes(
        "write the status of",
        kind,
        &name,
    ))?;
    context.metrics.status_written();
    for event in status::events(old, &status) {
        // An event that is lost costs a line in `kubectl describe`; the conditions say the same.
        if let Err(error) = context.recorder.publish(&event, &pipeline.object_ref(&())).await {
            tracing::warn!(%error, "event not published");
        }
    }
    context.remember(pipeline, |memory| memory.status = Some(status));
    context.count();
    Ok(())
}

impl Context {
    fn look_around(&self, pipeline: &StockPipeline, seen: &mut Seen) {
        let (uid, name, namespace) = (pipeline.uid(), pipeline.name_any(), pipeline.namespace());
        let ours = |owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
            owners.iter().any(|owner| Some(&owner.uid) == uid.as_ref())
        };
        let (sets, deployments) = (self.stores.stateful_sets.state(), self.stores.deployments.state());
        seen.stateful_sets =
            sets.iter().filter(|set| ours(set.owner_references())).map(|set| set.as_ref().clone()).collect();
        seen.deployments =
            deployments.iter().filter(|item| ours(item.owner_references())).map(|item| item.as_ref().clone()).collect();
        let pods = self.stores.pods.state();
        let of_pipeline =
            pods.iter().filter(|pod| pod.namespace() == namespace && pod.labels().get(names::INSTANCE) == Some(&name));
        seen.pods = of_pipeline.map(|pod| pod.as_ref().clone()).collect();
    }

    fn recall(&self, pipeline: &StockPipeline) -> Memory {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        pipeline.uid().and_then(|uid| memory.get(&uid).cloned()).unwrap_or_default()
    }

    fn remember(&self, pipeline: &StockPipeline, change: impl FnOnce(&mut Memory)) {
        let Some(uid) = pipeline.uid() else { return };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(uid).or_default());
        // Nobody tells us that a pipeline is gone, so what is left of the gone ones goes when it becomes the larger half.
        if memory.len() > 2 * self.pipelines.len().max(8) {
            let alive: Vec<String> = self.pipelines.state().iter().filter_map(|pipeline| pipeline.uid()).collect();
            memory.retain(|uid, _| alive.contains(uid));
        }
    }

    fn count(&self) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = |memory: &&Memory| {
            memory
                .status
                .iter()
                .flat_map(|status| &status.conditions)
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let ready = memory.values().filter(is_ready).count();
        self.metrics.pipelines(ready, memory.len().saturating_sub(ready));
    }
}

/// When to try again after a failed pass, with jitter so that many pipelines do not come back at once.
pub fn error_policy(object: Arc<Guarded>, error: &Error, _context: Arc<Context>) -> Action {
    if error.retry() == Retry::OnChange {
        tracing::warn!(pipeline = %ObjectRef::from_obj(object.as_ref()), %error, "waiting for a change of the resource");
    }
    match error.retry().pause() {
        Some(pause) => Action::requeue(pause.mul_f64(rand::random_range(0.8..1.2))),
        None => Action::await_change(),
    }
}
