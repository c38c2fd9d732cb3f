//! A namespace with a pipeline, the operators that work on it one after another, and what they have made.
//! Rule: worlds are compared by what a user can see in them, and only once nobody writes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use operator::crd::{StockPipeline, StockPipelineSpec};
use operator::credentials::key;
use operator::metrics::Metrics;
use operator::names;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kubernetes;
use crate::relay::{Disturbance, Relay};

/// How long a test waits for a condition. Many worlds share two cores.
const PATIENCE: Duration = Duration::from_secs(300);
/// The pipeline's name.
pub const NAME: &str = "demo";

/// A namespace of its own on the real API server.
pub struct World {
    pub client: Client,
    pub namespace: String,
}

/// Kind and name of each object, and what it says.
pub type Picture = BTreeMap<String, Value>;

async fn define(client: &Client) {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    DEFINED.get_or_init(|| kubernetes::define(client, PATIENCE)).await;
}

impl World {
    pub async fn new() -> Self {
        let client = operator::run::client(kubernetes::config().await).unwrap();
        define(&client).await;
        let namespace = kubernetes::namespace(&client, "faults-").await;
        Self { client, namespace }
    }

    /// `host:port` of the API server.
    pub fn server(&self) -> String {
        let server = kubernetes::kubeconfig().clusters[0].cluster.as_ref().unwrap().server.clone().unwrap();
        server.trim_start_matches("https://").to_owned()
    }

    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes the pipeline: the smallest there is, and what `spec` says otherwise.
    pub async fn create(&self, spec: Value) {
        let mut whole = json!({
            "companies": [{"symbol": "MSFT"}], "broker": {"replicas": 1}, "database": {"replicas": 1},
            "liveview": {"replicas": 1}, "edge": {"replicas": 1},
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let spec: StockPipelineSpec = serde_json::from_value(whole).unwrap();
        self.api().create(&PostParams::default(), &StockPipeline::new(NAME, spec)).await.unwrap();
    }

    /// Changes the pipeline's spec.
    pub async fn change(&self, spec: &Value) {
        let patch = json!({"spec": spec});
        self.api::<StockPipeline>().patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub async fn pipeline(&self) -> Option<StockPipeline> {
        self.api().get_opt(NAME).await.unwrap()
    }

    /// Waits until the status speaks of the present spec.
    pub async fn is_observed(&self) {
        until("the status speaks of the present spec", || async {
            let pipeline = self.pipeline().await?;
            (pipeline.status?.observed_generation == pipeline.metadata.generation).then_some(())
        })
        .await;
    }

    /// Starts an operator that knows nothing of those before it.
    pub fn operator(&self) -> Operator {
        self.operator_under(Disturbance::None)
    }

    /// The same, with a disturbance from its first request on.
    pub fn operator_under(&self, disturbance: Disturbance) -> Operator {
        let relay = Relay::new(&self.client);
        relay.disturb(disturbance);
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let task = kubernetes::operator(&relay.client(), &self.namespace, "test", &metrics, &stop);
        Operator { relay, metrics, stop, task }
    }

    /// Everything of the kinds the operator makes, whoever made it, and the pipeline's status.
    pub async fn picture(&self) -> Picture {
        let mut picture = self.objects().await;
        picture.iter_mut().for_each(|(name, value)| simplify(name, value));
        picture
    }

    /// The same with nothing but the resource version of each.
    pub async fn versions(&self) -> BTreeMap<String, String> {
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        self.objects().await.iter().map(|(name, object)| (name.clone(), version(object))).collect()
    }

    async fn objects(&self) -> Picture {
        let mut objects = Picture::new();
        self.add::<Secret>(&mut objects).await;
        self.add::<ConfigMap>(&mut objects).await;
        self.add::<Service>(&mut objects).await;
        self.add::<NetworkPolicy>(&mut objects).await;
        self.add::<PodDisruptionBudget>(&mut objects).await;
        self.add::<StatefulSet>(&mut objects).await;
        self.add::<Deployment>(&mut objects).await;
        self.add::<Job>(&mut objects).await;
        self.add::<PersistentVolumeClaim>(&mut objects).await;
        self.add::<Pod>(&mut objects).await;
        self.add::<StockPipeline>(&mut objects).await;
        objects
    }

    async fn add<K>(&self, objects: &mut Picture)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        for object in self.api::<K>().list(&ListParams::default()).await.unwrap() {
            let text = serde_json::to_string(&object).unwrap().replace(&self.namespace, "NAMESPACE");
            objects.insert(format!("{}/{}", K::kind(&()), object.name_any()), serde_json::from_str(&text).unwrap());
        }
    }

    /// The generated credentials: they must outlive the operator that made them.
    pub async fn credentials(&self) -> BTreeMap<String, Vec<u8>> {
        let derived = [key::URL, key::CONFIGURATION];
        let mut credentials = BTreeMap::new();
        for secret in self.api::<Secret>().list(&ListParams::default()).await.unwrap() {
            let name = secret.name_any();
            for (key, value) in secret.data.unwrap_or_default() {
                if !derived.contains(&key.as_str()) {
                    credentials.insert(format!("{name}/{key}"), value.0);
                }
            }
        }
        credentials
    }

    /// No controller empties a deleted namespace here; what is in it goes with the servers' data.
    pub async fn end(self) {
        drop(Api::<Namespace>::all(self.client).delete(&self.namespace, &DeleteParams::default()).await);
    }
}

/// An operator at work.
pub struct Operator {
    pub relay: Relay,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    /// Passes that ended.
    pub fn passes(&self) -> u64 {
        let text = self.metrics.text();
        let lines = text.lines().filter(|line| line.starts_with("stockpipeline_operator_reconciliations_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Waits until the status speaks of the present spec and a whole pass has written nothing since.
    pub async fn settles(&self, world: &World) {
        world.is_observed().await;
        let look = || (self.relay.writes().len(), self.passes());
        let mut quiet = look();
        until("the operator has nothing more to write", || {
            let now = look();
            if now.0 != quiet.0 {
                quiet = now;
            }
            // The first of two that end may have begun before.
            let settled = quiet.1 > 0 && now.1 >= quiet.1 + 2;
            if quiet.1 == 0 {
                quiet = now;
            }
            async move { settled.then_some(()) }
        })
        .await;
    }

    /// Ends at once, as by a power cut, when its relay says so; false when `change` came to pass and it settled before.
    pub async fn dies(&mut self, world: &World, change: impl Future<Output = ()>) -> bool {
        let survives = async {
            change.await;
            self.settles(world).await;
        };
        let died = tokio::select! {
            () = self.relay.death() => true,
            () = survives => false,
        };
        self.kill().await;
        died
    }

    pub async fn kill(&mut self) {
        self.task.abort();
        // Dropped by now: what it would still have done is not done.
        assert!((&mut self.task).await.is_err_and(|error| error.is_cancelled()), "the operator ended by itself");
    }

    pub async fn stop(self) {
        self.relay.disturb(Disturbance::None);
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Leaves what two worlds can be compared by.
fn simplify(name: &str, value: &mut Value) {
    normalise(value);
    let said = value.as_object_mut().unwrap();
    match name.split('/').next() {
        Some("Secret") => {
            let data = said["data"].as_object_mut().unwrap();
            data.values_mut().for_each(|value| *value = json!("..."));
        }
        // Theirs is of the controllers', and here of the API server's defaults.
        Some("StockPipeline") => {}
        _ => drop(said.remove("status")),
    }
}

/// Removes what no two worlds share: the server's own stamps, and hashes over them. That the hash of what was applied is right shows in
/// that the operator writes nothing more.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for stamp in [
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "managedFields",
                "lastTransitionTime",
                "nodePort",
                names::APPLIED,
                names::CONFIGURATION,
            ] {
                map.remove(stamp);
            }
            if map.get("clusterIP").is_some_and(|address| address != "None") {
                map.remove("clusterIP");
                map.remove("clusterIPs");
            }
            map.values_mut().for_each(normalise);
        }
        Value::Array(list) => list.iter_mut().for_each(normalise),
        // Which of two ways the name of a broker or database that nobody runs is not found, the load decides.
        Value::String(text) => {
            while let Some((before, (_, after))) =
                text.split_once("does not answer (").and_then(|(before, rest)| Some((before, rest.split_once("): ")?)))
            {
                *text = format!("{before}does not answer: {after}");
            }
        }
        _ => {}
    }
}

/// Past the test harness, which keeps the output of what succeeds to itself.
pub fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Waits for a condition; gives up with its name.
pub async fn until<T, F: Future<Output = Option<T>>>(condition: &str, look: impl FnMut() -> F) -> T {
    kubernetes::until(PATIENCE, condition, look).await
}

/// Where two worlds differ.
pub fn differences(is: &Picture, should: &Picture) -> Vec<String> {
    let mut found = Vec::new();
    for name in is.keys().chain(should.keys()).collect::<BTreeSet<_>>() {
        compare(name, is.get(name), should.get(name), &mut found);
    }
    found
}

fn compare(path: &str, is: Option<&Value>, should: Option<&Value>, found: &mut Vec<String>) {
    match (is, should) {
        (Some(Value::Object(is)), Some(Value::Object(should))) => {
            for key in is.keys().chain(should.keys()).collect::<BTreeSet<_>>() {
                compare(&format!("{path}/{key}"), is.get(key), should.get(key), found);
            }
        }
        (is, should) if is == should => {}
        (is, should) => {
            let words = |value: Option<&Value>| value.map_or_else(|| "absent".into(), Value::to_string);
            found.push(format!("{path} is {} instead of {}", words(is), words(should)));
        }
    }
}
