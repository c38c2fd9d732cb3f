//! The Prometheus operator's kind against a real API server: unknown at first, then known.
//! Rule: alone in its program, for the definition is the whole cluster's, and gone when the test has ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use operator::crd::StockPipeline;
use operator::pod_monitor::PodMonitor;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// How long the test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(90);
const DEFINITION: &str = "podmonitors.monitoring.coreos.com";

#[path = "servers/kubernetes.rs"]
mod kubernetes;

async fn until<T, F: Future<Output = Option<T>>>(condition: &str, look: impl FnMut() -> F) -> T {
    kubernetes::until(PATIENCE, condition, look).await
}

#[tokio::test]
async fn a_pod_monitor_comes_when_the_cluster_knows_the_kind_and_nothing_waits_for_it() {
    let client = kubernetes::client().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("test").force();
    kubernetes::define(&client, PATIENCE).await;
    // What an earlier run left.
    drop(definitions.delete(DEFINITION, &DeleteParams::default()).await);
    until("the kind is unknown", || async { definitions.get_opt(DEFINITION).await.unwrap().is_none().then_some(()) })
        .await;

    let namespace = kubernetes::namespace(&client, "monitoring-").await;
    let pipelines: Api<StockPipeline> = Api::namespaced(client.clone(), &namespace);
    let spec = json!({"companies": [{"symbol": "MSFT"}], "monitoring": {"labels": {"release": "prometheus"}}});
    let pipeline = StockPipeline::new("demo", serde_json::from_value(spec).unwrap());
    pipelines.create(&PostParams::default(), &pipeline).await.unwrap();
    let stop = CancellationToken::new();
    let operator = kubernetes::operator(&client, &namespace, "test", &Arc::default(), &stop);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    until("all else is made without the kind", || async { deployments.get_opt("demo-edge").await.unwrap() }).await;

    let definition: serde_json::Value = serde_saphyr::from_str(include_str!("servers/podmonitors.yaml")).unwrap();
    definitions.patch(DEFINITION, &apply, &Patch::Apply(&definition)).await.unwrap();
    let monitors: Api<PodMonitor> = Api::namespaced(client.clone(), &namespace);
    let monitor = until("the pod monitor is there", || async { monitors.get_opt("demo").await.ok()? }).await;
    assert_eq!(monitor.labels()["release"], "prometheus");
    // The server would have left out what the definition does not know.
    assert_eq!(monitor.spec.pod_metrics_endpoints.len(), 3);
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
