//! `kubectl scale` and autoscalers, against a real API server: the live page's replicas behind the scale subresource.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use operator::crd::StockPipeline;
use serde_json::json;

#[path = "servers/kubernetes.rs"]
mod kubernetes;

/// A namespace of its own, in a cluster that knows the definition.
async fn world() -> (Client, String) {
    let client = kubernetes::client().await;
    kubernetes::define(&client, Duration::from_secs(30)).await;
    let namespace = kubernetes::namespace(&client, "scale-").await;
    (client, namespace)
}

/// The resource names no `liveview`: the schema's defaults make the path that the scale leads to.
#[tokio::test]
async fn the_live_page_of_a_resource_that_does_not_name_it_can_be_scaled() {
    let (client, namespace) = world().await;
    let resource = kube::api::ApiResource::erase::<StockPipeline>(&());
    let written: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let minimal = DynamicObject::new("demo", &resource).data(json!({"spec": {"companies": [{"symbol": "MSFT"}]}}));
    written.create(&PostParams::default(), &minimal).await.unwrap();
    let pipelines: Api<StockPipeline> = Api::namespaced(client.clone(), &namespace);
    let scale = pipelines.get_scale("demo").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(2));

    let five = json!({"spec": {"replicas": 5}});
    pipelines.patch_scale("demo", &PatchParams::default(), &Patch::Merge(&five)).await.unwrap();
    let pipeline = pipelines.get("demo").await.unwrap();
    assert_eq!((pipeline.spec.liveview.replicas, pipeline.metadata.generation), (5, Some(2)));

    let most = json!({"spec": {"replicas": 101}});
    let refusal = pipelines.patch_scale("demo", &PatchParams::default(), &Patch::Merge(&most)).await.unwrap_err();
    assert!(refusal.to_string().contains("less than or equal to 100"), "{refusal}");

    // What a status says comes back as autoscalers read it.
    let status = operator::status::of(&pipeline, &operator::status::Seen::default(), jiff::Timestamp::now());
    let mut scaled = status.clone();
    scaled.scale.as_mut().unwrap().replicas = 4;
    let patch = json!({"status": scaled});
    pipelines.patch_status("demo", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let shown = pipelines.get_scale("demo").await.unwrap().status.unwrap();
    assert_eq!((shown.replicas, shown.selector), (4, Some(status.scale.unwrap().selector)));
    drop(Api::<Namespace>::all(client).delete(&namespace, &DeleteParams::default()).await);
}
