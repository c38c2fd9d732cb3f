//! `kubectl scale` and autoscalers, against a real API server: the live page's replicas behind the scale subresource.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use kube::{Api, Client, Config, ResourceExt};
use operator::crd::{self, StockPipeline};
use serde_json::json;

/// A namespace of its own, in a cluster that knows the definition.
async fn world() -> (Client, String) {
    let path = std::env::var("STOCK_TEST_KUBECONFIG")
        .expect("STOCK_TEST_KUBECONFIG is not set: run `make test` or `make integration`");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let definition = crd::definition();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let parameters = PatchParams::apply("test").force();
    definitions.patch(&definition.name_any(), &parameters, &Patch::Apply(&definition)).await.unwrap();
    let new = Namespace {
        metadata: ObjectMeta { generate_name: Some("scale-".into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let namespace =
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &new).await.unwrap().name_any();
    let pipelines: Api<StockPipeline> = Api::namespaced(client.clone(), &namespace);
    let served = tokio::time::timeout(Duration::from_secs(30), async {
        while pipelines.list(&ListParams::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    served.await.expect("the definition is served");
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
