//! The API server of `e2e/servers`, and an operator on it.
#![allow(dead_code)] // each test takes what it needs

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use operator::crd::{self, StockPipeline};
use operator::metrics::Metrics;
use operator::plan::Images;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub fn kubeconfig() -> Kubeconfig {
    let path = std::env::var("STOCK_TEST_KUBECONFIG")
        .unwrap_or_else(|_| panic!("STOCK_TEST_KUBECONFIG is not set: run `make test`, it starts the servers"));
    Kubeconfig::read_from(path).unwrap()
}

pub async fn config() -> Config {
    Config::from_custom_kubeconfig(kubeconfig(), &KubeConfigOptions::default()).await.unwrap()
}

pub async fn client() -> Client {
    Client::try_from(config().await).unwrap()
}

/// Makes the definition, and waits at most `patience` until it is served.
pub async fn define(client: &Client, patience: Duration) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = crd::definition();
    let parameters = PatchParams::apply("test").force();
    definitions.patch(&definition.name_any(), &parameters, &Patch::Apply(&definition)).await.unwrap();
    until(patience, "the definition is served", || async {
        Api::<StockPipeline>::default_namespaced(client.clone()).list(&ListParams::default()).await.ok()
    })
    .await;
}

/// A namespace of a test's own, by name.
pub async fn namespace(client: &Client, prefix: &str) -> String {
    let new = Namespace {
        metadata: ObjectMeta { generate_name: Some(prefix.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &new).await.unwrap().name_any()
}

pub fn images() -> Images {
    Images {
        workloads: "workloads".into(),
        broker: "broker".into(),
        database: "database".into(),
        edge: "edge".into(),
        pull_policy: None,
    }
}

/// Starts an operator that looks after one namespace.
pub fn operator(
    client: &Client,
    namespace: &str,
    identity: &'static str,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    let (client, namespace, stop, metrics) = (client.clone(), namespace.to_owned(), stop.clone(), metrics.clone());
    tokio::spawn(async move {
        operator::run::lead(client, images(), &namespace, identity, metrics, &stop, CancellationToken::new()).await
    })
}

/// Waits for a condition; gives up after `patience` with its name.
pub async fn until<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    condition: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let end = tokio::time::Instant::now() + patience;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "in vain: {condition}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
