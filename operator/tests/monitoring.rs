//! The Prometheus operator's kind against a real API server: unknown at first, then known.
//! Rule: alone in its program, for the definition is the whole cluster's, and gone when the test has ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use operator::crd::{self, StockPipeline};
use operator::metrics::Metrics;
use operator::plan::Images;
use operator::pod_monitor::PodMonitor;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const DEFINITION: &str = "podmonitors.monitoring.coreos.com";

async fn client() -> Client {
    let path = std::env::var("STOCK_TEST_KUBECONFIG")
        .expect("STOCK_TEST_KUBECONFIG is not set: run `make test` or `make integration`");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

/// Waits for a condition; gives up with its name.
async fn until<T, F: Future<Output = Option<T>>>(condition: &str, mut look: impl FnMut() -> F) -> T {
    let patience = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < patience, "in vain: {condition}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_pod_monitor_comes_when_the_cluster_knows_the_kind_and_nothing_waits_for_it() {
    let client = client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("test").force();
    definitions.patch(&crd::definition().name_any(), &apply, &Patch::Apply(&crd::definition())).await.unwrap();
    // What an earlier run left.
    drop(definitions.delete(DEFINITION, &DeleteParams::default()).await);
    until("the kind is unknown", || async { definitions.get_opt(DEFINITION).await.unwrap().is_none().then_some(()) })
        .await;

    let new = Namespace {
        metadata: ObjectMeta { generate_name: Some("monitoring-".into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let namespace =
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &new).await.unwrap().name_any();
    let pipelines: Api<StockPipeline> = Api::namespaced(client.clone(), &namespace);
    until("the definition is served", || async { pipelines.list(&ListParams::default()).await.ok() }).await;
    let spec = json!({"companies": [{"symbol": "MSFT"}], "monitoring": {"labels": {"release": "prometheus"}}});
    let pipeline = StockPipeline::new("demo", serde_json::from_value(spec).unwrap());
    pipelines.create(&PostParams::default(), &pipeline).await.unwrap();
    let stop = CancellationToken::new();
    let operator = {
        let word = || "image".to_owned();
        let images = Images { workloads: word(), broker: word(), database: word(), edge: word(), pull_policy: None };
        let (client, namespace, stop) = (client.clone(), namespace.clone(), stop.clone());
        tokio::spawn(async move {
            let metrics = Arc::new(Metrics::default());
            operator::run::lead(client, images, &namespace, "test", metrics, &stop, CancellationToken::new()).await
        })
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    until("all else is made without the kind", || async { deployments.get_opt("demo-edge").await.unwrap() }).await;

    let definition: serde_json::Value = serde_saphyr::from_str(include_str!("servers/podmonitors.yaml")).unwrap();
    definitions.patch(DEFINITION, &apply, &Patch::Apply(&definition)).await.unwrap();
    let monitors: Api<PodMonitor> = Api::namespaced(client.clone(), &namespace);
    let monitor = until("the pod monitor is there", || async { monitors.get_opt("demo").await.ok()? }).await;
    assert_eq!(monitor.labels()["release"], "prometheus");
    // The server would have left out what the definition does not know.
    assert_eq!(monitor.spec.pod_metrics_endpoints.len(), 2);
    assert_eq!(monitor.spec.pod_metrics_endpoints[0].relabelings[2].target_label, "company");

    let off = json!({"spec": {"monitoring": {"enabled": false}}});
    pipelines.patch("demo", &PatchParams::default(), &Patch::Merge(&off)).await.unwrap();
    until("the pod monitor is gone", || async { monitors.get_opt("demo").await.unwrap().is_none().then_some(()) })
        .await;
    stop.cancel();
    operator.await.unwrap().unwrap();
    definitions.delete(DEFINITION, &DeleteParams::default()).await.unwrap();
    drop(Api::<Namespace>::all(client).delete(&namespace, &DeleteParams::default()).await);
}
