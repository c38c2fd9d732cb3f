//! A namespace of a test's own, and what a user does in it.
//! Rule: it is labelled restricted, gone afterwards (KEEP=1 keeps it), and shown when the test fails.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use operator::crd::StockPipeline;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{dump, wait_until};

/// Field manager of the user these tests play.
const USER: &str = "user";
/// A light pipeline is ready long before; a machine that also builds is slower.
pub const READY_WITHIN: Duration = Duration::from_secs(150);
/// Longest that a namespace takes to go, whatever is in it.
pub const GONE_WITHIN: Duration = Duration::from_secs(60);

/// A kind of object that lives in a namespace.
pub trait Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned {}
impl<K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned> Kind for K {}

/// A namespace of one test.
pub struct Space {
    /// The cluster of KUBECONFIG.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

/// Runs a test in a new namespace, and removes the namespace afterwards.
///
/// # Errors
/// The test's own, or the namespace did not go.
pub async fn with_namespace(name: &str, test: impl AsyncFnOnce(&Space) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let space = Space::create(name).await?;
    let outcome = match AssertUnwindSafe(test(&space)).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(anyhow!(
            "{}",
            panic.downcast::<String>().map_or_else(|_| "the test panicked, see above".into(), |text| *text)
        )),
    };
    let tested = start.elapsed();
    if let Err(error) = &outcome {
        eprintln!("{name} failed after {:.1} s: {error:#}", tested.as_secs_f64());
        dump::dump(&space.namespace).await;
    }
    if std::env::var("KEEP").is_ok_and(|keep| keep == "1") {
        eprintln!("KEEP=1: namespace {} stays", space.namespace);
        return outcome;
    }
    let cleaned = space.clean_up().await;
    println!(
        "{name}: {:.1} s, and {:.1} s to clean up",
        tested.as_secs_f64(),
        (start.elapsed() - tested).as_secs_f64()
    );
    outcome.and(cleaned)
}

impl Space {
    async fn create(name: &str) -> Result<Self> {
        let client =
            Client::try_default().await.context("no cluster: set KUBECONFIG, for example to .local/kubeconfig")?;
        // Seconds would do between two runs; two tests at once differ by their names.
        let unique = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() % 100_000_000;
        let namespace = format!("e2e-{name}-{unique}");
        let object = json!({"metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted", "stockpipeline.io/test": name}}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await
            .with_context(|| format!("create namespace {namespace}"))?;
        Ok(Self { client, namespace })
    }

    /// Deletes the pipelines, waits until their pods and volumes are gone, and deletes the namespace.
    ///
    /// A namespace with running pods in it is looked at by Kubernetes again only after half of their longest grace period, here
    /// 31 s; and the end of an empty one is nothing the next test has to wait for.
    async fn clean_up(&self) -> Result<()> {
        self.api::<StockPipeline>().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        self.no_pod(&format!("no pod is left in {}", self.namespace), "", GONE_WITHIN).await?;
        self.delete_namespace().await
    }

    async fn delete_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        match namespaces.delete(&self.namespace, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => other.map(drop).with_context(|| format!("delete namespace {}", self.namespace)),
        }
    }

    /// Deletes the namespace with all that is in it and waits until it is gone.
    ///
    /// # Errors
    /// It is still there after [`GONE_WITHIN`].
    pub async fn remove(&self) -> Result<()> {
        self.delete_namespace().await?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        wait_until(&format!("namespace {} is gone", self.namespace), GONE_WITHIN, async || {
            match namespaces.get_opt(&self.namespace).await? {
                None => Ok(()),
                Some(left) => Err(anyhow!("it is still there: {}", serde_json::to_string(&left.status)?)),
            }
        })
        .await
    }

    /// The objects of a kind in this namespace.
    pub fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Does what `kubectl apply --server-side` does with a StockPipeline.
    ///
    /// # Errors
    /// The API server refused it; the message has its words.
    pub async fn apply(&self, pipeline: &Value) -> Result<StockPipeline> {
        let name = pipeline["metadata"]["name"].as_str().context("the pipeline has no name")?;
        Ok(self.api::<StockPipeline>().patch(name, &PatchParams::apply(USER), &Patch::Apply(pipeline)).await?)
    }

    /// Applies a pipeline and waits until it is ready; gives the time that took.
    ///
    /// # Errors
    /// It was refused, or not ready within [`READY_WITHIN`].
    pub async fn apply_until_ready(&self, pipeline: &Value) -> Result<Duration> {
        let start = Instant::now();
        let applied = self.apply(pipeline).await?;
        self.ready(&applied.name_any()).await?;
        Ok(start.elapsed())
    }

    /// Waits until a pipeline's status says Ready of its newest generation.
    ///
    /// # Errors
    /// It does not within [`READY_WITHIN`].
    pub async fn ready(&self, name: &str) -> Result<StockPipeline> {
        let pipelines = self.api::<StockPipeline>();
        wait_until(&format!("pipeline {name} is Ready"), READY_WITHIN, async || {
            let pipeline = pipelines.get(name).await?;
            let status = pipeline.status.as_ref().context("it has no status")?;
            let ready = status
                .conditions
                .iter()
                .find(|condition| condition.type_ == "Ready")
                .context("it has no condition Ready")?;
            ensure!(
                status.observed_generation == pipeline.metadata.generation,
                "its status is of generation {:?}",
                status.observed_generation
            );
            ensure!(ready.status == "True", "Ready={} {}: {}", ready.status, ready.reason, ready.message);
            Ok(pipeline)
        })
        .await
    }

    /// A condition of a pipeline's status, of whatever generation.
    ///
    /// # Errors
    /// There is no such pipeline, or its status has no such condition yet.
    pub async fn condition(&self, pipeline: &str, condition: &str) -> Result<Condition> {
        let status = self.api::<StockPipeline>().get(pipeline).await?.status.context("there is no status")?;
        let found = status.conditions.into_iter().find(|found| found.type_ == condition);
        found.with_context(|| format!("there is no condition {condition}"))
    }

    /// The pods of a part of a pipeline.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, pipeline: &str, part: &str) -> Result<Vec<Pod>> {
        self.list(&labels(pipeline, part)).await
    }

    /// The names of a part's pods, and which ones they are: a pod of the same name may be another one.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn uids(&self, pipeline: &str, part: &str) -> Result<BTreeMap<String, String>> {
        let pods = self.pods(pipeline, part).await?;
        Ok(pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect())
    }

    /// Waits until no pod is left that these labels select.
    ///
    /// # Errors
    /// There still are some after `within`; the message names them.
    pub async fn no_pod(&self, description: &str, labels: &str, within: Duration) -> Result<()> {
        wait_until(description, within, async || {
            let left = self.list::<Pod>(labels).await?;
            ensure!(
                left.is_empty(),
                "there still are {}",
                left.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ")
            );
            Ok(())
        })
        .await
    }

    /// The image that the pods of a part run.
    ///
    /// # Errors
    /// There is no pod of it.
    pub async fn image(&self, pipeline: &str, part: &str) -> Result<String> {
        let pods = self.pods(pipeline, part).await?;
        let container = pods.first().and_then(|pod| pod.spec.as_ref()?.containers.first());
        container.and_then(|container| container.image.clone()).with_context(|| format!("no {part} has an image"))
    }

    /// The objects of a kind that labels select.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn list<K: Kind>(&self, labels: &str) -> Result<Vec<K>> {
        Ok(self.api::<K>().list(&ListParams::default().labels(labels)).await?.items)
    }
}

/// What selects the pods of a part of a pipeline.
pub fn labels(pipeline: &str, part: &str) -> String {
    format!("{}={pipeline},{}={part}", operator::names::INSTANCE, operator::names::COMPONENT)
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
